"""The command line, with a fast stand-in for training and the real video, label, picture and report modules."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

from micromodels.errors import Cancelled, Diverged, ModelError
from micromodels.events import (
    ExperimentFinished,
    FlipBookPicture,
    PropagationProgress,
    Run,
    Stage,
    StageFinished,
    StopRequest,
    TrainingProgress,
    Warned,
)
from micromodels.label_files import read_labels
from micromodels.types import Box, FrameResult, Label, Provenance, ProvenanceKind, State
from micromodels.video import Video, open_video
from service.cli import app
from service.cli.batch import find_sources, model_digest
from service.cli.exits import ExitCode
from service.cli.progress import MAX_PICTURES, Display

FRAMES = 24
MODEL = Provenance(ProvenanceKind.MODEL, "stand-in")


# --- the stand-in ----------------------------------------------------------------------------------------------------


class StandInManifest:
    """A manifest of next to nothing."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {"recipe": "stand-in"}


class StandInModel:
    """Boxes that move as the square of `tiny_clip` does; anchors pass through."""

    manifest = StandInManifest()

    def save(self, folder: Path) -> None:
        """A folder with a manifest."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "manifest.json").write_text(json.dumps(self.manifest.to_dict()))

    def propagate(
        self, video: Video, anchors: list[Any], *, frames: range | None = None, run: Run
    ) -> Iterator[FrameResult]:
        """A box a frame; asks whether to stop before each."""
        assert not run.cache_dir or run.cache_dir == StandIn.asked["cache"], "what was encoded is to be used again"
        by_frame = {anchor.frame: anchor for anchor in anchors}
        count = video.table.frame_count
        for index, _ in video.frames():
            StandIn.at_frame(index)
            if run.should_stop() is StopRequest.CANCEL:
                raise Cancelled("as asked")
            box = Box(16 + 2 * index, 32, 48 + 2 * index, 64)
            label = Label(index, "1", "square", State.VISIBLE, box, 0.9, MODEL)
            run.on_event(PropagationProgress(index + 1, count, float(count - index)))
            yield FrameResult(index, (by_frame.get(index, label),))


class StandIn(ModuleType):
    """Stands for `micromodels.labeling`; tests change what it does."""

    MicroModel = StandInModel
    asked: dict[str, Any]
    error: Exception | None = None

    class TrainSettings:
        """What was asked for."""

        def __init__(self, recipe: str, experiments: int) -> None:
            StandIn.asked = {"recipe": recipe, "experiments": experiments}

    @staticmethod
    def at_frame(index: int) -> None:
        """Called before each frame of propagation."""

    @staticmethod
    def at_step(step: int) -> None:
        """Called before each step of training."""

    @staticmethod
    def train(video: Video, seeds: list[Any], settings: Any, *, run: Run) -> StandInModel:
        """Ten steps with all events there are."""
        StandIn.asked |= {"seeds": seeds, "device": run.device, "cache": run.cache_dir}
        run.on_event(StageFinished(Stage.ENCODE, 0.5))
        run.on_event(Warned("a warning [not markup]"))
        for step in range(10):
            StandIn.at_step(step)
            run.on_event(TrainingProgress(0, StandIn.asked["experiments"], step + 1, 10, 1 / (step + 1), 9.0 - step))
            image = np.full((48, 64, 3), 20 * step, np.uint8)
            run.on_event(FlipBookPicture(0, step, 3, image))
            if run.should_stop() is StopRequest.CANCEL:
                raise Cancelled
            if run.should_stop() is StopRequest.FINISH_EARLY:
                break
        if StandIn.error:
            raise StandIn.error
        run.on_event(ExperimentFinished(0, {"views": "36"}, 0.912, True, 1.5))
        return StandInModel()

    @staticmethod
    def load_model(folder: Path) -> StandInModel:
        """Refuses what has no manifest."""
        if not (folder / "manifest.json").exists():
            raise ModelError(f"{folder} is not a model")
        return StandInModel()


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> type[StandIn]:
    """Put the stand-in in the place of the real module, and take back what a test changes in it."""
    monkeypatch.setitem(sys.modules, "micromodels.labeling", StandIn("micromodels.labeling"))
    monkeypatch.setattr("micromodels.labeling", sys.modules["micromodels.labeling"], raising=False)
    for name in ("at_frame", "at_step", "error"):
        monkeypatch.setattr(StandIn, name, StandIn.__dict__[name])
    return StandIn


@pytest.fixture
def clip(tiny_clip: Path, tmp_path: Path) -> Path:
    """A copy of the tiny clip that a test may change."""
    folder = tmp_path / "clip"
    shutil.copytree(tiny_clip, folder)
    return folder


def micromodels(*arguments: object) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200", "TERM": "dumb"})


def label_clip(clip: Path, out: Path, *more: object) -> Result:
    """Label the tiny clip."""
    return micromodels("label", clip / "video.mp4", "--seeds", clip / "seeds.jsonl", "--out", out, *more)


# --- label -----------------------------------------------------------------------------------------------------------


def test_label_writes_every_file(clip: Path, tmp_path: Path, stand_in: type[StandIn]) -> None:
    """Labels of every frame in both forms, overlay, flip book, report, frame table and model; seeds unchanged."""
    out = tmp_path / "deep" / "out"
    result = label_clip(clip, out, "--recipe", "head", "--experiments", 2, "--device", "cpu")
    assert result.exit_code == ExitCode.OK, result.output
    assert stand_in.asked["recipe"] == "head"
    assert stand_in.asked["experiments"] == 2
    assert stand_in.asked["device"] == "cpu"
    assert stand_in.asked["cache"] is not None
    assert not stand_in.asked["cache"].exists()
    assert sorted(p.name for p in out.iterdir()) == sorted(
        ["labels.jsonl", "coco.json", "report.json", "overlay.mp4", "flipbook.png", "video.json", "model"]
    )
    labels = read_labels(out / "labels.jsonl", frame_count=FRAMES, width_px=128, height_px=96)
    assert [label.frame for label in labels] == list(range(FRAMES))
    seeds = read_labels(clip / "seeds.jsonl", frame_count=FRAMES)
    assert [label for label in labels if label.is_anchor] == seeds
    assert len(read_labels(out / "coco.json", frame_count=FRAMES, width_px=128, height_px=96)) == FRAMES
    with open_video(out / "overlay.mp4") as overlay:
        assert overlay.table.frame_count == FRAMES
        assert (overlay.table.width_px, overlay.table.height_px) == (128, 96)
    report = json.loads((out / "report.json").read_text())
    assert report["seeds"]["share_of_frames_drawn_by_hand"] == pytest.approx(3 / 24)
    assert report["frames"] == {"total": FRAMES, "labelled": FRAMES}
    assert report["experiments"][0]["score"] == 0.912
    assert report["model"] == {"recipe": "stand-in"}
    assert report["seconds"]["stages"]["write"] > 0
    assert report["seconds"]["first_label"] <= report["seconds"]["last_label"] <= report["seconds"]["total"]
    assert report["memory"]["peak_rss_of_largest_child_bytes"] > 0
    assert report["warnings"] == ["a warning [not markup]"]
    assert "a warning [not markup]" in result.stderr
    assert "score 0.912" in result.stderr
    assert "12.5 % of them drawn by hand" in result.stderr
    assert result.stdout == ""


def test_label_takes_coco_seeds_of_a_folder_of_frames(clip: Path, tmp_path: Path, stand_in: type[StandIn]) -> None:
    """Images are found by their names in the folder, wherever its numbers start; results are named likewise."""
    from PIL import Image

    frames = tmp_path / "frames"
    frames.mkdir()
    for index in range(3):
        Image.fromarray(np.full((96, 128, 3), 40 * index, np.uint8)).save(frames / f"img{index + 100}.png")
    seeds = tmp_path / "seeds.json"
    seeds.write_text(
        json.dumps(
            {
                "images": [{"id": 1, "file_name": "img101.png"}],
                "categories": [{"id": 1, "name": "square"}],
                "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}],
            }
        )
    )
    result = micromodels("label", frames, "--seeds", seeds, "--out", tmp_path / "out")
    assert result.exit_code == ExitCode.OK, result.output
    assert [seed.frame for seed in stand_in.asked["seeds"]] == [1]
    images = json.loads((tmp_path / "out" / "coco.json").read_text())["images"]
    assert [image["file_name"] for image in images] == ["img100.png", "img101.png", "img102.png"]


def test_predicted_labels_are_no_seeds(clip: Path, tmp_path: Path, stand_in: type[StandIn]) -> None:
    """A file that label has written can be corrected and given back: only hand labels count."""
    with (clip / "seeds.jsonl").open("a") as file:
        file.write('{"frame":5,"track":"1","class":"square","state":"uncertain","provenance":{"kind":"model"}}\n')
    result = label_clip(clip, tmp_path / "out")
    assert result.exit_code == ExitCode.OK, result.output
    assert [seed.frame for seed in stand_in.asked["seeds"]] == [0, 12, 23]
    assert "1 predicted labels of seeds.jsonl are left out" in result.stderr


def test_the_seeds_are_never_written_over(clip: Path, tmp_path: Path) -> None:
    """Results that would replace the file of the seeds are refused before anything is done."""
    seeds = clip / "labels.jsonl"
    (clip / "seeds.jsonl").rename(seeds)
    before = seeds.read_text()
    result = micromodels("label", clip / "video.mp4", "--seeds", seeds, "--out", clip)
    assert result.exit_code == ExitCode.INVALID
    assert "labels.jsonl would be replaced" in result.stderr
    assert seeds.read_text() == before


def test_ctrl_c_keeps_the_frames_that_are_done(clip: Path, tmp_path: Path, stand_in: type[StandIn]) -> None:
    """Exit code 130, and every file is there for the finished frames."""
    stand_in.at_frame = staticmethod(lambda index: os.kill(os.getpid(), signal.SIGINT) if index == 5 else None)  # type: ignore[method-assign]
    before = signal.getsignal(signal.SIGINT)
    out = tmp_path / "out"
    result = label_clip(clip, out)
    assert result.exit_code == ExitCode.STOPPED
    assert "what is finished is kept" in result.stderr
    assert "stopped after 5 of 24 frames" in result.stderr
    assert [label.frame for label in read_labels(out / "labels.jsonl", frame_count=FRAMES)] == list(range(5))
    with open_video(out / "overlay.mp4") as overlay:
        assert overlay.table.frame_count == 5
    report = json.loads((out / "report.json").read_text())
    assert report["stopped_by_user"] is True
    assert report["frames"] == {"total": FRAMES, "labelled": 5}
    assert signal.getsignal(signal.SIGINT) is before, "the handler is given back"


def test_ctrl_c_before_the_first_frame_leaves_no_labels(clip: Path, tmp_path: Path, stand_in: type[StandIn]) -> None:
    """In training there is nothing to keep."""
    stand_in.at_step = staticmethod(lambda step: os.kill(os.getpid(), signal.SIGINT))  # type: ignore[method-assign]
    result = label_clip(clip, tmp_path / "out")
    assert result.exit_code == ExitCode.STOPPED
    assert not (tmp_path / "out").exists()


def test_a_second_ctrl_c_quits_at_once(clip: Path, tmp_path: Path, stand_in: type[StandIn]) -> None:
    """Nothing half-written stays behind."""

    def twice(index: int) -> None:
        if index == 5:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    stand_in.at_frame = staticmethod(twice)  # type: ignore[method-assign]
    result = label_clip(clip, tmp_path / "out")
    assert result.exit_code == ExitCode.STOPPED
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["model", "video.json"]


def test_good_enough_ends_training_and_labels(clip: Path, tmp_path: Path, stand_in: type[StandIn]) -> None:
    """Ctrl-\\ (SIGQUIT) during training: the rest goes on as usual."""
    steps: list[int] = []

    def quit_at_three(step: int) -> None:
        steps.append(step)
        if step == 3:
            os.kill(os.getpid(), signal.SIGQUIT)

    stand_in.at_step = staticmethod(quit_at_three)  # type: ignore[method-assign]
    result = label_clip(clip, tmp_path / "out")
    assert result.exit_code == ExitCode.OK, result.output
    assert steps == [0, 1, 2, 3]
    assert "good enough" in result.stderr
    assert len(read_labels(tmp_path / "out" / "labels.jsonl", frame_count=FRAMES)) == FRAMES


# --- errors and exit codes -------------------------------------------------------------------------------------------


def test_errors_are_one_line_and_an_exit_code(clip: Path, tmp_path: Path, stand_in: type[StandIn]) -> None:
    """What is wrong and where, without a traceback; the kind of error is the exit code."""
    seeds, video = clip / "seeds.jsonl", clip / "video.mp4"
    out = ["--out", tmp_path / "out"]
    seeds_of_line_four = clip / "four.jsonl"
    seeds_of_line_four.write_text(seeds.read_text() + '{"frame":24,"track":"1","class":"square","state":"absent"}\n')
    result = micromodels("label", video, "--seeds", seeds_of_line_four, *out)
    assert result.exit_code == ExitCode.INVALID
    assert result.stderr.endswith("error: line 4: frame: got 24; allowed: 0 to 23; the video has 24 frames\n")
    result = micromodels("label", clip / "none.mp4", "--seeds", seeds, *out)
    assert result.exit_code == ExitCode.INVALID
    result = micromodels("label", seeds, "--seeds", seeds, *out)
    assert result.exit_code == ExitCode.VIDEO, result.output
    stand_in.error = Diverged("the loss became NaN in step 7")
    result = micromodels("label", video, "--seeds", seeds, *out)
    assert result.exit_code == ExitCode.TRAINING
    assert "error: the loss became NaN in step 7" in result.stderr
    result = micromodels("batch", video, "--model", tmp_path, *out)
    assert result.exit_code == ExitCode.INVALID
    assert "is not a model" in result.stderr
    assert not (tmp_path / "out").exists()


def test_the_base_install_says_what_it_lacks() -> None:
    """The light client brings the command but not what it needs: one line, exit code 2, no traceback."""
    code = "import sys; sys.modules['typer'] = None; from service.main import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: the command needs more than the light client: pip install 'micromodels[server]' (typer is missing)"
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ["label"],
        ["label", "x.mp4", "--out", "y"],
        ["label", "x.mp4", "--seeds", "s.jsonl", "--out", "y", "--device", "tpu"],
        ["label", "x.mp4", "--seeds", "s.jsonl", "--out", "y", "--experiments", "0"],
        ["batch", "--model", "m", "--out", "y"],
        ["export", "x", "--format", "voc", "--out", "y"],
        ["serve", "--data", "x", "--port", "70000"],
        ["nonsense"],
    ],
)
def test_wrong_usage_has_exit_code_2(arguments: list[str]) -> None:
    """As every command line does."""
    assert micromodels(*arguments).exit_code == ExitCode.INVALID


def test_a_folder_that_cannot_be_made_is_an_error_of_the_system(clip: Path) -> None:
    """Exit code 1 and the name, without a traceback."""
    result = label_clip(clip, clip / "video.mp4" / "out")
    assert result.exit_code == ExitCode.UNEXPECTED
    assert "Not a directory" in result.stderr
    assert "video.mp4" in result.stderr


# --- train and batch -------------------------------------------------------------------------------------------------


@pytest.fixture
def model(clip: Path, tmp_path: Path) -> Path:
    """A trained model."""
    folder = tmp_path / "model"
    result = micromodels("train", clip / "video.mp4", "--seeds", clip / "seeds.jsonl", "--out", folder)
    assert result.exit_code == ExitCode.OK, result.output
    assert "model saved" in result.stderr
    return folder


@pytest.fixture
def archive(clip: Path, tmp_path: Path) -> Path:
    """A clip under two names, a broken one, a folder of frames and a text file."""
    folder = tmp_path / "archive"
    (folder / "b").mkdir(parents=True)
    shutil.copy(clip / "video.mp4", folder / "a.mp4")
    shutil.copy(clip / "video.mp4", folder / "b" / "again.mp4")
    (folder / "b" / "broken.mp4").write_bytes((clip / "video.mp4").read_bytes()[:500])
    (folder / "notes.txt").write_text("x")
    frames = folder / "frames"
    frames.mkdir()
    from PIL import Image

    for index in range(4):
        Image.fromarray(np.full((96, 128, 3), 40 * index, np.uint8)).save(frames / f"{index}.png")
    return folder


def test_batch_labels_an_archive_and_goes_on_past_failures(archive: Path, model: Path, tmp_path: Path) -> None:
    """Files, folders and frames; the broken file is reported; the exit code says so."""
    out = tmp_path / "out"
    result = micromodels("batch", archive, "--model", model, "--out", out)
    assert result.exit_code == ExitCode.PARTIAL, result.output
    assert "3 done, 0 skipped, 1 failed" in result.stderr
    files = {Path(f["source"]).name: f for f in json.loads((out / "batch.json").read_text())["files"]}
    assert {name: f["state"] for name, f in files.items()} == {
        "a.mp4": "done",
        "again.mp4": "done",
        "broken.mp4": "failed",
        "frames": "done",
    }
    folder = out / files["a.mp4"]["folder"]
    assert sorted(p.name for p in folder.iterdir()) == [
        "coco.json",
        "done.json",
        "labels.jsonl",
        "report.json",
        "video.json",
    ]
    assert len(read_labels(folder / "labels.jsonl", frame_count=FRAMES)) == FRAMES
    assert files["broken.mp4"]["error"]


def test_batch_run_again_does_only_what_is_left(
    archive: Path, model: Path, tmp_path: Path, stand_in: type[StandIn]
) -> None:
    """Done files are skipped, a stop keeps them, another model labels anew, and drawings are made on request."""
    out = tmp_path / "out"
    (archive / "b" / "broken.mp4").unlink()
    (archive / "b" / "again.mp4").unlink()
    arguments = ["batch", archive / "*.mp4", archive / "frames", "--model", model, "--out", out]
    started: list[int] = []

    def stop_in_second(index: int) -> None:
        started.append(index)
        if len(started) == FRAMES + 2:
            os.kill(os.getpid(), signal.SIGINT)

    stand_in.at_frame = staticmethod(stop_in_second)  # type: ignore[method-assign]
    result = micromodels(*arguments)
    assert result.exit_code == ExitCode.STOPPED, result.output
    assert "1 done, 0 skipped, 0 failed" in result.stderr
    assert "the same command goes on from here" in result.stderr
    assert len(list(out.glob("*/done.json"))) == 1
    assert len(list(out.glob("*/labels.jsonl"))) == 1, "the file in work is not kept"
    stand_in.at_frame = staticmethod(lambda index: None)  # type: ignore[method-assign]
    result = micromodels(*arguments)
    assert result.exit_code == ExitCode.OK, result.output
    assert "1 done, 1 skipped, 0 failed" in result.stderr
    (model / "weights.bin").write_bytes(b"new")
    next(out.glob("*/done.json")).write_text("{damaged")
    result = micromodels(*arguments, "--overlay")
    assert "2 done, 0 skipped, 0 failed" in result.stderr
    assert len(list(out.glob("*/overlay.mp4"))) == 2


def test_an_unexpected_error_ends_one_file_only(archive: Path, model: Path, tmp_path: Path, stand_in: Any) -> None:
    """A fault of ours in one file is reported with its kind."""

    def fail(index: int) -> None:
        raise ZeroDivisionError("no")

    stand_in.at_frame = staticmethod(fail)
    result = micromodels("batch", archive / "a.mp4", archive / "frames", "--model", model, "--out", tmp_path / "out")
    assert result.exit_code == ExitCode.PARTIAL
    assert "unexpected ZeroDivisionError: no" in result.stderr
    assert "0 done, 0 skipped, 2 failed" in result.stderr


def test_sources_are_found_below_folders_and_by_patterns(archive: Path, tmp_path: Path) -> None:
    """Each once and in order; nothing hidden, nothing of the output folder; what stands for nothing is refused."""
    (archive / ".hidden.mp4").touch()
    (archive / "out").mkdir()
    (archive / "out" / "overlay.mp4").touch()
    found = find_sources([str(archive), str(archive / "a.mp4")], archive / "out")
    names = [str(p.relative_to(archive)) for p in found]
    assert names == ["a.mp4", "b/again.mp4", "b/broken.mp4", "frames"]
    assert len(find_sources([str(archive / "**" / "*.mp4")], archive / "out")) == 4
    assert find_sources([str(archive / "frames")], tmp_path) == [archive / "frames"]
    (tmp_path / "empty").mkdir()
    for nothing in (tmp_path / "none.mp4", tmp_path / "*.avi", tmp_path / "empty"):
        result = micromodels("batch", nothing, "--model", tmp_path, "--out", tmp_path / "o")
        assert result.exit_code == ExitCode.INVALID
        assert nothing.name in result.stderr


def test_a_models_digest_follows_names_and_bytes(tmp_path: Path) -> None:
    """A changed, added or renamed file is another model."""
    (tmp_path / "a").write_bytes(b"1")
    first = model_digest(tmp_path)
    assert model_digest(tmp_path) == first
    (tmp_path / "a").write_bytes(b"2")
    second = model_digest(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert len({first, second, model_digest(tmp_path)}) == 3


# --- export and inspect ----------------------------------------------------------------------------------------------


def test_export_writes_every_form(clip: Path, tmp_path: Path) -> None:
    """From a folder of results to COCO and masks, and from COCO back to the same lines."""
    out = tmp_path / "out"
    label_clip(clip, out)
    for format, name in (("coco", "x.json"), ("jsonl", "x.jsonl"), ("masks", "masks")):
        result = micromodels("export", out, "--format", format, "--out", tmp_path / "exports" / name)
        assert result.exit_code == ExitCode.OK, result.output
    exports = tmp_path / "exports"
    assert (exports / "x.jsonl").read_text() == (out / "labels.jsonl").read_text()
    assert (exports / "x.json").read_text() == (out / "coco.json").read_text()
    assert len(list((exports / "masks").glob("*.png"))) == FRAMES
    result = micromodels("export", exports / "x.json", "--format", "jsonl", "--out", exports / "y.jsonl")
    assert result.exit_code == ExitCode.OK, result.output
    assert (exports / "y.jsonl").read_text() == (out / "labels.jsonl").read_text()
    seeds = clip / "seeds.jsonl"
    result = micromodels("export", seeds, "--format", "coco", "--out", exports / "z.json")
    assert result.exit_code == ExitCode.INVALID
    assert "--source" in result.stderr
    result = micromodels(
        "export", seeds, "--format", "coco", "--out", exports / "z.json", "--source", clip / "video.mp4"
    )
    assert result.exit_code == ExitCode.OK, result.output
    assert len(read_labels(exports / "z.json", frame_count=FRAMES)) == 3


def test_export_refuses_to_write_over_its_input(clip: Path) -> None:
    """And refuses a damaged frame table."""
    seeds = clip / "seeds.jsonl"
    before = seeds.read_text()
    assert micromodels("export", seeds, "--format", "jsonl", "--out", seeds).exit_code == ExitCode.INVALID
    assert seeds.read_text() == before
    (clip / "video.json").write_text("[1]")
    result = micromodels("export", seeds, "--format", "coco", "--out", clip / "z.json")
    assert result.exit_code == ExitCode.INVALID


def test_inspect_shows_the_frame_table(clip: Path) -> None:
    """For people, with a line a frame on request, and as JSON that gives the table back."""
    from micromodels.video import FrameTable

    result = micromodels("inspect", clip / "video.mp4")
    assert result.exit_code == ExitCode.OK, result.output
    for words in ("frames", "24", "128 x 96", "h264", "12.000 frames a second, even", "rotation", "time base"):
        assert words in result.stdout
    result = micromodels("inspect", clip / "video.mp4", "--frames")
    assert result.stdout.rstrip().splitlines()[-1].startswith("23\t")
    result = micromodels("inspect", clip / "video.mp4", "--json")
    table = FrameTable.from_dict(json.loads(result.stdout))
    assert table.frame_count == FRAMES


def test_inspect_shows_warnings_and_refuses_what_is_no_video(clip: Path) -> None:
    """A damaged file says so."""
    result = micromodels("inspect", clip / "seeds.jsonl")
    assert result.exit_code == ExitCode.VIDEO
    assert result.stdout == ""


def test_serve_starts_the_server_and_says_where(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Options reach the server; its address is a line of standard output, for programs; its errors are exit codes."""
    from service.errors import StorageFailure

    server = ModuleType("service.server")
    asked: dict[str, Any] = {}

    def serve(*, on_ready: Any, on_page: Any, **options: Any) -> None:
        asked.update(options)
        on_ready("127.0.0.1:4711")
        on_page("http://127.0.0.1:4712/")
        if asked["port"] == 1:
            raise StorageFailure("the disk is gone")

    server.serve = serve  # type: ignore[attr-defined]
    server.DEFAULT_PAGE_PORT = 8080  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "service.server", server)
    result = micromodels("serve", "--data", tmp_path, "--port", 0, "--allow-root", "/a", "--allow-root", "/b")
    assert result.exit_code == ExitCode.OK, result.output
    assert result.stdout == "127.0.0.1:4711\nhttp://127.0.0.1:4712/\n"
    assert callable(asked.pop("on_notice"))
    assert asked == {
        "data_dir": tmp_path,
        "host": "127.0.0.1",
        "port": 0,
        "page_port": 0,
        "allowed_roots": (Path("/a"), Path("/b")),
    }
    micromodels("serve", "--no-page")
    assert asked["page_port"] is None
    result = micromodels("serve", "--port", 1)
    assert asked["page_port"] == 8080
    assert asked["data_dir"] is None
    assert result.exit_code == ExitCode.UNEXPECTED
    assert "error: the disk is gone" in result.stderr


