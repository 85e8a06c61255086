"""Faults by load: streams that are dropped, readers that do not read, sockets that idle. Numbers are the faults'."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from micromodels.v1 import label_pb2, label_pb2_grpc
from tests.faults.killing import Scene
from tests.faults.load import fill, memory_kib, mixed, parent, rates, running, storm

Server = tuple[Scene, int, grpc.Channel]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server in a process of its own."""
    with running(tmp_path_factory.mktemp("load")) as made:
        yield made


def serves(channel: grpc.Channel) -> bool:
    answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=120)
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def test_f08_idle_sockets(server: Server) -> None:
    """800 connections that say nothing: health answers."""
    scene, _, channel = server
    sockets = [socket.create_connection(("127.0.0.1", scene.port)) for _ in range(800)]
    try:
        assert serves(channel)
    finally:
        for connection in sockets:
            connection.close()
    assert serves(channel)


@pytest.mark.slow
def test_f09_a_storm_of_dropped_streams(server: Server) -> None:
    """3,000 streams after a warm-up take at most 0.2 KiB each, and calls go through afterwards.

    `scripts/soak --streams 20000` does more.
    """
    scene, pid, channel = server
    fill(scene, 4)
    storm(scene, channel, 1500)
    before = memory_kib(pid)
    storm(scene, channel, 3000)
    assert serves(channel)
    assert memory_kib(pid) - before <= 0.2 * 3000 + 2048, "2 MiB for what the allocator keeps"
    assert rates(scene, pid, channel, 0.5, readers=2, writers=1)[0].labels > 0


@pytest.mark.slow
def test_memory_does_not_grow_under_mixed_load(server: Server) -> None:
    """Five minutes of everything that a tool does, well or badly: the server grows by less than 100 MiB.

    `scripts/soak` does an hour.
    """
    scene, pid, channel = server
    fill(scene, 4)
    mixed(scene, channel, 10.0)
    before = memory_kib(pid)
    assert mixed(scene, channel, 300.0) > 0
    assert serves(channel)
    assert memory_kib(pid) - before < 100 << 10


def test_f11_a_client_that_stops_reading(server: Server) -> None:
    """20 readers take one message of some megabytes of labels and then nothing: the server's memory stays bounded."""
    scene, pid, channel = server
    count = fill(scene, 400)
    stub = label_pb2_grpc.LabelServiceStub(channel)
    assert count == 20_000
    list(stub.StreamLabels(label_pb2.StreamLabelsRequest(parent=parent(scene)), timeout=60))
    before = memory_kib(pid)
    calls = [stub.StreamLabels(label_pb2.StreamLabelsRequest(parent=parent(scene))) for _ in range(20)]
    for call in calls:
        next(iter(call))
    assert serves(channel)
    assert memory_kib(pid) - before < 60 << 10
    for call in calls:
        call.cancel()
    assert len(list(stub.StreamLabels(label_pb2.StreamLabelsRequest(parent=parent(scene)), timeout=60))) > 0
