"""How sure a label is: the probability that a reviewer would accept it.

The error of a label, 1 - IoU, is predicted on a log scale from signs of its quality by a linear regression, whose few
weights ``scripts/calibrate`` fits to labels of the benchmark's development sequences
(docs/explanation/experiments.md); what that leaves open is taken as normal. A reviewer accepts masks of J >= .8 and
boxes of IoU >= .7. The signs are relative (to the object's size, to its anchors), so the weights are the same for all
videos.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["BOXES", "MASKS", "BoxSigns", "ErrorModel", "MaskSigns", "absence", "acceptance", "mask_signs"]

Floats = npt.NDArray[np.float32]

FAR_FRAMES = 64
FAMILIAR_LIKENESS = 0.6
"""From here on the outline of an object is fully believed."""
USUAL_ACCORD = 0.8
"""Where an outline speaks neither for nor against a box, as where there is none."""
LOWEST, HIGHEST = 0.01, 0.99


@dataclass(frozen=True, slots=True)
class MaskSigns:
    """What tells a good mask from a bad one.

    Attributes:
        expected_iou: IoU of the mask with what the pixel probabilities expect, 0 to 1.
        agreement: IoU of the masks of both sweeps; NaN where only one comes by.
        anchor_distance: frames to the nearest anchor; -1 without any.
        growth: natural logarithm of the area over that expected between the anchors.
    """

    expected_iou: float
    agreement: float
    anchor_distance: int
    growth: float

    def values(self) -> dict[str, float]:
        """Numbers of like size, by name."""
        return {
            "doubt": _log(1 - self.expected_iou, 0.005),
            "disagreement": 0.0 if np.isnan(self.agreement) else _log(1.02 - self.agreement, 0.02),
            "distance": _distance(self.anchor_distance),
            "growth": min(abs(self.growth), 2.0),
        }


@dataclass(frozen=True, slots=True)
class BoxSigns:
    """What tells a good box from a bad one.

    Attributes:
        likeness: to the anchors; see ``paths.FramePlaces``.
        match: with what was there a moment ago; see ``paths.FramePlaces``.
        accord: IoU with the box that the outline says; NaN where there is none.
        change: of the sides since they were drawn; see ``paths.FramePlaces``.
        is_between: whether there are anchors on both sides of the frame.
    """

    likeness: float
    match: float
    accord: float
    change: float
    is_between: bool

    def values(self) -> dict[str, float]:
        """Numbers of like size, by name."""
        # What a head does not know has an outline that says nothing, neither for nor against the box.
        familiar = float(np.clip(self.likeness / FAMILIAR_LIKENESS, 0.0, 1.0))
        apart = 0.0 if np.isnan(self.accord) else _log(1.02 - self.accord, 0.02) - _log(1.02 - USUAL_ACCORD, 0.02)
        return {
            # The better of both: one knows what people drew, the other what was there a moment ago.
            "strangeness": -_log(float(np.nanmax([self.likeness, self.match])), 0.05, 1.2),
            "discord": familiar * apart,
            "change": min(self.change, 1.0),
            "one_sided": float(not self.is_between),
        }


def _distance(frames: int) -> float:
    return float(np.log1p(FAR_FRAMES if frames < 0 else min(frames, FAR_FRAMES)))


def _log(share: float, least: float, most: float = 1.0) -> float:
    return float(np.log(np.clip(share, least, most)))


def mask_signs(log_odds: Floats, agreement: float, anchor_distance: int, expected_area: float) -> MaskSigns:
    """Signs of the mask that a track's log-odds ``(h, w)`` give; ``expected_area`` is a share of the image."""
    probability = 1 / (1 + np.exp(-np.clip(log_odds, -30, 30)))
    mask = log_odds > 0
    inside, area = float(probability[mask].sum()), float(mask.sum())
    union = area + float(probability[~mask & (probability > 0.02)].sum())
    growth = float(np.log(max(area, 1.0) / max(1.0, expected_area * mask.size)))
    return MaskSigns(inside / union if union else 0.0, agreement, anchor_distance, growth)


@dataclass(frozen=True, slots=True)
class ErrorModel:
    """``log(1 - IoU)`` is ``constant`` plus the weighted signs, with a standard deviation of ``deviation``.

    Attributes:
        accepted_iou: from which IoU on a reviewer accepts.
        weights: by name of the sign.
    """

    accepted_iou: float
    constant: float
    weights: Mapping[str, float]
    deviation: float

    def probability(self, values: Mapping[str, float]) -> float:
        """Probability that the IoU reaches ``accepted_iou``, ``LOWEST`` to ``HIGHEST``."""
        predicted = self.constant + sum(weight * values[name] for name, weight in self.weights.items())
        distance = (math.log(1 - self.accepted_iou) - predicted) / self.deviation
        return float(np.clip(0.5 * (1 + math.erf(distance / math.sqrt(2))), LOWEST, HIGHEST))


MASKS = ErrorModel(0.8, 0.76, {"doubt": 0.97, "disagreement": 0.054, "distance": 0.11, "growth": 0.17}, 0.35)
BOXES = ErrorModel(0.7, -1.68, {"strangeness": 0.4, "discord": 0.55, "change": 1.25, "one_sided": 0.14}, 0.55)


def acceptance(signs: MaskSigns | BoxSigns) -> float:
    """Probability that a reviewer accepts the label, .01 to .99."""
    return (MASKS if isinstance(signs, MaskSigns) else BOXES).probability(signs.values())


def absence(presence: float) -> float:
    """Probability that a track that is said to be absent is: .5 to .97, by how present it looks (0 to 1).

    On the development sequences .96 of the absences of presence below .05 were right, .85 of those of .1 to .2, and .55
    of those of .2 to .5.
    """
    return float(np.clip(0.97 - 1.3 * presence, 0.5, 0.97))
