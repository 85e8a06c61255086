"""COCO instances JSON, with the fields that COCO has no place for put where other tools leave them alone."""

from __future__ import annotations

import math
import os
import re
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, assert_never

from micromodels.errors import InvalidInput
from micromodels.labels.formats import FormatOptions, LabelFormat, LabelPart, known_video
from micromodels.labels.geometry import area_px, bounds, to_rle
from micromodels.labels.label_json import label_from_dict, label_to_dict, mask_size, shape_to_dict
from micromodels.labels.picture_names import frames_by_name, frames_by_number
from micromodels.labels.strict_json import decode_utf8, is_number, numbers, parse_json, to_json
from micromodels.labels.validation import EDGE_TOLERANCE_PX, find_crossing, relocated
from micromodels.labels.video_info import VideoInfo
from micromodels.types import (
    MAX_MASK_PIXELS,
    MAX_POLYGON_VERTICES,
    AnyLabel,
    Box,
    Label,
    Mask,
    Polygon,
    Shape,
    State,
)

__all__ = ["FORMAT", "MAX_COCO_BYTES"]

MAX_COCO_BYTES = 1 << 30
"""Larger files are refused: COCO is one JSON document and has to be read whole."""

EXTENSION = "micromodels"
"""Top-level key of the labels that COCO has no place for (absent objects, objects without a shape, frame classes)."""

FRAME_FIELDS = ("frame", "frame_index", "frame_id")
"""Fields of an image that give its frame, the first one found counts; ``frame_id`` is that of CocoVID files."""

TRACK_FIELDS = ("track_id", "instance_id")

OWN_ATTRIBUTES = ("state", "confidence", "provenance")

RING_VALUES = f"3 to {MAX_POLYGON_VERTICES} points that enclose an area, as a flat list [x1, y1, x2, y2, ...]"

_ANY_LABEL: Mapping[str, Any] = {"frame": 0, "track": "?", "class": "?", "box": [0, 0, 1, 1]}
"""What an attribute is tried on, to find whether it is one of ours."""

SNIFFED_BYTES = 1 << 20
"""Of each end of a file, where ``images`` or ``categories`` stand in COCO: only annotations are longer."""


# --- writing ---------------------------------------------------------------------------------------------------------


def _write(path: Path, labels: Iterable[AnyLabel], video: VideoInfo | None, options: FormatOptions) -> int:
    """Write labels as COCO instances of every frame of one video, annotations as the labels come.

    Every frame of the video is an image, labeled or not. The ontology gives the order of the categories; classes that
    it lacks follow in order of appearance.
    """
    video, ontology = known_video(video), options.ontology
    categories = {c.name: i for i, c in enumerate(ontology.object_classes if ontology else (), 1)}
    shaped = others = 0
    with path.open("x", encoding="utf-8", newline="\n") as file, tempfile.TemporaryFile("w+", encoding="utf-8") as rest:
        file.write('{"info":{"description":"micromodels labels","version":"1"},"licenses":[],\n"videos":[')
        file.write(to_json(_video_entry(video)) + '],\n"images":[\n')
        for frame in range(video.frame_count):
            file.write((",\n" if frame else "") + to_json(_image_entry(video, frame)))
        file.write('\n],\n"annotations":[\n')
        for label in labels:
            if isinstance(label, Label) and label.shape is not None:
                category = categories.setdefault(label.object_class, len(categories) + 1)
                shaped += 1
                file.write((",\n" if shaped > 1 else "") + to_json(_annotation(label, shaped, category)))
            else:
                others += 1
                rest.write((",\n" if others > 1 else "") + to_json(label_to_dict(label)))
        file.write('\n],\n"categories":[\n')
        entries = [{"id": number, "name": name, "supercategory": ""} for name, number in categories.items()]
        file.write(",\n".join(to_json(entry) for entry in entries))
        file.write(f'\n],\n"{EXTENSION}":{{"format":1,"labels":[\n')
        rest.seek(0)
        shutil.copyfileobj(rest, file)
        file.write("\n]}}\n")
    return shaped + others


def _video_entry(video: VideoInfo) -> dict[str, Any]:
    size = {"width": video.width_px, "height": video.height_px, "length": video.frame_count}
    return {"id": 1, "name": video.content_hash, **size, **({"time_base": str(video.time_base)} if video.pts else {})}


