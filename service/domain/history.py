"""Who did what to the labels of a video: changes, reviews, comments and blind assignments as the store hands them out.

Frozen, plain dataclasses as in ``service.domain.videos``; the same conventions hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from service.domain.labels import LabelKey, LabelRecord

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
    """A person corrected labels and had the spans around them computed again."""
    RECOMPUTE = "recompute"
    """The computation that followed from a correction; ``Change.parent`` names that."""
    PROPAGATE = "propagate"
    """A job labeled frames."""
    SWAP = "swap"
    SPLIT = "split"
    MERGE = "merge"
    DELETE_TRACK = "delete_track"
    REVIEW = "review"
    """A person accepted, rejected, locked or unlocked labels; the labels stayed as they were."""
    ADJUDICATE = "adjudicate"
    """A person chose between the labels of two annotators."""
    UNDO = "undo"

    @property
    def is_machine(self) -> bool:
        """Whether a micro-model decided what was written: it gives way to everything that people said."""
        return self in (ChangeKind.RECOMPUTE, ChangeKind.PROPAGATE)

    @property
    def moves_labels(self) -> bool:
        """Whether a person put labels elsewhere as they are, so that predictions may take the place of anchors."""
        return self in (ChangeKind.SWAP, ChangeKind.SPLIT, ChangeKind.MERGE, ChangeKind.DELETE_TRACK, ChangeKind.UNDO)


@dataclass(frozen=True, slots=True)
class Act:
    """Who writes labels, and why."""

    author: str
    kind: ChangeKind = ChangeKind.WRITE
    job_id: str = ""
    parent: int = 0
    """Of a recomputation: the revision of its correction. What people did after that is not overwritten."""
    undoes: int = 0
    model_version: str = ""
    comment: str = ""
    base: int = 0
    """Of a job: what was written after this revision is not overwritten; 0 not to look."""


@dataclass(frozen=True, slots=True)
class Change:
    """One act on the labels of a video."""

    revision: int
    """The first revision that it made; its name in the API."""
    last_revision: int
    """The last one: a job that goes on writing makes several."""
    kind: ChangeKind
    author: str
    written_at: datetime
    label_count: int
    """How many labels it wrote, deleted or judged."""
    job_id: str = ""
    model_version: str = ""
    parent: int = 0
    undoes: int = 0
    """The revision of the change that this one took back; 0 for none."""
    undone_by: int = 0
    """The revision of the change that took this one back; 0 while it stands."""
    settled: bool = False
    """Of a correction: whether what follows from it has been computed."""
    seconds: float = 0.0
    """Of a correction: from its acknowledgment to the last of the recomputed labels."""
    learned: int = 0
    """Of a correction: how many corrections its micro-model version has learned from, it among them; 0 for none."""
    comment: str = ""


class ReviewAction(StrEnum):
    """What a reviewer does with a label."""

    ACCEPT = "accept"
    """It is right: no micro-model changes it any more."""
    REJECT = "reject"
    """It is wrong, and somebody should draw it."""
    RESET = "reset"
    """Neither."""
    LOCK = "lock"
    """Whatever stands here, no micro-model changes it, also after it was edited."""
    UNLOCK = "unlock"
    UNDO = "undo"
    """An earlier act was taken back."""


@dataclass(frozen=True, slots=True)
class ReviewEvent:
    """One act of review on one version of a label."""

    key: LabelKey
    label_revision: int
    """The version that was judged."""
    revision: int
    action: ReviewAction
    author: str
    written_at: datetime


@dataclass(frozen=True, slots=True)
class ReviewResult:
    """What a review did, or would do."""

    revision: int
    """Revision of the video after it."""
    changed: int
    """Labels whose review it changed."""
    selected: int
    """Labels that it was about."""
    expected_wrong_share: float | None = None
    """Mean of 1 - confidence over the labels accepted; None where none of them has a confidence."""


@dataclass(frozen=True, slots=True)
class LabelVersion:
    """One version of one label in its history."""

    record: LabelRecord
    kind: ChangeKind
    origin: tuple[LabelKey, int] | None = None
    """Key and revision of the version that this one repeats, moved to another track or brought back."""
    reviews: tuple[ReviewEvent, ...] = ()
    """ChangeIndex of review on this version, oldest first."""


@dataclass(frozen=True, slots=True)
class LabelDifference:
    """What a revision did to one key: before and after it; None where there is no label."""

    key: LabelKey
    revision: int
    before: LabelRecord | None
    after: LabelRecord | None


@dataclass(frozen=True, slots=True)
class Comment:
    """A remark on frames, or on one track on these frames."""

    project_id: str
    video_id: str
    comment_id: str
    start_frame: int
    stop_frame: int
    name: str
    """Track or frame class that it is about; empty for the whole frames."""
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
    """Annotators who have said that they are done."""
    author: str
    created_at: datetime
    adjudicator: str = ""
    adjudicated_at: datetime | None = None
    adjudicated_revision: int = 0
    """Revision of the video's labels that the adjudication made; 0 before."""

    @property
    def is_open(self) -> bool:
        """Whether somebody still labels, so that nobody may see the other's labels."""
        return set(self.submitted) != set(self.annotators)
