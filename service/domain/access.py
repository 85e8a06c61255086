"""Who may do what: roles, the permissions they stand for, and the caller that has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from service.domain.errors import NotFound, PermissionDenied

__all__ = [
    "LOCAL_OWNER",
    "PERMISSIONS",
    "AccessToken",
    "AuditReport",
    "AuditRow",
    "Caller",
    "Member",
    "Permission",
    "Role",
]


class Role(StrEnum):
    """What somebody is in one project."""

    VIEWER = "viewer"
    """Looks at videos and labels."""
    ANNOTATOR = "annotator"
    """Also brings videos in, labels them and starts work on them."""
    REVIEWER = "reviewer"
    """Also accepts, rejects and locks labels."""
    SERVICE = "service"
    """A program, such as the server of an annotation tool: as an annotator, and it tidies up; it does not review."""
    ADMIN = "admin"
    """Everything in the project: also its classes, its members and its audit."""


class Permission(StrEnum):
    """What a call asks for."""

    SIGNED_IN = "signed_in"
    """Nothing in particular: any caller with a valid token."""
    READ = "read"
    """See videos, labels, micro-models and operations of the project."""
    WORK = "work"
    """Bring in videos, write labels, train, propagate and export."""
    REVIEW = "review"
    """Accept, reject and lock labels."""
    CURATE = "curate"
    """Delete videos, micro-models and operations."""
    MANAGE = "manage"
    """Change or delete the project, its members and its retention; read its audit."""
    SERVER = "server"
    """Make projects, hand out tokens, verify the audit: for administrators of the server, whatever the project."""


PERMISSIONS: Mapping[Role, frozenset[Permission]] = {
    Role.VIEWER: frozenset({Permission.READ}),
    Role.ANNOTATOR: frozenset({Permission.READ, Permission.WORK}),
    Role.REVIEWER: frozenset({Permission.READ, Permission.WORK, Permission.REVIEW}),
    Role.SERVICE: frozenset({Permission.READ, Permission.WORK, Permission.CURATE}),
    Role.ADMIN: frozenset(Permission) - {Permission.SERVER},
}


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who calls, as one token shows him."""

    name: str
    """The user's name; labels, jobs and audit carry it."""
    is_admin: bool = False
    """Administrator of the server: everything, everywhere."""
    roles: Mapping[str, Role] = field(default_factory=dict)
    """By project id."""
    token_id: str = ""
    """The token that was shown; empty where none was needed."""
    expires_at: datetime | None = None
    """When the token ends; None for never."""

    def may(self, permission: Permission, project_id: str = "") -> bool:
        """Whether the caller has a permission, in a project where it is about one."""
        if self.is_admin or permission is Permission.SIGNED_IN:
            return True
        role = self.roles.get(project_id)
        return role is not None and permission in PERMISSIONS[role]

    def check(self, permission: Permission, project_id: str = "") -> None:
        """Refuse what the caller may not do.

        Raises:
            NotFound: the project is not the caller's; whether it exists is not told.
            PermissionDenied: it is, but the role does not allow this.
        """
        if self.may(permission, project_id):
            return
        if permission is Permission.SERVER:
            raise PermissionDenied(f"{self.name!r} is not an administrator of the server")
        if project_id not in self.roles:
            raise NotFound("project", project_id)
        needed = ", ".join(role.value for role, has in PERMISSIONS.items() if permission in has)
        raise PermissionDenied(f"{self.name!r} is {self.roles[project_id].value} here; this needs one of: {needed}")


LOCAL_OWNER = Caller("local", is_admin=True)
"""Who calls where no token is needed: on loopback, without configuration."""


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A token without its secret, which nobody can read again."""

    token_id: str
    user: str
    is_admin: bool
    """Whether the user administers the server."""
    created_at: datetime
    expires_at: datetime
    """From then on it is refused; rotation may bring this forward."""
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class Member:
    """What a user is in a project."""

    project_id: str
    user: str
    role: Role


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One row of the audit. It names resources by their ids and holds nothing that a person has typed."""

    at: datetime
    actor: str
    """Name of the user; empty where nobody was recognized."""
    token_id: str
    method: str
    """``package.Service/Method`` of a call, ``job/KIND`` of a worker, ``cli/COMMAND`` or ``server/TASK``."""
    project_id: str
    resource: str
    """Resource name; empty where the call is about none."""
    revision: int
    """Of the video's labels, where the call made one; else 0."""
    outcome: str
    """Name of the gRPC status, e.g. ``OK``."""
    detail: Mapping[str, Any]
    """Counts and checksums."""
    sequence: int = 0
    """Counts from 1 without gaps; 0 before it is stored."""
    hash: str = ""
    """SHA-256 over all of the above and the hash of the row before, 64 hex digits; empty before it is stored."""


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What verifying the audit found."""

    rows: int
    """How many rows hold, from the first on."""
    head: str
    """``SEQUENCE:HASH`` of the last row that holds: kept elsewhere, it later proves that nothing before it changed."""
    problem: str
    """What is wrong, and with which row; empty if nothing is."""
