"""What the store returns: frozen, plain dataclasses, independent of protobuf and of the database.

Ids are single path segments (``[a-z0-9-]``, 1 to 63 characters). Instants are aware datetimes in UTC. Frame ranges are
half-open.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Generic, TypeVar

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


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a listing, oldest first; ``next_after`` goes into the next call's ``after``, empty at the end."""

    items: tuple[T, ...]
    next_after: str = ""


@dataclass(frozen=True, slots=True)
class Project:
    """An ontology and everything labeled with it. ``etag`` changes with every update."""

    project_id: str
    display_name: str
    ontology: Ontology
    created_at: datetime
    updated_at: datetime
    etag: str
    retention_days: int = 0
    """Videos are deleted for good this many days after they were added; 0 for never."""


class UploadState(StrEnum):
    """State of an upload."""

    ACTIVE = "active"
    """Accepts chunks."""
    FINISHED = "finished"
    """Became a video."""
    FAILED = "failed"
    """Size or checksum did not match; the bytes were deleted."""
    ABORTED = "aborted"
    """Cancelled by the caller, or expired; the bytes were deleted."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A video being uploaded. ``offset_bytes`` are safely stored: the next chunk starts there."""

    project_id: str
    upload_id: str
    display_name: str
    size_bytes: int
    sha256: str
    """Expected checksum, 64 hex digits; empty if the caller gave none."""
    offset_bytes: int
    state: UploadState
    video_id: str
    """The video it became; empty until finished."""
    created_at: datetime
    updated_at: datetime


class VideoState(StrEnum):
    """State of a video."""

    PROBING = "probing"
    """The job ``probe_job_id`` is building its frame table."""
    READY = "ready"
    FAILED = "failed"
    """The video cannot be decoded; ``error`` says why."""


@dataclass(frozen=True, slots=True)
class VideoRecord:
    """An immutable source and a summary of its frame table (zeros until it is ``READY``).

    ``store.videos.frame_table`` reads the whole table.
    """

    project_id: str
    video_id: str
    display_name: str
    state: VideoState
    source_path: str
    """Registered path (file or folder of frames) under an allowed root; empty for an uploaded video."""
    blob: str
    """SHA-256 of the uploaded bytes and name of their blob; empty for a registered path."""
    content_hash: str
    """Content hash of the frame table; empty until probed."""
    size_bytes: int
    frame_count: int
    width_px: int
    height_px: int
    probe_job_id: str
    error: str
    label_revision: int
    """The newest revision of its labels; 0 before the first write."""
    created_at: datetime
