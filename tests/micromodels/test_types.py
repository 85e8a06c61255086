"""What the types take, what they make of it, and what they refuse."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from micromodels.errors import InvalidInput
from micromodels.labels.keys import LabelKey
from micromodels.types import (
    MAX_POLYGON_VERTICES,
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

BOX = Box(1, 2, 3, 4)
SQUARE = ((0.0, 0.0), (4.0, 0.0), (4.0, 4.0))


def refused(field: str, make: Any, *arguments: Any, **named: Any) -> str:
    """Make something that is refused for a field; the whole message."""
    with pytest.raises(InvalidInput) as error:
        make(*arguments, **named)
    assert error.value.field == field
    assert error.value.allowed
    return str(error.value)


# --- numbers of NumPy ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int8, np.int64, np.uint16])
def test_a_box_takes_numbers_of_numpy(dtype: type) -> None:
    """It is the same as one of plain numbers, in what it holds too."""
    made = Box(*np.array([1, 2, 3, 4], dtype))
    assert made == BOX
    assert {type(value) for value in made.as_list()} <= {int, float}


@pytest.mark.parametrize("points", [SQUARE, [list(point) for point in SQUARE], np.array(SQUARE, np.float32)])
def test_a_polygon_takes_pairs_of_any_kind(points: Any) -> None:
    made = Polygon(points)
    assert made == Polygon(SQUARE)
    assert made.points == SQUARE
    assert all(type(point) is tuple and {type(value) for value in point} == {float} for point in made.points)
    assert hash(made) == hash(Polygon(SQUARE))


def test_a_label_takes_numbers_of_numpy() -> None:
    made = Label(np.int64(3), "1", "a", State.VISIBLE, BOX, np.float32(0.5))  # type: ignore[arg-type]
    assert (made.frame, made.confidence) == (3, 0.5)
    assert (type(made.frame), type(made.confidence)) == (int, float)
    frame = FrameLabel(np.uint8(3), np.str_("dark"), np.bool_(True))  # type: ignore[arg-type]
    assert (type(frame.frame), type(frame.frame_class), frame.present) == (int, str, True)
    mask = Mask(np.int32(3), np.int64(4), "42102")  # type: ignore[arg-type]
    assert (type(mask.height_px), type(mask.width_px)) == (int, int)


def test_a_confidence_is_a_float() -> None:
    assert type(Label(0, "1", "a", State.VISIBLE, BOX, 1).confidence) is float


# --- words -----------------------------------------------------------------------------------------------------------


def test_words_stand_for_members() -> None:
    """A state, a kind of shape and a kind of provenance may be given as their words."""
    label = Label(0, "1", "a", "visible", BOX, provenance=Provenance("model"))  # type: ignore[arg-type]
    assert label.state is State.VISIBLE
    assert label.provenance.kind is ProvenanceKind.MODEL
    assert not label.is_anchor
    assert ObjectClass("a", shapes={"box", ShapeKind.MASK}).shapes == {ShapeKind.BOX, ShapeKind.MASK}  # type: ignore[arg-type]


def test_a_state_given_as_a_word_is_checked_with_its_shape() -> None:
    refused("shape", Label, 0, "1", "a", "visible", None)
    refused("state", Label, 0, "1", "a", "absent", BOX)


def test_other_words_are_refused() -> None:
    text = refused("state", Label, 0, "1", "a", "seen", BOX)
    assert text == "state: got 'seen'; allowed: one of visible, occluded, absent, uncertain"
    refused("state", Label, 0, "1", "a", None)
    refused("provenance.kind", Provenance, "robot")
    refused("object_class.shapes", ObjectClass, "a", shapes=["circle"])


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [None, "1", True, float("nan"), float("inf"), np.nan, np.bool_(True), [1]])
def test_a_coordinate_is_a_finite_number(wrong: Any) -> None:
    refused("box", Box, 0, 0, 1, wrong)
    refused("polygon[2]", Polygon, [(0, 0), (1, 1), (0, wrong)])


def test_a_box_covers_something() -> None:
    refused("box", Box, 3, 0, 3, 1)
    refused("box", Box, *np.array([0, 5, 3, 1]))


@pytest.mark.parametrize(
    ("field", "points"),
    [
        ("polygon", [(0, 0), (1, 1)]),
        ("polygon", [(0, 0)] * (MAX_POLYGON_VERTICES + 1)),
        ("polygon", 3),
        ("polygon", iter(SQUARE)),
        ("polygon[0]", "abc"),
        ("polygon[1]", [(0, 0), 1, (1, 1)]),
        ("polygon[1]", [(0, 0), (1, 2, 3), (1, 1)]),
        ("polygon[0]", np.zeros(6)),
        ("polygon[0]", np.zeros((3, 3))),
    ],
)
def test_a_polygon_has_pairs(field: str, points: Any) -> None:
    refused(field, Polygon, points)


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("mask.height_px", (0, 4, "42102")),
        ("mask.width_px", (3, 4.0, "42102")),
        ("mask.width_px", (3, True, "42102")),
        ("mask.size", (1 << 15, 1 << 15, "0")),
        ("mask.counts", (3, 4, b"42102")),
        ("mask.counts", (3, 4, None)),
        ("mask.counts", (3, 4, "4210")),
        ("mask.counts", (3, 4, "")),
        ("mask.counts", (3, 4, "4210é")),
        ("mask.counts", (3, 4, "4210p")),
        ("mask.counts", (3, 4, "4210/")),
        ("mask.counts", (3, 4, "4210P")),
        ("mask.counts", (3, 4, "PPPPPPPPPPPPPPP0")),
        ("mask.counts", (3, 4, "@2")),
    ],
)
@pytest.mark.usefixtures("decoder")
def test_a_mask_is_checked(field: str, arguments: tuple[Any, ...]) -> None:
    """Its size, and every character and run of its code: the decoder of pycocotools trusts them."""
    refused(field, Mask, *arguments)


@pytest.fixture(params=["with NumPy", "without NumPy"])
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of reading run lengths."""
    if request.param == "without NumPy":
        monkeypatch.setattr("micromodels.types._numpy", lambda: None)


