"""What temporal inference is given besides predictions: the images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from micromodels.encoding.encoded_video import EncodedVideo, FrameSelection
from micromodels.propagation.predictions import HeadPredictions, PredictionSource, StoredPredictions, TrackSelection
from micromodels.runtime.run import Run
from tests.micromodels.doubles import ColorEncoder, MemoryVideo, scene


@pytest.mark.usefixtures("own_size")
def test_every_source_gives_the_images(tmp_path: Path) -> None:
    """Of the frames that it numbers: a selection of frames has numbers of its own."""
    pictures, run = scene(5), Run(device="cpu")
    with EncodedVideo(MemoryVideo(pictures), ColorEncoder(), run) as video:
        stored = StoredPredictions(video, tmp_path)
        stored.use_head(None, run)
        whole: tuple[PredictionSource, ...] = (
            HeadPredictions(video, None, run),
            stored,
            TrackSelection(stored, [], lambda index, predictions: None),
        )
        for source in whole:
            assert np.array_equal(source.image(3), pictures[3])
        assert np.array_equal(HeadPredictions(FrameSelection(video, [1, 4]), None, run).image(1), pictures[4])
