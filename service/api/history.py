"""``HistoryService`` and ``TrackService``: history of labels, undo, and corrections of track identities."""

from __future__ import annotations

from typing import Any

from micromodels.errors import OutOfRange
from micromodels.v1 import history_pb2, history_pb2_grpc, track_pb2, track_pb2_grpc
from service.access import current_caller
from service.api import names
from service.api.backend import Backend, Context
from service.api.history_messages import change_message, version_message
from service.api.messages import key_from_message
from service.api.page_tokens import decode_token, encode_token, page_size
from service.domain.labels import WriteResult

__all__ = ["HistoryServicer", "TrackServicer"]

_PAGE = (50, 1000)


class HistoryServicer(history_pb2_grpc.HistoryServiceServicer):
    """Reads the history of labels and undoes changes.

    Args:
        backend: the store.
    """

    def __init__(self, backend: Backend) -> None:
        self._run = backend.run
        self._history = backend.store.history

    async def ListLabelHistory(
        self, request: history_pb2.ListLabelHistoryRequest, context: Context
    ) -> history_pb2.ListLabelHistoryResponse:
        """See the proto."""
        ids = names.video_ids(request.parent)
        key = key_from_message(request.key, "key")
        limit = page_size(request.page_size, _PAGE)
        binding = [request.parent, request.key.SerializeToString(deterministic=True).hex()]
        start = decode_token("page_token", request.page_token, binding) or 0
        versions = await self._run(self._history.of_label, *ids, key)
        token = encode_token(binding, start + limit) if len(versions) > start + limit else ""
        page = versions[start : start + limit]
        return history_pb2.ListLabelHistoryResponse(
            versions=[version_message(ids[0], version) for version in page], next_page_token=token
        )

    async def ListChanges(
        self, request: history_pb2.ListChangesRequest, context: Context
    ) -> history_pb2.ListChangesResponse:
        """See the proto."""
        ids = names.video_ids(request.parent)
        limit = page_size(request.page_size, _PAGE)
        before = decode_token("page_token", request.page_token, request.parent) or 0
        page = await self._run(self._history.changes, *ids, before=before, limit=limit)
        token = encode_token(request.parent, int(page.next_after)) if page.next_after else ""
        return history_pb2.ListChangesResponse(
            changes=[change_message(ids[0], change) for change in page.items], next_page_token=token
        )

    async def UndoChange(
        self, request: history_pb2.UndoChangeRequest, context: Context
    ) -> history_pb2.UndoChangeResponse:
        """See the proto."""
        ids = names.video_ids(request.parent)
        return await self._run(self._undo, ids, request)

    def _undo(self, ids: tuple[str, str], request: history_pb2.UndoChangeRequest) -> history_pb2.UndoChangeResponse:
        author = current_caller().name
        result = self._history.undo(*ids, request.revision, author=author, request_id=request.request_id)
        change = self._history.change(*ids, result.revision)
        return history_pb2.UndoChangeResponse(change=change_message(ids[0], change), label_revision=result.revision)


class TrackServicer(track_pb2_grpc.TrackServiceServicer):
    """Moves labels between tracks.

    Args:
        backend: the store.
    """

    def __init__(self, backend: Backend) -> None:
        self._run = backend.run
        self._tracks = backend.store.tracks

    async def SwapTracks(self, request: track_pb2.SwapTracksRequest, context: Context) -> track_pb2.EditTracksResponse:
        """See the proto."""
        pair = (request.track_a, request.track_b)
        return await self._edit(request, context, self._tracks.swap, pair, _frames(request))

    async def SplitTrack(self, request: track_pb2.SplitTrackRequest, context: Context) -> track_pb2.EditTracksResponse:
        """See the proto."""
        arguments = (request.track, _frames(request), request.new_track)
        return await self._edit(request, context, self._tracks.split, *arguments)

    async def MergeTracks(
        self, request: track_pb2.MergeTracksRequest, context: Context
    ) -> track_pb2.EditTracksResponse:
        """See the proto."""
        return await self._edit(request, context, self._tracks.merge, request.track, request.other_track)

    async def DeleteTrack(
        self, request: track_pb2.DeleteTrackRequest, context: Context
    ) -> track_pb2.EditTracksResponse:
        """See the proto."""
        return await self._edit(request, context, self._tracks.delete, request.track, _frames(request))

    async def _edit(self, request: Any, context: Context, act: Any, *arguments: Any) -> track_pb2.EditTracksResponse:
        ids = names.video_ids(request.parent)
        result: WriteResult = await self._run(
            act,
            *ids,
            *arguments,
            author=current_caller().name,
            base_revision=request.base_revision if request.HasField("base_revision") else None,
            request_id=request.request_id,
        )
        return track_pb2.EditTracksResponse(
            label_revision=result.revision, written_count=result.written, deleted_count=result.deleted
        )


def _frames(request: Any) -> range:
    """The frame range of a request; the store reads a stop of 0 as the end of the video."""
    if request.start_frame < 0 or request.stop_frame < 0:
        raise OutOfRange("start_frame", min(request.start_frame, request.stop_frame), "frames of the video, at least 0")
    return range(request.start_frame, request.stop_frame)
