"""``scripts/calibrate``: measures calibration of confidences on unseen videos, and fits better weights.

Default micro-models label clips with ground truth; the signs of every label (``micromodels.propagation.confidence``)
and its IoU are written to a file. The weights of the signs are fitted to these, separately for masks and boxes. Each
sequence is scored with weights fitted to the other sequences, and with the current weights; weights fitted to all
sequences are printed for ``micromodels/propagation/confidence.py``.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console
from rich.table import Table

from micromodels.errors import FailedPrecondition, MicromodelsError
from micromodels.propagation.confidence import BOXES, MASKS, ErrorModel
from micromodels.runtime.run import Run
from micromodels.types import FrameResult, ShapeKind
from micromodels.video import open_video
from scripts.benchmark import metrics
from scripts.benchmark.baselines import find_system
from scripts.benchmark.datasets import Clip, data_root, load_clips

__all__ = ["ERROR_MODELS", "SignedLabel", "fitted", "left_out", "main", "signed_labels"]

ERROR_MODELS = {"mask": MASKS, "box": BOXES}
DEFAULT_SETS = "davis2016,cvc612,otb,tld,mot,davis2016-boxes,cvc612-boxes"
MIN_ERROR = 0.02
"""Limit of the ground truth's accuracy."""
RIDGE = 1e-3

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SignedLabel:
    """Signs of one label, and its IoU.

    Attributes:
        set_name: of the clip.
        sequence: of the clip.
        k: number of seed frames.
        kind: key of ``ERROR_MODELS``.
        frame: of the label.
        track: of the label.
        signs: values by name.
        iou: with the truth; 0 if the object is absent.
    """

    set_name: str
    sequence: str
    k: int
    kind: str
    frame: int
    track: str
    signs: dict[str, float]
    iou: float

    @property
    def run(self) -> tuple[str, str, int]:
        """Set, sequence and number of seeds."""
        return self.set_name, self.sequence, self.k


def signed_labels(clip: Clip, k: int, results: Iterable[FrameResult]) -> list[SignedLabel]:
    """The labels of a run with signs and known truth."""
    known = set(clip.known_frames()) - set(clip.seed_frames(k))
    found = []
    for result in (result for result in results if result.frame in known):
        truth = clip.truth(result.frame)
        if truth is None:
            continue
        for label in (label for label in result.labels if label.track in result.signs):
            shape, signs = truth.get(label.track), dict(result.signs[label.track])
            kind = "box" if label.shape is not None and label.shape.kind is ShapeKind.BOX else "mask"
            iou = 0.0 if shape is None else metrics.label_iou(label, shape)
            found.append(SignedLabel(clip.set_name, clip.name, k, kind, result.frame, label.track, signs, iou))
    return found


def fitted(labels: Sequence[SignedLabel], now: ErrorModel) -> ErrorModel:
    """Fit the error model with the same signs to the labels, by weighted least squares.

    Each run is weighted by the square root of its number of labels, which are correlated, so that neither long nor
    short clips dominate.
    """
    names = list(now.weights)
    counts = Counter(label.run for label in labels)
    weights = np.array([counts[label.run] ** -0.5 for label in labels])
    rows = np.array([[1.0, *(label.signs[name] for name in names)] for label in labels])
    errors = np.log(np.maximum([1 - label.iou for label in labels], MIN_ERROR))
    held = RIDGE * weights.sum() * np.diag([0.0, *(1.0 for _ in names)])
    found = np.linalg.solve((rows * weights[:, None]).T @ rows + held, (rows * weights[:, None]).T @ errors)
    deviation = np.sqrt((weights * (errors - rows @ found) ** 2).sum() / weights.sum())
    constant, *values = (round(float(value), 3) for value in found)
    return ErrorModel(now.accepted_iou, constant, dict(zip(names, values, strict=True)), round(float(deviation), 3))


def left_out(labels: Sequence[SignedLabel], now: ErrorModel) -> Doubles:
    """Confidence of each label with weights fitted to the other sequences.

    Raises:
        FailedPrecondition: all labels are of one sequence.
    """
    sequences = sorted({label.sequence for label in labels})
    if len(sequences) < 2:
        raise FailedPrecondition(f"labels of one sequence only ({sequences}); add labels of other sequences")
    models = {name: fitted([label for label in labels if label.sequence != name], now) for name in sequences}
    return np.array([models[label.sequence].probability(label.signs) for label in labels])


