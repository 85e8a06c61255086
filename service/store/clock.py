"""The time of day for everything that expires, safe against clocks that jump.

The wall clock is believed at the start, but never when it lies before an instant that is already on record; from then
on the machine's uptime is counted. A wall clock that runs up to a day ahead of this is followed (that is how a clock is
put right); one that jumps further, or back, is not. So a jump neither lets an expired token in again nor, while the
server runs, ends all tokens or the time that videos are kept.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

__all__ = ["SteadyClock"]

_LOG = logging.getLogger(__name__)
_FOLLOWED = timedelta(days=1)


def _uptime_seconds() -> float:
    """Seconds that the machine is up, suspension included where the system counts it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def _wall() -> datetime:
    return datetime.now(UTC)


class SteadyClock:
    """See the module. May be used from any thread.

    Args:
        not_before: the latest instant on record; None if there is none.
        wall: the time of day.
        uptime_seconds: a clock that only runs forward.

    Attributes:
        gap: how far ahead of the record the wall clock was at the start; zero without a record.
    """

    def __init__(
        self,
        not_before: datetime | None = None,
        *,
        wall: Callable[[], datetime] = _wall,
        uptime_seconds: Callable[[], float] = _uptime_seconds,
    ) -> None:
        self._wall = wall
        self._uptime = uptime_seconds
        self._lock = threading.Lock()
        begun = wall()
        self.gap = max(begun - not_before, timedelta()) if not_before is not None else timedelta()
        if not_before is not None and begun < not_before:
            _LOG.warning("the clock is %s behind the newest record; time goes on from the record", not_before - begun)
            begun = not_before
        self._at, self._mark = begun, uptime_seconds()
        self._warned = False

    def now(self) -> datetime:
        """The instant; never earlier than an answer before."""
        with self._lock:
            uptime = self._uptime()
            self._at += timedelta(seconds=max(uptime - self._mark, 0.0))
            self._mark = uptime
            ahead = self._wall() - self._at
            if timedelta() < ahead <= _FOLLOWED:
                self._at += ahead
            elif abs(ahead) > _FOLLOWED and not self._warned:
                self._warned = True
                _LOG.warning("the clock jumped by %s; expiry goes by the machine's uptime until the next start", ahead)
            return self._at
