"""Classes of whole frames: a linear classifier on pooled features, fitted to the human labels of some frames."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F

from micromodels.encoding.encoders import Features, Level
from micromodels.types import FrameLabel

__all__ = [
    "FrameClassifier",
    "fit_frame_classifier",
    "one_sided_warnings",
    "pooled",
    "pooled_size",
    "presence_probability",
]

Vector = npt.NDArray[np.float32]

SHARPNESS = 2.0
"""Factor on log-odds that turns them into calibrated ones."""
ONE_SIDED_PROBABILITY = 2 / 3
"""Of a class being present (or absent) where people only ever said that it is: Laplace's rule of succession after one
answer. Frames of one kind say nothing about what the other kind looks like, so more of them are no more evidence."""
ONE_SIDED_LOG_ODDS = math.log(ONE_SIDED_PROBABILITY / (1 - ONE_SIDED_PROBABILITY)) / SHARPNESS


def presence_probability(log_odds: float) -> float:
    """Probability, 0 to 1, that a frame class is present, from the classifier's log-odds."""
    return float(1 / (1 + np.exp(-SHARPNESS * log_odds)))


def one_sided_warnings(labels: Iterable[FrameLabel]) -> list[str]:
    """A message for every frame class that people only ever called present, or only absent; by name."""
    answers: dict[str, set[bool]] = {}
    for label in labels:
        answers.setdefault(label.frame_class, set()).add(label.present)
    messages = []
    for name, said in sorted(answers.items()):
        if len(said) == 1:
            given, missing = ("present", "absent") if True in said else ("absent", "present")
            guess = f"labels of other frames are guesses with a confidence of {ONE_SIDED_PROBABILITY:.2f}"
            messages.append(f"all seeds of frame class {name!r} say {given}: {guess}; add one that says {missing}")
    return messages


def pooled_size(levels: Sequence[Level]) -> int:
    """Length of what ``pooled`` makes of these levels."""
    return 2 * sum(level.channels for level in levels if level.stride > 1)


def pooled(features: Features) -> npt.NDArray[np.float32]:
    """One vector per image for frame classes: mean and maximum of every level, float32."""
    parts = []
    for maps in features:
        if maps.dtype == np.uint8:
            continue  # pixels say little that the levels above them do not
        flat = maps.reshape(maps.shape[0], -1).astype(np.float32)
        parts += [flat.mean(axis=1), flat.max(axis=1)]
    return np.concatenate(parts)


class FrameClassifier(nn.Module):
    """Logistic regression on pooled, standardized features: one logit per frame class."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("deviation", torch.ones(inputs))
        self.linear = nn.Linear(inputs, classes)

    def fit(self, vectors: torch.Tensor, targets: torch.Tensor, strength: float = 1e-2) -> None:
        """Fit by L-BFGS.

        A class of which all known targets are equal gets the same log-odds everywhere: ``ONE_SIDED_LOG_ODDS``, or minus
        that. A linear classifier would be as certain of every frame.

        Args:
            vectors: float ``(views, inputs)``.
            targets: float ``(views, classes)``: 1 present, 0 absent, NaN unknown.
            strength: weight of the L2 penalty.
        """
        self.get_buffer("mean").copy_(vectors.mean(dim=0))
        self.get_buffer("deviation").copy_(vectors.std(dim=0, unbiased=False) + 1e-3)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        known = ~torch.isnan(targets)
        wanted = torch.nan_to_num(targets)
        # Classes are balanced: one seed with and nine without must not teach "without".
        positive = (wanted * known).sum(dim=0).clamp(min=1)
        negative = ((1 - wanted) * known).sum(dim=0).clamp(min=1)
        weight = torch.where(wanted > 0.5, 0.5 / positive, 0.5 / negative) * known
        optimizer = torch.optim.LBFGS(self.linear.parameters(), max_iter=60, line_search_fn="strong_wolfe")

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            losses = F.binary_cross_entropy_with_logits(self(vectors), wanted, reduction="none")
            loss: torch.Tensor = (losses * weight).sum() + strength * self.linear.weight.square().sum()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimizer.step(closure)  # type: ignore[no-untyped-call]
        for answer, sign in ((1.0, 1.0), (0.0, -1.0)):
            one_sided = known.any(dim=0) & ((wanted == answer) | ~known).all(dim=0)
            with torch.no_grad():
                self.linear.weight[one_sided] = 0.0
                self.linear.bias[one_sided] = sign * ONE_SIDED_LOG_ODDS

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """``(n, inputs)`` to logits ``(n, classes)``."""
        # Divided by the number of inputs' root, so that one penalty suits every encoder.
        scaled = ((vectors - self.get_buffer("mean")) / self.get_buffer("deviation")) / self.linear.in_features**0.5
        logits: torch.Tensor = self.linear(scaled)
        return logits


def fit_frame_classifier(
    names: Sequence[str], labels: Iterable[FrameLabel], views: Iterable[tuple[int, Vector]]
) -> FrameClassifier:
    """A classifier of these frame classes, in evaluation mode.

    Args:
        names: the classes, in the order of its logits.
        labels: human labels of frames.
        views: frames and pooled features of them, any number of each; those of other frames than the labels' are passed
            over.
    """
    said: dict[int, Vector] = {}
    for label in labels:
        row = said.setdefault(label.frame, np.full(len(names), np.nan, np.float32))
        row[names.index(label.frame_class)] = float(label.present)
    pairs = [(vector, said[frame]) for frame, vector in views if frame in said]
    vectors, targets = (np.stack(column) for column in zip(*pairs, strict=True))
    classifier = FrameClassifier(vectors.shape[1], len(names))
    classifier.fit(torch.from_numpy(vectors), torch.from_numpy(targets))
    return classifier.eval()
