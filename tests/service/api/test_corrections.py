"""CorrectionService: what a person draws mends the spans around it, in a process of its own, and nothing is lost."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from micromodels.client import ApiError, label_key
from micromodels.client.messages import label_to_message
from micromodels.types import AnyLabel, Box, Label, Provenance, ProvenanceKind, State
from micromodels.v1 import correction_pb2 as pb
from micromodels.v1 import history_pb2, label_pb2
from tests.service.api.harness import Running, box, fresh_id, refused

MODEL = Provenance(ProvenanceKind.MODEL, "x")


def labeled(running: Running, *seeds: Label) -> str:
    """A video with a micro-model and labels on every frame."""
    video = running.video().name
    assert list(running.client.auto_label(video, seeds).labels())
    return video


@pytest.fixture
def video(running: Running) -> str:
    """Seeds of track 1 on the frames 0 and 20 of 24."""
    return labeled(running, box(0), box(20, x1=30))


def current(running: Running, video: str) -> dict[tuple[int, str], AnyLabel]:
    return {(x.frame, x.track): x for x in running.client.read_labels(video) if isinstance(x, Label)}


def raw(running: Running, video: str) -> dict[int, bytes]:
    """Every label as it comes over the wire."""
    stream = running.stubs.labels.StreamLabels(label_pb2.StreamLabelsRequest(parent=video))
    return {x.frame_index: x.SerializeToString(deterministic=True) for part in stream for x in part.labels}


def left(label: AnyLabel) -> float:
    assert isinstance(label, Label)
    assert isinstance(label.shape, Box)
    return label.shape.x1


def test_a_correction_mends_its_span(running: Running, video: str) -> None:
    """Acknowledgment, then changes before and after, then a summary; anchors and other spans stay byte for byte."""
    untouched = raw(running, video)
    messages = list(running.client.review.correct_labels(video, [box(10, x1=60)]))
    events = [message.WhichOneof("event") for message in messages]
    assert events[0] == "acknowledged"
    assert events[-1] == "summary"
    assert set(events[1:-1]) == {"differences"}
    differences = [d for m in messages for d in m.differences.differences]
    found = {d.key.frame_index: (d.before.object.box.x1, d.after.object.box.x1) for d in differences}
    assert set(found) == set(range(1, 20)) - {10}
    assert {found[frame] for frame in range(1, 5)} == {(16, 16)}  # surer or less sure than before
    assert {found[frame] for frame in [*range(6, 10), *range(11, 15)]} == {(16, 60)}
    assert {found[frame] for frame in range(16, 20)} == {(16, 30)}
    after = current(running, video)
    assert left(after[(10, "1")]) == 60
    assert after[(0, "1")] == box(0)
    assert after[(20, "1")] == box(20, x1=30)
    summary = messages[-1].summary
    assert summary.changed_count == len(found)
    assert summary.changed_frame_count == len(found)
    assert summary.micro_model_version.endswith("/versions/1")
    assert summary.duration_seconds > 0
    assert {frame: untouched[frame] for frame in (0, 20, 21, 22, 23)} == {
        frame: raw(running, video)[frame] for frame in (0, 20, 21, 22, 23)
    }
    newest = next(iter(running.client.review.list_changes(video)))
    assert newest.kind == history_pb2.CHANGE_KIND_RECOMPUTE
    assert newest.parent_revision == messages[0].acknowledged.label_revision
    assert newest.micro_model_version == summary.micro_model_version


def test_a_correction_is_undone_with_all_that_followed(running: Running, video: str) -> None:
    """UndoChange of a correction restores the spans too; a second correction works on what is there then."""
    before = current(running, video)
    first, *_ = running.client.review.correct_labels(video, [box(10, x1=60)])
    running.client.review.undo_change(video, first.acknowledged.label_revision)
    assert current(running, video) == before
    list(running.client.review.correct_labels(video, [box(4, x1=50)]))
    after = current(running, video)
    assert left(after[(3, "1")]) == 50
    assert left(after[(10, "1")]) == 50  # nearest anchor: the one on 10 is not there any more
    assert not after[(10, "1")].is_anchor


def test_deleting_an_anchor_joins_its_spans(running: Running, video: str) -> None:
    """A deletion through CorrectLabels makes the frame the micro-model's again; a prediction is just deleted."""
    list(running.client.review.correct_labels(video, [box(10, x1=60)]))
    list(running.client.review.correct_labels(video, deletions=[label_key(10, track="1")]))
    after = current(running, video)
    assert not after[(10, "1")].is_anchor
    assert left(after[(9, "1")]) == 16
    list(running.client.review.correct_labels(video, deletions=[label_key(11, track="1")]))
    assert set(current(running, video)) == set(after) - {(11, "1")}


