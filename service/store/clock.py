"""The time of day for everything that expires, robust against clock jumps.

At the start the wall clock is used, unless it is earlier than the newest recorded time; from then on the machine's
uptime is added. If the wall clock runs ahead of that by up to a day it is followed, since that is how clocks are
corrected; larger jumps, and jumps back, are ignored. So a jump neither revives an expired token nor, while the server
runs, expires all tokens or deletes all videos.
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
    """Uptime of the machine in seconds, including suspension if the system counts it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def _wall() -> datetime:
    return datetime.now(UTC)


class SteadyClock:
    """See the module. May be used from any thread.

    Args:
        not_before: the newest recorded time; None for an empty record.
        wall: the time of day.
        uptime_seconds: a monotonic clock.
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
        if not_before is not None and begun < not_before:
            _LOG.warning("the clock is %s behind the newest record; using the record's time", not_before - begun)
            begun = not_before
        self._at, self._mark = begun, uptime_seconds()
        self._warned = False

    @property
    def disagrees(self) -> bool:
        """Whether the wall clock is more than a day from this one: nothing should be deleted for its age then."""
        return abs(self._wall() - self.now()) > _FOLLOWED

    def now(self) -> datetime:
        """The current time; never earlier than a previous answer."""
        with self._lock:
            uptime = self._uptime()
            self._at += timedelta(seconds=max(uptime - self._mark, 0.0))
            self._mark = uptime
            ahead = self._wall() - self._at
            if timedelta() < ahead <= _FOLLOWED:
                self._at += ahead
            elif abs(ahead) > _FOLLOWED and not self._warned:
                self._warned = True
                _LOG.warning("the clock jumped by %s; expiry follows the machine's uptime until the next start", ahead)
            return self._at
