"""How wide and high a box is between anchors: as its pixels vote, as the picture grows in it, and as people drew it.

In each direction a Kalman filter on the logarithms of width and height starts on a drawn box. From frame to frame it
grows as the optical flow spreads inside the box, and is corrected by the sides that the head's pixels vote for, by the
outline of the pixels that are likely the object's, with the slack that people left around it when they drew, and, a
little, by the size interpolated between the anchors. Both directions together make a smoother (Fraser & Potter, *The
Optimum Linear Smoother as a Combination of Two Optimum Linear Filters*, 1969). What nobody can be sure of has a large
deviation and counts little: votes of a head that hardly knows the object any more, votes for small boxes, flow that no
single growth explains.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["DRAWN_VARIANCE", "Extent", "ExtentSettings", "Growth", "Slack", "between", "combined", "flow_growth"]

FIT_ROUNDS = 5
MIN_ERROR_CELLS = 0.02
"""Optical flow is no better than this."""
MIN_WEIGHT = 1e-4
MIN_GROWTH, MAX_GROWTH = 0.3, 3.0
"""From one frame to the next; more is a failed measurement."""
MIN_LIKENESS = 0.05
MAX_SLACK = 0.4
"""Natural logarithm of a side of the box against the outline's."""
SLACK_DOUBT = 0.4
"""Deviation of a size as a share of the slack that it is known with."""
DRAWN_VARIANCE = 1e-6
"""Of what people drew."""

Floats = npt.NDArray[np.float64]
Corners = npt.NDArray[np.float32]
"""x1, y1, x2, y2 in work pixels."""


@dataclass(frozen=True, slots=True)
class ExtentSettings:
    """Deviations of the logarithm of a side; dev-set values, see docs/explanation/experiments.md.

    Attributes:
        drift: of the growth from frame to frame, where the flow is sure of it.
        flow_share: how much of the growth that the flow says is believed.
        flow_doubt: factor on the deviation of the flow's growth.
        growth_doubt: the same as a share of that growth.
        vote: of a vote where the object looks as on its anchors.
        vote_px: the same in work pixels, for small boxes.
        outline: of an outline where the object looks as on its anchors; far larger where it does not.
        outline_px: the same in work pixels.
        outline_likeness: below it an outline says nothing.
        usual: of the size interpolated between the anchors.
        cut: of the growth across a scene cut.
    """

    drift: float = 0.02
    flow_share: float = 0.8
    flow_doubt: float = 5.0
    growth_doubt: float = 0.5
    vote: float = 0.12
    vote_px: float = 40.0
    outline: float = 0.07
    outline_px: float = 15.0
    outline_likeness: float = 0.25
    usual: float = 0.4
    cut: float = 1.0


@dataclass(frozen=True, slots=True)
class Growth:
    """How the picture inside a box grew from one frame to the next.

    Attributes:
        log: float64 ``(2,)`` natural logarithm of the factor on width and height.
        deviation: float64 ``(2,)`` of ``log``.
    """

    log: Floats
    deviation: Floats


@dataclass(frozen=True, slots=True)
class Extent:
    """Width and height of a box, and how sure they are.

    Attributes:
        mean: float64 ``(2,)`` natural logarithms of width and height in work pixels.
        variance: float64 ``(2,)`` of ``mean``.
    """

    mean: Floats
    variance: Floats

    @property
    def sides(self) -> tuple[float, float]:
        """Width and height in work pixels."""
        width, height = np.exp(self.mean)
        return float(width), float(height)

    def grown(self, growth: Growth | None, settings: ExtentSettings) -> Extent:
        """What is expected one frame on; ``growth`` is None across a scene cut."""
        if growth is None:
            return Extent(self.mean, self.variance + settings.cut**2)
        doubt = (settings.flow_doubt * growth.deviation) ** 2 + (settings.growth_doubt * growth.log) ** 2
        return Extent(self.mean + settings.flow_share * growth.log, self.variance + settings.drift**2 + doubt)

    def corrected(
        self,
        votes: Floats | None,
        outline: Extent | None,
        likeness: float,
        usual: Floats,
        settings: ExtentSettings,
    ) -> Extent:
        """What is believed after a look at the frame.

        Args:
            votes: logarithms of the width and height that pixels vote for; None where they say nothing.
            outline: what the outline says with its slack; None where there is none.
            likeness: of the object to its anchors; see ``paths.FramePlaces``.
            usual: logarithms of the interpolated width and height.
            settings: deviations.
        """
        side_px, alike = float(np.exp(usual.mean())), float(np.clip(likeness, MIN_LIKENESS, 1.0))
        believed = combined(self, Extent(usual, np.full(2, settings.usual**2)))
        if votes is not None:
            doubt = (settings.vote**2 + (settings.vote_px / side_px) ** 2) / alike**2
            believed = combined(believed, Extent(votes, np.full(2, doubt)))
        if outline is not None and likeness >= settings.outline_likeness:
            doubt = (settings.outline**2 + (settings.outline_px / side_px) ** 2) / alike**4
            believed = combined(believed, Extent(outline.mean, outline.variance + doubt))
        return believed


