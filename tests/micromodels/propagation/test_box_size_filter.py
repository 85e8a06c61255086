"""Sizes of boxes between anchors: growth by the flow, votes, and what is left of the interpolated size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from micromodels.propagation.box_size_filter import (
    DRAWN_VARIANCE,
    Extent,
    ExtentSettings,
    Growth,
    Slack,
    between,
    combined,
    flow_growth,
)

SETTINGS = ExtentSettings()
DRAWN = Extent(np.log([40.0, 80.0]), np.full(2, DRAWN_VARIANCE))


def flow_of(factor: float, shift: float = 3.0, size: int = 20) -> np.ndarray:
    """Flow to the frame before of a picture that grew about its corner by a factor and moved."""
    y, x = np.indices((size, size)).astype(np.float32)
    return np.stack([x / factor - x + shift, y / factor - y - shift], axis=-1)


@pytest.mark.parametrize("factor", [0.9, 0.98, 1.0, 1.05])
def test_a_growing_picture_is_measured(factor: float) -> None:
    """Wherever it moves, and surely; the flow back says the same."""
    there, back = (flow_growth(flow_of(f), np.ones((20, 20), np.float32)) for f in (factor, 1 / factor))
    assert there.log == pytest.approx([np.log(factor)] * 2, abs=1e-3)
    assert between(there, back).log == pytest.approx([np.log(factor)] * 2, abs=1e-3)
    assert there.deviation.max() < 0.01


def test_what_does_not_belong_to_the_object_hardly_counts() -> None:
    """A third of the box stands still: outvoted, and less if it is known not to be the object."""
    flow = flow_of(1.1, shift=6.0)
    flow[:, :7] = 0.0
    weight = np.ones((20, 20), np.float32)
    weight[:, :7] = 0.0
    assert flow_growth(flow, weight).log == pytest.approx([np.log(1.1)] * 2, abs=1e-3)
    assert flow_growth(flow, np.ones((20, 20), np.float32)).log[1] == pytest.approx(np.log(1.1), abs=0.03)


def test_flow_that_no_growth_explains_is_in_doubt() -> None:
    """Noise has a large deviation, and so has a growth that the flow back does not confirm."""
    noise = np.random.default_rng(0).normal(0, 3, (20, 20, 2)).astype(np.float32)
    sure = flow_growth(flow_of(1.05), np.ones((20, 20), np.float32))
    assert flow_growth(noise, np.ones((20, 20), np.float32)).deviation.min() > 5 * sure.deviation.max()
    # Both ways the same slope: background in the box, or a flow that is too smooth. It is no growth.
    both = between(sure, sure)
    assert both.log == pytest.approx([0, 0])
    assert both.deviation.min() > np.log(1.04)


@given(st.integers(1, 6), st.integers(1, 6), st.floats(-50, 50), st.floats(0, 1))
def test_every_measurement_is_finite(rows: int, columns: int, length: float, weight: float) -> None:
    """Boxes of a cell, flow of any length, nothing that belongs to the object."""
    flow = np.full((rows, columns, 2), length, np.float32)
    flow[0, 0] = -length
    growth = flow_growth(flow, np.full((rows, columns), weight, np.float32))
    grown = DRAWN.grown(growth, SETTINGS).corrected(None, None, 0.0, DRAWN.mean, SETTINGS)
    assert np.isfinite([*growth.log, *growth.deviation, *grown.mean, *grown.variance]).all()
    assert (grown.variance > 0).all()


def test_votes_count_as_far_as_the_head_knows_the_object() -> None:
    """Half the size is voted for: believed of a familiar, large box, hardly of a strange or a small one."""
    expected = Extent(DRAWN.mean, np.full(2, 0.3**2))
    halved = DRAWN.mean - np.log(2)

    def shrunk(likeness: float, scale: float = 1.0) -> float:
        shift = np.log(scale)
        own = Extent(expected.mean + shift, expected.variance)
        found = own.corrected(halved + shift, None, likeness, DRAWN.mean + shift, SETTINGS)
        return float(np.exp(found.mean - own.mean).mean())

    assert shrunk(1.0, scale=4.0) < 0.75 < 0.9 < shrunk(1.0, scale=0.4)
    assert shrunk(1.0, scale=4.0) < shrunk(0.4, scale=4.0) < shrunk(0.1, scale=4.0)
    assert shrunk(0.1) > 0.95


def test_without_votes_the_interpolated_size_comes_back() -> None:
    """What flow alone said is forgotten little by little."""
    extent = Extent(DRAWN.mean + 0.5, np.full(2, 0.1**2))
    still = Growth(np.zeros(2), np.zeros(2))
    for _ in range(200):
        extent = extent.grown(still, SETTINGS).corrected(None, None, 0.0, DRAWN.mean, SETTINGS)
    assert extent.sides == pytest.approx((40, 80), rel=0.02)


def test_nothing_is_known_of_growth_across_a_cut() -> None:
    """The next votes say how large the object is there."""
    halved = DRAWN.mean - np.log(2)
    found = DRAWN.grown(None, SETTINGS).corrected(halved, Extent(halved, np.zeros(2)), 1.0, halved, SETTINGS)
    assert found.sides == pytest.approx((20, 40), rel=0.1)


def test_the_surer_of_two_directions_counts_more() -> None:
    """Precisions add up, and the order does not matter."""
    sure, unsure = Extent(np.zeros(2), np.full(2, 0.01)), Extent(np.ones(2), np.full(2, 0.09))
    assert combined(sure, unsure).mean == pytest.approx([0.1, 0.1])
    assert combined(unsure, sure).variance == pytest.approx([0.009, 0.009])


def test_outlines_are_believed_of_familiar_objects_only() -> None:
    """More than votes there; not at all where the head hardly knows the object."""
    expected = Extent(DRAWN.mean, np.full(2, 0.2**2))
    halved = DRAWN.mean - np.log(2)

    def shrunk(likeness: float, **seen: np.ndarray) -> float:
        outline = Extent(seen["outline"], np.zeros(2)) if "outline" in seen else None
        found = expected.corrected(seen.get("votes"), outline, likeness, DRAWN.mean, SETTINGS)
        return float(np.exp(found.mean - expected.mean).mean())

    assert shrunk(1.0, outline=halved) < shrunk(1.0, votes=halved) < shrunk(0.5, outline=halved) < 1
    least = SETTINGS.outline_likeness
    assert shrunk(least - 0.01, outline=halved) == pytest.approx(1.0)
    assert shrunk(least, outline=halved) < 1.0


boxes = st.tuples(st.floats(-50, 500), st.floats(-50, 500), st.floats(4, 300), st.floats(4, 300)).map(
    lambda values: np.array([values[0], values[1], values[0] + values[2], values[1] + values[3]], np.float32)
)


@given(boxes, boxes, st.floats(0.3, 3), st.floats(-100, 100))
def test_slack_goes_along_with_an_outline(outline: np.ndarray, drawn: np.ndarray, scale: float, shift: float) -> None:
    """The box that was drawn around an outline lies around it as before when it has moved and grown."""
    slack = Slack.of(outline, drawn)
    extent, middle = slack.around(outline * scale + shift)
    assert extent.sides == pytest.approx((drawn[2:] - drawn[:2]) * scale, rel=1e-3, abs=0.1)
    assert middle == pytest.approx((drawn[:2] + drawn[2:]) / 2 * scale + shift, rel=1e-3, abs=0.1)


def test_an_outline_far_from_the_drawn_box_is_of_no_use() -> None:
    """The head saw a corner of the object only; of a little slack the sizes are surer than of much."""
    drawn, outline = np.array([0, 0, 40, 40], np.float32), np.array([2, 4, 38, 34], np.float32)
    assert Slack.of(outline, drawn).is_usable
    assert not Slack.of(np.array([0, 0, 20, 38], np.float32), drawn).is_usable
    extent, _ = Slack.of(outline, drawn).around(outline)
    assert extent.variance[0] < extent.variance[1]
