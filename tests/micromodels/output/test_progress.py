"""What is shown while work goes on."""

from __future__ import annotations

import re
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from micromodels.output.progress import MAX_PICTURES, Display
from micromodels.runtime.run import ExperimentFinished, FlipBookPicture, PropagationProgress, TrainingProgress


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


class Notebook(ModuleType):
    """Stands in for IPython.display: remembers what each output shows."""

    def __init__(self) -> None:
        super().__init__("IPython.display")
        self.outputs: list[list[Any]] = []
        self.HTML = str

    def display(self, *shown: Any, display_id: bool = False) -> Any:
        output = list(shown)
        self.outputs.append(output)
        return SimpleNamespace(update=output.append)


def test_the_display_draws_its_bars_again_in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    """One output, drawn again now and then and at the end; no widgets, no scripts."""
    from rich.console import Console

    notebook = Notebook()
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", notebook)
    with Display(Console(force_jupyter=True)) as display:
        for done in range(1, 1001):
            display.on_event(PropagationProgress(done, 1000, 60.0))
    (output,) = notebook.outputs
    assert 2 <= len(output) < 100
    assert "1/1000 frames" in output[0]
    assert "1000/1000 frames" in output[-1]
    assert "<script" not in output[-1]
