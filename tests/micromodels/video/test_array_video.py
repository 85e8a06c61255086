"""Frames in memory as videos."""

from __future__ import annotations

import hashlib
import tracemalloc
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from micromodels.errors import FrameMismatch, InvalidInput, OutOfRange, VideoError
from micromodels.video import ArrayVideo, DecodeLimits, Video, open_video
from tests.micromodels.video.files import Rgb, moving_square

COUNT = 12


@pytest.fixture
def frames() -> Rgb:
    return np.stack(list(moving_square(COUNT)))


def test_an_array_is_a_video(frames: Rgb) -> None:
    """The table says what there is; frames come out as they went in, as copies."""
    with open_video(frames, fps=12.5) as video:
        table = video.table
        assert isinstance(video, ArrayVideo)
        assert (table.frame_count, table.width_px, table.height_px) == (COUNT, 96, 64)
        assert (table.container, table.rotation_degrees, table.bit_depth) == ("memory", 0, 8)
        assert [table.pts_seconds(i) for i in (0, 1, 11)] == [0, Fraction(2, 25), Fraction(22, 25)]
        assert table.content_hash == hashlib.sha256(b"rgb24 96x64\n" + frames.tobytes()).hexdigest()
        np.testing.assert_array_equal(video.frame(np.int64(3)), frames[3])
        got = list(video.frames(4, 7))
        assert [index for index, _ in got] == [4, 5, 6]
        np.testing.assert_array_equal(np.stack([image for _, image in got]), frames[4:7])
        video.frame(0)[:] = 0
        np.testing.assert_array_equal(video.frame(0), frames[0])
        assert repr(video) == "ArrayVideo(12 frames, 96x64)"


def test_an_iterable_gives_the_same_video_as_its_array(frames: Rgb) -> None:
    """A generator is read once; pixels, times and hash are those of the array, also where that is a strided view."""
    streamed = open_video(moving_square(COUNT), fps=30)
    assert streamed.table.to_dict() == open_video(frames, fps=30).table.to_dict()
    np.testing.assert_array_equal(np.stack([image for _, image in streamed.frames()]), frames)
    assert streamed.frame(5).flags.writeable
    every_other = open_video(frames[::2, :, ::-1])
    np.testing.assert_array_equal(every_other.frame(1), frames[2, :, ::-1])
    assert open_video(list(frames[::2, :, ::-1])).table.to_dict() == every_other.table.to_dict()


def test_an_iterable_of_pillow_pictures_is_read(frames: Rgb) -> None:
    """Whatever numpy can read as a frame is one."""
    from PIL import Image

    video = open_video([Image.fromarray(frames[0]), frames[1]])
    np.testing.assert_array_equal(video.frame(0), frames[0])


def test_memory_does_not_grow_with_an_iterable() -> None:
    """150 frames of 640 x 480 (138 MB) are read with the memory of a few."""

    def long() -> Iterator[Rgb]:
        for index in range(150):
            yield np.full((480, 640, 3), index, np.uint8)

    tracemalloc.start()
    try:
        video = open_video(long())
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()
    assert video.frame(149)[0, 0].tolist() == [149] * 3


def test_a_video_can_be_closed_and_opened_again(frames: Rgb, make_clip) -> None:
    """A closed video refuses to read; what is opened again reads the same frames."""
    for source in (frames, moving_square(COUNT), make_clip("clip.mp4", count=COUNT)):
        with open_video(source) as video:
            assert not video.is_closed
            first = video.frame(2)
        assert video.is_closed
        with pytest.raises(VideoError, match="closed"):
            video.frame(2)
        with video.reopen() as again:
            assert again.table is video.table
            np.testing.assert_array_equal(again.frame(2), first)


