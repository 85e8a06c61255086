"""VideoService: uploads with their faults, registration, frame tables."""

from __future__ import annotations

import hashlib
import os
import threading
import zlib
from pathlib import Path

import grpc
import pytest

from micromodels.client import transfers
from micromodels.v1 import video_pb2 as pb
from service.store import Uploads
from tests.service.api.harness import Running, fresh_id, refused


def start(running: Running, data: bytes, **fields: object) -> pb.Upload:
    request = pb.StartUploadRequest(
        parent=running.project().name,
        file_name="clip.mp4",
        size_bytes=len(data),
        **fields,  # type: ignore[arg-type]
    )
    return running.stubs.videos.StartUpload(request)


def chunk(upload: pb.Upload, offset: int, data: bytes) -> pb.UploadChunkRequest:
    return pb.UploadChunkRequest(name=upload.name, offset=offset, data=data, crc32=zlib.crc32(data))


def test_an_upload_becomes_a_video(running: Running) -> None:
    """StartUpload, UploadChunk, FinishUpload: the frame table is that of the file; finishing again changes nothing."""
    data = running.clip.read_bytes()
    upload = start(running, data, sha256=hashlib.sha256(data).hexdigest())
    for offset in range(0, len(data), 1000):
        upload = running.stubs.videos.UploadChunk(chunk(upload, offset, data[offset : offset + 1000]))
    finish = pb.FinishUploadRequest(name=upload.name)
    operation = running.stubs.videos.FinishUpload(finish)
    video = running.client.operation(operation.name).result(60)
    assert running.stubs.videos.FinishUpload(finish).name == operation.name
    assert video.state == pb.VIDEO_STATE_READY
    assert (video.frame_table.frame_count, video.frame_table.width_px, video.frame_table.height_px) == (24, 128, 96)
    assert video.frame_table.content_sha256 == hashlib.sha256(data).hexdigest()
    assert (video.display_name, video.size_bytes) == ("clip.mp4", len(data))
    assert running.client.get_video(video.name) == video
    done = running.stubs.videos.GetUpload(pb.GetUploadRequest(name=upload.name))
    assert (done.state, done.video) == (pb.UPLOAD_STATE_FINISHED, video.name)


def test_an_upload_that_was_cut_goes_on(running: Running) -> None:
    """Fault 20: cut at 60 %, asked where it stands, gone on with from there: the same bytes arrive."""
    data = running.clip.read_bytes()
    request = pb.StartUploadRequest(
        parent=running.project().name, file_name="clip.mp4", size_bytes=len(data), request_id=fresh_id()
    )
    cut = len(data) * 6 // 10
    upload = running.stubs.videos.StartUpload(request)
    running.stubs.videos.UploadChunk(chunk(upload, 0, data[:cut]))

    with grpc.insecure_channel(running.address):
        again = running.stubs.videos.StartUpload(request)
        assert again.name == upload.name
        assert again.received_bytes == cut
        running.stubs.videos.UploadChunk(chunk(upload, cut, data[cut:]))
    operation = running.stubs.videos.FinishUpload(pb.FinishUploadRequest(name=upload.name))
    video = running.client.operation(operation.name).result(60)
    assert video.frame_table.content_sha256 == hashlib.sha256(data).hexdigest()


def test_the_client_resumes_by_itself(running: Running) -> None:
    """`upload_video` of the same file goes on with the upload that was begun, and afterwards finds the video."""
    project = running.project().name
    data = running.clip.read_bytes()
    begun = transfers._start(running.client._connection, project, running.clip)
    running.stubs.videos.UploadChunk(chunk(begun, 0, data[:1500]))
    heard: list[tuple[int, int]] = []
    video = running.client.upload_video(project, running.clip, on_progress=lambda *args: heard.append(args))
    assert heard == [(len(data), len(data))]
    assert running.stubs.videos.GetUpload(pb.GetUploadRequest(name=begun.name)).video == video.name
    assert running.client.upload_video(project, running.clip).name == video.name
    running.client.delete_video(video.name)
    assert running.client.upload_video(project, running.clip).name != video.name


def test_a_chunk_elsewhere_is_told_where_to_go(running: Running) -> None:
    """Fault 21: OUT_OF_RANGE with the expected offset, before and behind."""
    upload = start(running, b"x" * 100)
    running.stubs.videos.UploadChunk(chunk(upload, 0, b"x" * 40))
    for offset in (0, 39, 41, 100, -1):
        with refused("OUT_OF_RANGE", "WRONG_OFFSET", "offset") as errors:
            running.stubs.videos.UploadChunk(chunk(upload, offset, b"x"))
        assert errors[0].metadata["expected_offset"] == "40"


