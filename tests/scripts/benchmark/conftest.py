"""A small data set of each kind, laid out as the real ones: a square that moves over 12 frames."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from micromodels.video import write_video

FRAMES = 12
SIZE = (48, 64)


def square(frame: int, top: int = 10) -> tuple[int, int, int, int]:
    """x1, y1, x2, y2 of the square, which moves right by 3 px a frame."""
    return 4 + 3 * frame, top, 20 + 3 * frame, top + 16


def picture(frame: int) -> np.ndarray:
    """RGB (48, 64, 3): the square over fixed noise."""
    image = np.random.default_rng(0).integers(40, 90, (*SIZE, 3), np.uint8)
    x1, y1, x2, y2 = square(frame)
    image[y1:y2, x1:x2] = np.random.default_rng(1).integers(120, 255, (y2 - y1, x2 - x1, 3), np.uint8)[:, : 64 - x1]
    return image


def write_frames(folder: Path) -> None:
    folder.mkdir(parents=True)
    for frame in range(FRAMES):
        cv2.imwrite(str(folder / f"{frame:05d}.png"), picture(frame)[..., ::-1])


def write_masks(folder: Path, masks: Iterator[np.ndarray]) -> None:
    folder.mkdir(parents=True)
    for frame, mask in enumerate(masks):
        cv2.imwrite(str(folder / f"{frame:05d}.png"), mask)


def write_boxes(folder: Path, rows: list[tuple[int, str, tuple[float, ...]]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "boxes.csv").open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["frame", "object_id", "class", "x1", "y1", "x2", "y2"])
        out.writerows([frame, track, "object", *box] for frame, track, box in rows)


def one_mask(frame: int, value: int = 255, rest: int = 0) -> np.ndarray:
    mask = np.full(SIZE, rest, np.uint8)
    x1, y1, x2, y2 = square(frame)
    mask[y1:y2, x1:x2] = value
    return mask


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of the sets: one clip ``clip`` in each.

    davis2016: the square; gone on frame 11. cvc612: three channels, soft values. otb: rows up to frame 9. tld: hidden
    on frames 5 and 6. mot: ids 1 (all frames), 2 (frames 6 and later) and 3 (frame 3 only). vocalfolds: class 1
    everywhere but class 4 in the square, on frames 0 to 7; void (0) in the top row.
    """
    root = tmp_path_factory.mktemp("sets")
    for name in ("davis2016", "cvc612", "otb", "mot", "vocalfolds"):
        write_frames(root / name / "clip" / "frames")
    empty = np.zeros(SIZE, np.uint8)
    davis = (empty if frame == 11 else one_mask(frame) for frame in range(FRAMES))
    write_masks(root / "davis2016" / "clip" / "masks", davis)
    cvc = (np.dstack([one_mask(frame, 200, 100)] * 3) for frame in range(FRAMES))
    write_masks(root / "cvc612" / "clip" / "masks", cvc)
    regions = [one_mask(frame, 4 if frame < 8 else 1, 1) for frame in range(FRAMES)]
    for region in regions:
        region[0] = 0
    write_masks(root / "vocalfolds" / "clip" / "masks", iter(regions))
    classes = ["void", "vocal_folds", "other_tissue", "glottal_space", "pathology", "surgical_tool", "intubation"]
    (root / "vocalfolds" / "clip" / "meta.json").write_text(json.dumps({"kind": "semantic", "classes": classes}))
    write_boxes(root / "otb" / "clip", [(frame, "1", square(frame)) for frame in range(10)])
    write_boxes(root / "tld" / "clip", [(f, "1", square(f)) for f in range(FRAMES) if f not in (5, 6)])
    write_video(root / "tld" / "clip" / "video.mp4", (picture(frame) for frame in range(FRAMES)), Fraction(12))
    (root / "tld" / "clip" / "video.mp4").rename(root / "tld" / "clip" / "video.mpg")
    second = [(frame, "2", square(frame, top=30)) for frame in range(6, FRAMES)]
    write_boxes(root / "mot" / "clip", [(f, "1", square(f)) for f in range(FRAMES)] + second + [(3, "3", (0, 0, 5, 5))])
    return root
