"""``micromodels report``: who drew, corrected and accepted each label, read from an export."""

from __future__ import annotations

import csv
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from service.cli.exit_codes import ExitCode, exit_codes
from service.cli.output_places import OverwriteOption, check_output_file
from service.reports.audit_report_reader import COLUMNS, ReviewSummary, Row, read_report

__all__ = ["report"]


def report(
    export: Annotated[
        Path, typer.Argument(metavar="FILE", help="review_report.jsonl, written by an export of that format.")
    ],
    table: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write a CSV file with one row per label.")
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Check the review report of a video and show who drew, corrected and accepted its labels, and with which models.

    Needs no server. Exit code 5 if parts of the report are missing or contradict each other.
    """
    console = Console(highlight=False, emoji=False)
    with exit_codes(Console(stderr=True)), ExitStack() as stack:

        def keep(row: Row) -> None:
            writer.writerow({name: _cell(value) for name, value in row.items()})

        if table is None:
            found = read_report(export)
        else:
            check_output_file("--table", table, (export,), overwrite=overwrite)
            table.parent.mkdir(parents=True, exist_ok=True)
            writer = csv.DictWriter(stack.enter_context(table.open("w", encoding="utf-8", newline="")), COLUMNS)
            writer.writeheader()
            found = read_report(export, keep)
        _show(console, found)
        for problem in found.problems:
            console.print(f"[bold red]problem:[/] {escape(problem)}", soft_wrap=True)
        if found.problems:
            raise typer.Exit(ExitCode.PARTIAL)


def _cell(value: object) -> object:
    """Protect text that a spreadsheet would read as a formula by a leading apostrophe.

    Source: OWASP, *CSV Injection*.
    """
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def _show(console: Console, found: ReviewSummary) -> None:
    video, states = found.video, found.states
    console.print(f"video {escape(video['video'])} of project {escape(video['project'])}, {video['frames']} frames")
    console.print(f"SHA-256 of its content: {escape(video['content_sha256'])}")
    console.print(f"labels at revision {video['label_revision']}: {_listed(dict(states))}")
    console.print(f"changes: {_listed(dict(found.changes))}; comments: {len(found.comments)}")
    people = Table("person", "drew", "corrected", "accepted", "changes")
    for name, counts in sorted(found.people.items()):
        people.add_row(escape(name), *(str(counts[what]) for what in ("drew", "corrected", "accepted", "changes")))
    console.print(people)
    models = Table("micro-model version", "current labels", "labels ever", "recipe", "trained", "trained on labels to")
    for name, entry in sorted(found.models.items()):
        seen = ", ".join(f"revision {number}" for number in entry.get("saw_labels_until_revision", {}).values())
        labels = (str(entry.get("standing", 0)), str(entry.get("ever", 0)))
        models.add_row(escape(name), *labels, entry.get("recipe", "deleted"), entry.get("trained", ""), seen)
    console.print(models)
    _show_verdicts(console, found)


def _show_verdicts(console: Console, found: ReviewSummary) -> None:
    """Reviews of each version's predictions; undone reviews are not counted."""
    verdicts = Table("micro-model version", "accepted", "corrected", "IoU of corrected", "IoU of all reviewed")
    for name, entry in sorted(found.models.items()):
        accepted, corrected = entry.get("accepted", 0), entry.get("corrected", 0)
        overlaps = entry.get("overlaps", 0.0)
        of_corrected = f"{overlaps / corrected:.3f}" if corrected else ""
        of_all = f"{(accepted + overlaps) / (accepted + corrected):.3f}" if accepted + corrected else ""
        verdicts.add_row(escape(name), str(accepted), str(corrected), of_corrected, of_all)
    console.print(verdicts)


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "none"
