"""The list of label formats: what a description must say, how a format is found, and formats of other packages."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import micromodels.labels.formats
from micromodels.errors import InvalidInput, OutOfRange
from micromodels.labels.files import read_labels, write_labels
from micromodels.labels.formats import (
    FORMATS,
    FormatOptions,
    LabelFormat,
    LabelPart,
    find_format,
    format_to_read,
    format_to_write,
    label_formats,
)
from micromodels.labels.video_info import VideoInfo
from micromodels.types import AnyLabel, Box, Label, Polygon, State
from tests.added_package import added_package
from tests.micromodels.labels.helpers import FRAMES, HEIGHT, LABELS, VIDEO, WIDTH, annotation, coco

MODULES = [p for p in Path(micromodels.labels.formats.__file__).parent.glob("*.py") if p.name != "__init__.py"]


def read_nothing(path: Path, video: VideoInfo | None, options: FormatOptions) -> Iterator[tuple[str, AnyLabel]]:
    """A reader of empty files."""
    yield from ()


def write_nothing(path: Path, labels: Iterable[AnyLabel], video: VideoInfo | None, options: FormatOptions) -> int:
    """A writer of empty files."""
    path.touch()
    return sum(0 for _ in labels)


OTHER = LabelFormat(
    name="other",
    title="another kind of JSON",
    file_name="labels.other.json",
    extension=".other.json",
    keeps=frozenset({LabelPart.BOXES}),
    loses="Keeps boxes alone.",
    read=read_nothing,
    write=write_nothing,
    sniff=lambda path: b"other" in path.read_bytes(),
)


@pytest.fixture
def with_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """The formats that there are, and one more whose files end in ``.json`` too."""
    monkeypatch.setattr(FORMATS, "_sources", {**FORMATS._found(), "other": lambda: OTHER})
    monkeypatch.setattr(FORMATS, "_loaded", {})


def test_every_module_of_the_folder_is_a_format() -> None:
    """No second list says which there are."""
    assert len(label_formats()) == len(MODULES)
    names = [one.name for one in label_formats()]
    assert names == sorted(path.stem for path in MODULES)
    assert find_format("coco").extension == ".json"
    with pytest.raises(InvalidInput, match=f"format: got 'pickle'; allowed: {', '.join(names)}"):
        find_format("pickle")


def test_listing_the_formats_loads_nothing_heavy() -> None:
    """Neither numpy nor torch: the help of the command line lists them."""
    code = (
        "import sys; from micromodels.labels import files, formats; count = len(formats.label_formats());"
        "print(count, {'numpy', 'torch', 'PIL', 'pycocotools', 'cv2'} & set(sys.modules) or 'light')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{len(MODULES)} light"


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("name", {"name": "My Format"}),
        ("name", {"name": ""}),
        ("file_name", {"title": ""}),
        ("file_name", {"file_name": "a/labels.other.json"}),
        ("file_name", {"file_name": "labels.txt"}),
        ("extension", {"extension": "json"}),
        ("extension", {"extension": ".JSON"}),
        ("loses", {"loses": ""}),
        ("read", {"read": None, "write": None}),
        ("sniff", {"extension": "", "file_name": "labels", "sniff": None}),
    ],
)
def test_a_description_that_says_too_little_is_refused(field: str, changes: dict[str, Any]) -> None:
    """The error names the field."""
    with pytest.raises(InvalidInput, match=rf"format\.{field}: got"):
        replace(OTHER, **changes)


def test_a_format_that_keeps_everything_loses_nothing() -> None:
    """And `str` is what messages show of a format."""
    assert replace(OTHER, keeps=frozenset(LabelPart), loses="").loses == ""
    assert str(OTHER) == "other (another kind of JSON, .other.json)"
    assert str(find_format("masks")) == "masks (Indexed PNG masks, a folder)"


# --- which one a file is ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("with_other")
def test_content_tells_formats_of_one_ending_apart(tmp_path: Path) -> None:
    """Where it does not, the error says to name the format."""
    path = tmp_path / "a.json"
    path.write_text(json.dumps(coco(annotation())))
    assert format_to_read(path).name == "coco"
    path.write_text('{"other": 1}')
    assert format_to_read(path).name == "other"
    for text in ('{"other": 1, "images": []}', "{}"):
        path.write_text(text)
        with pytest.raises(InvalidInput, match=r"format: got .*the format by name, one of coco, other"):
            read_labels(path)
        assert read_labels(path, format="other") == []
    path.write_text(json.dumps({"annotations": ["x" * (3 << 20)], "categories": []}))
    assert format_to_read(path).name == "coco", "also where long annotations stand first"


@pytest.mark.usefixtures("with_other")
def test_a_name_to_write_goes_to_the_longest_ending() -> None:
    """Upper case does not matter."""
    names = [format_to_write(Path(name)).name for name in ("a.json", "A.JSON", "a.other.json", "a.b.jsonl")]
    assert names == ["coco", "coco", "other", "jsonl"]


def test_what_cannot_be_read_or_written_is_refused_with_what_can(tmp_path: Path) -> None:
    """An ending that no format has, a folder, a format that only writes."""
    for name in ("a.txt", "a"):
        with pytest.raises(InvalidInput, match=r"coco \(COCO instances, \.json\); .*jsonl \("):
            read_labels(tmp_path / name)
        with pytest.raises(InvalidInput, match=r"jsonl .*; masks \(Indexed PNG masks, a folder\)"):
            write_labels(tmp_path / name, [])
    with pytest.raises(InvalidInput, match="one of these formats"):
        read_labels(tmp_path)
    with pytest.raises(InvalidInput, match=r"format: got 'masks'; allowed: a format that can be read: .*jsonl"):
        read_labels(tmp_path, format="masks")
    with pytest.raises(InvalidInput, match="format: got 'tiff'"):
        write_labels(tmp_path / "a.json", [], format="tiff")
    with pytest.raises(InvalidInput, match="video: got None"):
        write_labels(tmp_path / "a.json", [])
    assert list(tmp_path.iterdir()) == []


# --- what holds in every format --------------------------------------------------------------------------------------


def test_what_holds_in_every_format_is_checked_for_all_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that checks nothing lets nothing through: no other video, nothing twice, no label that is not clear."""
    seed = Label(0, "1", "polyp", State.VISIBLE, Box(1, 2, 3, 4))
    bow_tie = Label(1, "1", "polyp", State.VISIBLE, Polygon(((0, 0), (9, 9), (9, 0), (0, 9))))
    for label, error, words in (
        (replace(seed, frame=FRAMES), OutOfRange, "row 2: frame: got 30"),
        (replace(seed, frame=1, shape=Box(1, 2, 300, 4)), OutOfRange, r"row 2: box\[2\]"),
        (seed, InvalidInput, "row 2: track: got '1'"),
        (bow_tie, InvalidInput, "row 2: polygon"),
    ):
        rows = [("row 1", seed), ("row 2", label)]
        careless = replace(OTHER, read=lambda path, video, options, rows=rows: rows)
        monkeypatch.setattr(FORMATS, "_sources", {"other": lambda careless=careless: careless})
        monkeypatch.setattr(FORMATS, "_loaded", {})
        with pytest.raises(error, match=words):
            read_labels(tmp_path / "a.json", video=VIDEO)
    with pytest.raises(InvalidInput, match="label 1: polygon"):
        write_labels(tmp_path / "a.other.json", [bow_tie], video=VIDEO)
    assert list(tmp_path.iterdir()) == []


