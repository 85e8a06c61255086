"""The protos, what is generated from them, and that every call is described and tried."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from google.longrunning import operations_proto_pb2
from google.protobuf.descriptor import FieldDescriptor, FileDescriptor, MethodDescriptor

from micromodels.client.connection import _SERVICE_CONFIG
from micromodels.v1 import (
    access_pb2,
    assignment_pb2,
    audit_pb2,
    capabilities_pb2,
    correction_pb2,
    diagnostics_pb2,
    error_reason_pb2,
    file_pb2,
    history_pb2,
    label_pb2,
    labeling_pb2,
    micro_model_pb2,
    project_pb2,
    review_pb2,
    track_pb2,
    video_pb2,
)
from service.api import SERVICES, errors, history_messages, messages

FILES: list[FileDescriptor] = [
    module.DESCRIPTOR
    for module in (
        access_pb2,
        assignment_pb2,
        audit_pb2,
        capabilities_pb2,
        correction_pb2,
        diagnostics_pb2,
        error_reason_pb2,
        file_pb2,
        history_pb2,
        label_pb2,
        labeling_pb2,
        micro_model_pb2,
        project_pb2,
        review_pb2,
        track_pb2,
        video_pb2,
    )
]
METHODS: list[MethodDescriptor] = [
    method
    for file in (*FILES, operations_proto_pb2.DESCRIPTOR)
    for service in file.services_by_name.values()
    for method in service.methods
]


def test_stubs_and_reference_are_what_the_protos_give(repository: Path) -> None:
    """`scripts/generate --check`: no drift; and buf finds style, comments, format and compatibility in order."""
    done = subprocess.run(
        [sys.executable, str(repository / "scripts/generate"), "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("  // Left edge.\n", ""), "should have a non-empty comment"),
        (("double x1 = 1;", "float x1 = 1;"), "changed type"),
        (("double x1 = 1;", "double X1 = 1;"), "should be lower_snake_case"),
        (("double x1 = 1;", "double   x1 = 1;"), "double   x1"),
    ],
    ids=["comment", "breaking", "style", "format"],
)
def test_buf_would_find_it(repository: Path, tmp_path: Path, change: tuple[str, str], words: str) -> None:
    """The check fails for a field without comment, an incompatible change, a bad name and bad spacing."""
    (tmp_path / "scripts").mkdir()
    for name in ("generate", "api_docs"):
        (tmp_path / "scripts" / name).write_bytes((repository / "scripts" / name).read_bytes())
    for path in (*(repository / "protos").rglob("*"), *(repository / "micromodels/v1").glob("*.py*")):
        if path.is_file():
            target = tmp_path / path.relative_to(repository)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    label = tmp_path / "protos/micromodels/v1/label.proto"
    text = label.read_text()
    assert change[0] in text
    label.write_text(text.replace(*change))
    done = subprocess.run(
        [sys.executable, str(tmp_path / "scripts/generate"), "--check"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert words in done.stdout + done.stderr


def test_the_server_has_every_service() -> None:
    """What the protos declare is what health and reflection tell of, and nothing else."""
    declared = {service.full_name for file in FILES for service in file.services_by_name.values()}
    assert declared | {"google.longrunning.Operations"} == set(SERVICES)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: str(method.full_name))
def test_every_call_is_described_and_tried(repository: Path, method: MethodDescriptor) -> None:
    """Its section is in docs/reference/api.md, and some test of the API calls it."""
    reference = (repository / "docs/reference/api.md").read_text()
    if method.full_name.startswith("micromodels"):
        assert f"### {method.containing_service.name}.{method.name}\n" in reference
    else:
        assert method.name in reference
    folders = (repository / "tests/service/api", repository / "tests/service/access")
    tests = "".join(path.read_text() for folder in folders for path in folder.glob("test_*.py"))
    by_client = re.sub(r"(?<!^)(?=[A-Z])", "_", method.name).lower()
    assert re.search(rf"stubs\.\w+\.{method.name}\b|\boperations\.{method.name}\(|\.{by_client}\(", tests)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_call_has_a_method_in_the_client(method: MethodDescriptor, repository: Path) -> None:
    """Nobody needs the stubs for anything."""
    client = "".join(path.read_text() for path in (repository / "micromodels/client").glob("*.py"))
    assert re.search(rf"stubs\.\w+\.{method.name}\b", client)


def test_calls_that_start_something_can_be_repeated() -> None:
    """Whatever makes or changes something that has no name of its own yet takes a request_id."""
    starting = ("Create", "Start", "Write", "Register", "Train", "Propagate", "Export", "AutoLabel", "Correct", "Undo")
    starting += ("Retrain", "Swap", "Split", "Merge", "DeleteTrack", "ReviewLabels", "Accept", "Adjudicate")
    found = [m for m in METHODS if m.name.startswith(starting) and m.full_name.startswith("micromodels")]
    assert len(found) == 21
    assert all("request_id" in m.input_type.fields_by_name for m in found)


def test_unary_calls_are_repeated_by_the_client_unless_they_make_something_each_time() -> None:
    """The list of what is retried is complete: a new call is retried, or exempt by name."""
    exempt = {"micromodels.v1.AccessService/IssueToken", "micromodels.v1.AccessService/RotateToken"}
    (config,) = json.loads(_SERVICE_CONFIG)["methodConfig"]
    services = {entry["service"] for entry in config["name"] if "method" not in entry}
    methods = {f"{entry['service']}/{entry['method']}" for entry in config["name"] if "method" in entry}
    unary = [method for method in METHODS if not (method.server_streaming or method.client_streaming)]
    names = {f"{m.containing_service.full_name}/{m.name}": m.containing_service.full_name for m in unary}
    missing = {name for name, service in names.items() if service not in services and name not in methods}
    assert missing == exempt
    assert methods <= set(names)


def test_lists_have_pages() -> None:
    """Every List call has page_size, page_token and next_page_token."""
    for method in METHODS:
        if method.name.startswith("List"):
            assert {"page_size", "page_token"} <= set(method.input_type.fields_by_name)
            assert "next_page_token" in method.output_type.fields_by_name


def test_streams_that_can_be_long_have_a_resume_position() -> None:
    """Every stream of messages can be gone on with."""
    streams = [method for method in METHODS if method.server_streaming]
    assert len(streams) == 5
    for method in streams:
        position = "offset" if method.name == "ReadFile" else "resume_token"
        assert position in method.input_type.fields_by_name
        assert position in method.output_type.fields_by_name


def test_every_error_reason_that_is_sent_is_declared() -> None:
    """The table of errors and the enum in the protos name the same reasons."""
    rows = [*errors._TABLE.values(), *errors._BY_JOB_REASON.values(), errors._INTERNAL]
    sent = {row.reason for row in rows} | {"REQUEST_ID_REUSED"}
    declared = {name.removeprefix("ERROR_REASON_") for name in error_reason_pb2.ErrorReason.keys()}  # noqa: SIM118
    assert declared - {"UNSPECIFIED"} == sent


def test_enums_are_mapped_whole() -> None:
    """Each value of the store's enums has one in the API, and the other way round."""
    for table, enum in (
        (messages._VIDEO_STATES, video_pb2.VideoState),
        (messages._UPLOAD_STATES, video_pb2.UploadState),
        (messages._KINDS, labeling_pb2.OperationKind),
        (messages._STATES, labeling_pb2.OperationState),
        (history_messages._KINDS, history_pb2.ChangeKind),
        (history_messages._ACTIONS, history_pb2.ReviewAction),
    ):
        domain = type(next(iter(table)))
        assert set(table) == set(domain)
        assert set(table.values()) == set(enum.values()) - {0}


def test_frames_are_counted_in_64_bits() -> None:
    """Frame indices and sizes have one type everywhere."""
    for file in FILES:
        for message in file.message_types_by_name.values():
            for field in message.fields:
                if field.name.endswith(("frame_index", "_frame", "_bytes", "_revision")):
                    assert field.type == FieldDescriptor.TYPE_INT64, field.full_name