def _image_entry(video: VideoInfo, frame: int) -> dict[str, Any]:
    return {
        "id": frame + 1,
        "file_name": video.frame_names[frame] if video.frame_names else f"{frame:06d}.png",
        "width": video.width_px,
        "height": video.height_px,
        "video_id": 1,
        "frame": frame,
        **({"pts": video.pts[frame]} if video.pts else {}),
    }


def _annotation(label: Label, number: int, category: int) -> dict[str, Any]:
    shape = label.shape
    native = label_to_dict(label)
    assert shape is not None
    around = bounds(shape)
    attributes = {key: native[key] for key in OWN_ATTRIBUTES if key in native}
    return {
        "id": number,
        "image_id": label.frame + 1,
        "category_id": category,
        "track_id": _track_number(label.track),
        "bbox": [around.x1, around.y1, around.width_px, around.height_px] if around else [0, 0, 0, 0],
        "area": area_px(shape),
        "segmentation": _segmentation(shape),
        "iscrowd": 0,
        "attributes": attributes,
    }


def _segmentation(shape: Shape) -> object:
    match shape:
        case Box():
            return []
        case Polygon():
            return [[v for point in shape.points for v in point]]
        case Mask():
            return shape_to_dict(shape)["mask"]
        case _:
            assert_never(shape)


def _track_number(track: str) -> int | str:
    """A number where the track is written as one, since most tools expect that; the text as it is otherwise."""
    return int(track) if re.fullmatch(r"0|[1-9][0-9]{0,14}", track) else track


# --- reading ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Image:
    """An entry of ``images``: its frame, and its size as ``(height, width)`` where that is known."""

    frame: int
    size: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class _Context:
    """What the annotations of a file are read with."""

    images: Mapping[int | str, _Image]
    categories: Mapping[int | str, str]
    is_ours: bool
    options: FormatOptions


def _read(path: Path, video: VideoInfo | None, options: FormatOptions) -> list[tuple[str, AnyLabel]]:
    """COCO instances, ours or another tool's, in order of frames; docs/reference/label-format.md has the rules."""
    document = _load(path)
    is_ours = isinstance(document.get(EXTENSION), dict)
    annotations = _entries(document, "annotations", required=True)
    images = _read_images(document, video, options, is_ours)
    categories = _read_categories(document, {_hashable(entry.get("category_id")) for entry in annotations}, options)
    context = _Context(images, categories, is_ours, options)
    labels: list[tuple[str, AnyLabel]] = []
    nameless: list[tuple[str, Label]] = []
    for index, entry in enumerate(annotations):
        where = f"annotations[{index}]"
        try:
            label, has_track = _read_annotation(entry, context, where)
        except InvalidInput as error:
            raise relocated(error, where) from None
        if has_track:
            labels.append((where, label))
        else:
            nameless.append((where, label))
    labels += _name_tracks(nameless)
    labels += _read_extension(document)
    return sorted(labels, key=lambda found: found[1].frame)


def _load(path: Path) -> Mapping[str, Any]:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_COCO_BYTES + 1)
    except (OSError, ValueError) as error:
        raise InvalidInput("file", str(path), f"a file that can be read ({error})") from None
    if len(raw) > MAX_COCO_BYTES:
        raise InvalidInput("file", str(path), f"at most {MAX_COCO_BYTES} bytes")
    text = decode_utf8(raw.removeprefix(b"\xef\xbb\xbf"), "file")
    try:
        document = parse_json(text, "file")
    except InvalidInput as error:
        if "Extra data" in error.allowed:
            raise InvalidInput("file", path.name, "one JSON document (COCO); name JSON Lines .jsonl") from None
        raise
    if not isinstance(document, dict):
        raise InvalidInput("file", document, "a COCO object with images, annotations and categories")
    return document


def _entries(document: Mapping[str, Any], key: str, *, required: bool) -> list[Mapping[str, Any]]:
    """A top-level list of objects."""
    if document.get(key) is None and not required:
        return []
    entries = document.get(key)
    if not isinstance(entries, list):
        raise InvalidInput(key, "nothing" if entries is None else entries, "a list: COCO files have it")
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise InvalidInput(f"{key}[{index}]", entry, "an object")
    return entries


