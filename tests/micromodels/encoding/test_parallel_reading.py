"""Arrays are read by one thread at a time: some releases of CPython 3.11 fail where two parse headers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from micromodels.encoding.encoded_video import ARRAY_READING, EncodedVideo
from micromodels.propagation.optical_flow import StoredFlows
from micromodels.propagation.predictions import StoredPredictions
from micromodels.runtime.run import Run
from micromodels.training.head import DenseHead, HeadSettings
from tests.micromodels.doubles import ColorEncoder, MemoryVideo, scene


def test_every_file_is_read_under_the_lock(own_size: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Features, predictions and flow come from files; each time the lock is held."""
    held: list[bool] = []
    load = np.load

    def watched(*arguments: Any, **named: Any) -> Any:
        held.append(ARRAY_READING.locked())
        return load(*arguments, **named)

    video, run = MemoryVideo(scene(12)), Run("cpu", cache_dir=tmp_path / "cache")
    head = DenseHead(HeadSettings(ColorEncoder.levels, 1, False, width=8, fine_width=8)).eval()
    with EncodedVideo(video, ColorEncoder(), run) as encoded:
        stored = StoredPredictions(encoded, tmp_path / "predictions")
        stored.use_head(head, run)
        with torch.inference_mode():
            assert len(list(stored.stream(range(12)))) == 12
        flows = StoredFlows(tmp_path / "flows")
        flows[1, 0] = np.ones((2, 2, 2), np.float16)
        monkeypatch.setattr(np, "load", watched)
        assert encoded[0].gray.any()
        assert len(list(stored.stream(range(12)))) == 12
        assert flows[1, 0].all()
    assert len(held) >= 14
    assert all(held)


@pytest.mark.parametrize("count", range(2, 7))
def test_frames_that_are_cached_meanwhile_do_not_end_the_reading(own_size: None, tmp_path: Path, count: int) -> None:
    """Every other frame, then those between, while another thread has encoded any of them: each index comes once.

    With four to eight frames and little effort the run that was being read could be over before the next index.
    """
    order = [*range(0, count, 2), *range(1, count, 2)]
    for number in range(2**count):
        video, run = MemoryVideo(scene(count)), Run("cpu", cache_dir=tmp_path / f"{count}-{number}")
        with EncodedVideo(video, ColorEncoder(), run) as encoded:
            reading = encoded._decoded(order)
            first = next(reading)
            for index in (one for one in range(count) if number >> one & 1):
                _ = encoded[index]
            assert [first[0], *(index for index, _ in reading)] == order