@pytest.mark.usefixtures("decoder")
def test_runs_of_a_mask_are_those_that_were_coded() -> None:
    """Up to lengths of several characters, and with differences below zero."""
    rng = np.random.default_rng(0)
    for share in (0.0, 0.002, 0.5, 1.0):
        pixels = rng.random((200, 300)) < share
        mask = Mask.from_array(pixels)
        flat = pixels.T.ravel()
        edges = np.flatnonzero(np.diff(np.concatenate([[False], flat])))
        assert mask.runs() == np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
        assert mask.area_px() == np.count_nonzero(pixels)


@given(counts=st.text(st.characters(min_codepoint=46, max_codepoint=113), max_size=12))
def test_any_counts_are_runs_or_refused(counts: str) -> None:
    """Both ways of reading them say the same."""
    answers = set()
    for numpy in (None, np):
        with mock.patch("micromodels.types._numpy", lambda numpy=numpy: numpy):
            try:
                answers.add(tuple(Mask.runs(SimpleNamespace(counts=counts))))  # type: ignore[arg-type]
            except InvalidInput as error:
                answers.add(str(error))
    assert len(answers) == 1


@pytest.mark.parametrize("shape", [(0, 0, 1, 1), "box", np.ones((3, 3), bool), State.VISIBLE])
def test_a_label_has_a_shape_or_none(shape: Any) -> None:
    text = refused("shape", Label, 0, "1", "a", State.VISIBLE, shape)
    assert "a Box, Polygon or Mask" in text


@pytest.mark.parametrize("frame", [-1, 1.0, "1", True, None, np.float32(1)])
def test_a_frame_is_an_index(frame: Any) -> None:
    refused("frame", Label, frame, "1", "a", State.VISIBLE, BOX)
    refused("frame", FrameLabel, frame, "a", True)
    refused("frame", LabelKey, frame=frame, name="1")


@pytest.mark.parametrize("name", ["", "a\0b", "a" * 201, 1, None])
def test_names_are_short_words(name: Any) -> None:
    refused("track", Label, 0, name, "a", State.VISIBLE, BOX)
    refused("class", Label, 0, "1", name, State.VISIBLE, BOX)
    refused("class", FrameLabel, 0, name, True)
    refused("name", LabelKey, frame=0, name=name)
    refused("object_class.name", ObjectClass, name)
    refused("frame_class.name", FrameClass, name)


@pytest.mark.parametrize("confidence", [-0.1, 1.1, float("nan"), "0.5", True])
def test_a_confidence_is_a_probability(confidence: Any) -> None:
    refused("confidence", Label, 0, "1", "a", State.VISIBLE, BOX, confidence)
    refused("confidence", FrameLabel, 0, "a", True, confidence)


@pytest.mark.parametrize("present", [1, 0, "present", None, np.array([True])])
def test_a_frame_class_holds_or_does_not(present: Any) -> None:
    refused("present", FrameLabel, 0, "a", present)


def test_a_provenance_is_one() -> None:
    for make in (
        lambda p: Label(0, "1", "a", State.VISIBLE, BOX, None, p),
        lambda p: FrameLabel(0, "a", True, None, p),
    ):
        refused("provenance", make, ProvenanceKind.HUMAN)
    refused("provenance.version", Provenance, ProvenanceKind.HUMAN, None)


# --- ontology --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("given", "kept"), [("", ""), ("#12ABef", "#12ABef"), ("#1bF", "#11bbFF")])
def test_a_color_is_written_out(given: str, kept: str) -> None:
    assert ObjectClass("a", given).color == FrameClass("a", given).color == kept


@pytest.mark.parametrize("color", ["red", "112233", "#12345", "#1122334", "#gggggg", "#12\n", None, 0x112233])
def test_a_color_is_hexadecimal(color: Any) -> None:
    refused("object_class.color", ObjectClass, "a", color)
    refused("frame_class.color", FrameClass, "a", color)


