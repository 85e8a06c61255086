"""Power is cut, in the form of kill -9, in the middle of writing: what was acknowledged is there, once, and whole."""

from __future__ import annotations

import multiprocessing
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.domain.jobs import (
    JobKind,
)
from service.domain.videos import (
    Project,
    VideoRecord,
)
from service.settings import Settings
from service.store import (
    Store,
)
from tests.service.store import writer
from tests.service.store.conftest import Place
from tests.service.store.helpers import ONTOLOGY, ready_video

KILLS = 7


@pytest.fixture
def scene(tmp_path: Path, place: Place) -> tuple[Settings, Project, VideoRecord]:
    settings = place(tmp_path, object_store_url="")
    with Store.open(settings) as store:
        project = store.projects.create("p", ONTOLOGY)
        video = ready_video(store, project.project_id, frames=100_000)
    return settings, project, video


def killed(target: Callable[..., None], *args: Any) -> list[int]:
    """Run a writer, kill it at a random moment of its work, and return what it said was acknowledged."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.service.store.writer", "alembic.command"])
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=target, args=(*args, theirs))
    process.start()
    theirs.close()
    said = [ours.recv()]
    time.sleep(random.uniform(0.0, 0.1))
    process.kill()
    process.join()
    try:
        while True:
            said.append(ours.recv())
    except EOFError:
        pass
    ours.close()
    process.close()
    return said


def test_label_batches_are_whole_or_not_there(scene: tuple[Settings, Project, VideoRecord]) -> None:
    """Every acknowledged batch is in the history of every key, in order; at most one more, and that one whole."""
    settings, project, video = scene
    first = 0
    for _ in range(KILLS):
        said = killed(writer.write_labels, settings, project.project_id, video.video_id, first)
        with Store.open(settings) as store:
            records = list(store.labels.stream(project.project_id, video.video_id))
            (last,) = {int(record.author) for record in records}
            assert len(records) == writer.BATCH
            assert said[-1] <= last <= said[-1] + 1
            history = store.history.of_label(project.project_id, video.video_id, records[0].key)
            assert [int(version.record.author) for version in history] == list(range(last + 1))
            assert [version.record.revision for version in history] == list(range(1, last + 2))
            assert store.labels.revision(project.project_id, video.video_id) == last + 1
        first = last + 1


def test_uploads_go_on_where_they_were(scene: tuple[Settings, Project, VideoRecord]) -> None:
    """The offset is at least the acknowledged one, and the file is what was sent."""
    settings, project, _ = scene
    chunk = bytes(range(256)) * 300
    with Store.open(settings) as store:
        upload = store.uploads.begin(project.project_id, "v", 1 << 30)
    for _ in range(KILLS):
        said = killed(writer.upload, settings, project.project_id, upload.upload_id, chunk)
        with Store.open(settings) as store:
            offset = store.uploads.get(project.project_id, upload.upload_id).offset_bytes
        assert said[-1] <= offset <= said[-1] + len(chunk)
        data = (settings.data_dir / "uploads" / f"{upload.upload_id}.part").read_bytes()
        assert data[:offset] == chunk * (offset // len(chunk))


def test_job_commits_are_whole_or_not_there(scene: tuple[Settings, Project, VideoRecord]) -> None:
    """Labels and checkpoint of a job never part, whenever its worker is killed."""
    settings, project, video = scene
    with Store.open(settings) as store:
        job = store.jobs.create(project.project_id, JobKind.PROPAGATE, {}, video_id=video.video_id)
        taken = store.jobs.lease("w", [JobKind.PROPAGATE])
        assert taken is not None
    first = 0
    for _ in range(KILLS):
        said = killed(writer.work, settings, taken[0], first)
        with Store.open(settings) as store:
            frames = [record.key.frame for record in store.labels.stream(project.project_id, video.video_id)]
            first = store.jobs.get(project.project_id, job.job_id).checkpoint["next_frame"]
        assert frames == list(range(first))
        assert said[-1] < first <= said[-1] + 2
