"""Work on several threads: the same results in the same order, and threads that end when they should."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from functools import partial

import pytest
import torch

from micromodels.runtime.parallel import WorkLine, mapped, narrow_operations, operation_threads, prefetched


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 3, 20])
def test_items_come_in_their_order(count: int, depth: int) -> None:
    """However far ahead they are made, all items come once and in order, also None."""
    assert list(prefetched(iter(range(count)), depth)) == list(range(count))
    assert list(prefetched(iter([None] * count), depth)) == [None] * count


def test_items_are_made_ahead_in_one_other_thread() -> None:
    """While an item is worked on the next ``depth`` are made, no more, and never in the caller's thread."""
    made = threading.Semaphore(0)
    makers: list[threading.Thread] = []

    def items() -> Iterator[int]:
        for index in range(10):
            makers.append(threading.current_thread())
            made.release()
            yield index

    ahead = prefetched(items(), depth=3)
    assert makers == []
    assert next(ahead) == 0
    assert all(made.acquire(timeout=60) for _ in range(4))
    assert not made.acquire(timeout=0.05)
    assert list(ahead) == list(range(1, 10))
    assert len(set(makers)) == 1
    assert makers[0] is not threading.current_thread()


@pytest.mark.parametrize("depth", [1, 4])
def test_an_error_comes_out_in_its_place(depth: int) -> None:
    """Items before the error come first, then the error itself, and the thread has ended."""
    error = ValueError("broken")

    def items() -> Iterator[int]:
        yield from range(3)
        raise error

    before = set(threading.enumerate())
    ahead = prefetched(items(), depth)
    assert [next(ahead) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="broken") as raised:
        next(ahead)
    assert raised.value is error
    assert set(threading.enumerate()) <= before


def test_closing_early_ends_the_thread() -> None:
    """A caller that stops in the middle of items without end leaves no thread behind."""
    before = set(threading.enumerate())
    ahead = prefetched(itertools.count())
    assert next(ahead) == 0
    assert set(threading.enumerate()) - before
    ahead.close()
    assert set(threading.enumerate()) <= before


def test_work_of_many_threads_comes_back_in_order() -> None:
    """Results keep the order of the items, which are read only a little ahead."""
    read = []

    def items() -> Iterator[int]:
        for number in range(200):
            read.append(number)
            yield number

    results = mapped(lambda number: (number * number, len(read)), items())
    for number, (square, seen) in enumerate(results):
        assert square == number * number
        assert seen <= number + 2 * 8 + 3


def test_an_error_of_one_thread_comes_out_where_its_result_would_have() -> None:
    """What came before it is delivered."""
    results = mapped(lambda number: 10 // (3 - number), iter(range(8)))
    assert [next(results) for _ in range(3)] == [3, 5, 10]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_an_error_of_the_items_comes_out_behind_what_was_read() -> None:
    """Also where that is still being worked on."""

    def items() -> Iterator[int]:
        yield from range(3)
        raise KeyError("the fourth")

    results = mapped(lambda number: number, items())
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(KeyError):
        next(results)


@pytest.mark.parametrize("helpers", [0, 1, 3])
def test_whoever_requires_tasks_gets_them_done(helpers: int) -> None:
    """The first tasks are done on return, each once, with or without threads in the background."""
    done: list[int] = []
    with WorkLine((partial(done.append, number) for number in range(20)), helpers) as line:
        line.require(7)
        assert set(range(7)) <= set(done)
        line.require(50)
        assert sorted(done) == list(range(20))


@pytest.mark.parametrize("helpers", [0, 2])
def test_a_failed_task_is_told_to_whoever_requires(helpers: int) -> None:
    """Nobody waits for ever, and the error is the task's own."""

    def fail() -> None:
        raise KeyError("task 3")

    tasks = [list, list, list, fail, list]
    with WorkLine(iter(tasks), helpers) as line, pytest.raises(KeyError, match="task 3"):
        line.require(5)


def test_leaving_a_line_drops_what_has_not_begun() -> None:
    """Background threads are gone afterwards."""
    before = threading.active_count()
    with WorkLine((list for _ in itertools.count()), 2) as line:
        line.require(3)
    assert threading.active_count() == before


def test_narrow_operations_end_with_the_block() -> None:
    """torch has its threads back, also after an error."""
    before = torch.get_num_threads()

    def fail_within() -> None:
        with narrow_operations():
            assert torch.get_num_threads() == operation_threads()
            raise KeyError

    with pytest.raises(KeyError):
        fail_within()
    assert torch.get_num_threads() == before
