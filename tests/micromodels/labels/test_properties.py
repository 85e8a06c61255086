"""Any labels come back as they were written, and any content gives labels or `InvalidInput`."""

from __future__ import annotations

import contextlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from micromodels.errors import InvalidInput
from micromodels.labels.files import read_labels, write_labels
from micromodels.labels.formats import LabelFormat, LabelPart, label_formats
from micromodels.labels.geometry import to_mask
from micromodels.labels.label_json import label_from_dict, label_to_dict
from micromodels.labels.validation import check_anchor
from micromodels.types import HUMAN, AnyLabel, Box, FrameLabel, Label, Mask, Polygon, Provenance, ProvenanceKind, State
from tests.micromodels.labels.helpers import (
    COUNTS,
    FRAMES,
    HEIGHT,
    SCHEMA,
    VIDEO,
    WIDTH,
    annotation,
    assert_same_labels,
    coco,
    seed,
)

names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8)
pixels_x, pixels_y = st.floats(0, WIDTH), st.floats(0, HEIGHT)
corners = st.tuples(pixels_x, pixels_y, pixels_x, pixels_y)
boxes = corners.filter(lambda b: b[2] > b[0] + 1e-6 and b[3] > b[1] + 1e-6).map(lambda b: Box(*b))
triangles = (
    st.lists(st.tuples(pixels_x, pixels_y), min_size=3, max_size=3)
    .map(lambda points: Polygon(tuple(points)))
    .filter(lambda p: to_mask(p, HEIGHT, WIDTH).any())
)
masks = (
    st.binary(min_size=16, max_size=16)
    .filter(any)
    .map(
        lambda bits: Mask.from_array(
            np.resize(np.unpackbits(np.frombuffer(bits, np.uint8)), (HEIGHT, WIDTH)).astype(np.bool_)
        )
    )
)
confidences = st.none() | st.floats(0, 1)
provenances = st.builds(Provenance, st.sampled_from(ProvenanceKind), names | st.just(""))


@st.composite
def some_labels(draw: st.DrawFn) -> list[AnyLabel]:
    """Labels of one video that may stand in one file, in order of frames."""
    tracks = draw(st.dictionaries(names, names, max_size=3))
    taken = set(tracks.values())
    frame_classes = draw(st.lists(names.filter(lambda name: name not in taken), unique=True, max_size=2))
    labels: list[AnyLabel] = []
    for frame in sorted(draw(st.sets(st.integers(0, FRAMES - 1), max_size=4))):
        for track, name in tracks.items():
            shape = draw(st.none() | boxes | triangles | masks)
            states = [State.VISIBLE, State.OCCLUDED, State.UNCERTAIN] if shape else [State.ABSENT]
            state, provenance = draw(st.sampled_from(states)), draw(provenances)
            if shape is None and provenance.kind is not ProvenanceKind.HUMAN and draw(st.booleans()):
                state = State.UNCERTAIN
            labels.append(Label(frame, track, name, state, shape, draw(confidences), provenance))
        for name in frame_classes:
            labels.append(FrameLabel(frame, name, draw(st.booleans()), draw(confidences), draw(provenances)))
    return labels


def kept(labels: list[AnyLabel], parts: frozenset[LabelPart]) -> list[AnyLabel]:
    """Labels that a format of these parts keeps whole."""
    of_shape = {Box: LabelPart.BOXES, Polygon: LabelPart.POLYGONS, Mask: LabelPart.MASKS}
    found: list[AnyLabel] = []
    for label in labels:
        if LabelPart.CONFIDENCE not in parts:
            label = replace(label, confidence=None)
        if LabelPart.PROVENANCE not in parts:
            label = replace(label, provenance=HUMAN)
        if isinstance(label, FrameLabel):
            found += [label] if LabelPart.FRAME_CLASSES in parts else []
        elif label.shape is None or label.state is not State.VISIBLE:
            found += [label] if LabelPart.STATES in parts else []
        elif of_shape[type(label.shape)] in parts:
            found.append(label)
    return [label for label in found if not isinstance(label, Label) or label.shape or LabelPart.STATES in parts]


