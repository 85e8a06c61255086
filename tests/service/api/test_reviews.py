"""ReviewService, TrackService and HistoryService: judgments, repairs of tracks, and taking things back."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from micromodels.client import Client, label_key
from micromodels.types import Box, FrameLabel, Label, ObjectClass, Ontology, Provenance, ProvenanceKind, State
from micromodels.v1 import correction_pb2, history_pb2, label_pb2, review_pb2, track_pb2
from service.cli.app import app
from tests.service.api.harness import Running, box, fresh_id, refused

MODEL = Provenance(ProvenanceKind.MODEL, "other tool")


@pytest.fixture
def video(running: Running) -> str:
    """A video without labels and without a past."""
    return running.video().name


@pytest.fixture
def eve(running: Running) -> Iterator[Client]:
    """Somebody else."""
    token = str(running.store.access.issue("eve", is_admin=True)[1])
    with running.connect(token) as client:
        yield client


def guess(frame: int, track: str = "1", confidence: float = 0.75, x1: float = 0.0) -> Label:
    """A prediction."""
    return Label(frame, track, "square", State.VISIBLE, Box(x1, 0, x1 + 8, 8), confidence, MODEL)


def labels(running: Running, video: str) -> dict[tuple[int, str], Label]:
    return {(x.frame, x.track): x for x in running.client.read_labels(video) if isinstance(x, Label)}


def messages(running: Running, video: str) -> list[label_pb2.Label]:
    stream = running.stubs.labels.StreamLabels(label_pb2.StreamLabelsRequest(parent=video))
    return [label for batch in stream for label in batch.labels]


def test_reviews_are_seen_and_hold_models_off(running: Running, video: str, eve: Client) -> None:
    """ReviewLabels: what is accepted or locked is not replaced by predictions; who accepted it is there to read."""
    running.client.write_labels(video, [guess(0), guess(1), guess(2), guess(3)])
    eve.review.review_labels(video, "accept", keys=[label_key(0, track="1")])
    running.client.review.review_labels(video, "lock", selection=label_pb2.LabelSelection(start_frame=1, stop_frame=2))
    running.client.review.review_labels(video, "reject", keys=[label_key(2, track="1")])
    accepted, locked, rejected, plain = messages(running, video)
    assert (accepted.review.state, accepted.review.reviewer) == (label_pb2.REVIEW_STATE_ACCEPTED, "eve")
    assert accepted.review.review_time.seconds >= accepted.write_time.seconds > 0
    assert locked.review.locked
    assert not locked.review.state
    assert rejected.review.state == label_pb2.REVIEW_STATE_REJECTED
    assert not plain.HasField("review")
    batch = messages(running, video)
    for label in batch:
        label.object.box.x2 += 1
    answer = running.stubs.labels.WriteLabels(label_pb2.WriteLabelsRequest(parent=video, labels=batch))
    assert [key.frame_index for key in answer.kept_anchors] == [0, 1]
    assert [label.object.box.x2 for label in messages(running, video)] == [8, 8, 9, 9]


def test_people_override_reviews_by_editing(running: Running, video: str) -> None:
    """A human write replaces an accepted label, whose judgment stays with the old version; a lock stays."""
    running.client.write_labels(video, [guess(0)])
    running.client.review.review_labels(video, "accept")
    running.client.review.review_labels(video, "lock")
    running.client.write_labels(video, [box(0)])
    (label,) = messages(running, video)
    assert label.review.locked
    assert not label.review.state
    old, new = running.client.review.list_label_history(video, label_key(0, track="1"))
    assert [event.action for event in old.reviews] == [
        history_pb2.REVIEW_ACTION_ACCEPT,
        history_pb2.REVIEW_ACTION_LOCK,
    ]
    assert not new.reviews
    assert new.author == "local"
    running.client.review.review_labels(video, "unlock")
    running.client.review.review_labels(video, "reset")
    assert not messages(running, video)[0].HasField("review")


def test_accepting_above_a_confidence(running: Running, video: str) -> None:
    """AcceptLabels says what share it expects to be wrong, first without doing it; judged labels are left alone."""
    confidences = [0.5, 0.75, 0.875, 0.625]
    running.client.write_labels(video, [guess(i, confidence=c) for i, c in enumerate(confidences)] + [box(9)])
    running.client.review.review_labels(video, "reject", keys=[label_key(2, track="1")])
    before = running.client.get_video(video).label_revision
    would = running.client.review.accept_labels(video, 0.6, validate_only=True)
    assert (would.accepted_count, would.expected_wrong_share) == (2, pytest.approx((0.25 + 0.375) / 2))
    assert would.label_revision == before == running.client.get_video(video).label_revision
    done = running.client.review.accept_labels(video, 0.6)
    assert (done.accepted_count, done.label_revision) == (2, before + 1)
    states = [label.review.state for label in messages(running, video)]
    accepted, rejected = label_pb2.REVIEW_STATE_ACCEPTED, label_pb2.REVIEW_STATE_REJECTED
    assert states == [0, accepted, rejected, accepted, 0]
    nothing = running.client.review.accept_labels(video, 0.6)
    assert nothing.accepted_count == 0
    assert not nothing.HasField("expected_wrong_share")
    running.client.review.undo_change(video, done.label_revision)
    assert [label.review.state for label in messages(running, video)] == [0, 0, rejected, 0, 0]


def test_reviews_that_are_refused(running: Running, video: str) -> None:
    """Newer labels than the reviewer saw, no selection, no action, a confidence of 2, too long a comment."""
    running.client.write_labels(video, [guess(0)])
    seen = running.client.get_video(video).label_revision
    running.client.write_labels(video, [guess(0, x1=4)])
    with refused("ABORTED", "REVISION_CONFLICT") as errors:
        running.client.review.review_labels(video, "accept", base_revision=seen)
    assert "frame 0" in errors[0].metadata["conflicts"]
    with refused("INVALID_ARGUMENT", field="selection"):
        running.stubs.reviews.ReviewLabels(
            review_pb2.ReviewLabelsRequest(parent=video, action=history_pb2.REVIEW_ACTION_LOCK)
        )
    with refused("INVALID_ARGUMENT", field="action"):
        running.stubs.reviews.ReviewLabels(
            review_pb2.ReviewLabelsRequest(parent=video, selection=label_pb2.LabelSelection())
        )
    with refused("INVALID_ARGUMENT", field="min_confidence"):
        running.client.review.accept_labels(video, 2.0)
    with refused("INVALID_ARGUMENT", field="comment"):
        running.client.review.review_labels(video, "accept", comment="x" * 5000)
    with pytest.raises(ValueError, match="allowed: accept"):
        running.client.review.review_labels(video, "praise")


def test_comments(running: Running, eve: Client, video: str) -> None:
    """CreateComment, ListComments, DeleteComment: on frames or on a track, by whom and when."""
    made = eve.review.create_comment(video, "is this\na polyp?", frames=range(3, 5), track="1")
    running.client.review.create_comment(video, "blurred", frames=range(0, 1))
    found = list(running.client.review.list_comments(video))
    assert [(c.text, c.author, c.start_frame, c.stop_frame, c.track) for c in found] == [
        ("is this\na polyp?", "eve", 3, 5, "1"),
        ("blurred", "local", 0, 1, ""),
    ]
    running.client.review.delete_comment(made.name)
    assert [c.text for c in running.client.review.list_comments(video)] == ["blurred"]
    with refused("NOT_FOUND"):
        running.client.review.delete_comment(made.name)
    with refused("OUT_OF_RANGE", field="comment.start_frame"):
        running.client.review.create_comment(video, "x", frames=range(3, 99))
    with refused("INVALID_ARGUMENT", field="comment.text"):
        running.client.review.create_comment(video, " ", frames=range(1))


def test_tracks_are_swapped(running: Running, video: str) -> None:
    """SwapTracks: labels stay what they are under the other name, anchors stay anchors, and an undo restores all."""
    first = [box(0, "a"), guess(1, "a"), box(2, "a", x1=20), guess(3, "a", x1=5)]
    running.client.write_labels(video, [*first, guess(1, "b", x1=50), guess(2, "b", x1=52)])
    before = labels(running, video)
    done = running.client.review.swap_tracks(video, "a", "b", frames=range(2, 24))
    after = labels(running, video)
    assert after[(0, "a")] == before[(0, "a")]
    assert after[(2, "b")].shape == before[(2, "a")].shape
    assert after[(2, "b")].is_anchor
    assert after[(2, "a")].shape == before[(2, "b")].shape
    assert (3, "a") not in after
    assert after[(3, "b")].confidence == 0.75
    version = list(running.client.review.list_label_history(video, label_key(2, track="b")))[-1]
    assert version.kind == history_pb2.CHANGE_KIND_SWAP
    assert (version.origin_key.track, version.origin_key.frame_index) == ("a", 2)
    undone = running.client.review.undo_change(video, done.label_revision)
    assert labels(running, video) == before
    running.client.review.undo_change(video, undone.label_revision)
    assert labels(running, video) == after
    with refused("NOT_FOUND"):
        running.client.review.swap_tracks(video, "a", "nobody")
    with refused("INVALID_ARGUMENT", field="track_b"):
        running.client.review.swap_tracks(video, "a", "a")
    with refused("OUT_OF_RANGE"):
        running.client.review.swap_tracks(video, "a", "b", frames=range(2, 99))


def test_a_swap_keeps_to_the_most_instances(running: Running) -> None:
    """An object that would come to be the second of a class that allows one is refused."""
    ontology = Ontology((ObjectClass("square", max_instances=1), ObjectClass("letter")))
    video = running.video(running.project(ontology).name).name
    shape = Box(1, 1, 9, 9)
    written = [box(0, "a"), Label(0, "b", "letter", State.VISIBLE, shape), Label(0, "c", "square", State.ABSENT)]
    running.client.write_labels(video, written)
    running.client.review.swap_tracks(video, "a", "b")
    assert {x.track: x.object_class for x in running.client.read_labels(video) if isinstance(x, Label)} == {
        "a": "square",
        "b": "letter",
        "c": "square",
    }
    with refused("FAILED_PRECONDITION") as errors:
        running.client.review.swap_tracks(video, "b", "c")
    assert "max_instances is 1" in str(errors[0])


def test_nobody_draws_more_than_the_most_instances(running: Running) -> None:
    """Written, corrected or as a seed: a second hand label of a class that allows one is refused; nothing is stored."""
    ontology = Ontology((ObjectClass("square", max_instances=1), ObjectClass("letter")))
    video = running.video(running.project(ontology).name).name
    running.client.write_labels(video, [guess(0, "a"), guess(0, "b"), guess(3, "a")])  # models are not refused
    revision = running.client.write_labels(video, [box(0, "c"), box(0, "d", "letter")])  # nor drawing beside them
    for attempt in (
        lambda: running.client.write_labels(video, [box(5, "x"), box(0, "a")]),
        lambda: running.client.write_labels(video, [box(7, "x"), box(7, "y")]),
        lambda: list(running.client.review.correct_labels(video, [box(0, "a")])),
        lambda: list(running.client.auto_label(video, [box(0, "a")])),
    ):
        with refused("FAILED_PRECONDITION") as errors:
            attempt()
        assert "2 of 'square' drawn by hand; its max_instances is 1" in str(errors[0])
    assert running.client.get_video(video).label_revision == revision
    gone = Label(0, "a", "square", State.ABSENT)
    running.client.write_labels(video, [box(0, "c", x1=50), gone])  # one is there, and stays one
    list(running.client.review.correct_labels(video, [box(0, "a")], deletions=[label_key(0, track="c")]))


def test_operations_warn_of_too_many(running: Running) -> None:
    """A micro-model that labels more than a class allows is not refused: the operation tells on how many frames."""
    ontology = Ontology((ObjectClass("square", max_instances=1),))
    video = running.video(running.project(ontology).name).name
    running.client.write_labels(video, [guess(frame, "other", x1=60) for frame in range(5, 9)])
    run = running.client.auto_label(video, [box(0)])
    assert list(run.labels())
    assert run.operation is not None
    (warning,) = [text for text in run.operation.metadata().warnings if "max_instances" in text]
    assert warning.startswith("4 frames have more of 'square'")


def test_tracks_are_split_and_merged(running: Running, video: str) -> None:
    """SplitTrack and MergeTracks are each other's opposite; a model does not draw again what left a track."""
    running.client.write_labels(video, [box(0, "a"), guess(1, "a"), guess(2, "a"), box(3, "a")])
    before = labels(running, video)
    running.client.review.split_track(video, "a", "b", frames=range(2, 24))
    assert {(x.frame, x.track) for x in labels(running, video).values()} == {(0, "a"), (1, "a"), (2, "b"), (3, "b")}
    running.client.write_labels(video, [guess(2, "a")])
    assert (2, "a") not in labels(running, video)
    with refused("ALREADY_EXISTS"):
        running.client.review.split_track(video, "a", "b", frames=range(1, 24))
    running.client.review.merge_tracks(video, "a", "b")
    assert labels(running, video) == before
    running.client.write_labels(video, [box(0, "c")])
    with refused("FAILED_PRECONDITION") as errors:
        running.client.review.merge_tracks(video, "a", "c")
    assert "frames 0" in str(errors[0])


