"""Calls on existing labels: corrections, tracks, reviews, history."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from google.protobuf.message import Message

from micromodels.client.connection import Connection
from micromodels.client.messages import label_to_message
from micromodels.types import AnyLabel
from micromodels.v1 import correction_pb2, diagnostics_pb2, history_pb2, label_pb2, review_pb2, track_pb2

__all__ = ["Reviewing", "label_key"]

_ACTIONS: dict[str, history_pb2.ReviewAction.ValueType] = {
    "accept": history_pb2.REVIEW_ACTION_ACCEPT,
    "reject": history_pb2.REVIEW_ACTION_REJECT,
    "reset": history_pb2.REVIEW_ACTION_RESET,
    "lock": history_pb2.REVIEW_ACTION_LOCK,
    "unlock": history_pb2.REVIEW_ACTION_UNLOCK,
}


def label_key(frame: int, *, track: str = "", frame_class: str = "") -> label_pb2.LabelKey:
    """The key of a label: of a track, or of a frame class."""
    if frame_class:
        return label_pb2.LabelKey(frame_index=frame, frame_class=frame_class)
    return label_pb2.LabelKey(frame_index=frame, track=track)


class Reviewing:
    """The calls of ``CorrectionService``, ``TrackService``, ``ReviewService`` and ``HistoryService``.

    ``Client.review`` is one. Every method may raise ``ApiError``.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stubs = connection.stubs

    # Corrections

    def correct_labels(
        self,
        video: str,
        labels: Iterable[AnyLabel] = (),
        *,
        deletions: Sequence[label_pb2.LabelKey] = (),
        base_revision: int | None = None,
        micro_model_version: str = "",
    ) -> Iterator[correction_pb2.CorrectLabelsResponse]:
        """Correct labels; yields the acknowledgment, then the labels that change because of it, then a summary.

        Resumes after a broken connection. The labels are stored once the first message has arrived.

        Args:
            video: name of the video.
            labels: the corrections, drawn by a person.
            deletions: labels to delete.
            base_revision: the revision that the person has seen.
            micro_model_version: version that computes; empty for the newest of this video.
        """
        request = correction_pb2.CorrectLabelsRequest(
            parent=video,
            labels=map(label_to_message, labels),
            deletions=deletions,
            base_revision=base_revision,
            micro_model_version=micro_model_version,
            request_id=_request_id(),
        )
        for message in self._connection.stream(lambda: (self._stubs.corrections.CorrectLabels, request)):
            request.resume_token = message.resume_token
            yield message

    def suggest_frames(
        self, video: str, count: int = 10, *, skip: Iterable[int] = ()
    ) -> correction_pb2.SuggestFramesResponse:
        """Frames to check, most useful first, with reasons; none of ``skip``."""
        request = correction_pb2.SuggestFramesRequest(parent=video, count=count, skipped_frames=skip)
        return self._call(self._stubs.corrections.SuggestFrames, request)  # type: ignore[no-any-return]

    def list_suspected_swaps(self, video: str) -> Iterator[correction_pb2.SuspectedSwap]:
        """Places where two tracks may be swapped, most likely first."""
        request = correction_pb2.ListSuspectedSwapsRequest(parent=video)
        for page in self._pages(self._stubs.corrections.ListSuspectedSwaps, request):
            yield from page.swaps

    def list_scene_cuts(self, video: str) -> Iterator[int]:
        """Frames at which a new scene begins."""
        request = correction_pb2.ListSceneCutsRequest(parent=video)
        for page in self._pages(self._stubs.corrections.ListSceneCuts, request):
            yield from page.frame_indices

    # Tracks

    def swap_tracks(
        self, video: str, track_a: str, track_b: str, *, frames: range | None = None, base_revision: int | None = None
    ) -> track_pb2.EditTracksResponse:
        """Swap two tracks on a half-open range of frames; None for all."""
        request = track_pb2.SwapTracksRequest(track_a=track_a, track_b=track_b, **_edit(video, base_revision, frames))
        return self._call(self._stubs.tracks.SwapTracks, request)  # type: ignore[no-any-return]

    def split_track(
        self, video: str, track: str, new_track: str, *, frames: range, base_revision: int | None = None
    ) -> track_pb2.EditTracksResponse:
        """Move a track's labels on some frames to a new track."""
        request = track_pb2.SplitTrackRequest(track=track, new_track=new_track, **_edit(video, base_revision, frames))
        return self._call(self._stubs.tracks.SplitTrack, request)  # type: ignore[no-any-return]

    def merge_tracks(
        self, video: str, track: str, other_track: str, *, base_revision: int | None = None
    ) -> track_pb2.EditTracksResponse:
        """Merge two tracks under the name of the first."""
        request = track_pb2.MergeTracksRequest(track=track, other_track=other_track, **_edit(video, base_revision))
        return self._call(self._stubs.tracks.MergeTracks, request)  # type: ignore[no-any-return]

    def delete_track(
        self, video: str, track: str, *, frames: range | None = None, base_revision: int | None = None
    ) -> track_pb2.EditTracksResponse:
        """Delete a track on a half-open range of frames; None for all."""
        request = track_pb2.DeleteTrackRequest(track=track, **_edit(video, base_revision, frames))
        return self._call(self._stubs.tracks.DeleteTrack, request)  # type: ignore[no-any-return]

    # Reviews

    def review_labels(
        self,
        video: str,
        action: str,
        *,
        keys: Sequence[label_pb2.LabelKey] = (),
        selection: label_pb2.LabelSelection | None = None,
        comment: str = "",
        base_revision: int | None = None,
    ) -> review_pb2.ReviewLabelsResponse:
        """Review labels.

        Args:
            video: name of the video.
            action: ``accept``, ``reject``, ``reset``, ``lock`` or ``unlock``.
            keys: exactly these labels.
            selection: labels to select instead of ``keys``; without both, all labels.
            comment: stored with the change.
            base_revision: the revision that the reviewer has seen.

        Raises:
            ValueError: another action.
        """
        if action not in _ACTIONS:
            raise ValueError(f"action: got {action!r}; allowed: {', '.join(_ACTIONS)}")
        picked = None if keys else selection or label_pb2.LabelSelection()
        request = review_pb2.ReviewLabelsRequest(
            parent=video,
            action=_ACTIONS[action],
            keys=keys,
            selection=picked,
            comment=comment,
            base_revision=base_revision,
            request_id=_request_id(),
        )
        return self._call(self._stubs.reviews.ReviewLabels, request)  # type: ignore[no-any-return]

    def accept_labels(
        self,
        video: str,
        min_confidence: float,
        *,
        selection: label_pb2.LabelSelection | None = None,
        validate_only: bool = False,
        base_revision: int | None = None,
    ) -> review_pb2.AcceptLabelsResponse:
        """Accept predictions with high confidence; ``validate_only`` only returns how many."""
        request = review_pb2.AcceptLabelsRequest(
            parent=video,
            min_confidence=min_confidence,
            selection=selection,
            validate_only=validate_only,
            base_revision=base_revision,
            request_id=_request_id(),
        )
        return self._call(self._stubs.reviews.AcceptLabels, request)  # type: ignore[no-any-return]

    def create_comment(self, video: str, text: str, *, frames: range, track: str = "") -> review_pb2.Comment:
        """Comment on frames, or on one track on these frames."""
        comment = review_pb2.Comment(text=text, start_frame=frames.start, stop_frame=frames.stop, track=track)
        request = review_pb2.CreateCommentRequest(parent=video, comment=comment, request_id=_request_id())
        return self._call(self._stubs.reviews.CreateComment, request)  # type: ignore[no-any-return]

    def list_comments(self, video: str) -> Iterator[review_pb2.Comment]:
        """All comments on a video, oldest first."""
        for page in self._pages(self._stubs.reviews.ListComments, review_pb2.ListCommentsRequest(parent=video)):
            yield from page.comments

    def delete_comment(self, name: str) -> None:
        """Delete a comment."""
        self._call(self._stubs.reviews.DeleteComment, review_pb2.DeleteCommentRequest(name=name))

    def get_diagnostics(
        self, video: str, *, consistency_checks: bool = False, picture: bool = False
    ) -> diagnostics_pb2.Diagnostics:
        """Quality of a video's labels, and the work that people put into them."""
        request = diagnostics_pb2.GetDiagnosticsRequest(
            name=video, consistency_checks=consistency_checks, picture=picture
        )
        return self._call(self._stubs.diagnostics.GetDiagnostics, request)  # type: ignore[no-any-return]

    # History

    def list_label_history(self, video: str, key: label_pb2.LabelKey) -> Iterator[history_pb2.LabelVersion]:
        """All versions of one label, oldest first."""
        request = history_pb2.ListLabelHistoryRequest(parent=video, key=key)
        for page in self._pages(self._stubs.history.ListLabelHistory, request):
            yield from page.versions

    def list_changes(self, video: str) -> Iterator[history_pb2.Change]:
        """The changes of a video's labels, newest first."""
        for page in self._pages(self._stubs.history.ListChanges, history_pb2.ListChangesRequest(parent=video)):
            yield from page.changes

    def undo_change(self, video: str, revision: int) -> history_pb2.UndoChangeResponse:
        """Undo a change."""
        request = history_pb2.UndoChangeRequest(parent=video, revision=revision, request_id=_request_id())
        return self._call(self._stubs.history.UndoChange, request)  # type: ignore[no-any-return]

    def _call(self, method: Any, request: Message) -> Any:
        return self._connection.call(method, request)

    def _pages(self, method: Any, request: Any) -> Iterator[Any]:
        return self._connection.pages(method, request)


def _request_id() -> str:
    return str(uuid.uuid4())


def _edit(video: str, base_revision: int | None, frames: range | None = None) -> dict[str, Any]:
    """Fields common to the requests of ``TrackService``."""
    fields: dict[str, Any] = {"parent": video, "base_revision": base_revision, "request_id": _request_id()}
    if frames is not None:
        fields |= {"start_frame": frames.start, "stop_frame": frames.stop}
    return fields
