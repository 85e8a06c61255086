"""Prefetching: the same items, made ahead in one thread that ends when it should."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator

import pytest

from micromodels.prefetch import prefetched


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
    assert all(made.acquire(timeout=10) for _ in range(4))
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
