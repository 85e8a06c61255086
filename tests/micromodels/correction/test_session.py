"""Corrections: what sticks, what is recomputed, what is learned."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from micromodels.correction import rehearsal
from micromodels.correction.retraining import Retrained
from micromodels.correction.session import LabelSession, SessionSettings
from micromodels.errors import FailedPrecondition, InvalidInput, OutOfRange
from micromodels.labels.geometry import mask_iou
from micromodels.labels.keys import LabelChange, LabelKey, apply
from micromodels.labels.track_edits import delete_track, split_track
from micromodels.recipes.base import TrainSettings, load_model, train
from micromodels.recipes.head.model import DenseModel
from micromodels.runtime.run import Run
from micromodels.types import AnyLabel, Box, FrameLabel, Label, Mask, Polygon, ShapeKind, State
from tests.micromodels.doubles import BLUE, MemoryVideo, box_mask, scene, seed, square

COUNT = 24
QUICK = SessionSettings(steps=2, replay_views=2, new_track_steps=30)


@pytest.fixture(autouse=True)
def heads_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads that have learned next to nothing may forget it: what becomes of those that forget is tested elsewhere."""
    monkeypatch.setattr(rehearsal, "MAX_LOST", 1.0)


@pytest.fixture(scope="module")
def video() -> MemoryVideo:
    """The red square moves, a blue one stands."""
    return MemoryVideo(scene(COUNT, blue=True))


@pytest.fixture(scope="module")
def trained(tiny_module: object, video: MemoryVideo) -> Callable[[ShapeKind], DenseModel]:
    """Micro-models of the red square, trained on frame 0 once for each kind of shape."""

    @cache
    def make(kind: ShapeKind) -> DenseModel:
        made = train(video, [seed(0, kind)], TrainSettings(effort=0.2), run=Run(device="cpu"))
        assert isinstance(made, DenseModel)
        return made

    return make


@pytest.fixture(params=[ShapeKind.MASK, ShapeKind.BOX], ids=str)
def model(request: pytest.FixtureRequest, trained: Callable[[ShapeKind], DenseModel]) -> DenseModel:
    """A micro-model of either kind of shape."""
    return trained(request.param)


@pytest.fixture
def session(model: DenseModel, video: MemoryVideo, tmp_path: Path) -> Iterator[LabelSession]:
    """A session on the labels that the model gives from its seed."""
    run = Run(device="cpu", cache_dir=tmp_path)
    human = seed(0, model.manifest.tracks[0].shape)
    labels = [label for result in model.propagate(video, [human], run=run) for label in result.all()]
    with LabelSession(video, model, labels, run=run, settings=QUICK) as opened:
        yield opened


def kind_of(session: LabelSession) -> ShapeKind:
    return session.model.manifest.tracks[0].shape


def missing(session: LabelSession) -> list[int]:
    """Frames without a label of the red square."""
    return [frame for frame in range(COUNT) if LabelKey(frame=frame, name="1") not in session.labels]


def test_a_correction_is_kept_and_its_spans_follow(session: LabelSession) -> None:
    """The human label comes first; every change is nearer to the truth or at least follows; labels are the stream's."""
    before = dict(session.labels)
    human = seed(12, kind_of(session))
    changes = list(session.correct([human]))
    assert changes[0].after is human
    assert session.labels[LabelKey(frame=12, name="1")] is human
    assert dict(session.labels) == apply(before, changes)
    assert all(change.draft for change in changes[1:]) is False
    for frame in range(COUNT):
        label = session.labels[LabelKey(frame=frame, name="1")]
        assert isinstance(label, Label)
        if isinstance(label.shape, Mask):
            assert mask_iou(label.shape.to_array(), box_mask(square(frame))) > 0.6, frame


def test_only_the_spans_beside_a_correction_change(session: LabelSession) -> None:
    """With anchors at 0, 8 and 16, a correction on 12 leaves every label up to 8 and from 16 on the same object."""
    kind = kind_of(session)
    for frame in (8, 16):
        list(session.correct([seed(frame, kind)], learn=False))
    before = dict(session.labels)
    touched = {change.frame for change in session.correct([seed(12, kind)])}
    assert touched <= set(range(9, 16))
    assert all(session.labels[key] is label for key, label in before.items() if not 8 < key.frame < 16)