def _identifier(entry: Mapping[str, Any], key: str) -> int | str:
    value = entry.get(key)
    if type(value) is float and value.is_integer():
        value = int(value)  # JSON has one kind of number, and some tools write 7.0
    if type(value) is int or isinstance(value, str):
        return value
    raise InvalidInput(key, "nothing" if value is None else value, "a number or a string")


def _hashable(value: object) -> int | str | None:
    return value if isinstance(value, (int, str)) else None


def _read_images(
    document: Mapping[str, Any], video: VideoInfo | None, options: FormatOptions, is_ours: bool
) -> dict[int | str, _Image]:
    videos = _entries(document, "videos", required=False)
    if len(videos) > 1:
        raise InvalidInput("videos", f"{len(videos)} videos", "the labels of one video a file")
    video_size = (video.height_px, video.width_px) if video else None
    sizes: dict[int | str, tuple[str, tuple[int, int] | None]] = {}
    entries: dict[str, Mapping[str, Any]] = {}
    for index, given in enumerate(_entries(document, "images", required=True)):
        where = f"images[{index}]"
        try:
            entry = options.without_nulls(given, (*FRAME_FIELDS, "file_name", "width", "height"), where)
            identifier = _identifier(entry, "id")
            if identifier in sizes:
                raise InvalidInput("id", identifier, "each image id once")
            sizes[identifier] = (where, _image_size(entry, video_size))
        except InvalidInput as error:
            raise relocated(error, where) from None
        entries[where] = entry
    frames = _image_frames(entries, video, options, is_ours)
    at_frame: dict[int, str] = {}
    for where, frame in frames.items():
        before = at_frame.setdefault(frame, where)
        if before != where:
            raise InvalidInput(f"{where}: frame", frame, f"one image a frame; {before} has this one already")
    return {identifier: _Image(frames[where], size) for identifier, (where, size) in sizes.items()}


def _image_frames(
    entries: Mapping[str, Mapping[str, Any]], video: VideoInfo | None, options: FormatOptions, is_ours: bool
) -> dict[str, int]:
    """The frame of every image, in their order: by its field, else by the picture's name, else by a number in that."""
    find = frames_by_name(video.frame_names) if video and video.frame_names else None
    frames: dict[str, int | None] = {}
    numbered: dict[str, str] = {}
    for where, entry in entries.items():
        try:
            frame = frames[where] = _frame_field(entry)
            if frame is None and not isinstance(entry.get("file_name"), str):
                got = entry.get("file_name", "nothing")
                raise InvalidInput("file_name", got, 'a name that says which frame it is, or a field "frame"')
            if find and not (is_ours and frame is not None):
                frames[where] = _picture_frame(entry, frame, find, video)
            elif frame is None:
                if video and video.is_folder:
                    allowed = 'the folder of pictures itself as the video, to look up the name, or a field "frame"'
                    raise InvalidInput("file_name", entry["file_name"], allowed)
                numbered[where] = entry["file_name"]
        except InvalidInput as error:
            raise relocated(error, where) from None
    by_number = frames_by_number(numbered, options.first_frame)
    if by_number and options.first_frame is None and 0 not in by_number.values():
        first = next(iter(by_number))
        options.warn(
            f"frames are counted from 0: {numbered[first]!r} is taken as frame {by_number[first]}. No picture has the "
            "number 0: if the first frame is number 1, as ffmpeg counts, set the option first_frame to 1, else to 0"
        )
    return {where: by_number[where] if frame is None else frame for where, frame in frames.items()}


def _frame_field(entry: Mapping[str, Any]) -> int | None:
    for key in FRAME_FIELDS:
        if key in entry:
            value = entry[key]
            if type(value) is not int or value < 0:
                raise InvalidInput(key, value, "an integer >= 0: the index of the frame, from 0")
            return value
    return None