def test_what_people_settled_stays(running: Running, video: str) -> None:
    """Accepted and locked labels are as they were after a correction beside them; the session is told of reviews."""
    list(running.client.review.correct_labels(video, [box(10, x1=60)]))
    running.client.review.review_labels(video, "accept", keys=[label_key(9, track="1")])
    running.client.review.review_labels(video, "lock", keys=[label_key(8, track="1")])
    kept = {frame: raw(running, video)[frame] for frame in (8, 9)}
    list(running.client.review.correct_labels(video, [box(5, x1=70)]))
    assert {frame: raw(running, video)[frame] for frame in (8, 9)} == kept
    assert left(current(running, video)[(6, "1")]) == 70


def test_a_session_learns_of_what_happened_elsewhere(running: Running, video: str) -> None:
    """Labels that were written or swapped by other calls count for the next correction."""
    list(running.client.review.correct_labels(video, [box(10, x1=60)]))
    running.client.write_labels(video, [box(12, x1=44), box(3, "2", x1=1)])
    list(running.client.review.correct_labels(video, [box(16, x1=80)]))
    after = current(running, video)
    assert left(after[(13, "1")]) == 44
    running.client.review.delete_track(video, "1", frames=range(14, 24))
    list(running.client.review.correct_labels(video, [box(11, x1=90)]))
    assert max(frame for frame, track in current(running, video) if track == "1") == 13


def test_a_class_belongs_to_a_track(running: Running, video: str) -> None:
    """Correcting it on one frame gives it to all labels of the track; undone, all have the old one again."""
    before = current(running, video)
    first, *_ = running.client.review.correct_labels(video, [box(10, object_class="letter")])
    assert first.acknowledged.written_count == 24  # every label of the track
    labels = current(running, video)
    assert {x.object_class for x in labels.values() if isinstance(x, Label)} == {"letter"}
    assert left(labels[(20, "1")]) == 30
    running.client.review.undo_change(video, first.acknowledged.label_revision)
    assert current(running, video) == before


def test_a_stale_base_loses_nothing(running: Running, video: str) -> None:
    """ABORTED names the keys; nothing is written, and nothing computed."""
    seen = running.client.get_video(video).label_revision
    running.client.write_labels(video, [box(10, x1=50)])
    before = raw(running, video)
    with refused("ABORTED", "REVISION_CONFLICT") as errors:
        list(running.client.review.correct_labels(video, [box(10, x1=60)], base_revision=seen))
    assert "frame 10" in errors[0].metadata["conflicts"]
    assert raw(running, video) == before


