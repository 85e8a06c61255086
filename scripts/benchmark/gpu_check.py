"""``scripts/gpu_check``: compares the GPU, if one is found, with the CPU: same results, and how much faster?

A synthetic clip shows a disc crossing a patterned background. Every device encodes it, trains a head on three seeds,
and labels it. Compared with the CPU are: features, labels by the same weights (the CPU's micro-model), and labels by
the GPU's own micro-model. Exit codes: 0 the devices agree or only the CPU is available, 1 they disagree, 2 wrong
arguments.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import torch
import typer
from rich.console import Console
from rich.table import Table

from micromodels.encoding.encoded_video import to_work_image
from micromodels.encoding.encoders import Features, default_encoder_name, load_encoder, work_size
from micromodels.errors import MicromodelsError
from micromodels.labels.geometry import mask_iou
from micromodels.recipes.base import MicroModel, TrainSettings, load_model, train
from micromodels.runtime.run import Event, Run, Stage, StageFinished, TrainingProgress
from micromodels.types import Label, Mask, State
from micromodels.video import FrameTable

__all__ = ["Measurement", "disagreements", "main", "measure", "synthetic_clip"]

Rgb = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]

MAX_FEATURE_ERROR = 0.05
"""Root mean squared difference to the CPU's features, relative to them; bfloat16 has 8 bits of mantissa."""

MIN_SAME_WEIGHTS_IOU = 0.95
"""Mean IoU with the CPU's masks for the same weights."""

MIN_OWN_IOU_SHARE = 0.9
"""Mean IoU of the device's own micro-model with the truth, as a share of the CPU's."""

ENCODED_FRAMES = 8


