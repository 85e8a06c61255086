"""The runner with the real library, where no training is needed."""

from __future__ import annotations

import json
from pathlib import Path

from micromodels.types import Box, Label, ObjectClass, Ontology, State
from service.domain.job_specs import ExportSpec
from service.domain.videos import VideoState
from service.jobs.runner import JobRunner
from service.jobs.submit import submit
from service.store import Store
from tests.service.jobs.jobs_harness import short, until


def test_a_real_video_is_probed_and_its_labels_exported(tiny_clip: Path, tmp_path: Path) -> None:
    """The decoder builds the frame table of an upload, and labels leave in both formats."""
    settings = short(tmp_path / "data", lease_seconds=10.0)
    with Store.open(settings) as store:
        runner = JobRunner(store, settings)
        runner.start()
        try:
            project_id = store.projects.create("p", Ontology((ObjectClass("square"),))).project_id
            data = (tiny_clip / "video.mp4").read_bytes()
            upload = store.uploads.begin(project_id, "v.mp4", len(data))
            store.uploads.append(project_id, upload.upload_id, 0, data)
            video_id = store.uploads.finish(project_id, upload.upload_id).video_id
            until(lambda: store.videos.get(project_id, video_id).state is not VideoState.PROBING, 60.0)
            video = store.videos.get(project_id, video_id)
            assert (video.error, video.frame_count, video.width_px, video.height_px) == ("", 24, 128, 96)
            label = Label(3, "1", "square", State.VISIBLE, Box(22, 32, 54, 64))
            store.labels.write(project_id, video_id, [label], author="ann")
            jobs = [submit(store, project_id, ExportSpec(video_id, form)).job_id for form in ("jsonl", "coco")]
            until(lambda: all(store.jobs.get(project_id, job_id).state.is_final for job_id in jobs), 60.0)
            files = []
            for job_id in jobs:
                job = store.jobs.get(project_id, job_id)
                assert job.error is None
                (file,) = job.result["files"]
                files.append(store.blobs.path(file["sha256"]).read_text())
            assert json.loads(files[0])["box"] == [22, 32, 54, 64]
            assert json.loads(files[1])["annotations"][0]["bbox"] == [22, 32, 32, 32]
        finally:
            runner.stop()
