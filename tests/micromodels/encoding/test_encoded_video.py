"""The feature cache: bounded, forgiving, and never visible in the results."""

from __future__ import annotations

import tempfile
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from micromodels.encoding.encoded_video import (
    MEMORY_FRAMES,
    EncodedFrame,
    EncodedVideo,
    FrameSelection,
    level_statistics,
    to_work_image,
)
from micromodels.runtime.run import Run, Stage, StageFinished
from tests.micromodels.doubles import ColorEncoder, MemoryVideo, Recorder, scene

pytestmark = pytest.mark.usefixtures("own_size")


def same(one: EncodedFrame, other: EncodedFrame) -> bool:
    pairs = zip(one.features, other.features, strict=True)
    return all(np.array_equal(a, b) for a, b in pairs) and np.array_equal(one.gray, other.gray)


def pair(index: int, frame: EncodedFrame) -> tuple[int, EncodedFrame]:
    return index, frame


def frame_bytes() -> int:
    with EncodedVideo(MemoryVideo(scene(1)), ColorEncoder(), Run()) as video:
        return sum(level.nbytes for level in video[0].features) + video[0].gray.nbytes


def files(cache: Path) -> list[Path]:
    return sorted(path for path in cache.rglob("*") if path.is_file())


def test_streaming_equals_random_access() -> None:
    """A stream over a range gives what asking frame by frame, in any order, gives."""
    frames = scene(20)
    with EncodedVideo(MemoryVideo(frames), ColorEncoder(), Run()) as one:
        streamed = dict(one.stream(range(3, 18), pair))
    assert list(streamed) == list(range(3, 18))
    with EncodedVideo(MemoryVideo(frames), ColorEncoder(), Run()) as other:
        assert all(same(streamed[index], other[index]) for index in (17, 3, 10, 4, 16))


def test_a_stream_over_gaps_encodes_only_what_is_missing(cache: Path) -> None:
    """Frames that are on disk are not encoded again, wherever they lie, nor decoded, but for short gaps in passing."""
    video, encoder = MemoryVideo(scene(30)), ColorEncoder()
    with EncodedVideo(video, encoder, Run(cache_dir=cache)) as encoded:
        for index in (2, 3, 7):
            encoded[index]
        got = [index for index, _ in encoded.stream(range(12), pair)]
        assert got == list(range(12))
        assert encoder.encoded == 12
        assert video.given_out == 12 + 3
        got = [index for index, _ in encoded.stream([*range(14), *range(25, 30)], pair)]
    assert got == [*range(14), *range(25, 30)]
    assert encoder.encoded == 19
    assert video.given_out == 15 + 7


def test_the_cache_outlives_the_video(cache: Path) -> None:
    """A second run over the same video and encoder encodes nothing."""
    frames = scene(10)
    with EncodedVideo(MemoryVideo(frames), ColorEncoder(), Run(cache_dir=cache)) as first:
        expected = dict(first.stream(range(10), pair))
    encoder = ColorEncoder()
    with EncodedVideo(MemoryVideo(frames), encoder, Run(cache_dir=cache)) as second:
        assert all(same(found, expected[index]) for index, found in second.stream(range(10), pair))
    assert encoder.encoded == 0


@pytest.mark.parametrize("other", ["encoder", "video"])
def test_another_encoder_or_video_has_a_cache_of_its_own(cache: Path, other: str) -> None:
    """What the key is made of keeps features apart."""
    with EncodedVideo(MemoryVideo(scene(1)), ColorEncoder(), Run(cache_dir=cache)) as first:
        first[0]
    encoder = ColorEncoder("color-2" if other == "encoder" else "color")
    video = MemoryVideo(scene(1, blue=True), "1" * 64 if other == "video" else "0" * 64)
    with EncodedVideo(video, encoder, Run(cache_dir=cache)) as second:
        second[0]
    assert encoder.encoded == 1


