"""Followers: they find an object by how it looked a moment ago, learn as it changes, and know when they lost it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from micromodels.encoding.encoders import Level
from micromodels.propagation.correlation_filter import Follower, FollowerSettings, matched_features

CHANNELS, ROWS, COLUMNS = 12, 30, 40
SIZE = (5.0, 7.0)


def texture(seed: int, height: int, width: int) -> torch.Tensor:
    """Smooth, as features are."""
    noise = torch.randn((1, CHANNELS, height // 2 + 1, width // 2 + 1), generator=torch.Generator().manual_seed(seed))
    return F.interpolate(noise, size=(height, width), mode="bilinear", align_corners=False)[0]


def scene(objects: dict[tuple[int, int], torch.Tensor]) -> torch.Tensor:
    """A background with pictures ``(channels, h, w)`` on it, at the cells of their middles (x, y)."""
    features = texture(1, ROWS, COLUMNS)
    for (x, y), shown in objects.items():
        height, width = shown.shape[1:]
        top, left = y - height // 2, x - width // 2
        features[:, top : top + height, left : left + width] = shown
    return F.normalize(features, dim=0)


def picture(seed: int) -> torch.Tensor:
    return texture(seed, 7, 5)


def middle(x: int, y: int) -> tuple[float, float]:
    """Of a picture whose middle cell is this one."""
    return x + 0.5, y + 0.5


def best(answer: torch.Tensor) -> tuple[int, int]:
    row, column = divmod(int(answer.argmax()), answer.shape[1])
    return column, row


def test_the_answer_is_a_bump_where_the_object_is_now() -> None:
    """It moved three cells to the right and two down; another thing stands beside it."""
    one, other = picture(2), picture(3)
    follower = Follower(scene({(15, 12): one, (24, 12): other}), middle(15, 12), SIZE, FollowerSettings())
    answer = follower.answer(scene({(18, 14): one, (25, 12): other}), middle(15, 12), SIZE)
    assert best(answer) == (18, 14)
    assert float(answer.max()) > 0.35
    assert float(answer[9:15, 23:28].max()) < 0.5 * float(answer.max())


def test_nothing_is_answered_out_of_reach() -> None:
    """What is farther away than the patch reaches is not looked at."""
    one = picture(2)
    settings = FollowerSettings(reach_cells=8)
    follower = Follower(scene({(10, 12): one}), middle(10, 12), SIZE, settings)
    answer = follower.answer(scene({(30, 12): one}), middle(10, 12), SIZE)
    assert float(answer[:, 25:].max()) == 0.0
    assert float(answer.max()) < 0.5
    assert float(answer.min()) >= 0.0


def answer_after_a_change(settings: FollowerSettings) -> float:
    """What a follower answers elsewhere to its object, which moved about and turned into another picture bit by bit."""
    first, last = picture(2), picture(3)
    follower = Follower(scene({(15, 12): first}), middle(15, 12), SIZE, settings)
    for step in range(1, 41):
        x, y = 12 + step % 7, 11 + step % 5
        shown = scene({(x, y): (1 - step / 40) * first + step / 40 * last})
        answer = follower.answer(shown, middle(x, y), SIZE)
        follower.learn(shown, middle(x, y), SIZE, float(answer[y, x]))
    return float(follower.answer(scene({(11, 16): last}), middle(15, 12), SIZE)[16, 11])


def test_it_learns_as_the_object_changes() -> None:
    """Without lessons what the object has become means nothing to it."""
    assert answer_after_a_change(FollowerSettings()) > 0.15
    assert answer_after_a_change(replace(FollowerSettings(), sure=9.0)) < 0.08


def test_what_was_lost_once_stays_lost() -> None:
    """Another one stands in its place for a frame; what comes back then may be anything."""
    one = picture(2)
    there, gone = scene({(15, 12): one}), scene({(15, 12): picture(3)})
    follower = Follower(there, middle(15, 12), SIZE, FollowerSettings())
    said = []
    for frame in (there, there, gone, there):
        answer = follower.answer(frame, middle(15, 12), SIZE)
        said.append(follower.learn(frame, middle(15, 12), SIZE, float(answer[12, 15])))
    assert min(said[:2]) > 0.9
    assert said[2] < 0.6
    assert said[3] == said[2]


def test_an_object_twice_as_large_is_found() -> None:
    """Patches are scaled by the size that is expected of the object."""
    one = picture(2)
    large = F.interpolate(one[None], scale_factor=2)[0]
    follower = Follower(scene({(15, 12): one}), middle(15, 12), SIZE, FollowerSettings())
    answer = follower.answer(scene({(20, 14): large}), (17.0, 13.0), (10.0, 14.0))
    x, y = best(answer)
    assert abs(x - 20) <= 1
    assert abs(y - 14) <= 1
    assert float(answer.max()) > 0.25


@pytest.mark.parametrize(
    ("levels", "channels"),
    [((Level(2, 3), Level(4, 5), Level(8, 7), Level(16, 9)), 12), ((Level(16, 9), Level(32, 4)), 9)],
)
def test_matched_features_lie_on_a_grid_of_8_pixels(levels: tuple[Level, ...], channels: int) -> None:
    """Strides 4 and 8, or the finest where an encoder has neither; each level of unit length at each place."""
    rng = np.random.default_rng(0)
    features = [
        rng.normal(3, 2, (level.channels, 96 // level.stride, 128 // level.stride)).astype(np.float16)
        for level in levels
    ]
    found = matched_features(features, levels)
    assert (found.shape, found.dtype) == ((channels, 12, 16), np.float16)
    parts = np.split(found.astype(np.float32), [5]) if channels == 12 else [found.astype(np.float32)]
    for part in parts:
        assert np.linalg.norm(part, axis=0) == pytest.approx(1, abs=2e-3)
