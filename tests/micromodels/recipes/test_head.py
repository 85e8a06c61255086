"""The recipe ``head`` from seeds to labels, its files, and what files from outside are refused for."""

from __future__ import annotations

import json
import shutil
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch

from micromodels.errors import Cancelled, FailedPrecondition, InvalidInput, MicromodelsError, ModelError
from micromodels.labels.geometry import iou, mask_iou
from micromodels.recipes.base import TrainSettings, label_video, load_model, train
from micromodels.recipes.head import training
from micromodels.recipes.head.model import DenseModel
from micromodels.recipes.manifest import MANIFEST_FILE
from micromodels.runtime.run import (
    Event,
    ExperimentFinished,
    PropagationProgress,
    Run,
    Stage,
    StageFinished,
    StopRequest,
    TrainingProgress,
)
from micromodels.training.hyperparameter_search import DenseSettings, Trial, _box_overlap
from micromodels.types import (
    AnyLabel,
    Box,
    FrameLabel,
    FrameResult,
    Label,
    Mask,
    ObjectClass,
    Ontology,
    Provenance,
    ProvenanceKind,
    ShapeKind,
    State,
)
from tests.micromodels.doubles import HEIGHT, WIDTH, MemoryVideo, Recorder, Rgb, box_mask, scene, seed, square

FRAMES = 14
QUICK = TrainSettings(effort=0.02)
WEIGHTS, GRAPH = "head.safetensors", "head.onnx"


def video() -> MemoryVideo:
    return MemoryVideo(scene(FRAMES, blue=True))


def seeds(kind: ShapeKind = ShapeKind.MASK) -> list[AnyLabel]:
    """The red square on two frames, and whether the picture is dark."""
    return [
        seed(2, kind),
        seed(11, kind),
        seed(2, kind, "2", Box(100, 66, 124, 90)),
        FrameLabel(2, "dark", False),
        FrameLabel(9, "dark", False),
    ]


@pytest.fixture(scope="module")
def model(tiny_module: object) -> DenseModel:
    """Trained once for this module on two tracks and one frame class."""
    trained = train(video(), seeds(), TrainSettings(effort=0.2), run=Recorder().run)
    assert isinstance(trained, DenseModel)
    return trained


@pytest.fixture(scope="module")
def results(model: DenseModel) -> list[FrameResult]:
    """What it says of the video with the seeds as anchors."""
    return list(model.propagate(video(), seeds(), run=Recorder().run))


