"""Which frames a video labels itself, and which pixels of them are learned from."""

from __future__ import annotations

import numpy as np
import pytest

from micromodels.labels.targets import IGNORE
from micromodels.training.self_training import confident_samples, frames_to_label, rounds_after


def test_short_videos_label_every_second_frame_and_the_seeds() -> None:
    """Ascending, each once."""
    assert frames_to_label(9, [3, 4]) == [0, 2, 3, 4, 6, 8]
    assert frames_to_label(1, [0]) == [0]


@pytest.mark.parametrize(("seeds", "start"), [([500], 420), ([10], 0), ([990, 10, 995], 840)])
def test_long_videos_label_a_part_around_the_middle_seed(seeds: list[int], start: int) -> None:
    """160 frames that lie in the video; of the seeds those among them."""
    frames = frames_to_label(1000, seeds)
    assert (frames[0], len(range(frames[0], frames[-1] + 1))) == (start, 159 if (start + 159) not in seeds else 160)
    assert set(seeds) & set(range(start, start + 160)) <= set(frames)


def test_one_drawn_frame_is_learned_from_twice() -> None:
    """The labels that a head makes from one frame are rough."""
    assert [rounds_after(count) for count in (0, 1, 2, 7)] == [2, 2, 1, 1]


def test_only_sure_pixels_are_scored() -> None:
    """An object where it is surely, background where there surely is none, nothing between."""
    log_odds = np.array([[[9.0, 0.5, -0.5, -9.0]], [[-9.0, -9.0, -9.0, -9.0]]], np.float32)
    features = [np.zeros((1, 1, 1), np.float16)]
    (sample,) = confident_samples([(7, log_odds)], lambda frame: features)
    assert sample.label_map.tolist() == [[1, IGNORE, IGNORE, 0]]
    assert sample.features is features
    assert np.isnan(sample.boxes).all()
    assert sample.boxes.shape == (2, 4)
    assert sample.known.tolist() == [True, True]
    assert 0 < sample.weight < 1


def test_the_surer_part_of_the_frames_is_kept() -> None:
    """Six of ten, the surest first; four at least; a frame without an object is none of them."""

    def sure(odds: float) -> np.ndarray:
        return np.full((1, 2, 2), odds, np.float32)

    asked: list[int] = []

    def features_of(frame: int) -> list[np.ndarray]:
        asked.append(frame)
        return [np.full((1, 1, 1), frame, np.float16)]

    def kept(odds: list[float]) -> list[int]:
        samples = confident_samples(((i, sure(value)) for i, value in enumerate(odds)), features_of)
        return [int(sample.features[0][0, 0, 0]) for sample in samples]

    assert kept([2.0 + 0.1 * i for i in range(10)]) == [9, 8, 7, 6, 5, 4]
    assert kept([3.0, -9.0, 2.0, 2.5, 4.0]) == [4, 0, 3, 2]
    asked.clear()
    assert kept([-9.0, 0.0]) == []
    assert asked == []
