"""Who may do what: roles, the permissions they grant, and the caller who has them."""

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
    """A user's role in one project."""

    VIEWER = "viewer"
    """May view videos and labels."""
    ANNOTATOR = "annotator"
    """May also add videos, label them and start jobs on them."""
    REVIEWER = "reviewer"
    """May also accept, reject and lock labels."""
    SERVICE = "service"
    """A program, such as the server of an annotation tool: an annotator that may also delete, but not review."""
    ADMIN = "admin"
    """May do everything in the project, including its classes, members and audit log."""


class Permission(StrEnum):
    """What a method requires."""

    SIGNED_IN = "signed_in"
    """Any caller with a valid token."""
    READ = "read"
    """View videos, labels, micro-models and operations of the project."""
    WORK = "work"
    """Add videos, write labels, train, propagate and export."""
    REVIEW = "review"
    """Accept, reject and lock labels."""
    CURATE = "curate"
    """Delete videos, micro-models and operations."""
    MANAGE = "manage"
    """Change or delete the project, its members and its retention; read its audit log."""
    SERVER = "server"
    """Create projects, issue tokens, verify the audit log: for server administrators, in any project."""


PERMISSIONS: Mapping[Role, frozenset[Permission]] = {
    Role.VIEWER: frozenset({Permission.READ}),
    Role.ANNOTATOR: frozenset({Permission.READ, Permission.WORK}),
    Role.REVIEWER: frozenset({Permission.READ, Permission.WORK, Permission.REVIEW}),
    Role.SERVICE: frozenset({Permission.READ, Permission.WORK, Permission.CURATE}),
    Role.ADMIN: frozenset(Permission) - {Permission.SERVER},
}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a call, as identified by a token."""

    name: str
    """The user's name; labels, jobs and audit log record it."""
    is_admin: bool = False
    """Whether the caller administers the server: may do everything in every project."""
    roles: Mapping[str, Role] = field(default_factory=dict)
    """By project id."""
    token_id: str = ""
    """The token that was sent; empty if none was required."""
    expires_at: datetime | None = None
    """When the token expires; None for never."""

    def may(self, permission: Permission, project_id: str = "") -> bool:
        """Whether the caller has a permission; ``project_id`` is needed for permissions in a project."""
        if self.is_admin or permission is Permission.SIGNED_IN:
            return True
        role = self.roles.get(project_id)
        return role is not None and permission in PERMISSIONS[role]

    def check(self, permission: Permission, project_id: str = "") -> None:
        """Raise if the caller lacks a permission.

        Raises:
            NotFound: the caller is not a member of the project. Whether it exists is not revealed.
            PermissionDenied: the caller is a member, but the role does not allow this.
        """
        if self.may(permission, project_id):
            return
        if permission is Permission.SERVER:
            raise PermissionDenied(f"{self.name!r} is not an administrator of the server")
        if project_id not in self.roles:
            raise NotFound("project", project_id)
        needed = " or ".join(role.value for role, granted in PERMISSIONS.items() if permission in granted)
        has = self.roles[project_id].value
        raise PermissionDenied(f"{self.name!r} has the role {has} in project {project_id!r}; required: {needed}")


LOCAL_OWNER = Caller("local", is_admin=True)
"""The caller where no token is required: on loopback, without configuration."""


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A token without its secret, which cannot be read again."""

    token_id: str
    user: str
    is_admin: bool
    """Whether the user administers the server."""
    created_at: datetime
    expires_at: datetime
    """The token is refused from this time on; rotation may bring it forward."""
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class Member:
    """A user's membership in a project."""

    project_id: str
    user: str
    role: Role


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One row of the audit log. It names resources by their ids and holds no text that a person typed."""

    at: datetime
    actor: str
    """Name of the user; empty for an unauthenticated call."""
    token_id: str
    method: str
    """``package.Service/Method`` of a call, ``job/KIND`` of a worker, ``cli/COMMAND`` or ``server/TASK``."""
    project_id: str
    resource: str
    """Name of the resource that the call is about; empty for none."""
    revision: int
    """Revision of the video's labels that the call made; 0 for none."""
    outcome: str
    """Name of the gRPC status, such as ``OK``."""
    detail: Mapping[str, Any]
    """Counts and checksums."""
    sequence: int = 0
    """Counts from 1 without gaps; 0 before the row is stored."""
    hash: str = ""
    """SHA-256 of all fields above and the previous row's hash, 64 hex digits; empty before the row is stored."""


@dataclass(frozen=True, slots=True)
class AuditReport:
    """Result of verifying the audit log."""

    rows: int
    """Number of valid rows, counted from the first."""
    head: str
    """``SEQUENCE:HASH`` of the last valid row. A copy kept elsewhere later proves that no earlier row changed."""
    problem: str
    """What is wrong, and with which row; empty if the log is intact."""
