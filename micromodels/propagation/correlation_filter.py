"""Finding a box's object again by how it looked a moment ago: a discriminative correlation filter on frozen features.

The head learns what an object looks like on the frames that people drew; an object that turns, bends or is lit again is
soon another to it. A follower starts on a drawn box with a filter that answers with a small bump where the object's
middle is and with nothing around it, and learns it again, by ridge regression over a memory of frames, as it goes from
frame to frame (Bolme et al., CVPR 2010; deep features: Ma et al., ICCV 2015; conjugate gradients over a sample memory:
Danelljan et al., ECO, CVPR 2017). It looks at a patch around where the object is thought to be, scaled so that the
object has the same size in it on every frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from micromodels.encoding.encoders import Features, Level

__all__ = ["CELL_PX", "Follower", "FollowerSettings", "matched_channels", "matched_features"]

CELL_PX = 8
MATCHED_STRIDES = (4, 8)
"""Finer levels know edges only, coarser ones not where a thing is; stride 16 beside these gained nothing."""

MIN_SCALE = 0.5
"""Of a patch, in cells: there is nothing to be seen between the cells of a small object."""
LATER_SHARE = 0.9
"""Of the first answer, which comes from a filter that knows the frame beside it only; later ones are lower."""
MIN_ANSWER = 0.2
"""A follower that usually answers less than this has lost its object."""


def _matched_levels(levels: Sequence[Level]) -> list[int]:
    """Positions of the levels that followers look at."""
    chosen = [i for i, level in enumerate(levels) if level.stride in MATCHED_STRIDES]
    return chosen or [min(range(len(levels)), key=lambda i: levels[i].stride)]


def matched_channels(levels: Sequence[Level]) -> int:
    """Number of channels of :func:`matched_features`."""
    return sum(levels[place].channels for place in _matched_levels(levels))


def matched_features(features: Features, levels: Sequence[Level]) -> npt.NDArray[np.float16]:
    """What followers look at: levels of strides 4 and 8, or the finest there is, on one grid of 8 pixels.

    Args:
        features: of one frame, one array ``(channels, h, w)`` for each level.
        levels: what they are.

    Returns:
        Float16 ``(channels, h8, w8)``; the channels of each level have unit length at each place.
    """
    maps = []
    for place in _matched_levels(levels):
        values, factor = torch.from_numpy(features[place]).float()[None], levels[place].stride / CELL_PX
        values = F.avg_pool2d(values, round(1 / factor)) if factor < 1 else values
        if factor > 1:
            values = F.interpolate(values, scale_factor=factor, mode="bilinear", align_corners=False)
        deviation, mean = torch.std_mean(values, dim=(2, 3), keepdim=True)
        maps.append(F.normalize((values - mean) / (deviation + 1e-3), dim=1)[0])
    return np.asarray(torch.cat(maps).numpy(), np.float16)


@dataclass(frozen=True, slots=True)
class FollowerSettings:
    """How followers learn; dev-set values, see docs/explanation/experiments.md.

    Attributes:
        object_cells: root of the object's area in a patch, in cells of the patch.
        reach_cells: from the middle of a patch to its rim.
        bump: deviation of the answer around the object's middle, as a share of the root of its area.
        decay: weight of the squared filter.
        memory: frames that it learns from, the drawn one among them.
        later_weight: weight of a frame that was found, against the drawn one.
        sure: least answer, against the usual one, on which a frame is learned from.
        habit: weight of each answer that is learned from in the usual one.
        pace: frames from one lesson to the next; fewer to each of the first.
        first_steps: conjugate gradient steps on the drawn box.
        steps: the same in each later lesson.
    """

    object_cells: float = 6.0
    reach_cells: int = 12
    bump: float = 0.15
    decay: float = 0.05
    memory: int = 8
    later_weight: float = 0.3
    sure: float = 0.6
    habit: float = 0.2
    pace: int = 5
    first_steps: int = 20
    steps: int = 3


class Follower:
    """Follows one object from a drawn box in one direction.

    Args:
        features: of the frame with the drawn box, float ``(channels, h8, w8)``.
        middle: of the box, x and y in cells of ``features``.
        size: of the box, width and height in cells.
        settings: how it learns.
    """

    def __init__(
        self,
        features: torch.Tensor,
        middle: tuple[float, float],
        size: tuple[float, float],
        settings: FollowerSettings,
    ) -> None:
        self._settings = settings
        cells = [side / self._scale(size) for side in size]
        width, height = (int(np.clip(2 * round(side / 2) + 1, 3, 2 * settings.reach_cells + 1)) for side in cells)
        self._filter = torch.zeros((1, len(features), height, width), device=features.device)
        offsets = torch.arange(-settings.reach_cells, settings.reach_cells + 1, device=features.device)
        bump = torch.exp(-0.5 * (offsets / (settings.bump * (cells[0] * cells[1]) ** 0.5)) ** 2)
        self._wanted = bump[:, None] * bump[None]
        self._patches = [self._patch(features, middle, size)]
        self._since = 0
        self._usual, self._surest = float("nan"), 1.0
        self._fit(settings.first_steps)

    def _scale(self, size: tuple[float, float]) -> float:
        """Cells of the features for each cell of the patch."""
        return max(float((size[0] * size[1]) ** 0.5) / self._settings.object_cells, MIN_SCALE)

    def _patch(self, features: torch.Tensor, middle: tuple[float, float], size: tuple[float, float]) -> torch.Tensor:
        """Features ``(channels, side, side)`` around a place; outside the image they are 0."""
        reach = self._settings.reach_cells
        offsets = torch.arange(-reach, reach + 1, device=features.device) * self._scale(size)
        height, width = features.shape[1:]
        x = (middle[0] + offsets) / width * 2 - 1
        y = (middle[1] + offsets) / height * 2 - 1
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)[None]
        return F.grid_sample(features[None], grid, padding_mode="zeros", align_corners=False)[0]

    def _answers(self, patches: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
        padding = kernel.shape[2] // 2, kernel.shape[3] // 2
        return F.conv2d(patches, kernel, padding=padding)

    def _fit(self, steps: int) -> None:
        """Conjugate gradient steps toward the filter of least squares over the memory, from the one there is."""
        patches = torch.stack(self._patches)
        weights = torch.full((len(patches), 1, 1, 1), self._settings.later_weight, device=patches.device)
        weights[0] = 1.0
        padding = self._filter.shape[2] // 2, self._filter.shape[3] // 2
        swapped = patches.transpose(0, 1)

        def gradient(answers: torch.Tensor) -> torch.Tensor:
            # The gradient of a convolution with respect to its kernel is one too, over the frames as channels.
            return F.conv2d(swapped, (answers * weights).transpose(0, 1), padding=padding).transpose(0, 1)

        def applied(kernel: torch.Tensor) -> torch.Tensor:
            return gradient(self._answers(patches, kernel)) + self._settings.decay * kernel

        wanted = self._wanted.expand(len(patches), 1, *self._wanted.shape)
        left = gradient(wanted) - applied(self._filter)
        way, norm = left.clone(), (left * left).sum()
        for _ in range(steps):
            along = applied(way)
            rate = norm / (way * along).sum().clamp(min=1e-12)
            self._filter = self._filter + rate * way
            left = left - rate * along
            shorter = (left * left).sum()
            way = left + shorter / norm.clamp(min=1e-12) * way
            norm = shorter

    def answer(self, features: torch.Tensor, middle: tuple[float, float], size: tuple[float, float]) -> torch.Tensor:
        """How much each place looks like the object's middle.

        Args:
            features: of a frame, float ``(channels, h8, w8)``.
            middle: x and y of where to look, in cells.
            size: width and height of the object there, in cells.

        Returns:
            Float ``(h8, w8)``: about 1 where it is as wanted, never below 0; 0 out of reach.
        """
        found = self._answers(self._patch(features, middle, size)[None], self._filter).clamp(min=0)
        height, width = features.shape[1:]
        side = 2 * self._settings.reach_cells + 1
        x = torch.arange(width, device=features.device) + 0.5 - middle[0]
        y = torch.arange(height, device=features.device) + 0.5 - middle[1]
        # In patch cells from its middle, then from -1 to 1 over the whole patch.
        x, y = (2 * axis / self._scale(size) / side for axis in (x, y))
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)[None]
        return F.grid_sample(found, grid, padding_mode="zeros", align_corners=False)[0, 0]

    def learn(
        self, features: torch.Tensor, middle: tuple[float, float], size: tuple[float, float], answer: float
    ) -> float:
        """Learn how the object looks here.

        Args:
            features: of a frame, float ``(channels, h8, w8)``.
            middle: where the object was found, x and y in cells.
            size: its width and height in cells.
            answer: of this follower there.

        Returns:
            The least answer since the drawn box, against what was usual where it was given: about 1 at most. A follower
            that lost its object once may have found another one.
        """
        settings = self._settings
        # On the frame beside the drawn one the object is there, or nothing can be known of it.
        usual = max(LATER_SHARE * answer if np.isnan(self._usual) else self._usual, MIN_ANSWER)
        self._since += 1
        if answer >= settings.sure * usual:
            self._usual = (1 - settings.habit) * usual + settings.habit * answer
            # A young filter knows a frame or two only.
            if self._since >= min(settings.pace, len(self._patches)):
                self._since = 0
                # The drawn one stays.
                later = [*self._patches[1:], self._patch(features, middle, size)]
                self._patches = [self._patches[0], *later[-(settings.memory - 1) :]]
                self._fit(settings.steps)
        self._surest = min(self._surest, answer / usual)
        return self._surest
