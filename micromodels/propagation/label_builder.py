"""From posteriors to labels: presence, shape, state and confidence of every track on every frame.

A box track that is out of sight for a while is followed by its path: behind another track it is occluded, for a frame
or two it is taken to be there, else it is absent. A label never depends on what lies beyond the anchors next to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from micromodels.labels.targets import SeedFrame, SeedSet, TrackSpec
from micromodels.propagation.base import FramePosterior
from micromodels.propagation.box_path import FramePlaces
from micromodels.propagation.confidence import BoxSigns, MaskSigns, absence, acceptance, mask_signs
from micromodels.propagation.mask_to_shape import box_from_sides, clean_mask, resized_masks, to_shape
from micromodels.runtime.parallel import mapped
from micromodels.training.frame_classifier import FrameClassifier, presence_probability
from micromodels.types import Box, FrameLabel, FrameResult, Label, Provenance, ProvenanceKind, Shape, State

__all__ = ["Tracker"]

MAX_GAP_FRAMES = 128
"""A track that is out of sight for longer is not held to be behind something."""
SHORT_GAP_FRAMES = 3
CLASS_KERNEL = (1, 2, 3, 2, 1)
HIDING_COVER = 0.3
PRESENT = 0.5
"""A track is there where its presence reaches this."""
PRESENT_UNANNOUNCED = 0.9
"""Mean probability where a box track between people's words that it is absent is as likely there as not."""
PRESENT_LIKENESS = 0.28
"""Likeness to its anchors (see ``paths.FramePlaces``) where a box track is as likely there as not."""
PRESENT_MATCH = 0.65
"""The same of its match: either will do. The one knows the drawn frames, the other those just before."""
PRESENT_MATCH_BEYOND = 0.5
"""The same before the first and after the last frame of which people said anything: there is no other end of the way
from which the object would be found again."""

Floats = npt.NDArray[np.float32]


@dataclass
class _Measure:
    """One track on one frame.

    Attributes:
        presence: 0 to 1.
        signs: of the quality of its shape; None where there is none to speak of.
        shape: in pixels of the video; None where nothing was found.
        hidden: whether it is behind another track.
        bridged: whether it is there because it was a moment before and after.
    """

    presence: float
    signs: MaskSigns | BoxSigns | None
    shape: Shape | None
    hidden: bool = False
    bridged: bool = False


@dataclass
class _Row:
    posterior: FramePosterior
    measures: list[_Measure]
    class_odds: Floats = field(default_factory=lambda: np.zeros(0, np.float32))