def test_properties_of_a_class_are_checked() -> None:
    refused("object_class.shapes", ObjectClass, "a", shapes=())
    refused("object_class.shapes", ObjectClass, "a", shapes="box")
    refused("object_class.shapes[0]", ObjectClass, "a", shapes=[1])
    refused("object_class.max_instances", ObjectClass, "a", max_instances=-1)
    refused("object_class.max_instances", ObjectClass, "a", max_instances=1.5)
    refused("object_class.max_instances", ObjectClass, "a", max_instances=True)
    refused("object_class.flip", ObjectClass, "a", flip="no")
    refused("object_class.excludes", ObjectClass, "a", excludes="b")
    refused("frame_class.excludes[0]", FrameClass, "a", excludes=[1])


def test_an_ontology_takes_lists() -> None:
    made = Ontology([ObjectClass("a", excludes=["b"])], [FrameClass("b")])  # type: ignore[arg-type]
    assert made == Ontology((ObjectClass("a", excludes=("b",)),), (FrameClass("b"),))
    assert hash(made) == hash(replace(made))


def test_an_ontology_holds_classes() -> None:
    refused("object_classes", Ontology, "a")
    refused("object_classes", Ontology, ObjectClass("a"))
    refused("object_classes[0]", Ontology, ["a"])
    refused("frame_classes[1]", Ontology, (), (FrameClass("a"), ObjectClass("b")))
    refused("ontology", Ontology, (ObjectClass("a"),), (FrameClass("a"),))
    refused("object_classes[0].excludes", Ontology, (ObjectClass("a", excludes=("b",)),))


# --- keys ------------------------------------------------------------------------------------------------------------


def test_a_key_is_made_by_words_only() -> None:
    """Nothing can be put in the place of something else."""
    with pytest.raises(TypeError):
        LabelKey(3, "car")  # type: ignore[misc]


def test_keys_sort_as_streams_do() -> None:
    """By frame, object tracks before frame classes, then by name."""
    keys = [
        LabelKey(frame=0, name="b"),
        LabelKey(frame=0, name="a", is_frame_class=True),
        LabelKey(frame=1, name="a"),
    ]
    assert sorted(reversed(keys)) == keys
    assert str(keys[0]) == "frame 0 track 'b'"
    assert str(keys[1]) == "frame 0 class 'a'"


def test_a_label_has_a_key() -> None:
    assert LabelKey.of(Label(3, "1", "a", State.VISIBLE, BOX)) == LabelKey(frame=3, name="1")
    assert LabelKey.of(FrameLabel(3, "dark", True)) == LabelKey(frame=3, name="dark", is_frame_class=True)


@pytest.mark.parametrize(
    "value", [BOX, Polygon(SQUARE), Mask(3, 4, "42102"), LabelKey(frame=3, name="1"), Ontology((ObjectClass("a"),))]
)
def test_values_cross_processes(value: object) -> None:
    assert pickle.loads(pickle.dumps(value)) == value


# --- the base install ------------------------------------------------------------------------------------------------

LIGHT = """
import sys

HEAVY = {"numpy", "pycocotools", "torch", "cv2", "av", "PIL", "torchvision"}

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HEAVY:
            raise ImportError(f"{name} is not in the base install")

sys.meta_path.insert(0, Refuse())
"""


def run_light(code: str) -> None:
    """Run code in a process that has only what the base install has."""
    done = subprocess.run([sys.executable, "-c", LIGHT + code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_the_base_install_reads_labels_with_masks() -> None:
    """Masks are checked, sent, read and measured without NumPy and pycocotools."""
    run_light("""
from micromodels.client import Client
from micromodels.client.messages import label_from_message, label_to_message
from micromodels.errors import InvalidInput
from micromodels.types import Box, Label, Mask, Polygon, State

mask = Mask(3, 4, "42102")
assert mask.area_px() == 4
for shape in (mask, Box(0, 0, 3, 4), Polygon([(0, 0), (4, 0), (4, 3)])):
    label = Label(0, "1", "polyp", State.VISIBLE, shape)
    assert label_from_message(label_to_message(label)) == label
try:
    Mask(3, 4, "4210")
except InvalidInput:
    pass
else:
    raise AssertionError("damaged runs were taken")
""")


def test_the_base_install_measures_boxes_and_polygons() -> None:
    run_light("""
from micromodels.labels.geometry import area_px, bounds
from micromodels.labels.keys import LabelKey
from micromodels.types import Box, Label, Polygon, State

box, ring = Box(0, 0, 4, 3), Polygon([(0, 0), (4, 0), (4, 3)])
assert bounds(box) == bounds(ring) == box
assert (area_px(box), area_px(ring)) == (12, 6)
assert LabelKey.of(Label(2, "1", "polyp", State.VISIBLE, ring)) == LabelKey(frame=2, name="1")
""")
