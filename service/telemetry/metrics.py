"""Metrics for Prometheus: calls, streams, jobs, audit and disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from micromodels.errors import FailedPrecondition, MicromodelsError

if TYPE_CHECKING:
    from service.store import Store

__all__ = ["CALLS", "OPEN_STREAMS", "REGISTRY", "SECONDS", "metrics_text", "serve_metrics", "watch_store"]

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


class _StoreCollector(Collector):
    """What the store knows, read when it is asked for."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def collect(self) -> Iterator[Metric]:
        """The metrics as they are now; without those of the database while it cannot be reached."""
        disk = GaugeMetricFamily("micromodels_disk_free_bytes", "Free on the disk of the data folder.")
        disk.add_metric([], shutil.disk_usage(self._store.settings.data_dir).free)
        yield disk
        waiting = GaugeMetricFamily("micromodels_audit_waiting_rows", "Rows of the audit that are not stored yet.")
        waiting.add_metric([], self._store.audit.waiting)
        yield waiting
        try:
            counts = self._store.jobs.counts()
        except MicromodelsError:
            return
        jobs = GaugeMetricFamily("micromodels_jobs", "Jobs by kind and state.", labels=["kind", "state"])
        for (kind, state), count in sorted(counts.items()):
            jobs.add_metric([kind, state], count)
        yield jobs


def watch_store(store: Store) -> Collector:
    """Measure a store too; give the result to ``REGISTRY.unregister`` when it closes."""
    collector = _StoreCollector(store)
    REGISTRY.register(collector)
    return collector


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
