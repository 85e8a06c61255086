"""Which frame a person should look at next, and why.

A frame is worth a look for what drawing it would put right: itself, and those around it that are wrong too and that an
anchor there would reach. With ``p`` the probability that a label is wrong, ``d`` the distance of a frame to the nearest
fixed frame of the track (in frames; a scene cut is far) and ``h(d) = 1 - exp(-d / reach)`` how likely propagation has
failed at that distance, an anchor on frame ``f`` puts frame ``i`` right with probability ``1 - h(|i - f|) / h(d)``. The
gain of ``f`` is that sum over the frames around it, given that ``f`` is wrong, times the probability that it is.

What people accepted and what they corrected so far tells how far labels can be trusted in this video: ``p`` is a
logistic regression on confidence, distance, novelty and disagreement, and ``reach`` a rate of failure, both drawn from
a prior toward these verdicts (maximum a posteriori).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from micromodels.correction.consistency import closeness, jump_scores, suspected_swaps
from micromodels.labels.track_arrays import TrackSeries

__all__ = ["JudgedLabel", "ReasonKind", "Signals", "Suggestion", "Trust", "suggest"]

Doubles = npt.NDArray[np.float64]

FAR = 1000.0
"""Distance, in frames, of what no fixed frame of the scene can tell."""
REACHES = 2.0 ** np.arange(0.0, 9.5, 0.5)
PRIOR_REACH = 16.0
PRIOR_MEAN = np.array([0.0, 0.7, 0.5, 0.5, 0.5])
PRIOR_DEVIATION = np.array([1.5, 0.4, 0.4, 0.4, 0.4])
"""Of the weights of: constant, log-odds of the confidence, log distance, novelty, disagreement."""
MAX_OFFSETS = 64
LIKENESS_FRAMES = 4.0
"""Within about this many frames of a wrong label others are wrong too."""


class ReasonKind(StrEnum):
    """Why a frame is suggested."""

    SCENE_CUT = "scene_cut"
    SUSPECTED_SWAP = "suspected_swap"
    CROSSING = "crossing"
    JUMP = "jump"
    APPEARS = "appears"
    VANISHES = "vanishes"
    CONFIDENCE_DROP = "confidence_drop"
    SWEEPS_DISAGREE = "sweeps_disagree"
    UNLIKE_LABELED = "unlike_labeled"
    FAR_FROM_LABELED = "far_from_labeled"
    UNSURE = "unsure"


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A frame worth a look.

    Attributes:
        frame: frame index.
        tracks: tracks (or frame classes) that are likely wrong there, the likeliest first.
        expected_gain_frames: how many labels, of the frame and of those around it, drawing it is expected to put right.
        wrong_probability: that something on the frame is wrong.
        reason_kind: why.
        reason_text: why, in words.
    """

    frame: int
    tracks: tuple[str, ...]
    expected_gain_frames: float
    wrong_probability: float
    reason_kind: ReasonKind
    reason_text: str


@dataclass(frozen=True, slots=True)
class JudgedLabel:
    """What a person said of one predicted label: its features as they were then, its distance, and whether wrong."""

    features: Doubles = field(repr=False)
    distance: float
    wrong: bool


@dataclass(frozen=True, slots=True)
class Signals:
    """What is known of the frames besides their labels.

    Attributes:
        frame_count: of the video.
        cuts: frames behind a scene cut.
        agreement: by track, IoU of the two sweeps on each frame, NaN where it is not known.
        looks: by track, float ``(frames, n)`` how the object looks on each frame, NaN where it is not known.
    """

    frame_count: int
    cuts: frozenset[int] = frozenset()
    agreement: Mapping[str, Doubles] = field(default_factory=dict)
    looks: Mapping[str, npt.NDArray[np.float16]] = field(default_factory=dict)


class Trust:
    """How far labels of this video can be trusted, from what people said of some of them."""

    def __init__(self, judged: Sequence[JudgedLabel] = ()) -> None:
        self.weights = _fitted(judged)
        self.reach = _fitted_reach(judged)

    def wrong(self, features: Doubles) -> Doubles:
        """Probability ``(n,)`` that labels with features ``(n, 5)`` are wrong."""
        return np.asarray(1 / (1 + np.exp(-(features @ self.weights))), np.float64)

    def failed(self, distance: Doubles) -> Doubles:
        """How likely propagation has failed at a distance: ``h``."""
        return np.asarray(1 - np.exp(-distance / self.reach), np.float64)


