"""Learning from a correction: what is rehearsed, what is refused, and what is predicted again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from micromodels.correction import rehearsal as warm
from micromodels.correction.review_state import VideoReviewState
from micromodels.encoding.encoded_video import EncodedVideo
from micromodels.encoding.encoders import GRID_PX
from micromodels.labels.keys import LabelKey
from micromodels.labels.targets import IGNORE, SeedFrame
from micromodels.propagation.predictions import StoredPredictions
from micromodels.runtime.run import Run
from micromodels.training.head import DenseHead, HeadSettings
from micromodels.training.trainer import Sample
from micromodels.types import Box, Label, Provenance, ProvenanceKind, State
from tests.micromodels.doubles import ColorEncoder, MemoryVideo

SIZE = (4 * GRID_PX, 8 * GRID_PX)
MODEL = Provenance(ProvenanceKind.MODEL, "m")


def head_of(seed: int, *, boxes: bool = False) -> DenseHead:
    """A head with random weights."""
    torch.manual_seed(seed)
    return DenseHead(HeadSettings(ColorEncoder.levels, 1, boxes, 8, 8)).eval()


def sample(value: int = 1) -> Sample:
    """A picture with the object in its upper left corner; ``value`` 0: without it."""
    image = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), np.uint8)
    labels = np.zeros((SIZE[0] // 2, SIZE[1] // 2), np.uint8)
    labels[8:24, 8:24] = value
    boxes = np.array([[16, 16, 48, 48]], np.float32) if value else np.full((1, 4), np.nan, np.float32)
    return Sample(ColorEncoder().encode(image), labels, boxes, np.ones(1, bool))


def test_a_head_that_forgets_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The new head is taken where it knows the rest as well, half-way where that helps, and else not at all."""
    before = head_of(0)
    lesson = warm.Rehearsal([sample()], [], [], [[sample()]])

    def scored(*scores: float) -> DenseHead | None:
        given = iter(scores)
        monkeypatch.setattr(warm, "_overlap", lambda head, samples: next(given))
        return warm.warm_start(before, lesson, 2, 0.25, 0, Run(device="cpu"))

    whole, half = scored(0.8, 0.79), scored(0.8, 0.5, 0.8)
    assert whole is not None
    assert half is not None
    assert scored(0.8, 0.5, 0.5) is None
    for name, weights in half.named_parameters():
        middle = (whole.get_parameter(name) + before.get_parameter(name)) / 2
        assert torch.allclose(weights, middle, atol=1e-6), name


@pytest.mark.parametrize("boxes", [False, True])
def test_a_head_is_judged_around_objects(boxes: bool) -> None:
    """Shifted log-odds change the overlap of a head's pixels; a head without pixels of the object scores next to 0."""
    blind = head_of(0, boxes=boxes)
    with torch.no_grad():
        assert blind.coarse_logits.bias is not None
        blind.coarse_logits.bias.copy_(torch.tensor([50.0, -50.0]))
    seeing = head_of(0, boxes=boxes)
    seeing.load_state_dict(blind.state_dict())
    with torch.no_grad():
        assert seeing.coarse_logits.bias is not None
        seeing.coarse_logits.bias.copy_(torch.tensor([-50.0, 50.0]))
    pixels = [warm._overlaps(head, sample())[0] for head in (blind, seeing)]
    assert pixels[0] == 0
    assert pixels[1] > 0.05
    assert len(warm._overlaps(blind, sample())) == 1 + boxes
    assert warm._overlap(blind, []) == 1


def test_frames_are_held_but_for_the_edges_of_masks() -> None:
    """A frame as it is labeled now is learned with less weight, and pixels beside its edges are not scored."""
    frames = [np.zeros((*SIZE, 3), np.uint8)]
    labels = np.zeros(SIZE, np.uint8)
    labels[32:64, 32:64] = 1
    boxes = np.array([[32, 32, 64, 64]], np.float32)
    with EncodedVideo(MemoryVideo(frames), ColorEncoder(), Run(device="cpu")) as video:
        held = warm.Replay(video, 2).unchanged(SeedFrame(0, labels, boxes, np.ones(1, bool)))
    assert held.label_map[24, 24] == 1
    assert held.label_map[0, 0] == 0
    assert set(held.label_map[15:17, 20]) == {IGNORE}
    assert held.boxes.tolist() == boxes.tolist()
    assert 0 < held.weight < 1


def test_another_head_looks_around_the_objects_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked for afresh is new where an object was or is said to be, and what it was elsewhere."""
    monkeypatch.setattr("micromodels.encoding.encoded_video.work_size", lambda height, width: (height, width))
    image = np.random.default_rng(0).integers(0, 255, (4 * GRID_PX, 16 * GRID_PX, 3), np.uint8)
    unlikely = head_of(0, boxes=True)
    with torch.no_grad():
        assert unlikely.coarse_logits.bias is not None
        unlikely.coarse_logits.bias.copy_(torch.tensor([20.0, -20.0]))
    with EncodedVideo(MemoryVideo([image]), ColorEncoder(), Run(device="cpu")) as video:
        stored = StoredPredictions(video, tmp_path)
        stored.use_head(unlikely, Run(device="cpu"))
        ((_, old),) = list(stored.stream(range(1)))
        box = np.array([40, 40, 60, 60], np.float32)
        stored.use_head(head_of(1, boxes=True), Run(device="cpu"), lambda frame: [box])
        ((_, new),) = list(stored.stream_fresh(range(1)))
        stored.use_head(head_of(1, boxes=True), Run(device="cpu"))
        ((_, whole),) = list(stored.stream_fresh(range(1)))
    inside, outside = np.s_[:, 24:28, 24:28], np.s_[:, :, 4 * GRID_PX :]
    assert torch.equal(new.log_odds[outside], old.log_odds[outside])
    assert not torch.equal(new.log_odds[inside], old.log_odds[inside])
    assert torch.allclose(new.log_odds[inside].float(), whole.log_odds[inside].float(), atol=0.2)
    assert old.sides is not None
    assert new.sides is not None
    assert np.array_equal(new.sides[:, :, 2 * GRID_PX :], old.sides[:, :, 2 * GRID_PX :])
    assert not np.array_equal(new.sides[:, 12:14, 12:14], old.sides[:, 12:14, 12:14])
    assert np.array_equal(new.pooled, old.pooled)


def test_the_surest_frames_are_spread_and_away_from_what_is_corrected() -> None:
    """One frame of each part of the video: accepted ones first, none beside a correction, no human one, none unsure."""
    review_state = VideoReviewState(40)
    for frame in range(40):
        confidence = 0.9 if frame % 10 == 3 else 0.2 if frame % 2 else 0.6
        label = Label(frame, "1", "square", State.VISIBLE, Box(0, 0, 4, 4), confidence, MODEL)
        review_state.put(LabelKey(frame=frame, name="1"), label, fixed=frame == 8)
        if frame == 0:
            human = Label(0, "1", "square", State.VISIBLE, Box(0, 0, 4, 4))
            review_state.put(LabelKey(frame=0, name="1"), human, fixed=True)
    found = review_state.surest(4, [24])
    assert found[:2] == [8, 13]
    assert found[-1] == 33
    assert all(abs(frame - 24) > 4 for frame in found)
