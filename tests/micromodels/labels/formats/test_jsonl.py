"""The native format: what its reader accepts and refuses, and that what is written is read back."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from micromodels.errors import InvalidInput, OutOfRange
from micromodels.labels.files import read_labels, write_labels
from micromodels.labels.formats import FormatOptions
from micromodels.labels.formats.jsonl import MAX_LINE_BYTES
from micromodels.labels.label_json import label_from_dict, label_to_dict
from micromodels.labels.strict_json import parse_json
from micromodels.labels.video_info import VideoInfo
from micromodels.types import MAX_POLYGON_VERTICES, Box, Label, Mask, Polygon, State
from tests.micromodels.labels.helpers import COUNTS, FRAMES, HEIGHT, LABELS, MODEL, SCHEMA, VIDEO, WIDTH, seed


def write_lines(path: Path, *entries: object) -> Path:
    """A label file of these entries; str and bytes are put in as they are."""
    lines = [e if isinstance(e, bytes) else (e if isinstance(e, str) else json.dumps(e)).encode() for e in entries]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


# --- native: what is written is read back ----------------------------------------------------------------------------


def test_native_file_round_trips_exactly(tmp_path: Path) -> None:
    """Every kind of label comes back equal, in order, and every line fits the schema."""
    path = tmp_path / "labels.jsonl"
    assert write_labels(path, LABELS) == len(LABELS)
    assert read_labels(path, video=VIDEO) == LABELS
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
        write_labels(path, failing())
    with pytest.raises(RuntimeError, match="no more"):
        write_labels(path, failing(), video=VIDEO, format="coco")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["labels.jsonl"]


def test_the_writer_refuses_what_the_reader_would(tmp_path: Path) -> None:
    """A human label without a shape or with a name outside of Unicode is not written."""
    with pytest.raises(InvalidInput, match="label 1: shape"):
        write_labels(tmp_path / "a.jsonl", [Label(0, "1", "polyp", State.OCCLUDED)])
    with pytest.raises(InvalidInput, match="track"):
        label_to_dict(Label(0, "\ud800", "polyp", State.ABSENT))


def test_blank_lines_windows_ends_and_a_byte_order_mark_are_fine(tmp_path: Path) -> None:
    """What editors on other systems add does not matter."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b"\xef\xbb\xbf" + json.dumps(seed()).encode() + b"\r\n\r\n  \n" + json.dumps(seed(frame=13)).encode()
    )
    assert [label.frame for label in read_labels(path)] == [12, 13]


# --- native: what is refused -----------------------------------------------------------------------------------------

BOW_TIE = [[0, 0], [10, 10], [10, 0], [0, 10]]


