"""Versions of micro-models and their saved folders."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from micromodels.errors import ModelError
from service.domain.errors import NotFound, disk_errors
from service.domain.models import (
    BlobFile,
    ModelVersion,
    NewModel,
    provenance_version,
)
from service.domain.videos import (
    Page,
)
from service.store import schema
from service.store.blobs import Blobs
from service.store.database import Database, new_id, now, page_start
from service.store.projects import project_row

__all__ = ["Models", "insert_model", "materialize"]

_MODELS = schema.models


def insert_model(connection: sa.Connection, job: sa.Row[Any], model: NewModel) -> dict[str, Any]:
    """Record the next version of a model in the caller's transaction; returns ``model_id`` and ``version``."""
    model_id = model.model_id or new_id()
    projects = schema.projects  # lock: concurrent jobs on one model must number its versions in turn
    connection.execute(sa.select(projects.c.key).where(projects.c.key == job.project).with_for_update(key_share=True))
    mine = (_MODELS.c.project == job.project, _MODELS.c.model_id == model_id)
    newest = connection.execute(sa.select(sa.func.max(_MODELS.c.version)).where(*mine)).scalar() or 0
    connection.execute(
        _MODELS.insert().values(
            project=job.project,
            model_id=model_id,
            version=newest + 1,
            display_name=model.display_name,
            parent_version=model.parent_version,
            recipe=model.recipe,
            metrics=dict(model.metrics),
            manifest=dict(model.manifest),
            label_revisions=dict(model.label_revisions),
            files=[asdict(file) for file in model.files],
            job_id=job.job_id,
            created_at=now(),
        )
    )
    return {"model_id": model_id, "version": newest + 1}


def _version(project_id: str, row: sa.Row[Any]) -> ModelVersion:
    return ModelVersion(
        project_id=project_id,
        model_id=row.model_id,
        version=row.version,
        display_name=row.display_name,
        parent_version=row.parent_version,
        recipe=row.recipe,
        metrics=row.metrics,
        manifest=row.manifest,
        label_revisions=row.label_revisions,
        files=tuple(BlobFile(**file) for file in row.files),
        job_id=row.job_id,
        created_at=row.created_at,
    )


class Models:
    """Micro-model versions of a store. Jobs make them (``Effects.model``)."""

    def __init__(self, database: Database, blobs: Blobs) -> None:
        self._database = database
        self._blobs = blobs

    def get(self, project_id: str, model_id: str, version: int = 0) -> ModelVersion:
        """One version; 0 for the newest.

        Raises:
            NotFound: no such version.
        """
        with self._database.begin() as connection:
            return _version(project_id, self._row(connection, project_id, model_id, version))

    def list(self, project_id: str, *, model_id: str = "", after: str = "", limit: int = 100) -> Page[ModelVersion]:
        """Versions of a project's models, oldest first; ``model_id`` empty for all models.

        Raises:
            InvalidInput: ``after`` is not from an earlier page.
            NotFound: no such project.
        """
        with self._database.begin() as connection:
            project = project_row(connection, project_id)
            query = sa.select(_MODELS).where(_MODELS.c.project == project.key, _MODELS.c.key > page_start(after))
            if model_id:
                query = query.where(_MODELS.c.model_id == model_id)
            rows = connection.execute(query.order_by(_MODELS.c.key).limit(limit + 1)).all()
        items = tuple(_version(project_id, row) for row in rows[:limit])
        return Page(items, str(rows[limit - 1].key) if len(rows) > limit else "")

    def delete(self, project_id: str, model_id: str, version: int) -> None:
        """Delete one version and its adapted models. The next blob sweep deletes the files; labels stay.

        Raises:
            NotFound: no such version.
        """
        with self._database.begin(write=True, frees=True) as connection:
            row = self._row(connection, project_id, model_id, version)
            connection.execute(_MODELS.delete().where(_MODELS.c.key == row.key))
            states, name = schema.learned_states, provenance_version(row.model_id, row.version)
            connection.execute(states.delete().where(states.c.model_version == name))

    def of_video(self, project_id: str, video_id: str) -> ModelVersion | None:
        """The version trained last on a video; None if none.

        Raises:
            NotFound: no such project.
        """
        with self._database.begin() as connection:
            project = project_row(connection, project_id)
            query = sa.select(_MODELS.c.key, _MODELS.c.label_revisions).where(_MODELS.c.project == project.key)
            for row in connection.execute(query.order_by(_MODELS.c.key.desc())):
                if video_id in row.label_revisions:
                    found = connection.execute(sa.select(_MODELS).where(_MODELS.c.key == row.key)).one()
                    return _version(project_id, found)
        return None

    def materialize(self, model: ModelVersion, folder: Path) -> None:
        """Write out the saved folder, for ``load_model``.

        Args:
            model: from ``get``.
            folder: created if missing.

        Raises:
            ModelError: a file's name leads out of the folder.
            NotFound: a file is missing from the blobs.
            ResourceExhausted: the disk is full.
        """
        materialize(self._blobs, model.provenance_version, model.files, folder)

    def _row(self, connection: sa.Connection, project_id: str, model_id: str, version: int) -> sa.Row[Any]:
        projects = schema.projects
        query = sa.select(_MODELS).join(projects, projects.c.key == _MODELS.c.project)
        query = query.where(projects.c.project_id == project_id, _MODELS.c.model_id == model_id)
        if version:
            query = query.where(_MODELS.c.version == version)
        row = connection.execute(query.order_by(_MODELS.c.version.desc()).limit(1)).first()
        if row is None:
            raise NotFound("model", f"{model_id}@{version}" if version else model_id)
        return row


def materialize(blobs: Blobs, name: str, files: Iterable[BlobFile], folder: Path) -> None:
    """Write a saved folder out; see ``Models.materialize``.

    Args:
        blobs: where the files are.
        name: of what they are, for errors.
        files: names and blobs.
        folder: created if missing.
    """
    for file in files:
        target = (folder / file.name).resolve()
        if not target.is_relative_to(folder.resolve()):
            raise ModelError(f"model {name}: the file name {file.name!r} leads out of its folder")
        source = blobs.path(file.sha256)
        with disk_errors():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
