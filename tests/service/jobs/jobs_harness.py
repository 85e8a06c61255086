"""A place to run jobs with the scripted library."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from micromodels.types import Box, Label, State
from service.domain.jobs import (
    Effects,
    Job,
    JobKind,
    JobState,
)
from service.domain.videos import (
    VideoRecord,
)
from service.jobs.runner import JobRunner
from service.settings import Settings
from service.store import (
    Store,
)

WAIT_SECONDS = 120.0


def until(what: Callable[[], Any], seconds: float = WAIT_SECONDS) -> Any:
    """Wait for something to become true and return it."""
    limit = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < limit, "it did not happen in time"
        time.sleep(0.02)
    return value


@dataclass
class Bench:
    """A store, a runner whose workers use the fake library, and short ways to use them."""

    store: Store
    settings: Settings
    project_id: str
    runner: JobRunner | None = None

    def start(self, settings: Settings | None = None) -> JobRunner:
        self.runner = JobRunner(self.store, settings or self.settings, preload="fake_library")
        self.runner.start()
        return self.runner

    def upload(self, project_id: str = "", **script: Any) -> VideoRecord:
        """Upload a scripted video."""
        data = json.dumps({"name": time.monotonic_ns(), **script}).encode()  # its own blob, for its own markers
        return self.upload_bytes(data, project_id)

    def upload_bytes(self, data: bytes, project_id: str = "") -> VideoRecord:
        project_id = project_id or self.project_id
        upload = self.store.uploads.begin(project_id, "v.mp4", len(data))
        self.store.uploads.append(project_id, upload.upload_id, 0, data)
        return self.store.uploads.finish(project_id, upload.upload_id)

    def end(self, job_id: str, project_id: str = "") -> Job:
        """Wait until a job has ended."""
        project_id = project_id or self.project_id
        until(lambda: self.store.jobs.get(project_id, job_id).state.is_final)
        return self.store.jobs.get(project_id, job_id)

    def ready(self, project_id: str = "", **script: Any) -> VideoRecord:
        """A scripted video with its frame table, as a probe would have made it, and one seed on frame 0.

        Call it before ``start``.
        """
        video = self.upload(project_id, **script)
        taken = self.store.jobs.lease("test", [JobKind.PROBE])
        assert taken is not None
        table = {"frame_count": script["frames"], "width_px": 100, "height_px": 80, "content_hash": "0" * 64}
        self.store.jobs.commit(taken[0], Effects(frame_table=table, state=JobState.SUCCEEDED))
        seed = Label(0, "1", "thing", State.VISIBLE, Box(1, 1, 2, 2))
        self.store.labels.write(video.project_id, video.video_id, [seed], author="ann")
        return self.store.videos.get(video.project_id, video.video_id)

    def frames(self, video: VideoRecord) -> list[int]:
        """Frames that have a label."""
        return [r.key.frame for r in self.store.labels.stream(video.project_id, video.video_id)]

    def state_events(self, job: Job) -> list[str]:
        """The states that a job went through."""
        events = self.store.jobs.events(job.project_id, job.job_id, limit=10_000)
        return [event.payload["state"] for event in events if event.kind == "state"]


def short(data_dir: Path, **values: Any) -> Settings:
    """Settings with times for tests."""
    defaults: dict[str, Any] = {
        "data_dir": data_dir,
        "min_free_bytes": 0,
        "lease_seconds": 6.0,
        "cancel_grace_seconds": 0.5,
        "job_niceness": 1,
    }
    return Settings(**{**defaults, **values})
