"""Protocol F on a running server: the simulated reviewer works over gRPC, like an annotation tool."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable

from micromodels.client import Client
from micromodels.client.messages import label_from_message
from micromodels.client.reviewing import label_key
from micromodels.labels.keys import by_frame
from micromodels.types import AnyLabel, FrameResult, ObjectClass, Ontology
from scripts.benchmark.datasets import Clip
from scripts.benchmark.simulated_reviewers import RetrainPolicy, Times

__all__ = ["GrpcReviewer"]


class GrpcReviewer:
    """Labels and corrects a clip on a server; see ``SimulatedReviewer``. Its project is deleted at the end.

    A server retrains when its annotator pauses. The simulated reviewer does not pause, so it requests retraining when
    due; that time is counted as background. Drawing takes some time, in which the server gets ready.

    Args:
        clip: the truth; its source must be below an allowed root of the server.
        address: address of the server.
        retrain_corrections: number of corrections after a training that trigger the next one; 0 for never.
        drawing_seconds: time to wait before a correction is sent; not counted.
    """

    def __init__(self, clip: Clip, address: str, retrain_corrections: int, drawing_seconds: float) -> None:
        self._clip, self._policy, self._drawing_seconds = clip, RetrainPolicy(retrain_corrections), drawing_seconds
        self._client = Client(address)
        ontology = Ontology(tuple(ObjectClass(name) for name in dict.fromkeys(clip.tracks.values())))
        self._project = self._client.create_project(f"Protocol F {clip.name} {uuid.uuid4().hex[:8]}", ontology).name
        self._video = self._client.register_video(self._project, str(clip.source)).name
        self._labels: dict[tuple[int, str], AnyLabel] = {}
        self.times = Times()

    def update(self, frame: int | None) -> list[FrameResult]:
        """See ``SimulatedReviewer``."""
        time.sleep(0.0 if frame is None else self._drawing_seconds)
        started = time.perf_counter()
        touched = self._label() if frame is None else self._correct(frame, started)
        self.times.waits.append(time.perf_counter() - started)
        started = time.perf_counter()
        touched |= set() if frame is None else self._trained_again()
        self.times.background.append(time.perf_counter() - started)
        labels = (label for label in self._labels.values() if label.frame in touched)
        return [FrameResult(index, tuple(objects), tuple(classes)) for index, objects, classes in by_frame(labels)]

    def _label(self) -> set[int]:
        seeds = self._clip.seeds(self._clip.known_frames()[:1])
        return {self._put(label) for label in self._client.auto_label(self._video, seeds).labels()}

    def _correct(self, frame: int, started: float) -> set[int]:
        drawn = self._clip.seeds([frame])
        touched = {self._put(label) for label in drawn}
        first: float | None = None
        for message in self._client.review.correct_labels(self._video, drawn):
            for difference in message.differences.differences:
                if difference.HasField("after"):
                    touched.add(self._put(label_from_message(difference.after)))
                    first = time.perf_counter() - started if first is None else first
        self.times.first_changes += [] if first is None else [first]
        return touched

    def _trained_again(self) -> set[int]:
        if not self._policy.is_due_after_correction():
            return set()
        took_over = self._client.retrain(self._video).result().replaced
        self._policy.tried(took_over)
        return {self._put(label) for label in self._client.read_labels(self._video)} if took_over else set()

    def _put(self, label: AnyLabel) -> int:
        self._labels[label.frame, getattr(label, "track", "")] = label
        return label.frame

    def accept(self, frame: int) -> None:
        """See ``SimulatedReviewer``."""
        keys = [label_key(at, track=track) for at, track in self._labels if at == frame]
        self._client.review.review_labels(self._video, "accept", keys=keys)

    def suggest(self, skip: Iterable[int]) -> int | None:
        """See ``SimulatedReviewer``."""
        found = self._client.review.suggest_frames(self._video, 1, skip=skip).suggestions
        return int(found[0].frame_index) if found else None

    def close(self) -> None:
        """Delete the project, and disconnect."""
        self._client.delete_project(self._project, force=True)
        self._client.close()