@pytest.mark.parametrize("chosen", label_formats(), ids=lambda one: str(one.name))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(labels=some_labels())
def test_a_format_gives_back_what_it_says_that_it_keeps(
    chosen: LabelFormat, labels: list[AnyLabel], tmp_path: Path
) -> None:
    """Whatever is written: the labels that it keeps come back as they were, boxes to rounding; all are counted."""
    path = tmp_path / "exports" / chosen.file_name
    shutil.rmtree(path.parent, ignore_errors=True)
    path.parent.mkdir()
    labels = kept(labels, chosen.keeps)
    assert write_labels(path, labels, video=VIDEO, format=chosen.name) == len(labels)
    assert list(path.parent.iterdir()) == [path]
    if chosen.can_read:
        assert_same_labels(read_labels(path, video=VIDEO), labels)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(labels=some_labels())
def test_any_native_lines_are_in_order_and_fit_the_schema(labels: list[AnyLabel], tmp_path: Path) -> None:
    """Native files give back labels to the last digit."""
    write_labels(tmp_path / "a.jsonl", labels)
    assert read_labels(tmp_path / "a.jsonl", video=VIDEO) == labels
    for line in (tmp_path / "a.jsonl").read_text(encoding="utf-8").split("\n")[:-1]:
        SCHEMA.validate(json.loads(line))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KEYS = ["frame", "track", "class", "state", "box", "polygon", "mask", "confidence", "provenance", "other"]
near_values = json_values | st.sampled_from(
    [0, 1, "1", "polyp", "visible", "absent", "present", [1, 2, 3, 4], [[0, 0], [4, 0], [4, 4]], {"kind": "model"},
     {"size": [2, 2], "counts": "4"}, {"size": [2, 2], "counts": "04"}]
)  # fmt: skip
near_labels = st.dictionaries(st.sampled_from(KEYS), near_values) | st.builds(
    lambda key, value: {**seed(), key: value}, st.sampled_from(KEYS), near_values
)


@settings(max_examples=400, deadline=None)
@given(entry=near_labels | json_values)
def test_any_json_gives_a_label_or_invalid_input(entry: object) -> None:
    """Nothing but `InvalidInput` comes out; what the reader accepts, the schema accepts, and it is written back."""
    try:
        label = label_from_dict(entry)
        check_anchor(label)
    except InvalidInput:
        return
    assert SCHEMA.is_valid(entry)
    assert label_from_dict(label_to_dict(label)) == label


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_give_labels_or_invalid_input(content: bytes, tmp_path: Path) -> None:
    """Both readers answer random files with `InvalidInput`, or nothing where there are only blanks."""
    for name in ("a.jsonl", "a.json"):
        (tmp_path / name).write_bytes(content)
        try:
            labels = read_labels(tmp_path / name)
        except InvalidInput:
            continue
        assert labels == []


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_coco_file_gives_labels_or_invalid_input(data: st.DataObject, tmp_path: Path) -> None:
    """Any value of a COCO file put in the place of any other brings out nothing but `InvalidInput`."""
    document = coco(
        annotation(), annotation(id=2, image_id=2, segmentation={"size": [HEIGHT, WIDTH], "counts": COUNTS})
    )
    spots: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key in node if isinstance(node, dict) else range(len(node)):
            spots.append((node, key))
            if isinstance(node[key], (dict, list)):
                walk(node[key])

    walk(document)
    node, key = data.draw(st.sampled_from(spots))
    node[key] = data.draw(near_values)
    (tmp_path / "a.json").write_text(json.dumps(document))
    with contextlib.suppress(InvalidInput):
        read_labels(tmp_path / "a.json", video=VIDEO)
