"""Labels as the service stores them: key, revision, author, review."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from micromodels.types import AnyLabel, Label

__all__ = ["LabelKey", "LabelRecord", "ReviewState", "WriteResult"]


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
    """Review state of one version of a label. A new version starts unreviewed."""

    NONE = ""
    ACCEPTED = "accepted"
    """Micro-models no longer replace it."""
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class LabelRecord:
    """One version of one label."""

    key: LabelKey
    label: AnyLabel | None
    """None if this version is a deletion."""
    revision: int
    """Revision of the video's labels that this write made; shared by all labels of one batch."""
    author: str
    written_at: datetime
    job_id: str = ""
    """The job that wrote it; empty if a caller did."""
    review: ReviewState = ReviewState.NONE
    reviewed_by: str = ""
    reviewed_at: datetime | None = None
    locked: bool = False
    """Whether micro-models may not change this key."""

    @property
    def is_settled(self) -> bool:
        """Whether a person accepted or locked this version, including a locked deletion."""
        return self.locked or (self.label is not None and self.review is ReviewState.ACCEPTED)


@dataclass(frozen=True, slots=True)
class WriteResult:
    """Result of writing labels."""

    revision: int
    """Revision of the video after the write (unchanged if nothing was written)."""
    written: int
    deleted: int = 0
    kept_anchors: tuple[LabelKey, ...] = ()
    """Keys that a model could not write because a human label, an accepted label or a lock is there. They were
    left unchanged."""