def test_the_better_label_survives_a_merge(running: Running, video: str) -> None:
    """On frames that both have: human before prediction, present before absent, then the surer one."""
    gone = Label(1, "a", "square", State.ABSENT, None, 0.99, MODEL)
    running.client.write_labels(video, [guess(0, "a", 0.9), gone, guess(2, "a", 0.5), guess(3, "a", 0.9)])
    others = [box(0, "b"), guess(1, "b", 0.2), guess(2, "b", 0.75), guess(3, "b", 0.25)]
    running.client.write_labels(video, others)
    running.client.review.merge_tracks(video, "a", "b")
    found = labels(running, video)
    assert [(key, label.is_anchor, label.confidence) for key, label in sorted(found.items())] == [
        ((0, "a"), True, None),
        ((1, "a"), False, 0.2),
        ((2, "a"), False, 0.75),
        ((3, "a"), False, 0.9),
    ]


def test_a_track_is_deleted_from_here_on(running: Running, video: str) -> None:
    """DeleteTrack: nothing is left from the frame on, models do not draw it again, people may; stale bases abort."""
    running.client.write_labels(video, [box(frame, "a") for frame in range(4)])
    seen = running.client.get_video(video).label_revision
    running.client.write_labels(video, [box(3, "a", x1=40)])
    with refused("ABORTED", "REVISION_CONFLICT"):
        running.client.review.delete_track(video, "a", frames=range(2, 24), base_revision=seen)
    running.client.review.delete_track(video, "a", frames=range(2, 24))
    assert {frame for frame, _ in labels(running, video)} == {0, 1}
    running.client.write_labels(video, [guess(2, "a"), box(3, "a")])
    assert {frame for frame, _ in labels(running, video)} == {0, 1, 3}