def test_two_people_correct_one_frame_at_once(running: Running, video: str) -> None:
    """Each from what he saw: one is stored, the other ABORTED with the key; he looks, repeats, and nothing is lost."""
    seen = running.client.get_video(video).label_revision
    together = threading.Barrier(2)
    outcomes: dict[str, str] = {}
    told: list[tuple[str, bool]] = []

    def correct(name: str, x1: float) -> None:
        with running.connect(str(running.store.access.issue(name, is_admin=True)[1])) as client:
            client.get_video(video)
            together.wait(60)
            try:
                list(client.review.correct_labels(video, [box(10, x1=x1)], base_revision=seen))
                outcomes[name] = "stored"
            except ApiError as error:
                outcomes[name] = error.code
                told.append((error.reason, "frame 10" in error.metadata["conflicts"]))
                newer = client.get_video(video).label_revision
                list(client.review.correct_labels(video, [box(10, x1=x1)], base_revision=newer))

    people = [threading.Thread(target=correct, args=person) for person in (("ann", 60), ("ben", 90))]
    for person in people:
        person.start()
    for person in people:
        person.join()
    assert sorted(outcomes.values()) == ["ABORTED", "stored"]
    assert told == [("REVISION_CONFLICT", True)]
    first = next(name for name, outcome in outcomes.items() if outcome == "stored")
    second = next(name for name, outcome in outcomes.items() if outcome == "ABORTED")
    drawn = [
        v for v in running.client.review.list_label_history(video, label_key(10, track="1")) if v.author in outcomes
    ]
    assert [(v.author, v.label.object.box.x1) for v in drawn] == [
        (first, {"ann": 60, "ben": 90}[first]),
        (second, {"ann": 60, "ben": 90}[second]),
    ]
    assert left(current(running, video)[(10, "1")]) == {"ann": 60, "ben": 90}[second]


def test_corrections_that_are_refused(running: Running, video: str) -> None:
    """A prediction, a class that is not there, a micro-model of another project: before anything is stored."""
    revision = running.client.get_video(video).label_revision
    with refused("INVALID_ARGUMENT", field="labels[0].provenance.kind"):
        list(running.client.review.correct_labels(video, [Label(1, "1", "square", State.ABSENT, provenance=MODEL)]))
    with refused("INVALID_ARGUMENT", field="labels[0].object.object_class"):
        list(running.client.review.correct_labels(video, [box(1, object_class="dog")]))
    with refused("INVALID_ARGUMENT", field="micro_model_version"):
        name = "projects/x/microModels/y/versions/1"
        list(running.client.review.correct_labels(video, [box(1)], micro_model_version=name))
    with refused("NOT_FOUND"):
        name = f"{video.split('/videos')[0]}/microModels/none/versions/1"
        list(running.client.review.correct_labels(video, [box(1)], micro_model_version=name))
    assert running.client.get_video(video).label_revision == revision


def test_a_correction_can_be_repeated_and_resumed(running: Running, video: str) -> None:
    """The same request_id writes and computes once, and tells the same; a resume token leaves out what was heard."""
    request = pb.CorrectLabelsRequest(parent=video, request_id=fresh_id(), labels=[label_to_message(box(10, x1=60))])
    first = list(running.stubs.corrections.CorrectLabels(request))
    again = list(running.stubs.corrections.CorrectLabels(request))
    assert again[0].acknowledged == first[0].acknowledged
    assert again[-1].summary == first[-1].summary
    assert sorted_differences(again) == sorted_differences(first)
    request.resume_token = first[-1].resume_token
    rest = list(running.stubs.corrections.CorrectLabels(request))
    assert [message.WhichOneof("event") for message in rest] == ["acknowledged", "summary"]
    request.resume_token = "nonsense"
    with refused("INVALID_ARGUMENT", field="resume_token"):
        list(running.stubs.corrections.CorrectLabels(request))


def sorted_differences(messages: list[pb.CorrectLabelsResponse]) -> list[bytes]:
    return sorted(d.SerializeToString(deterministic=True) for m in messages for d in m.differences.differences)


