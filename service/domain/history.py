"""Who did what to the labels of a video: changes, reviews, comments and blind assignments, as the store returns them.

Frozen, plain dataclasses as in ``service.domain.videos``; the same conventions hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from micromodels.labels.keys import LabelKey
from service.domain.labels import LabelRecord

__all__ = [
    "Act",
    "Assignment",
    "Change",
    "ChangeKind",
    "Comment",
    "LabelDifference",
    "LabelVersion",
    "ReviewAction",
    "ReviewEvent",
    "ReviewResult",
]


class ChangeKind(StrEnum):
    """What made a revision of a video's labels."""

    WRITE = "write"
    """A person wrote or deleted labels."""
    CORRECT = "correct"
    """A person corrected labels, and the spans around them were recomputed."""
    RECOMPUTE = "recompute"
    """Labels recomputed after a correction, which ``Change.parent`` names."""
    PROPAGATE = "propagate"
    """A job labeled frames."""
    SWAP = "swap"
    SPLIT = "split"
    MERGE = "merge"
    DELETE_TRACK = "delete_track"
    REVIEW = "review"
    """A person accepted, rejected, locked or unlocked labels; the labels themselves did not change."""
    ADJUDICATE = "adjudicate"
    """A person chose between the labels of two annotators."""
    UNDO = "undo"

    @property
    def is_machine(self) -> bool:
        """Whether a micro-model wrote the labels. Such a change never overwrites what people wrote or decided."""
        return self in (ChangeKind.RECOMPUTE, ChangeKind.PROPAGATE)

    @property
    def moves_labels(self) -> bool:
        """Whether a person moved labels unchanged, so that predictions may replace anchors."""
        return self in (ChangeKind.SWAP, ChangeKind.SPLIT, ChangeKind.MERGE, ChangeKind.DELETE_TRACK, ChangeKind.UNDO)


@dataclass(frozen=True, slots=True)
class Act:
    """Who writes labels, and why."""

    author: str
    kind: ChangeKind = ChangeKind.WRITE
    job_id: str = ""
    parent: int = 0
    """For a recomputation, the revision of its correction. What people wrote after it is not overwritten."""
    undoes: int = 0
    model_version: str = ""
    comment: str = ""
    base: int = 0
    """For a job: labels written after this revision are not overwritten; 0 for no check."""


@dataclass(frozen=True, slots=True)
class Change:
    """One act on the labels of a video."""

    revision: int
    """The first revision that it made; its name in the API."""
    last_revision: int
    """The last revision; a job that writes several times makes several."""
    kind: ChangeKind
    author: str
    written_at: datetime
    label_count: int
    """How many labels it wrote, deleted or reviewed."""
    job_id: str = ""
    model_version: str = ""
    parent: int = 0
    undoes: int = 0
    """The revision of the change that this one undid; 0 for none."""
    undone_by: int = 0
    """The revision of the change that undid this one; 0 if it was not undone."""
    settled: bool = False
    """For a correction: whether its recomputation has finished."""
    seconds: float = 0.0
    """For a correction: seconds from its acknowledgment to the last recomputed label."""
    learned: int = 0
    """For a correction: how many corrections its micro-model version has learned from, including it; 0 for none."""
    comment: str = ""


class ReviewAction(StrEnum):
    """What a reviewer does with a label."""

    ACCEPT = "accept"
    """The label is right: micro-models no longer change it."""
    REJECT = "reject"
    """The label is wrong: a person should redraw it."""
    RESET = "reset"
    """Neither."""
    LOCK = "lock"
    """Micro-models no longer change this key, even after an edit."""
    UNLOCK = "unlock"
    UNDO = "undo"
    """An earlier review was undone."""


@dataclass(frozen=True, slots=True)
class ReviewEvent:
    """One review action on one version of a label."""

    key: LabelKey
    label_revision: int
    """The version that was reviewed."""
    revision: int
    action: ReviewAction
    author: str
    written_at: datetime


@dataclass(frozen=True, slots=True)
class ReviewResult:
    """Result of a review, or of a dry run."""

    revision: int
    """Revision of the video's labels after it."""
    changed: int
    """How many labels got another review state."""
    selected: int
    """How many labels were selected."""
    expected_wrong_share: float | None = None
    """Mean of 1 - confidence over the accepted labels; None if none of them has a confidence."""


@dataclass(frozen=True, slots=True)
class LabelVersion:
    """One version of one label in its history."""

    record: LabelRecord
    kind: ChangeKind
    origin: tuple[LabelKey, int] | None = None
    """Key and revision of the version that this one copies (moved to another track, or restored)."""
    reviews: tuple[ReviewEvent, ...] = ()
    """Reviews of this version, oldest first."""


@dataclass(frozen=True, slots=True)
class LabelDifference:
    """One key before and after a revision; None for no label."""

    key: LabelKey
    revision: int
    before: LabelRecord | None
    after: LabelRecord | None


@dataclass(frozen=True, slots=True)
class Comment:
    """A comment on frames, or on one track on these frames."""

    project_id: str
    video_id: str
    comment_id: str
    start_frame: int
    stop_frame: int
    name: str
    """Track or frame class that the comment is about; empty for whole frames."""
    text: str
    author: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Assignment:
    """Frames that two people label without seeing each other's labels."""

    project_id: str
    video_id: str
    assignment_id: str
    frames: tuple[int, ...]
    annotators: tuple[str, str]
    submitted: tuple[str, ...]
    """Annotators who have submitted."""
    author: str
    created_at: datetime
    adjudicator: str = ""
    adjudicated_at: datetime | None = None
    adjudicated_revision: int = 0
    """Revision of the video's labels that the adjudication made; 0 before it."""

    @property
    def is_open(self) -> bool:
        """Whether an annotator has not submitted yet, so that the other's labels stay hidden."""
        return set(self.submitted) != set(self.annotators)
