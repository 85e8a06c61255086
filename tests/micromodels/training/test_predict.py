"""The forward pass outside of training."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from micromodels.training.head import DenseHead, HeadSettings, predict
from tests.micromodels.doubles import HEIGHT, WIDTH, ColorEncoder, scene


@pytest.mark.parametrize("boxes", [True, False])
def test_it_is_what_the_head_says_without_a_batch(boxes: bool) -> None:
    """Float32 of bfloat16 sums, which are near those in float32; finer levels than the head's are passed over."""
    torch.manual_seed(0)
    head = DenseHead(HeadSettings(ColorEncoder.levels, 2, boxes, width=16, fine_width=8)).eval()
    features = ColorEncoder().encode(scene(1)[0])
    found = predict(head, [np.zeros((3, HEIGHT, WIDTH), np.uint8), *features])
    with torch.inference_mode():
        exact = head([torch.from_numpy(level)[None].float() for level in features])
    assert found.logits.dtype == torch.float32
    assert found.logits.shape == (3, HEIGHT // 2, WIDTH // 2)
    assert (found.logits - exact.logits[0]).abs().max() < 0.05 * exact.logits.abs().max()
    if not boxes:
        assert found.sides is None
        return
    assert found.sides is not None
    assert exact.sides is not None
    assert found.sides.shape == (4, HEIGHT // 4, WIDTH // 4)
    assert (found.sides / exact.sides[0] - 1).abs().max() < 0.1
