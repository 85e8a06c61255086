"""Offline temporal inference between anchors.

For every frame the head gives *predictions*: log-odds per track. Two sweeps carry each track from the anchors through
the video along dense optical flow (DIS; Kroeger et al., ECCV 2016), one forward and one backward; on each frame the
carried mask is a prior that the predictions correct, and predictions far from the prior are damped, which is what keeps
look-alikes out. Motion counts only as far as it can be trusted: where the flow and the flow back disagree, nothing says
where anything went. Between two anchors the sweeps are blended by their distance to them. Anchors are never changed.
Tracks that are drawn as boxes also get the best path from anchor to anchor (``micromodels.propagation.box_path``).

Long videos are worked through in windows, so memory does not depend on their length.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from micromodels.errors import Cancelled
from micromodels.labels.geometry import mask_iou
from micromodels.labels.targets import IGNORE, SeedFrame
from micromodels.propagation.base import FramePosterior
from micromodels.propagation.box_path import (
    FramePlaces,
    PathSettings,
    PathSweep,
    Sizes,
    Ways,
    best_places,
    no_places,
    place_scores,
)
from micromodels.propagation.correlation_filter import CELL_PX
from micromodels.propagation.optical_flow import Motion, StoredFlows, measure_flows
from micromodels.propagation.predictions import FramePrediction, PredictionSource
from micromodels.runtime.parallel import mapped, narrow_operations
from micromodels.runtime.run import Run, Stage, StageFinished, StopRequest

__all__ = ["PropagationSettings", "Sweeps", "reach_frames"]

WINDOW_BYTES = 704 << 20
"""What a window may hold; one box track of 854x480 then has the longest reach."""
MAX_REACH_FRAMES = 192
MIN_REACH_FRAMES = 16
WINDOW_FRAMES = 96
MIN_WINDOW_FRAMES = 16
"""Shorter windows, ended at an anchor, are not worth their look-ahead."""
OUTSIDE_LOG_ODDS = -6.0
MIN_CARRIED_CELLS = 4
"""Of stride 4: what is carried of a smaller object says nothing of where it is."""
RIM_CELLS = 4
"""Around a carried mask, where its motion is looked at too."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class PropagationSettings:
    """Weights of the sweeps; dev-set values, see docs/explanation/experiments.md.

    Attributes:
        prior_weight: weight of the carried mask's log-odds.
        thin_prior_weight: the same where the head draws thin objects: flow says little of a line.
        gate: log-odds taken off per unit of distance from the carried mask.
        reach: that unit, as a share of the root of the object's area.
        check_motion: whether motion counts only as far as it leads back.
    """

    prior_weight: float = 0.5
    thin_prior_weight: float = 0.2
    gate: float = 5.0
    reach: float = 0.4
    check_motion: bool = True


def reach_frames(tracks: int, size: tuple[int, int], matched_channels: int) -> int:
    """How far before an anchor the backward sweep from it goes; depends on what a window may hold in memory.

    Args:
        tracks: number of tracks.
        size: of the work image (height, width).
        matched_channels: of ``FramePrediction.matched``; 0 without.
    """
    per_frame = size[0] * size[1] * ((tracks + 4) / 2 + 2 * matched_channels / CELL_PX**2)
    return int(np.clip(WINDOW_BYTES / per_frame / 2, MIN_REACH_FRAMES, MAX_REACH_FRAMES))