@dataclass(frozen=True)
class Clip:
    """Frames in memory with the table and the true masks of their one object; a ``FrameSource``."""

    table: FrameTable
    pictures: tuple[Rgb, ...] = field(repr=False)
    truth: tuple[Bools, ...] = field(repr=False)

    def frame(self, index: int) -> Rgb:
        """RGB uint8 ``(height, width, 3)``."""
        return self.pictures[index]

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, Rgb]]:
        """Frames in display order."""
        yield from zip(range(start, len(self.pictures)), self.pictures[start:stop], strict=False)

    def seeds(self) -> list[Label]:
        """The true masks of the first, the middle and the last frame as human labels."""
        last = len(self.truth) - 1
        return [
            Label(frame, "1", "disc", State.VISIBLE, Mask.from_array(self.truth[frame]))
            for frame in sorted({0, last // 2, last})
        ]


@dataclass(frozen=True)
class Measurement:
    """Results of one device. Masks are ``(frames - 1, height, width)``: the first frame is an anchor."""

    device: str
    name: str
    """Name of the processor."""

    features: Features = field(repr=False)
    """Features of the first frame."""

    own_masks: Bools = field(repr=False)
    """Masks by the micro-model that this device trained."""

    reference_masks: Bools = field(repr=False)
    """Masks by the micro-model that the CPU trained."""

    own_iou: float
    """Mean IoU of ``own_masks`` with the truth."""

    encode_ms: float
    """Per frame, after the first."""

    step_ms: float
    """Per training step, mean."""

    label_ms: float
    """Per frame, from features to labels: prediction and temporal inference."""


def synthetic_clip(frames: int, height_px: int, width_px: int) -> Clip:
    """A textured disc that crosses a patterned background from left to right.

    Args:
        frames: number of frames, at least 3.
        height_px: of a frame.
        width_px: of a frame.
    """
    rng = np.random.default_rng(7)
    ground = cv2.resize(rng.integers(40, 150, (9, 16, 3), dtype=np.uint8), (width_px, height_px))
    skin = cv2.resize(rng.integers(120, 255, (6, 6, 3), dtype=np.uint8), (width_px, height_px))
    rows, columns = np.mgrid[:height_px, :width_px]
    radius = min(height_px, width_px) / 4
    pictures, truth = [], []
    for index in range(frames):
        x = radius + (width_px - 2 * radius) * index / max(1, frames - 1)
        y = height_px / 2 + 0.4 * radius * np.sin(index / 3)
        mask = np.asarray((columns - x) ** 2 + (rows - y) ** 2 < radius**2, bool)
        moved = np.roll(skin, round(x), axis=1) * np.array([1.0, 0.6, 0.3])
        pictures.append(np.where(mask[..., None], moved, ground).astype(np.uint8))
        truth.append(mask)
    table = FrameTable(
        pts=np.arange(frames, dtype=np.int64),
        time_base=Fraction(1, 25),
        width_px=width_px,
        height_px=height_px,
        rotation_degrees=0,
        mirrored=False,
        codec="none",
        container="memory",
        bit_depth=8,
        white_level=None,
        content_hash="0" * 64,
        pixel_hashes={},
        fingerprints=np.zeros(frames, np.uint64),
        keyframes=np.zeros(1, np.int64),
        single_threaded=False,
        seekable=True,
        decoder="none",
    )
    return Clip(table, tuple(pictures), tuple(truth))


def measure(device: str, clip: Clip, settings: TrainSettings, reference: Path) -> Measurement:
    """Run encoder, training and labeling on one device.

    Args:
        device: ``cpu`` or ``cuda``.
        clip: clip to label.
        settings: training settings; their encoder is timed.
        reference: folder of the CPU's micro-model; created by the first call, which must be for the CPU.
    """
    events: list[Event] = []
    run = Run(device=device, on_event=events.append)
    features, encode_ms = _encode(device, clip, settings.encoder)
    model = train(clip, clip.seeds(), settings, run=run)
    step_ms = 1000 * _seconds(events, Stage.TRAIN) / max(1, sum(isinstance(e, TrainingProgress) for e in events))
    events.clear()
    own = _masks(model, clip, run)
    label_ms = 1000 * _seconds(events, Stage.PREDICT, Stage.TEMPORAL) / len(clip.pictures)
    if not reference.exists():
        model.save(reference)
        shared = own
    else:
        shared = _masks(load_model(reference), clip, run)
    return Measurement(
        device,
        torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads",
        features,
        own,
        shared,
        mean_iou(own, np.stack(clip.truth)[1:]),
        encode_ms,
        step_ms,
        label_ms,
    )


def _encode(device: str, clip: Clip, encoder_name: str) -> tuple[Features, float]:
    """Features of the first frame, and milliseconds per frame over some more."""
    encoder = load_encoder(encoder_name, torch.device(device))
    size = work_size(clip.table.height_px, clip.table.width_px)
    images = [to_work_image(picture, size) for picture in clip.pictures[:ENCODED_FRAMES]]
    first = encoder.encode(images[0])  # Also the warm-up: the first call selects graphs and kernels.
    started = time.perf_counter()
    for image in images:
        encoder.encode(image)
    return first, 1000 * (time.perf_counter() - started) / len(images)


def _seconds(events: Sequence[Event], *stages: Stage) -> float:
    return sum(event.seconds for event in events if isinstance(event, StageFinished) and event.stage in stages)


def _masks(model: MicroModel, clip: Clip, run: Run) -> Bools:
    """Masks of all frames after the first, which is the only anchor."""
    masks = np.zeros((len(clip.pictures), clip.table.height_px, clip.table.width_px), bool)
    for result in model.propagate(clip, clip.seeds()[:1], run=run):
        for label in result.labels:
            if isinstance(label.shape, Mask):
                masks[result.frame] = label.shape.to_array()
    return masks[1:]


def mean_iou(one: Bools, other: Bools) -> float:
    """Mean over frames of intersection over union of masks ``(frames, height, width)``; 1 if both are empty."""
    return float(mask_iou(one, other).mean())


def feature_errors(one: Features, reference: Features) -> tuple[float, float]:
    """Largest absolute difference, and the worst level's root mean squared difference relative to the reference."""
    pairs = [(a.astype(np.float64), b.astype(np.float64)) for a, b in zip(one, reference, strict=True)]
    largest = max(float(np.abs(a - b).max()) for a, b in pairs)
    relative = max(float(np.sqrt(((a - b) ** 2).mean() / max((b**2).mean(), 1e-12))) for a, b in pairs)
    return largest, relative


def disagreements(cpu: Measurement, other: Measurement) -> list[str]:
    """Disagreements of a device with the CPU, as text; empty if they agree."""
    found = []
    _, relative = feature_errors(other.features, cpu.features)
    if not relative <= MAX_FEATURE_ERROR:  # Also true of NaN.
        found.append(f"{other.device}: features differ by {relative:.3g} of their size; allowed {MAX_FEATURE_ERROR}")
    same = mean_iou(other.reference_masks, cpu.reference_masks)
    if same < MIN_SAME_WEIGHTS_IOU:
        found.append(f"{other.device}: masks by the same weights have IoU {same:.3f}; required {MIN_SAME_WEIGHTS_IOU}")
    if other.own_iou < MIN_OWN_IOU_SHARE * cpu.own_iou:
        found.append(
            f"{other.device}: its own training reaches {other.own_iou:.3f} where the CPU's has {cpu.own_iou:.3f}"
        )
    return found


def _runs_onnx_on_cuda() -> bool:
    """Whether ONNX Runtime uses the GPU; without a library that it needs, it falls back to the CPU with a log line."""
    import onnx

    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "probe", values[:1], values[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    session = ort.InferenceSession(model.SerializeToString(), providers=providers)
    return "CUDAExecutionProvider" in session.get_providers()


def _table(measurements: Sequence[Measurement]) -> Table:
    cpu = measurements[0]
    table = Table(title="The same work on each device")
    table.add_column("")
    for one in measurements:
        table.add_column(f"{one.device} ({one.name})", justify="right")
    for title, attribute in (
        ("encoding, ms per frame", "encode_ms"),
        ("training, ms per step", "step_ms"),
        ("prediction and temporal inference, ms per frame", "label_ms"),
    ):
        base = getattr(cpu, attribute)
        cells = [
            f"{getattr(m, attribute):.1f}" + ("" if m is cpu else f" ({base / max(getattr(m, attribute), 1e-6):.1f} x)")
            for m in measurements
        ]
        table.add_row(title, *cells)
    errors = [feature_errors(m.features, cpu.features) for m in measurements]
    table.add_row("features: largest absolute difference", *(f"{largest:.4g}" for largest, _ in errors))
    table.add_row("features: relative difference, worst level", *(f"{relative:.2g}" for _, relative in errors))
    same = [mean_iou(m.reference_masks, cpu.reference_masks) for m in measurements]
    table.add_row("masks by the same weights: IoU with the CPU's", *(f"{iou:.4f}" for iou in same))
    table.add_row("masks by its own training: IoU with the truth", *(f"{m.own_iou:.4f}" for m in measurements))
    return table


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    frames: Annotated[int, typer.Option(help="Length of the clip.", min=3)] = 24,
    height: Annotated[int, typer.Option(help="Height of the clip in pixels.", min=16)] = 270,
    width: Annotated[int, typer.Option(help="Width of the clip in pixels.", min=16)] = 480,
    effort: Annotated[float, typer.Option(help="Factor on views and training steps.", min=0.01, max=20)] = 0.2,
    encoder: Annotated[str, typer.Option(help="Name of the encoder, or auto.")] = "auto",
    recipe: Annotated[str, typer.Option(help="head, or finetune, which also trains the encoder.")] = "head",
) -> None:
    """Compare encoder, training and labeling on the GPU with the CPU, in results and speed."""
    console = Console(soft_wrap=True)
    gpu = torch.cuda.is_available()
    problems: list[str] = []
    if not gpu:
        console.print("torch finds no CUDA device: CPU numbers only, nothing to compare.")
    elif not _runs_onnx_on_cuda():
        problems.append("cuda: ONNX Runtime falls back to the CPU; its log above names the missing library")
    clip = synthetic_clip(frames, height, width)
    measurements: list[Measurement] = []
    try:
        name = default_encoder_name() if encoder == "auto" else encoder
        settings = TrainSettings(recipe=recipe, effort=effort, encoder=name)
        with tempfile.TemporaryDirectory(prefix="micromodels-") as folder:
            for device in ("cpu", "cuda") if gpu else ("cpu",):
                measurements.append(measure(device, clip, settings, Path(folder) / "model"))
    except MicromodelsError as error:
        console.print(f"failed: {error}")
        raise typer.Exit(1) from error
    console.print(_table(measurements))
    for other in measurements[1:]:
        problems += disagreements(measurements[0], other)
    for problem in problems:
        console.print(f"failed: {problem}")
    if gpu and not problems:
        console.print("The devices agree.")
    raise typer.Exit(1 if problems else 0)


if __name__ == "__main__":
    app()