@pytest.mark.parametrize("lost", [1.0, -1.0], ids=["learned", "refused"])
def test_drafts_are_made_nearby_and_the_rest_follows(
    model: DenseModel, video: MemoryVideo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: float
) -> None:
    """Whether the head is taken or not: drafts are near the correction, and the whole spans are computed at last."""
    monkeypatch.setattr(rehearsal, "MAX_LOST", lost)
    run = Run(device="cpu", cache_dir=tmp_path)
    human = seed(0, model.manifest.tracks[0].shape)
    labels = [label for result in model.propagate(video, [human], run=run) for label in result.all()]
    with LabelSession(video, model, labels, run=run, settings=replace(QUICK, draft_frames=3)) as session:
        before = session.model
        changes = list(session.correct([seed(12, kind_of(session))]))[1:]
        assert (session.model is before) == (lost < 0)
    drafts = {change.frame for change in changes if change.draft}
    assert drafts
    assert drafts <= set(range(9, 16))
    assert {change.frame for change in changes if not change.draft} - set(range(9, 16)), "what lies farther"


def test_settled_labels_stay_and_end_spans(session: LabelSession) -> None:
    """An accepted label is never changed, and nothing beyond it is."""
    session.settle([LabelKey(frame=10, name="1")])
    before = dict(session.labels)
    changes = list(session.correct([seed(15, kind_of(session))]))
    assert all(change.frame > 10 for change in changes)
    assert session.labels[LabelKey(frame=10, name="1")] is before[LabelKey(frame=10, name="1")]


def test_what_was_deleted_for_good_is_not_predicted_again(session: LabelSession) -> None:
    """Where an identity tool took labels away and their keys are settled, only a person draws again."""
    changes = delete_track(session.labels.values(), "1", 10, 14)
    session.adopt(changes)
    session.settle([change.key for change in changes], looked_at=False)
    list(session.correct([seed(20, kind_of(session))], learn=False))
    assert missing(session) == [10, 11, 12, 13]
    list(session.correct([seed(12, kind_of(session))], learn=False))
    assert missing(session) == [10, 11, 13]


def test_a_track_that_a_correction_brings_is_followed(session: LabelSession) -> None:
    """Drawing the blue square once labels it on the other frames; the red one's labels stay the same objects."""
    before = {key: label for key, label in session.labels.items()}
    blue = Label(5, "2", "other", State.VISIBLE, seed(5, kind_of(session), box=square(40)).shape)
    assert BLUE
    changes = list(session.correct([blue]))
    assert {change.key.name for change in changes} == {"2"}
    assert {change.frame for change in changes} == set(range(COUNT))
    assert all(session.labels[key] is label for key, label in before.items())
    assert [spec.track for spec in session.model.manifest.tracks] == ["1", "2"]


def test_a_removed_anchor_is_predicted_again(session: LabelSession) -> None:
    """Taking a human label back labels its frame by the micro-model."""
    kind = kind_of(session)
    list(session.correct([seed(12, kind)], learn=False))
    list(session.correct([], [LabelKey(frame=12, name="1")], learn=False))
    label = session.labels[LabelKey(frame=12, name="1")]
    assert not label.is_anchor


def test_absent_here_is_an_anchor(session: LabelSession) -> None:
    """A human says that the object is not there: that stays."""
    absent = Label(12, "1", "square", State.ABSENT)
    changes = list(session.correct([absent]))
    assert changes[0].after is absent
    assert session.labels[LabelKey(frame=12, name="1")] is absent


def test_a_class_belongs_to_the_track(session: LabelSession) -> None:
    """A correction with another class gives it to all labels of the track; shapes of anchors stay."""
    first = session.labels[LabelKey(frame=0, name="1")]
    assert isinstance(first, Label)
    corrected = Label(12, "1", "block", State.VISIBLE, seed(12, kind_of(session)).shape)
    list(session.correct([corrected], learn=False))
    classes = {label.object_class for label in session.labels.values() if isinstance(label, Label)}
    assert classes == {"block"}
    now = session.labels[LabelKey(frame=0, name="1")]
    assert isinstance(now, Label)
    assert now.shape is first.shape
    assert now.is_anchor


def test_frame_classes_are_learned_from_corrections(session: LabelSession) -> None:
    """A frame class that nobody spoke of before is labeled everywhere from two frames."""
    said: list[AnyLabel] = [FrameLabel(2, "late", False), FrameLabel(20, "late", True)]
    list(session.correct(said))
    found = {f: session.labels[LabelKey(frame=f, name="late", is_frame_class=True)] for f in range(COUNT)}
    assert [found[2], found[20]] == said
    assert session.model.manifest.frame_classes == ("late",)
    assert LabelKey.of(said[0]) == LabelKey(frame=2, name="late", is_frame_class=True)


