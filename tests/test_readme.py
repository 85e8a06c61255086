"""README is short and plain, and the Python examples of README and of the documentation run as they stand there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
README = REPOSITORY / "README.md"
EXAMPLE_ADDRESS = "127.0.0.1:50051"
MAX_LINES = 150
MAX_WORDS = 25

# Goes before an example, which itself stays as it stands: with all its effort, training would take a minute each.
LESS_EFFORT = """
import functools
import micromodels as module
module.label = functools.partial(module.label, effort=0.05)
"""
LESS_EFFORT_OVER_GRPC = """
import functools
import micromodels.client as module
module.Client.auto_label = functools.partialmethod(module.Client.auto_label, effort=0.05)
"""


def examples(document: str) -> list[str]:
    """The Python examples of a document."""
    text = (REPOSITORY / document).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def sentences(text: str) -> list[list[str]]:
    """The sentences of a Markdown text, as words: without code, tables, pictures and the targets of links."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^\|.*\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", text)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    blocks = re.split(r"\n\s*\n|\n(?=- |#)", text)
    found = [part.split() for block in blocks for part in re.split(r"(?<=[.!?])\s+", block)]
    return [[word for word in words if re.search(r"\w", word)] for words in found]


@pytest.fixture
def folder(tmp_path: Path, tiny_clip: Path) -> Path:
    """A working folder with the files that the examples name; two seeds only, for training takes longer with more."""
    shutil.copy(tiny_clip / "video.mp4", tmp_path)
    first, *_, last = (tiny_clip / "seeds.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "seeds.jsonl").write_text(first + last, encoding="utf-8")
    return tmp_path


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of a server of its own, started as a user starts it."""
    program = str(Path(sys.executable).with_name("micromodels"))
    process = subprocess.Popen(
        [program, "serve", "--port", "0", "--data", str(tmp_path / "server")],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        assert address, "the server ended"
        yield address
    finally:
        process.terminate()
        process.wait(timeout=60)
        process.stdout.close()


def run_example(before: str, code: str, folder: Path) -> str:
    """Run an example as a program of its own in ``folder`` and give what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", before + code], cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_sentences_are_taken_apart() -> None:
    """The reader of README finds sentences across lines and in lists, and counts words of links once."""
    text = "# Title\n\nOne two\nthree. Four [five](six.md)!\n\n- **Seven**: eight\n- nine\n\n```sh\nten\n```\n| ten |\n"
    assert [" ".join(words) for words in sentences(text) if words] == [
        *("Title", "One two three.", "Four five!", "**Seven**: eight", "nine")
    ]


def test_readme_is_short() -> None:
    """As long as a person reads before deciding, and no sentence that must be read twice."""
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_LINES
    assert [" ".join(words) for words in sentences(text) if len(words) > MAX_WORDS] == []


def test_readme_and_tutorial_show_one_and_the_same_example() -> None:
    """Six lines at most; the tests below run it once."""
    (code,) = examples("README.md")
    assert examples("docs/tutorial.md") == [code]
    assert len(code.splitlines()) <= 6


def test_the_example_labels_every_frame(folder: Path) -> None:
    """Labels of a frame, a picture of it, and a file for other tools."""
    import json

    printed = run_example(LESS_EFFORT, examples("README.md")[0], folder)
    assert "frame=12" in printed
    found = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
    assert len(found["images"]) == 24


def test_the_seeds_of_the_tutorial_fit_the_clip(folder: Path, tiny_clip: Path) -> None:
    """They are read, and are those of the clip that the examples are run on."""
    text = (REPOSITORY / "docs" / "tutorial.md").read_text(encoding="utf-8")
    lines = re.findall(r'^\{"frame".*\}$', text, re.MULTILINE)
    assert "".join(f"{line}\n" for line in lines) == (folder / "seeds.jsonl").read_text(encoding="utf-8")


def test_the_example_for_archives_labels_every_video(folder: Path) -> None:
    """With a saved micro-model, and no seeds."""
    train = 'module.train("video.mp4", "seeds.jsonl", effort=0.05).save("labeled/model")\n'
    (folder / "archive").mkdir()
    for name in ("a.mp4", "b.mp4"):
        shutil.copy(folder / "video.mp4", folder / "archive" / name)
    (code,) = examples("docs/how-to/batch.md")
    printed = run_example(f"import micromodels as module\n{train}", code, folder).splitlines()
    assert [line.split()[0] for line in printed] == ["a.mp4", "b.mp4"]
    assert all(0 <= float(line.split()[1]) <= 1 for line in printed)
    assert len((folder / "b.jsonl").read_text(encoding="utf-8").splitlines()) == 24


def test_the_examples_for_tools_label_and_correct(folder: Path, server: str) -> None:
    """Upload, seeds, progress and labels through a server; then suggestions and a correction."""
    label, correct = examples("docs/how-to/annotation-tools.md")
    assert EXAMPLE_ADDRESS in label
    assert EXAMPLE_ADDRESS in correct
    printed = run_example(LESS_EFFORT_OVER_GRPC, label.replace(EXAMPLE_ADDRESS, server), folder).splitlines()
    labels = [line for line in printed if not line.startswith("loss ")]
    assert len(printed) > len(labels), "no progress of training was shown"
    assert [int(line.split()[0]) for line in labels] == list(range(24))
    printed = run_example("", correct.replace(EXAMPLE_ADDRESS, server), folder).splitlines()
    suggested = [line for line in printed if line.startswith("frame ")]
    assert 0 < len(suggested) <= 3
    changed = {int(line.split()[1]) for line in printed if line.startswith("changed: ")}
    assert changed <= set(range(1, 23)) - {12}, "a hand label was changed"
