"""All errors that micromodels raises on purpose.

::

    MicromodelsError
    ├── InvalidInput           a field has a value that is not allowed (field, value, allowed)
    │   └── OutOfRange         an index or offset is out of range; also an IndexError
    ├── FailedPrecondition     the request is valid, but not in the current state (no seeds, ...)
    ├── VideoError             the video cannot be decoded, or is refused
    │   └── FrameMismatch      decoded frames differ from the frame table
    ├── ModelError             a saved micro-model cannot be used
    ├── TrainingError          training failed
    │   ├── Diverged           the loss became NaN or infinite
    │   └── OutOfMemory        the device or the machine ran out of memory
    └── Cancelled              stopped by the user; finished frames are kept

All of them can be pickled (they cross process boundaries).
"""

from __future__ import annotations

__all__ = [
    "Cancelled",
    "Diverged",
    "FailedPrecondition",
    "FrameMismatch",
    "InvalidInput",
    "MicromodelsError",
    "ModelError",
    "OutOfMemory",
    "OutOfRange",
    "TrainingError",
    "VideoError",
]


class MicromodelsError(Exception):
    """Base of all errors raised on purpose."""


class InvalidInput(MicromodelsError):
    """A field holds a value that is not allowed.

    Args:
        field: dotted path of the field, such as ``"box[2]"`` or ``"line 3: box"``.
        value: the given value (shortened when shown).
        allowed: the accepted values, in words.
    """

    def __init__(self, field: str, value: object, allowed: str) -> None:
        super().__init__(field, value, allowed)
        self.field = field
        self.value = value
        self.allowed = allowed

    def __str__(self) -> str:
        shown = repr(self.value)
        if len(shown) > 120:
            shown = shown[:117] + "..."
        return f"{self.field}: got {shown}; allowed: {self.allowed}"


class OutOfRange(InvalidInput, IndexError):
    """An index or offset is out of range. It is also an ``IndexError``, as Python's own sequences raise it."""


class FailedPrecondition(MicromodelsError):
    """The request is valid, but not in the current state; the message says what is missing."""


class VideoError(MicromodelsError):
    """The video cannot be decoded or is refused; the message says why."""


class FrameMismatch(VideoError):
    """Decoded frames differ from the frame table."""


class ModelError(MicromodelsError):
    """A saved micro-model is damaged, of another version, or does not fit the request."""


class TrainingError(MicromodelsError):
    """Training failed; the message says how."""


class Diverged(TrainingError):
    """The loss became NaN or infinite; the previous model is kept."""


class OutOfMemory(TrainingError):
    """The device or the machine ran out of memory."""


class Cancelled(MicromodelsError):
    """Stopped by the user. Finished results are kept."""
