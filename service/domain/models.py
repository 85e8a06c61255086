"""Micro-models as the service stores them: versions, files, lineage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

__all__ = ["AdaptedModel", "BlobFile", "ModelVersion", "NewModel", "provenance_version"]


@dataclass(frozen=True, slots=True)
class BlobFile:
    """A named file whose bytes are the blob ``sha256``."""

    name: str
    sha256: str
    size_bytes: int


def provenance_version(model_id: str, version: int) -> str:
    """The version of a micro-model in a label's provenance: ``model_id@version``."""
    return f"{model_id}@{version}"


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One version of a micro-model. Versions of a model count from 1.

    ``parent_version`` is the version that a retraining replaced; 0 for one that was trained from nothing.
    """

    project_id: str
    model_id: str
    version: int
    display_name: str
    parent_version: int
    recipe: str
    metrics: Mapping[str, Any]
    manifest: Mapping[str, Any] = field(repr=False)
    label_revisions: Mapping[str, int]
    """By video id, the revision of its labels that training used."""
    files: tuple[BlobFile, ...]
    """Files of the saved folder; ``store.models.materialize`` writes them out."""
    job_id: str
    created_at: datetime

    @property
    def provenance_version(self) -> str:
        """The version as labels name it."""
        return provenance_version(self.model_id, self.version)


@dataclass(frozen=True, slots=True)
class AdaptedModel:
    """A micro-model version adapted to a video by learning from corrections."""

    model_version: str
    """The version it started from, as labels name it."""
    number: int
    """How many corrections it has learned from, at least 1."""
    revision: int
    """Revision of the newest of them."""
    files: tuple[BlobFile, ...]
    """Files of the saved folder; ``store.adapted_models.materialize`` writes them out."""


@dataclass(frozen=True, slots=True)
class NewModel:
    """A trained model to record; ``model_id`` is empty for a new one. Its files must already be blobs."""

    model_id: str
    display_name: str
    parent_version: int
    recipe: str
    metrics: Mapping[str, Any]
    manifest: Mapping[str, Any]
    label_revisions: Mapping[str, int]
    files: tuple[BlobFile, ...]
