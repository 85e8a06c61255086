"""Between the event loop and everything that blocks: a pool of threads, and news of jobs."""

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
"""Of them at once with work that keeps a processor busy: more would do no more, and hold up the event loop."""
_TURN_SECONDS = 0.001
"""How long a thread that computes keeps the interpreter when others want it. A write gives it up for every row that
SQLite stores, and waits so long to have it back: with Python's own 5 ms writers had little of it beside readers."""
_LOOK_AGAIN_SECONDS = 2.0  # another server may commit to the same database, of which no news comes
_EVENTS_AT_ONCE = 100


class Backend:
    """The store as coroutines use it. Make it in the event loop's thread. From then on the threads of this process take
    shorter turns.

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
        """Call a function that blocks in a thread, which knows the call that it works for."""
        context = contextvars.copy_context()
        work = functools.partial(context.run, functools.partial(function, *args, **kwargs))
        return await self._loop.run_in_executor(self._threads, work)

    async def run_busily(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """``run``, for what computes rather than waits: a few at a time, in the order of asking."""
        async with self._busy:
            return await self.run(function, *args, **kwargs)

    async def events(self, project_id: str, job_id: str, after: int = 0) -> AsyncIterator[JobEvent]:
        """The events of a job from one on, as they come, until it has ended.

        Args:
            project_id: the job's project.
            job_id: which job.
            after: sequence number of the last event that is known already.

        Raises:
            NotFound: there is no such job, or it was deleted.
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
        """The job when it has ended, or as it is after some time.

        Raises:
            NotFound: there is no such job, or it was deleted.
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
        """End everything that waits for news: the server is stopping."""
        self._draining = True
        for waiters in self._waiters.values():
            for waiter in waiters:
                waiter.set()

    def close(self) -> None:
        """Let the threads end."""
        self._stop_listening()
        self._threads.shutdown(wait=True, cancel_futures=True)

    async def _wait_for_commit(self, waiter: asyncio.Event, timeout_seconds: float) -> None:
        try:
            await asyncio.wait_for(waiter.wait(), timeout_seconds)
        except TimeoutError:
            return
        finally:
            if self._draining:
                raise Unavailable("the server is stopping; go on with the resume token when it is back")

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
