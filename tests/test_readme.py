"""The Python examples of README run as they stand there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
EXAMPLE_ADDRESS = "127.0.0.1:50051"
# Goes before an example, which itself stays as it stands: with all its effort, training would take a minute each.
LESS_EFFORT = """
import functools
import micromodels.{module} as module
module.{name} = functools.{how}(module.{name}, {arguments})
"""


def examples() -> list[str]:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


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
        [sys.executable, "-c", before + code], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_readme_has_one_example_for_python_and_one_for_grpc() -> None:
    """Two examples, each of at most about twenty lines of code."""
    lengths = [len([line for line in code.splitlines() if line.strip()]) for code in examples()]
    assert len(lengths) == 2
    assert max(lengths) <= 22


def test_the_python_example_labels_every_frame(folder: Path) -> None:
    """Training, saving, loading and labeling again, as README says."""
    arguments = "settings=module.TrainSettings(effort=0.05)"
    before = LESS_EFFORT.format(module="recipes.base", name="train", how="partial", arguments=arguments)
    printed = run_example(before, examples()[0], folder).splitlines()
    assert printed[0] == "24 frames of 128x96, h264"
    assert [int(line.split()[0]) for line in printed[1:]] == list(range(24))
    assert len((folder / "labels.jsonl").read_text(encoding="utf-8").splitlines()) == 24


def test_the_grpc_example_labels_every_frame(folder: Path, server: str) -> None:
    """Upload, seeds, progress and labels through a server."""
    code = examples()[1]
    assert EXAMPLE_ADDRESS in code
    before = LESS_EFFORT.format(module="client", name="Client.auto_label", how="partialmethod", arguments="effort=0.05")
    printed = run_example(before, code.replace(EXAMPLE_ADDRESS, server), folder).splitlines()
    labels = [line for line in printed if not line.startswith("loss ")]
    assert len(printed) > len(labels), "no progress of training was shown"
    assert [int(line.split()[0]) for line in labels] == list(range(24))