def _picture_frame(
    entry: Mapping[str, Any], frame: int | None, find: Callable[[str], int | None], video: VideoInfo | None
) -> int:
    """The frame of an image of a folder; its field and its name have to agree where both say one."""
    assert video is not None
    names = video.frame_names
    file_name = entry.get("file_name")
    found = find(file_name) if isinstance(file_name, str) else None
    if frame is None and found is None:
        allowed = f'a picture of the folder ({names[0]} to {names[-1]}), or a field "frame"'
        raise InvalidInput("file_name", file_name, allowed)
    if frame is not None and found is not None and frame != found:
        allowed = f"the name of frame {frame}, as another field of the image says; {names[found]} is frame {found}"
        raise InvalidInput("file_name", file_name, allowed)
    return found if frame is None or found is not None else frame  # type: ignore[return-value]


def _image_size(entry: Mapping[str, Any], video_size: tuple[int, int] | None) -> tuple[int, int] | None:
    """``(height, width)``, from the image or else the video; they have to agree."""
    size = []
    for axis, key in enumerate(("height", "width")):
        value = entry.get(key)
        if value is None:
            return video_size
        if type(value) is not int or value < 1:
            raise InvalidInput(key, value, "an integer >= 1")
        if video_size is not None and value != video_size[axis]:
            raise InvalidInput(key, value, f"{video_size[axis]}, the {key} of the video")
        size.append(value)
    if size[0] * size[1] > MAX_MASK_PIXELS:
        raise InvalidInput("height", size, f"at most {MAX_MASK_PIXELS} pixels")
    return size[0], size[1]


def _read_categories(
    document: Mapping[str, Any], used: Collection[int | str | None], options: FormatOptions
) -> dict[int | str, str]:
    """Names of categories by their ids. What is wrong with one that no annotation uses changes no label."""
    categories: dict[int | str, str] = {}
    entries = list(enumerate(_entries(document, "categories", required=True)))
    for index, entry in sorted(entries, key=lambda item: _hashable(item[1].get("id")) not in used):
        where = f"categories[{index}]"
        try:
            identifier, name = _identifier(entry, "id"), entry.get("name")
            if not isinstance(name, str):
                raise InvalidInput("name", "nothing" if name is None else name, "a string")
            if categories.get(identifier) == name:
                error = InvalidInput("id", identifier, "each category once")
                options.repair("categories that stand twice, taken once", error, where)
            elif identifier in categories or name in categories.values():
                raise InvalidInput("id", f"{identifier} ({name!r})", "each id and each name once")
            categories[identifier] = name
        except InvalidInput as error:
            if options.strict or _hashable(entry.get("id")) in categories or _hashable(entry.get("id")) in used:
                raise relocated(error, where) from None
            options.repair("categories that no annotation uses, left aside", error, where)
    return categories


def _read_annotation(given: Mapping[str, Any], context: _Context, where: str) -> tuple[Label, bool]:
    """The label of one annotation, and whether it names its track."""
    options = context.options
    entry = options.without_nulls(given, ("bbox", "segmentation", "iscrowd", "attributes", *TRACK_FIELDS), where)
    image_id, category_id = _identifier(entry, "image_id"), _identifier(entry, "category_id")
    if image_id not in context.images:
        raise InvalidInput("image_id", image_id, "the id of an entry of images")
    if category_id not in context.categories:
        raise InvalidInput("category_id", category_id, "the id of an entry of categories")
    if entry.get("iscrowd", 0) not in (0, 1):
        raise InvalidInput("iscrowd", entry["iscrowd"], "0 or 1")
    attributes = entry.get("attributes", {})
    if not isinstance(attributes, dict):
        raise InvalidInput("attributes", attributes, "an object")
    image = context.images[image_id]
    said = _read_attributes(attributes, context, where)
    shape = _read_shape(entry, image.size, options, where)
    if said.rotation_degrees and isinstance(shape, Box):
        shape = _rotated(shape, said.rotation_degrees, image.size, options, where)
    track = _read_track(entry)
    track = said.track if track is None else track
    # The other fields are read by the native reader, so that both formats allow the same.
    native = {"frame": image.frame, "track": track or "?", "class": context.categories[category_id], **said.native}
    label = label_from_dict(native | shape_to_dict(shape))
    assert isinstance(label, Label)
    return label, track is not None


@dataclass(frozen=True, slots=True)
class _Attributes:
    """What the attributes of an annotation say."""

    native: Mapping[str, Any]
    """``state``, and where they are there ``confidence`` and ``provenance``, as in a native line."""

    track: str | None
    rotation_degrees: float


