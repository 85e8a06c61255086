"""LabelingService, MicroModelService, FileService and Operations: long-running work from start to end."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.longrunning import operations_pb2

from micromodels.client import ApiError
from micromodels.client.messages import label_to_message
from micromodels.types import ProvenanceKind
from micromodels.v1 import file_pb2, history_pb2, label_pb2, labeling_pb2, micro_model_pb2, video_pb2
from service.domain.jobs import Job
from service.store.jobs import Jobs
from tests.service.api.harness import Running, box, fresh_id, refused


@pytest.fixture(scope="module")
def shared(running: Running) -> video_pb2.Video:
    """A video on which nothing succeeds."""
    return running.video()


def project_of(name: str) -> str:
    return "/".join(name.split("/")[:2])


def test_train_then_propagate_then_export(running: Running, video: video_pb2.Video, tmp_path: Path) -> None:
    """Train, Propagate, Export, ReadFile: the whole line in single steps, with lineage and files."""
    client = running.client
    revision = client.write_labels(video.name, [box(0), box(12)])
    version = client.train(video.name, experiments=2, display_name="Squares").result(60)
    assert version.name.endswith("/versions/1")
    assert (version.display_name, version.recipe, version.parent_version) == ("Squares", "head", "")
    assert [(seen.video, seen.label_revision) for seen in version.seen_labels] == [(video.name, revision)]
    assert version.metrics["leave_one_seed_out"] == 0.5
    assert version.manifest["scores"][0] is None  # NaN has no place in JSON

    done = client.propagate(video.name, version.name, frames=range(0, 20)).result(60)
    assert done.frame_count == 20
    labels = list(client.read_labels(video.name))
    assert [label.frame for label in labels] == list(range(20))
    assert [label.frame for label in labels if label.provenance.kind is ProvenanceKind.HUMAN] == [0, 12]

    (path,) = client.export(video.name, tmp_path)
    assert path.name == "Test-video.mp4-labels.jsonl"
    assert len(path.read_text().splitlines()) == 20
    (coco,) = client.export(video.name, tmp_path, file_format="coco")
    assert len(json.loads(coco.read_text())["annotations"]) == 20


def test_versions_have_lineage(running: Running, video: video_pb2.Video) -> None:
    """GetMicroModelVersion, ListMicroModelVersions, DeleteMicroModelVersion: numbers, `latest`, parents, files."""
    client = running.client
    client.write_labels(video.name, [box(0)])
    first = client.train(video.name).result(60)
    micro_model = first.name.rsplit("/versions/", 1)[0]
    second = client.train(video.name, micro_model=micro_model).result(60)
    assert second.name == f"{micro_model}/versions/2"
    assert second.parent_version == ""  # trained from nothing
    request = micro_model_pb2.GetMicroModelVersionRequest(name=f"{micro_model}/versions/latest")
    assert running.stubs.micro_models.GetMicroModelVersion(request) == second
    assert list(client.list_micro_model_versions(micro_model)) == [first, second]
    assert list(client.list_micro_model_versions(f"{project_of(video.name)}/microModels/-")) == [first, second]
    assert list(client.list_micro_model_versions(f"{project_of(video.name)}/microModels/other")) == []

    weights = next(file for file in first.files if file.file_name == "head.safetensors")
    chunks = list(running.stubs.files.ReadFile(file_pb2.ReadFileRequest(name=weights.name)))
    data = b"".join(chunk.data for chunk in chunks)
    assert len(chunks) > 1
    assert hashlib.sha256(data).hexdigest() == weights.sha256
    rest = running.stubs.files.ReadFile(file_pb2.ReadFileRequest(name=weights.name, offset=chunks[1].offset))
    assert b"".join(chunk.data for chunk in rest) == data[chunks[1].offset :]
    for offset in (-1, len(data) + 1):
        with refused("OUT_OF_RANGE", "OUT_OF_RANGE", "offset"):
            list(running.stubs.files.ReadFile(file_pb2.ReadFileRequest(name=weights.name, offset=offset)))
    with refused("NOT_FOUND", "NOT_FOUND"):
        list(running.stubs.files.ReadFile(file_pb2.ReadFileRequest(name=weights.name + "/../../x")))

    client.delete_micro_model_version(first.name)
    assert list(client.list_micro_model_versions(micro_model)) == [second]
    with refused("NOT_FOUND", "NOT_FOUND"):
        client.get_micro_model_version(first.name)
    for version in ("0", "x", "-1"):
        with refused("INVALID_ARGUMENT", "INVALID_INPUT", "name"):
            client.get_micro_model_version(f"{micro_model}/versions/{version}")
    with refused("INVALID_ARGUMENT", "INVALID_INPUT", "name"):
        client.delete_micro_model_version(f"{micro_model}/versions/latest")


def test_auto_label_does_it_all_in_one_call(running: Running, video: video_pb2.Video) -> None:
    """AutoLabel: an operation, progress with pictures, labels of every frame in order, then the result."""
    run = running.client.auto_label(video.name, [box(0), box(12)], flip_book=True)
    kinds = [progress.WhichOneof("event") for progress in run]
    assert {"state", "training", "experiment", "picture", "propagation", "stage", "warning"} <= set(kinds)
    labels = list(run.labels())
    assert [label.frame for label in labels] == list(range(24))
    assert labels[0] == box(0)
    assert run.result is not None
    assert run.result.frame_count == 24
    assert run.operation is not None
    assert run.operation.result(120) == run.result


def test_auto_label_takes_a_path(running: Running) -> None:
    """The video is read first, by an operation of its own."""
    run = running.client.auto_label(str(running.clip), [box(0)], project=running.project().name)
    assert len(list(run.labels())) == 24
    assert run.result is not None
    assert running.client.get_video(run.result.video).display_name == "video.mp4"


def test_auto_label_goes_on_after_a_break(running: Running, video: video_pb2.Video) -> None:
    """The same request_id finds the same operation; with the token of any message the rest comes, nothing twice."""
    request = labeling_pb2.AutoLabelRequest(
        parent=project_of(video.name), video=video.name, request_id=fresh_id(), flip_book=True
    )
    request.seeds.extend(message_of(0, 12))
    whole = list(running.stubs.labeling.AutoLabel(request))
    events = [message for message in whole if not message.HasField("operation")]
    for index, message in enumerate(events[:-1]):
        again = labeling_pb2.AutoLabelRequest()
        again.CopyFrom(request)
        again.resume_token = message.resume_token
        rest = list(running.stubs.labeling.AutoLabel(again))
        assert rest[0].operation.name == whole[0].operation.name
        assert [m for m in rest if not m.HasField("operation")] == events[index + 1 :]
    request.settings.seed = 7
    with refused("ALREADY_EXISTS", "REQUEST_ID_REUSED"):
        list(running.stubs.labeling.AutoLabel(request))


def message_of(*frames: int) -> list[label_pb2.Label]:
    return [label_to_message(box(frame)) for frame in frames]


def test_auto_label_says_what_is_wrong_with_it(running: Running, video: video_pb2.Video) -> None:
    """Fault 45 and more: no seeds, no source, another project's video, a seed that is not human, a bad setting."""
    project = project_of(video.name)
    with refused("FAILED_PRECONDITION", "FAILED_PRECONDITION") as errors:
        list(running.client.auto_label(video.name, []))
    assert "human label" in str(errors[0])
    with refused("INVALID_ARGUMENT", "INVALID_INPUT", "source"):
        list(running.stubs.labeling.AutoLabel(labeling_pb2.AutoLabelRequest(parent=project)))
    other = running.project().name
    with refused("INVALID_ARGUMENT", "INVALID_INPUT", "video"):
        list(running.stubs.labeling.AutoLabel(labeling_pb2.AutoLabelRequest(parent=other, video=video.name)))
    with refused("INVALID_ARGUMENT", "INVALID_INPUT", "path"):
        list(running.client.auto_label("https://example.com/a.mp4", [box(0)], project=project))
    seeds = message_of(0)
    seeds[0].provenance.kind = label_pb2.PROVENANCE_KIND_MODEL
    request = labeling_pb2.AutoLabelRequest(parent=project, video=video.name, seeds=seeds)
    with refused("INVALID_ARGUMENT", "INVALID_INPUT", "seeds[0].provenance.kind"):
        list(running.stubs.labeling.AutoLabel(request))
    with refused("OUT_OF_RANGE", "OUT_OF_RANGE", "seeds[0].frame_index"):
        list(running.client.auto_label(video.name, [box(24)]))
    for settings in ({"recipe": "magic"}, {"device": "abacus"}, {"experiments": 99}, {"seed": -1}, {"effort": 99}):
        with refused("INVALID_ARGUMENT", "INVALID_INPUT", f"settings.{next(iter(settings))}"):
            list(running.client.auto_label(video.name, [box(0)], **settings))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"polygon": label_pb2.Polygon(coordinates=[0, 0, 9, 9, 9, 0, 0, 9])}, "seeds[1].object.polygon"),
        ({"state": label_pb2.OBJECT_STATE_OCCLUDED, "box": None}, "seeds[1].object.shape"),
        ({"box": label_pb2.Box(x1=1, y1=90, x2=3, y2=98)}, "seeds[1].object.box.y2"),
        ({"mask": label_pb2.Mask(height_px=2, width_px=2, counts="13")}, "seeds[1].object.mask"),
        ({"object_class": "circle"}, "seeds[1].object.object_class"),
    ],
)
def test_seeds_are_checked_as_labels_are(
    running: Running, shared: video_pb2.Video, changed: dict[str, Any], field: str
) -> None:
    """Faults 43 and its like in AutoLabel: the seed is named, and nothing is started or written."""
    seed = label_to_message(box(3))
    for name, value in changed.items():
        seed.object.ClearField(name)  # type: ignore[arg-type]
        seed.object.MergeFrom(label_pb2.ObjectLabel(**{name: value}))
    request = labeling_pb2.AutoLabelRequest(
        parent=project_of(shared.name), video=shared.name, seeds=[label_to_message(box(0)), seed]
    )
    with refused("INVALID_ARGUMENT", "INVALID_INPUT", field):
        list(running.stubs.labeling.AutoLabel(request))
    assert list(running.client.read_labels(shared.name)) == []
    assert len(list(running.client.list_operations(project_of(shared.name)))) == 1  # the one that read the video


