"""Finds what a path refers to, a video file or a folder of pictures, without decoding."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

from micromodels.errors import InvalidInput, VideoError

__all__ = ["PICTURE_SUFFIXES", "VideoSource", "find_source", "is_tiff_stack"]

PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"})
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:")
_ALLOWED = "the path of a video file, or of a folder of png, jpg, bmp, webp or tif pictures"


@dataclass(frozen=True, slots=True)
class VideoSource:
    """A file, or a folder and the names of its pictures in frame order."""

    path: Path
    names: tuple[str, ...] | None

    def content_hash(self) -> str:
        """See ``FrameTable.content_hash``."""
        try:
            if self.names is None:
                return _file_hash(self.path)
            lines = (f"{_file_hash(self.path / name)}  {name}\n" for name in self.names)
            return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
        except OSError as error:
            raise VideoError(f"cannot read {Path(error.filename or self.path).name}: {error.strerror}") from None


def _file_hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_source(path: str | os.PathLike[str]) -> VideoSource:
    """Find the video of a path.

    Raises:
        InvalidInput: a URL, a missing path, neither file nor folder, or a folder without pictures.
    """
    text = os.fspath(path)
    if not isinstance(text, str) or not text or "\0" in text:
        raise InvalidInput("path", text, _ALLOWED)
    try:
        mode = os.stat(text).st_mode
    except OSError as error:
        if _SCHEME.match(text):
            raise InvalidInput("path", text, f"{_ALLOWED}; not a URL") from None
        raise InvalidInput("path", text, f"{_ALLOWED} ({error.strerror})") from None
    if stat.S_ISREG(mode):
        return VideoSource(Path(text).absolute(), None)
    if not stat.S_ISDIR(mode):
        raise InvalidInput("path", text, f"{_ALLOWED}; not a device, pipe or socket")
    names = [
        entry.name
        for entry in os.scandir(text)
        if not entry.name.startswith(".") and Path(entry.name).suffix.lower() in PICTURE_SUFFIXES and entry.is_file()
    ]
    if not names:
        raise InvalidInput("path", text, f"{_ALLOWED}; the folder has no pictures")
    return VideoSource(Path(text).absolute(), tuple(sorted(names, key=_natural_key)))


def is_tiff_stack(path: Path) -> bool:
    """Whether a file is a TIFF with a second page; reads only its header."""
    try:
        with open(path, "rb") as file:
            head = file.read(16)
            order = {b"II": "<", b"MM": ">"}.get(head[:2])
            if order is None:
                return False
            (version,) = struct.unpack_from(f"{order}H", head, 2)
            if version not in (42, 43):
                return False
            wide = version == 43  # BigTIFF
            (directory,) = struct.unpack_from(f"{order}Q" if wide else f"{order}I", head, 8 if wide else 4)
            file.seek(directory)
            (entries,) = struct.unpack(f"{order}Q" if wide else f"{order}H", file.read(8 if wide else 2))
            file.seek(entries * (20 if wide else 12), os.SEEK_CUR)
            (following,) = struct.unpack(f"{order}Q" if wide else f"{order}I", file.read(8 if wide else 4))
            return bool(following)
    except (OSError, struct.error, OverflowError, ValueError):
        return False


def _natural_key(name: str) -> tuple[tuple[tuple[int, int, str], ...], str]:
    """Sorts ``frame2`` before ``frame10``; names that differ only in leading zeros or case are sorted by code point."""
    parts = re.split(r"([0-9]+)", name)
    return tuple((0, int(p), "") if p.isdigit() else (1, 0, p.casefold()) for p in parts if p), name
