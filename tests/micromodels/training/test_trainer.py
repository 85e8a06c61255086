"""The head and its training: what the losses punish, how training stops, that it repeats."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from micromodels.encoding.encoders import Level
from micromodels.errors import Cancelled, Diverged
from micromodels.labels.geometry import mask_iou
from micromodels.labels.targets import IGNORE
from micromodels.runtime.run import Run, StopRequest, TrainingProgress
from micromodels.training.frame_classifier import (
    FrameClassifier,
    one_sided_warnings,
    pooled,
    presence_probability,
)
from micromodels.training.head import DenseHead, HeadSettings
from micromodels.training.trainer import Clock, HeadTrainer, Sample, box_loss, segmentation_loss
from micromodels.types import FrameLabel
from tests.micromodels.doubles import HEIGHT, WIDTH, ColorEncoder, Recorder, box_mask, scene, square

LEVELS = ColorEncoder.levels
STEPS = 60


def samples(count: int = 6) -> list[Sample]:
    encoder = ColorEncoder()
    found = []
    for index, image in enumerate(scene(count, speed=8)):
        box = square(index, 8)
        label_map = box_mask(box)[::2, ::2].astype(np.uint8)
        boxes = np.array([box.as_list()], np.float32)
        found.append(Sample(encoder.encode(image), np.ascontiguousarray(label_map), boxes, np.ones(1, bool)))
    return found


def new_head(boxes: bool = False, seed: int = 0) -> DenseHead:
    torch.manual_seed(seed)
    return DenseHead(HeadSettings(LEVELS, 1, boxes, width=16, fine_width=8))


def fit(head: DenseHead, run: Run, steps: int = STEPS, seed: int = 0) -> DenseHead:
    HeadTrainer(head, seed).fit(samples(), steps, Clock(0, 1, steps), run)
    return head


def test_the_loss_falls_and_the_square_is_found() -> None:
    """Eighty steps on a toy problem: the loss halves at least and the mask and the box are right."""
    recorder = Recorder()
    head = fit(new_head(boxes=True), recorder.run, steps=80)
    losses = [event.loss for event in recorder.events if isinstance(event, TrainingProgress)]
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:5])
    assert not head.training
    sample = samples()[3]
    with torch.inference_mode():
        output = head([torch.from_numpy(level)[None].float() for level in sample.features])
    assert mask_iou(output.logits[0].argmax(0).numpy() == 1, sample.label_map == 1) > 0.9
    assert output.sides is not None
    left, top, right, bottom = output.sides[0, :, 12, 14].tolist()  # center of the cell: x 58, y 50
    found = np.array([58 - left, 50 - top, 58 + right, 50 + bottom])
    assert np.abs(found - square(3, 8).as_list()).max() < 8


def test_progress_counts_every_step_to_the_end() -> None:
    """Steps are 0-based, none is skipped, and nothing is left at the end."""
    recorder = Recorder()
    fit(new_head(), recorder.run, steps=7)
    progress = [event for event in recorder.events if isinstance(event, TrainingProgress)]
    assert [event.step for event in progress] == list(range(7))
    assert {event.steps for event in progress} == {7}
    assert progress[-1].eta_seconds == 0
    assert all(event.eta_seconds > 0 for event in progress[:-1])


def test_the_clock_says_what_is_left_at_the_pace_so_far() -> None:
    """Two of ten steps in four seconds leave sixteen; more steps than announced leave none."""
    clock = Clock(0, 1, 10)
    clock.tick(2.0)
    assert clock.tick(2.0) == pytest.approx(16.0)
    clock.steps_total = 1
    assert clock.tick(2.0) == 0.0


def test_the_same_seed_gives_the_same_weights() -> None:
    """Twice the same training, bit by bit; another seed gives other weights."""
    one, again, other = (fit(new_head(), Run(), steps=6, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


def test_finishing_early_keeps_the_weights_of_the_last_step() -> None:
    """ "Good enough" ends training at that step with a head that is ready to predict."""
    recorder = Recorder(StopRequest.FINISH_EARLY, at=4)
    stopped = fit(new_head(), recorder.run)
    assert sum(isinstance(event, TrainingProgress) for event in recorder.events) == 5
    assert not stopped.training
    before = new_head().state_dict()
    assert any(not torch.equal(value, before[key]) for key, value in stopped.state_dict().items())


def test_cancelling_raises_at_the_next_step() -> None:
    """A cancelled training ends within one step."""
    recorder = Recorder(StopRequest.CANCEL, at=2)
    with pytest.raises(Cancelled):
        fit(new_head(), recorder.run)
    assert sum(isinstance(event, TrainingProgress) for event in recorder.events) == 3


def test_a_loss_that_is_no_number_is_divergence() -> None:
    """NaN among the features stops training with an error that says at which step."""
    broken = samples(1)
    broken[0].features[-1][:] = math.nan
    with pytest.raises(Diverged, match="step 0 of 10"):
        HeadTrainer(new_head()).fit(broken, 10, Clock(0, 1, 10), Run())


def test_crops_of_all_levels_are_of_one_place() -> None:
    """The crop of the labels lies where the crops of the features do, and boxes move with it."""
    encoder = ColorEncoder()
    image = np.zeros((480, 640, 3), np.uint8)
    image[200:260, 300:380] = 255
    label_map = (image[::2, ::2, 0] > 0).astype(np.uint8)
    boxes = np.array([[300, 200, 380, 260]], np.float32)
    sample = Sample(encoder.encode(image), label_map, boxes, np.ones(1, bool))
    trainer = HeadTrainer(new_head(), seed=3, batch=16)
    batch = trainer._draw([sample], (), 1)
    assert batch.labels.shape[1:] == batch.features[0].shape[-2:]
    bright = batch.features[0][:, 0] > 0
    assert torch.equal(bright, batch.labels == 1)
    containing = batch.labels.flatten(1).any(1)
    assert containing.float().mean() > 0.5
    whole = batch.labels.flatten(1).sum(1) == int(label_map.sum())
    assert whole.any()
    for labels, box in zip(batch.labels[whole], batch.boxes[whole, 0], strict=True):
        rows, columns = torch.nonzero(labels, as_tuple=True)
        assert box.tolist() == [2 * columns.min(), 2 * rows.min(), 2 * columns.max() + 2, 2 * rows.max() + 2]


def test_unknown_tracks_are_not_punished() -> None:
    """Where nobody said anything of a track, calling background pixels that track costs nothing."""
    labels = torch.zeros(1, 8, 8, dtype=torch.long)
    logits = torch.zeros(1, 3, 8, 8)
    logits[:, 2] = 12.0  # all of it is track 2
    known, unknown = torch.tensor([[True, True]]), torch.tensor([[True, False]])
    assert segmentation_loss(logits, labels, known).item() > 5
    assert segmentation_loss(logits, labels, unknown).item() < 1e-3
    logits[:, 1] = 24.0  # all of it is track 1, of which it was said that it is not there
    assert segmentation_loss(logits, labels, unknown).item() > 5


def test_unscored_pixels_have_no_gradient() -> None:
    """What is marked as not scored neither costs nor teaches."""
    labels = torch.full((1, 8, 8), IGNORE)
    labels[:, :4] = 0
    labels[:, :2] = 1
    logits = torch.randn(1, 2, 8, 8, requires_grad=True)
    segmentation_loss(logits, labels, torch.ones(1, 1, dtype=torch.bool)).sum().backward()
    assert logits.grad is not None
    assert (logits.grad[:, :, 4:] == 0).all()
    assert (logits.grad[:, :, :4] != 0).any()


def test_a_perfect_segmentation_costs_nothing() -> None:
    """Sure and right: the loss is all but zero, and anything else costs more."""
    labels = torch.zeros(1, 8, 8, dtype=torch.long)
    labels[:, 2:5, 2:5] = 1
    logits = torch.stack([-20.0 * (2 * labels - 1), 20.0 * (2 * labels - 1)], dim=1).float()
    known = torch.ones(1, 1, dtype=torch.bool)
    assert segmentation_loss(logits, labels, known).item() < 1e-3
    assert segmentation_loss(logits.roll(1, dims=3), labels, known).item() > 1


def perfect_sides(box: list[float]) -> torch.Tensor:
    centers_y, centers_x = (torch.arange(n) * 4.0 + 2.0 for n in (16, 16))
    x, y = centers_x[None, :].expand(16, 16), centers_y[:, None].expand(16, 16)
    return torch.stack([x - box[0], y - box[1], box[2] - x, box[3] - y])[None]


def test_perfect_box_sides_cost_nothing() -> None:
    """The loss is 0 for exact sides, 1 - IoU for others, and 0 where there is no box."""
    box = [8.0, 12.0, 40.0, 44.0]
    labels = torch.zeros(1, 32, 32, dtype=torch.long)
    labels[:, 6:22, 4:20] = 1
    sides, boxes = perfect_sides(box), torch.tensor([[box]])
    assert box_loss(sides, labels, boxes).item() == pytest.approx(0.0, abs=1e-6)
    wider = perfect_sides([8.0, 12.0, 72.0, 44.0])
    assert box_loss(wider, labels, boxes).item() == pytest.approx(0.5, abs=1e-5)
    nowhere = torch.full_like(boxes, math.nan)
    assert box_loss(wider, labels, nowhere).item() == 0.0
    assert box_loss(wider, torch.zeros_like(labels), boxes).item() == 0.0


@pytest.mark.parametrize("strides", [(2, 4, 8, 16, 32), (4, 8, 16), (2, 4, 8, 32, 32)])
@pytest.mark.parametrize("boxes", [True, False])
def test_heads_give_logits_at_half_and_sides_at_a_quarter(strides: tuple[int, ...], boxes: bool) -> None:
    """Whatever levels an encoder has, outputs have the size that the rest of the line expects."""
    levels = tuple(Level(stride, 3) for stride in strides)
    head = DenseHead(HeadSettings(levels, 4, boxes, width=8)).eval()
    with torch.inference_mode():
        output = head([torch.randn(2, 3, HEIGHT // s, WIDTH // s) for s in strides])
    assert output.logits.shape == (2, 5, HEIGHT // 2, WIDTH // 2)
    if boxes:
        assert output.sides is not None
        assert output.sides.shape == (2, 4, HEIGHT // 4, WIDTH // 4)
        assert (output.sides > 0).all()
    else:
        assert output.sides is None


def test_statistics_are_part_of_the_weights() -> None:
    """Features scaled and shifted give the same logits once the head knows their statistics."""
    features = [torch.randn(1, level.channels, HEIGHT // level.stride, WIDTH // level.stride) for level in LEVELS]
    head = new_head().eval()
    ones = [(np.zeros(level.channels, np.float32), np.ones(level.channels, np.float32)) for level in LEVELS]
    head.set_statistics(ones)
    with torch.inference_mode():
        plain = head(features).logits
        head.set_statistics([(mean + 5, deviation * 3) for mean, deviation in ones])
        scaled = head([maps * 3 + 5 for maps in features]).logits
    assert torch.allclose(plain, scaled, atol=1e-3)
    assert "mean0" in head.state_dict()


def test_the_frame_classifier_is_balanced_and_forgives_unknowns() -> None:
    """One positive among nine negatives is learned; classes that a frame says nothing of do not count there."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(0, 0.3, (30, 3)).astype(np.float32)
    vectors[:3, 0] += 4.0
    vectors[:, 1] += np.where(np.arange(30) % 2 == 0, 3.0, 0.0)
    targets = np.zeros((30, 2), np.float32)
    targets[:3, 0] = 1
    targets[:, 1] = np.where(np.arange(30) % 2 == 0, 1.0, 0.0)
    targets[20:, 1] = np.nan
    classifier = FrameClassifier(3, 2)
    classifier.fit(torch.from_numpy(vectors), torch.from_numpy(targets))
    with torch.inference_mode():
        said = classifier(torch.from_numpy(vectors)).numpy() > 0
    assert said[:, 0].tolist() == [True] * 3 + [False] * 27
    assert said[:, 1].tolist() == [index % 2 == 0 for index in range(30)]


