"""What a user would pick instead: other ways from seeds to labels, run on the same seeds beside the default.

A peer yields one :class:`~micromodels.types.FrameResult` per frame in order, as the library does; seeds pass through.
No peer gives a confidence. Where several seeds of a track are equally near, the earlier one counts.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from micromodels.errors import InvalidInput
from micromodels.evaluation.datasets import Clip, ClipKind
from micromodels.evaluation.metrics import BoolMask
from micromodels.types import (
    AnyLabel,
    Box,
    FrameLabel,
    FrameResult,
    Label,
    Mask,
    Provenance,
    ProvenanceKind,
    Shape,
    State,
    shape_box,
)

if TYPE_CHECKING:
    from micromodels.events import Run
    from micromodels.video import Video

__all__ = ["PEERS", "System", "find_system", "interpolate_masks"]

Image = npt.NDArray[np.uint8]
_INTERPOLATED = Provenance(ProvenanceKind.INTERPOLATED)
_MODEL = Provenance(ProvenanceKind.MODEL, "peer")


class Propagate(Protocol):
    """From seeds to labels of every frame."""

    def __call__(self, clip: Clip, video: Video, seeds: Sequence[AnyLabel], run: Run) -> Iterator[FrameResult]:
        """Labels of every frame, in order."""
        ...


@dataclass(frozen=True, slots=True)
class System:
    """Something that turns seeds into labels.

    Attributes:
        name: as given to ``--peers``.
        propagate: does it.
        lacking: why it cannot run on a clip, given also whether the seeds are frame classes; empty if it can.
        session_recipe: the library's recipe whose micro-models learn from corrections in a label session; empty: it is
            run anew after every correction.
    """

    name: str
    propagate: Propagate
    lacking: Callable[[Clip, bool], str]
    session_recipe: str = ""


TrackFill = Callable[[Sequence[Label], int], list[Label]]
"""Seeds of one track in order of frame, number of frames -> the track's label on every frame."""


def _by_track(seeds: Sequence[AnyLabel]) -> dict[str, list[Label]]:
    tracks: dict[str, list[Label]] = {}
    for seed in seeds:
        if isinstance(seed, Label):
            tracks.setdefault(seed.track, []).append(seed)
    return {track: sorted(labels, key=lambda label: label.frame) for track, labels in tracks.items()}


def _nearest(frames: npt.NDArray[np.int64], frame: int) -> int:
    return int(np.abs(frames - frame).argmin())


def _moved(seed: Label, frame: int, shape: Shape | None, provenance: Provenance) -> Label:
    state = State.ABSENT if shape is None else State.VISIBLE
    return Label(frame, seed.track, seed.object_class, state, shape, provenance=provenance)


def _frame_labels(seeds: Sequence[AnyLabel], frame: int) -> tuple[FrameLabel, ...]:
    """The nearest seed's value of every frame class; all that these peers know about whole frames."""
    classes: dict[str, list[FrameLabel]] = {}
    for seed in seeds:
        if isinstance(seed, FrameLabel):
            classes.setdefault(seed.frame_class, []).append(seed)
    out = []
    for name, labels in classes.items():
        labels.sort(key=lambda label: label.frame)
        near = labels[_nearest(np.array([label.frame for label in labels]), frame)]
        out.append(near if near.frame == frame else FrameLabel(frame, name, near.present, None, _INTERPOLATED))
    return tuple(out)


def _fill(seeds: Sequence[AnyLabel], frame_count: int, fill: TrackFill) -> Iterator[FrameResult]:
    tracks = [fill(labels, frame_count) for labels in _by_track(seeds).values()]
    for frame in range(frame_count):
        yield FrameResult(frame, tuple(track[frame] for track in tracks), _frame_labels(seeds, frame))


def _copy_track(seeds: Sequence[Label], frame_count: int) -> list[Label]:
    frames = np.array([seed.frame for seed in seeds])
    out = []
    for frame in range(frame_count):
        near = seeds[_nearest(frames, frame)]
        out.append(near if near.frame == frame else _moved(near, frame, near.shape, _INTERPOLATED))
    return out


