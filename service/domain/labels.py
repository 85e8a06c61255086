"""Labels as the service stores them: key, revision, author, review."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from micromodels.labels.keys import LabelKey
from micromodels.types import AnyLabel

__all__ = ["LabelRecord", "ReviewState", "WriteResult"]


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