@pytest.mark.parametrize("present", [True, False])
def test_evidence_of_one_kind_gives_wide_confidence(present: bool) -> None:
    """All seeds say the same: the same answer everywhere, as after one answer. Other classes get the same numbers."""
    rng = np.random.default_rng(0)
    vectors = torch.from_numpy(rng.normal(0, 1, (20, 3)).astype(np.float32))
    targets = torch.full((20, 3), torch.nan)
    targets[:, 0] = (vectors[:, 0] > 0).float()
    beside = targets.clone()
    beside[:5, 1] = float(present)
    classifier = FrameClassifier(3, 3)
    classifier.fit(vectors, beside)
    with torch.inference_mode():
        found = classifier(torch.from_numpy(rng.normal(0, 9, (50, 3)).astype(np.float32)))
        assert ((classifier(vectors)[:, 0] > 0) == (vectors[:, 0] > 0)).all()
    said = [presence_probability(log_odds) for log_odds in found[:, 1].tolist()]
    assert said == pytest.approx([2 / 3 if present else 1 / 3] * 50)
    assert found[:, 2].tolist() == [0.0] * 50  # nobody said anything


def test_evidence_of_one_kind_is_warned_of() -> None:
    """By class, with what is missing; frame classes with both kinds are not mentioned."""
    labels = [FrameLabel(0, "tool", True), FrameLabel(5, "tool", True), FrameLabel(0, "smoke", False)]
    labels += [FrameLabel(0, "blood", False), FrameLabel(9, "blood", True)]
    smoke, tool = one_sided_warnings(labels)
    assert "'smoke' say absent" in smoke
    assert smoke.endswith("add one that says present")
    assert "'tool' say present" in tool
    assert "0.67" in tool
    assert tool.endswith("add one that says absent")


def test_pooled_features_are_mean_and_maximum_of_each_level() -> None:
    """One float32 vector with twice as many numbers as there are channels."""
    features = [np.arange(8, dtype=np.float16).reshape(2, 2, 2), np.ones((3, 1, 1), np.float16)]
    vector = pooled(features)
    assert vector.dtype == np.float32
    assert vector.tolist() == [1.5, 5.5, 3.0, 7.0, 1, 1, 1, 1, 1, 1]


def test_statistics_stay_where_they_are_asked_to() -> None:
    """Batch normalization of a warm start keeps what it learned from the whole video; weights go on learning."""
    for fixed in (False, True):
        head = new_head()
        before = {name: value.clone() for name, value in head.state_dict().items()}
        HeadTrainer(head).fit(samples(), 3, Clock(0, 1, 3), Run(device="cpu"), fixed_statistics=fixed)
        after = head.state_dict()
        moved = any(not torch.equal(after[name], before[name]) for name in before if "running_" in name)
        assert moved is not fixed
        assert not torch.equal(after["mixes.0.0.weight"], before["mixes.0.0.weight"])
