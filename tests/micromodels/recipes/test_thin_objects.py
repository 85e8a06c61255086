"""Objects thinner than two pixels: found from the seeds, learned from the pixels, kept whole from end to end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.nn import functional as F

from micromodels.correction.rehearsal import grow_head
from micromodels.encoding.encoded_video import EncodedVideo
from micromodels.encoding.encoders import ComposedEncoder
from micromodels.encoding.encoders.pixels import PixelEncoder
from micromodels.labels.geometry import mask_iou
from micromodels.labels.targets import SeedFrame, SeedSet, has_thin_objects
from micromodels.propagation.predictions import StoredPredictions, with_details
from micromodels.recipes.base import TrainSettings, load_model, train
from micromodels.recipes.head.model import DenseModel
from micromodels.runtime.run import Run
from micromodels.training.frame_classifier import pooled, pooled_size
from micromodels.training.head import DenseHead, HeadSettings, head_levels
from micromodels.training.trainer import Clock, HeadTrainer, Sample
from micromodels.types import Label, Mask, ShapeKind, State
from tests.micromodels.doubles import HEIGHT, WIDTH, ColorEncoder, MemoryVideo, Recorder, using_encoder

Rgb = npt.NDArray[np.uint8]
FINE = ComposedEncoder((PixelEncoder(), ColorEncoder()))


def line(index: int) -> npt.NDArray[np.bool_]:
    """A line of one pixel across the frame."""
    drawn = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.line(drawn, (8, 20 + 4 * index), (WIDTH - 9, HEIGHT - 41 + 4 * index), 1, 1)
    return drawn > 0


def picture(index: int) -> Rgb:
    noise = np.random.default_rng(index).integers(70, 90, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    noise[line(index)] = (250, 240, 60)
    return noise


def target(mask: npt.NDArray[np.bool_]) -> SeedFrame:
    return SeedFrame(0, mask.astype(np.uint8), np.full((1, 4), np.nan, np.float32), np.ones(1, bool))


def seeds_of(mask: npt.NDArray[np.bool_]) -> SeedSet:
    return SeedSet([Label(0, "1", "rope", State.VISIBLE, Mask.from_array(mask))], 1, HEIGHT, WIDTH)


def test_thin_objects_are_told_from_the_seeds() -> None:
    """A line is thin; a disk is not; boxes never are."""
    disk = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.circle(disk, (60, 50), 20, 1, -1)
    tracks = seeds_of(line(0)).tracks
    assert has_thin_objects([target(line(0))], tracks)
    assert not has_thin_objects([target(disk > 0)], tracks)
    assert not has_thin_objects([target(np.zeros_like(line(0)))], tracks)
    boxes = [type(tracks[0])("1", "rope", ShapeKind.BOX)]
    assert not has_thin_objects([target(line(0))], boxes)


def test_a_head_with_pixels_draws_a_line_that_the_other_cannot() -> None:
    """The same training: the line of one pixel is right at stride 1, and lost at stride 2."""
    scores = {}
    for thin in (False, True):
        torch.manual_seed(0)
        head = DenseHead(HeadSettings(head_levels(FINE.levels, thin=thin), 1, False, width=16, fine_width=8))
        stride = head.settings.stride
        assert stride == (1 if thin else 2)
        nothing = np.full((1, 4), np.nan, np.float32)
        samples = [
            Sample(FINE.encode(picture(i)), line(i)[::stride, ::stride].astype(np.uint8), nothing, np.ones(1, bool))
            for i in range(6)
        ]
        HeadTrainer(head, 0).fit(samples, 120, Clock(0, 1, 120), Recorder().run)
        with torch.inference_mode():
            logits = head([torch.from_numpy(level)[None].float() for level in FINE.encode(picture(7))]).logits
        odds = F.interpolate(logits, size=(HEIGHT, WIDTH), mode="bilinear")[0]
        scores[thin] = mask_iou((odds[1] > odds[0]).numpy(), line(7))
    assert scores[True] > 0.9
    assert scores[True] > scores[False] + 0.2


def test_pixels_say_nothing_of_frame_classes() -> None:
    """Pooled features have the length that is promised, with and without the pixels."""
    assert len(pooled(FINE.encode(picture(0)))) == pooled_size(FINE.levels) == pooled_size(ColorEncoder.levels)


@pytest.fixture
def fine_encoder(own_size: None) -> Iterator[None]:
    with using_encoder(FINE):
        yield


def test_lines_come_out_of_the_whole_way(fine_encoder: None, tmp_path: Path) -> None:
    """Trained on two frames, saved, loaded, propagated: the lines of the others are right to the pixel."""
    video = MemoryVideo([picture(i) for i in range(8)])
    seeds = [Label(i, "1", "rope", State.VISIBLE, Mask.from_array(line(i))) for i in (1, 6)]
    model = train(video, seeds, TrainSettings(effort=0.35), run=Recorder().run)
    model.save(tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert isinstance(loaded, DenseModel)
    assert loaded.head is not None
    assert loaded.head.settings.stride == 1
    for result in loaded.propagate(video, seeds, run=Run("cpu")):
        (label,) = result.labels
        assert isinstance(label.shape, Mask)
        assert mask_iou(label.shape.to_array(), line(result.frame)) > 0.8


def test_stored_predictions_keeps_the_details(own_size: None, tmp_path: Path) -> None:
    """What comes from the files is what was predicted, detail for detail; the pixels are those of the head."""
    torch.manual_seed(0)
    head = DenseHead(HeadSettings(FINE.levels, 2, False, width=16, fine_width=8)).eval()
    video = MemoryVideo([picture(0), picture(1)])
    with EncodedVideo(video, FINE, Run("cpu", cache_dir=tmp_path / "cache")) as encoded:
        stored = StoredPredictions(encoded, tmp_path / "predictions")
        stored.use_head(head, Run("cpu"))
        first = dict(stored.stream(range(2)))
        again = dict(stored.stream(range(2)))
        for frame in range(2):
            assert len(first[frame].details) == 2
            for one, other in zip(first[frame].details, again[frame].details, strict=True):
                assert (one.top, one.left) == (other.top, other.left)
                np.testing.assert_array_equal(one.values, other.values)
        half = first[0].log_odds.float().numpy()
        full = with_details(half, first[0].details)
        maxima = F.max_pool2d(torch.from_numpy(full)[None], 2)[0].numpy()
        seen = half > -4
        np.testing.assert_allclose(maxima[seen], half[seen], atol=0.05)


def test_a_grown_thin_head_says_the_same_of_the_old_tracks() -> None:
    """Four logits a cell and track: a new track takes none of the old ones' places."""
    torch.manual_seed(0)
    head = DenseHead(HeadSettings(FINE.levels, 1, False, width=16, fine_width=8)).eval()
    grown = grow_head(head, 2, boxes=False)
    inputs = [torch.from_numpy(level)[None].float() for level in FINE.encode(picture(0))]
    with torch.inference_mode():
        torch.testing.assert_close(grown(inputs).logits[:, :2], head(inputs).logits)
