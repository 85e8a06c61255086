"""Sides of polygons that cross."""

from __future__ import annotations

import time

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from micromodels.labels.validation import find_crossing
from micromodels.types import MAX_POLYGON_VERTICES


def test_sides_that_cross_are_found_and_sides_that_touch_are_not() -> None:
    """Bow-ties are found wherever they are; keyholes, bridges and points visited twice are allowed."""
    assert find_crossing(((0, 0), (10, 10), (10, 0), (0, 10))) == (0, 2)
    assert find_crossing(((0, 0), (10, 0), (10, 10), (0, 10))) is None
    outside, hole = ((0, 0), (10, 0), (10, 10), (0, 10)), ((3.1, 5.3), (3.1, 7), (7, 7), (7, 3), (3.1, 3), (3.1, 5.3))
    assert find_crossing((*outside, (0, 5.3), *hole, (0, 5.3))) is None
    assert find_crossing(((0, 0), (5, 5), (10, 0), (10, 10), (5, 5), (0, 10))) is None


def test_the_largest_polygons_are_checked_quickly() -> None:
    """A comb along the worst direction, where the extents of all sides overlap, takes about a second at most."""
    count, (c, s) = MAX_POLYGON_VERTICES, (np.cos(0.7), np.sin(0.7))
    comb = [(i, 0 if i % 2 else 1000) for i in range(count - 2)] + [(count, 2000), (-1, 2000)]
    started = time.thread_time()
    assert find_crossing(tuple((x * c - 5 * y * s, x * s + 5 * y * c) for x, y in comb)) is None
    assert time.thread_time() - started < 15.0


coordinate = st.integers(-8, 8)


@given(st.lists(st.tuples(coordinate, coordinate), min_size=3, max_size=12))
def test_crossings_are_those_of_the_exact_test_on_every_pair(points: list[tuple[int, int]]) -> None:
    """Parity with integer arithmetic over all pairs."""

    def side(p: tuple[int, int], q: tuple[int, int], r: tuple[int, int]) -> int:
        value = (q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0])
        return (value > 0) - (value < 0)

    sides = list(zip(points, points[1:] + points[:1], strict=True))
    crossing = {
        (i, j)
        for j, (c, d) in enumerate(sides)
        for i, (a, b) in enumerate(sides[:j])
        if side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0
    }
    found = find_crossing(tuple(points))
    assert (found in crossing) if crossing else found is None
