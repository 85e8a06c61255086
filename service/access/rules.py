"""Which permission each method requires, and which request field names its resource.

The interceptor refuses methods that are not in this table. A test fails if the protos declare a method that is missing
here. Add a line for each new RPC.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from service.domain.access import Permission

__all__ = ["RULES", "Rule", "Subject", "subject_of"]

_PROJECT = re.compile(r"projects/([a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)((?:/[A-Za-z]+/[a-z0-9-]{1,63})*)(?:/.*)?", re.S)
_READ, _WORK, _REVIEW, _CURATE, _MANAGE, _SERVER = (
    Permission.READ,
    Permission.WORK,
    Permission.REVIEW,
    Permission.CURATE,
    Permission.MANAGE,
    Permission.SERVER,
)


@dataclass(frozen=True, slots=True)
class Rule:
    """What one method requires."""

    permission: Permission
    field: str = "name"
    """Dotted path of the field with the resource name; empty if the call is about no project."""
    is_audited: bool = True
    """False for upload chunks: the audit log has the upload's start and end."""


@dataclass(frozen=True, slots=True)
class Subject:
    """The resource of a request, by ids only."""

    project_id: str
    """Empty if the name is malformed."""
    resource: str


def subject_of(rule: Rule, request: Any) -> Subject:
    """The resource of a request."""
    if not rule.field:
        return Subject("", "")
    value = request
    for part in rule.field.split("."):
        value = getattr(value, part)
    match = _PROJECT.fullmatch(value)
    return Subject(match[1], f"projects/{match[1]}{match[2]}") if match else Subject("", "")


def _service(name: str, rules: Mapping[str, Rule]) -> dict[str, Rule]:
    return {f"/{name}/{method}": rule for method, rule in rules.items()}


RULES: Mapping[str, Rule] = {
    **_service(
        "micromodels.v1.ProjectService",
        {
            "CreateProject": Rule(_SERVER, ""),
            "GetProject": Rule(_READ),
            "ListProjects": Rule(Permission.SIGNED_IN, ""),  # gives the caller's own
            "UpdateProject": Rule(_MANAGE, "project.name"),
            "DeleteProject": Rule(_MANAGE),
        },
    ),
    **_service(
        "micromodels.v1.VideoService",
        {
            "StartUpload": Rule(_WORK, "parent"),
            "UploadChunk": Rule(_WORK, is_audited=False),
            "GetUpload": Rule(_READ),
            "FinishUpload": Rule(_WORK),
            "DeleteUpload": Rule(_WORK),
            "RegisterVideo": Rule(_WORK, "parent"),
            "GetVideo": Rule(_READ),
            "ListVideos": Rule(_READ, "parent"),
            "ListFrames": Rule(_READ, "parent"),
            "DeleteVideo": Rule(_CURATE),
        },
    ),
    **_service(
        "micromodels.v1.LabelService",
        {
            "WriteLabels": Rule(_WORK, "parent"),
            "StreamLabels": Rule(_READ, "parent"),
            "DeleteLabels": Rule(_WORK, "parent"),
        },
    ),
    **_service(
        "micromodels.v1.LabelingService",
        {
            "Train": Rule(_WORK, "video"),
            "Propagate": Rule(_WORK, "video"),
            "Retrain": Rule(_WORK, "video"),
            "Export": Rule(_WORK, "video"),
            "StopEarly": Rule(_WORK),
            "WatchTraining": Rule(_READ),
            "AutoLabel": Rule(_WORK, "parent"),
        },
    ),
    **_service("micromodels.v1.CapabilityService", {"GetCapabilities": Rule(Permission.SIGNED_IN, "")}),
    **_service(
        "micromodels.v1.CorrectionService",
        {
            "CorrectLabels": Rule(_WORK, "parent"),
            "SuggestFrames": Rule(_READ, "parent"),
            "ListSuspectedSwaps": Rule(_READ, "parent"),
            "ListSceneCuts": Rule(_READ, "parent"),
        },
    ),
    **_service(
        "micromodels.v1.TrackService",
        {name: Rule(_WORK, "parent") for name in ("SwapTracks", "SplitTrack", "MergeTracks", "DeleteTrack")},
    ),
    **_service(
        "micromodels.v1.ReviewService",
        {
            "ReviewLabels": Rule(_REVIEW, "parent"),
            "AcceptLabels": Rule(_REVIEW, "parent"),
            "CreateComment": Rule(_WORK, "parent"),
            "ListComments": Rule(_READ, "parent"),
            "DeleteComment": Rule(_WORK),  # of others' comments: OBJECT_RULES
        },
    ),
    **_service(
        "micromodels.v1.AssignmentService",
        {
            "CreateAssignment": Rule(_REVIEW, "parent"),
            "GetAssignment": Rule(_READ),
            "ListAssignments": Rule(_READ, "parent"),
            "WriteAssignedLabels": Rule(_WORK),
            "ListAssignedLabels": Rule(_READ, "parent"),
            "GetAgreement": Rule(_READ),
            "AdjudicateAssignment": Rule(_REVIEW),
        },
    ),
    **_service("micromodels.v1.DiagnosticsService", {"GetDiagnostics": Rule(_READ)}),
    **_service(
        "micromodels.v1.HistoryService",
        {
            "ListLabelHistory": Rule(_READ, "parent"),
            "ListChanges": Rule(_READ, "parent"),
            "UndoChange": Rule(_WORK, "parent"),  # of others' changes: OBJECT_RULES
        },
    ),
    **_service(
        "micromodels.v1.MicroModelService",
        {
            "GetMicroModelVersion": Rule(_READ),
            "ListMicroModelVersions": Rule(_READ, "parent"),
            "DeleteMicroModelVersion": Rule(_CURATE),
        },
    ),
    **_service("micromodels.v1.FileService", {"ReadFile": Rule(_READ)}),
    **_service(
        "google.longrunning.Operations",
        {
            "GetOperation": Rule(_READ),
            "ListOperations": Rule(_READ),
            "WaitOperation": Rule(_READ),
            "CancelOperation": Rule(_WORK),
            "DeleteOperation": Rule(_CURATE),
        },
    ),
    **_service(
        "micromodels.v1.AuditService",
        {
            "ListAuditEntries": Rule(_MANAGE, "parent"),
            "VerifyAudit": Rule(_SERVER, ""),
            "GetDeletionReceipt": Rule(_CURATE),
        },
    ),
    **_service(
        "micromodels.v1.AccessService",
        {
            "GetCaller": Rule(Permission.SIGNED_IN, ""),
            "IssueToken": Rule(_SERVER, ""),
            "ListTokens": Rule(_SERVER, ""),
            "RevokeToken": Rule(Permission.SIGNED_IN, ""),  # of others: SERVER
            "RotateToken": Rule(Permission.SIGNED_IN, ""),  # of others: SERVER
            "SetMember": Rule(_MANAGE, "parent"),
            "ListMembers": Rule(_MANAGE, "parent"),
            "RemoveMember": Rule(_MANAGE),
        },
    ),
}
"""By full gRPC method name."""
