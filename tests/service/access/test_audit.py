"""The audit: what has a row, that rows hold nothing of patients, and that the chain shows every change."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from micromodels.client import Client
from micromodels.errors import InvalidInput
from service.access import Call, calling
from service.cli import app
from service.domain.access import LOCAL_OWNER, AuditRow, Role
from service.domain.errors import Aborted, StorageFailure
from service.store import Store, schema
from tests.service.api import harness
from tests.service.api.harness import Running, box, refused
from tests.service.store.helpers import ONTOLOGY, labels_of, ready_video, settings_in
from tests.service.store.helpers import box as cell

Member = Callable[[str, Role], Client]


def rows_of(running: Running, project: str) -> list[AuditRow]:
    return list(running.store.audit.rows(project_id=project.removeprefix("projects/")))


def test_reads_and_writes_have_rows(guarded: Running, member: Member) -> None:
    """Who, what, which revision, with which outcome; what a job writes is its author's; nothing a person has typed."""
    secret_words = ("Mueller", "Station 7", "video.mp4", str(guarded.clip))
    project = guarded.client.create_project("Mueller", harness.ONTOLOGY)
    client = member(project.name, Role.ADMIN)
    video = client.register_video(project.name, str(guarded.clip), display_name="Station 7", timeout_seconds=60)
    revision = client.write_labels(video.name, [box(0), box(12)])
    assert len(list(client.read_labels(video.name))) == 2
    client.train(video.name).result(60)
    with refused("INVALID_ARGUMENT"):
        client.get_video(f"{project.name}/videos/Mueller, Hans")
    found = rows_of(guarded, project.name)
    calls = {row.method.rsplit("/", 1)[1]: row for row in found if row.method.startswith("micromodels")}
    written = calls["WriteLabels"]
    assert (written.actor, written.resource, written.outcome) == ("admin-0", video.name, "OK")
    assert (written.revision, written.detail["labels_written"]) == (revision, 2)
    assert written.token_id
    assert calls["StreamLabels"].resource == video.name
    assert calls["GetVideo"].outcome == "INVALID_ARGUMENT"
    jobs = [row for row in found if row.method == "job/train"]
    assert {row.actor for row in jobs} == {"admin-0"}
    assert jobs[-1].detail["state"] == "succeeded"
    assert any("micro_model" in row.detail for row in jobs)
    with guarded.store._database.begin() as connection:
        text = json.dumps([list(row) for row in connection.execute(sa.select(schema.audit))], default=str)
    for word in secret_words:
        assert word not in text
    assert guarded.store.audit.verify().problem == ""


def test_what_a_session_computes_is_audited_as_the_askers(guarded: Running, member: Member) -> None:
    """A correction has its row, and what follows from it another; a video that is deleted leaves no session."""
    video = guarded.video().name
    assert list(guarded.client.auto_label(video, [box(0), box(20, x1=30)]).labels())
    project = video.split("/videos/")[0]
    client = member(project, Role.SERVICE)
    assert list(client.review.correct_labels(video, [box(10, x1=60)]))
    rows = [row for row in rows_of(guarded, project) if row.actor == "service-0"]
    corrected = [row for row in rows if row.method.endswith("/CorrectLabels") and row.detail]
    assert [row.detail["labels_written"] for row in corrected] == [1]
    computed = [row for row in rows if row.method == "session/correct"]
    assert {row.resource for row in computed} == {video}
    assert sum(row.detail.get("labels_written", 0) for row in computed) > 0
    client.delete_video(video)
    assert guarded.client.access.get_deletion_receipt(video).entry.user == "service-0"
    assert not [path for path in guarded.settings.data_dir.rglob("session-*")]