# --- the display -----------------------------------------------------------------------------------------------------


def test_the_display_moves_bars_in_a_terminal() -> None:
    """Loss, steps, experiments, time left and scores are shown; pictures of the kept experiment are collected."""
    from io import StringIO

    from rich.console import Console

    screen = StringIO()
    with Display(Console(file=screen, force_terminal=True, width=160)) as display:
        display.on_event(TrainingProgress(1, 3, 120, 250, 0.4321, 75.0))
        display.on_event(PropagationProgress(40, 80, 9000.0))
        for experiment in (0, 1):
            for step in (0, 50):
                display.on_event(FlipBookPicture(experiment, step, 8, np.zeros((4, 4, 3), np.uint8)))
            display.on_event(ExperimentFinished(experiment, {"views": "36"}, None, experiment == 1, 12.3))
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
    for words in ("training 2 of 3", "120/250", "loss 0.432", "1 min left", "40/80 frames", "2.5 h left", "48%"):
        assert words in text
    assert "no score · kept" in text
    assert [p.experiment for p in display.pictures] == [1, 1]


def test_flip_book_pictures_are_thinned_when_there_are_many() -> None:
    """First and last step stay."""
    from io import StringIO

    from rich.console import Console

    display = Display(Console(file=StringIO()))
    image = np.zeros((2, 2, 3), np.uint8)
    for step in range(5 * MAX_PICTURES):
        display.on_event(FlipBookPicture(0, step, 0, image))
    steps = [p.step for p in display.pictures]
    assert len(steps) <= MAX_PICTURES
    assert steps[0] == 0
    assert steps[-1] == 5 * MAX_PICTURES - 1


