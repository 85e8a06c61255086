"""From posteriors to labels: presence, shape, state and confidence of every track on every frame.

Boxes are smoothed over time by a constant-velocity Rauch-Tung-Striebel smoother per side (Rauch et al., AIAA 1965) in
which anchors are all but exact and doubtful frames count little. Each track is smoothed span by span, from one of its
anchors to the next, so that a label never depends on what lies beyond the anchors next to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch

from micromodels.heads import FrameClassifier
from micromodels.propagation import FramePosterior
from micromodels.seeds import SeedFrame, SeedSet, TrackSpec
from micromodels.shapes import box_from_sides, clean_mask, resized_masks, to_shape
from micromodels.types import Box, FrameLabel, FrameResult, Label, Provenance, ProvenanceKind, Shape, ShapeKind, State

__all__ = ["Tracker"]

CHUNK_FRAMES = 128
"""Spans longer than this are smoothed in pieces."""
CONTEXT_FRAMES = 16
"""Rows of the neighbouring pieces that are smoothed along."""
CLASS_KERNEL = (1, 2, 3, 2, 1)
HIDING_COVER = 0.3
PRESENT = 0.5
"""A track is there where the mean probability of its most likely quarter reaches this."""

Floats = npt.NDArray[np.float32]


@dataclass
class _Measure:
    """One track on one frame before smoothing; boxes in pixels of the video."""

    presence: float
    sharpness: float
    shape: Shape | None
    box: Floats | None


@dataclass
class _Row:
    posterior: FramePosterior
    measures: list[_Measure]
    class_odds: Floats = field(default_factory=lambda: np.zeros(0, np.float32))


@dataclass
class _Path:
    """How far the smoothing of one box track has come.

    Attributes:
        start: first frame of the piece that is being collected; None before the first row.
        after_anchor: whether an anchor stands there, beyond which nothing counts.
        done: last frame whose box is known.
        boxes: smoothed boxes by frame.
        seen: frames on which the track was seen.
        gaps: runs of frames between two frames on which it was seen, half-open.
    """

    start: int | None = None
    after_anchor: bool = False
    done: int = -1
    boxes: dict[int, Floats] = field(default_factory=dict)
    seen: set[int] = field(default_factory=set)
    gaps: list[range] = field(default_factory=list)

    def forget(self, before: int) -> None:
        """Drop what is not needed any more."""
        self.boxes = {frame: box for frame, box in self.boxes.items() if frame >= before}
        self.seen = {frame for frame in self.seen if frame >= before}
        self.gaps = [gap for gap in self.gaps if gap.stop > before]


class Tracker:
    """Turns posteriors into ``FrameResult``s.

    Args:
        tracks: what to follow.
        seeds: the anchors; their labels are passed through unchanged.
        anchors: their targets on the work image.
        size: of the work image (height, width).
        version: name of the micro-model, for provenance.
        classifier: of frame classes, or None.
        frame_classes: its classes.
        typical_areas: share of the image that each track covered on its training seeds.
        others: boxes of visible tracks that are not among ``tracks``, by frame, behind which one may be hidden.
    """

    def __init__(
        self,
        tracks: tuple[TrackSpec, ...],
        seeds: SeedSet,
        anchors: Mapping[int, SeedFrame],
        size: tuple[int, int],
        version: str,
        classifier: FrameClassifier | None,
        frame_classes: tuple[str, ...],
        typical_areas: Sequence[float],
        others: Callable[[int], Sequence[Floats]] = lambda frame: (),
    ) -> None:
        self._tracks, self._seeds, self._anchors, self._size = tracks, seeds, anchors, size
        self._provenance = Provenance(ProvenanceKind.MODEL, version)
        self._classifier, self._frame_classes = classifier, frame_classes
        self._typical = typical_areas
        self._others = others
        self._by_key = {(label.frame, label.track): label for label in seeds.object_labels}
        self._frame_by_key = {(label.frame, label.frame_class): label for label in seeds.frame_labels}
        self._areas = [self._anchor_areas(index) for index in range(len(tracks))]

    def _anchor_areas(self, index: int) -> dict[int, float]:
        areas = {f: float((a.label_map == index + 1).sum()) / a.label_map.size for f, a in self._anchors.items()}
        return {frame: area for frame, area in areas.items() if area > 0}

    def results(self, posteriors: Iterable[FramePosterior]) -> Iterator[FrameResult]:
        """Labels of every frame, in order."""
        rows: dict[int, _Row] = {}
        paths = {i: _Path() for i, spec in enumerate(self._tracks) if spec.shape is ShapeKind.BOX}
        given = -1
        for posterior in posteriors:
            frame = posterior.frame
            given = frame - 1 if not rows else given
            rows[frame] = self._measure(posterior)
            for index, path in paths.items():
                self._extend(index, path, rows, frame)
            upto = self._finished(paths, frame)
            if upto > given:
                yield from self._results(rows, paths, range(given + 1, upto + 1))
                given = upto
                needed = min([given - CONTEXT_FRAMES, *(path.start or 0 for path in paths.values())])
                rows = {f: row for f, row in rows.items() if f >= needed}
        if rows:
            last = max(rows)
            for index, path in paths.items():
                self._smooth(index, path, rows, range(path.start or 0, last + 1), last)
            yield from self._results(rows, paths, range(given + 1, last + 1))

    def _extend(self, index: int, path: _Path, rows: Mapping[int, _Row], frame: int) -> None:
        """Take a new row into account; smooth when it ends a span or a piece of one."""
        anchored = frame in self._anchors and bool(self._anchors[frame].known[index])
        if path.start is None:
            path.start, path.after_anchor, path.done = frame, anchored, frame - 1
        if anchored and frame > path.start:
            self._smooth(index, path, rows, range(path.start, frame + 1), frame)
            path.start, path.after_anchor = frame, True
        elif frame - path.start + 1 == CHUNK_FRAMES + CONTEXT_FRAMES:
            cut = path.start + CHUNK_FRAMES
            self._smooth(index, path, rows, range(path.start, frame + 1), cut - 1)
            path.start, path.after_anchor = cut, False

    def _smooth(self, index: int, path: _Path, rows: Mapping[int, _Row], frames: range, upto: int) -> None:
        """Boxes, sightings and gaps of a piece of a track, kept up to frame ``upto``."""
        first = frames.start
        if not path.after_anchor:
            earlier = [f for f in range(first - CONTEXT_FRAMES, first) if f in rows]
            first = min(earlier, default=first)
        piece = [rows[frame] for frame in range(first, frames.stop)]
        boxes = {first + offset: box for offset, box in self._smoothed(index, piece).items()}
        seen = {first + i for i, row in enumerate(piece) if first + i in boxes and self._is_seen(index, row)}
        path.boxes.update({frame: box for frame, box in boxes.items() if path.done < frame <= upto})
        path.seen |= {frame for frame in seen if path.done < frame <= upto}
        ordered = sorted(seen)
        gaps = [range(a + 1, b) for a, b in pairwise(ordered) if b > a + 1 and a <= upto]
        path.gaps += [gap for gap in gaps if gap not in path.gaps]
        path.done = upto

    def _is_seen(self, index: int, row: _Row) -> bool:
        anchor = self._by_key.get((row.posterior.frame, self._tracks[index].track))
        return row.measures[index].presence >= PRESENT if anchor is None else anchor.shape is not None

    def _finished(self, paths: Mapping[int, _Path], frame: int) -> int:
        """The last frame on which everything is known once ``frame`` is the newest row."""
        upto = min([frame, *(path.done for path in paths.values())])
        if self._classifier is not None:
            upto = min(upto, frame - len(CLASS_KERNEL) // 2)
        while True:
            # What hides a track in a gap is looked at over the whole gap.
            open_gaps = [g.start - 1 for path in paths.values() for g in path.gaps if g.start <= upto < g.stop - 1]
            if not open_gaps:
                return upto
            upto = min(open_gaps)

    def _results(self, rows: Mapping[int, _Row], paths: Mapping[int, _Path], frames: range) -> Iterator[FrameResult]:
        hidden = {index: self._hidden(index, paths) for index in paths}
        odds = self._class_odds(rows, frames)
        for frame in frames:
            here = [paths[i].boxes.get(frame) if i in paths else None for i in range(len(self._tracks))]
            behind = [frame in hidden.get(i, ()) for i in range(len(self._tracks))]
            yield self._result(rows[frame], here, behind, odds[frame - frames.start])
        for path in paths.values():
            path.forget(frames.stop)

    def _hidden(self, index: int, paths: Mapping[int, _Path]) -> set[int]:
        """Frames on which a box track is behind another one: gaps in which its path meets a visible track's box."""
        hidden: set[int] = set()
        own = paths[index].boxes
        for gap in paths[index].gaps:
            covers = [
                _covered(own[frame], other)
                for frame in gap
                if frame in own
                for other in (
                    *(p.boxes[frame] for i, p in paths.items() if i != index and frame in p.seen and frame in p.boxes),
                    *self._others(frame),
                )
            ]
            if max(covers, default=0.0) > HIDING_COVER:
                hidden.update(gap)
        return hidden

    def _measure(self, posterior: FramePosterior) -> _Row:
        height, width = self._seeds.height_px, self._seeds.width_px
        measures = []
        dense = any(spec.shape is not ShapeKind.BOX for spec in self._tracks)
        masks = resized_masks(posterior.log_odds, height, width) if dense else None
        for index, spec in enumerate(self._tracks):
            odds = posterior.log_odds[index]
            presence, sharpness = self._presence(odds, self._expected_area(index, posterior.frame))
            shape: Shape | None = None
            box: Floats | None = None
            if spec.shape is ShapeKind.BOX:
                assert posterior.sides is not None
                found = box_from_sides(odds, posterior.sides)
                if found is not None:
                    scale = np.array([width / self._size[1], height / self._size[0]] * 2, np.float32)
                    box = _clipped(found * scale, width, height)
            elif masks is not None:
                shape = to_shape(clean_mask(masks[index]), spec.shape)
            measures.append(_Measure(presence, sharpness, shape, box))
        row = _Row(_without_maps(posterior), measures)
        if self._classifier is not None:
            with torch.inference_mode():
                vector = torch.from_numpy(posterior.pooled)[None]
                row.class_odds = self._classifier(vector)[0].numpy()
        return row

    def _expected_area(self, index: int, frame: int) -> float:
        """Share of the image that the track should cover, interpolated between anchors on a log scale."""
        areas = self._areas[index]
        if not areas:
            return self._typical[index]
        frames = sorted(areas)
        return float(np.exp(np.interp(frame, frames, [np.log(areas[f]) for f in frames])))

    @staticmethod
    def _presence(odds: Floats, expected_area: float) -> tuple[float, float]:
        """Mean probability of the likeliest quarter of the expected area, and how decided the object's pixels are."""
        flat = odds.ravel()
        count = int(np.clip(0.25 * expected_area * flat.size, 8, flat.size // 4))
        top = np.partition(flat, -count)[-count:]
        presence = float((1 / (1 + np.exp(-np.clip(top, -30, 30)))).mean())
        near = flat[flat > -1.5]
        sharpness = float(np.tanh(np.abs(near) / 2).mean()) if len(near) else 0.0
        return presence, sharpness

    def _smoothed(self, index: int, rows: list[_Row]) -> dict[int, Floats]:
        """Smoothed boxes of one track by row, between the first and the last row where it is seen."""
        seen: dict[int, tuple[Floats, float]] = {}
        for offset, row in enumerate(rows):
            anchor = self._by_key.get((row.posterior.frame, self._tracks[index].track))
            measure = row.measures[index]
            if anchor is not None and isinstance(anchor.shape, Box):
                seen[offset] = (np.array(anchor.shape.as_list(), np.float32), 0.05)
            elif anchor is None and measure.box is not None and measure.presence >= 0.3:
                size = float(np.sqrt(max(1.0, (measure.box[2:] - measure.box[:2]).prod())))
                seen[offset] = (measure.box, size * (0.03 + 0.3 * (1 - measure.presence)))
        if not seen:
            return {}
        first, last = min(seen), max(seen)
        scale = float(np.median([np.sqrt(max(1.0, (box[2:] - box[:2]).prod())) for box, _ in seen.values()]))
        values = np.full((last - first + 1, 4), np.nan)
        noise = np.full(last - first + 1, np.nan)
        for offset, (box, deviation) in seen.items():
            values[offset - first], noise[offset - first] = box, deviation
        smooth = rts_smooth(values, noise, acceleration=0.1 * scale)
        width, height = self._seeds.width_px, self._seeds.height_px
        clipped = {first + i: _clipped(box.astype(np.float32), width, height) for i, box in enumerate(smooth)}
        return {offset: box for offset, box in clipped.items() if box is not None}

    def _class_odds(self, rows: Mapping[int, _Row], frames: range) -> npt.NDArray[np.float32]:
        """Log-odds of frame classes, averaged over two frames to each side; ``(frames, classes)``."""
        classes = len(self._frame_classes) if self._classifier is not None else 0
        averaged = np.zeros((len(frames), classes), np.float32)
        half = len(CLASS_KERNEL) // 2
        for position, frame in enumerate(frames if classes else ()):
            near = {shift: rows[frame + shift].class_odds for shift in range(-half, half + 1) if frame + shift in rows}
            total = sum(CLASS_KERNEL[shift + half] for shift in near)
            averaged[position] = sum(CLASS_KERNEL[shift + half] * odds for shift, odds in near.items()) / total
        return averaged

    def _result(self, row: _Row, boxes: list[Floats | None], hidden: list[bool], odds: Floats) -> FrameResult:
        frame = row.posterior.frame
        labels = []
        for index, spec in enumerate(self._tracks):
            anchor = self._by_key.get((frame, spec.track))
            labels.append(anchor or self._label(frame, index, row, boxes[index], hidden[index]))
        # Anchors of tracks that this micro-model does not know stay what they are.
        known = {spec.track for spec in self._tracks}
        labels += [label for label in self._seeds.object_labels if label.frame == frame and label.track not in known]
        frame_labels = []
        for name, log_odds in zip(self._frame_classes, odds.tolist(), strict=True):
            human = self._frame_by_key.get((frame, name))
            probability = 1 / (1 + np.exp(-2.0 * log_odds))
            frame_labels.append(
                human
                or FrameLabel(frame, name, log_odds > 0, float(max(probability, 1 - probability)), self._provenance)
            )
        frame_labels += [
            label
            for label in self._seeds.frame_labels
            if label.frame == frame and label.frame_class not in self._frame_classes
        ]
        return FrameResult(frame, tuple(labels), tuple(frame_labels))

    def _label(self, frame: int, index: int, row: _Row, box: Floats | None, hidden: bool) -> Label:
        spec, measure = self._tracks[index], row.measures[index]
        shape = measure.shape if spec.shape is not ShapeKind.BOX else _to_box(box)
        confidence = self._confidence(measure, row.posterior, index)
        if measure.presence >= PRESENT and shape is not None:
            return Label(frame, spec.track, spec.object_class, State.VISIBLE, shape, confidence, self._provenance)
        if hidden and shape is not None:
            # Hidden behind another track: it is where its motion says.
            return Label(frame, spec.track, spec.object_class, State.OCCLUDED, shape, 0.5, self._provenance)
        gone = float(np.clip(1 - measure.presence, 0.5, 0.99))
        return Label(frame, spec.track, spec.object_class, State.ABSENT, None, gone, self._provenance)

    @staticmethod
    def _confidence(measure: _Measure, posterior: FramePosterior, index: int) -> float:
        """Product of how present and decided the object is, whether the sweeps agree, and how near an anchor is."""
        agreement = float(posterior.agreement[index])
        agree = 0.9 if np.isnan(agreement) else 0.4 + 0.6 * agreement
        distance = int(posterior.anchor_distance[index])
        near = 0.7 if distance < 0 else 0.75 + 0.25 * float(np.exp(-distance / 30))
        return float(np.clip(measure.presence * (0.4 + 0.6 * measure.sharpness) * agree * near, 0.01, 0.99))


def rts_smooth(
    values: npt.NDArray[np.float64], noise: npt.NDArray[np.float64], acceleration: float
) -> npt.NDArray[np.float64]:
    """Constant-velocity smoother over one unit of time a row.

    Args:
        values: ``(rows, n)`` measurements, NaN where there is none; the first row has one.
        noise: ``(rows,)`` standard deviation of each measurement.
        acceleration: standard deviation of the change of velocity a row.

    Returns:
        ``(rows, n)`` smoothed positions.
    """
    rows, count = values.shape
    step = np.array([[1.0, 1.0], [0.0, 1.0]])
    change = acceleration**2 * np.array([[0.25, 0.5], [0.5, 1.0]])
    state = np.stack([values[0], np.zeros(count)])
    spread = np.diag([noise[0] ** 2, (10 * acceleration) ** 2])
    states, spreads, predicted, predicted_spreads = [state], [spread], [state], [spread]
    for row in range(1, rows):
        ahead, ahead_spread = step @ state, step @ spread @ step.T + change
        predicted.append(ahead)
        predicted_spreads.append(ahead_spread)
        if np.isnan(noise[row]):
            state, spread = ahead, ahead_spread
        else:
            gain = ahead_spread[:, :1] / (ahead_spread[0, 0] + noise[row] ** 2)
            state = ahead + gain @ (values[row] - ahead[0])[None]
            spread = ahead_spread - gain @ ahead_spread[:1]
        states.append(state)
        spreads.append(spread)
    out = np.empty_like(values)
    smooth = states[-1]
    out[-1] = smooth[0]
    for row in range(rows - 2, -1, -1):
        gain = spreads[row] @ step.T @ np.linalg.pinv(predicted_spreads[row + 1])
        smooth = states[row] + gain @ (smooth - predicted[row + 1])
        out[row] = smooth[0]
    return out


def _clipped(box: Floats, width: int, height: int) -> Floats | None:
    """The part of a box inside the frame; None if less than a pixel is."""
    x1, x2 = np.clip(box[[0, 2]], 0, width)
    y1, y2 = np.clip(box[[1, 3]], 0, height)
    return np.array([x1, y1, x2, y2], np.float32) if x2 - x1 >= 1 and y2 - y1 >= 1 else None


def _to_box(box: Floats | None) -> Box | None:
    return Box(*(round(float(side), 2) for side in box)) if box is not None else None


def _covered(box: Floats, other: Floats) -> float:
    """Share of ``box`` that ``other`` covers."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    area = (box[2] - box[0]) * (box[3] - box[1])
    return float(max(0.0, width) * max(0.0, height) / area)


def _without_maps(posterior: FramePosterior) -> FramePosterior:
    """The posterior without its dense maps, which are too large to keep for a chunk."""
    empty = np.zeros((0, 0, 0), np.float32)
    return FramePosterior(
        posterior.frame,
        empty,
        None,
        posterior.agreement,
        posterior.anchor_distance,
        np.zeros(0, np.float32),
        posterior.scene_cut,
    )
