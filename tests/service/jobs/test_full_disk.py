"""Jobs that meet a full disk."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from pathlib import Path

import pytest

from micromodels.types import AnyLabel
from service.domain.job_specs import TrainSpec
from service.domain.jobs import JobState
from service.jobs import task_files
from service.jobs.submit import submit
from service.worker.protocol import write_labels
from tests.service.jobs.jobs_harness import Bench


@pytest.mark.parametrize(("times", "state", "tries"), [(1, "succeeded", 2), (9, "failed", 3)])
def test_f57_a_job_that_finds_the_disk_full_is_tried_again(bench: Bench, times: int, state: str, tries: int) -> None:
    """There may be room the next time; where there never is, the job says so."""
    video = bench.ready(frames=3, no_room=times)
    bench.start()
    job = bench.end(submit(bench.store, bench.project_id, TrainSpec(video.video_id)).job_id)
    assert (job.state.value, job.tries) == (state, tries)
    assert (job.error and (job.error.reason, job.error.error_class)) == (
        ("RESOURCE_EXHAUSTED", "ResourceExhausted") if state == "failed" else None
    )


def test_f57_a_job_that_cannot_be_laid_out_waits(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full before the job has begun is no fault of it, and no try."""
    times = iter(range(2))

    def full(path: Path, labels: Iterable[AnyLabel]) -> None:
        if next(times, None) is not None:
            raise OSError(errno.ENOSPC, "No space left on device")
        write_labels(path, labels)

    monkeypatch.setattr(task_files, "write_labels", full)
    video = bench.ready(frames=3)
    bench.start()
    job = bench.end(submit(bench.store, bench.project_id, TrainSpec(video.video_id)).job_id)
    assert (job.state, job.tries, next(times, None)) == (JobState.SUCCEEDED, 1, None)
