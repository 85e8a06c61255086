"""``scripts/bench --growth``: time and memory by length of the video and number of objects, and against the limit.

- *lengths*: a small clip, played back and forth, becomes a video of a given length; a micro-model trained on the
  shortest labels each. Seconds per frame and peak memory must not depend on the length.
- *objects*: many objects on one short video, as boxes and as masks; trained and labeled.
- *limit*: time to label the clip, compared with only decoding and encoding its frames.

Every measurement is a separate process, so that none starts with the memory of another. Memory is the largest sum of
the resident sizes of that process and its children (which decode), sampled ten times a second.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import psutil

from micromodels.errors import TrainingError
from micromodels.labels.files import read_labels, write_labels
from micromodels.runtime.run import Run
from micromodels.types import Box, Label, Mask, State
from micromodels.video import open_video, write_video
from scripts.benchmark.datasets import Clip, seed_frames

__all__ = ["LENGTHS", "OBJECTS", "measure_growth"]

LENGTHS = (100, 1_000, 5_000, 20_000)
OBJECTS = (1, 2, 5, 10, 20, 50)
WIDTH_PX = 160
"""Size of the long videos: small, so that the longest takes only minutes."""
OBJECTS_WIDTH_PX = 320
OBJECTS_FRAMES = 60
SEEDS = 3
OBJECTS_EFFORT = 0.1
"""Effort of training with many objects, whose quality does not matter here."""
SAMPLE_SECONDS = 0.1

Image = npt.NDArray[np.uint8]
Report = Callable[[str, Mapping[str, Any]], None]


def measure_growth(
    clip: Clip, lengths: Sequence[int], objects: Sequence[int], report: Report, found: dict[str, Any]
) -> None:
    """Measures all three.

    Args:
        clip: source of the frames; a clip with masks or boxes.
        lengths: numbers of frames, ascending.
        objects: numbers of objects.
        report: called with the name and the numbers of each finished measurement.
        found: gets ``clip``, ``limit``, ``objects`` and ``lengths`` as they are measured.

    Raises:
        TrainingError: a measurement failed; has the end of its error output.
    """
    found.update({"clip": f"{clip.set_name}/{clip.name}", "lengths": [], "objects": []})

    def note(kind: str, point: dict[str, Any]) -> None:
        if kind == "limit":
            found[kind] = point
        else:
            found[kind].append(point)
        report(kind, point)

    with tempfile.TemporaryDirectory(prefix="micromodels-growth-") as work:
        folder = Path(work)
        note("limit", _limit(clip, folder))
        with open_video(clip.source) as source:
            pictures = [image for _, image in source.frames()]
        crowd = folder / "objects.mp4"
        size = _write_looped(clip, pictures, OBJECTS_FRAMES, OBJECTS_WIDTH_PX, crowd)
        for count in objects:
            for kind in ("boxes", "masks"):
                note("objects", _objects(crowd, size, count, kind, folder))
        for frame_count in lengths:
            note("lengths", _length(clip, pictures, frame_count, folder))


def _length(clip: Clip, pictures: Sequence[Image], frame_count: int, folder: Path) -> dict[str, Any]:
    video, seeds = folder / "long.mp4", folder / "long.jsonl"
    size = _write_looped(clip, pictures, frame_count, WIDTH_PX, video)
    shrink = size[1] / pictures[0].shape[1], size[0] / pictures[0].shape[0]
    chosen = seed_frames(frame_count, SEEDS)
    write_labels(seeds, (label for frame in chosen for label in _looped_seeds(clip, frame, size, shrink)))
    model = folder / "model"
    if not model.exists():
        _measure("train", video, seeds, model, 1.0)
    point = {"frames": frame_count, "width_px": size[1], "height_px": size[0]}
    return point | _measure("label", video, seeds, model)


def _objects(video: Path, size: tuple[int, int], count: int, kind: str, folder: Path) -> dict[str, Any]:
    seeds, model = folder / "objects.jsonl", folder / f"{kind}-{count}"
    write_labels(seeds, _grid_seeds(count, kind, size))
    trained = _measure("train", video, seeds, model, OBJECTS_EFFORT)
    point = {"objects": count, "kind": kind, "frames": OBJECTS_FRAMES, "width_px": size[1], "height_px": size[0]}
    return point | _measure("label", video, seeds, model) | {"train_peak_mib": trained["peak_mib"]}


def _limit(clip: Clip, folder: Path) -> dict[str, Any]:
    seeds, model = folder / "limit.jsonl", folder / "limit"
    write_labels(seeds, clip.seeds(clip.seed_frames(SEEDS)))
    _measure("train", clip.source, seeds, model, OBJECTS_EFFORT)
    return {"frames": clip.frame_count} | _measure("limit", clip.source, seeds, model)


def _to_and_fro(frame_count: int, index: int) -> int:
    """The frame shown at an index when frames are played back and forth, without a cut."""
    place = index % max(1, 2 * frame_count - 2)
    return min(place, 2 * frame_count - 2 - place)


def _write_looped(
    clip: Clip, pictures: Sequence[Image], frame_count: int, width_px: int, path: Path
) -> tuple[int, int]:
    """Writes a video of the frames with known truth; returns its height and width."""
    height_px = 2 * round(width_px * pictures[0].shape[0] / pictures[0].shape[1] / 2)
    size, method = (width_px, height_px), cv2.INTER_AREA
    small = [np.asarray(cv2.resize(pictures[f], size, interpolation=method), np.uint8) for f in clip.known_frames()]
    write_video(path, (small[_to_and_fro(len(small), index)] for index in range(frame_count)), Fraction(25))
    return height_px, width_px


def _looped_seeds(clip: Clip, frame: int, size: tuple[int, int], shrink: tuple[float, float]) -> Iterator[Label]:
    """Truth of a frame of the long video; ``size`` is its height and width, ``shrink`` the factors of x and y."""
    shown = clip.known_frames()
    for label in clip.seeds([shown[_to_and_fro(len(shown), frame)]]):
        shape = label.shape
        if isinstance(shape, Mask):
            small = cv2.resize(shape.to_array().astype(np.uint8) * 255, size[::-1], interpolation=cv2.INTER_AREA)
            shape = Mask.from_array(small > 127) if (small > 127).any() else None
        elif isinstance(shape, Box):
            shape = Box(*(np.array(shape.as_list()) * [*shrink, *shrink]).tolist())
        state = State.ABSENT if shape is None else State.VISIBLE
        yield Label(frame, label.track, label.object_class, state, shape)


def _grid_seeds(count: int, kind: str, size: tuple[int, int]) -> Iterator[Label]:
    """Objects of one class in the cells of a grid."""
    columns = int(np.ceil(np.sqrt(count * size[1] / size[0])))
    rows = -(-count // columns)
    height, width = size[0] / rows, size[1] / columns
    for frame in seed_frames(OBJECTS_FRAMES, SEEDS):
        for number in range(count):
            x, y = number % columns * width, number // columns * height
            box = Box(x + 0.2 * width, y + 0.2 * height, x + 0.8 * width, y + 0.8 * height)
            shape: Box | Mask = box
            if kind == "masks":
                mask = np.zeros(size, bool)
                mask[round(box.y1) : round(box.y2), round(box.x1) : round(box.x2)] = True
                shape = Mask.from_array(mask)
            yield Label(frame, str(number), "object", State.VISIBLE, shape)


def _measure(work: str, video: Path, seeds: Path, model: Path, effort: float = 1.0) -> dict[str, Any]:
    """Measures one task in a separate process; returns its output, and ``peak_mib``."""
    arguments = [work, str(video), str(seeds), str(model), str(effort)]
    command = [sys.executable, "-m", "scripts.benchmark.scaling", *arguments]
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        child = subprocess.Popen(command, stdout=output, stderr=errors)
        peak = 0
        try:
            while child.poll() is None:
                peak = max(peak, _resident_bytes(child.pid))
                time.sleep(SAMPLE_SECONDS)
        finally:
            if child.poll() is None:
                child.terminate()
                child.wait()
        output.seek(0)
        errors.seek(0)
        if child.returncode:
            raise TrainingError(f"growth, {work}: {errors.read()[-2000:]}")
        printed: dict[str, Any] = json.loads(output.read().splitlines()[-1])
    return {**printed, "peak_mib": round(peak / 2**20, 1)}


def _resident_bytes(pid: int) -> int:
    """Resident size of a process and its descendants; 0 for ended ones."""
    total = 0
    try:
        process = psutil.Process(pid)
        for member in (process, *process.children(recursive=True)):
            total += member.memory_info().rss
    except psutil.NoSuchProcess:
        pass
    return total


def _work(work: str, source: Path, seeds_path: Path, model_path: Path, effort: float) -> dict[str, float]:
    """The task of a measuring process."""
    from micromodels.recipes.base import TrainSettings, load_model, train

    with open_video(source) as video, tempfile.TemporaryDirectory(prefix="micromodels-growth-") as cache:
        table = video.table
        seeds = read_labels(seeds_path, video=video)
        if work == "train":
            train(video, seeds, TrainSettings(effort=effort), run=Run(cache_dir=Path(cache))).save(model_path)
            return {}
        model = load_model(model_path)
        encoding = _seconds_of_encoding(video, Path(cache) / "encoded") if work == "limit" else 0.0
        started = time.perf_counter()
        first = 0.0
        for result in model.propagate(video, seeds, run=Run(cache_dir=Path(cache) / "labels")):
            first = first or time.perf_counter() - started
            del result
        seconds = time.perf_counter() - started
        rates = {"seconds": seconds, "seconds_per_frame": seconds / table.frame_count, "first_label_seconds": first}
        if work == "limit":
            rates |= {"encoding_seconds": encoding, "ratio": encoding / seconds}
        return {name: round(value, 5) for name, value in rates.items()}


def _seconds_of_encoding(video: Any, cache: Path) -> float:
    """Decodes and encodes every frame."""
    from micromodels.encoding.encoded_video import EncodedVideo
    from micromodels.encoding.encoders import default_encoder_name, load_encoder, select_device

    run = Run(cache_dir=cache)
    encoder = load_encoder(default_encoder_name(), select_device(run.device))
    with EncodedVideo(video, encoder, run) as encoded:
        encoded.encoder.encode(encoded.image(0))  # warm up the network
        started = time.perf_counter()
        for _ in encoded.stream(range(encoded.frame_count), lambda index, frame: index):
            pass
        return time.perf_counter() - started


if __name__ == "__main__":
    _source, _seeds, _model = (Path(argument) for argument in sys.argv[2:5])
    print(json.dumps(_work(sys.argv[1], _source, _seeds, _model, float(sys.argv[5]))))