def test_lineage_does_not_reach_another_video(running: Running, video: video_pb2.Video) -> None:
    """A micro-model of another video gets no version here: none would come of it, and deletion follows lineage."""
    client = running.client
    other = running.video(project_of(video.name))
    client.write_labels(video.name, [box(0)])
    client.write_labels(other.name, [box(0), box(5), box(10)])
    first = client.train(video.name).result(60)
    with refused("FAILED_PRECONDITION") as errors:
        client.train(other.name, micro_model=first.name.rsplit("/versions/", 1)[0])
    with refused("FAILED_PRECONDITION"):
        client.retrain(other.name, micro_model_version=first.name)
    assert repr(video.name.rsplit("/", 1)[1]) in str(errors[0])
    own = client.train(other.name).result(60)
    client.delete_video(video.name)
    assert list(client.list_micro_model_versions(f"{project_of(video.name)}/microModels/-")) == [own]


def test_the_history_says_who_made_the_labels(running: Running, video: video_pb2.Video) -> None:
    """Seeds are the person's, by AutoLabel as by WriteLabels; what a job labels is its micro-model's, by name."""
    running.client.write_labels(video.name, [box(3)])
    run = running.client.auto_label(video.name, [box(0)])
    list(run.labels())
    assert run.result is not None
    propagated, seeded, written = running.client.review.list_changes(video.name)
    for change in (written, seeded):
        assert (change.kind, change.author, change.micro_model_version) == (history_pb2.CHANGE_KIND_WRITE, "local", "")
    assert propagated.kind == history_pb2.CHANGE_KIND_PROPAGATE
    assert propagated.micro_model_version == run.result.micro_model_version
    running.client.propagate(video.name, run.result.micro_model_version).result(120)
    again = next(iter(running.client.review.list_changes(video.name)))
    assert again.micro_model_version == run.result.micro_model_version


