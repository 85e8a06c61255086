"""The metrics against slow re-derivations, reference tools and cases computed by hand."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from trackeval.datasets import MotChallenge2DBox
from trackeval.metrics import CLEAR, HOTA, Identity, JAndF

from micromodels.errors import InvalidInput
from micromodels.labels.geometry import mask_iou, to_mask
from micromodels.types import Box, Label, Mask, Polygon, State
from scripts.benchmark import metrics


def blob(rng: np.random.Generator, shape: tuple[int, int] = (40, 60)) -> np.ndarray:
    """A random union of discs and single pixels, touching the borders now and then."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    mask = rng.random(shape) < 0.01
    for _ in range(3):
        y, x, radius = rng.uniform(0, shape[0]), rng.uniform(0, shape[1]), rng.uniform(2, 12)
        mask |= (rows - y) ** 2 + (columns - x) ** 2 < radius**2
    return mask


@pytest.mark.parametrize("seed", range(5))
def test_mask_iou_is_that_of_pycocotools(seed: int) -> None:
    """J equals the IoU that the COCO API computes on run lengths."""
    rng = np.random.default_rng(seed)
    a, b = blob(rng), blob(rng)
    encoded = [coco_mask.encode(np.asfortranarray(m.astype(np.uint8))) for m in (a, b)]
    assert mask_iou(a, b) == pytest.approx(coco_mask.iou(encoded[:1], encoded[1:], [0])[0, 0])


def test_two_empty_masks_agree() -> None:
    """DAVIS counts an object that is rightly not there as 1."""
    empty = np.zeros((4, 4), bool)
    assert mask_iou(empty, empty) == 1.0
    assert metrics.boundary_f(empty, empty) == 1.0
    assert mask_iou(empty, ~empty) == 0.0


def slow_boundary(mask: np.ndarray) -> np.ndarray:
    """seg2bmap of davis2017-evaluation, written down pixel by pixel."""
    height, width = mask.shape
    out = np.zeros_like(mask)
    for y in range(height):
        for x in range(width):
            below, right = min(y + 1, height - 1), min(x + 1, width - 1)
            if y == height - 1 and x == width - 1:
                continue
            out[y, x] = len({bool(v) for v in (mask[y, x], mask[below, x], mask[y, right], mask[below, right])}) > 1
    return out


def slow_f(predicted: np.ndarray, truth: np.ndarray) -> float:
    """The boundary measure by comparing every boundary pixel with every other."""
    radius = math.ceil(0.008 * math.hypot(*truth.shape))
    found, real = np.argwhere(slow_boundary(predicted)), np.argwhere(slow_boundary(truth))
    if not len(found) or not len(real):
        return float(len(found) == len(real))
    near = ((found[:, None] - real[None]) ** 2).sum(-1) <= radius**2
    precision, recall = near.any(1).mean(), near.any(0).mean()
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("shape", [(40, 60), (150, 260)])
def test_boundary_f_is_the_davis_definition(seed: int, shape: tuple[int, int]) -> None:
    """Boundary pixels and F agree with a brute force over pairs of pixels."""
    rng = np.random.default_rng(seed)
    truth = blob(rng, shape)
    predicted = np.roll(truth, rng.integers(-3, 4, 2), (0, 1)) if seed % 2 else blob(rng, shape)
    assert (metrics.boundary_map(truth) == slow_boundary(truth)).all()
    assert metrics.boundary_f(predicted, truth) == pytest.approx(slow_f(predicted, truth))


def as_trackeval(mask: np.ndarray) -> dict[str, object]:
    """Run lengths as TrackEval takes them."""
    encoded: dict[str, object] = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return encoded


