"""``LabelService``."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from micromodels.client.messages import label_errors
from micromodels.errors import FailedPrecondition, InvalidInput, OutOfRange
from micromodels.labels.keys import LabelKey
from micromodels.labels.validation import check_fits_video
from micromodels.labels.video_info import VideoInfo
from micromodels.types import AnyLabel, Label
from micromodels.v1 import label_pb2, label_pb2_grpc
from service.access import current_caller
from service.api import names
from service.api.backend import Backend, Context
from service.api.messages import key_from_message, key_to_message, label_record_message, wire_label
from service.api.page_tokens import decode_token, encode_token
from service.domain.codec import key_from_json, key_to_json
from service.domain.history import ChangeKind
from service.domain.labels import (
    LabelRecord,
    WriteResult,
)
from service.domain.videos import (
    VideoRecord,
    VideoState,
)
from service.store import (
    Store,
)

__all__ = [
    "MAX_LABELS",
    "LabelServicer",
    "check_count",
    "check_label",
    "label_batches",
    "parse_labels",
    "selection_query",
    "write_checked",
]

MAX_LABELS = 10_000
_MAX_NAMES = 1000
_BATCH_LABELS = 500
_BATCH_BYTES = 512 << 10


class LabelServicer(label_pb2_grpc.LabelServiceServicer):
    """Writes and reads labels.

    Args:
        backend: the store.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._run = backend.run
        self._store = backend.store

    async def WriteLabels(
        self, request: label_pb2.WriteLabelsRequest, context: Context
    ) -> label_pb2.WriteLabelsResponse:
        """See the proto."""
        result = await self._run(self._write, request)
        return label_pb2.WriteLabelsResponse(
            label_revision=result.revision,
            written_count=result.written,
            deleted_count=result.deleted,
            kept_anchors=map(key_to_message, result.kept_anchors),
        )

    def _write(self, request: label_pb2.WriteLabelsRequest) -> WriteResult:
        ids = names.VIDEO.parse(request.parent, "parent")
        labels = parse_labels(request.labels, "labels")
        check_count("deletions", len(request.deletions), MAX_LABELS)
        deletes = [key_from_message(key, f"deletions[{index}]") for index, key in enumerate(request.deletions)]
        base = request.base_revision if request.HasField("base_revision") else None
        return write_checked(self._store, ids, labels, "labels", deletes, base, request_id=request.request_id)

    async def StreamLabels(
        self, request: label_pb2.StreamLabelsRequest, context: Context
    ) -> AsyncIterator[label_pb2.StreamLabelsResponse]:
        """See the proto."""
        ids = names.VIDEO.parse(request.parent, "parent")
        binding = [request.parent, request.selection.SerializeToString(deterministic=True).hex()]
        position = decode_token("resume_token", request.resume_token, binding)
        after = key_from_json(position) if position else None
        video = await self._run(self._store.videos.get, *ids)
        query = selection_query(request.selection, video)
        async for labels, last in label_batches(self._backend, ids, after, query):
            token = encode_token(binding, key_to_json(last))
            yield label_pb2.StreamLabelsResponse(labels=labels, resume_token=token, label_revision=video.label_revision)

    async def DeleteLabels(
        self, request: label_pb2.DeleteLabelsRequest, context: Context
    ) -> label_pb2.DeleteLabelsResponse:
        """See the proto."""
        result = await self._run(self._delete, request)
        return label_pb2.DeleteLabelsResponse(deleted_count=result.deleted, label_revision=result.revision)

    def _delete(self, request: label_pb2.DeleteLabelsRequest) -> WriteResult:
        project_id, video_id = names.VIDEO.parse(request.parent, "parent")
        if not request.HasField("selection"):
            raise InvalidInput("selection", None, "a selection; leave it empty to select every label")
        query = selection_query(request.selection, self._store.videos.get(project_id, video_id))
        keys = [record.key for record in self._store.labels.stream(project_id, video_id, **query)]
        base = request.base_revision if request.HasField("base_revision") else None
        return self._store.labels.write(
            project_id, video_id, [], author=current_caller().name, deletes=keys, base_revision=base
        )


def parse_labels(messages: Sequence[label_pb2.Label], where: str) -> list[AnyLabel]:
    """Parse the labels of the request field ``where``.

    Raises:
        InvalidInput: too many labels, or a value that is not allowed.
        OutOfRange: a frame is negative.
    """
    check_count(where, len(messages), MAX_LABELS)
    return [wire_label(message, f"{where}[{index}]") for index, message in enumerate(messages)]


