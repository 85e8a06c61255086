"""Every parser of bytes from outside, with inputs that are nearly right: only errors of our own may come out.

``scripts/fuzz`` runs them for as long as one likes, the tests for a moment.
"""

from __future__ import annotations

import copy
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pool, json_format, message_factory
from google.protobuf.message import DecodeError, Message
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from micromodels.client.messages import label_from_message, label_to_message
from micromodels.errors import MicromodelsError
from micromodels.labels.files import read_labels
from micromodels.labels.geometry import to_mask
from micromodels.labels.label_json import label_to_dict
from micromodels.labels.validation import check_anchor, check_fits_video, find_crossing
from micromodels.labels.video_info import VideoInfo
from micromodels.recipes.manifest import MANIFEST_FILE, Manifest
from micromodels.types import Box, FrameLabel, Label, Mask, Polygon, State
from micromodels.v1 import label_pb2
from micromodels.video.table import FrameTable
from service.api import SERVICES
from service.api.page_tokens import decode_token, encode_token
from service.store.deletion_receipts import RECEIPT, read_receipts
from service.web.gateway import parse_body

__all__ = ["TARGETS", "fuzz"]

VIDEO = VideoInfo(10, 64, 48)
LABELS = [
    Label(1, "1", "polyp", State.VISIBLE, Box(1, 2, 30, 40)),
    Label(2, "1", "polyp", State.VISIBLE, Polygon(((1.0, 1.0), (20.5, 2.0), (9.0, 30.0)))),
    Label(3, "2", "polyp", State.ABSENT),
    FrameLabel(4, "tool", True),
]
COCO = {
    "images": [{"id": 1, "file_name": "000001.png", "width": 64, "height": 48, "frame_index": 1}],
    "annotations": [
        {
            "id": 1,
            "image_id": 1,
            "category_id": 1,
            "bbox": [1, 2, 10, 10],
            "segmentation": [[1, 2, 11, 2, 11, 12]],
            "iscrowd": 0,
            "area": 50,
            "attributes": {"track_id": "1"},
        },
        {"id": 2, "image_id": 1, "category_id": 1, "segmentation": {"size": [48, 64], "counts": "PPYo1"}, "iscrowd": 1},
    ],
    "categories": [{"id": 1, "name": "polyp"}],
}
TABLE = {
    "version": 1,
    "pts": [0, 1, 2],
    "time_base": "1/25",
    "width_px": 64,
    "height_px": 48,
    "rotation_degrees": 0,
    "mirrored": False,
    "codec": "h264",
    "container": "mp4",
    "bit_depth": 8,
    "white_level": None,
    "content_hash": "0" * 64,
    "pixel_hashes": {"0": "0" * 16},
    "fingerprints": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    "keyframes": [0],
    "decoder": "x",
    "warnings": [],
}
NASTY = [None, True, -1, 0, 0.5, 1e308, -1e308, float("nan"), float("inf"), 2**31, 2**63, 2**200, "", "\0", "é\udcff"]
NASTY += [
    "1/0",
    "9" * 400,
    "a" * 300,
    [],
    {},
    [[]],
    [[[]]],
    [None],
    {"": None},
    [0, 0],
    [1e308] * 6,
    "PPYo1",
    "visible",
]