def test_changes_and_undo(running: Running, video: str, eve: Client) -> None:
    """ListChanges tells who did what, newest first, by pages; UndoChange restores what was before, once."""
    first = running.client.write_labels(video, [box(0), FrameLabel(0, "bright", True)])
    second = eve.write_labels(video, [box(0, x1=40), box(1)])
    request = history_pb2.ListChangesRequest(parent=video, page_size=1)
    newest = running.stubs.history.ListChanges(request)
    assert [(c.revision, c.author, c.kind, c.label_count) for c in newest.changes] == [
        (second, "eve", history_pb2.CHANGE_KIND_WRITE, 2)
    ]
    request.page_token = newest.next_page_token
    assert [c.revision for c in running.stubs.history.ListChanges(request).changes] == [first]
    with refused("ABORTED", "REVISION_CONFLICT"):
        running.client.review.undo_change(video, first)
    undone = eve.review.undo_change(video, second)
    assert undone.change.undoes_revision == second
    assert labels(running, video) == {(0, "1"): box(0)}
    with refused("FAILED_PRECONDITION"):
        eve.review.undo_change(video, second)
    running.client.review.undo_change(video, first)
    assert labels(running, video) == {}
    with refused("NOT_FOUND"):
        running.client.review.undo_change(video, 10**6)


