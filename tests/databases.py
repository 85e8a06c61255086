"""Throw-away servers for the tests: PostgreSQL and an S3 API, on loopback, gone when the tests end.

PostgreSQL is Debian's package (``scripts/test_packages`` installs it); the cluster runs as an ordinary user. Where it
is not installed the tests that need it are skipped, and fail where ``CI`` is set.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

__all__ = ["BUCKET", "Postgres", "free_port", "lacking", "running_postgres", "running_s3"]

BUCKET = "micromodels"
_START_SECONDS = 60.0
# No fsync: a throw-away cluster is never asked to survive a power cut; being killed it survives without.
_OPTIONS = "-c fsync=off -c shared_buffers=32MB -c max_connections=200 -c listen_addresses=127.0.0.1"


def lacking(what: str) -> None:
    """Skip a test that needs something that is not installed; fail where CI should have it.

    Args:
        what: the missing thing, and the package that has it.
    """
    message = f"{what} is not installed; scripts/test_packages installs it"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Postgres:
    """A cluster of its own.

    Attributes:
        folder: of its data.
        port: on loopback.
    """

    folder: Path
    port: int
    programs: Path
    user: str

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = f"{_OPTIONS} -c port={self.port} -c unix_socket_directories={self.folder}"
        self._run(
            "pg_ctl", "-w", "-t", str(int(_START_SECONDS)), "-l", str(self.folder / "log"), "-o", options, "start"
        )

    def stop(self, mode: str = "fast") -> None:
        """Stop it: ``fast``, or ``immediate`` as in a crash."""
        self._run("pg_ctl", "-w", "-m", mode, "stop")

    @property
    def is_running(self) -> bool:
        """Whether somebody listens on its port."""
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def database(self) -> str:
        """The URL of a new, empty database."""
        name = f"t{uuid.uuid4().hex[:12]}"
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", name)
        return f"postgresql://postgres@127.0.0.1:{self.port}/{name}"

    def drop(self, url: str) -> None:
        """Delete a database, whoever is connected."""
        name = url.rpartition("/")[2]
        self._run("dropdb", "--force", "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", name)

    def _run(self, program: str, *arguments: str) -> None:
        data = ["-D", str(self.folder / "data")] if program == "pg_ctl" else []
        done = subprocess.run(
            [self.programs / program, *data, *arguments],
            user=self.user or None,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # the server inherits it: a pipe would never end
            stderr=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode:
            log = self.folder / "log"
            raise RuntimeError(f"{program} exited with {done.returncode}:\n{log.read_text() if log.exists() else ''}")


def _programs() -> Path | None:
    """The folder of PostgreSQL's programs, of the newest version that is installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"), key=lambda path: int(path.parts[4]))
    on_path = shutil.which("pg_ctl")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


def _user() -> str:
    """Who runs it: PostgreSQL refuses root."""
    if os.geteuid() != 0:
        return ""
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """A cluster for the block; skips the test where PostgreSQL is not installed."""
    programs = _programs()
    if programs is None:
        lacking("PostgreSQL (Debian: postgresql)")
        raise AssertionError
    folder = Path(tempfile.mkdtemp(prefix="mm-pg-"))  # not pytest's folder: that is for this user alone
    postgres = Postgres(folder, free_port(), programs, _user())
    if postgres.user:
        shutil.chown(folder, postgres.user)
    try:
        subprocess.run(
            [programs / "initdb", "-D", folder / "data", "-U", "postgres", "--auth=trust", "-E", "UTF8", "--no-sync"],
            user=postgres.user or None,
            cwd=folder,
            stdout=subprocess.DEVNULL,
            check=True,
        )
        postgres.start()
        try:
            yield postgres
        finally:
            if postgres.is_running:
                postgres.stop("immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running_s3() -> Iterator[str]:
    """A server with the API of S3 in a process of its own, with the bucket ``BUCKET``; gives its address.

    Clients find it by the variables ``AWS_*`` that are set for the block.
    """
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    code = (
        "import logging, sys; logging.getLogger('werkzeug').setLevel('ERROR')\n"
        "from moto.server import main; main(['-H', '127.0.0.1', '-p', sys.argv[1]])"
    )
    variables = {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _make_bucket(address, process)
        yield address
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _make_bucket(address: str, process: subprocess.Popen[bytes]) -> None:
    limit = time.monotonic() + _START_SECONDS
    while True:
        request = urllib.request.Request(f"{address}/{BUCKET}", method="PUT")
        try:
            with urllib.request.urlopen(request, timeout=5):
                return
        except OSError:
            if process.poll() is not None or time.monotonic() > limit:
                raise
            time.sleep(0.05)
