"""Self-training: a head learns from the video's own frames where the first labeling of them is sure.

Source: Voigtlaender & Leibe, *OnAVOS*, BMVC 2017.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt

from micromodels.encoding.encoders import Features
from micromodels.labels.targets import IGNORE
from micromodels.training.trainer import Sample

__all__ = ["confident_samples", "frames_to_label", "rounds_after"]

FRAMES, STRIDE = 160, 2
"""Every second frame says nearly as much as all, and the others are encoded while the head trains on them."""
CERTAINTY = 0.85
WEIGHT = 0.7
"""Of what nobody drew, against 1 of what somebody did."""
MIN_SAMPLES, KEPT_SHARE = 4, 0.6
"""Frames that only look sure are more among the last: the surer half and some are kept."""
ROUGH_FRAMES, ROUGH_ROUNDS = 1, 2
"""From one drawn frame the first labeling is rough: the head that has learned from its surer part labels the video
again, and learns from that. More drawn frames gain nothing by it."""

Floats = npt.NDArray[np.float32]


def rounds_after(drawn_frames: int) -> int:
    """How often the video labels itself and is learned from."""
    return ROUGH_ROUNDS if drawn_frames <= ROUGH_FRAMES else 1


def frames_to_label(frame_count: int, seed_frames: Sequence[int]) -> list[int]:
    """Every second frame of a short video, or of the part of a long one around the middle seed, and the seeds there.

    Args:
        frame_count: of the video.
        seed_frames: frames with seeds of objects, at least one.
    """
    start = 0
    if frame_count > FRAMES:
        middle = sorted(seed_frames)[len(seed_frames) // 2]
        start = int(np.clip(middle - FRAMES // 2, 0, frame_count - FRAMES))
    near = range(start, min(frame_count, start + FRAMES))
    return sorted({*near[::STRIDE], *(frame for frame in seed_frames if frame in near)})


def confident_samples(labeled: Iterable[tuple[int, Floats]], features_of: Callable[[int], Features]) -> list[Sample]:
    """Frames as training samples, the surest first.

    Args:
        labeled: frames and what is believed of them: log-odds ``(tracks, h, w)`` at the stride of the head.
        features_of: encoded features of a frame.
    """
    found: list[tuple[float, Sample]] = []
    for frame, log_odds in labeled:
        label_map, certainty = _sure_labels(log_odds)
        if certainty > 0:
            boxes = np.full((len(log_odds), 4), np.nan, np.float32)
            known = np.ones(len(log_odds), bool)
            found.append((certainty, Sample(features_of(frame), label_map, boxes, known, WEIGHT)))
    found.sort(key=lambda item: -item[0])
    return [sample for _, sample in found[: max(MIN_SAMPLES, int(KEPT_SHARE * len(found)))]]


def _sure_labels(log_odds: Floats) -> tuple[npt.NDArray[np.uint8], float]:
    """A label map where only sure pixels are scored, and how sure its objects are (0 where there is none)."""
    probability = 1 / (1 + np.exp(-log_odds.clip(-30, 30)))
    best = probability.argmax(axis=0)
    top = probability.max(axis=0)
    label_map = np.full(top.shape, IGNORE, np.uint8)
    label_map[top < 1 - CERTAINTY] = 0
    sure = top > CERTAINTY
    label_map[sure] = best[sure] + 1
    inside = top > 0.5
    return label_map, float(top[inside].mean()) if sure.any() else 0.0
