"""Verdicts and protocols on small clips, with systems whose scores are known."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from micromodels.errors import InvalidInput, TrainingError
from micromodels.runtime.run import Run, Stage, StageFinished, Warned
from micromodels.types import AnyLabel, Box, FrameLabel, FrameResult, Label, Mask, Provenance, ProvenanceKind, State
from micromodels.video import Video, open_video
from scripts.benchmark import protocols
from scripts.benchmark.annotation_cost import Strategy, run_annotation_cost
from scripts.benchmark.baselines import BASELINES, System
from scripts.benchmark.datasets import Clip, load_clips
from scripts.benchmark.protocols import Outcome, Protocol, Row, SharedModels, run_protocol
from scripts.benchmark.scoring import judge_frame
from scripts.benchmark.simulated_reviewers import FirstLabels
from scripts.benchmark.summaries import ALL_K, summarize

MODEL = Provenance(ProvenanceKind.MODEL, "test")


def always(clip: Clip, frame_classes: bool) -> str:
    return ""


def truthful(spoil: Callable[[Label], Label] = lambda label: label) -> System:
    """A system that knows the truth, and changes each label that is no seed by ``spoil``."""

    def propagate(clip: Clip, video: Video, seeds: Sequence[AnyLabel], run: Run) -> Iterator[FrameResult]:
        given = {(s.frame, s.track): s for s in seeds if isinstance(s, Label)}
        known = {s.track for s in seeds if isinstance(s, Label)}
        drawn_classes = {s.frame: s for s in seeds if isinstance(s, FrameLabel)}
        run.on_event(StageFinished(Stage.TRAIN, 1.5))
        run.on_event(StageFinished(Stage.TRAIN, 0.5))
        run.on_event(Warned("one seed only"))
        for frame in range(clip.frame_count):
            if drawn_classes:
                classes = (clip.frame_class_truth(frame) or {}).items()
                yield FrameResult(frame, (), tuple(FrameLabel(frame, name, present) for name, present in classes))
                continue
            labels = clip.correction(frame, known) if clip.truth(frame) is not None else []
            made = (given.get((x.frame, x.track)) or spoil(replace(x, provenance=MODEL)) for x in labels)
            yield FrameResult(frame, tuple(made))

    return System("truthful", propagate, always)


def score(root: Path, set_name: str, protocol: Protocol, system: System, k: int = 3) -> Outcome:
    (clip,) = load_clips(root, [set_name])
    with open_video(clip.source) as video:
        return run_protocol(protocol, clip, video, system, k, root)


@pytest.mark.parametrize(
    ("set_name", "protocol", "perfect"),
    [
        ("davis2016", Protocol.MASKS, {"J": 1, "F": 1, "J_p10": 1, "accepted": 1}),
        ("cvc612", Protocol.MASKS, {"J": 1, "F": 1}),
        ("otb", Protocol.BOXES, {"iou": 1, "recall_50": 1, "false_absents": 0}),
        ("tld", Protocol.BOXES, {"iou": 1, "recall_50": 1, "absent_found": 1, "false_absents": 0}),
        ("mot", Protocol.MANY_OBJECTS, {"hota": 1, "idf1": 1, "id_switches": 0, "recall_50": 1}),
        ("vocalfolds", Protocol.REGIONS, {"iou": 1, "accepted": 1}),
        ("vocalfolds", Protocol.FRAME_CLASSES, {"balanced_accuracy_pathology": 1, "f1": 1}),
        ("tld", Protocol.FRAME_CLASSES, {"balanced_accuracy": 1, "f1_visible": 1}),
    ],
)
def test_the_truth_scores_best(small_data: Path, set_name: str, protocol: Protocol, perfect: dict[str, float]) -> None:
    """Whoever answers the truth has every score at its best, and breaks no promise."""
    row = score(small_data, set_name, protocol, truthful()).row
    assert {name: row.scores[name] for name in perfect} == pytest.approx(perfect)
    assert [note for note in row.notes if "promise" in note] == []


def test_seed_frames_and_unknown_frames_are_not_scored(small_data: Path) -> None:
    """otb has truth on ten frames; three of them are seeds."""
    row = score(small_data, "otb", Protocol.BOXES, truthful()).row
    assert row.seed_frames == (2, 4, 8)
    assert sorted(row.frame_scores) == [0, 1, 3, 5, 6, 7, 9]


def test_a_run_reports_time_memory_and_warnings(small_data: Path) -> None:
    """Seconds of a stage are added up; the clock of the whole run and of its first label is there."""
    row = score(small_data, "otb", Protocol.BOXES, truthful()).row
    assert row.seconds["train"] == 2.0
    assert row.seconds["total"] >= row.seconds["first_label"] > 0
    assert row.peak_memory_mib > 10
    assert "one seed only" in row.notes


def absent(label: Label) -> Label:
    return replace(label, state=State.ABSENT, shape=None)


def test_always_absent_finds_every_absence_and_nothing_else(small_data: Path) -> None:
    """tld, seeds on 2, 6 and 9: the one hidden frame left is found, every visible one is a false absent."""
    scores = score(small_data, "tld", Protocol.BOXES, truthful(absent)).row.scores
    assert (scores["absent_found"], scores["false_absents"], scores["iou"]) == (1, 1, 0)
    assert scores["accepted"] == pytest.approx(1 / 9)


def test_regions_count_where_either_side_has_something(small_data: Path) -> None:
    """Without pathology where it is there: 5 pairs of 14 are 0. Seeds 2, 6, 9; it is on 0-7."""

    def without(label: Label) -> Label:
        return absent(label) if label.track == "pathology" else label

    scores = score(small_data, "vocalfolds", Protocol.REGIONS, truthful(without)).row.scores
    assert scores["iou"] == pytest.approx(9 / 15)


def judge(root: Path, set_name: str, frame: int, *labels: Label) -> list[bool]:
    (clip,) = load_clips(root, [set_name])
    truth = clip.truth(frame)
    assert truth is not None
    return [verdict.accepted for verdict in judge_frame(clip, truth, FrameResult(frame, labels))]


def test_what_a_reviewer_accepts(small_data: Path) -> None:
    """A shape with enough overlap where the object is, absent where it is not; boxes .70, tld .50."""
    truth = Box(16, 10, 32, 26)  # frame 4
    near = Box(16, 10, 32, 20)  # IoU .625

    def label(state: State, shape: Box | None, frame: int = 4) -> Label:
        return Label(frame, "1", "object", state, shape, 0.5, MODEL)

    assert judge(small_data, "otb", 4, label(State.VISIBLE, truth)) == [True]
    assert judge(small_data, "otb", 4, label(State.VISIBLE, near)) == [False]
    assert judge(small_data, "tld", 4, label(State.VISIBLE, near)) == [True]
    assert judge(small_data, "otb", 4, label(State.OCCLUDED, truth)) == [True]
    assert judge(small_data, "otb", 4, label(State.ABSENT, None)) == [False]
    assert judge(small_data, "otb", 4, label(State.UNCERTAIN, None)) == [False]
    assert judge(small_data, "otb", 4) == [False]
    assert judge(small_data, "tld", 5, label(State.ABSENT, None, 5)) == [True]
    assert judge(small_data, "tld", 5, label(State.UNCERTAIN, None, 5)) == [False]
    assert judge(small_data, "tld", 5, label(State.VISIBLE, truth, 5)) == [False]
    ghost = Label(4, "9", "object", State.VISIBLE, truth, 0.5, MODEL)
    assert judge(small_data, "otb", 4, label(State.VISIBLE, truth), ghost) == [True, False]


def test_calibration_pools_all_labels(small_data: Path) -> None:
    """Sure of .9 on every frame: right on 7 of otb, wrong on 9 of tld but one; the summary pools, the rows do not."""

    def sure(label: Label) -> Label:
        return replace(label, confidence=0.9)

    outcomes = [
        score(small_data, "otb", Protocol.BOXES, truthful(sure)),
        score(small_data, "tld", Protocol.BOXES, truthful(lambda label: sure(absent(label)))),
    ]
    assert outcomes[0].row.scores["brier"] == pytest.approx(0.01)
    assert outcomes[1].row.scores["brier"] == pytest.approx((0.01 + 8 * 0.81) / 9)
    rows = [outcome.row for outcome in outcomes]
    rows = [*rows, replace(rows[0], k=1)]
    own = [summary for summary in summarize(rows) if summary.protocol is Protocol.CALIBRATION]
    summaries = {(summary.set_name, summary.k): summary for summary in own}
    assert set(summaries) == {("otb", 3), ("tld", 3), ("all", 3), ("otb", 1), ("all", 1)} | {
        (name, ALL_K) for name in ("otb", "tld", "all")
    }
    pooled = summaries["all", 3]
    assert pooled.scores["brier"] == pytest.approx((8 * 0.01 + 8 * 0.81) / 16)
    assert pooled.scores["brier_mean"] == pytest.approx((0.01 + (0.01 + 8 * 0.81) / 9) / 2)
    assert summaries["all", ALL_K].scores["brier"] == pytest.approx((15 * 0.01 + 8 * 0.81) / 23)
    assert pooled.scores["labels"] == 16
    assert pooled.worst is not None
    assert pooled.worst[0] == "clip"
    assert pooled.scores["without_confidence"] == 0


def test_a_label_without_confidence_is_counted(small_data: Path) -> None:
    """Every second label has none: they are left out of the error and named as a share; with none at all, no scores."""

    def half(label: Label) -> Label:
        return replace(label, confidence=0.8 if label.frame % 2 else None)

    row = score(small_data, "otb", Protocol.BOXES, truthful(half)).row
    assert row.scores["without_confidence"] == pytest.approx(2 / 7)
    assert row.scores["brier"] == pytest.approx(0.04)
    nothing = score(small_data, "otb", Protocol.BOXES, truthful()).row
    assert nothing.pairs == ()
    assert "ece" not in nothing.scores


def test_a_row_comes_back_from_its_json(small_data: Path) -> None:
    """Written and read, a row says the same."""
    row = score(small_data, "tld", Protocol.BOXES, truthful(lambda label: replace(label, confidence=0.75))).row
    row = replace(row, curve=((0.1, 0.5), (0.2, 1.0)), commit="abc")
    back = Row.from_dict(json.loads(json.dumps(row.to_dict())))
    assert back.to_dict() == row.to_dict()
    assert (back.pairs, back.key) == (row.pairs, row.key)
    with pytest.raises(InvalidInput, match="scripts/bench"):
        Row.from_dict({"protocol": "A"})


def test_systems_of_one_recipe_train_once(small_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both label with the same micro-model, and each row counts the training as its own."""
    (clip,) = load_clips(small_data, ["otb"])
    trained: list[str] = []

    def train(recipe: str, video: Video, seeds: Sequence[AnyLabel], run: Run) -> str:
        run.on_event(StageFinished(Stage.TRAIN, 2.5))
        trained.append(recipe)
        time.sleep(0.02)  # a training that takes a while
        return f"model {len(trained)}"

    def label_with(model: object, video: Video, seeds: Sequence[AnyLabel], run: Run) -> Iterator[FrameResult]:
        assert model == "model 1"
        return truthful().propagate(clip, video, seeds, run)

    monkeypatch.setattr(protocols, "train_recipe", train)
    systems = [replace(truthful(), name=name, recipe="auto", label=label_with) for name in ("one", "other")]
    models = SharedModels()
    with open_video(clip.source) as video:
        rows = [run_protocol(Protocol.BOXES, clip, video, s, 3, small_data, models=models).row for s in systems]
    assert trained == ["auto"]
    assert [row.seconds["total"] >= row.seconds["first_label"] >= 0.02 for row in rows] == [True, True]
    assert [row.seconds["train"] for row in rows] == [4.5, 4.5]  # 2 s are told by the labeling


