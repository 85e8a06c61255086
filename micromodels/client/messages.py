"""Converts labels and ontologies to API messages and back; used by both client and server."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar, assert_never

from micromodels.errors import InvalidInput, OutOfRange
from micromodels.types import (
    MAX_POLYGON_VERTICES,
    AnyLabel,
    Box,
    FrameClass,
    FrameLabel,
    Label,
    Mask,
    ObjectClass,
    Ontology,
    Polygon,
    Provenance,
    ProvenanceKind,
    Shape,
    ShapeKind,
    State,
)
from micromodels.v1 import label_pb2, project_pb2

__all__ = [
    "label_batches",
    "label_errors",
    "label_from_message",
    "label_to_message",
    "ontology_from_message",
    "ontology_to_message",
]

V = TypeVar("V")

_BATCH_LABELS = 1000
_BATCH_BYTES = 4 << 20

_STATES: dict[State, label_pb2.ObjectState.ValueType] = {
    State.VISIBLE: label_pb2.OBJECT_STATE_VISIBLE,
    State.OCCLUDED: label_pb2.OBJECT_STATE_OCCLUDED,
    State.ABSENT: label_pb2.OBJECT_STATE_ABSENT,
    State.UNCERTAIN: label_pb2.OBJECT_STATE_UNCERTAIN,
}
_STATES_BACK = {number: state for state, number in _STATES.items()}

_PROVENANCES: dict[ProvenanceKind, label_pb2.ProvenanceKind.ValueType] = {
    ProvenanceKind.HUMAN: label_pb2.PROVENANCE_KIND_HUMAN,
    ProvenanceKind.MODEL: label_pb2.PROVENANCE_KIND_MODEL,
    ProvenanceKind.INTERPOLATED: label_pb2.PROVENANCE_KIND_INTERPOLATED,
}
_PROVENANCES_BACK = {number: kind for kind, number in _PROVENANCES.items()}

_SHAPE_KINDS: dict[ShapeKind, label_pb2.ShapeKind.ValueType] = {
    ShapeKind.BOX: label_pb2.SHAPE_KIND_BOX,
    ShapeKind.POLYGON: label_pb2.SHAPE_KIND_POLYGON,
    ShapeKind.MASK: label_pb2.SHAPE_KIND_MASK,
}
_SHAPE_KINDS_BACK = {number: kind for kind, number in _SHAPE_KINDS.items()}


def label_to_message(label: AnyLabel, revision: int = 0) -> label_pb2.Label:
    """Convert a label to a message."""
    kind = _PROVENANCES[label.provenance.kind]
    message = label_pb2.Label(
        frame_index=label.frame,
        confidence=label.confidence,
        provenance=label_pb2.Provenance(kind=kind, version=label.provenance.version),
        revision=revision,
    )
    if isinstance(label, FrameLabel):
        message.frame_class.frame_class = label.frame_class
        message.frame_class.present = label.present
        return message
    target = message.object
    target.track, target.object_class, target.state = label.track, label.object_class, _STATES[label.state]
    match label.shape:
        case None:
            pass
        case Box() as box:
            target.box.x1, target.box.y1, target.box.x2, target.box.y2 = box.as_list()
        case Polygon() as ring:
            target.polygon.coordinates.extend(value for point in ring.points for value in point)
        case Mask() as mask:
            target.mask.height_px, target.mask.width_px, target.mask.counts = mask.height_px, mask.width_px, mask.counts
        case unknown:
            assert_never(unknown)
    return message


def label_from_message(message: label_pb2.Label, where: str = "label") -> AnyLabel:
    """Convert a message to a label.

    Args:
        message: the received message.
        where: path of the message in the request, for errors.

    Raises:
        InvalidInput: a value is not allowed; the error's field is its path in the request.
        OutOfRange: the frame is negative.
    """
    if message.frame_index < 0:
        raise OutOfRange(f"{where}.frame_index", message.frame_index, "a frame of the video, at least 0")
    kind = message.provenance.kind or label_pb2.PROVENANCE_KIND_HUMAN
    if len(message.provenance.version) > 200:
        raise InvalidInput(f"{where}.provenance.version", message.provenance.version, "at most 200 characters")
    provenance = Provenance(_known(_PROVENANCES_BACK, kind, f"{where}.provenance.kind"), message.provenance.version)
    confidence = message.confidence if message.HasField("confidence") else None
    subject = message.WhichOneof("subject")
    if subject == "frame_class":
        target = message.frame_class
        with label_errors(where, subject):
            return FrameLabel(message.frame_index, target.frame_class, target.present, confidence, provenance)
    if subject is None:
        raise InvalidInput(f"{where}.subject", None, "object or frame_class")
    item = message.object
    state = _known(_STATES_BACK, item.state, f"{where}.object.state")
    with label_errors(where, subject):
        shape = _shape(item)
        return Label(message.frame_index, item.track, item.object_class, state, shape, confidence, provenance)


def _shape(item: label_pb2.ObjectLabel) -> Shape | None:
    kind = item.WhichOneof("shape")
    if kind == "box":
        return Box(item.box.x1, item.box.y1, item.box.x2, item.box.y2)
    if kind == "polygon":
        values = item.polygon.coordinates
        if len(values) % 2:
            raise InvalidInput("polygon.coordinates", f"{len(values)} numbers", "an even number: x0, y0, x1, y1, ...")
        if len(values) > 2 * MAX_POLYGON_VERTICES:  # check the size before copying
            raise InvalidInput("polygon", f"{len(values) // 2} points", f"3 to {MAX_POLYGON_VERTICES} points")
        return Polygon(tuple(zip(values[::2], values[1::2], strict=True)))
    if kind == "mask":
        return Mask(item.mask.height_px, item.mask.width_px, item.mask.counts)
    return None


@contextmanager
def label_errors(where: str, subject: str) -> Iterator[None]:
    """Prefix errors about a label's field with the path of the field in the request.

    Args:
        where: path of the label's message.
        subject: ``object`` or ``frame_class``.
    """
    try:
        yield
    except InvalidInput as error:
        raise type(error)(f"{where}.{_label_field(error.field, subject)}", error.value, error.allowed) from None


def _label_field(name: str, subject: str) -> str:
    """Path, in a label's message, of the field that the types call ``name``."""
    if name == "confidence":
        return name
    if name == "frame":
        return "frame_index"
    if name == "class":
        name = "object_class" if subject == "object" else "frame_class"
    elif name == "mask.size":
        name = "mask"
    elif match := re.fullmatch(r"box\[([0-3])\]", name):
        name = "box." + ("x1", "y1", "x2", "y2")[int(match[1])]
    elif match := re.fullmatch(r"polygon\[(\d+)\](?:\[([01])\])?", name):
        name = f"polygon.coordinates[{2 * int(match[1]) + int(match[2] or 0)}]"
    return f"{subject}.{name}"


