"""Views in the background: their order, what is ready when, and what is encoded after them."""

from __future__ import annotations

import numpy as np
import pytest

from micromodels.encoding.encoded_video import EncodedVideo
from micromodels.labels.targets import SeedSet
from micromodels.runtime.run import Run
from micromodels.training.view_pool import MIN_VIEWS_PER_FRAME, ViewPool
from micromodels.types import FrameLabel
from tests.micromodels.doubles import HEIGHT, WIDTH, ColorEncoder, MemoryVideo, scene, seed

pytestmark = pytest.mark.usefixtures("own_size")
COUNT = 6


def pool_of(video: EncodedVideo, views: int = 0, later: tuple[int, ...] = ()) -> ViewPool:
    """Views of frames 1 and 4 with an object, and of 3, of which only a frame class is known."""
    seeds = SeedSet([seed(1), seed(4), FrameLabel(3, "dark", False)], COUNT, HEIGHT, WIDTH)
    images = {frame: video.image(frame) for frame in seeds.all_frames}
    return ViewPool(video, seeds, images, views, 2, 0, later)


@pytest.fixture
def video() -> EncodedVideo:
    return EncodedVideo(MemoryVideo(scene(COUNT)), ColorEncoder(), Run(device="cpu"))


def test_every_frame_comes_before_any_comes_again(video: EncodedVideo) -> None:
    """The first are the frames as they are; a share of the views has one of each frame at least."""
    with video, pool_of(video, views=30) as pool:
        assert pool.frames == (1, 3, 4)
        assert (pool.count(0.0), pool.count(0.5), pool.count(1.0), pool.count(9.0)) == (3, 15, 30, 30)
        checked: list[int] = []
        pool.wait(0.2, lambda: checked.append(len(checked)))
        assert len(checked) == 6
        assert [len(pool.samples(lambda frame, own=own: frame == own, 6)) for own in (1, 3, 4)] == [2, 2, 2]
        drawn = pool.drawn
        assert len(drawn) == 3
        for frame, sample in zip(pool.frames, drawn, strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(sample.features, video[frame].features, strict=True))
        assert [sample.known.tolist() for sample in drawn] == [[True], [False], [True]]
        assert drawn[0].label_map.shape == (HEIGHT // 2, WIDTH // 2)


def test_each_frame_has_a_few_views(video: EncodedVideo) -> None:
    """However few are asked for in all."""
    with video, pool_of(video) as pool:
        pool.wait(1.0, lambda: None)
        assert len(pool.samples(lambda frame: True)) == 3 * MIN_VIEWS_PER_FRAME
        assert [frame for frame, _ in pool.vectors] == [1, 3, 4] * MIN_VIEWS_PER_FRAME


def test_what_check_raises_ends_the_wait(video: EncodedVideo) -> None:
    """And the threads, at the end of the block."""

    def stop() -> None:
        raise KeyboardInterrupt

    with video, pytest.raises(KeyboardInterrupt), pool_of(video) as pool:
        pool.wait(1.0, stop)


def test_the_video_is_encoded_after_the_views(video: EncodedVideo) -> None:
    """First the frames that are named, then the others."""
    with video, pool_of(video, later=(5, 0)) as pool:
        pool.require_later(2)
        assert video._is_cached(5)
        assert video._is_cached(0)
        pool.require_later(COUNT)
        assert all(video._is_cached(frame) for frame in range(COUNT))
