"""Access tokens, roles and the audit log."""

from __future__ import annotations

from collections.abc import Iterator

from micromodels.client.connection import Connection
from micromodels.v1 import access_pb2, audit_pb2

__all__ = ["Access"]


class Access:
    """Calls on tokens, roles and the audit log; ``Client.access``. Every method may raise ``ApiError``.

    Args:
        connection: the client's.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def get_caller(self) -> access_pb2.Caller:
        """The user that this client is signed in as, with roles."""
        request = access_pb2.GetCallerRequest()
        found: access_pb2.Caller = self._connection.call(self._connection.stubs.access.GetCaller, request)
        return found

    def issue_token(
        self, user: str, *, server_admin: bool = False, lifetime_days: float | None = None
    ) -> access_pb2.IssueTokenResponse:
        """Create a token for a user. Pass its ``secret`` to ``Client(token=...)``; it is returned only here."""
        request = access_pb2.IssueTokenRequest(user=user, server_admin=server_admin)
        if lifetime_days is not None:
            request.lifetime.FromSeconds(round(lifetime_days * 86400))
        made: access_pb2.IssueTokenResponse = self._connection.call(self._connection.stubs.access.IssueToken, request)
        return made

    def list_tokens(self) -> Iterator[access_pb2.Token]:
        """All tokens, oldest first, without their secrets."""
        for page in self._connection.pages(self._connection.stubs.access.ListTokens, access_pb2.ListTokensRequest()):
            yield from page.tokens

    def revoke_token(self, name: str) -> access_pb2.Token:
        """Revoke a token."""
        request = access_pb2.RevokeTokenRequest(name=name)
        ended: access_pb2.Token = self._connection.call(self._connection.stubs.access.RevokeToken, request)
        return ended

    def rotate_token(
        self, name: str, *, lifetime_days: float | None = None, overlap_hours: float = 0.0
    ) -> access_pb2.RotateTokenResponse:
        """Create a new token for the user of an old one, which expires after the overlap."""
        request = access_pb2.RotateTokenRequest(name=name)
        if lifetime_days is not None:
            request.lifetime.FromSeconds(round(lifetime_days * 86400))
        if overlap_hours:
            request.overlap.FromSeconds(round(overlap_hours * 3600))
        made: access_pb2.RotateTokenResponse = self._connection.call(self._connection.stubs.access.RotateToken, request)
        return made

    def set_member(self, project: str, user: str, role: str) -> access_pb2.Member:
        """Set a user's role in a project: ``viewer``, ``annotator``, ``reviewer``, ``service`` or ``admin``."""
        number = access_pb2.Role.Value(f"ROLE_{role.upper()}")
        request = access_pb2.SetMemberRequest(parent=project, user=user, role=number)
        made: access_pb2.Member = self._connection.call(self._connection.stubs.access.SetMember, request)
        return made

    def list_members(self, project: str) -> Iterator[access_pb2.Member]:
        """Members of a project."""
        for page in self._connection.pages(
            self._connection.stubs.access.ListMembers, access_pb2.ListMembersRequest(parent=project)
        ):
            yield from page.members

    def remove_member(self, name: str) -> None:
        """Remove a user from a project."""
        self._connection.call(self._connection.stubs.access.RemoveMember, access_pb2.RemoveMemberRequest(name=name))

    def list_audit_entries(self, project: str, *, resource: str = "") -> Iterator[audit_pb2.AuditEntry]:
        """The audit log of a project, oldest first; with ``resource`` only rows about it and its children."""
        request = audit_pb2.ListAuditEntriesRequest(parent=project, resource=resource)
        for page in self._connection.pages(self._connection.stubs.audit.ListAuditEntries, request):
            yield from page.entries

    def verify_audit(self, expected_head: str = "") -> audit_pb2.VerifyAuditResponse:
        """Recompute the hash chain of the audit log; ``problem`` is empty if it is intact.

        Args:
            expected_head: ``head`` of an earlier answer, which the chain must still contain; empty for no check.
        """
        request = audit_pb2.VerifyAuditRequest(expected_head=expected_head)
        report: audit_pb2.VerifyAuditResponse = self._connection.call(
            self._connection.stubs.audit.VerifyAudit, request, 600.0
        )
        return report

    def get_deletion_receipt(self, video: str) -> audit_pb2.DeletionReceipt:
        """The receipt of a deleted video: what was removed."""
        request = audit_pb2.GetDeletionReceiptRequest(name=f"{video}/deletionReceipt")
        found: audit_pb2.DeletionReceipt = self._connection.call(
            self._connection.stubs.audit.GetDeletionReceipt, request
        )
        return found
