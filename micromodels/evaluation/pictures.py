"""Pictures of a benchmark: worst frames with truth and labels over them, scores over frames, reliability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from micromodels.evaluation import metrics
from micromodels.evaluation.datasets import Clip
from micromodels.evaluation.protocols import Outcome, Row
from micromodels.types import Box, FrameResult

if TYPE_CHECKING:
    from micromodels.video import Video

__all__ = ["draw_run", "draw_summary"]

Image = npt.NDArray[np.uint8]
_TRUTH_COLOR = (0, 220, 0)
_LABEL_COLOR = (255, 40, 40)
_WORST_FRAMES = 10
_COLUMNS = 2
_CELL_WIDTH_PX = 640


def draw_run(folder: Path, clip: Clip, video: Video, outcome: Outcome) -> None:
    """Writes ``NAME-worst.png`` (the ten worst frames; truth green, labels red) and ``NAME-frames.png``.

    Args:
        folder: made if need be.
        clip: the truth.
        video: the clip's source, open.
        outcome: with its results.
    """
    folder.mkdir(parents=True, exist_ok=True)
    row = outcome.row
    name = f"{row.protocol}-{row.set_name}-{row.sequence}-k{row.k}-{row.system}"
    results = {result.frame: result for result in outcome.results}
    worst = sorted(row.frame_scores, key=lambda frame: (row.frame_scores[frame], frame))[:_WORST_FRAMES]
    cells = [
        _cell(clip, video.frame(frame), frame, results.get(frame, FrameResult(frame)), row.frame_scores[frame])
        for frame in worst
    ]
    if cells:
        cells += [np.zeros_like(cells[0])] * (-len(cells) % _COLUMNS)
        sheet = np.vstack([np.hstack(cells[i : i + _COLUMNS]) for i in range(0, len(cells), _COLUMNS)])
        cv2.imwrite(str(folder / f"{name}-worst.png"), sheet[..., ::-1])
    _plot_frames(folder / f"{name}-frames.png", name, row.frame_scores, row.seed_frames, results)


def _cell(clip: Clip, image: Image, frame: int, result: FrameResult, score: float) -> Image:
    canvas = np.ascontiguousarray(image)
    for truth in (clip.truth(frame) or {}).values():
        _outline(canvas, truth, _TRUTH_COLOR)
    for label in result.labels:
        shape = label.shape
        _outline(
            canvas,
            shape if shape is None or isinstance(shape, Box) else metrics.shape_to_mask(shape, *image.shape[:2]),
            _LABEL_COLOR,
        )
    height_px = round(image.shape[0] * _CELL_WIDTH_PX / image.shape[1])
    cell = cv2.resize(canvas, (_CELL_WIDTH_PX, height_px), interpolation=cv2.INTER_AREA)
    said = ", ".join(f"{label.track}: {label.state} {label.confidence or 0:.2f}" for label in result.labels[:4])
    for color, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        text = f"{frame}  {score:.2f}  {said}"
        cv2.putText(cell, text, (8, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.5, color, thickness, cv2.LINE_AA)
    return np.asarray(cell, np.uint8)


def _outline(canvas: Image, shape: Box | metrics.BoolMask | None, color: tuple[int, int, int]) -> None:
    if shape is None:
        return
    if isinstance(shape, Box):
        x1, y1, x2, y2 = (round(value) for value in shape.as_list())
        cv2.rectangle(canvas, (x1, y1), (x2 - 1, y2 - 1), color, 2)
        return
    contours, _ = cv2.findContours(shape.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(canvas, contours, -1, color, 2)


def _plot_frames(
    path: Path,
    title: str,
    scores: Mapping[int, float],
    seed_frames: Sequence[int],
    results: Mapping[int, FrameResult],
) -> None:
    figure, frames = Figure(figsize=(9, 3), layout="constrained"), sorted(scores)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel="frame", ylim=(0, 1.02), title=title)
    axes.plot(frames, [scores[frame] for frame in frames], ".-", label="IoU")
    sure = {
        frame: np.mean([label.confidence for label in result.labels])
        for frame, result in results.items()
        if result.labels and all(label.confidence is not None for label in result.labels) and frame in scores
    }
    if sure:
        axes.plot(list(sure), list(sure.values()), "-", alpha=0.5, label="confidence")
    for frame in seed_frames:
        axes.axvline(frame, color="tab:green", alpha=0.5)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=110)


def draw_summary(folder: Path, outcomes: Sequence[Outcome]) -> None:
    """Writes a reliability diagram per system and k that gives confidences, and the economy curves of each set."""
    folder.mkdir(parents=True, exist_ok=True)
    pairs: dict[str, list[tuple[float, bool]]] = {}
    curves: dict[str, list[Row]] = {}
    for outcome in outcomes:
        row = outcome.row
        name = f"{row.system}-k{row.k}"
        sure = [(v.confidence, v.accepted) for v in outcome.verdicts if v.confidence is not None]
        if sure:
            pairs.setdefault(name, []).extend(sure)
        if row.curve:
            curves.setdefault(row.set_name, []).append(row)
    for name, values in pairs.items():
        _plot_reliability(folder / f"reliability-{name}.png", name, values)
    for set_name, rows in curves.items():
        _plot_economy(folder / f"economy-{set_name}.png", set_name, rows)


def _plot_reliability(path: Path, title: str, pairs: Sequence[tuple[float, bool]]) -> None:
    confidence, accepted = [sure for sure, _ in pairs], [good for _, good in pairs]
    figure = Figure(figsize=(9, 4), layout="constrained")
    FigureCanvasAgg(figure)
    error = metrics.expected_calibration_error(confidence, accepted)
    figure.suptitle(f"{title}: ECE {error:.3f}, {len(accepted)} labels")
    bins = metrics.reliability(confidence, accepted)
    left = figure.add_subplot(1, 2, 1, xlabel="confidence", ylabel="accepted", xlim=(0, 1), ylim=(0, 1))
    left.plot([0, 1], [0, 1], color="gray", linestyle=":")
    left.plot([b.confidence for b in bins], [b.accepted for b in bins], "o-")
    right = figure.add_subplot(1, 2, 2, xlabel="coverage", ylabel="risk", xlim=(0, 1), ylim=(0, 1))
    right.plot(*zip(*metrics.risk_coverage(confidence, accepted), strict=True))
    figure.savefig(path, dpi=110)


def _plot_economy(path: Path, title: str, rows: Sequence[Row]) -> None:
    figure = Figure(figsize=(9, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel="share of frames drawn", ylabel="share of the rest accepted", title=title)
    for row in rows:
        axes.plot(*zip(*row.curve, strict=True), ".-", label=f"{row.sequence} {row.system}")
    axes.axhline(0.97, color="gray", linestyle=":")
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=110)
