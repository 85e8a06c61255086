"""Who calls, and whether they may: every call of the API passes here before its servicer sees it."""

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
"""How long a look-up of a token and its roles is believed; so soon a change takes hold, in open streams too."""

_REMEMBERED = 4096
_UNAUTHENTICATED_A_MINUTE = 60
"""How many calls without a valid token get an audit row of their own; the next row counts the others."""


class Authorizer:
    """Recognizes callers and judges by the table of rules.

    Args:
        backend: the store.
        tokens_required: False lets a call without a token pass as the local owner's.
    """

    def __init__(self, backend: Backend, tokens_required: bool) -> None:
        self._backend = backend
        self._store = backend.store
        self._required = tokens_required
        self._known: OrderedDict[str, tuple[float, Caller | Unauthenticated]] = OrderedDict()
        self._unauthenticated: list[float] = []
        self._uncounted = 0

    async def admit(self, method: str, request: Any, header: str) -> Call:
        """The call, if it may be answered.

        Args:
            method: full name, with a slash in front.
            request: its message; None where the bytes are none.
            header: value of ``authorization``; empty where there was none.

        Raises:
            InvalidInput: the message, or the name of a resource in it, is not well-formed.
            NotFound: the project is not the caller's.
            PermissionDenied: the caller's role does not allow it.
            Unauthenticated: a token is needed and none, or no valid one, was shown.
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
                raise PermissionDenied(f"{method} is not in the table of permissions")
            call.is_audited = rule.is_audited
            _judge(call, rule)
        except (NotFound, PermissionDenied) as error:
            self._store.audit.enqueue(call, "NOT_FOUND" if isinstance(error, NotFound) else "PERMISSION_DENIED")
            raise
        return call

    def opened(self, call: Call) -> None:
        """See to the audit row of a stream, which may last for long: it gets one when it begins."""
        self._store.audit.enqueue(call, "OK")
        call.rows += 1

    def ended(self, call: Call, outcome: str) -> None:
        """See to the audit row of a call that has ended; one that wrote has its row already.

        Args:
            call: what ``admit`` gave.
            outcome: name of its status.
        """
        if call.is_audited and not (call.rows and outcome == "OK"):
            self._store.audit.enqueue(call, outcome)

    async def recheck(self, call: Call, header: str) -> None:
        """Judge a call again that goes on for long.

        Raises:
            PermissionDenied: the caller has lost the role or the token since.
        """
        try:
            caller = await self._caller(header)
            _judge(Call(caller, call.method, call.project_id, call.resource), RULES["/" + call.method])
        except (NotFound, Unauthenticated, PermissionDenied) as error:
            raise PermissionDenied("the permission for this call was withdrawn while it was answered") from error

    async def recheck_reading(self, call: Call, header: str) -> None:
        """``recheck`` a call that only reads: one that has written must say so.

        Raises:
            PermissionDenied: as ``recheck`` does.
        """
        if not call.rows:
            await self.recheck(call, header)

    async def _caller(self, header: str) -> Caller:
        if not header:
            if self._required:
                raise Unauthenticated("this server wants a token: send 'authorization: Bearer mm_...'")
            return LOCAL_OWNER
        bearer = bearer_of(header)
        known = self._known.get(str(bearer))
        if known is None or time.monotonic() - known[0] > RECHECK_SECONDS:
            known = await self._look_up(bearer)
        found = known[1]
        if isinstance(found, Unauthenticated):
            raise Unauthenticated(str(found))
        if self._store.access.is_expired(found):
            raise Unauthenticated("the token is unknown, revoked or expired; ask for a new one")
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
        """An audit row for a call of nobody's, but not so many that strangers fill the disk."""
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


def _judge(call: Call, rule: Rule) -> None:
    caller = call.caller
    if caller.is_admin:
        return  # a name that is not well-formed is the servicer's to refuse
    if rule.field and rule.permission is not Permission.SERVER and not call.project_id:
        raise InvalidInput(rule.field, "what was sent", "a resource name, projects/{project}/...")
    caller.check(rule.permission, call.project_id)
