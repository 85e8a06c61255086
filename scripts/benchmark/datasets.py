"""Readers of the benchmark's data sets: clips with ground truth, read lazily, and seeds taken from it.

The data is not part of the repository. ``MICROMODELS_REAL_DATA`` names its root folder::

    davis2016/<name>/frames, masks       one object, a mask on every frame
    cvc612/<name>/frames, masks          one polyp, a mask on every frame
    vocalfolds/<name>/frames, masks      a class index for every pixel; every class is a track
    tld/<name>/video.mpg, boxes.csv      one box; on frames without a row the object is not visible
    otb/<name>/frames, boxes.csv         one box on every frame up to the last row; later frames are unknown
    mot/<name>/frames, boxes.csv         boxes with ids

``davis2016-boxes`` and ``cvc612-boxes`` are the boxes around the masks of those sets.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from micromodels.errors import FailedPrecondition, InvalidInput
from micromodels.labels.geometry import mask_bounds
from micromodels.types import Box, FrameLabel, Label, Mask, State
from micromodels.video import open_video

__all__ = [
    "SETS",
    "Clip",
    "ClipKind",
    "FrameTruth",
    "TruthShape",
    "data_root",
    "frame_class_seed_frames",
    "load_clips",
    "seed_frames",
]

TruthShape = Box | npt.NDArray[np.bool_]
"""A box, or a mask of shape ``(height, width)``."""
FrameTruth = Mapping[str, TruthShape | None]
"""The truth of one frame by track; None if the object is not visible."""

DATA_VARIABLE = "MICROMODELS_REAL_DATA"
OF_MASKS = "-boxes"
"""Suffix of sets that use the bounding boxes of masks."""


class ClipKind(StrEnum):
    """Kind of ground truth of a clip."""

    MASK = "mask"
    BOX = "box"
    MANY_BOXES = "many_boxes"
    REGIONS = "regions"


def seed_frames(frame_count: int, k: int) -> list[int]:
    """Seed frames for ``k`` seeds: frame 0 for one, else the centers of ``k`` equal spans.

    ``round(linspace(0, n - 1, 2k + 1)[1::2])``, repeated frames merged.

    Raises:
        InvalidInput: ``k`` is not in 1 to ``frame_count``.
    """
    if not 1 <= k <= frame_count:
        raise InvalidInput("k", k, f"1 to the number of frames ({frame_count})")
    if k == 1:
        return [0]
    middles = np.linspace(0, frame_count - 1, 2 * k + 1)[1::2]
    return sorted({int(frame) for frame in np.round(middles)})


class TruthReader(Protocol):
    """Reads the truth of one set's clips."""

    def tracks(self) -> Mapping[str, str]:
        """Track id to object class, every track of the clip."""
        ...

    def frame(self, index: int) -> FrameTruth | None:
        """Truth of a frame; None if unknown."""
        ...


