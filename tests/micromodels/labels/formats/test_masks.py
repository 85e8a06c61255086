"""Masks as pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from micromodels.errors import InvalidInput
from micromodels.labels.files import write_labels
from micromodels.labels.geometry import to_mask
from micromodels.labels.video_info import VideoInfo
from micromodels.types import Box, Label, Polygon, State
from tests.micromodels.labels.helpers import FRAMES, HEIGHT, LABELS, VIDEO, WIDTH, disc


def test_masks_are_written_as_pictures(tmp_path: Path) -> None:
    """An indexed PNG for every frame; values are those of tracks.json; boxes are filled; 0 is background."""
    from PIL import Image

    assert write_labels(tmp_path / "masks", LABELS, video=VIDEO, format="masks") == 4
    assert len(list((tmp_path / "masks").glob("*.png"))) == FRAMES
    tracks = json.loads((tmp_path / "masks" / "tracks.json").read_text())
    assert [(t["value"], t["track"]) for t in tracks] == [(1, "1"), (2, "2"), (3, "blade é")]
    with Image.open(tmp_path / "masks" / "000004.png") as image:
        assert image.mode == "P"
        picture = np.asarray(image)
        palette = image.getpalette()
    assert np.array_equal(picture == 3, disc(30, 30).to_array())
    assert palette[:12] == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0], "the palette of PASCAL VOC and DAVIS"
    with Image.open(tmp_path / "masks" / "000000.png") as image:
        assert np.asarray(image)[39, 29] == 2
    with Image.open(tmp_path / "masks" / "000001.png") as image:
        assert not np.asarray(image).any()


def test_masks_that_cannot_be_written_leave_nothing(tmp_path: Path) -> None:
    """A frame past the end, labels that go backwards, no video, a folder with something in it."""
    folder = tmp_path / "masks"
    for labels, video, words in (
        (LABELS, VideoInfo(29, WIDTH, HEIGHT), "label 8: frame: got 29"),
        (LABELS[::-1], VIDEO, "in order of frames"),
        (LABELS, None, "video: got None"),
    ):
        with pytest.raises(InvalidInput, match=words):
            write_labels(folder, labels, video=video, format="masks")
        assert list(tmp_path.iterdir()) == []
    folder.mkdir()
    assert write_labels(folder, [], video=VIDEO, format="masks") == 0
    with pytest.raises(InvalidInput, match="an empty folder"):
        write_labels(folder, LABELS, video=VIDEO, format="masks")


def test_many_tracks_make_deep_pictures(tmp_path: Path) -> None:
    """A frame that needs a value over 255 is 16 bit gray; the others stay 8 bit."""
    from PIL import Image

    labels = [Label(1, str(n), "dot", State.VISIBLE, Box(n % 60, n // 60, n % 60 + 1, n // 60 + 1)) for n in range(300)]
    assert write_labels(tmp_path / "masks", labels, video=VIDEO, format="masks") == 300
    with Image.open(tmp_path / "masks" / "000001.png") as image:
        assert image.mode == "I;16"
        assert np.asarray(image)[299 // 60, 299 % 60] == 300
    with Image.open(tmp_path / "masks" / "000000.png") as image:
        assert image.mode == "P"


@pytest.mark.parametrize("swapped", [False, True])
def test_the_smaller_of_nested_objects_is_on_top(swapped: bool, tmp_path: Path) -> None:
    """In whatever order they come, as training paints them: no object inside of another vanishes."""
    from PIL import Image

    inner = Label(0, "inner", "a", State.VISIBLE, Polygon(((10.5, 10.5), (40.2, 10.1), (40.9, 40.7), (10.3, 40.2))))
    outer = Label(0, "outer", "a", State.VISIBLE, Box(0, 0, WIDTH, HEIGHT))
    write_labels(tmp_path / "masks", [outer, inner] if swapped else [inner, outer], video=VIDEO, format="masks")
    tracks = json.loads((tmp_path / "masks" / "tracks.json").read_text())
    value = {entry["track"]: entry["value"] for entry in tracks}
    with Image.open(tmp_path / "masks" / "000000.png") as image:
        picture = np.asarray(image)
    assert np.array_equal(picture == value["inner"], to_mask(inner.shape, HEIGHT, WIDTH))
    assert (picture[picture != value["inner"]] == value["outer"]).all()
