"""Backups are taken while writers go on, come back whole on either kind of database, or are refused."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import asdict
from pathlib import Path

import pytest

from micromodels.errors import FailedPrecondition, InvalidInput
from micromodels.labels.keys import LabelKey
from service.domain.errors import DataLoss, RevisionConflict, StaleLease, WrongOffset
from service.domain.jobs import (
    Effects,
    JobError,
    JobKind,
    JobState,
)
from service.domain.models import (
    BlobFile,
    NewModel,
)
from service.domain.videos import (
    VideoRecord,
)
from service.settings import Settings
from service.store import (
    Store,
)
from service.store.backup import back_up, restore
from service.store.deletion_receipts import read_receipts
from tests.service.store.conftest import Place
from tests.service.store.helpers import MODEL, ONTOLOGY, box, ready_video, settings_in, tool


def filled(settings: Settings) -> tuple[str, str, str]:
    """Ids of a project, a video with labels and history, and a job that a worker holds; a model and an upload too."""
    with Store.open(settings) as store:
        project = store.projects.create("Kept ☃", ONTOLOGY).project_id
        video = ready_video(store, project).video_id
        store.labels.write(project, video, [box(1), tool(2)], author="ann")
        gone = LabelKey(frame=2, name="tool", is_frame_class=True)
        store.labels.write(project, video, [box(1, x=3.0)], deletes=[gone], author="bob")
        job = store.jobs.create(project, JobKind.TRAIN, {"video_id": video}, video_id=video)
        taken = store.jobs.lease("w", [JobKind.TRAIN])
        assert taken is not None
        sha256 = store.blobs.add_bytes(b"weights")
        model = NewModel("", "m", 0, "head", {"j": 0.5}, {"k": [1]}, {video: 2}, (BlobFile("a", sha256, 7),))
        effects = Effects(model=model, labels=[box(5, provenance=MODEL)], checkpoint={"next_frame": 6})
        store.jobs.commit(taken[0], Effects(state=JobState.RUNNING))
        store.jobs.commit(taken[0], effects)
        upload = store.uploads.begin(project, "half.mp4", 10)
        store.uploads.append(project, upload.upload_id, 0, b"12345")
    return project, video, job.job_id


@pytest.mark.parametrize("across", [False, True], ids=["same-kind", "other-kind"])
def test_everything_comes_back(tmp_path: Path, place: Place, across: bool, request: pytest.FixtureRequest) -> None:
    """Rows with history, blobs, models; what ran is queued again, and new rows do not collide with old ones."""
    settings = place(tmp_path / "a")
    project, video, job = filled(settings)
    report = back_up(settings, tmp_path / "backup")
    assert report.blobs == 2
    if across and settings.database_url:
        target = settings_in(tmp_path / "b")
    elif across:
        target = settings_in(tmp_path / "b", database_url=request.getfixturevalue("postgres").database())
    else:
        target = place(tmp_path / "b")
    assert restore(target, tmp_path / "backup") == report
    with Store.open(settings) as old, Store.open(target) as new:
        assert new.projects.get(project) == old.projects.get(project)
        assert new.videos.get(project, video) == old.videos.get(project, video)
        assert new.videos.frame_table(project, video) == old.videos.frame_table(project, video)
        assert list(new.labels.stream(project, video, with_deleted=True)) == list(
            old.labels.stream(project, video, with_deleted=True)
        )
        key = LabelKey(frame=1, name="1")
        assert new.history.of_label(project, video, key) == old.history.of_label(project, video, key)
        (model,) = new.models.list(project).items
        assert model == old.models.list(project).items[0]
        assert new.blobs.path(model.files[0].sha256).read_bytes() == b"weights"
        assert new.videos.path(project, video).read_bytes() == b"data"
        assert new.jobs.get(project, job).state is JobState.QUEUED
        assert new.jobs.get(project, job).checkpoint["next_frame"] == 6
        assert new.projects.create("q", ONTOLOGY).project_id not in (project, "")
        assert new.labels.write(project, video, [box(9)], author="ann").revision == 4


def test_f66_an_older_backup(tmp_path: Path, place: Place) -> None:
    """What was done after the backup is gone, and nobody who still remembers it can do harm: not a worker with a
    newer fence, not a writer with a newer revision, not an upload with a further offset."""
    settings = place(tmp_path / "a")
    project, video, _ = filled(settings)
    back_up(settings, tmp_path / "backup")
    with Store.open(settings) as store:
        store.labels.write(project, video, [box(1, x=8.0)], author="cid")
        revision = store.labels.revision(project, video)
        (upload_id,) = (p.stem for p in (settings.data_dir / "uploads").glob("*.part"))
        for beat in store.jobs.held():
            store.jobs.reclaim(beat, None)  # type: ignore[arg-type]
        later = store.jobs.lease("w", [JobKind.TRAIN])
        assert later is not None
    target = place(tmp_path / "b")
    restore(target, tmp_path / "backup")
    with Store.open(target) as store:
        assert store.labels.revision(project, video) < revision
        with pytest.raises(RevisionConflict, match="ahead"):
            store.labels.write(project, video, [box(1, x=9.0)], author="cid", base_revision=revision)
        assert store.jobs.lease("new", [JobKind.TRAIN]) is not None
        with pytest.raises(StaleLease):
            store.jobs.commit(later[0], Effects(labels=[box(7, provenance=MODEL)]))
        with pytest.raises(WrongOffset) as caught:
            store.uploads.append(project, upload_id, 5, b"67890")
        assert caught.value.expected == 0
        store.uploads.append(project, upload_id, 0, b"1234567890")
        store.uploads.finish(project, upload_id)


def doomed(settings: Settings) -> tuple[str, list[VideoRecord]]:
    """A project with three videos of different bytes; a job that trains on the first, and a model of it."""
    with Store.open(settings) as store:
        project = store.projects.create("p", ONTOLOGY).project_id
        videos = [ready_video(store, project) for _ in range(2)]
        job = store.jobs.create(project, JobKind.TRAIN, {}, video_id=videos[0].video_id)
        taken = store.jobs.lease("w", [JobKind.TRAIN])
        assert taken is not None
        files = (BlobFile("a", store.blobs.add_bytes(b"saw it"), 6),)
        orders = store.jobs.commit(taken[0], Effects(model=NewModel("", "m", 0, "head", {}, {}, {}, files)))
        store.jobs.create(project, JobKind.PROPAGATE, {"model_id": orders.model["model_id"]}, video_id="elsewhere")
        assert store.jobs.get(project, job.job_id).state is JobState.LEASED
    return project, videos


@pytest.mark.parametrize("source", ["receipts", "audit", "newer-backup", "data-folder"])
def test_what_was_deleted_after_a_backup_stays_deleted(tmp_path: Path, place: Place, source: str) -> None:
    """A restore deletes it again, with the micro-model that saw it and the jobs in the way, and keeps the receipts:
    also that of a video which the backup does not have."""
    settings, target = place(tmp_path / "a"), place(tmp_path / "b")
    project, (gone, kept) = doomed(settings)
    back_up(settings, tmp_path / "backup")
    with Store.open(settings) as store:
        for job in store.jobs.list(project).items:
            store.jobs.cancel(project, job.job_id)
        for beat in store.jobs.held():
            store.jobs.reclaim(beat, JobError("GONE", "the test ends it"))
        first = store.erasure.delete(project, gone.video_id, actor="ann")
        late = ready_video(store, project)
        store.erasure.delete(project, late.video_id, actor="bob")
        lines = [json.dumps({**asdict(row), "at": row.at.isoformat()}) for row in store.audit.rows()]
    (tmp_path / "audit.jsonl").write_text("".join(f"{line}\n" for line in lines))
    receipts = settings.data_dir / "receipts.jsonl"
    back_up(settings, tmp_path / "newer")
    if source == "data-folder":
        target.data_dir.mkdir(exist_ok=True)
        (target.data_dir / "receipts.jsonl").write_bytes(receipts.read_bytes())
    given = {"receipts": [receipts], "audit": [tmp_path / "audit.jsonl"], "newer-backup": [tmp_path / "newer"]}
    assert restore(target, tmp_path / "backup", given.get(source, [])).erased_again == 1
    with Store.open(target) as store:
        assert [video.video_id for video in store.videos.list(project).items] == [kept.video_id]
        assert store.models.list(project).items == ()
        receipt = store.erasure.receipt(project, gone.video_id)
        assert receipt.actor == "restore"
        assert receipt.detail["micro_model_versions"] == 1
        assert receipt.detail["deleted_before"]["actor"] == "ann"
        if source != "newer-backup":
            assert receipt.detail["deleted_before"]["deleted_at"] == first.at.isoformat()
        assert store.erasure.receipt(project, late.video_id).actor == "bob"
        assert store.audit.verify().problem == ""
        saved = read_receipts(target.data_dir / "receipts.jsonl")
        assert {receipt.video_id for receipt in saved.values()} == {gone.video_id, late.video_id}


def test_receipts_are_written_down_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that refuses the line costs the deletion nothing; the next round writes it. A lost file comes back."""
    settings = settings_in(tmp_path)
    file = settings.data_dir / "receipts.jsonl"
    with Store.open(settings) as store:
        project = store.projects.create("p", ONTOLOGY).project_id
        with monkeypatch.context() as patch:
            patch.setattr("service.store.deletion_receipts.sync_folder", lambda folder: os.stat(tmp_path / "nothing"))
            store.erasure.delete(project, ready_video(store, project).video_id)
        file.unlink()
        store.tidy()
        assert len(read_receipts(file)) == 1
        store.erasure.delete(project, ready_video(store, project).video_id)
        assert len(read_receipts(file)) == 2
    file.unlink()
    with Store.open(settings) as store:
        store.tidy()
        assert len(read_receipts(file)) == 2


