"""Labels many videos, one after another, with one saved micro-model, and records which are done."""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from micromodels.errors import Cancelled, InvalidInput, MicromodelsError
from micromodels.runtime.run import Event, Run, StopRequest
from micromodels.types import Ontology
from service.cli.output_places import refuse_inputs

if TYPE_CHECKING:
    from micromodels.output.progress import Display
    from micromodels.recipes.base import MicroModel
    from service.cli.signals import StopSignals

__all__ = ["DONE", "INDEX", "Batch", "Outcome", "Sources", "find_sources", "kinds", "model_digest"]

DONE = "done.json"
"""In a video's folder: which bytes were labeled by which model. Written last, so it marks the folder as complete."""

INDEX = "batch.json"
"""In the output folder: every file of the last run with its outcome."""

VIDEO_SUFFIXES = frozenset(
    {
        *(".3g2", ".3gp", ".avi", ".dv", ".flv", ".gif", ".m2ts", ".m2v", ".m4v", ".mkv", ".mov", ".mp4"),
        *(".mpeg", ".mpg", ".mts", ".mxf", ".ogg", ".ogv", ".ts", ".vob", ".webm", ".wmv"),
    }
)
"""Suffixes of videos in a folder; files with another suffix must be named individually."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Outcome of one file.

    Attributes:
        source: its path.
        state: ``done``, ``skipped`` (done in an earlier run), ``failed`` or ``left_out`` (a file in a folder whose
            suffix is not a video's).
        folder: of its results, in the output folder.
        frames: number of labeled frames.
        error: why it failed or was left out.
    """

    source: str
    state: str
    folder: str = ""
    frames: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Sources:
    """The sources to label, each once and in order, and the files that were left out."""

    videos: list[Path]
    left_out: list[Outcome]


def find_sources(patterns: Sequence[str], out: Path) -> Sources:
    """Videos and frame folders that paths and globs match; nothing inside ``out``.

    A folder matches every video and every folder of pictures below it (including itself).

    Raises:
        InvalidInput: a path or pattern matches nothing, or ``out`` is, contains or is inside one of the paths.
    """
    refuse_inputs("--out", out, patterns)
    out = out.resolve()
    found: dict[Path, str] = {}
    for pattern in patterns:
        paths = (
            [Path(pattern)]
            if os.path.lexists(pattern)
            else [p for p in map(Path, sorted(glob.glob(pattern, recursive=True))) if not _is_below(p, out)]
        )
        videos = False
        for path in paths:
            for source, reason in _below(path, out):
                videos = videos or not reason
                if not reason or source not in found:
                    found[source] = reason
        if not videos:
            raise InvalidInput("source", pattern, "a video, a folder with videos or pictures, or a matching pattern")
    left_out = [Outcome(str(path), "left_out", error=reason) for path, reason in found.items() if reason]
    return Sources([path for path, reason in found.items() if not reason], left_out)


def _is_below(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder)


def _below(path: Path, out: Path) -> Iterator[tuple[Path, str]]:
    """Files and picture folders, each with the reason to leave it out; empty for sources to label."""
    if not path.is_dir():
        yield path, ""
        return
    for name, folders, files in os.walk(path):
        folder = Path(name)
        folders[:] = sorted(f for f in folders if not f.startswith(".") and (folder / f).resolve() != out)
        if folder.resolve() == out:
            folders.clear()
            continue
        yield from _of_folder(folder, sorted(files))


def _of_folder(folder: Path, files: Sequence[str]) -> Iterator[tuple[Path, str]]:
    from micromodels.video.source import PICTURE_SUFFIXES, is_tiff_stack

    visible = [file for file in files if not file.startswith(".")]
    pictures = [file for file in visible if Path(file).suffix.lower() in PICTURE_SUFFIXES]
    videos = [file for file in visible if Path(file).suffix.lower() in VIDEO_SUFFIXES]
    videos += [file for file in pictures if is_tiff_stack(folder / file)]
    if pictures and not videos:
        yield folder, ""
    for file in files:
        if file in videos:
            yield folder / file, ""
        elif file.startswith("."):
            yield folder / file, "hidden"
        elif file not in pictures:
            yield folder / file, f"the suffix {Path(file).suffix!r} is not a video's; name the file itself to try it"
        elif videos:
            yield folder / file, "a picture beside videos; put frames into a separate folder"


def kinds(left_out: Sequence[Outcome]) -> str:
    """Number of files by suffix, most frequent first."""
    counts = Counter(Path(one.source).suffix.lower() or "without suffix" for one in left_out)
    return ", ".join(f"{count} {ending}" for ending, count in counts.most_common(5)) + (
        ", ..." if len(counts) > 5 else ""
    )


