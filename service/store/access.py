"""Users, their access tokens, and their roles in projects."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from micromodels.errors import InvalidInput
from service.access.bearer import Bearer, new_bearer
from service.access.calls import audit_detail
from service.domain.access import LOCAL_OWNER, AccessToken, Caller, Member, Role
from service.domain.errors import NotFound, Unauthenticated
from service.domain.videos import Page
from service.store import schema
from service.store.clock import SteadyClock
from service.store.database import Database, check_id, page_start
from service.store.projects import project_row

__all__ = ["DEFAULT_DAYS", "MAX_DAYS", "Access"]

DEFAULT_DAYS = 90.0
MAX_DAYS = 3650.0

_USERS, _TOKENS, _MEMBERS, _PROJECTS = schema.users, schema.tokens, schema.members, schema.projects


class Access:
    """Who may use a store.

    Args:
        database: migrated.
        clock: decides about expiry.
    """

    def __init__(self, database: Database, clock: SteadyClock) -> None:
        self._database = database
        self._clock = clock

    def find(self, bearer: Bearer) -> Caller:
        """The caller of a token, with all roles.

        Raises:
            Unauthenticated: it is unknown, revoked or expired; the error does not say which.
        """
        query = sa.select(_TOKENS, _USERS.c.name, _USERS.c.is_admin).join(_USERS, _USERS.c.key == _TOKENS.c.user)
        with self._database.begin() as connection:
            row = connection.execute(query.where(_TOKENS.c.token_id == bearer.token_id)).first()
            fits = bearer.fits("" if row is None else row.sha256)
            if row is None or not fits or row.revoked_at is not None or row.expires_at <= self._clock.now():
                raise Unauthenticated("the token is unknown, revoked or expired; ask an administrator for a new one")
            roles = connection.execute(
                sa.select(_PROJECTS.c.project_id, _MEMBERS.c.role)
                .join(_PROJECTS, _PROJECTS.c.key == _MEMBERS.c.project)
                .where(_MEMBERS.c.user == row.user)
            ).all()
        mine = {found.project_id: Role(found.role) for found in roles}
        return Caller(row.name, bool(row.is_admin), mine, row.token_id, row.expires_at)

    def is_expired(self, caller: Caller) -> bool:
        """Whether a caller's token has expired."""
        return caller.expires_at is not None and caller.expires_at <= self._clock.now()

    def issue(self, user: str, *, days: float = DEFAULT_DAYS, is_admin: bool = False) -> tuple[AccessToken, Bearer]:
        """Create a token, and the user if new. The secret is returned only here.

        Args:
            user: 1 to 63 of ``a-z``, ``0-9`` and ``-``. Labels and the audit log record it.
            days: days for which it is valid, more than 0 and at most ``MAX_DAYS``.
            is_admin: make the user a server administrator; False leaves the user unchanged.

        Raises:
            InvalidInput: a name or a number of days that is not allowed.
        """
        check_id("user", user)
        if user == LOCAL_OWNER.name:
            raise InvalidInput("user", user, f"another name: {user!r} is reserved for callers without a token")
        expires = self._expiry(days)
        with self._database.begin(write=True) as connection:
            found = connection.execute(sa.select(_USERS.c.key).where(_USERS.c.name == user)).scalar()
            if found is None:
                values = {"name": user, "is_admin": is_admin, "created_at": self._clock.now()}
                found = connection.execute(_USERS.insert().values(values).returning(_USERS.c.key)).scalar_one()
            elif is_admin:
                connection.execute(_USERS.update().where(_USERS.c.key == found).values(is_admin=True))
            bearer = self._insert(connection, found, expires)
            return _token(self._row(connection, bearer.token_id)), bearer

    def get(self, token_id: str) -> AccessToken:
        """One token.

        Raises:
            NotFound: no such token.
        """
        with self._database.begin() as connection:
            return _token(self._row(connection, token_id))

    def list(self, *, after: str = "", limit: int = 100) -> Page[AccessToken]:
        """All tokens, oldest first, including expired and revoked ones.

        Raises:
            InvalidInput: ``after`` is not from an earlier page.
        """
        query = sa.select(_TOKENS, _USERS.c.name, _USERS.c.is_admin).join(_USERS, _USERS.c.key == _TOKENS.c.user)
        query = query.where(_TOKENS.c.key > page_start(after)).order_by(_TOKENS.c.key).limit(limit + 1)
        with self._database.begin() as connection:
            rows = connection.execute(query).all()
        return Page(tuple(map(_token, rows[:limit])), str(rows[limit - 1].key) if len(rows) > limit else "")

    def revoke(self, token_id: str) -> AccessToken:
        """Revoke a token; no effect if it has expired or was revoked.

        Raises:
            NotFound: no such token.
        """
        with self._database.begin(write=True, frees=True) as connection:
            row = self._row(connection, token_id)
            if row.revoked_at is None:
                mine = _TOKENS.c.key == row.key
                connection.execute(_TOKENS.update().where(mine).values(revoked_at=self._clock.now()))
            audit_detail(token=token_id, user=row.name)
            return _token(self._row(connection, token_id))

    def rotate(
        self, token_id: str, *, days: float = DEFAULT_DAYS, overlap_hours: float = 0.0
    ) -> tuple[AccessToken, Bearer]:
        """Create a new token for the same user; the old one expires after an overlap.

        Args:
            token_id: the old token, which must still be valid.
            days: days for which the new token is valid.
            overlap_hours: hours until the old token expires; never extends its validity.

        Raises:
            InvalidInput: a time that is not allowed, or the old token is no longer valid.
            NotFound: no such token.
        """
        expires = self._expiry(days)
        if not 0 <= overlap_hours <= 24 * 30:
            raise InvalidInput("overlap_hours", overlap_hours, "0 to 720")
        with self._database.begin(write=True) as connection:
            row, moment = self._row(connection, token_id), self._clock.now()
            if row.revoked_at is not None or row.expires_at <= moment:
                raise InvalidInput("token", token_id, "a token that is still valid; create a new one instead")
            end = min(row.expires_at, moment + timedelta(hours=overlap_hours))
            connection.execute(_TOKENS.update().where(_TOKENS.c.key == row.key).values(expires_at=end))
            bearer = self._insert(connection, row.user, expires)
            return _token(self._row(connection, bearer.token_id)), bearer

    def set_role(self, project_id: str, user: str, role: Role) -> Member:
        """Add a user to a project, or change the user's role.

        Raises:
            NotFound: no such project, or no such user.
        """
        with self._database.begin(write=True) as connection:
            project, key = self._pair(connection, project_id, user)
            mine = (_MEMBERS.c.project == project, _MEMBERS.c.user == key)
            if connection.execute(sa.select(_MEMBERS.c.key).where(*mine)).first():
                connection.execute(_MEMBERS.update().where(*mine).values(role=role.value))
            else:
                connection.execute(_MEMBERS.insert().values(project=project, user=key, role=role.value))
            audit_detail(user=user, role=role.value)
        return Member(project_id, user, role)

    def remove_role(self, project_id: str, user: str) -> None:
        """Remove a user from a project.

        Raises:
            NotFound: no such project, or the user is not a member.
        """
        with self._database.begin(write=True, frees=True) as connection:
            project, key = self._pair(connection, project_id, user)
            mine = (_MEMBERS.c.project == project, _MEMBERS.c.user == key)
            if not connection.execute(_MEMBERS.delete().where(*mine)).rowcount:
                raise NotFound("member", user)
            audit_detail(user=user)

    def members(self, project_id: str, *, after: str = "", limit: int = 100) -> Page[Member]:
        """Members of a project in the order in which they joined.

        Raises:
            InvalidInput: ``after`` is not from an earlier page.
            NotFound: no such project.
        """
        with self._database.begin() as connection:
            project = project_row(connection, project_id)
            query = sa.select(_MEMBERS, _USERS.c.name).join(_USERS, _USERS.c.key == _MEMBERS.c.user)
            query = query.where(_MEMBERS.c.project == project.key, _MEMBERS.c.key > page_start(after))
            rows = connection.execute(query.order_by(_MEMBERS.c.key).limit(limit + 1)).all()
        items = tuple(Member(project_id, row.name, Role(row.role)) for row in rows[:limit])
        return Page(items, str(rows[limit - 1].key) if len(rows) > limit else "")

    def _expiry(self, days: float) -> Any:
        if not 0 < days <= MAX_DAYS:
            raise InvalidInput("days", days, f"more than 0, at most {MAX_DAYS:g}")
        return self._clock.now() + timedelta(days=days)

    def _insert(self, connection: sa.Connection, user: int, expires: Any) -> Bearer:
        bearer = new_bearer()
        values = {"user": user, "token_id": bearer.token_id, "sha256": bearer.sha256, "expires_at": expires}
        connection.execute(_TOKENS.insert().values(**values, created_at=self._clock.now()))
        audit_detail(token=bearer.token_id)
        return bearer

    def _row(self, connection: sa.Connection, token_id: str) -> sa.Row[Any]:
        query = sa.select(_TOKENS, _USERS.c.name, _USERS.c.is_admin).join(_USERS, _USERS.c.key == _TOKENS.c.user)
        row = connection.execute(query.where(_TOKENS.c.token_id == token_id)).first()
        if row is None:
            raise NotFound("token", token_id)
        return row

    def _pair(self, connection: sa.Connection, project_id: str, user: str) -> tuple[int, int]:
        project = project_row(connection, project_id)
        key = connection.execute(sa.select(_USERS.c.key).where(_USERS.c.name == user)).scalar()
        if key is None:
            raise NotFound("user", user)
        return int(project.key), int(key)


def _token(row: sa.Row[Any]) -> AccessToken:
    return AccessToken(row.token_id, row.name, bool(row.is_admin), row.created_at, row.expires_at, row.revoked_at)
