"""One job from lease to end: lays out its task, starts a worker on it, stores what that sends, concludes."""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading

from micromodels.errors import FailedPrecondition, InvalidInput, MicromodelsError
from service.domain.errors import NotFound, ResourceExhausted, StaleLease, Unavailable
from service.domain.jobs import Effects, Job, JobError, JobState, Lease
from service.jobs.commits import Commits
from service.jobs.ending import conclude
from service.jobs.leased_job import LeasedJob
from service.jobs.task_files import checkpoint_folder, lay_out_job
from service.jobs.watchdog import Watchdog
from service.jobs.worker_messages import WorkerMessages
from service.settings import Settings
from service.store import Store
from service.worker.process import WorkerProcess

__all__ = ["Supervisor"]

_LOG = logging.getLogger(__name__)
_READ_SECONDS = 0.25
"""How long to wait for messages before orders and worker are looked at again."""


class Supervisor:
    """Does one leased job, in the thread that calls ``run``.

    Args:
        store: where the job is.
        settings: the server's.
        lease: the right to the job.
        job: as it was leased.
        stopping: set when the server stops: the job is given back.
        preload: module for the worker to import first; empty for none.
    """

    def __init__(
        self, store: Store, settings: Settings, lease: Lease, job: Job, stopping: threading.Event, preload: str = ""
    ) -> None:
        self._leased = LeasedJob(store, settings, lease, job, stopping)
        self._scratch = settings.data_dir.resolve() / "scratch" / f"{job.job_id}-{lease.fence}"
        self._preload = preload

    def run(self) -> None:
        """Do the job to its end, whatever that is; raises nothing."""
        job_id = self._leased.job.job_id
        try:
            try:
                self._do()
            except StaleLease as error:
                _LOG.warning("job %s was leased again meanwhile; this try is dropped: %s", job_id, error)
            except (NotFound, FailedPrecondition, InvalidInput) as error:  # would be the same the next time
                reason = JobError("FAILED_PRECONDITION", str(error), type(error).__name__)
                self._leased.commit(Effects(state=JobState.FAILED, error=reason))
            except (Unavailable, ResourceExhausted) as error:  # not the job's fault, and so no try
                _LOG.warning("job %s is given back: %s", job_id, error)
                self._leased.give_back(None)
            except MicromodelsError as error:
                self._leased.give_back(JobError("STORAGE_FAILURE", str(error), type(error).__name__))
            except Exception as error:
                _LOG.exception("job %s", job_id)
                self._leased.give_back(JobError("INTERNAL", f"{type(error).__name__}: {error}"))
        except MicromodelsError as error:  # not even the failure can be stored: the lease runs out
            _LOG.error("job %s cannot be ended: %s", job_id, error)
        finally:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._forget_checkpoints()

    def _do(self) -> None:
        leased, settings = self._leased, self._leased.settings
        leased.begin()
        with leased.alive():
            job_task = leased.patiently(
                lambda: lay_out_job(leased.store, settings, leased.job, self._scratch, leased.show_life)
            )
        leased.commit(Effects(state=JobState.RUNNING))
        commits = Commits(leased, job_task.base_revision)
        messages = WorkerMessages(leased, job_task, commits)
        worker = leased.patiently(
            lambda: WorkerProcess(job_task.task, preload=self._preload, trace_file=settings.trace_file)
        )
        watchdog = Watchdog(worker, leased)
        try:
            while not worker.has_closed:
                for message in worker.messages(_READ_SECONDS):
                    watchdog.note_message()
                    messages.take(message)
                if commits.is_due:
                    commits.commit()
                watchdog.check()
            worker.await_exit()
        finally:
            worker.end()
        conclude(leased, worker, watchdog, messages, commits)

    def _forget_checkpoints(self) -> None:
        """Checkpoints of a training are for later tries only."""
        store, job = self._leased.store, self._leased.job
        with contextlib.suppress(MicromodelsError):
            if store.jobs.get(job.project_id, job.job_id).state.is_final:
                shutil.rmtree(checkpoint_folder(store, self._leased.settings, job), ignore_errors=True)