@dataclass(frozen=True)
class Clip:
    """One video with ground truth.

    Attributes:
        set_name: e.g. ``"davis2016"``.
        name: e.g. ``"libby"``.
        kind: kind of ground truth.
        source: folder of frames or video file.
        accept_iou: minimum IoU of a shape that a reviewer accepts.
        frame_classes: frame class -> the track whose visibility defines it (protocol E); empty for none.
    """

    set_name: str
    name: str
    kind: ClipKind
    source: Path
    reader: TruthReader
    accept_iou: float
    frame_classes: Mapping[str, str]

    def __repr__(self) -> str:
        return f"Clip({self.set_name}/{self.name})"

    @cached_property
    def frame_count(self) -> int:
        """Number of frames; a video file is decoded for it, because headers are unreliable."""
        if self.source.is_dir():
            return sum(1 for path in self.source.iterdir() if path.suffix in {".jpg", ".png"})
        with open_video(self.source) as video:
            return video.table.frame_count

    @cached_property
    def size(self) -> tuple[int, int]:
        """Height and width of the frames in pixels."""
        if self.source.is_dir():
            first = min(path for path in self.source.iterdir() if path.suffix in {".jpg", ".png"})
            height_px, width_px = _read_image(first).shape
            return height_px, width_px
        with open_video(self.source) as video:
            return video.table.height_px, video.table.width_px

    @cached_property
    def tracks(self) -> Mapping[str, str]:
        """Track id to object class."""
        return self.reader.tracks()

    def truth(self, frame: int) -> FrameTruth | None:
        """Truth of every track on a frame, None for a track that is not visible; None if the frame is unknown."""
        return self.reader.frame(frame)

    def known_frames(self) -> list[int]:
        """Frames with known truth, in order."""
        return [frame for frame in range(self.frame_count) if self.truth(frame) is not None]

    def seed_frames(self, k: int) -> list[int]:
        """Frames of ``k`` seeds, placed over the frames with known truth."""
        known = self.known_frames()
        return [known[index] for index in seed_frames(len(known), k)]

    def seeds(self, frames: Iterable[int]) -> list[Label]:
        """Truth on some frames as human labels.

        A track that is visible on one of the frames is labeled absent on the others. A track that is visible on none
        of them is unknown to the annotator and left out; but the only track of a clip is always labeled.
        """
        truths = {frame: self._known_truth(frame) for frame in sorted(set(frames))}
        seen = {track for truth in truths.values() for track, shape in truth.items() if shape is not None}
        if len(self.tracks) == 1:
            seen = set(self.tracks)
        return [
            self._label(frame, track, truth.get(track))
            for frame, truth in truths.items()
            for track in self.tracks
            if track in seen
        ]

    def correction(self, frame: int, known: Iterable[str]) -> list[Label]:
        """Labels that a reviewer draws on a frame: all visible tracks, and ``known`` tracks that are absent."""
        truth, known = self._known_truth(frame), set(known)
        return [
            self._label(frame, track, truth.get(track))
            for track in self.tracks
            if track in known or truth.get(track) is not None
        ]

    def frame_class_truth(self, frame: int) -> dict[str, bool] | None:
        """Whether each frame class holds on a frame; None if unknown."""
        truth = self.truth(frame)
        if truth is None:
            return None
        return {name: truth.get(track) is not None for name, track in self.frame_classes.items()}

    def frame_class_seeds(self, frames: Iterable[int]) -> list[FrameLabel]:
        """Frame classes on some frames as human labels."""
        return [
            FrameLabel(frame, name, present)
            for frame in sorted(set(frames))
            for name, present in (self.frame_class_truth(frame) or {}).items()
        ]

    def _known_truth(self, frame: int) -> FrameTruth:
        truth = self.truth(frame)
        if truth is None:
            raise InvalidInput("frame", frame, f"a frame of {self!r} whose truth is known")
        return truth

    def _label(self, frame: int, track: str, shape: TruthShape | None) -> Label:
        """The truth as a person labels it, who draws the part of a box that is inside the frame."""
        object_class = self.tracks[track]
        drawn = _inside(shape, *self.size) if isinstance(shape, Box) else shape
        if drawn is None:
            return Label(frame, track, object_class, State.ABSENT)
        labeled = drawn if isinstance(drawn, Box) else Mask.from_array(drawn)
        return Label(frame, track, object_class, State.VISIBLE, labeled)


def _inside(box: Box, height_px: int, width_px: int) -> Box | None:
    """The part of a box inside the frame; None if outside. Boxes of mot17 leave the picture."""
    x1, x2 = max(box.x1, 0), min(box.x2, width_px)
    y1, y2 = max(box.y1, 0), min(box.y2, height_px)
    return Box(x1, y1, x2, y2) if x2 > x1 and y2 > y1 else None


