"""Short ways to fill a store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from micromodels.types import (
    AnyLabel,
    Box,
    FrameClass,
    FrameLabel,
    Label,
    ObjectClass,
    Ontology,
    Provenance,
    ProvenanceKind,
    ShapeKind,
    State,
)
from service.domain.jobs import (
    Effects,
    JobKind,
    JobState,
)
from service.domain.videos import (
    VideoRecord,
)
from service.settings import Settings
from service.store import (
    Store,
)

ONTOLOGY = Ontology(
    (ObjectClass("cell", shapes=frozenset({ShapeKind.BOX})), ObjectClass("polyp")), (FrameClass("tool"),)
)
MODEL = Provenance(ProvenanceKind.MODEL, "m@1")
TABLE = {"frame_count": 100, "width_px": 64, "height_px": 48, "content_hash": "a" * 64}


def settings_in(folder: Path, **values: Any) -> Settings:
    """Settings that do not depend on the free space of this machine."""
    return Settings(data_dir=folder, min_free_bytes=0, **values)


def ready_video(store: Store, project_id: str, frames: int = 100) -> VideoRecord:
    """A video with a frame table."""
    upload = store.uploads.begin(project_id, "v.mp4", 4)
    store.uploads.append(project_id, upload.upload_id, 0, b"data")
    video = store.uploads.finish(project_id, upload.upload_id)
    lease = None
    while lease is None or lease[1].job_id != video.probe_job_id:  # jobs of other tests may lie before it
        lease = store.jobs.lease("probe", [JobKind.PROBE])
        assert lease is not None
    store.jobs.commit(lease[0], Effects(frame_table={**TABLE, "frame_count": frames}, state=JobState.SUCCEEDED))
    return store.videos.get(project_id, video.video_id)


def box(frame: int, track: str = "1", x: float = 0.0, provenance: Provenance | None = None) -> Label:
    """A box, human unless a provenance is given."""
    human = Provenance(ProvenanceKind.HUMAN)
    return Label(frame, track, "polyp", State.VISIBLE, Box(x, 0, x + 9, 9), None, provenance or human)


def tool(frame: int, present: bool = True) -> FrameLabel:
    """A frame label."""
    return FrameLabel(frame, "tool", present)


def labels_of(store: Store, video: VideoRecord, **selection: Any) -> list[AnyLabel | None]:
    """The current labels."""
    return [record.label for record in store.labels.stream(video.project_id, video.video_id, **selection)]