def _fitted(judged: Sequence[JudgedLabel]) -> Doubles:
    """Weights by Newton's method on the log posterior."""
    weights = PRIOR_MEAN.copy()
    if not judged:
        return weights
    x = np.stack([label.features for label in judged])
    y = np.array([label.wrong for label in judged], float)
    precision = 1 / PRIOR_DEVIATION**2
    for _ in range(12):
        p = 1 / (1 + np.exp(-np.clip(x @ weights, -30, 30)))
        gradient = x.T @ (y - p) - precision * (weights - PRIOR_MEAN)
        hessian = (x * (p * (1 - p))[:, None]).T @ x + np.diag(precision)
        step = np.linalg.solve(hessian, gradient)
        weights = weights + step * min(1.0, 2.0 / float(np.abs(step).max() + 1e-9))
    return weights


def _fitted_reach(judged: Sequence[JudgedLabel]) -> float:
    """Mean distance to failure: exponential hazard, log-normal prior of one e-fold."""
    score = -0.5 * np.log(REACHES / PRIOR_REACH) ** 2
    for label in judged:
        failed = 1 - np.exp(-min(label.distance, FAR) / REACHES)
        score = score + np.log(np.clip(failed if label.wrong else 1 - failed, 1e-6, 1))
    return float(REACHES[int(np.argmax(score))])


def features_of(series: TrackSeries, signals: Signals) -> tuple[Doubles, Doubles]:
    """Features ``(frames, 5)`` of a track's labels, and their distances ``(frames,)`` to the nearest fixed frame."""
    distance = distance_to_fixed(series.fixed, signals.cuts)
    confidence = np.clip(np.nan_to_num(series.confidence, nan=0.5), 0.01, 0.99)
    disagreement = 1 - np.nan_to_num(signals.agreement.get(series.track, np.full(len(distance), np.nan)), nan=0.8)
    columns = [
        np.ones(len(distance)),
        np.log((1 - confidence) / confidence),
        np.log1p(np.minimum(distance, 200.0)) - np.log1p(PRIOR_REACH),
        _novelty(series, signals),
        4 * (disagreement - 0.2),
    ]
    return np.stack(columns, axis=1), distance


def distance_to_fixed(fixed: npt.NDArray[np.bool_], cuts: frozenset[int]) -> Doubles:
    """Frames to the nearest fixed frame of the same scene; ``FAR`` where there is none."""
    count = len(fixed)
    out = np.full(count, FAR)
    for order in (range(count), range(count - 1, -1, -1)):
        reached = FAR
        for frame in order:
            crossed = frame if order.step > 0 else frame + 1
            reached = 0.0 if fixed[frame] else (FAR if crossed in cuts else min(reached + 1, FAR))
            out[frame] = min(out[frame], reached)
    return out


def _novelty(series: TrackSeries, signals: Signals) -> Doubles:
    """How unlike any fixed frame the object looks, in deviations from the usual; 0 where that is not known."""
    looks = signals.looks.get(series.track)
    if looks is None:
        return np.zeros(len(series.fixed))
    known = ~np.isnan(looks[:, 0])
    labeled = known & series.fixed & series.shown
    if not labeled.any() or known.sum() < 3:
        return np.zeros(len(series.fixed))
    gaps = np.full(len(looks), np.inf)
    for anchor in looks[labeled].astype(np.float32):
        gaps = np.minimum(gaps, np.linalg.norm(looks - anchor, axis=1))
    gaps[~known] = np.nan
    middle = float(np.nanmedian(gaps))
    spread = float(np.nanmedian(np.abs(gaps - middle))) + 1e-6
    return np.asarray(np.nan_to_num(np.clip((gaps - middle) / (1.5 * spread), -2, 3)), np.float64)


