"""Pictures and stacks are decoded as Pillow decodes them, or refused by name; never black without a word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from PIL import Image

from micromodels.errors import InvalidInput, VideoError
from micromodels.video import DecodeLimits, open_video

HEIGHT, WIDTH = 40, 48


def picture(shift: int = 0) -> npt.NDArray[np.uint8]:
    """RGB with every channel different everywhere."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([x * 5 + shift, y * 6, (x + y) * 2 + 20], axis=-1).astype(np.uint8)


def gray(shift: int = 0) -> npt.NDArray[np.uint8]:
    return picture(shift)[..., 0]


def only_frame(folder: Path) -> npt.NDArray[np.uint8]:
    with open_video(folder) as video:
        assert video.table.frame_count == 1
        return video.frame(0)


def pillow(path: Path) -> npt.NDArray[np.uint8]:
    return np.asarray(Image.open(path).convert("RGB"))


COLOR: dict[str, dict[str, Any]] = {
    "plain": {},
    "tiled": {"tile": (16, 16)},
    "deflate": {"compression": "zlib", "predictor": True},
    "lzw": {"compression": "lzw"},
    "packbits": {"compression": "packbits"},
    "planes": {"planarconfig": "separate"},
    "big endian": {"byteorder": ">"},
    "big tiff": {"bigtiff": True},
    "tiled planes": {"tile": (16, 16), "planarconfig": "separate", "compression": "zlib"},
}


@pytest.mark.parametrize("kind", COLOR)
def test_a_color_tiff_is_decoded_exactly(tmp_path: Path, kind: str) -> None:
    """Strips, tiles, planes, lossless compressions, both byte orders."""
    options = dict(COLOR[kind])
    data = picture().transpose(2, 0, 1) if options.get("planarconfig") == "separate" else picture()
    tifffile.imwrite(tmp_path / "f.tif", data, photometric="rgb", **options)
    assert np.array_equal(only_frame(tmp_path), picture())


@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_a_jpeg_tiff_is_decoded_as_pillow_does(tmp_path: Path, tile: tuple[int, int] | None) -> None:
    """Lossy: within the rounding of two decoders."""
    tifffile.imwrite(tmp_path / "f.tif", picture(), photometric="rgb", compression="jpeg", tile=tile)
    found = only_frame(tmp_path).astype(int)
    assert np.abs(found - pillow(tmp_path / "f.tif")).max() <= 4
    assert np.abs(found - picture()).mean() < 6


def test_gray_white_on_black_palette_and_bits(tmp_path: Path) -> None:
    """Samples that are no RGB become the RGB that they stand for."""
    for name in ("gray", "inverted", "palette", "bits", "alpha"):
        (tmp_path / name).mkdir()
    tifffile.imwrite(tmp_path / "gray" / "f.tif", gray(), photometric="minisblack")
    assert np.array_equal(only_frame(tmp_path / "gray"), gray()[..., None].repeat(3, -1))
    tifffile.imwrite(tmp_path / "inverted" / "f.tif", 255 - gray(), photometric="miniswhite")
    assert np.array_equal(only_frame(tmp_path / "inverted"), gray()[..., None].repeat(3, -1))
    Image.fromarray(picture()).quantize(16).save(tmp_path / "palette" / "f.tif")
    assert np.array_equal(only_frame(tmp_path / "palette"), pillow(tmp_path / "palette" / "f.tif"))
    Image.fromarray(gray() > 99).save(tmp_path / "bits" / "f.tif")
    assert np.array_equal(only_frame(tmp_path / "bits"), pillow(tmp_path / "bits" / "f.tif"))
    rgba = np.dstack([picture(), gray()])
    tifffile.imwrite(tmp_path / "alpha" / "f.tif", rgba, photometric="rgb", extrasamples=["unassalpha"])
    assert np.array_equal(only_frame(tmp_path / "alpha"), picture())


def test_16_bits_are_scaled_by_what_the_whole_video_holds(tmp_path: Path) -> None:
    """As 16-bit PNG is: the white level fits the brightest sample of all frames."""
    for index, top in enumerate((900, 4000)):
        tifffile.imwrite(tmp_path / f"{index}.tif", (gray() / 255 * top).astype(np.uint16), photometric="minisblack")
    with open_video(tmp_path) as video:
        assert (video.table.bit_depth, video.table.white_level) == (16, 4095)
        brightest = int(gray().max() / 255 * 4000)
        assert video.frame(1).max() == round(brightest * 255 / 4095)
        assert video.frame(0).max() < 60


@pytest.mark.parametrize("options", [{}, {"metadata": None}, {"imagej": True}, {"compression": "zlib"}, {"ome": True}])
def test_the_pages_of_a_stack_are_frames_in_order(tmp_path: Path, options: dict[str, Any]) -> None:
    """As tifffile, ImageJ and OME write them; random access and reading through give the same."""
    stack = np.stack([gray(9 * index) for index in range(12)])
    axes = {"metadata": {"axes": "TYX"}} if "imagej" in options or "ome" in options else {}
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, stack, photometric="minisblack", **{**options, **axes})
    with open_video(path) as video:
        assert (video.table.frame_count, video.table.codec, video.table.warnings) == (12, "tiff", ())
        for index in (11, 0, 5):
            assert np.array_equal(video.frame(index)[..., 0], stack[index])
        assert [int(image[0, 0, 0]) for _, image in video.frames(0, 12)] == stack[:, 0, 0].tolist()


