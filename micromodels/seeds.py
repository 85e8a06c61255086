"""Seeds as training targets, and augmented views of them.

Targets live on the work image: a *label map* (uint8: 0 background, 1 to n the tracks in the order of ``TrackSpec``,
255 not scored) and one box per track. Views are whole-image affine changes and cut-and-paste of objects over the
video's own background (Khoreva et al., *Lucid Data Dreaming*, IJCV 2019), by ``torchvision.transforms.v2``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from micromodels.errors import FailedPrecondition, InvalidInput, OutOfRange
from micromodels.types import (
    AnyLabel,
    Box,
    FrameLabel,
    Label,
    Mask,
    Ontology,
    Polygon,
    ShapeKind,
    State,
    shape_box,
    shape_kind,
)

__all__ = [
    "IGNORE",
    "MAX_TRACKS",
    "SeedFrame",
    "SeedSet",
    "TrackSpec",
    "View",
    "ViewMaker",
    "boxed",
    "has_thin_objects",
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


def boxed(tracks: Sequence[TrackSpec]) -> list[bool]:
    """Which tracks are drawn as boxes."""
    return [spec.shape is ShapeKind.BOX for spec in tracks]


@dataclass(frozen=True, slots=True)
class SeedFrame:
    """What people said of one frame, on the work image.

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


@dataclass(frozen=True, slots=True)
class View:
    """An image and its targets, as ``SeedFrame`` has them."""

    image: Image = field(repr=False)
    label_map: LabelMap = field(repr=False)
    boxes: Boxes = field(repr=False)


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
        OutOfRange: a frame past the end.
        InvalidInput: anything else.
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
        object_names = {c.name for c in self.ontology.object_classes}
        frame_names = {c.name for c in self.ontology.frame_classes}
        for label in labels:
            if not label.is_anchor:
                raise InvalidInput("seeds.provenance", label.provenance.kind.value, "human")
            if label.frame >= self.frame_count:
                raise OutOfRange("seeds.frame", label.frame, f"0 to {self.frame_count - 1}")
            name = label.object_class if isinstance(label, Label) else label.frame_class
            self._check_shape(label)
            if name not in (object_names if isinstance(label, Label) else frame_names):
                raise InvalidInput("seeds.class", name, f"one of {sorted(object_names | frame_names)}")
        keys = Counter((x.frame, x.track if isinstance(x, Label) else None, _class_of(x)) for x in labels)
        for (frame, track, name), count in keys.items():
            if count > 1:
                raise InvalidInput("seeds", f"frame {frame} track {track} class {name} {count} times", "each once")

    def _check_shape(self, label: AnyLabel) -> None:
        shape = label.shape if isinstance(label, Label) else None
        size = (self.height_px, self.width_px)
        if isinstance(shape, Mask) and (shape.height_px, shape.width_px) != size:
            raise InvalidInput("seeds.mask.size", (shape.height_px, shape.width_px), f"{size}, as the video has")

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
            box = shape_box(label.shape)
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
        if shape_kind(shape) is not ShapeKind.BOX:
            assert not isinstance(shape, Box)
            full = shape.to_array(self.height_px, self.width_px) if isinstance(shape, Polygon) else shape.to_array()
            share = cv2.resize(full.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA)
            core = share > 0.5
            return core, np.zeros(size, bool)
        # Only the middle of a box is surely the object; its corners may be either.
        box = shape_box(shape)
        assert box is not None
        sx, sy = size[1] / self.width_px, size[0] / self.height_px
        columns, rows = (np.arange(size[1]) + 0.5) / sx, (np.arange(size[0]) + 0.5) / sy
        dx = np.abs(columns - (box.x1 + box.x2) / 2) / (box.width_px / 2)
        dy = np.abs(rows - (box.y1 + box.y2) / 2) / (box.height_px / 2)
        radius = dx[None, :] ** 2 + dy[:, None] ** 2
        inside = (dx[None, :] <= 1) & (dy[:, None] <= 1)
        return radius <= 0.8, inside & (radius > 0.8)