json_values = st.recursive(
    st.sampled_from(NASTY) | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
).map(copy.deepcopy)  # what is drawn is changed afterwards


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a JSON value."""
    found: list[tuple[Any, Any]] = []
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        found.append((value, key))
        if isinstance(inner, (dict, list)):
            found += _places(inner)
    return found


@st.composite
def nearly(draw: st.DrawFn, template: Any) -> Any:
    """The template with up to three values replaced, removed or added."""
    value = json.loads(json.dumps(template))
    for _ in range(draw(st.integers(0, 3))):
        places = _places(value)
        if not places:
            break
        container, key = draw(st.sampled_from(range(len(places))).map(places.__getitem__))
        action = draw(st.integers(0, 3))
        if action == 0:
            del container[key]
        elif action == 1 and isinstance(container, dict):
            container[draw(st.text(max_size=8))] = draw(json_values)
        else:
            container[key] = draw(json_values)
    return value


@st.composite
def spoilt(draw: st.DrawFn, inputs: st.SearchStrategy[bytes]) -> bytes:
    """Bytes with some replaced, removed or cut off, at times."""
    data = bytearray(draw(inputs))
    for _ in range(draw(st.integers(0, 3))):
        if data:
            place = draw(st.integers(0, len(data) - 1))
            if draw(st.booleans()):
                data[place] = draw(st.integers(0, 255))
            else:
                del data[place : place + draw(st.integers(1, 9))]
    return bytes(data)


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


_FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-"))


def label_lines(data: bytes) -> None:
    """Native JSON Lines."""
    path = _FOLDER / "labels.jsonl"
    path.write_bytes(data)
    read_labels(path, video=VIDEO)


def coco(data: bytes) -> None:
    """COCO JSON."""
    path = _FOLDER / "coco.json"
    path.write_bytes(data)
    read_labels(path, video=VIDEO)


def polygon(points: list[tuple[float, float]]) -> None:
    """Polygons: made, checked, painted."""
    made = Polygon(tuple(points))
    label = Label(1, "1", "polyp", State.VISIBLE, made)
    find_crossing(made.points)
    check_fits_video(label, VIDEO)
    check_anchor(label)
    assert to_mask(made, VIDEO.height_px, VIDEO.width_px).shape == (VIDEO.height_px, VIDEO.width_px)


def rle(value: tuple[int, int, str]) -> None:
    """COCO compressed RLE, which a C library decodes."""
    mask = Mask(*value)
    array = mask.to_array()
    assert array.shape == (value[0], value[1])
    assert int(array.sum()) == mask.area_px()


def manifest(data: bytes) -> None:
    """Manifests of saved models."""
    (_FOLDER / MANIFEST_FILE).write_bytes(data)
    Manifest.load(_FOLDER)


def frame_table(value: Any) -> None:
    """Frame tables."""
    table = FrameTable.from_dict(value)
    FrameTable.from_dict(table.to_dict())


def message(data: bytes) -> None:
    """Labels over the API."""
    try:
        parsed = label_pb2.Label.FromString(data)
    except DecodeError:
        return
    check_fits_video(label_from_message(parsed), VIDEO)


def token(text: str) -> None:
    """Page and resume tokens."""
    decode_token("page_token", text, "binding")


def _example(kind: type[Message], depth: int = 4) -> Any:
    """The JSON form of a message with something in every field, nested so deep."""
    if kind.DESCRIPTOR.full_name.startswith("google.protobuf."):
        words = {"Timestamp": "2026-01-02T03:04:05.006Z", "Duration": "1.5s", "FieldMask": "a,b", "Struct": {"a": [1]}}
        return words.get(kind.DESCRIPTOR.name, {})
    made: dict[str, Any] = {}
    for field in kind.DESCRIPTOR.fields:
        entry = field.message_type
        if entry is None:
            value: Any = {field.TYPE_STRING: "a", field.TYPE_BYTES: "AQID", field.TYPE_BOOL: True}.get(field.type, 1)
        elif entry.GetOptions().map_entry:
            made[field.json_name] = {"1": 1}
            continue
        elif depth == 0:
            continue
        else:
            value = _example(message_factory.GetMessageClass(entry), depth - 1)
        made[field.json_name] = [value] if field.is_repeated else value
    return made


def _requests() -> list[type[Message]]:
    services: list[Any] = [descriptor_pool.Default().FindServiceByName(name) for name in SERVICES]
    return [message_factory.GetMessageClass(method.input_type) for service in services for method in service.methods]


REQUESTS = _requests()


def gateway(value: tuple[int, bytes]) -> None:
    """What the page posts: the JSON form of any request; what is understood has one again."""
    parsed = parse_body(value[1], REQUESTS[value[0]])
    json_format.MessageToDict(parsed)
    if isinstance(parsed, label_pb2.WriteLabelsRequest):
        for label in parsed.labels:
            check_fits_video(label_from_message(label), VIDEO)


def receipts(data: bytes) -> None:
    """Receipts of deleted videos, which a restore reads."""
    path = _FOLDER / "receipts.jsonl"
    path.write_bytes(data)
    read_receipts(path)


_ROW = {"at": "", "actor": "a", "method": RECEIPT, "resource": "projects/p/videos/v", "detail": {"labels": 1}}
_RECEIPTS = [_ROW, {**_ROW, "method": "x", "detail": "{}"}]

lines = st.lists(nearly([label_to_dict(label) for label in LABELS]).filter(lambda v: isinstance(v, list)), max_size=2)
_POLYGON_POINTS = st.lists(
    st.tuples(
        *[st.floats(allow_nan=True, allow_infinity=True) | st.floats(-10, 80) | st.integers(0, 64).map(float)] * 2
    ),
    max_size=12,
)
_MANIFEST = {name: "" for name in Manifest.__dataclass_fields__} | {
    "format": 1,
    "settings": {},
    "metrics": {},
    "libraries": {},
    "tracks": [{"track": "1", "object_class": "polyp", "shape": "mask"}],
    "frame_classes": ["tool"],
    "typical_areas": [0.1],
    "seed_frames": [1],
}

TARGETS: dict[str, tuple[st.SearchStrategy[Any], Callable[[Any], None]]] = {
    "label-lines": (
        spoilt(lines.map(lambda parts: b"\n".join(as_json(entry) for part in parts for entry in part))),
        label_lines,
    ),
    "coco": (spoilt(nearly(COCO).map(as_json)), coco),
    "polygons": (_POLYGON_POINTS, polygon),
    "rle": (
        st.tuples(
            st.integers(-2, 70) | st.sampled_from([2**20, 2**31, 2**40]),
            st.integers(-2, 70),
            st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=30) | st.text(max_size=9),
        ),
        rle,
    ),
    "manifest": (spoilt(nearly(_MANIFEST).map(as_json)), manifest),
    "frame-table": (nearly(TABLE) | json_values, frame_table),
    "messages": (
        spoilt(st.sampled_from([label_to_message(label).SerializeToString() for label in LABELS]))
        | st.binary(max_size=60),
        message,
    ),
    "gateway": (
        st.integers(0, len(REQUESTS) - 1).flatmap(
            lambda number: st.tuples(st.just(number), spoilt(nearly(_example(REQUESTS[number])).map(as_json)))
        ),
        gateway,
    ),
    "receipts": (
        spoilt(nearly(_RECEIPTS).map(lambda rows: b"".join(as_json(row) + b"\n" for row in rows))),
        receipts,
    ),
    "tokens": (
        spoilt(st.just(encode_token("binding", {"label": [1, False, "a"]}).encode())).map(lambda b: b.decode("latin-1"))
        | st.text(max_size=40),
        token,
    ),
}


def fuzz(name: str, seconds: float = 0.0, examples: int = 200) -> int:
    """Feed one target; returns how many inputs it took.

    Args:
        name: of ``TARGETS``.
        seconds: go on for at least so long.
        examples: in one round.

    Raises:
        Exception: whatever came out that should not have, with the smallest input that was found.
    """
    strategy, target = TARGETS[name]
    count = 0

    def feed(value: Any) -> None:
        nonlocal count
        count += 1
        try:
            target(value)
        except MicromodelsError as error:
            told = str(error)
            if len(told) > 10_000:
                raise AssertionError("an error should not carry the input along") from error

    round_settings = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    until = time.monotonic() + seconds
    while True:
        round_settings(given(strategy)(feed))()
        if time.monotonic() >= until:
            return count
