"""Where a command may write: never over its input, not over earlier results unasked, and only where it can."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from micromodels.errors import InvalidInput

__all__ = ["OverwriteOption", "check_output_file", "check_output_folder", "refuse_inputs"]

OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace the results of an earlier run.")]

_CURE = "add --overwrite to replace what is there, or choose another place"


def check_output_folder(
    option: str, folder: Path, inputs: Iterable[Path | str], results: Sequence[str], *, overwrite: bool
) -> None:
    """Check a folder for results before any work is done; it is made on trial, and left as it was.

    Args:
        option: how the user names it, for messages.
        folder: need not be there.
        inputs: what the command reads; what does not exist is left to the reader.
        results: names of the files and folders that will be written into it.
        overwrite: whether those may be there already.

    Raises:
        InvalidInput: it is, contains or lies in an input, or holds results.
        OSError: it cannot be made or written to.
    """
    refuse_inputs(option, folder, inputs)
    there = [name for name in results if (folder / name).exists()]
    if there and not overwrite:
        raise InvalidInput(option, str(folder), f"a folder without {there[0]}; {_CURE}")
    missing = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        message = f"{error.strerror}: {option} must name a folder that can be written to"
        raise OSError(error.errno, message, str(folder)) from None
    finally:
        for path in missing:
            if path.is_dir():
                path.rmdir()


def check_output_file(option: str, file: Path, inputs: Iterable[Path | str], *, overwrite: bool) -> None:
    """The same for one file.

    Raises:
        InvalidInput: it is an input or lies in one, or is there already.
        OSError: its folder cannot be made or written to.
    """
    refuse_inputs(option, file, inputs)
    if file.is_dir():
        raise InvalidInput(option, str(file), "the name of a file, not a folder")
    if file.exists() and not overwrite:
        raise InvalidInput(option, str(file), f"a file that is not there yet; {_CURE}")
    check_output_folder(option, file.absolute().parent, (), (), overwrite=True)


def refuse_inputs(option: str, out: Path, inputs: Iterable[Path | str]) -> None:
    """Refuse an output that is, contains or lies in an input.

    Raises:
        InvalidInput: naming both.
    """
    target = out.resolve()
    for one in inputs:
        source = Path(one)
        if not source.exists():
            continue
        place = source.resolve()
        if place == target or (out.exists() and out.samefile(source)):
            raise InvalidInput(option, str(out), f"another place than the input {source}: it would be replaced")
        if place.is_dir() and target.is_relative_to(place):
            raise InvalidInput(option, str(out), f"a place outside of the input {source}")
        if place.is_relative_to(target):
            raise InvalidInput(option, str(out), f"a folder that does not hold the input {source}")