def test_what_is_refused(session: LabelSession) -> None:
    """Predictions as corrections, removals of predictions, and both at once for one key."""
    predicted = session.labels[LabelKey(frame=5, name="1")]
    with pytest.raises(InvalidInput, match="human"):
        session.correct([predicted])
    with pytest.raises(InvalidInput, match="human label"):
        session.correct([], [LabelKey(frame=5, name="1")])
    with pytest.raises(InvalidInput, match="same time"):
        session.correct([seed(0, kind_of(session))], [LabelKey(frame=0, name="1")])


def test_labels_outside_of_the_frame_are_refused(session: LabelSession, video: MemoryVideo, tmp_path: Path) -> None:
    """When a session is opened, as corrections and from elsewhere, in the words of label files; nothing changes."""
    outside = seed(5, kind_of(session), box=Box(100, 10, 131, 20)) if kind_of(session) is ShapeKind.BOX else None
    outside = outside or Label(5, "1", "square", State.VISIBLE, Polygon([(100, 10), (131, 10), (120, 20)]))
    before = dict(session.labels)
    words = r"\]\.(box\[2\]|polygon\[1\]\[0\]): got 131; allowed: 0 to 128; the video's width is 128 px"
    with pytest.raises(OutOfRange, match=r"labels\[1" + words):
        LabelSession(video, session.model, [seed(0), outside], run=Run(device="cpu", cache_dir=tmp_path))
    with pytest.raises(OutOfRange, match=r"corrections\[0" + words):
        session.correct([outside])
    with pytest.raises(OutOfRange, match=r"changes\[0" + words):
        session.adopt([LabelChange(LabelKey.of(outside), None, outside)])
    assert session.labels == before


def test_suggestions_learn_from_what_people_say(session: LabelSession) -> None:
    """Prepared, a session suggests unchecked frames with a reason; accepting what it suggests makes it surer."""
    session.prepare()
    first = session.suggest(3)
    assert first
    assert all(s.frame != 0 and s.reason_text and 0 < s.wrong_probability < 1 for s in first)
    for suggestion in first:
        session.settle([LabelKey(frame=suggestion.frame, name="1")])
    again = session.suggest(3)
    assert not {s.frame for s in again} & {s.frame for s in first}
    assert sum(s.expected_gain_frames for s in again) < sum(s.expected_gain_frames for s in first)
    assert session.scene_cuts() == []
    assert session.suspected_swaps() == []


def test_changes_from_elsewhere_are_adopted(session: LabelSession) -> None:
    """What identity tools change is taken over as it is."""
    before = dict(session.labels)
    changes = split_track(session.labels.values(), "1", 12, "2")
    session.adopt(changes)
    assert dict(session.labels) == apply(before, changes)
    assert session.issues() == []


def test_a_retrained_model_is_compared_on_what_neither_saw(session: LabelSession) -> None:
    """Held-out frames are ones that both did not see; taking the new model over leaves fixed labels as they are."""
    kind = kind_of(session)
    with pytest.raises(FailedPrecondition, match="at least 3"):
        session.retrain()
    for frame in (6, 12, 18):
        list(session.correct([seed(frame, kind)]))
    session.settle([LabelKey(frame=15, name="1")])
    retrained = session.retrain(TrainSettings(effort=0.1))
    assert retrained.held_out
    assert not set(retrained.held_out) & set(retrained.model.manifest.seed_frames)
    assert 0 <= retrained.old_score <= 1
    assert 0 <= retrained.new_score <= 1
    before = dict(session.labels)
    changes = list(session.replace_model(retrained))
    assert dict(session.labels) == apply(before, changes)
    assert not {change.frame for change in changes} & {0, 6, 12, 15, 18}
    assert session.labels[LabelKey(frame=15, name="1")] is before[LabelKey(frame=15, name="1")]


def test_a_session_goes_on_where_another_ended(session: LabelSession, video: MemoryVideo, tmp_path: Path) -> None:
    """Saved and loaded, the head is the learned one, and what it was before still serves to compare with."""
    models = [session.model]
    for frame in (6, 12, 18):
        list(session.correct([seed(frame, kind_of(session))]))
        models.append(session.model)
    for number, model in enumerate(models):
        model.save_weights(tmp_path / str(number))
    *earlier, newest = [load_model(tmp_path / str(number)) for number in range(len(models))]
    labels = list(session.labels.values())
    run = Run(device="cpu", cache_dir=tmp_path)
    with LabelSession(video, newest, labels, run=run, settings=QUICK, earlier=earlier) as reopened:
        assert reopened.model.manifest.version == session.model.manifest.version
        retrained = reopened.retrain(TrainSettings(effort=0.1))
        assert set(retrained.held_out) <= {6, 12, 18}
        assert retrained.held_out
        assert list(reopened.correct([seed(3, kind_of(session))]))


