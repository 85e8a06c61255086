"""Parameters of each kind of job: typed, validated, stored as JSON with the job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from micromodels.encoding.encoders import encoders
from micromodels.errors import InvalidInput
from micromodels.labels.formats import LabelFormat, label_formats
from micromodels.recipes.base import AUTO, TrainSettings
from service.domain.jobs import JobKind

__all__ = [
    "ARCHIVE",
    "REVIEW_REPORT",
    "AutoLabelSpec",
    "ExportSpec",
    "JobSpec",
    "ProbeSpec",
    "PropagateSpec",
    "RetrainSpec",
    "TrainSpec",
    "export_formats",
    "spec_from_dict",
]

DEVICES = ("", "auto", "cpu", "cuda")
ARCHIVE, REVIEW_REPORT = "archive", "review_report"
"""Exports that are no format of labels: everything about the video, and who did what."""
_MAX_NUMBER = 2**31 - 1


def _one_of(field: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InvalidInput(field, value, ", ".join(repr(word) for word in allowed))


def _between(field: str, value: int, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidInput(field, value, f"an integer from {low} to {high}")


@dataclass(frozen=True, slots=True)
class ProbeSpec:
    """Decode a video once and keep its frame table. The store queues it with every new video."""

    kind: ClassVar[JobKind] = JobKind.PROBE
    video_id: str


@dataclass(frozen=True, slots=True)
class TrainSpec:
    """Train a micro-model on the video's human labels, as they are when the job starts.

    What is allowed of the first five, and for which recipe, says ``micromodels.recipes.base.TrainSettings``.
    """

    kind: ClassVar[JobKind] = JobKind.TRAIN
    video_id: str
    recipe: str = AUTO
    """``auto`` or the name of a recipe."""
    experiments: int = 1
    """How many variants of the recipe to try; the best is kept."""
    seed: int = 0
    """Seed of the random numbers."""
    effort: float = 1.0
    """Factor on the amount of training; below 1 is faster and less accurate."""
    device: str = ""
    """``auto``, ``cpu`` or ``cuda``; empty for the server's setting."""
    model_id: str = ""
    """Id of the model that gets a new version; empty for a new model."""
    display_name: str = ""
    """Display name of the model."""
    encoder: str = AUTO
    """``auto`` or names of encoders joined by ``+``, without files of weights: those would be files of the server."""

    def __post_init__(self) -> None:
        if "@" in self.encoder:
            names = ", ".join(info.name for info in encoders() if info.is_plain)
            raise InvalidInput("encoder", self.encoder, f"{AUTO}, or some of {names} joined by +")
        _one_of("device", self.device, DEVICES)
        _ = self.settings

    @property
    def settings(self) -> TrainSettings:
        """For the library.

        Raises:
            InvalidInput: a value that is not allowed.
        """
        return TrainSettings(self.recipe, self.experiments, self.seed, self.encoder, self.effort)


@dataclass(frozen=True, slots=True)
class AutoLabelSpec(TrainSpec):
    """Train, then label every frame with the new model."""

    kind: ClassVar[JobKind] = JobKind.AUTO_LABEL


@dataclass(frozen=True, slots=True)
class RetrainSpec(TrainSpec):
    """Retrain, compare with an existing version on held-out labels, and replace it if the new one is better."""

    kind: ClassVar[JobKind] = JobKind.RETRAIN
    version: int = 0
    """Version of ``model_id`` to compare with; 0 with an empty ``model_id`` for the one trained last on the video."""
    revision: int = 0
    """Revision of the video's labels when the job was submitted."""
    automatic: bool = False
    """Whether the server started it by itself; such a job is cancelled when its video is deleted."""


@dataclass(frozen=True, slots=True)
class PropagateSpec:
    """Label frames with a saved model; the video's human labels, if any, are its anchors."""

    kind: ClassVar[JobKind] = JobKind.PROPAGATE
    video_id: str
    model_id: str
    version: int = 0
    """Version of the model; 0 for the newest at submission."""
    start_frame: int = 0
    stop_frame: int = 0
    """One past the last frame to label; 0 for the end of the video."""
    device: str = ""
    """``auto``, ``cpu`` or ``cuda``; empty for the server's setting."""

    def __post_init__(self) -> None:
        _one_of("device", self.device, DEVICES)
        _between("version", self.version, 0, _MAX_NUMBER)
        _between("start_frame", self.start_frame, 0, _MAX_NUMBER)
        _between("stop_frame", self.stop_frame, 0, _MAX_NUMBER)
        if self.stop_frame and self.stop_frame <= self.start_frame:
            raise InvalidInput("stop_frame", self.stop_frame, f"0, or more than start_frame ({self.start_frame})")


@dataclass(frozen=True, slots=True)
class ExportSpec:
    """Write the video's labels to a file."""

    kind: ClassVar[JobKind] = JobKind.EXPORT
    video_id: str
    format: str = "jsonl"
    """Name of a label format that can be written, `ARCHIVE` or `REVIEW_REPORT`."""

    def __post_init__(self) -> None:
        _one_of("format", self.format, (*(one.name for one in export_formats()), ARCHIVE, REVIEW_REPORT))


def export_formats() -> list[LabelFormat]:
    """The label formats that an export can write; a name of the server's own exports is theirs."""
    return [one for one in label_formats() if one.can_write and one.name not in (ARCHIVE, REVIEW_REPORT)]


JobSpec = ProbeSpec | TrainSpec | AutoLabelSpec | RetrainSpec | PropagateSpec | ExportSpec
_SPECS: dict[JobKind, type[JobSpec]] = {
    spec.kind: spec for spec in (ProbeSpec, TrainSpec, AutoLabelSpec, RetrainSpec, PropagateSpec, ExportSpec)
}


def spec_from_dict(kind: JobKind, data: Mapping[str, Any]) -> JobSpec:
    """Read a spec from the form that ``dataclasses.asdict`` wrote.

    Raises:
        InvalidInput: a field is missing, unknown or out of bounds.
    """
    try:
        return _SPECS[kind](**data)
    except TypeError as error:
        raise InvalidInput("spec", sorted(data), str(error)) from None


def spec_to_dict(spec: JobSpec) -> dict[str, Any]:
    """A spec as JSON."""
    return asdict(spec)
