"""The classifier of frames, from what people said and the views of those frames."""

from __future__ import annotations

import numpy as np
import torch

from micromodels.training.frame_classifier import fit_frame_classifier
from micromodels.types import FrameLabel


def vector(first: float, second: float) -> np.ndarray:
    return np.array([first, second], np.float32)


def test_it_is_fitted_to_what_was_said_of_the_frames_that_are_there() -> None:
    """Classes that nobody spoke of on a frame do not count there; views of other frames are passed over."""
    labels = [
        FrameLabel(0, "dark", True),
        FrameLabel(5, "dark", False),
        FrameLabel(5, "wet", True),
        FrameLabel(9, "wet", False),
    ]
    views = [(0, vector(-4, 0)), (5, vector(4, 3)), (9, vector(0, -3)), (0, vector(-5, 0)), (7, vector(100, 100))]
    classifier = fit_frame_classifier(("dark", "wet"), labels, views)
    assert not classifier.training
    with torch.inference_mode():
        dark, wet = (classifier(torch.from_numpy(np.stack([v for _, v in views[:4]]))) > 0).T.tolist()
    assert (dark[0], dark[1], dark[3]) == (True, False, True)
    assert (wet[1], wet[2]) == (True, False)


def test_views_of_other_frames_make_no_difference() -> None:
    """The weights are the same to the bit."""
    labels = [FrameLabel(0, "dark", True), FrameLabel(5, "dark", False)]
    views = [(0, vector(-4, 1)), (5, vector(4, 2))]
    one, other = (
        fit_frame_classifier(("dark",), labels, given).state_dict() for given in (views, [*views, (6, vector(9, 9))])
    )
    assert all(torch.equal(one[name], other[name]) for name in one)
