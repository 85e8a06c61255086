"""What is learned stays, and a micro-model retrained takes over only where it does better."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from micromodels.client import ApiError, Client, label_key
from micromodels.types import Label, ObjectClass, Ontology
from micromodels.v1 import correction_pb2, history_pb2, label_pb2, labeling_pb2, project_pb2
from service.domain.errors import NotFound
from tests.service.api.harness import Running, box, refused


def labeled(client: Client, clip: Path, *seeds: Label) -> str:
    """A video with a micro-model and labels on every frame."""
    project = client.create_project("Test", Ontology((ObjectClass("square"),)))
    video = client.register_video(project.name, str(clip), timeout_seconds=60).name
    assert list(client.auto_label(video, seeds).labels())
    return video


def raw(client: Client, video: str) -> dict[tuple[int, str], bytes]:
    """Every label as it comes over the wire."""
    stream = client.stubs.labels.StreamLabels(label_pb2.StreamLabelsRequest(parent=video))
    return {
        (x.frame_index, x.object.track): x.SerializeToString(deterministic=True) for part in stream for x in part.labels
    }


def correct(client: Client, video: str, *labels: Label) -> correction_pb2.CorrectionSummary:
    return list(client.review.correct_labels(video, labels))[-1].summary


def versions(client: Client, video: str) -> list[str]:
    return [model.name for model in client.list_micro_model_versions(video.split("/videos")[0] + "/microModels/-")]


@pytest.fixture
def video(running: Running) -> str:
    """Labels of track 1 on 24 frames, corrected on 6, 12 and 18."""
    made = labeled(running.client, running.clip, box(0))
    for frame in (6, 12, 18):
        correct(running.client, made, box(frame, x1=frame))
    return made


def eventually(condition: Callable[[], object]) -> bool:
    """Whether it comes true within a generous time."""
    pause = threading.Event()
    return any(condition() or pause.wait(0.05) for _ in range(2400))


def sessions() -> set[int]:
    """The processes of sessions: what they say of themselves lies in a folder that is named so."""
    found = set()
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has ended meanwhile
            found |= {child.pid for file in child.open_files() if Path(file.path).parent.name.startswith("session-")}
    return found


# What is learned stays.


def test_what_was_learned_survives_the_server(running: Running, tmp_path: Path) -> None:
    """After kill -9 of the server the next correction goes on from the head that had learned from the one before."""
    command = [sys.executable, "-m", "tests.service.api.victim", str(tmp_path), str(running.clip)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as victim:
        try:
            assert victim.stdout is not None
            with Client(victim.stdout.readline().strip(), timeout_seconds=60) as client:
                video = labeled(client, running.clip, box(0))
                assert correct(client, video, box(6, x1=60)).learned_count == 1
                assert correct(client, video, box(12, x1=30)).learned_count == 2
                before = raw(client, video)
        finally:
            victim.send_signal(signal.SIGKILL)
    again = Running(tmp_path, running.clip)
    try:
        assert raw(again.client, video) == before
        _, project_id, _, video_id = video.split("/")
        version = again.store.models.of_video(project_id, video_id)
        assert version is not None
        states = again.store.adapted_models.of(project_id, video_id, version.provenance_version)
        assert [state.number for state in states] == [1, 2]
        assert correct(again.client, video, box(18, x1=10)).learned_count == 3
        updated = {x.frame: x.confidence for x in again.client.read_labels(video) if isinstance(x, Label)}
        assert updated[17] == pytest.approx(0.83)  # of a head that has learned from three corrections
        changes = [c for c in again.client.review.list_changes(video) if c.kind == history_pb2.CHANGE_KIND_CORRECT]
        assert [change.learned_count for change in changes] == [3, 2, 1]
    finally:
        again.stop()


def test_what_was_learned_goes_with_its_video_and_its_version(running: Running, video: str) -> None:
    """Deleting a micro-model version, or the video, leaves nothing of what it has learned."""
    _, project_id, _, video_id = video.split("/")
    (name,) = versions(running.client, video)
    model = running.store.models.of_video(project_id, video_id)
    assert model is not None
    files = [
        file
        for s in running.store.adapted_models.of(project_id, video_id, model.provenance_version)
        for file in s.files
    ]
    assert len(files) == 6
    running.client.delete_micro_model_version(name)
    assert running.store.adapted_models.of(project_id, video_id, model.provenance_version) == []
    other = labeled(running.client, running.clip, box(0))
    correct(running.client, other, box(7))
    _, project_id, _, video_id = other.split("/")
    model = running.store.models.of_video(project_id, video_id)
    assert model is not None
    (state,) = running.store.adapted_models.of(project_id, video_id, model.provenance_version)
    (own,) = (file.sha256 for file in state.files if file.name == "manifest.json")
    assert running.store.blobs.path(own).read_text() == "[7]"
    running.client.delete_video(other)
    with pytest.raises(NotFound):
        running.store.blobs.path(own)


# Retraining.


def test_a_better_model_takes_over(running: Running, video: str) -> None:
    """A new version with lineage and scores relabels the video; hand, accepted and locked labels stay byte for byte."""
    running.client.review.review_labels(video, "accept", keys=[label_key(9, track="1")])
    running.client.review.review_labels(video, "lock", keys=[label_key(10, track="1")])
    before = raw(running.client, video)
    operation = running.client.retrain(video)
    steps = [progress.training.step for progress in operation.watch() if progress.HasField("training")]
    result = operation.result(60)
    first, second = versions(running.client, video)
    assert steps[-1] == 4
    assert result.replaced
    assert (result.micro_model_version, result.compared_version) == (second, first)
    assert (result.score_before, result.score_after, list(result.unseen_frames)) == (0.5, 0.75, [12, 18])
    assert result.changed_frame_count == 24 - 6
    model = running.client.get_micro_model_version(second)
    assert model.parent_version == first
    assert (model.metrics["unseen_score_before"], model.metrics["unseen_score"]) == (0.5, 0.75)
    assert operation.metadata().kind == labeling_pb2.OPERATION_KIND_RETRAIN
    after = raw(running.client, video)
    kept = {(frame, "1") for frame in (0, 6, 9, 10, 12, 18)}
    assert {key: after[key] for key in kept} == {key: before[key] for key in kept}
    labels = {x.frame: x for x in running.client.read_labels(video) if isinstance(x, Label)}
    rest = [label for frame, label in labels.items() if (frame, "1") not in kept]
    assert {label.confidence for label in rest} == {0.99}
    assert {label.provenance.version for label in rest} == {second}
    summary = correct(running.client, video, box(3, x1=5))
    assert (summary.micro_model_version, summary.learned_count) == (second, 1)


def test_a_session_gets_ready_for_the_model_that_took_over(running: Running) -> None:
    """Nobody asks for anything: the session's process gives way to one with the new model, which answers next."""
    others = sessions()
    made = labeled(running.client, running.clip, box(0))
    for frame in (6, 12, 18):
        correct(running.client, made, box(frame, x1=frame))
    (old,) = sessions() - others
    assert running.client.retrain(made).result(60).replaced
    assert eventually(lambda: sessions() - others - {old})
    (ready,) = sessions() - others
    assert correct(running.client, made, box(3, x1=5)).learned_count == 1
    assert sessions() - others == {ready}


