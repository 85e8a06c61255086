"""Logs, metrics and traces: there, joined, and without what anybody has typed; and `micromodels doctor`."""

from __future__ import annotations

import io
import json
import logging
import os
import stat
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from micromodels.errors import FailedPrecondition, InvalidInput
from service.cli import app
from service.cli.checks import Level, examine
from service.settings import Settings
from service.store import Store
from service.store.metrics import watch_store
from service.telemetry.logs import set_up_logs
from service.telemetry.metrics import REGISTRY, metrics_text, serve_metrics
from service.telemetry.traces import set_up_traces, span, stop_traces, traceparent
from tests.service.api import harness
from tests.service.api.harness import Running, box, refused
from tests.service.store.helpers import ONTOLOGY, settings_in


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """What the service logs, as JSON from the lowest level on."""
    kept = {name: vars(logging.getLogger(name)).copy() for name in ("service", "micromodels")}
    stream = io.StringIO()
    set_up_logs("json", "debug", stream)
    yield stream
    for name, values in kept.items():
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = values["handlers"], values["propagate"]
        logger.setLevel(values["level"])


def test_a_call_is_a_line_without_what_was_typed(guarded: Running, logged: io.StringIO) -> None:
    """Method, status, time, user and ids; neither names for people nor what was wrong in a field."""
    project = guarded.client.create_project("Mueller", harness.ONTOLOGY).name
    with refused("INVALID_ARGUMENT"):
        guarded.client.get_video(f"{project}/videos/Hans Mueller")
    lines = [json.loads(line) for line in logged.getvalue().splitlines()]
    calls = [line for line in lines if "method" in line]
    assert calls[-1]["method"] == "micromodels.v1.VideoService/GetVideo"
    assert calls[-1]["code"] == "INVALID_ARGUMENT"
    assert calls[-1]["user"] == "root"
    assert calls[-1]["resource"] == project
    assert calls[-1]["level"] == "info"
    assert "Mueller" not in logged.getvalue()


def test_an_exception_is_told_by_class_and_place(logged: io.StringIO) -> None:
    """Its message may repeat what somebody has sent: it is left out."""
    try:
        raise ValueError("Hans Mueller")
    except ValueError:
        logging.getLogger("service.test").exception("it failed")
    line = json.loads(logged.getvalue())
    assert (line["exception"], line["message"]) == ("ValueError", "it failed")
    assert "test_telemetry.py" in line["frames"][0]
    assert "Mueller" not in logged.getvalue()


def test_metrics_count_calls_jobs_and_disk(guarded: Running) -> None:
    """By method and status; what the store knows is read when asked for; on loopback over HTTP."""
    collector = watch_store(guarded.store)
    try:
        guarded.client.access.get_caller()
        with guarded.connect() as stranger, refused("UNAUTHENTICATED"):
            stranger.access.get_caller()
        text = metrics_text().decode()
        method = "micromodels.v1.AccessService/GetCaller"
        assert f'micromodels_calls_total{{code="OK",method="{method}"}}' in text
        assert f'micromodels_calls_total{{code="UNAUTHENTICATED",method="{method}"}}' in text
        assert "micromodels_disk_free_bytes" in text
        assert "micromodels_audit_waiting_rows" in text
        guarded.video()
        assert 'micromodels_jobs{kind="probe",state="succeeded"}' in metrics_text().decode()
    finally:
        REGISTRY.unregister(collector)


def test_metrics_are_served_on_loopback(unused_tcp_port: int) -> None:
    """The usual address; a port that is taken is said to be."""
    serve_metrics(unused_tcp_port)
    with urllib.request.urlopen(f"http://127.0.0.1:{unused_tcp_port}/metrics", timeout=60) as answer:
        assert b"micromodels_call_seconds" in answer.read()
    with pytest.raises(FailedPrecondition, match="taken"):
        serve_metrics(unused_tcp_port)


