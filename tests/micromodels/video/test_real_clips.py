"""Every real clip: the table and the pixels are those of a plain sequential decode by PyAV in this process."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest

from micromodels.errors import VideoError
from micromodels.video import FrameTable, open_video

pytestmark = pytest.mark.real_data

# Frame counts were taken with `ffmpeg -f framemd5` of another FFmpeg version.
CLIPS = {
    "codec/decord/flipping_a_pancake.mkv": 310,
    "codec/decord/unordered.mov": 4,
    "codec/decord/video_0.mov": 3,
    "codec/decord/video_180.mov": 3,
    "codec/decord/video_270.mov": 3,
    "codec/decord/video_90.mov": 3,
    "codec/imageio/cockatoo.mp4": 280,
    "codec/imageio/newtonscradle.gif": 36,
    "codec/imageio/realshort.mp4": 36,
    "codec/misc/bigbuckbunny.mp4": 132,
    "codec/misc/bikes.mp4": 250,
    "codec/misc/carphone_distorted.mp4": 120,
    "codec/misc/carphone_pristine.mp4": 120,
    "codec/misc/dlc_openfield_m3v1.mp4": 2330,
    "codec/misc/labelstudio_yolo_test.mp4": 35,
    "codec/misc/mmtracking_demo.mp4": 8,
    "codec/misc/sam2_04_coffee.mp4": 287,
    "codec/misc/sleap_centered_pair_small.mp4": 1100,
    "codec/torchcodec/av1_video.mkv": 125,
    "codec/torchcodec/bt709_full_range.mp4": 30,
    "codec/torchcodec/h264_10bits.mp4": 30,
    "codec/torchcodec/h265_10bits.mp4": 30,
    "codec/torchcodec/h265_video.mp4": 10,
    "codec/torchcodec/nasa_13013.mp4": 325,
    "tld/car/video.mpg": 945,
    "tld/jumping/video.mpg": 313,
    "tld/pedestrian2/video.mpg": 338,
    "tld/pedestrian3/video.mpg": 184,
}


def digest(image: npt.NDArray[np.uint8]) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(image), digest_size=16).digest()


def plain_decode(path: Path, wanted: set[int]) -> tuple[dict[int, bytes], list[int | None]]:
    """Digests of the wanted frames as PyAV gives them, turned by the display matrix, and the times of all."""
    digests: dict[int, bytes] = {}
    times: list[int | None] = []
    converter = av.video.reformatter.VideoReformatter()
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for frame in container.decode(stream):
            if len(times) in wanted:
                image = converter.reformat(frame, format="rgb24").to_ndarray()
                digests[len(times)] = digest(np.rot90(image, frame.rotation // 90))
            times.append(frame.pts)
    return digests, times


@pytest.mark.parametrize("name", CLIPS)
def test_frames_by_index_are_those_of_a_sequential_decode(real_data: Path, name: str) -> None:
    """Count, times, pixels in order, and pixels by index for some frames in random order."""
    path = real_data / name
    count = CLIPS[name]
    start, stop = max(0, count - 150), count  # the end of the long clips, for time
    indices = random.sample(range(count), min(10, count))
    digests, times = plain_decode(path, {*indices, *range(start, stop)})
    with open_video(path) as video:
        assert video.table.frame_count == len(times) == count
        assert video.table.pts.tolist() == times
        for index in indices:
            assert digest(video.frame(index)) == digests[index]
        for index, image in video.frames(start, stop):
            assert digest(image) == digests[index]


@pytest.mark.parametrize("name", ["video_0", "video_90", "video_180", "video_270"])
def test_rotation_is_applied(real_data: Path, name: str) -> None:
    """The phone held in four ways gives four rotations and upright sizes."""
    with open_video(real_data / "codec" / "decord" / f"{name}.mov") as video:
        degrees = int(name.removeprefix("video_"))
        assert video.table.rotation_degrees == degrees
        assert (video.table.width_px, video.table.height_px) == ((568, 320) if degrees % 180 == 0 else (320, 568))
        assert video.frame(0).shape == (video.table.height_px, video.table.width_px, 3)


def test_a_broken_file_gives_what_decodes_with_a_warning(real_data: Path) -> None:
    """Plain iteration stops at the first error after 28 frames; we go on behind it, the same way each time."""
    with open_video(real_data / "codec" / "decord" / "corrupted.mp4") as video:
        table = video.table
        assert table.frame_count == 49
        assert "damaged" in table.warnings[0]
        in_order = [digest(image) for _, image in video.frames()]
        assert [digest(video.frame(i)) for i in (48, 3, 30, 29)] == [in_order[i] for i in (48, 3, 30, 29)]
    with open_video(video.path, table=FrameTable.from_dict(table.to_dict())) as video:
        assert [digest(image) for _, image in video.frames()] == in_order


def test_a_container_that_is_not_listed_is_refused(real_data: Path) -> None:
    """Flash files are not decoded."""
    with pytest.raises(VideoError, match="not a readable video"):
        open_video(real_data / "codec" / "imageio" / "stent.swf")


def test_bit_depth_of_ten_bit_video(real_data: Path) -> None:
    """The table says 10, the frames are uint8."""
    with open_video(real_data / "codec" / "torchcodec" / "h265_10bits.mp4") as video:
        assert video.table.bit_depth == 10
        assert video.frame(3).dtype == np.uint8


def test_a_second_video_stream_is_mentioned(real_data: Path) -> None:
    """The first one counts."""
    with open_video(real_data / "codec" / "torchcodec" / "nasa_13013.mp4") as video:
        assert video.table.warnings == ("the file has 2 video streams; the first one is used",)


@pytest.mark.parametrize("name", ["davis2016/libby/frames", "cells/vanvliet-trpL/frames"])
def test_folders_of_real_pictures(real_data: Path, name: str) -> None:
    """JPEG and gray PNG: near to what OpenCV decodes (which smooths the chroma of JPEG)."""
    import cv2

    folder = real_data / name
    pictures = sorted(folder.iterdir())
    with open_video(folder) as video:
        assert video.table.frame_count == len(pictures)
        for index in (len(pictures) - 1, 0, 7):
            expected = cv2.imread(str(pictures[index]))[:, :, ::-1].astype(int)
            assert np.abs(video.frame(index) - expected).mean() < 2
