"""What long work reports while it runs, and how it is asked to stop."""

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
    """The stages of the line, in the order of the data; ``report.json`` and the API use these names."""

    DECODE = "decode"
    ENCODE = "encode"
    VIEWS = "views"
    TRAIN = "train"
    PREDICT = "predict"
    TEMPORAL = "temporal"
    WRITE = "write"


@dataclass(frozen=True, slots=True)
class StageFinished:
    """Time spent in one stage since the last such event of that stage; sums are over the run."""

    stage: Stage
    seconds: float


@dataclass(frozen=True, slots=True)
class TrainingProgress:
    """One training step of one experiment (0-based). ``eta_seconds``: until training as a whole ends."""

    experiment: int
    experiments: int
    step: int
    steps: int
    loss: float
    eta_seconds: float


@dataclass(frozen=True, slots=True)
class ExperimentFinished:
    """The result of one experiment. ``score``: leave-one-seed-out, 0 to 1; None where it was not measured."""

    experiment: int
    settings: dict[str, str]
    score: float | None
    kept: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class FlipBookPicture:
    """A small overlay picture of one fixed frame as the model is at ``step``; ``image`` is RGB uint8 (h, w, 3)."""

    experiment: int
    step: int
    frame: int
    image: npt.NDArray[np.uint8] = field(repr=False)


@dataclass(frozen=True, slots=True)
class PropagationProgress:
    """Frames whose labels are out."""

    frames_done: int
    frames_total: int
    eta_seconds: float


@dataclass(frozen=True, slots=True)
class Warned:
    """Something a user should know that is not an error."""

    message: str


Event = StageFinished | TrainingProgress | ExperimentFinished | FlipBookPicture | PropagationProgress | Warned


class StopRequest(Enum):
    """What the user wants of running work."""

    NONE = 0
    FINISH_EARLY = 1
    """"Good enough, stop now": training ends with the weights it has and the work goes on."""
    CANCEL = 2
    """Stop: ``errors.Cancelled`` is raised; results already given out are kept."""


def _ignore(event: Event) -> None:
    del event


def _go_on() -> StopRequest:
    return StopRequest.NONE


@dataclass(frozen=True, slots=True)
class Run:
    """The surroundings of one piece of long work.

    Attributes:
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        cache_dir: folder of the feature cache; None for a temporary one that goes with the run.
        on_event: called with every event, from the thread that works.
        should_stop: asked between steps and frames.
        checkpoint_dir: folder where training leaves its state every ten seconds and, if an earlier try has left one,
            goes on from it; None to keep no state. The caller deletes it when the work is done.
    """

    device: str = "auto"
    cache_dir: Path | None = None
    on_event: Callable[[Event], None] = _ignore
    should_stop: Callable[[], StopRequest] = _go_on
    checkpoint_dir: Path | None = None