@pytest.fixture
def unused_tcp_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_one_trace_goes_from_the_call_into_the_process_of_the_job(tmp_path: Path, tiny_clip: Path) -> None:
    """Call, job and child: three spans of one trace, each the parent of the next; ids only in the attributes."""
    file = tmp_path / "spans.jsonl"
    set_up_traces(str(file))
    running = Running(tmp_path, tiny_clip / "video.mp4", trace_file=str(file))
    try:
        video = running.video()
        running.client.write_labels(video.name, [box(0)])
        running.client.train(video.name).result(60)
    finally:
        running.stop()
        stop_traces()
    spans = [json.loads(line) for line in file.read_text().splitlines()]
    by_name = {found["name"]: found for found in spans}
    call = by_name["/micromodels.v1.LabelingService/Train"]
    job, child = by_name["job train"], by_name["worker train"]
    assert call["context"]["trace_id"] == job["context"]["trace_id"] == child["context"]["trace_id"]
    assert job["parent_id"] == call["context"]["span_id"]
    assert child["parent_id"] == job["context"]["span_id"]
    assert job["attributes"]["video"] == video.name
    assert str(tiny_clip) not in file.read_text()


def test_without_a_place_to_send_them_nothing_is_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tracer, no header; an exporter that is not installed is an error."""
    monkeypatch.delenv("OTEL_TRACES_EXPORTER", raising=False)
    set_up_traces()
    with span("nothing"):
        assert traceparent() == ""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "carrier-pigeon")
    with pytest.raises(InvalidInput, match="carrier-pigeon"):
        set_up_traces()


def test_the_doctor_finds_a_healthy_server(tmp_path: Path) -> None:
    """Every check says something; nothing is left behind; JSON for programs."""
    with Store.open(settings_in(tmp_path)) as store:
        store.projects.create("p", ONTOLOGY)
    before = sorted(path.name for path in tmp_path.rglob("*") if not path.name.startswith("database.sqlite-"))
    result = CliRunner().invoke(app, ["doctor", "--json", "--data", str(tmp_path), "--port", "1"])
    findings = [json.loads(line) for line in result.stdout.splitlines()]
    subjects = {finding["subject"] for finding in findings}
    assert subjects >= {
        "versions",
        "processor",
        "gpu",
        "codecs",
        "weights",
        "disk",
        "database",
        "port",
        "job processes",
    }
    assert all(finding["advice"] for finding in findings if finding["level"] != "good")
    (database,) = [finding for finding in findings if finding["subject"] == "database"]
    assert database["level"] == "good"
    ports = [finding["text"] for finding in findings if finding["subject"] == "port"]
    assert [any(f" port {number}" in text for text in ports) for number in (1, 8080)] == [True, True]
    after = sorted(path.name for path in tmp_path.rglob("*") if not path.name.startswith("database.sqlite-"))
    assert before == after


def test_the_doctor_finds_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged database, a full disk, an open key: each is bad, with advice, and the exit code is 5."""
    monkeypatch.setattr("service.cli.checks.CHECKS", _quick_checks())
    settings = Settings(data_dir=tmp_path, min_free_bytes=1 << 50)
    (tmp_path / "database.sqlite").write_bytes(b"not a database at all" * 100)
    (tmp_path / "tls").mkdir()
    (tmp_path / "tls" / "server.key").write_text("key")
    os.chmod(tmp_path / "tls" / "server.key", 0o644)
    bad = {finding.subject: finding for finding in examine(settings, "127.0.0.1", 1) if finding.level is Level.BAD}
    assert set(bad) == {"disk", "database", "certificates"}
    assert all(finding.advice for finding in bad.values())
    os.chmod(tmp_path, 0o755)
    notes = [finding.text for finding in examine(settings, "127.0.0.1", 1) if finding.level is Level.NOTE]
    assert any("open to every user" in text for text in notes)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    result = CliRunner().invoke(app, ["doctor", "--data", str(tmp_path)])
    assert result.exit_code == 5
    assert "chmod 600" in result.output


@pytest.mark.parametrize(("url", "level"), [("memory://bucket", Level.GOOD), ("nowhere://x", Level.BAD)])
def test_the_doctor_asks_the_object_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, level: Level
) -> None:
    """Whether it answers, and takes what is written."""
    from service.cli import checks

    monkeypatch.setattr(checks, "CHECKS", (checks._object_store,))
    settings = Settings(data_dir=tmp_path, object_store_url=url)
    (finding,) = examine(settings, "127.0.0.1", 1)
    assert (finding.subject.replace("_", " "), finding.level) == ("object store", level)


def _quick_checks() -> object:
    from service.cli import checks

    return (checks._disk, checks._database, checks._access)
