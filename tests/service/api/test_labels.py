"""LabelService: batches with a base revision, streams with a resume position, and what is refused."""

from __future__ import annotations

import math

import pytest

from micromodels.types import FrameLabel, Label, Mask, Polygon, Provenance, ProvenanceKind, State
from micromodels.v1 import label_pb2 as pb
from micromodels.v1 import video_pb2
from tests.service.api.harness import Running, box, fresh_id, refused


@pytest.fixture(scope="module")
def shared(running: Running) -> video_pb2.Video:
    return running.video()


@pytest.fixture
def video(running: Running, shared: video_pb2.Video) -> video_pb2.Video:
    """A video without labels; reading a new one for each test would take most of the time."""
    running.client.delete_labels(shared.name)
    return running.client.get_video(shared.name)


MODEL = Provenance(ProvenanceKind.MODEL, "other tool")


def message(**fields: object) -> pb.Label:
    """A valid object label, with changes."""
    item = pb.ObjectLabel(
        track="1", object_class="square", state=pb.OBJECT_STATE_VISIBLE, box=pb.Box(x1=1, y1=2, x2=3, y2=4)
    )
    item.MergeFrom(pb.ObjectLabel(**fields))  # type: ignore[arg-type]
    return pb.Label(frame_index=1, object=item)


def write(running: Running, video: video_pb2.Video, *labels: pb.Label, **fields: object) -> pb.WriteLabelsResponse:
    request = pb.WriteLabelsRequest(parent=video.name, labels=labels, **fields)  # type: ignore[arg-type]
    return running.stubs.labels.WriteLabels(request)


def test_labels_come_back_as_they_were_written(running: Running, video: video_pb2.Video) -> None:
    """WriteLabels, StreamLabels: every shape, state and kind of label, in order of frames."""
    corner, empty = Mask(96, 128, "0" + runs(1, 96 * 128 - 1)), Mask(96, 128, runs(96 * 128))
    labels = [
        Label(0, "1", "square", State.VISIBLE, Polygon(((1.5, 2), (3, 4), (5, 1)))),
        Label(0, "2", "letter", State.OCCLUDED, box(0).shape),
        FrameLabel(0, "bright", False),
        Label(3, "1", "square", State.VISIBLE, corner),
        Label(3, "2", "letter", State.OCCLUDED, None, 0.5, MODEL),
        Label(3, "3", "letter", State.VISIBLE, empty, 0.5, MODEL),
        Label(4, "1", "square", State.ABSENT),
        Label(5, "1", "square", State.UNCERTAIN, box(5).shape, 0.25, MODEL),
        FrameLabel(23, "bright", True, 0.5, MODEL),
    ]
    revision = running.client.write_labels(video.name, reversed(labels))
    assert list(running.client.read_labels(video.name)) == labels
    assert running.client.get_video(video.name).label_revision == revision == video.label_revision + 1


def runs(*lengths: int) -> str:
    """COCO's code for one to three runs of pixels."""
    counts = ""
    for value in lengths:
        more = True
        while more:
            low, value = value & 31, value >> 5
            more = value != (-1 if low & 16 else 0)
            counts += chr((low | (32 if more else 0)) + 48)
    return counts


def test_a_selection_picks(running: Running, video: video_pb2.Video) -> None:
    """Ranges are half-open; tracks, classes and anchors narrow them."""
    labels = [box(frame, track) for frame in range(10) for track in ("a", "b")]
    labels += [Label(20, "c", "letter", State.VISIBLE, box(20).shape, 0.5, MODEL)]
    running.client.write_labels(video.name, labels)
    read = running.client.read_labels
    assert {label.frame for label in read(video.name, frames=range(3, 5))} == {3, 4}
    assert len(list(read(video.name, tracks=["a"]))) == 10
    assert [label.frame for label in read(video.name, class_names=["letter"])] == [20]
    assert len(list(read(video.name, anchors_only=True))) == 20


