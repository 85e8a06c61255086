"""Faults of the machine: processes killed, stopped and told to end. The number of each test is the fault's."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from micromodels.client import Client
from micromodels.client.messages import label_to_message
from micromodels.v1 import label_pb2, label_pb2_grpc, labeling_pb2, project_pb2, project_pb2_grpc
from service.domain.jobs import JobKind, JobState
from service.settings import Settings
from service.store import Store
from tests.databases import Postgres
from tests.faults.killing import REPOSITORY, run
from tests.service.api.harness import ONTOLOGY, box

KILLS = 100
PATIENT = (
    "import sys, pathlib, service.server as server, service.store.database as database\n"
    "server._GRACE_SECONDS = database._BUSY_SECONDS = 120.0\n"  # a busy machine is no reason to give up
    "server.serve(data_dir=pathlib.Path(sys.argv[1]), port=0, allowed_roots=[pathlib.Path(sys.argv[2])])"
)


@contextmanager
def serving(data: Path, root: Path) -> Iterator[tuple[subprocess.Popen[str], Client, str]]:
    """The server as people start it, with the real library, in a process of its own; a client, and the address."""
    process = subprocess.Popen(
        [sys.executable, "-c", PATIENT, str(data), str(root)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "MICROMODELS_CANCEL_GRACE_SECONDS": "120"},
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line.startswith("listening on "), line
        with Client(line.split()[-1], timeout_seconds=120) as client:
            yield process, client, line.split()[-1]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_f52_kill_9_under_write_load(tmp_path: Path, kind: str, request: pytest.FixtureRequest) -> None:
    """100 times kill -9 of server and workers while four writers write: no acknowledged label is lost or stored twice.

    `scripts/kill9` does it 1,000 times.
    """
    url = ""
    if kind == "postgresql":
        cluster: Postgres = request.getfixturevalue("postgres")
        url = cluster.database()
    tally = run(Settings(data_dir=tmp_path, database_url=url, min_free_bytes=0), KILLS)
    print(tally)
    assert (tally.lost, tally.duplicated, tally.orphans) == ([], [], [])
    assert tally.kills >= KILLS
    assert tally.acknowledged > KILLS
    assert tally.repeated > 0, "no kill hit a write: the load is too small to show anything"


def steps_after(progress: Iterator[labeling_pb2.Progress], starts: int) -> Iterator[int]:
    """Steps of training that are told after the job has begun to run so often."""
    begun = 0
    for told in progress:
        begun += told.state == labeling_pb2.OPERATION_STATE_RUNNING
        if begun == starts and told.HasField("training"):
            yield told.training.step


@pytest.mark.slow
def test_f61_f62_sigterm_in_a_training(tmp_path: Path, tiny_clip: Path) -> None:
    """Told twice, the process ends with 0; the job is queued; the next server goes on from its last step."""
    with serving(tmp_path / "data", tiny_clip) as (process, client, _):
        project = client.create_project("Kept", ONTOLOGY)
        video = client.register_video(project.name, str(tiny_clip / "video.mp4"), timeout_seconds=240)
        client.write_labels(video.name, [box(0)])
        training = client.train(video.name, effort=1.0)
        last = next(step for step in steps_after(training.watch(), 1) if step >= 3)
        for _ in range(2):
            process.send_signal(signal.SIGTERM)
        assert process.wait(240) == 0
    job_id = training.name.rsplit("/", 1)[1]
    with Store.open(Settings(data_dir=tmp_path / "data", min_free_bytes=0)) as store:
        job = store.jobs.get(project.name.removeprefix("projects/"), job_id)
        assert (job.kind, job.state, job.tries, job.error) == (JobKind.TRAIN, JobState.QUEUED, 0, None)
    assert list((tmp_path / "data").glob(f"cache/*/checkpoints-{job_id}/*"))
    with serving(tmp_path / "data", tiny_clip) as (process, client, _):
        resumed = client.operation(training.name)
        assert next(steps_after(resumed.watch(), 2)) > last
        resumed.stop_early()
        resumed.result(240)
        assert resumed.metadata().state == labeling_pb2.OPERATION_STATE_SUCCEEDED
        process.send_signal(signal.SIGTERM)
        assert process.wait(240) == 0


def test_sigterm_lets_short_calls_end_and_takes_no_new_ones(tmp_path: Path, tiny_clip: Path) -> None:
    """A write that is under way is answered, and stored; a new call meanwhile is UNAVAILABLE; the exit code is 0."""
    with serving(tmp_path / "data", tiny_clip) as (process, client, address):
        project = client.create_project("Kept", ONTOLOGY)
        video = client.register_video(project.name, str(tiny_clip / "video.mp4"), timeout_seconds=240)
        request = label_pb2.WriteLabelsRequest(parent=video.name, labels=[label_to_message(box(0))])
        asked = project_pb2.GetProjectRequest(name=project.name)
        other = sqlite3.connect(tmp_path / "data" / "database.sqlite", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")  # so that the write waits
        with grpc.insecure_channel(address, options=[("grpc.enable_retries", 0)]) as channel:
            projects = project_pb2_grpc.ProjectServiceStub(channel)
            write = label_pb2_grpc.LabelServiceStub(channel).WriteLabels.future(request, timeout=240)
            projects.GetProject(asked, timeout=240)  # came after it on the same connection: the write has begun
            process.send_signal(signal.SIGTERM)
            code = grpc.StatusCode.OK
            while code is not grpc.StatusCode.UNAVAILABLE:
                try:
                    projects.GetProject(asked, timeout=240)
                except grpc.RpcError as error:
                    code = error.code()
            assert not write.done()
            other.execute("ROLLBACK")
            other.close()
            assert write.result(240).written_count == 1
        assert process.wait(240) == 0
    with Store.open(Settings(data_dir=tmp_path / "data", min_free_bytes=0)) as store:
        ids = project.name.removeprefix("projects/"), video.name.rsplit("/", 1)[1]
        assert [record.label for record in store.labels.stream(*ids)] == [box(0)]
