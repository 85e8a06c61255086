"""Baselines that track an object from its nearest seed, forward and backward: optical flow, and OpenCV's trackers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from micromodels.labels.geometry import bounds
from micromodels.types import AnyLabel, Box, FrameResult, Label, Mask, Shape
from scripts.benchmark import opencv_trackers
from scripts.benchmark.baselines_interpolation import (
    BASELINE,
    as_mask,
    by_track,
    copy_track,
    fill_frames,
    moved,
    nearest,
)
from scripts.benchmark.opencv_trackers import Chase

if TYPE_CHECKING:
    from micromodels.video import Video

__all__ = ["follow_by_flow", "follow_by_tracker", "tracker_lacks"]

Image = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class _Strand:
    """A seed that shows the object, and the frames on one side for which it is the nearest seed, in tracking order."""

    seed: Label
    shape: Shape
    frames: range


Follow = Callable[[list[Image], Sequence[_Strand]], Sequence[Sequence[Shape | None]]]
"""Pictures of all frames, strands -> the shape on each frame of each strand; None if the object is lost."""


def _strands(seeds: Sequence[Label], frame_count: int) -> Iterator[_Strand]:
    frames = np.array([seed.frame for seed in seeds])
    for i, seed in enumerate(seeds):
        if seed.shape is None:
            continue
        for step in (1, -1):
            stop = seed.frame + step
            while 0 <= stop < frame_count and nearest(frames, stop) == i:
                stop += step
            yield _Strand(seed, seed.shape, range(seed.frame + step, stop, step))


def _follow(video: Video, seeds: Sequence[AnyLabel], color: int, follow: Follow) -> Iterator[FrameResult]:
    """Labels from strands; ``color`` is OpenCV's color conversion of the RGB pictures for ``follow``."""
    pictures = [np.asarray(cv2.cvtColor(image, color), np.uint8) for _, image in video.frames()]

    def fill(labels: Sequence[Label], frame_count: int) -> list[Label]:
        out = copy_track(labels, frame_count)
        for strand, shapes in zip(strands[labels[0].track], found[labels[0].track], strict=True):
            for frame, shape in zip(strand.frames, shapes, strict=True):
                out[frame] = moved(strand.seed, frame, shape, BASELINE)
        return out

    strands = {track: list(_strands(labels, len(pictures))) for track, labels in by_track(seeds).items()}
    together = iter(follow(pictures, [strand for own in strands.values() for strand in own]))
    found = {track: [next(together) for _ in own] for track, own in strands.items()}
    yield from fill_frames(seeds, len(pictures), fill)


def follow_by_flow(video: Video, seeds: Sequence[AnyLabel]) -> Iterator[FrameResult]:
    """Moves shapes along dense optical flow only (DIS, medium preset).

    The flow is accumulated from the seed, so that a mask is sampled only once (bilinear, threshold one half). A box
    moves by the median flow inside it and keeps its size.
    """
    return _follow(video, seeds, cv2.COLOR_RGB2GRAY, _along_flow)


def _along_flow(pictures: list[Image], strands: Sequence[_Strand]) -> list[list[Shape | None]]:
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    @lru_cache(maxsize=128)  # many tracks share the flows
    def flow(frame: int, before: int) -> npt.NDArray[np.float32]:
        """Displacement of each pixel of a frame to the previous frame."""
        found = dis.calc(pictures[frame], pictures[before], None)  # type: ignore[call-overload]  # the stub lacks None
        return np.asarray(found, np.float32)

    carry = {True: _carry_mask, False: _carry_box}
    return [carry[isinstance(strand.shape, Mask)](strand, flow) for strand in strands]


Flow = Callable[[int, int], npt.NDArray[np.float32]]


def _carry_mask(strand: _Strand, flow: Flow) -> list[Shape | None]:
    assert isinstance(strand.shape, Mask)
    seed = strand.shape.to_array().astype(np.float32)
    rows, columns = np.mgrid[: seed.shape[0], : seed.shape[1]].astype(np.float32)
    origin, before, shapes = np.stack([columns, rows], axis=-1), strand.seed.frame, list[Shape | None]()
    for frame in strand.frames:
        shift, before = flow(frame, before), frame
        at = columns + shift[..., 0], rows + shift[..., 1]
        origin = np.asarray(cv2.remap(origin, *at, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.float32)
        soft = cv2.remap(seed, origin[..., 0], origin[..., 1], cv2.INTER_LINEAR)
        shapes.append(as_mask(soft > 0.5))
    return shapes


def _carry_box(strand: _Strand, flow: Flow) -> list[Shape | None]:
    box, before, shapes = bounds(strand.shape), strand.seed.frame, list[Shape | None]()
    for frame in strand.frames:
        shift, before = flow(frame, before), frame
        found = _shifted(box, shift) if box else None
        shapes.append(found)
        box = found or box
    return shapes


def _shifted(box: Box, flow: npt.NDArray[np.float32]) -> Box | None:
    x1, y1, x2, y2 = (max(round(value), 0) for value in box.as_list())
    inside = flow[y1:y2, x1:x2].reshape(-1, 2)
    if not len(inside):
        return None
    dx, dy = (float(value) for value in np.median(inside, axis=0))
    return Box(box.x1 - dx, box.y1 - dy, box.x2 - dx, box.y2 - dy)


def follow_by_tracker(name: str, weights: Path, video: Video, seeds: Sequence[AnyLabel]) -> Iterator[FrameResult]:
    """A single-object tracker of OpenCV; ``weights`` is the folder with network weights."""
    run = opencv_trackers.follow if opencv_trackers.is_available(name) else opencv_trackers.follow_in_child

    def follow(pictures: list[Image], strands: Sequence[_Strand]) -> list[list[Shape | None]]:
        boxes = [bounds(strand.shape) or Box(0, 0, 1, 1) for strand in strands]
        chases = [
            Chase(strand.seed.frame, (box.x1, box.y1, box.x2, box.y2), strand.frames.step, len(strand.frames))
            for strand, box in zip(strands, boxes, strict=True)
        ]
        found = run(name, weights, pictures, chases)
        return [[Box(*corners) if corners else None for corners in boxes] for boxes in found]

    return _follow(video, seeds, cv2.COLOR_RGB2BGR, follow)


def tracker_lacks(name: str) -> str:
    """Why a tracker cannot run; empty if it can."""
    if opencv_trackers.is_available(name) or opencv_trackers.in_contrib(name):
        return ""
    folder = opencv_trackers.contrib_folder()
    found = "lacks it too" if (folder / "cv2").is_dir() else "is not installed"
    return f"OpenCV {cv2.__version__} lacks this tracker, and opencv-contrib-python in {folder.name}/ {found}"
