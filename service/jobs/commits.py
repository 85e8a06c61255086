"""Labels, events and progress of a job on their way into the store: gathered, then committed in one transaction."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from micromodels.types import AnyLabel
from service.domain.jobs import Effects
from service.jobs.leased_job import LeasedJob
from service.jobs.progress import ProgressLog

__all__ = ["Commits"]

_COMMIT_SECONDS = 0.25
_COMMIT_LABELS = 500


class Commits:
    """What one try of a job has made and not stored yet.

    Args:
        leased: the job.
        base_revision: labels that are newer than this stay as they are; 0 for those of any age.

    Attributes:
        progress: of the job.
        frame_count: how many frames were labeled, those of earlier tries included.
        has_changes: whether the worker has sent anything since the last commit.
    """

    def __init__(self, leased: LeasedJob, base_revision: int) -> None:
        self.progress = ProgressLog(leased.job.progress)
        self.frame_count = int(leased.job.checkpoint.get("frames", 0))
        self.has_changes = False
        self._leased = leased
        self._base_revision = base_revision
        self._labels: list[AnyLabel] = []
        self._next_frame = 0

    def add_frame(self, frame: int, labels: Iterable[AnyLabel]) -> None:
        """Add all labels of one frame; frames come in order."""
        self._labels += labels
        self.frame_count += 1
        self._next_frame = frame + 1
        self.progress.progress["frames_done"] = self.frame_count

    @property
    def is_due(self) -> bool:
        """Whether it is time for the next commit."""
        pause_seconds = _COMMIT_SECONDS if self.has_changes else self._leased.beat_seconds
        return len(self._labels) >= _COMMIT_LABELS or self._leased.seconds_since_commit >= pause_seconds

    def commit(self, **more: Any) -> None:
        """Store everything that has come since the last commit, and show a sign of life.

        Args:
            more: further fields of ``Effects`` for the same transaction.
        """
        self.progress.add_stage_times()
        effects = Effects()
        if self.has_changes or self.progress.events or more:
            effects = Effects(
                labels=self._labels,
                events=self.progress.events,
                progress=self.progress.progress,
                checkpoint={"next_frame": self._next_frame, "frames": self.frame_count} if self._next_frame else None,
                base_revision=self._base_revision,
                **more,
            )
        self._leased.commit(effects)
        self._labels, self.progress.events, self.has_changes = [], [], False
