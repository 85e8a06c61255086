"""Baselines on clips where what they should answer is known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import pytest

from micromodels.errors import InvalidInput, TrainingError
from micromodels.labels.geometry import bounds, box_iou
from micromodels.recipes.base import MicroModel
from micromodels.runtime.run import Run
from micromodels.types import AnyLabel, Box, FrameResult, Label, Mask, ProvenanceKind, State
from micromodels.video import Video, open_video
from scripts.benchmark import opencv_trackers
from scripts.benchmark.baselines import BASELINES, find_system
from scripts.benchmark.baselines_interpolation import BASELINE, interpolate_masks
from scripts.benchmark.datasets import load_clips
from scripts.benchmark.metrics import label_iou
from scripts.benchmark.opencv_trackers import Chase
from tests.scripts.benchmark.conftest import picture, square


def run(root: Path, set_name: str, baseline: str, frames: list[int], *, classes: bool = False) -> list[FrameResult]:
    (clip,) = load_clips(root, [set_name])
    seeds: list[AnyLabel] = [*(clip.frame_class_seeds(frames) if classes else clip.seeds(frames))]
    with open_video(clip.source) as video:
        results = list(find_system(baseline).propagate(clip, video, seeds, Run()))
    assert [result.frame for result in results] == list(range(clip.frame_count))
    given = {result.frame: result.all() for result in results}
    assert all(seed in given[seed.frame] for seed in seeds)
    return results


def box_of(result: FrameResult) -> Box:
    (label,) = result.labels
    assert isinstance(label.shape, Box)
    return label.shape


def test_copy_takes_the_nearest_seed(small_data: Path) -> None:
    """Of two equally near, the earlier; what is copied is not a human label."""
    results = run(small_data, "otb", "copy", [2, 6])
    assert [box_of(results[frame]).x1 for frame in (0, 4, 5, 9)] == [10, 10, 22, 22]
    assert results[4].labels[0].provenance.kind is ProvenanceKind.INTERPOLATED


def test_boxes_are_interpolated_linearly(small_data: Path) -> None:
    """Between two seeds each side moves evenly; beyond them the nearest is copied."""
    results = run(small_data, "otb", "linear", [2, 6])
    assert [box_of(results[frame]).as_list() for frame in (0, 3, 5, 9)] == [
        [10, 10, 26, 26],
        [13, 10, 29, 26],
        [19, 10, 35, 26],
        [22, 10, 38, 26],
    ]


def test_nothing_is_interpolated_over_an_absence(small_data: Path) -> None:
    """Between a seed that shows the object and one that says absent, the nearest counts."""
    results = run(small_data, "tld", "linear", [1, 5, 9])
    assert [result.labels[0].state for result in results[3:8]] == [State.VISIBLE, *[State.ABSENT] * 4]


def test_frame_classes_are_copied(small_data: Path) -> None:
    """From the nearest seed."""
    results = run(small_data, "tld", "copy", [1, 5, 11], classes=True)
    assert [result.frame_labels[0].present for result in results] == [True] * 4 + [False] * 5 + [True] * 3


def test_masks_between_two_discs_grow_evenly() -> None:
    """Discs of radius 10 and 20 about one center: half-way the radius is 15, and the ends are the masks themselves."""
    rows, columns = np.mgrid[:80, :80]
    discs = {r: (rows - 40) ** 2 + (columns - 40) ** 2 <= r**2 for r in (10, 15, 20)}
    between = interpolate_masks(discs[10], discs[20])
    assert (between(0.0) == discs[10]).all()
    assert (between(1.0) == discs[20]).all()
    assert np.count_nonzero(between(0.5) ^ discs[15]) < 0.05 * discs[15].sum()


@pytest.mark.parametrize("set_name", ["davis2016", "otb"])
def test_flow_follows_a_moving_square(small_data: Path, set_name: str) -> None:
    """From frame 0, and back from frame 6, masks and boxes go along with the square."""
    for seed, target in ((0, 4), (6, 2)):
        shape = run(small_data, set_name, "flow", [seed])[target].labels[0].shape
        truth = Box(4 + 3 * target, 10, 20 + 3 * target, 26)
        if isinstance(shape, Mask):
            shape = bounds(shape)
        assert isinstance(shape, Box)
        assert box_iou(shape.as_list(), truth.as_list()) > 0.6


def test_a_tracker_of_opencv_follows_a_moving_square(small_data: Path) -> None:
    """MIL is in every OpenCV; it starts from the nearest seed both ways. It draws by lot: on the square is enough."""
    if BASELINES["mil"].lacking(load_clips(small_data, ["otb"])[0], False):
        pytest.skip(f"OpenCV {cv2.__version__} lacks it")
    results = run(small_data, "otb", "mil", [4])
    assert box_iou(box_of(results[6]).as_list(), [22, 10, 38, 26]) > 0


def test_what_cannot_run_says_why(small_data: Path) -> None:
    """Trackers know boxes, published masks exist for one set, and an OpenCV without a tracker is named."""
    davis, otb = load_clips(small_data, ["davis2016", "otb"])
    assert BASELINES["nano"].lacking(davis, False) == "supports boxes only"
    assert BASELINES["osvos"].lacking(otb, False) == "masks are published for davis2016 only"
    assert BASELINES["flow"].lacking(otb, True) == "does not support frame classes"
    assert BASELINES["copy"].lacking(davis, False) == ""
    with pytest.raises(InvalidInput, match="copy, linear"):
        find_system("sam2")


def test_a_missing_tracker_is_named(small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither this OpenCV nor the other one has it: both are named."""
    (otb,) = load_clips(small_data, ["otb"])
    monkeypatch.setattr(opencv_trackers, "contrib_folder", lambda: tmp_path / "opencv-contrib")
    monkeypatch.setattr(opencv_trackers, "_maker", lambda name: None)
    opencv_trackers.in_contrib.cache_clear()
    lacking = BASELINES["csrt"].lacking(otb, False)
    opencv_trackers.in_contrib.cache_clear()
    assert cv2.__version__ in lacking
    assert "opencv-contrib/ is not installed" in lacking