def test_the_api_gives_the_rows_and_verifies_them(guarded: Running, member: Member) -> None:
    """ListAuditEntries by pages and by resource, for administrators alone; VerifyAudit for the server's."""
    project = guarded.project().name
    admin, viewer = member(project, Role.ADMIN), member(project, Role.VIEWER)
    for _ in range(3):
        admin.get_project(project)
    entries = list(admin.access.list_audit_entries(project))
    assert [entry.method for entry in entries].count("micromodels.v1.ProjectService/GetProject") == 3
    assert [entry.sequence for entry in entries] == sorted(entry.sequence for entry in entries)
    assert list(admin.access.list_audit_entries(project, resource=f"{project}/videos/none")) == []
    with refused("INVALID_ARGUMENT", "INVALID_INPUT", "resource"):
        list(admin.access.list_audit_entries(project, resource="projects/other"))
    with refused("PERMISSION_DENIED"):
        list(viewer.access.list_audit_entries(project))
    with refused("PERMISSION_DENIED"):
        admin.access.verify_audit()
    report = guarded.client.access.verify_audit()
    assert report.problem == ""
    assert report.row_count > 3
    assert guarded.client.access.verify_audit(report.head).problem == ""
    with refused("INVALID_ARGUMENT", "INVALID_INPUT", "expected_head"):
        guarded.client.access.verify_audit("nonsense")


def test_a_row_is_in_the_transaction_of_its_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the row cannot be stored, neither are the labels; where the labels are refused, there is no row."""
    with Store.open(settings_in(tmp_path)) as store:
        video = ready_video(store, store.projects.create("p", ONTOLOGY).project_id)
        call = Call(LOCAL_OWNER, "test/write")
        with calling(call):
            store.labels.write(video.project_id, video.video_id, [cell(0)], author="a")
            with pytest.raises(InvalidInput):
                store.labels.write(video.project_id, video.video_id, [cell(1), cell(1)], author="a")

            def fail(*arguments: object) -> None:
                raise StorageFailure("the disk failed")

            monkeypatch.setattr(type(store.audit), "append", fail)
            with pytest.raises(StorageFailure):
                store.labels.write(video.project_id, video.video_id, [cell(2)], author="a")
            monkeypatch.undo()
            assert len(labels_of(store, video)) == 1
            assert [row.method for row in store.audit.rows()] == ["test/write"]


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """A data folder whose audit has five rows."""
    with Store.open(settings_in(tmp_path)) as store:
        for number in range(5):
            with calling(Call(LOCAL_OWNER, f"test/{number}")):
                store.projects.create(f"p{number}", ONTOLOGY)
    return tmp_path


def test_rows_cannot_be_changed_or_deleted(filled: Path) -> None:
    """The database itself refuses, whoever asks: UPDATE and DELETE, through the service and with another program."""
    with Store.open(settings_in(filled)) as store:
        for statement in (schema.audit.delete(), schema.audit.update().values(actor="nobody")):
            with pytest.raises(Aborted), store._database.begin(write=True) as connection:
                connection.execute(statement)
    with sqlite3.connect(filled / "database.sqlite") as other, pytest.raises(sqlite3.IntegrityError, match="never"):
        other.execute("UPDATE audit SET actor = 'nobody' WHERE sequence = 3")
    other.close()


TAMPERING = {
    "an edited row": ("UPDATE audit SET actor = 'nobody' WHERE sequence = 3", "row 3 was changed"),
    "an edited detail": ("UPDATE audit SET detail = '{ }' WHERE sequence = 2", "row 2 was changed"),
    "a moved instant": ("UPDATE audit SET at = at + 1 WHERE sequence = 5", "row 5 was changed"),
    "a row less": ("DELETE FROM audit WHERE sequence = 3", "row 3 is missing"),
    "a cut end": ("DELETE FROM audit WHERE sequence > 3", "row 4 and all after it are missing"),
    "a row more": (
        "INSERT INTO audit (sequence, at, hash) SELECT 6, 0, hash FROM audit WHERE sequence = 5;"
        "UPDATE audit_head SET sequence = 6",
        "row 6 was changed",
    ),
}


@pytest.mark.parametrize("how", TAMPERING)
def test_tampering_is_found_and_the_row_is_named(filled: Path, how: str) -> None:
    """Fault 67: with the triggers out of the way and sqlite3 at hand; the command says which row, with exit code 5."""
    statement, words = TAMPERING[how]
    runner = CliRunner()
    command = ["audit", "verify", "--data", str(filled)]
    assert runner.invoke(app, command).exit_code == 0
    tamper(filled, statement)
    result = runner.invoke(app, command)
    assert result.exit_code == 5, result.output
    assert words in result.output


def tamper(data: Path, statements: str) -> None:
    """Change the audit behind the service's back."""
    other = sqlite3.connect(data / "database.sqlite")
    other.executescript(f"DROP TRIGGER audit_no_update; DROP TRIGGER audit_no_delete; {statements}")
    other.close()


