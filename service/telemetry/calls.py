"""Log line and metrics of each finished call."""

from __future__ import annotations

import logging

from service.access.calls import Call
from service.telemetry.metrics import CALLS, SECONDS

__all__ = ["call_ended"]

_LOG = logging.getLogger(__name__)


def call_ended(method: str, outcome: str, seconds: float, call: Call | None) -> None:
    """Log and count a finished call.

    Args:
        method: full name, with or without a leading slash.
        outcome: name of the gRPC status.
        seconds: how long it took.
        call: the call; None if it was not admitted.
    """
    method = method.lstrip("/")
    CALLS.labels(method, outcome).inc()
    SECONDS.labels(method).observe(seconds)
    if _LOG.isEnabledFor(logging.INFO):
        extra = {"method": method, "code": outcome, "milliseconds": round(seconds * 1000, 1)}
        if call is not None:
            extra |= {"user": call.caller.name, "resource": call.resource}
        _LOG.info("%s %s in %.1f ms", method, outcome, seconds * 1000, extra=extra)
