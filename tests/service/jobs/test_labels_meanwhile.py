"""Labels that change between the start of a job and its commits."""

from __future__ import annotations

from typing import Any

import pytest

from micromodels.labels.keys import LabelKey
from micromodels.types import Box, Label, Provenance, ProvenanceKind, State
from service.domain.errors import StaleLease
from service.domain.history import Act, ChangeKind, ReviewAction
from service.domain.job_specs import AutoLabelSpec, JobSpec, PropagateSpec, RetrainSpec, TrainSpec
from service.domain.jobs import Effects, Job, JobKind, JobState
from service.domain.labels import LabelRecord
from service.domain.videos import VideoRecord
from service.jobs.submit import submit
from tests.service.jobs.jobs_harness import Bench, until

SLOW: dict[str, Any] = {"steps": 10_000, "seconds_per_step": 0.02}
"""A training that lasts until somebody ends it early."""


def box(frame: int, confidence: float | None = None) -> Label:
    """A hand label; with a confidence, a prediction."""
    made_by = Provenance(ProvenanceKind.HUMAN if confidence is None else ProvenanceKind.MODEL)
    return Label(frame, "1", "thing", State.VISIBLE, Box(50, 50, 60, 60), confidence, made_by)


def ids(video: VideoRecord) -> tuple[str, str]:
    return video.project_id, video.video_id


def key(frame: int) -> LabelKey:
    return LabelKey(frame=frame, name="1")


def records(bench: Bench, video: VideoRecord) -> dict[int, LabelRecord]:
    """By frame, deletions included."""
    return {record.key.frame: record for record in bench.store.labels.stream(*ids(video), with_deleted=True)}


def confidences(bench: Bench, video: VideoRecord) -> dict[int, float | None]:
    """By frame, of labels that are there."""
    return {frame: r.label.confidence for frame, r in records(bench, video).items() if r.label is not None}


def write(bench: Bench, video: VideoRecord, *labels: Label, deletes: tuple[int, ...] = ()) -> int:
    """What a person draws and deletes; returns the revision."""
    deleted = [key(frame) for frame in deletes]
    return bench.store.labels.write(*ids(video), labels, deletes=deleted, author="bob").revision


def recompute(bench: Bench, video: VideoRecord, *labels: Label) -> None:
    """What a session computes after a correction, which draws the seed again."""
    drawn = [box(0)]
    revision = bench.store.labels.write(*ids(video), drawn, author="bob", kind=ChangeKind.CORRECT).revision
    act = Act("bob", ChangeKind.RECOMPUTE, parent=revision, model_version="m@1")
    assert bench.store.labels.recompute(*ids(video), labels, [], act).written == len(labels)


def run(bench: Bench, video: VideoRecord, spec: JobSpec) -> Job:
    """Do a job, with a training that is good enough at once."""
    job = start_training(bench, video, spec)
    bench.store.jobs.finish_early(video.project_id, job.job_id)
    return bench.end(job.job_id)


def start_training(bench: Bench, video: VideoRecord, spec: JobSpec) -> Job:
    """Submit a job and wait until it trains."""
    job = submit(bench.store, video.project_id, spec)
    until(lambda: "training" in bench.store.jobs.get(video.project_id, job.job_id).progress)
    return job


def test_a_commit_leaves_what_is_newer_than_its_base(bench: Bench) -> None:
    """Older labels are replaced; newer ones of anybody stay, and so do deletions. A lost job writes nothing."""
    video = bench.ready(frames=10)
    bench.store.jobs.create(video.project_id, JobKind.RETRAIN, {}, video_id=video.video_id)
    taken = bench.store.jobs.lease("test", [JobKind.RETRAIN])
    assert taken is not None
    lease, job = taken
    bench.store.jobs.commit(lease, Effects(labels=[box(frame, 0.5) for frame in range(1, 6)], state=JobState.RUNNING))
    base = bench.store.labels.revision(*ids(video))
    recompute(bench, video, box(2, 0.6))
    newest = write(bench, video, box(3), deletes=(4,))
    new = [box(frame, 0.9) for frame in range(7)]
    bench.store.jobs.commit(lease, Effects(labels=new, base_revision=base, state=JobState.SUCCEEDED))
    after = records(bench, video)
    assert [frame for frame, record in after.items() if record.revision > newest] == [1, 5, 6]
    assert confidences(bench, video) == {0: None, 1: 0.9, 2: 0.6, 3: None, 5: 0.9, 6: 0.9}
    assert bench.store.jobs.get(video.project_id, job.job_id).result["revision"] == newest + 1
    with pytest.raises(StaleLease):
        bench.store.jobs.commit(lease, Effects(labels=new, base_revision=newest))
    assert records(bench, video) == after


