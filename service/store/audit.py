"""The audit log: who did what to which video and labels, as an append-only hash chain.

Each row's hash covers the row and the previous hash, so a changed, added or missing row breaks the chain from there on.
A transaction that writes for a call adds its row itself (``before_commit``). Rows of reads and refusals are queued and
stored together within ``FLUSH_SECONDS``; a crash loses at most those.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from micromodels.errors import InvalidInput, MicromodelsError
from service.access.calls import Call, current_call
from service.domain.access import AuditReport, AuditRow
from service.store import schema
from service.store.clock import SteadyClock
from service.store.database import Database

__all__ = ["FLUSH_SECONDS", "Audit", "call_row"]

FLUSH_SECONDS = 0.5
"""How long the row of a read may stay queued."""

_LOG = logging.getLogger(__name__)
_TABLE = schema.audit
_HEAD = schema.audit_head
_FIRST_HASH = "0" * 64
_QUEUE_ROWS = 20_000  # rows that stay queued while the database is not writable; further ones are only counted
_PAGE_ROWS = 2000
_HASHED = ("sequence", "at", "actor", "token_id", "method", "project_id", "resource", "revision", "outcome", "detail")
"""Columns that a row's hash covers, in this order, besides the previous row's hash."""
_FULL_ROWS = 500


def call_row(call: Call, clock: SteadyClock, outcome: str) -> AuditRow:
    """The row of a call, with its audit detail."""
    return AuditRow(
        at=clock.now(),
        actor=call.caller.name,
        token_id=call.caller.token_id,
        method=call.method,
        project_id=call.project_id,
        resource=call.resource,
        revision=call.revision,
        outcome=outcome,
        detail=dict(call.detail),
    )


class Audit:
    """The audit log of a store. May be used from any thread.

    Args:
        database: migrated.
        clock: time of the rows.
    """

    def __init__(self, database: Database, clock: SteadyClock) -> None:
        self._database = database
        self._clock = clock
        self._queue: deque[AuditRow] = deque()
        self._lost = 0
        self._flushing = threading.Lock()
        self._wake = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None

    def before_commit(self, connection: sa.Connection) -> None:
        """Add the current call's row to a writing transaction; the store calls this in every such transaction."""
        call = current_call()
        if call is None or not call.is_audited or (call.audited_if_detail and not call.detail):
            return
        self.append(connection, [call_row(call, self._clock, "OK")])
        call.rows += 1
        call.revision, call.detail = 0, {}

    def record(
        self,
        connection: sa.Connection,
        method: str,
        *,
        actor: str,
        project_id: str = "",
        resource: str = "",
        revision: int = 0,
        outcome: str = "OK",
        detail: Mapping[str, Any] | None = None,
    ) -> AuditRow:
        """Add a row for the server's own work to a transaction, and return it as stored."""
        at = self._clock.now()
        row = AuditRow(at, actor, "", method, project_id, resource, revision, outcome, detail or {})
        return self.append(connection, [row])[0]

    def append(self, connection: sa.Connection, rows: Sequence[AuditRow]) -> list[AuditRow]:
        """Add rows in the caller's transaction, and return them as stored. Call it last: it locks the chain."""
        head = connection.execute(sa.select(_HEAD).with_for_update()).one()
        sequence, last, stored = int(head.sequence), str(head.hash), []
        for row in rows:
            sequence += 1
            row = replace(row, sequence=sequence)
            last = _hash(_values(row), last)
            stored.append(replace(row, hash=last))
        connection.execute(_TABLE.insert(), [{**_values(row), "at": row.at, "hash": row.hash} for row in stored])
        connection.execute(_HEAD.update().values(sequence=sequence, hash=last))
        return stored

    def enqueue(self, call: Call, outcome: str) -> None:
        """Queue the row of a call that wrote nothing; never blocks.

        Args:
            call: the call.
            outcome: name of the gRPC status.
        """
        row = call_row(call, self._clock, outcome)
        if len(self._queue) >= _QUEUE_ROWS:
            self._lost += 1
            return
        self._queue.append(row)
        if self._thread is None:
            with self._flushing:
                if self._thread is None and not self._closed:
                    self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
                    self._thread.start()
        if len(self._queue) >= _FULL_ROWS:
            self._wake.set()

    @property
    def waiting(self) -> int:
        """Number of queued rows."""
        return len(self._queue)

    def flush(self) -> None:
        """Store the queued rows.

        Raises:
            MicromodelsError: the database is not writable; the rows stay queued.
        """
        with self._flushing:
            count, lost = len(self._queue), self._lost
            if not count:
                return
            rows = [self._queue[index] for index in range(count)]
            if lost:
                detail = {"rows_lost": lost}
                rows.append(AuditRow(self._clock.now(), "", "", "server/audit", "", "", 0, "DATA_LOSS", detail))
            with self._database.begin(write=True) as connection:
                self.append(connection, rows)
            for _ in range(count):
                self._queue.popleft()
            self._lost -= lost

    def close(self) -> None:
        """Store the queued rows, and stop."""
        self._closed = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        try:
            self.flush()
        except MicromodelsError:
            _LOG.exception("%d audit log rows could not be stored and are lost", len(self._queue))

    def _run(self) -> None:
        while not self._closed:
            self._wake.wait(FLUSH_SECONDS)
            self._wake.clear()
            try:
                self.flush()
            except MicromodelsError as error:
                _LOG.warning("%d audit log rows are waiting to be stored: %s", len(self._queue), error)

    def rows(
        self, *, project_id: str = "", resource: str = "", method: str = "", after: int = 0, limit: int = 0
    ) -> Iterator[AuditRow]:
        """Rows in order, including queued ones.

        Args:
            project_id: only of this project; empty for all.
            resource: only of this resource and its children; empty for all.
            method: only of this method; empty for all.
            after: only rows with a larger sequence.
            limit: maximum number of rows; 0 for all.
        """
        self.flush()
        query = sa.select(_TABLE).order_by(_TABLE.c.sequence)
        if project_id:
            query = query.where(_TABLE.c.project_id == project_id)
        if resource:
            below = _TABLE.c.resource.startswith(f"{resource}/", autoescape=True)
            query = query.where((_TABLE.c.resource == resource) | below)
        if method:
            query = query.where(_TABLE.c.method == method)
        given = 0
        while True:
            size = min(_PAGE_ROWS, limit - given) if limit else _PAGE_ROWS
            with self._database.begin() as connection:
                page = connection.execute(query.where(_TABLE.c.sequence > after).limit(size)).all()
            for found in page:
                yield _row(found)
                after = int(found.sequence)
            given += len(page)
            if len(page) < size or given == limit:
                return

    def verify(self, expected: str = "") -> AuditReport:
        """Recompute the whole chain.

        Args:
            expected: ``SEQUENCE:HASH`` of an earlier report, which the chain must still contain; empty for no check.

        Raises:
            InvalidInput: ``expected`` is not of this form.
        """
        wanted = _parse_head(expected)
        self.flush()
        with self._database.begin() as connection:
            head = connection.execute(sa.select(_HEAD)).one()
        sequence, last, problem = 0, _FIRST_HASH, ""
        for row in self._stored():
            if row.sequence > head.sequence:
                break  # written since
            problem = _fault(row, sequence, last)
            if not problem and wanted and wanted[0] == row.sequence and wanted[1] != row.hash:
                problem = f"row {row.sequence} is not the expected one: the chain was rewritten"
            if problem:
                break
            sequence, last = row.sequence, row.hash
        if not problem and (sequence, last) != (head.sequence, head.hash):
            problem = f"row {sequence + 1} and all after it are missing: the chain ended with row {head.sequence}"
        if not problem and wanted and wanted[0] > sequence:
            problem = f"row {sequence + 1} and all after it are missing: row {wanted[0]} existed"
        return AuditReport(sequence, f"{sequence}:{last}", problem)

    def _stored(self) -> Iterator[sa.Row[Any]]:
        after = 0
        query = sa.select(_TABLE).order_by(_TABLE.c.sequence).limit(_PAGE_ROWS)
        while True:
            with self._database.begin() as connection:
                page = connection.execute(query.where(_TABLE.c.sequence > after)).all()
            if not page:
                return
            yield from page
            after = int(page[-1].sequence)


