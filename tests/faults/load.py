"""Load on a server in a process of its own, and what it takes: streams, slow readers, mixed calls.

``scripts/soak`` runs it for as long as one likes; tests run it briefly.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from micromodels.client.messages import label_to_message
from micromodels.types import Box, Label, State
from micromodels.v1 import label_pb2, label_pb2_grpc, labeling_pb2, labeling_pb2_grpc, project_pb2, project_pb2_grpc
from service.settings import Settings
from service.store import Store
from tests.faults.killing import Scene, prepare, start

__all__ = ["Rate", "fill", "memory_kib", "mixed", "rates", "running", "storm"]

BATCH = 100


def memory_kib(pid: int) -> int:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise ProcessLookupError(pid)


@contextmanager
def running(folder: Path, database_url: str = "") -> Iterator[tuple[Scene, int, grpc.Channel]]:
    """A server, its process id, and a channel to it."""
    scene = prepare(Settings(data_dir=folder, database_url=database_url, min_free_bytes=0))
    process = start(scene)
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


def batch(track: str, number: int, frames: range = range(50)) -> list[label_pb2.Label]:
    """A batch of labels."""
    box = Box(number % 900, 1, number % 900 + 5, 9)
    return [label_to_message(Label(frame, track, "thing", State.VISIBLE, box)) for frame in frames]


def fill(scene: Scene, tracks: int) -> int:
    """Give the video labels of so many tracks; returns how many labels that is."""
    with Store.open(scene.settings, exclusive=False) as store:
        count = 0
        for frame in range(50):
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


def rates(scene: Scene, channel: grpc.Channel, seconds: float, readers: int, writers: int) -> list[Rate]:
    """Read, write and ask for health at once, for a while."""
    stub, health = label_pb2_grpc.LabelServiceStub(channel), health_pb2_grpc.HealthStub(channel)
    until = time.monotonic() + seconds
    numbers = iter(range(1 << 60))

    def read() -> int:
        request = label_pb2.StreamLabelsRequest(parent=parent(scene))
        return sum(len(response.labels) for response in stub.StreamLabels(request, timeout=60))

    def write(track: str) -> int:
        labels = batch(track, next(numbers))
        stub.WriteLabels(label_pb2.WriteLabelsRequest(parent=parent(scene), labels=labels), timeout=60)
        return len(labels)

    def check() -> int:
        health.Check(health_pb2.HealthCheckRequest(), timeout=60)
        time.sleep(0.02)
        return 0

    kinds = [Rate("StreamLabels"), Rate("WriteLabels"), Rate("Health")]
    work: list[tuple[Rate, Callable[[], int]]] = [(kinds[0], read)] * readers + [(kinds[2], check)]
    work += [(kinds[1], lambda number=number: write(f"w{number}")) for number in range(writers)]  # type: ignore[misc]
    parts = [Rate(rate.name) for rate, _ in work]
    threads = [
        threading.Thread(target=_repeat, args=(part, until, act)) for part, (_, act) in zip(parts, work, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for part, (rate, _) in zip(parts, work, strict=True):
        rate.labels += part.labels
        rate.seconds += part.seconds
    return kinds


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
