"""``import micromodels as mm``: what a caller gets with a few lines."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import shutil
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import micromodels as mm
from micromodels import front_door
from micromodels.output.labeled_video import LabeledVideo, Track
from tests.conftest import tiny_frames

REPOSITORY = Path(__file__).resolve().parents[2]
COUNT = 24
EFFORT = 0.05
HEAVY = {"numpy", "torch", "cv2", "onnxruntime", "PIL", "pycocotools", "av", "rich", "scipy"}


def frames() -> npt.NDArray[np.uint8]:
    return np.stack(list(tiny_frames(COUNT)))


def seeds(*indices: int) -> list[mm.Label]:
    """Boxes of the square as a person draws them."""
    return [
        mm.Label(i, "1", "square", mm.State.VISIBLE, mm.Box(16 + 2 * i, 32, 48 + 2 * i, 64)) for i in indices or (0, 23)
    ]


@pytest.fixture(scope="module")
def result(tiny_module: object, tiny_clip: Path) -> LabeledVideo:
    """The clip, labeled from its file of seeds (frames 0, 12 and 23)."""
    return mm.label(tiny_clip / "video.mp4", tiny_clip / "seeds.jsonl", effort=EFFORT)


# --- the module ------------------------------------------------------------------------------------------------------


def fresh(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return done.stdout


def test_the_import_is_light() -> None:
    """A fresh interpreter that imports it has neither numpy nor torch, and is done in 0.3 seconds."""
    code = "import micromodels, sys; print(*sys.modules)"
    assert HEAVY.isdisjoint(fresh(code).split())
    took = []
    for _ in range(5):
        started = time.perf_counter()
        fresh("import micromodels")
        took.append(time.perf_counter() - started)
    assert min(took) < 0.3


def test_opening_a_video_loads_no_torch() -> None:
    """Each name brings what it needs and no more."""
    code = "import micromodels as mm, sys; mm.open_video, mm.Box(0, 0, 1, 1); print(*sys.modules)"
    loaded = set(fresh(code).split())
    assert "numpy" in loaded
    assert {"torch", "av", "onnxruntime"}.isdisjoint(loaded)


def test_every_public_name_is_there() -> None:
    """`__all__`, `dir()`, what type checkers see and what is imported on demand agree, and every name resolves."""
    tree = ast.parse(Path(mm.__file__).read_text(encoding="utf-8"))
    imported = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("micromodels.")
        for alias in node.names
    }
    assert set(mm.__all__) == {*imported, "__version__"}
    assert set(mm.__all__) <= set(dir(mm))
    for name, module in imported.items():
        assert getattr(mm, name) is getattr(importlib.import_module(module), name), name
    with pytest.raises(AttributeError, match="no attribute 'lable'"):
        mm.lable  # noqa: B018


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """In an install of the light client alone, a name of the library says what to install."""

    def missing(name: str) -> ModuleType:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.delitem(vars(mm), "LabelSession", raising=False)
    monkeypatch.setattr(mm, "import_module", missing)
    with pytest.raises(ImportError, match=r"LabelSession needs the package torch: pip install .*-video\[server\]"):
        mm.LabelSession  # noqa: B018


# --- the result ------------------------------------------------------------------------------------------------------


def test_a_result_is_a_sequence_of_frames(result: LabeledVideo) -> None:
    """By index, from the end, by slice, in order; past the end it is an IndexError."""
    assert len(result) == COUNT
    assert [one.frame for one in result] == list(range(COUNT))
    assert isinstance(result[12], mm.FrameResult)
    assert (result[12].frame, result[-1].frame, result[np.int64(3)].frame) == (12, 23, 3)
    assert [one.frame for one in result[20:]] == [20, 21, 22, 23]
    assert [one.frame for one in result[4::-2]] == [4, 2, 0]
    for outside in (COUNT, -COUNT - 1):
        with pytest.raises(IndexError, match="-24 to 23"):
            result[outside]
    with pytest.raises(mm.OutOfRange):
        result[COUNT]
    with pytest.raises(TypeError):
        result["12"]  # type: ignore[call-overload]
    assert repr(result) == "LabeledVideo('video.mp4', 24 frames, 128x96, 1 track, 3 frames labeled by hand)"


def test_the_labels_are_those_of_the_square(result: LabeledVideo) -> None:
    """Seeds pass through; the others follow the square."""
    assert isinstance(result.labels, tuple)
    assert [label for label in result.labels if label.is_anchor] == seeds(0, 12, 23)
    assert len(result.labels) == COUNT
    for label in result.labels:
        assert isinstance(label, mm.Label)
        assert isinstance(label.shape, mm.Box)
        assert abs(label.shape.x1 - (16 + 2 * label.frame)) < 6


def test_tracks_and_confidence(result: LabeledVideo) -> None:
    """A track gives class, frames, its label on a frame and its confidence; a frame has the lowest of its labels."""
    assert list(result.tracks) == ["1"]
    track = result.tracks["1"]
    assert isinstance(track, Track)
    assert (track.id, track.object_class, track.frames) == ("1", "square", tuple(range(COUNT)))
    assert track[5] is result[5].labels[0]
    assert repr(track) == "Track(id='1', object_class='square')"
    with pytest.raises(mm.OutOfRange, match="a frame on which track 1 has a label"):
        track[COUNT]
    np.testing.assert_array_equal(track.confidence, result.confidence)
    assert result.confidence[[0, 12, 23]].tolist() == [1, 1, 1]
    assert result.confidence.dtype == np.float32
    assert ((result.confidence > 0) & (result.confidence <= 1)).all()
    assert not result.confidence.flags.writeable
    assert result.frames_by_hand == (0, 12, 23)


def test_confidence_of_several_labels_and_of_none(result: LabeledVideo) -> None:
    """The lowest counts; nothing said is NaN; a track that is absent has no frame there."""
    made = mm.Provenance(mm.ProvenanceKind.MODEL, "m")
    box = mm.Box(0, 0, 9, 9)
    results = [mm.FrameResult(i) for i in range(COUNT)]
    results[1] = mm.FrameResult(
        1,
        (
            mm.Label(1, "a", "cat", mm.State.VISIBLE, box, 0.75, made),
            mm.Label(1, "b", "cat", mm.State.ABSENT, None, 0.5, made),
        ),
        (mm.FrameLabel(1, "day", True, 0.25, made),),
    )
    results[2] = mm.FrameResult(2, (mm.Label(2, "a", "cat", mm.State.VISIBLE, box, None, made),))
    labeled = LabeledVideo(mm.open_video(frames()), results, result.model)
    assert labeled.confidence[1] == 0.25
    assert np.isnan(labeled.confidence[[0, 2]]).all()
    assert (labeled.tracks["a"].frames, labeled.tracks["b"].frames) == ((1, 2), ())
    assert labeled.tracks["b"][1].state is mm.State.ABSENT
    assert [c.name for c in labeled.ontology.object_classes] == ["cat"]
    with pytest.raises(mm.InvalidInput, match="one per frame, 24 in order"):
        LabeledVideo(mm.open_video(frames()), results[:-1], result.model)


def test_a_result_is_saved(result: LabeledVideo, tmp_path: Path) -> None:
    """By the name of the file or a named format; what was written is read back."""
    result.save(tmp_path / "labels.jsonl")
    lines = (tmp_path / "labels.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["frame"] for line in lines] == list(range(COUNT))
    result.save(str(tmp_path / "labels.json"), format="coco")
    assert len(json.loads((tmp_path / "labels.json").read_text(encoding="utf-8"))["images"]) == COUNT
    with pytest.raises(mm.InvalidInput, match="format"):
        result.save(tmp_path / "labels.json", format="sketch")


def test_labels_of_a_result_are_seeds_again(
    result: LabeledVideo, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a result, saved or not, the hand labels count; the caller hears of the others, by event or in the log."""
    warned = "21 predicted labels are left out of the seeds; only hand labels count"
    result.save(tmp_path / "labels.jsonl")
    events: list[mm.Event] = []
    again = mm.label(frames(), tmp_path / "labels.jsonl", model=result.model, progress=events.append)
    assert again.frames_by_hand == (0, 12, 23)
    assert [e.message for e in events if isinstance(e, mm.Warned)] == [warned]
    assert caplog.messages == []
    assert mm.label(frames(), result.labels, model=result.model).frames_by_hand == (0, 12, 23)
    assert caplog.messages == [warned]


