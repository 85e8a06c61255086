"""Pictures: labels drawn over a frame, and the flip book of a training.

Text uses OpenCV 5's built-in scalable fonts, so it does not depend on system fonts.
"""

from __future__ import annotations

import colorsys
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import assert_never

import cv2
import numpy as np
import numpy.typing as npt

from micromodels.errors import InvalidInput
from micromodels.labels.geometry import area_px, bounds, mask_bounds, to_mask
from micromodels.runtime.run import FlipBookPicture
from micromodels.types import (
    Box,
    FrameLabel,
    FrameResult,
    Label,
    Mask,
    ObjectClass,
    Ontology,
    Polygon,
    ProvenanceKind,
    Shape,
    State,
)

__all__ = ["MAX_COLUMNS", "flip_book", "overlay", "track_color"]

Image = npt.NDArray[np.uint8]
BoolMask = npt.NDArray[np.bool_]
Color = tuple[int, int, int]

PALETTE: tuple[Color, ...] = (
    (255, 176, 0),
    (64, 156, 255),
    (255, 84, 112),
    (60, 210, 140),
    (196, 120, 255),
    (0, 206, 209),
    (255, 128, 60),
    (170, 214, 60),
    (255, 130, 210),
    (140, 150, 255),
)
"""Colors (RGB) of tracks: visible on dark and light pictures, adjacent ones clearly different."""

WHITE: Color = (255, 255, 255)
INK: Color = (16, 18, 24)
MUTED: Color = (150, 156, 168)
FILL_OPACITY = 0.38
MAX_COLUMNS = 8
"""Most columns of a flip book; of more steps, evenly spaced ones are shown, with the first and last."""

MAX_SHEET_SIDE_PX = 4096


# --- overlay ---------------------------------------------------------------------------------------------------------


def overlay(
    image: Image,
    labels: FrameResult,
    ontology: Ontology | None = None,
    *,
    captions: bool = True,
    line_scale: float = 1.0,
) -> Image:
    """Draw the labels of one frame.

    Shapes are filled and outlined, with a tag of class, track and confidence. Solid outlines are ``visible``, dashed
    ones ``occluded``, dotted ones ``uncertain``. Hand labels have a white rim and a white diamond in their tag. Absent
    tracks and frame classes are listed in the corners, and the frame index at the bottom.

    Args:
        image: RGB uint8 ``(height, width, 3)``; not changed.
        labels: of this frame.
        ontology: has the colors (``#rrggbb``) of classes; tracks of a class without a color get their own.
        captions: whether tags and the lists in the corners are drawn too.
        line_scale: factor on everything drawn; above 1 for pictures that are shown small.

    Returns:
        RGB uint8 of the same shape.

    Raises:
        InvalidInput: not an RGB uint8 image, or a mask of another size.
    """
    _check_image(image)
    canvas = _Canvas(np.ascontiguousarray(image).copy(), line_scale)
    classes = {c.name: c for c in ontology.object_classes} if ontology else {}
    shaped = [label for label in labels.labels if label.shape is not None]
    for label in shaped:
        canvas.draw_shape(label, _color(label, classes))
    if not captions:
        return canvas.image
    # Draw tags last, so that no shape covers them; tags of large objects first, later ones avoid them.
    for label in sorted(shaped, key=lambda label: -_area(label.shape)):
        canvas.draw_tag(label, _color(label, classes))
    canvas.draw_corners(labels, {c.name: c.color for c in ontology.frame_classes} if ontology else {})
    return canvas.image


def track_color(track: str, object_class: ObjectClass | None = None) -> Color:
    """The color (RGB) of a track: a shade of its class's color, or one of the palette; always the same."""
    number = int(track) if re.fullmatch(r"[0-9]{1,9}", track) else zlib.crc32(track.encode("utf-8", "replace"))
    base = _parse_color(object_class.color) if object_class else None
    if base is None:
        return PALETTE[(number - 1) % len(PALETTE)]
    shade = (0.0, 0.3, -0.25, 0.5, -0.4)[(number - 1) % 5]
    mixed = [v + (255 - v) * shade if shade > 0 else v * (1 + shade) for v in base]
    return round(mixed[0]), round(mixed[1]), round(mixed[2])


def _color(label: Label, classes: dict[str, ObjectClass]) -> Color:
    return track_color(label.track, classes.get(label.object_class))


def _parse_color(text: str) -> Color | None:
    """``#rrggbb``; None for no color."""
    return (int(text[1:3], 16), int(text[3:5], 16), int(text[5:], 16)) if text else None


def _check_image(image: Image) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise InvalidInput("image", (image.shape, str(image.dtype)), "RGB uint8 of shape (height, width, 3)")