def test_the_video_is_made_of_what_callers_have(tiny_clip: Path, tmp_path: Path) -> None:
    """An open video, a folder of frames with their names, its frame table; wrong numbers are refused."""
    from PIL import Image

    from micromodels.video import open_video

    with open_video(tiny_clip / "video.mp4") as video:
        known = VideoInfo.of(video)
        assert known == VideoInfo.of(video.table) == VideoInfo.of(known)
        assert len(read_labels(tiny_clip / "seeds.jsonl", video=video)) == 3
    assert (known.frame_count, known.width_px, known.height_px, known.frame_names) == (24, 128, 96, ())
    assert known.pts[5] * known.time_base == Fraction(5, 12)
    for name in ("a2.png", "a10.png"):
        Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(tmp_path / name)
    with open_video(tmp_path) as frames:
        assert VideoInfo.of(frames).frame_names == ("a2.png", "a10.png")
        write_labels(tmp_path / "a.json", [], video=frames)
    document = json.loads((tmp_path / "a.json").read_text())
    assert [image["file_name"] for image in document["images"]] == ["a2.png", "a10.png"]
    with pytest.raises(InvalidInput, match=r"video\.width_px: got 0"):
        VideoInfo(1, 0, 1)
    with pytest.raises(InvalidInput, match=r"video\.pts: got '2 values'"):
        VideoInfo(3, 1, 1, pts=(0, 1))


