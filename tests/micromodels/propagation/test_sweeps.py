"""Temporal inference: following, damping, cuts, anchors, windows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from micromodels.encoding.encoded_video import EncodedFrame
from micromodels.errors import Cancelled
from micromodels.labels.geometry import mask_iou
from micromodels.labels.targets import IGNORE, SeedFrame
from micromodels.propagation import sweeps
from micromodels.propagation.base import FramePosterior
from micromodels.propagation.optical_flow import Motion, StoredFlows, is_scene_cut, measure_flows
from micromodels.propagation.predictions import LOOK_SIZE, FramePrediction, HeadPredictions, one_against_rest
from micromodels.propagation.sweeps import PropagationSettings, Sweeps, believed_share, combine, reach_frames
from micromodels.runtime.run import Run, StopRequest
from micromodels.training.head import HeadOutput, HeadSettings
from micromodels.types import Box
from tests.micromodels.doubles import (
    BLUE,
    HEIGHT,
    RED,
    WIDTH,
    ColorEncoder,
    Recorder,
    Rgb,
    box_mask,
    scene,
    square,
)

SIZE = (HEIGHT, WIDTH)
T = TypeVar("T")


class ColorHead(nn.Module):
    """Perfect predictions by color: track 1 is red, track 2 blue; ``sharpness`` 0 says nothing at all."""

    def __init__(self, tracks: int = 1, sharpness: float = 8.0) -> None:
        super().__init__()
        self.settings = HeadSettings(ColorEncoder.levels, tracks, False)
        self.anchor = nn.Parameter(torch.zeros(1))
        self.sharpness = sharpness

    def forward(self, features: Sequence[torch.Tensor]) -> HeadOutput:
        red, green, blue = features[0][:, 0], features[0][:, 1], features[0][:, 2]
        scores = [torch.zeros_like(red), red - torch.maximum(green, blue) - 0.7, blue - torch.maximum(red, green) - 0.7]
        return HeadOutput(self.sharpness * torch.stack(scores[: self.settings.tracks + 1], dim=1), None)


class Frames:
    """Encoded frames of pictures; remembers which were asked for."""

    def __init__(self, pictures: Sequence[Rgb]) -> None:
        self.pictures = pictures
        self.size = (pictures[0].shape[0], pictures[0].shape[1])
        self.asked: list[int] = []

    def stream(self, indices: range, work: Callable[[int, EncodedFrame], T]) -> Iterator[T]:
        encoder = ColorEncoder()
        for index in indices:
            self.asked.append(index)
            gray = cv2.cvtColor(self.pictures[index][::2, ::2], cv2.COLOR_RGB2GRAY)
            yield work(index, EncodedFrame(encoder.encode(self.pictures[index]), gray))


def anchor(frame: int, *masks: np.ndarray | None) -> SeedFrame:
    """Masks of the tracks in their order; None where nobody said anything."""
    label_map = np.zeros(SIZE, np.uint8)
    for value, mask in enumerate(masks, start=1):
        if mask is not None:
            label_map[mask] = value
    known = np.array([mask is not None for mask in masks])
    return SeedFrame(frame, label_map, np.full((len(masks), 4), np.nan, np.float32), known)


def predicted(frames: Frames, head: ColorHead | None = None) -> HeadPredictions:
    """What a head says of frames."""
    return HeadPredictions(frames, head or ColorHead(), Run())  # type: ignore[arg-type]


def propagate(
    pictures: Sequence[Rgb],
    anchors: Sequence[SeedFrame],
    head: ColorHead | None = None,
    frames: range | None = None,
    run: Run | None = None,
) -> list[FramePosterior]:
    by_frame = {seed.frame: seed for seed in anchors}
    wanted = range(len(pictures)) if frames is None else frames
    return list(Sweeps().posteriors(predicted(Frames(pictures), head), by_frame, wanted, run or Run()))


def found(posterior: FramePosterior, track: int = 0) -> np.ndarray:
    return posterior.log_odds[track] > 0


def half(mask: np.ndarray) -> np.ndarray:
    return mask[::2, ::2]


@pytest.mark.parametrize("anchored", [[0], [23], [0, 23], [11], []])
def test_a_moving_square_is_followed(anchored: list[int]) -> None:
    """Whatever frames are anchored, good predictions is followed through the whole clip."""
    posteriors = propagate(scene(24), [anchor(f, box_mask(square(f))) for f in anchored])
    for posterior in posteriors:
        assert mask_iou(found(posterior), half(box_mask(square(posterior.frame)))) > 0.85, posterior.frame


def test_motion_carries_what_predictions_does_not_say() -> None:
    """A head that says nothing leaves the carried mask, which moves with the picture."""
    noise = cv2.GaussianBlur(np.random.default_rng(0).normal(128, 600, (*SIZE, 3)), (0, 0), 5)
    panned = [np.roll(noise.clip(0, 255).astype(np.uint8), 6 * i, axis=1) for i in range(4)]
    posteriors = propagate(panned, [anchor(0, box_mask(square(0)))], ColorHead(sharpness=0.0))
    carried = found(posteriors[3])
    there = Box(square(0).x1 + 18, 32, square(0).x2 + 18, 64)
    assert mask_iou(carried, half(box_mask(there))) > 0.7
    assert mask_iou(carried, half(box_mask(there))) > mask_iou(carried, half(box_mask(square(0)))) + 0.2


def test_a_look_alike_far_away_is_kept_out() -> None:
    """A second red square that no anchor speaks of is not followed, although the predictions takes it for the
    object."""
    pictures = scene(16)
    for picture in pictures:
        picture[4:20, 108:124] = RED
    place = half(box_mask(Box(108, 4, 124, 20)))
    with_anchor = propagate(pictures, [anchor(0, box_mask(square(0)))], ColorHead(sharpness=5.0))
    without = propagate(pictures, [], ColorHead(sharpness=5.0))
    for posterior in with_anchor[1:]:
        assert not found(posterior)[place].any(), posterior.frame
        assert mask_iou(found(posterior), half(box_mask(square(posterior.frame)))) > 0.8
    assert all(found(posterior)[place].mean() > 0.9 for posterior in without)


def test_predictions_is_damped_by_its_distance_from_the_carried_mask() -> None:
    """Near the prior predictions stands or is helped, far from it it is damped, and the more the farther."""
    settings_ = PropagationSettings()
    prior = torch.zeros(1, 40, 60)
    prior[0, 16:24, 4:12] = 1.0
    says, weight = torch.full((1, 40, 60), 2.0), settings_.prior_weight
    combined = combine(says, prior, torch.ones(1), settings_, weight)[0]
    assert combined[20, 8] > 2.0
    row = combined[20, 12:]
    assert (row.diff() <= 1e-6).all()
    assert row[-1] < 2.0 - settings_.gate
    assert torch.equal(combine(says, torch.zeros(1, 40, 60), torch.ones(1), settings_, weight), says)
    assert torch.equal(combine(says, prior, torch.zeros(1), settings_, weight), says)
    half_believed = combine(says, prior, torch.full((1,), 0.5), settings_, weight)[0]
    assert torch.allclose(half_believed, (combined + says[0]) / 2)


def test_motion_is_believed_where_it_leads_back() -> None:
    """Nearly everywhere between a picture and the same one moved; on the lesser part between two of other texture."""
    shade = np.linspace(40, 215, WIDTH)[None].repeat(HEIGHT, 0)
    noise = (np.random.default_rng(number).normal(0, 300, SIZE) for number in (1, 2))
    one, other = ((shade + cv2.GaussianBlur(texture, (0, 0), 3)).clip(0, 255) for texture in noise)
    for there, low, high in ((np.roll(one, 3, axis=1), 0.9, 1.0), (other, 0.0, 0.4)):
        returns = between(one.astype(np.uint8), there.astype(np.uint8)).returns(1, 0)
        assert returns.shape == (HEIGHT // 2, WIDTH // 2)
        assert low <= float(returns.mean()) <= high
    assert not between(scene(1)[0][..., 0], 255 - scene(1)[0][..., 0]).returns(1, 0).any()  # a cut


def between(here: np.ndarray, there: np.ndarray) -> Motion:
    """Motion between two gray images, which are frames 0 and 1."""
    looks, vector = np.zeros((0, LOOK_SIZE), np.float16), np.zeros(0, np.float32)
    frames = {i: FramePrediction(torch.zeros(0), None, gray, vector, looks) for i, gray in enumerate((here, there))}
    return Motion(frames, (2 * HEIGHT, 2 * WIDTH), torch.device("cpu"), {})


def test_an_object_that_jumped_between_unlike_frames_is_damped_less() -> None:
    """Where the head sees it far from the carried mask, by motion that often does not lead back, if that is checked."""
    shade = np.linspace(40, 215, WIDTH)[None].repeat(HEIGHT, 0)
    pictures = []
    for number, place in enumerate((Box(8, 56, 40, 88), Box(88, 8, 120, 40))):
        texture = cv2.GaussianBlur(np.random.default_rng(number).normal(0, 300, SIZE), (0, 0), 3)
        picture = (shade + texture).clip(0, 255).astype(np.uint8)[..., None].repeat(3, 2)
        picture[box_mask(place)] = RED
        pictures.append(picture)
    seen = []
    for for_training in (False, True):
        anchors = {0: anchor(0, box_mask(Box(8, 56, 40, 88)))}
        temporal = Sweeps.begin(for_training=for_training)
        *_, last = temporal.posteriors(predicted(Frames(pictures)), anchors, range(2), Run())
        seen.append(float(last.log_odds[0][half(box_mask(Box(88, 8, 120, 40)))].mean()))
    assert seen[0] > seen[1] + 3


def test_the_carried_mask_and_its_rim_say_how_far_motion_is_believed() -> None:
    """Right on the left half of a mask: half; what is far from it does not count; nothing carried: all."""
    prior = torch.zeros(2, 40, 60)
    prior[0, 10:30, 20:40] = 1.0
    returns = torch.zeros(40, 60)
    returns[:, :30] = 1.0
    assert believed_share(prior, returns).tolist() == pytest.approx([0.5, 1.0], abs=0.01)


def test_a_scene_cut_stops_motion() -> None:
    """Across a cut nothing is carried, and the cut is marked on the first frame behind it only."""
    rng = np.random.default_rng(5)
    other = rng.integers(0, 255, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    pictures = [*scene(8), *[other] * 6]
    posteriors = propagate(pictures, [anchor(0, box_mask(square(0)))], ColorHead(sharpness=0.0))
    assert [p.frame for p in posteriors if p.scene_cut] == [8]
    assert all(found(p).any() for p in posteriors[:8])
    assert not any(found(p).any() for p in posteriors[8:])


def test_what_is_a_scene_cut() -> None:
    """Another picture is; the same one, darker, moved or plain, is not."""
    rng = np.random.default_rng(0)
    one, other = (rng.integers(0, 255, (12, 16), dtype=np.uint8).repeat(4, 0).repeat(4, 1) for _ in range(2))
    flat = np.full_like(one, 90)
    assert is_scene_cut(one, other)
    assert not is_scene_cut(one, one)
    assert not is_scene_cut(one, (one * 0.4).astype(np.uint8))
    assert not is_scene_cut(one, np.roll(one, 2, axis=1))
    assert not is_scene_cut(flat, flat)


def test_motion_is_measured_ahead_as_sweeps_measure_it(tmp_path: Path) -> None:
    """Both ways between all neighbors, only what is missing, and the same to the bit."""
    pictures = scene(6)
    wanted = {(to, origin) for to in range(6) for origin in (to - 1, to + 1) if 0 <= origin < 6}
    source = predicted(Frames(pictures))
    ahead: dict[tuple[int, int], np.ndarray] = {}
    measure_flows(source, range(6), Run(), ahead)
    assert set(ahead) == wanted
    swept = StoredFlows(tmp_path)
    anchors = {frame: anchor(frame, box_mask(square(frame))) for frame in (0, 5)}
    list(Sweeps(flows=swept).posteriors(source, anchors, range(6), Run()))
    assert swept
    assert all(np.array_equal(flow, ahead[key]) for key, flow in swept.items())
    marked = np.zeros((1, 1, 2), np.float16)
    ahead[2, 3] = marked
    measure_flows(source, range(6), Run(), ahead)
    assert ahead[2, 3] is marked
    kept = StoredFlows(tmp_path / "kept")
    Sweeps(flows=kept).prepare(source, range(6), Run())
    assert set(kept) == wanted
    small = StoredFlows(tmp_path / "small", max_bytes=1)
    Sweeps(flows=small).prepare(source, range(6), Run())
    assert not small  # there is no room for all of it: sweeps measure what they need
    with pytest.raises(Cancelled):
        measure_flows(source, range(6), Run(should_stop=lambda: StopRequest.CANCEL), ahead)


def test_the_posterior_of_an_anchor_is_what_was_drawn() -> None:
    """On an anchored frame predictions does not matter where people spoke, and stands where they did not."""
    pictures = scene(6, blue=True)
    elsewhere = np.zeros(SIZE, bool)
    elsewhere[70:90, 10:30] = True
    posterior = propagate(pictures, [anchor(3, elsewhere, None)], ColorHead(2))[3]
    assert np.array_equal(found(posterior, 0), half(elsewhere))
    assert np.abs(posterior.log_odds[0]).min() > 5
    is_blue = (pictures[3] == BLUE).all(axis=2)
    assert mask_iou(found(posterior, 1), half(is_blue)) > 0.9
    assert posterior.anchor_distance.tolist() == [0, -1]


def test_the_doubtful_rim_of_a_box_keeps_the_predictions() -> None:
    """Pixels that an anchor leaves open are decided by the head."""
    seed = anchor(0, box_mask(square(0)))
    seed.label_map[32:64, 16:24] = IGNORE  # red: the head takes it
    seed.label_map[32:64, 48:56] = IGNORE  # noise: the head does not
    (posterior,) = propagate(scene(1), [seed])
    assert found(posterior)[16:32, 8:12].all()
    assert not found(posterior)[16:32, 24:28].any()


def test_sweeps_that_agree_say_so() -> None:
    """Between two anchors the agreement of the sweeps is a number from 0 to 1, elsewhere it is NaN."""
    ends = [anchor(4, box_mask(square(4))), anchor(12, box_mask(square(12)))]
    posteriors = propagate(scene(16), ends)
    between = np.array([p.agreement[0] for p in posteriors[5:12]])
    assert ((between > 0.7) & (between <= 1.0)).all()
    assert all(np.isnan(p.agreement[0]) for p in [*posteriors[:5], *posteriors[12:]])
    assert [int(p.anchor_distance[0]) for p in posteriors[:6]] == [4, 3, 2, 1, 0, 1]


def test_the_length_of_windows_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of five frames give to the bit what one window gives."""
    pictures = scene(40, speed=1)
    anchors = [anchor(f, box_mask(square(f, 1))) for f in (3, 36)]
    whole = propagate(pictures, anchors, ColorHead(sharpness=3.0))
    monkeypatch.setattr(sweeps, "WINDOW_FRAMES", 5)
    cut_up = propagate(pictures, anchors, ColorHead(sharpness=3.0))
    for one, other in zip(whole, cut_up, strict=True):
        assert np.array_equal(one.log_odds, other.log_odds), one.frame


