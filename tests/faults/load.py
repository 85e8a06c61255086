"""Load on a server in a process of its own, and what it takes: streams, slow readers, mixed calls.

``scripts/soak`` runs it for as long as one likes; tests run it briefly.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import grpc

from micromodels.client import AutoLabelRun, Client
from micromodels.client.messages import label_to_message
from micromodels.types import Box, Label, State
from micromodels.v1 import label_pb2, label_pb2_grpc, labeling_pb2, labeling_pb2_grpc, project_pb2, project_pb2_grpc
from micromodels.video import write_video
from service.settings import Settings
from service.store import Store
from tests.conftest import tiny_frames
from tests.faults.killing import REPOSITORY, Scene, prepare, start

__all__ = ["Followed", "Rate", "fill", "memory_kib", "mixed", "rates", "running", "store_rates", "storm", "training"]

BATCH = range(50)
"""Frames of the labels that are written at once."""


def memory_kib(pid: int) -> int:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise ProcessLookupError(pid)


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used; its children's is not in it."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@contextmanager
def running(
    folder: Path, database_url: str = "", preload: Sequence[str] = ()
) -> Iterator[tuple[Scene, int, grpc.Channel]]:
    """A server, its process id, and a channel to it; ``preload`` as in ``killing.start``."""
    scene = prepare(Settings(data_dir=folder, database_url=database_url, min_free_bytes=0))
    process = start(scene, preload=preload)
    try:
        with grpc.insecure_channel(f"127.0.0.1:{scene.port}") as channel:
            yield scene, process.pid, channel
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def parent(scene: Scene) -> str:
    return f"projects/{scene.project}/videos/{scene.written}"


def labels_of(track: str, number: int, frames: range = BATCH) -> list[Label]:
    """A batch of labels."""
    box = Box(number % 900, 1, number % 900 + 5, 9)
    return [Label(frame, track, "thing", State.VISIBLE, box) for frame in frames]


def batch(track: str, number: int, frames: range = BATCH) -> list[label_pb2.Label]:
    """A batch of labels as messages."""
    return [label_to_message(label) for label in labels_of(track, number, frames)]


def fill(scene: Scene, tracks: int) -> int:
    """Give the video labels of so many tracks; returns how many labels that is."""
    with Store.open(scene.settings, exclusive=False) as store:
        count = 0
        for frame in BATCH:
            box = Box(1, 1, 9, 9)
            labels = [Label(frame, f"t{track}", "thing", State.VISIBLE, box) for track in range(tracks)]
            count += store.labels.write(scene.project, scene.written, labels, author="fill").written
    return count


def storm(scene: Scene, channel: grpc.Channel, count: int) -> None:
    """Open streams of labels and of a job's news, and drop them: some at once, some after the first message."""
    labels, labeling = label_pb2_grpc.LabelServiceStub(channel), labeling_pb2_grpc.LabelingServiceStub(channel)
    operation = f"projects/{scene.project}/operations/none"
    for number in range(count):
        call: grpc.Call
        if number % 3 == 2:
            call = labeling.WatchTraining(labeling_pb2.WatchTrainingRequest(name=operation))
        else:
            call = labels.StreamLabels(label_pb2.StreamLabelsRequest(parent=parent(scene)))
            if number % 3:
                next(iter(call))
        call.cancel()


@dataclass
class Rate:
    """Calls of one kind: how many, how long each took."""

    name: str
    labels: int = 0
    seconds: list[float] = field(default_factory=list)
    elapsed: float = 0.0
    """Seconds until the last call was answered; calls that have begun are not broken off."""
    cpu: float = 0.0
    """Processor seconds of whoever answered, in all that time."""

    @property
    def per_second(self) -> float:
        """Labels a second."""
        return self.labels / self.elapsed if self.elapsed else 0.0

    def percentile(self, share: float) -> float:
        """Seconds within which this share of the calls was answered."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def _repeat(rate: Rate, until: float, act: Callable[[], int]) -> None:
    while time.monotonic() < until:
        begun = time.monotonic()
        try:
            rate.labels += act()
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise
            time.sleep(0.05)
            continue
        rate.seconds.append(time.monotonic() - begun)


_PROBE = """
import json, sys, time
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
with grpc.insecure_channel(f"127.0.0.1:{sys.argv[1]}") as channel:
    stub, found = health_pb2_grpc.HealthStub(channel), []
    stub.Check(health_pb2.HealthCheckRequest(), timeout=60)
    print("ready", flush=True)
    until = time.monotonic() + float(sys.argv[2])
    while not found or time.monotonic() < until:
        begun = time.monotonic()
        stub.Check(health_pb2.HealthCheckRequest(), timeout=60)
        found.append(time.monotonic() - begun)
        time.sleep(0.02)
