"""Confidence: signs that grow with quality, and a probability of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from micromodels.propagation.confidence import (
    BOXES,
    MASKS,
    BoxSigns,
    MaskSigns,
    absence,
    acceptance,
    mask_signs,
)

GOOD_MASK = MaskSigns(0.95, 0.95, 2, 0.0)
GOOD_BOX = BoxSigns(likeness=1.0, match=1.0, accord=0.9, change=0.05, is_between=True)


def disc(radius: float, odds: float = 8.0) -> np.ndarray:
    rows, columns = np.mgrid[:80, :80]
    return np.where((rows - 40) ** 2 + (columns - 40) ** 2 < radius**2, odds, -odds).astype(np.float32)


def test_a_clear_disc_is_expected_to_be_right() -> None:
    """Sure pixels, and the area that was to be expected."""
    log_odds = disc(24)
    signs = mask_signs(log_odds, 1.0, 3, float((log_odds > 0).mean()))
    assert signs.expected_iou > 0.99
    assert abs(signs.growth) < 0.01
    assert mask_signs(disc(24, odds=0.5), 1.0, 3, 0.1).expected_iou < 0.8


def test_nothing_is_no_mask() -> None:
    """An empty mask has no IoU to expect, and finite signs all the same."""
    nothing = mask_signs(np.full((80, 80), -8.0, np.float32), np.nan, -1, 0.1)
    assert nothing.expected_iou == 0.0
    assert all(np.isfinite(value) for value in nothing.values().values())


@pytest.mark.parametrize(
    "worse",
    [
        replace(GOOD_MASK, expected_iou=0.6),
        replace(GOOD_MASK, agreement=0.3),
        replace(GOOD_MASK, growth=-1.5),
        replace(GOOD_MASK, anchor_distance=40),
        replace(GOOD_BOX, likeness=0.3, match=0.2),
        replace(GOOD_BOX, accord=0.4),
        replace(GOOD_BOX, change=0.4),
        replace(GOOD_BOX, is_between=False),
    ],
)
def test_each_sign_of_doubt_lowers_the_confidence(worse: MaskSigns | BoxSigns) -> None:
    """Pixels in doubt, sweeps that differ, objects hardly seen, boxes that do not fit or are not as they were drawn."""
    good = GOOD_MASK if isinstance(worse, MaskSigns) else GOOD_BOX
    assert 0.01 <= acceptance(worse) < acceptance(good) <= 0.99


def test_a_box_is_known_by_the_drawn_frames_or_by_those_just_before() -> None:
    """Either will do, and both say no more, where no outline does."""
    good = replace(GOOD_BOX, accord=float("nan"))
    assert acceptance(replace(good, likeness=0.2)) == acceptance(good)
    assert acceptance(replace(good, match=0.2)) == acceptance(good)


def test_an_outline_says_nothing_of_what_is_not_known() -> None:
    """Where the head hardly sees the object, it does not matter whether box and outline agree, or there is one."""
    strange = replace(GOOD_BOX, likeness=0.0)
    assert acceptance(replace(strange, accord=0.3)) == acceptance(strange)
    assert acceptance(replace(GOOD_BOX, accord=0.5)) < acceptance(replace(GOOD_BOX, accord=float("nan")))


def test_every_weight_has_its_sign() -> None:
    """A weight for a sign that does not exist would be an error on every label."""
    assert set(MASKS.weights) <= set(GOOD_MASK.values())
    assert set(BOXES.weights) <= set(GOOD_BOX.values())


def test_the_probability_is_a_half_where_the_predicted_error_is_what_is_just_accepted() -> None:
    """With the weights at hand: an error of .2 is predicted for a mask that says so."""
    values = {"doubt": (np.log(0.2) - MASKS.constant) / MASKS.weights["doubt"]}
    values |= dict.fromkeys(set(MASKS.weights) - {"doubt"}, 0.0)
    assert MASKS.probability(values) == pytest.approx(0.5)


def test_absences_are_the_surer_the_less_is_seen() -> None:
    """Never surer than they were on the development sequences."""
    levels = [absence(presence) for presence in (0.0, 0.1, 0.3, 0.5, 1.0)]
    assert levels == sorted(levels, reverse=True)
    assert (levels[0], levels[-1]) == (0.97, 0.5)


def test_signs_are_finite_at_their_ends() -> None:
    """Whatever is measured gives a probability."""
    for signs in (
        MaskSigns(0.0, float("nan"), -1, -9.0),
        MaskSigns(1.0, 1.0, 10**6, 9.0),
        BoxSigns(0.0, float("nan"), float("nan"), 9.0, False),
        BoxSigns(50.0, 9.0, 1.0, 0.0, True),
    ):
        assert 0.01 <= acceptance(signs) <= 0.99