def _area(shape: Shape | None) -> float:
    box = bounds(shape) if shape is not None else None
    return area_px(box) if box else 0.0


@dataclass(slots=True)
class _Canvas:
    """A picture to draw on, with the places of its tags."""

    image: Image
    scale: float = 1.0
    taken: list[tuple[int, int, int, int]] = field(default_factory=list)

    @property
    def unit(self) -> float:
        """Scale of all drawing, ``scale`` for a picture of 480 lines."""
        return self.scale * float(min(max(min(self.image.shape[:2]) / 480, 0.6), 4.0))

    @property
    def text_size(self) -> int:
        return max(9, round(13 * self.unit))

    def draw_shape(self, label: Label, color: Color) -> None:
        """Blend the shape's area and draw its outline."""
        assert label.shape is not None
        rings = self._fill(label.shape, color if label.state is State.VISIBLE else _grayer(color))
        width = max(1, round(1.6 * self.unit))
        if label.is_anchor:
            cv2.polylines(self.image, rings, True, WHITE, width + 2 * max(2, round(1.5 * self.unit)), cv2.LINE_AA)
        if label.state is State.VISIBLE:
            cv2.polylines(self.image, rings, True, color, width, cv2.LINE_AA)
        else:
            dash = 7 * self.unit if label.state is State.OCCLUDED else 3 * self.unit
            for ring in rings:
                _dashed(self.image, ring, color, width, dash)

    def _fill(self, shape: Shape, color: Color) -> list[npt.NDArray[np.int32]]:
        """Blend a mask or polygon with the color (a box is not filled); returns its outline."""
        match shape:
            case Box():
                x1, y1, x2, y2 = (round(v) for v in (shape.x1, shape.y1, shape.x2 - 1, shape.y2 - 1))
                return [np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)], np.int32)]
            case Polygon():
                self._blend(to_mask(shape, *self.image.shape[:2]), color)
                return [np.clip(np.round(shape.points), -32_000, 32_000).astype(np.int32)]
            case Mask():
                area = to_mask(shape, *self.image.shape[:2])
                self._blend(area, color)
                found, _ = cv2.findContours(area.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
                return [ring[:, 0].astype(np.int32) for ring in found]
            case _:
                assert_never(shape)

    def _blend(self, area: BoolMask, color: Color) -> None:
        box = mask_bounds(area)
        if box is not None:
            rows, columns = slice(int(box.y1), int(box.y2)), slice(int(box.x1), int(box.x2))
            part, inside = self.image[rows, columns], area[rows, columns]
            blended = part[inside] * (1 - FILL_OPACITY) + np.array(color) * FILL_OPACITY
            part[inside] = blended.astype(np.uint8)

    def draw_tag(self, label: Label, color: Color) -> None:
        """Draw a tag with class, track, state and confidence, near the shape where space is free."""
        assert label.shape is not None
        box = bounds(label.shape)
        if box is None:
            return
        text = _tag_text(label)
        width, height = self.chip_size(text, diamond=label.is_anchor)
        gap = round(2 * self.unit)
        x, right = round(box.x1), round(box.x2) - width
        tries = [
            (x, round(box.y1) - height - gap),
            (right, round(box.y1) - height - gap),
            (x, round(box.y2) + gap),
            (right, round(box.y2) + gap),
            (x, round(box.y1) + gap),
            (x, round(box.y1) - 2 * (height + gap)),
            (x, round((box.y1 + box.y2 - height) / 2)),
        ]
        places = [self._inside(place, width, height) for place in tries]
        free = [place for place in places if not self._overlaps(place, width, height)]
        self.chip(text, free[0] if free else places[0], color, diamond=label.is_anchor)

    def draw_corners(self, labels: FrameResult, frame_colors: dict[str, str]) -> None:
        """Frame index bottom left, absent tracks bottom right, frame classes top left."""
        margin = round(8 * self.unit)
        height = self.image.shape[0]
        by_hand = any(label.is_anchor for label in labels.all())
        caption = f"frame {labels.frame}" + (" · by hand" if by_hand else "")
        _, line = self.chip_size(caption, diamond=by_hand)
        self.chip(caption, (margin, height - line - margin), INK, diamond=by_hand)
        y = margin
        for label in labels.frame_labels:
            color = _parse_color(frame_colors.get(label.frame_class, "")) or PALETTE[3]
            self.chip(_frame_class_text(label), (margin, y), color if label.present else INK, diamond=label.is_anchor)
            y += line + round(4 * self.unit)
        missing = [label for label in labels.labels if label.shape is None]
        y = height - line - margin
        for absent in missing[::-1]:
            if y < height // 2:  # do not cover the picture if many objects are absent
                break
            text = _tag_text(absent)
            width, _ = self.chip_size(text, diamond=absent.is_anchor)
            place = (self.image.shape[1] - width - margin, y)
            self.chip(text, place, INK, diamond=absent.is_anchor, text_color=MUTED)
            y -= line + round(4 * self.unit)

    def chip_size(self, text: str, *, diamond: bool = False) -> tuple[int, int]:
        """Width and height of a chip in pixels."""
        width = _text_width(text, self.text_size) + round(10 * self.unit)
        return width + (round(13 * self.unit) if diamond else 0), self.text_size + round(6 * self.unit)

    def chip(
        self,
        text: str,
        place: tuple[int, int],
        color: Color,
        *,
        diamond: bool = False,
        text_color: Color | None = None,
    ) -> None:
        """Draw text on a rounded plate with its top left corner at ``place``; a white diamond marks hand labels."""
        x, y = place
        width, height = self.chip_size(text, diamond=diamond)
        self.taken.append((x, y, x + width, y + height))
        _rounded(self.image, (x, y, x + width, y + height), round(4 * self.unit), color, 0.86 if color == INK else 0.92)
        ink = text_color or (INK if _is_bright(color) else WHITE)
        x += round(5 * self.unit)
        if diamond:
            r, cx, cy = 4.2 * self.unit, x + 4 * self.unit, y + height / 2
            points = np.array([(cx - r, cy), (cx, cy - r), (cx + r, cy), (cx, cy + r)])
            fixed = [np.round(points * 16).astype(np.int32)]
            cv2.fillPoly(self.image, fixed, WHITE, cv2.LINE_AA, shift=4)
            if color != INK:
                cv2.polylines(self.image, fixed, True, INK, max(1, round(self.unit)), cv2.LINE_AA, shift=4)
            x += round(13 * self.unit)
        _put(self.image, text, (x, y + round(height / 2 + self.text_size * 0.36)), ink, self.text_size)

    def _inside(self, place: tuple[int, int], width: int, height: int) -> tuple[int, int]:
        rows, columns = self.image.shape[:2]
        return max(0, min(place[0], columns - width)), max(0, min(place[1], rows - height))

    def _overlaps(self, place: tuple[int, int], width: int, height: int) -> bool:
        x, y = place
        return any(x < x2 and x1 < x + width and y < y2 and y1 < y + height for x1, y1, x2, y2 in self.taken)


def _tag_text(label: Label) -> str:
    parts = [label.object_class if label.track == label.object_class else f"{label.object_class} {label.track}"]
    if label.state is not State.VISIBLE:
        parts.append(label.state.value)
    if label.provenance.kind is ProvenanceKind.INTERPOLATED:
        parts.append("interpolated")
    if label.confidence is not None and not label.is_anchor:
        parts.append(f"{label.confidence:.2f}")
    return " · ".join(parts)


def _frame_class_text(label: FrameLabel) -> str:
    sure = "" if label.confidence is None or label.is_anchor else f" · {label.confidence:.2f}"
    return f"{label.frame_class}{'' if label.present else ' · absent'}{sure}"


def _dashed(image: Image, ring: npt.NDArray[np.int32], color: Color, width: int, dash: float) -> None:
    """Draw a closed dashed line with equal dashes and gaps of about ``dash`` pixels."""
    points = np.vstack([ring, ring[:1]]).astype(np.float64)
    lengths = np.hypot(*np.diff(points, axis=0).T)
    along = np.concatenate([[0.0], np.cumsum(lengths)])
    total = float(along[-1])
    count = min(int(total // (2 * dash)), 2000)
    for index in range(count):
        start = total * index / count
        at = np.concatenate([[start], along[(along > start) & (along < start + dash)], [min(start + dash, total)]])
        piece = np.column_stack([np.interp(at, along, points[:, axis]) for axis in (0, 1)])
        cv2.polylines(image, [np.round(piece * 16).astype(np.int32)], False, color, width, cv2.LINE_AA, shift=4)


def _rounded(image: Image, box: tuple[int, int, int, int], radius: int, color: Color, opacity: float) -> None:
    """Draw a blended rectangle with round corners, clipped to the picture."""
    height, width = image.shape[:2]
    x1, y1, x2, y2 = max(box[0], 0), max(box[1], 0), min(box[2], width), min(box[3], height)
    if x2 <= x1 or y2 <= y1:
        return
    plate = np.zeros((box[3] - box[1], box[2] - box[0]), np.uint8)
    radius = min(radius, min(plate.shape) // 2)
    cv2.rectangle(plate, (radius, 0), (plate.shape[1] - radius - 1, plate.shape[0]), 255, -1)
    cv2.rectangle(plate, (0, radius), (plate.shape[1], plate.shape[0] - radius - 1), 255, -1)
    for x in (radius, plate.shape[1] - radius - 1):
        for y in (radius, plate.shape[0] - radius - 1):
            cv2.circle(plate, (x, y), radius, 255, -1, cv2.LINE_AA)
    alpha = plate[y1 - box[1] : y2 - box[1], x1 - box[0] : x2 - box[0], None] * (opacity / 255)
    part = image[y1:y2, x1:x2]
    part[:] = np.round(part * (1 - alpha) + np.array(color) * alpha).astype(np.uint8)


def _grayer(color: Color) -> Color:
    hue, saturation, value = colorsys.rgb_to_hsv(*(v / 255 for v in color))
    r, g, b = colorsys.hsv_to_rgb(hue, saturation * 0.45, value * 0.9)
    return round(r * 255), round(g * 255), round(b * 255)


def _is_bright(color: Color) -> bool:
    return 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] > 130


_fonts: list[cv2.FontFace] = []


def _font() -> cv2.FontFace:
    if not _fonts:  # loaded on first use, which takes some milliseconds
        _fonts.append(cv2.FontFace("sans"))
    return _fonts[0]


def _put(image: Image, text: str, origin: tuple[int, int], color: Color, size: int, weight: int = 600) -> None:
    """Write text, its baseline starting at ``origin``."""
    cv2.putText(image, text, origin, color, _font(), size, weight)


def _text_width(text: str, size: int, weight: int = 600) -> int:
    """Width in pixels."""
    x, _, width, _ = cv2.getTextSize((1 << 14, 100), text, (0, 0), _font(), size, weight)
    return int(x + width)


# --- flip book -------------------------------------------------------------------------------------------------------


def flip_book(pictures: Sequence[FlipBookPicture], *, cell_width_px: int = 320) -> Image:
    """A sheet that shows how the model learned: one row per frame, one column per training step, with captions.

    Each experiment has its own rows. Of more than `MAX_COLUMNS` steps, evenly spaced ones are shown. A missing picture
    leaves its cell dark.

    Args:
        pictures: in any order; for a frame and step given twice, the later one counts.
        cell_width_px: maximum width of a cell; smaller if the sheet would exceed 4096 pixels.

    Returns:
        RGB uint8 ``(height, width, 3)``.

    Raises:
        InvalidInput: no pictures.
    """
    if not pictures:
        raise InvalidInput("pictures", "none", "at least one flip-book picture")
    for picture in pictures:
        _check_image(picture.image)
    cells = {(p.experiment, p.frame, p.step): p.image for p in pictures}
    rows = sorted({(experiment, frame) for experiment, frame, _ in cells})
    several = len({experiment for experiment, _ in rows}) > 1
    steps = _thinned(sorted({step for _, _, step in cells}))
    shapes = [image.shape for image in cells.values()]
    aspect = max(shape[0] / shape[1] for shape in shapes)
    width = min(cell_width_px, max(shape[1] for shape in shapes), (MAX_SHEET_SIDE_PX - 140) // len(steps))
    left, top, gap = (136 if several else 96), 48, 6
    width = max(40, min(width, int(((MAX_SHEET_SIDE_PX - 80) / len(rows) - gap) / aspect)))
    height = max(1, round(width * aspect))
    sheet = np.empty((top + len(rows) * (height + gap) + gap, left + len(steps) * (width + gap) + gap, 3), np.uint8)
    sheet[:] = INK
    for column, step in enumerate(steps):
        _put(sheet, "before" if step == 0 else f"step {step}", (left + column * (width + gap), 31), WHITE, 16)
    for row, (experiment, frame) in enumerate(rows):
        y = top + row * (height + gap)
        _put(sheet, f"frame {frame}", (14, y + height // 2 + 6), WHITE, 16)
        if several:
            _put(sheet, f"experiment {experiment + 1}", (14, y + height // 2 + 26), MUTED, 13, 400)
        for column, step in enumerate(steps):
            x = left + column * (width + gap)
            sheet[y : y + height, x : x + width] = (34, 37, 46)
            image = cells.get((experiment, frame, step))
            if image is not None:
                _paste(sheet[y : y + height, x : x + width], image)
    return sheet


def _thinned(steps: list[int]) -> list[int]:
    if len(steps) <= MAX_COLUMNS:
        return steps
    return [steps[round(i)] for i in np.linspace(0, len(steps) - 1, MAX_COLUMNS)]


def _paste(cell: Image, image: Image) -> None:
    """Draw a picture in the center of a cell, as large as fits."""
    scale = min(cell.shape[0] / image.shape[0], cell.shape[1] / image.shape[1])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    y, x = (cell.shape[0] - size[1]) // 2, (cell.shape[1] - size[0]) // 2
    cell[y : y + size[1], x : x + size[0]] = small[: cell.shape[0], : cell.shape[1]]