def test_a_damaged_chunk_is_not_stored(running: Running) -> None:
    """Fault 22: DATA_LOSS, and the upload stands where it stood."""
    upload = start(running, b"x" * 100)
    damaged = chunk(upload, 0, b"x" * 40)
    damaged.data = b"x" * 39 + b"y"
    with refused("DATA_LOSS", "CHECKSUM_MISMATCH"):
        running.stubs.videos.UploadChunk(damaged)
    assert running.stubs.videos.GetUpload(pb.GetUploadRequest(name=upload.name)).received_bytes == 0


def test_a_whole_of_another_checksum_is_refused(running: Running) -> None:
    """Fault 22 for the whole file: DATA_LOSS on finishing, and the upload has failed."""
    upload = start(running, b"x" * 10, sha256="0" * 64)
    running.stubs.videos.UploadChunk(chunk(upload, 0, b"x" * 10))
    with refused("DATA_LOSS", "CHECKSUM_MISMATCH"):
        running.stubs.videos.FinishUpload(pb.FinishUploadRequest(name=upload.name))
    state = running.stubs.videos.GetUpload(pb.GetUploadRequest(name=upload.name)).state
    assert state == pb.UPLOAD_STATE_FAILED


def test_more_than_declared_is_refused(running: Running) -> None:
    """Fault 23: INVALID_ARGUMENT; what fits still goes."""
    upload = start(running, b"x" * 10)
    with refused("INVALID_ARGUMENT", "INVALID_INPUT", "data"):
        running.stubs.videos.UploadChunk(chunk(upload, 0, b"x" * 11))
    assert running.stubs.videos.UploadChunk(chunk(upload, 0, b"x" * 10)).received_bytes == 10


def test_less_than_declared_cannot_be_finished(running: Running) -> None:
    """FAILED_PRECONDITION, which says how much is missing."""
    upload = start(running, b"x" * 10)
    with refused("FAILED_PRECONDITION", "FAILED_PRECONDITION") as errors:
        running.stubs.videos.FinishUpload(pb.FinishUploadRequest(name=upload.name))
    assert "0 of 10 bytes" in str(errors[0])


