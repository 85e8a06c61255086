"""Pictures: what is drawn where, and that nothing that a label can be breaks the drawing."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from micromodels.errors import InvalidInput
from micromodels.output.overlay import MAX_COLUMNS, PALETTE, flip_book, overlay, track_color
from micromodels.runtime.run import FlipBookPicture
from micromodels.types import (
    Box,
    FrameClass,
    FrameLabel,
    FrameResult,
    Label,
    Mask,
    ObjectClass,
    Ontology,
    Polygon,
    Provenance,
    ProvenanceKind,
    State,
)

# pycocotools 2.0.11 predates a rule of numpy 2 about __array__; nothing to do here.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

Image = npt.NDArray[np.uint8]
HEIGHT, WIDTH = 240, 320
GRAY: Image = np.full((HEIGHT, WIDTH, 3), 100, np.uint8)
MODEL = Provenance(ProvenanceKind.MODEL, "m")


def square(x1: int, y1: int, x2: int, y2: int) -> Mask:
    """A filled rectangle as a mask."""
    area = np.zeros((HEIGHT, WIDTH), np.bool_)
    area[y1:y2, x1:x2] = True
    return Mask.from_array(area)


def label(shape: Any, **changes: Any) -> Label:
    """A predicted label of track 1."""
    entry = {"track": "1", "state": State.VISIBLE, "confidence": 0.9, "provenance": MODEL, **changes}
    return Label(5, entry["track"], "dog", entry["state"], shape, entry["confidence"], entry["provenance"])


def draw(*labels: Label, frame_labels: tuple[FrameLabel, ...] = (), ontology: Ontology | None = None) -> Image:
    """Draw labels on gray."""
    return overlay(GRAY, FrameResult(5, labels, frame_labels), ontology)


def near(pixel: npt.NDArray[np.uint8], color: tuple[int, ...]) -> bool:
    """Whether a pixel has a color; smooth lines are blended at their edges."""
    return bool(np.abs(pixel.astype(int) - color).max() < 60)


def test_a_mask_is_blended_inside_and_nothing_outside() -> None:
    """Inside between picture and color, outside untouched, the input as it was."""
    picture = draw(label(square(100, 80, 200, 160)))
    inside = picture[120, 150].astype(float)
    expected = 100 * 0.62 + np.array(PALETTE[0]) * 0.38
    assert np.abs(inside - expected).max() <= 1
    assert (picture[180, 150] == 100).all()
    assert (GRAY == 100).all()
    assert picture.shape == GRAY.shape
    assert picture.dtype == np.uint8


def test_boxes_and_polygons_have_outlines_in_the_track_color() -> None:
    """The box's last row and column are inside of its half-open edges; its inside stays clear."""
    picture = draw(label(Box(100, 80, 201, 161)))
    assert near(picture[120, 100], PALETTE[0])
    assert near(picture[120, 200], PALETTE[0])
    assert (picture[120, 150] == 100).all()
    picture = draw(label(Polygon(((100, 80), (200, 80), (200, 160), (100, 160)))))
    assert near(picture[160, 150], PALETTE[0])
    assert (picture[120, 150] != 100).any()


def test_what_a_person_drew_is_marked() -> None:
    """A white rim around the shape, and other words in the corner."""
    human = draw(label(square(100, 80, 200, 160), provenance=Provenance(ProvenanceKind.HUMAN), confidence=None))
    model = draw(label(square(100, 80, 200, 160)))
    assert (human[120, 94:99] > 240).all(axis=-1).any()
    assert not (model[120, 94:99] > 240).all(axis=-1).any()
    assert (human[200:] != model[200:]).any()