def has_thin_objects(targets: Iterable[SeedFrame], tracks: Sequence[TrackSpec]) -> bool:
    """Whether half the work resolution would lose more than ``THIN_LOSS`` of drawn masks: IoU of masks with themselves
    made half as large and enlarged again."""
    if len(tracks) > MAX_THIN_TRACKS:
        return False
    kept = []
    for target in targets:
        for index in (place for place, spec in enumerate(tracks) if spec.shape is not ShapeKind.BOX):
            mask = target.label_map == index + 1
            if mask.any():
                size = (mask.shape[1] // 2, mask.shape[0] // 2)
                small = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
                again = cv2.resize(small, mask.shape[::-1], interpolation=cv2.INTER_LINEAR) > 0.5
                kept.append(float((mask & again).sum() / (mask | again).sum()))
    return bool(kept) and 1 - float(np.mean(kept)) > THIN_LOSS


def _class_of(label: AnyLabel) -> str:
    return label.object_class if isinstance(label, Label) else label.frame_class


def _track_specs(labels: Iterable[Label]) -> tuple[TrackSpec, ...]:
    specs: dict[str, TrackSpec] = {}
    classes: dict[str, str] = {}
    for label in labels:
        kind = shape_kind(label.shape) if label.shape is not None else None
        known = classes.setdefault(label.track, label.object_class)
        if known != label.object_class:
            raise InvalidInput("seeds.class", label.object_class, f"{known}, as track {label.track} has")
        if kind is not None:
            specs[label.track] = TrackSpec(label.track, label.object_class, kind)
    return tuple(sorted(specs.values(), key=lambda spec: _natural(spec.track)))


def _natural(track: str) -> tuple[int, int, str]:
    return (0, int(track), track) if track.isdecimal() and len(track) < 18 else (1, 0, track)


@dataclass(frozen=True, slots=True)
class _Motion:
    """An affine motion as torchvision's v2 takes it; translation in pixels."""

    angle_degrees: float
    translate_px: tuple[float, float]
    scale: float
    center: tuple[float, float]
    flip: bool

    def image(self, image: torch.Tensor) -> torch.Tensor:
        flipped = transforms.horizontal_flip(image) if self.flip else image
        moved: torch.Tensor = transforms.affine(
            flipped,
            angle=self.angle_degrees,
            translate=list(self.translate_px),
            scale=self.scale,
            shear=[0.0, 0.0],
            interpolation=InterpolationMode.BILINEAR,
            fill=[0.0],
            center=list(self.center),
        )
        return moved

    def mask(self, mask: LabelMap, fill: int) -> LabelMap:
        tensor = tv_tensors.Mask(torch.from_numpy(mask)[None])
        flipped = transforms.horizontal_flip(tensor) if self.flip else tensor
        moved = transforms.affine(
            flipped,
            angle=self.angle_degrees,
            translate=list(self.translate_px),
            scale=self.scale,
            shear=[0.0, 0.0],
            fill=float(fill),
            center=list(self.center),
        )
        return np.asarray(moved[0].numpy(), np.uint8)

    def boxes(self, boxes: Boxes, size: tuple[int, int]) -> Boxes:
        out = np.full_like(boxes, np.nan)
        good = ~np.isnan(boxes[:, 0])
        if good.any():
            x1, y1, x2, y2 = boxes[good].T
            if self.flip:
                x1, x2 = size[1] - x2, size[1] - x1
            # Rotations of box seeds are a few degrees at most: moving the centre and scaling keeps boxes tight.
            radians = math.radians(self.angle_degrees)
            cx, cy = (x1 + x2) / 2 - self.center[0], (y1 + y2) / 2 - self.center[1]
            mx = self.scale * (math.cos(radians) * cx - math.sin(radians) * cy) + self.center[0] + self.translate_px[0]
            my = self.scale * (math.sin(radians) * cx + math.cos(radians) * cy) + self.center[1] + self.translate_px[1]
            half_w, half_h = self.scale * (x2 - x1) / 2, self.scale * (y2 - y1) / 2
            out[good] = np.stack([mx - half_w, my - half_h, mx + half_w, my + half_h], axis=1)
        return out


class ViewMaker:
    """Augmented views of one seed frame, each made on its own from its number: the same whatever the order.

    Args:
        image: work image, RGB uint8 ``(height, width, 3)``.
        seed: its targets.
        entropy: of all randomness, with the number of the view.
        flip: whether a mirrored object is still one.
    """

    def __init__(self, image: Image, seed: SeedFrame, entropy: tuple[int, ...], flip: bool = True) -> None:
        self._image, self._seed, self._entropy, self._flip = image, seed, entropy, flip
        self._pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        self._objects = [int(i) for i in np.unique(seed.label_map) if i not in (0, IGNORE)]
        self._background = _without_objects(image, seed.label_map) if self._objects else None
        has_boxes = bool(not np.isnan(seed.boxes[:, 0]).all()) and bool((seed.label_map == IGNORE).any())
        # Boxes stay tight under small rotations only.
        self._degrees = (3.0, 3.0) if has_boxes else (15.0, 25.0)

    def view(self, number: int) -> View:
        """View ``number``; 0 is the frame itself, then moved images and pasted objects take turns."""
        if number == 0:
            return View(self._image, self._seed.label_map, self._seed.boxes)
        rng = np.random.default_rng((*self._entropy, number))
        mirrored = bool(self._flip and rng.random() < 0.5)
        moved, pasted = self._degrees
        if number % 2 or self._background is None:
            return _moved_view(self._pixels, self._seed, rng, mirrored, self._objects, moved)
        return _pasted_view(self._pixels, self._background, self._seed, rng, mirrored, self._objects, pasted)


def _colours(pixels: torch.Tensor, rng: np.random.Generator, strength: float = 1.0) -> torch.Tensor:
    jitter: torch.Tensor = transforms.adjust_brightness(
        pixels, float(rng.uniform(1 - 0.3 * strength, 1 + 0.3 * strength))
    )
    jitter = transforms.adjust_contrast(jitter, float(rng.uniform(1 - 0.25 * strength, 1 + 0.25 * strength)))
    jitter = transforms.adjust_saturation(jitter, float(rng.uniform(1 - 0.4 * strength, 1 + 0.4 * strength)))
    gains = torch.from_numpy(rng.uniform(1 - 0.08 * strength, 1 + 0.08 * strength, (3, 1, 1)).astype(np.float32))
    jitter = (jitter.float() * gains).clamp(0, 255).to(torch.uint8)
    if rng.random() < 0.3:
        # OpenCV's is separable: 2 ms a picture instead of 33.
        soft = cv2.GaussianBlur(_to_image(jitter), (9, 9), float(rng.uniform(0.5, 1.8)))
        jitter = torch.from_numpy(np.ascontiguousarray(soft.transpose(2, 0, 1)))
    return jitter


def _moved_view(
    pixels: torch.Tensor, seed: SeedFrame, rng: np.random.Generator, flip: bool, objects: list[int], degrees: float
) -> View:
    """The whole image scaled (x0.6 to x1.8), rotated, shifted; what came from outside is not scored."""
    height, width = seed.label_map.shape
    scale = math.exp(rng.uniform(math.log(0.6), math.log(1.8)))
    center = (width / 2, height / 2)
    if objects and scale > 1:
        rows, columns = np.nonzero((seed.label_map > 0) & (seed.label_map != IGNORE))
        center = (float(columns.mean()), float(rows.mean()))
        center = (width - center[0], center[1]) if flip else center
    shift = (float(rng.uniform(-0.12, 0.12) * width), float(rng.uniform(-0.12, 0.12) * height))
    motion = _Motion(float(rng.uniform(-degrees, degrees)), shift, scale, center, flip)
    label_map = motion.mask(seed.label_map, IGNORE)
    moved = motion.image(pixels)
    outside = motion.mask(np.zeros_like(seed.label_map), 1) > 0
    if outside.any():
        # Mean colour rather than black: a black frame is an edge that the video does not have.
        mean = pixels.float().mean(dim=(1, 2)).to(torch.uint8)
        moved = torch.where(torch.from_numpy(outside)[None], mean[:, None, None], moved)
    return View(_to_image(_colours(moved, rng)), label_map, motion.boxes(seed.boxes, (height, width)))


def _pasted_view(
    pixels: torch.Tensor,
    background: torch.Tensor,
    seed: SeedFrame,
    rng: np.random.Generator,
    flip: bool,
    objects: list[int],
    degrees: float,
) -> View:
    """Each object cut out, scaled (x0.45 to x2.2), rotated, moved, and pasted over the moved background."""
    height, width = seed.label_map.shape
    shift = (float(rng.uniform(-0.08, 0.08) * width), float(rng.uniform(-0.08, 0.08) * height))
    zoom = math.exp(rng.uniform(0.0, math.log(1.4)))
    behind = _Motion(float(rng.uniform(-8, 8)), shift, zoom, (width / 2, height / 2), flip)
    canvas = behind.image(background).float()
    label_map = np.zeros_like(seed.label_map)
    label_map[behind.mask(np.zeros_like(label_map), 1) > 0] = IGNORE
    boxes = np.full_like(seed.boxes, np.nan)
    for value in objects:
        own = _own_region(seed, value)
        rows, columns = np.nonzero(own)
        center = (float(columns.mean()), float(rows.mean()))
        center = (width - center[0], center[1]) if flip else center
        reach = 0.35 if rng.random() < 0.5 else 0.12
        scale = math.exp(rng.uniform(math.log(0.45), math.log(2.2)))
        move = (float(rng.uniform(-reach, reach) * width), float(rng.uniform(-reach, reach) * height))
        motion = _Motion(float(rng.uniform(-degrees, degrees)), move, scale, center, flip)
        cut = motion.mask(own.astype(np.uint8), 0)
        alpha = torch.from_numpy(cv2.GaussianBlur(cut.astype(np.float32), (0, 0), 1.0))[None]
        object_pixels = motion.image(pixels)
        if rng.random() < 0.5:
            object_pixels = _colours(object_pixels, rng, 0.5)
        canvas = canvas * (1 - alpha) + object_pixels.float() * alpha
        core = motion.mask((seed.label_map == value).astype(np.uint8), 0)
        label_map[cut > 0] = IGNORE
        label_map[core > 0] = value
        boxes[value - 1] = motion.boxes(seed.boxes[value - 1 : value], (height, width))[0]
    return View(_to_image(_colours(canvas.clamp(0, 255).to(torch.uint8), rng)), label_map, boxes)


def _own_region(seed: SeedFrame, value: int) -> npt.NDArray[np.bool_]:
    """The object's pixels; of a box also the doubtful ones inside it."""
    own: npt.NDArray[np.bool_] = seed.label_map == value
    x1, y1, x2, y2 = seed.boxes[value - 1]
    if not np.isnan(x1):
        inside = np.zeros_like(own)
        inside[max(0, round(float(y1))) : round(float(y2)), max(0, round(float(x1))) : round(float(x2))] = True
        own |= inside & (seed.label_map == IGNORE)
    return own


def _without_objects(image: Image, label_map: LabelMap) -> torch.Tensor:
    """The image with all objects painted over from around them, at a quarter of the size where that is enough."""
    height, width = label_map.shape
    small_size = (width // 4, height // 4)
    small = cv2.resize(image, small_size, interpolation=cv2.INTER_AREA)
    hole = cv2.resize((label_map > 0).astype(np.uint8), small_size, interpolation=cv2.INTER_NEAREST)
    filled = cv2.inpaint(small, cv2.dilate(hole, np.ones((5, 5), np.uint8)), 3, cv2.INPAINT_TELEA)
    filled = cv2.resize(filled, (width, height), interpolation=cv2.INTER_LINEAR)
    soft = cv2.GaussianBlur(cv2.dilate((label_map > 0).astype(np.float32), np.ones((9, 9))), (0, 0), 3)[..., None]
    blended = (image * (1 - soft) + filled * soft).astype(np.uint8)
    return torch.from_numpy(np.ascontiguousarray(blended.transpose(2, 0, 1)))


def _to_image(pixels: torch.Tensor) -> Image:
    return np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())