def frame_class_seed_frames(clip: Clip, k: int) -> list[int]:
    """Seed frames of protocol E: the usual ones, moved so that each frame class occurs as present and as absent.

    For every (class, present or absent) of the clip that the seeds lack, the closest seed and frame are swapped, unless
    that would lose another such value. With one seed nothing can be gained.
    """
    values = {f: set((clip.frame_class_truth(f) or {}).items()) for f in clip.known_frames()}
    chosen = clip.seed_frames(k)
    wanted = sorted(set().union(*values.values()))
    for pair in wanted:
        seen = set().union(*(values[f] for f in chosen))
        if pair in seen:
            continue
        moves = sorted((abs(f - s), s, f) for s in chosen for f in values if pair in values[f])
        for _, old, new in moves:
            moved = [new if f == old else f for f in chosen]
            if set().union(*(values[f] for f in moved)) >= seen | {pair}:
                chosen = moved
                break
    return sorted(chosen)


def _read_image(path: Path) -> npt.NDArray[np.uint8]:
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise FailedPrecondition(f"{path}: missing, or not a readable picture")
    return np.asarray(image if image.ndim == 2 else image[..., 0], np.uint8)


@dataclass(frozen=True)
class _MaskTruth:
    """One object; its pixels in ``masks/%05d.png`` have values above ``threshold``."""

    folder: Path
    object_class: str
    threshold: int

    def tracks(self) -> Mapping[str, str]:
        return {"1": self.object_class}

    def frame(self, index: int) -> Mapping[str, npt.NDArray[np.bool_] | None] | None:
        path = self.folder / f"{index:05d}.png"
        if not path.exists():
            return None
        mask = _read_image(path) > self.threshold
        return {"1": mask if mask.any() else None}


@dataclass(frozen=True)
class _BoxesOfMasks:
    """The boxes around masks."""

    masks: _MaskTruth

    def tracks(self) -> Mapping[str, str]:
        return self.masks.tracks()

    def frame(self, index: int) -> FrameTruth | None:
        truth = self.masks.frame(index)
        if truth is None:
            return None
        return {track: None if mask is None else mask_bounds(mask) for track, mask in truth.items()}


@dataclass(frozen=True)
class _RegionTruth:
    """Class index for every pixel. Every class but 0 (void) is a track named as the class."""

    folder: Path
    classes: tuple[str, ...]

    def tracks(self) -> Mapping[str, str]:
        return {name: name for name in self.classes[1:]}

    def frame(self, index: int) -> FrameTruth | None:
        path = self.folder / f"{index:05d}.png"
        if not path.exists():
            return None
        classes = _read_image(path)
        return {
            name: (classes == value) if (classes == value).any() else None
            for value, name in enumerate(self.classes)
            if value
        }


class _BoxTruth:
    """Rows of ``boxes.csv``; a track without a row is not visible. With ``ends_with_rows`` frames after the last row
    are unknown."""

    def __init__(self, path: Path, *, ends_with_rows: bool) -> None:
        self._rows: dict[int, dict[str, Box]] = {}
        self._tracks: dict[str, str] = {}
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                box = Box(*(float(row[key]) for key in ("x1", "y1", "x2", "y2")))
                self._rows.setdefault(int(row["frame"]), {})[row["object_id"]] = box
                self._tracks.setdefault(row["object_id"], row["class"])
        self._last_known = max(self._rows) if ends_with_rows else None

    def tracks(self) -> Mapping[str, str]:
        return dict(sorted(self._tracks.items(), key=lambda item: (len(item[0]), item[0])))

    def frame(self, index: int) -> FrameTruth | None:
        if self._last_known is not None and index > self._last_known:
            return None
        row = self._rows.get(index, {})
        return {track: row.get(track) for track in self._tracks}


def _davis_masks(folder: Path) -> _MaskTruth:
    return _MaskTruth(folder / "masks", "object", 0)


def _davis(folder: Path) -> Clip:
    return Clip("davis2016", folder.name, ClipKind.MASK, folder / "frames", _davis_masks(folder), 0.8, {})


