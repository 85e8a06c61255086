"""Label files: what the readers accept and refuse, and that what is written is read back."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import time
import tracemalloc
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from micromodels.errors import InvalidInput, OutOfRange
from micromodels.label_files import (
    SCHEMA_PATH,
    by_frame,
    find_crossing,
    iter_jsonl,
    label_from_dict,
    label_to_dict,
    read_labels,
    write_coco,
    write_jsonl,
    write_masks,
)
from micromodels.label_files.native import MAX_LINE_BYTES, parse_json
from micromodels.types import (
    MAX_POLYGON_VERTICES,
    AnyLabel,
    Box,
    FrameLabel,
    Label,
    Mask,
    ObjectClass,
    Ontology,
    Polygon,
    Provenance,
    ProvenanceKind,
    State,
)

# pycocotools 2.0.11 predates a rule of numpy 2 about __array__; nothing to do here.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SCHEMA = Draft202012Validator(json.loads(SCHEMA_PATH.read_text()))
HEIGHT, WIDTH, FRAMES = 48, 64, 30
TABLE: Any = SimpleNamespace(
    frame_count=FRAMES,
    width_px=WIDTH,
    height_px=HEIGHT,
    pts=np.arange(FRAMES, dtype=np.int64) * 512,
    time_base=Fraction(1, 12800),
    content_hash="ab" * 32,
)
MODEL = Provenance(ProvenanceKind.MODEL, "model-3")

ANN = Provenance(ProvenanceKind.HUMAN, "ann")


def disc(x: float = 20, y: float = 20, radius: float = 9) -> Mask:
    """A round mask of the video's size."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return Mask.from_array((rows - y) ** 2 + (columns - x) ** 2 < radius**2)


LABELS: list[AnyLabel] = [
    Label(0, "1", "polyp", State.VISIBLE, disc()),
    Label(0, "2", "polyp", State.VISIBLE, Box(1, 2.5, 30.25, 40)),
    FrameLabel(0, "tool_in_view", True),
    Label(3, "1", "polyp", State.OCCLUDED, Polygon(((1, 1), (20.5, 1), (20, 30.125))), 0.5, ANN),
    Label(4, "1", "polyp", State.ABSENT),
    Label(4, "2", "polyp", State.UNCERTAIN, None, 0.1, MODEL),
    Label(4, "blade é", "tool", State.VISIBLE, disc(30, 30), 1.0, Provenance(ProvenanceKind.INTERPOLATED)),
    FrameLabel(29, "tool_in_view", False, 0.25, MODEL),
]  # fmt: skip


def seed(**changes: object) -> dict[str, Any]:
    """A line that is right, with some keys changed; None takes a key out."""
    entry = {"frame": 12, "track": "1", "class": "polyp", "state": "visible", "box": [1, 2, 30, 40], **changes}
    return {key: value for key, value in entry.items() if value is not None}


def write_lines(path: Path, *entries: object) -> Path:
    """A label file of these entries; str and bytes are put in as they are."""
    lines = [e if isinstance(e, bytes) else (e if isinstance(e, str) else json.dumps(e)).encode() for e in entries]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


# --- native: what is written is read back ----------------------------------------------------------------------------


def test_native_file_round_trips_exactly(tmp_path: Path) -> None:
    """Every kind of label comes back equal, in order, and every line fits the schema."""
    path = tmp_path / "labels.jsonl"
    assert write_jsonl(path, LABELS) == len(LABELS)
    assert read_labels(path, frame_count=FRAMES, width_px=WIDTH, height_px=HEIGHT) == LABELS
    for line in path.read_text(encoding="utf-8").splitlines():
        SCHEMA.validate(json.loads(line))
    assert [p.name for p in tmp_path.iterdir()] == ["labels.jsonl"]


def test_the_line_of_the_documentation_is_what_is_written() -> None:
    """The written form is the documented one, key by key."""
    label = Label(12, "1", "polyp", State.VISIBLE, Box(1, 2, 3, 4), 0.75, MODEL)
    assert label_to_dict(label) == {
        "frame": 12,
        "track": "1",
        "class": "polyp",
        "state": "visible",
        "box": [1, 2, 3, 4],
        "confidence": 0.75,
        "provenance": {"kind": "model", "version": "model-3"},
    }


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    """The file under the name is the old one until the new one is complete, and nothing else is left behind."""
    path = tmp_path / "labels.jsonl"
    path.write_text("old")

    def failing() -> Any:
        yield LABELS[0]
        assert path.read_text() == "old"
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        write_jsonl(path, failing())
    with pytest.raises(RuntimeError, match="no more"):
        write_coco(path, failing(), TABLE)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["labels.jsonl"]


def test_the_writer_refuses_what_the_reader_would(tmp_path: Path) -> None:
    """A human label without a shape or with a name outside of Unicode is not written."""
    with pytest.raises(InvalidInput, match="label 1: shape"):
        write_jsonl(tmp_path / "a.jsonl", [Label(0, "1", "polyp", State.OCCLUDED)])
    with pytest.raises(InvalidInput, match="track"):
        label_to_dict(Label(0, "\ud800", "polyp", State.ABSENT))


