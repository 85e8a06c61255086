"""What comes over the wire before any servicer sees it, and that the server stays up."""

from __future__ import annotations

import asyncio
import random
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from micromodels.client import ApiError, Client
from micromodels.v1 import label_pb2, project_pb2, video_pb2
from service.api import SERVICES
from service.api.backend import Backend
from service.api.interceptor import CallInterceptor
from service.store import Store
from tests.service.api.harness import Running, box, refused

WRITE = "/micromodels.v1.LabelService/WriteLabels"


@pytest.fixture(autouse=True)
def healthy(running: Running) -> Iterator[None]:
    """Whatever a test sends, the server still serves."""
    yield
    assert health(running) == health_pb2.HealthCheckResponse.SERVING


def health(running: Running, service: str = "") -> int:
    stub = health_pb2_grpc.HealthStub(running.channel)
    return int(stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=60).status)


def send(running: Running, method: str, data: bytes, **options: object) -> bytes:
    """A unary call with bytes as they are."""
    call = running.channel.unary_unary(method, request_serializer=bytes, response_deserializer=bytes)
    answer: bytes = call(data, timeout=60, **options)  # type: ignore[arg-type]
    return answer


def test_a_message_over_the_limit_is_refused(running: Running) -> None:
    """Fault 1: RESOURCE_EXHAUSTED."""
    with pytest.raises(grpc.RpcError) as raised:
        send(running, WRITE, b"x" * (17 << 20))
    assert ApiError.from_rpc_error(raised.value).code == "RESOURCE_EXHAUSTED"


def test_a_gzip_bomb_is_refused(running: Running) -> None:
    """Fault 2: what counts is the size after decompression."""
    with pytest.raises(grpc.RpcError) as raised:
        send(running, WRITE, bytes(64 << 20), compression=grpc.Compression.Gzip)
    assert ApiError.from_rpc_error(raised.value).code == "RESOURCE_EXHAUSTED"


@pytest.mark.parametrize(
    "method", [WRITE, "/micromodels.v1.LabelService/StreamLabels", "/google.longrunning.Operations/GetOperation"]
)
def test_garbage_is_not_a_message(running: Running, method: str) -> None:
    """Fault 3: INVALID_ARGUMENT without the parser's inner workings, for unary calls and streams."""
    for seed in range(20):
        garbage = b"\xff" + random.Random(seed).randbytes(50)
        with refused("INVALID_ARGUMENT", "MALFORMED_MESSAGE") as errors:
            if method.endswith("StreamLabels"):
                list(running.channel.unary_stream(method)(garbage, timeout=60))
            else:
                send(running, method, garbage)
        assert "not a valid message" in errors[0].message


def test_text_that_is_not_utf8_is_refused(running: Running) -> None:
    """Fault 4: INVALID_ARGUMENT."""
    name = b"projects/\xff\xfe"
    with refused("INVALID_ARGUMENT", "MALFORMED_MESSAGE"):
        send(running, "/micromodels.v1.ProjectService/GetProject", b"\x0a" + bytes([len(name)]) + name)


@pytest.mark.parametrize("method", ["/micromodels.v1.LabelService/Nothing", "/some.Other/Method"])
def test_an_unknown_method_is_unimplemented(running: Running, method: str) -> None:
    """Fault 5."""
    with pytest.raises(grpc.RpcError) as raised:
        send(running, method, b"")
    assert ApiError.from_rpc_error(raised.value).code == "UNIMPLEMENTED"


def test_too_much_metadata_is_refused(running: Running) -> None:
    """Fault 6: RESOURCE_EXHAUSTED."""
    with pytest.raises(grpc.RpcError) as raised:
        send(running, WRITE, b"", metadata=(("x-large", "x" * 40_000),))
    assert ApiError.from_rpc_error(raised.value).code == "RESOURCE_EXHAUSTED"


