"""``micromodels audit``: verify and export the audit log."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from service.cli.access import DataOption, opened
from service.cli.exit_codes import ExitCode, exit_codes
from service.cli.output_places import OverwriteOption, check_output_file

__all__ = ["audit"]

audit = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Verify and export the audit log.",
)


@audit.command("verify")
def verify(
    expect: Annotated[
        str, typer.Option(metavar="HEAD", help="Head that an earlier verification printed; must still be in the log.")
    ] = "",
    data: DataOption = None,
) -> None:
    """Recompute all hashes of the audit log. Exit code 5 and the row's number if a row was changed, added or removed.

    Prints the head of the log, SEQUENCE:HASH, on standard output. Store it elsewhere: with --expect it later proves
    that no earlier row was changed, even by an attacker who recomputed all hashes.
    """
    console = Console(stderr=True, highlight=False, emoji=False)
    with exit_codes(console), opened(data, "audit.verify") as store:
        report = store.audit.verify(expect)
        print(report.head, flush=True)
        if report.problem:
            console.print(f"[bold red]the audit log is not intact:[/] {escape(report.problem)}", soft_wrap=True)
            raise typer.Exit(ExitCode.PARTIAL)
        console.print(f"[dim]·[/] {report.rows} rows are valid")


@audit.command("export")
def export(
    project: Annotated[str, typer.Option(metavar="ID", help="Only rows of this project; default: all rows.")] = "",
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="File to write; default: standard output.")] = None,
    overwrite: OverwriteOption = False,
    data: DataOption = None,
) -> None:
    """Export the rows as JSON Lines, oldest first, each with its hash."""
    with exit_codes(Console(stderr=True)), ExitStack() as stack:
        if out is not None:
            check_output_file("--out", out, (), overwrite=overwrite)
            out.parent.mkdir(parents=True, exist_ok=True)
        store = stack.enter_context(opened(data, "audit.export"))
        target = sys.stdout if out is None else stack.enter_context(out.open("w", encoding="utf-8"))
        for row in store.audit.rows(project_id=project):
            target.write(json.dumps({**asdict(row), "at": row.at.isoformat()}) + "\n")
