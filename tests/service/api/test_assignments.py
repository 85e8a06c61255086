"""AssignmentService: two people label the same frames blindly, their agreement, and a third one's choice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from micromodels.client import Client
from micromodels.types import AnyLabel, Box, FrameLabel, Label, Polygon, State
from micromodels.v1 import assignment_pb2 as pb
from service.reports.agreement import agreement, cohen_kappa
from tests.service.api.harness import Running, box, fresh_id, refused


@pytest.fixture
def video(running: Running) -> str:
    return running.video().name


@pytest.fixture
def people(running: Running) -> Iterator[tuple[Client, Client]]:
    """Two annotators."""
    ann, ben = (running.connect(str(running.store.access.issue(name, is_admin=True)[1])) for name in ("ann", "ben"))
    with ann, ben:
        yield ann, ben


def assign(running: Running, video: str, *frames: int) -> pb.Assignment:
    return running.client.assignments.create_assignment(video, frames, ("ann", "ben"))


def write(client: Client, assignment: pb.Assignment, *labels: AnyLabel, submit: bool = False) -> pb.Assignment:
    return client.assignments.write_assigned_labels(assignment.name, labels, submit=submit)


def read(client: Client, assignment: pb.Assignment, annotator: str = "") -> list[AnyLabel]:
    return list(client.assignments.list_assigned_labels(assignment.name, annotator=annotator))


def test_assigning_can_be_repeated(running: Running, video: str) -> None:
    """The same request_id gives the same assignment."""
    wanted = pb.Assignment(frame_indices=[1], annotators=["ann", "ben"])
    request = pb.CreateAssignmentRequest(parent=video, assignment=wanted, request_id=fresh_id())
    made = running.stubs.assignments.CreateAssignment(request)
    assert running.stubs.assignments.CreateAssignment(request) == made
    assert [found.name for found in running.client.assignments.list_assignments(video)] == [made.name]


def test_two_people_and_a_third(running: Running, people: tuple[Client, Client], video: str) -> None:
    """Nobody sees the other's labels before both are done; then agreement, and a choice frame by frame."""
    ann, ben = people
    made = assign(running, video, 3, 7)
    assert made.author == "local"
    write(ann, made, box(3), box(7), FrameLabel(3, "bright", True))
    write(ann, made, box(3, x1=20), submit=True)
    with refused("FAILED_PRECONDITION"):
        read(ben, made, "ann")
    with refused("FAILED_PRECONDITION"):
        ben.assignments.get_agreement(made.name)
    with refused("FAILED_PRECONDITION"):
        write(ann, made, box(3))
    gone = Label(7, "1", "square", State.ABSENT)
    done = write(ben, made, box(3, "a", x1=20), gone, FrameLabel(3, "bright", True), submit=True)
    assert list(done.submitted_annotators) == ["ann", "ben"]
    assert [label.frame for label in read(ben, made, "ann")] == [3, 3, 7]
    figures = running.client.assignments.get_agreement(made.name)
    assert (figures.frame_count, figures.object_count, figures.matched_count) == (2, 2, 2)
    assert figures.mean_iou == pytest.approx(0.5)
    assert figures.state_kappa == pytest.approx(0.0)
    assert not figures.HasField("class_kappa")  # one class only
    assert list(running.client.read_labels(video)) == []
    with refused("INVALID_ARGUMENT"):
        running.client.assignments.adjudicate_assignment(made.name, "eve")
    request = pb.AdjudicateAssignmentRequest(name=made.name, annotator="ann", choices={7: "ben"}, request_id=fresh_id())
    chosen = running.stubs.assignments.AdjudicateAssignment(request)
    assert running.stubs.assignments.AdjudicateAssignment(request) == chosen
    assert chosen.adjudicator == "local"
    found = {(x.frame, x.provenance.version): x for x in running.client.read_labels(video) if isinstance(x, Label)}
    assert set(found) == {(3, "ann"), (7, "ben")}
    assert found[(7, "ben")].state is State.ABSENT
    running.client.review.undo_change(video, chosen.label_revision)
    assert list(running.client.read_labels(video)) == []
    (listed,) = running.client.assignments.list_assignments(video)
    assert running.client.assignments.get_assignment(made.name) == listed


def test_assignments_that_are_refused(running: Running, people: tuple[Client, Client], video: str) -> None:
    """Frames that are not there or not assigned, strangers, and choosing before both are done."""
    with refused("OUT_OF_RANGE", field="assignment.frame_indices"):
        assign(running, video, 99)
    with refused("INVALID_ARGUMENT", field="assignment.frame_indices"):
        assign(running, video, 1, 1)
    made = assign(running, video, 1)
    with refused("INVALID_ARGUMENT", field="labels[0].frame_index"):
        write(people[0], made, box(2))
    with refused("FAILED_PRECONDITION"):
        write(running.client, made, box(1))
    with refused("FAILED_PRECONDITION"):
        running.client.assignments.adjudicate_assignment(made.name, "ann", {1: "ben"})
    with refused("INVALID_ARGUMENT", field="annotator"):
        read(people[0], made, "eve")


def test_kappa_is_that_of_the_textbook() -> None:
    """20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: observed .7, by chance .5, kappa .4."""
    pairs = [("y", "y")] * 20 + [("y", "n")] * 5 + [("n", "y")] * 10 + [("n", "n")] * 15
    assert cohen_kappa(pairs) == pytest.approx(0.4)
    assert cohen_kappa([("y", "n"), ("n", "y")]) == pytest.approx(-1.0)
    assert cohen_kappa([("y", "y")]) is None
    assert cohen_kappa([]) is None


def test_two_who_draw_the_same_in_other_shapes_agree() -> None:
    """A square drawn as a box by one and as a polygon by the other."""
    ours = box(0, "a", x1=10)
    assert isinstance(ours, Label)
    assert isinstance(ours.shape, Box)
    x1, y1, x2, y2 = ours.shape.as_list()
    theirs = replace(ours, shape=Polygon(((x1, y1), (x2, y1), (x2, y2), (x1, y2))))
    assert agreement([ours], [theirs], [0], 96, 128).mean_iou == 1.0


def test_objects_that_neither_draws_are_not_matched() -> None:
    """Two tracks that are absent are not one object: nothing says so."""
    ours, theirs = Label(0, "a", "square", State.ABSENT), Label(0, "b", "square", State.ABSENT)
    assert agreement([ours], [theirs], [0], 96, 128).matched == 0


def test_objects_are_matched_by_overlap() -> None:
    """Tracks of other names are the same object where they overlap; the rest is missing on one side."""
    ours = [box(0, "a"), box(0, "b", x1=80)]
    found = agreement(ours, [box(0, "x", x1=18)], [0], 96, 128)
    assert (found.objects, found.matched) == (2, 1)
    assert found.mean_iou == pytest.approx((30 / 34) / 2)
