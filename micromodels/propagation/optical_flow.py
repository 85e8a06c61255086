"""Optical flow between neighboring frames (DIS; Kroeger et al., ECCV 2016): measured once, kept, none across a cut."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from micromodels.encoding.encoded_video import ARRAY_READING
from micromodels.errors import Cancelled
from micromodels.propagation.predictions import FramePrediction, PredictionSource
from micromodels.runtime.parallel import mapped
from micromodels.runtime.run import Run, StopRequest

__all__ = ["Flows", "Motion", "StoredFlows", "measure_flows"]

DEFAULT_FLOW_BYTES = 1 << 30
CUT_CORRELATION = 0.25
"""Neighboring frames whose gray thumbnails correlate less are a scene cut."""
ASTRAY_CELLS, ASTRAY_SHARE = 1.0, 0.1
"""Flow is believed where the flow back ends no farther from the start than this and this share of its length."""

Flows = MutableMapping[tuple[int, int], npt.NDArray[np.float16]]
"""Flow in cells of stride 4 by (to, origin)."""


class Motion:
    """Sampling grids between neighboring frames at stride 4; None across a scene cut.

    Args:
        frames: predictions by frame; its gray images are looked at.
        size: of the work image (height, width).
        device: where grids go.
        flows: flow fields that are known, by (to, origin), float16 ``(height / 4, width / 4, 2)``; new ones are added.
    """

    def __init__(
        self, frames: Mapping[int, FramePrediction], size: tuple[int, int], device: torch.device, flows: Flows
    ) -> None:
        self._frames, self._device, self._flows = frames, device, flows
        self._height, self._width = size[0] // 4, size[1] // 4
        self._grids: dict[tuple[int, int], torch.Tensor | None] = {}
        self._coarse: dict[tuple[int, int], torch.Tensor | None] = {}
        self._returns: dict[tuple[int, int], torch.Tensor] = {}
        self._still = self._as_grid(np.zeros((self._height, self._width, 2), np.float16))

    def grid(self, to: int, origin: int) -> torch.Tensor | None:
        """Where each pixel of frame ``to`` lies on frame ``origin``, for ``grid_sample``."""
        key = (to, origin)
        if key not in self._grids:
            flow = self._flows.get(key)
            if flow is None:
                flow = self._flows[key] = _flow(self._frames[to].gray, self._frames[origin].gray)
            self._grids[key] = self._as_grid(flow) if flow.size else None
        return self._grids[key]

    def _as_grid(self, flow: npt.NDArray[np.float16]) -> torch.Tensor:
        columns, rows = np.meshgrid(np.arange(self._width), np.arange(self._height))
        x = (columns + flow[..., 0].astype(np.float32) + 0.5) * 2 / self._width - 1
        y = (rows + flow[..., 1].astype(np.float32) + 0.5) * 2 / self._height - 1
        return torch.from_numpy(np.stack([x, y], axis=-1).astype(np.float32))[None].to(self._device)

    def coarse_grid(self, to: int, origin: int) -> torch.Tensor | None:
        """The same at stride 8."""
        key = (to, origin)
        if key not in self._coarse:
            grid = self.grid(to, origin)
            mean = F.avg_pool2d(grid.movedim(-1, 1), 2).movedim(1, -1) if grid is not None else None
            self._coarse[key] = mean
        return self._coarse[key]

    def returns(self, to: int, origin: int) -> torch.Tensor:
        """Where the flow from frame ``to`` to its neighbor ``origin`` and the flow back agree.

        Returns:
            Float ``(h4, w4)``, 1 where they do; all 0 across a cut.
        """
        key = (to, origin)
        if key not in self._returns:
            there, back = self.grid(to, origin), self.grid(origin, to)
            if there is None or back is None:
                self._returns[key] = torch.zeros((self._height, self._width), device=self._device)
            else:
                ended = F.grid_sample(back.movedim(-1, 1), there, align_corners=False, padding_mode="border")
                cells = torch.tensor([self._width / 2, self._height / 2], device=self._device)
                astray = ((ended.movedim(1, -1) - self._still) * cells).norm(dim=-1)[0]
                length = ((there - self._still) * cells).norm(dim=-1)[0]
                self._returns[key] = (astray < ASTRAY_CELLS + ASTRAY_SHARE * length).float()
        return self._returns[key]

    def carry(self, probability: torch.Tensor, to: int, origin: int) -> torch.Tensor | None:
        """Carry ``(tracks, h4, w4)`` from frame ``origin`` to its neighbor ``to``; None across a cut."""
        grid = self.grid(to, origin)
        if grid is None:
            return None
        return F.grid_sample(probability[None], grid, align_corners=False, padding_mode="zeros")[0]


def _flow(here: npt.NDArray[np.uint8], there: npt.NDArray[np.uint8]) -> npt.NDArray[np.float16]:
    """Flow in cells of stride 4; of size 0 across a cut. Half floats: stored flow and new flow are the same."""
    if is_scene_cut(here, there):
        return np.zeros((0, 0, 2), np.float16)
    # One for each call: sweeps run in several threads, and the object keeps buffers.
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    flow = dis.calc(here, there, np.zeros((*here.shape, 2), np.float32))
    height, width = flow.shape[0] // 2, flow.shape[1] // 2
    return np.asarray(cv2.resize(flow, (width, height), interpolation=cv2.INTER_AREA) * 0.5, np.float16)


def measure_flows(source: PredictionSource, frames: range, run: Run, flows: Flows) -> None:
    """Add to ``flows`` what is missing between neighboring frames, both ways: sweeps to come will ask for it.

    Raises:
        Cancelled: the user cancelled; what was found stays.
    """

    def missing() -> Iterator[tuple[tuple[int, int], npt.NDArray[np.uint8], npt.NDArray[np.uint8]]]:
        before: tuple[int, npt.NDArray[np.uint8]] | None = None
        for index, predictions in source.stream(frames):
            if run.should_stop() is StopRequest.CANCEL:
                raise Cancelled("measuring motion was cancelled")
            if before is not None:
                last, gray = before
                if (last, index) not in flows:
                    yield (last, index), gray, predictions.gray
                if (index, last) not in flows:
                    yield (index, last), predictions.gray, gray
            before = index, predictions.gray

    for key, flow in mapped(lambda item: (item[0], _flow(item[1], item[2])), missing()):
        flows[key] = flow


def is_scene_cut(here: npt.NDArray[np.uint8], there: npt.NDArray[np.uint8]) -> bool:
    """Whether two neighboring frames show different scenes: their 32 x 18 thumbnails hardly correlate."""
    small = [cv2.resize(gray, (32, 18), interpolation=cv2.INTER_AREA).astype(np.float32) for gray in (here, there)]
    a, b = (values - values.mean() for values in small)
    spread = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return spread > 1e-3 and float((a * b).sum()) / spread < CUT_CORRELATION


class StoredFlows(MutableMapping[tuple[int, int], npt.NDArray[np.float16]]):
    """Optical flow between neighboring frames by (to, origin), kept in files of at most ``max_bytes``."""

    def __init__(self, folder: Path, max_bytes: int = DEFAULT_FLOW_BYTES) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        folder.mkdir(parents=True, exist_ok=True)
        self._known: OrderedDict[tuple[int, int], None] = OrderedDict()
        self._lock = threading.Lock()

    def _path(self, key: tuple[int, int]) -> Path:
        return self._folder / f"{key[0]}_{key[1]}.npy"

    def __getitem__(self, key: tuple[int, int]) -> npt.NDArray[np.float16]:
        if key not in self._known:
            raise KeyError(key)
        try:
            with ARRAY_READING:
                flow: npt.NDArray[np.float16] = np.load(self._path(key), allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            self._known.pop(key, None)
            raise KeyError(key) from error
        return flow

    def __setitem__(self, key: tuple[int, int], flow: npt.NDArray[np.float16]) -> None:
        with self._lock:  # the two sweeps run side by side
            while self._known and (len(self._known) + 1) * flow.nbytes > self._max_bytes:
                del self[next(iter(self._known))]
        with suppress(OSError):
            np.save(self._path(key), flow, allow_pickle=False)
            with self._lock:
                self._known[key] = None

    def __contains__(self, key: object) -> bool:
        return key in self._known

    def has_room(self, count: int, size: tuple[int, int]) -> bool:
        """Whether so many flows of work images of this height and width are kept at once."""
        return count * (size[0] // 4) * (size[1] // 4) * 4 <= self._max_bytes

    def __delitem__(self, key: tuple[int, int]) -> None:
        del self._known[key]
        self._path(key).unlink(missing_ok=True)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)
