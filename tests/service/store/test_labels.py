"""Labels: revisions, anchors, conflicts, history and streams."""

from __future__ import annotations

import tracemalloc

import pytest

from micromodels.errors import FailedPrecondition, InvalidInput, OutOfRange
from micromodels.labels.keys import LabelKey
from micromodels.types import AnyLabel, FrameLabel, Label, Mask, Polygon, Provenance, ProvenanceKind, State
from service.domain.codec import decode_label, encode_label
from service.domain.errors import AlreadyExists, NotFound, RevisionConflict
from service.domain.labels import (
    WriteResult,
)
from service.domain.videos import (
    Project,
    VideoRecord,
)
from service.store import (
    Store,
    schema,
)
from tests.service.store.helpers import MODEL, box, labels_of, ready_video, tool


def write(
    store: Store, video: VideoRecord, *labels: AnyLabel, base: int | None = None, author: str = "a"
) -> WriteResult:
    return store.labels.write(video.project_id, video.video_id, labels, base_revision=base, author=author)


@pytest.mark.parametrize(
    "label",
    [
        box(3, "a/b ü"),
        Label(1, "t", "polyp", State.VISIBLE, Polygon(((0, 0), (1.5, 0), (0, 0.1))), 0.25, MODEL),
        Label(1, "t", "polyp", State.OCCLUDED, Mask(2, 3, "06")),
        Label(1, "t", "polyp", State.ABSENT),
        Label(1, "t", "polyp", State.UNCERTAIN, None, 0.0, Provenance(ProvenanceKind.INTERPOLATED)),
        FrameLabel(2, "tool", False, 1.0, MODEL),
    ],
)
def test_every_label_survives(label: AnyLabel) -> None:
    """What is stored is what was given."""
    assert decode_label(LabelKey.of(label), encode_label(label)) == label


def test_write_and_stream(store: Store, video: VideoRecord) -> None:
    """Labels come back in order of frames, tracks before frame classes, with revision and author."""
    first = write(store, video, tool(4), box(7), box(4, "b"), box(4, "a"))
    assert (first.revision, first.written, first.kept_anchors) == (1, 4, ())
    assert labels_of(store, video) == [box(4, "a"), box(4, "b"), tool(4), box(7)]
    second = write(store, video, box(7, x=5), author="bob")
    assert second.revision == 2 == store.labels.revision(video.project_id, video.video_id)
    records = list(store.labels.stream(video.project_id, video.video_id))
    assert [(r.key.frame, r.revision, r.author) for r in records] == [(4, 1, "a")] * 3 + [(7, 2, "bob")]


def test_selections(store: Store, video: VideoRecord) -> None:
    """A stream can be cut by frames, names, classes, revision and origin."""
    write(store, video, box(1), box(2, "2"), tool(2), box(3, provenance=MODEL))
    write(store, video, box(9))
    assert labels_of(store, video, frames=range(2, 3)) == [box(2, "2"), tool(2)]
    assert labels_of(store, video, names={"2"}) == [box(2, "2")]
    assert labels_of(store, video, class_names={"tool"}) == [tool(2)]
    assert labels_of(store, video, changed_since=1) == [box(9)]
    assert labels_of(store, video, anchors_only=True) == [box(1), box(2, "2"), tool(2), box(9)]
    assert store.labels.anchors(video.project_id, video.video_id) == ([box(1), box(2, "2"), tool(2), box(9)], 2)


def test_a_stream_resumes_anywhere(store: Store, video: VideoRecord) -> None:
    """Broken off behind any label, it goes on with the next one."""
    write(store, video, *(box(i, t) for i in range(4) for t in "ab"), *(tool(i) for i in range(4)))
    records = list(store.labels.stream(video.project_id, video.video_id))
    for position, record in enumerate(records):
        rest = list(store.labels.stream(video.project_id, video.video_id, after=record.key))
        assert rest == records[position + 1 :]


def test_models_never_overwrite_anchors(store: Store, video: VideoRecord) -> None:
    """A prediction on a human label's key is left out and reported; elsewhere it replaces what was there."""
    write(store, video, box(1), box(2, provenance=MODEL))
    result = write(store, video, box(1, x=5, provenance=MODEL), box(2, x=5, provenance=MODEL))
    assert (result.written, result.kept_anchors) == (1, (LabelKey(frame=1, name="1"),))
    assert labels_of(store, video) == [box(1), box(2, x=5, provenance=MODEL)]
    absent = Label(1, "1", "polyp", State.ABSENT)
    write(store, video, absent)
    assert write(store, video, box(1, provenance=MODEL)).written == 0
    assert labels_of(store, video, frames=range(2)) == [absent]


def test_conflicting_corrections(store: Store, video: VideoRecord) -> None:
    """Of two corrections based on the same revision the second is refused whole, with the keys."""
    base = write(store, video, box(1), box(2)).revision
    write(store, video, box(2, x=3), base=base, author="ann")
    with pytest.raises(RevisionConflict) as caught:
        write(store, video, box(1, x=4), box(2, x=4), base=base, author="bob")
    assert caught.value.conflicts == (LabelKey(frame=2, name="1"),)
    assert caught.value.current_revision == base + 1
    assert labels_of(store, video) == [box(1), box(2, x=3)]
    write(store, video, box(1, x=4), base=base, author="bob")


