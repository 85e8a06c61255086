"""Events that long work reports, and how to stop it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = [
    "Event",
    "ExperimentFinished",
    "FlipBookPicture",
    "PropagationProgress",
    "Run",
    "Stage",
    "StageFinished",
    "StopRequest",
    "TrainingProgress",
    "Warned",
]


class Stage(StrEnum):
    """Processing stages, in the order of the data; ``report.json`` and the API use these names."""

    DECODE = "decode"
    ENCODE = "encode"
    VIEWS = "views"
    TRAIN = "train"
    PREDICT = "predict"
    TEMPORAL = "temporal"
    WRITE = "write"


@dataclass(frozen=True, slots=True)
class StageFinished:
    """Time spent in a stage since its previous event; the sum over a run is the stage's total."""

    stage: Stage
    seconds: float


@dataclass(frozen=True, slots=True)
class TrainingProgress:
    """One training step of one experiment (0-based). ``eta_seconds``: until all training ends."""

    experiment: int
    experiments: int
    step: int
    steps: int
    loss: float
    eta_seconds: float


@dataclass(frozen=True, slots=True)
class ExperimentFinished:
    """Result of one experiment. ``score``: leave-one-seed-out, 0 to 1; None if it was not measured."""

    experiment: int
    settings: dict[str, str]
    score: float | None
    kept: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class FlipBookPicture:
    """A small overlay picture of one fixed frame with the model at ``step``; ``image`` is RGB uint8 (h, w, 3)."""

    experiment: int
    step: int
    frame: int
    image: npt.NDArray[np.uint8] = field(repr=False)


@dataclass(frozen=True, slots=True)
class PropagationProgress:
    """Number of labeled frames so far."""

    frames_done: int
    frames_total: int
    eta_seconds: float


@dataclass(frozen=True, slots=True)
class Warned:
    """A warning for the user."""

    message: str


Event = StageFinished | TrainingProgress | ExperimentFinished | FlipBookPicture | PropagationProgress | Warned


class StopRequest(Enum):
    """What the user asks of running work."""

    NONE = 0
    FINISH_EARLY = 1
    """Training ends early, with the weights it has, and the work continues."""
    CANCEL = 2
    """Stop: ``errors.Cancelled`` is raised; finished results are kept."""


def _ignore(event: Event) -> None:
    del event


def _never_stop() -> StopRequest:
    return StopRequest.NONE


@dataclass(frozen=True, slots=True)
class Run:
    """Environment of one piece of long work.

    Attributes:
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        cache_dir: folder of the feature cache; None for a temporary one that is deleted after the run.
        on_event: called with every event, in the working thread.
        should_stop: called between steps and frames.
        checkpoint_dir: folder where training saves its state every ten seconds, and from which it continues if an
            earlier try saved a state; None to save none. The caller deletes it when the work is done.
    """

    device: str = "auto"
    cache_dir: Path | None = None
    on_event: Callable[[Event], None] = _ignore
    should_stop: Callable[[], StopRequest] = _never_stop
    checkpoint_dir: Path | None = None
