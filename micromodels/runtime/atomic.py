"""Files and folders that appear under their name when they are complete, or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

__all__ = ["atomic_path", "atomic_text"]


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A place beside ``path`` to make a file or a folder in; it is renamed to ``path`` when the block ends well.

    When the block ends with an error, what it made is removed and ``path`` is as it was. A file replaces the file that
    was there; a folder replaces only an empty one.

    Raises:
        OSError: the file system refused; also a folder that is to replace one that is not empty.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.partial")
    try:
        yield partial
        if partial.is_file():
            with partial.open("rb") as file:
                os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_text(path: Path) -> Iterator[TextIO]:
    """A UTF-8 file that replaces ``path`` when the block ends well and vanishes when it does not.

    Raises:
        OSError: the file system refused.
    """
    with atomic_path(path) as partial, partial.open("x", encoding="utf-8", newline="\n") as file:
        yield file
