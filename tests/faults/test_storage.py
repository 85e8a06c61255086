"""Faults of disk, clock, database and object store. The number of each test is the fault's."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from micromodels.client import ApiError, Client
from micromodels.client.messages import label_to_message
from micromodels.types import Box, Label, State
from micromodels.v1 import label_pb2, label_pb2_grpc, video_pb2, video_pb2_grpc
from service.domain.errors import ResourceExhausted
from service.domain.job_specs import AutoLabelSpec
from service.domain.jobs import JobState
from service.jobs.submit import submit
from service.settings import Settings
from service.store import Store
from tests.databases import BUCKET, Postgres, free_port, lacking, running_postgres
from tests.faults.killing import JOB_FRAMES, Scene, prepare, start
from tests.service.api.harness import Running, refused
from tests.service.store.helpers import ONTOLOGY, box, ready_video, settings_in

WAIT_SECONDS = 180.0


def until(what: Callable[[], object], seconds: float = WAIT_SECONDS) -> None:
    """Wait for something to become true."""
    limit = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < limit, "it did not happen in time"
        time.sleep(0.05)


def ended(process: subprocess.Popen[str]) -> int:
    """End a server and return its exit code."""
    process.send_signal(signal.SIGTERM)
    code = process.wait(120)
    assert process.stdout is not None
    process.stdout.close()
    return code


def thing(frame: int, x: float = 1.0) -> Label:
    return Label(frame, "hand", "thing", State.VISIBLE, Box(x, 1, x + 9, 9))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_f57_the_disk_is_full(small_disk: Path) -> None:
    """Writes are RESOURCE_EXHAUSTED; reading and deleting go on, and after deleting, writing does.

    What makes it full is another file, to the last byte: deleting lives off the reserve.
    """
    settings = Settings(data_dir=small_disk / "data", min_free_bytes=0, reserve_bytes=4 << 20)
    with Store.open(settings) as store:
        project = store.projects.create("p", ONTOLOGY).project_id
        doomed, kept = ready_video(store, project), ready_video(store, project)
        for video in (doomed, kept):
            for start_frame in range(0, 100, 10):
                labels = [box(frame, track=str(t)) for frame in range(start_frame, start_frame + 10) for t in range(5)]
                store.labels.write(project, video.video_id, labels, author="ann")
        assert (settings.data_dir / "reserve").stat().st_size == 4 << 20
        filler = small_disk / "filler"
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))
        upload_error = label_error = blob_error = None
        try:
            store.uploads.begin(project, "v", 1 << 20)
        except ResourceExhausted as error:
            upload_error = error
        try:
            store.labels.write(project, kept.video_id, [box(1, x=2.0)], author="ann")
        except ResourceExhausted as error:
            label_error = error
        try:
            store.blobs.add_bytes(os.urandom(1 << 20))
        except ResourceExhausted as error:
            blob_error = error
        assert upload_error
        assert label_error
        assert blob_error
        assert len(list(store.labels.stream(project, kept.video_id))) == 500
        store.erasure.delete(project, doomed.video_id)
        assert [v.video_id for v in store.videos.list(project).items] == [kept.video_id]
        filler.unlink()
        assert store.labels.write(project, kept.video_id, [box(1, x=2.0)], author="ann").written == 1
        store.tidy()
        assert (settings.data_dir / "reserve").exists()


def write_until_full(client: Client, video: str, written: list[Label], filler: Path) -> None:
    """Fill the disk and write a label, again if a job has ended something meanwhile: it is given the reserve for it."""
    for frame in range(len(written), 9):
        with filler.open("ab", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))
        client.write_labels(video, [thing(frame)])
        written.append(thing(frame))


def test_f57_the_disk_is_full_below_a_server(small_disk: Path) -> None:
    """RESOURCE_EXHAUSTED with a time to try again; reading and deleting go on; a job waits and is not tried again."""
    settings = Settings(data_dir=small_disk / "data", min_free_bytes=0, reserve_bytes=4 << 20)
    scene = prepare(settings)
    video = f"projects/{scene.project}/videos/{scene.written}"
    with Store.open(settings) as store:
        job = submit(store, scene.project, AutoLabelSpec(scene.worked))
        doomed = ready_video(store, scene.project)
    process = start(scene, MICROMODELS_RESERVE_BYTES=str(4 << 20))
    try:
        with Client(f"127.0.0.1:{scene.port}", timeout_seconds=120) as client:
            client.write_labels(video, [thing(0)])
            written = [thing(0)]
            filler = small_disk / "filler"
            with pytest.raises(ApiError) as caught:
                write_until_full(client, video, written, filler)
            assert (caught.value.code, caught.value.retry_after_seconds) == ("RESOURCE_EXHAUSTED", 60.0)
            assert list(client.read_labels(video)) == written
            client.delete_video(f"projects/{scene.project}/videos/{doomed.video_id}")
            assert doomed.video_id not in {
                v.name.rsplit("/", 1)[1] for v in client.list_videos(f"projects/{scene.project}")
            }
            filler.unlink()
            client.write_labels(video, [thing(JOB_FRAMES - 1)])
            assert list(client.read_labels(video)) == [*written, thing(JOB_FRAMES - 1)]
            done = client.operation(f"projects/{scene.project}/operations/{job.job_id}")
            done.result(WAIT_SECONDS)
            assert done.metadata().tries == 1
    finally:
        assert ended(process) == 0


def test_f24_a_project_has_no_more_room_over_the_api(tmp_path: Path, tiny_clip: Path) -> None:
    """RESOURCE_EXHAUSTED, in this project alone."""
    clip = tiny_clip / "video.mp4"
    server = Running(tmp_path, clip, project_bytes=clip.stat().st_size)
    try:
        full, other = server.project().name, server.project().name
        server.client.upload_video(full, clip, timeout_seconds=240)
        request = video_pb2.StartUploadRequest(parent=full, file_name="more.mp4", size_bytes=1)
        with refused("RESOURCE_EXHAUSTED", "RESOURCE_EXHAUSTED"):
            server.stubs.videos.StartUpload(request)
        request.parent = other
        assert server.stubs.videos.StartUpload(request).name
    finally:
        server.stop()


def test_f24_a_project_has_so_much_room(tmp_path: Path) -> None:
    """What is uploaded and what is on its way count; another project is not affected; giving up makes room."""
    with Store.open(settings_in(tmp_path, project_bytes=10)) as store:
        project = store.projects.create("p", ONTOLOGY).project_id
        ready_video(store, project)  # 4 bytes
        coming = store.uploads.begin(project, "v", 5)
        with pytest.raises(ResourceExhausted, match="9 of its 10 bytes"):
            store.uploads.begin(project, "w", 2)
        store.uploads.begin(store.projects.create("q", ONTOLOGY).project_id, "w", 10)
        store.uploads.abort(project, coming.upload_id)
        assert store.uploads.begin(project, "w", 6).size_bytes == 6


def test_f58_fsync_fails(tmp_path: Path) -> None:
    """A write that cannot be synced is INTERNAL, the server says NOT_SERVING and acknowledges nothing any more.

    What it had acknowledged is there after a restart. The first write that failed may be there or not, as after any
    answer that got lost; those after it were not even tried.
    """
    if not shutil.which("fiu-run"):
        lacking("libfiu (Debian: fiu-utils)")
    scene = prepare(Settings(data_dir=tmp_path / "data", min_free_bytes=0))
    video = f"projects/{scene.project}/videos/{scene.written}"
    control = tmp_path / "fiu"
    process = start(scene, ["fiu-run", "-x", "-f", str(control)])
    try:
        with Client(f"127.0.0.1:{scene.port}", timeout_seconds=120) as client:
            client.write_labels(video, [thing(0)])
            (pipe,) = (path for path in tmp_path.glob("fiu-*.in"))
            pid = pipe.name.removeprefix("fiu-").removesuffix(".in")
            command = ["fiu-ctrl", "-f", str(control), "-c", "enable name=posix/io/sync/*,failinfo=5", pid]
            subprocess.run(command, check=True, capture_output=True)
            for frame in (1, 2, 3):
                with pytest.raises(ApiError) as caught:
                    client.write_labels(video, [thing(frame)])
                assert caught.value.code == "INTERNAL"
            assert [label.frame for label in client.read_labels(video)] == [0]
        with grpc.insecure_channel(f"127.0.0.1:{scene.port}") as channel:
            health = health_pb2_grpc.HealthStub(channel)
            answer = health.Check(health_pb2.HealthCheckRequest(), timeout=60)
            assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    with Store.open(scene.settings) as store:
        assert [r.key.frame for r in store.labels.stream(scene.project, scene.written)] in ([0], [0, 1])


def test_f60_the_clock_jumps_by_ten_years(tmp_path: Path) -> None:
    """Forward and back while a job runs: its lease holds, it is tried once, and labels and uploads stay.

    A token that is good stays so, and one that has expired is not let in again.
    """
    libraries = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not libraries:
        lacking("libfaketime (Debian: faketime)")
    scene = prepare(Settings(data_dir=tmp_path / "data", min_free_bytes=0))
    offset = tmp_path / "offset"
    offset.write_text("+0")
    with Store.open(scene.settings) as store:
        job = submit(store, scene.project, AutoLabelSpec(scene.worked))
        upload = store.uploads.begin(scene.project, "half", 10)
        store.uploads.append(scene.project, upload.upload_id, 0, b"12345")
        good = str(store.access.issue("ann", is_admin=True, days=1)[1])
        expired = str(store.access.issue("bob", is_admin=True, days=1 / 86400)[1])
    process = start(
        scene,
        MICROMODELS_AUTH="required",
        LD_PRELOAD=str(libraries[0]),
        FAKETIME_TIMESTAMP_FILE=str(offset),
        FAKETIME_NO_CACHE="1",
        FAKETIME_DONT_FAKE_MONOTONIC="1",
    )
    try:
        with Store.open(scene.settings, exclusive=False) as store:

            def frames() -> int:
                return int(store.jobs.get(scene.project, job.job_id).progress.get("frames_done", 0))

            until(lambda: frames() > 0)
            for jump in ("+10y", "-10y", "+0"):
                offset.write_text(jump)
                time.sleep(1.1)  # the job goes on meanwhile, and who may call is looked up again
                assert _let_in(scene, good)
                assert not _let_in(scene, expired)
            until(lambda: store.jobs.get(scene.project, job.job_id).state.is_final)
            done = store.jobs.get(scene.project, job.job_id)
            assert (done.state, done.tries, done.error) == (JobState.SUCCEEDED, 1, None)
            years = {record.written_at.year for record in store.labels.stream(scene.project, scene.worked)}
            assert store.uploads.get(scene.project, upload.upload_id).offset_bytes == 5
            assert years, "labels were written"
    finally:
        assert ended(process) == 0


def _let_in(scene: Scene, token: str) -> bool:
    """Whether a caller with this token is answered."""
    with Client(f"127.0.0.1:{scene.port}", token=token, timeout_seconds=120) as client:
        try:
            return [project.name for project in client.list_projects()] == [f"projects/{scene.project}"]
        except ApiError as error:
            if error.code != "UNAUTHENTICATED":
                raise
            return False


def test_f63_postgresql_restarts(tmp_path: Path) -> None:
    """Calls are UNAVAILABLE while it is away, and go through when it is back; a running job waits and goes on."""
    with running_postgres() as cluster:
        settings = Settings(data_dir=tmp_path / "data", database_url=cluster.database(), min_free_bytes=0)
        scene = prepare(settings)
        with Store.open(settings) as store:
            job = submit(store, scene.project, AutoLabelSpec(scene.worked))
        process = start(scene)
        try:
            _restart_below(cluster, scene)
        finally:
            assert ended(process) == 0
        with Store.open(settings) as store:
            done = store.jobs.get(scene.project, job.job_id)
            assert (done.state, done.tries) == (JobState.SUCCEEDED, 1)
            for record in store.labels.stream(scene.project, scene.worked):
                assert len(store.history.of_label(scene.project, scene.worked, record.key)) == 1


def _restart_below(cluster: Postgres, scene: Scene) -> None:
    video = f"projects/{scene.project}/videos/{scene.written}"

    def write(frame: int) -> None:
        request = label_pb2.WriteLabelsRequest(parent=video, labels=[label_to_message(thing(frame))])
        stub.WriteLabels(request, timeout=120)

    options = [("grpc.enable_retries", 0)]  # the answer itself is looked at
    with grpc.insecure_channel(f"127.0.0.1:{scene.port}", options=options) as channel:
        stub = label_pb2_grpc.LabelServiceStub(channel)
        write(0)
        with Store.open(scene.settings, exclusive=False) as store:
            until(lambda: len(list(store.labels.stream(scene.project, scene.worked))) > 5)
        cluster.stop("immediate")
        for call in (lambda: write(1), lambda: list(stub.StreamLabels(label_pb2.StreamLabelsRequest(parent=video)))):
            with pytest.raises(grpc.RpcError) as caught:
                call()
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        cluster.start()
        write(2)
        with Store.open(scene.settings, exclusive=False) as store:
            assert [r.key.frame for r in store.labels.stream(scene.project, scene.written)] == [0, 2]
            until(lambda: all(job.state.is_final for job in store.jobs.list(scene.project).items))


class Relay:
    """Passes connections on to an address, and can be cut."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition("//")[2].partition(":")
        self._target = (host, int(port))
        self.port = free_port()
        self._listener: socket.socket | None = None
        self._open: list[socket.socket] = []
        self.join()

    def join(self) -> None:
        """Listen."""
        self._listener = socket.create_server(("127.0.0.1", self.port), reuse_port=True)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        """Refuse new connections and break those that are open."""
        assert self._listener is not None
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        self._open = []

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
                far = socket.create_connection(self._target)
            except OSError:
                return
            self._open += [near, far]
            for source, target in ((near, far), (far, near)):
                threading.Thread(target=self._pass, args=(source, target), daemon=True).start()

    @staticmethod
    def _pass(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)


