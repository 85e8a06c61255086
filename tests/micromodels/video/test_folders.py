"""Folders of pictures as videos."""

from __future__ import annotations

import hashlib
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from micromodels.errors import FrameMismatch, VideoError
from micromodels.video import open_video

pytest.importorskip("cv2")


def picture(seed: int, shape: tuple[int, ...] = (40, 56, 3), dtype: type = np.uint8, top: int = 256):
    return np.random.default_rng(seed).integers(0, top, shape, dtype=dtype)


def test_natural_order_and_times(make_folder) -> None:
    """frame2 comes before frame10; frame i is shown at i / 25 seconds; other files are left alone."""
    images = {f"frame{n}.png": picture(n) for n in (10, 1, 2, 20, 3)}
    folder = make_folder(images)
    (folder / "Thumbs.db").write_bytes(b"x")
    with open_video(folder) as video:
        table = video.table
        assert (table.container, table.codec, table.frame_count) == ("folder", "png", 5)
        assert table.pts_seconds(3) == Fraction(3, 25)
        for index, number in enumerate((1, 2, 3, 10, 20)):
            np.testing.assert_array_equal(video.frame(index), images[f"frame{number}.png"])
        lines = "".join(
            f"{hashlib.sha256((folder / f'frame{n}.png').read_bytes()).hexdigest()}  frame{n}.png\n"
            for n in (1, 2, 3, 10, 20)
        )
        assert table.content_hash == hashlib.sha256(lines.encode()).hexdigest()


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("shape", [(40, 56), (40, 56, 3)])
@pytest.mark.parametrize(("top", "white"), [(65536, 65535), (4096, 4095), (200, 255)])
def test_16_bit_pictures(make_folder, suffix: str, shape: tuple[int, ...], top: int, white: int) -> None:
    """The largest value of the whole video says how many bits are used; these become 8, on one scale for all frames."""
    images = {f"{n}.{suffix}": picture(n, shape, np.uint16, top) for n in range(3)}
    images[f"1.{suffix}"][0, 0] = top - 1
    with open_video(make_folder(images)) as video:
        assert (video.table.bit_depth, video.table.white_level) == (16, white)
        for index, image in enumerate(images.values()):
            expected = np.rint(image * (255.0 / white)).astype(np.uint8)
            if expected.ndim == 2:
                expected = expected[:, :, None].repeat(3, axis=2)
            np.testing.assert_array_equal(video.frame(index), expected)


def test_jpeg(make_folder) -> None:
    """Decoded within what its chroma sampling allows."""
    smooth = np.linspace(0, 255, 64).astype(np.uint8)[None, :, None].repeat(48, axis=0).repeat(3, axis=2)
    with open_video(make_folder({"a.jpg": smooth, "b.jpeg": smooth})) as video:
        assert np.abs(video.frame(1).astype(int) - smooth).max() < 6


def test_mixed_sizes_name_the_file(make_folder) -> None:
    """Also when only turned by a quarter."""
    images = {"1.png": picture(1), "2.png": picture(2), "3.png": picture(3, (56, 40, 3))}
    with pytest.raises(VideoError, match=r"3\.png: 40 x 56 pixels, but 1\.png has 56 x 40"):
        open_video(make_folder(images))


def test_mixed_kinds_name_the_file(make_folder) -> None:
    """PNG frames with a JPEG among them are two things in one folder."""
    with pytest.raises(VideoError, match=r"2\.jpg: its format differs"):
        open_video(make_folder({"1.png": picture(1), "2.jpg": picture(2)}))


def test_a_picture_that_is_none_is_named(make_folder) -> None:
    """Leaving it out would shift the frames after it, so the folder is refused."""
    folder = make_folder({f"{n}.png": picture(n) for n in range(9)})
    (folder / "5.png").write_bytes((folder / "5.png").read_bytes()[:40])
    with pytest.raises(VideoError, match=r"5\.png"):
        open_video(folder)
    (folder / "5.png").write_bytes(b"GIF89a")
    with pytest.raises(VideoError, match=r"5\.png: not a PNG"):
        open_video(folder)


def test_a_picture_that_changes_is_noticed(make_folder) -> None:
    """Between the table and the reading."""
    folder: Path = make_folder({f"{n}.png": picture(n) for n in range(4)})
    with open_video(folder) as video:
        (folder / "2.png").write_bytes((folder / "1.png").read_bytes())
        video.frame(1)
        with pytest.raises(FrameMismatch, match="frame 2"):
            video.frame(2)
        (folder / "3.png").unlink()
        with pytest.raises(VideoError, match=r"3\.png"):
            video.frame(3)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
@pytest.mark.parametrize("value", range(1, 9))
def test_exif_orientation(tmp_path: Path, suffix: str, value: int) -> None:
    """All eight, as Pillow applies them."""
    from PIL import Image, ImageOps

    image = np.zeros((32, 48, 3), np.uint8)
    image[:16, :24], image[16:, :24], image[:16, 24:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    exif = Image.Exif()
    exif[0x0112] = value
    for number in range(2):
        options = {"exif": exif} | ({"quality": 95, "subsampling": 0} if suffix == "jpg" else {})
        Image.fromarray(image).save(tmp_path / f"{number}.{suffix}", **options)
    with Image.open(tmp_path / f"0.{suffix}") as picture:
        expected = np.array(ImageOps.exif_transpose(picture))
    with open_video(tmp_path) as video:
        assert video.frame(1).shape == expected.shape
        assert np.abs(video.frame(1).astype(int) - expected).max() < 4


def test_orientations_that_change_name_the_file(tmp_path: Path) -> None:
    """A film cannot turn midway."""
    from PIL import Image

    exif = Image.Exif()
    for number in range(3):
        exif[0x0112] = 1 if number < 2 else 3
        Image.fromarray(picture(number)).save(tmp_path / f"{number}.jpg", exif=exif)
    with pytest.raises(VideoError, match=r"2\.jpg: its Exif orientation"):
        open_video(tmp_path)
