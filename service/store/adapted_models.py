"""Micro-models adapted to a video by learning from corrections, stored so that they outlive the session process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import sqlalchemy as sa

from service.access.calls import audit_detail
from service.domain.models import AdaptedModel, BlobFile
from service.store import schema
from service.store.blobs import Blobs
from service.store.database import Database, now
from service.store.models import materialize
from service.store.videos import video_row

__all__ = ["AdaptedModels"]

_STATES = schema.learned_states
_KEPT = 24
"""Most states per micro-model version and video; ``micromodels.correction.retraining`` compares with older ones."""
_KEPT_OF_ALL = 32
"""Most states per video."""


class AdaptedModels:
    """Adapted models of a store's videos; the newest has the greatest number."""

    def __init__(self, database: Database, blobs: Blobs) -> None:
        self._database = database
        self._blobs = blobs

    def add(
        self, project_id: str, video_id: str, model_version: str, files: Sequence[BlobFile], *, revision: int
    ) -> AdaptedModel:
        """Store the state after one more correction. The oldest are dropped; the next blob sweep deletes their files.

        Args:
            project_id: the video's project.
            video_id: which video.
            model_version: ``model_id@version`` it started from.
            files: files of its folder; they must already be blobs.
            revision: of the newest correction it learned from.

        Raises:
            NotFound: no such video.
        """
        with self._database.begin(write=True) as connection:
            video = video_row(connection, project_id, video_id, lock=True)
            mine = (_STATES.c.video == video.key, _STATES.c.model_version == model_version)
            last = connection.execute(sa.select(sa.func.max(_STATES.c.number)).where(*mine)).scalar() or 0
            values = {"video": video.key, "model_version": model_version, "number": last + 1, "revision": revision}
            values |= {"files": [asdict(file) for file in files], "created_at": now()}
            connection.execute(_STATES.insert().values(**values))
            audit_detail(micro_model=model_version, learned_state=last + 1)
            for which, kept in ((mine, _KEPT), (mine[:1], _KEPT_OF_ALL)):
                old = (
                    sa.select(_STATES.c.key)
                    .where(*which)
                    .order_by(_STATES.c.key.desc())
                    .limit(_KEPT_OF_ALL + 1)
                    .offset(kept)
                )
                doomed = connection.execute(old).scalars().all()
                connection.execute(_STATES.delete().where(_STATES.c.key.in_(doomed)))
        return AdaptedModel(model_version, last + 1, revision, tuple(files))

    def of(self, project_id: str, video_id: str, model_version: str) -> list[AdaptedModel]:
        """The stored states of one version on a video, oldest first.

        Raises:
            NotFound: no such video.
        """
        with self._database.begin() as connection:
            video = video_row(connection, project_id, video_id)
            query = sa.select(_STATES).where(_STATES.c.video == video.key, _STATES.c.model_version == model_version)
            rows = connection.execute(query.order_by(_STATES.c.number)).all()
        return [
            AdaptedModel(row.model_version, row.number, row.revision, tuple(BlobFile(**file) for file in row.files))
            for row in rows
        ]

    def materialize(self, state: AdaptedModel, folder: Path) -> None:
        """Write out the saved folder, for ``load_model``; raises as ``Models.materialize``."""
        materialize(self._blobs, f"{state.model_version}, adapted", state.files, folder)
