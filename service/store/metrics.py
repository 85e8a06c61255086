"""Prometheus metrics of the store: jobs, audit log, disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from micromodels.errors import MicromodelsError
from service.store import Store
from service.telemetry.metrics import REGISTRY

__all__ = ["watch_store"]


class _StoreCollector(Collector):
    """Reads the store's metrics on demand."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def collect(self) -> Iterator[Metric]:
        """The current metrics; without those of the database while it cannot be reached."""
        disk = GaugeMetricFamily("micromodels_disk_free_bytes", "Free bytes on the disk of the data folder.")
        disk.add_metric([], shutil.disk_usage(self._store.settings.data_dir).free)
        yield disk
        waiting = GaugeMetricFamily("micromodels_audit_waiting_rows", "Audit log rows that are not stored yet.")
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
    """Register the metrics of a store; pass the result to ``REGISTRY.unregister`` when the store closes."""
    collector = _StoreCollector(store)
    REGISTRY.register(collector)
    return collector