def test_only_admins_undo_what_others_did(running: Running, video: str) -> None:
    """An annotator takes back changes of his own; an admin of the project those of others, under his own name."""
    project = video.split("/videos")[0]
    people = []
    for name, role in (("tom", "annotator"), ("ula", "annotator"), ("ada", "admin")):
        people.append(running.connect(str(running.store.access.issue(name)[1])))
        running.client.access.set_member(project, name, role)
    tom, ula, ada = people
    with tom, ula, ada:
        revision = tom.write_labels(video, [box(0)])
        with refused("PERMISSION_DENIED") as errors:
            ula.review.undo_change(video, revision)
        assert "required: admin" in str(errors[0])
        undone = ada.review.undo_change(video, revision).change
        assert (undone.author, undone.undoes_revision) == ("ada", revision)
        assert labels(running, video) == {}
        entries = list(running.client.access.list_audit_entries(project))
        (row,) = [entry for entry in entries if entry.method.endswith("UndoChange") and entry.label_revision]
        assert row.user == "ada"
        assert (row.detail["undoes"], row.detail["made_by_others"]) == (revision, True)
        own = ula.write_labels(video, [box(1)])
        assert ula.review.undo_change(video, own).change.author == "ula"


def test_the_history_of_a_label(running: Running, video: str, eve: Client) -> None:
    """ListLabelHistory: every version with its author and kind, deletions included, by pages."""
    key = label_key(7, frame_class="bright")
    running.client.write_labels(video, [FrameLabel(7, "bright", True)])
    eve.write_labels(video, [FrameLabel(7, "bright", False)])
    running.client.delete_labels(video)
    versions = list(running.client.review.list_label_history(video, key))
    assert [(v.author, v.HasField("label")) for v in versions] == [("local", True), ("eve", True), ("local", False)]
    assert not versions[1].label.frame_class.present
    page = running.stubs.history.ListLabelHistory(
        history_pb2.ListLabelHistoryRequest(parent=video, key=key, page_size=1)
    )
    assert len(page.versions) == 1
    assert page.next_page_token