def test_broken_promises_are_noted(small_data: Path) -> None:
    """A missing frame scores 0 there; a changed seed is named."""

    def propagate(clip: Clip, video: Video, seeds: Sequence[AnyLabel], run: Run) -> Iterator[FrameResult]:
        for result in truthful().propagate(clip, video, seeds, run):
            if result.frame == 0:
                continue
            changed = tuple(replace(label, provenance=MODEL) for label in result.labels)
            yield replace(result, labels=changed)

    row = score(small_data, "otb", Protocol.BOXES, System("broken", propagate, always)).row
    assert row.frame_scores[0] == 0
    assert [note for note in row.notes if "promise" in note] == [
        "broken promise: 11 results for 12 frames, or out of order",
        "broken promise: seeds on frames [2, 4, 8] were not passed through",
    ]


def test_a_failure_is_left_out_of_the_means_and_named(small_data: Path) -> None:
    """The summary says which sequence failed."""
    done = score(small_data, "otb", Protocol.BOXES, truthful())
    failed = Outcome(Row(Protocol.BOXES, "otb", "other", "truthful", 3, (), 0, error=str(TrainingError("no"))))
    (summary,) = summarize([done.row, failed.row])
    assert (summary.sequences, summary.failed, summary.scores["iou"]) == (1, ("other",), 1)


