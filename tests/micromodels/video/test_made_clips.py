"""Clips of many codecs and containers, made here: tables, access by index, reuse of tables, writing."""

from __future__ import annotations

import hashlib
import json
import random
import threading
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

from micromodels.errors import FrameMismatch, InvalidInput, OutOfRange, VideoError
from micromodels.video import DecodeLimits, FrameTable, open_video, write_video
from micromodels.video.pixels import Orientation

CONTAINERS = {
    "b_frames.mp4": ("libx264", "yuv420p", {"g": "15", "bf": "5"}),
    "open_gop.mp4": ("libx264", "yuv420p", {"x264-params": "open-gop=1:keyint=12:bframes=3"}),
    "gradual_refresh.mp4": ("libx264", "yuv420p", {"x264-params": "intra-refresh=1:keyint=20"}),
    "no_keyframes.mp4": ("libx264", "yuv420p", {"g": "1000"}),
    "b_frames.avi": ("libx264", "yuv420p", {"g": "15", "bf": "3"}),
    "mpeg4.avi": ("mpeg4", "yuv420p", {"bf": "2"}),
    "motion_jpeg.avi": ("mjpeg", "yuvj420p", {}),
    "bottom_up.avi": ("rawvideo", "bgr24", {}),
    "lossless.mkv": ("ffv1", "gray10le", {}),
    "vp8.webm": ("libvpx", "yuv420p", {"deadline": "realtime"}),
    "mpeg2.mpg": ("mpeg2video", "yuv420p", {"bf": "2"}),
    "ten_bit.mov": ("prores_ks", "yuv422p10le", {}),
    "animation.mov": ("qtrle", "rgb24", {}),
    "animated.gif": ("gif", "rgb8", {}),
    "broadcast.ts": ("libx264", "yuv420p", {"g": "15", "bf": "3"}),
    "camera.m2ts": ("mpeg2video", "yuv420p", {"bf": "2"}),
    "windows.wmv": ("wmv2", "yuv420p", {}),
    "flash.flv": ("flv", "yuv420p", {}),
    "flash_h264.flv": ("libx264", "yuv420p", {"g": "15"}),
    "studio.mxf": ("mpeg2video", "yuv420p", {"bf": "2"}),
    "disc.vob": ("mpeg2video", "yuv420p", {}),
    "telephone.3gp": ("libx264", "yuv420p", {"g": "15"}),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_every_container_by_index(make_clip, name: str) -> None:
    """All frames are there, in order, and the same by index in any order."""
    codec, pix_fmt, options = CONTAINERS[name]
    with open_video(make_clip(name, codec, pix_fmt, 40, options=options)) as video:
        assert video.table.frame_count == 40
        in_order = [image for _, image in video.frames()]
        assert len({image.tobytes() for image in in_order}) == 40
        for index in random.sample(range(40), 15):
            np.testing.assert_array_equal(video.frame(index), in_order[index])


def _set_timescale(path: Path, timescale: int) -> None:
    """Overwrite the time scale of the track (ISO/IEC 14496-12, 8.4.2, version 0)."""
    data = bytearray(path.read_bytes())
    at = data.index(b"mdhd") + 16
    data[at : at + 4] = timescale.to_bytes(4, "big")
    path.write_bytes(data)


@pytest.mark.parametrize("timescale", [0, 1, 0x7FFFFFFF, 0xFFFFFFFF])
def test_f84_a_broken_time_scale_is_warned_of(make_clip, timescale: int) -> None:
    """Whatever frames are shown, the table says what is wrong with the file."""
    path = make_clip("clip.mp4", count=40)
    _set_timescale(path, timescale)
    with open_video(path) as video:
        (warning,) = video.table.warnings
        if video.table.frame_count < 40:
            assert f"lists 40 frames but shows {video.table.frame_count}" in warning
        else:
            assert "apart: the file's time scale is probably wrong" in warning


def test_f84_a_gif_of_too_many_frames_is_refused(make_clip, monkeypatch: pytest.MonkeyPatch) -> None:
    """Far fewer frames than of other videos: small files hold millions."""
    with pytest.raises(VideoError, match="more than 12 frames; split it"):
        open_video(make_clip("clip.gif", "gif", "rgb8", 14, options={}), limits=DecodeLimits(max_frames=12))
    from micromodels.video.containers import MAX_GIF_FRAMES, ContainerSource

    path = make_clip("clip.gif", "gif", "rgb8", 14, options={})
    source = ContainerSource(path, DecodeLimits(), lambda: None)
    assert source.max_frames == MAX_GIF_FRAMES == 100_000
    source._close()


def test_uneven_times_are_exact(make_clip) -> None:
    """Times are those that were written, as fractions."""
    pts = [0, 40, 41, 500, 740, 741, 9000, 9040]
    with open_video(make_clip("uneven.mkv", count=8, pts=pts)) as video:
        assert video.table.time_base == Fraction(1, 1000)
        assert video.table.pts.tolist() == pts
        assert video.table.pts_seconds(3) == Fraction(1, 2)


def test_a_container_without_presentation_times(make_clip) -> None:
    """AVI stores none: frames still come in display order with increasing times."""
    with open_video(make_clip("b_frames.avi", options={"g": "15", "bf": "3", "crf": "4"})) as video:
        brightness = [float(image[56:].mean()) for _, image in video.frames()]
        assert brightness == sorted(brightness)
        assert (np.diff(video.table.pts) > 0).all()


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_display_matrices(make_clip, rotation: int, mirrored: bool) -> None:
    """FFmpeg writes the matrix: counter-clockwise degrees of the picture, flipped left to right after that."""
    with open_video(make_clip("plain.mp4", count=2)) as video:
        plain = video.frame(0)
    with open_video(make_clip("turned.mp4", count=2, rotation=rotation, mirrored=mirrored)) as video:
        turned, table = video.frame(0), video.table
    expected = np.rot90(plain, rotation // 90)
    if mirrored:
        expected = expected[:, ::-1]
    np.testing.assert_array_equal(turned, expected)
    assert (table.height_px, table.width_px) == expected.shape[:2]
    assert table.mirrored == mirrored
    described = np.rot90(plain, -table.rotation_degrees // 90)
    np.testing.assert_array_equal(turned, described[:, ::-1] if table.mirrored else described)


def test_a_display_matrix_by_the_letter() -> None:
    """ISO/IEC 14496-12, 6.2.2: 0 1 -1 0 takes (x, y) to (-y, x), a quarter turn clockwise."""
    matrix = np.array([0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30], np.int32)
    frame = SimpleNamespace(side_data={"DISPLAYMATRIX": matrix.tobytes()})
    orientation = Orientation.of_frame(frame)
    assert (orientation.rotation_degrees, orientation.mirrored) == (90, False)
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    np.testing.assert_array_equal(orientation.apply(image), np.rot90(image, -1))


def test_a_table_is_reused(make_clip) -> None:
    """It survives JSON, and the second opening decodes nothing that is not asked for."""
    path = make_clip("clip.mp4")
    with open_video(path) as video:
        table, image = video.table, video.frame(33)
    assert table.content_hash == hashlib.sha256(path.read_bytes()).hexdigest()
    again = FrameTable.from_dict(json.loads(json.dumps(table.to_dict())))
    assert again.to_dict() == table.to_dict()
    with open_video(path, table=again) as video:
        assert video.table is again
        np.testing.assert_array_equal(video.frame(33), image)


def test_another_file_under_the_same_table_is_refused(make_clip) -> None:
    """Same times, other pixels."""
    with open_video(make_clip("one.mp4")) as video:
        table = video.table
    other = make_clip("other.mp4", options={"g": "15", "bf": "3", "crf": "40"})
    with open_video(other, table=table) as video:
        with pytest.raises(FrameMismatch, match="frame 0 differs"):
            next(video.frames())
        with pytest.raises(FrameMismatch):
            video.frame(20)


def test_a_wrong_pixel_hash_is_noticed(make_clip) -> None:
    """The sampled hashes are compared when their frames are decoded."""
    path = make_clip("clip.mp4")
    with open_video(path) as video:
        data = video.table.to_dict()
    data["pixel_hashes"]["0"] = "0" * 64
    with open_video(path, table=FrameTable.from_dict(data)) as video:
        video.frame(50)
        with pytest.raises(FrameMismatch):
            video.frame(0)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("version", 2),
        ("pts", [0, 0, 1]),
        ("pts", "x"),
        ("pts", []),
        ("time_base", "0/1"),
        ("time_base", "1/0"),
        ("width_px", 0),
        ("rotation_degrees", 45),
        ("fingerprints", "AA"),
        ("keyframes", [99]),
        ("pixel_hashes", {"0": "no"}),
        ("codec", None),
    ],
)
def test_broken_tables_are_refused(make_clip, key: str, value: object) -> None:
    """With a field, never with another exception."""
    with open_video(make_clip("clip.mp4", count=3)) as video:
        data = video.table.to_dict()
    if value is None:
        del data[key]
    else:
        data[key] = value
    with pytest.raises(InvalidInput, match="table"):
        FrameTable.from_dict(data)


def test_iterators_and_single_reads_mix(make_clip) -> None:
    """Two iterators and reads between them do not disturb each other."""
    with open_video(make_clip("clip.mp4")) as video:
        in_order = [image for _, image in video.frames()]
        first, second = video.frames(), video.frames(start=20, stop=30)
        for _ in range(10):
            for iterator in (first, second):
                index, image = next(iterator)
                np.testing.assert_array_equal(image, in_order[index])
            np.testing.assert_array_equal(video.frame(59 - index), in_order[59 - index])
        assert next(second, None) is None
        assert next(first)[0] == 10


def test_threads_may_share_a_video(make_clip) -> None:
    """Each gets the frames it asks for."""
    with open_video(make_clip("clip.mp4")) as video:
        in_order = [image for _, image in video.frames()]
        wrong: list[int] = []

        def read(seed: int) -> None:
            for index in random.Random(seed).choices(range(60), k=20):
                if not np.array_equal(video.frame(index), in_order[index]):
                    wrong.append(index)

        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []


def test_bounds(make_clip) -> None:
    """Frames that are not there are out of range; empty ranges are empty."""
    with open_video(make_clip("clip.mp4", count=5)) as video:
        for index in (-1, 5):
            with pytest.raises(OutOfRange):
                video.frame(index)
        for start, stop in ((-1, None), (6, None), (0, 6), (3, 2)):
            with pytest.raises(OutOfRange):
                video.frames(start, stop)
        assert list(video.frames(5)) == []
        assert [index for index, _ in video.frames(3)] == [3, 4]
        with pytest.raises(OutOfRange):
            video.table.pts_seconds(5)
    with pytest.raises(VideoError, match="closed"):
        video.frame(0)


def test_write_video(tmp_path: Path) -> None:
    """Odd sizes are padded, colors survive, the rate is exact, and nothing else stays behind."""
    image = np.zeros((33, 51, 3), np.uint8)
    image[:, :20], image[:, 20:40], image[:, 40:] = (200, 30, 30), (30, 180, 40), (20, 40, 220)
    write_video(tmp_path / "out.mp4", (image for _ in range(10)), Fraction(30000, 1001))
    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4"]
    with av.open(str(tmp_path / "out.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == Fraction(30000, 1001)
    with open_video(tmp_path / "out.mp4") as video:
        table = video.table
        assert (table.width_px, table.height_px, table.frame_count) == (52, 34, 10)
        assert table.pts_seconds(3) - table.pts_seconds(2) == Fraction(1001, 30000)
        for x in (10, 30, 45):
            assert np.abs(video.frame(9)[16, x].astype(int) - image[16, x]).max() < 12


def test_write_video_refuses(tmp_path: Path) -> None:
    """No frames, two sizes, floats, no rate; an existing file stays as it was."""
    path = tmp_path / "out.mp4"
    path.write_bytes(b"before")
    image = np.zeros((32, 32, 3), np.uint8)
    for frames, fps in (
        ([], 25),
        ([image, image[:16]], 25),
        ([image.astype(float)], 25),
        ([image[..., 0]], 25),
        ([image], 0),
    ):
        with pytest.raises(InvalidInput):
            write_video(path, frames, Fraction(fps))
    assert path.read_bytes() == b"before"
    assert len(list(tmp_path.iterdir())) == 1


def test_limits_are_validated() -> None:
    """Nonsense is named."""
    for name, value in (("max_frames", 0), ("threads", -1), ("frame_timeout_seconds", float("nan"))):
        with pytest.raises(InvalidInput, match=name):
            DecodeLimits(**{name: value})


def test_looks_the_same_after_conversion(make_clip, moving_square) -> None:
    """A lossless RGB clip comes back bit by bit."""
    images = list(moving_square(3))
    with open_video(make_clip("exact.mov", "qtrle", "rgb24", 3, options={})) as video:
        for index, image in enumerate(images):
            np.testing.assert_array_equal(video.frame(index), image)