@pytest.mark.parametrize("shape", [(60, 80), (150, 260)])
def test_j_and_f_are_those_of_trackeval(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """TrackEval carries the code of davis2017-evaluation: means of J and F of a sequence agree.

    Of scikit-image it wants a disk, which is written down here.
    """

    def disk(radius: int) -> np.ndarray:
        rows, columns = np.mgrid[-radius : radius + 1, -radius : radius + 1]
        return (rows**2 + columns**2 <= radius**2).astype(np.uint8)

    morphology = ModuleType("skimage.morphology")
    morphology.disk = disk  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "skimage", ModuleType("skimage"))
    monkeypatch.setitem(sys.modules, "skimage.morphology", morphology)
    rng = np.random.default_rng(3)
    truth = [blob(rng, shape) for _ in range(8)]
    predicted = [np.roll(mask, rng.integers(-4, 5, 2), (0, 1)) for mask in truth[:6]] + [~truth[6], truth[7]]
    data = {
        "num_timesteps": len(truth),
        "num_gt_ids": 1,
        "num_tracker_ids": 1,
        "num_tracker_dets": len(truth),
        "gt_ids": [np.array([0])] * len(truth),
        "tracker_ids": [np.array([0])] * len(truth),
        "gt_dets": [[as_trackeval(mask)] for mask in truth],
        "tracker_dets": [[as_trackeval(mask)] for mask in predicted],
    }
    reference = JAndF({"PRINT_CONFIG": False}).eval_sequence(data)
    pairs = list(zip(predicted, truth, strict=True))
    assert np.mean([mask_iou(*pair) for pair in pairs]) == pytest.approx(reference["J-Mean"])
    assert np.mean([metrics.boundary_f(*pair) for pair in pairs]) == pytest.approx(reference["F-Mean"])


def test_run_lengths_are_those_of_pycocotools() -> None:
    """A label's mask is the same bytes as pycocotools writes, and is read back from them."""
    mask = blob(np.random.default_rng(1))
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    label = Mask.from_array(mask)
    assert (label.counts, [label.height_px, label.width_px]) == (encoded["counts"].decode(), encoded["size"])
    assert (coco_mask.decode(encoded).astype(bool) == label.to_array()).all()


def test_boundary_f_counts_an_empty_side_as_nothing() -> None:
    """Nothing found of something, or something found of nothing, is 0."""
    square = np.zeros((20, 20), bool)
    square[5:10, 5:10] = True
    assert metrics.boundary_f(np.zeros_like(square), square) == 0.0
    assert metrics.boundary_f(square, np.zeros_like(square)) == 0.0


def test_label_iou_compares_in_the_form_of_the_truth() -> None:
    """A predicted mask is boxed for a true box, a predicted box filled for a true mask, no shape scores 0."""
    square = np.zeros((20, 30), bool)
    square[4:8, 10:20] = True
    box = Box(10, 4, 20, 8)
    as_mask = Label(0, "1", "object", State.VISIBLE, Mask.from_array(square))
    as_box = Label(0, "1", "object", State.VISIBLE, box)
    as_polygon = Label(0, "1", "object", State.VISIBLE, Polygon(((10, 4), (20, 4), (20, 8), (10, 8))))
    for label in (as_mask, as_box, as_polygon):
        assert metrics.label_iou(label, box) == 1.0
        assert metrics.label_iou(label, square) == 1.0
    assert metrics.label_iou(Label(0, "1", "object", State.ABSENT), box) == 0.0
    assert metrics.label_iou(None, square) == 0.0


def test_a_box_over_the_border_is_cut_when_filled() -> None:
    """Boxes of mot leave the picture; only what is inside is filled."""
    assert to_mask(Box(-5, -5, 2, 3), 10, 10).sum() == 6


def test_tracking_scores_of_a_perfect_result() -> None:
    """The truth itself has every score 1 and no switch."""
    frames = [{"a": Box(i, 0, i + 10, 10), "b": Box(50, i, 60, i + 10)} for i in range(5)]
    score = metrics.tracking_score(frames, frames)
    assert (score.hota, score.idf1, score.mota, score.id_switches) == (1.0, 1.0, 1.0, 0)


