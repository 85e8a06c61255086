"""Passes orders on to the worker of a job, and kills one that ignores them, is silent or takes too much memory."""

from __future__ import annotations

import signal
import time

from service.domain.jobs import JobError, JobKind
from service.jobs.leased_job import LeasedJob
from service.worker.process import WorkerProcess, machine_memory_bytes
from service.worker.protocol import Order

__all__ = ["Watchdog"]

_MEMORY_SHARE = 0.9
"""Of the machine's memory: what a worker may take where the settings do not limit it."""


class Watchdog:
    """Watches the worker of one try.

    Args:
        worker: just started.
        leased: its job.

    Attributes:
        error: why the worker was killed; None if it was not.
    """

    def __init__(self, worker: WorkerProcess, leased: LeasedJob) -> None:
        self.error: JobError | None = None
        self._worker = worker
        self._leased = leased
        self._memory_bytes = leased.settings.job_memory_bytes or int(_MEMORY_SHARE * machine_memory_bytes())
        self._heard = time.monotonic()
        self._cancelled = self._stopped = 0.0

    @property
    def was_cancelled(self) -> bool:
        """Whether the worker was ordered to end because somebody has cancelled the job."""
        return self._cancelled > 0

    def note_message(self) -> None:
        """The worker has sent something: it is not silent."""
        self._heard = time.monotonic()

    def check(self) -> None:
        """Call it a few times a second."""
        if self._leased.orders.finish_early:
            self._worker.send_order(Order.FINISH_EARLY)
        if self._leased.orders.cancel:
            self._cancel()
        if self._leased.is_server_stopping:
            self._stop()
        elif 0 < self._memory_bytes < self._worker.memory_bytes:
            self.error = JobError("OOM", f"the job took more than {self._memory_bytes} bytes of memory", "OutOfMemory")
            self._worker.send_signal(signal.SIGKILL)
        elif self._is_silent:
            self._kill(f"no sign of progress for {self._leased.settings.silence_seconds:g} s")

    @property
    def _is_silent(self) -> bool:
        if self._leased.job.kind is JobKind.PROBE:  # its decoder is watched by the worker, and it reports only its end
            return False
        return time.monotonic() - self._heard > self._leased.settings.silence_seconds

    def _cancel(self) -> None:
        """The worker gets a while to finish its step, then a signal that it can handle, then one that it cannot."""
        now, grace_seconds = time.monotonic(), self._leased.settings.cancel_grace_seconds
        self._cancelled = self._cancelled or now
        self._worker.send_order(Order.CANCEL)
        if now - self._cancelled > 2 * grace_seconds:
            self._worker.send_signal(signal.SIGKILL)
        elif now - self._cancelled > grace_seconds:
            self._worker.send_signal(signal.SIGTERM)

    def _stop(self) -> None:
        """The server stops: the worker gets a while to finish its step and to keep a checkpoint."""
        now = time.monotonic()
        self._stopped = self._stopped or now
        self._worker.send_order(Order.CANCEL)
        if now - self._stopped > self._leased.settings.cancel_grace_seconds:
            self._kill("the server stops")

    def _kill(self, why: str) -> None:
        self.error = self.error or JobError("WORKER_CRASHED", f"the job's process died: {why}")
        self._worker.send_signal(signal.SIGKILL)