def annotation_cost(root: Path, set_name: str, system: System, strategy: Strategy) -> Row:
    (clip,) = load_clips(root, [set_name])
    with open_video(clip.source) as video, FirstLabels() as first:
        return run_annotation_cost(clip, video, system, strategy, first).row


def test_the_truth_needs_one_frame(small_data: Path) -> None:
    """Ten frames with truth, one drawn: 7 s a box, 1 s a look, no wait worth mentioning."""
    row = annotation_cost(small_data, "otb", truthful(), Strategy.SUGGESTED)
    assert row.curve == ((0.1, 1.0),)
    assert row.scores["touched_97"] == row.scores["touched_100"] == 0.1
    assert row.scores["speed_up"] == pytest.approx(70 / (7 + 10 + row.scores["wait"]))


def test_interpolation_needs_both_ends(small_data: Path) -> None:
    """A square at constant speed: frame 0, the frame farthest from it, and all between is right."""
    row = annotation_cost(small_data, "otb", BASELINES["linear"], Strategy.EVEN)
    assert row.seed_frames == (0, 9)
    assert row.scores["touched_100"] == 0.2


def test_a_system_that_never_learns_is_given_up_at_half(small_data: Path) -> None:
    """What is wrong in the end counts as drawn."""
    row = annotation_cost(small_data, "otb", truthful(absent), Strategy.ORACLE)
    assert (len(row.seed_frames), row.scores["reached_97"], row.scores["touched_97"]) == (5, 0, 1)