def test_blank_lines_windows_ends_and_a_byte_order_mark_are_fine(tmp_path: Path) -> None:
    """What editors on other systems add does not matter."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b"\xef\xbb\xbf" + json.dumps(seed()).encode() + b"\r\n\r\n  \n" + json.dumps(seed(frame=13)).encode()
    )
    assert [label.frame for label in read_labels(path, frame_count=None)] == [12, 13]


# --- native: what is refused -----------------------------------------------------------------------------------------

BOW_TIE = [[0, 0], [10, 10], [10, 0], [0, 10]]
FLAT_BOW_TIE = [0, 0, 10, 10, 10, 0, 0, 10]
COUNTS = disc().counts
REFUSED_BY_SCHEMA_TOO: list[tuple[str, object]] = [
    ("colour", seed(colour="red")),
    ("label", [1, 2]),
    ("label", "text"),
    ("frame", seed(frame=None)),
    ("class", seed(**{"class": None})),
    ("state", seed(state=None)),
    ("track", seed(track=None)),
    ("track", seed(track=1)),
    ("track", seed(track="")),
    ("track", seed(track="a\0b")),
    ("class", seed(**{"class": "x" * 201})),
    ("frame", seed(frame=-1)),
    ("frame", seed(frame=1.5)),
    ("frame", seed(frame="12")),
    ("frame", seed(frame=True)),
    ("frame", seed(frame=10**17)),
    ("state", seed(state="gone")),
    ("state", seed(state=["visible"])),
    ("state", seed(state="absent")),
    ("shape", seed(box=None)),
    ("shape", seed(box=None, state="occluded")),
    ("shape", seed(box=None, state="uncertain", provenance={"kind": "human"})),
    ("polygon", seed(polygon=[[0, 0], [1, 0], [1, 1]])),
    ("mask", seed(mask={"size": [HEIGHT, WIDTH], "counts": COUNTS})),
    ("box", seed(box=[1, 2, 3])),
    ("box", seed(box="1,2,3,4")),
    ("box[2]", seed(box=[1, 2, "3", 4])),
    ("box[0]", seed(box=[True, 2, 3, 4])),
    ("box[1]", seed(box=[0, -(10**18), 3, 4])),
    ("polygon", seed(box=None, polygon=[[0, 0], [1, 1]])),
    ("polygon", seed(box=None, polygon=5)),
    ("polygon", seed(box=None, polygon=[[0, 0]] * (MAX_POLYGON_VERTICES + 1))),
    ("polygon[1]", seed(box=None, polygon=[[0, 0], [1, 0, 5], [1, 1]])),
    ("polygon[2][1]", seed(box=None, polygon=[[0, 0], [1, 0], [1, None]])),
    ("mask", seed(box=None, mask="abc")),
    ("mask.counts", seed(box=None, mask={"size": [HEIGHT, WIDTH]})),
    ("mask.size", seed(box=None, mask={"counts": COUNTS})),
    ("mask.size", seed(box=None, mask={"size": [HEIGHT], "counts": COUNTS})),
    ("mask.size", seed(box=None, mask={"size": [HEIGHT, 1.5], "counts": COUNTS})),
    ("mask.height_px", seed(box=None, mask={"size": [0, WIDTH], "counts": COUNTS})),
    ("mask.counts", seed(box=None, mask={"size": [HEIGHT, WIDTH], "counts": [1, 2]})),
    ("mask.counts", seed(box=None, mask={"size": [HEIGHT, WIDTH], "counts": "\u00e9"})),
    ("mask.order", seed(box=None, mask={"size": [HEIGHT, WIDTH], "counts": COUNTS, "order": "F"})),
    ("confidence", seed(confidence=1.5)),
    ("confidence", seed(confidence="high")),
    ("confidence", {**seed(), "confidence": None}),
    ("provenance", seed(provenance="human")),
    ("provenance.kind", seed(provenance={})),
    ("provenance.kind", seed(provenance={"kind": "robot"})),
    ("provenance.version", seed(provenance={"kind": "model", "version": 3})),
    ("provenance.by", seed(provenance={"kind": "human", "by": "me"})),
    ("state", {"frame": 1, "class": "tool_in_view", "state": "visible"}),
    ("track", {"frame": 1, "class": "tool_in_view", "state": "present", "track": None}),
]  # fmt: skip
REFUSED_BY_READER_ONLY: list[tuple[str, object]] = [
    ("box", seed(box=[30, 2, 1, 40])),
    ("box", seed(box=[1, 2, 1, 40])),
    ("polygon", seed(box=None, polygon=BOW_TIE)),
    ("polygon", seed(box=None, polygon=[[0, 0], [5, 5], [10, 10]])),
    ("mask.counts", seed(box=None, mask={"size": [HEIGHT, WIDTH], "counts": "0"})),
    ("mask.counts", seed(box=None, mask={"size": [HEIGHT, WIDTH], "counts": COUNTS + "o"})),
    ("mask.counts", seed(box=None, mask={"size": [2, 2], "counts": "4"})),
    ("mask.size", seed(box=None, mask={"size": [1 << 20, 1 << 20], "counts": "0"})),
    ("frame", seed(frame=12.0)),
]  # fmt: skip


@pytest.mark.parametrize(("field", "entry"), REFUSED_BY_SCHEMA_TOO + REFUSED_BY_READER_ONLY)
def test_a_wrong_line_is_refused_with_its_line_and_field(field: str, entry: object, tmp_path: Path) -> None:
    """The error names line and field, says what it got and what is allowed, and keeps them apart for programs."""
    path = write_lines(tmp_path / "a.jsonl", seed(frame=0), entry)
    with pytest.raises(InvalidInput) as caught:
        read_labels(path, frame_count=None)
    wanted = "line 2" if field == "label" else f"line 2: {field}"
    assert caught.value.field == wanted
    assert "got" in str(caught.value)
    assert caught.value.allowed


@pytest.mark.parametrize("entry", [entry for _, entry in REFUSED_BY_SCHEMA_TOO])
def test_the_schema_refuses_the_same_lines(entry: object) -> None:
    """What a schema can say, it says."""
    assert not SCHEMA.is_valid(entry)


@pytest.mark.parametrize(
    "entry",
    [
        seed(),
        seed(state="occluded"),
        seed(box=None, state="absent"),
        seed(box=None, state="occluded", provenance={"kind": "model"}),
        seed(box=None, state="uncertain", provenance={"kind": "interpolated", "version": "x"}, confidence=0),
        seed(box=None, polygon=[[0, 0], [10, 0], [10, 10]]),
        seed(box=None, polygon=BOW_TIE, provenance={"kind": "model"}),
        seed(box=None, mask={"size": [HEIGHT, WIDTH], "counts": COUNTS}),
        {"frame": 12, "class": "tool_in_view", "state": "present"},
        {"frame": 12, "class": "tool_in_view", "state": "absent", "confidence": 0.5},
    ],
)
def test_the_schema_and_the_reader_accept_the_same_lines(entry: dict[str, Any]) -> None:
    """The documented forms pass both."""
    SCHEMA.validate(entry)
    label_from_dict(entry)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"frame": 1', "line 2.*JSON"),
        ("nonsense", "line 2.*JSON"),
        (json.dumps(seed()) + json.dumps(seed()), "line 2.*Extra data"),
        ('{"frame":1,"track":"1","class":"a","state":"visible","box":[NaN,1,2,3]}', "line 2.*NaN.*finite"),
        ('{"frame":1,"track":"1","class":"a","state":"visible","box":[1,1,-Infinity,3]}', "line 2.*Infinity.*finite"),
        ('{"frame":1,"track":"1","class":"a","state":"visible","box":[1,1,1e999,3]}', "line 2.*1e999.*finite"),
        ('{"frame":1' + "0" * 5000 + "}", r"line 2.*2\*\*53"),
        ('{"frame":1,"frame":2,"class":"a","state":"present"}', "line 2: frame.*twice"),
        ("[" * 100_000, "line 2"),
        (b'{"class":"\xff\xfe"}', "line 2.*UTF-8; byte 11"),
        (b'{"frame":1,"class":"\\ud800","state":"present"}', "line 2: class.*Unicode"),
        ('{"frame":1,"class":"' + "x" * MAX_LINE_BYTES + '"}', "line 2.*at most"),
    ],
)
def test_a_line_that_is_no_json_is_refused(line: str | bytes, words: str, tmp_path: Path) -> None:
    """Bad JSON, bad UTF-8, numbers that are none, and lines of absurd size or depth."""
    path = write_lines(tmp_path / "a.jsonl", seed(frame=0), line)
    with pytest.raises(InvalidInput, match=words):
        read_labels(path, frame_count=None)


def test_a_frame_past_the_end_is_out_of_range(tmp_path: Path) -> None:
    """Frames 0 to count - 1 are there; the error says so."""
    path = write_lines(tmp_path / "a.jsonl", seed(frame=29), seed(frame=30))
    assert len(read_labels(path, frame_count=31)) == 2
    with pytest.raises(OutOfRange, match="line 2: frame: got 30; allowed: 0 to 29"):
        read_labels(path, frame_count=30)
    with pytest.raises(OutOfRange, match="line 1: frame: got -1"):
        read_labels(write_lines(tmp_path / "b.jsonl", seed(frame=-1)), frame_count=30)


def test_shapes_have_to_fit_the_video(tmp_path: Path) -> None:
    """Coordinates may be rounded over the edge, no more; masks have the video's size."""
    size: Any = {"frame_count": FRAMES, "width_px": WIDTH, "height_px": HEIGHT}
    over = write_lines(tmp_path / "a.jsonl", seed(box=[-1, -0.5, WIDTH + 1, HEIGHT + 0.5]))
    assert len(read_labels(over, **size)) == 1
    with pytest.raises(OutOfRange, match=r"line 1: box\[2\]: got 80; allowed: 0 to 64"):
        read_labels(write_lines(tmp_path / "b.jsonl", seed(box=[1, 2, 80, 40])), **size)
    with pytest.raises(OutOfRange, match=r"polygon\[1\]\[1\]: got 50"):
        read_labels(write_lines(tmp_path / "c.jsonl", seed(box=None, polygon=[[0, 0], [5, 50], [9, 1]])), **size)
    wrong = {"size": [2, 3], "counts": Mask.from_array(np.ones((2, 3), np.bool_)).counts}
    with pytest.raises(InvalidInput, match=r"line 1: mask.size: got \[2, 3\]"):
        read_labels(write_lines(tmp_path / "d.jsonl", seed(box=None, mask=wrong)), **size)


