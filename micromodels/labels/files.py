"""Files of labels: the native JSON Lines format, COCO JSON, and pictures of masks.

Readers are strict: whatever is wrong with a file is an `InvalidInput` (or `OutOfRange`) that names the line or entry,
the field, what it got and what is allowed. Writers put a file under its name only when it is complete.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from micromodels.errors import InvalidInput
from micromodels.labels.coco import MAX_COCO_BYTES, read_coco, write_coco
from micromodels.labels.jsonl import MAX_LINE_BYTES, iter_jsonl, label_from_dict, label_to_dict, write_jsonl
from micromodels.labels.mask_png import by_frame, write_masks
from micromodels.labels.validation import (
    EDGE_TOLERANCE_PX,
    LabelSet,
    check_anchor,
    check_fits_video,
    find_crossing,
)
from micromodels.types import AnyLabel

__all__ = [
    "EDGE_TOLERANCE_PX",
    "MAX_COCO_BYTES",
    "MAX_LINE_BYTES",
    "SCHEMA_PATH",
    "LabelSet",
    "by_frame",
    "check_anchor",
    "check_fits_video",
    "find_crossing",
    "iter_jsonl",
    "label_from_dict",
    "label_to_dict",
    "read_coco",
    "read_labels",
    "write_coco",
    "write_jsonl",
    "write_masks",
]

SCHEMA_PATH = Path(__file__).parent.parent / "schemas" / "label.schema.json"
"""JSON Schema (draft 2020-12) of one native line."""


def read_labels(
    path: Path | str,
    *,
    frame_count: int | None,
    width_px: int | None = None,
    height_px: int | None = None,
    frame_names: Sequence[str] = (),
) -> list[AnyLabel]:
    """Read a file of labels: native JSON Lines (``.jsonl``) or COCO JSON (``.json``).

    Args:
        path: the file.
        frame_count: of the video; None to accept any frame.
        width_px: of the video; None to accept any coordinate or mask size.
        height_px: likewise.
        frame_names: file names of a folder of frames in order of index, by which images of a COCO file are found.

    Raises:
        InvalidInput: names the line or entry, the field, the value and what is allowed.
        OutOfRange: a frame or coordinate outside of the video.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".jsonl":
        return list(iter_jsonl(path, frame_count=frame_count, width_px=width_px, height_px=height_px))
    if suffix == ".json":
        return read_coco(path, frame_count=frame_count, width_px=width_px, height_px=height_px, frame_names=frame_names)
    raise InvalidInput("file", str(path), "a name ending in .jsonl (native) or .json (COCO)")
