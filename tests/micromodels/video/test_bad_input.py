"""What is not a video, is broken, or is meant to harm: an answer, never a crash, and nothing else is read."""

from __future__ import annotations

import random
import socket
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from micromodels.errors import InvalidInput, VideoError
from micromodels.video import DecodeLimits, open_video
from tests.micromodels.video import files

QUICK = DecodeLimits(frame_timeout_seconds=20)


@pytest.mark.parametrize(
    "path",
    [
        "http://127.0.0.1:9/clip.mp4",
        "https://example.invalid/clip.mp4",
        "file:///etc/hostname",
        "rtsp://127.0.0.1/x",
        "concat:a.mp4|b.mp4",
        "data:video/mp4;base64,AAAA",
        "pipe:0",
        "",
        "a\0b.mp4",
        "no/such/file.mp4",
        "/dev/zero",
    ],
)
def test_what_is_no_path_of_a_file_is_refused(path: str) -> None:
    """URLs are not looked up; devices are not read."""
    with pytest.raises(InvalidInput, match="path"):
        open_video(path)


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    """Hidden files and other kinds do not count."""
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / ".hidden.png").write_bytes(b"x")
    with pytest.raises(InvalidInput, match="no pictures"):
        open_video(tmp_path)


@pytest.mark.parametrize("name", ["list.mp4", "list.m3u8"])
@pytest.mark.parametrize("kind", ["concat", "hls", "hls_master", "sdp", "dash"])
def test_scripts_and_playlists_read_nothing_else(make_clip, tmp_path: Path, name: str, kind: str) -> None:
    """A real clip lies beside the script and a server listens: neither is touched."""
    clip = make_clip("real.mp4", count=3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/a.ts"
        text = {
            "concat": f"ffconcat version 1.0\nfile {clip.name}\n",
            "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{url}\n#EXT-X-ENDLIST\n",
            "hls_master": f"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{url}\n",
            "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
            "dash": f'<?xml version="1.0"?><MPD><Period><BaseURL>{url}</BaseURL></Period></MPD>',
        }[kind]
        (tmp_path / name).write_text(text)
        with pytest.raises(VideoError, match="not a readable video"):
            open_video(tmp_path / name)
        with pytest.raises(TimeoutError):
            server.accept()


def test_an_unlisted_codec_is_named(tmp_path: Path) -> None:
    """The container is fine, the codec is not on the list."""
    with pytest.raises(VideoError, match="codec 'snow' is not supported; convert"):
        open_video(files.unlisted_codec(tmp_path / "clip.avi"))


def test_a_file_without_video_stream(tmp_path: Path) -> None:
    """Sound only."""
    with pytest.raises(VideoError, match="no video stream"):
        open_video(files.sound_only(tmp_path / "sound.mp4"))


@pytest.mark.parametrize("content", [b"", b"\0" * 5000, b"not a video\n" * 100], ids=["empty", "zeros", "text"])
def test_what_is_no_video_at_all(tmp_path: Path, content: bytes) -> None:
    """The message says so, and which containers are read."""
    (tmp_path / "clip.mp4").write_bytes(content)
    with pytest.raises(VideoError, match="supported containers: mp4" if content else "the file is empty"):
        open_video(tmp_path / "clip.mp4")


@pytest.mark.parametrize(("codec", "pix_fmt"), [("mjpeg", "yuvj420p"), ("huffyuv", "rgb24")])
def test_a_small_file_with_huge_frames_is_refused(tmp_path: Path, codec: str, pix_fmt: str) -> None:
    """An AVI whose header, and whose pictures, say 16000 x 16000."""
    path = files.huge_frames(tmp_path / "huge.avi", codec, pix_fmt)
    with pytest.raises(VideoError, match=r"16000 x 16000|exceed 36000000 pixels"):
        open_video(path)


def test_a_huge_picture_is_refused(tmp_path: Path) -> None:
    """A PNG of 60000 x 60000 pixels in a few bytes."""
    files.huge_picture(tmp_path / "frame.png")
    with pytest.raises(VideoError, match=r"frame\.png"):
        open_video(tmp_path)


def test_limits_on_frames_and_pixels(make_clip) -> None:
    """Both are said with the number."""
    path = make_clip("clip.mp4", count=20)
    with pytest.raises(VideoError, match="more than 10 frames"):
        open_video(path, DecodeLimits(max_frames=10))
    with pytest.raises(VideoError, match="96 x 64"):
        open_video(path, DecodeLimits(max_pixels=1000))


def test_too_little_memory_is_an_error(make_clip) -> None:
    """Not a crash of the caller."""
    with pytest.raises(VideoError):
        open_video(make_clip("clip.mp4", size=(1920, 1080), count=4), DecodeLimits(memory_bytes=60 << 20))


def test_few_frames_that_claim_two_days(make_clip) -> None:
    """Nothing is allocated for the time between them."""
    pts = [*range(0, 49 * 40, 40), 176_402_000]
    with open_video(make_clip("long.mkv", count=50, pts=pts)) as video:
        assert video.table.frame_count == 50
        assert video.table.pts_seconds(49) == Fraction(176_402)
        assert video.frame(49).shape == (64, 96, 3)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.7, 0.9, 0.9999])
