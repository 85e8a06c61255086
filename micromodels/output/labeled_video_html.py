"""Notebook view of a labeled video: five frames, the confidence of all frames, and the tracks by color.

Plain HTML without scripts, so that saved notebooks show it too. Text has the page's color, light or dark. Names come
from files and are escaped.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from html import escape

import numpy as np
import numpy.typing as npt
from PIL import Image

from micromodels.encoding.encoded_video import FrameSource
from micromodels.output.overlay import overlay, track_color
from micromodels.types import FrameResult, Ontology

__all__ = ["labeled_video_html"]

PICTURES = 5
PICTURE_WIDTH_PX = 400
"""Twice the size of a picture on the screen."""
LINE_SCALE = 1.3
"""Line width, see ``overlay``, of a square picture that is scaled down."""
LINE_SAYS = "lowest confidence of each frame · ◆ labeled by hand"
MAX_POINTS = 500
"""Most points of the confidence line; if a point covers several frames, the lowest counts."""
MAX_TRACKS = 24
"""Most tracks in the list of colors; further ones are only counted."""

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 1000, 92, 34, 978, 12, 70
"""Size of the chart, and the edges of its plot area, in its own units."""


def labeled_video_html(
    title: str,
    facts: Sequence[str],
    video: FrameSource,
    results: Sequence[FrameResult],
    confidence: npt.NDArray[np.float32],
    by_hand: Sequence[int],
    ontology: Ontology,
) -> str:
    """The summary as one ``div``.

    Args:
        title: name of the video.
        facts: text after the title.
        video: the open video.
        results: labels of every frame.
        confidence: of every frame, 0 to 1 or NaN.
        by_hand: frames with human labels.
        ontology: colors of classes.
    """
    shown = np.unique(np.linspace(0, len(results) - 1, PICTURES).round().astype(int)).tolist()
    head = " · ".join([f"<b>{escape(title)}</b>", *map(escape, facts)])
    pictures = "".join(_picture(video, results[i], ontology, confidence[i], by_hand=i in by_hand) for i in shown)
    return (
        '<div style="max-width:1000px;font:13px/1.5 system-ui,sans-serif">'
        f"<div>{head}</div>"
        f'<div style="display:flex;gap:6px;margin:6px 0 2px">{pictures}</div>'
        f"{_line(confidence, by_hand, shown)}"
        f'<div><span style="float:right;opacity:.7">{LINE_SAYS}</span>{" ".join(_legend(results, ontology))}</div>'
        "</div>"
    )


def _picture(
    video: FrameSource, result: FrameResult, ontology: Ontology, confidence: np.float32, *, by_hand: bool
) -> str:
    image = video.frame(result.frame)
    height_px, width_px = image.shape[:2]
    width = min(PICTURE_WIDTH_PX, width_px)
    size = width, max(1, round(width * height_px / width_px))
    # Lines keep about one screen pixel when the picture is scaled down.
    thicker = LINE_SCALE * width / PICTURE_WIDTH_PX * width_px / min(height_px, width_px)
    drawn = overlay(image, result, ontology, captions=False, line_scale=max(1.0, thicker))
    file = io.BytesIO()
    Image.fromarray(drawn).resize(size, Image.Resampling.LANCZOS).save(file, "JPEG", quality=82)
    data = base64.b64encode(file.getvalue()).decode("ascii")
    mark = "◆ " if by_hand else ""
    value = "no confidence" if np.isnan(confidence) else f"{confidence:.2f}"
    return (
        f'<figure style="margin:0;flex:0 1 200px;min-width:0"><img src="data:image/jpeg;base64,{data}" '
        f'alt="frame {result.frame}" style="width:100%;display:block;border-radius:4px;margin:0">'
        f'<figcaption style="text-align:center">{mark}frame {result.frame} · {value}</figcaption></figure>'
    )


def _line(confidence: npt.NDArray[np.float32], by_hand: Sequence[int], shown: Sequence[int]) -> str:
    """Confidence over frames, with diamonds for hand-labeled frames, and numbered ticks for the pictures."""
    count = len(confidence)

    def x(frame: float) -> float:
        return LEFT + (RIGHT - LEFT) * (frame / (count - 1) if count > 1 else 0.5)

    def y(value: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * value

    grid = "".join(
        f'<path d="M{LEFT} {y(value):.1f}H{RIGHT}" stroke="currentColor" stroke-opacity=".2"/>'
        f'<text x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:g}</text>'
        for value in (0, 0.5, 1)
    )
    ticks = "".join(
        f'<path d="M{x(frame):.1f} {TOP}V{BOTTOM + 4}" stroke="currentColor" stroke-opacity=".35"/>'
        f'<text x="{x(frame):.1f}" y="{BOTTOM + 18}" text-anchor="middle">{frame}</text>'
        for frame in shown
    )
    diamonds = "".join(
        f'<path d="M{x(frame) - 5:.1f} {TOP}l5 -5 5 5 -5 5z" fill="currentColor"/>' for frame in by_hand[:MAX_POINTS]
    )
    points = " ".join(
        f"{'M' if begins else 'L'}{x(frame):.1f} {y(value):.1f}" + ("h0" if begins else "")
        for frame, value, begins in _points(confidence)
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{LINE_SAYS}" '
        'style="width:100%;display:block;font:12px system-ui,sans-serif" fill="currentColor">'
        f"{grid}{ticks}"
        f'<path d="{points}" fill="none" stroke="#2f7de1" stroke-width="2" stroke-linecap="round" '
        f'stroke-linejoin="round"/>{diamonds}</svg>'
    )


def _points(confidence: npt.NDArray[np.float32]) -> Iterator[tuple[float, float, bool]]:
    """Frame, confidence, and whether a segment of the line begins there."""
    begins = True
    for part in np.array_split(np.arange(len(confidence)), min(len(confidence), MAX_POINTS)):
        known = part[~np.isnan(confidence[part])]
        if len(known):
            lowest = known[confidence[known].argmin()]
            yield float(lowest), float(confidence[lowest]), begins
        begins = len(known) == 0


def _legend(results: Sequence[FrameResult], ontology: Ontology) -> Iterator[str]:
    classes = {c.name: c for c in ontology.object_classes}
    tracks = {label.track: label.object_class for result in results for label in result.labels}
    for track, name in list(tracks.items())[:MAX_TRACKS]:
        red, green, blue = track_color(track, classes.get(name))
        text = escape(name if track == name else f"{name} {track}")
        dot = f'<span style="color:rgb({red},{green},{blue})">●</span>'
        yield f'<span style="margin-right:10px;white-space:nowrap">{dot} {text}</span>'
    if len(tracks) > MAX_TRACKS:
        yield f"and {len(tracks) - MAX_TRACKS} more"