def model_digest(folder: Path) -> str:
    """SHA-256 (hex) over names and bytes of a saved model's files; a retrained model labels all videos again."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with path.open("rb") as file:
            inside = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{inside}  {path.relative_to(folder).as_posix()}\n".encode())
    return digest.hexdigest()


class Batch:
    """Labels sources one after another and records which are done.

    Each source gets a folder named after it and its content, so that labels of one video never replace those of
    another one.

    Args:
        model: labels the videos.
        digest: of the model, see `model_digest`.
        out: the output folder.
        device: ``auto``, ``cpu`` or ``cuda``.
        overlay: whether to draw ``overlay.mp4`` as well.
        display: gets the progress.
        stop: asked between frames.
    """

    def __init__(
        self, model: MicroModel, digest: str, out: Path, device: str, overlay: bool, display: Display, stop: StopSignals
    ) -> None:
        self._model = model
        self._digest = digest
        self._out = out
        self._device = device
        self._overlay = overlay
        self._display = display
        self._stop = stop
        self.outcomes: list[Outcome] = []
        self._left_out: list[Outcome] = []

    def run(self, found: Sources) -> None:
        """Label every source that is not done; a failure is recorded and the others continue.

        Raises:
            Cancelled: the user stopped the batch. Finished files are kept, the current one is not.
        """
        self._out.mkdir(parents=True, exist_ok=True)
        sources, self._left_out = found.videos, found.left_out
        for number, source in enumerate(sources):
            self._display.update("files", number, len(sources), f"{number}/{len(sources)} · {source.name}")
            if self._stop() is StopRequest.CANCEL:
                raise Cancelled(f"after {number} of {len(sources)} files; run the same command again to continue")
            self._note(self._one(source))
            self._display.forget("labeling")
        self._display.update("files", len(sources), len(sources), f"{len(sources)}/{len(sources)}")

    def _one(self, source: Path) -> Outcome:
        from micromodels.video.source import find_source

        try:
            found = find_source(source)
            content = found.content_hash()
            folder = self._out / f"{source.stem or source.name}-{content[:12]}"
            frames = self._frames_done(folder, content)
            if frames is not None:
                return Outcome(str(source), "skipped", folder.name, frames)
            return Outcome(str(source), "done", folder.name, self._label(source, folder, content))
        except Cancelled as error:
            done = len(self.outcomes)
            raise Cancelled(f"in {source.name}, after {done} files; run the same command again to continue") from error
        except (MicromodelsError, OSError) as error:
            message = str(error)
        except Exception as error:  # one bad file must not end a long batch
            message = f"unexpected {type(error).__name__}: {error}"
        self._display.warn(f"{source}: {message}")
        return Outcome(str(source), "failed", error=message)

    def _label(self, source: Path, folder: Path, content: str) -> int:
        from micromodels.output.run_report import RunReport
        from micromodels.video import open_video
        from service.cli.outputs import Writer

        report = RunReport()

        def on_event(event: Event) -> None:
            report.on_event(event)
            self._display.on_event(event)

        run = Run(device=self._device, on_event=on_event, should_stop=self._stop)
        with open_video(source) as video:
            report.describe_video(str(source), video.table)
            report.describe_seeds([], video.table.frame_count)
            report.describe_model(self._model.manifest.to_dict())
            writer = Writer(folder, video, report, self._display)
            writer.labels(self._model.propagate(video, [], run=run), keep_partial=False)
            writer.coco(Ontology())
            if self._overlay:
                writer.overlay(Ontology())
                self._display.forget("drawing")
        report.describe_device(self._device)
        writer.report()
        _write_json(
            folder / DONE,
            {"source": str(source), "content_hash": content, "model": self._digest, "frames": writer.frames_done},
        )
        return writer.frames_done

    def _frames_done(self, folder: Path, content: str) -> int | None:
        """Number of frames that an earlier run labeled with this model; None if not done."""
        try:
            marker = json.loads((folder / DONE).read_text(encoding="utf-8"))
            if marker["content_hash"] == content and marker["model"] == self._digest:
                return int(marker["frames"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # missing or damaged marker: the file is not done
        return None

    def _note(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        _write_json(
            self._out / INDEX, {"model": self._digest, "files": [asdict(o) for o in (*self.outcomes, *self._left_out)]}
        )


def _write_json(path: Path, value: Any) -> None:
    from micromodels.runtime.atomic import atomic_text

    with atomic_text(path) as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.write("\n")
