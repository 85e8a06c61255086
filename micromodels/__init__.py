"""Micro-models: a few hand labels in, a fully labeled video out.

    import micromodels as mm

    result = mm.label("video.mp4", "seeds.jsonl")
    result.save("labels.json", format="coco")

Everything public is here. What needs NumPy or torch is imported on first use: ``import micromodels`` is quick, and the
light client (``micromodels.client``) works without them. The way of the data, folder by folder: ``video``, ``labels``,
``encoding``, ``training``, ``propagation``, ``recipes``, ``correction``, ``output``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from micromodels.errors import (
    Cancelled,
    Diverged,
    FailedPrecondition,
    FrameMismatch,
    InvalidInput,
    MicromodelsError,
    ModelError,
    OutOfMemory,
    OutOfRange,
    TrainingError,
    VideoError,
)
from micromodels.runtime.run import (
    Event,
    ExperimentFinished,
    PropagationProgress,
    Run,
    StopRequest,
    TrainingProgress,
    Warned,
)
from micromodels.runtime.version import __version__
from micromodels.types import (
    HUMAN,
    AnyLabel,
    Box,
    FrameClass,
    FrameLabel,
    FrameResult,
    Label,
    Mask,
    ObjectClass,
    Ontology,
    Polygon,
    Provenance,
    ProvenanceKind,
    Shape,
    ShapeKind,
    State,
)

if TYPE_CHECKING:
    from micromodels.correction.session import LabelSession
    from micromodels.encoding.encoded_video import FrameSource
    from micromodels.front_door import label, train
    from micromodels.labels.files import read_labels, write_labels
    from micromodels.output.labeled_video import LabeledVideo, Track
    from micromodels.recipes.base import MicroModel, TrainSettings, load_model
    from micromodels.video import ArrayVideo, DecodeLimits, FrameTable, Video, open_video


__all__ = [
    "HUMAN",
    "AnyLabel",
    "ArrayVideo",
    "Box",
    "Cancelled",
    "DecodeLimits",
    "Diverged",
    "Event",
    "ExperimentFinished",
    "FailedPrecondition",
    "FrameClass",
    "FrameLabel",
    "FrameMismatch",
    "FrameResult",
    "FrameSource",
    "FrameTable",
    "InvalidInput",
    "Label",
    "LabelSession",
    "LabeledVideo",
    "Mask",
    "MicroModel",
    "MicromodelsError",
    "ModelError",
    "ObjectClass",
    "Ontology",
    "OutOfMemory",
    "OutOfRange",
    "Polygon",
    "PropagationProgress",
    "Provenance",
    "ProvenanceKind",
    "Run",
    "Shape",
    "ShapeKind",
    "State",
    "StopRequest",
    "Track",
    "TrainSettings",
    "TrainingError",
    "TrainingProgress",
    "Video",
    "VideoError",
    "Warned",
    "__version__",
    "label",
    "load_model",
    "open_video",
    "read_labels",
    "train",
    "write_labels",
]

_LATER = {
    "LabelSession": "micromodels.correction.session",
    "FrameSource": "micromodels.encoding.encoded_video",
    "label": "micromodels.front_door",
    "train": "micromodels.front_door",
    "read_labels": "micromodels.labels.files",
    "write_labels": "micromodels.labels.files",
    "LabeledVideo": "micromodels.output.labeled_video",
    "Track": "micromodels.output.labeled_video",
    "MicroModel": "micromodels.recipes.base",
    "TrainSettings": "micromodels.recipes.base",
    "load_model": "micromodels.recipes.base",
    "ArrayVideo": "micromodels.video",
    "DecodeLimits": "micromodels.video",
    "FrameTable": "micromodels.video",
    "Video": "micromodels.video",
    "open_video": "micromodels.video",
}
"""Names whose modules need NumPy, torch and the like, and those modules."""


if not TYPE_CHECKING:  # or every misspelled name would pass

    def __getattr__(name: str) -> Any:
        """A public name that is imported on first use.

        Raises:
            ImportError: it needs a package that the light client does without.
        """
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            value = getattr(import_module(_LATER[name]), name)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] == __name__:
                raise
            message = f"micromodels.{name} needs the package {error.name}: pip install 'micromodels-video[server]'"
            raise ImportError(message, name=error.name) from error
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    """Public names, imported or not."""
    return sorted({*globals(), *__all__})
