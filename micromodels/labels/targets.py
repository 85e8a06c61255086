"""Seeds as training targets.

Targets live on the work image: a *label map* (uint8: 0 background, 1 to n the tracks in the order of ``TrackSpec``,
255 not scored) and one box per track. ``micromodels.training.augmentation`` makes views of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from micromodels.errors import FailedPrecondition, InvalidInput
from micromodels.labels.geometry import bounds, mask_iou, to_mask
from micromodels.labels.validation import check_fits_video
from micromodels.labels.video_info import VideoInfo
from micromodels.types import AnyLabel, Box, FrameLabel, Label, Ontology, ShapeKind, State

__all__ = [
    "IGNORE",
    "MAX_TRACKS",
    "SeedFrame",
    "SeedSet",
    "TrackSpec",
    "boxed",
    "has_thin_objects",
    "typical_areas",
]

IGNORE = 255
MAX_TRACKS = 250

THIN_LOSS = 0.03
MAX_THIN_TRACKS = 6
"""More tracks than this at full resolution would take too much time and memory."""

Image = npt.NDArray[np.uint8]
LabelMap = npt.NDArray[np.uint8]
Boxes = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class TrackSpec:
    """One object to follow: its identity, class and the kind of shape it was drawn with."""

    track: str
    object_class: str
    shape: ShapeKind

    @property
    def is_box(self) -> bool:
        """Whether it is drawn as a box and followed by its path; any other shape is made of the pixels found."""
        return self.shape is ShapeKind.BOX


def boxed(tracks: Sequence[TrackSpec]) -> list[bool]:
    """Which tracks are drawn as boxes."""
    return [spec.is_box for spec in tracks]


@dataclass(frozen=True, slots=True)
class SeedFrame:
    """The human labels of one frame, on the work image.

    Attributes:
        frame: frame index.
        label_map: uint8 ``(height, width)``.
        boxes: float32 ``(tracks, 4)`` in work pixels, NaN where the track has none.
        known: bool ``(tracks,)``; False where nobody said anything of the track on this frame.
    """

    frame: int
    label_map: LabelMap = field(repr=False)
    boxes: Boxes = field(repr=False)
    known: npt.NDArray[np.bool_] = field(repr=False)


class SeedSet:
    """Human labels of one video, checked, with the tracks and classes they speak of.

    Args:
        labels: seeds; predicted labels among them are refused.
        frame_count: of the video.
        height_px: of the displayed frame.
        width_px: of the displayed frame.
        ontology: classes allowed; None for those that occur.
        tracks: the tracks of an existing micro-model; None to take them from the labels.

    Raises:
        FailedPrecondition: no seed at all, or an object class that is never visible.
        OutOfRange: a frame past the end, or a coordinate outside of the frame.
        InvalidInput: anything else; names the label as ``seeds[INDEX]``.
    """

    def __init__(
        self,
        labels: Sequence[AnyLabel],
        frame_count: int,
        height_px: int,
        width_px: int,
        ontology: Ontology | None = None,
        tracks: tuple[TrackSpec, ...] | None = None,
    ) -> None:
        self.frame_count, self.height_px, self.width_px = frame_count, height_px, width_px
        self.ontology = ontology or Ontology.from_labels(labels)
        self.object_labels = [label for label in labels if isinstance(label, Label)]
        self.frame_labels = [label for label in labels if isinstance(label, FrameLabel)]
        self._check(labels)
        self.tracks = _track_specs(self.object_labels) if tracks is None else tracks
        self.frame_classes = tuple(c.name for c in self.ontology.frame_classes if self._has_frame_class(c.name))
        self._index = {spec.track: position for position, spec in enumerate(self.tracks)}

    def _has_frame_class(self, name: str) -> bool:
        return any(label.frame_class == name for label in self.frame_labels)

    def _check(self, labels: Sequence[AnyLabel]) -> None:
        for index, label in enumerate(labels):
            try:
                self._check_label(label)
            except InvalidInput as error:
                raise type(error)(f"seeds[{index}].{error.field}", error.value, error.allowed) from None
        keys = Counter((x.frame, x.track if isinstance(x, Label) else None, _class_of(x)) for x in labels)
        for (frame, track, name), count in keys.items():
            if count > 1:
                raise InvalidInput("seeds", f"frame {frame} track {track} class {name} {count} times", "each once")

    def _check_label(self, label: AnyLabel) -> None:
        if not label.is_anchor:
            raise InvalidInput("provenance", label.provenance.kind.value, "human")
        check_fits_video(label, VideoInfo(self.frame_count, self.width_px, self.height_px))
        objects, frames = self.ontology.object_classes, self.ontology.frame_classes
        names = sorted(c.name for c in (objects if isinstance(label, Label) else frames))
        if _class_of(label) not in names:
            kind = "an object class" if isinstance(label, Label) else "a frame class"
            raise InvalidInput(
                "class", _class_of(label), f"{kind} of the ontology: {', '.join(names) or 'it has none'}"
            )

    def require_trainable(self) -> None:
        """Check that a micro-model can be trained from these seeds.

        Raises:
            FailedPrecondition: no seeds, too many tracks, or a track that is never seen.
        """
        if not self.object_labels and not self.frame_labels:
            raise FailedPrecondition("no seeds: label at least one frame by hand first")
        if len(self.tracks) > MAX_TRACKS:
            raise FailedPrecondition(f"{len(self.tracks)} tracks in the seeds; at most {MAX_TRACKS} in one micro-model")
        seen = {label.track for label in self.object_labels if label.shape is not None}
        unseen = sorted({label.track for label in self.object_labels} - seen)
        if unseen:
            raise FailedPrecondition(f"tracks {unseen} have no shape on any seed frame: draw each at least once")

    @property
    def frames(self) -> list[int]:
        """Frames with a seed of an object, ascending."""
        return sorted({label.frame for label in self.object_labels})

    @property
    def all_frames(self) -> tuple[int, ...]:
        """Frames with any seed, of an object or of the frame, ascending."""
        return tuple(sorted({*self.frames, *(label.frame for label in self.frame_labels)}))

    def seed_frame(self, frame: int, size: tuple[int, int]) -> SeedFrame:
        """Targets of one frame on a work image of ``size`` = (height, width)."""
        label_map = np.zeros(size, np.uint8)
        boxes = np.full((len(self.tracks), 4), np.nan, np.float32)
        known = np.zeros(len(self.tracks), bool)
        painted: list[tuple[float, int, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]] = []
        for label in self.object_labels:
            if label.frame != frame or label.track not in self._index:
                continue
            index = self._index[label.track]
            known[index] = label.state is not State.UNCERTAIN
            if label.shape is None:
                continue
            box = bounds(label.shape)
            if box is not None:
                scale = (size[1] / self.width_px, size[0] / self.height_px) * 2
                boxes[index] = np.array(box.as_list(), np.float32) * np.array(scale, np.float32)
            core, doubt = self._paint(label, size)
            # Larger objects first, so that a small one in front of a large one is not painted over.
            painted.append((-float(core.sum()), index, core, doubt))
        for _, index, core, doubt in sorted(painted, key=lambda item: item[0]):
            label_map[doubt] = IGNORE
            label_map[core] = index + 1
        return SeedFrame(frame, label_map, boxes, known)

    def _paint(self, label: Label, size: tuple[int, int]) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Pixels that surely belong to the object, and pixels that may."""
        shape = label.shape
        assert shape is not None
        if not isinstance(shape, Box):
            full = to_mask(shape, self.height_px, self.width_px)
            share = cv2.resize(full.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA)
            core = share > 0.5
            return core, np.zeros(size, bool)
        # Only the middle of a box is surely the object; its corners may be either.
        sx, sy = size[1] / self.width_px, size[0] / self.height_px
        columns, rows = (np.arange(size[1]) + 0.5) / sx, (np.arange(size[0]) + 0.5) / sy
        dx = np.abs(columns - (shape.x1 + shape.x2) / 2) / (shape.width_px / 2)
        dy = np.abs(rows - (shape.y1 + shape.y2) / 2) / (shape.height_px / 2)
        radius = dx[None, :] ** 2 + dy[:, None] ** 2
        inside = (dx[None, :] <= 1) & (dy[:, None] <= 1)
        return radius <= 0.8, inside & (radius > 0.8)