def test_states_are_drawn_differently() -> None:
    """Visible outlines are whole; those of occluded and uncertain ones have gaps."""
    shape = square(100, 80, 220, 200)
    whole = {}
    for state in (State.VISIBLE, State.OCCLUDED, State.UNCERTAIN):
        column = draw(label(shape, state=state))[85:195, 100]
        whole[state] = float((np.abs(column.astype(int) - PALETTE[0]).max(axis=1) < 40).mean())
    assert whole[State.VISIBLE] == 1.0
    assert 0.2 < whole[State.OCCLUDED] < 0.9
    assert 0.2 < whole[State.UNCERTAIN] < 0.9


def test_absent_tracks_and_frame_classes_stand_in_the_corners() -> None:
    """Absent at the bottom right, frame classes at the top left; a crowd of absent ones leaves half of the picture."""
    empty = draw()
    absent = draw(label(None, state=State.ABSENT))
    assert (absent[-40:, WIDTH // 2 :] != empty[-40:, WIDTH // 2 :]).any()
    assert (absent[: HEIGHT // 2] == empty[: HEIGHT // 2]).all()
    tool = draw(frame_labels=(FrameLabel(5, "tool", True, 0.7, MODEL),))
    assert (tool[:30, : WIDTH // 2] != empty[:30, : WIDTH // 2]).any()
    crowd = draw(*(label(None, state=State.ABSENT, track=str(i)) for i in range(200)))
    assert (crowd[: HEIGHT // 2 - 30] == empty[: HEIGHT // 2 - 30]).all()


def test_colors_come_from_the_ontology_or_a_palette() -> None:
    """Neighboring tracks differ; a class's color is taken and shaded by track; a class without one has none."""
    assert len({track_color(str(i)) for i in range(1, len(PALETTE) + 1)}) == len(PALETTE)
    assert track_color("dog") == track_color("dog")
    blue = ObjectClass("dog", color="#2060ff")
    assert track_color("1", blue) == (0x20, 0x60, 0xFF)
    assert track_color("2", blue) != track_color("1", blue)
    assert track_color("1", ObjectClass("dog", color="#26f")) == (0x22, 0x66, 0xFF)
    assert track_color("1", ObjectClass("dog")) == PALETTE[0]
    ontology = Ontology((blue,), (FrameClass("tool", "#ff0000"),))
    picture = draw(label(Box(100, 80, 201, 161)), frame_labels=(FrameLabel(5, "tool", True),), ontology=ontology)
    assert near(picture[120, 100], (0x20, 0x60, 0xFF))


def test_tags_do_not_cover_each_other() -> None:
    """Two boxes at the same place have both of their tags readable."""
    one = draw(label(Box(100, 80, 200, 160)))
    two = draw(label(Box(100, 80, 200, 160)), label(Box(100, 80, 200, 160), track="2"))

    def tag_pixels(picture: Image, track: str) -> int:
        near = np.abs(picture.astype(int) - track_color(track)).max(axis=2) < 30
        return int(near[:70].sum() + near[170:].sum() + near[90:150, 105:195].sum())

    assert tag_pixels(one, "1") > 200
    assert tag_pixels(two, "1") > 150
    assert tag_pixels(two, "2") > 150


shapes = st.one_of(
    st.none(),
    st.tuples(st.floats(-500, 500), st.floats(-500, 500), st.floats(0.01, 900), st.floats(0.01, 900)).map(
        lambda b: Box(b[0], b[1], b[0] + b[2], b[1] + b[3])
    ),
    st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)), min_size=3, max_size=6).map(
        lambda points: Polygon(tuple(points))
    ),
    st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(0, 60), st.integers(0, 60)).map(lambda b: square(*b)),
)


@settings(max_examples=60, deadline=None)
@given(
    shape=shapes,
    state=st.sampled_from(State),
    track=st.text(min_size=1, max_size=200).filter(lambda text: "\0" not in text),
    size=st.tuples(st.integers(1, 80), st.integers(1, 80)),
)
def test_nothing_that_a_label_can_be_breaks_the_drawing(
    shape: Any, state: State, track: str, size: tuple[int, int]
) -> None:
    """Shapes far outside, empty masks, long or strange names, tiny pictures."""
    state = State.ABSENT if shape is None else (State.VISIBLE if state is State.ABSENT else state)
    if isinstance(shape, Mask):
        size = (HEIGHT, WIDTH)
    image = np.zeros((*size, 3), np.uint8)
    result = FrameResult(5, (label(shape, state=state, track=track),), (FrameLabel(5, track, False),))
    assert overlay(image, result).shape == image.shape


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3))])
def test_what_is_no_picture_is_refused(image: Any) -> None:
    """Gray, with alpha, or of floats."""
    with pytest.raises(InvalidInput, match="RGB uint8"):
        overlay(image, FrameResult(0))
    with pytest.raises(InvalidInput, match="RGB uint8"):
        flip_book([FlipBookPicture(0, 0, 0, image)])


