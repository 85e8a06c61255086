"""The call that is being answered, for everything below that has to know whose it is.

A ``ContextVar`` carries it from the interceptor into the threads that work for the call, so that no method of the store
has to pass it on: labels get their author from it, and every transaction that writes gets its audit row.
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
    """One call; threads that work for it one after the other add to it."""

    caller: Caller
    method: str
    """Full name, ``package.Service/Method``."""
    project_id: str = ""
    """Empty where the call is about no project, or its name is not well-formed."""
    resource: str = ""
    """What it is about, built from ids only: never anything that a person has typed."""
    is_audited: bool = True
    """Whether its writes get audit rows."""
    audited_if_detail: bool = False
    """Whether only those writes do for which something was noted: a job's signs of life are not worth a row."""
    rows: int = 0
    """How many audit rows it has."""
    revision: int = 0
    """Label revision that the running transaction made."""
    detail: dict[str, Any] = field(default_factory=dict)
    """Counts and checksums for the next audit row."""


_CALL: ContextVar[Call | None] = ContextVar("micromodels_call", default=None)


def current_call() -> Call | None:
    """The call that is being answered; None in the server's own work."""
    return _CALL.get()


def current_caller() -> Caller:
    """Who calls; the local owner in the server's own work."""
    call = _CALL.get()
    return LOCAL_OWNER if call is None else call.caller


def audit_detail(*, revision: int = 0, **detail: Any) -> None:
    """Add to the audit row of the transaction that is being made: counts, ids and checksums, no patient data."""
    call = _CALL.get()
    if call is not None:
        call.revision = revision or call.revision
        call.detail |= detail


def context_of(call: Call) -> Context:
    """A copy of the context in which ``call`` is being answered, for tasks that work for it."""
    context = copy_context()
    context.run(_CALL.set, call)
    return context


def discard_audit_detail() -> None:
    """Take back what was noted for a transaction that did not come about."""
    call = _CALL.get()
    if call is not None:
        call.revision, call.detail = 0, {}


@contextmanager
def calling(call: Call) -> Iterator[Call]:
    """Answer a call inside the block."""
    token = _CALL.set(call)
    try:
        yield call
    finally:
        _CALL.reset(token)
