"""What is suggested, why, and what looks wrong."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from micromodels.correction.consistency import IssueKind, consistency_issues, suspected_swaps
from micromodels.correction.frame_suggestions import (
    FAR,
    JudgedLabel,
    ReasonKind,
    Signals,
    Trust,
    distance_to_fixed,
    features_of,
    suggest,
)
from micromodels.errors import InvalidInput
from micromodels.labels.track_arrays import TrackSeries, empty_series, track_series
from micromodels.types import (
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
    State,
)

MODEL = Provenance(ProvenanceKind.MODEL, "v1")
HUMAN = Provenance(ProvenanceKind.HUMAN)
COUNT = 60


def straight(frame: int) -> Box | None:
    return Box(2 * frame, 10, 2 * frame + 20, 30)


def made(
    boxes: Callable[[int], Box | None] = straight,
    confidence: Callable[[int], float] = lambda frame: 0.9,
    human: tuple[int, ...] = (0,),
    track: str = "1",
    count: int = COUNT,
) -> TrackSeries:
    """A track of boxes with confidences."""
    labels = []
    for frame in range(count):
        box = boxes(frame)
        state = State.ABSENT if box is None else State.VISIBLE
        drawn = frame in human
        sure = None if drawn else confidence(frame)
        labels.append(Label(frame, track, "car", state, box, sure, HUMAN if drawn else MODEL))
    return track_series(labels, count)[track]


def test_the_middle_of_a_doubtful_run_is_suggested() -> None:
    """Sure everywhere but for frames 30 to 40: a frame of the run comes first, and another place second."""
    series = made(confidence=lambda f: 0.3 if 30 <= f <= 40 else 0.95, human=(0, 20, 50))
    first, second = suggest([series], Signals(COUNT), Trust(), 2)
    assert 32 <= first.frame <= 38
    assert first.reason_kind is ReasonKind.CONFIDENCE_DROP
    assert "drops to 30%" in first.reason_text
    assert first.expected_gain_frames > 2 * second.expected_gain_frames
    assert abs(first.frame - second.frame) > 2


def test_fixed_and_skipped_frames_are_not_suggested() -> None:
    """All frames come once, except those that are drawn, accepted or skipped."""
    series = made(count=12)
    series.fixed[3] = True
    found = {s.frame for s in suggest([series], Signals(12), Trust(), 50, frozenset({7}))}
    assert found <= set(range(12)) - {0, 3, 7}
    assert len(found) >= 5


def test_a_batch_is_spread() -> None:
    """With the same doubt everywhere the first frames are far from each other and from the anchor."""
    chosen = [s.frame for s in suggest([made(confidence=lambda f: 0.5)], Signals(COUNT), Trust(), 3)]
    assert min(abs(a - b) for a in [0, *chosen] for b in chosen if a != b) >= 8


def test_beyond_a_cut_nothing_is_known() -> None:
    """The scene without a checked frame comes first, and the cut is the reason where it is near."""
    signals = Signals(COUNT, cuts=frozenset({30}))
    (first,) = suggest([made(confidence=lambda f: 0.6)], signals, Trust(), 1)
    assert first.frame >= 30
    distance = distance_to_fixed(made().fixed, signals.cuts)
    assert distance[29] == 29
    assert distance[30] == FAR
    assert first.reason_text == "no checked frame of 1 in this scene"


def test_verdicts_change_what_is_trusted() -> None:
    """Corrections next to anchors shorten the reach and raise the doubt; acceptances far from them do the opposite."""
    series = made(confidence=lambda f: 0.6)
    features, distance = features_of(series, Signals(COUNT))
    bad = Trust([JudgedLabel(features[f], float(distance[f]), True) for f in (2, 4, 3, 5)])
    good = Trust([JudgedLabel(features[f], float(distance[f]), False) for f in (30, 40, 50, 45)])
    assert bad.reach < Trust().reach < good.reach
    assert bad.wrong(features).mean() > Trust().wrong(features).mean() > good.wrong(features).mean()


@pytest.mark.parametrize(
    ("boxes", "kind"),
    [
        (lambda f: Box(2 * f, 10, 2 * f + 20, 30) if f < 30 else Box(2 * f + 80, 10, 2 * f + 100, 30), ReasonKind.JUMP),
        (lambda f: Box(2 * f, 10, 2 * f + 20, 30) if f < 30 else None, ReasonKind.VANISHES),
        (lambda f: Box(2 * f, 10, 2 * f + 20, 30) if f > 30 else None, ReasonKind.APPEARS),
    ],
)
def test_reasons_say_what_happens(boxes: Callable[[int], Box | None], kind: ReasonKind) -> None:
    """A jump, going and coming are named where they are."""
    series = made(boxes, confidence=lambda f: 0.4 if 28 <= f <= 32 else 0.95, human=(15, 45))
    (first,) = suggest([series], Signals(COUNT), Trust(), 1)
    assert 26 <= first.frame <= 34
    assert first.reason_kind is kind


def test_disagreement_and_looks_are_reasons() -> None:
    """Sweeps that differ, and an object unlike every checked frame, raise the doubt and are named."""
    series = made(human=(0, 59))
    agreement = np.full(COUNT, 0.9)
    agreement[28:32] = 0.1
    (first,) = suggest([series], Signals(COUNT, agreement={"1": agreement}), Trust(), 1)
    assert first.reason_kind is ReasonKind.SWEEPS_DISAGREE
    looks = np.random.default_rng(0).normal(0, 0.01, (COUNT, 8)).astype(np.float16)
    looks[20:26] += 3
    (first,) = suggest([series], Signals(COUNT, looks={"1": looks}), Trust(), 1)
    assert 20 <= first.frame < 26
    assert first.reason_kind is ReasonKind.UNLIKE_LABELED


def crossing(swapped: bool) -> dict[str, TrackSeries]:
    """Two boxes that pass each other; with ``swapped`` they exchange their names where they meet."""

    def right(f: int) -> Box:
        return Box(4 * f, 10, 4 * f + 20, 30)

    def left(f: int) -> Box:
        return Box(240 - 4 * f, 12, 260 - 4 * f, 32)

    one = made(lambda f: left(f) if swapped and f > 30 else right(f), track="1")
    other = made(lambda f: right(f) if swapped and f > 30 else left(f), track="2")
    return {"1": one, "2": other}


def test_swapped_tracks_are_suspected() -> None:
    """Two objects that bounce off each other are the likelier swap than two that pass."""
    (swap,) = suspected_swaps(crossing(swapped=True))
    (kept,) = suspected_swaps(crossing(swapped=False))
    assert swap.score > 0.7
    assert kept.score < 0.3
    assert 27 <= swap.frame <= 33
    assert swap.tracks == ("1", "2")
    doubtful = [made(confidence=lambda f: 0.3 if 28 <= f <= 32 else 0.95, track=t, human=(0, 59)) for t in ("1", "2")]
    assert suggest(doubtful, Signals(COUNT), Trust(), 1)[0].reason_kind is ReasonKind.CROSSING


def test_checks_find_gaps_blips_jumps_overlaps_and_crowds() -> None:
    """Each kind of nonsense is found where it is, and a straight track has none."""
    assert consistency_issues({"1": made()}) == []
    gap = made(lambda f: None if f == 20 else straight(f))
    blip = made(lambda f: straight(f) if f == 20 else None, human=())
    jump = made(lambda f: Box(2 * f, 10, 2 * f + (80 if f == 20 else 20), 30))
    kinds = {
        IssueKind.GAP: consistency_issues({"1": gap}),
        IssueKind.BLIP: consistency_issues({"1": blip}),
        IssueKind.AREA_JUMP: consistency_issues({"1": jump}),
    }
    for kind, found in kinds.items():
        assert kind in {issue.kind for issue in found}, kind
        assert {issue.frame for issue in found if issue.kind is kind} <= {20, 21}
    twins = {"1": made(), "2": made(track="2")}
    once = Ontology((ObjectClass("car", max_instances=1),))
    found = consistency_issues(twins, once)
    assert {issue.kind for issue in found} == {IssueKind.OVERLAP, IssueKind.TOO_MANY}
    assert len(found) == 2 * COUNT


def test_a_class_is_found_where_it_cannot_be() -> None:
    """On frames where an excluding frame class holds, and where an object of an excluded class is; one issue a run."""
    car = ObjectClass("car", excludes=("night", "tree"))
    ontology = Ontology((car, ObjectClass("tree")), (FrameClass("night"),))
    tree = track_series([Label(f, "9", "tree", State.VISIBLE, straight(f)) for f in range(7, 9)], COUNT)["9"]
    night = empty_series("night", "night", COUNT)
    for frame in (3, 4, 20):
        night.put(frame, FrameLabel(frame, "night", True), fixed=True)
    series = {"1": made(), "9": tree}
    found = [one for one in consistency_issues(series, ontology, {"night": night}) if one.kind is IssueKind.EXCLUDED]
    assert [(one.frame, one.tracks) for one in found] == [(3, ("1",)), (7, ("1", "9")), (20, ("1",))]
    assert [one.text for one in found] == [
        "1 is there on frames 3 to 4, where night holds",
        "1 is where 9 is on frames 7 to 8",
        "1 is there on frame 20, where night holds",
    ]
    assert consistency_issues({"1": made()}, ontology, {"night": empty_series("night", "night", COUNT)}) == []
    with pytest.raises(InvalidInput, match="excludes"):
        Ontology((ObjectClass("car", excludes=("day",)),))


@pytest.mark.parametrize(("present", "missing"), [(True, "absent"), (False, "present")])
def test_a_frame_class_with_one_kind_of_answer_asks_for_the_other(present: bool, missing: str) -> None:
    """A frame of another scene is suggested, in these words; not once both kinds are there."""
    tool = empty_series("tool", "tool", COUNT, is_frame_class=True)
    for frame in range(COUNT):
        guess = FrameLabel(frame, "tool", present, 2 / 3, MODEL)
        tool.put(frame, FrameLabel(0, "tool", present) if frame == 0 else guess, fixed=frame == 0)
    signals = Signals(COUNT, frozenset({30}))
    (first,) = suggest([tool], signals, Trust(), 1)
    assert first.frame >= 30
    assert f"no frame is marked {missing} for tool" in first.reason_text
    tool.put(40, FrameLabel(40, "tool", not present), fixed=True)
    (second,) = suggest([tool], signals, Trust(), 1)
    assert "is marked" not in second.reason_text


def test_frame_classes_that_cannot_both_hold_are_found() -> None:
    """One issue for each run of frames, whichever of the two names the other; only frame classes can be named."""
    day, night = empty_series("day", "day", COUNT), empty_series("night", "night", COUNT)
    for frame in range(10):
        day.put(frame, FrameLabel(frame, "day", True), fixed=False)
    for frame in (3, 4, 9, 10):
        night.put(frame, FrameLabel(frame, "night", True), fixed=False)
    both = {"day": day, "night": night}
    for classes in (
        (FrameClass("day", excludes=("night",)), FrameClass("night")),
        (FrameClass("night"), FrameClass("day", excludes=("night",))),
        (FrameClass("day", excludes=("night",)), FrameClass("night", excludes=("day",))),
    ):
        found = consistency_issues({}, Ontology((), classes), both)
        assert [(one.kind, one.frame, one.tracks, one.text) for one in found] == [
            (IssueKind.EXCLUDED, 3, (), "day and night both hold on frames 3 to 4"),
            (IssueKind.EXCLUDED, 9, (), "day and night both hold on frame 9"),
        ]
    assert consistency_issues({}, Ontology((), (FrameClass("day"), FrameClass("night"))), both) == []
    with pytest.raises(InvalidInput, match=r"frame_classes\[0\].excludes"):
        Ontology((ObjectClass("car"),), (FrameClass("day", excludes=("car",)),))


def test_boxes_and_areas_of_all_shapes() -> None:
    """Masks and polygons have the box and area that their pixels have."""
    array = np.zeros((40, 50), bool)
    array[5:15, 10:30] = True
    ring = Polygon(((10, 5), (30, 5), (30, 15), (10, 15)))
    for shape in (Mask.from_array(array), ring, Box(10, 5, 30, 15)):
        series = track_series([Label(0, "1", "car", State.VISIBLE, shape)], 1)["1"]
        assert series.boxes[0].tolist() == [10, 5, 30, 15]
        assert series.areas[0] == 200
    empty = Label(0, "1", "car", State.OCCLUDED, Mask.from_array(np.zeros((40, 50), bool)))
    assert not track_series([empty], 1)["1"].shown[0]