def test_a_crash_is_an_error_of_one_call(running: Running) -> None:
    """The labels are stored and the server lives; the next correction gets another process."""
    video = labeled(running, box(0, "crashes"), box(0, "calm", x1=60))
    with refused("INTERNAL", "WORKER_CRASHED") as errors:
        list(running.client.review.correct_labels(video, [box(10, "crashes", x1=60)]))
    assert "SIGKILL" in str(errors[0])
    assert current(running, video)[(10, "crashes")] == box(10, "crashes", x1=60)
    messages = list(running.client.review.correct_labels(video, [box(10, "calm", x1=70)]))
    assert messages[-1].HasField("summary")
    with refused("INVALID_ARGUMENT"):
        list(running.client.review.correct_labels(video, [box(10, "refuses", x1=60)]))
    assert (10, "refuses") in current(running, video)


def test_a_correction_goes_on_without_its_caller(running: Running) -> None:
    """Whoever hangs up after the acknowledgment finds everything computed by the repeated call."""
    video = labeled(running, box(0))
    gone = Label(10, "slow", "square", State.ABSENT)
    request = pb.CorrectLabelsRequest(parent=video, request_id=fresh_id(), labels=[label_to_message(gone)])
    call = running.stubs.corrections.CorrectLabels(request)
    assert next(call).HasField("acknowledged")
    call.cancel()
    messages = list(running.stubs.corrections.CorrectLabels(request))
    assert messages[-1].summary.changed_count == 23


def test_corrections_do_not_wait_for_training(running: Running) -> None:
    """While a training job holds the only heavy slot, another video is corrected."""
    video = labeled(running, box(0))
    busy = running.video().name
    running.client.write_labels(busy, [box(0, "slow")])
    before = children(running)
    training = running.client.train(busy)
    try:
        for progress in training.watch():
            if progress.HasField("training"):
                break
        assert {weight_of(pid) for pid in children(running) - before} == {running.settings.job_niceness}
        messages = list(running.client.review.correct_labels(video, [box(12, x1=60)]))
        assert messages[-1].summary.changed_count > 0
        assert not training.done()
    finally:
        training.cancel()
        with refused("CANCELLED"):
            training.result(120)


def test_suggestions_swaps_and_cuts(running: Running, video: str) -> None:
    """SuggestFrames, ListSuspectedSwaps and ListSceneCuts: what the session says, with reasons, by pages."""
    found = running.client.review.suggest_frames(video, 2, skip=[1])
    assert [(s.frame_index, s.reason, s.explanation) for s in found.suggestions] == [
        (2, pb.SUGGESTION_REASON_FAR_FROM_LABELED, "far from any label"),
        (3, pb.SUGGESTION_REASON_FAR_FROM_LABELED, "far from any label"),
    ]
    assert (found.suggestions[0].expected_gain, list(found.suggestions[0].tracks)) == (3.0, ["1"])
    assert found.label_revision == running.client.get_video(video).label_revision
    swaps = list(running.client.review.list_suspected_swaps(video))
    assert [(s.frame_index, s.meeting_frame, s.score) for s in swaps] == [(4, 3, 0.75), (8, 7, 0.25)]
    assert list(running.client.review.list_scene_cuts(video)) == [5, 11]
    page = running.stubs.corrections.ListSceneCuts(pb.ListSceneCutsRequest(parent=video, page_size=1))
    assert list(page.frame_indices) == [5]
    assert page.next_page_token
    with refused("NOT_FOUND"):
        running.client.review.suggest_frames(video[:-1] + "x")


@pytest.fixture
def small(tmp_path: Path, tiny_clip: Path) -> Iterator[Running]:
    """A server with room for one session, which ends soon."""
    made = Running(tmp_path, tiny_clip / "video.mp4", interactive_sessions=1, interactive_idle_seconds=5.0)
    try:
        yield made
    finally:
        made.stop()


def children(running: Running) -> set[int]:
    """Processes of sessions."""
    found = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                status = (folder / "stat").read_text().rsplit(")", 1)[1].split()
                command = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            # One that is about to be a zombie has no command any more.
            is_session = b"service.worker.main" in command or not command
            if int(status[1]) == os.getpid() and status[0] != "Z" and is_session:
                found.add(int(folder.name))
    return found


