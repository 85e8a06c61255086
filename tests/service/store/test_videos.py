"""Uploads in chunks, and videos registered by path."""

from __future__ import annotations

import hashlib
import os
import zlib
from pathlib import Path

import pytest

from micromodels.errors import FailedPrecondition, InvalidInput
from service.domain.errors import (
    AlreadyExists,
    DataLoss,
    NotFound,
    ResourceExhausted,
    UploadConflict,
    WrongOffset,
)
from service.domain.videos import (
    Project,
    Upload,
    UploadState,
    VideoRecord,
    VideoState,
)
from service.store import (
    Store,
)
from service.store.blobs import Blobs
from tests.service.store.helpers import TABLE, ready_video, settings_in

DATA = bytes(range(256)) * 40


@pytest.fixture
def upload(store: Store, project: Project) -> Upload:
    return store.uploads.begin(project.project_id, "v.mp4", len(DATA), sha256=hashlib.sha256(DATA).hexdigest())


def test_chunks_become_a_video(store: Store, upload: Upload) -> None:
    """In chunks of any size, checked by their sums, the bytes arrive; finishing twice gives the same video."""
    for offset in range(0, len(DATA), 3000):
        chunk = DATA[offset : offset + 3000]
        upload = store.uploads.append(upload.project_id, upload.upload_id, offset, chunk, crc32=zlib.crc32(chunk))
        assert upload.offset_bytes == offset + len(chunk)
    video = store.uploads.finish(upload.project_id, upload.upload_id, author="ann")
    assert (video.state, video.size_bytes, video.display_name) == (VideoState.PROBING, len(DATA), "v.mp4")
    assert store.videos.path(video.project_id, video.video_id).read_bytes() == DATA
    assert store.uploads.finish(upload.project_id, upload.upload_id) == video
    assert store.uploads.get(upload.project_id, upload.upload_id).state is UploadState.FINISHED
    assert store.jobs.get(video.project_id, video.probe_job_id).author == "ann"
    assert not list((store.settings.data_dir / "uploads").glob(f"{upload.upload_id}*"))
    assert store.uploads.abort(upload.project_id, upload.upload_id).state is UploadState.FINISHED


def test_a_wrong_offset_says_the_right_one(store: Store, upload: Upload) -> None:
    """A gap and a repeated chunk are both refused, with the place where the upload goes on."""
    store.uploads.append(upload.project_id, upload.upload_id, 0, DATA[:100])
    for wrong in (0, 99, 101, 5000):
        with pytest.raises(WrongOffset) as caught:
            store.uploads.append(upload.project_id, upload.upload_id, wrong, b"x")
        assert caught.value.expected == 100


def test_a_damaged_chunk_is_not_stored(store: Store, upload: Upload) -> None:
    """A chunk whose sum does not match leaves the upload as it was."""
    with pytest.raises(DataLoss, match="CRC-32"):
        store.uploads.append(upload.project_id, upload.upload_id, 0, b"abc", crc32=1)
    assert store.uploads.get(upload.project_id, upload.upload_id).offset_bytes == 0


def test_more_than_announced_is_refused(store: Store, upload: Upload) -> None:
    """Bytes past the announced size are not taken."""
    with pytest.raises(InvalidInput, match="data"):
        store.uploads.append(upload.project_id, upload.upload_id, 0, DATA + b"x")


def test_too_early_and_wrong_sum(store: Store, project: Project, upload: Upload) -> None:
    """An incomplete upload cannot be finished; one with another checksum fails for good."""
    with pytest.raises(FailedPrecondition, match="send the rest"):
        store.uploads.finish(upload.project_id, upload.upload_id)
    other = store.uploads.begin(project.project_id, "v.mp4", 1, sha256="0" * 64)
    store.uploads.append(project.project_id, other.upload_id, 0, b"x")
    with pytest.raises(DataLoss, match="SHA-256"):
        store.uploads.finish(project.project_id, other.upload_id)
    assert store.uploads.get(project.project_id, other.upload_id).state is UploadState.FAILED
    with pytest.raises(FailedPrecondition, match="failed"):
        store.uploads.append(project.project_id, other.upload_id, 1, b"")