@pytest.mark.parametrize("faststart", [False, True])
def test_a_truncated_mp4(make_clip, share: float, faststart: bool) -> None:
    """With the index at the end nothing decodes; with the index first, what is there does, with a warning."""
    path = make_clip("clip.mp4")
    if faststart:
        path = files.with_index_first(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    try:
        video = open_video(path, QUICK)
    except VideoError:
        assert not faststart or share < 0.5
        return
    with video:
        assert video.table.warnings or video.table.frame_count == 60
        assert [index for index, _ in video.frames()] == list(range(video.table.frame_count))


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.avi", "clip.mpg", "clip.gif", "clip.webm"])
def test_bit_flips(make_clip, name: str) -> None:
    """Damaged anywhere: an error that is ours, or frames that are the same by index and in order."""
    codec, pix_fmt = {
        "clip.avi": ("mjpeg", "yuvj420p"),
        "clip.mpg": ("mpeg1video", "yuv420p"),
        "clip.gif": ("gif", "rgb8"),
        "clip.webm": ("libvpx", "yuv420p"),
    }.get(name, ("libx264", "yuv420p"))
    data = make_clip(name, codec, pix_fmt, 30).read_bytes()
    for seed in range(4):
        generator = random.Random(seed)
        flipped = bytearray(data)
        for _ in range(1 + len(data) // 3000):
            flipped[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        path = make_clip(name, codec, pix_fmt, 1).with_name(f"flipped{seed}{Path(name).suffix}")
        path.write_bytes(flipped)
        try:
            video = open_video(path, QUICK)
        except VideoError:
            continue
        with video:
            in_order = [image for _, image in video.frames()]
            for index in generator.choices(range(len(in_order)), k=5):
                np.testing.assert_array_equal(video.frame(index), in_order[index])


def test_a_size_that_changes_midway(tmp_path: Path, make_clip) -> None:
    """Later frames are scaled to the size of the first, and the table says so."""
    small = make_clip("small.mpg", "mpeg1video", count=10, options={}).read_bytes()
    large = make_clip("large.mpg", "mpeg1video", count=10, options={}, size=(192, 128)).read_bytes()
    (tmp_path / "both.mpg").write_bytes(small + large)
    with open_video(tmp_path / "both.mpg") as video:
        assert (video.table.width_px, video.table.height_px) == (96, 64)
        assert {image.shape for _, image in video.frames()} == {(64, 96, 3)}
        assert any("differ in size" in warning for warning in video.table.warnings)


@pytest.mark.parametrize("name", ["cine.dcm", "cine.mp4"])
@pytest.mark.parametrize("make", [files.dicom_of_terabytes, files.dicom_bomb, files.dicom_cut])
def test_f38_f39_f40_dicom_is_not_read(tmp_path: Path, name: str, make: Callable[[Path], Path]) -> None:
    """One that claims terabytes, one that unfolds without end, one that is cut: refused whatever it is called."""
    with pytest.raises(VideoError, match="this is a DICOM file"):
        open_video(make(tmp_path / name))


_EVERY_CUT = """
import sys
from pathlib import Path
import av
from micromodels.errors import VideoError
from micromodels.video import DecodeLimits
from micromodels.video.containers import open_source
from micromodels.video.survey import survey

av.logging.restore_default_callback()
path, limits, step = Path(sys.argv[1]), DecodeLimits(), int(sys.argv[2])
data = path.read_bytes()
for length in range(len(data), -1, -step):
    path.write_bytes(data[:length])
    try:
        table = survey(open_source(path, None, limits, lambda: None), limits, 1)
    except VideoError:
        print(length, 0, 1)
    except Exception as error:  # the decoding process makes an error of ours of whatever the libraries raise
        print(length, 0, 1, type(error).__name__)
    else:
        print(length, table.frame_count, len(table.warnings))
"""


CUTS = {  # every so many bytes, so that each takes a few seconds
    "fast.mp4": ("libx264", "yuv420p", 1),
    "clip.mp4": ("libx264", "yuv420p", 1),
    "clip.mkv": ("libx264", "yuv420p", 1),
    "clip.webm": ("libvpx", "yuv420p", 3),
    "clip.avi": ("mjpeg", "yuvj420p", 31),
    "clip.gif": ("gif", "rgb8", 7),
    "clip.mpg": ("mpeg1video", "yuv420p", 5),
}


@pytest.mark.parametrize("name", CUTS)
def test_f31_a_file_that_is_cut_anywhere(tmp_path: Path, name: str) -> None:
    """In one process that a crash would end: refused, or what is there with a warning; an MP4 at every byte."""
    codec, pix_fmt, step = CUTS[name]
    path = files.encode(tmp_path / name, codec, pix_fmt, 4, size=(32, 32))
    path = files.with_index_first(path) if name.startswith("fast") else path
    length = path.stat().st_size
    with (tmp_path / "log").open("wb") as log:
        command = [sys.executable, "-c", _EVERY_CUT, str(path), str(step)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=log, text=True, check=True)
    rows = [[int(word) for word in line.split()[:3]] for line in done.stdout.splitlines()]
    assert rows[0] == [length, 4, 0]
    assert [row[0] for row in rows] == list(range(length, -1, -step))
    assert rows[-1][1] == 0
    assert [row for row in rows if row[1] < 4 and not row[2]] == []
    assert any(0 < frames < 4 for _, frames, _ in rows) is (name != "clip.mp4"), "whose index is at the end"