class Sweeps:
    """Temporal inference by two sweeps; see the module. A ``micromodels.propagation.base.TemporalInference``.

    Args:
        settings: weights of the sweeps.
        flows: optical flow that is known already; what is found is added. None: forgotten behind each window.
    """

    def __init__(self, settings: PropagationSettings = PropagationSettings(), flows: StoredFlows | None = None) -> None:
        self._settings, self._flows = settings, flows

    @classmethod
    def begin(cls, folder: Path | None = None, *, for_training: bool = False) -> Sweeps:
        """See ``micromodels.propagation.base.TemporalMethod``; optical flow is kept in ``folder``."""
        # What is learned from is better kept in its place by a doubtful motion than by none.
        settings = PropagationSettings(check_motion=not for_training)
        return cls(settings, StoredFlows(folder) if folder is not None else None)

    def prepare(self, source: PredictionSource, frames: range, run: Run) -> None:
        """Measure the optical flow between all neighbors, if all of it can be kept."""
        if self._flows is not None and self._flows.has_room(2 * len(frames), source.size):
            measure_flows(source, frames, run, self._flows)

    def posteriors(
        self,
        source: PredictionSource,
        anchors: Mapping[int, SeedFrame],
        frames: range,
        run: Run,
        boxed: Sequence[bool] = (),
    ) -> Iterator[FramePosterior]:
        """See ``micromodels.propagation.base.TemporalInference.posteriors``; box tracks get paths.

        Neither other tracks' anchors nor the ends of windows make a difference to a track.
        """
        held: dict[int, FramePrediction] = {}
        carried = _Carried.nothing(source.tracks)
        reach = reach_frames(source.tracks, source.size, source.matched_channels)
        known = _known_frames(anchors, source.tracks)
        sizes = Sizes(anchors, known, boxed)
        onward = PathSweep(sizes, PathSettings())
        start = frames.start
        while start < frames.stop:
            stop = _window_end(start, min(frames.stop, start + min(WINDOW_FRAMES, reach)), anchors)
            ahead = _look_ahead(stop, frames.stop, reach, known)
            with narrow_operations():
                for index, predictions in source.stream(range(max([start, *[i + 1 for i in held]]), ahead)):
                    held[index] = predictions
                    if run.should_stop() is StopRequest.CANCEL:
                        raise Cancelled("propagation was cancelled")
                began = time.perf_counter()
                motion = Motion(held, source.size, source.device, {} if self._flows is None else self._flows)
                met = [i for i in anchors if i in held]
                priors = {i: _drawn(anchors[i], source.device, thin=bool(held[i].details)) for i in met}
                with ThreadPoolExecutor(1) as other:
                    back, nothing = range(ahead - 1, start - 1, -1), _Carried.nothing(source.tracks)
                    promised = other.submit(_sweep, back, held, priors, motion, self._settings, nothing)
                    forward, last = _sweep(range(start, stop), held, priors, motion, self._settings, carried)
                    backward, _ = promised.result()
                ways = _paths(range(start, stop), ahead, held, anchors, sizes, motion, onward)
                believed = partial(
                    _posterior,
                    ways=ways,
                    held=held,
                    anchors=anchors,
                    known=known,
                    reach=reach,
                    forward=forward,
                    backward=backward,
                    motion=motion,
                )
                results = list(mapped(believed, iter(range(start, stop))))
                run.on_event(StageFinished(Stage.TEMPORAL, time.perf_counter() - began))
            carried = last
            yield from results
            held = {index: frame for index, frame in held.items() if index >= stop - 1}
            start = stop


def _known_frames(anchors: Mapping[int, SeedFrame], tracks: int) -> list[list[int]]:
    """Frames on which people spoke of each track, ascending."""
    ordered = sorted(anchors)
    return [[frame for frame in ordered if anchors[frame].known[track]] for track in range(tracks)]


def _window_end(start: int, stop: int, anchors: Mapping[int, SeedFrame]) -> int:
    """Windows end behind an anchor where there is one, so that labels of a finished span can go out."""
    inside = [index for index in anchors if start + MIN_WINDOW_FRAMES <= index + 1 <= stop]
    return min(inside) + 1 if inside else stop


def _look_ahead(stop: int, end: int, reach: int, known: Sequence[Sequence[int]]) -> int:
    """How far past a window its backward sweep starts: at the farthest of the tracks' next anchors within reach."""
    ahead = stop
    for frames in known:
        position = bisect_left(frames, stop - 1)
        if position < len(frames) and stop <= frames[position] < min(end, stop + reach):
            ahead = max(ahead, frames[position] + 1)
    return ahead


def _coarse(frame: FramePrediction) -> torch.Tensor:
    """Log-odds ``(tracks, h4, w4)``: means, or maxima where a head draws thin objects, so that lines stay whole."""
    pool = F.max_pool2d if frame.details else F.avg_pool2d
    return pool(frame.log_odds.float()[None], 2)[0]


def _drawn(anchor: SeedFrame, device: torch.device, *, thin: bool) -> dict[int, torch.Tensor]:
    """Probability ``(h4, w4)`` of each track that people spoke of on an anchor."""
    maps = {}
    for track in np.nonzero(anchor.known)[0].tolist():
        drawn = torch.from_numpy((anchor.label_map == track + 1).astype(np.float32))[None]
        maps[track] = (F.max_pool2d if thin else F.avg_pool2d)(drawn[None], 4)[0, 0].to(device)
    return maps


@dataclass(frozen=True, slots=True)
class _Carried:
    """Where a sweep stands: probability ``(tracks, h4, w4)`` on ``frame``, and which tracks it has an anchor of."""

    probability: torch.Tensor | None
    frame: int
    alive: npt.NDArray[np.bool_]

    @classmethod
    def nothing(cls, tracks: int) -> _Carried:
        """Before the first anchor."""
        return cls(None, -1, np.zeros(tracks, bool))


