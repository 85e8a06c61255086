"""The code of docs/how-to/python.md runs as it stands there, and the page names everything that is public."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import micromodels

PAGE = Path(__file__).resolve().parents[1] / "docs" / "how-to" / "python.md"
# Goes before the code: with all its effort, each training would take a minute.
LESS_EFFORT = """
from dataclasses import replace
from micromodels.recipes import base
train = base.train
base.train = lambda video, seeds, settings, **more: train(video, seeds, replace(settings, effort=0.05), **more)
"""


def test_the_code_of_the_page_runs(tmp_path: Path, tiny_clip: Path) -> None:
    """All blocks in order, as one program, in a folder with the two files that they name."""
    for name in ("video.mp4", "seeds.jsonl"):
        shutil.copy(tiny_clip / name, tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 8
    done = subprocess.run(
        [sys.executable, "-c", LESS_EFFORT + "\n".join(blocks)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    printed = done.stdout.splitlines()
    assert printed[0] == "LabeledVideo('video.mp4', 24 frames, 128x96, 1 track, 3 frames labeled by hand)"
    assert "square on 24 frames; on frame 5: Box(" in done.stdout
    assert "True 0.5" in printed
    assert any(line.startswith("step 0 of ") for line in printed)
    assert printed[-1].startswith("box: got (10, 10, 5, 20); allowed: ")
    for name in ("labels.json", "frame-12.png", "overlay.mp4", "model/manifest.json"):
        assert (tmp_path / name).is_file(), name


def test_the_page_names_everything_public() -> None:
    """Each name of `__all__` stands there as code, and nothing is called that is not public."""
    text = PAGE.read_text(encoding="utf-8")
    public = set(micromodels.__all__) - {"__version__"}
    in_ticks = set(re.findall(r"`(?:mm\.)?(\w+)", text))
    assert public <= in_ticks, public - in_ticks
    assert set(re.findall(r"\bmm\.(\w+)", text)) <= public
