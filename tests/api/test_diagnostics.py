"""GetDiagnostics: what people's verdicts say of the labels of a video."""

from __future__ import annotations

import pytest

from micromodels.client import label_key
from micromodels.types import Box, Label, Provenance, ProvenanceKind, State
from tests.api.harness import Running, box, refused

MODEL = Provenance(ProvenanceKind.MODEL, "other tool")


def guess(frame: int, confidence: float, x1: float = 16.0, state: State = State.VISIBLE) -> Label:
    shape = None if state is State.ABSENT else Box(x1, 32, x1 + 32, 64)
    return Label(frame, "1", "square", state, shape, confidence, MODEL)


def test_figures_of_a_video(running: Running) -> None:
    """Counts, verdicts by class and track, confusion, hardest frames, manual share, and a picture."""
    video = running.video().name
    guesses = [guess(0, 0.5), guess(1, 0.75), guess(2, 0.5), guess(3, 1.0), guess(4, 0.25, state=State.ABSENT)]
    running.client.write_labels(video, guesses)
    list(running.client.review.correct_labels(video, [box(0, x1=32), box(4)]))
    running.client.review.review_labels(video, "accept", keys=[label_key(1, track="1")])
    found = running.client.review.get_diagnostics(video, picture=True)
    assert (found.frame_count, found.label_count, found.manual_label_count, found.manual_frame_count) == (24, 5, 2, 2)
    assert (found.manual_share, found.speed_up) == (0.4, 2.5)
    assert found.observed_quality == pytest.approx((1 / 3 + 0 + 1) / 3)
    assert found.expected_wrong_share == pytest.approx((0.25 + 0.5 + 0) / 3)
    assert not found.HasField("estimated_quality")
    assert found.mean_frame_seconds > 0
    (track,) = found.tracks
    assert (track.name, track.accepted_count, track.corrected_count) == ("1", 1, 2)
    assert track.corrected_share == pytest.approx(2 / 3)
    assert track.corrected_mean_iou == pytest.approx(1 / 6)
    assert [group.name for group in found.classes] == ["square"]
    assert {(c.property, c.predicted, c.corrected): c.count for c in found.confusions} == {
        ("state", "visible", "visible"): 1,
        ("state", "absent", "visible"): 1,
        ("class", "square", "square"): 2,
    }
    assert [frame.frame_index for frame in found.hardest_frames] == [4, 0]
    (correction,) = found.corrections
    assert (correction.author, correction.label_count, correction.changed_count) == ("local", 2, 0)
    assert found.picture.startswith(b"\x89PNG")
    assert not found.issues


def test_consistency_checks_and_estimates(running: Running) -> None:
    """With a micro-model its own estimate is told, and on demand what looks wrong."""
    video = running.video().name
    with refused("FAILED_PRECONDITION"):
        running.client.review.get_diagnostics(video, consistency_checks=True)
    list(running.client.auto_label(video, [box(0)]).labels())
    found = running.client.review.get_diagnostics(video, consistency_checks=True)
    assert found.estimated_quality == 0.5
    assert [(i.kind, i.frame_index, i.explanation) for i in found.issues] == [("gap", 6, "gone for one frame")]