def test_a_failed_operation_tells_its_error_everywhere(running: Running, video: video_pb2.Video) -> None:
    """Fault 56: FAILED(DIVERGED) by AutoLabel, by GetOperation, by waiting; watching ends well; the old model stays."""
    old = running.client.auto_label(video.name, [box(0)])
    assert len(list(old.labels())) == 24
    assert old.result is not None
    micro_model = old.result.micro_model_version.rsplit("/versions/", 1)[0]
    running.client.delete_labels(video.name)
    run = running.client.auto_label(video.name, [box(0, "diverges")])
    with refused("ABORTED", "DIVERGED"):
        list(run)
    assert run.operation is not None
    with refused("ABORTED", "DIVERGED") as errors:
        run.operation.result(120)
    assert "NaN" in str(errors[0])
    states = [p.state for p in run.operation.watch() if p.HasField("state")]
    assert states[-1] == labeling_pb2.OPERATION_STATE_FAILED
    with refused("ABORTED", "DIVERGED"):
        running.client.train(video.name, micro_model=micro_model).result(120)
    (version,) = running.client.list_micro_model_versions(f"{project_of(video.name)}/microModels/-")
    assert version.name == old.result.micro_model_version
    assert running.client.propagate(video.name, version.name).result(120).frame_count == 24


