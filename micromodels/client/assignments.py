"""Blind double annotation: two people label the same frames independently, and a third one adjudicates."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence

from micromodels.client.connection import Connection
from micromodels.client.messages import label_batches, label_from_message
from micromodels.types import AnyLabel
from micromodels.v1 import assignment_pb2, label_pb2

__all__ = ["Assignments"]


class Assignments:
    """The calls of ``AssignmentService``; ``Client.assignments`` is one. Every method may raise ``ApiError``.

    Args:
        connection: the client's.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stubs = connection.stubs

    def create_assignment(
        self, video: str, frames: Iterable[int], annotators: tuple[str, str]
    ) -> assignment_pb2.Assignment:
        """Assign frames of a video to two annotators, by user name."""
        wanted = assignment_pb2.Assignment(frame_indices=frames, annotators=annotators)
        request = assignment_pb2.CreateAssignmentRequest(parent=video, assignment=wanted, request_id=_request_id())
        made: assignment_pb2.Assignment = self._connection.call(self._stubs.assignments.CreateAssignment, request)
        return made

    def get_assignment(self, name: str) -> assignment_pb2.Assignment:
        """Read an assignment: who has submitted, and who adjudicated."""
        request = assignment_pb2.GetAssignmentRequest(name=name)
        found: assignment_pb2.Assignment = self._connection.call(self._stubs.assignments.GetAssignment, request)
        return found

    def list_assignments(self, video: str) -> Iterator[assignment_pb2.Assignment]:
        """The assignments of a video, oldest first."""
        request = assignment_pb2.ListAssignmentsRequest(parent=video)
        for page in self._connection.pages(self._stubs.assignments.ListAssignments, request):
            yield from page.assignments

    def write_assigned_labels(
        self,
        name: str,
        labels: Iterable[AnyLabel] = (),
        *,
        deletions: Sequence[label_pb2.LabelKey] = (),
        submit: bool = False,
    ) -> assignment_pb2.Assignment:
        """Write and delete the caller's labels of an assignment; a label replaces the caller's earlier one of its key.

        Args:
            name: of the assignment.
            labels: any number, on assigned frames; sent in batches, each completely or not at all.
            deletions: keys of the caller's labels to delete, at most 10000; see ``label_key``.
            submit: whether the caller is done: once this is stored, the caller can no longer write.
        """
        batches = [*label_batches(labels)] or [[]]
        for index, batch in enumerate(batches):
            request = assignment_pb2.WriteAssignedLabelsRequest(name=name, labels=batch, request_id=_request_id())
            if index == len(batches) - 1:
                request.deletions.extend(deletions)
                request.submit = submit
            answer: assignment_pb2.Assignment = self._connection.call(
                self._stubs.assignments.WriteAssignedLabels, request
            )
        return answer

    def list_assigned_labels(self, name: str, *, annotator: str = "") -> Iterator[AnyLabel]:
        """Labels of an annotator in order of frames: the caller's own any time, others' once both have submitted."""
        request = assignment_pb2.ListAssignedLabelsRequest(parent=name, annotator=annotator)
        for page in self._connection.pages(self._stubs.assignments.ListAssignedLabels, request):
            yield from map(label_from_message, page.labels)

    def get_agreement(self, name: str) -> assignment_pb2.Agreement:
        """Agreement of the two: mean IoU, and Cohen's kappa of states and classes."""
        request = assignment_pb2.GetAgreementRequest(name=name)
        found: assignment_pb2.Agreement = self._connection.call(self._stubs.assignments.GetAgreement, request)
        return found

    def adjudicate_assignment(
        self, name: str, annotator: str, choices: Mapping[int, str] | None = None
    ) -> assignment_pb2.Assignment:
        """Adjudicate: the chosen labels become hand labels of the video, in one change.

        Args:
            name: of the assignment.
            annotator: whose labels to take on frames that ``choices`` does not name.
            choices: by frame, whose labels to take.
        """
        request = assignment_pb2.AdjudicateAssignmentRequest(
            name=name, annotator=annotator, choices=choices, request_id=_request_id()
        )
        done: assignment_pb2.Assignment = self._connection.call(self._stubs.assignments.AdjudicateAssignment, request)
        return done


def _request_id() -> str:
    return str(uuid.uuid4())