def test_the_same_thing_twice_is_refused(tmp_path: Path) -> None:
    """A track or frame class twice on a frame, a track that changes its class, a class that changes its kind."""
    frame_class = {"frame": 12, "class": "view", "state": "present"}
    for entries, words in [
        ([seed(), seed(state="occluded")], "line 2: track: got '1'.*frame 12 has this track already"),
        ([frame_class, frame_class], "line 2: class: got 'view'.*frame 12"),
        ([seed(), seed(frame=13, **{"class": "tool"})], "line 2: class: got 'tool'.*'polyp'"),
        ([seed(), {**frame_class, "class": "polyp"}], "line 2: class: got 'polyp'.*object class"),
    ]:
        with pytest.raises(InvalidInput, match=words):
            read_labels(write_lines(tmp_path / "a.jsonl", *entries), frame_count=None)


def test_too_many_vertices_are_refused_at_once(tmp_path: Path) -> None:
    """200,000 points cost the parsing of the line and nothing more."""
    points = np.random.default_rng(0).integers(0, 60, (200_000, 2)).tolist()
    path = write_lines(tmp_path / "a.jsonl", seed(box=None, polygon=points))
    started = time.thread_time()  # not the clock: others may use the processor
    with pytest.raises(InvalidInput, match="line 1: polygon: got '200000 points'"):
        read_labels(path, frame_count=None)
    assert time.thread_time() - started < 3.0


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    """A name that says nothing, a file that is not there, a folder, JSON Lines named .json."""
    with pytest.raises(InvalidInput, match=r"\.jsonl.*\.json"):
        read_labels(tmp_path / "a.txt", frame_count=None)
    for name in ("none.jsonl", "none.json"):
        with pytest.raises(InvalidInput, match="can be read"):
            read_labels(tmp_path / name, frame_count=None)
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(InvalidInput, match="can be read"):
        read_labels(tmp_path / "folder.jsonl", frame_count=None)
    with pytest.raises(InvalidInput, match=r"name JSON Lines \.jsonl"):
        read_labels(write_lines(tmp_path / "b.json", seed(), seed(frame=1)), frame_count=None)


