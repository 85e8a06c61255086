"""Keep every core busy: run single-threaded operations in parallel rather than one operation on all cores.

The networks are small: a training step takes 49 ms on two threads and 55 ms on one, so two cores do nearly twice as
much if one trains while the other encodes. ``narrow_operations`` limits torch to its share of the cores; ``WorkLine``
runs tasks that others wait for.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from types import TracebackType
from typing import TypeVar

import torch

__all__ = ["WorkLine", "mapped", "narrow_operations", "operation_threads", "prefetched", "worker_count"]

MAX_WORKERS = 8
CORES_PER_OPERATION = 4
"""An operation gets one thread for every group of this many cores, at least one."""

S = TypeVar("S")
T = TypeVar("T")


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def operation_threads() -> int:
    """Threads of one operation, such as a convolution."""
    return max(1, _cores() // CORES_PER_OPERATION)


def worker_count() -> int:
    """Number of concurrent operations that use all cores."""
    return max(1, min(MAX_WORKERS, _cores() // operation_threads()))


@contextmanager
def narrow_operations() -> Iterator[None]:
    """Inside, torch uses ``operation_threads()`` threads per operation; start other threads inside too."""
    before = torch.get_num_threads()
    torch.set_num_threads(operation_threads())
    try:
        yield
    finally:
        torch.set_num_threads(before)


def prefetched(items: Iterator[T], depth: int = 2) -> Generator[T, None, None]:
    """The same items in the same order, computed up to ``depth`` ahead in one other thread.

    Errors of ``items`` are raised in place of their item. Closing the generator ends the thread.
    """
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as pool:
        ahead: deque[Future[T | object]] = deque(pool.submit(next, items, end) for _ in range(depth))
        while (item := ahead.popleft().result()) is not end:
            ahead.append(pool.submit(next, items, end))
            yield item  # type: ignore[misc]  # ``end`` is the only object that is no T


def mapped(work: Callable[[S], T], items: Iterator[S]) -> Generator[T, None, None]:
    """``map`` with ``worker_count()`` concurrent calls; results in order of ``items``, which are read in this thread.

    At most twice as many items as workers are read ahead. Errors of ``work`` and of ``items`` are raised in place of
    their result.
    """
    workers = worker_count()
    with ThreadPoolExecutor(workers, thread_name_prefix="mapped") as pool:
        ahead: deque[Future[T]] = deque()
        failure: Exception | None = None
        try:
            while failure is None:
                try:
                    ahead.append(pool.submit(work, next(items)))
                except StopIteration:
                    break
                except Exception as error:
                    failure = error
                if len(ahead) > 2 * workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
            if failure is not None:
                raise failure
        finally:
            for future in ahead:
                future.cancel()


class WorkLine:
    """Runs tasks in order, in background threads and in threads that wait for them.

    The thread that calls ``require`` helps until the tasks it needs are done, so no core is idle. The next ``require``
    raises the error of a failed task.

    Args:
        tasks: read one at a time.
        helpers: number of background threads; 0 leaves all tasks to ``require``.
    """

    def __init__(self, tasks: Iterator[Callable[[], None]], helpers: int) -> None:
        self._tasks = tasks
        self._taking = threading.Lock()
        self._changed = threading.Condition()
        self._taken = 0
        self._unfinished: set[int] = set()
        self._ended = False
        self._error: BaseException | None = None
        self._threads = [threading.Thread(target=self._help, daemon=True) for _ in range(helpers)]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> WorkLine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Skip tasks that have not started; wait for running ones."""
        self._ended = True
        for thread in self._threads:
            thread.join()

    def require(self, count: int) -> None:
        """Return when the first ``count`` tasks are done, or all if fewer.

        Raises:
            Exception: the error of a task.
        """
        while self._error is None and self._taken < count and self._work():
            pass
        with self._changed:
            while self._error is None and any(number < count for number in self._unfinished):
                self._changed.wait()
        if self._error is not None:
            raise self._error

    def _help(self) -> None:
        while self._work():
            pass

    def _work(self) -> bool:
        """Run the next task; False if none is left or one has failed."""
        try:
            with self._taking:
                task = None if self._ended or self._error is not None else next(self._tasks, None)
                if task is None:
                    self._ended = True
                    return False
                number = self._taken
                with self._changed:
                    self._unfinished.add(number)
                    self._taken += 1
            task()
        except BaseException as error:
            with self._changed:
                self._error = self._error or error
                self._changed.notify_all()
            return False
        with self._changed:
            self._unfinished.discard(number)
            self._changed.notify_all()
        return True
