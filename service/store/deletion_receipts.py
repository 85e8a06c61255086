"""Receipts of deleted videos outside the database, so that restoring an older backup does not bring the videos back.

The file ``receipts.jsonl`` in the data folder has one line per deletion: its audit row as JSON. If the folder is lost,
an exported audit log or a newer backup serves as well.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from micromodels.errors import InvalidInput
from service.domain.access import AuditRow
from service.domain.errors import disk_errors
from service.store.blobs import sync_folder

__all__ = ["FILE_NAME", "RECEIPT", "Receipt", "append_receipts", "read_receipts"]

FILE_NAME = "receipts.jsonl"
RECEIPT = "server/video_deleted"
"""Method of audit rows that are receipts."""

_RESOURCE = re.compile(r"projects/([a-z0-9-]{1,63})/videos/([a-z0-9-]{1,63})")
_MAX_LINE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Receipt:
    """Record of a deleted video."""

    project_id: str
    video_id: str
    actor: str
    detail: Mapping[str, Any]
    """What was removed, and ``deleted_at``."""

    @property
    def resource(self) -> str:
        """Name of the video."""
        return f"projects/{self.project_id}/videos/{self.video_id}"


def append_receipts(folder: Path, rows: Iterable[AuditRow], *, again: bool = False) -> None:
    """Append receipts durably.

    Args:
        folder: the data folder.
        rows: audit rows.
        again: replace the whole file instead.

    Raises:
        ResourceExhausted: the disk is full.
        StorageFailure: the disk failed.
    """
    path = folder / FILE_NAME
    target = path.with_suffix(".tmp") if again else path
    with disk_errors():
        with target.open("w" if again else "a", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps({**asdict(row), "at": row.at.isoformat()}) + "\n")
            file.flush()
            os.fsync(file.fileno())
        if again:
            target.replace(path)
        sync_folder(folder)


def read_receipts(path: Path) -> dict[str, Receipt]:
    """The receipts in a file, by the name of the video; the last one if a video has several.

    Args:
        path: ``receipts.jsonl``, an exported audit log, or a backup folder. Other rows, and an incomplete last line,
            are skipped.

    Raises:
        InvalidInput: the file cannot be read, or is not of these kinds.
    """
    if path.is_dir():
        path = path / "tables" / "audit.jsonl"
    try:
        with path.open("rb") as file:
            return {receipt.resource: receipt for receipt in _receipts(file)}
    except OSError as error:
        raise InvalidInput("receipts", str(path), f"a readable file ({error.strerror})") from None


def _receipts(lines: Iterable[bytes]) -> Iterator[Receipt]:
    for number, line in enumerate(lines, start=1):
        if not line.endswith(b"\n"):
            return  # the last write was interrupted before its deletion was finished; the deletion is done later
        try:
            row = json.loads(line) if len(line) <= _MAX_LINE_BYTES else None
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict) or not isinstance(row.get("method"), str):
            raise InvalidInput("receipts", f"line {number}", "an audit row as JSON")
        if row["method"] == RECEIPT:
            yield _receipt(row, number)


def _receipt(row: Mapping[str, Any], number: int) -> Receipt:
    detail, resource, actor = row.get("detail"), row.get("resource"), row.get("actor")
    try:
        detail = json.loads(detail) if isinstance(detail, str) else detail  # text in the table's form
    except (ValueError, RecursionError):
        detail = None
    named = _RESOURCE.fullmatch(resource) if isinstance(resource, str) else None
    if named is None or not isinstance(detail, dict) or not isinstance(actor, str):
        raise InvalidInput("receipts", f"line {number}", "the receipt of a deleted video")
    return Receipt(named[1], named[2], actor, {**detail, "deleted_at": str(row.get("at", ""))})