def ontology_to_message(ontology: Ontology) -> project_pb2.Project:
    """A project message with only the classes."""
    return project_pb2.Project(
        object_classes=[
            project_pb2.ObjectClass(
                name=c.name,
                color=c.color,
                # Send all shapes as an empty list, so that kinds added later are allowed too.
                shapes=[] if c.shapes == frozenset(ShapeKind) else [_SHAPE_KINDS[kind] for kind in sorted(c.shapes)],
                max_instances=c.max_instances,
                flip=c.flip,
                excludes=c.excludes,
            )
            for c in ontology.object_classes
        ],
        frame_classes=[
            project_pb2.FrameClass(name=c.name, color=c.color, excludes=c.excludes) for c in ontology.frame_classes
        ],
    )


def ontology_from_message(
    object_classes: Iterable[project_pb2.ObjectClass],
    frame_classes: Iterable[project_pb2.FrameClass],
    where: str = "project",
) -> Ontology:
    """The classes of a project message.

    Raises:
        InvalidInput: a value is not allowed; the error's field is its path in the request.
    """
    objects, frames = [], []
    for index, item in enumerate(object_classes):
        path = f"{where}.object_classes[{index}]"
        kinds = [_known(_SHAPE_KINDS_BACK, kind, f"{path}.shapes[{i}]") for i, kind in enumerate(item.shapes)]
        flip = item.flip if item.HasField("flip") else True
        with _path(path, "object_class."):
            allowed = frozenset(kinds) or frozenset(ShapeKind)
            objects.append(ObjectClass(item.name, item.color, allowed, item.max_instances, flip, tuple(item.excludes)))
    for index, entry in enumerate(frame_classes):
        path = f"{where}.frame_classes[{index}]"
        with _path(path, "frame_class."):
            frames.append(FrameClass(entry.name, entry.color, tuple(entry.excludes)))
    with _path(where):
        return Ontology(tuple(objects), tuple(frames))


def _known(table: Mapping[Any, V], number: int, where: str) -> V:
    if number not in table:
        raise InvalidInput(where, number, "one of " + ", ".join(str(value) for value in table.values()))
    return table[number]


@contextmanager
def _path(path: str, prefix: str = "") -> Iterator[None]:
    """Give the field of an error, less a prefix, its full path in the request."""
    try:
        yield
    except InvalidInput as error:
        raise type(error)(f"{path}.{error.field.removeprefix(prefix)}", error.value, error.allowed) from None


def label_batches(labels: Iterable[AnyLabel]) -> Iterator[list[label_pb2.Label]]:
    """Label messages in batches well below the message size limit."""
    batch: list[label_pb2.Label] = []
    size_bytes = 0
    for message in map(label_to_message, labels):
        if batch and (len(batch) >= _BATCH_LABELS or size_bytes + message.ByteSize() > _BATCH_BYTES):
            yield batch
            batch, size_bytes = [], 0
        batch.append(message)
        size_bytes += message.ByteSize()
    if batch:
        yield batch
