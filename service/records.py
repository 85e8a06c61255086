"""What the store hands out: frozen, plain dataclasses without protobuf and without a database behind them.

Ids are single path segments (``[a-z0-9-]``, 1 to 63 characters). Instants are aware datetimes in UTC. Frame ranges are
half-open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, TypeVar

from micromodels.types import AnyLabel, Label, Ontology
from service.access.roles import Role

__all__ = [
    "AccessToken",
    "AuditReport",
    "AuditRow",
    "Beat",
    "BlobFile",
    "Effects",
    "Job",
    "JobError",
    "JobEvent",
    "JobKind",
    "JobState",
    "LabelKey",
    "LabelRecord",
    "LearnedState",
    "Lease",
    "Member",
    "ModelVersion",
    "NewEvent",
    "NewModel",
    "Orders",
    "Page",
    "Project",
    "ReviewState",
    "Upload",
    "UploadState",
    "VideoRecord",
    "VideoState",
    "WriteResult",
    "provenance_version",
]

T = TypeVar("T")
JsonDict = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a listing, oldest first; ``next_after`` goes into the next call's ``after``, empty at the end."""

    items: tuple[T, ...]
    next_after: str = ""


@dataclass(frozen=True, slots=True)
class Project:
    """An ontology and what was labelled with it. ``etag`` changes with every update."""

    project_id: str
    display_name: str
    ontology: Ontology
    created_at: datetime
    updated_at: datetime
    etag: str
    retention_days: int = 0
    """A video is deleted for good so many days after it was brought in; 0 for never."""


class UploadState(StrEnum):
    """The life of an upload."""

    ACTIVE = "active"
    """Takes chunks."""
    FINISHED = "finished"
    """Became a video."""
    FAILED = "failed"
    """Size or checksum did not match; its bytes are gone."""
    ABORTED = "aborted"
    """Given up by the caller, or expired; its bytes are gone."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A video on its way in. ``offset_bytes`` is what is safely stored: the next chunk starts there."""

    project_id: str
    upload_id: str
    display_name: str
    size_bytes: int
    sha256: str
    """Expected checksum, 64 hex digits; empty if the caller did not say."""
    offset_bytes: int
    state: UploadState
    video_id: str
    """The video it became; empty until finished."""
    created_at: datetime
    updated_at: datetime


class VideoState(StrEnum):
    """The life of a video."""

    PROBING = "probing"
    """Its frame table is being built by the job ``probe_job_id``."""
    READY = "ready"
    FAILED = "failed"
    """It cannot be decoded; ``error`` says why."""


@dataclass(frozen=True, slots=True)
class VideoRecord:
    """An immutable source and a summary of its frame table (zeros until it is ``READY``).

    The whole table is read with ``store.videos.frame_table``.
    """

    project_id: str
    video_id: str
    display_name: str
    state: VideoState
    source_path: str
    """Registered path (file or folder of frames) under an allowed root; empty for an uploaded video."""
    blob: str
    """SHA-256 of the uploaded bytes, the name of their blob; empty for a registered path."""
    content_hash: str
    """SHA-256 as the frame table has it; empty until probed."""
    size_bytes: int
    frame_count: int
    width_px: int
    height_px: int
    probe_job_id: str
    error: str
    label_revision: int
    """The newest revision of its labels; 0 before the first write."""
    created_at: datetime


@dataclass(frozen=True, slots=True, order=True)
class LabelKey:
    """What a label is about: (frame, object track) or (frame, frame class). Sorts in the order of streams."""

    frame: int
    is_frame_class: bool
    name: str
    """Track, or name of the frame class."""

    @classmethod
    def of(cls, label: AnyLabel) -> LabelKey:
        """The key of a label."""
        if isinstance(label, Label):
            return cls(label.frame, False, label.track)
        return cls(label.frame, True, label.frame_class)

    def __str__(self) -> str:
        return f"frame {self.frame} {'class' if self.is_frame_class else 'track'} {self.name!r}"