def _fault(row: sa.Row[Any], before: int, last: str) -> str:
    if row.sequence != before + 1:
        return f"row {before + 1} is missing: row {row.sequence} follows row {before}"
    values = {**row._mapping, "at": schema.Instant().process_bind_param(row.at, None)}  # the detail as stored
    if _hash(values, last) != row.hash:
        return f"row {row.sequence} was changed: its hash does not match"
    return ""


def _parse_head(text: str) -> tuple[int, str] | None:
    if not text:
        return None
    number, _, digest = text.partition(":")
    if not number.isdecimal() or len(digest) != 64:
        raise InvalidInput("expected", text, "SEQUENCE:HASH, as printed by an earlier verification")
    return int(number), digest


def _values(row: AuditRow) -> dict[str, Any]:
    """The columns of ``_HASHED``; the instant in microseconds since 1970."""
    return {
        "sequence": row.sequence,
        "at": schema.Instant().process_bind_param(row.at, None),
        "actor": row.actor,
        "token_id": row.token_id,
        "method": row.method,
        "project_id": row.project_id,
        "resource": row.resource,
        "revision": row.revision,
        "outcome": row.outcome,
        "detail": json.dumps(row.detail, sort_keys=True, separators=(",", ":")),
    }


def _hash(values: Mapping[str, Any], before: str) -> str:
    text = json.dumps([before, *(values[name] for name in _HASHED)], separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _row(found: sa.Row[Any]) -> AuditRow:
    try:
        detail = json.loads(found.detail)
    except ValueError:  # edited in the database; the hash reveals it
        detail = {"unreadable": found.detail}
    return AuditRow(
        at=found.at,
        actor=found.actor,
        token_id=found.token_id,
        method=found.method,
        project_id=found.project_id,
        resource=found.resource,
        revision=found.revision,
        outcome=found.outcome,
        detail=detail,
        sequence=int(found.sequence),
        hash=found.hash,
    )
