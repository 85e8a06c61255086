"""Tracks boxes with OpenCV's trackers, in this process or in a child process.

The OpenCV that the library uses has few trackers. A build with more of them (``opencv-contrib-python``) cannot be
installed in the same environment, but a child process can import it from a separate folder: ``scripts/bench`` installs
it into ``opencv-contrib`` in the virtual environment. The child is this module, run with that folder first on its path:
``python -m scripts.benchmark.opencv_trackers WORK`` reads ``work.json`` and ``pictures.npy`` in the folder WORK and
writes ``found.json`` there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from micromodels.errors import TrainingError

__all__ = ["Chase", "contrib_folder", "follow", "follow_in_child", "in_contrib", "is_available"]

Picture = npt.NDArray[np.uint8]
Corners = tuple[float, float, float, float]
"""x1, y1, x2, y2, right and bottom exclusive."""


@dataclass(frozen=True, slots=True)
class Chase:
    """A start box and the frames to track it on, in order.

    Attributes:
        frame: frame of the start box.
        box: start box, x1, y1, x2, y2.
        step: 1 forward, -1 backward.
        count: number of frames.
    """

    frame: int
    box: Corners
    step: int
    count: int


def is_available(name: str) -> bool:
    """Whether the OpenCV of this process has a tracker."""
    return _maker(name) is not None


def contrib_folder() -> Path:
    """Folder of an OpenCV build with more trackers."""
    return Path(sys.prefix) / "opencv-contrib"


@cache
def in_contrib(name: str) -> bool:
    """Whether the OpenCV in :func:`contrib_folder` has a tracker."""
    if not (contrib_folder() / "cv2").is_dir():
        return False
    question = f"from scripts.benchmark import opencv_trackers as o; print(o.is_available({name!r}))"
    done = subprocess.run(_python("-c", question), env=_environment(), capture_output=True, text=True, check=False)
    return done.stdout.strip() == "True"


def _python(*arguments: str) -> list[str]:
    return [sys.executable, *arguments]


def _environment() -> dict[str, str]:
    root = str(Path(__file__).resolve().parents[2])
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(contrib_folder()), root])}


def _maker(name: str) -> Callable[[Path], Any] | None:
    """Creates a tracker with this OpenCV, given the folder of weights; None if OpenCV lacks it."""
    if name == "nano":
        return _nano if hasattr(cv2, "TrackerNano_create") else None
    for module in (cv2, getattr(cv2, "legacy", None)):
        for spelling in (name.upper(), name):
            create = getattr(module, f"Tracker{spelling}_create", None)
            if create is not None:
                return partial(_plain, create)
    return None


def _plain(create: Callable[[], Any], weights: Path) -> Any:
    del weights
    return create()


def _nano(weights: Path) -> Any:
    parameters = cv2.TrackerNano.Params()
    parameters.backbone = str(weights / "nanotrack_backbone.onnx")
    parameters.neckhead = str(weights / "nanotrack_head.onnx")
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # avoids a backend warning at every start
    return cv2.TrackerNano.create(parameters)


def follow(
    name: str, weights: Path, pictures: Sequence[Picture] | Picture, chases: Sequence[Chase]
) -> list[list[Corners | None]]:
    """Boxes on the frames of each chase; None if the tracker reports that it lost the object.

    Args:
        name: of the tracker: ``csrt``, ``kcf``, ``mil``, ``nano``, ``TLD``, ...
        weights: folder of network weights, if the tracker needs any.
        pictures: BGR uint8 ``(height, width, 3)``, one per frame.
        chases: the boxes to track.
    """
    make = _maker(name)
    assert make is not None, f"tracker {name} is not available"
    found = []
    for chase in chases:
        cv2.setRNGSeed(0)  # MIL uses random numbers from OpenCV's global generator
        tracker, picture = make(weights), np.asarray(pictures[chase.frame])
        tracker.init(picture, _inside(chase.box, picture))
        frames = range(chase.frame + chase.step, chase.frame + chase.step * (chase.count + 1), chase.step)
        found.append([_corners(*tracker.update(np.asarray(pictures[frame]))) for frame in frames])
    return found


def _inside(box: Corners, picture: Picture) -> tuple[int, int, int, int]:
    """``x, y, width, height`` of a box, clipped to the picture."""
    height_px, width_px = picture.shape[:2]
    x1, y1 = min(max(round(box[0]), 0), width_px - 1), min(max(round(box[1]), 0), height_px - 1)
    return x1, y1, max(min(round(box[2]), width_px) - x1, 1), max(min(round(box[3]), height_px) - y1, 1)


def _corners(found: bool, rectangle: Sequence[float]) -> Corners | None:
    x, y, width, height = (float(value) for value in rectangle)
    return (x, y, x + width, y + height) if found and width > 0 and height > 0 else None


def follow_in_child(
    name: str, weights: Path, pictures: Sequence[Picture], chases: Sequence[Chase]
) -> list[list[Corners | None]]:
    """:func:`follow` in a process with the OpenCV of :func:`contrib_folder`.

    Raises:
        TrainingError: the process failed; has the end of its error output.
    """
    with tempfile.TemporaryDirectory(prefix="micromodels-follow-") as work:
        folder = Path(work)
        np.save(folder / "pictures.npy", np.stack(pictures))
        task = {"name": name, "weights": str(weights), "chases": [asdict(chase) for chase in chases]}
        (folder / "work.json").write_text(json.dumps(task), encoding="utf-8")
        command = _python("-m", "scripts.benchmark.opencv_trackers", work)
        done = subprocess.run(command, env=_environment(), capture_output=True, text=True, check=False)
        if done.returncode:
            raise TrainingError(f"tracker {name}: {done.stderr.strip()[-500:]}")
        found = json.loads((folder / "found.json").read_text(encoding="utf-8"))
        return [[tuple(box) if box else None for box in boxes] for boxes in found]


def _work(folder: Path) -> None:
    task = json.loads((folder / "work.json").read_text(encoding="utf-8"))
    pictures = np.load(folder / "pictures.npy", mmap_mode="r")
    chases = [Chase(**{**chase, "box": tuple(chase["box"])}) for chase in task["chases"]]
    found = follow(task["name"], Path(task["weights"]), pictures, chases)
    (folder / "found.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    _work(Path(sys.argv[1]))