def test_two_writers_do_not_mix(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault 25: while one chunk is being stored, the other writer gets ABORTED."""
    upload = start(running, b"x" * 10)
    inside, go_on = threading.Event(), threading.Event()
    store = Uploads._store

    def slowly(self: Uploads, upload_id: str, offset: int, data: bytes) -> None:
        inside.set()
        assert go_on.wait(60)
        store(self, upload_id, offset, data)

    monkeypatch.setattr(Uploads, "_store", slowly)
    first = running.stubs.videos.UploadChunk.future(chunk(upload, 0, b"x" * 10))
    assert inside.wait(60)
    with refused("ABORTED", "UPLOAD_CONFLICT"):
        running.stubs.videos.UploadChunk(chunk(upload, 0, b"y" * 10))
    go_on.set()
    assert first.result(60).received_bytes == 10


@pytest.mark.parametrize(
    "file_name", ["", "../clip.mp4", "a/b.mp4", "a\\b.mp4", "..", "nul\0.mp4", "line\nbreak.mp4", "x" * 10_240]
)
def test_a_hostile_file_name_is_refused(running: Running, file_name: str) -> None:
    """Fault 26: no folders, NUL or 10 kB in names."""
    request = pb.StartUploadRequest(parent=running.project().name, file_name=file_name, size_bytes=1)
    with refused("INVALID_ARGUMENT", "INVALID_INPUT", "file_name"):
        running.stubs.videos.StartUpload(request)


@pytest.mark.parametrize("size_bytes", [0, -1, 1 << 60])
def test_an_impossible_size_is_refused(running: Running, size_bytes: int) -> None:
    """Sizes are bounded on both sides."""
    request = pb.StartUploadRequest(parent=running.project().name, file_name="a", size_bytes=size_bytes)
    with refused("INVALID_ARGUMENT", "INVALID_INPUT", "size_bytes"):
        running.stubs.videos.StartUpload(request)


def test_chunks_are_bounded(running: Running) -> None:
    """Neither nothing nor more than `max_chunk_bytes` at once."""
    upload = start(running, b"x" * (8 << 20))
    for data in (b"", b"x" * (upload.max_chunk_bytes + 1)):
        with refused("INVALID_ARGUMENT", "INVALID_INPUT", "data"):
            running.stubs.videos.UploadChunk(chunk(upload, 0, data))


def test_an_upload_can_be_given_up(running: Running) -> None:
    """DeleteUpload: chunks are refused afterwards."""
    upload = start(running, b"x" * 10)
    running.stubs.videos.DeleteUpload(pb.DeleteUploadRequest(name=upload.name))
    with refused("FAILED_PRECONDITION", "FAILED_PRECONDITION"):
        running.stubs.videos.UploadChunk(chunk(upload, 0, b"x"))


def test_bytes_that_are_no_video_make_a_failed_operation(running: Running, tmp_path: Path) -> None:
    """The operation fails with INVALID_ARGUMENT and says why; the video says so too."""
    junk = tmp_path / "junk.mp4"
    junk.write_bytes(b"not a video " * 100)
    project = running.project().name
    with refused("INVALID_ARGUMENT", "VIDEO_REFUSED"):
        running.client.upload_video(project, junk, timeout_seconds=60)
    (video,) = running.client.list_videos(project)
    assert video.state == pb.VIDEO_STATE_FAILED
    assert video.error


def test_a_path_below_a_root_is_registered(running: Running) -> None:
    """RegisterVideo, GetVideo; request_id makes it one video."""
    request = pb.RegisterVideoRequest(
        parent=running.project().name, path=str(running.clip), display_name="A clip", request_id=fresh_id()
    )
    operation = running.stubs.videos.RegisterVideo(request)
    assert running.stubs.videos.RegisterVideo(request).name == operation.name
    video = running.client.operation(operation.name).result(60)
    assert video.display_name == "A clip"
    assert running.stubs.videos.GetVideo(pb.GetVideoRequest(name=video.name)) == video


@pytest.mark.parametrize(
    "path",
    [
        "http://example.com/clip.mp4",
        "file:///etc/passwd",
        "/etc/passwd",
        "clip.mp4",
        "{root}/../secret.mp4",
        "{root}/link.mp4",
        "{root}/missing.mp4",
        "{root}/nul\0.mp4",
        "",
    ],
)
def test_a_path_elsewhere_is_refused(running: Running, path: str) -> None:
    """Fault 41: URLs and anything outside of the roots, links and dots followed, are INVALID_ARGUMENT."""
    root = running.folder / "root"
    root.mkdir(exist_ok=True)
    (running.folder / "secret.mp4").write_bytes(running.clip.read_bytes())
    if not (root / "link.mp4").is_symlink():
        os.symlink(running.folder / "secret.mp4", root / "link.mp4")
    request = pb.RegisterVideoRequest(parent=running.project().name, path=path.format(root=root))
    with refused("INVALID_ARGUMENT", "INVALID_INPUT", "path"):
        running.stubs.videos.RegisterVideo(request)


def test_videos_and_frames_are_listed_in_pages(running: Running) -> None:
    """ListVideos, ListFrames: each once, in order, with exact times."""
    project = running.project().name
    made = [running.video(project).name for _ in range(2)]
    request = pb.ListVideosRequest(parent=project, page_size=1)
    first = running.stubs.videos.ListVideos(request)
    assert [video.name for video in first.videos] == made[:1]
    with refused("INVALID_ARGUMENT", "INVALID_INPUT", "page_token"):  # a token of another project
        other = running.project().name
        running.stubs.videos.ListVideos(pb.ListVideosRequest(parent=other, page_token=first.next_page_token))
    assert [video.name for video in running.client.list_videos(project)] == made

    pages = []
    frames_request = pb.ListFramesRequest(parent=made[0], page_size=10)
    while True:
        page = running.stubs.videos.ListFrames(frames_request)
        pages.append(page.frames)
        frames_request.page_token = page.next_page_token
        if not page.next_page_token:
            break
    assert [len(page) for page in pages] == [10, 10, 4]
    frames = [frame for page in pages for frame in page]
    assert [frame.frame_index for frame in frames] == list(range(24))
    table = running.client.get_video(made[0]).frame_table
    seconds = [frame.pts * table.time_base_numerator / table.time_base_denominator for frame in frames]
    assert seconds == pytest.approx([index / 12 for index in range(24)])
    assert frames[0].keyframe
    assert frames[0].pixel_hash
    assert list(running.client.list_frames(made[0])) == frames


def test_a_deleted_video_is_gone_with_its_labels(running: Running, video: pb.Video) -> None:
    """DeleteVideo: NOT_FOUND afterwards, for labels too."""
    running.stubs.videos.DeleteVideo(pb.DeleteVideoRequest(name=video.name))
    with refused("NOT_FOUND", "NOT_FOUND"):
        running.client.get_video(video.name)
    with refused("NOT_FOUND", "NOT_FOUND"):
        list(running.client.read_labels(video.name))