@contextmanager
def relayed(address: str) -> Iterator[Relay]:
    """A relay that clients of the object store use for the block."""
    import fsspec

    relay, before = Relay(address), os.environ["AWS_ENDPOINT_URL"]
    os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{relay.port}"
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    try:
        yield relay
    finally:
        relay.cut()
        os.environ["AWS_ENDPOINT_URL"] = before
        fsspec.get_filesystem_class("s3").clear_instance_cache()


def test_f63_the_object_store_is_away_for_a_while(tmp_path: Path, s3: str, tiny_clip: Path) -> None:
    """Finishing an upload is UNAVAILABLE meanwhile, and goes through afterwards; nothing is half there."""
    clip = tiny_clip / "video.mp4"
    data = clip.read_bytes()
    with relayed(s3) as relay:
        server = Running(tmp_path, clip, object_store_url=f"s3://{BUCKET}/{tmp_path.name}", min_free_bytes=0)
        try:
            project = server.project().name
            videos = server.stubs.videos
            upload = videos.StartUpload(
                video_pb2.StartUploadRequest(parent=project, file_name="v.mp4", size_bytes=len(data))
            )
            chunk = video_pb2.UploadChunkRequest(name=upload.name, data=data, crc32=zlib.crc32(data))
            videos.UploadChunk(chunk)
            relay.cut()
            finish = video_pb2.FinishUploadRequest(name=upload.name)
            with (
                grpc.insecure_channel(server.address, [("grpc.enable_retries", 0)]) as channel,
                refused("UNAVAILABLE", "UNAVAILABLE"),
            ):
                video_pb2_grpc.VideoServiceStub(channel).FinishUpload(finish, timeout=240)
            assert list(server.client.list_videos(project)) == []
            relay.join()
            video = server.client.operation(videos.FinishUpload(finish, timeout=240).name).result(240)
            assert video.frame_table.content_sha256 == hashlib.sha256(data).hexdigest()
        finally:
            server.stop()
