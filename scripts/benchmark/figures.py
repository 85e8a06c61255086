"""Figures of a benchmark: worst frames with truth and labels, scores over frames, reliability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from micromodels.labels.geometry import to_mask
from micromodels.types import Box, FrameResult
from micromodels.video import Video
from scripts.benchmark import metrics
from scripts.benchmark.benchmark import Benchmark
from scripts.benchmark.datasets import Clip
from scripts.benchmark.protocols import Outcome, Protocol, Row

__all__ = ["draw_plots", "draw_worst"]

Image = npt.NDArray[np.uint8]
_TRUTH_COLOR = (0, 220, 0)
_LABEL_COLOR = (255, 40, 40)
_WORST_FRAMES = 10
_COLUMNS = 2
_CELL_WIDTH_PX = 640
_UNDER_TEST = "default"


def draw_worst(folder: Path, clip: Clip, video: Video, outcome: Outcome) -> None:
    """Writes ``NAME-worst.png``: the ten worst frames of a run, with the truth in green and labels in red.

    Args:
        folder: created if missing.
        clip: the truth.
        video: the clip's source, open.
        outcome: with its results.
    """
    folder.mkdir(parents=True, exist_ok=True)
    row = outcome.row
    results = {result.frame: result for result in outcome.results}
    worst = sorted(row.frame_scores, key=lambda frame: (row.frame_scores[frame], frame))[:_WORST_FRAMES]
    cells = [
        _cell(clip, video.frame(frame), frame, results.get(frame, FrameResult(frame)), row.frame_scores[frame])
        for frame in worst
    ]
    if cells:
        cells += [np.zeros_like(cells[0])] * (-len(cells) % _COLUMNS)
        sheet = np.vstack([np.hstack(cells[i : i + _COLUMNS]) for i in range(0, len(cells), _COLUMNS)])
        cv2.imwrite(str(folder / f"{_clip_name(row)}-{row.system}-worst.png"), sheet[..., ::-1])


def _clip_name(row: Row) -> str:
    return f"{row.protocol}-{row.set_name}-{row.sequence}-k{row.k}"


def _cell(clip: Clip, image: Image, frame: int, result: FrameResult, score: float) -> Image:
    canvas = np.ascontiguousarray(image)
    for truth in (clip.truth(frame) or {}).values():
        _outline(canvas, truth, _TRUTH_COLOR)
    for label in result.labels:
        shape = label.shape
        _outline(
            canvas,
            shape if shape is None or isinstance(shape, Box) else to_mask(shape, *image.shape[:2]),
            _LABEL_COLOR,
        )
    height_px = round(image.shape[0] * _CELL_WIDTH_PX / image.shape[1])
    cell = cv2.resize(canvas, (_CELL_WIDTH_PX, height_px), interpolation=cv2.INTER_AREA)
    described = ", ".join(f"{label.track}: {label.state} {label.confidence or 0:.2f}" for label in result.labels[:4])
    for color, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        text = f"{frame}  {score:.2f}  {described}"
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


def draw_plots(folder: Path, bench: Benchmark) -> None:
    """Writes plots of the rows: scores over frames, reliability, annotation cost, growth.

    ``NAME-frames.png`` for every clip and k, with seeds marked; ``reliability-SYSTEM-k.png`` for systems with a
    confidence; ``annotation-cost-SET.png``; ``growth.png``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    clips: dict[str, list[Row]] = {}
    pairs: dict[str, list[tuple[float, bool]]] = {}
    curves: dict[str, list[Row]] = {}
    for row in bench.rows:
        if row.curve:
            curves.setdefault(row.set_name, []).append(row)
        elif row.frame_scores:
            clips.setdefault(_clip_name(row), []).append(row)
        for k in (f"k{row.k}", "all"):
            known = [(sure, good) for sure, good in row.pairs if sure is not None]
            if known:
                pairs.setdefault(f"{row.system}-{k}", []).extend(known)
    for name, rows in clips.items():
        _plot_frames(folder / f"{name}-frames.png", name, rows)
    for name, values in pairs.items():
        _plot_reliability(folder / f"reliability-{name}.png", name, values)
    for set_name, rows in curves.items():
        _plot_annotation_cost(folder / f"annotation-cost-{set_name}.png", set_name, rows)
    if bench.growth.get("lengths"):
        _plot_growth(folder / "growth.png", bench.growth["lengths"])


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _plot_frames(path: Path, title: str, rows: Sequence[Row]) -> None:
    """All systems on one clip with the same seeds; the library in front, the others with thin lines."""
    figure = _figure(11, 4)
    name = "share of right classes" if rows[0].protocol is Protocol.FRAME_CLASSES else "IoU"
    axes = figure.add_subplot(xlabel="frame", ylabel=name, ylim=(-0.02, 1.02), title=title)
    for row in sorted(rows, key=lambda row: row.system == _UNDER_TEST):
        front = row.system == _UNDER_TEST or len(rows) == 1
        frames = sorted(row.frame_scores)
        style = {"color": "black", "linewidth": 2.0} if front else {"linewidth": 0.8, "alpha": 0.7}
        mean = sum(row.frame_scores.values()) / len(frames)
        scores = [row.frame_scores[frame] for frame in frames]
        axes.plot(frames, scores, ".-", markersize=3, label=f"{row.system} {mean:.2f}", **style)
    for number, frame in enumerate(rows[0].seed_frames):
        axes.axvline(frame, color="tab:green", alpha=0.6, label="seeds" if number == 0 else None)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize="x-small")
    figure.savefig(path, dpi=100)


