"""Exit codes, and the mapping from errors to them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import typer
from rich.console import Console
from rich.markup import escape

from micromodels.errors import Cancelled, MicromodelsError, TrainingError, VideoError
from service.domain.errors import ResourceExhausted, StorageFailure, Unavailable

__all__ = ["ExitCode", "exit_codes", "exit_of"]


class ExitCode(IntEnum):
    """Exit code of the process; docs/reference/command-line.md lists the same."""

    OK = 0
    UNEXPECTED = 1
    INVALID = 2
    VIDEO = 3
    TRAINING = 4
    PARTIAL = 5
    STOPPED = 130


def exit_of(error: BaseException) -> ExitCode:
    """The exit code of an error; errors that are not raised on purpose are ``UNEXPECTED``."""
    if isinstance(error, (Cancelled, KeyboardInterrupt)):
        return ExitCode.STOPPED
    if isinstance(error, VideoError):
        return ExitCode.VIDEO
    if isinstance(error, TrainingError):
        return ExitCode.TRAINING
    if isinstance(error, (StorageFailure, ResourceExhausted, Unavailable)):
        return ExitCode.UNEXPECTED
    return ExitCode.INVALID if isinstance(error, MicromodelsError) else ExitCode.UNEXPECTED


@contextmanager
def exit_codes(console: Console) -> Iterator[None]:
    """Turn errors raised on purpose into one line and an exit code; other errors keep their traceback."""
    try:
        yield
    except KeyboardInterrupt:
        console.print("[yellow]stopped[/]")
        raise typer.Exit(ExitCode.STOPPED) from None
    except Cancelled as error:
        console.print(f"[yellow]stopped[/] {escape(str(error))}".rstrip())
        raise typer.Exit(ExitCode.STOPPED) from None
    except MicromodelsError as error:
        console.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(exit_of(error)) from None
    except BrokenPipeError:
        # The reader of our output is gone (`| head`); print nothing more, not even at the interpreter's last flush.
        sys.stdout = None
        raise typer.Exit(ExitCode.OK) from None
    except OSError as error:
        name = f" ({error.filename})" if error.filename else ""
        console.print(f"[bold red]error:[/] {escape(str(error.strerror or error))}{escape(name)}", soft_wrap=True)
        raise typer.Exit(ExitCode.UNEXPECTED) from None
