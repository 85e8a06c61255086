"""What a saved micro-model says of itself; read strictly, because files come from outside."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from micromodels.errors import ModelError
from micromodels.labels.targets import SeedSet, TrackSpec
from micromodels.types import ShapeKind

__all__ = ["FORMAT", "MANIFEST_FILE", "Manifest", "seeds_digest"]

FORMAT = 2
MANIFEST_FILE = "manifest.json"
MAX_MANIFEST_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Manifest:
    """Description of one micro-model version.

    Attributes:
        version: name of the weights: the first 12 hex digits of their SHA-256.
        recipe: ``head``, ``finetune`` or ``yolo``.
        encoder: name to load the encoder by, "" where the recipe has none.
        encoder_weights: digest-bearing name of the encoder that ran.
        tracks: what it follows.
        frame_classes: frame classes it knows.
        typical_areas: share of the image each track covers on the seeds.
        settings: of the recipe.
        seeds_digest: SHA-256 over the seeds it saw.
        seed_frames: frames it saw labels of.
        video: content hash of the video.
        metrics: name to value; ``leave_one_seed_out`` where measured.
        libraries: versions of what it was made with.
        format: of the folder.
    """

    version: str
    recipe: str
    encoder: str
    encoder_weights: str
    tracks: tuple[TrackSpec, ...]
    frame_classes: tuple[str, ...]
    typical_areas: tuple[float, ...]
    settings: Mapping[str, float | int | bool | str]
    seeds_digest: str
    seed_frames: tuple[int, ...]
    video: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    libraries: Mapping[str, str] = field(default_factory=dict)
    format: int = FORMAT

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain

    def save(self, folder: Path) -> None:
        """Write ``manifest.json``."""
        (folder / MANIFEST_FILE).write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Read ``manifest.json``.

        Raises:
            ModelError: it is missing, not JSON, has other keys or types, or is of another format.
        """
        path = folder / MANIFEST_FILE
        try:
            if path.stat().st_size > MAX_MANIFEST_BYTES:
                raise ModelError(f"{path.name} is larger than {MAX_MANIFEST_BYTES} bytes")
            raw = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ModelError(
                f"{folder} is not a micro-model: {MANIFEST_FILE} cannot be read ({error.strerror})"
            ) from error
        except (ValueError, RecursionError) as error:
            raise ModelError(f"{MANIFEST_FILE} is not JSON: {error}") from error
        names = {item.name for item in fields(cls)}
        if not isinstance(raw, dict) or set(raw) != names:
            raise ModelError(f"{MANIFEST_FILE} must hold exactly {sorted(names)}")
        if raw["format"] != FORMAT:
            raise ModelError(f"{MANIFEST_FILE}: format {raw['format']!r}; this version reads {FORMAT}")
        _check_types(raw)
        try:
            return cls(
                **{
                    **raw,
                    "tracks": tuple(
                        TrackSpec(str(t["track"]), str(t["object_class"]), ShapeKind(t["shape"])) for t in raw["tracks"]
                    ),
                    "frame_classes": tuple(str(name) for name in raw["frame_classes"]),
                    "typical_areas": tuple(float(area) for area in raw["typical_areas"]),
                    "seed_frames": tuple(int(frame) for frame in raw["seed_frames"]),
                    "settings": dict(raw["settings"]),
                }
            )
        except (TypeError, KeyError, ValueError, OverflowError) as error:
            raise ModelError(f"{MANIFEST_FILE} is damaged: {error}") from error


def _check_types(raw: Mapping[str, Any]) -> None:
    """Refuse values of another JSON type than the field's, and numbers that are not finite.

    Raises:
        ModelError: naming the field.
    """
    kinds: dict[str, type] = {
        "settings": dict,
        "metrics": dict,
        "libraries": dict,
        "tracks": list,
        "frame_classes": list,
        "typical_areas": list,
        "seed_frames": list,
    }
    for name, value in raw.items():
        kind = kinds.get(name, int if name == "format" else str)
        if not isinstance(value, kind):
            raise ModelError(f"{MANIFEST_FILE}: {name} must be a JSON {kind.__name__}, got {value!r:.80}")
    numbers = [*raw["typical_areas"], *raw["seed_frames"], *raw["settings"].values(), *raw["metrics"].values()]
    if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
        raise ModelError(f"{MANIFEST_FILE}: numbers must be finite")
    if len(raw["typical_areas"]) != len(raw["tracks"]):
        raise ModelError(f"{MANIFEST_FILE}: typical_areas must have one number per track")
    if not all(isinstance(track, dict) and track.get("track") for track in raw["tracks"]):
        raise ModelError(f"{MANIFEST_FILE}: every track must have a name")


def seeds_digest(seeds: SeedSet) -> str:
    """SHA-256 over human labels, whatever their order, hex."""
    rows = sorted(json.dumps(asdict(label), default=str, sort_keys=True) for label in seeds.object_labels)
    rows += sorted(json.dumps(asdict(label), default=str, sort_keys=True) for label in seeds.frame_labels)
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()
