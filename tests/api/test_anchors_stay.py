"""Whatever is corrected, computed, propagated and undone: every anchor is what the human drew."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from micromodels.client import ApiError, label_key
from micromodels.types import Label
from tests.api.harness import Running, box

FRAMES = st.integers(0, 23)
STEPS = st.one_of(
    st.tuples(st.just("correct"), FRAMES, st.integers(0, 90)),
    st.tuples(st.just("take back"), FRAMES, st.just(0)),
    st.tuples(st.just("undo"), st.just(0), st.just(0)),
    st.tuples(st.just("accept"), FRAMES, st.just(0)),
    st.tuples(st.just("propagate"), st.just(0), st.just(0)),
)


class Person:
    """Works on a video, and remembers what was drawn."""

    def __init__(self, running: Running) -> None:
        self.client = running.client
        self.video = running.video().name
        self.drawn = {0: box(0)}
        self.acts: list[tuple[int, dict[int, Label]]] = []
        run = self.client.auto_label(self.video, [box(0)])
        assert len(list(run.labels())) == 24
        assert run.result is not None
        self.model = run.result.micro_model_version

    def step(self, what: str, frame: int, x: int) -> None:
        before, revision = dict(self.drawn), 0
        if what == "correct":
            self.drawn[frame] = box(frame, x1=float(x))
            first, *_ = self.client.review.correct_labels(self.video, [self.drawn[frame]])
            revision = first.acknowledged.label_revision
        elif what == "take back" and frame in self.drawn and len(self.drawn) > 1:
            del self.drawn[frame]
            first, *_ = self.client.review.correct_labels(self.video, deletions=[label_key(frame, track="1")])
            revision = first.acknowledged.label_revision
        elif what == "undo" and self.acts:
            undone, earlier = self.acts.pop()
            try:
                self.client.review.undo_change(self.video, undone)
            except ApiError as error:  # a prediction there was accepted since: what stands stays
                if error.code != "ABORTED":
                    raise
                self.acts.clear()
            else:
                self.drawn = earlier
        elif what == "accept":
            self.client.review.review_labels(self.video, "accept", keys=[label_key(frame, track="1")])
        elif what == "propagate":
            self.client.propagate(self.video, self.model).result(120)
        if revision:
            self.acts.append((revision, before))

    def check(self) -> None:
        labels = [label for label in self.client.read_labels(self.video) if isinstance(label, Label)]
        assert {label.frame: label for label in labels if label.is_anchor} == self.drawn
        assert len({label.frame for label in labels}) == len(labels)


@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
@given(steps=st.lists(STEPS, min_size=2, max_size=6))
def test_every_anchor_is_what_the_human_drew(running: Running, steps: list[tuple[str, int, int]]) -> None:
    """After every step of any sequence."""
    person = Person(running)
    for step in steps:
        person.step(*step)
        person.check()
