"""Authentication and authorization: every API call passes here before it reaches its servicer."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Any

from micromodels.errors import InvalidInput
from service.access.bearer import Bearer, bearer_of
from service.access.calls import Call
from service.access.rules import RULES, Rule, Subject, subject_of
from service.api.backend import Backend
from service.api.errors import MalformedMessage
from service.domain.access import LOCAL_OWNER, Caller, Permission
from service.domain.errors import NotFound, PermissionDenied, Unauthenticated

__all__ = ["RECHECK_SECONDS", "Authorizer"]

RECHECK_SECONDS = 1.0
"""How long a token and its roles are cached. Changes take effect after this time, in open streams too."""

_REMEMBERED = 4096
_UNAUTHENTICATED_A_MINUTE = 60
"""How many calls without a valid token get their own audit row; the next row counts the others."""


class Authorizer:
    """Authenticates callers and authorizes calls by the table of rules.

    Args:
        backend: the store.
        tokens_required: False admits a call without a token as the local owner's.
    """

    def __init__(self, backend: Backend, tokens_required: bool) -> None:
        self._backend = backend
        self._store = backend.store
        self._required = tokens_required
        self._known: OrderedDict[str, tuple[float, Caller | Unauthenticated]] = OrderedDict()
        self._unauthenticated: list[float] = []
        self._uncounted = 0

    async def admit(self, method: str, request: Any, header: str) -> Call:
        """Authorize a call.

        Args:
            method: full name, with a leading slash.
            request: its message; None if it could not be parsed.
            header: value of ``authorization``; empty if missing.

        Raises:
            InvalidInput: the message, or a resource name in it, is malformed.
            NotFound: the caller is not a member of the project.
            PermissionDenied: the caller's role does not allow it.
            Unauthenticated: a token is required, but none or no valid one was sent.
        """
        rule = RULES.get(method)
        subject = Subject("", "") if rule is None or request is None else subject_of(rule, request)
        call = Call(LOCAL_OWNER, method.lstrip("/"), subject.project_id, subject.resource)
        try:
            call.caller = await self._caller(header)
        except Unauthenticated:
            self._record_unauthenticated(call)
            raise
        if request is None:
            raise MalformedMessage
        try:
            if rule is None:
                raise PermissionDenied(f"no permission is defined for {method}")
            call.is_audited = rule.is_audited
            _check_permission(call, rule)
        except (NotFound, PermissionDenied) as error:
            self._store.audit.enqueue(call, "NOT_FOUND" if isinstance(error, NotFound) else "PERMISSION_DENIED")
            raise
        return call

    def opened(self, call: Call) -> None:
        """Write the audit row of a stream, which gets it when it begins, because it may last long."""
        self._store.audit.enqueue(call, "OK")
        call.rows += 1

    def ended(self, call: Call, outcome: str) -> None:
        """Write the audit row of a finished call, unless its writes already have one.

        Args:
            call: from ``admit``.
            outcome: name of the gRPC status.
        """
        if call.is_audited and not (call.rows and outcome == "OK"):
            self._store.audit.enqueue(call, outcome)

    async def recheck(self, call: Call, header: str) -> None:
        """Authorize a long call again.

        Raises:
            PermissionDenied: the caller's role or token was revoked.
        """
        try:
            caller = await self._caller(header)
            _check_permission(Call(caller, call.method, call.project_id, call.resource), RULES["/" + call.method])
        except (NotFound, Unauthenticated, PermissionDenied) as error:
            raise PermissionDenied("access was revoked during this call; ask an administrator") from error

    async def recheck_reading(self, call: Call, header: str) -> None:
        """``recheck`` a call that only reads; one that has written must report what it did.

        Raises:
            PermissionDenied: as ``recheck`` does.
        """
        if not call.rows:
            await self.recheck(call, header)

    async def _caller(self, header: str) -> Caller:
        if not header:
            if self._required:
                raise Unauthenticated("authentication required: send a token as 'authorization: Bearer mm_...'")
            return LOCAL_OWNER
        bearer = bearer_of(header)
        known = self._known.get(str(bearer))
        if known is None or time.monotonic() - known[0] > RECHECK_SECONDS:
            known = await self._look_up(bearer)
        found = known[1]
        if isinstance(found, Unauthenticated):
            raise Unauthenticated(str(found))
        if self._store.access.is_expired(found):
            raise Unauthenticated("the token is unknown, revoked or expired; ask an administrator for a new one")
        return found

    async def _look_up(self, bearer: Bearer) -> tuple[float, Caller | Unauthenticated]:
        begun = time.monotonic()
        found: Caller | Unauthenticated
        try:
            found = await self._backend.run(self._store.access.find, bearer)
        except Unauthenticated as error:
            found = error
        self._known[str(bearer)] = (begun, found)
        self._known.move_to_end(str(bearer))
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return begun, found

    def _record_unauthenticated(self, call: Call) -> None:
        """Write an audit row for an unauthenticated call, with a limit so that such calls cannot fill the disk."""
        call.caller = Caller("")
        moment = time.monotonic()
        self._unauthenticated = [at for at in self._unauthenticated if moment - at < 60.0]
        if len(self._unauthenticated) >= _UNAUTHENTICATED_A_MINUTE:
            self._uncounted += 1
            return
        self._unauthenticated.append(moment)
        if self._uncounted:
            call.detail["refused_before_without_row"] = self._uncounted
            self._uncounted = 0
        self._store.audit.enqueue(call, "UNAUTHENTICATED")


def _check_permission(call: Call, rule: Rule) -> None:
    caller = call.caller
    if caller.is_admin:
        return  # the servicer refuses malformed names
    if rule.field and rule.permission is not Permission.SERVER and not call.project_id:
        raise InvalidInput(rule.field, "the sent value", "a resource name, projects/{project}/...")
    caller.check(rule.permission, call.project_id)
