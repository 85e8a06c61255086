"""Checks where a command may write: never over its input, and over earlier results only with --overwrite."""

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

_CURE = "add --overwrite to replace it, or choose another name"


def check_output_folder(
    option: str, folder: Path, inputs: Iterable[Path | str], results: Sequence[str], *, overwrite: bool
) -> None:
    """Check a results folder before any work; it is created on trial, and left unchanged.

    Args:
        option: name of the option, for messages.
        folder: may be missing.
        inputs: inputs of the command; missing ones are left to their reader.
        results: names of the files and folders that will be written into it.
        overwrite: whether they may already exist.

    Raises:
        InvalidInput: it is, contains or is inside an input, or contains results.
        OSError: it cannot be created or written to.
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
        message = f"{error.strerror}: {option} must name a writable folder"
        raise OSError(error.errno, message, str(folder)) from None
    finally:
        for path in missing:
            if path.is_dir():
                path.rmdir()


def check_output_file(option: str, file: Path, inputs: Iterable[Path | str], *, overwrite: bool) -> None:
    """Check an output file in the same way.

    Raises:
        InvalidInput: it is an input or is inside one, or already exists.
        OSError: its folder cannot be created or written to.
    """
    refuse_inputs(option, file, inputs)
    if file.is_dir():
        raise InvalidInput(option, str(file), "the name of a file, not a folder")
    if file.exists() and not overwrite:
        raise InvalidInput(option, str(file), f"a file that does not exist yet; {_CURE}")
    check_output_folder(option, file.absolute().parent, (), (), overwrite=True)


def refuse_inputs(option: str, out: Path, inputs: Iterable[Path | str]) -> None:
    """Refuse an output that is, contains or is inside an input.

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
            raise InvalidInput(option, str(out), f"a path other than the input {source}, which would be overwritten")
        if place.is_dir() and target.is_relative_to(place):
            raise InvalidInput(option, str(out), f"a path outside the input {source}")
        if place.is_relative_to(target):
            raise InvalidInput(option, str(out), f"a folder that does not contain the input {source}")
