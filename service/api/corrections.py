"""``CorrectionService``: what a person draws, and what follows from it."""

from __future__ import annotations

from collections.abc import AsyncIterator

from micromodels.errors import FailedPrecondition, InvalidInput
from micromodels.v1 import correction_pb2, correction_pb2_grpc
from service.api import names
from service.api.convert import key_from_message
from service.api.labels import MAX_LABELS, check_count, parse_labels, write_checked
from service.api.threads import Backend, Context
from service.history import ChangeKind
from service.store import WriteResult

__all__ = ["CorrectionServicer"]


class CorrectionServicer(correction_pb2_grpc.CorrectionServiceServicer):
    """Mends a video while a person looks at it.

    Args:
        backend: the store.
    """

    def __init__(self, backend: Backend) -> None:
        self._run = backend.run
        self._store = backend.store

    async def CorrectLabels(
        self, request: correction_pb2.CorrectLabelsRequest, context: Context
    ) -> AsyncIterator[correction_pb2.CorrectLabelsResponse]:
        """See the proto."""
        written = await self._run(self._write, request)
        yield correction_pb2.CorrectLabelsResponse(
            acknowledged=correction_pb2.CorrectionAcknowledged(
                label_revision=written.revision, written_count=written.written, deleted_count=written.deleted
            )
        )
        summary = correction_pb2.CorrectionSummary(label_revision=written.revision)
        yield correction_pb2.CorrectLabelsResponse(summary=summary)

    async def SuggestFrames(
        self, request: correction_pb2.SuggestFramesRequest, context: Context
    ) -> correction_pb2.SuggestFramesResponse:
        """See the proto."""
        raise FailedPrecondition("this build opens no label sessions yet")

    async def ListSuspectedSwaps(
        self, request: correction_pb2.ListSuspectedSwapsRequest, context: Context
    ) -> correction_pb2.ListSuspectedSwapsResponse:
        """See the proto."""
        raise FailedPrecondition("this build opens no label sessions yet")

    async def ListSceneCuts(
        self, request: correction_pb2.ListSceneCutsRequest, context: Context
    ) -> correction_pb2.ListSceneCutsResponse:
        """See the proto."""
        raise FailedPrecondition("this build opens no label sessions yet")

    def _write(self, request: correction_pb2.CorrectLabelsRequest) -> WriteResult:
        ids = names.video_ids(request.parent)
        labels = parse_labels(request.labels, "labels")
        for index, label in enumerate(labels):
            if not label.is_anchor:
                raise InvalidInput(f"labels[{index}].provenance.kind", label.provenance.kind.value, "human, or unset")
        check_count("deletions", len(request.deletions), MAX_LABELS)
        deletes = [key_from_message(key, f"deletions[{index}]") for index, key in enumerate(request.deletions)]
        return write_checked(
            self._store,
            ids,
            labels,
            "labels",
            deletes,
            request.base_revision if request.HasField("base_revision") else None,
            request_id=request.request_id,
            kind=ChangeKind.CORRECT,
        )