class _Channel:
    """One track while frames are chosen."""

    def __init__(self, series: TrackSeries, signals: Signals, trust: Trust) -> None:
        self.series = series
        self.features, self.distance = features_of(series, signals)
        self.wrong = np.where(series.labeled & ~series.fixed, trust.wrong(self.features), 0.0)

    def gains(self, trust: Trust, scene: npt.NDArray[np.int64]) -> Doubles:
        """Expected number of labels put right by drawing each frame."""
        window = int(min(len(self.wrong) - 1, max(8, 5 * trust.reach)))
        # Far frames change slowly with the distance: a wide window is summed in coarser steps.
        stride = max(1, window // MAX_OFFSETS)
        total = self.wrong.copy()
        for offset in range(1, window + 1, stride):
            alike = np.exp(-offset / LIKENESS_FRAMES)
            for drawn, other in _pairs(offset):
                share = self._share(trust, offset, other) * (scene[drawn] == scene[other])
                wrong = self.wrong[other]
                given = np.where(wrong > 0, wrong + (1 - wrong) * alike, 0.0)
                total[drawn] += stride * self.wrong[drawn] * given * share
        return np.asarray(total, np.float64)

    def _share(self, trust: Trust, offset: int, other: slice) -> Doubles:
        """Probability that an anchor ``offset`` frames away puts a wrong label right."""
        failed = np.maximum(trust.failed(self.distance[other]), 1e-9)
        near = float(trust.failed(np.array(float(offset))))
        return np.where(self.distance[other] > offset, np.clip(1 - near / failed, 0, 1), 0.0)

    def settle(self, frame: int, trust: Trust, scene: npt.NDArray[np.int64]) -> None:
        """Go on as if the frame had been drawn."""
        distance = np.abs(np.arange(len(self.wrong)) - frame).astype(float)
        distance[scene != scene[frame]] = FAR
        nearer = distance < self.distance
        failed = np.maximum(trust.failed(self.distance), 1e-9)
        keep = np.where(nearer, trust.failed(distance) / failed, 1.0)
        self.wrong = self.wrong * np.clip(keep, 0, 1)
        self.distance = np.minimum(self.distance, distance)
        self.wrong[frame] = 0.0


def _pairs(offset: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Frames and those ``offset`` behind them, and those before them."""
    early, late = slice(None, -offset), slice(offset, None)
    return (early, late), (late, early)


def suggest(
    series: Sequence[TrackSeries], signals: Signals, trust: Trust, count: int, skip: frozenset[int] = frozenset()
) -> list[Suggestion]:
    """The frames most worth a look, the best first; each counts on those before it being drawn.

    Args:
        series: tracks, and frame classes in the same form.
        signals: what else is known of the frames.
        trust: how far labels can be trusted.
        count: how many frames at most; fewer come where nothing is to be gained.
        skip: frames not to suggest.
    """
    channels = [_Channel(one, signals, trust) for one in series]
    scene = np.zeros(signals.frame_count, np.int64)
    scene[[cut for cut in signals.cuts if cut < signals.frame_count]] = 1
    scene = np.cumsum(scene)
    reasons = _Reasons(series, signals)
    chosen: list[Suggestion] = []
    left = np.ones(signals.frame_count, bool)
    left[list(skip)] = False
    while channels and len(chosen) < count:
        gains = np.stack([channel.gains(trust, scene) for channel in channels])
        total = np.where(left, gains.sum(axis=0), -1.0)
        frame = int(np.argmax(total))
        if total[frame] <= 1e-3:
            break
        order = np.argsort(-gains[:, frame])
        names = [channels[i].series.track for i in order if gains[i, frame] > 0.25 * gains[order[0], frame]]
        wrong = 1 - float(np.prod([1 - channel.wrong[frame] for channel in channels]))
        kind, text = reasons.of(frame, names)
        chosen.append(Suggestion(frame, tuple(names), float(total[frame]), wrong, kind, text))
        left[frame] = False
        for channel in channels:
            channel.settle(frame, trust, scene)
    return chosen


class _Reasons:
    """Words for what the predictions shows around a frame."""

    def __init__(self, series: Sequence[TrackSeries], signals: Signals) -> None:
        self._series = {one.track: one for one in series}
        self._signals = signals
        self._swaps = suspected_swaps(self._series) if len(series) > 1 else []

    def of(self, frame: int, names: Sequence[str]) -> tuple[ReasonKind, str]:
        """The strongest reason for a frame, for the tracks named."""
        found: list[tuple[float, ReasonKind, str]] = []
        for name in names[:3]:
            one = self._series[name]
            found += self._of_one_sided(one)
            found += self._of_confidence(one, frame)
            found += self._of_changes(one, frame)
            found += self._of_neighbors(one, frame)
            found += self._of_looks(one, frame)
        found += self._of_cuts(frame)
        if not found:
            found.append((0.0, ReasonKind.UNSURE, f"unsure of {', '.join(names[:3])}"))
        _, kind, text = max(found, key=lambda item: item[0])
        # What happens explains more than what the micro-model thinks of it; both together say most.
        drops = [words for _, other, words in found if other is ReasonKind.CONFIDENCE_DROP]
        return kind, text if kind is ReasonKind.CONFIDENCE_DROP or not drops else f"{text}; {drops[0]}"

    def _of_cuts(self, frame: int) -> list[tuple[float, ReasonKind, str]]:
        behind = [cut for cut in self._signals.cuts if 0 <= frame - cut <= 8]
        return [(0.95, ReasonKind.SCENE_CUT, f"scene cut at frame {max(behind)}")] if behind else []

    def _of_one_sided(self, one: TrackSeries) -> list[tuple[float, ReasonKind, str]]:
        """A frame class that people only ever called present, or only absent."""
        shown = one.shown[one.fixed]
        if not one.is_frame_class or not len(shown) or (shown.any() and not shown.all()):
            return []
        other = "absent" if shown.all() else "present"
        return [(0.99, ReasonKind.UNSURE, f"no frame is marked {other} for {one.track}; mark one")]

    def _of_confidence(self, one: TrackSeries, frame: int) -> list[tuple[float, ReasonKind, str]]:
        here = one.confidence[frame]
        usual = float(np.nanmedian(one.confidence)) if not np.isnan(one.confidence).all() else np.nan
        out = []
        if not np.isnan(here) and usual - here > 0.1:
            text = f"confidence in {one.track} drops to {here:.0%}; usually {usual:.0%}"
            out.append((0.3 + min(0.3, usual - here), ReasonKind.CONFIDENCE_DROP, text))
        distance = distance_to_fixed(one.fixed, self._signals.cuts)[frame]
        if distance >= FAR:
            out.append((0.3, ReasonKind.FAR_FROM_LABELED, f"no checked frame of {one.track} in this scene"))
        elif distance > 8:
            text = f"{distance:.0f} frames from the nearest checked frame of {one.track}"
            out.append((0.2 + min(0.2, distance / 400), ReasonKind.FAR_FROM_LABELED, text))
        agreement = self._signals.agreement.get(one.track)
        if agreement is not None and agreement[frame] < 0.6:
            text = f"{one.track} followed forward and backward differs (overlap {agreement[frame]:.0%})"
            out.append((0.5 + 0.4 * (0.6 - float(agreement[frame])), ReasonKind.SWEEPS_DISAGREE, text))
        return out

    def _of_changes(self, one: TrackSeries, frame: int) -> list[tuple[float, ReasonKind, str]]:
        out = []
        around = slice(max(0, frame - 2), frame + 3)
        area, step = (scores[around].max(initial=0.0) for scores in jump_scores(one))
        if max(area, step) > 0:
            what = "changes size" if area >= step else "jumps"
            out.append(
                (0.45 + 0.4 * max(area, step), ReasonKind.JUMP, f"{one.track} {what} suddenly around frame {frame}")
            )
        shown = one.shown[around]
        if shown.any() and not shown.all() and one.labeled[around].all():
            if shown[-1]:
                out.append((0.7, ReasonKind.APPEARS, f"{one.track} appears around frame {frame}"))
            else:
                out.append((0.7, ReasonKind.VANISHES, f"{one.track} disappears around frame {frame}"))
        return out

    def _of_neighbors(self, one: TrackSeries, frame: int) -> list[tuple[float, ReasonKind, str]]:
        out = []
        for swap in self._swaps:
            if one.track in swap.tracks and swap.score > 0.5 and abs(swap.frame - frame) <= 10:
                text = f"{swap.tracks[0]} and {swap.tracks[1]} may have changed identities at frame {swap.start}"
                out.append((0.6 + 0.3 * swap.score, ReasonKind.SUSPECTED_SWAP, text))
        for other in self._series.values():
            if other.track != one.track and len(other.boxes) and closeness(one, other)[frame] < 0.7:
                out.append((0.65, ReasonKind.CROSSING, f"{one.track} and {other.track} cross"))
        return out

    def _of_looks(self, one: TrackSeries, frame: int) -> list[tuple[float, ReasonKind, str]]:
        novelty = _novelty(one, self._signals)[frame]
        if novelty < 1.5:
            return []
        text = f"{one.track} looks different from every checked frame"
        return [(0.45 + 0.1 * float(novelty), ReasonKind.UNLIKE_LABELED, text)]
