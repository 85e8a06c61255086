"""The orientation of a picture in its Exif data (Exif 2.32, tag 0x0112)."""

from __future__ import annotations

import struct

from micromodels.video.pixels import Orientation

__all__ = ["exif_orientation", "orientation_of_value"]

_ORIENTATION_TAG = 0x0112
_MAX_ENTRIES = 512

# By value of the tag: how to turn the stored picture.
_ORIENTATIONS = {
    1: Orientation(),
    2: Orientation(flip_x=True),
    3: Orientation(flip_x=True, flip_y=True),
    4: Orientation(flip_y=True),
    5: Orientation(transpose=True),
    6: Orientation(transpose=True, flip_x=True),
    7: Orientation(transpose=True, flip_x=True, flip_y=True),
    8: Orientation(transpose=True, flip_y=True),
}


def exif_orientation(data: bytes) -> Orientation:
    """The orientation of a JPEG, PNG or TIFF picture; upright without a valid tag."""
    try:
        return orientation_of_value(_orientation_value(_tiff_part(data)))
    except (struct.error, IndexError):
        return Orientation()


def orientation_of_value(value: int) -> Orientation:
    """Orientation of a value of the tag; upright for invalid values."""
    return _ORIENTATIONS.get(value, Orientation())


def _tiff_part(data: bytes) -> bytes:
    """The part in TIFF format; empty if none."""
    if data[:4] in (b"II*\0", b"MM\0*"):
        return data
    if data.startswith(b"\x89PNG"):
        position = 8
        while position + 8 <= len(data):
            length, kind = struct.unpack_from(">I4s", data, position)
            if kind == b"eXIf":
                return data[position + 8 : position + 8 + length]
            if kind == b"IDAT":
                break
            position += length + 12
        return b""
    position = 2
    while data[position] == 0xFF and data[position + 1] != 0xDA:  # up to the start of the scan
        (length,) = struct.unpack_from(">H", data, position + 2)
        if data[position + 1] == 0xE1 and data[position + 4 : position + 10] == b"Exif\0\0":
            return data[position + 10 : position + 2 + length]
        position += 2 + length
    return b""


def _orientation_value(tiff: bytes) -> int:
    """The tag's value in the first directory, 1 if missing (TIFF 6.0, section 2)."""
    if not tiff:
        return 1
    order = "<" if tiff.startswith(b"II") else ">"
    (directory,) = struct.unpack_from(f"{order}I", tiff, 4)
    (entries,) = struct.unpack_from(f"{order}H", tiff, directory)
    for number in range(min(entries, _MAX_ENTRIES)):
        tag, _, _, value = struct.unpack_from(f"{order}HHIH", tiff, directory + 2 + 12 * number)
        if tag == _ORIENTATION_TAG:
            return int(value)
    return 1
