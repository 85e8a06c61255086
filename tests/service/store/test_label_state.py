"""Any sequence of writes, deletions and predictions, against a model of a few dicts."""

from __future__ import annotations

from functools import partial

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from micromodels.labels.keys import LabelKey
from micromodels.types import AnyLabel
from service.domain.errors import RevisionConflict
from service.store import Store
from tests.service.store.helpers import MODEL, ONTOLOGY, box, ready_video, tool

keys = st.builds(LabelKey, frame=st.integers(0, 2), name=st.sampled_from("ab"))
lag = st.none() | st.integers(0, 3)


class LabelMachine(RuleBasedStateMachine):
    """The store beside a model: (label, revision, by_human) by key, and the history of each key."""

    store: Store
    project_id: str

    @initialize()
    def begin(self) -> None:
        self.video = ready_video(self.store, self.project_id)
        self.current: dict[LabelKey, tuple[AnyLabel | None, int, bool]] = {}
        self.history: dict[LabelKey, list[AnyLabel | None]] = {}
        self.revision = 0

    @rule(where=st.sets(keys, min_size=1, max_size=3), x=st.integers(0, 3), human=st.booleans(), lag=lag)
    def write(self, where: set[LabelKey], x: int, human: bool, lag: int | None) -> None:
        labels = [box(key.frame, key.name, float(x), None if human else MODEL) for key in sorted(where)]
        self._send({LabelKey.of(label): label for label in labels}, human, lag)

    @rule(where=st.sets(keys, min_size=1, max_size=2), lag=lag)
    def delete(self, where: set[LabelKey], lag: int | None) -> None:
        self._send(dict.fromkeys(where), True, lag)

    @rule(frame=st.integers(0, 2), present=st.booleans())
    def tag(self, frame: int, present: bool) -> None:
        label = tool(frame, present)
        self._send({LabelKey.of(label): label}, True, None)

    def _send(self, batch: dict[LabelKey, AnyLabel | None], human: bool, lag: int | None) -> None:
        base = None if lag is None else max(0, self.revision - lag)
        conflicts = {
            key
            for key in batch
            if base is not None
            and key in self.current
            and self.current[key][1] > base
            and (self.current[key][2] or not human)
        }
        send = partial(
            self.store.labels.write,
            self.video.project_id,
            self.video.video_id,
            [label for label in batch.values() if label is not None],
            deletes=[key for key, label in batch.items() if label is None],
            base_revision=base,
            author="x",
        )
        if conflicts:
            with pytest.raises(RevisionConflict) as caught:
                send()
            assert set(caught.value.conflicts) == conflicts
            return
        result = send()
        kept = {k for k in batch if not human and k in self.current and self.current[k][2] and self.current[k][0]}
        assert set(result.kept_anchors) == kept
        changed = {k: v for k, v in batch.items() if k not in kept and (v or self.current.get(k, (None,))[0])}
        if changed:
            self.revision += 1
        assert result.revision == self.revision
        for key, label in changed.items():
            self.current[key] = (label, self.revision, human)
            self.history.setdefault(key, []).append(label)

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "current"):
            return
        records = list(self.store.labels.stream(self.video.project_id, self.video.video_id, with_deleted=True))
        assert [r.key for r in records] == sorted(self.current)
        assert {r.key: (r.label, r.revision) for r in records} == {k: v[:2] for k, v in self.current.items()}
        for key, versions in self.history.items():
            kept = self.store.history.of_label(self.video.project_id, self.video.video_id, key)
            assert [v.record.label for v in kept] == versions


def test_any_sequence_of_writes(store: Store) -> None:
    """Revisions grow, anchors stay, conflicts are found, history is complete, whatever is done in whatever order."""
    from hypothesis.stateful import run_state_machine_as_test

    LabelMachine.store = store
    LabelMachine.project_id = store.projects.create("p", ONTOLOGY).project_id
    run_state_machine_as_test(
        LabelMachine,
        settings=settings(
            max_examples=20, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