def test_what_is_no_receipt_is_refused(tmp_path: Path) -> None:
    """By its line; a last line that was cut off is passed over."""
    file = tmp_path / "r.jsonl"
    good = {"method": "server/video_deleted", "resource": "projects/p/videos/v", "actor": "a", "detail": {}, "at": ""}
    for bad in (b"[]\n", b"{\n", b"\xff\n", json.dumps({**good, "resource": "projects/p"}).encode() + b"\n"):
        file.write_bytes(json.dumps(good).encode() + b"\n" + bad)
        with pytest.raises(InvalidInput, match="line 2"):
            read_receipts(file)
    file.write_bytes(json.dumps(good).encode() + b"\n" + b'{"method": "oth')
    assert list(read_receipts(file)) == ["projects/p/videos/v"]
    with pytest.raises(InvalidInput, match="readable file"):
        read_receipts(tmp_path / "none")


def test_a_backup_is_of_one_moment(tmp_path: Path, place: Place) -> None:
    """While a writer goes on, every video in the backup has all labels up to its revision, and none after it."""
    settings = place(tmp_path / "a")
    with Store.open(settings) as store:
        project = store.projects.create("p", ONTOLOGY).project_id
        videos = [ready_video(store, project).video_id for _ in range(2)]
        stop = threading.Event()

        def write() -> None:
            number = 0
            while not stop.is_set():
                for video in videos:  # first the one, then the other: the one is never behind
                    store.labels.write(project, video, [box(number % 100, x=float(number))], author=str(number))
                number += 1

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for number in range(3):
                back_up(settings, tmp_path / f"backup{number}")
        finally:
            stop.set()
            writer.join()
    for number in range(3):
        target = place(tmp_path / f"b{number}")
        restore(target, tmp_path / f"backup{number}")
        with Store.open(target) as store:
            one, two = (store.labels.revision(project, video) for video in videos)
            assert 0 <= one - two <= 1
            for video in videos:
                newest = max((r.revision for r in store.labels.stream(project, video)), default=0)
                assert newest == store.labels.revision(project, video)