# --- crossings -------------------------------------------------------------------------------------------------------


def test_sides_that_cross_are_found_and_sides_that_touch_are_not() -> None:
    """Bow-ties are found wherever they are; keyholes, bridges and points visited twice are allowed."""
    assert find_crossing(((0, 0), (10, 10), (10, 0), (0, 10))) == (0, 2)
    assert find_crossing(((0, 0), (10, 0), (10, 10), (0, 10))) is None
    outside, hole = ((0, 0), (10, 0), (10, 10), (0, 10)), ((3.1, 5.3), (3.1, 7), (7, 7), (7, 3), (3.1, 3), (3.1, 5.3))
    assert find_crossing((*outside, (0, 5.3), *hole, (0, 5.3))) is None
    assert find_crossing(((0, 0), (5, 5), (10, 0), (10, 10), (5, 5), (0, 10))) is None


def test_the_largest_polygons_are_checked_quickly() -> None:
    """A comb along the worst direction, where the extents of all sides overlap, takes about a second at most."""
    count, (c, s) = MAX_POLYGON_VERTICES, (np.cos(0.7), np.sin(0.7))
    comb = [(i, 0 if i % 2 else 1000) for i in range(count - 2)] + [(count, 2000), (-1, 2000)]
    started = time.thread_time()
    assert find_crossing(tuple((x * c - 5 * y * s, x * s + 5 * y * c) for x, y in comb)) is None
    assert time.thread_time() - started < 15.0


coordinate = st.integers(-8, 8)


@given(st.lists(st.tuples(coordinate, coordinate), min_size=3, max_size=12))
def test_crossings_are_those_of_the_exact_test_on_every_pair(points: list[tuple[int, int]]) -> None:
    """Parity with integer arithmetic over all pairs."""

    def side(p: tuple[int, int], q: tuple[int, int], r: tuple[int, int]) -> int:
        value = (q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0])
        return (value > 0) - (value < 0)

    sides = list(zip(points, points[1:] + points[:1], strict=True))
    crossing = {
        (i, j)
        for j, (c, d) in enumerate(sides)
        for i, (a, b) in enumerate(sides[:j])
        if side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0
    }
    found = find_crossing(tuple(points))
    assert (found in crossing) if crossing else found is None


# --- properties ------------------------------------------------------------------------------------------------------

names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8)
pixels_x, pixels_y = st.floats(0, WIDTH), st.floats(0, HEIGHT)
corners = st.tuples(pixels_x, pixels_y, pixels_x, pixels_y)
boxes = corners.filter(lambda b: b[2] > b[0] + 1e-6 and b[3] > b[1] + 1e-6).map(lambda b: Box(*b))
triangles = (
    st.lists(st.tuples(pixels_x, pixels_y), min_size=3, max_size=3)
    .map(lambda points: Polygon(tuple(points)))
    .filter(lambda p: p.to_array(HEIGHT, WIDTH).any())
)
masks = (
    st.binary(min_size=16, max_size=16)
    .filter(any)
    .map(
        lambda bits: Mask.from_array(
            np.resize(np.unpackbits(np.frombuffer(bits, np.uint8)), (HEIGHT, WIDTH)).astype(np.bool_)
        )
    )
)
confidences = st.none() | st.floats(0, 1)
provenances = st.builds(Provenance, st.sampled_from(ProvenanceKind), names | st.just(""))


