"""From detections to labels: which detection is which track, and what is said of every track on every frame.

A detection has a class but no identity. ByteTrack (Zhang et al., ECCV 2022; ultralytics' implementation) joins
detections of neighboring frames to tracklets; labels drawn by hand take part in it as detections of score 1, so a
tracklet that holds one is known to be that track. Others go to the track of their class that they continue best.
"""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt
import torch

from micromodels.encoding.encoded_video import FrameSource, to_work_image
from micromodels.encoding.encoders import load_encoder, work_size
from micromodels.errors import Cancelled
from micromodels.labels.geometry import bounds, box_iou
from micromodels.labels.targets import SeedSet
from micromodels.propagation.mask_to_shape import clean_mask, resized_masks, to_shape
from micromodels.recipes.manifest import Manifest
from micromodels.recipes.yolo.dataset import MASK_STRIDE, Detection, Detector, class_names, yolo_size
from micromodels.runtime.run import Run, Stage, StageFinished, StopRequest
from micromodels.training.frame_classifier import FrameClassifier, pooled
from micromodels.types import (
    Box,
    FrameLabel,
    FrameResult,
    Label,
    Provenance,
    ProvenanceKind,
    Shape,
    State,
)

__all__ = [
    "CLASSIFIER_ENCODER",
    "Labeling",
    "Tracklet",
    "assign_tracks",
    "join_detections",
    "pooled_frame",
    "with_anchors",
]

Floats = npt.NDArray[np.float32]

CLASSIFIER_ENCODER = "lite0"
CONTEXT_FRAMES = 64
"""Frames beyond the wanted ones that are looked at to reach an anchor, which names the objects."""
MAX_GAP_FRAMES = 8
"""A box missing on so few frames is interpolated."""
BYTETRACK = {
    "track_high_thresh": 0.25,
    "track_low_thresh": 0.1,
    "new_track_thresh": 0.25,
    "track_buffer": 30,
    "match_thresh": 0.8,
    "fuse_score": True,
}
"""As in ultralytics' ``bytetrack.yaml``: a track starts at a score of 0.25, goes on at 0.1, and waits for 30 frames."""