def test_tracking_scores_of_a_swap_by_hand() -> None:
    """One object over four frames whose id changes once, in the middle.

    IDF1: the best single id covers 2 of 4 frames: 2*2 / (2*2 + 2 + 2) = .5. HOTA: every pair has TPA 2, FNA 2, FPA 0:
    AssA = .5, DetA = 1, HOTA = sqrt(.5). MOTA = 1 - 1/4.
    """
    truth = [{"a": Box(0, 0, 10, 10)}] * 4
    predicted = [{"x": Box(0, 0, 10, 10)}] * 2 + [{"y": Box(0, 0, 10, 10)}] * 2
    score = metrics.tracking_score(truth, predicted)
    assert score.idf1 == pytest.approx(0.5)
    assert score.hota == pytest.approx(math.sqrt(0.5))
    assert score.mota == pytest.approx(0.75)
    assert score.id_switches == 1


def test_tracking_scores_of_misses_and_ghosts_by_hand() -> None:
    """Two of four frames found, and one box where nothing is.

    TP 2, FN 2, FP 1; DetA = 2/5; each pair: TPA 2, FNA 2, FPA 0 -> AssA .5; HOTA = sqrt(.2).
    IDF1 = 2*2 / (2*2 + 1 + 2).
    """
    box, far = Box(0, 0, 10, 10), Box(80, 80, 90, 90)
    score = metrics.tracking_score([{"a": box}] * 4, [{"a": box}, {"a": box, "ghost": far}, {}, {}])
    assert score.hota == pytest.approx(math.sqrt(0.2))
    assert score.detection_accuracy == pytest.approx(0.4)
    assert score.idf1 == pytest.approx(4 / 7)


def test_tracking_scores_depend_on_overlap() -> None:
    """Boxes of IoU .6 count at the thresholds up to .6 only: 12 of HOTA's 19."""
    truth, predicted = [{"a": Box(0, 0, 10, 10)}] * 3, [{"a": Box(0, 0, 6, 10)}] * 3
    assert metrics.tracking_score(truth, predicted).hota == pytest.approx(12 / 19, abs=1e-6)


def write_mot(path: Path, frames: list[dict[str, Box]]) -> None:
    """A file of MOTChallenge: frame, id, left, top, width, height, 1, class, visibility; frames and ids from 1."""
    path.parent.mkdir(parents=True)
    with path.open("w") as file:
        for number, frame in enumerate(frames, 1):
            for track, box in frame.items():
                size = f"{box.x2 - box.x1},{box.y2 - box.y1}"
                file.write(f"{number},{int(track) + 1},{box.x1},{box.y1},{size},1,1,1\n")


def test_tracking_scores_are_those_of_trackeval_on_files(tmp_path: Path) -> None:
    """Random walkers with misses, ghosts and swapped ids: TrackEval, reading files of its own format, says the same."""
    rng = np.random.default_rng(5)
    places = rng.uniform(0, 400, (6, 2))
    truth: list[dict[str, Box]] = []
    found: list[dict[str, Box]] = []
    for frame in range(40):
        places += rng.normal(0, 4, places.shape)
        boxes = {str(i): Box(x, y, x + 30, y + 60) for i, (x, y) in enumerate(places.round(2).tolist())}
        truth.append(boxes)
        kept = {track: box for track, box in boxes.items() if rng.random() > 0.2}
        drawn = {}
        for track, box in kept.items():
            dx, dy = rng.normal(0, 5, 2).round(2).tolist()
            swapped = str(1 - int(track)) if frame > 20 and track in "01" else track
            drawn[swapped] = Box(box.x1 + dx, box.y1 + dy, box.x2 + dx, box.y2 + dy)
        if frame % 7 == 0:
            drawn["9"] = Box(500, 500, 530, 560)
        found.append(drawn)
    write_mot(tmp_path / "gt" / "walk" / "gt" / "gt.txt", truth)
    write_mot(tmp_path / "trackers" / "ours" / "data" / "walk.txt", found)
    quiet = {"PRINT_CONFIG": False, "PRINT_RESULTS": False, "OUTPUT_SUMMARY": False, "OUTPUT_DETAILED": False}
    files = MotChallenge2DBox(
        {
            **quiet,
            "GT_FOLDER": str(tmp_path / "gt"),
            "TRACKERS_FOLDER": str(tmp_path / "trackers"),
            "SEQ_INFO": {"walk": len(truth)},
            "SKIP_SPLIT_FOL": True,
            "DO_PREPROC": False,
        }
    )
    data = files.get_preprocessed_seq_data(files.get_raw_seq_data("ours", "walk"), "pedestrian")
    ours = metrics.tracking_score(truth, found)
    assert 0.2 < ours.hota < 0.9
    assert ours.id_switches > 0
    assert ours.hota == pytest.approx(np.mean(HOTA().eval_sequence(data)["HOTA"]))
    assert ours.idf1 == pytest.approx(Identity(quiet).eval_sequence(data)["IDF1"])
    clear = CLEAR(quiet).eval_sequence(data)
    assert (ours.mota, ours.id_switches) == (pytest.approx(clear["MOTA"]), clear["IDSW"])