def test_a_human_wins_over_a_newer_prediction(store: Store, video: VideoRecord) -> None:
    """A correction is not in conflict with what a model wrote meanwhile; the other way round it is."""
    write(store, video, box(1, provenance=MODEL))
    write(store, video, box(1, x=2, provenance=MODEL))
    write(store, video, box(1, x=3), base=1)
    assert labels_of(store, video) == [box(1, x=3)]
    write(store, video, box(5, provenance=MODEL))
    with pytest.raises(RevisionConflict):
        write(store, video, box(5, x=1, provenance=MODEL), base=1)


def test_deletion_and_history(store: Store, video: VideoRecord) -> None:
    """Nothing is lost: every version stays readable, deletions too, and a deletion counts in conflicts."""
    key = LabelKey(frame=1, name="1")
    write(store, video, box(1), author="ann")
    write(store, video, box(1, x=1), author="bob")
    result = store.labels.write(
        video.project_id,
        video.video_id,
        [],
        deletes=[key, LabelKey(frame=9, name="x", is_frame_class=True)],
        author="eve",
    )
    assert (result.written, result.deleted, result.revision) == (0, 1, 3)
    assert labels_of(store, video) == []
    deleted = list(store.labels.stream(video.project_id, video.video_id, with_deleted=True, class_names=["polyp"]))
    assert [(r.key, r.label, r.revision) for r in deleted] == [(key, None, 3)]
    history = store.history.of_label(video.project_id, video.video_id, key)
    assert [(v.record.label, v.record.author) for v in history] == [
        (box(1), "ann"),
        (box(1, x=1), "bob"),
        (None, "eve"),
    ]
    with pytest.raises(RevisionConflict):
        write(store, video, box(1, x=2), base=2)
    assert write(store, video, box(1, x=2), base=3).revision == 4
    gone = [LabelKey(frame=50, name="1")]
    nothing = store.labels.write(video.project_id, video.video_id, [], deletes=gone, author="a")
    assert (nothing.revision, nothing.deleted) == (4, 0)


def test_what_is_refused(store: Store, project: Project, video: VideoRecord) -> None:
    """A batch with anything wrong in it is not written at all."""
    good = box(1)
    cell = Label(1, "2", "cell", State.VISIBLE, Mask(2, 3, "06"))
    for bad, error, match in (
        (box(1, x=3), InvalidInput, "once per batch"),
        (box(100), OutOfRange, "0 to 99"),
        (Label(1, "2", "dog", State.ABSENT), InvalidInput, "cell, polyp"),
        (FrameLabel(1, "dog", True), InvalidInput, "tool"),
        (cell, InvalidInput, "box"),
    ):
        with pytest.raises(error, match=match):
            write(store, video, good, bad)
    with pytest.raises(InvalidInput, match="once per batch"):
        store.labels.write(project.project_id, video.video_id, [good], deletes=[LabelKey.of(good)], author="a")
    assert store.labels.revision(project.project_id, video.video_id) == 0
    with pytest.raises(NotFound, match="video"):
        store.labels.write(project.project_id, "none", [good], author="a")
    with pytest.raises(NotFound, match="video"):
        store.labels.stream(project.project_id, "none")
    upload = store.uploads.begin(project.project_id, "w", 1)
    store.uploads.append(project.project_id, upload.upload_id, 0, b"x")
    waiting = store.uploads.finish(project.project_id, upload.upload_id)
    with pytest.raises(FailedPrecondition, match="probing"):
        write(store, waiting, good)
    store.jobs.cancel(project.project_id, waiting.probe_job_id)


def test_a_repeated_write_is_answered_and_not_done_again(store: Store, video: VideoRecord) -> None:
    """The answer is the first one, even when labels have changed since."""

    def send(x: float) -> WriteResult:
        batch = [box(1, x=x)]
        return store.labels.write(video.project_id, video.video_id, batch, author="a", request_id="w")

    first = send(0)
    write(store, video, box(1, x=7))
    assert send(0) == first
    assert labels_of(store, video) == [box(1, x=7)]
    with pytest.raises(AlreadyExists, match="request_id"):
        send(1)


def test_memory_of_a_stream_is_bounded(store: Store, project: Project) -> None:
    """Reading eight times as many labels takes no more memory."""
    video = ready_video(store, project.project_id, frames=8_000)

    def peak() -> int:
        tracemalloc.start()
        count = sum(1 for _ in store.labels.stream(video.project_id, video.video_id))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert count == store.labels.revision(video.project_id, video.video_id) * 1000
        return most

    write(store, video, *(box(i) for i in range(1000)))
    small = peak()
    for start in range(1000, 8_000, 1000):
        write(store, video, *(box(i) for i in range(start, start + 1000)))
    # The least of some: the tracker counts the allocations of every thread of the process.
    assert min(peak() for _ in range(3)) < small * 1.5 + 200_000


def test_streams_walk_along_an_index(store: Store, video: VideoRecord) -> None:
    """Neither a page of a stream nor the anchors are found by sorting or scanning (SQLite's plan is checked)."""
    if not store._database.is_sqlite:
        pytest.skip("the plan of SQLite is checked")
    plans = []
    with store._database.begin() as connection:
        for condition, index in ((schema.IS_CURRENT, "ix_labels_current"), (schema.IS_ANCHOR, "ix_labels_anchors")):
            query = f"SELECT * FROM labels WHERE {condition} AND video = 1 ORDER BY frame, is_frame_class, name LIMIT 9"
            plans.append((index, [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}")]))
    for index, plan in plans:
        assert plan == [f"SEARCH labels USING INDEX {index} (video=?)"]
