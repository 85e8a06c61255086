"""Limits on failed attempts to sign in."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable

from service.domain.errors import ResourceExhausted

__all__ = ["LoginLimiter"]


class LoginLimiter:
    """Limits failed attempts, per address and in total. Use it in one thread.

    Args:
        per_address: allowed failures of one address in the window.
        in_all: allowed failures of all addresses together.
        window_seconds: how long a failure counts.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        per_address: int = 10,
        in_all: int = 200,
        window_seconds: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._per_address, self._in_all, self._window, self._clock = per_address, in_all, window_seconds, clock
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()
        self._all: deque[float] = deque()

    def check(self, address: str) -> None:
        """Refuse an attempt from an address that has failed too often.

        Raises:
            ResourceExhausted: with the time to wait before the next attempt.
        """
        for failures, most in ((self._of(address), self._per_address), (self._recent(self._all), self._in_all)):
            if len(failures) >= most:
                wait = failures[0] + self._window - self._clock()
                raise ResourceExhausted("too many failed sign-ins; wait before you try again", max(wait, 1.0))

    def failed(self, address: str) -> None:
        """Count a failed attempt from an address."""
        moment = self._clock()
        self._of(address).append(moment)
        self._all.append(moment)
        while len(self._failures) > 10 * self._in_all:  # those of long ago
            self._failures.popitem(last=False)

    def _of(self, address: str) -> deque[float]:
        found = self._failures.setdefault(address, deque())
        self._failures.move_to_end(address)
        return self._recent(found)

    def _recent(self, failures: deque[float]) -> deque[float]:
        while failures and self._clock() - failures[0] > self._window:
            failures.popleft()
        return failures
