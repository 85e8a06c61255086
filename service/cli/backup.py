"""The commands ``backup`` and ``restore``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from service.cli.exit_codes import exit_codes

if TYPE_CHECKING:
    from service.store.backup import BackupReport

__all__ = ["backup", "restore"]

DataOption = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Data folder of the server; default: MICROMODELS_DATA_DIR or ./micromodels-data."),
]


def backup(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="New or empty folder for the backup.")],
    data: DataOption = None,
) -> None:
    """Back up all data. The server may keep running.

    All rows are from one snapshot. backup.json is written last and holds the checksum of every file.
    """
    console = Console(stderr=True)
    with exit_codes(console):
        from service.settings import Settings
        from service.store.backup import back_up

        with console.status("writing the backup"):
            report = back_up(Settings.from_environment(data_dir=data), folder)
        console.print(f"[dim]·[/] {_summary(report)} → {escape(str(folder))}")


def restore(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder written by `backup`, this version or earlier.")],
    data: DataOption = None,
    receipts: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Deletions since the backup: receipts.jsonl of the lost data folder, an exported audit log, or a "
            "newer backup. Repeatable.",
        ),
    ] = None,
) -> None:
    """Restore a backup into a new data folder (or an empty PostgreSQL database).

    All checksums are verified first. Jobs that were running restart; unfinished uploads start over. A database that is
    not empty is refused. Videos with a deletion receipt are deleted again.
    """
    console = Console(stderr=True)
    with exit_codes(console):
        from service.settings import Settings
        from service.store.backup import restore as restore_backup

        settings = Settings.from_environment(data_dir=data)
        with console.status("restoring"):
            report = restore_backup(settings, folder, receipts or ())
        console.print(f"[dim]·[/] {_summary(report)}, of {report.created_at} → {escape(str(settings.data_dir))}")
        if report.erased_again:
            console.print(f"[dim]·[/] {report.erased_again} videos were deleted since, and have been deleted again")


def _summary(report: BackupReport) -> str:
    return f"{report.rows} rows and {report.blobs} blobs, {report.size_bytes / 1e6:.1f} MB"