def test_a_broken_stream_goes_on_where_it_was(running: Running, video: video_pb2.Video) -> None:
    """Every label comes once, whichever message was the last to arrive; a token fits its own request only."""
    tracks = [f"t{i:03}" for i in range(100)]
    running.client.write_labels(video.name, [box(frame, track) for frame in range(12) for track in tracks])
    request = pb.StreamLabelsRequest(parent=video.name)
    messages = list(running.stubs.labels.StreamLabels(request))
    assert len(messages) > 1
    everything = [label for message in messages for label in message.labels]
    assert len(everything) == 1200
    for index, last in enumerate(messages):
        rest = running.stubs.labels.StreamLabels(
            pb.StreamLabelsRequest(parent=video.name, resume_token=last.resume_token)
        )
        received = [label for message in messages[: index + 1] for label in message.labels]
        assert received + [label for message in rest for label in message.labels] == everything
    request.resume_token = messages[0].resume_token
    request.selection.anchors_only = True
    with refused("INVALID_ARGUMENT", "INVALID_INPUT", "resume_token"):
        list(running.stubs.labels.StreamLabels(request))


def test_a_stream_that_is_given_up_leaves_nothing_behind(running: Running, video: video_pb2.Video) -> None:
    """Reading one label and leaving is fine, many times over."""
    running.client.write_labels(video.name, [box(frame, str(track)) for frame in range(24) for track in range(40)])
    for _ in range(50):
        assert next(iter(running.client.read_labels(video.name))).frame == 0
    assert len(list(running.client.read_labels(video.name))) == 960


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("field", ["x1", "y2"])
def test_coordinates_that_are_no_numbers_are_refused(
    running: Running, video: video_pb2.Video, field: str, value: float
) -> None:
    """Fault 42: INVALID_ARGUMENT that names the label."""
    bad = message(box=pb.Box(**{"x1": 1, "y1": 2, "x2": 3, "y2": 4} | {field: value}))  # type: ignore[arg-type]
    with refused("INVALID_ARGUMENT", "INVALID_INPUT", "labels[1].object.box"):
        write(running, video, message(track="other"), bad)
    polygon = message(polygon=pb.Polygon(coordinates=[0, 0, 9, 0, value, 9]))
    with refused("INVALID_ARGUMENT", "INVALID_INPUT", "labels[0].object.polygon.coordinates[4]"):
        write(running, video, polygon)
    assert list(running.client.read_labels(video.name)) == []


