"""COCO instances JSON, with the fields that COCO has no place for put where other tools leave them alone."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, assert_never

from micromodels.errors import InvalidInput
from micromodels.labels.formats import FormatOptions, LabelFormat, LabelPart, known_video
from micromodels.labels.geometry import area_px, bounds, to_rle
from micromodels.labels.label_json import label_from_dict, label_to_dict, mask_size, shape_to_dict
from micromodels.labels.strict_json import decode_utf8, is_number, numbers, parse_json, to_json
from micromodels.labels.validation import find_crossing, relocated
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
    attributes = {key: native[key] for key in ("state", "confidence", "provenance") if key in native}
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
    """An entry of ``images``: its frame, and its size as ``(height, width)`` where it says so."""

    frame: int
    size: tuple[int, int] | None


def _read(path: Path, video: VideoInfo | None, options: FormatOptions) -> list[tuple[str, AnyLabel]]:
    """COCO instances, ours or another tool's, in order of frames; docs/reference/label-format.md has the rules."""
    document = _load(path)
    video_size = (video.height_px, video.width_px) if video else None
    frame_names = video.frame_names if video else ()
    images = _read_images(document, video_size, {name: i for i, name in enumerate(frame_names)})
    categories = _read_categories(document)
    labels: list[tuple[str, AnyLabel]] = []
    nameless: list[tuple[str, Label]] = []
    for index, entry in enumerate(_entries(document, "annotations", required=True)):
        where = f"annotations[{index}]"
        try:
            label, has_track = _read_annotation(entry, images, categories, video_size)
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
    if key not in document and not required:
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
    if type(value) is int or isinstance(value, str):
        return value
    raise InvalidInput(key, "nothing" if value is None else value, "a number or a string")


def _read_images(
    document: Mapping[str, Any], video_size: tuple[int, int] | None, frame_of_name: Mapping[str, int]
) -> dict[int | str, _Image]:
    videos = _entries(document, "videos", required=False)
    if len(videos) > 1:
        raise InvalidInput("videos", f"{len(videos)} videos", "the labels of one video a file")
    images: dict[int | str, _Image] = {}
    at_frame: dict[int, str] = {}
    for index, entry in enumerate(_entries(document, "images", required=True)):
        where = f"images[{index}]"
        try:
            identifier = _identifier(entry, "id")
            if identifier in images:
                raise InvalidInput("id", identifier, "each image id once")
            image = _Image(_image_frame(entry, frame_of_name), _image_size(entry, video_size))
            before = at_frame.setdefault(image.frame, where)
            if before != where:
                raise InvalidInput("frame", image.frame, f"one image a frame; {before} has this one already")
        except InvalidInput as error:
            raise relocated(error, where) from None
        images[identifier] = image
    return images


def _image_frame(entry: Mapping[str, Any], frame_of_name: Mapping[str, int]) -> int:
    for key in FRAME_FIELDS:
        if key in entry:
            value = entry[key]
            if type(value) is not int or value < 0:
                raise InvalidInput(key, value, "an integer >= 0: the index of the frame, from 0")
            return value
    file_name = entry.get("file_name")
    if isinstance(file_name, str):
        name = PurePosixPath(file_name.replace("\\", "/"))
        if name.name in frame_of_name:
            return frame_of_name[name.name]
        digits = re.search(r"[0-9]{1,12}$", name.stem)
        if digits:
            return int(digits.group())
    got = "nothing" if file_name is None else file_name
    raise InvalidInput("file_name", got, 'a name that ends in the frame index, or a field "frame"')


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


def _read_categories(document: Mapping[str, Any]) -> dict[int | str, str]:
    categories: dict[int | str, str] = {}
    for index, entry in enumerate(_entries(document, "categories", required=True)):
        try:
            identifier = _identifier(entry, "id")
            name = entry.get("name")
            if not isinstance(name, str):
                raise InvalidInput("name", "nothing" if name is None else name, "a string")
            if identifier in categories or name in categories.values():
                raise InvalidInput("id", f"{identifier} ({name!r})", "each id and each name once")
            categories[identifier] = name
        except InvalidInput as error:
            raise relocated(error, f"categories[{index}]") from None
    return categories


