"""How often somebody may try to sign in."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable

from service.domain.errors import ResourceExhausted

__all__ = ["LoginLimiter"]


class LoginLimiter:
    """Bounds failed attempts: per address and in all. Use it in one thread.

    Args:
        per_address: failures that one address may have in the window.
        in_all: failures that all addresses together may have in it.
        window_seconds: how long a failure counts.
        clock: seconds that only grow.
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
        """Refuse an attempt of an address that has failed too often.

        Raises:
            ResourceExhausted: with the time after which another attempt is worth it.
        """
        for failures, most in ((self._of(address), self._per_address), (self._recent(self._all), self._in_all)):
            if len(failures) >= most:
                wait = failures[0] + self._window - self._clock()
                raise ResourceExhausted("too many attempts to sign in failed; wait before the next", max(wait, 1.0))

    def failed(self, address: str) -> None:
        """An attempt of an address has failed."""
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