def _linear_track(seeds: Sequence[Label], frame_count: int) -> list[Label]:
    out = _copy_track(seeds, frame_count)
    for before, after in pairwise(seeds):
        if before.shape is None or after.shape is None:
            continue
        between = _shape_between(before.shape, after.shape)
        for frame in range(before.frame + 1, after.frame):
            weight = (frame - before.frame) / (after.frame - before.frame)
            out[frame] = _moved(before, frame, between(weight), _INTERPOLATED)
    return out


def _shape_between(before: Shape, after: Shape) -> Callable[[float], Shape | None]:
    if isinstance(before, Box) and isinstance(after, Box):
        a, b = np.array(before.as_list()), np.array(after.as_list())
        return lambda weight: Box(*((1 - weight) * a + weight * b).tolist())
    if isinstance(before, Mask) and isinstance(after, Mask):
        between = interpolate_masks(before.to_array(), after.to_array())
        return lambda weight: _as_mask(between(weight))
    raise InvalidInput("seeds", (before, after), "boxes only or masks only on one track")


def _as_mask(mask: BoolMask) -> Mask | None:
    return Mask.from_array(mask) if mask.any() else None


def interpolate_masks(before: BoolMask, after: BoolMask) -> Callable[[float], BoolMask]:
    """A function from a weight (0: ``before``, 1: ``after``) to the mask between the two.

    Linear in the signed distance field, where ``d`` is the distance to the other side, less half a pixel, positive
    inside: the mask is where ``(1 - w) d_before + w d_after > 0``. Source: Raya & Udupa,
    IEEE TMI 1990 (shape-based interpolation).
    """
    a, b = _signed_distance(before), _signed_distance(after)
    return lambda weight: np.asarray((1 - weight) * a + weight * b > 0, bool)


def _signed_distance(mask: BoolMask) -> npt.NDArray[np.float32]:
    inside = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    outside = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(np.where(mask, inside - 0.5, 0.5 - outside), np.float32)


def _copy(clip: Clip, video: Video, seeds: Sequence[AnyLabel], run: Run) -> Iterator[FrameResult]:
    """Copy of the nearest seed."""
    del clip, run
    return _fill(seeds, video.table.frame_count, _copy_track)


def _linear(clip: Clip, video: Video, seeds: Sequence[AnyLabel], run: Run) -> Iterator[FrameResult]:
    """Keyframe interpolation: linear between two seeds that show the object, else a copy of the nearest."""
    del clip, run
    return _fill(seeds, video.table.frame_count, _linear_track)


def _published_folder(clip: Clip) -> Path:
    return clip.source.parents[2] / "baselines" / "osvos_davis2017" / clip.name


def _osvos(clip: Clip, video: Video, seeds: Sequence[AnyLabel], run: Run) -> Iterator[FrameResult]:
    """The masks that OSVOS published, trained on frame 0; the seeds on other frames are not known to it."""
    del run
    (labels,) = _by_track(seeds).values()
    drawn = {label.frame: label for label in labels}
    for frame in range(video.table.frame_count):
        if frame in drawn:
            yield FrameResult(frame, (drawn[frame],))
            continue
        image = cv2.imread(str(_published_folder(clip) / f"{frame:05d}.png"), cv2.IMREAD_UNCHANGED)
        if image is None:
            raise InvalidInput("frame", frame, "a frame with a published mask")
        mask = (image if image.ndim == 2 else image.max(axis=2)) > 0
        yield FrameResult(frame, (_moved(labels[0], frame, _as_mask(mask), _MODEL),))


Step = Callable[[int, Shape], Shape | None]
"""The shape on the next frame (its index), given the last one that was found; None where it is lost."""
Follower = Callable[[int, Shape], Step]
"""Starts on a seed's frame and shape."""