def test_calls_can_be_repeated(running: Running, video: str) -> None:
    """The same request_id does it once; with another body it is refused."""
    running.client.write_labels(video, [box(0, "a"), box(0, "b", x1=60)])
    request = track_pb2.SwapTracksRequest(parent=video, track_a="a", track_b="b", request_id=fresh_id())
    done = running.stubs.tracks.SwapTracks(request)
    assert running.stubs.tracks.SwapTracks(request) == done
    request.start_frame = 1
    with refused("ALREADY_EXISTS", "REQUEST_ID_REUSED"):
        running.stubs.tracks.SwapTracks(request)


def test_a_correction_without_a_micro_model(running: Running, video: str) -> None:
    """CorrectLabels stores what a person says and ends with a summary where nothing can be computed."""
    messages = list(running.client.review.correct_labels(video, [box(3)]))
    assert [m.WhichOneof("event") for m in messages] == ["acknowledged", "summary"]
    assert messages[0].acknowledged.written_count == 1
    assert labels(running, video) == {(3, "1"): box(3)}
    request = correction_pb2.CorrectLabelsRequest(parent=video, base_revision=0)
    request.labels.add(frame_index=3).object.CopyFrom(messages_object(running, video))
    with refused("ABORTED", "REVISION_CONFLICT"):
        list(running.stubs.corrections.CorrectLabels(request))


def messages_object(running: Running, video: str) -> label_pb2.ObjectLabel:
    return messages(running, video)[0].object


def test_suggestions_need_a_micro_model(running: Running, video: str) -> None:
    """SuggestFrames, ListSuspectedSwaps and ListSceneCuts say what is missing."""
    for call, request in (
        (running.stubs.corrections.SuggestFrames, correction_pb2.SuggestFramesRequest(parent=video)),
        (running.stubs.corrections.ListSuspectedSwaps, correction_pb2.ListSuspectedSwapsRequest(parent=video)),
        (running.stubs.corrections.ListSceneCuts, correction_pb2.ListSceneCutsRequest(parent=video)),
    ):
        with refused("FAILED_PRECONDITION"):
            call(request)