def test_pixels_that_were_changed_are_noticed(frames: Rgb) -> None:
    """An array that the caller writes into is no longer the video that was opened."""
    video = open_video(frames)
    frames[3, 0, 0, 0] += 1
    video.frame(2)
    with pytest.raises(FrameMismatch, match="frame 3"):
        video.frame(3)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda x: x / 255, r"float64 of shape .* \(x \* 255\)\.round\(\)\.astype\(np\.uint8\)"),
        (lambda x: x.astype(np.int32), "int32 .* 0 to 255 and the type to uint8"),
        (lambda x: x[..., 0], r"gray frames: np\.repeat\(x\[\.\.\., None\], 3, axis=-1\)"),
        (lambda x: x[..., :1], r"gray frames: np\.repeat\(x, 3, axis=-1\)"),
        (lambda x: np.concatenate([x, x[..., :1]], -1), r"without alpha: x\[\.\.\., :3\]"),
        (lambda x: np.moveaxis(x, -1, -3), r"np\.moveaxis\(x, -3, -1\)"),
        (lambda x: x[:, :0], "at least one frame and one pixel"),
    ],
)
def test_frames_of_another_kind_are_refused(frames: Rgb, make, said: str) -> None:
    """The message shows what came and what turns it into frames, for an array and for a frame of an iterable."""
    with pytest.raises(InvalidInput, match=said) as of_array:
        open_video(make(frames))
    assert of_array.value.field == "frames"
    with pytest.raises(InvalidInput, match=said) as of_frame:
        open_video(iter(make(frames)))
    assert of_frame.value.field == "frames[0]"


def test_what_is_no_video_is_refused(frames: Rgb) -> None:
    """One picture, nothing, differing sizes, other things, a rate that is none, arguments of the other kind."""
    with pytest.raises(InvalidInput, match=r"for one frame: x\[None\]"):
        open_video(frames[0])
    with pytest.raises(InvalidInput, match="at least one frame"):
        open_video([])
    with pytest.raises(InvalidInput, match=r"frames\[1\].*\(64, 96, 3\)"):
        open_video([frames[0], frames[1, :32]])
    with pytest.raises(InvalidInput, match=r"frames\[0\]: got 'a\.png'"):
        open_video(["a.png"])
    with pytest.raises(InvalidInput, match="source: got 5; allowed: a path"):
        open_video(5)  # type: ignore[call-overload]
    for rate in (0, -1, float("nan"), float("inf"), True, "fast"):
        with pytest.raises(InvalidInput, match="fps"):
            open_video(frames, fps=rate)
    with pytest.raises(InvalidInput, match="table"):
        open_video(frames, table=open_video(frames).table)  # type: ignore[call-overload]
    with pytest.raises(InvalidInput, match="fps"):
        open_video("video.mp4", fps=25)  # type: ignore[call-overload]
    with pytest.raises(OutOfRange):
        open_video(frames).frame(COUNT)
    with pytest.raises(OutOfRange):
        open_video(frames).frames(3, COUNT + 1)


def test_limits_hold_for_frames_in_memory(frames: Rgb) -> None:
    """Frames, pixels, and the size of the temporary file."""
    for source in (frames, list(frames)):
        with pytest.raises(VideoError, match="more than 11 frames"):
            open_video(source, DecodeLimits(max_frames=11))
        with pytest.raises(VideoError, match="6144 pixels"):
            open_video(source, DecodeLimits(max_pixels=6143))
    with pytest.raises(VideoError, match=r"spool_bytes.*folder of pictures"):
        open_video(list(frames), DecodeLimits(spool_bytes=frames.nbytes - 1))
    assert open_video(list(frames), DecodeLimits(spool_bytes=frames.nbytes)).table.frame_count == COUNT


def test_an_error_of_the_iterable_is_passed_on(frames: Rgb) -> None:
    """It is the caller's own."""

    def broken() -> Iterator[Rgb]:
        yield frames[0]
        raise KeyError("camera")

    with pytest.raises(KeyError, match="camera"):
        open_video(broken())


def test_a_full_disk_is_said(frames: Rgb, monkeypatch: pytest.MonkeyPatch) -> None:
    """`/dev/full` stands in for the temporary file."""
    import tempfile

    full = Path("/dev/full").open("wb", buffering=0)  # noqa: SIM115  closed by what it is given to
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: full)
    with pytest.raises(VideoError, match=r"cannot store the frames in .*No space left"):
        open_video(list(frames))
    assert full.closed


def test_a_file_says_its_name_and_its_frames(make_clip, make_folder, frames: Rgb) -> None:
    """What results are called after."""
    with open_video(make_clip("clip.mp4", count=3)) as video:
        assert isinstance(video, Video)
        assert (video.name, video.frame_names) == ("clip.mp4", ())
    with open_video(make_folder({"b.png": frames[0], "a.png": frames[1]})) as video:
        assert (video.name, video.frame_names) == ("pictures", ("a.png", "b.png"))
    video = open_video(frames)
    assert (video.name, video.frame_names) == ("frames in memory", ())