def test_a_training_process_that_dies_leaves_the_server_well(running: Running, video: video_pb2.Video) -> None:
    """The job is tried three times, then it has failed; the server goes on answering."""
    running.client.write_labels(video.name, [box(0, "crashes")])
    operation = running.client.train(video.name)
    with refused("INTERNAL", "WORKER_CRASHED"):
        operation.result(60)
    assert operation.metadata().tries == 3
    assert running.client.get_video(video.name).name == video.name


def test_work_needs_seeds_and_things_that_are_there(running: Running, video: video_pb2.Video) -> None:
    """Fault 45; NOT_FOUND for other videos and models; things of other projects are refused."""
    with refused("FAILED_PRECONDITION", "FAILED_PRECONDITION"):
        running.client.train(video.name)
    running.client.write_labels(video.name, [box(0)])
    with refused("NOT_FOUND", "NOT_FOUND"):
        running.client.train(video.name + "x")
    with refused("NOT_FOUND", "NOT_FOUND"):
        running.client.train(video.name, micro_model=f"{project_of(video.name)}/microModels/none")
    with refused("INVALID_ARGUMENT", "INVALID_INPUT", "micro_model"):
        running.client.train(video.name, micro_model="projects/other/microModels/m")
    with refused("NOT_FOUND", "NOT_FOUND"):
        running.client.propagate(video.name, f"{project_of(video.name)}/microModels/none/versions/1")
    with refused("INVALID_ARGUMENT", "INVALID_INPUT", "micro_model_version"):
        running.client.propagate(video.name, "projects/other/microModels/m/versions/1")
    with refused("INVALID_ARGUMENT", "INVALID_INPUT", "format"):
        running.stubs.labeling.Export(labeling_pb2.ExportRequest(video=video.name))
    version = running.client.train(video.name).result(60)
    for frames in (range(0, 25), range(24, 25), range(-1, 5)):
        with refused("OUT_OF_RANGE" if frames.start >= 0 else "INVALID_ARGUMENT"):
            running.client.propagate(video.name, version.name, frames=frames)