def _davis_boxes(folder: Path) -> Clip:
    truth = _BoxesOfMasks(_davis_masks(folder))
    return Clip("davis2016" + OF_MASKS, folder.name, ClipKind.BOX, folder / "frames", truth, 0.7, {})


def _cvc_masks(folder: Path) -> _MaskTruth:
    return _MaskTruth(folder / "masks", "polyp", 127)


def _cvc(folder: Path) -> Clip:
    return Clip("cvc612", folder.name, ClipKind.MASK, folder / "frames", _cvc_masks(folder), 0.8, {})


def _cvc_boxes(folder: Path) -> Clip:
    truth = _BoxesOfMasks(_cvc_masks(folder))
    return Clip("cvc612" + OF_MASKS, folder.name, ClipKind.BOX, folder / "frames", truth, 0.7, {})


def _vocalfolds(folder: Path) -> Clip:
    classes = tuple(json.loads((folder / "meta.json").read_text())["classes"])
    frame_classes = {name: name for name in ("pathology", "surgical_tool")}
    truth = _RegionTruth(folder / "masks", classes)
    return Clip("vocalfolds", folder.name, ClipKind.REGIONS, folder / "frames", truth, 0.8, frame_classes)


def _tld(folder: Path) -> Clip:
    truth = _BoxTruth(folder / "boxes.csv", ends_with_rows=False)
    return Clip("tld", folder.name, ClipKind.BOX, folder / "video.mpg", truth, 0.5, {"visible": "1"})


def _otb(folder: Path) -> Clip:
    truth = _BoxTruth(folder / "boxes.csv", ends_with_rows=True)
    return Clip("otb", folder.name, ClipKind.BOX, folder / "frames", truth, 0.7, {})


def _mot(folder: Path) -> Clip:
    truth = _BoxTruth(folder / "boxes.csv", ends_with_rows=False)
    return Clip("mot", folder.name, ClipKind.MANY_BOXES, folder / "frames", truth, 0.7, {})


_READERS: Mapping[str, Callable[[Path], Clip]] = {
    "davis2016": _davis,
    "cvc612": _cvc,
    "otb": _otb,
    "tld": _tld,
    "mot": _mot,
    "vocalfolds": _vocalfolds,
    "davis2016" + OF_MASKS: _davis_boxes,
    "cvc612" + OF_MASKS: _cvc_boxes,
}
SETS = tuple(_READERS)
"""Names of the sets, in the order of the benchmark's table."""


def data_root() -> Path:
    """Folder of the sets.

    Raises:
        FailedPrecondition: ``MICROMODELS_REAL_DATA`` is not set, or names no folder.
    """
    value = os.environ.get(DATA_VARIABLE, "")
    if not value or not Path(value).is_dir():
        raise FailedPrecondition(f"set {DATA_VARIABLE} to the folder of the benchmark's data; it is {value!r}")
    return Path(value)


def load_clips(root: Path, sets: Iterable[str], names: Iterable[str] = ()) -> list[Clip]:
    """Clips of some sets, in order of set and name; only those with these ``names``, if any are given.

    Raises:
        InvalidInput: an unknown set, or a name that is in none of the sets.
        FailedPrecondition: the folder of a set is missing.
    """
    clips: list[Clip] = []
    for set_name in sets:
        if set_name not in _READERS:
            raise InvalidInput("sets", set_name, ", ".join(SETS))
        folder = root / set_name.removesuffix(OF_MASKS)
        if not folder.is_dir():
            raise FailedPrecondition(f"{folder}: no such folder; check {DATA_VARIABLE}")
        clips += [_READERS[set_name](path) for path in sorted(folder.iterdir()) if path.is_dir()]
    wanted = set(names)
    for name in wanted - {clip.name for clip in clips}:
        raise InvalidInput("sequences", name, ", ".join(clip.name for clip in clips))
    return [clip for clip in clips if not wanted or clip.name in wanted]
