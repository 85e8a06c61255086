"""Corrections: what sticks, what is computed anew, what is learned."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from micromodels.changes import LabelKey, apply, key_of
from micromodels.dense_model import DenseModel
from micromodels.errors import InvalidInput
from micromodels.events import Run
from micromodels.identity import split_track
from micromodels.labeling import TrainSettings, train
from micromodels.session import LabelSession, SessionSettings
from micromodels.types import AnyLabel, FrameLabel, Label, Mask, ShapeKind, State
from tests.core.doubles import BLUE, MemoryVideo, box_mask, iou, scene, seed, square

COUNT = 24
QUICK = SessionSettings(steps=2, fresh_views=2, replay_views=2, new_track_steps=30)


@pytest.fixture(scope="module")
def video() -> MemoryVideo:
    """The red square moves, a blue one stands."""
    return MemoryVideo(scene(COUNT, blue=True))


@pytest.fixture(scope="module", params=[ShapeKind.MASK, ShapeKind.BOX], ids=str)
def model(request: pytest.FixtureRequest, tiny_module: object, video: MemoryVideo) -> DenseModel:
    """A micro-model of the red square, trained on frame 0."""
    settings = TrainSettings(effort=0.2)
    trained = train(video, [seed(0, request.param)], settings, run=Run(device="cpu"))
    assert isinstance(trained, DenseModel)
    return trained


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


def test_a_correction_is_kept_and_its_spans_follow(session: LabelSession) -> None:
    """The human label comes first; every change is nearer to the truth or at least follows; labels are the stream's."""
    before = dict(session.labels)
    human = seed(12, kind_of(session))
    changes = list(session.correct([human]))
    assert changes[0].after is human
    assert session.labels[LabelKey(12, "1")] is human
    assert dict(session.labels) == apply(before, changes)
    assert all(change.draft for change in changes[1:]) is False
    for frame in range(COUNT):
        label = session.labels[LabelKey(frame, "1")]
        assert isinstance(label, Label)
        if isinstance(label.shape, Mask):
            assert iou(label.shape.to_array(), box_mask(square(frame))) > 0.6, frame


def test_only_the_spans_beside_a_correction_change(session: LabelSession) -> None:
    """With anchors at 0, 8 and 16, a correction on 12 leaves every label up to 8 and from 16 on the same object."""
    kind = kind_of(session)
    for frame in (8, 16):
        list(session.correct([seed(frame, kind)], learn=False))
    before = dict(session.labels)
    touched = {change.frame for change in session.correct([seed(12, kind)])}
    assert touched <= set(range(9, 16))
    assert all(session.labels[key] is label for key, label in before.items() if not 8 < key.frame < 16)


def test_settled_labels_stay_and_end_spans(session: LabelSession) -> None:
    """An accepted label is never changed, and nothing beyond it is."""
    session.settle([LabelKey(10, "1")])
    before = dict(session.labels)
    changes = list(session.correct([seed(15, kind_of(session))]))
    assert all(change.frame > 10 for change in changes)
    assert session.labels[LabelKey(10, "1")] is before[LabelKey(10, "1")]


def test_a_track_that_a_correction_brings_is_followed(session: LabelSession) -> None:
    """Drawing the blue square once labels it on the other frames; the red one's labels stay the same objects."""
    before = {key: label for key, label in session.labels.items()}
    blue = Label(5, "2", "other", State.VISIBLE, seed(5, kind_of(session), box=square(42)).shape)
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
    list(session.correct([], [LabelKey(12, "1")], learn=False))
    label = session.labels[LabelKey(12, "1")]
    assert not label.is_anchor


def test_absent_here_is_an_anchor(session: LabelSession) -> None:
    """A human says that the object is not there: that stays."""
    absent = Label(12, "1", "square", State.ABSENT)
    changes = list(session.correct([absent]))
    assert changes[0].after is absent
    assert session.labels[LabelKey(12, "1")] is absent


def test_a_class_belongs_to_the_track(session: LabelSession) -> None:
    """A correction with another class gives it to all labels of the track; shapes of anchors stay."""
    first = session.labels[LabelKey(0, "1")]
    assert isinstance(first, Label)
    corrected = Label(12, "1", "block", State.VISIBLE, seed(12, kind_of(session)).shape)
    list(session.correct([corrected], learn=False))
    classes = {label.object_class for label in session.labels.values() if isinstance(label, Label)}
    assert classes == {"block"}
    now = session.labels[LabelKey(0, "1")]
    assert isinstance(now, Label)
    assert now.shape is first.shape
    assert now.is_anchor


def test_frame_classes_are_learned_from_corrections(session: LabelSession) -> None:
    """A frame class that nobody spoke of before is labelled everywhere from two frames."""
    said: list[AnyLabel] = [FrameLabel(2, "late", False), FrameLabel(20, "late", True)]
    list(session.correct(said))
    found = {f: session.labels[LabelKey(f, "late", True)] for f in range(COUNT)}
    assert [found[2], found[20]] == said
    assert session.model.manifest.frame_classes == ("late",)
    assert key_of(said[0]) == LabelKey(2, "late", True)


def test_what_is_refused(session: LabelSession) -> None:
    """Predictions as corrections, removals of predictions, and both at once for one key."""
    predicted = session.labels[LabelKey(5, "1")]
    with pytest.raises(InvalidInput, match="human"):
        session.correct([predicted])
    with pytest.raises(InvalidInput, match="human label"):
        session.correct([], [LabelKey(5, "1")])
    with pytest.raises(InvalidInput, match="same time"):
        session.correct([seed(0, kind_of(session))], [LabelKey(0, "1")])


def test_suggestions_learn_from_what_people_say(session: LabelSession) -> None:
    """Prepared, a session suggests unchecked frames with a reason; accepting what it suggests makes it surer."""
    session.prepare()
    first = session.suggest(3)
    assert first
    assert all(s.frame != 0 and s.reason_text and 0 < s.wrong_probability < 1 for s in first)
    for suggestion in first:
        session.settle([LabelKey(suggestion.frame, "1")])
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
