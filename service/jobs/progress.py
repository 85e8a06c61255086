"""What the process of a job has told of its progress: where it stands, and the events that are not stored yet."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from service.domain.jobs import NewEvent

__all__ = ["ProgressLog"]

_WARNINGS_KEPT = 20
# The library tells the time of each stage frame by frame. Its events here are sums, this far apart at first, then at a
# hundredth of the job's time, so that their number stays small however long a job is.
_STAGE_SECONDS = 2.0
_STAGE_SHARE = 0.01
_SNAPSHOTS = {"training_progress": "training", "propagation_progress": "propagation"}


class ProgressLog:
    """Progress and events of one try.

    Args:
        progress: where the job stood before.

    Attributes:
        progress: JSON-ready, as clients get it.
        events: since the last commit.
    """

    def __init__(self, progress: Mapping[str, Any]) -> None:
        self.progress: dict[str, Any] = dict(progress)
        self.events: list[NewEvent] = []
        self._stages: dict[str, float] = {}
        """Seconds by stage of which no event tells yet."""
        self._begun = self._stages_told = time.monotonic()

    def take(self, kind: str, payload: Mapping[str, Any], picture: str = "") -> None:
        """Take what the process says; ``picture`` is the name of a blob, empty for none."""
        if kind in _SNAPSHOTS:
            self.progress[_SNAPSHOTS[kind]] = payload
        elif kind == "experiment_finished":
            self.progress["experiments"] = [*self.progress.get("experiments", []), payload]
        elif kind == "stage_finished":
            stages = self.progress.get("stages", {})
            name, seconds = payload["stage"], payload["seconds"]
            self.progress["stages"] = {**stages, name: stages.get(name, 0.0) + seconds}
            self._stages[name] = self._stages.get(name, 0.0) + seconds
            return
        elif kind == "warned":
            warnings = [*self.progress.get("warnings", []), payload["message"]]
            self.progress["warnings"] = warnings[-_WARNINGS_KEPT:]
        self._append(NewEvent(kind, payload, picture))

    def _append(self, event: NewEvent) -> None:
        """Keep an event for the next commit; of snapshots the newest stands for all since the last commit."""
        if event.kind in _SNAPSHOTS:
            self.events = [other for other in self.events if _likeness(other) != _likeness(event)]
        self.events.append(event)

    def add_stage_times(self, *, last: bool = False) -> None:
        """Make events of the time spent in stages, if it is time for them or nothing will follow."""
        now = time.monotonic()
        pause = max(_STAGE_SECONDS, _STAGE_SHARE * (now - self._begun))
        if last or now - self._stages_told >= pause:
            self._stages_told = now
            for name, seconds in self._stages.items():
                self.events.append(NewEvent("stage_finished", {"stage": name, "seconds": seconds}))
            self._stages = {}


def _likeness(event: NewEvent) -> tuple[str, object]:
    return event.kind, event.payload.get("experiment")