@pytest.fixture(scope="module")
def saved(model: DenseModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    model.save(folder)
    return folder


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    """A saved model to be tampered with."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def test_two_tracks_of_one_class_are_followed_apart(results: list[FrameResult]) -> None:
    """Each track has a mask of its own on every frame, on the right square."""
    assert [r.frame for r in results] == list(range(FRAMES))
    corner = box_mask(Box(100, 66, 124, 90))
    for result in results:
        red, blue = result.labels
        assert (red.track, blue.track) == ("1", "2")
        assert red.object_class == blue.object_class == "square"
        assert isinstance(red.shape, Mask)
        assert isinstance(blue.shape, Mask)
        assert mask_iou(red.shape.to_array(), box_mask(square(result.frame))) > 0.6, result.frame
        assert mask_iou(blue.shape.to_array(), corner) > 0.6, result.frame
        assert not (red.shape.to_array() & blue.shape.to_array()).any() or red.is_anchor or blue.is_anchor


def test_anchors_pass_through_unchanged(results: list[FrameResult]) -> None:
    """Every seed is among the results of its frame; all else is the model's and carries its version."""
    for label in seeds():
        assert label in results[label.frame].all()
    given = seeds()
    for result in results:
        for label in result.all():
            if label not in given:
                assert label.provenance.kind is ProvenanceKind.MODEL
                assert label.confidence is not None


def test_saved_models_label_as_before(model: DenseModel, saved: Path, results: list[FrameResult]) -> None:
    """Save, load, propagate: identical labels, identical manifest."""
    loaded = load_model(saved)
    assert loaded.manifest == model.manifest
    assert list(loaded.propagate(video(), seeds(), run=Recorder().run)) == results


def test_a_model_labels_a_video_without_anchors(saved: Path) -> None:
    """An archive clip that it has never seen: every frame and track, nothing human."""
    archive = MemoryVideo(scene(6, speed=4, blue=True), "f" * 64)
    labeled = list(load_model(saved).propagate(archive, [], run=Recorder().run))
    assert [r.frame for r in labeled] == list(range(6))
    assert all(len(r.labels) == 2 and len(r.frame_labels) == 1 for r in labeled)
    assert not any(label.is_anchor for r in labeled for label in r.all())


def test_a_range_of_frames_is_labeled_with_progress(model: DenseModel) -> None:
    """Only the frames that were asked for, and progress that ends at their number."""
    recorder = Recorder()
    labeled = list(model.propagate(video(), seeds(), frames=range(4, 9), run=recorder.run))
    assert [r.frame for r in labeled] == [4, 5, 6, 7, 8]
    progress = [e for e in recorder.events if isinstance(e, PropagationProgress)]
    assert [(e.frames_done, e.frames_total) for e in progress] == [(i, 5) for i in range(1, 6)]


def test_saving_writes_the_three_files_of_the_format(saved: Path) -> None:
    """Safetensors, ONNX and a manifest that is JSON; nothing else."""
    assert {p.name for p in saved.iterdir()} == {WEIGHTS, GRAPH, MANIFEST_FILE}
    manifest = json.loads((saved / MANIFEST_FILE).read_text(encoding="utf-8"))
    assert manifest["recipe"] == "head"
    assert [t["track"] for t in manifest["tracks"]] == ["1", "2"]
    assert manifest["frame_classes"] == ["dark"]
    assert manifest["seed_frames"] == [2, 9, 11]
    assert manifest["video"] == "0" * 64


def test_the_graph_agrees_with_the_head(model: DenseModel, saved: Path) -> None:
    """The ONNX head and the torch head give the same logits on random features of another size."""
    head = model._head
    assert head is not None
    rng = np.random.default_rng(0)
    shapes = [(1, level.channels, 160 // level.stride, 224 // level.stride) for level in head.settings.levels]
    features = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    session = ort.InferenceSession(str(saved / GRAPH), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {f"level{i}": maps for i, maps in enumerate(features)})
    with torch.inference_mode():
        expected = head.eval()([torch.from_numpy(maps) for maps in features]).logits.numpy()
    assert logits.shape == expected.shape == (1, 3, 80, 112)
    assert np.abs(logits - expected).max() < 1e-3


def edit(folder: Path, **changes: object) -> None:
    path = folder / MANIFEST_FILE
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def pickled(folder: Path) -> None:
    torch.save({"head.x": torch.zeros(1)}, folder / WEIGHTS)


def flipped(folder: Path) -> None:
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-3] ^= 1
    (folder / WEIGHTS).write_bytes(content)


def huge_header(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", 1 << 60) + content[8:])


def lying_offsets(folder: Path) -> None:
    header = json.dumps({"head.x": {"dtype": "F32", "shape": [1000], "data_offsets": [0, 4000]}}).encode()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 4)


def truncated(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


TRACK = {"track": "1", "object_class": "square", "shape": "mask"}

TAMPERED: dict[str, Callable[[Path], object]] = {
    "one bit of the weights": flipped,
    "a pickle": pickled,
    "header longer than the file": huge_header,
    "offsets past the end": lying_offsets,
    "half of the weights": truncated,
    "no weights": lambda folder: (folder / WEIGHTS).unlink(),
    "weights are a folder": lambda folder: ((folder / WEIGHTS).unlink(), (folder / WEIGHTS).mkdir()),
    "no manifest": lambda folder: (folder / MANIFEST_FILE).unlink(),
    "manifest is no JSON": lambda folder: (folder / MANIFEST_FILE).write_text("{", encoding="utf-8"),
    "manifest is no text": lambda folder: (folder / MANIFEST_FILE).write_bytes(b"\xff\xfe"),
    "manifest is a list": lambda folder: (folder / MANIFEST_FILE).write_text("[]", encoding="utf-8"),
    "deep manifest": lambda folder: (folder / MANIFEST_FILE).write_text("[" * 100_000, encoding="utf-8"),
    "large manifest": lambda folder: (folder / MANIFEST_FILE).write_text(" " * (5 << 20), encoding="utf-8"),
    "another key": lambda folder: edit(folder, hooks=[]),
    "another format": lambda folder: edit(folder, format=99),
    "another recipe": lambda folder: edit(folder, recipe="os"),
    "another version": lambda folder: edit(folder, version="0" * 12),
    "another encoder": lambda folder: edit(folder, encoder_weights="lite0-0000000000"),
    "a track less": lambda folder: edit(folder, tracks=[TRACK]),
    "a track more": lambda folder: edit(folder, tracks=[TRACK] * 3),
    "tracks of numbers": lambda folder: edit(folder, tracks=[1, 2]),
    "an unknown shape": lambda folder: edit(folder, tracks=[{**TRACK, "shape": "cube"}] * 2),
    "boxes that were masks": lambda folder: edit(folder, tracks=[{**TRACK, "shape": "box"}] * 2),
    "a frame class more": lambda folder: edit(folder, frame_classes=["dark", "wet"]),
    "no width": lambda folder: edit(folder, settings={}),
    "a width of words": lambda folder: edit(folder, settings={"width": "wide"}),
    "another width": lambda folder: edit(folder, settings={"width": 7}),
}


@pytest.mark.parametrize("tamper", TAMPERED.values(), ids=TAMPERED.keys())
def test_tampered_models_are_refused(copy: Path, tiny: None, tamper: Callable[[Path], object]) -> None:
    """Damaged weights, pickles, lying headers and manifests that do not fit are model errors, nothing else."""
    tamper(copy)
    with pytest.raises(ModelError):
        load_model(copy)


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    """An empty folder and one that is not there."""
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ModelError, match=r"manifest\.json"):
            load_model(folder)


def test_box_seeds_give_boxes(tiny: None, tmp_path: Path) -> None:
    """A box task labels with boxes, its graph has the sides as an output, and it comes back from disk."""
    boxes = [seed(f, ShapeKind.BOX) for f in (0, 6, 13)]
    trained = train(video(), boxes, TrainSettings(effort=0.15), run=Recorder().run)
    labeled = list(trained.propagate(video(), boxes, run=Recorder().run))
    overlaps = []
    for result in labeled:
        (label,) = result.labels
        overlaps.append(iou(label.shape, square(result.frame), (HEIGHT, WIDTH)))
    assert np.mean(overlaps) > 0.7
    trained.save(tmp_path / "model")
    session = ort.InferenceSession(str(tmp_path / "model" / GRAPH), providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == ["logits", "sides"]
    again = load_model(tmp_path / "model")
    assert list(again.propagate(video(), boxes, run=Recorder().run)) == labeled


def test_frame_classes_alone_need_no_head(tiny: None, tmp_path: Path) -> None:
    """A task without objects trains a classifier only, labels every frame with it, and is saved without a graph."""
    pictures: list[Rgb] = [p if i < 8 else (p // 6).astype(np.uint8) for i, p in enumerate(scene(16))]
    said: list[AnyLabel] = [FrameLabel(2, "dark", False), FrameLabel(12, "dark", True)]
    trained = train(MemoryVideo(pictures), said, QUICK, run=Recorder().run)
    labeled = list(trained.propagate(MemoryVideo(pictures), said, run=Recorder().run))
    assert all(r.labels == () for r in labeled)
    assert [r.frame_labels[0].present for r in labeled[:7]] == [False] * 7
    assert [r.frame_labels[0].present for r in labeled[9:]] == [True] * 7
    trained.save(tmp_path / "model")
    assert not (tmp_path / "model" / GRAPH).exists()
    again = load_model(tmp_path / "model")
    assert list(again.propagate(MemoryVideo(pictures), said, run=Recorder().run)) == labeled


def test_absent_seeds_teach_absence(tiny: None) -> None:
    """The square is gone in the second half; one human label of that is enough, and comes back as it was."""
    pictures = [*scene(8), *[scene(1)[0].copy() for _ in range(8)]]
    for picture in pictures[8:]:
        picture[box_mask(square(0))] = (90, 90, 90)
    said: list[AnyLabel] = [seed(0), seed(7), Label(12, "1", "square", State.ABSENT)]
    labeled = list(label_video(MemoryVideo(pictures), said, TrainSettings(effort=0.15), run=Recorder().run))
    assert labeled[12].labels == (said[2],)
    assert {r.labels[0].state for r in labeled[1:7]} == {State.VISIBLE}
    assert {r.labels[0].state for r in labeled[10:]} == {State.ABSENT}


def test_stopping_early_still_gives_a_model(tiny: None) -> None:
    """After "good enough" nothing more is trained, and the model labels every frame."""
    recorder = Recorder(StopRequest.FINISH_EARLY, at=12)
    trained = train(video(), [seed(2)], TrainSettings(effort=0.3), run=recorder.run)
    steps = sum(isinstance(e, TrainingProgress) for e in recorder.events)
    assert steps <= 12
    assert len(list(trained.propagate(video(), [seed(2)], run=Recorder().run))) == FRAMES


@pytest.mark.parametrize("at", [0, 3, 8])
def test_cancelling_training_raises(tiny: None, at: int) -> None:
    """Among the views, at the first steps: training ends with ``Cancelled``."""
    with pytest.raises(Cancelled):
        train(video(), [seed(2)], QUICK, run=Recorder(StopRequest.CANCEL, at).run)


def test_cancelling_propagation_keeps_what_came_before(model: DenseModel) -> None:
    """Results that were given out stay; the next one raises."""
    recorder = Recorder(StopRequest.CANCEL, at=4)
    with pytest.raises(Cancelled):
        list(model.propagate(video(), seeds(), run=recorder.run))


def test_experiments_are_compared_on_a_held_out_seed(tiny: None) -> None:
    """Two experiments report a score each, one of them is kept, and its score is in the manifest."""
    recorder = Recorder()
    trained = train(video(), [seed(2), seed(11)], TrainSettings(experiments=2, effort=0.02), run=recorder.run)
    finished = [e for e in recorder.events if isinstance(e, ExperimentFinished)]
    assert [e.experiment for e in finished] == [0, 1]
    assert [e.kept for e in finished].count(True) == 1
    (kept,) = (e for e in finished if e.kept)
    assert kept.score == trained.manifest.metrics["leave_one_seed_out"] == max(e.score or 0 for e in finished)
    last = [e for e in recorder.events if isinstance(e, TrainingProgress)][-1]
    assert last.step == last.steps - 1


def test_the_worse_half_of_the_experiments_is_given_up(tiny: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five experiments last one, two and three rounds; who lasts longest wins, whatever others scored before."""
    asked: list[tuple[int, float]] = []
    score_of = {0: [0.9, 0.1], 1: [0.2], 2: [0.8, 0.3, 0.5], 3: [0.7, 0.6, 0.4], 4: [0.1]}

    def advance(self: Trial, share: float, clock: Any, run: Run) -> None:
        asked.append((self.number, share))
        self.steps += self.steps_until(share)
        self.score = score_of[self.number].pop(0)

    monkeypatch.setattr(Trial, "advance", advance)
    recorder = Recorder()
    trained = train(video(), [seed(2), seed(11)], TrainSettings(experiments=5, effort=0.02), run=recorder.run)
    rounds = {share: sorted(number for number, at in asked if at == share) for _, share in asked}
    assert rounds == {0.125: [0, 1, 2, 3, 4], 0.25: [0, 2, 3], 0.5: [2, 3]}
    finished = {e.experiment: e for e in recorder.events if isinstance(e, ExperimentFinished)}
    assert [number for number, event in finished.items() if event.kept] == [2]
    assert {number: event.score for number, event in finished.items()} == {0: 0.1, 1: 0.2, 2: 0.5, 3: 0.4, 4: 0.1}
    assert trained.manifest.metrics["leave_one_seed_out"] == 0.5


def test_experiments_run_at_once_and_report_in_one_thread(tiny: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cores train two heads side by side; events come from the thread that called, and scores repeat."""
    monkeypatch.setattr(training, "worker_count", lambda: 2)
    both = threading.Barrier(2, timeout=60)
    advance = Trial.advance

    def meet(self: Trial, *arguments: Any) -> None:
        both.wait()  # breaks, and fails the training, unless two trials are under way
        advance(self, *arguments)

    monkeypatch.setattr(Trial, "advance", meet)
    threads: set[int] = set()
    scores: list[list[float | None]] = []
    for _ in range(2):
        events: list[Event] = []

        def take(event: Event, events: list[Event] = events) -> None:
            threads.add(threading.get_ident())
            events.append(event)

        train(video(), [seed(2), seed(11)], TrainSettings(experiments=2, effort=0.02), run=Run("cpu", on_event=take))
        scores.append([event.score for event in events if isinstance(event, ExperimentFinished)])
        steps = [event.step for event in events if isinstance(event, TrainingProgress)]
        assert len(set(steps)) == len(steps)
    assert threads == {threading.get_ident()}
    assert scores[0] == scores[1]


def test_the_same_seed_gives_the_same_version(tiny: None) -> None:
    """The version is the digest of the weights: equal for equal runs, another for another random seed."""
    versions = [
        train(video(), [seed(2)], TrainSettings(effort=0.01, seed=s), run=Recorder().run).manifest.version
        for s in (0, 0, 1)
    ]
    assert versions[0] == versions[1] != versions[2]


def test_effort_scales_views_and_steps() -> None:
    """Half the effort, half of both; there are always a few, and no self-training may stay none."""
    base = DenseSettings()
    half = base.scaled(0.5, 1.0)
    assert (half.views, half.steps, half.self_steps) == (base.views // 2, base.steps // 2, base.self_steps // 2)
    assert (half.learning_rate, half.width) == (base.learning_rate, base.width)
    least = base.scaled(0.01, 1.0)
    assert least.views >= 1
    assert least.steps >= 1
    assert DenseSettings(self_steps=0).scaled(3, 1.0).self_steps == 0


@pytest.mark.parametrize("kind", [ShapeKind.MASK, ShapeKind.BOX])
def test_more_frames_of_masks_are_studied_longer(kind: ShapeKind) -> None:
    """Up to three take the same; five masks twice as many steps, and so do seven; boxes and absences never more."""
    steps = []
    for frames in ([2], [2, 6, 11], [1, 3, 6, 8, 11], [1, 2, 3, 6, 8, 11, 12]):
        recorder = Recorder()
        settings = TrainSettings(effort=0.03)
        absent = [Label(frame, "1", "square", State.ABSENT) for frame in (0, 4, 5, 7)]
        train(video(), [*absent, *(seed(frame, kind) for frame in frames)], settings, run=recorder.run)
        steps.append(max(e.steps for e in recorder.events if isinstance(e, TrainingProgress)))
    more = 1 if kind is ShapeKind.BOX else 2
    assert steps[1] == steps[0]
    assert steps[2] == pytest.approx(more * steps[0], abs=2)
    assert steps[3] == steps[2]


@pytest.mark.parametrize(("frames", "rounds"), [([2], 2), ([2, 11], 1)])
def test_one_drawn_frame_is_learned_from_in_two_rounds(tiny: None, frames: list[int], rounds: int) -> None:
    """The video labels itself twice from one drawn frame, once from more; the steps in all are those announced."""
    recorder = Recorder()
    train(video(), [seed(frame) for frame in frames], TrainSettings(effort=0.2), run=recorder.run)
    trainings = [e for e in recorder.events if isinstance(e, StageFinished) and e.stage is Stage.TRAIN]
    assert len(trainings) == 1 + rounds
    progress = [e for e in recorder.events if isinstance(e, TrainingProgress)]
    assert len(progress) == progress[-1].steps


BAD: dict[str, tuple[list[AnyLabel], type[MicromodelsError]]] = {
    "none": ([], FailedPrecondition),
    "past the end": ([seed(FRAMES)], InvalidInput),
    "never drawn": ([Label(0, "1", "square", State.ABSENT)], FailedPrecondition),
    "predicted": (
        [Label(0, "1", "square", State.VISIBLE, square(0), 0.9, Provenance(ProvenanceKind.MODEL))],
        InvalidInput,
    ),
}


@pytest.mark.parametrize(("labels", "error"), BAD.values(), ids=BAD.keys())
def test_seeds_are_checked_before_any_work(tiny: None, labels: list[AnyLabel], error: type[MicromodelsError]) -> None:
    """Bad seeds cost no decoding."""
    clip = video()
    with pytest.raises(error):
        train(clip, labels, QUICK, run=Recorder().run)
    assert clip.given_out == 0


def test_classes_outside_the_ontology_are_refused(tiny: None) -> None:
    """With an ontology given, seeds of other classes are an error that names the class."""
    with pytest.raises(InvalidInput, match="square"):
        train(video(), [seed(0)], QUICK, ontology=Ontology((ObjectClass("car"),)), run=Recorder().run)


@pytest.mark.parametrize(
    ("field", "settings"),
    [("recipe", {"recipe": "magic"}), ("experiments", {"experiments": 0}), ("effort", {"effort": 0.0})],
)
def test_settings_are_checked(field: str, settings: dict[str, object]) -> None:
    """The error names the setting."""
    with pytest.raises(InvalidInput) as refused:
        TrainSettings(**settings)  # type: ignore[arg-type]
    assert refused.value.field == field


def test_boxes_are_scored_as_boxes() -> None:
    """The median of what the pixels say, against the drawn box; no pixel is no box."""
    found = np.zeros((16, 24), bool)
    found[4:8, 6:12] = True
    x, y = np.meshgrid((np.arange(12) + 0.5) * 4, (np.arange(8) + 0.5) * 4)
    sides = np.stack([x - 10, y - 6, 50 - x, 26 - y]).astype(np.float32)
    drawn = np.array([10, 6, 50, 26], np.float32)
    assert _box_overlap(found, sides, drawn) == pytest.approx(1.0)
    sides[:, 2, 3] += 100  # one pixel that errs changes nothing
    assert _box_overlap(found, sides, drawn) == pytest.approx(1.0)
    assert _box_overlap(found, sides, drawn + np.array([0, 0, 40, 0], np.float32)) == pytest.approx(0.5)
    assert _box_overlap(np.zeros_like(found), sides, drawn) == 0.0