def _plot_reliability(path: Path, title: str, pairs: Sequence[tuple[float, bool]]) -> None:
    confidence, accepted = [sure for sure, _ in pairs], [good for _, good in pairs]
    figure = _figure(9, 4)
    error = metrics.expected_calibration_error(confidence, accepted)
    figure.suptitle(f"{title}: ECE {error:.3f}, {len(accepted)} labels, 15 bins of equal mass")
    bins = metrics.reliability(confidence, accepted)
    left = figure.add_subplot(1, 2, 1, xlabel="confidence", ylabel="accepted", xlim=(0, 1), ylim=(0, 1))
    left.plot([0, 1], [0, 1], color="gray", linestyle=":")
    left.plot([b.confidence for b in bins], [b.accepted for b in bins], "o-")
    right = figure.add_subplot(1, 2, 2, xlabel="coverage", ylabel="risk", xlim=(0, 1), ylim=(0, 1))
    right.plot(*zip(*metrics.risk_coverage(confidence, accepted), strict=True))
    figure.savefig(path, dpi=110)


def _plot_annotation_cost(path: Path, title: str, rows: Sequence[Row]) -> None:
    """One curve per sequence; colors are systems."""
    figure = _figure(9, 5)
    axes = figure.add_subplot(xlabel="share of frames drawn", ylabel="share of the rest accepted", title=title)
    systems = list(dict.fromkeys(row.system for row in rows))
    for system in systems:
        for number, row in enumerate(row for row in rows if row.system == system):
            label = system if number == 0 else None
            axes.plot(*zip(*row.curve, strict=True), ".-", alpha=0.8, color=f"C{systems.index(system)}", label=label)
    axes.axhline(0.97, color="gray", linestyle=":")
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=110)


def _plot_growth(path: Path, points: Sequence[Mapping[str, float]]) -> None:
    figure = _figure(9, 4)
    frames = [point["frames"] for point in points]
    for place, (name, title) in enumerate((("seconds_per_frame", "seconds a frame"), ("peak_mib", "peak memory, MiB"))):
        values = [point[name] for point in points]
        axes = figure.add_subplot(1, 2, place + 1, xlabel="frames", title=title, xscale="log")
        axes.plot(frames, values, "o-")
        axes.set_ylim(0, 1.2 * max(values))
    figure.savefig(path, dpi=110)