def test_tracking_scores_of_nothing_found() -> None:
    """No prediction at all is 0, not an error."""
    assert metrics.tracking_score([{"a": Box(0, 0, 1, 1)}], [{}]).hota == 0.0


def test_tracking_refuses_other_lengths() -> None:
    """Truth and prediction must cover the same frames."""
    with pytest.raises(InvalidInput, match="frames"):
        metrics.tracking_score([{}], [])


def test_balanced_accuracy_by_hand() -> None:
    """3 of 4 present and 1 of 2 missing: (.75 + .5) / 2."""
    truth = [True, True, True, True, False, False]
    predicted = [True, True, True, False, False, True]
    assert metrics.balanced_accuracy(truth, predicted) == pytest.approx(0.625)
    assert metrics.f1_score(truth, predicted) == pytest.approx(0.75)
    assert metrics.balanced_accuracy([True, True], [True, False]) == 0.5
    assert metrics.f1_score([False], [False]) == 1.0
    with pytest.raises(InvalidInput):
        metrics.balanced_accuracy([], [])


def test_calibration_by_hand() -> None:
    """Two bins of two: |.5 - .15| and |1 - .85|, halves each; Brier from the four squares."""
    confidence, accepted = [0.9, 0.1, 0.8, 0.2], [True, False, True, True]
    assert metrics.expected_calibration_error(confidence, accepted, bins=2) == pytest.approx(0.25)
    assert metrics.brier_score(confidence, accepted) == pytest.approx((0.01 + 0.01 + 0.04 + 0.64) / 4)


def test_bins_have_equal_mass() -> None:
    """100 labels in 15 bins: 6 or 7 each, in order of confidence, and their shares add up to 1."""
    rng = np.random.default_rng(0)
    confidence = rng.random(100)
    bins = metrics.reliability(list(confidence), list(rng.random(100) < confidence))
    assert len(bins) == 15
    assert {round(b.share * 100) for b in bins} == {6, 7}
    assert sum(b.share for b in bins) == pytest.approx(1)
    assert [b.confidence for b in bins] == sorted(b.confidence for b in bins)


def test_honest_confidence_is_calibrated() -> None:
    """Labels that are right as often as they say have nearly no error; always sure and half wrong has .5."""
    rng = np.random.default_rng(0)
    confidence = rng.random(20_000)
    assert metrics.expected_calibration_error(list(confidence), list(rng.random(20_000) < confidence)) < 0.02
    assert metrics.expected_calibration_error([1.0] * 4, [True, False] * 2, bins=1) == pytest.approx(0.5)


def test_risk_coverage_by_hand() -> None:
    """The surest is right, the second wrong, the last two tie with one wrong between them."""
    curve = metrics.risk_coverage([0.9, 0.2, 0.7, 0.2], [True, True, False, False])
    assert curve == [(0.25, 0.0), (0.5, 0.5), (0.75, 0.5), (1.0, 0.5)]
    with pytest.raises(InvalidInput):
        metrics.risk_coverage([], [])