def _read(path: Path) -> list[SignedLabel]:
    try:
        with path.open(encoding="utf-8") as lines:
            return [SignedLabel(**json.loads(line)) for line in lines]
    except (OSError, ValueError, TypeError) as error:
        raise FailedPrecondition(f"{path}: not a file of scripts/calibrate ({error})") from error


def _collect(clips: Sequence[Clip], seed_counts: Sequence[int], path: Path, console: Console) -> None:
    """Run what is missing in the file, and append it run by run."""
    done = {label.run for label in _read(path)} if path.exists() else set()
    for clip in clips:
        for k in seed_counts:
            if (clip.set_name, clip.name, k) in done:
                continue
            with (
                tempfile.TemporaryDirectory(prefix="micromodels-calibrate-") as folder,
                open_video(clip.source) as video,
            ):
                seeds, run = clip.seeds(clip.seed_frames(k)), Run(cache_dir=Path(folder))
                found = signed_labels(clip, k, find_system("default").propagate(clip, video, seeds, run))
            with path.open("a", encoding="utf-8") as lines:
                lines.writelines(json.dumps(asdict(label)) + "\n" for label in found)
            console.print(f"{clip.set_name}/{clip.name} k={k}: {len(found)} labels", highlight=False)


def _report(labels: Sequence[SignedLabel], kind: str, console: Console) -> None:
    """Print both calibrations by set and k, and the weights."""
    now = ERROR_MODELS[kind]
    sure = np.array([now.probability(label.signs) for label in labels])
    unseen = left_out(labels, now)
    right = np.array([label.iou >= now.accepted_iou for label in labels])
    columns = ("set", "k", "labels", f"IoU >= {now.accepted_iou}", "current weights", "leave-one-sequence-out")
    table = Table(*columns, title=f"{kind}: calibration error / Brier score")

    def add(name: str, k: str, where: npt.NDArray[np.bool_]) -> None:
        cells = [
            f"{metrics.expected_calibration_error(p, right[where].tolist()):.3f}"
            f" / {metrics.brier_score(p, right[where].tolist()):.3f}"
            for p in (sure[where].tolist(), unseen[where].tolist())
        ]
        table.add_row(name, k, str(where.sum()), f"{right[where].mean():.2f}", *cells)

    groups = [(label.set_name, label.k) for label in labels]
    for name, k in dict.fromkeys(groups):
        add(name, str(k), np.array([group == (name, k) for group in groups]))
    add("all", "", np.ones(len(labels), np.bool_))
    console.print(table)
    console.print(f"current weights: {now}", highlight=False, soft_wrap=True)
    console.print(f"fitted to all: {fitted(labels, now)}", highlight=False, soft_wrap=True)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    signs: Annotated[
        Path, typer.Argument(help="File of the labels' signs, as JSON Lines; runs in it are not repeated.")
    ],
    sets: Annotated[str, typer.Option(help="Sets of the benchmark, comma-separated.")] = DEFAULT_SETS,
    sequences: Annotated[str, typer.Option(help="Names of sequences, comma-separated; default: all.")] = "",
    k: Annotated[str, typer.Option(help="Numbers of seed frames, comma-separated.")] = "1,3",
) -> None:
    """Measures calibration of confidences on unseen videos, and fits better weights (docs/explanation/evaluation.md).

    MICROMODELS_REAL_DATA names the data.
    """
    console = Console()
    names = [[part for part in text.split(",") if part] for text in (sets, sequences, k)]
    try:
        _collect(load_clips(data_root(), names[0], names[1]), [int(number) for number in names[2]], signs, console)
        labels = _read(signs) if signs.exists() else []
        for kind in ERROR_MODELS:
            if of_kind := [label for label in labels if label.kind == kind]:
                _report(of_kind, kind, console)
    except (MicromodelsError, ValueError) as error:
        console.print(f"[red]calibrate: {error}[/]")
        raise typer.Exit(2) from error


if __name__ == "__main__":
    app()
