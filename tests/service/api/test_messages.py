"""Labels and ontologies as messages: nothing is lost either way, and nothing bad gets in."""

from __future__ import annotations

import string
from contextlib import suppress

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from micromodels.client import ApiError
from micromodels.client.messages import (
    label_from_message,
    label_to_message,
    ontology_from_message,
    ontology_to_message,
)
from micromodels.errors import InvalidInput
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
    ShapeKind,
    State,
)
from micromodels.v1 import label_pb2
from service.api import names
from service.api.errors import error_status
from service.api.messages import wire_label
from service.api.page_tokens import decode_token, encode_token
from service.domain.errors import AlreadyExists, NotFound, ResourceExhausted, WrongOffset

number = st.floats(-1e6, 1e6)
size = st.floats(0.5, 1e6)
text = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=1, max_size=20)
boxes = st.builds(lambda x, y, w, h: Box(x, y, x + w, y + h), number, number, size, size)
polygons = st.builds(Polygon, st.lists(st.tuples(number, number), min_size=3, max_size=30).map(tuple))
masks = st.just(Mask(2, 2, "13"))
provenances = st.builds(Provenance, st.sampled_from(ProvenanceKind), st.text(string.printable, max_size=20))
confidences = st.none() | st.floats(0, 1)
frames = st.integers(0, 2**53)
with_shape = st.builds(
    Label, frames, text, text, st.just(State.VISIBLE), boxes | polygons | masks, confidences, provenances
)
without_shape = st.builds(
    Label,
    frames,
    text,
    text,
    st.sampled_from([State.OCCLUDED, State.ABSENT, State.UNCERTAIN]),
    st.none(),
    confidences,
    provenances,
)
frame_labels = st.builds(FrameLabel, frames, text, st.booleans(), confidences, provenances)


@given(with_shape | without_shape | frame_labels)
def test_a_label_survives_the_way_there_and_back(label: AnyLabel) -> None:
    """Exactly the same, through bytes."""
    message = label_pb2.Label.FromString(label_to_message(label).SerializeToString())
    assert label_from_message(message) == label


@given(st.binary(max_size=200))
def test_whatever_parses_is_a_label_or_refused(data: bytes) -> None:
    """Bytes that parse as a message give a valid label or InvalidInput, never anything else."""
    try:
        message = label_pb2.Label.FromString(data)
    except DecodeError:
        return
    with suppress(InvalidInput):
        assert label_to_message(wire_label(message, "labels[0]"))


@given(st.lists(text, unique=True, max_size=6), st.sets(st.sampled_from(ShapeKind), min_size=1))
@settings(max_examples=50)
def test_an_ontology_survives_the_way_there_and_back(classes: list[str], shapes: set[ShapeKind]) -> None:
    """Colors, shapes, limits and flips."""
    half = len(classes) // 2
    ontology = Ontology(
        tuple(ObjectClass(c, "#123456", frozenset(shapes), i, i % 2 == 0) for i, c in enumerate(classes[:half])),
        tuple(FrameClass(c, "#abcdef") for c in classes[half:]),
    )
    message = ontology_to_message(ontology)
    assert ontology_from_message(message.object_classes, message.frame_classes) == ontology


@given(st.text(max_size=60))
def test_any_text_as_a_token_is_refused_in_words(token: str) -> None:
    """Tokens come from outside: whatever is in them, the answer is InvalidInput or a position that was given out."""
    made = encode_token(["a"], 7)
    assert decode_token("page_token", made, ["a"]) == 7
    if token and token != made:
        with pytest.raises(InvalidInput, match="page_token"):
            decode_token("page_token", token, ["a"])


def test_versions_of_micro_models_are_named_as_resources() -> None:
    """What the store calls `model@3` callers see as a resource name; other text stays as it is."""
    name = names.provenance_to_wire("p", "abc@3")
    assert name == "projects/p/microModels/abc/versions/3"
    assert names.provenance_from_wire(name) == "abc@3"
    assert names.provenance_to_wire("p", "Dr. A@B") == names.provenance_from_wire("Dr. A@B") == "Dr. A@B"


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (WrongOffset(5, 9), "OUT_OF_RANGE", {"expected_offset": "9"}),
        (NotFound("video", "v"), "NOT_FOUND", {}),
        (AlreadyExists("request_id", "r"), "ALREADY_EXISTS", {}),
        (ResourceExhausted("the disk is full", 60.0), "RESOURCE_EXHAUSTED", {}),
        (InvalidInput("a" * 5000, "b" * 5000, "c" * 5000), "INVALID_ARGUMENT", {}),
    ],
)
def test_errors_reach_the_client_whole(error: Exception, code: str, words: dict[str, str]) -> None:
    """Status, reason, metadata and time to wait, within what a header can hold."""
    status = error_status(error)  # type: ignore[arg-type]
    assert len(status.SerializeToString()) < 6000
    read = ApiError.from_status(status)
    assert (read.code, read.metadata) == (code, words)
    assert read.reason
    assert str(read).startswith(code)
    assert read.retry_after_seconds == getattr(error, "retry_after_seconds", None)


def test_every_reason_of_a_suggestion_has_a_message() -> None:
    """A new reason must be added to the API, or suggesting fails at once."""
    from micromodels.correction.frame_suggestions import ReasonKind
    from service.api.history_messages import _REASONS

    assert set(_REASONS) == {kind.value for kind in ReasonKind}
    assert len(set(_REASONS.values())) == len(_REASONS)
