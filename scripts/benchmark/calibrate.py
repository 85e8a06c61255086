"""``scripts/calibrate``: how far confidences can be trusted on videos they were not fitted to, and better weights.

Default micro-models label clips with ground truth; every label leaves its signs
(``micromodels.propagation.confidence``) and its IoU in a file. From these the weights of the signs are fitted again,
for masks and for boxes. Each sequence is judged by weights fitted to the others alone, next to those that the program
has now; the weights fitted to all are printed, for ``micromodels/propagation/confidence.py``.
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
"""Truth is no better than this."""
RIDGE = 1e-3

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SignedLabel:
    """What one label says of itself, and what it is worth.

    Attributes:
        set_name: of the clip.
        sequence: of the clip.
        k: how many frames were seeds.
        kind: key of ``ERROR_MODELS``.
        frame: of the label.
        track: of the label.
        signs: by name.
        iou: with the truth; 0 where the object is not there.
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
    """The labels of a run that have signs, and whose truth is known."""
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
    """The error model of the same signs that explains the labels best, by weighted least squares.

    Each run weighs as the root of the number of its labels, which are alike: neither long clips nor short ones rule.
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
    """Confidence of each label by weights that are fitted to the other sequences.

    Raises:
        FailedPrecondition: all are of one sequence.
    """
    sequences = sorted({label.sequence for label in labels})
    if len(sequences) < 2:
        raise FailedPrecondition(f"labels of one sequence only ({sequences}); nothing is left to fit to without it")
    models = {name: fitted([label for label in labels if label.sequence != name], now) for name in sequences}
    return np.array([models[label.sequence].probability(label.signs) for label in labels])


def _read(path: Path) -> list[SignedLabel]:
    try:
        with path.open(encoding="utf-8") as lines:
            return [SignedLabel(**json.loads(line)) for line in lines]
    except (OSError, ValueError, TypeError) as error:
        raise FailedPrecondition(f"{path}: not a file that scripts/calibrate wrote ({error})") from error


def _collect(clips: Sequence[Clip], seed_counts: Sequence[int], path: Path, console: Console) -> None:
    """Run what the file lacks, and add it run by run."""
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
    """Both ways of being sure, by set and k, and the weights."""
    now = ERROR_MODELS[kind]
    sure = np.array([now.probability(label.signs) for label in labels])
    unseen = left_out(labels, now)
    right = np.array([label.iou >= now.accepted_iou for label in labels])
    columns = ("set", "k", "labels", f"IoU >= {now.accepted_iou}", "as it is", "left out")
    table = Table(*columns, title=f"{kind}: calibration error / Brier score")

    def add(name: str, k: str, where: npt.NDArray[np.bool_]) -> None:
        said = [
            f"{metrics.expected_calibration_error(p, right[where].tolist()):.3f}"
            f" / {metrics.brier_score(p, right[where].tolist()):.3f}"
            for p in (sure[where].tolist(), unseen[where].tolist())
        ]
        table.add_row(name, k, str(where.sum()), f"{right[where].mean():.2f}", *said)

    groups = [(label.set_name, label.k) for label in labels]
    for name, k in dict.fromkeys(groups):
        add(name, str(k), np.array([group == (name, k) for group in groups]))
    add("all", "", np.ones(len(labels), np.bool_))
    console.print(table)
    console.print(f"as it is: {now}", highlight=False, soft_wrap=True)
    console.print(f"fitted to all: {fitted(labels, now)}", highlight=False, soft_wrap=True)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    signs: Annotated[
        Path, typer.Argument(help="File of the labels' signs, a JSON object a line; what it has is not run again.")
    ],
    sets: Annotated[str, typer.Option(help="Sets of the benchmark, comma-separated.")] = DEFAULT_SETS,
    sequences: Annotated[str, typer.Option(help="Names of sequences, comma-separated; default: all.")] = "",
    k: Annotated[str, typer.Option(help="Numbers of seed frames, comma-separated.")] = "1,3",
) -> None:
    """Measures how far confidences can be trusted on videos they were not fitted to (docs/explanation/evaluation.md).

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
