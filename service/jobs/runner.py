"""Leases queued jobs while the settings allow more, and runs a ``Supervisor`` for each in a thread of its own."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import threading
import time
from pathlib import Path

from micromodels.errors import MicromodelsError
from service.access import Call, calling
from service.domain.access import Caller
from service.domain.jobs import Job, JobError, JobKind, Lease
from service.jobs.supervisor import Supervisor
from service.settings import Settings
from service.store import Store, Watch
from service.telemetry.traces import span

__all__ = ["JobRunner", "prune_cache"]

_LOG = logging.getLogger(__name__)
_TICK_SECONDS = 0.5
_TIDY_SECONDS = 3600.0
_HEAVY = frozenset({JobKind.TRAIN, JobKind.PROPAGATE, JobKind.AUTO_LABEL, JobKind.RETRAIN})
_LIGHT = frozenset({JobKind.PROBE, JobKind.EXPORT})


class JobRunner:
    """Runs the jobs of a store until it is stopped.

    At most ``settings.heavy_jobs`` jobs that train or propagate and ``settings.light_jobs`` others run at once; users
    take turns, and so do the projects of one. A server that has its folder to itself takes over at its start what an
    earlier one on it left unfinished; jobs of servers elsewhere, which may use the same database, wait until a lease
    has run out.

    Args:
        store: open; stays open after the runner has stopped.
        settings: bounds and times.
        preload: module that workers import first; empty for none.
    """

    def __init__(self, store: Store, settings: Settings, *, preload: str = "") -> None:
        self._store = store
        self._settings = settings
        self._preload = preload
        self._place = f"{socket.gethostname()}:{settings.data_dir.resolve()}:"
        self._worker = f"{self._place}{os.getpid()}"
        self._watch = Watch(settings.lease_seconds)
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._running: dict[threading.Thread, tuple[JobKind, Lease]] = {}
        self._tidied = -_TIDY_SECONDS
        self._job_ended = True
        self._thread = threading.Thread(target=self._loop, name="job-runner", daemon=True)

    def start(self) -> None:
        """Begin to lease jobs."""
        if self._store.is_exclusive:
            shutil.rmtree(self._settings.data_dir / "scratch", ignore_errors=True)
            for beat in self._store.jobs.held("" if self._store.has_own_database else self._place):
                self._store.jobs.reclaim(beat, JobError("WORKER_CRASHED", "the server stopped without warning"))
        self._thread.start()

    def stop(self) -> None:
        """End all workers, give their jobs back with what they have finished, and return when that is done.

        A worker gets ``settings.cancel_grace_seconds`` to finish its step and to keep a checkpoint.
        """
        self._stopping.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join()
        for thread in list(self._running):
            thread.join()

    def _loop(self) -> None:
        stop_listening = self._store.jobs.listen(lambda job_id: self._wake.set())
        try:
            while not self._stopping.is_set():
                try:
                    self._round()
                except MicromodelsError as error:
                    _LOG.warning("job runner: %s; trying again", error)
                except Exception:
                    _LOG.exception("job runner; trying again")
                self._wake.wait(_TICK_SECONDS)
                self._wake.clear()
        finally:
            stop_listening()

    def _round(self) -> None:
        self._running = {thread: job for thread, job in self._running.items() if thread.is_alive()}
        mine = {(lease.job_id, lease.fence) for _, lease in self._running.values()}
        for beat in self._watch.lapsed(self._store.jobs.held(), time.monotonic()):
            reason = JobError(
                "WORKER_CRASHED", f"its server gave no sign of life for {self._settings.lease_seconds:g} s"
            )
            # A thread of this server is alive, only slow: the disk may be.
            if (beat.job_id, beat.fence) not in mine and self._store.jobs.reclaim(beat, reason):
                _LOG.warning("job %s was taken back: %s", beat.job_id, reason.message)
        self._tidy()
        for kinds, room in ((_HEAVY, self._settings.heavy_jobs), (_LIGHT, self._settings.light_jobs)):
            while self._count(kinds) < room and not self._stopping.is_set():
                taken = self._store.jobs.lease(self._worker, kinds)
                if taken is None:
                    break
                lease, job = taken
                supervisor = Supervisor(self._store, self._settings, lease, job, self._stopping, self._preload)
                thread = threading.Thread(target=self._supervise, args=(supervisor, job), daemon=True)
                self._running[thread] = (job.kind, lease)
                thread.start()

    def _supervise(self, supervisor: Supervisor, job: Job) -> None:
        resource = f"projects/{job.project_id}/videos/{job.video_id}"
        call = Call(Caller(job.author), f"job/{job.kind.value}", job.project_id, resource, audited_if_detail=True)
        about = {"operation": job.job_id, "video": resource}
        with calling(call), span(f"job {job.kind.value}", job.traceparent, **about):
            supervisor.run()  # what it does is audited as its author's
        self._job_ended = True
        self._wake.set()

    def _count(self, kinds: frozenset[JobKind]) -> int:
        return sum(kind in kinds and thread.is_alive() for thread, (kind, _) in self._running.items())

    def _tidy(self) -> None:
        if self._job_ended and not self._count(_HEAVY):  # no worker reads the caches
            self._job_ended = False
            prune_cache(self._settings.data_dir / "cache", self._settings.cache_bytes)
            if not self._count(_LIGHT):
                self._store.blobs.prune(self._settings.cache_bytes)
        if time.monotonic() - self._tidied >= _TIDY_SECONDS:
            self._tidied = time.monotonic()
            self._store.tidy()


def prune_cache(folder: Path, limit_bytes: int) -> None:
    """Delete entries of a folder, the longest unused first, until the rest fits.

    Args:
        folder: each file or folder in it is one entry; it need not exist.
        limit_bytes: bound of the sum of all files.
    """
    if not folder.is_dir():
        return
    entries: dict[Path, tuple[float, int]] = {}
    for entry in folder.iterdir():
        files = [path.stat() for path in (entry, *entry.rglob("*")) if path.is_file()]
        used = max((max(file.st_mtime, file.st_atime) for file in files), default=0.0)
        entries[entry] = (used, sum(file.st_size for file in files))
    total = sum(size for _, size in entries.values())
    for entry, (_, size) in sorted(entries.items(), key=lambda item: item[1][0]):
        if total <= limit_bytes:
            return
        shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink(missing_ok=True)
        total -= size
