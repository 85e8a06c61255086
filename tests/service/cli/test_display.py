"""What is shown while work goes on."""

from __future__ import annotations

import re

import numpy as np

from micromodels.runtime.run import ExperimentFinished, FlipBookPicture, PropagationProgress, TrainingProgress
from service.cli.progress import MAX_PICTURES, Display


def test_the_display_moves_bars_in_a_terminal() -> None:
    """Loss, steps, experiments, time left and scores are shown; pictures of the kept experiment are collected."""
    from io import StringIO

    from rich.console import Console

    screen = StringIO()
    with Display(Console(file=screen, force_terminal=True, width=160)) as display:
        display.on_event(TrainingProgress(1, 3, 120, 250, 0.4321, 75.0))
        display.on_event(PropagationProgress(40, 80, 9000.0))
        for experiment in (0, 1):
            for step in (0, 50):
                display.on_event(FlipBookPicture(experiment, step, 8, np.zeros((4, 4, 3), np.uint8)))
            display.on_event(ExperimentFinished(experiment, {"views": "36"}, None, experiment == 1, 12.3))
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
    for words in ("training 2 of 3", "120/250", "loss 0.432", "1 min left", "40/80 frames", "2.5 h left", "48%"):
        assert words in text
    assert "no score · kept" in text
    assert [p.experiment for p in display.pictures] == [1, 1]


def test_flip_book_pictures_are_thinned_when_there_are_many() -> None:
    """First and last step stay."""
    from io import StringIO

    from rich.console import Console

    display = Display(Console(file=StringIO()))
    image = np.zeros((2, 2, 3), np.uint8)
    for step in range(5 * MAX_PICTURES):
        display.on_event(FlipBookPicture(0, step, 0, image))
    steps = [p.step for p in display.pictures]
    assert len(steps) <= MAX_PICTURES
    assert steps[0] == 0
    assert steps[-1] == 5 * MAX_PICTURES - 1
