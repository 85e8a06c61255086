"""``AssignmentService``: two people label the same frames without seeing each other's labels."""

from __future__ import annotations

from micromodels.client.messages import label_to_message
from micromodels.errors import InvalidInput
from micromodels.types import Label
from micromodels.v1 import assignment_pb2 as pb
from micromodels.v1 import assignment_pb2_grpc
from service.access import current_caller
from service.api import names
from service.api.backend import Backend, Context
from service.api.labels import MAX_LABELS, check_count, check_label, parse_labels
from service.api.messages import key_from_message, timestamp
from service.api.page_tokens import decode_token, encode_token, page_size
from service.domain.history import Assignment
from service.reports.agreement import agreement

__all__ = ["AssignmentServicer"]

_PAGE = (50, 1000)
_LABEL_PAGE = (500, 1000)


class AssignmentServicer(assignment_pb2_grpc.AssignmentServiceServicer):
    """Blind double annotation.

    Args:
        backend: the store.
    """

    def __init__(self, backend: Backend) -> None:
        self._run = backend.run
        self._store = backend.store

    async def CreateAssignment(self, request: pb.CreateAssignmentRequest, context: Context) -> pb.Assignment:
        """See the proto."""
        made = await self._run(
            self._store.assignments.create,
            *names.video_ids(request.parent),
            list(request.assignment.frame_indices),
            list(request.assignment.annotators),
            author=current_caller().name,
            request_id=request.request_id,
        )
        return _message(made)

    async def GetAssignment(self, request: pb.GetAssignmentRequest, context: Context) -> pb.Assignment:
        """See the proto."""
        return _message(await self._run(self._store.assignments.get, *_ids(request.name)))

    async def ListAssignments(self, request: pb.ListAssignmentsRequest, context: Context) -> pb.ListAssignmentsResponse:
        """See the proto."""
        limit = page_size(request.page_size, _PAGE)
        after = decode_token("page_token", request.page_token, request.parent) or ""
        ids = names.video_ids(request.parent)
        page = await self._run(self._store.assignments.list, *ids, after=after, limit=limit)
        token = encode_token(request.parent, page.next_after) if page.next_after else ""
        return pb.ListAssignmentsResponse(assignments=map(_message, page.items), next_page_token=token)

    async def WriteAssignedLabels(self, request: pb.WriteAssignedLabelsRequest, context: Context) -> pb.Assignment:
        """See the proto."""
        return _message(await self._run(self._write, request))

    def _write(self, request: pb.WriteAssignedLabelsRequest) -> Assignment:
        ids = _ids(request.name)
        labels = parse_labels(request.labels, "labels")
        check_count("deletions", len(request.deletions), MAX_LABELS)
        deletes = [key_from_message(key, f"deletions[{index}]") for index, key in enumerate(request.deletions)]
        video = self._store.videos.get(ids[0], ids[1])
        ontology = self._store.projects.get(ids[0]).ontology
        known = {c.name for c in ontology.object_classes} | {c.name for c in ontology.frame_classes}
        for index, label in enumerate(labels):
            where = f"labels[{index}]"
            if not label.is_anchor:
                raise InvalidInput(f"{where}.provenance.kind", label.provenance.kind.value, "human, or unset")
            name = label.object_class if isinstance(label, Label) else label.frame_class
            if name not in known:
                raise InvalidInput(f"{where}.class", name, "a class of the project: " + ", ".join(sorted(known)))
            check_label(label, video, where)
        return self._store.assignments.write(
            ids,
            labels,
            deletes,
            annotator=current_caller().name,
            submit=request.submit,
            request_id=request.request_id,
        )

    async def ListAssignedLabels(
        self, request: pb.ListAssignedLabelsRequest, context: Context
    ) -> pb.ListAssignedLabelsResponse:
        """See the proto."""
        ids = _ids(request.parent, "parent")
        limit = page_size(request.page_size, _LABEL_PAGE)
        binding = [request.parent, request.annotator]
        start = decode_token("page_token", request.page_token, binding) or 0
        reader = current_caller().name
        found = await self._run(self._store.assignments.labels, ids, request.annotator or reader, reader=reader)
        token = encode_token(binding, start + limit) if len(found) > start + limit else ""
        page = [label_to_message(label) for label in found[start : start + limit]]
        return pb.ListAssignedLabelsResponse(labels=page, next_page_token=token)

    async def GetAgreement(self, request: pb.GetAgreementRequest, context: Context) -> pb.Agreement:
        """See the proto."""
        return await self._run(self._agreement, _ids(request.name))

    def _agreement(self, ids: tuple[str, str, str]) -> pb.Agreement:
        made, video = self._store.assignments.get(*ids), self._store.videos.get(ids[0], ids[1])
        # No reader sees either side before both have submitted; one who is neither annotator is refused until then.
        one, other = (self._store.assignments.labels(ids, name, reader="") for name in made.annotators)
        found = agreement(one, other, made.frames, video.height_px, video.width_px)
        return pb.Agreement(
            frame_count=found.frames,
            object_count=found.objects,
            matched_count=found.matched,
            mean_iou=found.mean_iou,
            state_kappa=found.state_kappa,
            class_kappa=found.class_kappa,
            frame_class_kappa=found.frame_class_kappa,
        )

    async def AdjudicateAssignment(self, request: pb.AdjudicateAssignmentRequest, context: Context) -> pb.Assignment:
        """See the proto."""
        made = await self._run(
            self._store.assignments.adjudicate,
            _ids(request.name),
            request.annotator,
            dict(request.choices),
            author=current_caller().name,
            request_id=request.request_id,
        )
        return _message(made)


def _ids(name: str, field: str = "name") -> tuple[str, str, str]:
    project_id, video_id, assignment_id = names.ASSIGNMENT.parse(name, field)
    return project_id, video_id, assignment_id


def _message(made: Assignment) -> pb.Assignment:
    return pb.Assignment(
        name=names.ASSIGNMENT.format(made.project_id, made.video_id, made.assignment_id),
        frame_indices=made.frames,
        annotators=made.annotators,
        submitted_annotators=made.submitted,
        author=made.author,
        create_time=timestamp(made.created_at),
        adjudicator=made.adjudicator,
        adjudication_time=timestamp(made.adjudicated_at) if made.adjudicated_at else None,
        label_revision=made.adjudicated_revision,
    )