def test_a_damaged_backup_is_refused(tmp_path: Path, place: Place) -> None:
    """A changed or missing file, a foreign format, an unfinished backup: said, and nothing is left behind."""
    settings = place(tmp_path / "a")
    filled(settings)
    backup = tmp_path / "backup"
    back_up(settings, backup)
    manifest = (backup / "backup.json").read_bytes()
    labels = backup / "tables" / "labels.jsonl"
    blob = next((backup / "blobs").glob("*/*"))
    target = place(tmp_path / "b")
    for path, data in ((labels, labels.read_bytes()), (blob, blob.read_bytes())):
        path.write_bytes(data[:-2] + b"x\n")
        with pytest.raises(DataLoss, match="damaged"):
            restore(target, backup)
        path.unlink()
        with pytest.raises(DataLoss, match="missing"):
            restore(target, backup)
        path.write_bytes(data)
    for changed, error in (
        (b"{", DataLoss),
        (b"{}", DataLoss),
        (json.dumps({**json.loads(manifest), "format": 2}).encode(), FailedPrecondition),
        (json.dumps({**json.loads(manifest), "schema": "9999"}).encode(), FailedPrecondition),
    ):
        (backup / "backup.json").write_bytes(changed)
        with pytest.raises(error):
            restore(target, backup)
    (backup / "backup.json").unlink()
    with pytest.raises(FailedPrecondition, match="not a backup"):
        restore(target, backup)
    (backup / "backup.json").write_bytes(manifest)
    restore(target, backup)
    with pytest.raises(FailedPrecondition, match=r"not empty|already"):
        restore(target, backup)
    with pytest.raises(FailedPrecondition, match="not empty"):
        back_up(settings, backup)
    with Store.open(target), pytest.raises(FailedPrecondition, match="another server"):
        restore(target, backup)


def test_nothing_to_back_up(tmp_path: Path) -> None:
    """A data folder without a database is a mistake, not an empty backup."""
    with pytest.raises(FailedPrecondition, match="no database"):
        back_up(settings_in(tmp_path / "none"), tmp_path / "backup")