def test_a_tracker_follows_in_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here with the same OpenCV; onward and back, a box on every frame, on the square as far as it draws by lot."""
    if not opencv_trackers.is_available("mil"):
        pytest.skip(f"OpenCV {cv2.__version__} lacks it")
    monkeypatch.setattr(opencv_trackers, "contrib_folder", lambda: tmp_path / "nothing")
    pictures = [picture(frame)[..., ::-1].copy() for frame in range(8)]
    chases = [Chase(4, (16, 10, 32, 26), 1, 3), Chase(4, (16, 10, 32, 26), -1, 4)]
    found = opencv_trackers.follow_in_child("mil", tmp_path, pictures, chases)
    assert [len(boxes) for boxes in found] == [3, 4]
    for chase, boxes in zip(chases, found, strict=True):
        for number, corners in enumerate(boxes, 1):
            assert corners is not None
            assert box_iou(corners, square(chase.frame + chase.step * number)) > 0


def test_a_tracker_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NanoTrack without its weights."""
    monkeypatch.setattr(opencv_trackers, "contrib_folder", lambda: tmp_path / "nothing")
    with pytest.raises(TrainingError, match="tracker nano"):
        opencv_trackers.follow_in_child("nano", tmp_path, [picture(0)], [Chase(0, (4, 10, 20, 26), 1, 0)])


class _Alone:
    """A micro-model that says how many frames and anchors it was shown."""

    def propagate(self, video: Video, anchors: Sequence[AnyLabel], *, frames: range, run: Run) -> Iterator[FrameResult]:
        for frame in frames:
            label = Label(
                frame, "1", "object", State.VISIBLE, Box(0, 0, 1 + len(frames), 1 + len(anchors)), 0.5, BASELINE
            )
            yield FrameResult(frame, (label,))


def test_without_temporal_inference_no_frame_knows_another(small_data: Path) -> None:
    """Each is labeled alone, without anchors; on frames with seeds the seeds go out."""
    (clip,) = load_clips(small_data, ["otb"])
    seeds = clip.seeds([2, 6])
    label = BASELINES["frames"].label
    assert label is not None
    with open_video(clip.source) as video:
        results = list(label(cast(MicroModel, _Alone()), video, seeds, Run()))
    assert [result.frame for result in results] == list(range(clip.frame_count))
    assert {result.frame: result.labels[0] for result in results if result.frame in (2, 6)} == {
        seed.frame: seed for seed in seeds
    }
    assert {box_of(result).as_list()[3] for result in results if result.frame not in (2, 6)} == {1}
    assert {box_of(result).as_list()[2] for result in results if result.frame not in (2, 6)} == {2}


@pytest.mark.parametrize(
    ("set_name", "tracker", "name", "recall"),
    [
        ("tld", "tld1.0", "pedestrian2", 0.92),
        ("tld", "mil", "pedestrian2", 0.12),
        ("tld", "tld1.0", "pedestrian3", 1.00),
        ("tld", "mil", "pedestrian3", 0.62),
        ("otb", "meem", "Crossing", 0.96),
    ],
)
def test_published_boxes_are_read(real_data: Path, set_name: str, tracker: str, name: str, recall: float) -> None:
    """Recall at .5 over the frames that show the object, frame 0 included, as was measured of these outputs before."""
    (clip,) = load_clips(real_data, [set_name], [name])
    baseline = find_system(f"published-{tracker}")
    assert baseline.lacking(clip, False) == ""
    with open_video(clip.source) as video:
        results = list(baseline.propagate(clip, video, clip.seeds([0]), Run()))
    pairs = [(result.labels[0], (clip.truth(result.frame) or {})["1"]) for result in results]
    found = [label_iou(label, truth) >= 0.5 for label, truth in pairs if truth is not None]
    assert np.mean(found) == pytest.approx(recall, abs=0.0051)


def test_published_masks_are_read(real_data: Path) -> None:
    """OSVOS on libby: the mean over frames 1 to N-2 that its source note gives, .623, on every frame but the seed."""
    (clip,) = load_clips(real_data, ["davis2016"], ["libby"])
    with open_video(clip.source) as video:
        results = list(find_system("osvos").propagate(clip, video, clip.seeds([0]), Run()))
    scores = [label_iou(result.labels[0], (clip.truth(result.frame) or {})["1"]) for result in results[1:-1]]
    assert np.mean(scores) == pytest.approx(0.623, abs=0.001)
