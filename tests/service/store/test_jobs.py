"""The ledger: leases, fences, tries, ends, events."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from micromodels.errors import FailedPrecondition, ModelError
from service.domain.errors import AlreadyExists, NotFound, StaleLease
from service.domain.jobs import (
    Effects,
    Job,
    JobError,
    JobKind,
    JobState,
    Lease,
    NewEvent,
)
from service.domain.models import (
    BlobFile,
    NewModel,
)
from service.domain.videos import (
    Project,
    VideoRecord,
)
from service.store import (
    Store,
    Watch,
)
from tests.service.store.conftest import Place
from tests.service.store.helpers import MODEL, ONTOLOGY, box, labels_of

CRASH = JobError("WORKER_CRASHED", "it died")


@pytest.fixture
def job(store: Store, video: VideoRecord) -> Iterator[Job]:
    """A queued job, cancelled afterwards so that no other test leases it."""
    made = store.jobs.create(video.project_id, JobKind.TRAIN, {"video_id": video.video_id}, video_id=video.video_id)
    yield made
    store.jobs.cancel(made.project_id, made.job_id)
    if beats := [beat for beat in store.jobs.held() if beat.job_id == made.job_id]:
        store.jobs.reclaim(beats[0], CRASH)


def lease_of(store: Store, job: Job, worker: str = "w") -> Lease:
    taken = store.jobs.lease(worker, [job.kind])
    assert taken is not None
    assert taken[1].job_id == job.job_id
    return taken[0]


def get(store: Store, job: Job) -> Job:
    return store.jobs.get(job.project_id, job.job_id)


def test_the_life_of_a_job(store: Store, video: VideoRecord, job: Job) -> None:
    """Queued, leased, running, succeeded; labels, progress and result are there, with the states as events."""
    assert (job.state, job.tries, job.started_at) == (JobState.QUEUED, 0, None)
    lease = lease_of(store, job)
    assert get(store, job).state is JobState.LEASED
    store.jobs.commit(lease, Effects(state=JobState.RUNNING))
    labels = [box(3, provenance=MODEL), box(4, provenance=MODEL)]
    store.jobs.commit(lease, Effects(labels=labels, progress={"frames_done": 2}, checkpoint={"next_frame": 5}))
    store.jobs.commit(lease, Effects(result={"frames": 2}, state=JobState.SUCCEEDED))
    ended = get(store, job)
    assert (ended.state, ended.result, ended.progress) == (
        JobState.SUCCEEDED,
        {"frames": 2, "revision": 1},
        {"frames_done": 2},
    )
    assert ended.checkpoint == {"next_frame": 5}
    assert ended.started_at is not None
    assert ended.ended_at is not None
    assert labels_of(store, video) == labels
    events = store.jobs.events(job.project_id, job.job_id)
    assert [(e.sequence, e.payload["state"]) for e in events] == [(1, "leased"), (2, "running"), (3, "succeeded")]
    with pytest.raises(StaleLease):
        store.jobs.beat(lease)


def test_a_stale_worker_commits_nothing(store: Store, video: VideoRecord, job: Job) -> None:
    """After another worker took over, nothing that the first one sends has any effect."""
    old = lease_of(store, job, "old")
    (beat,) = [beat for beat in store.jobs.held() if beat.job_id == job.job_id]
    assert store.jobs.reclaim(beat, CRASH)
    assert get(store, job).state is JobState.QUEUED
    with pytest.raises(StaleLease, match="'old'"):
        store.jobs.commit(old, Effects(labels=[box(1, provenance=MODEL)]))
    new = lease_of(store, job, "new")
    assert new.fence > old.fence
    for effects in (
        Effects(labels=[box(1, provenance=MODEL)], state=JobState.SUCCEEDED),
        Effects(events=[NewEvent("warned", {})]),
    ):
        with pytest.raises(StaleLease):
            store.jobs.commit(old, effects)
    with pytest.raises(StaleLease):
        store.jobs.requeue(old, CRASH)
    assert labels_of(store, video) == []
    assert get(store, job).tries == 2
    store.jobs.commit(new, Effects(state=JobState.SUCCEEDED))


def test_users_take_turns_and_so_do_the_projects_of_one(place: Place, tmp_path: Path) -> None:
    """Somebody with many jobs in two projects keeps nobody waiting for more than one of them."""
    with Store.open(place(tmp_path)) as store:
        one, two = (store.projects.create(name, ONTOLOGY).project_id for name in "pq")
        for project in (one, one, one, two):
            store.jobs.create(project, JobKind.TRAIN, {}, author="busy")
        for author in ("ann", "bob"):
            store.jobs.create(one, JobKind.TRAIN, {}, author=author)
        order = []
        while taken := store.jobs.lease("w", [JobKind.TRAIN]):
            order.append((taken[1].author, taken[1].project_id))
            if len(order) == 2:
                store.jobs.create(one, JobKind.TRAIN, {}, author="ann")
        busy_one, busy_two = ("busy", one), ("busy", two)
        assert order == [busy_one, ("ann", one), ("bob", one), busy_two, ("ann", one), busy_one, busy_one]


def test_a_sign_of_life_keeps_the_lease(store: Store, job: Job) -> None:
    """What was seen before the last beat is no reason to take a job back."""
    lease = lease_of(store, job)
    (seen,) = [beat for beat in store.jobs.held() if beat.job_id == job.job_id]
    store.jobs.beat(lease)
    assert not store.jobs.reclaim(seen, CRASH)
    store.jobs.beat(lease)


def test_the_watch_uses_its_own_clock() -> None:
    """A lease lapses when its beat has not changed for long enough, by the clock of who looks."""
    from service.domain.jobs import Beat

    watch = Watch(10.0)
    one, two = Beat("a", 1, 1), Beat("b", 1, 1)
    assert watch.lapsed([one, two], 0.0) == []
    assert watch.lapsed([one, Beat("b", 1, 2)], 9.0) == []
    assert watch.lapsed([one, Beat("b", 1, 2)], 11.0) == [one]
    assert watch.lapsed([Beat("a", 2, 1)], 12.0) == []


def test_three_tries(store: Store, job: Job) -> None:
    """A job that takes its worker down is set aside after three tries, sooner when memory was the reason."""
    for expected in (JobState.QUEUED, JobState.QUEUED, JobState.FAILED):
        assert store.jobs.requeue(lease_of(store, job), CRASH) is expected
    failed = get(store, job)
    assert failed.error == JobError("WORKER_CRASHED", "failed after 3 tries: it died")
    other = store.jobs.create(job.project_id, JobKind.TRAIN, {})
    for expected in (JobState.QUEUED, JobState.FAILED):
        assert store.jobs.requeue(lease_of(store, other), JobError("OOM", "no memory", "OutOfMemory")) is expected


def test_giving_a_job_back_is_not_a_try(store: Store, job: Job) -> None:
    """A server that stops may do so any number of times."""
    for _ in range(5):
        assert store.jobs.requeue(lease_of(store, job), None) is JobState.QUEUED
    assert get(store, job).tries == 0


def test_cancel_has_one_end(store: Store, job: Job) -> None:
    """A running job is told; whichever way it ends, it ends once."""
    lease = lease_of(store, job)
    assert not store.jobs.beat(lease).cancel
    assert store.jobs.cancel(job.project_id, job.job_id).state is JobState.CANCELLING
    assert store.jobs.commit(lease, Effects(state=JobState.RUNNING)).cancel
    assert get(store, job).state is JobState.CANCELLING
    store.jobs.commit(lease, Effects(state=JobState.SUCCEEDED))
    assert store.jobs.cancel(job.project_id, job.job_id).state is JobState.SUCCEEDED
    with pytest.raises(StaleLease):
        store.jobs.commit(lease, Effects(state=JobState.CANCELLED))
    events = store.jobs.events(job.project_id, job.job_id)
    assert [e.payload["state"] for e in events] == ["leased", "cancelling", "cancelling", "succeeded"]


def test_a_cancelled_job_whose_worker_died(store: Store, job: Job) -> None:
    """It is not tried again."""
    lease = lease_of(store, job)
    store.jobs.cancel(job.project_id, job.job_id)
    assert store.jobs.requeue(lease, CRASH) is JobState.CANCELLED


def test_finish_early_reaches_the_worker(store: Store, job: Job) -> None:
    """The next beat carries it."""
    lease = lease_of(store, job)
    store.jobs.finish_early(job.project_id, job.job_id)
    assert store.jobs.beat(lease).finish_early


def test_turns(store: Store, project: Project) -> None:
    """Projects take turns, and within one the oldest job goes first."""
    other = store.projects.create("q", project.ontology)
    jobs = [store.jobs.create(p, JobKind.EXPORT, {}) for p in [project.project_id] * 3 + [other.project_id] * 2]
    got = []
    while taken := store.jobs.lease("w", [JobKind.EXPORT]):
        got.append(taken[1].job_id)
        store.jobs.commit(taken[0], Effects(state=JobState.SUCCEEDED))
    assert got == [jobs[i].job_id for i in (0, 3, 1, 4, 2)]


def test_a_job_goes_to_one_worker(store: Store, project: Project) -> None:
    """However many workers ask at the same moment."""
    jobs = [store.jobs.create(project.project_id, JobKind.EXPORT, {}).job_id for _ in range(12)]
    with ThreadPoolExecutor(8) as pool:
        taken = [t for t in pool.map(lambda i: store.jobs.lease(f"w{i}", [JobKind.EXPORT]), range(20)) if t]
    assert sorted(job.job_id for _, job in taken) == sorted(jobs)
    for lease, _ in taken:
        store.jobs.commit(lease, Effects(state=JobState.SUCCEEDED))


def test_requests_lists_and_deletes(store: Store, project: Project, job: Job) -> None:
    """Request ids work for jobs; a list can be cut by state; only an ended job can be deleted."""
    spec = {"x": 1}
    first = store.jobs.create(project.project_id, JobKind.EXPORT, spec, request_id="j")
    assert store.jobs.create(project.project_id, JobKind.EXPORT, spec, request_id="j").job_id == first.job_id
    with pytest.raises(AlreadyExists):
        store.jobs.create(project.project_id, JobKind.EXPORT, {"x": 2}, request_id="j")
    queued = store.jobs.list(project.project_id, states=[JobState.QUEUED]).items
    assert {j.job_id for j in queued} == {job.job_id, first.job_id}
    page = store.jobs.list(project.project_id, limit=1)
    assert len(page.items) == 1
    assert store.jobs.list(project.project_id, after=page.next_after).items[-1].job_id == first.job_id
    with pytest.raises(FailedPrecondition, match="cancel it first"):
        store.jobs.delete(project.project_id, first.job_id)
    store.jobs.cancel(project.project_id, first.job_id)
    store.jobs.delete(project.project_id, first.job_id)
    with pytest.raises(NotFound, match="operation"):
        store.jobs.get(project.project_id, first.job_id)


def test_old_progress_is_thinned_out(store: Store, job: Job) -> None:
    """However long a job reports, its events stay bounded: recent ones whole, older progress at larger steps."""
    lease = lease_of(store, job)
    total = 4000
    for start in range(0, total, 500):
        events = [NewEvent("training_progress", {"step": start + i}) for i in range(499)]
        store.jobs.commit(lease, Effects(events=[*events, NewEvent("experiment_finished", {"n": start})]))
    kept = store.jobs.events(job.project_id, job.job_id, limit=10_000)
    progress = [e.payload["step"] for e in kept if e.kind == "training_progress"]
    assert len(progress) < 1500
    assert progress[-200:] == list(range(total - 201, total - 1))
    assert progress[0] < 10
    assert sum(e.kind == "experiment_finished" for e in kept) == 8
    assert get(store, job).last_sequence == total + 1
    assert [e.sequence for e in kept] == sorted({e.sequence for e in kept})


def test_models_have_versions_and_lineage(store: Store, project: Project, job: Job, tmp_path: object) -> None:
    """A model is recorded in the commit of its job; versions count up."""
    from pathlib import Path

    lease = lease_of(store, job)
    sha256 = store.blobs.add_bytes(b"weights")
    files = (BlobFile("heads/0.safetensors", sha256, 7),)
    new = NewModel("", "name", 0, "head", {"j": 0.8}, {"encoder": "e"}, {"v": 3}, files)
    made = store.jobs.commit(lease, Effects(model=new)).model
    assert get(store, job).checkpoint == made == get(store, job).result
    again = NewModel(made["model_id"], "name", 1, "head", {}, {}, {"v": 5}, files)
    assert store.jobs.commit(lease, Effects(model=again)).model == {"model_id": made["model_id"], "version": 2}
    model = store.models.get(project.project_id, made["model_id"], 1)
    assert (model.metrics, model.label_revisions, model.files) == ({"j": 0.8}, {"v": 3}, files)
    assert store.models.get(project.project_id, made["model_id"]).parent_version == 1
    assert model.provenance_version == f"{made['model_id']}@1"
    assert len(store.models.list(project.project_id, model_id=made["model_id"]).items) == 2
    folder = Path(str(tmp_path)) / "model"
    store.models.materialize(model, folder)
    assert (folder / "heads" / "0.safetensors").read_bytes() == b"weights"
    store.models.delete(project.project_id, made["model_id"], 2)
    assert store.models.get(project.project_id, made["model_id"]).version == 1
    with pytest.raises(NotFound, match="@2"):
        store.models.get(project.project_id, made["model_id"], 2)
    bad = NewModel("", "", 0, "head", {}, {}, {}, (BlobFile("../../x", sha256, 7),))
    evil = store.jobs.commit(lease, Effects(model=bad)).model
    with pytest.raises(ModelError, match="leads out"):
        store.models.materialize(store.models.get(project.project_id, evil["model_id"]), folder)


def test_one_failing_part_undoes_the_whole_commit(store: Store, video: VideoRecord, job: Job) -> None:
    """Labels, events and state go together: if one cannot be written, none is."""
    lease = lease_of(store, job)
    before = get(store, job)
    events = [NewEvent("warned", {"x": object()})]  # is no JSON
    effects = Effects(labels=[box(1, provenance=MODEL)], events=events, state=JobState.SUCCEEDED)
    with pytest.raises((sa.exc.StatementError, TypeError)):
        store.jobs.commit(lease, effects)
    assert labels_of(store, video) == []
    assert get(store, job) == before


def test_f65_cancel_races_completion(store: Store, project: Project) -> None:
    """Whoever comes first: each job has exactly one end, and says so once."""
    jobs = [store.jobs.create(project.project_id, JobKind.EXPORT, {}) for _ in range(20)]
    leases = {}
    while taken := store.jobs.lease("w", [JobKind.EXPORT]):
        leases[taken[1].job_id] = taken[0]
    with ThreadPoolExecutor(8) as pool:
        for job in jobs:
            pool.submit(store.jobs.cancel, project.project_id, job.job_id)
            pool.submit(store.jobs.commit, leases[job.job_id], Effects(state=JobState.SUCCEEDED))
            pool.submit(store.jobs.requeue, leases[job.job_id], CRASH)
    for job in jobs:
        if beats := [beat for beat in store.jobs.held() if beat.job_id == job.job_id]:
            store.jobs.reclaim(beats[0], CRASH)
        store.jobs.cancel(project.project_id, job.job_id)  # what went back to the queue ends here
        states = [e.payload["state"] for e in store.jobs.events(project.project_id, job.job_id)]
        assert sum(JobState(state).is_final for state in states) == 1, states
        assert store.jobs.get(project.project_id, job.job_id).state.value == states[-1]
