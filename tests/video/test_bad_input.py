"""What is not a video, is broken, or is meant to harm: an answer, never a crash, and nothing else is read."""

from __future__ import annotations

import random
import socket
import struct
import zlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from micromodels.errors import InvalidInput, VideoError
from micromodels.video import DecodeLimits, open_video

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
    path = tmp_path / "clip.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("wmv2", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8))))
        container.mux(stream.encode(None))
    with pytest.raises(VideoError, match="wmv2"):
        open_video(path)


def test_a_file_without_video_stream(tmp_path: Path) -> None:
    """Sound only."""
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(VideoError, match="no video stream"):
        open_video(path)


@pytest.mark.parametrize("content", [b"", b"\0" * 5000, b"not a video\n" * 100], ids=["empty", "zeros", "text"])
def test_what_is_no_video_at_all(tmp_path: Path, content: bytes) -> None:
    """Said so, with the containers that would do."""
    (tmp_path / "clip.mp4").write_bytes(content)
    with pytest.raises(VideoError, match="containers: mp4"):
        open_video(tmp_path / "clip.mp4")


@pytest.mark.parametrize(("codec", "pix_fmt"), [("mjpeg", "yuvj420p"), ("huffyuv", "rgb24")])
def test_a_small_file_with_huge_frames_is_refused(make_clip, codec: str, pix_fmt: str) -> None:
    """An AVI whose header, and whose pictures, say 16000 x 16000."""
    path = make_clip("huge.avi", codec, pix_fmt, 3)
    sizes = struct.pack(">HH", 64, 96), struct.pack(">HH", 16000, 16000)
    data = bytearray(path.read_bytes().replace(b"\xff\xc0\0\x11\x08" + sizes[0], b"\xff\xc0\0\x11\x08" + sizes[1]))
    assert codec != "mjpeg" or data.count(sizes[1]) == 3
    for marker, offset in ((b"avih", 40), (b"strf", 12)):
        at = data.index(marker) + offset
        assert struct.unpack_from("<II", data, at) == (96, 64)
        struct.pack_into("<II", data, at, 16000, 16000)
    path.write_bytes(data)
    with pytest.raises(VideoError, match=r"16000 x 16000|more than 36000000 pixels"):
        open_video(path)


def test_a_huge_picture_is_refused(tmp_path: Path) -> None:
    """A PNG of 60000 x 60000 pixels in a few bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    (tmp_path / "frame.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
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
        whole = path.with_name("fast.mp4")
        with av.open(str(path)) as source, av.open(str(whole), "w", options={"movflags": "faststart"}) as target:
            stream = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.dts is not None:
                    packet.stream = stream
                    target.mux(packet)
        path = whole
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
        assert any("another size" in warning for warning in video.table.warnings)


@pytest.mark.parametrize("name", ["cine.dcm", "cine.mp4"])
def test_f38_f39_f40_dicom_is_not_read(tmp_path: Path, name: str) -> None:
    """A DICOM file that claims 4 TB of pixels, then ends: DICOM is refused whatever it is called, at once."""
    claims = b"\x28\x00\x10\x00US\x02\x00\xff\xff\x28\x00\x11\x00US\x02\x00\xff\xff"
    claims += b"\xe0\x7f\x10\x00OW\x00\x00\xff\xff\xff\xff"
    (tmp_path / name).write_bytes(bytes(128) + b"DICM" + claims + bytes(1000))
    with pytest.raises(VideoError, match="containers: mp4"):
        open_video(tmp_path / name)