def test_two_writers(store: Store, upload: Upload) -> None:
    """While one call writes, another one to the same upload is told to retry."""
    with store.uploads._alone(upload.upload_id), pytest.raises(UploadConflict):
        store.uploads.append(upload.project_id, upload.upload_id, 0, b"x")
    store.uploads.append(upload.project_id, upload.upload_id, 0, b"x")


def test_abort_and_expiry(store: Store, upload: Upload, project: Project, tmp_path: Path) -> None:
    """An upload that is given up, or forgotten, loses its bytes."""
    store.uploads.append(upload.project_id, upload.upload_id, 0, b"x")
    assert store.uploads.abort(upload.project_id, upload.upload_id).state is UploadState.ABORTED
    assert not list((store.settings.data_dir / "uploads").glob(f"{upload.upload_id}*"))
    with Store.open(settings_in(tmp_path, upload_idle_hours=0.01)) as other:
        made = other.projects.create("p", project.ontology)
        idle = other.uploads.begin(made.project_id, "v", 10)
        assert other.uploads.expire() == 0
        with other._database.begin(write=True) as connection:
            connection.exec_driver_sql("UPDATE uploads SET updated_at = updated_at - 60000000")
        assert other.uploads.expire() == 1
        assert other.uploads.get(made.project_id, idle.upload_id).state is UploadState.ABORTED


@pytest.mark.parametrize(
    ("name", "size", "sha256", "field"),
    [
        ("a\nb", 1, "", "display_name"),
        ("n" * 201, 1, "", "display_name"),
        ("n", 0, "", "size_bytes"),
        ("n", 1 << 60, "", "size_bytes"),
        ("n", 1, "xyz", "sha256"),
    ],
)
def test_bad_announcements(store: Store, project: Project, name: str, size: int, sha256: str, field: str) -> None:
    """What an upload says of itself is checked before a byte is taken."""
    with pytest.raises(InvalidInput, match=field):
        store.uploads.begin(project.project_id, name, size, sha256=sha256)


def test_no_room(tmp_path: Path, project: Project) -> None:
    """An upload that does not fit on the disk is refused at once."""
    from service.settings import Settings

    with Store.open(Settings(data_dir=tmp_path, min_free_bytes=1 << 50)) as store:
        made = store.projects.create("p", project.ontology)
        with pytest.raises(ResourceExhausted, match="no space"):
            store.uploads.begin(made.project_id, "v", 1)


def test_upload_requests_are_idempotent(store: Store, project: Project) -> None:
    """A repeated request gives the same upload."""
    first = store.uploads.begin(project.project_id, "v", 5, request_id="u")
    assert store.uploads.begin(project.project_id, "v", 5, request_id="u") == first
    with pytest.raises(AlreadyExists):
        store.uploads.begin(project.project_id, "v", 6, request_id="u")


def test_paths_must_lie_below_an_allowed_root(store: Store, project: Project, tmp_path: Path) -> None:
    """Links are followed before the check; what is not there or not allowed is refused."""
    (root,) = store.settings.allowed_roots
    inside = root / "clip.mp4"
    inside.write_bytes(b"1234")
    video = store.videos.register(project.project_id, inside, "clip", request_id="reg")
    assert store.videos.register(project.project_id, inside, "clip", request_id="reg") == video
    assert (video.source_path, video.size_bytes, video.state) == (str(inside), 4, VideoState.PROBING)
    assert store.videos.path(project.project_id, video.video_id) == inside
    (tmp_path / "secret").write_bytes(b"x")
    link = root / "link.mp4"
    link.unlink(missing_ok=True)
    link.symlink_to(tmp_path / "secret")
    for bad in (link, tmp_path / "secret", root / ".." / "x", root / "none.mp4", Path("clip.mp4"), Path("/etc/passwd")):
        with pytest.raises(InvalidInput, match="path"):
            store.videos.register(project.project_id, bad, "clip")


