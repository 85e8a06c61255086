"""Metrics for Prometheus: calls and streams; what the store knows is in ``service.store.metrics``."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, start_http_server

from micromodels.errors import FailedPrecondition

__all__ = ["CALLS", "OPEN_STREAMS", "REGISTRY", "SECONDS", "metrics_text", "serve_metrics"]

REGISTRY = CollectorRegistry()
"""Everything that is measured here."""

CALLS = Counter("micromodels_calls", "Calls that ended, by method and status.", ["method", "code"], registry=REGISTRY)
SECONDS = Histogram(
    "micromodels_call_seconds",
    "Time that calls took, streams until their end.",
    ["method"],
    buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 60, 600),
    registry=REGISTRY,
)
OPEN_STREAMS = Gauge("micromodels_open_streams", "Streams that are being answered.", registry=REGISTRY)


def metrics_text() -> bytes:
    """All metrics in the text format of Prometheus."""
    return generate_latest(REGISTRY)


def serve_metrics(port: int) -> None:
    """Answer ``/metrics`` on loopback, for as long as the process runs.

    Raises:
        FailedPrecondition: the port is taken.
    """
    try:
        start_http_server(port, addr="127.0.0.1", registry=REGISTRY)
    except OSError as error:
        raise FailedPrecondition(f"cannot listen on 127.0.0.1 port {port} for metrics: is it taken?") from error
