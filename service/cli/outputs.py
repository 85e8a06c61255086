"""The files written for a labeled video."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from micromodels.errors import Cancelled, InvalidInput
from micromodels.runtime.run import FlipBookPicture, Stage, StageFinished
from micromodels.types import AnyLabel, FrameLabel, FrameResult, Label, Ontology

if TYPE_CHECKING:
    from micromodels.output.progress import Display
    from micromodels.output.run_report import RunReport
    from micromodels.video import FrameTable, Video

__all__ = [
    "COCO",
    "FLIP_BOOK",
    "LABELS",
    "MODEL",
    "OVERLAY",
    "REPORT",
    "RESULTS",
    "VIDEO_TABLE",
    "Writer",
    "read_table",
    "write_table",
]

LABELS, COCO, REPORT = "labels.jsonl", "coco.json", "report.json"
OVERLAY, FLIP_BOOK, VIDEO_TABLE, MODEL = "overlay.mp4", "flipbook.png", "video.json", "model"
RESULTS = (LABELS, COCO, REPORT, OVERLAY, FLIP_BOOK, VIDEO_TABLE, MODEL)
"""All that `label` leaves in its folder."""


class Writer:
    """Writes the results of labeling one video, file by file; a file appears when it is complete.

    Args:
        folder: created if missing.
        video: open until `overlay` is done.
        report: records the times and counts the labels.
        display: gets the progress.
    """

    def __init__(self, folder: Path, video: Video, report: RunReport, display: Display) -> None:
        self._folder = folder
        self._video = video
        self._report = report
        self._display = display
        self.frames_done = 0
        folder.mkdir(parents=True, exist_ok=True)

    def labels(self, results: Iterable[FrameResult], *, keep_partial: bool) -> None:
        """Write ``labels.jsonl`` as results arrive, and ``video.json`` beside it.

        Args:
            results: in order of frames.
            keep_partial: whether to write the finished frames if the user stops the run.

        Raises:
            Cancelled: the user stopped the run, and no frame was finished or `keep_partial` is false.
        """
        from micromodels.labels.files import write_labels

        write_table(self._folder / VIDEO_TABLE, self._video.table)
        write_labels(self._folder / LABELS, self._flat(results, keep_partial))

    def _flat(self, results: Iterable[FrameResult], keep_partial: bool) -> Iterator[AnyLabel]:
        try:
            for result in self._report.watch(results):
                yield from result.all()
                self.frames_done = result.frame + 1
        except Cancelled:
            if not keep_partial or not self.frames_done:
                raise
            self._report.stopped()

    def coco(self, ontology: Ontology) -> None:
        """Write ``coco.json`` from ``labels.jsonl``."""
        from micromodels.labels.files import write_labels
        from micromodels.labels.formats import FormatOptions

        started = time.perf_counter()
        write_labels(self._folder / COCO, self._written(), video=self._video, options=FormatOptions(ontology))
        self._report.on_event(StageFinished(Stage.WRITE, time.perf_counter() - started))

    def overlay(self, ontology: Ontology) -> None:
        """Write ``overlay.mp4``: the labeled frames with their labels drawn in."""
        from micromodels.output.overlay_video import write_overlay

        started = time.perf_counter()
        results = _by_frame(self._written(), self.frames_done)
        tracked = self._display.track("drawing", results, self.frames_done)
        write_overlay(self._folder / OVERLAY, self._video, tracked, ontology)
        self._report.on_event(StageFinished(Stage.WRITE, time.perf_counter() - started))

    def flip_book(self, pictures: Sequence[FlipBookPicture]) -> None:
        """Write ``flipbook.png`` if training gave pictures."""
        if not pictures:
            return
        from PIL import Image

        from micromodels.output.overlay import flip_book

        partial = self._folder / f".{FLIP_BOOK}.partial"
        Image.fromarray(flip_book(pictures)).save(partial, format="png")
        partial.replace(self._folder / FLIP_BOOK)

    def report(self) -> None:
        """Write ``report.json``; call it after the video is closed, so that its process's memory is counted."""
        self._report.write(self._folder / REPORT)

    def _written(self) -> Iterator[AnyLabel]:
        from micromodels.labels.files import iter_labels

        return iter_labels(self._folder / LABELS)


def _by_frame(labels: Iterable[AnyLabel], frame_count: int) -> Iterator[FrameResult]:
    """One result per frame, empty for a frame without labels; labels must be in order of frames."""
    from micromodels.labels.keys import grouped_by_frame

    groups = grouped_by_frame(labels)
    frame, group = next(groups, (frame_count, []))
    for index in range(frame_count):
        if frame != index:
            yield FrameResult(index)
            continue
        objects = tuple(label for label in group if isinstance(label, Label))
        yield FrameResult(index, objects, tuple(label for label in group if isinstance(label, FrameLabel)))
        frame, group = next(groups, (frame_count, []))


def write_table(path: Path, table: FrameTable) -> None:
    """Write the frame table beside the labels; an export needs it."""
    from micromodels.runtime.atomic import atomic_text

    with atomic_text(path) as file:
        json.dump(table.to_dict(), file)


def read_table(path: Path) -> FrameTable:
    """Read what `write_table` wrote.

    Raises:
        InvalidInput: the file is missing or is not a frame table.
    """
    from micromodels.video import FrameTable

    try:
        return FrameTable.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidInput("video.json", str(path), f"a frame table written by label or batch ({error})") from None