# --- help and documentation ------------------------------------------------------------------------------------------

TOP: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
COMMANDS: dict[str, Any] = {
    f"{group} {name}".strip(): command
    for top, outer in TOP.items()
    for group, inner in [(top, outer.commands) if hasattr(outer, "commands") else ("", {top: outer})]
    for name, command in inner.items()
}
"""Those of a group by the names of both."""


def options(command: Any) -> list[str]:
    """Long names of a command's options."""
    return [name for p in command.params for name in p.opts if name.startswith("--") and name != "--help"]


def test_the_commands_are_those_that_users_were_promised() -> None:
    """And the application itself explains how to stop and what exit codes mean."""
    promised = "audit backup batch certificate doctor export inspect label report restore role serve token train"
    assert sorted(TOP) == promised.split()
    shown = " ".join(micromodels("--help").output.split())
    for words in ("Ctrl-C", "Ctrl-\\", "130 stopped", "5 some files of a batch failed", *TOP):
        assert words in shown
    assert micromodels("--version").output.startswith("micromodels ")
    assert micromodels().output.split() == micromodels("--help").output.split()


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_documents_every_command(name: str) -> None:
    """What it does, each option with words of its own, and the exit codes."""
    command = COMMANDS[name]
    result = micromodels(*name.split(), "--help")
    assert result.exit_code == ExitCode.OK
    assert "Exit codes" in micromodels(name.split()[0], "--help").output
    assert len(command.help.split()) > 8
    for parameter in command.params:
        if "--help" not in parameter.opts:
            assert len(parameter.help.split()) > 3, f"{parameter.name} has no help"
    for option in options(command):
        assert option in result.output


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_the_documentation_has_every_command_and_option(name: str, repository: Path) -> None:
    """docs/command-line.md has a section a command that names its options; nothing there is made up."""
    text = (repository / "docs" / "command-line.md").read_text(encoding="utf-8")
    sections = {part.split("\n", 1)[0]: part for part in text.split("\n## micromodels ")[1:]}
    assert sorted(sections) == sorted(COMMANDS)
    assert set(re.findall(r"--[a-z][a-z-]+", sections[name])) >= set(options(COMMANDS[name]))
    known = {o for command in COMMANDS.values() for o in options(command)}
    assert set(re.findall(r"--[a-z][a-z-]+", sections[name])) <= known
    for code in ExitCode:
        assert f"| {code.value} |" in text