def _read_attributes(given: Mapping[str, Any], context: _Context, where: str) -> _Attributes:
    """Those that labels have. Any other is left aside, and so is one with our name and another tool's meaning."""
    options = context.options
    known = (*OWN_ATTRIBUTES, *TRACK_FIELDS, "occluded", "rotation")
    attributes = options.without_nulls(given, known, where, "attributes.")
    occluded = _truth(attributes.get("occluded", False))
    rotation = _degrees(attributes.get("rotation", 0))
    foreign = [key for key in attributes if key not in (*known, "keyframe")]
    foreign += [key for key, value in (("occluded", occluded), ("rotation", rotation)) if value is None]
    track = None
    for key in TRACK_FIELDS:
        if key in attributes and track is None:
            try:
                track = _read_track({key: attributes[key]})
            except InvalidInput:
                if context.is_ours or options.strict:
                    raise
                foreign.append(key)
    native: dict[str, Any] = {"state": (State.OCCLUDED if occluded else State.VISIBLE).value}
    for key in OWN_ATTRIBUTES:
        if key not in attributes:
            continue
        try:
            label_from_dict({**_ANY_LABEL, **native, key: attributes[key]})
        except InvalidInput:
            if context.is_ours or options.strict:
                raise
            foreign.append(key)
        else:
            native[key] = attributes[key]
    for key in foreign:
        options.repairs.add("attributes that labels do not have, left aside", f"{where}: attributes.{key}")
    return _Attributes(native, track, rotation or 0.0)


def _truth(value: object) -> bool | None:
    """True or false, also as 0, 1 or text; None for anything else."""
    words = {"true": True, "false": False}
    if isinstance(value, str):
        return words.get(value.lower())
    return bool(value) if value in (0, 1) else None


def _degrees(value: object) -> float | None:
    """An angle of 0 or more and below 360, also of text; None for anything else."""
    try:
        angle = float(value) if isinstance(value, str) else value
    except ValueError:
        return None
    return float(angle) % 360 if is_number(angle) else None  # type: ignore[arg-type]


