"""`micromodels serve`, and backups of what it keeps."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from service.cli.exit_codes import ExitCode
from tests.service.cli.helpers import micromodels


def test_serve_starts_the_server_and_says_where(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Options reach the server; its address is a line of standard output, for programs; its errors are exit codes."""
    from service.domain.errors import StorageFailure

    server = ModuleType("service.server")
    asked: dict[str, Any] = {}

    def serve(*, on_ready: Any, on_page: Any, **options: Any) -> None:
        asked.update(options)
        on_ready("127.0.0.1:4711")
        on_page("http://127.0.0.1:4712/")
        if asked["port"] == 1:
            raise StorageFailure("the disk is gone")

    server.serve = serve  # type: ignore[attr-defined]
    server.DEFAULT_PAGE_PORT = 8080  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "service.server", server)
    result = micromodels("serve", "--data", tmp_path, "--port", 0, "--allow-root", "/a", "--allow-root", "/b")
    assert result.exit_code == ExitCode.OK, result.output
    assert result.stdout == "127.0.0.1:4711\nhttp://127.0.0.1:4712/\n"
    assert callable(asked.pop("on_notice"))
    assert asked == {
        "data_dir": tmp_path,
        "host": "127.0.0.1",
        "port": 0,
        "page_port": 0,
        "allowed_roots": (Path("/a"), Path("/b")),
    }
    micromodels("serve", "--no-page")
    assert asked["page_port"] is None
    result = micromodels("serve", "--port", 1)
    assert asked["page_port"] == 8080
    assert asked["data_dir"] is None
    assert result.exit_code == ExitCode.UNEXPECTED
    assert "error: the disk is gone" in result.stderr


def test_a_notice_is_shown_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hex digits between colons are no emoji: a fingerprint with `:CD:` in it stays one."""
    server = ModuleType("service.server")
    server.DEFAULT_PORT = server.DEFAULT_PAGE_PORT = 1  # type: ignore[attr-defined]
    server.serve = lambda **options: options["on_notice"]("SHA-256 AB:CD:EF:A0")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "service.server", server)
    assert "AB:CD:EF:A0" in micromodels("serve", "--data", tmp_path).stderr


def test_backup_and_restore(tmp_path: Path) -> None:
    """A data folder goes into a backup and comes back elsewhere; a restore over anything is refused with code 2."""
    from micromodels.types import Ontology
    from service.settings import Settings
    from service.store import Store

    with Store.open(Settings(data_dir=tmp_path / "data")) as store:
        project = store.projects.create("Kept", Ontology())
        done = micromodels("backup", str(tmp_path / "backup"), "--data", str(tmp_path / "data"))  # while it is open
    assert done.exit_code == 0, done.output
    done = micromodels("restore", str(tmp_path / "backup"), "--data", str(tmp_path / "new"))
    assert done.exit_code == 0, done.output
    with Store.open(Settings(data_dir=tmp_path / "new")) as store:
        assert store.projects.get(project.project_id) == project
    assert micromodels("restore", str(tmp_path / "backup"), "--data", str(tmp_path / "new")).exit_code != 0
