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
    typer.Option(metavar="DIR", help="Folder of all that is kept; else MICROMODELS_DATA_DIR or ./micromodels-data."),
]


def backup(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder for the backup.")],
    data: DataOption = None,
) -> None:
    """Write a backup of everything that is kept, while the server goes on.

    Rows come from one moment; every file has its checksum in backup.json, which is written last.
    """
    console = Console(stderr=True)
    with exit_codes(console):
        from service.settings import Settings
        from service.store.backup import back_up

        with console.status("writing the backup"):
            report = back_up(Settings.from_environment(data_dir=data), folder)
        console.print(f"[dim]·[/] {_summary(report)} → {escape(str(folder))}")


def restore(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What `backup` wrote, in this or an earlier version.")],
    data: DataOption = None,
    receipts: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="What was deleted since: receipts.jsonl of the lost data folder, an exported audit, or a newer backup."
            " May be given more than once.",
        ),
    ] = None,
) -> None:
    """Fill a new data folder (or an empty PostgreSQL database) from a backup.

    All checksums are checked first. Jobs that ran at the time of the backup start again; uploads that were not finished
    begin again. Refuses a database that holds anything. Videos of which there is a receipt are deleted again.
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
            console.print(f"[dim]·[/] {report.erased_again} videos of it had been deleted since, and are deleted again")


def _summary(report: BackupReport) -> str:
    return f"{report.rows} rows and {report.blobs} blobs, {report.size_bytes / 1e6:.1f} MB"
