"""Blobs in an object store: what is in the folder is a copy, checked when it comes, and can be deleted at any time."""

from __future__ import annotations

import hashlib
import shutil
import uuid
from pathlib import Path

import fsspec
import pytest

from micromodels.errors import InvalidInput
from service.domain.errors import DataLoss, NotFound, StorageFailure, Unavailable
from service.store import Store
from service.store.blobs import Blobs
from service.store.objects import ObjectStore
from tests.databases import BUCKET, free_port
from tests.service.store.helpers import ONTOLOGY, ready_video, settings_in


@pytest.fixture
def url(s3: str) -> str:
    """A fresh place in the bucket."""
    del s3
    return f"s3://{BUCKET}/{uuid.uuid4().hex}"


def keys(url: str) -> set[str]:
    files, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
    return {path.rpartition("/")[2] for path in files.find(root)} - {"clock"}


def test_copies_in_the_folder_can_go(tmp_path: Path, url: str) -> None:
    """Bytes come back from the object store after the folder was lost, or pruned to a bound."""
    blobs = Blobs(tmp_path / "a", ObjectStore(url))
    (tmp_path / "file").write_bytes(b"three")
    names = [blobs.add_bytes(b"one"), blobs.add_bytes(b"two!"), blobs.add_file(tmp_path / "file").sha256]
    assert keys(url) == set(names)
    shutil.rmtree(tmp_path / "a")
    other = Blobs(tmp_path / "a", ObjectStore(url))
    assert [other.size_bytes(name) for name in names] == [3, 4, 5]
    assert [other.path(name).read_bytes() for name in names] == [b"one", b"two!", b"three"]
    other.prune(5)
    assert sum(path.stat().st_size for path in (tmp_path / "a").glob("??/*")) <= 5
    assert [other.path(name).read_bytes() for name in names] == [b"one", b"two!", b"three"]


def test_an_upload_goes_to_the_object_store(tmp_path: Path, url: str) -> None:
    """A finished upload is an object, and another server, with an empty folder, has its bytes."""
    with Store.open(settings_in(tmp_path / "a", object_store_url=url)) as store:
        project = store.projects.create("p", ONTOLOGY)
        video = ready_video(store, project.project_id)
        assert keys(url) == {video.blob}
        shutil.rmtree(tmp_path / "a" / "blobs")
        (tmp_path / "a" / "blobs" / "tmp").mkdir(parents=True)
        assert store.videos.path(project.project_id, video.video_id).read_bytes() == b"data"


def test_other_bytes_are_not_taken(tmp_path: Path, url: str) -> None:
    """An object that was changed is data loss, and nothing of it lands in the folder."""
    blobs = Blobs(tmp_path, ObjectStore(url))
    name = hashlib.sha256(b"right").hexdigest()
    files, root = fsspec.core.url_to_fs(url)
    files.pipe_file(f"{root}/{name[:2]}/{name}", b"wrong")
    with pytest.raises(DataLoss, match="SHA-256"):
        blobs.path(name)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    with pytest.raises(NotFound):
        blobs.path("0" * 64)
    with pytest.raises(NotFound):
        blobs.size_bytes("0" * 64)


def test_sweeping_the_object_store(tmp_path: Path, url: str) -> None:
    """What nothing refers to goes, unless it is young."""
    blobs = Blobs(tmp_path, ObjectStore(url))
    kept, stray = blobs.add_bytes(b"kept"), blobs.add_bytes(b"stray")
    assert blobs.sweep(frozenset({kept}), 60) == 0
    assert keys(url) == {kept, stray}
    assert blobs.sweep(frozenset({kept}), -10) == 1
    assert keys(url) == {kept}
    with pytest.raises(NotFound):
        blobs.path(stray)


def test_an_object_store_that_cannot_be_used(tmp_path: Path, s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown protocol, a bucket that is not there and a server that is away are told apart."""
    del s3
    for bad, error in (("nonsense://x", InvalidInput), ("s3://no-such-bucket/x", StorageFailure)):
        with pytest.raises(error):
            Store.open(settings_in(tmp_path, object_store_url=bad))
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(Unavailable) as caught:
        Store.open(settings_in(tmp_path, object_store_url=f"s3://{BUCKET}/away"))
    assert caught.value.retry_after_seconds > 0
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def test_a_folder_by_url(tmp_path: Path) -> None:
    """``file://`` is a folder elsewhere, without a second copy."""
    place = tmp_path / "elsewhere"
    with Store.open(settings_in(tmp_path / "a", object_store_url=f"file://{place}")) as store:
        name = store.blobs.add_bytes(b"one")
        assert (place / name[:2] / name).read_bytes() == b"one"
        assert not (tmp_path / "a" / "blobs").exists()