def test_a_mask_of_another_size_is_refused() -> None:
    """It would be drawn in the wrong place."""
    with pytest.raises(InvalidInput, match=r"mask\.size"):
        overlay(GRAY, FrameResult(0, (label(Mask.from_array(np.ones((2, 2), np.bool_))),)))


# --- flip book -------------------------------------------------------------------------------------------------------


def picture(
    step: int, frame: int, value: int, experiment: int = 0, size: tuple[int, int] = (90, 160)
) -> FlipBookPicture:
    """A flat gray picture."""
    return FlipBookPicture(experiment, step, frame, np.full((*size, 3), value, np.uint8))


def test_a_flip_book_has_a_row_a_frame_and_a_column_a_step() -> None:
    """Every cell shows its picture; the place of a picture that is missing stays dark."""
    sheet = flip_book([picture(s, f, 50 + 10 * f + s) for f in (3, 9) for s in (100, 0, 50) if (s, f) != (50, 9)])
    assert sheet.shape == (48 + 2 * 96 + 6, 96 + 3 * 166 + 6, 3)
    for row, frame in enumerate((3, 9)):
        for column, step in enumerate((0, 50, 100)):
            value = sheet[48 + row * 96 + 45, 96 + column * 166 + 80]
            expected = (34, 37, 46) if (step, frame) == (50, 9) else (50 + 10 * frame + step,) * 3
            assert tuple(value) == expected
    assert (sheet[:40] > 200).any(), "captions of steps"
    assert (sheet[60:, :90] > 200).any(), "captions of frames"


def test_many_steps_are_thinned_and_experiments_have_rows_of_their_own() -> None:
    """First and last step are kept, the sheet stays of a size that viewers open."""
    sheet = flip_book([picture(s, 0, s) for s in range(100)])
    assert sheet.shape[1] == 96 + MAX_COLUMNS * 166 + 6
    assert tuple(sheet[90, 100]) == (0, 0, 0)
    assert tuple(sheet[90, -20]) == (99, 99, 99)
    two = flip_book([picture(0, 0, 9, experiment) for experiment in (0, 1)])
    assert two.shape[0] == 48 + 2 * 96 + 6
    large = flip_book([picture(s, f, 9, size=(400, 300)) for s in range(8) for f in range(30)])
    assert max(large.shape) <= 4096


def test_a_flip_book_of_nothing_is_refused() -> None:
    """There is no empty picture."""
    with pytest.raises(InvalidInput, match="pictures"):
        flip_book([])


def test_an_overlay_without_captions_is_shapes_alone() -> None:
    """For small pictures: thicker lines, and nothing outside of the shape."""
    result = FrameResult(5, (label(Box(100, 80, 200, 160)),), (FrameLabel(5, "day", True, 0.9, MODEL),))
    changed = {scale: (overlay(GRAY, result, captions=False, line_scale=scale) != GRAY).any(2) for scale in (1.0, 3.0)}
    rows, columns = np.nonzero(changed[3.0])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == pytest.approx((79, 160, 99, 200), abs=2)
    assert changed[3.0].sum() > 2 * changed[1.0].sum() > 0
    assert (overlay(GRAY, result) != GRAY)[:60].any()