@dataclass(frozen=True, slots=True)
class Slack:
    """How a drawn box lies around the outline of its pixels: people draw loosely or tightly, and heads see a part.

    Attributes:
        log: float64 ``(2,)`` natural logarithm of width and height of the box against those of the outline.
        shift: float64 ``(2,)`` from the middle of the outline to that of the box, as a share of its sides.
    """

    log: Floats
    shift: Floats

    @classmethod
    def of(cls, outline: Corners, drawn: Corners) -> Slack:
        """The slack of a drawn box; both are x1, y1, x2, y2."""
        sides = np.maximum(drawn[2:] - drawn[:2], 1.0)
        log = np.log(sides / np.maximum(outline[2:] - outline[:2], 1.0))
        shift = (drawn[:2] + drawn[2:] - outline[:2] - outline[2:]) / 2 / sides
        return cls(log.astype(np.float64), shift.astype(np.float64))

    @property
    def is_usable(self) -> bool:
        """Whether the outline had to do with the box: of an object that a head hardly sees it may be anything."""
        return bool(np.abs(self.log).max() <= MAX_SLACK)

    def around(self, outline: Corners) -> tuple[Extent, Floats]:
        """Size and middle of the box that leaves this slack around an outline; the more slack, the less sure."""
        log = np.log(np.maximum(outline[2:] - outline[:2], 1.0)) + self.log
        return Extent(log, (SLACK_DOUBT * self.log) ** 2), (outline[:2] + outline[2:]) / 2 + self.shift * np.exp(log)


def combined(one: Extent, other: Extent) -> Extent:
    """What two independent sources say together."""
    precision = 1 / one.variance + 1 / other.variance
    return Extent((one.mean / one.variance + other.mean / other.variance) / precision, 1 / precision)


def between(there: Growth, back: Growth) -> Growth:
    """The growth from one frame to another, of that and of the one back.

    Where background in the box or the smoothness of the flow pulls both the same way, the mean of both is free of it.
    """
    apart = np.abs(there.log + back.log) / 2
    return Growth((there.log - back.log) / 2, (there.deviation + back.deviation) / 2 + apart)


def flow_growth(flow: npt.NDArray[np.float32], weight: npt.NDArray[np.float32]) -> Growth:
    """The growth that explains the optical flow inside a box, robustly.

    Args:
        flow: float ``(h, w, 2)``: from each cell of the box to where it was a frame ago, in cells, x and y.
        weight: float ``(h, w)``, 0 to 1: how far a cell belongs to the object and its flow is to be believed.
    """
    weights = weight.ravel().astype(np.float64) + MIN_WEIGHT
    rows, columns = np.indices(flow.shape[:2])
    fits = [
        _slope(places.ravel().astype(np.float64), flow[..., axis].ravel().astype(np.float64), weights)
        for axis, places in enumerate((columns, rows))
    ]
    slopes, deviations = np.array(fits).T
    return Growth(-np.log(np.clip(1 + slopes, MIN_GROWTH, MAX_GROWTH)), deviations)


def _slope(places: Floats, values: Floats, weights: Floats) -> tuple[float, float]:
    """Slope of ``values`` over ``places`` and its deviation, by least squares reweighted after Cauchy."""
    present, slope, error, spread = weights, 0.0, MIN_ERROR_CELLS, 0.0
    for _ in range(FIT_ROUNDS):
        total = present.sum()
        apart = places - (present * places).sum() / total
        mean = (present * values).sum() / total
        spread = max(float((present * apart**2).sum()), 1e-9)
        slope = float((present * apart * (values - mean)).sum()) / spread
        left = values - mean - slope * apart
        error = max(1.5 * float(np.median(np.abs(left))), MIN_ERROR_CELLS)
        present = weights / (1 + (left / error) ** 2)
    return slope, float(error / np.sqrt(spread))
