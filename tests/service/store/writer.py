"""Processes that write until they are killed, saying what was acknowledged."""

from __future__ import annotations

from multiprocessing.connection import Connection

from service.domain.jobs import Effects, Lease
from service.settings import Settings
from service.store import Store
from tests.service.store.helpers import MODEL, box

BATCH = 20


def write_labels(settings: Settings, project_id: str, video_id: str, first: int, pipe: Connection) -> None:
    """Write batch after batch; batch ``n`` has frames 0 to 19 and x = n."""
    with Store.open(settings) as store:
        number = first
        while True:
            labels = [box(frame, x=float(number)) for frame in range(BATCH)]
            store.labels.write(project_id, video_id, labels, author=str(number))
            pipe.send(number)
            number += 1


def upload(settings: Settings, project_id: str, upload_id: str, chunk: bytes, pipe: Connection) -> None:
    """Append the same chunk again and again."""
    with Store.open(settings) as store:
        while True:
            offset = store.uploads.get(project_id, upload_id).offset_bytes
            pipe.send(store.uploads.append(project_id, upload_id, offset, chunk).offset_bytes)


def work(settings: Settings, lease: Lease, first: int, pipe: Connection) -> None:
    """Commit labels with a checkpoint under a lease; commit ``n`` has frame n and next_frame n + 1."""
    with Store.open(settings) as store:
        for number in range(first, 100_000):
            checkpoint = {"next_frame": number + 1}
            store.jobs.commit(lease, Effects(labels=[box(number, provenance=MODEL)], checkpoint=checkpoint))
            pipe.send(number)
