"""The seam of temporal inference: what carries objects from the frames people drew to all others.

A recipe names its method (``Sweeps`` in ``micromodels.propagation.sweeps`` for the recipe ``head``); everything else
takes what this module describes. Another method, such as a network with a memory of the drawn frames, stands beside it:
a class with these two functions, in a file of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from micromodels.labels.targets import SeedFrame
from micromodels.propagation.box_path import FramePlaces
from micromodels.propagation.predictions import Detail, PredictionSource, with_details
from micromodels.runtime.run import Run

__all__ = ["FramePosterior", "TemporalInference", "TemporalMethod"]

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class FramePosterior:
    """What is believed of one frame once the frames around it are known.

    Attributes:
        frame: frame index.
        log_odds: float32 ``(tracks, height / 2, width / 2)``: of each pixel belonging to each track.
        sides: float32 ``(4, height / 4, width / 4)`` distances to the box sides, or None.
        agreement: float32 ``(tracks,)`` IoU of the masks carried from either side, NaN where only one reaches the
            frame.
        anchor_distance: int64 ``(tracks,)`` frames to the track's nearest anchor; -1 where it has none.
        pooled: the frame's pooled features for frame classes.
        places: paths of box tracks; ``box_path.no_places`` without.
        scene_cut: whether a cut lies between this frame and the one before.
        details: see ``FramePrediction``.
    """

    frame: int
    log_odds: Floats = field(repr=False)
    sides: Floats | None = field(repr=False)
    agreement: Floats
    anchor_distance: npt.NDArray[np.int64]
    pooled: Floats = field(repr=False)
    places: FramePlaces
    scene_cut: bool = False
    details: tuple[Detail, ...] = field(default=(), repr=False)

    def fine_log_odds(self) -> Floats:
        """``log_odds``, or ``(tracks, height, width)`` where the head speaks of every pixel."""
        return with_details(self.log_odds, self.details) if self.details else self.log_odds


class TemporalInference(Protocol):
    """Temporal inference on one video."""

    def posteriors(
        self,
        source: PredictionSource,
        anchors: Mapping[int, SeedFrame],
        frames: range,
        run: Run,
        boxed: Sequence[bool] = (),
    ) -> Iterator[FramePosterior]:
        """Posterior of every frame of ``frames``, in order, each once.

        What comes out for a track on a frame depends only on the anchors of that track next to the frame, and on the
        frames between them: corrections recompute the spans between anchors, and nothing else.

        Args:
            source: predictions by frame, and the images.
            anchors: human labels by frame; the posterior of one is what was drawn.
            frames: a range with step 1.
            run: events and stopping.
            boxed: which tracks are drawn as boxes; empty for none.

        Raises:
            Cancelled: the user cancelled.
        """
        ...

    def prepare(self, source: PredictionSource, frames: range, run: Run) -> None:
        """Find out ahead of time what ``posteriors`` would need of these frames, as far as it can be kept.

        Raises:
            Cancelled: the user cancelled; what was found is kept.
        """
        ...


class TemporalMethod(Protocol):
    """Makes the temporal inference of one video."""

    def __call__(self, folder: Path | None = None, *, for_training: bool = False) -> TemporalInference:
        """Begin.

        Args:
            folder: where to keep what is known of the video; the caller removes it. None: nothing is kept.
            for_training: whether a head is to learn from what comes out: an object is then better left in a doubtful
                place than lost.
        """
        ...