def test_a_polygon_of_200_thousand_vertices_is_refused_at_once(
    running: Running, video: video_pb2.Video, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault 44: by their number; nothing looks at the sides, which would take long."""
    looked: list[object] = []
    monkeypatch.setattr("micromodels.labels.validation.find_crossing", looked.append)
    bad = message(polygon=pb.Polygon(coordinates=[float(i) for i in range(400_000)]))
    with refused("INVALID_ARGUMENT", "INVALID_INPUT", "labels[0].object.polygon") as errors:
        write(running, video, bad)
    assert "200000 points" in str(errors[0])
    assert looked == []


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"box": pb.Box(x1=3, x2=3, y2=1)}, "labels[0].object.box"),
        ({"state": 9}, "labels[0].object.state"),
        ({"object_class": "circle"}, "labels[0].object.object_class"),
        ({"object_class": "x" * 300}, "labels[0].object.object_class"),
        ({"track": "nul\0"}, "labels[0].object.track"),
        ({"polygon": pb.Polygon(coordinates=[1, 2, 3])}, "labels[0].object.polygon.coordinates"),
        ({"polygon": pb.Polygon(coordinates=[1, 2, 3, 4])}, "labels[0].object.polygon"),
        ({"mask": pb.Mask(height_px=96, width_px=128, counts="0000")}, "labels[0].object.mask.counts"),
        ({"mask": pb.Mask(height_px=1 << 20, width_px=1 << 20, counts="0")}, "labels[0].object.mask"),
        ({"mask": pb.Mask(height_px=2, width_px=2, counts="13")}, "labels[0].object.mask"),
        ({"state": pb.OBJECT_STATE_ABSENT}, "labels[0].object.state"),
        # Fault 43: a bow-tie says two contradicting things of what is inside.
        ({"polygon": pb.Polygon(coordinates=[0, 0, 9, 9, 9, 0, 0, 9])}, "labels[0].object.polygon"),
        ({"polygon": pb.Polygon(coordinates=[0, 0, 9, 9, 5, 5])}, "labels[0].object.polygon"),
        ({"mask": pb.Mask(height_px=96, width_px=128, counts=runs(96 * 128))}, "labels[0].object.mask.counts"),
        ({"box": pb.Box(x1=120, y1=2, x2=131, y2=4)}, "labels[0].object.box.x2"),
        ({"box": pb.Box(x1=-3, y1=2, x2=3, y2=4)}, "labels[0].object.box.x1"),
        ({"polygon": pb.Polygon(coordinates=[0, 0, 9, 0, 9, 98])}, "labels[0].object.polygon.coordinates[5]"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_path(
    running: Running, video: video_pb2.Video, changed: dict[str, object], field: str
) -> None:
    """Each field that is not allowed is named."""
    with refused("INVALID_ARGUMENT", "INVALID_INPUT", field):
        write(running, video, message(**changed))


def test_a_hand_label_without_a_shape_is_refused(running: Running, video: video_pb2.Video) -> None:
    """A person who says that an object is there says where; a model may leave that open."""
    bare = pb.Label(frame_index=2)
    bare.object.track, bare.object.object_class, bare.object.state = "1", "square", pb.OBJECT_STATE_OCCLUDED
    with refused("INVALID_ARGUMENT", "INVALID_INPUT", "labels[1].object.shape"):
        write(running, video, message(), bare)
    bare.provenance.kind = pb.PROVENANCE_KIND_MODEL
    assert write(running, video, bare).written_count == 1


def test_a_crossed_polygon_of_ten_thousand_points_is_found_in_time(running: Running, video: video_pb2.Video) -> None:
    """The largest polygon that is taken."""
    ring = [value for i in range(10_000) for value in (64 + 40 * math.cos(i / 1591), 48 + 40 * math.sin(i / 1591))]
    ring[2000:2002], ring[12_000:12_002] = ring[12_000:12_002], ring[2000:2002]
    with refused("INVALID_ARGUMENT", "INVALID_INPUT", "labels[0].object.polygon"):
        write(running, video, message(polygon=pb.Polygon(coordinates=ring)))


def test_a_label_about_nothing_is_refused(running: Running, video: video_pb2.Video) -> None:
    """A label without subject, a bad confidence, too long a version, an unknown frame class, a key without subject."""
    with refused("INVALID_ARGUMENT", "INVALID_INPUT", "labels[0].subject"):
        write(running, video, pb.Label(frame_index=1))
    wrong = message()
    wrong.confidence = 1.5
    with refused("INVALID_ARGUMENT", "INVALID_INPUT", "labels[0].confidence"):
        write(running, video, wrong)
    wrong = message()
    wrong.provenance.version = "x" * 201
    with refused("INVALID_ARGUMENT", "INVALID_INPUT", "labels[0].provenance.version"):
        write(running, video, wrong)
    with refused("INVALID_ARGUMENT", "INVALID_INPUT", "labels[1].frame_class.frame_class"):
        write(running, video, message(), pb.Label(frame_class=pb.FrameClassLabel(frame_class="dark")))
    with refused("INVALID_ARGUMENT", "INVALID_INPUT", "deletions[0].subject"):
        write(running, video, deletions=[pb.LabelKey(frame_index=1)])
    with refused("INVALID_ARGUMENT", "INVALID_INPUT", "deletions[0].track"):
        write(running, video, deletions=[pb.LabelKey(frame_index=1, track="")])


@pytest.mark.parametrize("frame", [-1, 24, 1 << 40])
def test_a_frame_that_is_not_there_is_out_of_range(running: Running, video: video_pb2.Video, frame: int) -> None:
    """Fault 46, in labels, deletions and selections."""
    bad = message()
    bad.frame_index = frame
    with refused("OUT_OF_RANGE", "OUT_OF_RANGE", "labels[1].frame_index"):
        write(running, video, message(), bad)
    with refused("OUT_OF_RANGE", "OUT_OF_RANGE", "deletions[0].frame_index"):
        write(running, video, deletions=[pb.LabelKey(frame_index=frame, track="1")])
    selection = pb.LabelSelection(start_frame=frame)
    with refused("OUT_OF_RANGE", "OUT_OF_RANGE", "selection.start_frame"):
        list(running.stubs.labels.StreamLabels(pb.StreamLabelsRequest(parent=video.name, selection=selection)))
    selection = pb.LabelSelection(stop_frame=frame if frame != 24 else 25)
    with refused("OUT_OF_RANGE", "OUT_OF_RANGE", "selection.stop_frame"):
        running.stubs.labels.DeleteLabels(pb.DeleteLabelsRequest(parent=video.name, selection=selection))


def test_writers_on_one_revision_conflict(running: Running, video: video_pb2.Video) -> None:
    """Fault 47: the second is ABORTED, is told what changed, and nothing of its batch is written."""
    revision = running.client.write_labels(video.name, [box(1), box(2)])
    running.client.write_labels(video.name, [box(2, x1=20)], base_revision=revision)
    with refused("ABORTED", "REVISION_CONFLICT") as errors:
        running.client.write_labels(video.name, [box(2, x1=30), box(9)], base_revision=revision)
    assert errors[0].metadata["current_revision"] == str(revision + 1)
    assert "frame 2" in errors[0].metadata["conflicts"]
    assert list(running.client.read_labels(video.name)) == [box(1), box(2, x1=20)]
    running.client.write_labels(video.name, [box(9)], base_revision=revision)  # nobody has touched that one


def test_anchors_are_kept_from_models(running: Running, video: video_pb2.Video) -> None:
    """A label that is not human does not replace one that is; the answer says which were kept."""
    running.client.write_labels(video.name, [box(1)])
    other = message()
    other.provenance.kind = pb.PROVENANCE_KIND_MODEL
    answer = write(running, video, other)
    assert [key.frame_index for key in answer.kept_anchors] == [1]
    assert answer.written_count == 0
    assert list(running.client.read_labels(video.name)) == [box(1)]


def test_writing_twice_under_one_request_id_writes_once(running: Running, video: video_pb2.Video) -> None:
    """Fault 13 for labels."""
    request_id = fresh_id()
    first = write(running, video, message(), request_id=request_id)
    assert write(running, video, message(), request_id=request_id) == first
    assert running.client.get_video(video.name).label_revision == first.label_revision
    with refused("ALREADY_EXISTS", "REQUEST_ID_REUSED"):
        write(running, video, message(track="2"), request_id=request_id)


def test_labels_are_deleted_by_key_and_by_selection(running: Running, video: video_pb2.Video) -> None:
    """WriteLabels with deletions, DeleteLabels; a selection has to be said."""
    running.client.write_labels(video.name, [box(frame) for frame in range(10)])
    answer = write(running, video, deletions=[pb.LabelKey(frame_index=1, track="1"), pb.LabelKey(track="none")])
    assert answer.deleted_count == 1
    deleted = running.client.delete_labels(video.name, frames=range(0, 5))
    assert deleted.deleted_count == 4
    assert [label.frame for label in running.client.read_labels(video.name)] == [5, 6, 7, 8, 9]
    with refused("INVALID_ARGUMENT", "INVALID_INPUT", "selection"):
        running.stubs.labels.DeleteLabels(pb.DeleteLabelsRequest(parent=video.name))


def test_too_many_labels_at_once_are_refused(running: Running, video: video_pb2.Video) -> None:
    """The bound is named; the client cuts batches by itself."""
    many = [pb.Label()] * 10_001
    with refused("INVALID_ARGUMENT", "INVALID_INPUT", "labels"):
        write(running, video, *many)
    count = 2400
    running.client.write_labels(video.name, [box(i % 24, str(i // 24)) for i in range(count)])
    assert sum(1 for _ in running.client.read_labels(video.name)) == count


def test_a_label_twice_in_a_batch_is_refused(running: Running, video: video_pb2.Video) -> None:
    """Which of the two would be meant cannot be told."""
    with refused("INVALID_ARGUMENT", "INVALID_INPUT", "labels[1].object.track"):
        write(running, video, message(), message())


def test_labels_need_a_video(running: Running, video: video_pb2.Video) -> None:
    """NOT_FOUND for another video; names of other things are INVALID_ARGUMENT."""
    with refused("NOT_FOUND", "NOT_FOUND"):
        running.client.write_labels(video.name + "x", [box(0)])
    with refused("INVALID_ARGUMENT", "INVALID_INPUT", "parent"):
        running.client.write_labels("projects/p", [box(0)])
