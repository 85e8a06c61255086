"""Offline temporal inference between anchors.

For every frame the head gives *evidence*: log-odds per track. Two sweeps carry each track from the anchors through the
video along dense optical flow (DIS; Kroeger et al., ECCV 2016), one forward and one backward; on each frame the carried
mask is a prior that the evidence corrects, and evidence far from the prior is damped, which is what keeps look-alikes
out. Between two anchors the sweeps are blended by their distance to them. Anchors are never changed.

Long videos are worked through in windows, so memory does not depend on their length.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from micromodels.errors import Cancelled
from micromodels.events import Run, Stage, StageFinished, StopRequest
from micromodels.features import EncodedFrame, EncodedVideo
from micromodels.heads import DenseHead, pooled
from micromodels.parallel import mapped, narrow_operations
from micromodels.seeds import IGNORE, SeedFrame

__all__ = ["FramePosterior", "PropagationSettings", "propagate_windows"]

WINDOW_BYTES = 256 << 20
LOOK_AHEAD_FRAMES = 48
MIN_WINDOW_FRAMES = 16
CUT_CORRELATION = 0.25
"""Neighbouring frames whose grey thumbnails correlate less are a scene cut."""

Floats = npt.NDArray[np.float32]
_Maps = Mapping[int, torch.Tensor]


@dataclass(frozen=True, slots=True)
class PropagationSettings:
    """Weights of the sweeps; dev-set values, see docs/experiments.md.

    Attributes:
        temperature: divides the head's log-odds; an overfitted head is too sure of itself.
        prior_weight: weight of the carried mask's log-odds.
        gate: log-odds taken off per unit of distance from the carried mask.
        reach: that unit, as a share of the root of the object's area.
    """

    temperature: float = 1.0
    prior_weight: float = 0.5
    gate: float = 5.0
    reach: float = 0.4


@dataclass(frozen=True, slots=True)
class FramePosterior:
    """What is believed of one frame after both sweeps.

    Attributes:
        frame: frame index.
        log_odds: float32 ``(tracks, height / 2, width / 2)``: of each pixel belonging to each track.
        sides: float32 ``(4, height / 4, width / 4)`` distances to the box sides, or None.
        agreement: float32 ``(tracks,)`` IoU of the two sweeps' masks, NaN where only one reaches the frame.
        anchor_distance: frames to the nearest anchor; -1 where there is none.
        pooled: the frame's pooled features for frame classes.
        scene_cut: whether a cut lies between this frame and the one before.
    """

    frame: int
    log_odds: Floats = field(repr=False)
    sides: Floats | None = field(repr=False)
    agreement: Floats
    anchor_distance: int
    pooled: Floats = field(repr=False)
    scene_cut: bool = False


@dataclass
class _Frame:
    evidence: torch.Tensor  # float16 (tracks, h2, w2)
    sides: npt.NDArray[np.float16] | None
    grey: npt.NDArray[np.uint8]
    pooled: Floats


class _Motion:
    """Sampling grids between neighbouring frames of one window, at stride 4; None across a scene cut."""

    def __init__(self, frames: Mapping[int, _Frame], size: tuple[int, int], device: torch.device) -> None:
        self._frames, self._device = frames, device
        self._height, self._width = size[0] // 4, size[1] // 4
        self._grids: dict[tuple[int, int], torch.Tensor | None] = {}

    def grid(self, to: int, origin: int) -> torch.Tensor | None:
        """Where each pixel of frame ``to`` lies on frame ``origin``, for ``grid_sample``."""
        key = (to, origin)
        if key not in self._grids:
            here, there = self._frames[to].grey, self._frames[origin].grey
            if is_scene_cut(here, there):
                self._grids[key] = None
            else:
                empty = np.zeros((*here.shape, 2), np.float32)
                # One for each call: sweeps run in several threads, and the object keeps buffers.
                flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(here, there, empty)
                scale = np.array([self._width / flow.shape[1], self._height / flow.shape[0]], np.float32)
                flow = cv2.resize(flow, (self._width, self._height), interpolation=cv2.INTER_AREA) * scale
                columns, rows = np.meshgrid(np.arange(self._width), np.arange(self._height))
                x = (columns + flow[..., 0] + 0.5) * 2 / self._width - 1
                y = (rows + flow[..., 1] + 0.5) * 2 / self._height - 1
                grid = torch.from_numpy(np.stack([x, y], axis=-1).astype(np.float32))[None]
                self._grids[key] = grid.to(self._device)
        return self._grids[key]

    def carry(self, probability: torch.Tensor, to: int, origin: int) -> torch.Tensor | None:
        """Carry ``(tracks, h4, w4)`` from frame ``origin`` to its neighbour ``to``; None across a cut."""
        grid = self.grid(to, origin)
        if grid is None:
            return None
        return F.grid_sample(probability[None], grid, align_corners=False, padding_mode="zeros")[0]


def is_scene_cut(here: npt.NDArray[np.uint8], there: npt.NDArray[np.uint8]) -> bool:
    """Whether two neighbouring frames show different scenes: their 32 x 18 thumbnails hardly correlate."""
    small = [cv2.resize(grey, (32, 18), interpolation=cv2.INTER_AREA).astype(np.float32) for grey in (here, there)]
    a, b = (values - values.mean() for values in small)
    spread = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return spread > 1e-3 and float((a * b).sum()) / spread < CUT_CORRELATION


def propagate_windows(
    video: EncodedVideo,
    head: DenseHead | None,
    anchors: Mapping[int, SeedFrame],
    frames: range,
    run: Run,
    settings: PropagationSettings,
) -> Iterator[FramePosterior]:
    """Posterior of every frame of ``frames``, in order.

    Args:
        video: encoded frames.
        head: the dense head; None where the task has frame classes only.
        anchors: human labels by frame.
        frames: a range with step 1.
        run: events and stopping.
        settings: weights of the sweeps.

    Raises:
        Cancelled: the user cancelled.
    """
    device = next(head.parameters()).device if head is not None else torch.device("cpu")
    held: dict[int, _Frame] = {}
    carried: torch.Tensor | None = None
    tracks = head.settings.tracks if head is not None else 0
    per_frame = (tracks + 4) * video.size[0] * video.size[1] // 2 + 1
    length = int(np.clip(WINDOW_BYTES // per_frame, 16, 160))
    start = frames.start
    while start < frames.stop:
        stop = _window_end(start, min(frames.stop, start + length), anchors)
        ahead = _look_ahead(stop, frames.stop, anchors)
        with narrow_operations():
            for index, frame in _read(video, head, range(max([start, *[i + 1 for i in held]]), ahead), settings, run):
                held[index] = frame
            began = time.perf_counter()
            motion = _Motion(held, video.size, device)
            priors = {index: _drawn(anchors[index], device) for index in anchors if index in held}
            with ThreadPoolExecutor(1) as other:
                back = range(ahead - 1, start - 1, -1)
                promised = other.submit(_sweep, back, held, priors, motion, settings, None, ahead)
                forward = _sweep(range(start, stop), held, priors, motion, settings, carried, start - 1)
                backward = promised.result()

            believed = partial(
                _posterior, held=held, anchors=anchors, forward=forward, backward=backward, motion=motion
            )
            results = list(mapped(believed, iter(range(start, stop))))
            run.on_event(StageFinished(Stage.TEMPORAL, time.perf_counter() - began))
        last = forward.get(stop - 1)
        carried = torch.sigmoid(last) if last is not None else None
        yield from results
        held = {index: frame for index, frame in held.items() if index >= stop - 1}
        start = stop


def _window_end(start: int, stop: int, anchors: Mapping[int, SeedFrame]) -> int:
    """Windows end behind an anchor where there is one: nothing before it depends on what comes after, so labels of the
    span can go out."""
    inside = [index for index in anchors if start + MIN_WINDOW_FRAMES <= index + 1 <= stop]
    return min(inside) + 1 if inside else stop


def _look_ahead(stop: int, end: int, anchors: Mapping[int, SeedFrame]) -> int:
    """How far past a window its backward sweep starts: at the next anchor if that is near."""
    following = [index for index in anchors if stop <= index < min(end, stop + LOOK_AHEAD_FRAMES)]
    return max(stop, min(following) + 1) if following else stop


def _read(
    video: EncodedVideo, head: DenseHead | None, indices: range, settings: PropagationSettings, run: Run
) -> Iterator[tuple[int, _Frame]]:
    """The evidence on each frame of a range, several frames at once."""

    def predict(index: int, encoded: EncodedFrame) -> tuple[int, _Frame, float]:
        began = time.perf_counter()
        frame = _evidence(video.size, head, encoded.features, encoded.grey, settings)
        return index, frame, time.perf_counter() - began

    for index, frame, seconds in video.stream(indices, predict):
        if head is not None:
            run.on_event(StageFinished(Stage.PREDICT, seconds))
        yield index, frame
        if run.should_stop() is StopRequest.CANCEL:
            raise Cancelled("propagation was cancelled")


@torch.inference_mode()
def _evidence(
    size: tuple[int, int],
    head: DenseHead | None,
    features: list[npt.NDArray[np.float16]],
    grey: npt.NDArray[np.uint8],
    settings: PropagationSettings,
) -> _Frame:
    vector = pooled(features)
    if head is None:
        empty = torch.zeros((0, size[0] // 2, size[1] // 2), dtype=torch.float16)
        return _Frame(empty, None, grey, vector)
    device = next(head.parameters()).device
    inputs = [
        torch.from_numpy(level)[None].to(device).float().contiguous(memory_format=torch.channels_last)
        for level in features
    ]
    with torch.autocast(device.type, torch.bfloat16):
        output = head(inputs)
    log_odds = one_against_rest(output.logits[0].float()) / settings.temperature
    sides = output.sides[0].cpu().numpy().astype(np.float16) if output.sides is not None else None
    return _Frame(log_odds.to(torch.float16), sides, grey, vector)


def one_against_rest(logits: torch.Tensor) -> torch.Tensor:
    """Log-odds of each track against everything else: ``(tracks + 1, h, w)`` logits to ``(tracks, h, w)``."""
    if logits.shape[0] == 2:
        return (logits[1:] - logits[:1]).clamp(-16, 16)
    log_p = F.log_softmax(logits, dim=0)[1:]
    return (log_p - torch.log1p(-log_p.exp().clamp(max=1 - 1e-7))).clamp(-16, 16)


def _drawn(anchor: SeedFrame, device: torch.device) -> dict[int, torch.Tensor]:
    """Probability ``(h4, w4)`` of each track that people spoke of on an anchor."""
    maps = {}
    for track in np.nonzero(anchor.known)[0].tolist():
        drawn = torch.from_numpy((anchor.label_map == track + 1).astype(np.float32))[None]
        maps[track] = F.avg_pool2d(drawn[None], 4)[0, 0].to(device)
    return maps


def _sweep(
    order: range,
    held: Mapping[int, _Frame],
    priors: Mapping[int, Mapping[int, torch.Tensor]],
    motion: _Motion,
    settings: PropagationSettings,
    carried: torch.Tensor | None,
    carried_from: int,
) -> dict[int, torch.Tensor]:
    """Log-odds ``(tracks, h4, w4)`` of the frames that a sweep reaches from an anchor or the carried maps."""
    out: dict[int, torch.Tensor] = {}
    previous, origin = carried, carried_from
    for index in order:
        if previous is None and index not in priors:
            continue
        prior = motion.carry(previous, index, origin) if previous is not None and origin in held else None
        evidence = F.avg_pool2d(held[index].evidence.float()[None], 2)[0]
        out[index] = evidence if prior is None else combine(evidence, prior, settings)
        # What people drew replaces what was carried, track by track; of the others nothing was said.
        for track, drawn in priors.get(index, {}).items():
            out[index][track] = torch.logit(drawn, eps=1e-5)
        previous, origin = torch.sigmoid(out[index]), index
    return out


def combine(evidence: torch.Tensor, prior: torch.Tensor, settings: PropagationSettings) -> torch.Tensor:
    """Correct a carried mask by evidence.

    Args:
        evidence: log-odds ``(tracks, h, w)``.
        prior: carried probability ``(tracks, h, w)``.
        settings: weights.

    Returns:
        Log-odds ``(tracks, h, w)``.
    """
    odds = torch.logit(prior.clamp(0.08, 0.92))
    combined = evidence + settings.prior_weight * odds
    for track in range(len(prior)):
        near = prior[track] > 0.4
        area = float(near.sum())
        if area < 4:
            # Nothing to be near to: the object was out of sight, and the evidence alone may bring it back.
            combined[track] = evidence[track]
            continue
        distance = cv2.distanceTransform((~near).cpu().numpy().astype(np.uint8), cv2.DIST_L2, 3)
        unit = settings.reach * area**0.5 + 2.0
        penalty = settings.gate * (torch.from_numpy(distance).to(prior.device) / unit - 1.0).clamp(0.0, 3.0)
        combined[track] -= penalty
    return combined


def _forward_share(index: int, track: int, anchors: Mapping[int, SeedFrame], held: Mapping[int, _Frame]) -> float:
    """Weight of the forward sweep on a frame: by the distance to the track's own anchors on each side."""
    named = [frame for frame, anchor in anchors.items() if anchor.known[track]]
    before = max((frame for frame in named if frame < index), default=None)
    after = min((frame for frame in named if frame > index and frame in held), default=None)
    if after is None:
        return 1.0
    return 0.0 if before is None else (after - index) / (after - before)


