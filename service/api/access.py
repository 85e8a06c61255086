"""``AccessService``: access tokens and project roles."""

from __future__ import annotations

from google.protobuf import empty_pb2
from google.protobuf.duration_pb2 import Duration

from micromodels.errors import InvalidInput
from micromodels.v1 import access_pb2, access_pb2_grpc
from service.access import current_caller
from service.api import names
from service.api.backend import Backend, Context
from service.api.page_tokens import decode_token, encode_token, page_size
from service.domain.access import AccessToken, Member, Permission, Role
from service.domain.errors import NotFound
from service.store.access import DEFAULT_DAYS

__all__ = ["AccessServicer"]

_PAGE = (50, 1000)
_DAY_SECONDS, _HOUR_SECONDS = 86400.0, 3600.0
_ROLES: dict[Role, access_pb2.Role.ValueType] = {
    Role.VIEWER: access_pb2.ROLE_VIEWER,
    Role.ANNOTATOR: access_pb2.ROLE_ANNOTATOR,
    Role.REVIEWER: access_pb2.ROLE_REVIEWER,
    Role.SERVICE: access_pb2.ROLE_SERVICE,
    Role.ADMIN: access_pb2.ROLE_ADMIN,
}
_ROLES_BACK = {number: role for role, number in _ROLES.items()}


class AccessServicer(access_pb2_grpc.AccessServiceServicer):
    """Issues tokens and sets roles.

    Args:
        backend: the store.
    """

    def __init__(self, backend: Backend) -> None:
        self._run = backend.run
        self._access = backend.store.access

    async def GetCaller(self, request: access_pb2.GetCallerRequest, context: Context) -> access_pb2.Caller:
        """See the proto."""
        caller = current_caller()
        message = access_pb2.Caller(
            user=caller.name,
            server_admin=caller.is_admin,
            memberships=[_member(Member(project, caller.name, role)) for project, role in sorted(caller.roles.items())],
        )
        if caller.expires_at is not None:
            message.expire_time.FromDatetime(caller.expires_at)
        return message

    async def IssueToken(
        self, request: access_pb2.IssueTokenRequest, context: Context
    ) -> access_pb2.IssueTokenResponse:
        """See the proto."""
        days = _days(request.lifetime, "lifetime")
        token, bearer = await self._run(self._access.issue, request.user, days=days, is_admin=request.server_admin)
        return access_pb2.IssueTokenResponse(token=_token(token), secret=str(bearer))

    async def ListTokens(
        self, request: access_pb2.ListTokensRequest, context: Context
    ) -> access_pb2.ListTokensResponse:
        """See the proto."""
        limit = page_size(request.page_size, _PAGE)
        after = decode_token("page_token", request.page_token, "tokens") or ""
        page = await self._run(self._access.list, after=after, limit=limit)
        token = encode_token("tokens", page.next_after) if page.next_after else ""
        return access_pb2.ListTokensResponse(tokens=map(_token, page.items), next_page_token=token)

    async def RevokeToken(self, request: access_pb2.RevokeTokenRequest, context: Context) -> access_pb2.Token:
        """See the proto."""
        token_id = await self._own(request.name)
        return _token(await self._run(self._access.revoke, token_id))

    async def RotateToken(
        self, request: access_pb2.RotateTokenRequest, context: Context
    ) -> access_pb2.RotateTokenResponse:
        """See the proto."""
        token_id = await self._own(request.name)
        overlap_hours = _seconds(request.overlap) / _HOUR_SECONDS
        days = _days(request.lifetime, "lifetime")
        token, bearer = await self._run(self._access.rotate, token_id, days=days, overlap_hours=overlap_hours)
        return access_pb2.RotateTokenResponse(token=_token(token), secret=str(bearer))

    async def SetMember(self, request: access_pb2.SetMemberRequest, context: Context) -> access_pb2.Member:
        """See the proto."""
        (project_id,) = names.PROJECT.parse(request.parent, "parent")
        if request.role not in _ROLES_BACK:
            raise InvalidInput("role", request.role, ", ".join(role.value for role in Role))
        role = _ROLES_BACK[request.role]
        return _member(await self._run(self._access.set_role, project_id, request.user, role))

    async def ListMembers(
        self, request: access_pb2.ListMembersRequest, context: Context
    ) -> access_pb2.ListMembersResponse:
        """See the proto."""
        (project_id,) = names.PROJECT.parse(request.parent, "parent")
        limit = page_size(request.page_size, _PAGE)
        after = decode_token("page_token", request.page_token, request.parent) or ""
        page = await self._run(self._access.members, project_id, after=after, limit=limit)
        token = encode_token(request.parent, page.next_after) if page.next_after else ""
        return access_pb2.ListMembersResponse(members=map(_member, page.items), next_page_token=token)

    async def RemoveMember(self, request: access_pb2.RemoveMemberRequest, context: Context) -> empty_pb2.Empty:
        """See the proto."""
        await self._run(self._access.remove_role, *names.MEMBER.parse(request.name))
        return empty_pb2.Empty()

    async def _own(self, name: str) -> str:
        """The id of a token that the caller may revoke.

        Raises:
            NotFound: no such token, or it belongs to another user.
        """
        (token_id,) = names.TOKEN.parse(name)
        token = await self._run(self._access.get, token_id)
        caller = current_caller()
        if token.user != caller.name and not caller.may(Permission.SERVER):
            raise NotFound("token", token_id)
        return token_id


def _token(token: AccessToken) -> access_pb2.Token:
    message = access_pb2.Token(name=names.TOKEN.format(token.token_id), user=token.user, server_admin=token.is_admin)
    message.create_time.FromDatetime(token.created_at)
    message.expire_time.FromDatetime(token.expires_at)
    if token.revoked_at is not None:
        message.revoke_time.FromDatetime(token.revoked_at)
    return message


def _member(member: Member) -> access_pb2.Member:
    return access_pb2.Member(name=names.MEMBER.format(member.project_id, member.user), role=_ROLES[member.role])


def _seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos / 1e9


def _days(duration: Duration, field: str) -> float:
    """Days of a duration; the default if it is not set."""
    seconds = _seconds(duration)
    if seconds < 0:
        raise InvalidInput(field, f"{seconds:g} s", "a positive duration, or unset for the default")
    return seconds / _DAY_SECONDS if seconds else DEFAULT_DAYS
