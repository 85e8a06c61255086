"""Labels and ontologies as compact JSON: how the database keeps them and workers are sent them.

Independent of the exchange formats.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, assert_never

from micromodels.labels.keys import LabelKey
from micromodels.types import (
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

__all__ = [
    "decode_label",
    "decode_ontology",
    "encode_label",
    "encode_ontology",
    "key_from_json",
    "key_to_json",
    "payload_of_class",
]


def key_to_json(key: LabelKey) -> list[Any]:
    """The key of a label as a JSON list."""
    return [key.frame, key.is_frame_class, key.name]


def key_from_json(values: Sequence[Any]) -> LabelKey:
    """The key that ``key_to_json`` wrote."""
    frame, is_frame_class, name = values
    return LabelKey(frame=frame, is_frame_class=is_frame_class, name=name)


def encode_label(label: AnyLabel) -> str:
    """Encode the part of a label that is not in its key."""
    payload: dict[str, Any] = {"by": [label.provenance.kind.value, label.provenance.version]}
    if label.confidence is not None:
        payload["confidence"] = label.confidence
    if isinstance(label, FrameLabel):
        payload["present"] = label.present
    else:
        payload["class"] = label.object_class
        payload["state"] = label.state.value
        if label.shape is not None:
            payload["shape"] = _encode_shape(label.shape)
    return json.dumps(payload, separators=(",", ":"), ensure_ascii=False)


def decode_label(key: LabelKey, text: str) -> AnyLabel:
    """The label that ``encode_label`` wrote."""
    payload = json.loads(text)
    kind, version = payload["by"]
    provenance = Provenance(ProvenanceKind(kind), version)
    confidence = payload.get("confidence")
    if key.is_frame_class:
        return FrameLabel(key.frame, key.name, payload["present"], confidence, provenance)
    shape = _decode_shape(payload["shape"]) if "shape" in payload else None
    return Label(key.frame, key.name, payload["class"], State(payload["state"]), shape, confidence, provenance)


def payload_of_class(text: str, class_name: str) -> str:
    """An encoded object label with another class."""
    return json.dumps(json.loads(text) | {"class": class_name}, separators=(",", ":"), ensure_ascii=False)


def _encode_shape(shape: Shape) -> list[Any]:
    match shape:
        case Box():
            return ["box", *shape.as_list()]
        case Polygon():
            return ["polygon", *shape.points]
        case Mask():
            return ["mask", shape.height_px, shape.width_px, shape.counts]
        case _:
            assert_never(shape)


def _decode_shape(values: list[Any]) -> Shape:
    kind, rest = ShapeKind(values[0]), values[1:]
    match kind:
        case ShapeKind.BOX:
            return Box(*rest)
        case ShapeKind.POLYGON:
            return Polygon(rest)
        case ShapeKind.MASK:
            return _checked_before(*rest)
        case _:
            assert_never(kind)


def _checked_before(height_px: int, width_px: int, counts: str) -> Mask:
    """Create a mask without checking its runs: they were checked before, and the check dominates the cost of a read."""
    mask = object.__new__(Mask)
    for name, value in (("height_px", height_px), ("width_px", width_px), ("counts", counts)):
        object.__setattr__(mask, name, value)
    return mask


def encode_ontology(ontology: Ontology) -> dict[str, Any]:
    """An ontology as JSON."""
    return {
        "object_classes": [
            {
                "name": c.name,
                "color": c.color,
                "shapes": sorted(kind.value for kind in c.shapes),
                "max_instances": c.max_instances,
                "flip": c.flip,
                "excludes": list(c.excludes),
            }
            for c in ontology.object_classes
        ],
        "frame_classes": [
            {"name": c.name, "color": c.color, "excludes": list(c.excludes)} for c in ontology.frame_classes
        ],
    }


def decode_ontology(data: dict[str, Any]) -> Ontology:
    """The ontology that ``encode_ontology`` wrote."""
    return Ontology(
        tuple(
            ObjectClass(
                c["name"],
                c["color"],
                frozenset(map(ShapeKind, c["shapes"])),
                c["max_instances"],
                c["flip"],
                tuple(c.get("excludes", ())),  # absent in projects of earlier versions
            )
            for c in data["object_classes"]
        ),
        tuple(FrameClass(c["name"], c["color"], tuple(c.get("excludes", ()))) for c in data["frame_classes"]),
    )