@pytest.mark.parametrize("strategy", list(Strategy))
def test_only_wrong_frames_are_drawn(small_data: Path, strategy: Strategy) -> None:
    """Frames 3 and 7 are wrong, and least sure: every strategy draws these two."""

    def spoil(label: Label) -> Label:
        if label.frame not in (3, 7):
            return replace(label, confidence=0.9)
        return replace(label, shape=Box(0, 0, 3, 3), confidence=0.2)

    row = annotation_cost(small_data, "otb", truthful(spoil), strategy)
    assert sorted(row.seed_frames) == [0, 3, 7]
    assert row.system == f"truthful+{strategy}"
    assert row.scores["touched_100"] == pytest.approx(0.3)


def test_annotation_cost_is_pooled_over_frames(small_data: Path) -> None:
    """Shares are weighted by frames, times are added up before they are divided."""
    rows = [annotation_cost(small_data, name, BASELINES["linear"], Strategy.EVEN) for name in ("otb", "davis2016")]
    total = next(s for s in summarize(rows) if s.set_name == "all")
    touched = sum(row.scores["touched_97"] * row.frame_count for row in rows) / sum(row.frame_count for row in rows)
    assert total.scores["touched_97"] == pytest.approx(touched)
    manual, assisted = (sum(row.scores[f"seconds_{name}"] for row in rows) for name in ("manual", "assisted"))
    assert total.scores["speed_up"] == pytest.approx(manual / assisted)


def test_an_empty_mask_is_no_shape(small_data: Path) -> None:
    """A visible label with an empty mask on a frame where nothing is there scores 1 but is not accepted."""
    import numpy as np

    (clip,) = load_clips(small_data, ["davis2016"])
    nothing = Mask.from_array(np.zeros((48, 64), bool))
    truth = clip.truth(11)
    assert truth is not None
    label = Label(11, "1", "object", State.VISIBLE, nothing, None, MODEL)
    (verdict,) = judge_frame(clip, truth, FrameResult(11, (label,)), boundary=True)
    assert (verdict.iou, verdict.boundary_f, verdict.accepted) == (1, 1, False)
