"""Augmented views of seeds: whole-image affine changes, and cut-and-paste of objects over the video's own background.

Source: Khoreva et al., *Lucid Data Dreaming*, IJCV 2019; the transforms are ``torchvision.transforms.v2``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from micromodels.labels.targets import IGNORE, Boxes, Image, LabelMap, SeedFrame

__all__ = ["View", "ViewMaker"]


@dataclass(frozen=True, slots=True)
class View:
    """An image and its targets, as ``SeedFrame`` has them."""

    image: Image = field(repr=False)
    label_map: LabelMap = field(repr=False)
    boxes: Boxes = field(repr=False)


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
            # Rotations of box seeds are a few degrees at most: moving the center and scaling keeps boxes tight.
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


def _colors(pixels: torch.Tensor, rng: np.random.Generator, strength: float = 1.0) -> torch.Tensor:
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
        # Mean color rather than black: a black frame is an edge that the video does not have.
        mean = pixels.float().mean(dim=(1, 2)).to(torch.uint8)
        moved = torch.where(torch.from_numpy(outside)[None], mean[:, None, None], moved)
    return View(_to_image(_colors(moved, rng)), label_map, motion.boxes(seed.boxes, (height, width)))


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
            object_pixels = _colors(object_pixels, rng, 0.5)
        canvas = canvas * (1 - alpha) + object_pixels.float() * alpha
        core = motion.mask((seed.label_map == value).astype(np.uint8), 0)
        label_map[cut > 0] = IGNORE
        label_map[core > 0] = value
        boxes[value - 1] = motion.boxes(seed.boxes[value - 1 : value], (height, width))[0]
    return View(_to_image(_colors(canvas.clamp(0, 255).to(torch.uint8), rng)), label_map, boxes)


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
