"""``MicroModelService`` and ``FileService``: results of training and export."""

from __future__ import annotations

import re
import zlib
from collections.abc import AsyncIterator, Iterable
from typing import BinaryIO

from google.protobuf import empty_pb2

from micromodels.errors import InvalidInput, OutOfRange
from micromodels.v1 import file_pb2, file_pb2_grpc, micro_model_pb2, micro_model_pb2_grpc
from service.access import current_caller
from service.api import names
from service.api.backend import Backend, Context
from service.api.messages import model_message
from service.api.page_tokens import decode_token, encode_token, page_size
from service.domain.access import Permission
from service.domain.errors import NotFound
from service.domain.models import BlobFile

__all__ = ["FileServicer", "MicroModelServicer", "version_number"]

_PAGE = (50, 1000)
_CHUNK_BYTES = 1 << 20
_ANY = "-"


def version_number(version: str, field: str = "name") -> int:
    """The number of a version in the store: 0 for the newest.

    Raises:
        InvalidInput: neither a number of at least 1 nor ``latest``.
    """
    if version == names.LATEST:
        return 0
    if not re.fullmatch(r"[1-9][0-9]{0,8}", version):
        raise InvalidInput(field, version, f"a version: 1, 2, ... or {names.LATEST}")
    return int(version)


class MicroModelServicer(micro_model_pb2_grpc.MicroModelServiceServicer):
    """Reads and deletes versions of micro-models.

    Args:
        backend: the store.
    """

    def __init__(self, backend: Backend) -> None:
        self._run = backend.run
        self._store = backend.store

    async def GetMicroModelVersion(
        self, request: micro_model_pb2.GetMicroModelVersionRequest, context: Context
    ) -> micro_model_pb2.MicroModelVersion:
        """See the proto."""
        project_id, model_id, version = names.MODEL_VERSION.parse(request.name)
        number = version_number(version)
        return model_message(await self._run(self._store.models.get, project_id, model_id, number))

    async def ListMicroModelVersions(
        self, request: micro_model_pb2.ListMicroModelVersionsRequest, context: Context
    ) -> micro_model_pb2.ListMicroModelVersionsResponse:
        """See the proto."""
        project_id, model_id = names.MICRO_MODEL.parse(request.parent, "parent")
        limit = page_size(request.page_size, _PAGE)
        after = decode_token("page_token", request.page_token, request.parent) or ""
        wanted = "" if model_id == _ANY else model_id
        page = await self._run(self._store.models.list, project_id, model_id=wanted, after=after, limit=limit)
        return micro_model_pb2.ListMicroModelVersionsResponse(
            micro_model_versions=map(model_message, page.items),
            next_page_token=encode_token(request.parent, page.next_after) if page.next_after else "",
        )

    async def DeleteMicroModelVersion(
        self, request: micro_model_pb2.DeleteMicroModelVersionRequest, context: Context
    ) -> empty_pb2.Empty:
        """See the proto."""
        project_id, model_id, version = names.MODEL_VERSION.parse(request.name)
        if version == names.LATEST:
            raise InvalidInput("name", request.name, "a version by its number, not latest, to avoid wrong deletions")
        await self._run(self._store.models.delete, project_id, model_id, version_number(version))
        return empty_pb2.Empty()


class FileServicer(file_pb2_grpc.FileServiceServicer):
    """Serves files.

    Args:
        backend: the store.
    """

    def __init__(self, backend: Backend) -> None:
        self._run = backend.run
        self._store = backend.store

    async def ReadFile(
        self, request: file_pb2.ReadFileRequest, context: Context
    ) -> AsyncIterator[file_pb2.ReadFileResponse]:
        """See the proto."""
        file = await self._run(self._find, request.name)
        offset = request.offset
        if not 0 <= offset <= file.size_bytes:
            raise OutOfRange("offset", offset, f"0 to {file.size_bytes}")
        with await self._run(self._open, file, offset) as source:
            while data := await self._run(source.read, _CHUNK_BYTES):
                yield file_pb2.ReadFileResponse(offset=offset, data=data, crc32=zlib.crc32(data))
                offset += len(data)

    def _open(self, file: BlobFile, offset: int) -> BinaryIO:
        source = self._store.blobs.open(file.sha256)
        source.seek(offset)
        return source

    def _find(self, name: str) -> BlobFile:
        files: Iterable[BlobFile]
        if names.MODEL_FILE.matches(name):
            project_id, model_id, version, file_name = names.MODEL_FILE.parse(name)
            files = self._store.models.get(project_id, model_id, version_number(version)).files
        else:
            project_id, job_id, file_name = names.EXPORT_FILE.parse(name)
            job = self._store.jobs.get(project_id, job_id)
            if job.spec.get("format") == "archive":
                current_caller().check(Permission.MANAGE, project_id)
            files = [BlobFile(**file) for file in job.result.get("files", ())]
        for file in files:
            if file.name == file_name:
                return file
        raise NotFound("file", name)
