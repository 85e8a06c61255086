"""Projects."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa

from micromodels.errors import FailedPrecondition, InvalidInput
from micromodels.types import Ontology
from service.access.calls import audit_detail
from service.domain.codec import decode_ontology, encode_ontology
from service.domain.errors import Aborted, AlreadyExists, NotFound
from service.domain.videos import Page, Project
from service.store import schema
from service.store.database import Database, check_id, check_text, new_id, now, once, page_start
from service.store.job_queue import FINAL_STATES

__all__ = ["Projects", "project_row"]

_MAX_DAYS = 36_500


def project_row(connection: sa.Connection, project_id: str, lock: bool = False) -> sa.Row[Any]:
    """The row of a project; ``lock`` blocks other writers, and new rows in it, until the transaction ends.

    Raises:
        NotFound: no such project.
    """
    table = schema.projects
    query = sa.select(table).where(table.c.project_id == project_id)
    row = connection.execute(query.with_for_update() if lock else query).first()
    if row is None:
        raise NotFound("project", project_id)
    return row


def _check_days(days: int) -> None:
    if not 0 <= days <= _MAX_DAYS:
        raise InvalidInput("retention_days", days, f"1 to {_MAX_DAYS}, or 0 to keep videos forever")


def _project(row: sa.Row[Any]) -> Project:
    return Project(
        row.project_id,
        row.display_name,
        decode_ontology(row.ontology),
        row.created_at,
        row.updated_at,
        str(row.edits),
        int(row.retention_days),
    )


class Projects:
    """Projects of a store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        display_name: str,
        ontology: Ontology,
        *,
        project_id: str = "",
        retention_days: int = 0,
        request_id: str = "",
    ) -> Project:
        """Create a project.

        Args:
            display_name: name for people.
            ontology: what may be labeled.
            project_id: chosen by the caller; empty for a new id.
            retention_days: how long videos are kept, 1 to 36500; 0 for forever.
            request_id: a repeat with the same body returns the same project.

        Raises:
            AlreadyExists: the id is taken, or the request id was used with another body.
            InvalidInput: the id, the name or the number of days is not allowed.
        """
        check_text("display_name", display_name)
        if project_id:
            check_id("project_id", project_id)
        _check_days(retention_days)
        encoded = encode_ontology(ontology)

        def act() -> dict[str, Any]:
            made = project_id or new_id()
            table = schema.projects
            if connection.execute(sa.select(table.c.key).where(table.c.project_id == made)).first():
                raise AlreadyExists("project", made)
            moment = now()
            values = {"project_id": made, "display_name": display_name, "ontology": encoded}
            connection.execute(
                table.insert().values(**values, retention_days=retention_days, created_at=moment, updated_at=moment)
            )
            return {"project_id": made}

        with self._database.begin(write=True) as connection:
            body = [display_name, encoded, project_id, *([retention_days] if retention_days else [])]
            answer = once(connection, "projects.create", request_id, body, act)
            return _project(project_row(connection, answer["project_id"]))

    def get(self, project_id: str) -> Project:
        """One project.

        Raises:
            NotFound: no such project.
        """
        with self._database.begin() as connection:
            return _project(project_row(connection, project_id))

    def list(self, *, after: str = "", limit: int = 100, only: Collection[str] | None = None) -> Page[Project]:
        """Projects, oldest first; ``only`` these ids, or None for all.

        Raises:
            InvalidInput: ``after`` is not from an earlier page.
        """
        table = schema.projects
        query = sa.select(table).where(table.c.key > page_start(after)).order_by(table.c.key).limit(limit + 1)
        if only is not None:
            query = query.where(table.c.project_id.in_(only))
        with self._database.begin() as connection:
            rows = connection.execute(query).all()
        return Page(tuple(map(_project, rows[:limit])), str(rows[limit - 1].key) if len(rows) > limit else "")

    def update(
        self,
        project_id: str,
        *,
        display_name: str | None = None,
        ontology: Ontology | None = None,
        retention_days: int | None = None,
        etag: str = "",
    ) -> Project:
        """Change a project; None leaves a field unchanged.

        Args:
            project_id: which one.
            display_name: new name.
            ontology: new ontology; labels of removed classes stay.
            retention_days: how long videos are kept, 1 to 36500; 0 for forever.
            etag: if given, the project must not have changed since it was read.

        Raises:
            Aborted: the project changed since ``etag``.
            InvalidInput: the name or the number of days is not allowed.
            NotFound: no such project.
        """
        table = schema.projects
        with self._database.begin(write=True) as connection:
            row = project_row(connection, project_id, lock=True)
            if etag and etag != str(row.edits):
                now_at = f"its etag is now {str(row.edits)!r}"
                raise Aborted(f"project {project_id!r} changed since etag {etag!r}: {now_at}; read it again")
            values: dict[str, Any] = {"edits": table.c.edits + 1, "updated_at": now()}
            if display_name is not None:
                check_text("display_name", display_name)
                values["display_name"] = display_name
            if retention_days is not None:
                _check_days(retention_days)
                values["retention_days"] = retention_days
                audit_detail(retention_days=retention_days)
            if ontology is not None:
                values["ontology"] = encode_ontology(ontology)
            connection.execute(table.update().where(table.c.key == row.key).values(values))
            return _project(project_row(connection, project_id))

    def delete(self, project_id: str) -> None:
        """Delete a project with all its videos, labels, jobs and models.

        Raises:
            FailedPrecondition: a job of the project has not ended.
            NotFound: no such project.
        """
        jobs = schema.jobs
        with self._database.begin(write=True, frees=True) as connection:
            row = project_row(connection, project_id, lock=True)
            busy = sa.select(jobs.c.job_id).where(jobs.c.project == row.key, jobs.c.state.not_in(FINAL_STATES))
            if (job := connection.execute(busy).first()) is not None:
                raise FailedPrecondition(
                    f"job {job.job_id!r} of project {project_id!r} is not finished; cancel it first"
                )
            connection.execute(schema.projects.delete().where(schema.projects.c.key == row.key))