def write_checked(
    store: Store,
    ids: tuple[str, ...],
    labels: list[AnyLabel],
    where: str,
    deletes: Sequence[LabelKey] = (),
    base_revision: int | None = None,
    *,
    request_id: str = "",
    kind: ChangeKind = ChangeKind.WRITE,
) -> WriteResult:
    """Check labels against the video and write them; errors name the label's position in the field ``where``.

    Raises:
        InvalidInput: a mask of another size, a coordinate outside the frame, or input that ``Labels.write`` refuses.
        OutOfRange: a frame outside the video.
    """
    project_id, video_id = ids
    video = store.videos.get(project_id, video_id)
    if video.state is VideoState.READY:
        for index, label in enumerate(labels):
            check_label(label, video, f"{where}[{index}]")
        for index, key in enumerate(deletes):
            _check_frame(key.frame, video, f"deletions[{index}].frame_index")
    try:
        return store.labels.write(
            project_id,
            video_id,
            labels,
            author=current_caller().name,
            deletes=deletes,
            base_revision=base_revision,
            request_id=request_id,
            kind=kind,
        )
    except InvalidInput as error:
        found = re.fullmatch(r"labels\[(\d+)\]\.(.+)", error.field)
        if found is None:
            raise
        index = int(found[1])
        with label_errors(f"{where}[{index}]", _subject(labels[index])):
            raise type(error)(found[2], error.value, error.allowed) from None


async def label_batches(
    backend: Backend, ids: tuple[str, ...], after: LabelKey | None, query: dict[str, Any]
) -> AsyncIterator[tuple[list[label_pb2.Label], LabelKey]]:
    """The labels of a video in batches of messages of bounded size, each with the key of its last label."""
    records = await backend.run(backend.store.labels.stream, *ids, after=after, **query)
    while batch := await backend.run_busily(_batch, ids[0], records):
        yield batch


def _batch(project_id: str, records: Iterator[LabelRecord]) -> tuple[list[label_pb2.Label], LabelKey] | None:
    labels: list[label_pb2.Label] = []
    size_bytes = 0
    for record in records:
        labels.append(label_record_message(project_id, record))
        size_bytes += labels[-1].ByteSize()
        if len(labels) >= _BATCH_LABELS or size_bytes >= _BATCH_BYTES:
            return labels, record.key
    return (labels, record.key) if labels else None


def selection_query(selection: label_pb2.LabelSelection, video: VideoRecord) -> dict[str, Any]:
    """Convert a selection to arguments of ``Labels.stream`` and ``Reviews.review``.

    Raises:
        FailedPrecondition: the video is not ready.
        InvalidInput: an empty range, or too many names.
        OutOfRange: a frame outside the video.
    """
    if video.state is not VideoState.READY:
        raise FailedPrecondition(f"video {video.video_id!r} is {video.state.value}, not ready, and has no labels")
    count = video.frame_count
    start, stop = selection.start_frame, selection.stop_frame or count
    if not 0 <= start < count:
        raise OutOfRange("selection.start_frame", start, f"0 to {count - 1}")
    if not 0 <= stop <= count:
        raise OutOfRange("selection.stop_frame", stop, f"0 for the end, or {start + 1} to {count}")
    if stop <= start:
        raise InvalidInput("selection.stop_frame", stop, f"0 for the end, or {start + 1} to {count}")
    check_count("selection.tracks", len(selection.tracks), _MAX_NAMES)
    check_count("selection.class_names", len(selection.class_names), _MAX_NAMES)
    return {
        "frames": range(start, stop),
        "names": tuple(selection.tracks),
        "class_names": tuple(selection.class_names),
        "anchors_only": selection.anchors_only,
    }


def check_count(field: str, count: int, most: int) -> None:
    """Raise if a list is too long.

    Raises:
        InvalidInput: the list is too long.
    """
    if count > most:
        raise InvalidInput(field, f"{count} items", f"at most {most}")


def _check_frame(frame: int, video: VideoRecord, where: str) -> None:
    if frame >= video.frame_count:
        raise OutOfRange(where, frame, f"0 to {video.frame_count - 1}")


def check_label(label: AnyLabel, video: VideoRecord, where: str) -> None:
    """Raise if a label does not fit a video.

    Raises:
        InvalidInput: a mask of another size, or a coordinate outside the frame.
        OutOfRange: a frame outside the video.
    """
    _check_frame(label.frame, video, f"{where}.frame_index")
    with label_errors(where, _subject(label)):
        try:
            check_fits_video(label, VideoInfo(video.frame_count, video.width_px, video.height_px))
        except OutOfRange as error:  # the status OUT_OF_RANGE is for frames and offsets only
            raise InvalidInput(error.field, error.value, error.allowed) from None


def _subject(label: AnyLabel) -> str:
    return "object" if isinstance(label, Label) else "frame_class"
