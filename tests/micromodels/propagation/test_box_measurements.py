"""What a frame shows of a box: its outline."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from micromodels.propagation.box_measurements import outlined_box, voted_box
from micromodels.propagation.predictions import LOOK_SIZE, FramePrediction
from tests.micromodels.doubles import HEIGHT, WIDTH


def predictions(*likely: tuple[int, int, int, int]) -> FramePrediction:
    """A head that is sure of rectangles x1, y1, x2, y2 for its only track, and says nothing of box sides."""
    log_odds = torch.full((1, HEIGHT // 2, WIDTH // 2), -6.0)
    for x1, y1, x2, y2 in likely:
        log_odds[0, y1 // 2 : y2 // 2, x1 // 2 : x2 // 2] = 6.0
    gray = np.zeros((HEIGHT // 2, WIDTH // 2), np.uint8)
    looks = np.zeros((1, LOOK_SIZE), np.float16)
    return FramePrediction(log_odds.half(), None, gray, np.zeros(0, np.float32), looks)


def box(*corners: float) -> np.ndarray:
    return np.array(corners, np.float32)


@pytest.mark.parametrize("near", [(20, 20, 60, 50), (14, 24, 62, 54), (22, 22, 56, 48)])
def test_an_outline_is_that_of_the_likely_pixels(near: tuple[float, ...]) -> None:
    """Wherever near them it is looked for; the outermost twenty-fifth at each side is left out."""
    found = outlined_box(predictions((20, 20, 60, 50)), 0, box(*near))
    assert found is not None
    assert found == pytest.approx([21.6, 21.2, 58.4, 48.8], abs=1.5)


def test_what_is_far_from_the_box_is_not_outlined() -> None:
    """Another thing that the head takes for the object, more than a quarter of the box away."""
    alone, both = (
        outlined_box(predictions((20, 20, 40, 40), *other), 0, box(20, 20, 40, 40))
        for other in ((), ((50, 20, 64, 40),))
    )
    assert alone is not None
    assert both == pytest.approx(alone)


def test_without_likely_pixels_there_is_no_outline() -> None:
    """Nothing is likely, or only a pixel; also where the box lies outside of the picture."""
    assert outlined_box(predictions(), 0, box(20, 20, 40, 40)) is None
    assert outlined_box(predictions((20, 20, 22, 22)), 0, box(10, 10, 40, 40)) is None
    assert outlined_box(predictions((0, 0, WIDTH, HEIGHT)), 0, box(-80, -80, -60, -60)) is None
    assert voted_box(predictions((20, 20, 60, 50)), 0, box(20, 20, 60, 50)) is None