class ReviewState(StrEnum):
    """What reviewers have said of one version of a label. A new version starts without a judgement."""

    NONE = ""
    ACCEPTED = "accepted"
    """No micro-model replaces it."""
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class LabelRecord:
    """One version of one label."""

    key: LabelKey
    label: AnyLabel | None
    """None where this version is a deletion."""
    revision: int
    """Revision of the video's labels that this write made; all labels of one batch share it."""
    author: str
    written_at: datetime
    job_id: str = ""
    """The job that wrote it; empty for a write by a caller."""
    review: ReviewState = ReviewState.NONE
    reviewed_by: str = ""
    reviewed_at: datetime | None = None
    locked: bool = False
    """Whether micro-models are kept off this key."""

    @property
    def is_settled(self) -> bool:
        """Whether people have accepted or locked what stands here, or that nothing does."""
        return self.locked or (self.label is not None and self.review is ReviewState.ACCEPTED)


@dataclass(frozen=True, slots=True)
class WriteResult:
    """What a write of labels did."""

    revision: int
    """Revision of the video after the write (unchanged if nothing was written)."""
    written: int
    deleted: int = 0
    kept_anchors: tuple[LabelKey, ...] = ()
    """Keys that a model wanted to write and that a human label, an accepted label or a lock holds: left as they
    were."""


class JobKind(StrEnum):
    """What a job does; ``service.jobs`` documents the spec of each."""

    PROBE = "probe"
    TRAIN = "train"
    PROPAGATE = "propagate"
    AUTO_LABEL = "auto_label"
    EXPORT = "export"
    RETRAIN = "retrain"


class JobState(StrEnum):
    """The life of a job: QUEUED, LEASED, RUNNING, CANCELLING, then one of three ends that never change again."""

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
    """Name of the class in ``micromodels.errors`` or ``service.errors``; empty if it was none of them."""


@dataclass(frozen=True, slots=True)
class Job:
    """A long-running operation as the ledger knows it."""

    project_id: str
    job_id: str
    kind: JobKind
    spec: Mapping[str, Any]
    """The JSON form of its typed spec, see ``service.jobs.specs``."""
    state: JobState
    video_id: str
    """The video it works on."""
    author: str
    tries: int
    """How often it was started."""
    finish_early: bool
    """Whether someone said "good enough, stop now"."""
    progress: Mapping[str, Any]
    """Newest snapshot: any of ``training`` and ``propagation`` (the fields of the last such event), ``experiments`` (a
    list of the finished ones), ``stages`` (seconds by stage), ``frames_done``, ``warnings`` (a list, the newest 20)."""
    result: Mapping[str, Any]
    """What came out: any of ``video_id``, ``model_id`` and ``version``, ``frames`` (how many were labelled),
    ``revision`` (of the labels it wrote), ``files`` (each with ``name``, ``sha256``, ``size_bytes``; read with
    ``store.blobs``). A cancelled job has what it had finished."""
    checkpoint: Mapping[str, Any]
    """What a next try would start from."""
    error: JobError | None
    last_sequence: int
    """Number of the newest event; 0 before the first."""
    traceparent: str
    """What its trace goes on from; empty where nothing was traced."""
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class JobEvent:
    """One event of a job; sequence numbers grow by one, with gaps where old progress was thinned out."""

    sequence: int
    kind: str
    """Snake case of the class in ``micromodels.events`` (``training_progress``, ``flip_book_picture``, ...), or
    ``state`` for a change of the job's state."""
    payload: Mapping[str, Any]
    """The fields of the event, without a picture's pixels."""
    picture: str
    """Blob of a JPEG for ``flip_book_picture``; empty otherwise."""
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Lease:
    """A worker's right to run a job. Every commit shows it; a newer fence makes it void."""

    job_id: str
    fence: int
    worker: str


@dataclass(frozen=True, slots=True)
class BlobFile:
    """A named file whose bytes are the blob ``sha256``."""

    name: str
    sha256: str
    size_bytes: int