@pytest.mark.parametrize(
    "noise",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        bytes.fromhex("16030100c5010000c10303") + bytes(200),
        random.Random(0).randbytes(4096),
    ],
    ids=["http1", "tls", "noise"],
)
def test_what_is_not_http2_is_closed(running: Running, noise: bytes) -> None:
    """Fault 7: the connection ends, and soon."""
    with socket.create_connection(("127.0.0.1", running.port), timeout=20) as connection:
        connection.sendall(noise)
        try:
            while connection.recv(4096):
                pass
        except ConnectionResetError:
            pass


def test_idle_sockets_do_not_matter(running: Running) -> None:
    """Fault 8 with 200 of them: Health answers."""
    sockets = [socket.create_connection(("127.0.0.1", running.port)) for _ in range(200)]
    try:
        assert health(running) == health_pb2.HealthCheckResponse.SERVING
    finally:
        for connection in sockets:
            connection.close()


def test_too_many_calls_are_told_when_to_come_back(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault 10: RESOURCE_EXHAUSTED with RetryInfo above the bound, while Health answers; then all is well again."""
    go_on = threading.Event()
    get = type(running.store.projects).get

    def slowly(self: object, project_id: str) -> object:
        go_on.wait(600)
        return get(self, project_id)  # type: ignore[arg-type]

    project = running.project().name
    monkeypatch.setattr(type(running.store.projects), "get", slowly)
    request = project_pb2.GetProjectRequest(name=project)
    calls = [running.stubs.projects.GetProject.future(request, timeout=600) for _ in range(300)]
    try:
        ended: list[grpc.Future] = []
        while not ended:  # only a refused one ends before the others may go on
            assert health(running) == health_pb2.HealthCheckResponse.SERVING
            ended = [call for call in calls if call.done()]
        for call in ended:
            error = ApiError.from_rpc_error(call)  # type: ignore[arg-type]
            assert (error.code, error.retry_after_seconds) == ("RESOURCE_EXHAUSTED", 1.0)
    finally:
        go_on.set()
    answered = sum(call.exception() is None for call in calls)
    assert answered >= 256
    assert running.client.get_project(project).name == project


def test_streams_are_bounded_apart_from_calls() -> None:
    """The bounds are those of the interceptor's arguments."""
    interceptor = CallInterceptor(cast("Any", None), unary_limit=1, stream_limit=1)
    with interceptor._unary.taken(), pytest.raises(Exception, match="1 concurrent calls"), interceptor._unary.taken():
        pass
    with interceptor._unary.taken(), interceptor._streams.taken():
        pass


def test_health_knows_every_service(running: Running) -> None:
    """By name, and as a whole; an unknown one is NOT_FOUND."""
    for service in ("", *SERVICES):
        assert health(running, service) == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as raised:
        health(running, "other")
    assert ApiError.from_rpc_error(raised.value).code == "NOT_FOUND"


def test_health_answers_while_everything_blocks(
    running: Running, video: video_pb2.Video, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls that block all threads, and a training, do not hold the event loop: Health answers before they end."""
    projects, release = type(running.store.projects), threading.Event()
    get = projects.get

    def slowly(self: object, project_id: str) -> object:
        assert release.wait(600)
        return get(self, project_id)  # type: ignore[arg-type]

    running.client.write_labels(video.name, [box(0, "slow")])
    training = running.client.train(video.name)
    assert any(progress.HasField("training") for progress in training.watch())
    monkeypatch.setattr(projects, "get", slowly)
    project = video.name.partition("/videos/")[0]
    with ThreadPoolExecutor(20) as pool:
        try:
            blocked = [pool.submit(running.client.get_project, project) for _ in range(40)]
            for _ in range(40):
                assert health(running) == health_pb2.HealthCheckResponse.SERVING
            assert not any(future.done() for future in blocked)
        finally:
            release.set()
        for future in blocked:
            future.result()
    training.cancel()
    with refused("CANCELLED"):
        training.result(120)


async def test_busy_work_is_done_a_few_at_a_time(running: Running) -> None:
    """However many read: the event loop has to wait for few threads only, and each takes short turns."""
    backend, lock, now, most = Backend(running.store), threading.Lock(), 0, 0

    def work() -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.01)
        with lock:
            now -= 1

    assert sys.getswitchinterval() == pytest.approx(0.001)
    try:
        await asyncio.gather(*(backend.run_busily(work) for _ in range(20)))
    finally:
        backend.close()
    assert (most, now) == (2, 0)


def test_reflection_gives_the_protos(running: Running) -> None:
    """Every service is listed, and its file can be fetched."""
    stub = reflection_pb2_grpc.ServerReflectionStub(running.channel)
    requests = [reflection_pb2.ServerReflectionRequest(list_services="")]
    requests += [reflection_pb2.ServerReflectionRequest(file_containing_symbol=name) for name in SERVICES]
    answers = list(stub.ServerReflectionInfo(iter(requests)))
    assert set(SERVICES) <= {service.name for service in answers[0].list_services_response.service}
    for name, answer in zip(SERVICES, answers[1:], strict=True):
        files = [FileDescriptorProto.FromString(f) for f in answer.file_descriptor_response.file_descriptor_proto]
        assert any(f"{f.package}.{s.name}" == name for f in files for s in f.service)


def test_a_mistake_in_the_server_is_hidden_and_logged(
    running: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """INTERNAL with a number under which the log has the rest."""

    def broken(self: object, project_id: str) -> object:
        raise RuntimeError("secret inner workings")

    monkeypatch.setattr(type(running.store.projects), "get", broken)
    with refused("INTERNAL", "INTERNAL") as errors:
        running.client.get_project("projects/a")
    assert "secret" not in str(errors[0])
    assert errors[0].metadata["incident"] in caplog.text
    assert "secret inner workings" in caplog.text


def test_long_and_strange_text_survives_in_errors(running: Running) -> None:
    """Messages are cut to what headers can hold, and are not limited to ASCII."""
    with refused("INVALID_ARGUMENT", "INVALID_INPUT", "name") as errors:
        running.client.get_project("projects/ä\n" + "漢" * 50)
    assert "ä" in errors[0].message
    labels = [label_pb2.LabelKey(frame_index=-(10**18) - i, track="x" * 10_000) for i in range(10)]
    with refused("OUT_OF_RANGE"):
        running.stubs.labels.WriteLabels(
            label_pb2.WriteLabelsRequest(parent="projects/a/videos/b", deletions=labels), timeout=60
        )


def test_a_storm_of_cancelled_streams_leaves_nothing(running: Running, video: video_pb2.Video) -> None:
    """Fault 9 in small: 300 streams opened and dropped; as many calls go through afterwards as before."""
    running.client.write_labels(video.name, [box(0, "slow")])
    training = running.client.train(video.name)
    for _ in range(300):
        watch = training.watch()
        next(watch)
        watch.close()  # type: ignore[attr-defined]
    assert next(iter(training.watch()))
    training.cancel()
    with refused("CANCELLED"):
        training.result(120)


def test_a_token_goes_only_to_this_machine(running: Running) -> None:
    """The client sends no token in the clear over a network."""
    with Client(running.address, token="secret") as client, refused("UNAUTHENTICATED"):
        client.get_project(running.project().name)
    with pytest.raises(ValueError, match="this machine"):
        Client("example.com:50051", token="secret")


def test_loopback_without_configuration_has_one_owner(running: Running) -> None:
    """No token is needed; a wrong one is refused all the same."""
    assert running.client.access.get_caller().user == "local"
    assert running.client.access.get_caller().server_admin
    with running.connect("mm_wrong") as client, refused("UNAUTHENTICATED"):
        client.access.get_caller()


def test_a_server_that_is_not_there_is_said_to_be_so() -> None:
    """UNAVAILABLE in words."""
    with Client("127.0.0.1:1", timeout_seconds=20) as client, pytest.raises(ApiError, match="cannot be reached"):
        client.get_project("projects/a")


def test_a_second_server_on_the_data_is_refused(running: Running) -> None:
    """Fault 14, within one process; `test_server.py` has it with two."""
    with pytest.raises(Exception, match="another server"):
        Store.open(running.settings)