print(json.dumps(found))
"""
"""Asks for health from a process of its own: in this one, readers would be in its way."""


def rates(scene: Scene, pid: int, channel: grpc.Channel, seconds: float, readers: int, writers: int) -> list[Rate]:
    """Read, write and ask for health at once, for a while; gives the rates in this order."""
    stub = label_pb2_grpc.LabelServiceStub(channel)
    numbers = iter(range(1 << 60))

    def read() -> int:
        request = label_pb2.StreamLabelsRequest(parent=parent(scene))
        return sum(len(response.labels) for response in stub.StreamLabels(request, timeout=600))

    def write(track: str) -> int:
        labels = batch(track, next(numbers))
        stub.WriteLabels(label_pb2.WriteLabelsRequest(parent=parent(scene), labels=labels), timeout=600)
        return len(labels)

    kinds = [Rate("StreamLabels"), Rate("WriteLabels"), Rate("Health")]
    work: list[tuple[Rate, Callable[[], int]]] = [(kinds[0], read)] * readers
    work += [(kinds[1], lambda number=number: write(f"w{number}")) for number in range(writers)]  # type: ignore[misc]
    parts = [Rate(rate.name) for rate, _ in work]
    prober = subprocess.Popen(
        [sys.executable, "-c", _PROBE, str(scene.port), str(seconds)], stdout=subprocess.PIPE, cwd=REPOSITORY
    )
    assert prober.stdout is not None
    prober.stdout.readline()
    begun, cpu = time.monotonic(), cpu_seconds(pid)
    threads = [
        threading.Thread(target=_repeat, args=(part, begun + seconds, act))
        for part, (_, act) in zip(parts, work, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed, cpu = time.monotonic() - begun, cpu_seconds(pid) - cpu
    kinds[2].seconds = json.loads(prober.communicate()[0])
    for part, (rate, _) in zip(parts, work, strict=True):
        rate.labels += part.labels
        rate.seconds += part.seconds
        rate.elapsed, rate.cpu = elapsed, cpu
    return kinds


def store_rates(settings: Settings, seconds: float) -> list[Rate]:
    """What a new store gives to one thread without a server in front of it: reading and writing, in this order."""
    scene = prepare(settings)
    fill(scene, 40)
    rows = [Rate("stream"), Rate("write")]
    with Store.open(settings) as store:
        numbers = iter(range(1 << 60))

        def read() -> int:
            return sum(1 for _ in store.labels.stream(scene.project, scene.written))

        def write() -> int:
            return store.labels.write(scene.project, scene.written, labels_of("w", next(numbers)), author="w").written

        for row, act in zip(rows, (read, write), strict=True):
            begun, cpu = time.monotonic(), time.process_time()
            _repeat(row, begun + seconds, act)
            row.elapsed, row.cpu = time.monotonic() - begun, time.process_time() - cpu
    return rows


class Followed(threading.Thread):
    """A training as its watcher sees it.

    Args:
        run: what ``auto_label`` gave.
    """

    def __init__(self, run: AutoLabelRun) -> None:
        super().__init__(daemon=True)
        self._run = run
        self._last: tuple[int, int] | None = None
        self._done = 0
        self.trains = threading.Event()
        self.ended = threading.Event()
        """Set when it does something else, or nothing any more."""

    def run(self) -> None:
        """Follow it to its end."""
        with suppress(Exception):  # the end of the training, by cancelling it, is none
            for progress in self._run:
                if progress.HasField("propagation"):
                    break
                if progress.HasField("training"):
                    self._count(progress.training.experiment, progress.training.step)
                    self.trains.set()
        self.ended.set()
        self.trains.set()

    def _count(self, experiment: int, step: int) -> None:
        before = self._last[1] if self._last is not None and self._last[0] == experiment else 0
        self._done += max(step - before, 0)
        self._last = experiment, step

    @property
    def steps(self) -> int:
        """How many it has done.

        Raises:
            RuntimeError: it has ended.
        """
        if self.ended.is_set():
            raise RuntimeError("the training has ended")
        return self._done


@contextmanager
def training(scene: Scene) -> Iterator[Followed]:
    """A real training on a clip that is uploaded for it, for the block.

    The server must have been started with the real library. The training is cancelled at the end.
    """
    with tempfile.TemporaryDirectory(prefix="clip-") as folder, Client(f"127.0.0.1:{scene.port}") as client:
        clip = Path(folder) / "clip.mp4"
        write_video(clip, tiny_frames(60, 240, 320), Fraction(12))
        video = client.upload_video(f"projects/{scene.project}", clip, timeout_seconds=300)
        seeds = [Label(f, "1", "thing", State.VISIBLE, Box(16 + 2 * f, 32, 48 + 2 * f, 64)) for f in (0, 30, 59)]
        run = client.auto_label(video.name, seeds, effort=4.0)
        followed = Followed(run)
        followed.start()
        assert followed.trains.wait(600), "the training did not begin"
        try:
            yield followed
        finally:
            run.cancel()
            followed.join(60)


def mixed(scene: Scene, channel: grpc.Channel, seconds: float) -> int:
    """Everything a tool does, at random, well or badly; returns the number of calls."""
    random.seed(0)
    labels, projects = label_pb2_grpc.LabelServiceStub(channel), project_pb2_grpc.ProjectServiceStub(channel)
    until, calls = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        calls += 1
        kind = random.randrange(6)
        with suppress(grpc.RpcError):
            if kind == 0:
                request = label_pb2.WriteLabelsRequest(parent=parent(scene), labels=batch("m", calls, range(10)))
                labels.WriteLabels(request, timeout=30)
            elif kind == 1:
                list(labels.StreamLabels(label_pb2.StreamLabelsRequest(parent=parent(scene)), timeout=30))
            elif kind == 2:
                storm(scene, channel, 3)
            elif kind == 3:
                projects.ListProjects(project_pb2.ListProjectsRequest(), timeout=30)
            elif kind == 4:
                projects.GetProject(project_pb2.GetProjectRequest(name="projects/none"), timeout=30)
            else:
                raw = channel.unary_unary("/micromodels.v1.LabelService/WriteLabels", bytes, bytes)
                raw(random.randbytes(100), timeout=30)
    return calls