def test_a_color_stack_keeps_its_colors(tmp_path: Path) -> None:
    """Three samples a pixel are colors, not pages."""
    stack = np.stack([picture(9 * index) for index in range(4)])
    tifffile.imwrite(tmp_path / "stack.tif", stack, photometric="rgb")
    with open_video(tmp_path / "stack.tif") as video:
        assert video.table.frame_count == 4
        assert np.array_equal(video.frame(3), stack[3])


def test_pages_that_a_program_marked_as_channels_are_frames_with_a_warning(tmp_path: Path) -> None:
    """More channels than any microscope has are frames of a program that knows no axes."""
    tifffile.imwrite(tmp_path / "stack.tif", np.stack([gray()] * 10), imagej=True)
    with open_video(tmp_path / "stack.tif") as video:
        assert video.table.frame_count == 10
        assert video.table.warnings == ("10 pages are marked as channels; they are read as frames",)


REFUSED: dict[str, tuple[npt.NDArray[Any], dict[str, Any], str]] = {
    "several axes": (np.zeros((3, 2, 8, 8), np.uint8), {"imagej": True, "metadata": {"axes": "TCYX"}}, "axes TCYX"),
    "channels": (np.zeros((3, 8, 8), np.uint8), {"imagej": True, "metadata": {"axes": "CYX"}}, "axes CYX"),
    "float": (np.zeros((3, 8, 8), np.float32), {"photometric": "minisblack"}, "type float32"),
    "signed": (np.zeros((3, 8, 8), np.int16), {"photometric": "minisblack"}, "type int16"),
    "one page": (np.zeros((8, 8), np.uint8), {"photometric": "minisblack"}, "a single TIFF picture"),
    "print colors": (np.zeros((2, 8, 8, 4), np.uint8), {"photometric": "separated"}, "SEPARATED"),
    "bands": (np.zeros((2, 8, 8, 6), np.uint8), {"photometric": "minisblack", "planarconfig": "contig"}, "6 bands"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_shown_faithfully_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    """Each message names what was found."""
    data, options, message = REFUSED[kind]
    tifffile.imwrite(tmp_path / "stack.tif", data, **options)
    with pytest.raises(VideoError, match=message), open_video(tmp_path / "stack.tif"):
        pass


def test_a_stack_in_a_folder_of_pictures_is_refused(tmp_path: Path) -> None:
    """Ten pages are not one frame."""
    tifffile.imwrite(tmp_path / "f0.tif", np.stack([gray()] * 10), photometric="minisblack")
    with pytest.raises(VideoError, match=r"f0\.tif: has 10 pages"), open_video(tmp_path):
        pass


def test_a_stack_obeys_the_limits(tmp_path: Path) -> None:
    """Pixels and pages are judged before anything is decoded."""
    tifffile.imwrite(tmp_path / "s.tif", np.zeros((9, 64, 64), np.uint8), photometric="minisblack", compression="zlib")
    for limits, message in ((DecodeLimits(max_pixels=4000), "64 x 64"), (DecodeLimits(max_frames=8), "9 pages")):
        with pytest.raises(VideoError, match=message), open_video(tmp_path / "s.tif", limits=limits):
            pass


@pytest.mark.parametrize("cut", [8, 60, 400, -1])
def test_a_stack_that_is_cut_is_refused(tmp_path: Path, cut: int) -> None:
    """A TIFF file lists its pages behind each other: what is gone is not made up."""
    path = tmp_path / "s.tif"
    tifffile.imwrite(path, np.stack([gray(i) for i in range(6)]), photometric="minisblack", compression="zlib")
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(VideoError, match=r"page|TIFF"):
        open_video(path)


@pytest.mark.parametrize(("suffix", "options", "tolerance"), [("bmp", {}, 0), ("webp", {"quality": 90}, 9)])
def test_other_pictures_of_folders(tmp_path: Path, suffix: str, options: dict[str, Any], tolerance: int) -> None:
    """BMP and WebP are decoded as Pillow does."""
    path = tmp_path / f"f.{suffix}"
    Image.fromarray(picture()).save(path, **options)
    assert np.abs(only_frame(tmp_path).astype(int) - pillow(path)).max() <= tolerance


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp"])
def test_a_single_picture_is_refused_with_what_to_give(tmp_path: Path, suffix: str) -> None:
    """A picture as source is most likely one frame of a folder."""
    Image.fromarray(picture()).save(tmp_path / f"f.{suffix}")
    with pytest.raises(VideoError, match="give the folder that holds the frames"), open_video(tmp_path / f"f.{suffix}"):
        pass


def test_print_colors_of_a_jpeg_are_decoded_or_refused(tmp_path: Path) -> None:
    """CMYK is no video; if it is decoded, then as Pillow does."""
    Image.fromarray(picture()).convert("CMYK").save(tmp_path / "f.jpg", quality=95)
    try:
        found = only_frame(tmp_path)
    except VideoError as error:
        assert "f.jpg" in str(error)  # noqa: PT017
        return
    assert np.abs(found.astype(int) - pillow(tmp_path / "f.jpg")).mean() < 4


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.dcm", bytes(128) + b"DICM" + bytes(99), "this is a DICOM file; export"),
        ("a.mp4", b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1/x.ts\n", "a playlist"),
        ("a.mp4", b"PK\x03\x04" + bytes(99), "this is a zip archive; unpack it"),
        ("a.mp4", b"", "the file is empty"),
        ("a.swf", b"CWS" + bytes(99), "supported containers: mp4, mov"),
    ],
)
def test_other_files_are_refused_by_what_they_are(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    """The message says what was found and what would help."""
    (tmp_path / name).write_bytes(data)
    with pytest.raises((VideoError, InvalidInput), match=message), open_video(tmp_path / name):
        pass
