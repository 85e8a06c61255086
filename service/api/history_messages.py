"""Converts the store's records of changes and reviews to API messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from micromodels.errors import InvalidInput
from micromodels.v1 import correction_pb2, history_pb2, review_pb2
from service.api import names
from service.api.messages import key_to_message, label_record_message, timestamp
from service.domain.history import Change, ChangeKind, Comment, LabelDifference, LabelVersion, ReviewAction

__all__ = [
    "change_message",
    "comment_message",
    "difference_message",
    "review_action",
    "suggestion_message",
    "swap_message",
    "version_message",
]

_KINDS: dict[ChangeKind, history_pb2.ChangeKind.ValueType] = {
    ChangeKind.WRITE: history_pb2.CHANGE_KIND_WRITE,
    ChangeKind.CORRECT: history_pb2.CHANGE_KIND_CORRECT,
    ChangeKind.RECOMPUTE: history_pb2.CHANGE_KIND_RECOMPUTE,
    ChangeKind.PROPAGATE: history_pb2.CHANGE_KIND_PROPAGATE,
    ChangeKind.SWAP: history_pb2.CHANGE_KIND_SWAP,
    ChangeKind.SPLIT: history_pb2.CHANGE_KIND_SPLIT,
    ChangeKind.MERGE: history_pb2.CHANGE_KIND_MERGE,
    ChangeKind.DELETE_TRACK: history_pb2.CHANGE_KIND_DELETE_TRACK,
    ChangeKind.REVIEW: history_pb2.CHANGE_KIND_REVIEW,
    ChangeKind.ADJUDICATE: history_pb2.CHANGE_KIND_ADJUDICATE,
    ChangeKind.UNDO: history_pb2.CHANGE_KIND_UNDO,
}
_ACTIONS: dict[ReviewAction, history_pb2.ReviewAction.ValueType] = {
    ReviewAction.ACCEPT: history_pb2.REVIEW_ACTION_ACCEPT,
    ReviewAction.REJECT: history_pb2.REVIEW_ACTION_REJECT,
    ReviewAction.RESET: history_pb2.REVIEW_ACTION_RESET,
    ReviewAction.LOCK: history_pb2.REVIEW_ACTION_LOCK,
    ReviewAction.UNLOCK: history_pb2.REVIEW_ACTION_UNLOCK,
    ReviewAction.UNDO: history_pb2.REVIEW_ACTION_UNDO,
}
_REASONS: dict[str, correction_pb2.SuggestionReason.ValueType] = {
    "scene_cut": correction_pb2.SUGGESTION_REASON_SCENE_CUT,
    "suspected_swap": correction_pb2.SUGGESTION_REASON_SUSPECTED_SWAP,
    "crossing": correction_pb2.SUGGESTION_REASON_CROSSING,
    "jump": correction_pb2.SUGGESTION_REASON_JUMP,
    "appears": correction_pb2.SUGGESTION_REASON_APPEARS,
    "vanishes": correction_pb2.SUGGESTION_REASON_VANISHES,
    "confidence_drop": correction_pb2.SUGGESTION_REASON_CONFIDENCE_DROP,
    "sweeps_disagree": correction_pb2.SUGGESTION_REASON_SWEEPS_DISAGREE,
    "unlike_labeled": correction_pb2.SUGGESTION_REASON_UNLIKE_LABELED,
    "far_from_labeled": correction_pb2.SUGGESTION_REASON_FAR_FROM_LABELED,
    "unsure": correction_pb2.SUGGESTION_REASON_UNSURE,
}
_ASKED: dict[int, ReviewAction] = {number: action for action, number in _ACTIONS.items() if action != ReviewAction.UNDO}


def review_action(number: int) -> ReviewAction:
    """The review action of a request.

    Raises:
        InvalidInput: not one of the actions.
    """
    if number not in _ASKED:
        raise InvalidInput("action", number, ", ".join(action.value for action in _ASKED.values()))
    return _ASKED[number]


def change_message(project_id: str, change: Change) -> history_pb2.Change:
    """A change."""
    return history_pb2.Change(
        revision=change.revision,
        last_revision=change.last_revision,
        kind=_KINDS[change.kind],
        author=change.author,
        change_time=timestamp(change.written_at),
        label_count=change.label_count,
        operation=_operation(project_id, change.job_id),
        micro_model_version=names.provenance_to_wire(project_id, change.model_version),
        parent_revision=change.parent,
        undoes_revision=change.undoes,
        undone_by_revision=change.undone_by,
        duration_seconds=change.seconds,
        learned_count=change.learned,
        comment=change.comment,
    )


def version_message(project_id: str, version: LabelVersion) -> history_pb2.LabelVersion:
    """A version of a label."""
    record = version.record
    message = history_pb2.LabelVersion(
        key=key_to_message(record.key),
        revision=record.revision,
        kind=_KINDS[version.kind],
        author=record.author,
        write_time=timestamp(record.written_at),
        operation=_operation(project_id, record.job_id),
    )
    if record.label is not None:
        message.label.CopyFrom(label_record_message(project_id, record))
    if version.origin is not None:
        message.origin_key.CopyFrom(key_to_message(version.origin[0]))
        message.origin_revision = version.origin[1]
    for event in version.reviews:
        message.reviews.add(
            action=_ACTIONS[event.action],
            author=event.author,
            review_time=timestamp(event.written_at),
            revision=event.revision,
        )
    return message


def difference_message(project_id: str, difference: LabelDifference) -> correction_pb2.LabelDifference:
    """A label before and after a change."""
    message = correction_pb2.LabelDifference(key=key_to_message(difference.key))
    if difference.before is not None:
        message.before.CopyFrom(label_record_message(project_id, difference.before))
    if difference.after is not None:
        message.after.CopyFrom(label_record_message(project_id, difference.after))
    return message


def suggestion_message(found: Mapping[str, Any]) -> correction_pb2.Suggestion:
    """A suggestion from a session."""
    return correction_pb2.Suggestion(
        frame_index=found["frame"],
        reason=_REASONS[found["reason"]],
        explanation=found["text"],
        expected_gain=found["expected_gain"],
        tracks=found["tracks"],
        wrong_probability=found["wrong_probability"],
    )


def swap_message(found: Mapping[str, Any]) -> correction_pb2.SuspectedSwap:
    """A suspected swap from a session."""
    track_a, track_b = found["tracks"]
    return correction_pb2.SuspectedSwap(
        frame_index=found["start"],
        track_a=track_a,
        track_b=track_b,
        score=found["score"],
        explanation=found["text"],
        meeting_frame=found["frame"],
    )


def comment_message(comment: Comment) -> review_pb2.Comment:
    """A comment."""
    fields: dict[str, Any] = {name: getattr(comment, name) for name in ("start_frame", "stop_frame", "text", "author")}
    return review_pb2.Comment(
        name=names.COMMENT.format(comment.project_id, comment.video_id, comment.comment_id),
        track=comment.name,
        create_time=timestamp(comment.created_at),
        **fields,
    )


def _operation(project_id: str, job_id: str) -> str:
    return names.OPERATION.format(project_id, job_id) if job_id else ""
