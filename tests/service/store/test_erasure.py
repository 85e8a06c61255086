"""True deletion of a video, and retention: one suite for both kinds of store."""

from __future__ import annotations

import hashlib
import time
from datetime import timedelta
from pathlib import Path

import pytest

from micromodels.errors import FailedPrecondition
from service.domain.access import AuditRow
from service.domain.errors import NotFound
from service.domain.jobs import (
    Effects,
    JobKind,
    JobState,
    NewEvent,
)
from service.domain.models import (
    BlobFile,
    NewModel,
)
from service.domain.videos import VideoRecord
from service.settings import cache_folder
from service.store import Store
from service.store.clock import SteadyClock
from service.store.retention import Retention
from tests.service.store.conftest import Place
from tests.service.store.helpers import ONTOLOGY, labels_of, ready_video, settings_in
from tests.service.store.helpers import box as cell


def trained(store: Store, video: VideoRecord, content: bytes, model_id: str = "", parent: int = 0) -> tuple[str, int]:
    """A version of a micro-model with one file, trained on a video, and a picture of its training."""
    job = store.jobs.create(video.project_id, JobKind.TRAIN, {"video_id": video.video_id}, video_id=video.video_id)
    leased = store.jobs.lease("test", [JobKind.TRAIN])
    assert leased is not None
    assert leased[1].job_id == job.job_id
    sha256 = store.blobs.add_bytes(content)
    picture = store.blobs.add_bytes(b"picture of " + content)
    files = (BlobFile("head.safetensors", sha256, len(content)),)
    model = NewModel(model_id, "", parent, "head", {}, {}, {video.video_id: 1}, files)
    events = [NewEvent("flip_book_picture", {}, picture)]
    orders = store.jobs.commit(leased[0], Effects(model=model, events=events, state=JobState.SUCCEEDED))
    return orders.model["model_id"], orders.model["version"]


def is_kept(store: Store, sha256: str) -> bool:
    try:
        store.blobs.path(sha256)
    except NotFound:
        return False
    return True


def test_nothing_of_a_deleted_video_is_left(place: Place, tmp_path: Path) -> None:
    """Bytes, labels, jobs, caches, and the micro-models that saw it or came from one; the receipt lists them."""
    with Store.open(place(tmp_path)) as store:
        project = store.projects.create("p", ONTOLOGY).project_id
        video, other = ready_video(store, project), ready_video(store, project)
        store.labels.write(project, video.video_id, [cell(0), cell(1)], author="a")
        store.labels.write(project, video.video_id, [cell(1, x=3.0)], author="a")
        store.labels.write(project, other.video_id, [cell(5)], author="a")
        model_id, _ = trained(store, video, b"saw it")
        child = trained(store, other, b"child", model_id, parent=1)
        kept_id, _ = trained(store, other, b"never saw it")
        cache = cache_folder(store.settings, video.content_hash)
        cache.mkdir(parents=True)
        (cache / "features.npz").write_bytes(b"x" * 1000)
        checkpoint = cache / f"checkpoints-{store.models.get(project, model_id, 1).job_id}"
        checkpoint.mkdir()
        (checkpoint / "1.safetensors").write_bytes(b"y" * 10)
        receipt = store.erasure.delete(project, video.video_id, actor="tester")
        assert not checkpoint.exists()
        for gone in (
            lambda: store.videos.get(project, video.video_id),
            lambda: store.models.get(project, model_id),
            lambda: store.models.get(project, *child),
            lambda: store.jobs.get(project, video.probe_job_id),
        ):
            with pytest.raises(NotFound):
                gone()
        assert store.models.get(project, kept_id).version == 1
        assert labels_of(store, other) == [cell(5)]
        detail = receipt.detail
        assert (detail["labels"], detail["labels_rows"], detail["micro_model_versions"]) == (2, 3, 2)
        assert {model["version"] for model in detail["micro_models"]} == {f"{model_id}@1", f"{model_id}@2"}
        assert detail["blobs_kept_for_others"] == 1  # the source: both videos have the same bytes
        assert receipt.actor == "tester"
        assert store.erasure.receipt(project, video.video_id) == receipt
        for content, kept in ((b"saw it", False), (b"child", False), (b"never saw it", True)):
            assert is_kept(store, hashlib.sha256(content).hexdigest()) is kept
        assert not is_kept(store, hashlib.sha256(b"picture of saw it").hexdigest())
        assert is_kept(store, video.blob)
        assert cache.is_dir()  # the other video has the same content
        last = store.erasure.delete(project, other.video_id)
        assert last.detail["cache_bytes"] == 1000
        assert last.detail["blobs_kept_for_others"] == 0
        assert not is_kept(store, video.blob)
        assert not cache.exists()
        with pytest.raises(NotFound):
            store.erasure.receipt(project, "nothing")
        assert store.audit.verify().problem == ""


def test_what_is_in_use_is_not_deleted(store: Store) -> None:
    """A job on the video, or one elsewhere that uses a micro-model which saw it, must end first."""
    project = store.projects.create("p", ONTOLOGY).project_id
    video, other = ready_video(store, project), ready_video(store, project)
    model_id, _ = trained(store, video, b"model in use")
    job = store.jobs.create(project, JobKind.PROPAGATE, {"model_id": model_id}, video_id=other.video_id)
    with pytest.raises(FailedPrecondition, match="micro-model trained on"):
        store.erasure.delete(project, video.video_id)
    store.jobs.cancel(project, job.job_id)
    assert store.erasure.delete(project, video.video_id).detail["micro_model_versions"] == 1


