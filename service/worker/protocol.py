"""The protocol between the server and a worker process: a task and orders one way, messages the other, as JSON lines.

The worker reads one task, then orders, from its standard input; the end of it means that the server is gone, and the
worker ends. It writes messages to what was its standard output when it started. A message is an object with ``"type"``,
a ``MessageType``, and the fields that are documented there.
"""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from micromodels.errors import MicromodelsError, VideoError
from micromodels.labels.keys import LabelKey
from micromodels.types import AnyLabel
from service.domain.codec import decode_label, encode_label, key_from_json, key_to_json

__all__ = [
    "MAX_LINE_BYTES",
    "SESSION",
    "MessageType",
    "Order",
    "Task",
    "error_fields",
    "label_from_json",
    "label_to_json",
    "read_labels",
    "read_settled",
    "write_labels",
    "write_settled",
]

SESSION = "session"
"""Kind of the task of a label session."""

MAX_LINE_BYTES = 256 << 20
"""A longer line means that the worker is malfunctioning. The frame table of a video of hours has tens of megabytes."""


class Order(StrEnum):
    """What the server may send to the worker of a job after the task."""

    CANCEL = "cancel"
    FINISH_EARLY = "finish_early"
    """End the training with the weights that it has, and continue with them."""


class MessageType(StrEnum):
    """What a worker may send."""

    EVENT = "event"
    """``kind``, ``payload`` and, for a picture, ``picture``: base64 of a JPEG."""
    FRAME = "frame"
    """``frame`` and ``labels``: all labels of one frame."""
    FRAME_TABLE = "frame_table"
    """``table``."""
    MODEL = "model"
    """``folder`` (a saved model) and ``manifest``."""
    RESULT = "result"
    """``values``, a part of the job's result."""
    FILE = "file"
    """``path``: a finished file."""
    CHANGE = "change"
    """Of a session: ``key`` and ``label``, the label of that key now; null for none."""
    LEARNED = "learned"
    """Of a session: ``folder``, the micro-model after it has learned from a correction."""
    RESPONSE = "response"
    """Of a session, when a request is done: ``value``."""
    REFUSED = "refused"
    """Of a session: this request failed; fields as in ``ERROR``. The worker waits for the next one."""
    DONE = "done"
    CANCELLED = "cancelled"
    ERROR = "error"
    """``error_class``, ``reason`` and ``message``."""


@dataclass(frozen=True, slots=True)
class Task:
    """Everything that a worker needs for a job or a session; it has no access to the store."""

    kind: str
    """A ``JobKind``, or ``SESSION``."""
    spec: Mapping[str, Any]
    video_path: str
    scratch: str
    """The worker's own folder, for files in and out."""
    cache: str
    """The feature cache, shared with other jobs."""
    device: str
    niceness: int
    checkpoint: Mapping[str, Any]
    """What earlier tries have stored: any of ``next_frame``, ``model_id`` and ``version``; and what this try must do
    otherwise: ``smaller``, ``device``."""
    checkpoints: str = ""
    """Folder that the tries of this job share, for the state of a training."""
    ontology: Mapping[str, Any] = field(default_factory=dict)
    frame_table: str = ""
    """File in scratch with the frame table as JSON; empty for a probe, which makes one."""
    labels: str = ""
    """File in scratch, as ``write_labels`` writes it: the anchors, or for an export, a retraining or a session all
    labels; empty for a probe."""
    model: str = ""
    """Folder in scratch with the saved model to use; empty if there is none yet."""
    learned: Sequence[str] = ()
    """Folders in scratch with the states of that model after it had learned from corrections, the oldest first."""
    settled: str = ""
    """File in scratch with the keys of labels that people accepted or locked, as ``write_settled`` writes it."""

    def to_line(self) -> bytes:
        """As a line of JSON."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Task:
        """From a line of JSON."""
        return cls(**json.loads(line))


def label_to_json(label: AnyLabel) -> list[Any]:
    """A label as a JSON list."""
    return [*key_to_json(LabelKey.of(label)), encode_label(label)]


def label_from_json(values: list[Any]) -> AnyLabel:
    """The label that ``label_to_json`` wrote."""
    *key, payload = values
    return decode_label(key_from_json(key), payload)


def write_settled(path: Path, keys: Iterable[LabelKey]) -> None:
    """Write keys to a file."""
    path.write_text(json.dumps([key_to_json(key) for key in keys]), encoding="utf-8")


def read_settled(path: Path) -> list[LabelKey]:
    """Read what ``write_settled`` wrote."""
    return [key_from_json(values) for values in json.loads(path.read_bytes())]


def write_labels(path: Path, labels: Iterable[AnyLabel]) -> None:
    """Write labels to a file, one a line."""
    with path.open("w", encoding="utf-8") as file:
        for label in labels:
            file.write(json.dumps(label_to_json(label)) + "\n")


def read_labels(path: Path) -> Iterator[AnyLabel]:
    """Read what ``write_labels`` wrote, label by label."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield label_from_json(json.loads(line))


_REASONS = {  # where the class' own name in upper case would not do
    "OutOfMemory": "OOM",
    "VideoError": "VIDEO_REFUSED",
    "ModelError": "MODEL_REFUSED",
    "TrainingError": "TRAINING_FAILED",
    "OutOfRange": "INVALID_INPUT",
}


def error_fields(error: Exception) -> dict[str, str]:
    """The fields of ``ERROR`` and ``REFUSED``, as those of ``JobError``."""
    if isinstance(error, MicromodelsError):
        return {"error_class": type(error).__name__, "reason": _reason(error), "message": str(error)}
    if isinstance(error, MemoryError):
        return {"error_class": "OutOfMemory", "reason": "OOM", "message": str(error) or "out of memory"}
    message = f"{type(error).__name__}: {error}"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return {"error_class": "ResourceExhausted", "reason": "RESOURCE_EXHAUSTED", "message": message}
    return {"error_class": "", "reason": "DEVICE_LOST" if _is_of_device(error) else "INTERNAL", "message": message}


def _reason(error: MicromodelsError) -> str:
    if isinstance(error, VideoError) and "decoding process" in str(error):
        return "DECODE_CRASH"
    name = type(error).__name__
    return _REASONS.get(name) or re.sub(r"(?<!^)(?=[A-Z])", "_", name).upper()


def _is_of_device(error: Exception) -> bool:
    """Whether the GPU failed or is gone; torch and ONNX Runtime show that in the message only."""
    return type(error).__name__ == "AcceleratorError" or re.search(r"\bCUDA\b.*(error|failure)", str(error)) is not None
