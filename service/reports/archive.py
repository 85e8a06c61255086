"""Everything stored about one video, as one zip: the supervisor writes the rows, the job process packs them."""

from __future__ import annotations

import contextlib
import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from micromodels.types import AnyLabel

if TYPE_CHECKING:
    from collections.abc import Iterable

    from service.domain.jobs import Job
    from service.store import Store

__all__ = ["lay_out", "pack"]

_FOLDER = "archive"


def lay_out(store: Store, job: Job, scratch: Path, alive: Callable[[], None]) -> None:
    """Write all rows about a job's video, and its audit rows, as JSON Lines: one file per table.

    Args:
        store: source of the rows.
        job: the export job.
        scratch: folder of the job.
        alive: called after every row, as a heartbeat.
    """
    folder = scratch / _FOLDER
    folder.mkdir()
    with contextlib.ExitStack() as stack:
        files: dict[str, IO[str]] = {}

        def add(name: str, row: Mapping[str, Any]) -> None:
            if name not in files:
                files[name] = stack.enter_context((folder / f"{name}.jsonl").open("w", encoding="utf-8"))
            files[name].write(json.dumps(row, default=str) + "\n")
            alive()

        for table, row in store.erasure.records(job.project_id, job.video_id):
            add(f"table_{table}", row)
        resource = f"projects/{job.project_id}/videos/{job.video_id}"
        for entry in store.audit.rows(project_id=job.project_id, resource=resource):
            add("audit", asdict(entry))


def pack(scratch: Path, video: Path, labels: Iterable[AnyLabel]) -> Path:
    """Zip the files of ``lay_out``, the labels in native form, and the video.

    Args:
        scratch: as in ``lay_out``.
        video: a file or a folder of frames.
        labels: the current labels.
    """
    from micromodels.labels.files import write_labels

    write_labels(scratch / _FOLDER / "labels.jsonl", labels)
    target = scratch / "archive.zip"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted((scratch / _FOLDER).iterdir()):
            archive.write(path, path.name)
        frames = sorted(path for path in video.rglob("*") if path.is_file()) if video.is_dir() else [video]
        for path in frames:  # pictures and videos do not compress further
            name = path.relative_to(video).as_posix() if video.is_dir() else "source"
            archive.write(path, f"video/{name}", zipfile.ZIP_STORED)
    return target
