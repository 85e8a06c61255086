"""A job that this server holds a lease on: commits, orders that come back from them, and waiting out an outage."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from micromodels.errors import MicromodelsError
from service.domain.errors import ResourceExhausted, Unavailable, disk_errors
from service.domain.jobs import Effects, Job, JobError, JobState, Lease, Orders
from service.settings import Settings
from service.store import Store

__all__ = ["CHANGES_AFTER", "LeasedJob"]

T = TypeVar("T")

_LOG = logging.getLogger(__name__)
_PAUSE_SECONDS = 1.0
_BEAT_SECONDS = 1.0  # also how soon a cancel is noticed

CHANGES_AFTER: Mapping[str, Mapping[str, Any]] = {
    "OOM": {"smaller": True},
    "DEVICE_LOST": {"device": "cpu"},
    "RESOURCE_EXHAUSTED": {},  # the job is leased again when the disk has room
}
"""Errors of a worker after which another try may succeed, by reason, and what is added to its checkpoint."""


class LeasedJob:
    """One try of a job, as the store sees it.

    Every method may raise ``StaleLease``: the job is no longer this server's, and nothing was stored.

    Args:
        store: where the job is.
        settings: the server's.
        lease: the right to the job.
        job: as it was leased.
        stopping: set when the server stops.

    Attributes:
        store: as given.
        settings: as given.
        job: as given; it is not read again.
        orders: the newest, from the last commit.
    """

    def __init__(self, store: Store, settings: Settings, lease: Lease, job: Job, stopping: threading.Event) -> None:
        self.store = store
        self.settings = settings
        self.job = job
        self.orders = Orders()
        self._lease = lease
        self._stopping = stopping
        self._committed = time.monotonic()

    @property
    def is_server_stopping(self) -> bool:
        """Whether the try must end soon, because the server does."""
        return self._stopping.is_set()

    @property
    def beat_seconds(self) -> float:
        """How long the store may be without a sign of life."""
        return min(_BEAT_SECONDS, self.settings.lease_seconds / 3)

    @property
    def seconds_since_commit(self) -> float:
        """Time since the last commit."""
        return time.monotonic() - self._committed

    def begin(self) -> None:
        """Show the first sign of life."""
        self.orders = self.patiently(lambda: self.store.jobs.beat(self._lease))

    def commit(self, effects: Effects) -> None:
        """Store all effects in one transaction; ``Effects()`` is a sign of life alone."""
        beat = self.orders.beat
        self.orders = self.patiently(lambda: self.store.jobs.commit(self._lease, effects, after_beat=beat))
        self._committed = time.monotonic()

    def show_life(self) -> None:
        """Commit nothing if the last commit was long ago."""
        if self.seconds_since_commit > _BEAT_SECONDS:
            self.commit(Effects())

    def give_back(self, error: JobError | None) -> None:
        """Give up this try; the job is queued again, or ends if this was its last try.

        Args:
            error: what went wrong; None if the job is not to blame: then the try does not count.
        """
        if error is not None and error.reason in CHANGES_AFTER:
            self.commit(Effects(checkpoint=CHANGES_AFTER[error.reason]))
        self.patiently(lambda: self.store.jobs.requeue(self._lease, error))

    def patiently(self, act: Callable[[], T]) -> T:
        """Repeat what database, object store or disk cannot do at the moment, for as long as an outage may last.

        Raises:
            ResourceExhausted: the disk stays full; or the server stops, or the job is cancelled meanwhile.
            Unavailable: the same of database and object store.
        """
        limit = time.monotonic() + self.settings.outage_seconds
        while True:
            try:
                with disk_errors():
                    return act()
            except (Unavailable, ResourceExhausted) as error:
                if self.is_server_stopping or time.monotonic() > limit:
                    raise
                _LOG.warning("job %s waits: %s", self.job.job_id, error)
                self._stopping.wait(min(error.retry_after_seconds or _PAUSE_SECONDS, _PAUSE_SECONDS))
                self._look_for_orders()
                if self.orders.cancel:
                    raise

    def _look_for_orders(self) -> None:
        """A job that waits for room on the disk can be cancelled. A beat would need room, too."""
        with contextlib.suppress(Unavailable):
            job = self.store.jobs.get(self.job.project_id, self.job.job_id)
            self.orders = replace(self.orders, cancel=job.state is JobState.CANCELLING)

    @contextlib.contextmanager
    def alive(self) -> Iterator[None]:
        """Show signs of life from another thread while the block is busy with bytes, which may be many."""
        done = threading.Event()

        def beat() -> None:
            while not done.wait(self.beat_seconds):
                with contextlib.suppress(MicromodelsError):  # the next commit meets it too, and deals with it
                    self.orders = self.store.jobs.commit(self._lease, Effects(), after_beat=self.orders.beat)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