def test_what_is_repaired_in_seeds_is_warned_of(
    result: LabeledVideo, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """To whoever gets the events, else in the log."""
    seeds = tmp_path / "seeds.jsonl"
    seeds.write_text('{"frame":0,"track":"1","class":"square","state":"visible","box":[-1.5,2,30,20]}')
    events: list[mm.Event] = []
    mm.label(frames(), seeds, model=result.model, progress=events.append)
    (warned,) = [e.message for e in events if isinstance(e, mm.Warned)]
    assert "cut to the picture: 1, the first at line 1: box[0]" in warned
    mm.label(frames(), seeds, model=result.model, progress=False)
    assert caplog.messages == [warned]


def test_a_frame_is_drawn(result: LabeledVideo) -> None:
    """A picture of Pillow, which notebooks show; the video was closed and is opened for it."""
    assert result.video.is_closed
    picture = result.plot(-1)
    assert (picture.size, picture.mode) == ((128, 96), "RGB")
    assert picture._repr_png_()
    with result.video.reopen() as video:
        plain = video.frame(23)
    changed = np.abs(np.asarray(picture).astype(int) - plain).sum(2) > 60
    assert 0.02 < changed.mean() < 0.5
    with pytest.raises(mm.OutOfRange):
        result.plot(COUNT)


def test_an_overlay_is_written(result: LabeledVideo, tmp_path: Path) -> None:
    """All frames, at the rate of the video."""
    result.save_overlay(tmp_path / "overlay.mp4")
    with mm.open_video(tmp_path / "overlay.mp4") as video:
        assert (video.table.frame_count, float(video.table.pts_seconds(12))) == (COUNT, 1.0)


class Page(HTMLParser):
    """What a piece of HTML holds; that its tags close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.sources: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag != "img":
            self.open.append(tag)
        self.sources += [value or "" for name, value in attrs if name == "src"]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_notebook_shows_five_frames_and_a_line(result: LabeledVideo) -> None:
    """Pictures are embedded, the line is SVG, nothing runs."""
    page = Page(result._repr_html_())
    assert page.tags.count("img") == 5
    assert page.tags.count("svg") == 1
    assert "script" not in page.tags
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.sources)
    for text in ("video.mp4", "24 frames", "square 1", "◆ frame 0", "frame 6", "◆ frame 23", "lowest confidence"):
        assert text in page.text
    assert len(result._repr_html_()) < 200_000


def test_a_notebook_says_where_a_video_is_gone(result: LabeledVideo, tmp_path: Path) -> None:
    """The summary without pictures, and why."""
    shutil.copy(result.video.path, tmp_path / "copy.mp4")  # type: ignore[union-attr]
    with mm.open_video(tmp_path / "copy.mp4") as video:
        labeled = LabeledVideo(video, result, result.model)
    (tmp_path / "copy.mp4").unlink()
    page = Page(labeled._repr_html_())
    assert page.tags == ["div"]
    assert "LabeledVideo('copy.mp4', 24 frames" in page.text
    with pytest.raises(mm.VideoError):
        labeled.plot(0)


def test_names_are_escaped_in_notebooks(result: LabeledVideo) -> None:
    """A class called like a tag is text, also where there are more tracks than are listed."""
    made = mm.Provenance(mm.ProvenanceKind.MODEL, "m")
    crowd = tuple(
        mm.Label(0, f"<i>{n}", '<script>alert("x")</script>', mm.State.VISIBLE, mm.Box(n, n, n + 9, n + 9), 0.5, made)
        for n in range(40)
    )
    results = [mm.FrameResult(i, crowd if i == 0 else ()) for i in range(COUNT)]
    page = Page(LabeledVideo(mm.open_video(frames()), results, result.model)._repr_html_())
    assert {"script", "i"}.isdisjoint(page.tags)
    assert '<script>alert("x")</script> <i>0' in page.text
    assert "and 16 more" in page.text


def test_a_long_video_has_a_short_line(result: LabeledVideo) -> None:
    """Of 2000 frames in 500 points, the lowest count; frames without labels are gaps."""
    made = mm.Provenance(mm.ProvenanceKind.MODEL, "m")
    results = [mm.FrameResult(i) for i in range(2000)]
    for i in (*range(800), *range(1200, 2000)):
        sure = 0.125 if i == 1301 else 0.875
        results[i] = mm.FrameResult(i, (mm.Label(i, "1", "car", mm.State.VISIBLE, mm.Box(0, 0, 9, 9), sure, made),))
    text = LabeledVideo(mm.open_video(np.zeros((2000, 16, 16, 3), np.uint8)), results, result.model)._repr_html_()
    (path,) = re.findall(r'<path d="([^"]*)" fill="none"', text)
    assert path.count("M") == 2
    assert path.count("L") < 500
    heights = {float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", path)}
    assert len(heights) == 2


# --- label and train -------------------------------------------------------------------------------------------------


def test_every_kind_of_video_gives_the_same_labels(result: LabeledVideo, tmp_path: Path) -> None:
    """An array, an iterable, an open video and a folder of the same pixels, with labels in a list."""
    import cv2

    for index, image in enumerate(frames()):
        cv2.imwrite(str(tmp_path / f"{index}.png"), image[:, :, ::-1])
    with mm.open_video(tmp_path) as opened:
        found = [
            mm.label(video, seeds(), model=result.model).labels
            for video in (frames(), tiny_frames(COUNT), opened, str(tmp_path))
        ]
        assert not opened.is_closed
    assert found[0] == found[1] == found[2] == found[3]
    assert len(found[0]) == COUNT


def test_training_and_labeling_apart_is_label(tiny_module: object) -> None:
    """`train`, `save`, `load_model` and `label` with the model give what `label` gives."""
    model = mm.train(frames(), seeds(), effort=EFFORT)
    at_once = mm.label(frames(), seeds(), effort=EFFORT)
    assert at_once.model.manifest.version == model.manifest.version
    assert mm.label(frames(), seeds(), model=model).labels == at_once.labels


def test_a_saved_model_labels_without_seeds(result: LabeledVideo, tmp_path: Path) -> None:
    """By its folder, as text or path, on a video that it has never seen."""
    result.model.save(tmp_path / "model")
    flipped = frames()[::-1]
    by_path = mm.label(flipped, model=tmp_path / "model")
    assert by_path.frames_by_hand == ()
    assert by_path.labels == mm.label(flipped, model=str(tmp_path / "model")).labels
    assert mm.load_model(str(tmp_path / "model")).manifest == result.model.manifest
    with pytest.raises(mm.InvalidInput, match=r"model: .* settings of training"):
        mm.label(flipped, model=result.model, effort=0.5)
    with pytest.raises(mm.ModelError):
        mm.label(flipped, model=tmp_path / "nothing")


def test_bad_input_is_refused() -> None:
    """Settings before anything is opened; then the video, then the seeds."""
    with pytest.raises(mm.InvalidInput, match="effort"):
        mm.label("no.mp4", "no.jsonl", effort=0)
    with pytest.raises(mm.InvalidInput, match=r"no\.mp4"):
        mm.label("no.mp4", "no.jsonl")
    with pytest.raises(mm.FailedPrecondition):
        mm.label(frames())
    with pytest.raises(mm.InvalidInput, match=r"no\.jsonl"):
        mm.label(frames(), "no.jsonl")
    with pytest.raises(mm.OutOfRange):
        mm.train(frames(), seeds(99))
    with pytest.raises(mm.InvalidInput, match=r"seeds\[1\]: got 5; allowed: a Label or a FrameLabel"):
        mm.train(frames(), [*seeds(0), 5])  # type: ignore[list-item]
    with pytest.raises(mm.InvalidInput, match="seeds: got Label"):
        mm.train(frames(), seeds(0)[0])  # type: ignore[arg-type]


def test_a_result_can_be_corrected(result: LabeledVideo) -> None:
    """A label session takes model and labels as they are."""
    with mm.open_video(frames()) as video, mm.LabelSession(video, result.model, result.labels) as session:
        changes = list(session.correct(seeds(6), learn=False))
    assert changes[0].after == seeds(6)[0]


def test_frames_are_encoded_once_with_a_cache(result: LabeledVideo, tmp_path: Path) -> None:
    """A folder that is named is kept; otherwise nothing is left."""
    mm.label(frames(), model=result.model, cache_dir=str(tmp_path))
    assert len(list(tmp_path.glob("*/*.npz"))) == COUNT


# --- progress --------------------------------------------------------------------------------------------------------


class Terminal:
    """Standard error that says whether it is a terminal."""

    def __init__(self, is_terminal: bool) -> None:
        self.is_terminal = is_terminal
        self.text = ""

    def isatty(self) -> bool:
        return self.is_terminal

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass


@pytest.mark.parametrize("is_terminal", [True, False])
def test_progress_is_for_terminals(result: LabeledVideo, monkeypatch: pytest.MonkeyPatch, is_terminal: bool) -> None:
    """Bars in a terminal, silence elsewhere; True shows it anyway, False never, and a function gets the events."""
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal(is_terminal)
    monkeypatch.setattr(sys, "stderr", terminal)
    mm.label(frames(), model=result.model)
    assert ("labeling" in terminal.text) == terminal.is_terminal
    terminal.text = ""
    mm.label(frames(), model=result.model, progress=True)
    assert "24/24 frames" in terminal.text
    terminal.text = ""
    events: list[Any] = []
    mm.label(frames(), model=result.model, progress=False)
    mm.label(frames(), model=result.model, progress=events.append)
    assert terminal.text == ""
    assert [e.frames_done for e in events if isinstance(e, mm.PropagationProgress)] == list(range(1, COUNT + 1))


def test_an_error_of_the_callback_stops_the_work(result: LabeledVideo) -> None:
    """It comes out as it is."""

    def stop(event: mm.Event) -> None:
        if isinstance(event, mm.PropagationProgress):
            raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        mm.label(frames(), model=result.model, progress=stop)


def test_label_and_train_have_the_same_arguments() -> None:
    """All but the model."""
    label, train = (inspect.signature(f).parameters for f in (front_door.label, front_door.train))
    assert list(label) == [*list(train)[:2], "model", *list(train)[2:]]
    assert all(str(label[name]) == str(train[name]) for name in train if name != "seeds")
