"""Views of the seed frames, made and encoded in the background while a head trains; then the frames of the video."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from types import TracebackType

import numpy as np
import numpy.typing as npt

from micromodels.encoding.encoded_video import EncodedVideo
from micromodels.labels.targets import SeedFrame, SeedSet
from micromodels.runtime.parallel import WorkLine, worker_count
from micromodels.runtime.run import Stage
from micromodels.training.augmentation import ViewMaker
from micromodels.training.frame_classifier import pooled
from micromodels.training.trainer import Sample

__all__ = ["MIN_VIEWS_PER_FRAME", "ViewPool"]

MIN_VIEWS_PER_FRAME = 4


class ViewPool:
    """Encoded views in a fixed order: number n of every seed frame comes before n + 1 of any; 0 is the frame itself.

    A context manager: threads begin to work when it is entered and end when it is left.

    Args:
        video: encoded frames.
        seeds: human labels; frames with labels of objects or of the frame get views.
        images: work images of these frames.
        views: in all, shared out over the frames; each gets ``MIN_VIEWS_PER_FRAME`` at least.
        stride: of the head's logits, and so of the views' label maps.
        seed: of every random choice.
        later: frames of the video that are encoded after the views, in this order; then come the others.
    """

    def __init__(
        self,
        video: EncodedVideo,
        seeds: SeedSet,
        images: Mapping[int, npt.NDArray[np.uint8]],
        views: int,
        stride: int,
        seed: int,
        later: Sequence[int],
    ) -> None:
        self.targets: dict[int, SeedFrame] = {frame: seeds.seed_frame(frame, video.size) for frame in seeds.frames}
        self.frames = seeds.all_frames
        per_frame = max(MIN_VIEWS_PER_FRAME, -(-views // len(self.frames)))
        self._order = [(frame, number) for number in range(per_frame) for frame in self.frames]
        self._video, self._seeds, self._images, self._stride = video, seeds, images, stride
        self._seed, self._later = seed, later
        self._views: list[Sample | None] = [None] * len(self._order)
        self._vectors: list[npt.NDArray[np.float32] | None] = [None] * len(self._order)
        self._line: WorkLine

    def __enter__(self) -> ViewPool:
        self._line = WorkLine(self._tasks(), worker_count() - 1).__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._line.__exit__(kind, error, trace)

    def _tasks(self) -> Iterator[Callable[[], None]]:
        """What is encoded, in this order: views of the seeds, then frames of the video."""
        flip = all(c.flip for c in self._seeds.ontology.object_classes)
        makers: dict[int, ViewMaker] = {}
        for place, (frame, number) in enumerate(self._order):
            if frame not in makers:
                target = self.targets.get(frame) or self._seeds.seed_frame(frame, self._video.size)
                makers[frame] = ViewMaker(self._images[frame], target, (self._seed, frame), flip)
            yield partial(self._encode_view, place, makers[frame], number)
        if self._later:
            first = set(self._later)
            others = (frame for frame in range(self._video.frame_count) if frame not in first)
            yield from self._video.encoding_tasks([*self._later, *others][: self._video.capacity_frames * 3 // 4])

    def _encode_view(self, place: int, maker: ViewMaker, number: int) -> None:
        started = time.perf_counter()
        frame = self._order[place][0]
        view = maker.view(number)
        # View 0 is the frame itself, whose features are needed anyway.
        if number == 0:
            features = self._video.with_image(frame, view.image).features
        else:
            features = self._video.encoder.encode(view.image)
        # Targets at the stride of the head; nearest keeps them labels.
        small = np.ascontiguousarray(view.label_map[:: self._stride, :: self._stride])
        known = self.targets[frame].known if frame in self.targets else np.zeros(len(self._seeds.tracks), bool)
        self._views[place] = Sample(features, small, view.boxes, known)
        self._vectors[place] = pooled(features) if self._seeds.frame_classes else None
        self._video.spent(Stage.VIEWS, started)

    def count(self, share: float) -> int:
        """How many views a share of them is; one of each frame at least."""
        return max(len(self.frames), round(min(share, 1.0) * len(self._order)))

    def wait(self, share: float, check: Callable[[], None]) -> None:
        """Wait, and help, until this share of the views is encoded.

        Args:
            share: 0 to 1.
            check: called after each; what it raises ends the wait.
        """
        for count in range(1, self.count(share) + 1):
            self._line.require(count)
            self._video.tell_times()
            check()

    def require(self, count: int) -> None:
        """Return when the first ``count`` views are encoded; in any thread."""
        self._line.require(count)

    def require_later(self, count: int) -> None:
        """Return when all views and the first ``count`` of the frames that come after them are encoded."""
        self._line.require(len(self._order) + count)
        self._video.tell_times()

    def samples(self, wanted: Callable[[int], bool], count: int | None = None) -> list[Sample]:
        """Encoded views of the frames that are wanted, among the first ``count``; None: among all."""
        places = zip(self._order[:count], self._views[:count], strict=True)
        return [view for (frame, _), view in places if view is not None and wanted(frame)]

    @property
    def drawn(self) -> list[Sample]:
        """The seed frames as they are, one sample each, once they are encoded."""
        return [view for view in self._views[: len(self.frames)] if view is not None]

    @property
    def vectors(self) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        """Frames and pooled features of the views of them, for frame classes; of those that are encoded."""
        for (frame, _), vector in zip(self._order, self._vectors, strict=True):
            if vector is not None:
                yield frame, vector
