"""What becomes of a job when its worker has ended: it ends too, or is given back for another try."""

from __future__ import annotations

import logging

from service.domain.job_specs import spec_from_dict
from service.domain.jobs import JobError, JobState
from service.jobs.commits import Commits
from service.jobs.leased_job import CHANGES_AFTER, LeasedJob
from service.jobs.task_files import device_of
from service.jobs.watchdog import Watchdog
from service.jobs.worker_messages import WorkerMessages
from service.worker.process import WorkerProcess
from service.worker.protocol import MessageType

__all__ = ["conclude"]

_LOG = logging.getLogger(__name__)


def conclude(
    leased: LeasedJob, worker: WorkerProcess, watchdog: Watchdog, messages: WorkerMessages, commits: Commits
) -> None:
    """Store the end of a try.

    Args:
        leased: the job.
        worker: after its ``end``.
        watchdog: of the worker.
        messages: all of the worker's.
        commits: what the messages have brought and is not stored yet.
    """
    commits.progress.add_stage_times(last=True)
    last = messages.last
    kind = MessageType(last["type"]) if last else None
    if kind is MessageType.DONE:
        _warn_of_crowds(leased, commits)
        commits.commit(state=JobState.SUCCEEDED, result=messages.result, frame_table=messages.frame_table)
    elif last is not None and kind is MessageType.ERROR:
        error = JobError(last["reason"], last["message"], last["error_class"])
        if _may_try_again(leased, error):
            commits.commit()
            leased.give_back(error)
        else:
            commits.commit(state=JobState.FAILED, result=messages.result, error=error)
    elif watchdog.was_cancelled:
        commits.commit(state=JobState.CANCELLED, result=messages.result)
    else:
        commits.commit()
        leased.give_back(None if leased.is_server_stopping else _crash(leased, worker, watchdog))


def _warn_of_crowds(leased: LeasedJob, commits: Commits) -> None:
    """Warn where the new labels are more than a class allows: a micro-model's labels are not refused for that."""
    if not commits.frame_count:
        return
    commits.commit()
    job = leased.job
    crowded = leased.patiently(lambda: leased.store.labels.frames_over_limit(job.project_id, job.video_id))
    for name, count in crowded.items():
        message = f"{count} frames have more of {name!r} than max_instances allows; GetDiagnostics shows where"
        commits.progress.add("warned", {"message": message})


def _may_try_again(leased: LeasedJob, error: JobError) -> bool:
    """Whether another try may succeed; a job leaves the GPU only if nobody wanted one."""
    if error.reason == "DEVICE_LOST":
        return device_of(spec_from_dict(leased.job.kind, leased.job.spec), leased.settings) == "auto"
    return error.reason in CHANGES_AFTER


def _crash(leased: LeasedJob, worker: WorkerProcess, watchdog: Watchdog) -> JobError:
    error = watchdog.error or JobError("WORKER_CRASHED", f"the job's process died: {worker.how_it_ended}")
    if error.reason != "OOM" and worker.was_killed_for_memory:
        error = JobError("OOM", "the machine ran out of memory", "OutOfMemory")
    _LOG.warning(
        "the worker of job %s died: %s (%s); the end of its output:\n%s",
        leased.job.job_id,
        error.message,
        worker.how_it_ended,
        worker.last_output(),
    )
    return error
