"""Files and folders that appear completely or not at all."""

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
    """A temporary path beside ``path`` for a file or folder; renamed to ``path`` if the block succeeds.

    If the block fails, its output is deleted and ``path`` is unchanged. A file replaces an existing file; a folder
    replaces only an empty one.

    Raises:
        OSError: the file system refused, or the folder to replace is not empty.
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
    """A UTF-8 file that replaces ``path`` if the block succeeds, and is deleted otherwise.

    Raises:
        OSError: the file system refused.
    """
    with atomic_path(path) as partial, partial.open("x", encoding="utf-8", newline="\n") as file:
        yield file