def weight_of(pid: int) -> int:
    """Niceness by which Linux weighs a process of a session of its own against those of others."""
    autogroup = Path(f"/proc/{pid}/autogroup")
    if autogroup.exists():
        return int(autogroup.read_text().rsplit("nice", 1)[1])
    return os.getpriority(os.PRIO_PROCESS, pid) - os.getpriority(os.PRIO_PROCESS, 0)


def eventually_gone(running: Running, pids: set[int]) -> bool:
    """Whether processes end within a generous time."""
    pause = threading.Event()
    for _ in range(6000):
        if not children(running) & pids:
            return True
        pause.wait(0.05)
    return False


def test_sessions_are_bounded_and_end(small: Running) -> None:
    """One idle session gives way to another; it ends when nobody asks, when its video goes, and with the server."""
    one, two = labeled(small, box(0)), labeled(small, box(0))
    before = children(small)
    small.client.review.suggest_frames(one)
    first = children(small) - before
    assert len(first) == 1
    small.client.review.suggest_frames(two)
    assert eventually_gone(small, first)
    assert eventually_gone(small, children(small) - before)  # nobody asks
    small.client.review.suggest_frames(two)
    third = children(small) - before
    small.client.delete_video(two)
    assert not children(small) & third
    assert list(small.client.review.correct_labels(one, [box(10, x1=60)]))[-1].HasField("summary")


def test_a_session_ends_while_somebody_has_stopped_waiting(running: Running) -> None:
    """A question that was taken back while another is computed: the session ends all the same."""
    video, before = labeled(running, box(0)), children(running)
    running.client.review.suggest_frames(video)
    (process,) = children(running) - before
    os.kill(process, signal.SIGSTOP)  # what is asked now waits
    request = pb.ListSceneCutsRequest(parent=video)
    first, second, third = (running.stubs.corrections.ListSceneCuts.future(request) for _ in range(3))
    threading.Event().wait(1.0)  # all three have come to the server
    second.cancel()
    third.cancel()
    threading.Event().wait(1.0)
    running.client.delete_video(video)
    with refused("NOT_FOUND"):
        first.result(60)
    assert eventually_gone(running, {process})


def test_too_many_at_work(small: Running) -> None:
    """Where every session is busy, a further one is refused for now; its labels are stored all the same."""
    slow, other = labeled(small, box(0)), labeled(small, box(0))
    working = small.client.review.correct_labels(slow, [box(10, "slow", x1=60)])
    assert next(working).HasField("acknowledged")
    assert next(working).HasField("differences")
    with refused("RESOURCE_EXHAUSTED"):
        list(small.client.review.correct_labels(other, [box(10, x1=60)]))
    assert current(small, other)[(10, "1")] == box(10, x1=60)
    assert list(working)[-1].HasField("summary")


def test_a_killed_session_process_is_replaced(small: Running) -> None:
    """kill -9 from outside between two questions is not noticed by the one who asks next."""
    video = labeled(small, box(0))
    before = children(small)
    small.client.review.suggest_frames(video)
    (pid,) = children(small) - before
    os.kill(pid, signal.SIGKILL)
    assert eventually_gone(small, {pid})
    assert small.client.review.suggest_frames(video).suggestions


def test_a_session_process_that_dies_unheard_is_replaced(small: Running) -> None:
    """kill -9 when the question was put, but before a word was said to it, costs nobody an answer either."""
    video = labeled(small, box(0))
    before = children(small)
    small.client.review.suggest_frames(video)
    (pid,) = children(small) - before
    os.kill(pid, signal.SIGSTOP)  # alive, and deaf
    answer = small.stubs.corrections.SuggestFrames.future(pb.SuggestFramesRequest(parent=video))
    threading.Event().wait(1.0)  # the question has come to the process
    os.kill(pid, signal.SIGKILL)
    assert answer.result(60).suggestions
    assert eventually_gone(small, {pid})
