"""Long files in flat memory, labels by frame, and masks as pictures."""

from __future__ import annotations

import json
import multiprocessing
import tracemalloc
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from micromodels.errors import InvalidInput, OutOfRange
from micromodels.labels.files import by_frame, iter_jsonl, write_coco, write_jsonl, write_masks
from micromodels.types import Label, Mask, State
from tests.micromodels.labels.helpers import FRAMES, HEIGHT, LABELS, MODEL, TABLE, WIDTH, disc


def _peaks_of_long_files(folder: Path) -> tuple[int, int]:
    """Bytes of Python's allocations at most, while 4,000 masks are written as JSON Lines and then as COCO JSON."""
    counts, table = disc().counts, SimpleNamespace(**{**vars(TABLE), "frame_count": 4_000, "pts": range(4_000)})
    shape = Mask(HEIGHT, WIDTH, counts)
    tracemalloc.start()
    write_jsonl(folder / "a.jsonl", (Label(i, "1", "polyp", State.VISIBLE, shape, 0.5, MODEL) for i in range(4_000)))
    _, peak_write = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    write_coco(folder / "a.json", iter_jsonl(folder / "a.jsonl"), table)  # type: ignore[arg-type]
    _, peak_coco = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak_write, peak_coco


def test_long_files_are_written_and_read_in_flat_memory(tmp_path: Path) -> None:
    """Thousands of masks pass without being held: labels that were held would be over 700,000 bytes.

    Measured in a process of its own, for Python's tracker of allocations counts those of every thread.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as alone:
        peak_write, peak_coco = alone.submit(_peaks_of_long_files, tmp_path).result()
    assert 0 < peak_write < 300_000
    assert 0 < peak_coco < 300_000
    assert (tmp_path / "a.json").stat().st_size > 1_500_000


def test_labels_are_grouped_by_frame() -> None:
    """One group a frame, in order; going backwards is refused."""
    assert [(frame, len(group)) for frame, group in by_frame(LABELS)] == [(0, 3), (3, 1), (4, 3), (29, 1)]
    with pytest.raises(InvalidInput, match="in order of frames"):
        list(by_frame([LABELS[3], LABELS[0]]))


def test_masks_are_written_as_pictures(tmp_path: Path) -> None:
    """An indexed PNG for every frame; values are those of tracks.json; boxes are filled; 0 is background."""
    from PIL import Image

    size: Any = {"frame_count": FRAMES, "width_px": WIDTH, "height_px": HEIGHT}
    assert write_masks(tmp_path / "masks", LABELS, **size) == FRAMES
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
    with pytest.raises(OutOfRange):
        write_masks(tmp_path / "masks", LABELS, **{**size, "frame_count": 29})