def test_a_commit_whose_base_is_outdated_everywhere_writes_nothing(bench: Bench) -> None:
    """No label, no revision, no change in the history; the job ends well."""
    video = bench.ready(frames=4)
    bench.store.jobs.create(video.project_id, JobKind.RETRAIN, {}, video_id=video.video_id)
    taken = bench.store.jobs.lease("test", [JobKind.RETRAIN])
    assert taken is not None
    lease, job = taken
    base = bench.store.labels.revision(*ids(video))
    recompute(bench, video, *(box(frame, 0.6) for frame in range(1, 4)))
    before, changes = records(bench, video), bench.store.history.changes(*ids(video))
    new = [box(frame, 0.9) for frame in range(4)]
    bench.store.jobs.commit(lease, Effects(labels=new, base_revision=base, state=JobState.SUCCEEDED))
    assert records(bench, video) == before
    assert bench.store.history.changes(*ids(video)) == changes
    assert bench.store.jobs.get(video.project_id, job.job_id).state is JobState.SUCCEEDED


def test_a_retraining_leaves_what_changed_since_its_start(bench: Bench) -> None:
    """What people drew, deleted, accepted and locked while it trained stays, and what a session computed; the rest is
    made by the new version."""
    video = bench.ready(frames=12, **SLOW)
    bench.start()
    assert run(bench, video, AutoLabelSpec(video.video_id)).error is None
    bench.store.reviews.review(*ids(video), ReviewAction.ACCEPT, keys=[key(8)], author="bob")
    job = start_training(bench, video, RetrainSpec(video.video_id))
    started = bench.store.labels.revision(*ids(video))
    write(bench, video, box(3), deletes=(4,))
    recompute(bench, video, box(5, 0.6))
    bench.store.reviews.review(*ids(video), ReviewAction.ACCEPT, keys=[key(6)], author="bob")
    bench.store.reviews.review(*ids(video), ReviewAction.LOCK, keys=[key(7)], author="bob")
    bench.store.jobs.finish_early(video.project_id, job.job_id)
    job = bench.end(job.job_id)
    assert (job.state, job.error, job.result["replaced"]) == (JobState.SUCCEEDED, None, True)
    assert job.result["unseen_frames"] == [8], "the worker did not get what people had settled"
    kept = {0: None, 3: None, 5: 0.6, 6: 0.9, 7: 0.9, 8: 0.9}
    assert confidences(bench, video) == {frame: 0.99 for frame in (1, 2, 9, 10, 11)} | kept
    after = records(bench, video)
    assert after[4].label is None
    model = bench.store.models.of_video(*ids(video))
    assert model is not None
    assert (model.version, model.label_revisions) == (2, {video.video_id: started})
    label = after[11].label
    assert label is not None
    assert label.provenance.version == model.provenance_version


def test_a_retraining_that_does_no_better_changes_nothing(bench: Bench) -> None:
    """The scores are in its result; labels and versions are as they were."""
    video = bench.ready(frames=4, worse=True, **SLOW)
    bench.start()
    run(bench, video, AutoLabelSpec(video.video_id))
    before = records(bench, video)
    job = run(bench, video, RetrainSpec(video.video_id))
    assert (job.state, job.result["replaced"], job.result["unseen_score_before"]) == (JobState.SUCCEEDED, False, 0.5)
    assert "frames" not in job.result
    assert records(bench, video) == before
    assert len(bench.store.models.list(video.project_id).items) == 1


def test_a_model_names_the_labels_that_it_has_seen(bench: Bench) -> None:
    """What is drawn while it trains was not seen: it counts towards the next retraining."""
    video = bench.ready(frames=5, **SLOW)
    bench.start()
    job = start_training(bench, video, AutoLabelSpec(video.video_id))
    seen = bench.store.labels.revision(*ids(video))
    write(bench, video, box(3))
    bench.store.jobs.finish_early(video.project_id, job.job_id)
    assert bench.end(job.job_id).error is None
    model = bench.store.models.of_video(*ids(video))
    assert model is not None
    assert model.label_revisions == {video.video_id: seen}
    assert bench.store.labels.anchor_frames(*ids(video), seen) == 1
    assert records(bench, video)[3].author == "bob"


def test_a_propagation_leaves_what_people_decided_meanwhile(bench: Bench) -> None:
    """Labels that were accepted, locked or drawn after it had started are not replaced when it gets to them."""
    video = bench.ready(frames=40, seconds_per_frame=0.05)
    bench.start()
    bench.end(submit(bench.store, video.project_id, AutoLabelSpec(video.video_id)).job_id)
    first = records(bench, video)
    other = bench.end(submit(bench.store, video.project_id, TrainSpec(video.video_id)).job_id).result["model_id"]
    job = submit(bench.store, video.project_id, PropagateSpec(video.video_id, other))
    until(lambda: bench.store.jobs.get(video.project_id, job.job_id).progress.get("frames_done", 0) > 2)
    bench.store.reviews.review(*ids(video), ReviewAction.ACCEPT, keys=[key(35)], author="bob")
    bench.store.reviews.review(*ids(video), ReviewAction.LOCK, keys=[key(36)], author="bob")
    write(bench, video, box(37))
    assert bench.end(job.job_id).state is JobState.SUCCEEDED
    after = records(bench, video)
    assert [frame for frame in range(30, 40) if after[frame].label == first[frame].label] == [35, 36]
    assert (after[37].author, after[37].label) == ("bob", box(37))
