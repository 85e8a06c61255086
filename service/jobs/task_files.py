"""What a micro-model has learned from corrections, laid out for a child process to go on with."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from service.domain.errors import NotFound
from service.domain.jobs import Job, JobKind
from service.domain.models import provenance_version
from service.worker.protocol import write_labels, write_settled

if TYPE_CHECKING:
    from service.store import Store

__all__ = ["lay_out_labels", "lay_out_learned", "learned_before"]

_LOG = logging.getLogger(__name__)


def lay_out_learned(
    store: Store, ids: tuple[str, str], model_version: str, scratch: Path, newest: int = 0
) -> list[str]:
    """Write out what a version has learned on a video; returns the folders, the oldest state first.

    Args:
        store: where it is kept.
        ids: of project and video.
        model_version: as labels name it.
        scratch: where to.
        newest: how many states at most; 0 for all.
    """
    folders = []
    for state in store.adapted_models.of(*ids, model_version)[-newest:]:
        folder = scratch / f"learned-{state.number}"
        try:
            store.adapted_models.materialize(state, folder)
        except NotFound:  # its files are lost: what was before it is used
            _LOG.warning("state %d of %s has no files", state.number, model_version)
        else:
            folders.append(str(folder))
    return folders


def learned_before(store: Store, job: Job, scratch: Path) -> list[str]:
    """Write out what the model of a retraining had learned, if no earlier try has replaced it; returns the folders."""
    if job.kind is not JobKind.RETRAIN or "model_id" in job.checkpoint:
        return []
    name = provenance_version(job.spec["model_id"], job.spec["version"])
    return lay_out_learned(store, (job.project_id, job.video_id), name, scratch)


def lay_out_labels(store: Store, ids: tuple[str, str], labels: Path, settled: Path) -> int:
    """Write out all labels of a video, and which of them people have settled; returns their revision."""
    records, revision = store.history.labels_since(*ids, 0)
    write_labels(labels, (record.label for record in records if record.label is not None))
    write_settled(settled, (record.key for record in records if record.is_settled))
    return revision