def _sweep(
    order: range,
    held: Mapping[int, FramePrediction],
    priors: Mapping[int, Mapping[int, torch.Tensor]],
    motion: Motion,
    settings: PropagationSettings,
    carried: _Carried,
) -> tuple[dict[int, torch.Tensor], _Carried]:
    """Log-odds ``(tracks, h4, w4)`` of the frames that a sweep reaches from an anchor or the carried maps.

    A track that no anchor was met of yet has its predictions there.
    """
    out: dict[int, torch.Tensor] = {}
    previous, origin, alive = carried.probability, carried.frame, carried.alive.copy()
    for index in order:
        if previous is None and not priors.get(index):
            continue
        prior = motion.carry(previous, index, origin) if previous is not None and origin in held else None
        predictions = _coarse(held[index])
        weight = settings.thin_prior_weight if held[index].details else settings.prior_weight
        if prior is None:
            out[index] = predictions
        else:
            trust = torch.ones(len(prior), device=prior.device)
            if settings.check_motion:
                trust = believed_share(prior, motion.returns(index, origin))
            out[index] = combine(predictions, prior, trust, settings, weight, alive)
        # What people drew replaces what was carried, track by track; of the others nothing was said.
        for track, drawn in priors.get(index, {}).items():
            out[index][track] = torch.logit(drawn, eps=1e-5)
            alive[track] = True
        previous, origin = torch.sigmoid(out[index]), index
    return out, _Carried(previous, origin, alive)


def believed_share(prior: torch.Tensor, returns: torch.Tensor) -> torch.Tensor:
    """How far the motion of what was carried is to be believed.

    Args:
        prior: carried probability ``(tracks, h, w)``.
        returns: of ``Motion.returns``, ``(h, w)``.

    Returns:
        Float ``(tracks,)``: share of each carried mask and its rim on which it is; 1 where nothing was carried.
    """
    around = F.max_pool2d(prior[None], 2 * RIM_CELLS + 1, 1, RIM_CELLS)[0]
    total = around.flatten(1).sum(1)
    share = (around * returns).flatten(1).sum(1) / total.clamp(min=1e-6)
    return torch.where(total > MIN_CARRIED_CELLS, share, 1.0)


def combine(
    predictions: torch.Tensor,
    prior: torch.Tensor,
    trust: torch.Tensor,
    settings: PropagationSettings,
    weight: float,
    alive: npt.NDArray[np.bool_] | None = None,
) -> torch.Tensor:
    """Correct a carried mask by predictions.

    Args:
        predictions: log-odds ``(tracks, h, w)``.
        prior: carried probability ``(tracks, h, w)``.
        trust: float ``(tracks,)``, 0 to 1: how much of the prior's weight and of the gate is left.
        settings: the gate.
        weight: of the prior's log-odds.
        alive: bool ``(tracks,)``: which tracks the prior speaks of; of the others the predictions stays. None: all.

    Returns:
        Log-odds ``(tracks, h, w)``.
    """
    odds = torch.logit(prior.clamp(0.08, 0.92))
    combined = predictions + weight * trust[:, None, None] * odds
    for track in range(len(prior)):
        if alive is not None and not alive[track]:
            combined[track] = predictions[track]
            continue
        near = prior[track] > 0.4
        area = float(near.sum())
        if area < MIN_CARRIED_CELLS:
            # Nothing to be near to: the object was out of sight, and the predictions alone may bring it back.
            combined[track] = predictions[track]
            continue
        distance = cv2.distanceTransform((~near).cpu().numpy().astype(np.uint8), cv2.DIST_L2, 3)
        unit = settings.reach * area**0.5 + 2.0
        penalty = settings.gate * (torch.from_numpy(distance).to(prior.device) / unit - 1.0).clamp(0.0, 3.0)
        combined[track] -= trust[track] * penalty
    return combined


class _Blend:
    """Which sweeps reach a frame, per track, and the weight of the forward one there."""

    def __init__(self, known: Sequence[Sequence[int]], index: int, reach: int) -> None:
        self.forward = np.ones(len(known), np.float32)
        self.reached = np.zeros((2, len(known)), bool)
        self.distance = np.full(len(known), -1, np.int64)
        for track, frames in enumerate(known):
            position = bisect_left(frames, index)
            before = frames[position - 1] if position else None
            after = frames[position] if position < len(frames) else None
            near = [abs(index - frame) for frame in (before, after) if frame is not None]
            self.distance[track] = min(near, default=-1)
            if after == index:
                before = after = index
            elif after is not None and after - index >= reach:
                after = None
            self.reached[:, track] = before is not None, after is not None
            if after is not None:
                # Ramps over the span, or over the reach of the backward sweep where the span is longer.
                span = reach if before is None else min(after - before, reach)
                self.forward[track] = 0.0 if before is None else (after - index) / max(span, 1)


