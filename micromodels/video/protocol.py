"""Messages between a ``Video`` and its decoding process.

Every message is a header (type: u8, payload length: u32, little-endian) and a payload. Pixels are not sent in
messages: the decoding process writes them into slots of shared memory and sends the slot number.

=========  =========  ============================================================================================
direction  message    payload
=========  =========  ============================================================================================
to child   OPEN       JSON: path, names (of a folder's pictures, or null), limits, table (or null: build one)
to child   SLOTS      JSON: count, bytes; the shared memory has this size
to child   READ       request: u32, start: u64, stop: u64 (half-open); replaces the current request
to child   DONE       request: u32; the oldest slot in use was copied and is free again
to parent  OPENED     JSON of the frame table; an empty object if a table was given
to parent  BEAT       empty: still working
to parent  FRAME      request: u32, index: u64, slot: u32
to parent  END        request: u32; all requested frames were sent
to parent  ERROR      JSON: request (0 while opening), kind (key of ``ERROR_KINDS``), message
=========  =========  ============================================================================================
"""

from __future__ import annotations

import json
import struct
from enum import IntEnum
from typing import Any

from micromodels.errors import FrameMismatch, VideoError

__all__ = ["ERROR_KINDS", "FRAME", "HEADER", "MAX_PAYLOAD_BYTES", "READ", "REQUEST", "Kind", "pack", "pack_json"]

HEADER = struct.Struct("<BI")
READ = struct.Struct("<IQQ")
FRAME = struct.Struct("<IQI")
REQUEST = struct.Struct("<I")

MAX_PAYLOAD_BYTES = 256 << 20
"""The frame table of two million frames as JSON is smaller than half of this."""

ERROR_KINDS: dict[str, type[VideoError]] = {"video": VideoError, "mismatch": FrameMismatch}


class Kind(IntEnum):
    """Message types."""

    OPEN = 1
    SLOTS = 2
    READ = 3
    DONE = 4
    OPENED = 16
    BEAT = 17
    FRAME = 18
    END = 19
    ERROR = 20


def pack(kind: Kind, payload: bytes = b"") -> bytes:
    """Encode one message."""
    return HEADER.pack(kind, len(payload)) + payload


def pack_json(kind: Kind, value: dict[str, Any]) -> bytes:
    """Encode one message with a JSON payload."""
    return pack(kind, json.dumps(value, separators=(",", ":")).encode())
