"""GetDiagnostics: what people's verdicts say of the labels of a video."""

from __future__ import annotations

import pytest

from micromodels.client import label_key
from micromodels.types import (
    Box,
    FrameClass,
    Label,
    ObjectClass,
    Ontology,
    Provenance,
    ProvenanceKind,
    State,
)
from micromodels.v1 import project_pb2
from tests.service.api.harness import Running, box, refused

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


def test_classes_that_exclude_each_other(running: Running) -> None:
    """A project keeps which class cannot be with which; only other classes of it can be named."""
    square = ObjectClass("square", excludes=("bright", "letter"))
    frames = (FrameClass("bright"), FrameClass("dark", excludes=("bright",)))
    ontology = Ontology((square, ObjectClass("letter")), frames)
    project = running.project(ontology)
    kept = running.client.get_project(project.name)
    assert list(kept.object_classes[0].excludes) == ["bright", "letter"]
    assert [list(one.excludes) for one in kept.frame_classes] == [[], ["bright"]]
    project.object_classes[0].excludes[:] = ["dim"]
    request = project_pb2.UpdateProjectRequest(project=project)
    request.update_mask.paths.append("object_classes")
    with refused("INVALID_ARGUMENT", field="project.object_classes[0].excludes"):
        running.stubs.projects.UpdateProject(request)
    del project.object_classes[:]  # the mask leaves them as they are
    project.frame_classes[1].excludes[:] = ["letter"]
    request = project_pb2.UpdateProjectRequest(project=project)
    request.update_mask.paths.append("frame_classes")
    with refused("INVALID_ARGUMENT", field="project.frame_classes[1].excludes"):
        running.stubs.projects.UpdateProject(request)
    del project.frame_classes[:]
    project.object_classes.extend(kept.object_classes)
    project.object_classes[1].excludes.append("dark")  # a frame class that the message does not hold
    request = project_pb2.UpdateProjectRequest(project=project)
    request.update_mask.paths.append("object_classes")
    assert list(running.stubs.projects.UpdateProject(request).object_classes[1].excludes) == ["dark"]


def test_how_verdicts_develop(running: Running) -> None:
    """A point for every act with verdicts, of all labels, a class and a track; corrections taken back do not count."""
    client = running.client
    video = running.video().name
    list(client.review.correct_labels(video, [box(0)]))  # drawn, not corrected: there is nothing yet
    list(client.auto_label(video, []).labels())
    list(client.review.correct_labels(video, [box(12, x1=32)]))  # overlap with what was predicted: 1/3
    list(client.review.correct_labels(video, [box(20, x1=40)]))  # with the updated one: 24/40
    client.review.review_labels(video, "accept", keys=[label_key(frame, track="1") for frame in (3, 4)])
    first, *_ = client.review.correct_labels(video, [box(8, x1=90)])
    client.review.undo_change(video, first.acknowledged.label_revision)
    found = client.review.get_diagnostics(video)
    (version,) = client.list_micro_model_versions(video.split("/videos")[0] + "/microModels/-")
    points = [(p.accepted_count, p.corrected_count, p.learned_count) for p in found.verdicts]
    assert points == [(0, 1, 0), (0, 1, 1), (2, 0, 2)]
    assert [point.mean_overlap for point in found.verdicts] == pytest.approx([1 / 3, 24 / 40, 1])
    assert {(point.author, point.micro_model_version) for point in found.verdicts} == {("local", version.name)}
    assert [point.revision for point in found.verdicts] == sorted(point.revision for point in found.verdicts)
    assert all(point.judge_time.seconds for point in found.verdicts)
    (track,), (group,) = found.tracks, found.classes
    assert list(track.verdicts) == list(group.verdicts) == list(found.verdicts)
    (of_version,) = found.versions
    assert (of_version.micro_model_version, of_version.estimated_quality) == (version.name, 0.5)
    assert of_version.create_time == version.create_time
    assert (of_version.label_count, of_version.accepted_count, of_version.corrected_count) == (21, 2, 2)
    assert of_version.observed_quality == found.observed_quality == pytest.approx((1 / 3 + 24 / 40 + 2) / 4)
    assert found.correction_count == 2
    assert found.mean_frame_work_seconds > 0


def test_what_each_correction_gained(running: Running) -> None:
    """Labels changed, confidence before and after, and what people drew later says whether it was for the better."""
    client = running.client
    video = running.video().name
    list(client.auto_label(video, [box(0)]).labels())
    list(client.review.correct_labels(video, [box(12, x1=32)]))
    first, *_ = client.review.correct_labels(video, [box(20, x1=40)])
    client.review.undo_change(video, first.acknowledged.label_revision)
    list(client.review.correct_labels(video, [box(16, x1=32)]))
    gained, undone, last = client.review.get_diagnostics(video).corrections
    assert (gained.changed_count, gained.learned_count, gained.undone) == (22, 1, False)
    assert gained.confidence_before == pytest.approx(0.9)
    assert gained.confidence_after == pytest.approx(0.81)
    assert gained.checked_count == 1  # frame 16; what was drawn on frame 20 was taken back
    assert (gained.agreement_before, gained.agreement_after) == pytest.approx((1 / 3, 1))
    assert undone.undone
    assert (undone.checked_count, undone.agreement_before) == (1, 1)
    assert (last.checked_count, last.HasField("agreement_before")) == (0, False)
    assert last.micro_model_version.endswith("/versions/1")
