"""The report of one run: times, results and versions; written as ``report.json``."""

from __future__ import annotations

import json
import platform
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from micromodels.runtime.run import Event, ExperimentFinished, Stage, StageFinished, Warned
from micromodels.runtime.version import __version__
from micromodels.types import AnyLabel, FrameResult, Label

if TYPE_CHECKING:
    from micromodels.video import FrameTable

__all__ = ["RunReport", "peak_memory_bytes", "versions"]

REPORT_FORMAT = 1

DISTRIBUTIONS = (
    "torch",
    "torchvision",
    "onnxruntime-gpu",
    "onnxruntime",
    "av",
    "opencv-python",
    "numpy",
    "ultralytics",
)
"""Packages whose versions affect results."""


class RunReport:
    """Collects information about a run.

    Pass `on_event` to the run and its results through `watch`, then call `to_dict` at the end. Times count from the
    creation of the report, so create it first.

    Args:
        clock: monotonic seconds; replaced in tests.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._started = clock()
        self._stages: dict[Stage, float] = dict.fromkeys(Stage, 0.0)
        self._experiments: list[ExperimentFinished] = []
        self._warnings: list[str] = []
        self._first_label: float | None = None
        self._last_label: float | None = None
        self._frames = 0
        self._states: Counter[str] = Counter()
        self._provenance: Counter[str] = Counter()
        self._sections: dict[str, Any] = {}
        self._stopped = False

    def on_event(self, event: Event) -> None:
        """Record an event; for `Run.on_event`."""
        if isinstance(event, StageFinished):
            self._stages[event.stage] += event.seconds
        elif isinstance(event, ExperimentFinished):
            self._experiments.append(event)
        elif isinstance(event, Warned):
            self.warn(event.message)

    def warn(self, message: str) -> None:
        """Record a warning for the user; equal texts are recorded once."""
        if message not in self._warnings:
            self._warnings.append(message)

    def watch(self, results: Iterable[FrameResult]) -> Iterator[FrameResult]:
        """Pass results through, counting labels and recording when the first and the last arrived."""
        for result in results:
            now = self._clock() - self._started
            self._first_label = now if self._first_label is None else self._first_label
            self._last_label = now
            self._frames += 1
            for label in result.all():
                self._provenance[label.provenance.kind.value] += 1
                if isinstance(label, Label):
                    self._states[label.state.value] += 1
            yield result

    def describe_video(self, source: str, table: FrameTable) -> None:
        """Record the labeled video and its warnings."""
        seconds = float(table.pts_seconds(table.frame_count - 1) - table.pts_seconds(0))
        self._sections["video"] = {
            "source": source,
            "content_hash": table.content_hash,
            "frames": table.frame_count,
            "width_px": table.width_px,
            "height_px": table.height_px,
            "seconds": round(seconds, 6),
            "codec": table.codec,
            "container": table.container,
            "decoder": table.decoder,
        }
        for message in table.warnings:
            self.warn(f"video: {message}")

    def describe_seeds(self, seeds: Sequence[AnyLabel], frame_count: int) -> None:
        """Record the hand labels, including the share of frames that have any."""
        frames = {seed.frame for seed in seeds}
        tracks = {seed.track for seed in seeds if isinstance(seed, Label)}
        self._sections["seeds"] = {
            "labels": len(seeds),
            "tracks": len(tracks),
            "frames": sorted(frames),
            "share_of_frames_drawn_by_hand": round(len(frames) / frame_count, 6) if frame_count else 0.0,
        }

    def describe_model(self, manifest: Mapping[str, Any]) -> None:
        """Record which micro-model made the labels."""
        self._sections["model"] = dict(manifest)

    def describe_device(self, asked: str) -> None:
        """Record the requested device and, if torch is loaded, the device used."""
        used = "cpu"
        torch = sys.modules.get("torch")
        if torch is not None and asked != "cpu" and torch.cuda.is_available():
            used = f"cuda ({torch.cuda.get_device_name()})"
        self._sections["device"] = {"asked": asked, "used": used}

    def stopped(self) -> None:
        """Record that the user stopped the run early."""
        self._stopped = True

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON data; docs/reference/command-line.md describes the keys."""
        own, child = peak_memory_bytes()
        frame_count = self._sections.get("video", {}).get("frames", self._frames)
        return {
            "format": REPORT_FORMAT,
            "stopped_by_user": self._stopped,
            **self._sections,
            "seconds": {
                "total": round(self._clock() - self._started, 3),
                "first_label": _rounded(self._first_label),
                "last_label": _rounded(self._last_label),
                "stages": {stage.value: round(seconds, 3) for stage, seconds in self._stages.items()},
            },
            "memory": {"peak_rss_bytes": own, "peak_rss_of_largest_child_bytes": child},
            "experiments": [
                {
                    "experiment": e.experiment,
                    "settings": e.settings,
                    "score": e.score,
                    "kept": e.kept,
                    "seconds": round(e.seconds, 3),
                }
                for e in self._experiments
            ],
            "frames": {"total": frame_count, "labeled": self._frames},
            "labels": {"by_state": dict(self._states), "by_provenance": dict(self._provenance)},
            "warnings": list(self._warnings),
            "versions": versions(),
        }

    def write(self, path: Path | str) -> None:
        """Write `to_dict` as JSON; the file appears when it is complete."""
        from micromodels.runtime.atomic import atomic_text

        with atomic_text(Path(path)) as file:
            json.dump(self.to_dict(), file, indent=2, ensure_ascii=False, default=str)
            file.write("\n")


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def peak_memory_bytes() -> tuple[int, int]:
    """Peak resident size of this process, and of the largest of its finished child processes."""
    unit = 1 if sys.platform == "darwin" else 1024
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_maxrss * unit, children.ru_maxrss * unit


def versions() -> dict[str, str]:
    """Versions that affect results: this package, Python, machine type, and installed libraries."""
    found = {
        "micromodels": __version__,
        "python": platform.python_version(),
        "machine": platform.platform(),
    }
    for name in DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