def _paths(
    frames: range,
    ahead: int,
    held: Mapping[int, FramePrediction],
    anchors: Mapping[int, SeedFrame],
    sizes: Sizes,
    motion: Motion,
    onward: PathSweep,
) -> dict[int, FramePlaces]:
    """Places of box tracks on the frames of a window; ``onward`` is the forward sweep over all windows."""
    if not any(sizes.boxes):
        return {}
    settings = PathSettings()
    everything = range(frames.start, ahead)
    scores = dict(
        zip(everything, mapped(lambda i: place_scores(held[i], i, sizes, settings), iter(everything)), strict=True)
    )
    back = PathSweep(sizes, settings)

    def step(sweep: PathSweep, index: int, *, known: bool) -> Ways:
        return sweep.step(index, scores[index], held[index], anchors.get(index), motion, known)

    with ThreadPoolExecutor(1) as other:
        promised = other.submit(lambda: {i: step(back, i, known=i + 1 in held) for i in reversed(everything)})
        forward = {i: step(onward, i, known=i - 1 in held) for i in frames}
        backward = promised.result()
    return {i: best_places(held[i], scores[i], forward[i], backward[i]) for i in frames}


def _posterior(
    index: int,
    held: Mapping[int, FramePrediction],
    anchors: Mapping[int, SeedFrame],
    known: Sequence[Sequence[int]],
    reach: int,
    forward: Mapping[int, torch.Tensor],
    backward: Mapping[int, torch.Tensor],
    motion: Motion,
    ways: Mapping[int, FramePlaces],
) -> FramePosterior:
    frame, blend = held[index], _Blend(known, index, reach)
    fine = frame.log_odds.float()
    tracks = len(fine)
    agreement = np.full(tracks, np.nan, np.float32)
    if blend.reached.any():
        predictions = _coarse(frame)
        one, other = forward.get(index, predictions), backward.get(index, predictions)
        share = torch.from_numpy(blend.forward).to(fine.device)[:, None, None]
        blended = share * one + (1 - share) * other
        nowhere = torch.from_numpy(~blend.reached.any(axis=0)).to(fine.device)
        blended[nowhere] = predictions[nowhere]
        agreement = mask_iou(one > 0, other > 0).cpu().numpy()
        agreement[~blend.reached.all(axis=0)] = np.nan
        detail = fine - F.interpolate(predictions[None], size=fine.shape[-2:], mode="bilinear", align_corners=False)[0]
        fine = F.interpolate(blended[None], size=fine.shape[-2:], mode="bilinear", align_corners=False)[0] + detail
    if index in anchors:
        _draw_anchor(fine, frame, anchors[index])
        agreement[anchors[index].known] = np.nan
    cut = index - 1 in held and tracks > 0 and motion.grid(index, index - 1) is None
    sides = frame.sides.astype(np.float32) if frame.sides is not None else None
    places = ways.get(index) or no_places(tracks)
    log_odds = fine.cpu().numpy()
    _keep_inside(log_odds, places)
    return FramePosterior(index, log_odds, sides, agreement, blend.distance, frame.pooled, places, cut, frame.details)


def _keep_inside(log_odds: Floats, places: FramePlaces) -> None:
    """A track with a path is nowhere but in its box and a rim around it."""
    height, width = log_odds.shape[1:]
    for track, box in enumerate(places.boxes):
        if np.isnan(box[0]):
            continue
        middle, half = (box[:2] + box[2:]) / 4, 0.6 * (box[2:] - box[:2]) / 2
        low = np.clip(np.floor(middle - half), 0, [width, height]).astype(int)
        high = np.clip(np.ceil(middle + half), 0, [width, height]).astype(int)
        outside = np.ones((height, width), bool)
        outside[low[1] : high[1], low[0] : high[0]] = False
        log_odds[track][outside] = np.minimum(log_odds[track][outside], OUTSIDE_LOG_ODDS)


def _draw_anchor(fine: torch.Tensor, frame: FramePrediction, anchor: SeedFrame) -> None:
    """Put what people drew into a frame's log-odds."""
    drawn = torch.from_numpy(anchor.label_map[::2, ::2].copy()).to(fine.device)
    for track in np.nonzero(anchor.known)[0].tolist():
        sure = torch.where(drawn == track + 1, 12.0, -12.0)
        # The doubtful rim of a box seed keeps the predictions.
        fine[track] = torch.where(drawn == IGNORE, frame.log_odds[track].float(), sure)
