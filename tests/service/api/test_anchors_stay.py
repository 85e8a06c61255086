"""Whatever is corrected, computed, retrained, moved and undone: every anchor is what the human drew, and what an act
is not about stays byte for byte."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

from micromodels.client import ApiError, label_key
from micromodels.types import Label
from micromodels.v1 import label_pb2
from micromodels.v1.track_pb2 import EditTracksResponse
from tests.service.api.harness import Running, box

Key = tuple[str, int]
COUNT = 24
FRAMES = st.integers(0, COUNT - 1)
TRACKS = st.sampled_from("12")
ACTS = ("correct", "take_back", "undo", "accept", "lock", "propagate", "retrain", "swap", "split", "merge", "delete")
STEPS = st.tuples(st.sampled_from((*ACTS, "correct", "correct", "retrain")), TRACKS, FRAMES, st.integers(0, 90))


class Person:
    """Works on a video, and remembers what was drawn and what nobody but a person may label."""

    def __init__(self, running: Running) -> None:
        self.client = running.client
        self.video = running.video().name
        seeds = [box(0, "1"), box(0, "2", x1=60)]
        self.drawn = {(seed.track, 0): seed for seed in seeds}
        self.gone: set[Key] = set()
        """What left its track for good."""
        self.acts: list[tuple[int, dict[Key, Label], set[Key], dict[Key, bytes]]] = []
        self.fresh = False
        """Whether nothing was done since the newest act."""
        self.tracks = 2
        run = self.client.auto_label(self.video, seeds)
        assert list(run.labels())
        assert run.result is not None
        self.model = run.result.micro_model_version

    def labels(self) -> dict[Key, label_pb2.Label]:
        stream = self.client.stubs.labels.StreamLabels(label_pb2.StreamLabelsRequest(parent=self.video))
        return {(one.object.track, one.frame_index): one for part in stream for one in part.labels}

    def raw(self) -> dict[Key, bytes]:
        """Every label, as it comes over the wire."""
        return {key: label.SerializeToString(deterministic=True) for key, label in self.labels().items()}

    def fixed(self) -> set[Key]:
        """What no micro-model may change."""
        accepted = label_pb2.REVIEW_STATE_ACCEPTED
        judged = {k for k, x in self.labels().items() if x.review.locked or x.review.state == accepted}
        return judged | self.gone | self.drawn.keys()

    def span(self, track: str, frame: int) -> set[Key]:
        """What a correction may change: to the neighboring fixed frames of its track."""
        here = {key[1] for key in self.fixed() - self.gone if key[0] == track} - {frame}
        low = max((other for other in here if other < frame), default=-1)
        high = min((other for other in here if other > frame), default=COUNT)
        return ({(track, other) for other in range(low + 1, high)} - self.gone) | {(track, frame)}

    def step(self, what: str, track: str, frame: int, x: int) -> None:
        """Do something, and see that it did nothing else."""
        before, drawn, gone = self.raw(), dict(self.drawn), set(self.gone)
        act: Callable[[str, int, int], tuple[int, Iterable[Key]]] = getattr(self, what)
        revision, touched = act(track, frame, x)
        after, free = self.raw(), set(touched)
        assert {k: v for k, v in after.items() if k not in free} == {k: v for k, v in before.items() if k not in free}
        labels = self.client.read_labels(self.video)
        anchors = {(one.track, one.frame): one for one in labels if isinstance(one, Label) and one.is_anchor}
        assert anchors == self.drawn
        assert not {key for key in self.gone if key in after and key not in self.drawn}
        if revision:
            self.acts.append((revision, drawn, gone, before))
        self.fresh = bool(revision)
        event(f"{what}: {'done' if after != before else 'nothing to do'}")

    def correct(self, track: str, frame: int, x: int) -> tuple[int, Iterable[Key]]:
        span = self.span(track, frame)
        self.drawn[track, frame] = box(frame, track, x1=float(x))
        self.gone.discard((track, frame))  # a person brings the object back
        first, *_ = self.client.review.correct_labels(self.video, [self.drawn[track, frame]])
        return first.acknowledged.label_revision, span

    def take_back(self, track: str, frame: int, x: int) -> tuple[int, Iterable[Key]]:
        if (track, frame) not in self.drawn or len(self.drawn) < 3:
            return 0, ()
        span = self.span(track, frame)
        del self.drawn[track, frame]
        first, *_ = self.client.review.correct_labels(self.video, deletions=[label_key(frame, track=track)])
        return first.acknowledged.label_revision, span

    def undo(self, track: str, frame: int, x: int) -> tuple[int, Iterable[Key]]:
        if not self.acts:
            return 0, ()
        revision, drawn, gone, before = self.acts.pop()
        fixed = self.fixed() & drawn.keys()
        kept = {key for key in fixed if self.drawn.get(key) == drawn[key]}
        everything = self.raw().keys() | before.keys()
        try:
            self.client.review.undo_change(self.video, revision)
        except ApiError as error:  # what stands there was judged or moved since: it stays
            if error.code != "ABORTED":
                raise
            self.acts.clear()
            return 0, ()
        self.drawn, self.gone = drawn, gone
        if self.fresh:
            assert self.contents(self.raw()) == self.contents(before)
        return 0, everything - kept

    def contents(self, raw: dict[Key, bytes]) -> dict[Key, bytes]:
        """Labels without the revision that wrote them."""
        found = {}
        for key, value in raw.items():
            label = label_pb2.Label.FromString(value)
            label.ClearField("revision")
            label.ClearField("author")
            label.ClearField("write_time")
            found[key] = label.SerializeToString(deterministic=True)
        return found

    def judge(self, action: str, track: str, frame: int) -> tuple[int, Iterable[Key]]:
        if (track, frame) not in self.labels():
            return 0, ()
        self.client.review.review_labels(self.video, action, keys=[label_key(frame, track=track)])
        return 0, [(track, frame)]

    def accept(self, track: str, frame: int, x: int) -> tuple[int, Iterable[Key]]:
        return self.judge("accept", track, frame)

    def lock(self, track: str, frame: int, x: int) -> tuple[int, Iterable[Key]]:
        return self.judge("lock", track, frame)

    def predictions(self) -> set[Key]:
        """What a micro-model may write anywhere in the video."""
        names = {track for track, _ in self.labels()} | {"1"}
        return {(name, frame) for name in names for frame in range(COUNT)} - self.fixed()

    def propagate(self, track: str, frame: int, x: int) -> tuple[int, Iterable[Key]]:
        free = self.predictions()
        self.client.propagate(self.video, self.model).result(120)
        return 0, free

    def retrain(self, track: str, frame: int, x: int) -> tuple[int, Iterable[Key]]:
        free = self.predictions()
        try:
            replaced = self.client.retrain(self.video).result(120).replaced
        except ApiError as error:  # too few drawn frames to compare on
            if error.code != "FAILED_PRECONDITION":
                raise
            return 0, ()
        assert replaced
        return 0, free

    def swap(self, track: str, frame: int, x: int) -> tuple[int, Iterable[Key]]:
        call = partial(self.client.review.swap_tracks, self.video, "1", "2", frames=range(frame, COUNT))
        return self.move(call, {"1": "2", "2": "1"}, frame)

    def split(self, track: str, frame: int, x: int) -> tuple[int, Iterable[Key]]:
        self.tracks += 1
        new = str(self.tracks)
        call = partial(self.client.review.split_track, self.video, track, new, frames=range(frame, COUNT))
        return self.move(call, {track: new}, frame)

    def merge(self, track: str, frame: int, x: int) -> tuple[int, Iterable[Key]]:
        other = "2" if track == "1" else "1"
        call = partial(self.client.review.merge_tracks, self.video, track, other)
        return self.move(call, {other: track}, 0)

    def delete(self, track: str, frame: int, x: int) -> tuple[int, Iterable[Key]]:
        call = partial(self.client.review.delete_track, self.video, track, frames=range(frame, COUNT))
        return self.move(call, {track: ""}, frame)

    def move(
        self, call: Callable[[], EditTracksResponse], targets: dict[str, str], start: int
    ) -> tuple[int, Iterable[Key]]:
        """Use an identity tool, from a frame on; labels go to other tracks, or nowhere."""
        moving = {key for key in self.labels() if key[0] in targets and key[1] >= start}
        try:
            revision = call().label_revision
        except ApiError as error:  # there is no such track any more, or people drew both on one frame
            if error.code not in ("NOT_FOUND", "FAILED_PRECONDITION"):
                raise
            return 0, ()
        moved = {key: self.drawn.pop(key) for key in moving & self.drawn.keys()}
        if len(targets) == 1:
            self.gone |= moving
        for (track, frame), label in moved.items():
            if targets[track]:
                self.drawn[targets[track], frame] = replace(label, track=targets[track])
        names = {*targets, *targets.values()}
        return revision, {(name, frame) for name in names for frame in range(start, COUNT)}


def steps(*words: str) -> list[tuple[str, str, int, int]]:
    """Steps from words such as ``correct 1 12``."""
    return [(word.split()[0], word.split()[1], int(word.split()[2]), int(word.split()[2]) * 3) for word in words]


@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
@given(acts=st.lists(STEPS, min_size=3, max_size=8))
@example(acts=steps("correct 1 6", "correct 1 12", "lock 1 3", "correct 1 18", "retrain 1 0", "undo 1 0", "undo 1 0"))
@example(acts=steps("correct 2 8", "swap 1 5", "split 1 12", "retrain 1 0", "undo 1 0", "merge 1 0", "propagate 1 0"))
@example(acts=steps("correct 1 10", "delete 1 15", "propagate 1 0", "correct 1 20", "take_back 1 20", "undo 1 0"))
def test_every_anchor_is_what_the_human_drew(running: Running, acts: list[tuple[str, str, int, int]]) -> None:
    """After every step of any sequence; and all else that the step was not about is byte for byte what it was."""
    person = Person(running)
    for step in acts:
        person.step(*step)
