"""Deletion with a receipt, retention, and everything about one video as an archive: over the API, by role."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from micromodels.client import Client
from micromodels.v1 import file_pb2, video_pb2
from service.domain.access import Role
from service.domain.jobs import JobKind
from tests.service.api.harness import Running, box, refused

Member = Callable[[str, Role], Client]


def _project_id(name: str) -> str:
    return name.removeprefix("projects/")


def test_retention_is_the_projects(guarded: Running, member: Member) -> None:
    """It is set by the project's administrators, within bounds, and is read back."""
    project = guarded.project().name
    admin = member(project, Role.ADMIN)
    assert admin.update_project(project, retention_days=90).retention_days == 90
    assert admin.get_project(project).retention_days == 90
    with refused("INVALID_ARGUMENT", "INVALID_INPUT", "retention_days"):
        admin.update_project(project, retention_days=-1)


@pytest.fixture
def labeled(guarded: Running) -> video_pb2.Video:
    """An uploaded video with labels and a micro-model."""
    project = guarded.project().name
    video: video_pb2.Video = guarded.client.upload_video(project, guarded.clip, timeout_seconds=60)
    guarded.client.write_labels(video.name, [box(0), box(12)])
    guarded.client.write_labels(video.name, [box(12, x1=20.0)])
    guarded.client.train(video.name).result(60)
    return video


def test_deletion_over_the_api_has_a_receipt(guarded: Running, member: Member, labeled: video_pb2.Video) -> None:
    """DeleteVideo by who may; then GetDeletionReceipt says what went; the model went too."""
    project = labeled.name.split("/videos/")[0]
    client, annotator = member(project, Role.SERVICE), member(project, Role.ANNOTATOR)
    with refused("PERMISSION_DENIED"):
        annotator.delete_video(labeled.name)
    versions = list(client.list_micro_model_versions(f"{project}/microModels/-"))
    client.delete_video(labeled.name)
    receipt = client.access.get_deletion_receipt(labeled.name)
    assert receipt.entry.user == "service-0"
    assert receipt.entry.detail["labels_rows"] == 3
    assert receipt.entry.detail["content_sha256"] == labeled.frame_table.content_sha256
    assert receipt.entry.detail["micro_model_versions"] == 1
    assert receipt.entry.detail["blobs_kept_for_others"] + len(receipt.entry.detail["blobs_removed"]) > 1
    with refused("NOT_FOUND"):
        client.get_micro_model_version(versions[0].name)
    with refused("NOT_FOUND"):
        client.access.get_deletion_receipt(f"{project}/videos/none")


def test_everything_about_a_video_as_an_archive(
    guarded: Running, member: Member, labeled: video_pb2.Video, tmp_path: Path
) -> None:
    """Export `archive`: the video, labels with history, audit, lineage; for administrators alone, the file too."""
    project = labeled.name.split("/videos/")[0]
    admin, reviewer = member(project, Role.ADMIN), member(project, Role.REVIEWER)
    with refused("PERMISSION_DENIED"):
        reviewer.export(labeled.name, tmp_path, file_format="archive")
    (path,) = admin.export(labeled.name, tmp_path, file_format="archive")
    (job,) = [job for job in guarded.store.jobs.list(_project_id(project)).items if job.kind is JobKind.EXPORT]
    with refused("PERMISSION_DENIED"):
        name = f"{project}/operations/{job.job_id}/files/archive.zip"
        list(reviewer._connection.stream(lambda: (reviewer.stubs.files.ReadFile, file_pb2.ReadFileRequest(name=name))))
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.read("video/source") == guarded.clip.read_bytes()
        assert len(archive.read("labels.jsonl").splitlines()) == 2
        tables = {
            name: [json.loads(line) for line in archive.read(name).splitlines()]
            for name in archive.namelist()
            if name.startswith(("table_", "audit"))
        }
    assert len(tables["table_labels.jsonl"]) == 3
    assert tables["table_videos.jsonl"][0]["frame_table"]["frame_count"] == 24
    assert len(tables["table_models.jsonl"]) == 1
    assert any(row["method"].endswith("WriteLabels") for row in tables["audit.jsonl"])


def test_a_project_that_is_deleted_takes_its_videos_for_good(guarded: Running, labeled: video_pb2.Video) -> None:
    """Each has its receipt."""
    project = labeled.name.split("/videos/")[0]
    guarded.client.delete_project(project, force=True)
    assert guarded.client.access.get_deletion_receipt(labeled.name).entry.user == "root"