@st.composite
def some_labels(draw: st.DrawFn) -> list[AnyLabel]:
    """Labels of one video that may stand in one file, in order of frames."""
    tracks = draw(st.dictionaries(names, names, max_size=3))
    taken = set(tracks.values())
    frame_classes = draw(st.lists(names.filter(lambda name: name not in taken), unique=True, max_size=2))
    labels: list[AnyLabel] = []
    for frame in sorted(draw(st.sets(st.integers(0, FRAMES - 1), max_size=4))):
        for track, name in tracks.items():
            shape = draw(st.none() | boxes | triangles | masks)
            states = [State.VISIBLE, State.OCCLUDED, State.UNCERTAIN] if shape else [State.ABSENT]
            state, provenance = draw(st.sampled_from(states)), draw(provenances)
            if shape is None and provenance.kind is not ProvenanceKind.HUMAN and draw(st.booleans()):
                state = State.UNCERTAIN
            labels.append(Label(frame, track, name, state, shape, draw(confidences), provenance))
        for name in frame_classes:
            labels.append(FrameLabel(frame, name, draw(st.booleans()), draw(confidences), draw(provenances)))
    return labels


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(labels=some_labels())
def test_any_labels_round_trip(labels: list[AnyLabel], tmp_path: Path) -> None:
    """Native files give back equal labels in the same order; COCO files give back the same set, boxes to rounding."""
    write_jsonl(tmp_path / "a.jsonl", labels)
    assert read_labels(tmp_path / "a.jsonl", frame_count=FRAMES, width_px=WIDTH, height_px=HEIGHT) == labels
    for line in (tmp_path / "a.jsonl").read_text(encoding="utf-8").split("\n")[:-1]:
        SCHEMA.validate(json.loads(line))
    write_coco(tmp_path / "a.json", labels, TABLE)
    assert_same_labels(read_labels(tmp_path / "a.json", frame_count=FRAMES, width_px=WIDTH, height_px=HEIGHT), labels)


def assert_same_labels(got: list[AnyLabel], wanted: list[AnyLabel]) -> None:
    """Equal but for order within a frame and the last bit of a box's far edges."""

    def key(label: AnyLabel) -> tuple[int, int, str]:
        return label.frame, isinstance(label, Label), label.track if isinstance(label, Label) else label.frame_class

    assert [label.frame for label in got] == sorted(label.frame for label in got)
    for one, other in zip(sorted(got, key=key), sorted(wanted, key=key), strict=True):
        if isinstance(one, Label) and isinstance(other, Label) and isinstance(one.shape, Box):
            assert isinstance(other.shape, Box)
            assert one.shape.as_list() == pytest.approx(other.shape.as_list(), abs=1e-9)
            assert label_to_dict(one) | {"box": 0} == label_to_dict(other) | {"box": 0}
        else:
            assert one == other


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KEYS = ["frame", "track", "class", "state", "box", "polygon", "mask", "confidence", "provenance", "other"]
near_values = json_values | st.sampled_from(
    [0, 1, "1", "polyp", "visible", "absent", "present", [1, 2, 3, 4], [[0, 0], [4, 0], [4, 4]], {"kind": "model"},
     {"size": [2, 2], "counts": "4"}, {"size": [2, 2], "counts": "04"}]
)  # fmt: skip
near_labels = st.dictionaries(st.sampled_from(KEYS), near_values) | st.builds(
    lambda key, value: {**seed(), key: value}, st.sampled_from(KEYS), near_values
)


@settings(max_examples=400, deadline=None)
@given(entry=near_labels | json_values)
def test_any_json_gives_a_label_or_invalid_input(entry: object) -> None:
    """Nothing but `InvalidInput` comes out; what the reader accepts, the schema accepts, and it is written back."""
    try:
        label = label_from_dict(entry)
    except InvalidInput:
        return
    assert SCHEMA.is_valid(entry)
    assert label_from_dict(label_to_dict(label)) == label


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_give_labels_or_invalid_input(content: bytes, tmp_path: Path) -> None:
    """Both readers answer random files with `InvalidInput`, or nothing where there are only blanks."""
    for name in ("a.jsonl", "a.json"):
        (tmp_path / name).write_bytes(content)
        try:
            labels = read_labels(tmp_path / name, frame_count=None)
        except InvalidInput:
            continue
        assert labels == []


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_coco_file_gives_labels_or_invalid_input(data: st.DataObject, tmp_path: Path) -> None:
    """Any value of a COCO file put in the place of any other brings out nothing but `InvalidInput`."""
    document = coco(
        annotation(), annotation(id=2, image_id=2, segmentation={"size": [HEIGHT, WIDTH], "counts": COUNTS})
    )
    spots: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key in node if isinstance(node, dict) else range(len(node)):
            spots.append((node, key))
            if isinstance(node[key], (dict, list)):
                walk(node[key])

    walk(document)
    node, key = data.draw(st.sampled_from(spots))
    node[key] = data.draw(near_values)
    (tmp_path / "a.json").write_text(json.dumps(document))
    with contextlib.suppress(InvalidInput):
        read_labels(tmp_path / "a.json", frame_count=FRAMES, width_px=WIDTH, height_px=HEIGHT)


