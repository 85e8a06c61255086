"""Files of labels: the native JSON Lines format, COCO JSON, and pictures of masks.

Readers are strict: whatever is wrong with a file is an `InvalidInput` (or `OutOfRange`) that names the line or entry,
the field, what it got and what is allowed. Writers put a file under its name only when it is complete.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
from micromodels.video import FrameTable

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
    "write_labels",
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


def write_labels(
    path: Path | str, labels: Iterable[AnyLabel], *, video: FrameTable | None = None, format: str | None = None
) -> int:
    """Write labels: ``jsonl`` (native), ``coco`` or ``masks`` (indexed PNGs in a folder).

    Args:
        path: the file or folder.
        labels: in order of frames.
        video: the frame table; ``coco`` and ``masks`` need it.
        format: None to tell it by the name: ``.jsonl``, or ``.json`` for COCO.

    Returns:
        How many labels (``masks``: frames) were written.

    Raises:
        InvalidInput: no such format, no video, or labels that the format cannot hold.
    """
    chosen = format or {".jsonl": "jsonl", ".json": "coco"}.get(Path(path).suffix.lower())
    if chosen == "jsonl":
        return write_jsonl(path, labels)
    if chosen not in ("coco", "masks"):
        raise InvalidInput("format", chosen, "jsonl, coco, masks, or a file named *.jsonl or *.json")
    if video is None:
        raise InvalidInput("video", None, f"the frame table of the video, which {chosen} needs")
    if chosen == "coco":
        return write_coco(path, labels, video)
    return write_masks(path, labels, frame_count=video.frame_count, width_px=video.width_px, height_px=video.height_px)
