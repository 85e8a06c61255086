"""Prometheus metrics of calls and streams; those of the store are in ``service.store.metrics``."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, start_http_server

from micromodels.errors import FailedPrecondition

__all__ = ["CALLS", "OPEN_STREAMS", "REGISTRY", "SECONDS", "metrics_text", "serve_metrics"]

REGISTRY = CollectorRegistry()
"""All metrics of the service."""

CALLS = Counter("micromodels_calls", "Finished calls, by method and status.", ["method", "code"], registry=REGISTRY)
SECONDS = Histogram(
    "micromodels_call_seconds",
    "Duration of calls; of streams until their end.",
    ["method"],
    buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 60, 600),
    registry=REGISTRY,
)
OPEN_STREAMS = Gauge("micromodels_open_streams", "Open streams.", registry=REGISTRY)


def metrics_text() -> bytes:
    """All metrics in the Prometheus text format."""
    return generate_latest(REGISTRY)


def serve_metrics(port: int) -> None:
    """Serve ``/metrics`` on loopback until the process ends.

    Raises:
        FailedPrecondition: the port is in use.
    """
    try:
        start_http_server(port, addr="127.0.0.1", registry=REGISTRY)
    except OSError as error:
        reason = f"cannot listen on 127.0.0.1 port {port} for metrics ({error.strerror})"
        raise FailedPrecondition(f"{reason}; choose another MICROMODELS_METRICS_PORT") from error