def test_a_worse_model_changes_nothing(running: Running) -> None:
    """The operation ends well and tells the scores; there is no new version and no changed label."""
    video = labeled(running.client, running.clip, box(0, "worse"))
    correct(running.client, video, box(6, "worse", x1=60), box(12, "worse", x1=70))
    before = raw(running.client, video)
    result = running.client.retrain(video).result(60)
    assert (result.replaced, result.micro_model_version) == (False, "")
    assert (result.score_before, result.score_after) == (0.5, 0.25)
    assert raw(running.client, video) == before
    assert len(versions(running.client, video)) == 1


def training(running: Running, operation: str) -> bool:
    """Whether an operation has begun to train."""
    _, project_id, _, job_id = operation.split("/")
    return "training" in running.store.jobs.get(project_id, job_id).progress


def test_retraining_is_cancelled(running: Running) -> None:
    """Whoever cancels keeps version and labels as they were; stopping early goes on with what is there."""
    video = labeled(running.client, running.clip, box(0, "long"))
    correct(running.client, video, box(6, "long", x1=60), box(12, "long", x1=70))
    before = raw(running.client, video)
    operation = running.client.retrain(video)
    assert eventually(lambda: training(running, operation.name))
    operation.cancel()
    with refused("CANCELLED"):
        operation.result(60)
    assert raw(running.client, video) == before
    assert len(versions(running.client, video)) == 1
    operation = running.client.retrain(video)
    assert eventually(lambda: training(running, operation.name))
    operation.stop_early()
    assert operation.result(60).replaced


