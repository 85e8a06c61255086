"""``ProjectService``."""

from __future__ import annotations

from collections.abc import Collection

from google.protobuf import empty_pb2

from micromodels.client.messages import ontology_from_message, ontology_to_message
from micromodels.errors import FailedPrecondition
from micromodels.v1 import project_pb2, project_pb2_grpc
from service.access import current_caller
from service.api import names
from service.api.backend import Backend, Context
from service.api.field_masks import updated_fields
from service.api.messages import project_message
from service.api.page_tokens import decode_token, encode_token, page_size
from service.domain.videos import Project
from service.sessions.pool import Sessions

__all__ = ["ProjectServicer"]

_PAGE = (50, 1000)
_MUTABLE = ("display_name", "object_classes", "frame_classes", "retention_days")


class ProjectServicer(project_pb2_grpc.ProjectServiceServicer):
    """Creates, reads, changes and deletes projects.

    Args:
        backend: the store.
        sessions: the label sessions, which end with their project.
    """

    def __init__(self, backend: Backend, sessions: Sessions) -> None:
        self._sessions = sessions
        self._run = backend.run
        self._store = backend.store

    async def CreateProject(self, request: project_pb2.CreateProjectRequest, context: Context) -> project_pb2.Project:
        """See the proto."""
        wanted = request.project
        ontology = ontology_from_message(wanted.object_classes, wanted.frame_classes)
        made = await self._run(
            self._store.projects.create,
            wanted.display_name,
            ontology,
            project_id=request.project_id,
            retention_days=wanted.retention_days,
            request_id=request.request_id,
        )
        return project_message(made)

    async def GetProject(self, request: project_pb2.GetProjectRequest, context: Context) -> project_pb2.Project:
        """See the proto."""
        (project_id,) = names.PROJECT.parse(request.name)
        return project_message(await self._run(self._store.projects.get, project_id))

    async def ListProjects(
        self, request: project_pb2.ListProjectsRequest, context: Context
    ) -> project_pb2.ListProjectsResponse:
        """See the proto."""
        limit = page_size(request.page_size, _PAGE)
        after = decode_token("page_token", request.page_token, "projects") or ""
        caller = current_caller()
        mine = None if caller.is_admin else tuple(caller.roles)
        page = await self._run(self._store.projects.list, after=after, limit=limit, only=mine)
        token = encode_token("projects", page.next_after) if page.next_after else ""
        return project_pb2.ListProjectsResponse(projects=map(project_message, page.items), next_page_token=token)

    async def UpdateProject(self, request: project_pb2.UpdateProjectRequest, context: Context) -> project_pb2.Project:
        """See the proto."""
        (project_id,) = names.PROJECT.parse(request.project.name, "project.name")
        paths = updated_fields(request.update_mask, request.project, _MUTABLE)
        return project_message(await self._run(self._update, project_id, request.project, paths))

    def _update(self, project_id: str, wanted: project_pb2.Project, paths: Collection[str]) -> Project:
        etag, ontology = wanted.etag, None
        if "object_classes" in paths or "frame_classes" in paths:
            objects, frames = wanted.object_classes, wanted.frame_classes
            if not ("object_classes" in paths and "frame_classes" in paths):
                now = self._store.projects.get(project_id)
                etag = etag or now.etag  # the unchanged half must be the one read here
                kept = ontology_to_message(now.ontology)
                objects = objects if "object_classes" in paths else kept.object_classes
                frames = frames if "frame_classes" in paths else kept.frame_classes
            ontology = ontology_from_message(objects, frames)
        return self._store.projects.update(
            project_id,
            display_name=wanted.display_name if "display_name" in paths else None,
            ontology=ontology,
            retention_days=wanted.retention_days if "retention_days" in paths else None,
            etag=etag,
        )

    async def DeleteProject(self, request: project_pb2.DeleteProjectRequest, context: Context) -> empty_pb2.Empty:
        """See the proto."""
        (project_id,) = names.PROJECT.parse(request.name)
        await self._run(self._delete, project_id, request.force)
        return empty_pb2.Empty()

    def _delete(self, project_id: str, force: bool) -> None:
        if not force and self._store.videos.list(project_id, limit=1).items:
            raise FailedPrecondition(f"project {project_id!r} has videos; delete them first, or set force")
        while videos := self._store.videos.list(project_id).items:
            for video in videos:
                self._store.erasure.delete(project_id, video.video_id)
        self._store.projects.delete(project_id)
        self._sessions.end(project_id)