def test_parse_json_keeps_numbers() -> None:
    """Integers stay integers and decimals keep their last digit."""
    assert parse_json("[1, 0.1, -2.5e3]", "x") == [1, 0.1, -2500.0]


# --- COCO ------------------------------------------------------------------------------------------------------------


def coco(*annotations: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A plain COCO file of two images."""
    images = [{"id": i, "file_name": f"clip/frame_{i + 6:05d}.jpg", "width": WIDTH, "height": HEIGHT} for i in (1, 2)]
    categories = [{"id": 3, "name": "polyp"}, {"id": 4, "name": "tool"}]
    return {"images": images, "annotations": list(annotations), "categories": categories, **changes}


def annotation(**changes: object) -> dict[str, Any]:
    """A plain box annotation; None takes a key out."""
    entry = {"id": 1, "image_id": 1, "category_id": 3, "bbox": [4, 5, 10, 20], "area": 200, "iscrowd": 0, **changes}
    return {key: value for key, value in entry.items() if value is not None}


def read_coco_document(tmp_path: Path, document: object, **names: Any) -> list[AnyLabel]:
    """Read a document as the seeds of the test's video."""
    path = tmp_path / "a.json"
    path.write_text(json.dumps(document))
    return read_labels(path, frame_count=FRAMES, width_px=WIDTH, height_px=HEIGHT, **names)


def test_coco_file_round_trips(tmp_path: Path) -> None:
    """Also absent objects, objects without a shape and frame classes, which COCO has no place for."""
    path = tmp_path / "coco.json"
    assert write_coco(path, LABELS, TABLE, Ontology.from_labels(LABELS)) == len(LABELS)
    assert_same_labels(read_labels(path, frame_count=FRAMES, width_px=WIDTH, height_px=HEIGHT), LABELS)


def test_pycocotools_reads_what_is_written(tmp_path: Path) -> None:
    """The reference reader finds images, categories and the same masks."""
    from pycocotools.coco import COCO

    write_coco(tmp_path / "coco.json", LABELS, TABLE, Ontology((ObjectClass("tool"),)))
    reader = COCO(str(tmp_path / "coco.json"))
    assert len(reader.getImgIds()) == FRAMES
    assert {c["id"]: c["name"] for c in reader.loadCats(reader.getCatIds())} == {1: "tool", 2: "polyp"}
    mask, polygon = reader.loadAnns(reader.getAnnIds(imgIds=[1]))[0], reader.loadAnns(reader.getAnnIds(imgIds=[4]))[0]
    assert np.array_equal(reader.annToMask(mask).astype(bool), disc().to_array())
    assert mask["bbox"] == [12, 12, 17, 17]
    assert mask["area"] == disc().area_px()
    assert np.array_equal(reader.annToMask(polygon), LABELS[3].shape.to_array(HEIGHT, WIDTH))  # type: ignore[union-attr]
    assert polygon["area"] == pytest.approx(19.5 * 29.125 / 2)
    image = reader.loadImgs([4])[0]
    assert (image["frame"], image["pts"], image["video_id"]) == (3, 1536, 1)
    assert reader.dataset["videos"][0]["time_base"] == "1/12800"


def test_an_empty_list_is_a_valid_coco_file(tmp_path: Path) -> None:
    """A video without a single label is still a document with all its images."""
    write_coco(tmp_path / "coco.json", [], TABLE)
    assert len(json.loads((tmp_path / "coco.json").read_text())["images"]) == FRAMES
    assert read_labels(tmp_path / "coco.json", frame_count=FRAMES) == []


def test_plain_coco_instances_of_other_tools_are_read(tmp_path: Path) -> None:
    """Box, polygon, both kinds of RLE; the frame from the end of the file name; iscrowd does not matter."""
    runs = np.diff(np.flatnonzero(np.diff(np.r_[2, disc().to_array().T.ravel(), 2]))).tolist()
    labels = read_coco_document(
        tmp_path,
        coco(
            annotation(segmentation=[]),
            annotation(id=2, image_id=2, segmentation=[[1, 1, 20, 1, 20, 20]]),
            annotation(id=3, category_id=4, segmentation={"size": [HEIGHT, WIDTH], "counts": runs}, iscrowd=1),
            annotation(id=4, image_id=2, category_id=4, segmentation={"size": [HEIGHT, WIDTH], "counts": COUNTS}),
        ),
    )
    assert labels == [
        Label(7, "polyp", "polyp", State.VISIBLE, Box(4, 5, 14, 25)),
        Label(7, "tool", "tool", State.VISIBLE, disc()),
        Label(8, "polyp", "polyp", State.VISIBLE, Polygon(((1, 1), (20, 1), (20, 20)))),
        Label(8, "tool", "tool", State.VISIBLE, disc()),
    ]


def test_parts_of_one_object_are_one_mask(tmp_path: Path) -> None:
    """Several rings cover what pycocotools says that they cover."""
    rings = [[1, 1, 20, 1, 20, 20], [30, 30, 40, 30, 40, 40, 30, 40]]
    (label,) = read_coco_document(tmp_path, coco(annotation(segmentation=rings)))
    assert isinstance(label, Label)
    assert isinstance(label.shape, Mask)
    wanted = np.zeros((HEIGHT, WIDTH), np.bool_)
    for ring in rings:
        wanted |= Polygon(tuple(zip(ring[::2], ring[1::2], strict=True))).to_array(HEIGHT, WIDTH)
    assert np.array_equal(label.shape.to_array(), wanted)


@pytest.mark.parametrize(
    ("image", "frame"),
    [
        ({"frame": 5, "file_name": "x_00009.png"}, 5),
        ({"frame_index": 6, "frame_id": 9}, 6),
        ({"frame_id": 7}, 7),
        ({"file_name": "C:\\clips\\12_0008.PNG"}, 8),
        ({"file_name": "a/b.v2/11.tif"}, 11),
        ({"file_name": "a/first.png"}, 0),
        ({"file_name": "third_99.png"}, 2),
    ],
)
def test_the_frame_of_an_image(image: dict[str, Any], frame: int, tmp_path: Path) -> None:
    """A field, else the name in the folder, else the number at the end of the name."""
    document = coco(annotation(image_id=9), images=[{"id": 9, **image}])
    names = ["first.png", "second.png", "third_99.png"]
    assert [label.frame for label in read_coco_document(tmp_path, document, frame_names=names)] == [frame]


def test_tracks_are_never_guessed(tmp_path: Path) -> None:
    """Ids wherever tools put them; without any only what is plain: one of a class a frame, or a single frame."""
    labels = read_coco_document(
        tmp_path,
        coco(
            annotation(track_id=7),
            annotation(id=2, instance_id="b"),
            annotation(id=3, attributes={"track_id": 9, "occluded": True, "keyframe": True}),
        ),
    )
    assert [(label.track, label.state.value) for label in labels if isinstance(label, Label)] == [
        ("7", "visible"),
        ("b", "visible"),
        ("9", "occluded"),
    ]
    several = [annotation(), annotation(id=2), annotation(id=3, category_id=4)]
    labels = read_coco_document(tmp_path, coco(*several))
    assert [label.track for label in labels if isinstance(label, Label)] == ["polyp-1", "polyp-2", "tool"]
    with pytest.raises(InvalidInput, match=r"annotations\[0\]: track_id.*'polyp'.*2 frames"):
        read_coco_document(tmp_path, coco(*several, annotation(id=4, image_id=2)))


@pytest.mark.parametrize(
    ("field", "document"),
    [
        ("file", [1]),
        ("images", coco(images=None)),
        ("images[0]", coco(images=[5])),
        ("annotations", {"images": [], "categories": []}),
        ("categories", coco(categories={})),
        ("categories[1]: id", coco(categories=[{"id": 1, "name": "a"}, {"id": 1, "name": "b"}])),
        ("categories[0]: name", coco(categories=[{"id": 1}])),
        ("videos", coco(videos=[{"id": 1}, {"id": 2}])),
        ("images[0]: id", coco(images=[{"file_name": "1.png"}])),
        ("images[1]: id", coco(images=[{"id": 1, "frame": 1}, {"id": 1, "frame": 2}])),
        ("images[1]: frame", coco(images=[{"id": 1, "frame": 1}, {"id": 2, "frame": 1}])),
        ("images[0]: frame", coco(images=[{"id": 1, "frame": "1"}])),
        ("images[0]: file_name", coco(images=[{"id": 1, "file_name": "frame.png"}])),
        ("images[0]: file_name", coco(images=[{"id": 1}])),
        ("images[0]: width", coco(images=[{"id": 1, "frame": 1, "width": 99, "height": HEIGHT}])),
        ("annotations[0]: image_id", coco(annotation(image_id=99))),
        ("annotations[0]: image_id", coco(annotation(image_id=[1]))),
        ("annotations[0]: category_id", coco(annotation(category_id=99))),
        ("annotations[0]: category_id", coco(annotation(category_id=None))),
        ("annotations[0]: iscrowd", coco(annotation(iscrowd="yes"))),
        ("annotations[0]: attributes", coco(annotation(attributes=[]))),
        ("annotations[0]: state", coco(annotation(attributes={"state": "gone"}))),
        ("annotations[0]: confidence", coco(annotation(attributes={"confidence": 7}))),
        ("annotations[0]: track_id", coco(annotation(track_id=1.5))),
        ("annotations[0]: bbox", coco(annotation(bbox=None))),
        ("annotations[0]: bbox", coco(annotation(bbox=[1, 2, 3]))),
        ("annotations[0]: bbox", coco(annotation(bbox=[1, 2, 0, 5]))),
        ("annotations[0]: bbox[0]", coco(annotation(bbox=["1", 2, 3, 5]))),
        ("annotations[0]: bbox[2]", coco(annotation(bbox=[1, 2, 1e-30, 5]))),
        ("annotations[0]: segmentation", coco(annotation(segmentation="x"))),
        ("annotations[0]: segmentation[0]", coco(annotation(segmentation=[[1, 2, 3, 4]]))),
        ("annotations[0]: segmentation[0]", coco(annotation(segmentation=[[0] * (2 * MAX_POLYGON_VERTICES + 2)]))),
        ("annotations[0]: segmentation[0][3]", coco(annotation(segmentation=[[1, 2, 3, None, 5, 6]]))),
        ("annotations[0]: segmentation[1]", coco(annotation(segmentation=[[1, 1, 9, 1, 9, 9], FLAT_BOW_TIE]))),
        ("annotations[0]: polygon", coco(annotation(segmentation=[FLAT_BOW_TIE]))),
        ("annotations[0]: segmentation.size", coco(annotation(segmentation={"counts": COUNTS}))),
        ("annotations[0]: segmentation.counts", coco(annotation(segmentation={"size": [HEIGHT, WIDTH]}))),
        ("annotations[0]: segmentation.counts", coco(annotation(segmentation={"size": [2, 2], "counts": [1, 2]}))),
        ("annotations[0]: segmentation.counts", coco(annotation(segmentation={"size": [2, 2], "counts": [5, -1]}))),
        ("annotations[0]: mask.size", coco(annotation(segmentation={"size": [2, 2], "counts": [0, 4]}))),
        ("annotations[0]: mask.counts", coco(annotation(segmentation={"size": [2, 2], "counts": "!"}))),
        ("annotations[0]: box[2]", coco(annotation(bbox=[1, 2, 300, 5]))),
        ("annotations[1]: track", coco(annotation(track_id=1), annotation(id=2, track_id=1))),
        ("micromodels", coco(micromodels={"format": 2, "labels": []})),
        ("micromodels.labels[0]: state", coco(micromodels={"format": 1, "labels": [{"frame": 1, "class": "x"}]})),
    ],
)  # fmt: skip
def test_a_wrong_coco_file_is_refused_with_its_entry_and_field(field: str, document: object, tmp_path: Path) -> None:
    """The error names the entry and the field."""
    with pytest.raises(InvalidInput) as caught:
        read_coco_document(tmp_path, document)
    assert caught.value.field == field


def test_a_coco_image_past_the_end_is_out_of_range(tmp_path: Path) -> None:
    """As in the native format."""
    with pytest.raises(OutOfRange, match=r"annotations\[0\]: frame: got 30; allowed: 0 to 29"):
        read_coco_document(tmp_path, coco(annotation(), images=[{"id": 1, "file_name": "30.png"}]))


# --- streams and masks -----------------------------------------------------------------------------------------------


def _peaks_of_long_files(folder: Path) -> tuple[int, int]:
    """Bytes of Python's allocations at most, while 4,000 masks are written as JSON Lines and then as COCO JSON."""
    counts, table = disc().counts, SimpleNamespace(**{**vars(TABLE), "frame_count": 4_000, "pts": range(4_000)})
    shape = Mask(HEIGHT, WIDTH, counts)
    tracemalloc.start()
    write_jsonl(folder / "a.jsonl", (Label(i, "1", "polyp", State.VISIBLE, shape, 0.5, MODEL) for i in range(4_000)))
    _, peak_write = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    write_coco(folder / "a.json", iter_jsonl(folder / "a.jsonl"), table)  # type: ignore[arg-type]
    _, peak_coco = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak_write, peak_coco


def test_long_files_are_written_and_read_in_flat_memory(tmp_path: Path) -> None:
    """Thousands of masks pass without being held: labels that were held would be over 700,000 bytes.

    Measured in a process of its own, for Python's tracker of allocations counts those of every thread.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as alone:
        peak_write, peak_coco = alone.submit(_peaks_of_long_files, tmp_path).result()
    assert 0 < peak_write < 300_000
    assert 0 < peak_coco < 300_000
    assert (tmp_path / "a.json").stat().st_size > 1_500_000


def test_labels_are_grouped_by_frame() -> None:
    """One group a frame, in order; going backwards is refused."""
    assert [(frame, len(group)) for frame, group in by_frame(LABELS)] == [(0, 3), (3, 1), (4, 3), (29, 1)]
    with pytest.raises(InvalidInput, match="in order of frames"):
        list(by_frame([LABELS[3], LABELS[0]]))


def test_masks_are_written_as_pictures(tmp_path: Path) -> None:
    """An indexed PNG for every frame; values are those of tracks.json; boxes are filled; 0 is background."""
    from PIL import Image

    size: Any = {"frame_count": FRAMES, "width_px": WIDTH, "height_px": HEIGHT}
    assert write_masks(tmp_path / "masks", LABELS, **size) == FRAMES
    assert len(list((tmp_path / "masks").glob("*.png"))) == FRAMES
    tracks = json.loads((tmp_path / "masks" / "tracks.json").read_text())
    assert [(t["value"], t["track"]) for t in tracks] == [(1, "1"), (2, "2"), (3, "blade é")]
    with Image.open(tmp_path / "masks" / "000004.png") as image:
        assert image.mode == "P"
        picture = np.asarray(image)
        palette = image.getpalette()
    assert np.array_equal(picture == 3, disc(30, 30).to_array())
    assert palette[:12] == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0], "the palette of PASCAL VOC and DAVIS"
    with Image.open(tmp_path / "masks" / "000000.png") as image:
        assert np.asarray(image)[39, 29] == 2
    with Image.open(tmp_path / "masks" / "000001.png") as image:
        assert not np.asarray(image).any()
    with pytest.raises(OutOfRange):
        write_masks(tmp_path / "masks", LABELS, **{**size, "frame_count": 29})