def _posterior(
    index: int,
    held: Mapping[int, _Frame],
    anchors: Mapping[int, SeedFrame],
    forward: Mapping[int, torch.Tensor],
    backward: Mapping[int, torch.Tensor],
    motion: _Motion,
) -> FramePosterior:
    frame = held[index]
    evidence = frame.evidence.float()
    fine = evidence.clone()
    tracks = len(fine)
    distance = min((abs(index - anchor) for anchor in anchors), default=-1)
    agreement = np.full(tracks, np.nan, np.float32)
    one, other = forward.get(index), backward.get(index)
    if one is not None or other is not None:
        if one is not None and other is not None:
            shares = [_forward_share(index, track, anchors, held) for track in range(tracks)]
            share = torch.tensor(shares, device=fine.device)[:, None, None]
            blended = share * one + (1 - share) * other
            overlap = ((one > 0) & (other > 0)).flatten(1).sum(1).float()
            union = ((one > 0) | (other > 0)).flatten(1).sum(1).float()
            agreement = torch.where(union > 0, overlap / union.clamp(min=1), 1.0).cpu().numpy()
            agreement[[share in (0.0, 1.0) for share in shares]] = np.nan
        else:
            blended = one if one is not None else other  # type: ignore[assignment]
        assert blended is not None
        low = F.avg_pool2d(fine[None], 2)
        detail = fine - F.interpolate(low, size=fine.shape[-2:], mode="bilinear", align_corners=False)[0]
        fine = F.interpolate(blended[None], size=fine.shape[-2:], mode="bilinear", align_corners=False)[0] + detail
    if index in anchors:
        drawn = torch.from_numpy(anchors[index].label_map[::2, ::2].copy())
        agreement[anchors[index].known] = np.nan
        for track in np.nonzero(anchors[index].known)[0]:
            sure = torch.where(drawn == int(track) + 1, 12.0, -12.0)
            # The doubtful rim of a box seed keeps the evidence.
            fine[int(track)] = torch.where(drawn == IGNORE, evidence[int(track)].cpu(), sure).to(fine.device)
    cut = index - 1 in held and tracks > 0 and motion.grid(index, index - 1) is None
    sides = frame.sides.astype(np.float32) if frame.sides is not None else None
    return FramePosterior(index, fine.cpu().numpy(), sides, agreement, distance, frame.pooled, cut)