def test_a_span_does_not_depend_on_what_is_beyond_its_anchors() -> None:
    """Anchors of another track, and of this one outside of the span, change nothing inside it."""
    pictures = scene(30, blue=True)
    blue = box_mask(Box(100, 66, 124, 90))
    few = [anchor(4, box_mask(square(4)), None), anchor(14, box_mask(square(14)), None)]
    more = [*few, anchor(9, None, blue), anchor(22, box_mask(square(20)), blue)]
    head = ColorHead(2, sharpness=2.0)
    for one, other in zip(propagate(pictures, few, head)[4:15], propagate(pictures, more, head)[4:15], strict=True):
        assert np.array_equal(one.log_odds[0], other.log_odds[0]), one.frame


def test_a_part_of_the_video_can_be_asked_for() -> None:
    """Only the frames of the range come, and anchors outside of it do no harm."""
    anchors = [anchor(f, box_mask(square(f))) for f in (0, 10, 22)]
    posteriors = propagate(scene(24), anchors, frames=range(6, 15))
    assert [p.frame for p in posteriors] == list(range(6, 15))
    assert all(mask_iou(found(p), half(box_mask(square(p.frame)))) > 0.85 for p in posteriors)


def test_cancelling_raises_and_keeps_nothing_back() -> None:
    """A request to cancel ends propagation at the next frame."""
    recorder = Recorder(StopRequest.CANCEL, at=3)
    with pytest.raises(Cancelled):
        propagate(scene(20), [], run=recorder.run)


