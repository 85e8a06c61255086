"""Labels, lines and documents that are right, and the video that they are of."""

from __future__ import annotations

import json
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from micromodels.labels.label_json import SCHEMA_PATH, label_to_dict
from micromodels.labels.video_info import VideoInfo
from micromodels.types import AnyLabel, Box, FrameLabel, Label, Mask, Polygon, Provenance, ProvenanceKind, State

SCHEMA = Draft202012Validator(json.loads(SCHEMA_PATH.read_text()))
HEIGHT, WIDTH, FRAMES = 48, 64, 30
VIDEO = VideoInfo(
    FRAMES,
    WIDTH,
    HEIGHT,
    pts=tuple(frame * 512 for frame in range(FRAMES)),
    time_base=Fraction(1, 12800),
    content_hash="ab" * 32,
)
MODEL = Provenance(ProvenanceKind.MODEL, "model-3")
ANN = Provenance(ProvenanceKind.HUMAN, "ann")


def disc(x: float = 20, y: float = 20, radius: float = 9) -> Mask:
    """A round mask of the video's size."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return Mask.from_array((rows - y) ** 2 + (columns - x) ** 2 < radius**2)


COUNTS = disc().counts
LABELS: list[AnyLabel] = [
    Label(0, "1", "polyp", State.VISIBLE, disc()),
    Label(0, "2", "polyp", State.VISIBLE, Box(1, 2.5, 30.25, 40)),
    FrameLabel(0, "tool_in_view", True),
    Label(3, "1", "polyp", State.OCCLUDED, Polygon(((1, 1), (20.5, 1), (20, 30.125))), 0.5, ANN),
    Label(4, "1", "polyp", State.ABSENT),
    Label(4, "2", "polyp", State.UNCERTAIN, None, 0.1, MODEL),
    Label(4, "blade é", "tool", State.VISIBLE, disc(30, 30), 1.0, Provenance(ProvenanceKind.INTERPOLATED)),
    FrameLabel(29, "tool_in_view", False, 0.25, MODEL),
]  # fmt: skip


def seed(**changes: object) -> dict[str, Any]:
    """A line that is right, with some keys changed; None takes a key out."""
    entry = {"frame": 12, "track": "1", "class": "polyp", "state": "visible", "box": [1, 2, 30, 40], **changes}
    return {key: value for key, value in entry.items() if value is not None}


def coco(*annotations: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A plain COCO file of two images."""
    images = [{"id": i, "file_name": f"clip/frame_{i + 6:05d}.jpg", "width": WIDTH, "height": HEIGHT} for i in (1, 2)]
    categories = [{"id": 3, "name": "polyp"}, {"id": 4, "name": "tool"}]
    return {"images": images, "annotations": list(annotations), "categories": categories, **changes}


def annotation(**changes: object) -> dict[str, Any]:
    """A plain box annotation; None takes a key out."""
    entry = {"id": 1, "image_id": 1, "category_id": 3, "bbox": [4, 5, 10, 20], "area": 200, "iscrowd": 0, **changes}
    return {key: value for key, value in entry.items() if value is not None}


def assert_same_labels(got: list[AnyLabel], wanted: list[AnyLabel]) -> None:
    """Equal but for order within a frame and the last bit of a box's far edges."""

    def key(label: AnyLabel) -> tuple[int, int, str]:
        return label.frame, isinstance(label, Label), label.track if isinstance(label, Label) else label.frame_class

    assert [label.frame for label in got] == sorted(label.frame for label in got)
    for one, other in zip(sorted(got, key=key), sorted(wanted, key=key), strict=True):
        if isinstance(one, Label) and isinstance(other, Label) and isinstance(one.shape, Box):
            assert isinstance(other.shape, Box)
            assert one.shape.as_list() == pytest.approx(other.shape.as_list(), abs=1e-9)
            assert label_to_dict(one) | {"box": 0} == label_to_dict(other) | {"box": 0}
        else:
            assert one == other