REFUSED_BY_SCHEMA_TOO: list[tuple[str, object]] = [
    ("color", seed(color="red")),
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
        read_labels(path)
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
        read_labels(path)


def test_a_frame_past_the_end_is_out_of_range(tmp_path: Path) -> None:
    """Frames 0 to count - 1 are there; the error says so."""
    path = write_lines(tmp_path / "a.jsonl", seed(frame=29), seed(frame=30))
    assert len(read_labels(path, video=VideoInfo(31, WIDTH, HEIGHT))) == 2
    with pytest.raises(OutOfRange, match="line 2: frame: got 30; allowed: 0 to 29"):
        read_labels(path, video=VIDEO)
    with pytest.raises(OutOfRange, match="line 1: frame: got -1"):
        read_labels(write_lines(tmp_path / "b.jsonl", seed(frame=-1)), video=VIDEO)


def test_shapes_have_to_fit_the_video(tmp_path: Path) -> None:
    """Coordinates may be rounded over the edge, no more; masks have the video's size."""
    over = write_lines(tmp_path / "a.jsonl", seed(box=[-1, -0.5, WIDTH + 1, HEIGHT + 0.5]))
    assert len(read_labels(over, video=VIDEO)) == 1
    with pytest.raises(OutOfRange, match=r"line 1: box\[2\]: got 80; allowed: 0 to 64"):
        read_labels(write_lines(tmp_path / "b.jsonl", seed(box=[1, 2, 80, 40])), video=VIDEO)
    with pytest.raises(OutOfRange, match=r"polygon\[1\]\[1\]: got 50.5"):
        read_labels(write_lines(tmp_path / "c.jsonl", seed(box=None, polygon=[[0, 0], [5, 50.5], [9, 1]])), video=VIDEO)
    wrong = {"size": [2, 3], "counts": Mask.from_array(np.ones((2, 3), np.bool_)).counts}
    with pytest.raises(InvalidInput, match=r"line 1: mask.size: got \[2, 3\]"):
        read_labels(write_lines(tmp_path / "d.jsonl", seed(box=None, mask=wrong)), video=VIDEO)


def test_shapes_a_little_over_the_edge_are_cut_with_a_warning(tmp_path: Path) -> None:
    """Up to two pixels, in any format; refused where reading is strict, and where nothing would be left."""
    seen: list[str] = []
    lines = [seed(box=[-2, 2, 30, HEIGHT + 1.5]), seed(frame=13, box=None, polygon=[[0, 0], [5, 50], [9, 1]])]
    path = write_lines(tmp_path / "a.jsonl", *lines)
    labels = read_labels(path, video=VIDEO, options=FormatOptions(warn=seen.append))
    assert [label.shape for label in labels if isinstance(label, Label)] == [
        Box(0, 2, 30, HEIGHT),
        Polygon(((0, 0), (5, HEIGHT), (9, 1))),
    ]
    assert len(seen) == 1
    assert "over the edge, cut to the picture: 2, the first at line 1: box[0]" in seen[0]
    with pytest.raises(OutOfRange, match=r"line 1: box\[0\]: got -2"):
        read_labels(path, video=VIDEO, options=FormatOptions(strict=True))
    for gone in (seed(box=[-2, 2, -1.5, 30]), seed(box=[-2.1, 2, 30, 30]), seed(frame=FRAMES, box=[-2, 2, 30, 30])):
        with pytest.raises(OutOfRange):
            read_labels(write_lines(tmp_path / "b.jsonl", gone), video=VIDEO)


def test_null_is_taken_as_left_out_with_a_warning(tmp_path: Path) -> None:
    """Of keys that may be left out; of the others, and where reading is strict, it is refused."""
    nulls = dict.fromkeys(("polygon", "mask", "confidence", "provenance"))
    path = write_lines(tmp_path / "a.jsonl", seed(), {**seed(frame=13), **nulls})
    seen: list[str] = []
    labels = read_labels(path, video=VIDEO, options=FormatOptions(warn=seen.append))
    assert labels == read_labels(write_lines(tmp_path / "b.jsonl", seed(), seed(frame=13)), video=VIDEO)
    assert len(seen) == 1
    assert "null, taken as left out: 4, the first at line 2: polygon" in seen[0]
    with pytest.raises(InvalidInput, match=r"line 2: polygon: got None"):
        read_labels(path, video=VIDEO, options=FormatOptions(strict=True))
    for key in ("frame", "track", "class", "state"):
        with pytest.raises(InvalidInput, match=f"line 1: {key}"):
            read_labels(write_lines(tmp_path / "c.jsonl", {**seed(), key: None}), video=VIDEO)


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
            read_labels(write_lines(tmp_path / "a.jsonl", *entries))


def test_too_many_vertices_are_refused_at_once(tmp_path: Path) -> None:
    """200,000 points cost the parsing of the line and nothing more."""
    points = np.random.default_rng(0).integers(0, 60, (200_000, 2)).tolist()
    path = write_lines(tmp_path / "a.jsonl", seed(box=None, polygon=points))
    started = time.thread_time()  # not the clock: others may use the processor
    with pytest.raises(InvalidInput, match="line 1: polygon: got '200000 points'"):
        read_labels(path)
    assert time.thread_time() - started < 3.0


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    """A name that says nothing, a file that is not there, a folder, JSON Lines named .json."""
    with pytest.raises(InvalidInput, match=r"\.json\).*\.jsonl\)"):
        read_labels(tmp_path / "a.txt")
    for name in ("none.jsonl", "none.json"):
        with pytest.raises(InvalidInput, match="can be read"):
            read_labels(tmp_path / name)
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(InvalidInput, match=r"file: got .*folder.jsonl"):
        read_labels(tmp_path / "folder.jsonl")
    with pytest.raises(InvalidInput, match=r"name JSON Lines \.jsonl"):
        read_labels(write_lines(tmp_path / "b.json", seed(), seed(frame=1)))


def test_parse_json_keeps_numbers() -> None:
    """Integers stay integers and decimals keep their last digit."""
    assert parse_json("[1, 0.1, -2.5e3]", "x") == [1, 0.1, -2500.0]
