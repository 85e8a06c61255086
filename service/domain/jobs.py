"""Jobs, their events, and what a worker commits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from micromodels.types import AnyLabel
from service.domain.models import NewModel

__all__ = ["Beat", "Effects", "Job", "JobError", "JobEvent", "JobKind", "JobState", "Lease", "NewEvent", "Orders"]


class JobKind(StrEnum):
    """What a job does; ``service.domain.job_specs`` documents the spec of each."""

    PROBE = "probe"
    TRAIN = "train"
    PROPAGATE = "propagate"
    AUTO_LABEL = "auto_label"
    EXPORT = "export"
    RETRAIN = "retrain"


class JobState(StrEnum):
    """Life of a job: QUEUED, LEASED, RUNNING, CANCELLING, then one of three final states."""

    QUEUED = "queued"
    LEASED = "leased"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether the job has ended."""
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


@dataclass(frozen=True, slots=True)
class JobError:
    """Why a job failed."""

    reason: str
    """For machines: ``OOM``, ``RESOURCE_EXHAUSTED`` (no room on the disk), ``DEVICE_LOST`` (the GPU failed),
    ``DIVERGED``, ``VIDEO_REFUSED``, ``DECODE_CRASH``, ``FRAME_MISMATCH``, ``MODEL_REFUSED``,
    ``TRAINING_FAILED``, ``INVALID_INPUT``, ``FAILED_PRECONDITION``, ``WORKER_CRASHED`` (or hung), ``INTERNAL``, or
    another error's class in this way of writing."""
    message: str
    """For people."""
    error_class: str = ""
    """Name of the class in ``micromodels.errors`` or ``service.domain.errors``; empty if it was none of them."""


@dataclass(frozen=True, slots=True)
class Job:
    """A long-running operation."""

    project_id: str
    job_id: str
    kind: JobKind
    spec: Mapping[str, Any]
    """JSON form of its typed spec; see ``service.domain.job_specs``."""
    state: JobState
    video_id: str
    """The video it works on."""
    author: str
    tries: int
    """How many times it was started."""
    finish_early: bool
    """Whether a user asked training to stop early and continue with the weights it has."""
    progress: Mapping[str, Any]
    """Newest snapshot: any of ``training`` and ``propagation`` (the fields of the last such event), ``experiments`` (a
    list of the finished ones), ``stages`` (seconds by stage), ``frames_done``, ``warnings`` (a list, the newest 20)."""
    result: Mapping[str, Any]
    """Any of ``video_id``, ``model_id`` and ``version``, ``frames`` (how many were labeled),
    ``revision`` (of the labels it wrote), ``files`` (each with ``name``, ``sha256``, ``size_bytes``; read with
    ``store.blobs``). A cancelled job keeps what it finished."""
    checkpoint: Mapping[str, Any]
    """What the next try starts from."""
    error: JobError | None
    last_sequence: int
    """Number of the newest event; 0 before the first."""
    traceparent: str
    """W3C ``traceparent`` of the call that created it; empty without tracing."""
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class JobEvent:
    """One event of a job; sequence numbers grow by one, with gaps where old progress was dropped."""

    sequence: int
    kind: str
    """Snake case of the class in ``micromodels.runtime.run`` (``training_progress``, ``flip_book_picture``, ...), or
    ``state`` for a change of the job's state."""
    payload: Mapping[str, Any]
    """The fields of the event, without a picture's pixels."""
    picture: str
    """Blob of a JPEG for ``flip_book_picture``; empty otherwise."""
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Lease:
    """A worker's right to run a job. Every commit presents it; a newer fence invalidates it."""

    job_id: str
    fence: int
    worker: str


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event to append; fields as in ``JobEvent``."""

    kind: str
    payload: Mapping[str, Any]
    picture: str = ""


@dataclass(frozen=True, slots=True)
class Effects:
    """What one commit of a worker does; every part is optional."""

    labels: Sequence[AnyLabel] = ()
    """Labels of the job's video. Anchors among them are skipped; existing anchors are never overwritten."""
    events: Sequence[NewEvent] = ()
    progress: Mapping[str, Any] | None = None
    checkpoint: Mapping[str, Any] | None = None
    """What the next try starts from; merged into the previous checkpoint."""
    model: NewModel | None = None
    """Its id and version go into checkpoint and result as ``model_id`` and ``version``."""
    frame_table: Mapping[str, Any] | None = None
    """Frame table of the job's video; makes the video ready."""
    result: Mapping[str, Any] | None = None
    """Merged into the result so far. Writing labels adds their ``revision``."""
    base_revision: int = 0
    """Keys written by others after this revision are kept as they are; 0 for no check."""
    state: JobState | None = None
    """``RUNNING`` or a final state."""
    error: JobError | None = None


@dataclass(frozen=True, slots=True)
class Orders:
    """Instructions to a worker, returned by a commit or a heartbeat."""

    cancel: bool = False
    finish_early: bool = False
    model: Mapping[str, Any] = field(default_factory=dict)
    """``model_id`` and ``version`` of the model that this commit recorded."""
    beat: int = 0
    """Number of this commit; see ``Jobs.commit``."""


@dataclass(frozen=True, slots=True)
class Beat:
    """The heartbeat of a leased job."""

    job_id: str
    fence: int
    beat: int
