"""Growth: the videos and labels that it measures on, and that its processes are watched."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from micromodels.errors import TrainingError
from micromodels.labels.files import read_labels
from micromodels.labels.geometry import bounds, iou
from micromodels.types import Box, Mask
from micromodels.video import open_video
from scripts.benchmark import scaling
from scripts.benchmark.datasets import load_clips
from scripts.benchmark.tables import growth_tables


def test_a_clip_is_played_to_and_fro() -> None:
    """Neighboring frames of the long video are neighbors in the clip, at every length."""
    shown = [scaling._to_and_fro(4, index) for index in range(14)]
    assert shown == [0, 1, 2, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0, 1]
    assert [scaling._to_and_fro(1, index) for index in range(3)] == [0, 0, 0]


@pytest.mark.parametrize("kind", ["boxes", "masks"])
@pytest.mark.parametrize("count", [1, 3, 50])
def test_objects_have_cells_of_their_own(count: int, kind: str) -> None:
    """As many tracks as asked for on every seed frame, inside the picture, none over another."""
    labels = list(scaling._grid_seeds(count, kind, (180, 320)))
    assert len({label.track for label in labels}) == count
    assert len({label.frame for label in labels}) == scaling.SEEDS
    first = [label for label in labels if label.frame == labels[0].frame]
    boxes = []
    for label in first:
        assert isinstance(label.shape, Mask if kind == "masks" else Box)
        boxes.append(bounds(label.shape))
    assert all(box.x1 >= 0 and box.y1 >= 0 and box.x2 <= 320 and box.y2 <= 180 for box in boxes)
    assert all(iou(a, b, (180, 320)) == 0 for i, a in enumerate(boxes) for b in boxes[:i])


@pytest.mark.parametrize("set_name", ["davis2016", "otb"])
def test_growth_measures_lengths_objects_and_the_limit(
    small_data: Path, set_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The videos have the lengths asked for, the seeds fit them, and one training serves all lengths."""
    (clip,) = load_clips(small_data, [set_name])
    done: list[tuple[str, int, int]] = []

    def measure(work: str, source: Path, seeds_path: Path, model: Path, effort: float = 1.0) -> dict[str, float]:
        with open_video(source) as video:
            table = video.table
            seeds = read_labels(seeds_path, video=video)
        done.append((work, table.frame_count, len({seed.track for seed in seeds if hasattr(seed, "track")})))
        model.mkdir(exist_ok=True)
        rates = {"seconds": 2.0, "seconds_per_frame": 0.1, "first_label_seconds": 0.5, "peak_mib": 900.0}
        return {**rates, "encoding_seconds": 1.0, "ratio": 0.5}

    monkeypatch.setattr(scaling, "_measure", measure)
    told: list[str] = []

    def tell(kind: str, point: Mapping[str, Any]) -> None:
        told.append(kind)

    found: dict[str, Any] = {}
    scaling.measure_growth(clip, [20, 40], [3], tell, found)
    assert told == ["limit", "objects", "objects", "lengths", "lengths"]
    assert [point["frames"] for point in found["lengths"]] == [20, 40]
    assert done == [
        ("train", 12, 1),
        ("limit", 12, 1),
        *[("train", 60, 3), ("label", 60, 3)] * 2,
        ("train", 20, 1),
        ("label", 20, 1),
        ("label", 40, 1),
    ]
    lengths, objects, limit = growth_tables(found)
    assert "| 40 | 0.1000 | 0.5 s | 2 s | 900 |" in lengths
    assert "| 3 | masks | 0.100 | 900 | 900 |" in objects
    assert "throughput 0.50" in limit[0]
    assert growth_tables({}) == []


def test_a_measurement_that_fails_says_why(tmp_path: Path) -> None:
    """The last words of its process."""
    with pytest.raises(TrainingError, match="growth, label"):
        scaling._measure("label", tmp_path / "nothing.mp4", tmp_path / "nothing.jsonl", tmp_path / "model")


def test_memory_is_that_of_a_process_and_its_children() -> None:
    """More than ten MiB for this one; nothing for one that is gone."""
    assert scaling._resident_bytes(os.getpid()) > 10 << 20
    assert scaling._resident_bytes(2**22 - 1) == 0