def _follow(
    video: Video, seeds: Sequence[AnyLabel], follower: Callable[[list[Image]], Follower], color: int
) -> Iterator[FrameResult]:
    """Follows each track from each of its seeds both ways, up to the middle to the next seed.

    ``color`` is OpenCV's conversion of the RGB pictures that the follower wants.
    """
    pictures = [np.asarray(cv2.cvtColor(image, color), np.uint8) for _, image in video.frames()]
    start = follower(pictures)

    def fill(labels: Sequence[Label], frame_count: int) -> list[Label]:
        out = _copy_track(labels, frame_count)
        frames = np.array([label.frame for label in labels])
        for i, seed in enumerate(labels):
            if seed.shape is None:
                continue
            for way in (1, -1):
                step, shape, frame = start(seed.frame, seed.shape), seed.shape, seed.frame + way
                while 0 <= frame < frame_count and _nearest(frames, frame) == i:
                    found = step(frame, shape)
                    out[frame] = _moved(seed, frame, found, _MODEL)
                    shape, frame = found or shape, frame + way
        return out

    yield from _fill(seeds, len(pictures), fill)


def _flow_follower(pictures: list[Image]) -> Follower:
    """Moves shapes along dense optical flow (DIS, medium preset).

    The flow is summed up from the seed on, so that a mask is sampled from the seed's once (bilinear, cut at one half).
    A box moves by the median flow inside it and keeps its size.
    """
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    rows, columns = np.mgrid[: pictures[0].shape[0], : pictures[0].shape[1]].astype(np.float32)

    @lru_cache(maxsize=128)  # many tracks share the flows
    def flow(frame: int, before: int) -> npt.NDArray[np.float32]:
        """Where each pixel of a frame was on the one before, relative to where it is."""
        found = dis.calc(pictures[frame], pictures[before], None)  # type: ignore[call-overload]  # the stub knows no None
        return np.asarray(found, np.float32)

    def start(seed_frame: int, seed_shape: Shape) -> Step:
        seed = seed_shape.to_array().astype(np.float32) if isinstance(seed_shape, Mask) else None
        origin, before = np.stack([columns, rows], axis=-1), seed_frame

        def step(frame: int, shape: Shape) -> Shape | None:
            nonlocal origin, before
            moved, before = flow(frame, before), frame
            if seed is None:
                return _shift(shape, moved)
            at = columns + moved[..., 0], rows + moved[..., 1]
            origin = cv2.remap(origin, *at, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            soft = cv2.remap(seed, origin[..., 0], origin[..., 1], cv2.INTER_LINEAR)
            return _as_mask(soft > 0.5)

        return step

    return start


def _shift(shape: Shape, flow: npt.NDArray[np.float32]) -> Shape | None:
    box = shape_box(shape)
    if box is None:
        return None
    x1, y1, x2, y2 = (max(round(value), 0) for value in box.as_list())
    inside = flow[y1:y2, x1:x2].reshape(-1, 2)
    if not len(inside):
        return None
    dx, dy = (float(value) for value in np.median(inside, axis=0))
    return Box(box.x1 - dx, box.y1 - dy, box.x2 - dx, box.y2 - dy)


def _flow(clip: Clip, video: Video, seeds: Sequence[AnyLabel], run: Run) -> Iterator[FrameResult]:
    """Dense optical flow alone, from the nearest seed."""
    del clip, run
    return _follow(video, seeds, _flow_follower, cv2.COLOR_RGB2GRAY)


def _tracker_maker(name: str) -> Callable[[Path], cv2.Tracker] | None:
    """How this OpenCV makes a tracker, given the folder of weights; None where it lacks it."""
    if name == "nano":
        if not hasattr(cv2, "TrackerNano_create"):
            return None

        def make_nano(weights: Path) -> cv2.Tracker:
            parameters = cv2.TrackerNano.Params()
            parameters.backbone = str(weights / "nanotrack_backbone.onnx")
            parameters.neckhead = str(weights / "nanotrack_head.onnx")
            cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # warns of its backend at every start
            return cv2.TrackerNano.create(parameters)

        return make_nano
    for module in (cv2, getattr(cv2, "legacy", None)):
        create = getattr(module, f"Tracker{name.upper()}_create", None)
        if create is not None:
            return lambda weights: create()
    return None


def _tracker(name: str) -> Propagate:
    """A single-object tracker of OpenCV, from the nearest seed, both ways."""

    def propagate(clip: Clip, video: Video, seeds: Sequence[AnyLabel], run: Run) -> Iterator[FrameResult]:
        del run
        make = _tracker_maker(name)
        assert make is not None, "asked for although it is lacking"

        def follower(pictures: list[Image]) -> Follower:
            def start(seed_frame: int, shape: Shape) -> Step:
                cv2.setRNGSeed(0)  # MIL draws by lot, from a generator that all of OpenCV shares
                tracker, picture = make(clip.source.parents[2] / "peers"), pictures[seed_frame]
                tracker.init(picture, _inside(shape, picture))
                return lambda frame, shape: _found(*tracker.update(pictures[frame]))

            return start

        return _follow(video, seeds, follower, cv2.COLOR_RGB2BGR)

    return propagate


def _inside(shape: Shape, picture: Image) -> tuple[int, int, int, int]:
    """``x, y, width, height`` of a shape's box, cut to the picture."""
    box = shape_box(shape) or Box(0, 0, 1, 1)
    height_px, width_px = picture.shape[:2]
    x1, y1 = min(max(round(box.x1), 0), width_px - 1), min(max(round(box.y1), 0), height_px - 1)
    return x1, y1, max(min(round(box.x2), width_px) - x1, 1), max(min(round(box.y2), height_px) - y1, 1)


def _found(found: bool, rectangle: Sequence[float]) -> Box | None:
    x, y, width, height = rectangle
    return Box(x, y, x + width, y + height) if found and width > 0 and height > 0 else None


def _library(recipe: str) -> Propagate:
    """The system under test."""

    def propagate(clip: Clip, video: Video, seeds: Sequence[AnyLabel], run: Run) -> Iterator[FrameResult]:
        del clip
        from micromodels.labeling import TrainSettings, label_video

        return label_video(video, seeds, TrainSettings(recipe=recipe), run=run)

    return propagate


def _always(clip: Clip, frame_classes: bool) -> str:
    del clip, frame_classes
    return ""


def _objects_only(clip: Clip, frame_classes: bool) -> str:
    del clip
    return "knows no frame classes" if frame_classes else ""


def _osvos_lacks(clip: Clip, frame_classes: bool) -> str:
    published = clip.set_name == "davis2016" and not frame_classes and _published_folder(clip).is_dir()
    return "" if published else "masks are published for davis2016 only"


def _tracker_lacks(name: str) -> Callable[[Clip, bool], str]:
    def lacking(clip: Clip, frame_classes: bool) -> str:
        if frame_classes or clip.kind not in {ClipKind.BOX, ClipKind.MANY_BOXES}:
            return "knows boxes only"
        return "" if _tracker_maker(name) else f"OpenCV {cv2.__version__} is built without it"

    return lacking


def _library_lacks(clip: Clip, frame_classes: bool) -> str:
    del clip, frame_classes
    return "" if importlib.util.find_spec("micromodels.labeling") else "micromodels.labeling is not there"


PEERS: Mapping[str, System] = {
    system.name: system
    for system in (
        System("copy", _copy, _always),
        System("linear", _linear, _always),
        System("flow", _flow, _objects_only),
        System("osvos", _osvos, _osvos_lacks),
        *(System(name, _tracker(name), _tracker_lacks(name)) for name in ("csrt", "kcf", "mil", "nano")),
        *(
            System(name, _library(recipe), _library_lacks, recipe if recipe != "yolo" else "")
            for name, recipe in (("default", "auto"), ("head", "head"), ("yolo", "yolo"))
        ),
    )
}
"""Everything that can be run, by name; ``default`` is the library as it comes."""


def find_system(name: str) -> System:
    """The system of that name.

    Raises:
        InvalidInput: there is none.
    """
    if name not in PEERS:
        raise InvalidInput("peers", name, ", ".join(PEERS))
    return PEERS[name]
