"""``micromodels doctor``."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from service.cli.access import DataOption
from service.cli.exit_codes import ExitCode, exit_codes

__all__ = ["doctor"]

_MARKS = {"good": "[green]✓[/]", "note": "[yellow]![/]", "bad": "[bold red]✗[/]"}


def doctor(
    data: DataOption = None,
    host: Annotated[str, typer.Option(help="Address that the server would listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port that it would listen on.")] = 50051,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON, one object per line.")] = False,
) -> None:
    """Check what a server needs: packages, devices, codecs, weights, disk, database, port, certificates, processes.

    For each problem it says what to do, and the exit code is 5. Changes nothing.
    """
    console = Console(soft_wrap=True, highlight=False, emoji=False)
    with exit_codes(Console(stderr=True)):
        from service.cli.checks import Level, examine
        from service.settings import Settings

        settings = Settings.from_environment()
        settings = replace(settings, data_dir=Path(data)) if data is not None else settings
        bad = 0
        for finding in examine(settings, host, port):
            bad += finding.level is Level.BAD
            if as_json:
                print(json.dumps(asdict(finding)), flush=True)
                continue
            console.print(f"{_MARKS[finding.level.value]} {finding.subject}: {escape(finding.text)}")
            if finding.advice:
                console.print(f"  [dim]→ {escape(finding.advice)}[/]")
        if bad:
            raise typer.Exit(ExitCode.PARTIAL)
