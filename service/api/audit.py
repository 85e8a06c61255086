"""``AuditService``: the audit log, its verification, and deletion receipts."""

from __future__ import annotations

from google.protobuf import json_format

from micromodels.errors import InvalidInput
from micromodels.v1 import audit_pb2, audit_pb2_grpc
from service.api import names
from service.api.backend import Backend, Context
from service.api.page_tokens import decode_token, encode_token, page_size
from service.domain.access import AuditRow

__all__ = ["AuditServicer"]

_PAGE = (100, 1000)


class AuditServicer(audit_pb2_grpc.AuditServiceServicer):
    """Reads the audit log.

    Args:
        backend: the store.
    """

    def __init__(self, backend: Backend) -> None:
        self._run = backend.run
        self._store = backend.store

    async def ListAuditEntries(
        self, request: audit_pb2.ListAuditEntriesRequest, context: Context
    ) -> audit_pb2.ListAuditEntriesResponse:
        """See the proto."""
        (project_id,) = names.PROJECT.parse(request.parent, "parent")
        if request.resource and not f"{request.resource}/".startswith(f"{request.parent}/"):
            raise InvalidInput("resource", request.resource, f"empty, or a resource in {request.parent}")
        limit = page_size(request.page_size, _PAGE)
        binding = [request.parent, request.resource]
        after = int(decode_token("page_token", request.page_token, binding) or 0)
        rows = await self._run(self._rows, project_id, request.resource, after, limit + 1)
        token = encode_token(binding, rows[limit - 1].sequence) if len(rows) > limit else ""
        return audit_pb2.ListAuditEntriesResponse(entries=map(_entry, rows[:limit]), next_page_token=token)

    def _rows(self, project_id: str, resource: str, after: int, limit: int) -> list[AuditRow]:
        self._store.projects.get(project_id)
        return list(self._store.audit.rows(project_id=project_id, resource=resource, after=after, limit=limit))

    async def VerifyAudit(
        self, request: audit_pb2.VerifyAuditRequest, context: Context
    ) -> audit_pb2.VerifyAuditResponse:
        """See the proto."""
        try:
            report = await self._run(self._store.audit.verify, request.expected_head)
        except InvalidInput as error:
            raise InvalidInput("expected_head", error.value, error.allowed) from None
        return audit_pb2.VerifyAuditResponse(row_count=report.rows, head=report.head, problem=report.problem)

    async def GetDeletionReceipt(
        self, request: audit_pb2.GetDeletionReceiptRequest, context: Context
    ) -> audit_pb2.DeletionReceipt:
        """See the proto."""
        row = await self._run(self._store.erasure.receipt, *names.DELETION_RECEIPT.parse(request.name))
        return audit_pb2.DeletionReceipt(name=request.name, entry=_entry(row))


def _entry(row: AuditRow) -> audit_pb2.AuditEntry:
    entry = audit_pb2.AuditEntry(
        sequence=row.sequence,
        user=row.actor,
        token=names.TOKEN.format(row.token_id) if row.token_id else "",
        method=row.method,
        resource=row.resource,
        label_revision=row.revision,
        outcome=row.outcome,
        hash=row.hash,
    )
    entry.time.FromDatetime(row.at)
    json_format.ParseDict(dict(row.detail), entry.detail)
    return entry
