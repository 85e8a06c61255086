"""``micromodels audit``: verify the chain, and write it out."""

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
    help="Verify the audit, and write it out.",
)


@audit.command("verify")
def verify(
    expect: Annotated[
        str, typer.Option(metavar="HEAD", help="What an earlier verification printed: the chain must contain it.")
    ] = "",
    data: DataOption = None,
) -> None:
    """Recompute the whole chain; exit code 5 and the row's number if one was changed, added or taken away.

    Prints its head, SEQUENCE:HASH, on standard output. Keep it elsewhere: with --expect it later proves that nothing
    before it was changed, even by somebody who computed all hashes again.
    """
    console = Console(stderr=True, highlight=False, emoji=False)
    with exit_codes(console), opened(data, "audit.verify") as store:
        report = store.audit.verify(expect)
        print(report.head, flush=True)
        if report.problem:
            console.print(f"[bold red]audit is broken:[/] {escape(report.problem)}", soft_wrap=True)
            raise typer.Exit(ExitCode.PARTIAL)
        console.print(f"[dim]·[/] {report.rows} rows hold")


@audit.command("export")
def export(
    project: Annotated[str, typer.Option(metavar="ID", help="Only rows of this project; else all of them.")] = "",
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="The file to write; else standard output.")] = None,
    overwrite: OverwriteOption = False,
    data: DataOption = None,
) -> None:
    """Write the rows as JSON Lines, oldest first, each with its hash."""
    with exit_codes(Console(stderr=True)), ExitStack() as stack:
        if out is not None:
            check_output_file("--out", out, (), overwrite=overwrite)
            out.parent.mkdir(parents=True, exist_ok=True)
        store = stack.enter_context(opened(data, "audit.export"))
        target = sys.stdout if out is None else stack.enter_context(out.open("w", encoding="utf-8"))
        for row in store.audit.rows(project_id=project):
            target.write(json.dumps({**asdict(row), "at": row.at.isoformat()}) + "\n")