def provenance_version(model_id: str, version: int) -> str:
    """How labels name the version of a micro-model that made them: ``model_id@version``."""
    return f"{model_id}@{version}"


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One version of a micro-model. Versions of a model count from 1; ``parent_version`` is 0 for the first."""

    project_id: str
    model_id: str
    version: int
    display_name: str
    parent_version: int
    recipe: str
    metrics: Mapping[str, Any]
    manifest: Mapping[str, Any] = field(repr=False)
    label_revisions: Mapping[str, int]
    """For each video id the revision of its labels that training saw."""
    files: tuple[BlobFile, ...]
    """The saved folder; ``store.models.materialise`` writes it out."""
    job_id: str
    created_at: datetime

    @property
    def provenance_version(self) -> str:
        """How labels name it."""
        return provenance_version(self.model_id, self.version)


@dataclass(frozen=True, slots=True)
class LearnedState:
    """What a micro-model version has become on a video by learning from corrections."""

    model_version: str
    """What it began with, as labels name it."""
    number: int
    """How many corrections it has learned from since, counted from 1."""
    revision: int
    """Revision of the newest of them."""
    files: tuple[BlobFile, ...]
    """The saved folder; ``store.learned.materialise`` writes it out."""


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event to append; fields as in ``JobEvent``."""

    kind: str
    payload: Mapping[str, Any]
    picture: str = ""


@dataclass(frozen=True, slots=True)
class NewModel:
    """A trained model to record; ``model_id`` empty for a new one. Its files must be blobs already."""

    model_id: str
    display_name: str
    parent_version: int
    recipe: str
    metrics: Mapping[str, Any]
    manifest: Mapping[str, Any]
    label_revisions: Mapping[str, int]
    files: tuple[BlobFile, ...]


@dataclass(frozen=True, slots=True)
class Effects:
    """What one commit of a worker does; every part is optional."""

    labels: Sequence[AnyLabel] = ()
    """Of the job's video. Anchors are left out, and never overwritten."""
    events: Sequence[NewEvent] = ()
    progress: Mapping[str, Any] | None = None
    checkpoint: Mapping[str, Any] | None = None
    """What the next try starts from; merged into the one before."""
    model: NewModel | None = None
    """Its id and version go into checkpoint and result as ``model_id`` and ``version``."""
    frame_table: Mapping[str, Any] | None = None
    """Makes the job's video ready."""
    result: Mapping[str, Any] | None = None
    """Merged into the result so far. Labels add the ``revision`` that they made."""
    base_revision: int = 0
    """Keys that somebody wrote after this revision stay as they are; 0 not to look."""
    state: JobState | None = None
    """``RUNNING`` or an end."""
    error: JobError | None = None


@dataclass(frozen=True, slots=True)
class Orders:
    """What a worker should know after a commit or a beat."""

    cancel: bool = False
    finish_early: bool = False
    model: Mapping[str, Any] = field(default_factory=dict)
    """``model_id`` and ``version`` of the model that this commit recorded."""
    beat: int = 0
    """Number of this commit; see ``Jobs.commit``."""


@dataclass(frozen=True, slots=True)
class Beat:
    """The sign of life of a held job."""

    job_id: str
    fence: int
    beat: int


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A token without its secret, which nobody can read again."""

    token_id: str
    user: str
    is_admin: bool
    """Whether the user administers the server."""
    created_at: datetime
    expires_at: datetime
    """From then on it is refused; rotation may bring this forward."""
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class Member:
    """What a user is in a project."""

    project_id: str
    user: str
    role: Role


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One row of the audit. It names resources by their ids and holds nothing that a person has typed."""

    at: datetime
    actor: str
    """Name of the user; empty where nobody was recognised."""
    token_id: str
    method: str
    """``package.Service/Method`` of a call, ``job/KIND`` of a worker, ``cli/COMMAND`` or ``server/TASK``."""
    project_id: str
    resource: str
    """Resource name; empty where the call is about none."""
    revision: int
    """Of the video's labels, where the call made one; else 0."""
    outcome: str
    """Name of the gRPC status, e.g. ``OK``."""
    detail: Mapping[str, Any]
    """Counts and checksums."""
    sequence: int = 0
    """Counts from 1 without gaps; 0 before it is stored."""
    hash: str = ""
    """SHA-256 over all of the above and the hash of the row before, 64 hex digits; empty before it is stored."""


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What verifying the audit found."""

    rows: int
    """How many rows hold, from the first on."""
    head: str
    """``SEQUENCE:HASH`` of the last row that holds: kept elsewhere, it later proves that nothing before it changed."""
    problem: str
    """What is wrong, and with which row; empty if nothing is."""