def _rotated(
    box: Box, degrees: float, size: tuple[int, int] | None, options: FormatOptions, where: str
) -> Polygon | Box:
    """A box turned clockwise about its middle, of which only what is in the picture counts."""
    x, y, turn = (box.x1 + box.x2) / 2, (box.y1 + box.y2) / 2, math.radians(degrees)
    cos, sin = round(math.cos(turn), 15), round(math.sin(turn), 15)
    half_width, half_height = box.width_px / 2, box.height_px / 2
    corners = [(sx * half_width, sy * half_height) for sx, sy in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    points = [(x + u * cos - v * sin, y + u * sin + v * cos) for u, v in corners]
    if size is not None:
        inside = _cut(points, size)
        far = [max(-u, -v, u - size[1], v - size[0]) for u, v in points]
        if len(inside) >= 3 and max(far) > EDGE_TOLERANCE_PX:
            error = InvalidInput("attributes.rotation", degrees, "a rotated box that lies in the picture")
            options.repair("rotated boxes that reach over the edge, cut to the picture", error, where)
            points = inside
    polygon = Polygon(tuple(points))
    return (bounds(polygon) or box) if options.rotated_as_boxes else polygon


def _cut(points: list[tuple[float, float]], size: tuple[int, int]) -> list[tuple[float, float]]:
    """A convex ring cut along the four edges of a picture of ``(height, width)``, one after the other."""
    for axis, edge, inward in ((0, 0, 1), (1, 0, 1), (0, size[1], -1), (1, size[0], -1)):
        kept = []
        for one, other in zip(points, points[1:] + points[:1], strict=True):
            here, there = inward * (one[axis] - edge), inward * (other[axis] - edge)
            if here >= 0:
                kept.append(one)
            if (here > 0 > there) or (here < 0 < there):
                share = here / (here - there)
                kept.append((one[0] + share * (other[0] - one[0]), one[1] + share * (other[1] - one[1])))
        points = kept
    return points


def _read_track(source: Mapping[str, Any]) -> str | None:
    """The id of the track that an annotation or (as CVAT writes it) its attributes name."""
    for key in TRACK_FIELDS:
        if key in source:
            value = _identifier(source, key)
            if value == "":
                raise InvalidInput(key, value, "a number or a string that is not empty")
            return str(value)
    return None


def _read_shape(entry: Mapping[str, Any], size: tuple[int, int] | None, options: FormatOptions, where: str) -> Shape:
    segmentation = entry.get("segmentation", [])
    if isinstance(segmentation, dict) and segmentation:
        return _read_rle(segmentation)
    if isinstance(segmentation, list) and segmentation:
        rings = _whole_rings(segmentation, entry, options, where)
        if rings:
            return _read_rings(rings, size)
    elif segmentation not in ([], {}):
        raise InvalidInput("segmentation", segmentation, "a list of polygons or an RLE object")
    if "bbox" not in entry:
        raise InvalidInput("bbox", "nothing", "a bbox or a segmentation")
    return _read_box(entry)


def _read_box(entry: Mapping[str, Any]) -> Box:
    x, y, width, height = numbers(entry["bbox"], "bbox", 4, "four numbers [x, y, width, height]")
    if width <= 0 or height <= 0:
        raise InvalidInput("bbox", entry["bbox"], "a width and a height above 0")
    return Box(x, y, _far_edge(x, width, "bbox[2]"), _far_edge(y, height, "bbox[3]"))


def _whole_rings(
    given: list[Any], entry: Mapping[str, Any], options: FormatOptions, where: str
) -> dict[str, list[Any]]:
    """The rings that enclose something, by their names; none where the box has to say what the object is.

    A ring that covers nothing beside others, or inside of the box, changes no pixel.
    """
    if all(is_number(value) for value in given):
        error = InvalidInput("segmentation", f"{len(given)} numbers", "a list of polygons")
        options.repair("polygons that are not in a list, taken as one", error, where)
        given = [given]
    rings = {f"segmentation[{index}]": ring for index, ring in enumerate(given)}
    whole = {name: ring for name, ring in rings.items() if not _covers_nothing(ring)}
    box = _read_box(entry) if not whole and "bbox" in entry else None
    for name, ring in rings.items():
        if name not in whole:
            error = InvalidInput(name, f"{len(ring)} values", RING_VALUES)
            if not whole and (box is None or not _holds(box, ring)):
                raise error
            options.repair("parts of a segmentation that cover nothing, left out", error, where)
    return whole


def _covers_nothing(ring: object) -> bool:
    """Whether it is a list of points, however few, on one line."""
    if not isinstance(ring, list) or len(ring) % 2 or len(ring) > 2 * MAX_POLYGON_VERTICES:
        return False
    if not all(is_number(value) for value in ring):
        return False
    points = list(zip(ring[::2], ring[1::2], strict=True))
    return len(points) < 3 or _on_one_line(points)


def _on_one_line(points: Sequence[tuple[float, float]]) -> bool:
    (x0, y0) = points[0]
    x1, y1 = max(points, key=lambda p: (p[0] - x0) ** 2 + (p[1] - y0) ** 2)
    return all((x1 - x0) * (y - y0) == (y1 - y0) * (x - x0) for x, y in points)


def _holds(box: Box, ring: Sequence[float]) -> bool:
    """Whether all points of a flat ring lie in the box, or at most `EDGE_TOLERANCE_PX` outside."""
    slack = EDGE_TOLERANCE_PX
    xs, ys = ring[::2], ring[1::2]
    return all(box.x1 - slack <= x <= box.x2 + slack for x in xs) and all(
        box.y1 - slack <= y <= box.y2 + slack for y in ys
    )


def _far_edge(start: float, length: float, name: str) -> float:
    edge = start + length
    if not is_number(edge) or edge <= start:
        raise InvalidInput(name, length, "a length that a number of this size can be told apart with")
    return edge


def _read_rings(rings: Mapping[str, list[Any]], size: tuple[int, int] | None) -> Shape:
    """One ring is a polygon; several are one object in parts, kept as the mask that they cover."""
    polygons = {}
    for name, flat in rings.items():
        if not isinstance(flat, list) or len(flat) % 2 or not 6 <= len(flat) <= 2 * MAX_POLYGON_VERTICES:
            raise InvalidInput(name, f"{len(flat)} values" if isinstance(flat, list) else flat, RING_VALUES)
        numbers(flat, name, len(flat), RING_VALUES)
        polygons[name] = Polygon(tuple(zip(flat[::2], flat[1::2], strict=True)))
    if len(polygons) == 1:
        return next(iter(polygons.values()))
    if size is None:
        raise InvalidInput("segmentation", f"{len(rings)} rings", "one ring where the image gives no width and height")
    return _merge(polygons, size)


def _merge(polygons: Mapping[str, Polygon], size: tuple[int, int]) -> Mask:
    from pycocotools import mask as coco_mask

    for name, polygon in polygons.items():
        if find_crossing(polygon.points) is not None:
            raise InvalidInput(name, "sides that cross", "rings whose sides do not cross")
    rle = coco_mask.merge([to_rle(polygon, size) for polygon in polygons.values()])
    return Mask(size[0], size[1], rle["counts"].decode("ascii"))


def _read_rle(entry: Mapping[str, Any]) -> Mask:
    """Compressed (a string) or uncompressed (a list of run lengths, background first)."""
    height, width = mask_size(entry.get("size"), "segmentation.size")
    counts = entry.get("counts")
    if isinstance(counts, str):
        return Mask(height, width, counts)
    allowed = "compressed RLE, or a list of run lengths that add up to height x width"
    if not isinstance(counts, list) or not all(type(run) is int and run >= 0 for run in counts):
        raise InvalidInput("segmentation.counts", "nothing" if counts is None else counts, allowed)
    if not 1 <= height * width <= MAX_MASK_PIXELS or min(height, width) < 1 or sum(counts) != height * width:
        raise InvalidInput("segmentation.counts", f"runs of {sum(counts)} pixels", allowed)
    from pycocotools import mask as coco_mask

    rle = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return Mask(height, width, rle["counts"].decode("ascii"))


def _name_tracks(labels: list[tuple[str, Label]]) -> list[tuple[str, AnyLabel]]:
    """Give tracks to annotations that name none; refused where that would be a guess at who is who.

    A class with at most one such annotation a frame is one track, named as the class. Several on a single frame of the
    file are tracks of their own, ``class-1`` and so on in order.
    """
    per_frame = Counter((label.object_class, label.frame) for _, label in labels)
    frames: dict[str, set[int]] = defaultdict(set)
    for name, frame in per_frame:
        frames[name].add(frame)
    numbered: Counter[str] = Counter()
    named: list[tuple[str, AnyLabel]] = []
    for where, label in labels:
        name = label.object_class
        if per_frame[name, label.frame] == 1 and all(per_frame[name, frame] == 1 for frame in frames[name]):
            named.append((where, replace(label, track=name)))
            continue
        if len(frames[name]) > 1:
            allowed = f"a track id: class {name!r} is on {len(frames[name])} frames, on some of them several times"
            raise InvalidInput(f"{where}: track_id", "nothing", allowed)
        numbered[name] += 1
        named.append((where, replace(label, track=f"{name}-{numbered[name]}")))
    return named


def _read_extension(document: Mapping[str, Any]) -> list[tuple[str, AnyLabel]]:
    extension = document.get(EXTENSION)
    if extension is None:
        return []
    if not isinstance(extension, dict) or extension.get("format") != 1:
        raise InvalidInput(EXTENSION, extension, 'an object with "format": 1 and "labels"')
    entries = _entries(extension, "labels", required=True)
    places = [f"{EXTENSION}.labels[{index}]" for index in range(len(entries))]
    return [(where, label_from_dict(entry, where)) for where, entry in zip(places, entries, strict=True)]


def _looks_like_coco(path: Path) -> bool:
    """Whether the beginning or the end of a file has a list of images or of categories."""
    try:
        with path.open("rb") as file:
            head = file.read(SNIFFED_BYTES)
            file.seek(max(0, os.fstat(file.fileno()).st_size - SNIFFED_BYTES))
            ends = head + file.read(SNIFFED_BYTES)
    except OSError:
        return False
    return re.search(rb'"(?:images|categories)"\s*:\s*\[', ends) is not None


FORMAT = LabelFormat(
    name="coco",
    title="COCO instances",
    file_name="coco.json",
    extension=".json",
    keeps=frozenset(LabelPart),
    loses="Other programs do not see absent objects, objects without a shape or frame classes; reading it here does.",
    read=_read,
    write=_write,
    sniff=_looks_like_coco,
)