def test_a_chain_that_was_written_again_does_not_have_the_head_that_was_kept(filled: Path, tmp_path: Path) -> None:
    """Whoever recomputes all hashes is found out by a head that is kept elsewhere."""
    runner = CliRunner()
    head = runner.invoke(app, ["audit", "verify", "--data", str(filled)]).stdout.strip()
    assert head.startswith("5:")
    assert runner.invoke(app, ["audit", "verify", "--data", str(filled), "--expect", head]).exit_code == 0
    with Store.open(settings_in(filled)) as store:
        rows = list(store.audit.rows())
    tamper(filled, "DELETE FROM audit; UPDATE audit_head SET sequence = 0, hash = '" + "0" * 64 + "'")
    with Store.open(settings_in(filled)) as store, store._database.begin(write=True) as connection:
        store.audit.append(connection, rows[1:])
    assert runner.invoke(app, ["audit", "verify", "--data", str(filled)]).exit_code == 0
    result = runner.invoke(app, ["audit", "verify", "--data", str(filled), "--expect", head])
    assert result.exit_code == 5
    assert "row 5 and all after it are missing" in result.output


def test_the_audit_is_written_out_with_its_hashes(filled: Path, tmp_path: Path) -> None:
    """JSON Lines that another program can check."""
    out = tmp_path / "audit.jsonl"
    assert CliRunner().invoke(app, ["audit", "export", "--data", str(filled), "--out", str(out)]).exit_code == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["sequence"] for row in rows] == [1, 2, 3, 4, 5]
    assert all(len(row["hash"]) == 64 for row in rows)


def test_reads_wait_while_the_database_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are stored when it can; of more than the queue holds the number is."""
    monkeypatch.setattr("service.store.audit._QUEUE_ROWS", 3)
    monkeypatch.setattr("service.store.audit.FLUSH_SECONDS", 1000.0)
    with Store.open(settings_in(tmp_path)) as store:
        for number in range(5):
            store.audit.enqueue(Call(LOCAL_OWNER, f"read/{number}"), "OK")

        def fail(*arguments: object) -> None:
            raise StorageFailure("the disk failed")

        with monkeypatch.context() as broken:
            broken.setattr(type(store.audit), "append", fail)
            with pytest.raises(StorageFailure):
                store.audit.flush()
        rows = list(store.audit.rows())
        assert [row.method for row in rows] == ["read/0", "read/1", "read/2", "server/audit"]
        assert rows[-1].detail == {"rows_lost": 2}
        assert store.audit.verify().problem == ""


def test_strangers_do_not_fill_the_disk(guarded: Running) -> None:
    """Calls without a token: sixty rows a minute at most; the others are counted."""
    before = sum(row.outcome == "UNAUTHENTICATED" for row in guarded.store.audit.rows())
    with guarded.connect() as client:
        for _ in range(150):
            with refused("UNAUTHENTICATED"):
                client.get_project("projects/x")
    after = sum(row.outcome == "UNAUTHENTICATED" for row in guarded.store.audit.rows())
    assert after - before <= 60