@dataclass
class _Sight:
    """When a box track was last in sight; ``gap`` is the first frame since on which it was not, if any."""

    seen: int | None = None
    gap: int | None = None


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
        sights = {i: _Sight() for i, spec in enumerate(self._tracks) if spec.is_box}
        margin = len(CLASS_KERNEL) // 2 if self._classifier is not None else 0
        given: int | None = None
        for row in mapped(self._measure, iter(posteriors)):
            frame = row.posterior.frame
            given = frame - 1 if given is None else given
            rows[frame] = row
            for index, sight in sights.items():
                self._follow(index, sight, rows, frame)
            upto = min([frame - margin, *(s.gap - 1 for s in sights.values() if s.gap is not None)])
            if upto > given:
                yield from self._results(rows, range(given + 1, upto + 1))
                rows = {f: row for f, row in rows.items() if f > upto - len(CLASS_KERNEL)}
                given = upto
        if given is not None:
            yield from self._results(rows, range(given + 1, max(rows) + 1))

    def _follow(self, index: int, sight: _Sight, rows: Mapping[int, _Row], frame: int) -> None:
        """Take a new row into account; when the track is back in sight, say what it was in between."""
        anchor = self._by_key.get((frame, self._tracks[index].track))
        if self._is_seen(index, rows[frame]):
            if sight.gap is not None:
                self._close(index, range(sight.gap, frame), rows)
            sight.seen, sight.gap = frame, None
        elif anchor is not None and anchor.state is not State.UNCERTAIN:
            sight.seen = sight.gap = None
        elif sight.seen is not None:
            sight.gap = frame if sight.gap is None else sight.gap
            if frame - sight.gap >= MAX_GAP_FRAMES:
                sight.seen = sight.gap = None

    def _is_seen(self, index: int, row: _Row) -> bool:
        anchor = self._by_key.get((row.posterior.frame, self._tracks[index].track))
        return row.measures[index].presence >= PRESENT if anchor is None else anchor.shape is not None

    def _close(self, index: int, gap: range, rows: Mapping[int, _Row]) -> None:
        """Between two frames on which it was seen, a track is bridged, hidden behind another, or gone."""
        if len(gap) <= SHORT_GAP_FRAMES:
            for frame in gap:
                rows[frame].measures[index].bridged = True
            return
        covers = [
            _covered(own, other)
            for frame in gap
            if (own := self._box(index, rows[frame])) is not None
            for other in (*self._visible(index, rows[frame]), *self._others(frame))
        ]
        if max(covers, default=0.0) > HIDING_COVER:
            for frame in gap:
                rows[frame].measures[index].hidden = True

    def _box(self, index: int, row: _Row) -> Floats | None:
        anchor = self._by_key.get((row.posterior.frame, self._tracks[index].track))
        shape = row.measures[index].shape if anchor is None else anchor.shape
        return np.array(shape.as_list(), np.float32) if isinstance(shape, Box) else None

    def _visible(self, index: int, row: _Row) -> list[Floats]:
        """Boxes of the other tracks that are seen on a frame."""
        boxes = [self._box(i, row) for i in range(len(self._tracks)) if i != index and self._is_seen(i, row)]
        return [box for box in boxes if box is not None]

    def _results(self, rows: Mapping[int, _Row], frames: range) -> Iterator[FrameResult]:
        odds = self._class_odds(rows, frames)
        for frame in frames:
            yield self._result(rows[frame], odds[frame - frames.start])

    def _measure(self, posterior: FramePosterior) -> _Row:
        height, width = self._seeds.height_px, self._seeds.width_px
        measures = []
        dense = any(not spec.is_box for spec in self._tracks)
        fine = posterior.fine_log_odds()
        masks = resized_masks(fine, height, width, self._size[0] // fine.shape[1]) if dense else None
        for index, spec in enumerate(self._tracks):
            odds = posterior.log_odds[index]
            expected = self._expected_area(index, posterior.frame)
            presence = self._presence(odds, expected)
            agreement, distance = float(posterior.agreement[index]), int(posterior.anchor_distance[index])
            shape: Shape | None = None
            signs: MaskSigns | BoxSigns | None = None
            if spec.is_box:
                place = posterior.places.boxes[index]
                found: Floats | None = place
                if np.isnan(place[0]):
                    assert posterior.sides is not None
                    found = box_from_sides(odds, posterior.sides)
                    if distance >= 0:
                        presence *= PRESENT / PRESENT_UNANNOUNCED
                else:
                    beyond = bool(np.isnan(agreement))
                    presence = _path_presence(posterior.places, index, beyond=beyond)
                    signs = _box_signs(posterior.places, index, beyond=beyond)
                if found is not None:
                    scale = np.array([width / self._size[1], height / self._size[0]] * 2, np.float32)
                    shape = _to_box(_clipped(found * scale, width, height))
            elif masks is not None:
                shape = to_shape(clean_mask(masks[index]), spec.shape)
                signs = mask_signs(fine[index], agreement, distance, expected)
            measures.append(_Measure(presence, signs, shape))
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
    def _presence(odds: Floats, expected_area: float) -> float:
        """Mean probability of the likeliest quarter of the expected area."""
        flat = odds.ravel()
        count = int(np.clip(0.25 * expected_area * flat.size, 8, flat.size // 4))
        top = np.partition(flat, -count)[-count:]
        return float((1 / (1 + np.exp(-np.clip(top, -30, 30)))).mean())

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

    def _result(self, row: _Row, odds: Floats) -> FrameResult:
        frame = row.posterior.frame
        labels = []
        for index, spec in enumerate(self._tracks):
            anchor = self._by_key.get((frame, spec.track))
            labels.append(anchor or self._label(frame, index, row))
        # Anchors of tracks that this micro-model does not know stay what they are.
        known = {spec.track for spec in self._tracks}
        labels += [label for label in self._seeds.object_labels if label.frame == frame and label.track not in known]
        frame_labels = []
        for name, log_odds in zip(self._frame_classes, odds.tolist(), strict=True):
            human = self._frame_by_key.get((frame, name))
            probability = presence_probability(log_odds)
            frame_labels.append(
                human or FrameLabel(frame, name, log_odds > 0, max(probability, 1 - probability), self._provenance)
            )
        frame_labels += [
            label
            for label in self._seeds.frame_labels
            if label.frame == frame and label.frame_class not in self._frame_classes
        ]
        own = zip(labels, row.measures, strict=False)  # anchors of other tracks come last, and have none
        signs = {
            label.track: measure.signs.values()
            for label, measure in own
            if label.provenance is self._provenance and label.shape is not None and measure.signs is not None
        }
        return FrameResult(frame, tuple(labels), tuple(frame_labels), signs)

    def _label(self, frame: int, index: int, row: _Row) -> Label:
        spec, measure = self._tracks[index], row.measures[index]
        shape = measure.shape
        # A box without a path has no signs: how present it is must do.
        confidence = (
            acceptance(measure.signs) if measure.signs is not None else float(np.clip(measure.presence, 0.01, 0.99))
        )
        if (measure.presence >= PRESENT or measure.bridged) and shape is not None:
            return Label(frame, spec.track, spec.object_class, State.VISIBLE, shape, confidence, self._provenance)
        if measure.hidden and shape is not None:
            # Hidden behind another track: it is where its motion says.
            return Label(frame, spec.track, spec.object_class, State.OCCLUDED, shape, confidence, self._provenance)
        gone = absence(measure.presence)
        return Label(frame, spec.track, spec.object_class, State.ABSENT, None, gone, self._provenance)


def _path_presence(places: FramePlaces, index: int, *, beyond: bool) -> float:
    """How present a box track with a path is: ``PRESENT`` where it is as likely there as not.

    Args:
        places: of the frame.
        index: of the track.
        beyond: whether people said nothing of the track on one side of the frame, as far as sweeps reach.
    """
    match = places.match[index] / (PRESENT_MATCH_BEYOND if beyond else PRESENT_MATCH)
    said = np.array([places.likeness[index] / PRESENT_LIKENESS, match])
    return float(np.clip(PRESENT * np.nanmax(said), 0, 1))


def _box_signs(places: FramePlaces, index: int, *, beyond: bool) -> BoxSigns:
    return BoxSigns(
        likeness=float(places.likeness[index]),
        match=float(places.match[index]),
        accord=float(places.accord[index]),
        change=float(places.change[index]),
        is_between=not beyond,
    )


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
        posterior.places,
        posterior.scene_cut,
    )