def test_the_documentation_of_labels_is_right(repository: Path) -> None:
    """Every example line in docs/label-format.md is read, and fits the schema."""
    from jsonschema import Draft202012Validator

    from micromodels.label_files import SCHEMA_PATH, label_from_dict

    text = (repository / "docs" / "label-format.md").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in re.findall(r'^\{"frame".*\}$', text, re.MULTILINE)]
    schema = Draft202012Validator(json.loads(SCHEMA_PATH.read_text()))
    assert len(lines) == 6
    for line in lines:
        schema.validate(line)
        label_from_dict(line)
    properties = json.loads(SCHEMA_PATH.read_text())["$defs"]["objectLabel"]["properties"]
    for key in properties:
        assert f"| `{key}` |" in text


def test_help_is_fast_and_loads_nothing_heavy() -> None:
    """Neither torch nor numpy; and OpenMP is told to wait politely before torch can be imported."""
    code = (
        "import os, sys; os.environ.pop('OMP_WAIT_POLICY', None); import service.cli;"
        "heavy = {'torch', 'numpy', 'cv2', 'av', 'onnxruntime', 'grpc', 'sqlalchemy'} & set(sys.modules);"
        "print(os.environ['OMP_WAIT_POLICY'], heavy or 'light')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "PASSIVE light"


def test_backup_and_restore(tmp_path: Path) -> None:
    """A data folder goes into a backup and comes back elsewhere; a restore over anything is refused with code 2."""
    from micromodels.types import Ontology
    from service.settings import Settings
    from service.store import Store

    with Store.open(Settings(data_dir=tmp_path / "data")) as store:
        project = store.projects.create("Kept", Ontology())
        done = micromodels("backup", str(tmp_path / "backup"), "--data", str(tmp_path / "data"))  # while it is open
    assert done.exit_code == 0, done.output
    done = micromodels("restore", str(tmp_path / "backup"), "--data", str(tmp_path / "new"))
    assert done.exit_code == 0, done.output
    with Store.open(Settings(data_dir=tmp_path / "new")) as store:
        assert store.projects.get(project.project_id) == project
    assert micromodels("restore", str(tmp_path / "backup"), "--data", str(tmp_path / "new")).exit_code != 0


def test_a_notice_is_shown_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hex digits between colons are no emoji: a fingerprint with `:CD:` in it stays one."""
    server = ModuleType("service.server")
    server.DEFAULT_PORT = server.DEFAULT_PAGE_PORT = 1  # type: ignore[attr-defined]
    server.serve = lambda **options: options["on_notice"]("SHA-256 AB:CD:EF:A0")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "service.server", server)
    assert "AB:CD:EF:A0" in micromodels("serve", "--data", tmp_path).stderr