def test_a_request_id_starts_one_operation(
    running: Running, video: video_pb2.Video, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Faults 12 and 13: the deadline passes while the job is being queued; the same id then gives the same job."""
    running.client.write_labels(video.name, [box(0)])
    request = labeling_pb2.TrainRequest(video=video.name, request_id=fresh_id())
    create = Jobs.create

    def slowly(self: Jobs, *args: Any, **kwargs: Any) -> Job:
        time.sleep(0.6)
        return create(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Jobs, "create", slowly)
        with pytest.raises(grpc.RpcError) as raised:
            running.stubs.labeling.Train(request, timeout=0.2)
    assert ApiError.from_rpc_error(raised.value).code == "DEADLINE_EXCEEDED"
    first = running.stubs.labeling.Train(request)
    assert running.stubs.labeling.Train(request).name == first.name
    kinds = [
        running.client.operation(o.name).metadata().kind for o in running.client.list_operations(project_of(video.name))
    ]
    assert kinds.count(labeling_pb2.OPERATION_KIND_TRAIN) == 1
    request.settings.seed = 3
    with refused("ALREADY_EXISTS", "REQUEST_ID_REUSED"):
        running.stubs.labeling.Train(request)
    running.client.operation(first.name).result(60)


def test_watching_goes_on_where_it_was(running: Running, video: video_pb2.Video) -> None:
    """WatchTraining: late watchers hear everything; a token skips what was heard; pictures come only if asked for."""
    running.client.write_labels(video.name, [box(0)])
    operation = running.client.train(video.name)
    live = list(operation.watch(flip_book=True))
    assert list(operation.watch(flip_book=True)) == live
    pictures = [progress.picture for progress in live if progress.HasField("picture")]
    assert pictures[0].image.startswith(b"\xff\xd8")
    assert pictures[0].media_type == "image/jpeg"
    assert not any(progress.HasField("picture") for progress in operation.watch())
    request = labeling_pb2.WatchTrainingRequest(name=operation.name, flip_book=True)
    messages = list(running.stubs.labeling.WatchTraining(request))
    request.resume_token = messages[2].resume_token
    assert list(running.stubs.labeling.WatchTraining(request)) == messages[3:]
    request.resume_token = "garbage"
    with refused("INVALID_ARGUMENT", "INVALID_INPUT", "resume_token"):
        list(running.stubs.labeling.WatchTraining(request))
    with refused("NOT_FOUND", "NOT_FOUND"):
        list(running.stubs.labeling.WatchTraining(labeling_pb2.WatchTrainingRequest(name=operation.name + "x")))


def test_stop_early_keeps_the_model(running: Running, video: video_pb2.Video) -> None:
    """StopEarly: a training of 1000 slow steps ends soon, and well."""
    running.client.write_labels(video.name, [box(0, "slow")])
    operation = running.client.train(video.name)
    for progress in operation.watch():
        if progress.HasField("training"):
            break
    operation.stop_early()
    version = operation.result(120)
    assert version.name
    assert operation.metadata().stop_early
    probe = running.client.register_video(project_of(video.name), str(running.clip))
    export = running.stubs.labeling.Export(labeling_pb2.ExportRequest(video=probe.name, format="jsonl"))
    with refused("FAILED_PRECONDITION", "FAILED_PRECONDITION"):
        running.client.operation(export.name).stop_early()


def test_cancel_keeps_finished_frames(running: Running, video: video_pb2.Video) -> None:
    """CancelOperation: the labels of finished frames stay, the operation ends as CANCELLED, deletion then works."""
    run = running.client.auto_label(video.name, [box(0, "slow")])
    for progress in run:
        if progress.HasField("training"):
            run.stop_early()
        if progress.HasField("propagation") and progress.propagation.frames_done >= 3:
            break
    with refused("FAILED_PRECONDITION", "FAILED_PRECONDITION"):  # it is still being worked on
        running.client.delete_video(video.name)
    run.cancel()
    assert run.operation is not None
    with refused("CANCELLED", "CANCELLED"):
        run.operation.result(120)
    kept = [label.frame for label in running.client.read_labels(video.name)]
    assert 3 <= len(kept) < 24
    assert kept == list(range(len(kept)))
    metadata = run.operation.metadata()
    assert metadata.state == labeling_pb2.OPERATION_STATE_CANCELLED
    assert metadata.propagation.frames_done >= 3
    assert metadata.micro_model_version
    run.cancel()  # once more changes nothing
    running.client.delete_video(video.name)


def test_operations_can_be_read_listed_awaited_and_deleted(running: Running, video: video_pb2.Video) -> None:
    """GetOperation, ListOperations, WaitOperation, CancelOperation, DeleteOperation of google.longrunning."""
    operations = running.stubs.operations
    running.client.write_labels(video.name, [box(0, "slow")])
    name = running.client.train(video.name).name
    wait = operations_pb2.WaitOperationRequest(name=name)
    wait.timeout.FromMilliseconds(300)
    begun = time.monotonic()
    assert not operations.WaitOperation(wait).done
    assert time.monotonic() - begun > 0.25
    with refused("FAILED_PRECONDITION", "FAILED_PRECONDITION"):
        operations.DeleteOperation(operations_pb2.DeleteOperationRequest(name=name))
    operations.CancelOperation(operations_pb2.CancelOperationRequest(name=name))
    done = operations.WaitOperation(operations_pb2.WaitOperationRequest(name=name), timeout=120)
    assert done.error.code == 1
    assert operations.GetOperation(operations_pb2.GetOperationRequest(name=name)) == done
    names = [operation.name for operation in running.client.list_operations(project_of(video.name))]
    assert names[-1] == name
    assert len(names) == 2  # the one that read the video, and this one
    page = operations.ListOperations(operations_pb2.ListOperationsRequest(name=project_of(video.name), page_size=1))
    assert page.next_page_token
    with refused("INVALID_ARGUMENT", "INVALID_INPUT", "filter"):
        operations.ListOperations(operations_pb2.ListOperationsRequest(name=project_of(video.name), filter="done"))
    operations.DeleteOperation(operations_pb2.DeleteOperationRequest(name=name))
    with refused("NOT_FOUND", "NOT_FOUND"):
        operations.GetOperation(operations_pb2.GetOperationRequest(name=name))
    with refused("NOT_FOUND", "NOT_FOUND"):
        operations.CancelOperation(operations_pb2.CancelOperationRequest(name=name))


def test_waiting_gives_up_in_time(running: Running, video: video_pb2.Video) -> None:
    """`result` raises TimeoutError, and the operation goes on."""
    running.client.write_labels(video.name, [box(0, "slow")])
    operation = running.client.train(video.name)
    with pytest.raises(TimeoutError, match="continues"):
        operation.result(0.2)
    assert not operation.done()
    operation.cancel()
    with refused("CANCELLED", "CANCELLED"):
        operation.result(120)


def test_operations_of_a_video(running: Running) -> None:
    """ListOperations leaves those of the video that the filter names, page by page; other filters are refused."""
    project = running.project().name
    videos = [running.video(project).name for _ in range(2)]
    list(running.client.auto_label(videos[0], [box(0)]).labels())

    def found(text: str, page_size: int = 50) -> list[str]:
        request = operations_pb2.ListOperationsRequest(name=project, filter=text, page_size=page_size)
        operations: list[str] = []
        while True:
            page = running.stubs.operations.ListOperations(request)
            operations += [operation.name for operation in page.operations]
            if not page.next_page_token:
                return operations
            request.page_token = page.next_page_token

    first, second = (found(f'metadata.video = "{video}"', page_size=1) for video in videos)
    assert (len(first), len(second)) == (2, 1)  # looked at; the first was labeled, too
    assert sorted(first + second) == sorted(found(""))
    for text in ("done", f'metadata.video = "{running.video().name}"', 'metadata.video = "x"'):
        with refused("INVALID_ARGUMENT", "INVALID_INPUT", "filter"):
            found(text)
