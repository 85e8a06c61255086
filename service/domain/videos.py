"""What the store hands out: frozen, plain dataclasses without protobuf and without a database behind them.

Ids are single path segments (``[a-z0-9-]``, 1 to 63 characters). Instants are aware datetimes in UTC. Frame ranges are
half-open.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, TypeVar

from micromodels.types import Ontology

__all__ = [
    "Page",
    "Project",
    "Upload",
    "UploadState",
    "VideoRecord",
    "VideoState",
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
    """An ontology and what was labeled with it. ``etag`` changes with every update."""

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