def typical_areas(targets: Sequence[SeedFrame], tracks: int) -> tuple[float, ...]:
    """Median share of the work image that each track covers where it was drawn; 0.01 for one that nobody drew."""
    areas = []
    for index in range(tracks):
        shares = [float((target.label_map == index + 1).mean()) for target in targets]
        areas.append(float(np.median([share for share in shares if share > 0] or [0.01])))
    return tuple(areas)


def has_thin_objects(targets: Iterable[SeedFrame], tracks: Sequence[TrackSpec]) -> bool:
    """Whether half the work resolution would lose more than ``THIN_LOSS`` of drawn masks: IoU of masks with themselves
    made half as large and enlarged again."""
    if len(tracks) > MAX_THIN_TRACKS:
        return False
    kept = []
    for target in targets:
        for index in (place for place, spec in enumerate(tracks) if not spec.is_box):
            mask = target.label_map == index + 1
            if mask.any():
                size = (mask.shape[1] // 2, mask.shape[0] // 2)
                small = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
                again = cv2.resize(small, mask.shape[::-1], interpolation=cv2.INTER_LINEAR) > 0.5
                kept.append(float(mask_iou(mask, again)))
    return bool(kept) and 1 - float(np.mean(kept)) > THIN_LOSS


def _class_of(label: AnyLabel) -> str:
    return label.object_class if isinstance(label, Label) else label.frame_class


def _track_specs(labels: Iterable[Label]) -> tuple[TrackSpec, ...]:
    specs: dict[str, TrackSpec] = {}
    classes: dict[str, str] = {}
    for label in labels:
        known = classes.setdefault(label.track, label.object_class)
        if known != label.object_class:
            raise InvalidInput("seeds.class", label.object_class, f"{known}, as track {label.track} has")
        if label.shape is not None:
            specs[label.track] = TrackSpec(label.track, label.object_class, label.shape.kind)
    return tuple(sorted(specs.values(), key=lambda spec: _natural(spec.track)))


def _natural(track: str) -> tuple[int, int, str]:
    return (0, int(track), track) if track.isdecimal() and len(track) < 18 else (1, 0, track)
