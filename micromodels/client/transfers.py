"""Uploads and downloads: in chunks, checked, resumable."""

from __future__ import annotations

import hashlib
import uuid
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

from micromodels.client.connection import Connection
from micromodels.client.errors import ApiError
from micromodels.v1 import file_pb2, video_pb2

__all__ = ["download", "send_file"]

_READ_BYTES = 1 << 20
_MAX_RESENDS = 5


def send_file(
    connection: Connection, project: str, source: Path, on_progress: Callable[[int, int], None] | None
) -> video_pb2.Upload:
    """Upload a file; see ``Client.upload_video``. Returns the upload, complete or already a video."""
    upload = _start(connection, project, source)
    if upload.state == video_pb2.UPLOAD_STATE_ACTIVE:
        _send(connection, source, upload, on_progress)
    return upload


def download(connection: Connection, file: file_pb2.File, folder: Path) -> Path:
    """Download a file; see ``Client.download``."""
    target = folder / Path(file.file_name).name
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    with part.open("wb") as out:

        def start() -> tuple[Any, Message]:
            return connection.stubs.files.ReadFile, file_pb2.ReadFileRequest(name=file.name, offset=out.tell())

        for message in connection.stream(start):
            if zlib.crc32(message.data) != message.crc32:
                raise ApiError("DATA_LOSS", f"{file.name}: bytes at {message.offset} were damaged; download it again")
            out.write(message.data)
    if _sha256(part) != file.sha256:
        raise ApiError("DATA_LOSS", f"{file.name}: the SHA-256 does not match; download it again")
    part.replace(target)
    return target


def _start(connection: Connection, project: str, source: Path) -> video_pb2.Upload:
    """The upload of these bytes: an earlier one, or a new one if that has failed."""
    sha256 = _sha256(source)
    # Equal bytes under the same name give the same request, by which the server finds an earlier upload.
    request_id = hashlib.sha256(f"{project}\0{source.name}\0{sha256}".encode()).hexdigest()
    while True:
        request = video_pb2.StartUploadRequest(
            parent=project,
            file_name=source.name,
            size_bytes=source.stat().st_size,
            sha256=sha256,
            request_id=request_id,
        )
        upload: video_pb2.Upload = connection.call(connection.stubs.videos.StartUpload, request)
        if upload.state == video_pb2.UPLOAD_STATE_ACTIVE or _became_video(connection, upload):
            return upload
        request_id = str(uuid.uuid4())


def _became_video(connection: Connection, upload: video_pb2.Upload) -> bool:
    if upload.state != video_pb2.UPLOAD_STATE_FINISHED:
        return False
    try:
        video = connection.call(connection.stubs.videos.GetVideo, video_pb2.GetVideoRequest(name=upload.video))
    except ApiError as error:
        if error.code != "NOT_FOUND":
            raise
        return False
    return bool(video.state != video_pb2.VIDEO_STATE_FAILED)


def _send(
    connection: Connection, source: Path, upload: video_pb2.Upload, on_progress: Callable[[int, int], None] | None
) -> None:
    resends = 0
    with source.open("rb") as file:
        offset = upload.received_bytes
        while offset < upload.size_bytes:
            file.seek(offset)
            data = file.read(min(upload.max_chunk_bytes, _READ_BYTES))
            chunk = video_pb2.UploadChunkRequest(name=upload.name, offset=offset, data=data, crc32=zlib.crc32(data))
            try:
                stored = connection.call(connection.stubs.videos.UploadChunk, chunk)
                offset, resends = stored.received_bytes, 0
            except ApiError as error:
                # If an answer was lost, the chunk is already stored; if bytes were damaged, it is not.
                resends += 1
                if error.reason not in ("WRONG_OFFSET", "CHECKSUM_MISMATCH") or resends > _MAX_RESENDS:
                    raise
                offset = int(error.metadata.get("expected_offset", offset))
            if on_progress is not None:
                on_progress(offset, upload.size_bytes)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
