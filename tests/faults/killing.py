"""kill -9 of a server and of its job children, again and again, under write load; then every label is accounted for.

Writers send numbered batches, each with a request id, and send a batch again until it is acknowledged. The number is
in the label's coordinates, so the history of each label tells which batches arrived, and how often. Jobs write labels
at the same time, and are killed as well.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import sqlalchemy as sa

from micromodels.client.messages import label_to_message
from micromodels.labels.keys import LabelKey
from micromodels.types import Box, Label, ObjectClass, Ontology, State
from micromodels.v1 import label_pb2, label_pb2_grpc
from service.api import names
from service.domain.job_specs import AutoLabelSpec
from service.domain.jobs import (
    Effects,
    JobKind,
    JobState,
)
from service.jobs.submit import submit
from service.settings import Settings
from service.store import (
    Store,
    schema,
)
from tests.databases import free_port

WRITERS = 4
FRAMES = 3  # labels in a batch
JOB_FRAMES = 60
SIDE = 1000  # of the picture in pixels; batches count in it
START_SECONDS = 60.0
TABLE = {"frame_count": JOB_FRAMES, "width_px": SIDE + 20, "height_px": SIDE + 20, "content_hash": "0" * 64}
REPOSITORY = Path(__file__).resolve().parents[2]
_PASSING = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
_OPTIONS = [("grpc.initial_reconnect_backoff_ms", 20), ("grpc.max_reconnect_backoff_ms", 100)]


@dataclass
class Tally:
    """What happened, and what is wrong with it: all three lists must be empty."""

    server_kills: int = 0
    worker_kills: int = 0
    acknowledged: int = 0
    """Batches that a writer was told are stored."""
    repeated: int = 0
    """Batches that had to be sent more than once."""
    jobs: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    orphans: list[int] = field(default_factory=list)

    @property
    def kills(self) -> int:
        """All of them."""
        return self.server_kills + self.worker_kills

    def __str__(self) -> str:
        return (
            f"{self.kills} kills ({self.server_kills} of the server, {self.worker_kills} of a job) in "
            f"{self.seconds:.0f} s: {self.acknowledged} batches of {FRAMES} labels acknowledged, {self.repeated} of "
            f"them sent more than once, jobs {dict(self.jobs)}; {len(self.lost)} lost, "
            f"{len(self.duplicated)} duplicated, {len(self.orphans)} processes left over"
        )


@dataclass
class Scene:
    """Where the killing takes place."""

    settings: Settings
    port: int
    project: str
    written: str
    """Id of the video that the writers label."""
    worked: str
    """Id of the video that the jobs label."""


def prepare(settings: Settings) -> Scene:
    """A project with two videos."""
    with Store.open(settings) as store:
        project = store.projects.create("killed", Ontology((ObjectClass("thing"),))).project_id
        videos = []
        for number in range(2):
            script = json.dumps({"frames": JOB_FRAMES, "seconds_per_frame": 0.01, "steps": 5, "video": number}).encode()
            upload = store.uploads.begin(project, "v.mp4", len(script))
            store.uploads.append(project, upload.upload_id, 0, script)
            videos.append(store.uploads.finish(project, upload.upload_id).video_id)
            taken = store.jobs.lease("w", [JobKind.PROBE])
            assert taken is not None
            store.jobs.commit(taken[0], Effects(frame_table=TABLE, state=JobState.SUCCEEDED))
        seed = Label(0, "seed", "thing", State.VISIBLE, Box(1, 1, 9, 9))
        store.labels.write(project, videos[1], [seed], author="ann")
    return Scene(settings, free_port(), project, *videos)


class Writer(threading.Thread):
    """Sends batch after batch until told to stop; the last one it waits for."""

    def __init__(self, scene: Scene, number: int, tally: Tally) -> None:
        super().__init__(daemon=True)
        self._scene, self._tally = scene, tally
        self.track = f"writer{number}"
        self.acknowledged = 0
        self.stopping = threading.Event()

    def run(self) -> None:
        """Write."""
        with grpc.insecure_channel(f"127.0.0.1:{self._scene.port}", options=_OPTIONS) as channel:
            stub = label_pb2_grpc.LabelServiceStub(channel)
            while not self.stopping.is_set():
                self._send(stub, self.acknowledged)
                self.acknowledged += 1
                time.sleep(0.003)

    def _send(self, stub: label_pb2_grpc.LabelServiceStub, number: int) -> None:
        x, y = number % SIDE, number // SIDE
        box = Box(x, y, x + 5, y + 5)
        labels = [label_to_message(Label(f, self.track, "thing", State.VISIBLE, box)) for f in range(FRAMES)]
        parent = names.VIDEO.format(self._scene.project, self._scene.written)
        request = label_pb2.WriteLabelsRequest(parent=parent, labels=labels, request_id=f"{self.track}-{number}")
        tries = 0
        while True:
            try:
                tries += 1
                stub.WriteLabels(request, timeout=5)
                self._tally.repeated += tries > 1
                return
            except grpc.RpcError as error:
                if error.code() not in _PASSING:
                    self._tally.lost.append(f"{self.track} was refused: {error}")
                    self.stopping.set()
                    return
                time.sleep(0.02)


def start(
    scene: Scene, prefix: Sequence[str] = (), preload: Sequence[str] = (), **variables: str
) -> subprocess.Popen[str]:
    """A server that answers.

    Args:
        scene: of the server.
        prefix: program, with its arguments, that starts it.
        preload: module that its jobs import first, if not the scripted library; an empty name for the real one.
        variables: more for its environment.
    """
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_WAIT_POLICY": "PASSIVE", **variables}
    if scene.settings.database_url:
        environment["MICROMODELS_DATABASE_URL"] = scene.settings.database_url
    process = subprocess.Popen(
        [*prefix, sys.executable, "-m", "tests.faults.victim", str(scene.settings.data_dir), str(scene.port), *preload],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
        cwd=REPOSITORY,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line == "ready\n", f"the server did not start: {line!r}"
    return process


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:  # it has just ended
        return []


def kill_worker(server: int) -> bool:
    """Kill a job child as soon as there is one; False if none comes."""
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        if found := children(server):
            time.sleep(random.uniform(0.0, 0.6))
            try:
                os.kill(found[0], signal.SIGKILL)
            except ProcessLookupError:
                continue
            return True
        time.sleep(0.01)
    return False


def life(scene: Scene, tally: Tally, worker_kills: int) -> None:
    """Start a server, kill some of its workers, then the server."""
    process = start(scene)
    try:
        _keep_busy(scene)
        for _ in range(worker_kills):
            tally.worker_kills += kill_worker(process.pid)
        time.sleep(random.uniform(0.0, 0.5))
        workers = children(process.pid)
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    tally.server_kills += 1
    limit = time.monotonic() + 60
    while any(map(_runs, workers)) and time.monotonic() < limit:
        time.sleep(0.01)
    tally.orphans += filter(_runs, workers)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _keep_busy(scene: Scene) -> None:
    """See to it that a job is queued, through the database, as another server on it would."""
    with Store.open(scene.settings, exclusive=False) as store:
        jobs = store.jobs.list(scene.project, limit=10_000).items
        if sum(not job.state.is_final for job in jobs) < 2:
            for _ in range(3):
                submit(store, scene.project, AutoLabelSpec(scene.worked))


def account(scene: Scene, writers: list[Writer], tally: Tally) -> None:
    """Compare what is stored with what was acknowledged."""
    labels, jobs = schema.labels, schema.jobs
    with Store.open(scene.settings) as store:
        for writer in writers:
            tally.acknowledged += writer.acknowledged
            for frame in range(FRAMES):
                history = store.history.of_label(scene.project, scene.written, LabelKey(frame=frame, name=writer.track))
                numbers = [
                    int(v.record.label.shape.x1) + SIDE * int(v.record.label.shape.y1)  # type: ignore[union-attr]
                    for v in history
                ]
                counted = Counter(numbers)
                where = f"{writer.track} frame {frame} batch"
                tally.lost += [f"{where} {n}" for n in range(writer.acknowledged) if n not in counted]
                tally.duplicated += [f"{where} {n}" for n, count in counted.items() if count > 1]
        with store._database.begin() as connection:
            states = connection.execute(sa.select(jobs.c.job_id, jobs.c.state, jobs.c.kind)).all()
            query = sa.select(labels.c.job_id, labels.c.frame, labels.c.name, sa.func.count())
            query = query.where(labels.c.job_id != "").group_by(labels.c.job_id, labels.c.frame, labels.c.name)
            rows = connection.execute(query).all()
    per_job = Counter(row[0] for row in rows)
    tally.duplicated += [f"job {row[0]} frame {row[1]}" for row in rows if row[3] > 1]
    for job_id, state, kind in states:
        if kind == JobKind.AUTO_LABEL.value:
            tally.jobs[state] += 1
            if state == JobState.SUCCEEDED.value and per_job[job_id] != JOB_FRAMES - 1:  # the seed is not its own
                tally.lost.append(f"job {job_id} succeeded with {per_job[job_id]} of {JOB_FRAMES - 1} frames")


def run(settings: Settings, kills: int, *, seed: int = 0, say: Callable[[str], None] = lambda text: None) -> Tally:
    """Kill until there are enough kills, let everything come to rest, and account for every label.

    Args:
        settings: of a new store.
        kills: how many.
        seed: of the moments.
        say: called with how it stands.
    """
    random.seed(seed)
    begun, tally = time.monotonic(), Tally()
    scene = prepare(settings)
    writers = [Writer(scene, number, tally) for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    told = 0
    with suppress(KeyboardInterrupt):  # Ctrl-C: what has been killed so far is accounted for
        while tally.kills < kills:
            life(scene, tally, worker_kills=min(3, kills - tally.kills - 1))
            if tally.kills - told >= 50:
                told = tally.kills
                say(f"{told} kills, {sum(writer.acknowledged for writer in writers)} batches")
    process = start(scene)
    for writer in writers:
        writer.stopping.set()
    for writer in writers:
        writer.join(120)
        if writer.is_alive():
            tally.lost.append(f"{writer.track} got no answer")
    process.send_signal(signal.SIGTERM)
    process.wait(120)
    assert process.stdout is not None
    process.stdout.close()
    account(scene, writers, tally)
    tally.seconds = time.monotonic() - begun
    return tally
