"""One track has one class, whoever writes it by whichever call: what is accepted can be read back and trained on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from micromodels.client import Client, label_key
from micromodels.labels.files import read_labels
from micromodels.types import AnyLabel, Label, Provenance, ProvenanceKind
from micromodels.v1 import label_pb2
from service.domain.history import Act, ChangeKind
from tests.service.api.harness import Running, box, fresh_id, refused

MODEL = Provenance(ProvenanceKind.MODEL, "x")


@pytest.fixture(scope="module")
def shared(running: Running) -> str:
    return running.video().name


@pytest.fixture
def video(running: Running, shared: str) -> str:
    """A video whose track 1 is a square on frame 0."""
    running.client.delete_labels(shared)
    running.client.write_labels(shared, [box(0)])
    return shared


def classes(running: Running, video: str) -> dict[int, str]:
    return {x.frame: x.object_class for x in running.client.read_labels(video) if isinstance(x, Label)}


def write(client: Client, video: str, *labels: AnyLabel) -> None:
    client.write_labels(video, labels)


def seed(client: Client, video: str, *labels: AnyLabel) -> None:
    list(client.auto_label(video, labels))


def correct(client: Client, video: str, *labels: AnyLabel) -> None:
    list(client.review.correct_labels(video, labels))


@pytest.mark.parametrize(("call", "where"), [(write, "labels"), (seed, "seeds")])
def test_a_second_class_is_refused(running: Running, video: str, call: Callable[..., None], where: str) -> None:
    """INVALID_ARGUMENT names the track and both classes; nothing of the batch is written."""
    with refused("INVALID_ARGUMENT", field=f"{where}[1].object.object_class") as errors:
        call(running.client, video, box(1, "2"), box(2, object_class="letter"))
    assert "'letter'" in str(errors[0])
    assert "'square', the class of track '1' on frame 0" in str(errors[0])
    assert classes(running, video) == {0: "square"}


@pytest.mark.parametrize(("call", "where"), [(write, "labels"), (seed, "seeds"), (correct, "labels")])
def test_two_classes_in_one_batch_are_refused(
    running: Running, video: str, call: Callable[..., None], where: str
) -> None:
    """In CorrectLabels too, which may change a track's class, but not to two."""
    with refused("INVALID_ARGUMENT", field=f"{where}[1].object.object_class"):
        call(running.client, video, box(1, "2"), box(2, "2", "letter"))
    assert classes(running, video) == {0: "square"}


def test_a_track_of_predictions_has_one_class(running: Running, video: str) -> None:
    """Predictions count as hand labels do; drawing the only label of a track again may change its class."""
    guess = Label(3, "2", "square", box(3).state, box(3).shape, 0.5, MODEL)
    running.client.write_labels(video, [guess])
    with refused("INVALID_ARGUMENT", field="labels[0].object.object_class"):
        running.client.write_labels(video, [box(4, "2", "letter")])
    running.client.write_labels(video, [box(3, "2", "letter"), box(0, object_class="letter")])
    assert classes(running, video) == {0: "letter", 3: "letter"}


def test_a_correction_gives_the_whole_track_its_class(running: Running, video: str, tmp_path: Path) -> None:
    """Hand labels, predictions and accepted ones, also without a micro-model; accepted ones stay accepted."""
    guesses = [Label(f, "1", "square", box(f).state, box(f).shape, 0.5, MODEL) for f in (1, 2)]
    running.client.write_labels(video, guesses)
    running.client.review.review_labels(video, "accept", keys=[label_key(1, track="1")])
    correct(running.client, video, box(5, object_class="letter"))
    assert classes(running, video) == dict.fromkeys((0, 1, 2, 5), "letter")
    (exported,) = running.client.export(video, tmp_path)
    assert len(read_labels(exported)) == 4
    held = [x for part in stream(running, video) for x in part.labels if x.review.state]
    assert [x.frame_index for x in held] == [1]


def stream(running: Running, video: str) -> list[label_pb2.StreamLabelsResponse]:
    return list(running.stubs.labels.StreamLabels(label_pb2.StreamLabelsRequest(parent=video)))


def test_a_job_follows_a_class_that_changed_meanwhile(running: Running, video: str) -> None:
    """Predictions of a micro-model that was trained before the class of a track changed."""
    ids = (video.split("/")[1], video.split("/")[3])
    running.client.write_labels(video, [box(0, object_class="letter")])
    late = [Label(f, "1", "square", box(f).state, box(f).shape, 0.5, MODEL) for f in (1, 2)]
    running.store.labels.recompute(*ids, late, [], Act("x", ChangeKind.RECOMPUTE))
    assert classes(running, video) == dict.fromkeys((0, 1, 2), "letter")


def test_an_undo_brings_no_second_class_back(running: Running, video: str) -> None:
    """The track was deleted and drawn again with another class."""
    deleted = running.client.review.delete_track(video, "1").label_revision
    running.client.write_labels(video, [box(2, object_class="letter")])
    with refused("FAILED_PRECONDITION") as errors:
        running.client.review.undo_change(video, deleted)
    assert "track '1' would be 'letter' on frame 2 and 'square' on frame 0" in str(errors[0])
    assert classes(running, video) == {2: "letter"}


def test_a_merge_of_two_classes_is_refused(running: Running, video: str) -> None:
    """Naming both."""
    running.client.write_labels(video, [box(2, "2", "letter")])
    with refused("FAILED_PRECONDITION") as errors:
        running.client.review.merge_tracks(video, "1", "2")
    assert "'square'" in str(errors[0])
    assert "'letter'" in str(errors[0])


def test_assigned_labels_and_their_adjudication(running: Running, video: str) -> None:
    """One annotator's labels have one class per track; so do the chosen ones, together with those of the video."""
    names = [f"{fresh_id()}-{name}" for name in ("ann", "ben")]
    ann, ben = (running.connect(str(running.store.access.issue(name, is_admin=True)[1])) for name in names)
    made = running.client.assignments.create_assignment(video, [3, 4], names).name
    with ann, ben:
        ann.assignments.write_assigned_labels(made, [box(3)])
        with refused("INVALID_ARGUMENT", field="labels[0].class") as errors:
            ann.assignments.write_assigned_labels(made, [box(4, object_class="letter")])
        assert "'square', the class of track '1' on frame 3" in str(errors[0])
        ann.assignments.write_assigned_labels(made, [], submit=True)
        ben.assignments.write_assigned_labels(made, [box(4, object_class="letter")], submit=True)
    for choices in ({}, {3: names[0]}):
        with refused("FAILED_PRECONDITION") as errors:
            running.client.assignments.adjudicate_assignment(made, names[1], choices)
        assert "'square'" in str(errors[0])
        assert "'letter' on frame 4" in str(errors[0])
    assert classes(running, video) == {0: "square"}