def test_the_cache_is_bounded_on_disk(cache: Path) -> None:
    """With room for five frames there are never more than five files, and those used longest ago go first."""
    bound = 5 * frame_bytes()
    with EncodedVideo(MemoryVideo(scene(40)), ColorEncoder(), Run(cache_dir=cache), bound) as video:
        for _ in video.stream(range(20), pair):
            assert len(list(cache.rglob("*.npz"))) <= 5
            with suppress(FileNotFoundError):  # another thread is at work here
                assert sum(path.stat().st_size for path in files(cache)) <= 1.5 * bound
        for index in range(10, 20):
            video[index + 20]
        video[20]
        assert {int(path.stem) for path in files(cache)} == {20, 36, 37, 38, 39}


def test_evicted_frames_come_back_identical(cache: Path) -> None:
    """A frame that went from memory and disk is encoded again, to the same values."""
    video, encoder = MemoryVideo(scene(30)), ColorEncoder()
    with EncodedVideo(video, encoder, Run(cache_dir=cache), 4 * frame_bytes()) as encoded:
        before = encoded[0]
        for _ in encoded.stream(range(1, 30), pair):
            pass
        count = encoder.encoded
        assert same(encoded[0], before)
        assert encoder.encoded == count + 1


def test_frames_in_memory_are_few() -> None:
    """The frames held besides the files do not grow with the video."""
    with EncodedVideo(MemoryVideo(scene(3 * MEMORY_FRAMES)), ColorEncoder(), Run()) as video:
        for _ in video.stream(range(3 * MEMORY_FRAMES), pair):
            assert len(video._memory) <= MEMORY_FRAMES


def test_files_that_vanish_are_encoded_again(cache: Path) -> None:
    """Another run on the same cache may have evicted what this one believes to be there."""
    video, encoder = MemoryVideo(scene(2 * MEMORY_FRAMES)), ColorEncoder()
    with EncodedVideo(video, encoder, Run(cache_dir=cache)) as encoded:
        before = encoded[0]
        for _ in encoded.stream(range(2 * MEMORY_FRAMES), pair):
            pass
        for path in files(cache):
            path.unlink()
        assert same(encoded[0], before)


def test_a_cache_file_without_a_level_is_encoded_again(cache: Path) -> None:
    """A file of the right name and the wrong content costs one encoding."""
    frames = scene(1)
    with EncodedVideo(MemoryVideo(frames), ColorEncoder(), Run(cache_dir=cache)) as first:
        before = first[0]
    (path,) = files(cache)
    np.savez(path, level0=np.zeros(3))
    with EncodedVideo(MemoryVideo(frames), ColorEncoder(), Run(cache_dir=cache)) as second:
        assert same(second[0], before)


def test_a_full_disk_costs_time_only(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be written the frames are encoded each time, and no half file stays."""

    def full(*arguments: object, **named: object) -> None:
        raise OSError(28, "No space left on device")

    encoder = ColorEncoder()
    with EncodedVideo(MemoryVideo(scene(2 * MEMORY_FRAMES)), encoder, Run(cache_dir=cache)) as video:
        before = video[0]
        monkeypatch.setattr(np, "savez", full)
        written = files(cache)
        for _ in video.stream(range(1, 2 * MEMORY_FRAMES), pair):
            pass
        assert files(cache) == written
        assert same(video[0], before)


def test_a_temporary_cache_goes_with_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a cache folder the files lie in a temporary one that is removed, also after an error."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def fail_with_a_frame_encoded() -> None:
        with EncodedVideo(MemoryVideo(scene(2)), ColorEncoder(), Run()) as video:
            video[0]
            assert files(tmp_path)
            raise KeyError

    with pytest.raises(KeyError):
        fail_with_a_frame_encoded()
    assert list(tmp_path.iterdir()) == []


def test_a_given_cache_stays(cache: Path) -> None:
    """A folder that the caller named is the caller's."""
    with EncodedVideo(MemoryVideo(scene(1)), ColorEncoder(), Run(cache_dir=cache)) as video:
        video[0]
    assert len(files(cache)) == 1


def test_decoding_and_encoding_are_timed_apart() -> None:
    """Each frame reports one time of each stage the first time, and nothing when it comes from the cache."""
    recorder = Recorder()
    with EncodedVideo(MemoryVideo(scene(3)), ColorEncoder(), recorder.run) as video:
        for _ in range(2):
            for _ in video.stream(range(3), pair):
                pass
    stages = [event.stage for event in recorder.events if isinstance(event, StageFinished)]
    assert stages.count(Stage.DECODE) == stages.count(Stage.ENCODE) == 3


def test_work_images_keep_mean_colors() -> None:
    """Shrinking averages areas; an image of the right size is not touched."""
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    assert to_work_image(image, (64, 64)) is image
    small = to_work_image(image, (32, 32))
    assert small.shape == (32, 32, 3)
    assert np.abs(small.astype(float) - image.reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))).max() <= 1
    assert to_work_image(image, (96, 128)).shape == (96, 128, 3)


