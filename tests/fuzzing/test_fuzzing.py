"""Each parser of outside bytes, for a moment; `scripts/fuzz` goes on for longer."""

from __future__ import annotations

import pytest

from micromodels.errors import MicromodelsError
from tests.fuzzing.targets import TARGETS, fuzz


@pytest.mark.parametrize("name", TARGETS)
def test_only_errors_of_our_own_come_out(name: str) -> None:
    """Two hundred inputs that are nearly right."""
    assert fuzz(name) >= 100


def test_what_fuzzing_found() -> None:
    """Inputs that once brought out something else."""
    from tests.fuzzing.targets import polygon

    with pytest.raises(MicromodelsError):  # was an OverflowError: the square of a coordinate
        polygon([(0.0, 0.0), (0.0, 0.0), (0.0, 2.0111711894913896e154)])