def test_the_file_of_the_database_forgets(tmp_path: Path) -> None:
    """SQLite overwrites what was deleted, and its log is emptied: the bytes are nowhere in the folder."""
    with Store.open(settings_in(tmp_path)) as store:
        project = store.projects.create("p", ONTOLOGY).project_id
        video = ready_video(store, project)
        store.labels.write(project, video.video_id, [cell(n, f"unforgettable-{n}") for n in range(50)], author="a")
        assert any(b"unforgettable" in path.read_bytes() for path in tmp_path.glob("database.sqlite*"))
        store.erasure.delete(project, video.video_id)
        for path in tmp_path.rglob("*"):
            assert not path.is_file() or b"unforgettable" not in path.read_bytes(), path


def test_a_deletion_that_was_interrupted_is_finished(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server dies between rows and files: the next round removes the files and writes the receipt."""
    settings = place(tmp_path)
    with Store.open(settings) as store:
        project = store.projects.create("p", ONTOLOGY).project_id
        video = ready_video(store, project)

        def die(*arguments: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(type(store.blobs), "remove", die)
        with pytest.raises(KeyboardInterrupt):
            store.erasure.delete(project, video.video_id, actor="tester")
        monkeypatch.undo()
        assert is_kept(store, video.blob)
    with Store.open(settings) as store:
        store.tidy()
        assert not is_kept(store, video.blob)
        receipt = store.erasure.receipt(project, video.video_id)
        assert receipt.actor == "tester"
        assert receipt.detail["blobs_removed"] == [video.blob]
        assert store.erasure.finish_all() == 0


def test_bytes_that_come_again_at_the_same_moment_stay(store: Store) -> None:
    """A blob that was added again while its deletion was under way is not removed: its reference is on the way."""
    sha256 = store.blobs.add_bytes(b"asked for again")
    since = time.monotonic()
    store.blobs.add_bytes(b"asked for again")
    assert store.blobs.remove([sha256], since) == []
    assert store.blobs.path(sha256).read_bytes() == b"asked for again"
    assert store.blobs.remove([sha256], time.monotonic()) == [sha256]
    with pytest.raises(NotFound):
        store.blobs.path(sha256)


class Days:
    """Days that pass for a store: the time of day, and how long the server has run."""

    def __init__(self, store: Store) -> None:
        self.wall, self.running = store.clock.now(), 0.0
        self.store = store
        self.start()

    def start(self) -> None:
        """As at a start of the server: the record is the latest instant that it has seen."""
        before = getattr(self, "clock", None)
        record = self.wall if before is None else max(before.now(), self.wall - timedelta(days=365))
        self.clock = SteadyClock(record, wall=lambda: self.wall, uptime_seconds=lambda: self.running)
        audit, erasure, database = self.store.audit, self.store.erasure, self.store._database
        self.retention = Retention(database, erasure, audit, self.clock, lambda: self.running)

    def run(self, hours: int) -> list[AuditRow]:
        """Run for so long, sweeping every half hour; the receipts."""
        receipts = []
        for _ in range(2 * hours):
            self.running += 1800
            self.wall += timedelta(seconds=1800)
            receipts += self.retention.sweep()
        return receipts

    def methods(self, project: str) -> list[str]:
        """What the audit log has of retention, oldest first."""
        rows = self.store.audit.rows(project_id=project)
        return [row.method for row in rows if row.method.startswith("retention")]


def test_videos_past_their_time_are_announced_and_a_day_later_deleted(place: Place, tmp_path: Path) -> None:
    """A project that keeps videos for 30 days; others, and newer ones, stay; the audit log has the notice first."""
    with Store.open(place(tmp_path)) as store:
        brief = store.projects.create("brief", ONTOLOGY, retention_days=30).project_id
        ever = store.projects.create("ever", ONTOLOGY).project_id
        video, kept = ready_video(store, brief), ready_video(store, ever)
        days = Days(store)
        assert days.run(1) == []
        assert days.methods(brief) == []
        days.wall += timedelta(days=31)
        days.start()
        assert days.run(24) == []
        assert days.methods(brief) == ["retention.announced"]
        assert store.videos.get(brief, video.video_id)
        receipts = days.run(1)
        assert [row.actor for row in receipts] == ["retention"]
        with pytest.raises(NotFound):
            store.videos.get(brief, video.video_id)
        assert store.videos.get(ever, kept.video_id) == kept


def test_a_longer_retention_withdraws_an_announced_deletion(tmp_path: Path) -> None:
    """Whoever reads the notice has a day of running time to keep the video."""
    with Store.open(settings_in(tmp_path)) as store:
        project = store.projects.create("brief", ONTOLOGY, retention_days=30).project_id
        ready_video(store, project)
        days = Days(store)
        days.wall += timedelta(days=31)
        days.start()
        assert days.run(20) == []
        store.projects.update(project, retention_days=0)
        assert days.run(30) == []
        assert days.methods(project) == ["retention.announced", "retention.withdrawn"]
        store.projects.update(project, retention_days=30)
        assert days.run(23) == [], "the notice begins again"


def test_f68_one_start_with_a_wrong_clock_deletes_nothing(tmp_path: Path) -> None:
    """A start 60 days ahead for 23 hours, then one with the right clock: the fresh video is there a month later."""
    with Store.open(settings_in(tmp_path)) as store:
        project = store.projects.create("brief", ONTOLOGY, retention_days=30).project_id
        video = ready_video(store, project)
        days = Days(store)
        days.wall += timedelta(days=60)
        days.start()
        assert days.run(23) == []
        assert days.methods(project) == ["retention.announced"]
        days.wall -= timedelta(days=60)
        days.start()
        assert days.clock.disagrees
        assert days.run(20 * 24) == []
        assert store.videos.get(project, video.video_id)