def test_level_statistics_are_those_of_all_pixels() -> None:
    """Mean and deviation per channel over the pixels of all samples, the deviation never zero."""
    rng = np.random.default_rng(0)
    samples = [[rng.normal(3, 2, (5, 6, 7)).astype(np.float16), np.ones((2, 3, 3), np.float16)] for _ in range(4)]
    (mean, deviation), (_, flat) = level_statistics(samples)
    together = np.stack([sample[0] for sample in samples]).astype(np.float64)
    np.testing.assert_allclose(mean, together.mean(axis=(0, 2, 3)), atol=1e-3)
    np.testing.assert_allclose(deviation, together.std(axis=(0, 2, 3)), atol=5e-3)
    assert (flat > 0).all()


def test_frames_that_miss_here_and_there_are_encoded_by_tasks_once() -> None:
    """Tasks for frames in any order, some of them there already, leave every frame in the cache, encoded once."""
    encoder = ColorEncoder()
    frames = scene(12)
    with EncodedVideo(MemoryVideo(frames), encoder, Run()) as video:
        video[3], video[7]
        tasks = list(video.encoding_tasks([2, 3, 4, 7, 8, 0, 11]))
        assert len(tasks) == 5
        for task in [*tasks, *tasks]:
            task()
        assert encoder.encoded == 7
        with EncodedVideo(MemoryVideo(frames), ColorEncoder(), Run()) as other:
            assert all(same(video[index], other[index]) for index in (0, 2, 3, 4, 7, 8, 11))
        assert encoder.encoded == 7


def test_times_of_other_threads_go_out_in_the_thread_that_asks() -> None:
    """Events come from one thread, so their receivers need no lock."""
    recorder = Recorder()
    with EncodedVideo(MemoryVideo(scene(2)), ColorEncoder(), recorder.run) as video:
        (task,) = video.encoding_tasks([1])
        thread = threading.Thread(target=task)
        thread.start()
        thread.join()
        assert recorder.events == []
        video.tell_times()
    assert [event.stage for event in recorder.events if isinstance(event, StageFinished)] == [
        Stage.DECODE,
        Stage.ENCODE,
    ]


def test_the_capacity_is_what_the_cache_holds(cache: Path) -> None:
    """As many frames as said stay on disk."""
    with EncodedVideo(MemoryVideo(scene(9)), ColorEncoder(), Run(cache_dir=cache), 5 * frame_bytes()) as video:
        assert video.capacity_frames == 5
        for _ in video.stream(range(9), pair):
            pass
        assert len(files(cache)) == 5


def test_some_frames_of_a_video_are_a_video_of_their_own() -> None:
    """They are numbered from 0, and are the same frames; those between are decoded only where that is quicker."""
    source, chosen = MemoryVideo(scene(30)), [0, 2, 4, 5, 9, 28]
    with EncodedVideo(source, ColorEncoder(), Run()) as video:
        selection = FrameSelection(video, chosen)
        got = dict(selection.stream(range(1, 6), pair))
        assert list(got) == [1, 2, 3, 4, 5]
        assert source.given_out <= 9
        assert selection.size == video.size
        assert all(same(got[place], video[chosen[place]]) for place in got)
