"""Bridge between the event loop and blocking code: a thread pool, and notifications about jobs."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeAlias, TypeVar

import grpc.aio

from service.domain.errors import Unavailable
from service.domain.jobs import Job, JobEvent
from service.store import Store

__all__ = ["Backend", "Context"]

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
P = ParamSpec("P")
T = TypeVar("T")

_THREADS = 16
_BUSY = 2
"""Threads that may compute at the same time; more would not be faster and would block the event loop."""
_TURN_SECONDS = 0.001
"""How long a computing thread keeps the interpreter lock while others wait. A write releases it for every row that
SQLite stores and waits this long to get it back: with Python's default of 5 ms, readers starved writers."""
_LOOK_AGAIN_SECONDS = 2.0  # poll as well: commits by another server on the same database send no notification
_EVENTS_AT_ONCE = 100


class Backend:
    """The store for coroutines. Create it in the event loop's thread. It shortens the thread switch interval of the
    process.

    Args:
        store: open; its calls block.

    Attributes:
        store: the same, for ``run``.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="api")
        self._loop = asyncio.get_running_loop()
        self._busy = asyncio.Semaphore(_BUSY)
        sys.setswitchinterval(_TURN_SECONDS)
        self._waiters: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._draining = False
        self._stop_listening = store.jobs.listen(self._on_commit)

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a blocking function in a thread, with the current call as its context."""
        context = contextvars.copy_context()
        work = functools.partial(context.run, functools.partial(function, *args, **kwargs))
        return await self._loop.run_in_executor(self._threads, work)

    async def run_busily(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """``run`` for functions that compute rather than wait: a few at a time, in order of request."""
        async with self._busy:
            return await self.run(function, *args, **kwargs)

    async def events(self, project_id: str, job_id: str, after: int = 0) -> AsyncIterator[JobEvent]:
        """Events of a job after a given one, as they arrive, until the job ends.

        Args:
            project_id: the job's project.
            job_id: which job.
            after: sequence number of the last known event.

        Raises:
            NotFound: no such job, or it was deleted.
            Unavailable: the server is stopping.
        """
        jobs = self.store.jobs
        with self._waiter(job_id) as waiter:
            while True:
                waiter.clear()
                job = await self.run(jobs.get, project_id, job_id)
                events = await self.run(jobs.events, project_id, job_id, after=after, limit=_EVENTS_AT_ONCE)
                for event in events:
                    yield event
                    after = event.sequence
                if not events:
                    if job.state.is_final:
                        return
                    await self._wait_for_commit(waiter, _LOOK_AGAIN_SECONDS)

    async def wait(self, project_id: str, job_id: str, timeout_seconds: float) -> Job:
        """The job once it has ended, or its state after the timeout.

        Raises:
            NotFound: no such job, or it was deleted.
            Unavailable: the server is stopping.
        """
        deadline = self._loop.time() + timeout_seconds
        with self._waiter(job_id) as waiter:
            while True:
                waiter.clear()
                job = await self.run(self.store.jobs.get, project_id, job_id)
                left = deadline - self._loop.time()
                if job.state.is_final or left <= 0:
                    return job
                await self._wait_for_commit(waiter, min(left, _LOOK_AGAIN_SECONDS))

    def drain(self) -> None:
        """Wake and end all waiting calls, because the server is stopping."""
        self._draining = True
        for waiters in self._waiters.values():
            for waiter in waiters:
                waiter.set()

    def close(self) -> None:
        """Shut down the threads."""
        self._stop_listening()
        self._threads.shutdown(wait=True, cancel_futures=True)

    async def _wait_for_commit(self, waiter: asyncio.Event, timeout_seconds: float) -> None:
        try:
            await asyncio.wait_for(waiter.wait(), timeout_seconds)
        except TimeoutError:
            return
        finally:
            if self._draining:
                raise Unavailable("the server is stopping; continue with the resume token when it is back")

    @contextmanager
    def _waiter(self, job_id: str) -> Iterator[asyncio.Event]:
        waiter = asyncio.Event()
        self._waiters[job_id].add(waiter)
        try:
            yield waiter
        finally:
            self._waiters[job_id].discard(waiter)
            if not self._waiters[job_id]:
                del self._waiters[job_id]

    def _on_commit(self, job_id: str) -> None:
        try:  # in the thread that committed
            self._loop.call_soon_threadsafe(self._wake, job_id)
        except RuntimeError:  # the loop has ended
            return

    def _wake(self, job_id: str) -> None:
        for waiter in self._waiters.get(job_id, ()):
            waiter.set()
