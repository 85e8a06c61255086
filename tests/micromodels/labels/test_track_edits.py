"""Swap, split, merge, delete: what becomes of the labels, and that humans' stay humans'."""

from __future__ import annotations

import pytest

from micromodels.errors import InvalidInput
from micromodels.labels.keys import LabelKey, apply
from micromodels.labels.track_edits import delete_track, merge_tracks, split_track, swap_tracks
from micromodels.types import AnyLabel, Box, Label, Provenance, ProvenanceKind, State

MODEL = Provenance(ProvenanceKind.MODEL, "v1")


def label(frame: int, track: str, left: float = 0.0, human: bool = False, name: str = "cell") -> Label:
    confidence = None if human else 0.5
    shape = Box(left, 0, left + 10, 10)
    return Label(
        frame, track, name, State.VISIBLE, shape, confidence, Provenance(ProvenanceKind.HUMAN) if human else MODEL
    )


def two() -> dict[LabelKey, AnyLabel]:
    """Track a at 0, track b at 100, frames 0 to 5; a is human on frames 0 and 4."""
    labels = [label(f, "a", 0, human=f in (0, 4)) for f in range(6)] + [label(f, "b", 100) for f in range(6)]
    return {LabelKey.of(x): x for x in labels}


def left(labels: dict[LabelKey, AnyLabel], frame: int, track: str) -> float | None:
    held = labels.get(LabelKey(frame=frame, name=track))
    return held.shape.x1 if isinstance(held, Label) and isinstance(held.shape, Box) else None


def test_a_swap_exchanges_shapes_from_a_frame_on() -> None:
    """Before the frame nothing changes; a human shape stays human under its new name; twice is not at all."""
    before = two()
    after = apply(before, swap_tracks(before.values(), "a", "b", 3))
    assert [left(after, f, "a") for f in range(6)] == [0, 0, 0, 100, 100, 100]
    assert [left(after, f, "b") for f in range(6)] == [100, 100, 100, 0, 0, 0]
    assert after[LabelKey(frame=4, name="b")].is_anchor
    assert not after[LabelKey(frame=4, name="a")].is_anchor
    assert apply(after, swap_tracks(after.values(), "a", "b", 3)) == before
    ranged = apply(before, swap_tracks(before.values(), "a", "b", 3, 4))
    assert [left(ranged, f, "a") for f in range(6)] == [0, 0, 0, 100, 0, 0]


def test_a_split_gives_the_rest_to_a_new_track() -> None:
    """The labels from the frame on have the new name, and the old one has none of them."""
    before = two()
    after = apply(before, split_track(before.values(), "a", 2, "c"))
    assert sorted(key.frame for key in after if key.name == "a") == [0, 1]
    assert sorted(key.frame for key in after if key.name == "c") == [2, 3, 4, 5]
    assert after[LabelKey(frame=4, name="c")].is_anchor
    assert merge_back(after) == before


def merge_back(labels: dict[LabelKey, AnyLabel]) -> dict[LabelKey, AnyLabel]:
    return apply(labels, merge_tracks(labels.values(), "a", "c"))


def test_a_merge_prefers_what_a_human_drew() -> None:
    """Where both have a label the human one is kept; the other track is gone."""
    before = two()
    before[LabelKey(frame=2, name="b")] = label(2, "b", 100, human=True)
    after = apply(before, merge_tracks(before.values(), "a", "b"))
    assert not [key for key in after if key.name == "b"]
    assert left(after, 2, "a") == 100
    assert left(after, 4, "a") == 0
    before[LabelKey(frame=4, name="b")] = label(4, "b", 100, human=True)
    with pytest.raises(InvalidInput, match="did not both draw on frame 4"):
        merge_tracks(before.values(), "a", "b")


def test_a_deleted_track_is_gone() -> None:
    """From the frame on there is no label of it, also none that a human drew; the other track is as it was."""
    before = two()
    after = apply(before, delete_track(before.values(), "a", 3))
    assert sorted(key.frame for key in after if key.name == "a") == [0, 1, 2]
    assert {k: x for k, x in after.items() if k.name == "b"} == {k: x for k, x in before.items() if k.name == "b"}
    ranged = apply(before, delete_track(before.values(), "a", 3, 4))
    assert sorted(key.frame for key in ranged if key.name == "a") == [0, 1, 2, 4, 5]


def test_a_swap_leaves_every_track_its_class() -> None:
    """A class belongs to a track, not to what was drawn under its name."""
    before = two() | {LabelKey.of(x): x for x in [label(f, "c", 50, name="dog") for f in range(6)]}
    after = apply(before, swap_tracks(before.values(), "a", "c", 3))
    classes = {(key.name, x.object_class) for key, x in after.items() if isinstance(x, Label)}
    assert classes == {("a", "cell"), ("b", "cell"), ("c", "dog")}
    assert left(after, 4, "c") == 0
    assert after[LabelKey(frame=4, name="c")].is_anchor


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda labels: swap_tracks(labels, "a", "a", 0), "another track"),
        (lambda labels: swap_tracks(labels, "a", "x", 0), "other_track"),
        (lambda labels: merge_tracks([*labels, label(0, "c", name="dog")], "a", "c"), "class cell, not dog"),
        (lambda labels: split_track(labels, "a", 0, "c"), "before it and from it on"),
        (lambda labels: split_track(labels, "a", 2, "b"), "does not exist yet"),
        (lambda labels: merge_tracks(labels, "a", "a"), "another track"),
        (lambda labels: delete_track(labels, "a", 9), "up to the last label"),
    ],
)
def test_what_is_refused(call, match: str) -> None:  # type: ignore[no-untyped-def]
    """Tracks that are not there, the same, or of another class; frames that leave nothing."""
    with pytest.raises(InvalidInput, match=match):
        call(list(two().values()))