def test_the_review_report(running: Running, video: str, eve: Client, tmp_path: Path) -> None:
    """From export alone: who drew, corrected and accepted each label, when, and with which micro-model."""
    running.client.write_labels(video, [box(0)])
    list(running.client.auto_label(video, []).labels())
    eve.write_labels(video, [box(5, x1=40)])
    eve.review.review_labels(video, "accept", keys=[label_key(7, track="1")])
    running.client.review.create_comment(video, "blurred", frames=range(0, 1))
    (path,) = running.client.export(video, tmp_path, file_format="review_report")
    entries = [next(iter(json.loads(line).items())) for line in path.read_text().splitlines()]
    by_frame = {entry["frame"]: entry for kind, entry in entries if kind == "label"}
    assert len(by_frame) == 24
    assert (by_frame[0]["state"], by_frame[0]["drawn_by"]) == ("human", ["local"])
    assert (by_frame[5]["state"], by_frame[5]["corrected_by"]) == ("human", ["eve"])
    first, second = by_frame[5]["history"]
    assert first["kind"] == "propagate"
    (model,) = [entry for kind, entry in entries if kind == "micro_model"]
    assert first["micro_model"] == model["name"]
    assert model["known"]
    assert second["author"] == "eve"
    assert second["time"] > first["time"]
    assert second["replaced"] == {"micro_model": model["name"], "overlap": round(8 / 56, 4)}
    assert (by_frame[7]["review"], by_frame[7]["accepted_by"]) == ("accepted", ["eve"])
    assert [entry["kind"] for kind, entry in entries if kind == "change"] == ["write", "propagate", "write", "review"]
    assert [entry["text"] for kind, entry in entries if kind == "comment"] == ["blurred"]
    assert entries[-1] == ("summary", {"human": 2, "accepted": 1, "corrected": 1, "predicted": 22})
    check_reading(path, tmp_path, model["name"])


def forged(line: str) -> str:
    """A label under another name; the list of changes still has the right one."""
    return line.replace('"author": "eve"', '"author": "ann"') if line.startswith('{"label"') else line


def check_reading(path: Path, folder: Path, model: str) -> None:
    """`micromodels report` needs nothing but the file, and notices what was cut out or changed."""
    answer = CliRunner().invoke(app, ["report", str(path), "--table", str(folder / "labels.csv")])
    assert answer.exit_code == 0, answer.output
    assert "2 human, 22 predicted" in answer.output
    said = answer.output.rpartition("overlap of")[2]
    assert "0.143" in said, "overlap of the corrected one"
    assert "0.571" in said, "mean with the accepted one"
    with (folder / "labels.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["frame"] for row in rows] == [str(frame) for frame in range(24)]
    assert (rows[5]["drawn_by"], rows[5]["corrected_by"], rows[5]["predicted_by"]) == ("eve", "eve", model)
    assert (rows[7]["accepted_by"], rows[7]["review"], rows[7]["predicted_by"]) == ("eve", "accepted", model)
    assert (rows[0]["drawn_by"], rows[0]["predicted_by"], rows[0]["value"]) == ("local", "", "visible")
    whole = path.read_text().splitlines()
    for change, words in (
        (lambda lines: lines[:-1], "cut off"),
        (lambda lines: [line for line in lines if '"frame": 9,' not in line], "21 labels are predicted"),
        (lambda lines: [forged(line) for line in lines], "not by 'ann'"),
        (lambda lines: lines[:1] + lines[2:], "are missing"),
    ):
        path.write_text("\n".join(change(whole)) + "\n")
        answer = CliRunner().invoke(app, ["report", str(path)])
        assert answer.exit_code == 5, answer.output
        assert words in " ".join(answer.output.split())
    path.write_text("{}\n")
    assert CliRunner().invoke(app, ["report", str(path)]).exit_code == 2