def _read_annotation(
    entry: Mapping[str, Any],
    images: Mapping[int | str, _Image],
    categories: Mapping[int | str, str],
    video_size: tuple[int, int] | None,
) -> tuple[Label, bool]:
    """The label of one annotation, and whether it names its track."""
    image_id, category_id = _identifier(entry, "image_id"), _identifier(entry, "category_id")
    if image_id not in images:
        raise InvalidInput("image_id", image_id, "the id of an entry of images")
    if category_id not in categories:
        raise InvalidInput("category_id", category_id, "the id of an entry of categories")
    if entry.get("iscrowd", 0) not in (0, 1):
        raise InvalidInput("iscrowd", entry["iscrowd"], "0 or 1")
    attributes = entry.get("attributes", {})
    if not isinstance(attributes, dict):
        raise InvalidInput("attributes", attributes, "an object")
    image = images[image_id]
    shape = _read_shape(entry, image.size or video_size)
    track = _read_track(entry, attributes)
    # The other fields are read by the native reader, so that both formats allow the same.
    state = State.OCCLUDED if attributes.get("occluded") is True else State.VISIBLE
    native = {"frame": image.frame, "track": track or "?", "class": categories[category_id], "state": state.value}
    native.update({key: attributes[key] for key in ("state", "confidence", "provenance") if key in attributes})
    native.update(shape_to_dict(shape))
    label = label_from_dict(native)
    assert isinstance(label, Label)
    return label, track is not None


def _read_track(entry: Mapping[str, Any], attributes: Mapping[str, Any]) -> str | None:
    """The track's id, from the annotation or (as CVAT writes it) its attributes."""
    for source in (entry, attributes):
        for key in TRACK_FIELDS:
            if source.get(key) is not None:
                value = _identifier(source, key)
                if value == "":
                    raise InvalidInput(key, value, "a number or a string that is not empty")
                return str(value)
    return None


def _read_shape(entry: Mapping[str, Any], size: tuple[int, int] | None) -> Shape:
    segmentation = entry.get("segmentation")
    if isinstance(segmentation, dict):
        return _read_rle(segmentation)
    if isinstance(segmentation, list) and segmentation:
        return _read_rings(segmentation, size)
    if segmentation not in (None, []):
        raise InvalidInput("segmentation", segmentation, "a list of polygons or an RLE object")
    if "bbox" not in entry:
        raise InvalidInput("bbox", "nothing", "a bbox or a segmentation")
    x, y, width, height = numbers(entry["bbox"], "bbox", 4, "four numbers [x, y, width, height]")
    if width <= 0 or height <= 0:
        raise InvalidInput("bbox", entry["bbox"], "a width and a height above 0")
    return Box(x, y, _far_edge(x, width, "bbox[2]"), _far_edge(y, height, "bbox[3]"))


def _far_edge(start: float, length: float, name: str) -> float:
    edge = start + length
    if not is_number(edge) or edge <= start:
        raise InvalidInput(name, length, "a length that a number of this size can be told apart with")
    return edge


def _read_rings(rings: list[Any], size: tuple[int, int] | None) -> Shape:
    """One ring is a polygon; several are one object in parts, kept as the mask that they cover."""
    polygons = []
    for index, flat in enumerate(rings):
        name = f"segmentation[{index}]"
        allowed = f"3 to {MAX_POLYGON_VERTICES} points as a flat list [x1, y1, x2, y2, ...]"
        if not isinstance(flat, list) or len(flat) % 2 or not 6 <= len(flat) <= 2 * MAX_POLYGON_VERTICES:
            got = f"{len(flat)} values" if isinstance(flat, list) else flat
            raise InvalidInput(name, got, allowed)
        numbers(flat, name, len(flat), allowed)
        polygons.append(Polygon(tuple(zip(flat[::2], flat[1::2], strict=True))))
    if len(polygons) == 1:
        return polygons[0]
    if size is None:
        raise InvalidInput("segmentation", f"{len(rings)} rings", "one ring where the image gives no width and height")
    return _merge(polygons, size)


def _merge(polygons: Sequence[Polygon], size: tuple[int, int]) -> Mask:
    from pycocotools import mask as coco_mask

    for index, polygon in enumerate(polygons):
        if find_crossing(polygon.points) is not None:
            raise InvalidInput(f"segmentation[{index}]", "sides that cross", "rings whose sides do not cross")
    rle = coco_mask.merge([to_rle(polygon, size) for polygon in polygons])
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
