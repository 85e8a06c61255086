"""Published results on clips of the benchmark. They used frame 0 only, whatever the seeds of a run are."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from micromodels.errors import InvalidInput
from micromodels.types import AnyLabel, Box, FrameResult, Shape
from scripts.benchmark.baselines_interpolation import BASELINE, as_mask, by_track, moved
from scripts.benchmark.datasets import Clip

if TYPE_CHECKING:
    from micromodels.runtime.run import Run
    from micromodels.video import Video

__all__ = ["boxes_published", "published_boxes", "published_masks", "published_osvos"]


def published_osvos(clip: Clip) -> Path:
    """Folder of the published OSVOS masks of a clip."""
    return clip.source.parents[2] / "baselines" / "osvos_davis2017" / clip.name


def published_masks(clip: Clip, video: Video, seeds: Sequence[AnyLabel], run: Run) -> Iterator[FrameResult]:
    """The published OSVOS masks, trained on frame 0; seeds on other frames were not used."""
    del run

    def shape(frame: int) -> Shape | None:
        image = cv2.imread(str(published_osvos(clip) / f"{frame:05d}.png"), cv2.IMREAD_UNCHANGED)
        if image is None:
            raise InvalidInput("frame", frame, "a frame with a published mask")
        return as_mask((image if image.ndim == 2 else image.max(axis=2)) > 0)

    return _as_results(video.table.frame_count, seeds, shape)


def _as_results(
    frame_count: int, seeds: Sequence[AnyLabel], shape: Callable[[int], Shape | None]
) -> Iterator[FrameResult]:
    """The only track of the seeds, with the published shapes; frames with seeds keep these."""
    (labels,) = by_track(seeds).values()
    drawn = {label.frame: label for label in labels}
    for frame in range(frame_count):
        yield FrameResult(frame, (drawn.get(frame) or moved(labels[0], frame, shape(frame), BASELINE),))


def _boxes_path(clip: Clip, tracker: str) -> Path:
    if clip.set_name == "tld":
        return clip.source.parent / "baselines" / f"{tracker}.txt"
    return clip.source.parents[2] / "baselines" / f"{clip.set_name}_{tracker}" / f"{clip.name}.json"


def boxes_published(clip: Clip, tracker: str) -> bool:
    """Whether a tracker's boxes were published for a clip."""
    return _boxes_path(clip, tracker).is_file()


def published_boxes(clip: Clip, tracker: str, video: Video, seeds: Sequence[AnyLabel]) -> Iterator[FrameResult]:
    """Published boxes of a tracker started on frame 0; on a frame without numbers it found nothing.

    tld's text files have one row ``left,top,right,bottom`` per frame; otb's JSON has 1-based ``[x, y, width, height]``.
    """
    path = _boxes_path(clip, tracker)
    if path.suffix == ".txt":
        rows = np.loadtxt(path, delimiter=",", ndmin=2)
    else:
        (found,) = json.loads(path.read_text(encoding="utf-8"))
        rows = np.array(found["res"], np.float64) - [1, 1, 0, 0]
        rows[:, 2:] += rows[:, :2]

    def shape(frame: int) -> Shape | None:
        box = rows[frame] if frame < len(rows) else np.full(4, np.nan)
        return Box(*box.tolist()) if np.isfinite(box).all() and (box[2:] > box[:2]).all() else None

    return _as_results(video.table.frame_count, seeds, shape)
