"""What one frame shows of the size of a box: votes of its pixels, their outline, and how the picture grows in it."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from micromodels.propagation.box_size_filter import Growth, flow_growth
from micromodels.propagation.predictions import FramePrediction

__all__ = ["Warp", "outlined_box", "spreading", "voted_box"]

CELL_PX, PIXEL_PX = 4, 2
"""Of votes and flow, and of log-odds."""
VOTERS = 0.8
"""Share of a box, from its middle, whose pixels vote."""
MIN_VOTES = 0.05
OUTLINE_REACH = 1.5
"""Sides of the window in which an outline is looked for, in sides of the box."""
OUTLINE_TAIL = 0.04
"""Share of the probability that an outline leaves out at each side."""
MIN_OUTLINED_PIXELS = 4

Floats = npt.NDArray[np.float32]


class Warp(Protocol):
    """Motion between neighboring frames."""

    def coarse_grid(self, to: int, origin: int) -> torch.Tensor | None:
        """Where each cell of frame ``to`` lies on ``origin``, ``(1, h8, w8, 2)`` for ``grid_sample``; None at a cut."""
        ...

    def grid(self, to: int, origin: int) -> torch.Tensor | None:
        """The same at stride 4."""
        ...

    def returns(self, to: int, origin: int) -> torch.Tensor:
        """Where the flow from frame ``to`` to ``origin`` and the flow back agree, ``(h4, w4)``, 0 to 1."""
        ...


def voted_box(predictions: FramePrediction, track: int, box: Floats) -> Floats | None:
    """The box that the track's pixels in the middle of ``box`` vote for; None where they say nothing."""
    if predictions.sides is None:
        return None
    height, width = predictions.sides.shape[1:]
    middle, half = (box[:2] + box[2:]) / 2, VOTERS / 2 * (box[2:] - box[:2])
    low = np.clip(np.round((middle - half) / CELL_PX), 0, [width - 1, height - 1]).astype(int)
    high = np.clip(np.round((middle + half) / CELL_PX), low + 1, [width, height]).astype(int)
    columns, rows = slice(low[0], high[0]), slice(low[1], high[1])
    votes = _probability(predictions, track, rows, columns).cpu().numpy()
    if votes.sum() < MIN_VOTES * votes.size:
        return None
    left, top, right, bottom = predictions.sides[:, rows, columns].astype(np.float32)
    y, x = (np.mgrid[rows, columns] + 0.5) * CELL_PX
    edges = np.stack([x - left, y - top, x + right, y + bottom])
    return np.asarray((edges * votes).sum(axis=(1, 2)) / votes.sum(), np.float32)


def outlined_box(predictions: FramePrediction, track: int, box: Floats) -> Floats | None:
    """The box around the pixels near ``box`` that are likelier the track's than not; None where there are none.

    Votes remember the shape that was drawn; an outline sees the one that is there, if a head knows the object.
    """
    height, width = predictions.log_odds.shape[1:]
    middle, half = (box[:2] + box[2:]) / 2, OUTLINE_REACH / 2 * (box[2:] - box[:2])
    rows, columns = _cells(np.concatenate([middle - half, middle + half]), PIXEL_PX, height, width)
    odds = predictions.log_odds[track, rows, columns].float()
    likely = torch.where(odds > 0, torch.sigmoid(odds), 0.0).cpu().numpy()
    if likely.sum() < MIN_OUTLINED_PIXELS:
        return None
    left, right = _quantiles(likely.sum(axis=0))
    top, bottom = _quantiles(likely.sum(axis=1))
    corners = columns.start + left, rows.start + top, columns.start + right, rows.start + bottom
    return np.array(corners, np.float32) * PIXEL_PX


def _quantiles(weights: Floats) -> tuple[float, float]:
    """Where the first and the last ``OUTLINE_TAIL`` of the weights along a line end."""
    share = np.cumsum(weights) / weights.sum()
    low, high = np.interp([OUTLINE_TAIL, 1 - OUTLINE_TAIL], share, np.arange(len(share)) + 0.5)
    return float(low), float(high)


def spreading(
    predictions: FramePrediction, track: int, box: Floats, motion: Warp, frame: int, origin: int
) -> Growth | None:
    """How much larger the picture inside a box is than on another frame, by the flow to it; None across a cut."""
    grid = motion.grid(frame, origin)
    if grid is None:
        return None
    height, width = grid.shape[1:3]
    rows, columns = _cells(box, CELL_PX, height, width)
    part = grid[0, rows, columns].cpu().numpy()
    y, x = np.mgrid[rows, columns]
    flow = np.stack([(part[..., 0] + 1) * width / 2 - x, (part[..., 1] + 1) * height / 2 - y], axis=-1) - 0.5
    weight = _probability(predictions, track, rows, columns) * motion.returns(frame, origin)[rows, columns]
    return flow_growth(flow.astype(np.float32), weight.cpu().numpy())


def _probability(predictions: FramePrediction, track: int, rows: slice, columns: slice) -> torch.Tensor:
    """Of a track, in cells of ``CELL_PX``."""
    odds = predictions.log_odds[track, 2 * rows.start : 2 * rows.stop, 2 * columns.start : 2 * columns.stop].float()
    return torch.sigmoid(F.avg_pool2d(odds[None], 2)[0])


def _cells(box: Floats, cell_px: int, height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of a grid that a box covers, at least one each."""
    low = np.clip(np.floor(box[:2] / cell_px), 0, [width - 1, height - 1]).astype(int)
    high = np.clip(np.ceil(box[2:] / cell_px), low + 1, [width, height]).astype(int)
    return slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0]))