def test_times_that_are_not_known_are_not_made_up(tmp_path: Path) -> None:
    """A video that is known by its size alone."""
    write_labels(tmp_path / "a.json", LABELS, video=VideoInfo(FRAMES, WIDTH, HEIGHT))
    document = json.loads((tmp_path / "a.json").read_text())
    assert "pts" not in document["images"][0]
    assert "time_base" not in document["videos"][0]


# --- formats of other packages ---------------------------------------------------------------------------------------


def test_a_format_of_another_package_is_read_and_written(tmp_path: Path) -> None:
    """By its ending and by its name, with the checks that hold for all."""
    with added_package(tmp_path / "site"):
        assert len(label_formats()) == len(MODULES) + 1
        path = tmp_path / "seeds.boxes"
        assert write_labels(path, LABELS, video=VIDEO) == 1
        assert path.read_text().splitlines() == ["0,2,polyp,1,2.5,30.25,40"]
        assert read_labels(path, video=VIDEO) == [Label(0, "2", "polyp", State.VISIBLE, Box(1, 2.5, 30.25, 40))]
        path.write_text("0,2,polyp,1,2.5,30.25\n")
        with pytest.raises(InvalidInput, match=r"line 1: got .*allowed: frame, track"):
            read_labels(path)
        path.write_text("30,2,polyp,1,2.5,30.25,40\n")
        with pytest.raises(OutOfRange, match="line 1: frame: got 30"):
            read_labels(path, video=VIDEO)


def test_what_is_no_format_takes_no_other_away(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says why; so does the error of whoever asks for it."""
    monkeypatch.setattr(FORMATS, "_sources", {**FORMATS._found(), "other": lambda: read_nothing})
    assert len(label_formats()) == len(MODULES)
    assert "a function is not a LabelFormat" in caplog.text
    with pytest.raises(InvalidInput, match=r"format: got 'other'; allowed: .*a function is not a LabelFormat"):
        find_format("other")


def test_a_format_of_another_package_takes_no_ending_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that went to a built-in format still do; its own name is the way to the other one."""
    greedy = replace(OTHER, extension=".json")
    monkeypatch.setattr(FORMATS, "_sources", {**FORMATS._found(), "other": lambda: greedy})
    monkeypatch.setattr(FORMATS, "_loaded", {})
    assert format_to_write(Path("labels.other.json")).name == "coco"
    assert find_format("other") is greedy


def test_no_two_formats_of_this_package_are_written_under_one_ending() -> None:
    """Else the order of names would say which is meant."""
    endings = [one.extension for one in label_formats() if one.can_write and not one.is_folder]
    assert len(endings) == len(set(endings))


# --- what the documentation says -------------------------------------------------------------------------------------


def test_the_table_of_formats_is_that_of_the_program(repository: Path) -> None:
    """A row a format in docs/reference/label-format.md."""
    text = (repository / "docs" / "reference" / "label-format.md").read_text(encoding="utf-8")
    table = text.split("## Formats\n")[1].lstrip().split("\n\n")[0]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    uses = {(True, True): "read, write", (True, False): "read", (False, True): "write"}
    assert rows == [
        f"| `{one.name}` | {one.title} | {f'`{one.extension}`' if one.extension else 'folder'} "
        f"| {uses[one.can_read, one.can_write]} "
        f"| {', '.join(part.value.replace('_', ' ') for part in LabelPart if part in one.keeps)} "
        f"| {one.loses or '-'} |"
        for one in label_formats()
    ]
