"""Hostile and broken files through the API, decoded by the real decoder. The number of each test is the fault's."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from micromodels.types import Label, State
from micromodels.v1 import video_pb2
from tests.micromodels.video import files
from tests.service.api.harness import Running, box, refused


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tiny_clip: Path) -> Iterator[Running]:
    """A server whose job processes use the real library."""
    made = Running(tmp_path_factory.mktemp("files"), tiny_clip / "video.mp4", preload="")
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture(autouse=True)
def healthy(server: Running) -> Iterator[None]:
    """Whatever a test hands in, the server still serves."""
    yield
    answer = health_pb2_grpc.HealthStub(server.channel).Check(health_pb2.HealthCheckRequest(), timeout=60)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


HOSTILE: dict[str, tuple[str, Callable[[Path], Path], str]] = {
    "27 huge frames": ("clip.avi", files.huge_frames, "frames exceed 36000000 pixels"),
    "28 concat": ("clip.mp4", files.concat_script, "not a readable video"),
    "29 hls": ("clip.mp4", files.hls_list, "not a readable video"),
    "30 codec": ("clip.avi", files.unlisted_codec, "codec 'snow' is not supported"),
    "34 sound": ("clip.mp4", files.sound_only, "no video stream"),
    "37 huge picture": ("clip.png", files.huge_picture, "this is a single picture (png)"),
    "38 dicom": ("clip.dcm", files.dicom_of_terabytes, "this is a DICOM file"),
    "39 dicom bomb": ("clip.dcm", files.dicom_bomb, "this is a DICOM file"),
    "40 dicom cut": ("clip.dcm", files.dicom_cut, "this is a DICOM file"),
    "50 zip": ("clip.mp4", files.zip_that_leads_out, "not a readable video"),
}


def test_f27_f28_f29_f30_f34_f37_f38_f39_f40_f50_hostile_uploads(server: Running, tmp_path: Path) -> None:
    """INVALID_ARGUMENT that says why; the video has failed and has no labels; the next one is well."""
    project = server.project().name
    for what, (name, make, words) in HOSTILE.items():
        with refused("INVALID_ARGUMENT", "VIDEO_REFUSED") as errors:
            server.client.upload_video(project, make(tmp_path / name), timeout_seconds=240)
        assert words in errors[0].message, what
    videos = list(server.client.list_videos(project))
    assert len(videos) == len(HOSTILE)
    assert {video.state for video in videos} == {video_pb2.VIDEO_STATE_FAILED}
    assert all(video.error for video in videos)
    assert server.video(project).state == video_pb2.VIDEO_STATE_READY


def test_f31_f33_f35_strange_videos_are_taken(server: Running, tmp_path: Path) -> None:
    """One that is cut off and one whose size changes: ready, with a warning. Two days between two frames: ready."""
    project = server.project().name
    cut = files.with_index_first(files.encode(tmp_path / "cut.mp4"))
    cut.write_bytes(cut.read_bytes()[:-700])
    small, large = (
        files.encode(tmp_path / f"{size[0]}.mpg", "mpeg1video", count=10, options={}, size=size)
        for size in ((96, 64), (192, 128))
    )
    both = tmp_path / "both.mpg"
    both.write_bytes(small.read_bytes() + large.read_bytes())
    long = files.encode(tmp_path / "long.mkv", count=50, pts=[*range(0, 49 * 40, 40), 176_402_000])
    tables = {
        path: server.client.upload_video(project, path, timeout_seconds=240).frame_table for path in (cut, both, long)
    }
    assert 0 < tables[cut].frame_count < 60
    assert any("cut off" in warning for warning in tables[cut].warnings)
    assert any("differ in size" in warning for warning in tables[both].warnings)
    assert (tables[long].frame_count, list(tables[long].warnings)) == (50, [])


def decoders() -> list[int]:
    """The decoding processes below this one; not the sandboxes around them, without which they would go on."""
    parents, found = {}, []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError):  # it has just ended
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            parents[int(folder.name)] = int(fields[1])
            command = (folder / "cmdline").read_bytes()
            decodes = b"micromodels.video.child" in command or b"video/isolated.py" in command
            if fields[0] != "Z" and decodes and not command.partition(b"\0")[0].endswith(b"bwrap"):
                found.append(int(folder.name))

    def is_ours(pid: int) -> bool:
        while pid > 1 and pid != os.getpid():
            pid = parents.get(pid, 0)
        return pid == os.getpid()

    return [pid for pid in found if is_ours(pid)]


class Killer(threading.Thread):
    """Ends every decoder with a segmentation fault, as a file might that finds a hole in one."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.stopping = threading.Event()

    def run(self) -> None:
        """Until told to stop."""
        while not self.stopping.wait(0.005):
            for pid in decoders():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSEGV)


def test_f36_a_decoder_that_crashes_is_a_failed_job(server: Running, tmp_path: Path) -> None:
    """DECODE_CRASH, once and for good; no process is left over, and the next video is read."""
    project = server.project().name
    clip = tmp_path / "long.mpg"  # takes seconds to read
    clip.write_bytes(files.encode(tmp_path / "clip.mpg", "mpeg1video", options={}).read_bytes() * 200)
    killer = Killer()
    killer.start()
    try:
        with refused("INTERNAL", "DECODE_CRASH") as errors:
            server.client.upload_video(project, clip, timeout_seconds=240)
    finally:
        killer.stopping.set()
        killer.join()
    assert "SIGSEGV" in errors[0].message
    (video,) = server.client.list_videos(project)
    assert video.state == video_pb2.VIDEO_STATE_FAILED
    (operation,) = server.client.list_operations(project)
    assert server.client.operation(operation.name).metadata().tries == 1
    limit = time.monotonic() + 60
    while decoders() and time.monotonic() < limit:
        time.sleep(0.05)
    assert decoders() == []
    assert server.video(project).state == video_pb2.VIDEO_STATE_READY


def test_f45_a_track_that_is_never_drawn(server: Running) -> None:
    """FAILED_PRECONDITION that names it, from the real library through the job; the video stays as it was."""
    video = server.video()
    seeds = [box(0), Label(3, "2", "letter", State.ABSENT)]
    with refused("FAILED_PRECONDITION", "FAILED_PRECONDITION") as errors:
        list(server.client.auto_label(video.name, seeds))
    assert "'2'" in errors[0].message
    assert list(server.client.read_labels(video.name)) == seeds
    assert list(server.client.list_micro_model_versions(f"{video.name.split('/videos/')[0]}/microModels/-")) == []
