"""The recipe ``yolo``: the contract of every recipe, identities, and that nothing is asked of a network."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from micromodels.errors import Cancelled, ModelError
from micromodels.labels.files import read_labels
from micromodels.labels.geometry import box_iou
from micromodels.recipes.base import MicroModel, TrainSettings, load_model, train
from micromodels.recipes.yolo.dataset import Detection
from micromodels.recipes.yolo.tracking import assign_tracks, join_detections, with_anchors
from micromodels.runtime.run import Event, ExperimentFinished, Run, StopRequest, TrainingProgress
from micromodels.types import AnyLabel, Box, FrameLabel, FrameResult, Label, Mask, Polygon, ProvenanceKind, State
from micromodels.video import Video, open_video

SETTINGS = TrainSettings(recipe="yolo", effort=0.4)


class NoNetwork(socket.socket):
    """A socket that may be made and never connected."""

    def connect(self, address: object) -> None:
        raise AssertionError(f"something asked the network: {address}")

    def connect_ex(self, address: object) -> int:
        raise AssertionError(f"something asked the network: {address}")


@pytest.fixture(scope="module")
def no_network() -> Iterator[None]:
    """Any connection or look-up of a name fails."""

    def refuse(*arguments: object, **named: object) -> None:
        raise AssertionError(f"something looked up a host: {arguments}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "socket", NoNetwork)
        patch.setattr(socket, "getaddrinfo", refuse)
        patch.setattr(socket, "create_connection", refuse)
        yield


@pytest.fixture(scope="module")
def video(tiny_clip: Path) -> Iterator[Video]:
    """The tiny clip, open."""
    with open_video(tiny_clip / "video.mp4") as opened:
        yield opened


@pytest.fixture(scope="module")
def seeds(tiny_clip: Path) -> list[AnyLabel]:
    """Its three boxes, and a frame class on two frames."""
    boxes = read_labels(tiny_clip / "seeds.jsonl")
    return [*boxes, FrameLabel(0, "bright", True), FrameLabel(23, "bright", False)]


@dataclass
class Trained:
    model: MicroModel
    events: list[Event]
    results: list[FrameResult]
    before: tuple[int, str | None]
    after: tuple[int, str | None]


@pytest.fixture(scope="module")
def trained(no_network: None, video: Video, seeds: list[AnyLabel]) -> Trained:
    """One short training, shared by the tests of this module."""
    events: list[Event] = []
    before = (torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS"))
    model = train(video, seeds, SETTINGS, run=Run(device="cpu", on_event=events.append))
    results = list(model.propagate(video, seeds, run=Run(device="cpu")))
    return Trained(model, events, results, before, (torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")))


def _check_contract(results: list[FrameResult], seeds: list[AnyLabel], frames: range) -> None:
    assert [result.frame for result in results] == list(frames)
    anchors = {(a.frame, a.track): a for a in seeds if isinstance(a, Label)}
    for result in results:
        assert [label.track for label in result.labels] == ["1"]
        (label,) = result.labels
        if (result.frame, "1") in anchors:
            assert label is anchors[result.frame, "1"]
            continue
        assert label.provenance.kind is not ProvenanceKind.HUMAN
        assert label.provenance.version
        assert label.confidence is not None
        assert (label.shape is None) == (label.state is State.ABSENT)


@pytest.mark.slow
def test_every_frame_is_labeled_once_and_anchors_pass_through(trained: Trained, seeds: list[AnyLabel]) -> None:
    """Frames come in order, each track has a label or is absent, and what people drew is not touched."""
    _check_contract(trained.results, seeds, range(24))
    said = {result.frame: result.frame_labels for result in trained.results}
    assert all(len(labels) == 1 and labels[0].frame_class == "bright" for labels in said.values())
    assert said[0][0] in seeds
    assert said[23][0] in seeds


@pytest.mark.slow
def test_it_finds_the_object(trained: Trained) -> None:
    """A red square on noise is found on most frames, where it is."""
    ious = []
    for result in trained.results:
        left = 16 + 2 * result.frame
        shape = result.labels[0].shape
        ious.append(float(box_iou(shape.as_list(), [left, 32, left + 32, 64])) if isinstance(shape, Box) else 0.0)
    assert float(np.median(ious)) > 0.5, np.round(ious, 2)


@pytest.mark.slow
def test_training_reports_and_leaves_the_process_as_it_was(trained: Trained) -> None:
    """Progress counts every step to the last; torch's threads and OpenMP's variable are as before."""
    progress = [event for event in trained.events if isinstance(event, TrainingProgress)]
    assert [event.step for event in progress] == list(range(1, progress[0].steps + 1))
    assert progress[-1].eta_seconds == 0
    assert progress[-1].loss < progress[0].loss
    (finished,) = [event for event in trained.events if isinstance(event, ExperimentFinished)]
    assert finished.kept
    assert trained.before == trained.after


@pytest.mark.slow
def test_a_saved_model_says_the_same(trained: Trained, video: Video, seeds: list[AnyLabel], tmp_path: Path) -> None:
    """Saved and loaded, it gives equal labels; without anchors and on a part of the frames it labels too."""
    trained.model.save(tmp_path)
    assert (tmp_path / "yolo.onnx").stat().st_size > 1 << 20
    loaded = load_model(tmp_path)
    assert loaded.manifest == trained.model.manifest
    assert list(loaded.propagate(video, seeds, run=Run(device="cpu"))) == trained.results
    _check_contract(list(loaded.propagate(video, [], frames=range(5, 9))), [], range(5, 9))


@pytest.mark.slow
def test_a_damaged_model_is_refused(trained: Trained, tmp_path: Path) -> None:
    """Weights that are not those of the manifest, cut short or missing, or settings that do not fit: ModelError."""
    trained.model.save(tmp_path)
    weights, manifest = tmp_path / "yolo.safetensors", tmp_path / "manifest.json"
    whole, description = weights.read_bytes(), json.loads(manifest.read_text())
    for bad in (whole[:-4] + bytes(4), whole[: len(whole) // 2], b""):
        weights.write_bytes(bad)
        with pytest.raises(ModelError):
            load_model(tmp_path)
    weights.write_bytes(whole)
    for key, value in (
        ("settings", {}),
        ("tracks", description["tracks"] + [{**description["tracks"][0], "object_class": "x"}]),
    ):
        manifest.write_text(json.dumps({**description, key: value}))
        with pytest.raises(ModelError):
            load_model(tmp_path)
    weights.unlink()
    manifest.write_text(json.dumps(description))
    with pytest.raises(ModelError):
        load_model(tmp_path)


@pytest.mark.slow
def test_training_ends_early_when_asked(no_network: None, video: Video, tiny_clip: Path) -> None:
    """FINISH_EARLY keeps the weights there are, and masks come as masks and polygons as polygons; CANCEL raises."""
    masks = []
    for frame in range(3):
        array = np.zeros((96, 128), bool)
        array[32:64, 16 + 2 * frame : 48 + 2 * frame] = True
        masks.append(Label(frame, "1", "square", State.VISIBLE, Mask.from_array(array)))
    events: list[Event] = []

    def stop_after_two() -> StopRequest:
        steps = sum(isinstance(event, TrainingProgress) for event in events)
        return StopRequest.FINISH_EARLY if steps >= 2 else StopRequest.NONE

    run = Run(device="cpu", on_event=events.append, should_stop=stop_after_two)
    model = train(video, masks, SETTINGS, run=run)
    assert sum(isinstance(event, TrainingProgress) for event in events) == 2
    results = list(model.propagate(video, masks, frames=range(6), run=Run(device="cpu")))
    _check_contract(results, masks, range(6))
    assert not any(isinstance(label.shape, Box | Polygon) for result in results for label in result.labels)
    with pytest.raises(Cancelled):
        train(video, masks, SETTINGS, run=Run(device="cpu", should_stop=lambda: StopRequest.CANCEL))
    with pytest.raises(Cancelled):
        list(model.propagate(video, masks, run=Run(device="cpu", should_stop=lambda: StopRequest.CANCEL)))


def _square(x: float, score: float = 0.8, anchor: int = -1) -> Detection:
    return Detection(np.array([x, 0, x + 20, 20], np.float32), score, 0, anchor=anchor)


def test_anchors_name_the_tracks() -> None:
    """Two objects of one class move past each other's height; what is named on one frame is named on all."""
    frames = {frame: [_square(2.0 * frame), _square(200 - 2.0 * frame)] for frame in range(30)}
    frames[10] = with_anchors(frames[10], [_square(180, 1.0, anchor=0), _square(20, 1.0, anchor=1)])
    assert len(frames[10]) == 2
    tracks = assign_tracks(frames, join_detections(frames, 1), [0, 0])
    assert all(tracks[0][frame].box[0] == 200 - 2.0 * frame for frame in range(1, 30))
    assert all(tracks[1][frame].box[0] == 2.0 * frame for frame in range(1, 30))


def test_a_lone_track_takes_what_was_found_after_a_gap() -> None:
    """The only track of a class goes on after the object was gone for long; a second one far away does not."""
    frames = {f: [_square(10.0)] if f < 10 else [_square(300.0)] if f > 60 else [] for f in range(80)}
    frames[3] = [_square(10.0, 1.0, anchor=0)]
    tracklets = join_detections(frames, 1)
    assert len(tracklets) == 2
    (alone,) = assign_tracks(frames, tracklets, [0])
    assert {5, 70} <= set(alone)
    named, other = assign_tracks(frames, tracklets, [0, 0])
    assert 70 not in named
    assert 70 in other
