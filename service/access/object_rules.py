"""What a role may do to single labels, comments and changes, beyond the method that it calls.

``RULES`` says who may call a method. Some calls are right for one object and wrong for another: this table says who may
make them. The store asks, in the transaction that makes the change, so that no method can forget to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from service.access.calls import current_call, current_caller
from service.domain.access import Role
from service.domain.errors import PermissionDenied

__all__ = ["OBJECT_RULES", "ObjectAction", "ObjectRule", "check_object"]


class ObjectAction(StrEnum):
    """What is done to an object."""

    CHANGE_DECIDED_LABEL = "change_decided_label"
    """Overwrite, delete, move or reclassify a label that is accepted or locked, or take such a decision back."""
    WRITE_AS_MODEL = "write_as_model"
    """Write a label whose provenance is not a person."""
    DELETE_COMMENT_OF_OTHERS = "delete_comment_of_others"
    UNDO_CHANGE_OF_OTHERS = "undo_change_of_others"


@dataclass(frozen=True, slots=True)
class ObjectRule:
    """Who may do it; administrators of the server always may."""

    roles: frozenset[Role]
    reason: str
    """Why it is not for everybody who may call the method; completes "THE OBJECT ..."."""


OBJECT_RULES: Mapping[ObjectAction, ObjectRule] = {
    ObjectAction.CHANGE_DECIDED_LABEL: ObjectRule(
        frozenset({Role.REVIEWER, Role.ADMIN}), "is accepted or locked by a reviewer"
    ),
    ObjectAction.WRITE_AS_MODEL: ObjectRule(
        frozenset({Role.SERVICE}), "has a provenance other than human, as only a program's labels have"
    ),
    ObjectAction.DELETE_COMMENT_OF_OTHERS: ObjectRule(
        frozenset({Role.REVIEWER, Role.ADMIN}), "was written by another user"
    ),
    ObjectAction.UNDO_CHANGE_OF_OTHERS: ObjectRule(frozenset({Role.ADMIN}), "was made by another user"),
}
"""A method without an object of these kinds needs no entry."""


def check_object(action: ObjectAction, what: str) -> None:
    """Raise if the current caller may not do this to an object; the server's own work may.

    Args:
        action: what is done.
        what: the object in words, such as ``"the label of frame 3 track '1'"``; starts the message.

    Raises:
        PermissionDenied: the caller's role does not allow it; the message says why, and which roles would.
    """
    call, caller, rule = current_call(), current_caller(), OBJECT_RULES[action]
    role = None if call is None else caller.roles.get(call.project_id)
    if caller.is_admin or role in rule.roles:
        return
    needed = " or ".join(one.value for one in Role if one in rule.roles)
    has = "no role" if role is None else f"the role {role.value}"
    raise PermissionDenied(f"{what} {rule.reason}; {caller.name!r} has {has} in the project; required: {needed}")
