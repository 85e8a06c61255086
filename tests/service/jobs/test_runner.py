"""Jobs from the queue to their end, with workers that run a scripted library."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from PIL import Image

from micromodels.errors import FailedPrecondition, OutOfRange
from micromodels.labels.keys import LabelKey
from micromodels.types import Box, Label, ObjectClass, Ontology, ProvenanceKind, State
from service.domain.errors import NotFound, Unavailable
from service.domain.job_specs import (
    AutoLabelSpec,
    ExportSpec,
    PropagateSpec,
    TrainSpec,
)
from service.domain.jobs import (
    Job,
    JobState,
)
from service.domain.videos import (
    VideoState,
)
from service.jobs.runner import JobRunner, prune_cache
from service.jobs.submit import (
    submit,
)
from service.store import (
    Store,
)
from service.store.labels import Labels
from tests.service.jobs.jobs_harness import Bench, short, until


def test_auto_label_from_upload_to_labels(bench: Bench) -> None:
    """An upload is probed, a model trained and kept, and every frame labeled, the seed untouched."""
    bench.start()
    video = bench.upload(frames=30)
    assert video.state is VideoState.PROBING
    bench.end(video.probe_job_id)
    video = bench.store.videos.get(bench.project_id, video.video_id)
    seed = Label(0, "1", "thing", State.VISIBLE, Box(1, 1, 2, 2))
    bench.store.labels.write(video.project_id, video.video_id, [seed], author="ann")
    assert (video.state, video.frame_count, video.width_px) == (VideoState.READY, 30, 100)
    job = bench.end(submit(bench.store, bench.project_id, AutoLabelSpec(video.video_id), author="ann").job_id)
    assert (job.state, job.error, job.tries) == (JobState.SUCCEEDED, None, 1)
    assert job.result["frames"] == 30
    records = list(bench.store.labels.stream(bench.project_id, video.video_id))
    assert [record.key.frame for record in records] == list(range(30))
    assert all(record.job_id == job.job_id for record in records[1:])
    assert records[0].author == "ann"
    assert records[0].label is not None
    assert records[0].label.provenance.kind is ProvenanceKind.HUMAN
    assert job.result["revision"] == bench.store.labels.revision(bench.project_id, video.video_id)
    model = bench.store.models.get(bench.project_id, job.result["model_id"])
    assert (model.recipe, model.metrics, model.job_id) == ("head", {"score": 0.5}, job.job_id)
    assert model.label_revisions == {video.video_id: 1}
    assert records[1].label is not None
    assert records[1].label.provenance.version == model.provenance_version
    assert [file.name for file in model.files] == ["heads/0.safetensors", "manifest.json"]
    assert bench.state_events(job) == ["leased", "running", "succeeded"]


def test_events_and_progress(bench: Bench) -> None:
    """What the library reports is kept in order, pictures as JPEG, with a snapshot in the job."""
    video = bench.ready(frames=5)
    bench.start()
    job = bench.end(submit(bench.store, bench.project_id, AutoLabelSpec(video.video_id)).job_id)
    events = bench.store.jobs.events(bench.project_id, job.job_id)
    kinds = [event.kind for event in events]
    for kind in ("warned", "training_progress", "flip_book_picture", "experiment_finished", "propagation_progress"):
        assert kind in kinds
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert job.last_sequence == len(events)
    picture = next(event for event in events if event.kind == "flip_book_picture")
    with bench.store.blobs.open(picture.picture) as file:
        assert Image.open(io.BytesIO(file.read())).size == (8, 8)
    assert job.progress["stages"] == {"train": 0.75, "predict": 0.625, "temporal": 1.25}
    assert job.progress["training"]["steps"] == 3
    assert job.progress["frames_done"] == 5
    assert job.progress["warnings"] == ["this is a fake"]
    assert bench.store.jobs.events(bench.project_id, job.job_id, after=job.last_sequence - 1) == events[-1:]


def test_times_of_stages_come_in_few_events(bench: Bench) -> None:
    """The library tells them for every frame; whoever watches gets sums, and they add up to what the job says."""
    video = bench.ready(frames=40, seconds_per_frame=0.06)
    bench.start()
    job = bench.end(submit(bench.store, bench.project_id, AutoLabelSpec(video.video_id)).job_id)
    events = bench.store.jobs.events(bench.project_id, job.job_id, limit=1000)
    reported = [event.payload for event in events if event.kind == "stage_finished"]
    assert job.started_at is not None
    assert job.ended_at is not None
    assert len(reported) <= 3 * ((job.ended_at - job.started_at).total_seconds() / 2 + 1)
    for stage, seconds in {"train": 0.75, "predict": 5.0, "temporal": 10.0}.items():
        assert sum(payload["seconds"] for payload in reported if payload["stage"] == stage) == seconds
        assert job.progress["stages"][stage] == seconds


def test_labels_can_be_read_as_they_are_made(bench: Bench) -> None:
    """Frames that are finished do not wait for the last one."""
    video = bench.ready(frames=200, seconds_per_frame=0.05)
    bench.start()
    job = submit(bench.store, bench.project_id, AutoLabelSpec(video.video_id))
    until(lambda: len(bench.frames(video)) >= 10)
    assert not bench.store.jobs.get(bench.project_id, job.job_id).state.is_final
    done = bench.frames(video)
    assert done == list(range(len(done)))
    bench.store.jobs.cancel(bench.project_id, job.job_id)
    bench.end(job.job_id)


def test_train_then_propagate_a_range_then_export(bench: Bench) -> None:
    """A model trained once labels other videos, in part, without a seed; labels leave as a file."""
    video, other = bench.ready(frames=10), bench.ready(frames=20)
    bench.store.labels.write(bench.project_id, other.video_id, [], deletes=[LabelKey(frame=0, name="1")], author="ann")
    bench.start()
    trained = bench.end(submit(bench.store, bench.project_id, TrainSpec(video.video_id, display_name="m")).job_id)
    model_id = trained.result["model_id"]
    again = bench.end(submit(bench.store, bench.project_id, TrainSpec(video.video_id, model_id=model_id)).job_id)
    assert (again.result["model_id"], again.result["version"]) == (model_id, 2)
    assert bench.store.models.get(bench.project_id, model_id).parent_version == 0
    job = submit(bench.store, bench.project_id, PropagateSpec(other.video_id, model_id, start_frame=5, stop_frame=9))
    assert job.spec["version"] == 2
    assert bench.end(job.job_id).state is JobState.SUCCEEDED
    assert bench.frames(other) == [5, 6, 7, 8]
    job = bench.end(submit(bench.store, bench.project_id, ExportSpec(other.video_id)).job_id)
    assert job.error is None
    (file,) = job.result["files"]
    lines = bench.store.blobs.path(file["sha256"]).read_text().splitlines()
    assert (file["name"], [json.loads(line)["frame"] for line in lines]) == ("labels.jsonl", [5, 6, 7, 8])


def test_a_job_that_cannot_be_done_is_refused(bench: Bench) -> None:
    """Not ready, no seeds, no model, or a frame past the end: said at once."""
    waiting = bench.upload(frames=3)
    with pytest.raises(FailedPrecondition, match="must be ready"):
        submit(bench.store, bench.project_id, TrainSpec(waiting.video_id))
    bench.start()
    bench.end(waiting.probe_job_id)
    with pytest.raises(FailedPrecondition, match="no human label"):
        submit(bench.store, bench.project_id, TrainSpec(waiting.video_id))
    with pytest.raises(OutOfRange, match="start_frame"):
        submit(bench.store, bench.project_id, PropagateSpec(waiting.video_id, "m", start_frame=3))
    with pytest.raises(NotFound, match="model"):
        submit(bench.store, bench.project_id, PropagateSpec(waiting.video_id, "m"))
    with pytest.raises(NotFound, match="video"):
        submit(bench.store, bench.project_id, ExportSpec("none"))


def test_a_broken_video_fails_with_the_reason(bench: Bench) -> None:
    """What cannot be decoded is refused, not tried again."""
    bench.start()
    video = bench.upload_bytes(b"no video")
    job = bench.end(video.probe_job_id)
    assert (job.state, job.tries) == (JobState.FAILED, 1)
    assert job.error is not None
    assert (job.error.reason, job.error.error_class, job.error.message) == (
        "VIDEO_REFUSED",
        "VideoError",
        "not a video",
    )
    video = bench.store.videos.get(bench.project_id, video.video_id)
    assert (video.state, video.error) == (VideoState.FAILED, "not a video")


@pytest.mark.parametrize(
    ("error", "reason", "tries"),
    [("Diverged", "DIVERGED", 1), ("OutOfMemory", "OOM", 2), ("ModelError", "MODEL_REFUSED", 1)],
)
def test_an_error_of_the_library_is_the_jobs_error(bench: Bench, error: str, reason: str, tries: int) -> None:
    """Errors keep their class; only running out of memory gets a second try."""
    video = bench.ready(frames=3, fail=error)
    bench.start()
    job = bench.end(submit(bench.store, bench.project_id, TrainSpec(video.video_id)).job_id)
    assert job.error is not None
    assert (job.state, job.error.reason, job.error.error_class, job.tries) == (JobState.FAILED, reason, error, tries)
    assert "as the script says" in job.error.message


def test_f54_memory_runs_out_and_a_smaller_try_does(bench: Bench) -> None:
    """The second try has half the effort, and says so."""
    video = bench.ready(frames=3, large=0.7)
    bench.start()
    job = bench.end(submit(bench.store, bench.project_id, TrainSpec(video.video_id, effort=1.0)).job_id)
    assert (job.state, job.tries, job.error) == (JobState.SUCCEEDED, 2, None)
    assert any("memory ran out" in warning for warning in job.progress["warnings"])
    job = bench.end(submit(bench.store, bench.project_id, TrainSpec(video.video_id, effort=4.0)).job_id)
    assert job.error is not None
    assert (job.state, job.tries, job.error.reason) == (JobState.FAILED, 2, "OOM")


def test_f54_a_job_that_takes_too_much_memory_is_ended(bench: Bench) -> None:
    """Memory that is really taken: the process is ended, and half of the work fits; where not even that, it is OOM."""
    video = bench.ready(frames=3, eats=800, room=500)
    bench.start(short(bench.settings.data_dir, job_memory_bytes=600 << 20))
    job = bench.end(submit(bench.store, bench.project_id, TrainSpec(video.video_id, effort=1.0)).job_id)
    assert (job.state, job.tries, job.error) == (JobState.SUCCEEDED, 2, None)
    assert any("memory ran out" in warning for warning in job.progress["warnings"])
    job = bench.end(submit(bench.store, bench.project_id, TrainSpec(video.video_id, effort=2.0)).job_id)
    assert job.error is not None
    assert (job.state, job.tries, job.error.reason) == (JobState.FAILED, 2, "OOM")
    assert "629145600 bytes" in job.error.message


@pytest.mark.parametrize(("device", "state", "tries"), [("", "succeeded", 2), ("cuda", "failed", 1)])
def test_f55_the_device_is_lost(bench: Bench, device: str, state: str, tries: int) -> None:
    """The next try is on the CPU, unless the GPU was asked for: then it is FAILED(DEVICE_LOST)."""
    video = bench.ready(frames=3, lose_device=True)
    bench.start()
    job = bench.end(submit(bench.store, bench.project_id, TrainSpec(video.video_id, device=device)).job_id)
    assert (job.state.value, job.tries) == (state, tries)
    assert (job.error.reason if job.error else "") == ("DEVICE_LOST" if device else "")


def test_killed_children_resume_without_duplicates(bench: Bench) -> None:
    """Killed in training it trains again; killed in propagation it goes on behind the last stored frame."""
    video = bench.ready(frames=40, seconds_per_frame=0.02, die=["train", "frame 30"])
    bench.start()
    job = bench.end(submit(bench.store, bench.project_id, AutoLabelSpec(video.video_id)).job_id)
    assert (job.state, job.tries, job.result["frames"]) == (JobState.SUCCEEDED, 3, 40)
    assert bench.frames(video) == list(range(40))
    versions = bench.store.models.list(bench.project_id).items
    assert len(versions) == 1, "the model of the second try was used by the third"
    for record in bench.store.labels.stream(bench.project_id, video.video_id):
        assert len(bench.store.history.of_label(bench.project_id, video.video_id, record.key)) == 1


def test_a_poisonous_job_is_set_aside(bench: Bench) -> None:
    """Three deaths are enough; what was finished stays, and the queue goes on."""
    video = bench.ready(frames=10, always_die=["frame 5"], seconds_per_frame=0.1)
    bench.start()
    job = submit(bench.store, bench.project_id, AutoLabelSpec(video.video_id))
    fine = submit(bench.store, bench.project_id, TrainSpec(video.video_id))
    job = bench.end(job.job_id)
    assert (job.state, job.tries) == (JobState.FAILED, 3)
    assert job.error is not None
    assert job.error.reason == "WORKER_CRASHED"
    assert "3 tries" in job.error.message
    assert "SIGKILL" in job.error.message
    assert set(range(1, 4)) <= set(bench.frames(video))
    assert bench.end(fine.job_id).state is JobState.SUCCEEDED


def test_a_hanging_child_is_killed(bench: Bench) -> None:
    """A worker that reports nothing for too long is killed and the job tried again."""
    video = bench.ready(frames=4, hang=["frame 2"])
    bench.start(short(bench.settings.data_dir, silence_seconds=2.0))
    job = bench.end(submit(bench.store, bench.project_id, AutoLabelSpec(video.video_id)).job_id)
    assert (job.state, job.tries) == (JobState.SUCCEEDED, 2)
    assert bench.frames(video) == [0, 1, 2, 3]


@pytest.mark.parametrize("deaf", [False, True])
def test_cancel_keeps_finished_frames(bench: Bench, deaf: bool) -> None:
    """A cancelled job ends soon, even one that does not listen, and keeps what it had."""
    video = bench.ready(frames=1000, seconds_per_frame=0.02, deaf=deaf)
    bench.start()
    job = submit(bench.store, bench.project_id, AutoLabelSpec(video.video_id))
    until(lambda: len(bench.frames(video)) > 10)
    assert bench.store.jobs.cancel(bench.project_id, job.job_id).state is JobState.CANCELLING
    job = bench.end(job.job_id)
    assert (job.state, job.error) == (JobState.CANCELLED, None)
    frames = bench.frames(video)
    assert frames == list(range(job.result["frames"]))
    assert 10 < len(frames) < 1000
    assert bench.store.jobs.cancel(bench.project_id, job.job_id) == job


def test_cancel_in_the_queue(bench: Bench) -> None:
    """A job that has not started ends at once; so does its video."""
    video = bench.upload(frames=3)
    assert bench.store.jobs.cancel(bench.project_id, video.probe_job_id).state is JobState.CANCELLED
    assert bench.store.videos.get(bench.project_id, video.video_id).state is VideoState.FAILED


def test_finish_early(bench: Bench) -> None:
    """ "Good enough" ends the training and the job goes on with its model."""
    video = bench.ready(frames=5, steps=10_000, seconds_per_step=0.02)
    bench.start()
    job = submit(bench.store, bench.project_id, AutoLabelSpec(video.video_id))
    until(lambda: "training" in bench.store.jobs.get(bench.project_id, job.job_id).progress)
    assert bench.store.jobs.finish_early(bench.project_id, job.job_id).finish_early
    job = bench.end(job.job_id)
    assert (job.state, job.result["frames"]) == (JobState.SUCCEEDED, 5)
    with pytest.raises(FailedPrecondition, match="has already ended"):
        bench.store.jobs.finish_early(bench.project_id, job.job_id)


def test_stopping_the_runner_gives_jobs_back(bench: Bench) -> None:
    """What runs goes back to the queue with its finished frames, and a new runner goes on there."""
    video = bench.ready(frames=300, seconds_per_frame=0.05)
    bench.start()
    job_id = submit(bench.store, bench.project_id, AutoLabelSpec(video.video_id)).job_id
    until(lambda: len(bench.frames(video)) > 10)
    assert bench.runner is not None
    bench.runner.stop()
    job = bench.store.jobs.get(bench.project_id, job_id)
    assert (job.state, job.tries) == (JobState.QUEUED, 0)
    assert job.checkpoint["next_frame"] == len(bench.frames(video))
    bench.start()
    job = bench.end(job_id)
    assert (job.state, job.result["frames"]) == (JobState.SUCCEEDED, 300)
    assert bench.frames(video) == list(range(300))


def test_f61_a_training_that_the_server_stops_keeps_a_checkpoint(bench: Bench) -> None:
    """Its worker has time to keep its state, and the next try finds it; that is not a try, and no cancel."""
    video = bench.ready(frames=3, steps=10_000, seconds_per_step=0.02)
    bench.start(short(bench.settings.data_dir, cancel_grace_seconds=60.0))
    job_id = submit(bench.store, bench.project_id, TrainSpec(video.video_id)).job_id

    def job() -> Job:
        return bench.store.jobs.get(bench.project_id, job_id)

    until(lambda: "training" in job().progress)
    assert bench.runner is not None
    bench.runner.stop()
    assert (job().state, job().tries) == (JobState.QUEUED, 0)
    (folder,) = bench.settings.data_dir.glob(f"cache/*/checkpoints-{job_id}")
    assert (folder / "kept").exists()
    bench.start()
    until(lambda: job().state is JobState.RUNNING)
    bench.store.jobs.cancel(bench.project_id, job_id)
    assert bench.end(job_id).state is JobState.CANCELLED
    until(lambda: not folder.exists())


def test_one_heavy_job_at_a_time_and_projects_take_turns(bench: Bench) -> None:
    """A project with many jobs does not keep another one waiting for all of them."""
    other = bench.store.projects.create("q", Ontology((ObjectClass("thing"),))).project_id
    mine, theirs = bench.ready(frames=2), bench.ready(other, frames=2)
    running = most = 0
    order: list[str] = []

    def note(job_id: str) -> None:
        nonlocal running, most
        jobs = [job for p in (bench.project_id, other) for job in bench.store.jobs.list(p).items]
        running = sum(job.kind == "train" and job.state in ("leased", "running") for job in jobs)
        most = max(most, running)
        if job_id not in order and any(job.job_id == job_id and job.state == "running" for job in jobs):
            order.append(job_id)

    stop = bench.store.jobs.listen(note)
    first = [submit(bench.store, bench.project_id, TrainSpec(mine.video_id)).job_id for _ in range(3)]
    second = submit(bench.store, other, TrainSpec(theirs.video_id)).job_id
    bench.start()
    for job_id in first:
        bench.end(job_id)
    bench.end(second, other)
    stop()
    assert most == 1
    assert order.index(second) <= 1


def test_a_job_child_ends_with_the_server(bench: Bench, tmp_path: Path) -> None:
    """Killing the server leaves no worker behind; the next server finishes its job."""
    video = bench.ready(frames=300, seconds_per_frame=0.05)
    job_id = submit(bench.store, bench.project_id, AutoLabelSpec(video.video_id)).job_id
    bench.store.close()
    server = _serve(bench)
    with Store.open(bench.settings, exclusive=False) as store:
        bench.store = store
        until(lambda: len(bench.frames(video)) > 5)
        children = _children(server.pid)
        assert children
        server.kill()
        server.communicate()
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))
    bench.store = Store.open(bench.settings)
    assert bench.store.jobs.get(bench.project_id, job_id).state is JobState.RUNNING
    bench.start()
    job = bench.end(job_id)
    assert (job.state, job.result["frames"], job.tries) == (JobState.SUCCEEDED, 300, 2)
    assert bench.frames(video) == list(range(300))


def test_a_stopped_worker_can_do_no_harm(bench: Bench) -> None:
    """A server frozen for longer than the lease finds its job taken, and its commits refused."""
    video = bench.ready(frames=300, seconds_per_frame=0.05)
    job_id = submit(bench.store, bench.project_id, AutoLabelSpec(video.video_id)).job_id
    bench.store.close()
    frozen = _serve(bench, exclusive=False)
    bench.store = Store.open(bench.settings, exclusive=False)
    try:
        until(lambda: len(bench.frames(video)) > 5)
        os.kill(frozen.pid, signal.SIGSTOP)
        bench.start()
        until(lambda: bench.store.jobs.get(bench.project_id, job_id).tries == 2)
        os.kill(frozen.pid, signal.SIGCONT)
        job = bench.end(job_id)
        assert (job.state, job.result["frames"], job.tries) == (JobState.SUCCEEDED, 300, 2)
        assert bench.frames(video) == list(range(300))
        for frame, record in enumerate(bench.store.labels.stream(bench.project_id, video.video_id)):
            assert len(bench.store.history.of_label(bench.project_id, video.video_id, record.key)) == 1, frame
    finally:
        frozen.kill()
        _, errors = frozen.communicate()
    assert b"was leased again meanwhile" in errors


def _serve(bench: Bench, exclusive: bool = True) -> subprocess.Popen[bytes]:
    """A server process that only runs jobs."""
    code = (
        "import sys, time, pathlib; from tests.service.jobs.jobs_harness import short; from service.store import Store;"
        "from service.jobs.runner import JobRunner;"
        f"s = short(pathlib.Path({str(bench.settings.data_dir)!r}));"
        f"store = Store.open(s, exclusive={exclusive});"
        "JobRunner(store, s, preload='fake_library').start(); time.sleep(600)"
    )
    root = Path(__file__).resolve().parents[3]
    path = os.pathsep.join([str(root), str(Path(__file__).parent)])
    return subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, stderr=subprocess.PIPE
    )


def _children(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        fields = path.read_text().rsplit(")", 1)[1].split()
        if int(fields[1]) == pid:
            found.append(int(path.parent.name))
    return found


def test_the_cache_is_bounded(tmp_path: Path) -> None:
    """The entry that was unused for longest goes first."""
    for age, name in enumerate(("new", "old", "older")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "features").write_bytes(b"x" * 1000)
        os.utime(tmp_path / name / "features", (time.time() - 100 * age,) * 2)
    prune_cache(tmp_path, 2500)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old"]
    prune_cache(tmp_path / "none", 0)


def test_an_anchor_drawn_meanwhile_is_kept(bench: Bench) -> None:
    """A human label that is written while a job runs is not overwritten by the job."""
    video = bench.ready(frames=40, seconds_per_frame=0.03)
    bench.start()
    job = submit(bench.store, bench.project_id, AutoLabelSpec(video.video_id))
    until(lambda: len(bench.frames(video)) > 3)
    drawn = Label(35, "1", "thing", State.VISIBLE, Box(50, 50, 60, 60))
    bench.store.labels.write(bench.project_id, video.video_id, [drawn], author="bob")
    assert bench.end(job.job_id).state is JobState.SUCCEEDED
    records = list(bench.store.labels.stream(bench.project_id, video.video_id, frames=range(35, 36)))
    assert [(record.label, record.author) for record in records] == [(drawn, "bob")]


def test_listeners_hear_of_news(bench: Bench) -> None:
    """A watcher can sleep until something happens."""
    heard = threading.Event()
    stop = bench.store.jobs.listen(lambda job_id: heard.set())
    video = bench.upload(frames=1)
    bench.start()
    bench.end(video.probe_job_id)
    assert heard.is_set()
    stop()
    heard.clear()
    bench.store.jobs.cancel(bench.project_id, video.probe_job_id)
    assert not heard.is_set()


def test_a_database_that_is_away_at_the_very_end_is_waited_for(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a job asks last: it waits, and neither fails nor is tried again."""
    video = bench.ready(frames=3)
    asked: list[str] = []
    frames_over_limit = Labels.frames_over_limit

    def away(self: Labels, project_id: str, video_id: str) -> Mapping[str, int]:
        asked.append(video_id)
        if len(asked) == 1:
            raise Unavailable("the database is away", retry_after_seconds=0.01)
        return frames_over_limit(self, project_id, video_id)

    monkeypatch.setattr(Labels, "frames_over_limit", away)
    bench.start()
    job = bench.end(submit(bench.store, bench.project_id, AutoLabelSpec(video.video_id)).job_id)
    assert (job.state, job.tries, asked) == (JobState.SUCCEEDED, 1, [video.video_id] * 2)


def test_a_runner_that_never_started_can_be_stopped(bench: Bench) -> None:
    """Stopping is safe at any time."""
    JobRunner(bench.store, bench.settings).stop()
