"""Limits on the number of objects of a class per frame (``ObjectClass.max_instances``).

A person's change is refused if it leaves a frame with more objects than allowed, and with more than before. For
drawing, only hand labels count: a wrong prediction must not prevent people from drawing a real object. Micro-models are
never refused; ``frames_over_limit`` counts the frames on which they exceed the limit.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from micromodels.errors import FailedPrecondition
from micromodels.types import Ontology, State
from service.store import schema

__all__ = ["frames_over_limit", "is_present", "within_limits"]

_LABELS = schema.labels
_PRESENT = (State.VISIBLE.value, State.OCCLUDED.value)
_FRAMES_AT_ONCE = 500


def is_present(payload: str) -> bool:
    """Whether an encoded object label is not absent."""
    return json.loads(payload)["state"] in _PRESENT


@contextmanager
def within_limits(
    connection: sa.Connection, video: int, frames: Collection[int], ontology: Ontology, *, by_hand: bool
) -> Iterator[None]:
    """Raise if the block's writes exceed a limit.

    Args:
        connection: a writing transaction.
        video: key of its row.
        frames: frames that the block writes to.
        ontology: of the project.
        by_hand: whether only hand labels count.

    Raises:
        FailedPrecondition: a frame would have more objects of a class than allowed.
    """
    limits = _limits(ontology)
    if not limits:
        yield
        return
    before = _counts(connection, video, frames, limits, by_hand)
    yield
    for (frame, name), found in sorted(_counts(connection, video, frames, limits, by_hand).items()):
        if found > max(limits[name], before[frame, name]):
            drawn = " drawn by hand" if by_hand else ""
            raise FailedPrecondition(
                f"frame {frame} would have {found} of {name!r}{drawn}; its max_instances is {limits[name]}"
            )


def frames_over_limit(connection: sa.Connection, video: int, frame_count: int, ontology: Ontology) -> Counter[str]:
    """Number of frames with more objects of a class than allowed, including predictions."""
    limits = _limits(ontology)
    found: Counter[str] = Counter()
    for start in range(0, frame_count if limits else 0, _FRAMES_AT_ONCE):
        frames = range(start, min(start + _FRAMES_AT_ONCE, frame_count))
        for (_, name), count in _counts(connection, video, frames, limits, False).items():
            found[name] += count > limits[name]
    return +found


def _limits(ontology: Ontology) -> dict[str, int]:
    return {c.name: c.max_instances for c in ontology.object_classes if c.max_instances}


def _counts(
    connection: sa.Connection, video: int, frames: Collection[int], limits: Collection[str], by_hand: bool
) -> Counter[tuple[int, str]]:
    """Number of objects that are not absent, by frame and class."""
    columns: list[sa.Column[Any]] = [_LABELS.c.frame, _LABELS.c.class_name, _LABELS.c.payload]
    query = sa.select(*columns).where(schema.IS_ANCHOR if by_hand else schema.IS_CURRENT, _LABELS.c.video == video)
    query = query.where(_LABELS.c.payload.is_not(None), _LABELS.c.is_frame_class.is_(False))
    query = query.where(_LABELS.c.class_name.in_(limits))
    counts: Counter[tuple[int, str]] = Counter()
    ordered = sorted(frames)
    for start in range(0, len(ordered), _FRAMES_AT_ONCE):
        part = ordered[start : start + _FRAMES_AT_ONCE]
        for row in connection.execute(query.where(_LABELS.c.frame.in_(part))):
            counts[row.frame, row.class_name] += is_present(row.payload)
    return counts
