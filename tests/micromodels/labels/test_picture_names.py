"""Which frame a picture's name means."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from micromodels.errors import InvalidInput
from micromodels.labels.picture_names import frames_by_name, frames_by_number

FOLDER = tuple(f"img_{number:05d}.jpg" for number in range(20, 60))
HASH = "0a1b2c3d4e5f60718293a4b5c6d7e8f7"


@pytest.mark.parametrize(
    "name",
    [
        "img_00022.jpg",
        "train/images/img_00022.jpg",
        "images\\0\\3e1b2c4d-img_00022.jpg",
        "/data/local-files/?d=clips/img_00022.jpg",
        "IMG_00022.JPG",
        "img_00022.png",
        "img_00022",
        "img_00022.jpg.png",
        "img-00022.jpg",
        f"img_00022_jpg.rf.{HASH}.jpg",
        f"3e1b2c4d-img_00022_jpg.rf.{HASH}.jpg",
    ],
)
def test_a_picture_is_found_by_what_tools_make_of_its_name(name: str) -> None:
    """Exactly, or without case, ending, path, prefix and hash."""
    assert frames_by_name(FOLDER)(name) == 2


@pytest.mark.parametrize("name", ["img_00012.jpg", "00022.jpg", "img_22.jpg", "frame_000002.png", "ximg_00022.jpg", ""])
def test_a_picture_of_another_folder_is_not_found(name: str) -> None:
    """Numbers alone are no name."""
    assert frames_by_name(FOLDER)(name) is None


def test_pictures_that_are_alike_are_not_guessed() -> None:
    """The exact name is found; anything else could mean either."""
    find = frames_by_name(("a.png", "A.png", "a.jpg", "b 1.png", "b-1.png", "12345678-c.png", "c.png"))
    assert [find(name) for name in ("a.png", "A.png", "a.jpg", "b-1.png", "12345678-c.png")] == [0, 1, 2, 4, 5]
    for name in ("a.tif", "b_1.png", "A.JPEG"):
        with pytest.raises(InvalidInput, match="are alike"):
            find(name)


def test_changed_names_that_could_be_two_pictures() -> None:
    """A prefix and a hash taken away may each give a picture."""
    with pytest.raises(InvalidInput, match="are alike"):
        frames_by_name(("12345678-c.tif", "c.tif"))("12345678-C.png.jpg")


@given(st.lists(st.from_regex(r"[a-zA-Z0-9 _-]{1,12}\.(jpg|png)", fullmatch=True), min_size=1, max_size=8, unique=True))
def test_every_picture_is_found_by_its_own_name(names: list[str]) -> None:
    """Also with a path before it, and never another one."""
    find = frames_by_name(names)
    for frame, name in enumerate(names):
        assert find(name) == find(f"a/b/{name}") == frame


@pytest.mark.parametrize(
    ("name", "frame"),
    [
        ("12.png", 12),
        ("a/b.v2/11.tif", 11),
        ("frame_000012_v2.png", 12),
        ("frame12_160x20.png", 12),
        ("cam2_frame_7_left.png", 7),
        ("C:\\clips\\12_0008.PNG", 8),
        ("video01_000012.png", 12),
        ("clip.mp4_30fps_12.png", 12),
        ("3e1b2c4d-frame_12.png", 12),
        (f"frame_000012_png.rf.{HASH}.jpg", 12),
        ("clip_1080p_000012", 12),
    ],
)
def test_the_number_that_is_plainly_a_frame(name: str, frame: int) -> None:
    """Versions, codecs, sizes, rates and hashes are none."""
    assert frames_by_number({"images[0]": name}, None) == {"images[0]": frame}


@pytest.mark.parametrize(
    "name",
    [
        "frame.png",
        "clip.mp4.png",
        "clip_v2.png",
        "clip_1080p.png",
        "clip_12.5s.png",
        "t_12.5.png",
        "cam2_left.png",
        "1_2.png",
        "000012_000013.png",
        "20261130_000012.png",
        "frame_3_frame_4.png",
        f"clip_mp4-12_jpg.rf.{HASH}.jpg",
        "9" * 13 + ".png",
        "",
    ],
)
def test_numbers_that_may_mean_another_thing_are_refused(name: str) -> None:
    """The error names the picture."""
    with pytest.raises(InvalidInput) as caught:
        frames_by_number({"images[0]": name}, None)
    assert (caught.value.field, caught.value.value) == ("images[0]: file_name", name)


def test_names_that_are_alike_tell_which_number_counts() -> None:
    """The only one that differs; two that differ, or one that another rule contradicts, do not."""
    names = {"a": "p7_3_left.png", "b": "p7_12_left.png"}
    assert frames_by_number(names, None) == {"a": 3, "b": 12}
    for names in (
        {"a": "p7_3_left.png", "b": "p8_12_left.png"},
        {"a": "12_0008.png", "b": "13_0008.png"},
        {"a": "frame_12_1.png", "b": "frame_12_2.png"},
    ):
        with pytest.raises(InvalidInput):
            frames_by_number(names, None)


@pytest.mark.parametrize("first", [0, 1])
def test_the_first_frame_may_have_the_number_one(first: int) -> None:
    """Then numbers are one more; a picture that a tool took of a video counts too where somebody says how."""
    names = {"a": "img_00005.png", "b": f"clip_mp4-12_jpg.rf.{HASH}.jpg"}
    assert frames_by_number(names, first) == {"a": 5 - first, "b": 12 - first}


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=9, unique=True), st.integers(1, 8))
def test_numbered_frames_are_read_as_they_were_named(frames: list[int], digits: int) -> None:
    """As ffmpeg, CVAT and others name them."""
    for pattern in ("frame_{:0{}d}.png", "clip/{:0{}d}.jpg", "img{:0{}d}.png"):
        names = {str(frame): pattern.format(frame, digits) for frame in frames}
        assert frames_by_number(names, 0) == {str(frame): frame for frame in frames}