def test_frame_tables(store: Store, project: Project, video: VideoRecord) -> None:
    """A ready video has its whole table, another one says that it has none."""
    assert store.videos.frame_table(project.project_id, video.video_id) == TABLE
    assert (video.frame_count, video.width_px, video.content_hash) == (100, 64, "a" * 64)
    upload = store.uploads.begin(project.project_id, "w", 1)
    store.uploads.append(project.project_id, upload.upload_id, 0, b"x")
    waiting = store.uploads.finish(project.project_id, upload.upload_id)
    with pytest.raises(FailedPrecondition, match="not ready"):
        store.videos.frame_table(project.project_id, waiting.video_id)
    with pytest.raises(FailedPrecondition, match="cancel it first"):
        store.erasure.delete(project.project_id, waiting.video_id)
    store.jobs.cancel(project.project_id, waiting.probe_job_id)


def test_delete_and_foreign_projects(store: Store, project: Project, video: VideoRecord) -> None:
    """A video is found in its own project only, and not after it was deleted."""
    other = store.projects.create("q", project.ontology)
    with pytest.raises(NotFound, match="video"):
        store.videos.get(other.project_id, video.video_id)
    assert [v.video_id for v in store.videos.list(project.project_id).items] == [video.video_id]
    store.erasure.delete(project.project_id, video.video_id)
    assert store.videos.list(project.project_id).items == ()
    with pytest.raises(NotFound, match="video"):
        store.labels.revision(project.project_id, video.video_id)


def test_blobs_are_kept_once_and_swept(tmp_path: Path) -> None:
    """The same bytes are one file; only what is unreferenced and old goes."""
    blobs = Blobs(tmp_path)
    name = blobs.add_bytes(b"one")
    (tmp_path / "source").write_bytes(b"one")
    assert blobs.add_file(tmp_path / "source").sha256 == name == hashlib.sha256(b"one").hexdigest()
    assert (blobs.path(name).read_bytes(), blobs.size_bytes(name)) == (b"one", 3)
    with blobs.open(name) as file:
        assert file.read() == b"one"
    other = blobs.add_bytes(b"two")
    for path in (blobs.path(name), blobs.path(other)):
        os.utime(path, (1, 1))
    assert blobs.sweep(frozenset(), 60) == 0, "its own clock knows better than the times of the files"
    blobs = Blobs(tmp_path)
    assert blobs.add_bytes(b"two") == other  # is used again, and so is young
    assert blobs.sweep(frozenset(), 60) == 1
    with pytest.raises(NotFound):
        blobs.path(name)
    for bad in ("x", "../" + "a" * 61, "A" * 64):
        with pytest.raises(InvalidInput, match="sha256"):
            blobs.path(bad)


def test_tidy_removes_only_what_nothing_refers_to(store: Store, project: Project) -> None:
    """The bytes of a deleted video go, those of a living one stay."""
    video = ready_video(store, project.project_id)
    stray = store.blobs.add_bytes(b"stray")
    store.tidy(unused_seconds=-1)
    assert store.videos.path(project.project_id, video.video_id).read_bytes() == b"data"
    with pytest.raises(NotFound):
        store.blobs.path(stray)


def test_a_disk_that_is_full_or_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors of the disk are told apart, and leave nothing behind."""
    import errno

    from service.domain.errors import StorageFailure

    blobs = Blobs(tmp_path)
    for number, error in ((errno.ENOSPC, ResourceExhausted), (errno.EIO, StorageFailure)):

        def broken(descriptor: int, number: int = number) -> None:
            raise OSError(number, "no")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", broken)
            with pytest.raises(error):
                blobs.add_bytes(b"x")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
