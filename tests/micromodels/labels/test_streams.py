"""Long files in flat memory, and labels by frame."""

from __future__ import annotations

import multiprocessing
import tracemalloc
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from micromodels.errors import InvalidInput
from micromodels.labels.files import iter_labels, write_labels
from micromodels.labels.formats import label_formats
from micromodels.labels.keys import grouped_by_frame
from micromodels.labels.video_info import VideoInfo
from micromodels.types import Label, Mask, State
from tests.micromodels.labels.helpers import HEIGHT, LABELS, MODEL, WIDTH, disc


def _peaks_of_long_files(folder: Path) -> tuple[int, int]:
    """Bytes of Python's allocations at most, while 4,000 masks are written as JSON Lines and then as COCO JSON."""
    video = VideoInfo(4_000, WIDTH, HEIGHT, pts=tuple(range(4_000)))
    shape = Mask(HEIGHT, WIDTH, disc().counts)
    label_formats()  # loaded before anything is measured
    tracemalloc.start()
    write_labels(folder / "a.jsonl", (Label(i, "1", "polyp", State.VISIBLE, shape, 0.5, MODEL) for i in range(4_000)))
    _, peak_write = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    write_labels(folder / "a.json", iter_labels(folder / "a.jsonl"), video=video)
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
    assert [(frame, len(group)) for frame, group in grouped_by_frame(LABELS)] == [(0, 3), (3, 1), (4, 3), (29, 1)]
    with pytest.raises(InvalidInput, match="in order of frames"):
        list(grouped_by_frame([LABELS[3], LABELS[0]]))
