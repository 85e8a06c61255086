"""Labels as the service keeps them: key, revision, author, review."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from micromodels.labels.keys import LabelKey
from micromodels.types import AnyLabel

__all__ = ["LabelRecord", "ReviewState", "WriteResult"]


class ReviewState(StrEnum):
    """What reviewers have said of one version of a label. A new version starts without a judgment."""

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