def pooled_frame(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """The vector by which frame classes are told, of an RGB image."""
    work = to_work_image(image, work_size(*image.shape[:2]))
    return pooled(load_encoder(CLASSIFIER_ENCODER, torch.device("cpu")).encode(work))


class Labeling:
    """One run of ``propagate``."""

    def __init__(self, manifest: Manifest, seeds: SeedSet, wanted: range) -> None:
        self._manifest, self._seeds, self._wanted = manifest, seeds, wanted
        self._tracks, names = manifest.tracks, class_names(manifest.tracks)
        self._classes = [names.index(spec.object_class) for spec in self._tracks]
        self._provenance = Provenance(ProvenanceKind.MODEL, manifest.version)
        long_side = int(manifest.settings["long_side_px"])
        self._start_score = float(manifest.settings["start_score"])
        self._size = yolo_size(seeds.height_px, seeds.width_px, long_side)
        self._by_key = {(label.frame, label.track): label for label in seeds.object_labels}
        self._frame_by_key = {(label.frame, label.frame_class): label for label in seeds.frame_labels}
        self._found: dict[int, list[Detection]] = {}
        self._odds: dict[int, npt.NDArray[np.float32]] = {}

    def _span(self) -> range:
        """The wanted frames, and those to the nearest anchor on each side if it is near."""
        if not len(self._wanted):
            return self._wanted
        first, last = self._wanted[0], self._wanted[-1]
        before = [frame for frame in self._seeds.frames if first - CONTEXT_FRAMES <= frame < first]
        after = [frame for frame in self._seeds.frames if last < frame <= last + CONTEXT_FRAMES]
        return range(max(before, default=first), min(after, default=last) + 1)

    def look(self, video: FrameSource, detector: Detector | None, classifier: FrameClassifier | None, run: Run) -> None:
        """Detect and classify on every frame."""
        span = self._span()
        if not len(span):
            return
        frames = video.frames(span.start, span.stop)
        while True:
            started = time.perf_counter()
            index, image = next(frames, (-1, None))
            if image is None:
                break
            decoded = time.perf_counter()
            if run.should_stop() is StopRequest.CANCEL:
                raise Cancelled("labeling was cancelled")
            if detector is not None:
                self._found[index] = with_anchors(detector.detect(image, self._size), self._anchors(index))
            if classifier is not None:
                with torch.inference_mode():
                    self._odds[index] = classifier(torch.from_numpy(pooled_frame(image))[None])[0].numpy()
            run.on_event(StageFinished(Stage.DECODE, decoded - started))
            run.on_event(StageFinished(Stage.PREDICT, time.perf_counter() - decoded))

    def _anchors(self, frame: int) -> list[Detection]:
        found = []
        for number, spec in enumerate(self._tracks):
            label = self._by_key.get((frame, spec.track))
            box = bounds(label.shape) if label is not None and label.shape is not None else None
            if box is not None:
                corners = np.array(box.as_list(), np.float32)
                found.append(Detection(corners, 1.0, self._classes[number], anchor=number))
        return found

    def results(self) -> Iterator[FrameResult]:
        """Labels of the wanted frames, in order."""
        chosen: list[dict[int, Detection]] = [{} for _ in self._tracks]
        if self._found and self._tracks:
            tracklets = join_detections(self._found, max(self._classes) + 1, self._start_score)
            chosen = assign_tracks(self._found, tracklets, self._classes)
        boxes = [self._gaps(number, track) for number, track in enumerate(chosen)]
        for frame in self._wanted:
            shapes = self._shapes(frame, [track.get(frame) for track in chosen])
            labels = [
                self._by_key.get((frame, spec.track))
                or self._label(frame, number, chosen[number].get(frame), shapes[number], boxes[number].get(frame))
                for number, spec in enumerate(self._tracks)
            ]
            # Anchors of tracks that this micro-model does not know stay what they are.
            known = {spec.track for spec in self._tracks}
            labels += [a for a in self._seeds.object_labels if a.frame == frame and a.track not in known]
            yield FrameResult(frame, tuple(labels), tuple(self._frame_labels(frame)))

    def _gaps(self, number: int, track: Mapping[int, Detection]) -> dict[int, Detection]:
        """Boxes on the few frames between two detections of a track that is drawn with boxes, linear in time."""
        filled: dict[int, Detection] = {}
        if not self._tracks[number].is_box:
            return filled
        frames = sorted(track)
        for left, right in pairwise(frames):
            if right - left - 1 > MAX_GAP_FRAMES:
                continue
            a, b = track[left], track[right]
            for frame in range(left + 1, right):
                share = (frame - left) / (right - left)
                box = (1 - share) * a.box + share * b.box
                filled[frame] = Detection(box.astype(np.float32), 0.5 * min(a.score, b.score), a.class_index)
        return filled

    def _shapes(self, frame: int, found: Sequence[Detection | None]) -> list[Shape | None]:
        """Shapes of the detections, as the seeds were drawn; masks do not overlap."""
        height, width = self._seeds.height_px, self._seeds.width_px
        shapes: list[Shape | None] = [None] * len(found)
        masked = []
        for number, (spec, item) in enumerate(zip(self._tracks, found, strict=True)):
            if item is None or item.anchor >= 0:
                continue
            if spec.is_box:
                shapes[number] = _to_box(item)
            elif item.mask is not None:
                masked.append((number, item.mask))
        if masked:
            size = (self._size[0] // MASK_STRIDE, self._size[1] // MASK_STRIDE)
            maps = np.stack([mask.placed(size) for _, mask in masked])
            for (number, _), mask in zip(masked, resized_masks(maps, height, width), strict=True):
                shapes[number] = to_shape(clean_mask(mask), self._tracks[number].shape)
        return shapes

    def _label(
        self, frame: int, number: int, item: Detection | None, shape: Shape | None, between: Detection | None
    ) -> Label:
        spec = self._tracks[number]
        if item is not None and shape is not None:
            score = min(item.score, 0.99)
            return Label(frame, spec.track, spec.object_class, State.VISIBLE, shape, score, self._provenance)
        if between is not None:
            provenance = Provenance(ProvenanceKind.INTERPOLATED, self._manifest.version)
            box = _to_box(between)
            return Label(frame, spec.track, spec.object_class, State.VISIBLE, box, between.score, provenance)
        scores = [d.score for d in self._found.get(frame, ()) if d.class_index == self._classes[number]]
        gone = float(np.clip(1 - max(scores, default=0.0), 0.5, 0.99))
        return Label(frame, spec.track, spec.object_class, State.ABSENT, None, gone, self._provenance)

    def _frame_labels(self, frame: int) -> Iterator[FrameLabel]:
        """Frame classes, their log-odds averaged over a frame to each side."""
        near = [self._odds[other] for other in (frame - 1, frame, frame, frame + 1) if other in self._odds]
        for index, name in enumerate(self._manifest.frame_classes):
            human = self._frame_by_key.get((frame, name))
            odds = float(np.mean([row[index] for row in near]))
            probability = 1 / (1 + math.exp(-2.0 * max(-300.0, min(300.0, odds))))
            yield human or FrameLabel(frame, name, odds > 0, max(probability, 1 - probability), self._provenance)


def _to_box(item: Detection) -> Box:
    return Box(*(round(float(side), 2) for side in item.box))


def with_anchors(found: Sequence[Detection], anchors: Sequence[Detection]) -> list[Detection]:
    """Detections of a frame with those of the anchors' objects replaced by the anchors."""
    left = [
        item
        for item in found
        if all(item.class_index != a.class_index or box_iou(item.box, a.box) < 0.5 for a in anchors)
    ]
    return [*anchors, *left]


@dataclass(slots=True)
class Tracklet:
    """Detections of one class that ByteTrack joined; ``rows`` maps a frame to the index of its detection."""

    class_index: int
    rows: dict[int, int] = field(default_factory=dict)


def join_detections(
    frames: Mapping[int, Sequence[Detection]], classes: int, start_score: float = 0.25
) -> list[Tracklet]:
    """Tracklets by ByteTrack, class by class.

    Args:
        frames: frame index to detections; consecutive frames, ascending.
        classes: number of classes.
        start_score: a track starts where a detection has this score; ByteTrack's thresholds are for 0.25.
    """
    byte_tracker = importlib.import_module("ultralytics.trackers.byte_tracker").BYTETracker
    boxes_type = importlib.import_module("ultralytics.engine.results").Boxes
    gain = BYTETRACK["new_track_thresh"] / start_score
    tracklets: list[Tracklet] = []
    for class_index in range(classes):
        tracker = byte_tracker(SimpleNamespace(**BYTETRACK))
        by_id: dict[int, Tracklet] = {}
        for frame, found in frames.items():
            own = [i for i, item in enumerate(found) if item.class_index == class_index]
            rows = np.array(
                [[*found[i].box, min(1.0, found[i].score * gain), class_index] for i in own], np.float32
            ).reshape(-1, 6)
            for row in tracker.update(boxes_type(rows, (1, 1))):
                tracklet = by_id.setdefault(int(row[4]), Tracklet(class_index))
                tracklet.rows[frame] = own[int(row[7])]
        tracklets += by_id.values()
    return tracklets


def assign_tracks(
    frames: Mapping[int, Sequence[Detection]], tracklets: Sequence[Tracklet], classes: Sequence[int]
) -> list[dict[int, Detection]]:
    """Which detection is which track: for every track, frame index to detection.

    1. Frames of a tracklet with anchors go to the track of the nearest anchor in it.
    2. The others, longest first, go to the track of their class that is free there and whose known frames they continue
       best. A class with one track takes all of its tracklets.

    Args:
        frames: as for ``join_detections``, anchors among them.
        tracklets: of these.
        classes: class index of every track.
    """
    tracks: list[dict[int, Detection]] = [{} for _ in classes]
    loose = []
    for frame, found in frames.items():
        for item in found:
            if item.anchor >= 0:
                tracks[item.anchor][frame] = item
    for tracklet in tracklets:
        known = {frame: frames[frame][row].anchor for frame, row in tracklet.rows.items()}
        known = {frame: anchor for frame, anchor in known.items() if anchor >= 0}
        if not known:
            loose.append(tracklet)
            continue
        for frame, row in tracklet.rows.items():
            nearest = min(known, key=lambda other: abs(other - frame))
            tracks[known[nearest]].setdefault(frame, frames[frame][row])
    for tracklet in sorted(loose, key=lambda item: -len(item.rows)):
        own = [track for track, class_index in enumerate(classes) if class_index == tracklet.class_index]
        free = {track: [f for f in tracklet.rows if f not in tracks[track]] for track in own}
        piece = {frame: frames[frame][row] for frame, row in tracklet.rows.items()}
        costs = {track: _gap_cost(tracks[track], piece) for track in own if 2 * len(free[track]) > len(tracklet.rows)}
        if not costs:
            continue
        best = min(costs, key=lambda track: costs[track])
        if len(own) == 1 or costs[best] <= 1:
            tracks[best].update({frame: piece[frame] for frame in free[best]})
    return tracks


def _gap_cost(track: Mapping[int, Detection], piece: Mapping[int, Detection]) -> float:
    """How badly a piece continues a track at the nearest frame; 1 is the most that is taken, 0.5 for an empty track.

    Distance of the centers in object sizes, of which 1 is allowed and 0.1 more for every frame between.
    """
    if not track:
        return 0.5
    known = np.array(sorted(track))
    ends = [(int(known[np.abs(known - frame).argmin()]), frame) for frame in (min(piece), max(piece))]
    nearest, frame = min(ends, key=lambda pair: abs(pair[0] - pair[1]))
    a, b = track[nearest].box, piece[frame].box
    size = float(np.sqrt(max(1.0, ((b[2:] - b[:2]) * (a[2:] - a[:2])).prod() ** 0.5)))
    distance = float(np.hypot(*((a[:2] + a[2:]) / 2 - (b[:2] + b[2:]) / 2))) / size
    return distance / (1 + 0.1 * abs(nearest - frame))