class Promise:
    """What was said of corrections: what humans drew stays, and what is not beside it too."""

    def __init__(self, session: LabelSession) -> None:
        self.session = session
        self.drawn = {key: label for key, label in session.labels.items() if label.is_anchor}

    def correct(self, frame: int, absent: bool, learn: bool) -> None:
        """A correction changes nothing beyond the neighboring fixed frames."""
        kind = kind_of(self.session)
        human = Label(frame, "1", "square", State.ABSENT) if absent else seed(frame, kind)
        before = dict(self.session.labels)
        fixed = sorted({key.frame for key in (*self.drawn, *self.session.settled)})
        low = max((f for f in fixed if f < frame), default=-1)
        high = min((f for f in fixed if f > frame), default=COUNT)
        self.drawn[LabelKey.of(human)] = human
        for change in self.session.correct([human], learn=learn):
            assert low < change.frame < high
        self.check(before, set(range(low + 1, high)))

    def remove(self, frame: int) -> None:
        """Taking an anchor back changes nothing beyond its neighbors."""
        key = LabelKey(frame=frame, name="1")
        before = dict(self.session.labels)
        del self.drawn[key]
        fixed = sorted({k.frame for k in (*self.drawn, *self.session.settled)})
        low = max((f for f in fixed if f < frame), default=-1)
        high = min((f for f in fixed if f > frame), default=COUNT)
        list(self.session.correct([], [key], learn=False))
        self.check(before, set(range(low + 1, high)))

    def settle(self, frame: int) -> None:
        """Accepting changes no label."""
        before = dict(self.session.labels)
        self.session.settle([LabelKey(frame=frame, name="1")])
        self.check(before, set())

    def replace(self) -> None:
        """A new model changes only what is not fixed."""
        before = dict(self.session.labels)
        fixed = {key.frame for key in (*self.drawn, *self.session.settled)}
        model = self.session.model
        list(self.session.replace_model(Retrained(model, (), 0.0, 1.0)))
        self.check(before, set(range(COUNT)) - fixed)

    def check(self, before: dict[LabelKey, AnyLabel], touched: set[int]) -> None:
        """Every anchor is what the human gave, and everything that was not touched is the very object it was."""
        labels = self.session.labels
        assert all(labels[key] == label for key, label in self.drawn.items())
        assert all(labels[key] is label for key, label in before.items() if key.frame not in touched)


STEP = st.one_of(
    st.tuples(st.just("correct"), st.integers(0, COUNT - 1), st.booleans(), st.sampled_from([False, False, True])),
    st.tuples(st.just("remove"), st.integers(0, COUNT - 1)),
    st.tuples(st.just("settle"), st.integers(0, COUNT - 1)),
    st.tuples(st.just("replace")),
)


@pytest.mark.parametrize("kind", [ShapeKind.MASK, ShapeKind.BOX])
def test_anchors_and_untouched_spans_stay_whatever_happens(
    kind: ShapeKind, trained: Callable[[ShapeKind], DenseModel], video: MemoryVideo
) -> None:
    """After any sequence of corrections, removals, acceptances and new models."""
    model = trained(kind)
    human = seed(0, kind)
    labels = [label for result in model.propagate(video, [human], run=Run(device="cpu")) for label in result.all()]

    @settings(max_examples=8, deadline=None)
    @given(st.lists(STEP, min_size=1, max_size=5))
    def play(steps: list[tuple[Any, ...]]) -> None:
        with LabelSession(video, model, labels, run=Run(device="cpu"), settings=QUICK) as session:
            promise = Promise(session)
            for name, *arguments in steps:
                if name == "remove" and LabelKey(frame=arguments[0], name="1") not in promise.drawn:
                    continue
                getattr(promise, name)(*arguments)

    play()


def test_a_corrected_span_is_what_a_fresh_propagation_gives(session: LabelSession, video: MemoryVideo) -> None:
    """Where a correction touches the whole video, labels are those of the learned head from the same anchors."""
    list(session.correct([seed(12, kind_of(session))]))
    fresh = session.model.propagate(video, session.anchors(), run=Run(device="cpu"))
    expected = {LabelKey.of(label): label for result in fresh for label in result.all()}
    assert expected.keys() == session.labels.keys()
    for key, label in session.labels.items():
        other = expected[key]
        assert isinstance(label, Label)
        assert isinstance(other, Label)
        assert (label.state, label.shape) == (other.state, other.shape), key
        assert label.confidence == pytest.approx(other.confidence, abs=1e-6)
