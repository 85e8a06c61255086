"""Parts of the work image around objects, which cost less to look at than all of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from micromodels.encoding.encoders import GRID_PX
from micromodels.labels.targets import IGNORE

__all__ = ["Window", "window_around", "window_around_objects"]

WINDOW_MARGIN_CELLS = 2
"""Around what a window is for: about what the head sees of its surroundings."""
WINDOW_LOG_ODDS = -1.0
"""What an older head held to be likelier than this is looked at again."""
WHOLE_SHARE = 0.6
"""A window of more of the image than this is not worth its seams."""


@dataclass(frozen=True, slots=True)
class Window:
    """A part of the work image, in cells of ``encoder.GRID_PX``; half-open."""

    top: int
    left: int
    bottom: int
    right: int

    def at(self, stride: int) -> tuple[slice, slice, slice]:
        """Index of this part of maps ``(channels, h, w)`` at a stride."""
        cell = GRID_PX // stride
        return slice(None), slice(self.top * cell, self.bottom * cell), slice(self.left * cell, self.right * cell)


def window_around(log_odds: torch.Tensor, boxes: Sequence[npt.NDArray[np.float32]]) -> Window | None:
    """Where objects are by an older head or by their labels, and around.

    Args:
        log_odds: what the head said, ``(tracks, height / 2, width / 2)``.
        boxes: of the labels, ``(4,)`` each in work pixels.

    Returns:
        A window; None where that is nowhere, or nearly everywhere.
    """
    if not len(log_odds):
        return None
    likely = F.max_pool2d(log_odds.amax(dim=0)[None, None].float(), GRID_PX // 2)[0, 0] > WINDOW_LOG_ODDS
    cells = likely.cpu().numpy()
    for box in boxes:
        x1, y1, x2, y2 = (box / GRID_PX).tolist()
        cells[max(0, math.floor(y1)) : math.ceil(y2), max(0, math.floor(x1)) : math.ceil(x2)] = True
    rows, columns = np.flatnonzero(cells.any(axis=1)), np.flatnonzero(cells.any(axis=0))
    if not len(rows):
        return None
    margin = WINDOW_MARGIN_CELLS
    top, left = max(0, int(rows[0]) - margin), max(0, int(columns[0]) - margin)
    bottom, right = min(cells.shape[0], int(rows[-1]) + 1 + margin), min(cells.shape[1], int(columns[-1]) + 1 + margin)
    whole = (bottom - top) * (right - left) > WHOLE_SHARE * cells.size
    return None if whole else Window(top, left, bottom, right)


def window_around_objects(label_map: npt.NDArray[np.uint8], stride: int) -> Window:
    """The part of a label map of this stride with objects and their surroundings; all of it without any."""
    cell = GRID_PX // stride
    height, width = label_map.shape[0] // cell, label_map.shape[1] // cell
    rows, columns = np.nonzero((label_map > 0) & (label_map != IGNORE))
    if not len(rows):
        return Window(0, 0, height, width)
    top, left = max(0, int(rows.min()) // cell - 1), max(0, int(columns.min()) // cell - 1)
    bottom, right = min(height, int(rows.max()) // cell + 2), min(width, int(columns.max()) // cell + 2)
    return Window(top, left, bottom, right)
