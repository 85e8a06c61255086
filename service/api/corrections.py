"""``CorrectionService``: corrections, the labels recomputed from them, and which frames to check next."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from itertools import groupby
from typing import Any

from micromodels.errors import FailedPrecondition, InvalidInput
from micromodels.v1 import correction_pb2 as pb
from micromodels.v1 import correction_pb2_grpc
from service.api import names
from service.api.backend import Backend, Context
from service.api.history_messages import difference_message, suggestion_message, swap_message
from service.api.labels import MAX_LABELS, check_count, parse_labels, write_checked
from service.api.messages import key_from_message
from service.api.micro_models import version_number
from service.api.page_tokens import decode_token, encode_token, page_size
from service.domain.history import ChangeKind, LabelDifference
from service.domain.labels import (
    WriteResult,
)
from service.domain.models import (
    ModelVersion,
)
from service.sessions.pool import Sessions
from service.sessions.requests import SessionRequest

__all__ = ["CorrectionServicer"]

_SUGGESTIONS = (10, 100)
_SWAP_PAGE = (50, 1000)
_CUT_PAGE = (1000, 10_000)
_BATCH_BYTES = 512 << 10
_LOOK_AGAIN_SECONDS = 1.0


class CorrectionServicer(correction_pb2_grpc.CorrectionServiceServicer):
    """Updates a video's labels interactively.

    Args:
        backend: the store.
        sessions: the label sessions, which compute.
    """

    def __init__(self, backend: Backend, sessions: Sessions) -> None:
        self._run = backend.run
        self._store = backend.store
        self._sessions = sessions

    async def CorrectLabels(
        self, request: pb.CorrectLabelsRequest, context: Context
    ) -> AsyncIterator[pb.CorrectLabelsResponse]:
        """See the proto."""
        ids = names.video_ids(request.parent)
        binding = [request.parent, request.request_id]
        after = decode_token("resume_token", request.resume_token, binding) or 0
        written = await self._run(self._write, ids, request)
        revision = written.revision
        token = encode_token(binding, after)
        yield pb.CorrectLabelsResponse(
            acknowledged=pb.CorrectionAcknowledged(
                label_revision=revision, written_count=written.written, deleted_count=written.deleted
            ),
            resume_token=token,
        )
        computed = bool(written.written or written.deleted)
        if computed:
            signal = _Signal()
            answer = await self._run(self._begin, ids, request.micro_model_version, revision, signal.set)
            async for differences in self._differences(ids, revision, after, answer, signal):
                for part in _batches(ids[0], differences):
                    yield pb.CorrectLabelsResponse(differences=part, resume_token=token)
                token = encode_token(binding, differences[-1].revision)
        summary = await self._run(self._summary, ids, revision, computed)
        yield pb.CorrectLabelsResponse(summary=summary, resume_token=token)

    def _write(self, ids: tuple[str, str], request: pb.CorrectLabelsRequest) -> WriteResult:
        labels = parse_labels(request.labels, "labels")
        for index, label in enumerate(labels):
            if not label.is_anchor:
                raise InvalidInput(f"labels[{index}].provenance.kind", label.provenance.kind.value, "human, or unset")
        check_count("deletions", len(request.deletions), MAX_LABELS)
        deletes = [key_from_message(key, f"deletions[{index}]") for index, key in enumerate(request.deletions)]
        base = request.base_revision if request.HasField("base_revision") else None
        self._model(ids, request.micro_model_version)  # refuses a wrong name before anything is stored
        return write_checked(
            self._store,
            ids,
            labels,
            "labels",
            deletes,
            base,
            request_id=request.request_id,
            kind=ChangeKind.CORRECT,
        )

    def _begin(
        self, ids: tuple[str, str], requested: str, revision: int, on_stored: Callable[[], None]
    ) -> Future[Any] | None:
        """The session's pending answer; None if everything is computed, or nothing can be."""
        change = self._store.history.change(*ids, revision)
        if change.settled or change.undone_by:
            return None
        model = self._model(ids, requested)
        if model is None:
            self._store.history.settle(*ids, revision, seconds=0.0, model_version="")
            return None
        correction = SessionRequest("correct", model, revision=revision, author=change.author, on_stored=on_stored)
        return self._sessions.submit(*ids, correction)

    async def _differences(
        self, ids: tuple[str, str], revision: int, after: int, answer: Future[Any] | None, signal: _Signal
    ) -> AsyncIterator[list[LabelDifference]]:
        """Labels that a correction changes, revision by revision, until all are stored."""
        while True:
            signal.clear()
            is_done = answer is None or answer.done()
            found = await self._run(self._store.history.recomputed, *ids, revision, after=after)
            for _, group in groupby(found, key=lambda item: item.revision):
                yield list(group)
            after = found[-1].revision if found else after
            if is_done and not found:
                if answer is not None:
                    answer.result()
                return
            if not found:
                await signal.wait()

    def _summary(self, ids: tuple[str, str], revision: int, computed: bool) -> pb.CorrectionSummary:
        labels, frames = self._store.history.recomputed_counts(*ids, revision)
        message = pb.CorrectionSummary(
            changed_count=labels, changed_frame_count=frames, label_revision=self._store.labels.revision(*ids)
        )
        if computed:
            change = self._store.history.change(*ids, revision)
            message.duration_seconds = change.seconds
            message.micro_model_version = names.provenance_to_wire(ids[0], change.model_version)
            message.learned_count = change.learned
        return message

    def _model(self, ids: tuple[str, str], requested: str, field: str = "micro_model_version") -> ModelVersion | None:
        """The version that computes: the requested one, or the newest of this video."""
        project_id, video_id = ids
        if not requested:
            return self._store.models.of_video(project_id, video_id)
        in_project, model_id, version = names.MODEL_VERSION.parse(requested, field)
        if in_project != project_id:
            raise InvalidInput(field, requested, f"a version of {names.PROJECT.format(project_id)}")
        return self._store.models.get(project_id, model_id, version_number(version, field))

    async def SuggestFrames(self, request: pb.SuggestFramesRequest, context: Context) -> pb.SuggestFramesResponse:
        """See the proto."""
        count = page_size(request.count, _SUGGESTIONS)
        check_count("skipped_frames", len(request.skipped_frames), MAX_LABELS)
        ids = names.video_ids(request.parent)
        revision = await self._run(self._store.labels.revision, *ids)
        details = {"count": count, "skip": list(request.skipped_frames)}
        found = await self._ask(ids, "suggest", request.micro_model_version, details)
        return pb.SuggestFramesResponse(suggestions=map(suggestion_message, found), label_revision=revision)

    async def ListSuspectedSwaps(
        self, request: pb.ListSuspectedSwapsRequest, context: Context
    ) -> pb.ListSuspectedSwapsResponse:
        """See the proto."""
        page, token = await self._page(request, "swaps", _SWAP_PAGE)
        return pb.ListSuspectedSwapsResponse(swaps=map(swap_message, page), next_page_token=token)

    async def ListSceneCuts(self, request: pb.ListSceneCutsRequest, context: Context) -> pb.ListSceneCutsResponse:
        """See the proto."""
        page, token = await self._page(request, "cuts", _CUT_PAGE)
        return pb.ListSceneCutsResponse(frame_indices=page, next_page_token=token)

    async def _page(self, request: Any, ask: str, size: tuple[int, int]) -> tuple[list[Any], str]:
        limit = page_size(request.page_size, size)
        start = decode_token("page_token", request.page_token, request.parent) or 0
        found = await self._ask(names.video_ids(request.parent), ask, "", {})
        token = encode_token(request.parent, start + limit) if len(found) > start + limit else ""
        return found[start : start + limit], token

    async def _ask(self, ids: tuple[str, str], ask: str, model_name: str, details: dict[str, Any]) -> list[Any]:
        def begin() -> Any:
            self._store.videos.get(*ids)
            model = self._model(ids, model_name)
            if model is None:
                raise FailedPrecondition(f"video {ids[1]!r} has no micro-model; train one first")
            return self._sessions.submit(*ids, SessionRequest(ask, model, details))

        found: list[Any] = await asyncio.wrap_future(await self._run(begin))
        return found


class _Signal:
    """An event that other threads may set. Create it in the event loop's thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def set(self) -> None:
        """Wake the waiting coroutine; callable from any thread."""
        try:
            self._loop.call_soon_threadsafe(self._event.set)
        except RuntimeError:  # the loop has ended
            return

    def clear(self) -> None:
        """Reset the event."""
        self._event.clear()

    async def wait(self) -> None:
        """Wait until it is set, or for a short time."""
        try:
            await asyncio.wait_for(self._event.wait(), _LOOK_AGAIN_SECONDS)
        except TimeoutError:
            return


def _batches(project_id: str, differences: list[LabelDifference]) -> list[pb.LabelDifferenceBatch]:
    """The differences of one revision, in messages of bounded size."""
    batches = [pb.LabelDifferenceBatch(label_revision=differences[0].revision)]
    size_bytes = 0
    for difference in differences:
        message = difference_message(project_id, difference)
        if size_bytes and size_bytes + message.ByteSize() > _BATCH_BYTES:
            batches.append(pb.LabelDifferenceBatch(label_revision=difference.revision))
            size_bytes = 0
        batches[-1].differences.append(message)
        size_bytes += message.ByteSize()
    return batches
