"""What a job's child process and its supervisor say to each other: JSON lines, one way each.

The child reads one task, then orders, from its standard input; the end of it means that the supervisor is gone, and
the child ends. It writes messages to what was its standard output when it started. Each message is an object with
``"say"`` and the fields below.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from micromodels.errors import VideoError
from micromodels.labels.keys import LabelKey
from micromodels.types import AnyLabel
from service.store.codec import decode_label, encode_label, key_from_json, key_to_json

__all__ = [
    "MAX_LINE_BYTES",
    "Order",
    "Say",
    "Task",
    "error_reason",
    "label_from_json",
    "label_to_json",
    "read_labels",
    "read_settled",
    "write_labels",
    "write_settled",
]

MAX_LINE_BYTES = 256 << 20
"""A longer line means that the child has gone mad. The frame table of a video of hours has tens of megabytes."""


class Order(StrEnum):
    """What the supervisor may send after the task."""

    CANCEL = "cancel"
    FINISH_EARLY = "finish_early"


class Say(StrEnum):
    """Kinds of message."""

    EVENT = "event"
    """``kind``, ``payload`` and, for a picture, ``picture``: base64 of a JPEG."""
    FRAME = "frame"
    """``frame`` and ``labels``: all labels of one frame."""
    FRAME_TABLE = "frame_table"
    """``table``."""
    MODEL = "model"
    """``folder`` (a saved model) and ``manifest``."""
    RESULT = "result"
    """``values``, a part of what the job ends with."""
    FILE = "file"
    """``path``: a finished file."""
    CHANGE = "change"
    """Of a session: ``key`` and ``label``, the label that stands there now; null for none."""
    LEARNED = "learned"
    """Of a session: ``folder``, the micro-model as it is now that it has learned from a correction."""
    ANSWER = "answer"
    """Of a session, when a request is done: ``value``."""
    REFUSED = "refused"
    """Of a session: this request cannot be done; fields as in ``ERROR``. The next one may be."""
    DONE = "done"
    CANCELLED = "cancelled"
    ERROR = "error"
    """``error_class``, ``reason`` and ``message``."""


@dataclass(frozen=True, slots=True)
class Task:
    """Everything that a child needs to do a job; it has no access to the store."""

    kind: str
    spec: Mapping[str, Any]
    video_path: str
    scratch: str
    """Its own folder, for files in and out."""
    cache: str
    """The feature cache, shared with other jobs."""
    device: str
    niceness: int
    checkpoint: Mapping[str, Any]
    """Where an earlier try got to: any of ``next_frame``, ``model_id`` and ``version``."""
    checkpoints: str = ""
    """Folder that the tries of this job share, for the state of a training."""
    ontology: Mapping[str, Any] = field(default_factory=dict)
    frame_table: str = ""
    """File in scratch with the frame table as JSON; empty when it is to be built."""
    labels: str = ""
    """File in scratch, in the form of ``write_labels``: the anchors, or for an export all labels."""
    model: str = ""
    """Folder in scratch with the saved model to use; empty if there is none yet."""
    learned: Sequence[str] = ()
    """Folders in scratch with what that model became by learning from corrections, the oldest first."""
    settled: str = ""
    """File in scratch with the keys of labels that people accepted or locked, in the form of ``write_settled``."""

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
    "MemoryError": "OOM",
    "VideoError": "VIDEO_REFUSED",
    "ModelError": "MODEL_REFUSED",
    "TrainingError": "TRAINING_FAILED",
    "OutOfRange": "INVALID_INPUT",
}


def error_reason(error: BaseException) -> str:
    """What went wrong, for machines; see ``JobError.reason``."""
    if isinstance(error, VideoError) and "decoding process" in str(error):
        return "DECODE_CRASH"
    name = type(error).__name__
    return _REASONS.get(name) or re.sub(r"(?<!^)(?=[A-Z])", "_", name).upper()
