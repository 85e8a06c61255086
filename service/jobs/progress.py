"""Progress of a job: the snapshot that clients get, and the events that are not stored yet."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from service.domain.jobs import NewEvent

__all__ = ["ProgressLog"]

_WARNINGS_KEPT = 20
# The library reports the time of each stage for every frame. Its events here are sums, this far apart at first, then a
# hundredth of the job's time, so that their number stays small however long a job is.
_STAGE_SECONDS = 2.0
_STAGE_SHARE = 0.01
_SNAPSHOTS = {"training_progress": "training", "propagation_progress": "propagation"}


class ProgressLog:
    """Progress and events of one try.

    Args:
        progress: of earlier tries, as ``Job.progress``.

    Attributes:
        progress: as ``Job.progress``.
        events: those since the last commit.
    """

    def __init__(self, progress: Mapping[str, Any]) -> None:
        self.progress: dict[str, Any] = dict(progress)
        self.events: list[NewEvent] = []
        self._stages: dict[str, float] = {}
        """Seconds by stage that are in no event yet."""
        self._begun = self._stages_reported = time.monotonic()

    def add(self, kind: str, payload: Mapping[str, Any], picture: str = "") -> None:
        """Add an event of the worker.

        Args:
            kind: as ``JobEvent.kind``.
            payload: its fields, JSON-ready.
            picture: name of a blob; empty for none.
        """
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
        """Keep an event for the next commit; of snapshots only the newest since the last commit."""
        if event.kind in _SNAPSHOTS:
            self.events = [other for other in self.events if _snapshot_key(other) != _snapshot_key(event)]
        self.events.append(event)

    def add_stage_times(self, *, last: bool = False) -> None:
        """Turn the times of stages into events, if it is time for that or nothing will follow."""
        now = time.monotonic()
        pause = max(_STAGE_SECONDS, _STAGE_SHARE * (now - self._begun))
        if last or now - self._stages_reported >= pause:
            self._stages_reported = now
            for name, seconds in self._stages.items():
                self.events.append(NewEvent("stage_finished", {"stage": name, "seconds": seconds}))
            self._stages = {}


def _snapshot_key(event: NewEvent) -> tuple[str, object]:
    return event.kind, event.payload.get("experiment")
