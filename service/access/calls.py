"""The current call, for all code that needs to know who is calling.

A ``ContextVar`` carries it from the interceptor into the threads that work for the call, so that the store's methods
need not pass it on. Labels get their author from it, and every writing transaction its audit row.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass, field
from typing import Any

from service.domain.access import LOCAL_OWNER, Caller

__all__ = ["Call", "audit_detail", "calling", "context_of", "current_call", "current_caller", "discard_audit_detail"]


@dataclass(slots=True)
class Call:
    """One call. Threads that work for it, one at a time, add to it."""

    caller: Caller
    method: str
    """Full name, ``package.Service/Method``."""
    project_id: str = ""
    """Empty if the call is about no project, or the project's name is malformed."""
    resource: str = ""
    """Name of the resource, built from ids only, never from text that a person typed."""
    is_audited: bool = True
    """Whether its writes get audit rows at all."""
    audited_if_detail: bool = False
    """Whether only writes with ``audit_detail`` get a row: a job's heartbeats need none."""
    rows: int = 0
    """How many audit rows it has so far."""
    revision: int = 0
    """Label revision that the current transaction made."""
    detail: dict[str, Any] = field(default_factory=dict)
    """Counts and checksums for the next audit row."""


_CALL: ContextVar[Call | None] = ContextVar("micromodels_call", default=None)


def current_call() -> Call | None:
    """The current call; None in the server's own work."""
    return _CALL.get()


def current_caller() -> Caller:
    """The current caller; the local owner in the server's own work."""
    call = _CALL.get()
    return LOCAL_OWNER if call is None else call.caller


def audit_detail(*, revision: int = 0, **detail: Any) -> None:
    """Add counts, ids and checksums (no patient data) to the audit row of the current transaction."""
    call = _CALL.get()
    if call is not None:
        call.revision = revision or call.revision
        call.detail |= detail


def context_of(call: Call) -> Context:
    """A copy of the context with ``call`` as the current call, for tasks that work for it."""
    context = copy_context()
    context.run(_CALL.set, call)
    return context


def discard_audit_detail() -> None:
    """Discard the audit detail of a transaction that was rolled back."""
    call = _CALL.get()
    if call is not None:
        call.revision, call.detail = 0, {}


@contextmanager
def calling(call: Call) -> Iterator[Call]:
    """Make ``call`` the current call inside the block."""
    token = _CALL.set(call)
    try:
        yield call
    finally:
        _CALL.reset(token)