def test_retraining_outlives_the_server_and_leaves_what_came_meanwhile(tmp_path: Path, tiny_clip: Path) -> None:
    """A server that stops gives it back, the next one does it; what a correction computes meanwhile stays."""
    running = Running(tmp_path, tiny_clip / "video.mp4")
    try:
        video = labeled(running.client, running.clip, box(0, "long"), box(0, "other"))
        correct(running.client, video, box(6, "long", x1=60), box(12, "long", x1=70))
        name = running.client.retrain(video).name
        assert eventually(lambda: training(running, name))
        running.stop()
        running.start()
        operation = running.client.operation(name)
        assert eventually(lambda: operation.metadata().state == labeling_pb2.OPERATION_STATE_RUNNING)
        correct(running.client, video, box(18, "other", x1=5))
        meanwhile = {key: value for key, value in raw(running.client, video).items() if key[1] == "other"}
        operation.stop_early()
        assert operation.result(60).replaced
        after = raw(running.client, video)
        assert {key: after[key] for key in meanwhile} == meanwhile
        assert {x.confidence for x in running.client.read_labels(video, tracks=["long"]) if not x.is_anchor} == {0.99}
    finally:
        running.stop()


def test_retrainings_that_are_refused(running: Running, video: str) -> None:
    """Without a micro-model, with one of another project, with a recipe that cannot learn, with too few labels."""
    bare = running.video().name
    with refused("FAILED_PRECONDITION"):
        running.client.retrain(bare)
    with refused("NOT_FOUND"):
        running.client.retrain(video[:-1] + "x")
    with refused("INVALID_ARGUMENT", field="micro_model_version"):
        running.client.retrain(bare, micro_model_version=versions(running.client, video)[0])
    with refused("INVALID_ARGUMENT", field="settings.effort"):
        running.client.retrain(video, effort=100)
    request = labeling_pb2.RetrainRequest(video=video)
    request.settings.recipe = "yolo"
    with refused("INVALID_ARGUMENT", field="settings.recipe"):
        running.stubs.labeling.Retrain(request)
    request.settings.recipe, request.settings.encoder = "head", "lite0"
    with refused("INVALID_ARGUMENT", field="settings.encoder"):
        running.stubs.labeling.Retrain(request)
    few = labeled(running.client, running.clip, box(0))
    with pytest.raises(ApiError, match="at least 3"):
        running.client.retrain(few).result(60)


@pytest.fixture
def eager(tmp_path: Path, tiny_clip: Path) -> Iterator[Running]:
    """A server that retrains after two corrected frames and a short pause."""
    made = Running(tmp_path, tiny_clip / "video.mp4", retrain_corrections=2, retrain_idle_seconds=0.2)
    try:
        yield made
    finally:
        made.stop()


def retrainings(running: Running, video: str) -> list[labeling_pb2.OperationMetadata]:
    found = []
    for operation in running.client.list_operations(video.split("/videos")[0]):
        metadata = running.client.operation(operation.name).metadata()
        if metadata.kind == labeling_pb2.OPERATION_KIND_RETRAIN and metadata.video == video:
            found.append(metadata)
    return found


def test_a_pause_after_corrections_starts_retraining(eager: Running) -> None:
    """By itself, once for as many corrections as the setting says, and in the corrector's name."""
    client = eager.client
    video = labeled(client, eager.clip, box(0))
    correct(client, video, box(6, x1=60))
    correct(client, video, box(12, x1=70), box(18, x1=80))
    done = labeling_pb2.OPERATION_STATE_SUCCEEDED
    assert eventually(lambda: [operation.state for operation in retrainings(eager, video)] == [done])
    assert len(versions(client, video)) == 2
    summary = correct(client, video, box(3, x1=5))  # one is too few for another
    assert summary.micro_model_version == versions(client, video)[1]
    other = labeled(client, eager.clip, box(0))  # by the time that this has been retrained, the first would be, too
    correct(client, other, box(6, x1=60), box(12, x1=70))
    assert eventually(lambda: [operation.state for operation in retrainings(eager, other)] == [done])
    assert len(retrainings(eager, video)) == 1


def test_retraining_that_nobody_asked_for_gives_way(eager: Running) -> None:
    """A video that is being retrained by the server itself can be deleted."""
    video = labeled(eager.client, eager.clip, box(0, "long"))
    correct(eager.client, video, box(6, "long", x1=60), box(12, "long", x1=70))
    running = labeling_pb2.OPERATION_STATE_RUNNING
    assert eventually(lambda: [operation.state for operation in retrainings(eager, video)] == [running])
    eager.client.delete_video(video)
    with refused("NOT_FOUND"):
        eager.client.get_video(video)


def test_a_session_notices_changed_classes(running: Running, video: str) -> None:
    """Changed classes reach the next question: another process answers it, and goes on from what was learned."""
    ids = tuple(video.split("/")[1::2])
    before = sessions()
    project = running.client.get_project(f"projects/{ids[0]}")
    project.object_classes[0].max_instances = 1
    request = project_pb2.UpdateProjectRequest(project=project)
    request.update_mask.paths.append("object_classes")
    running.stubs.projects.UpdateProject(request)
    assert correct(running.client, video, box(3, x1=5)).learned_count == 4
    assert sessions() - before, "the process that had learned three times knew the old classes"
