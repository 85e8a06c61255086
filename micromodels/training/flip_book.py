"""The flip book: what a head sees on a few fixed frames, as it learns."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
import numpy.typing as npt

from micromodels.encoding.encoded_video import EncodedVideo
from micromodels.runtime.run import FlipBookPicture, Run
from micromodels.training.head import DenseHead, predict

__all__ = ["FlipBook", "flip_book_frames"]

WIDTH_PX = 320
SHARES = (0.1, 0.4, 0.65, 0.95)
"""Where in the video its frames are."""
TINT = np.array([255, 64, 32], np.float32)
TINT_WEIGHT = 0.55


def flip_book_frames(frame_count: int) -> list[int]:
    """The frames that are shown, ascending."""
    return sorted({round(share * (frame_count - 1)) for share in SHARES})


class FlipBook:
    """Makes the pictures.

    Args:
        video: encoded frames.
        images: work images, those of ``flip_book_frames`` among them.
        run: gets the pictures.
    """

    def __init__(self, video: EncodedVideo, images: Mapping[int, npt.NDArray[np.uint8]], run: Run) -> None:
        self._video, self._images, self._run = video, images, run

    def show(self, head: DenseHead, experiment: int, step: int) -> None:
        """Pictures of what a head sees; it is in training mode afterwards."""
        head.eval()
        for frame in flip_book_frames(self._video.frame_count):
            logits = predict(head, self._video[frame].features).logits
            probability = logits.softmax(0)[1:].amax(0).cpu().numpy()
            image = self._images[frame]
            size = (WIDTH_PX, max(1, round(WIDTH_PX * image.shape[0] / image.shape[1])))
            small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            heat = cv2.resize(probability, size, interpolation=cv2.INTER_LINEAR)[..., None]
            tinted = small * (1 - TINT_WEIGHT * heat) + TINT * TINT_WEIGHT * heat
            self._run.on_event(FlipBookPicture(experiment, step, frame, tinted.clip(0, 255).astype(np.uint8)))
        head.train()