def test_a_task_without_tracks_has_posteriors_without_maps() -> None:
    """With frame classes only there is no head; every frame still has its pooled features."""
    frames = Frames(scene(5))
    source = HeadPredictions(frames, None, Run())  # type: ignore[arg-type]
    posteriors = list(Sweeps().posteriors(source, {}, range(5), Run()))
    assert [p.frame for p in posteriors] == list(range(5))
    assert all(p.log_odds.shape[0] == 0 and p.sides is None and len(p.pooled) == 60 for p in posteriors)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_every_frame_comes_once_and_in_order(data: st.DataObject) -> None:
    """For any length, range and anchors: each frame once, in order, encoded once, with its distance to an anchor."""
    count = data.draw(st.integers(1, 70))
    start = data.draw(st.integers(0, count - 1))
    stop = data.draw(st.integers(start + 1, count))
    anchored = data.draw(st.sets(st.integers(0, count - 1), max_size=5))
    pictures = [picture[:64, :64] for picture in scene(1)] * count
    frames = Frames(pictures)
    masks = {f: SeedFrame(f, np.ones((64, 64), np.uint8), np.zeros((1, 4)), np.ones(1, bool)) for f in anchored}
    head = ColorHead()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweeps, "MAX_REACH_FRAMES", data.draw(st.integers(16, 40)))
        posteriors = list(Sweeps().posteriors(predicted(frames, head), masks, range(start, stop), Run()))
    assert [p.frame for p in posteriors] == list(range(start, stop))
    assert frames.asked == list(range(start, stop))
    for posterior in posteriors:
        expected = min((abs(posterior.frame - f) for f in anchored), default=-1)
        assert posterior.anchor_distance.tolist() == [expected]
        assert np.isfinite(posterior.log_odds).all()
        if posterior.frame in anchored:
            assert found(posterior).all()


def test_what_a_frame_holds_shortens_the_reach() -> None:
    """A box track at 854x480 has the longest reach; more tracks, channels or pixels fit in fewer frames, never none."""
    usual, large = (480, 864), (2160, 3840)
    assert reach_frames(1, usual, 64) == sweeps.MAX_REACH_FRAMES
    assert sweeps.MAX_REACH_FRAMES > reach_frames(1, usual, 256) > reach_frames(8, usual, 256)
    assert reach_frames(1, large, 64) == sweeps.MIN_REACH_FRAMES


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(0, 1000))
def test_log_odds_against_the_rest_are_those_of_the_softmax(tracks: int, seed: int) -> None:
    """One track against all the others: the logit of its softmax probability."""
    logits = torch.randn(tracks + 1, 3, 4, generator=torch.Generator().manual_seed(seed)) * 3
    expected = torch.logit(logits.double().softmax(0)[1:]).clamp(-16, 16)
    assert torch.allclose(one_against_rest(logits).double(), expected, atol=0.05)  # float32 near 1
