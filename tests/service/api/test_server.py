"""`serve` as a process: start, signals, locks, restarts."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from micromodels.client import ApiError, Client
from micromodels.errors import FailedPrecondition, InvalidInput
from micromodels.v1 import labeling_pb2
from service.server import serve
from tests.service.api.harness import ONTOLOGY, Running, box

REPOSITORY = Path(__file__).resolve().parents[3]
START = (
    "import sys, pathlib; from service.server import serve\n"
    "serve(data_dir=pathlib.Path(sys.argv[1]), port=int(sys.argv[2]), allowed_roots=[pathlib.Path(sys.argv[3])],"
    " on_ready=lambda address: print('ready', address, flush=True))"
)


@contextmanager
def started(data: Path, root: Path, port: int = 0) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server as a process of its own, and its address."""
    process = subprocess.Popen(
        [sys.executable, "-c", START, str(data), str(port), str(root)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    lines: queue.Queue[str] = queue.Queue()
    reader = threading.Thread(target=lambda: lines.put(process.stdout.readline()))  # type: ignore[union-attr]
    reader.start()
    try:
        line = lines.get(timeout=60)
        yield process, line.split()[1] if line.startswith("ready") else ""
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        reader.join()
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()


def test_two_servers_do_not_share_data_or_port(tmp_path: Path) -> None:
    """Fault 14: the second one exits non-zero and says why; the first goes on."""
    with started(tmp_path / "a", tmp_path) as (_, address):
        with started(tmp_path / "a", tmp_path) as (second, none):
            assert second.wait(120) != 0
            assert not none
            assert second.stderr is not None
            assert "another server uses the data folder" in second.stderr.read()
        with started(tmp_path / "b", tmp_path, int(address.rsplit(":", 1)[1])) as (third, none):
            assert third.wait(120) != 0
            assert not none
            assert third.stderr is not None
            assert "may be in use" in third.stderr.read()
        with Client(address) as client:
            assert list(client.list_projects()) == []


@pytest.mark.parametrize("signals", [1, 2])
def test_a_signal_puts_everything_away(tmp_path: Path, tiny_clip: Path, signals: int) -> None:
    """Faults 61, 62: the process exits 0 however often it is told, and the next one has all that was acknowledged."""
    with started(tmp_path / "data", tiny_clip) as (process, address), Client(address) as client:
        project = client.create_project("Kept", ONTOLOGY)
        video = client.register_video(project.name, str(tiny_clip / "video.mp4"), timeout_seconds=60)
        client.write_labels(video.name, [box(0)])
        for _ in range(signals):
            process.send_signal(signal.SIGTERM)
            time.sleep(0.3)  # the second one comes when the first has been seen, and often when the loop has ended
        assert process.wait(120) == 0
    with started(tmp_path / "data", tiny_clip) as (process, address), Client(address) as client:
        assert client.get_project(project.name).display_name == "Kept"
        assert list(client.read_labels(video.name)) == [box(0)]
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 0


def test_an_operation_and_its_watcher_outlive_a_restart(tmp_path: Path, tiny_clip: Path) -> None:
    """The server stops in the middle of a training and starts again: the same watch and the same operation go on."""
    running = Running(tmp_path, tiny_clip / "video.mp4")
    try:
        video = running.video()
        running.client.write_labels(video.name, [box(0, "slow")])
        operation = running.client.train(video.name)
        port = running.port
        watch = operation.watch()
        heard = [next(watch) for _ in range(5)]
        with Client(f"127.0.0.1:{port}") as client:
            second = client.operation(operation.name).watch()
            assert next(second) == heard[0]
            running.stop()
            running.start(port)
            rest = next(second)  # the connection broke; the client came back by itself
            assert rest == heard[1]
            resumed = client.operation(operation.name)
            starts = 0
            for progress in resumed.watch():
                starts += progress.state == labeling_pb2.OPERATION_STATE_RUNNING
                if starts == 2 and progress.HasField("training"):
                    break
            resumed.stop_early()
            assert resumed.result(120).name
            assert resumed.metadata().state == labeling_pb2.OPERATION_STATE_SUCCEEDED
    finally:
        running.stop()


@pytest.mark.parametrize("host", ["example.com", "", "0.0.0.0.0", "300.1.1.1"])
def test_a_host_is_an_address(tmp_path: Path, host: str) -> None:
    """Whether a name is of this machine alone cannot be known, so that it decides on TLS."""
    with pytest.raises(InvalidInput, match="host"):
        serve(data_dir=tmp_path, host=host)


def test_the_errors_of_a_start_are_those_of_the_library(tmp_path: Path, running: Running) -> None:
    """A data folder in use raises FailedPrecondition."""
    with pytest.raises(FailedPrecondition, match="another server"):
        serve(data_dir=running.settings.data_dir)


def test_a_killed_server_keeps_what_it_acknowledged(tmp_path: Path) -> None:
    """Fault 52 in small: kill -9 while labels are written; each acknowledged project is there afterwards."""
    names: list[str] = []
    for _ in range(3):
        with started(tmp_path / "data", tmp_path) as (process, address), Client(address, timeout_seconds=15) as client:
            kept = {project.name for project in client.list_projects()}
            assert set(names) <= kept
            threading.Timer(0.5, process.kill).start()
            with pytest.raises(ApiError) as raised:
                names.extend(client.create_project("p", ONTOLOGY).name for _ in range(100_000))
            assert raised.value.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED")
            process.wait(60)
    assert names
    assert os.path.exists(tmp_path / "data" / "database.sqlite")
