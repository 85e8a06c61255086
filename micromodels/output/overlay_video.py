"""Overlay videos: every frame with its labels drawn in."""

from __future__ import annotations

import os
from collections.abc import Iterable
from fractions import Fraction

from micromodels.encoding.encoded_video import FrameSource
from micromodels.output.overlay import overlay
from micromodels.types import FrameResult, Ontology
from micromodels.video import FrameTable

__all__ = ["write_overlay"]

SLOWEST, FASTEST = Fraction(1), Fraction(120)
"""Limits of an overlay's frame rate, so that damaged time stamps do not make it days long."""


def write_overlay(
    path: str | os.PathLike[str], video: FrameSource, results: Iterable[FrameResult], ontology: Ontology | None = None
) -> None:
    """Write an MP4 of the first frames of a video with their labels drawn in; replaces ``path`` at the end.

    Its frame rate is the video's mean, limited to 1 to 120 per second; 25 for a single frame.

    Args:
        path: the file.
        video: the open video.
        results: labels of frame 0, 1, 2, ...; the overlay has as many frames.
        ontology: colors of classes.

    Raises:
        InvalidInput: no results.
    """
    from micromodels.video import write_video  # loads the codecs into this process

    pairs = zip(results, video.frames(), strict=False)
    write_video(path, (overlay(image, result, ontology) for result, (_, image) in pairs), frame_rate(video.table))


def frame_rate(table: FrameTable) -> Fraction:
    """Mean frames per second, within limits; 25 for a single frame."""
    if table.frame_count < 2:
        return Fraction(25)
    span = table.pts_seconds(table.frame_count - 1) - table.pts_seconds(0)
    return min(max((table.frame_count - 1) / span, SLOWEST), FASTEST)
