"""``VideoService``."""

from __future__ import annotations

from pathlib import Path

from google.longrunning import operations_pb2
from google.protobuf import empty_pb2

from micromodels.errors import InvalidInput
from micromodels.v1 import video_pb2, video_pb2_grpc
from service.access import current_caller
from service.api import names
from service.api.backend import Backend, Context
from service.api.messages import MAX_CHUNK_BYTES, frame_message, upload_message, video_message
from service.api.operations import Results
from service.api.page_tokens import decode_token, encode_token, page_size
from service.domain.jobs import JobKind
from service.sessions.pool import Sessions

__all__ = ["VideoServicer", "check_path"]

_PAGE = (50, 1000)
_FRAME_PAGE = (1000, 10_000)
_NAME_BYTES = 255
_GIVING_WAY_SECONDS = 60.0


class VideoServicer(video_pb2_grpc.VideoServiceServicer):
    """Adds, reads and deletes videos.

    Args:
        backend: the store.
        results: converts jobs to operations.
        sessions: the label sessions, which end with their video.
    """

    def __init__(self, backend: Backend, results: Results, sessions: Sessions) -> None:
        self._sessions = sessions
        self._backend = backend
        self._run = backend.run
        self._store = backend.store
        self._results = results

    async def StartUpload(self, request: video_pb2.StartUploadRequest, context: Context) -> video_pb2.Upload:
        """See the proto."""
        (project_id,) = names.PROJECT.parse(request.parent, "parent")
        _check_file_name(request.file_name)
        upload = await self._run(
            self._store.uploads.begin,
            project_id,
            request.file_name,
            request.size_bytes,
            sha256=request.sha256,
            request_id=request.request_id,
        )
        return upload_message(upload)

    async def UploadChunk(self, request: video_pb2.UploadChunkRequest, context: Context) -> video_pb2.Upload:
        """See the proto."""
        project_id, upload_id = names.UPLOAD.parse(request.name)
        if not 1 <= len(request.data) <= MAX_CHUNK_BYTES:
            raise InvalidInput("data", f"{len(request.data)} bytes", f"1 to {MAX_CHUNK_BYTES} bytes")
        stored = await self._run(
            self._store.uploads.append, project_id, upload_id, request.offset, request.data, crc32=request.crc32
        )
        return upload_message(stored)

    async def GetUpload(self, request: video_pb2.GetUploadRequest, context: Context) -> video_pb2.Upload:
        """See the proto."""
        return upload_message(await self._run(self._store.uploads.get, *names.UPLOAD.parse(request.name)))

    async def FinishUpload(self, request: video_pb2.FinishUploadRequest, context: Context) -> operations_pb2.Operation:
        """See the proto."""
        ids = names.UPLOAD.parse(request.name)
        video = await self._run(self._store.uploads.finish, *ids, author=current_caller().name)
        return await self._run(self._results.of_id, video.project_id, video.probe_job_id)

    async def DeleteUpload(self, request: video_pb2.DeleteUploadRequest, context: Context) -> empty_pb2.Empty:
        """See the proto."""
        ids = names.UPLOAD.parse(request.name)
        await self._run(self._store.uploads.abort, *ids)
        return empty_pb2.Empty()

    async def RegisterVideo(
        self, request: video_pb2.RegisterVideoRequest, context: Context
    ) -> operations_pb2.Operation:
        """See the proto."""
        (project_id,) = names.PROJECT.parse(request.parent, "parent")
        path = check_path(request.path)
        video = await self._run(
            self._store.videos.register,
            project_id,
            path,
            request.display_name or path.name,
            author=current_caller().name,
            request_id=request.request_id,
        )
        return await self._run(self._results.of_id, project_id, video.probe_job_id)

    async def GetVideo(self, request: video_pb2.GetVideoRequest, context: Context) -> video_pb2.Video:
        """See the proto."""
        return await self._run(self._results.video, *names.VIDEO.parse(request.name))

    async def ListVideos(self, request: video_pb2.ListVideosRequest, context: Context) -> video_pb2.ListVideosResponse:
        """See the proto."""
        (project_id,) = names.PROJECT.parse(request.parent, "parent")
        limit = page_size(request.page_size, _PAGE)
        after = decode_token("page_token", request.page_token, request.parent) or ""
        page = await self._run(self._store.videos.list, project_id, after=after, limit=limit)
        token = encode_token(request.parent, page.next_after) if page.next_after else ""
        return video_pb2.ListVideosResponse(videos=map(video_message, page.items), next_page_token=token)

    async def ListFrames(self, request: video_pb2.ListFramesRequest, context: Context) -> video_pb2.ListFramesResponse:
        """See the proto."""
        ids = names.VIDEO.parse(request.parent, "parent")
        limit = page_size(request.page_size, _FRAME_PAGE)
        start = decode_token("page_token", request.page_token, request.parent) or 0
        return await self._run(self._frames, ids, request.parent, start, limit)

    def _frames(self, ids: tuple[str, ...], parent: str, start: int, limit: int) -> video_pb2.ListFramesResponse:
        table = self._store.videos.frame_table(*ids)
        stop = min(start + limit, len(table["pts"]))
        keyframes = frozenset(table["keyframes"])
        return video_pb2.ListFramesResponse(
            frames=[frame_message(table, keyframes, index) for index in range(start, stop)],
            next_page_token=encode_token(parent, stop) if stop < len(table["pts"]) else "",
        )

    async def DeleteVideo(self, request: video_pb2.DeleteVideoRequest, context: Context) -> empty_pb2.Empty:
        """See the proto."""
        project_id, video_id = names.VIDEO.parse(request.name)
        await self._run(self._sessions.end, project_id, video_id)
        job = await self._run(self._store.jobs.newest, project_id, video_id, JobKind.RETRAIN)
        if job is not None and job.spec["automatic"] and not job.state.is_final:  # no user started it
            await self._run(self._store.jobs.cancel, project_id, job.job_id)
            await self._backend.wait(project_id, job.job_id, _GIVING_WAY_SECONDS)
        await self._run(self._store.erasure.delete, project_id, video_id)
        await self._run(self._sessions.end, project_id, video_id)  # a session may have opened in the meantime
        return empty_pb2.Empty()


def _check_file_name(name: str) -> None:
    allowed = f"1 to {_NAME_BYTES} bytes without folders and control characters"
    bad = not name.isprintable() or "/" in name or "\\" in name or name in (".", "..")
    if not 1 <= len(name.encode()) <= _NAME_BYTES or bad:
        raise InvalidInput("file_name", name, allowed)


def check_path(path: str, field: str = "path") -> Path:
    """A path on the server; the store checks whether it is below an allowed root.

    Raises:
        InvalidInput: not an absolute path. URLs are not allowed.
    """
    if not path.startswith("/") or "\0" in path or len(path) > 4096:
        raise InvalidInput(field, path, "an absolute path on the server, at most 4096 characters")
    return Path(path)
