"""TLS: the server's own authority, given files, client certificates, and a real server on all addresses."""

from __future__ import annotations

import os
import re
import socket
import ssl
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from micromodels.client import ApiError, Client
from micromodels.errors import InvalidInput
from service.access import certificates
from service.access.certificates import fingerprint, issue_client, own_certificate, reachable_names
from service.access.transport import transport_for
from service.domain.access import Role
from service.settings import Settings
from tests.service.api.harness import ONTOLOGY, Running, box, refused

REPOSITORY = Path(__file__).resolve().parents[3]


def test_an_authority_is_made_once_and_its_key_is_its_owners(tmp_path: Path) -> None:
    """A second start shows the same certificate; keys are 0600; the certificate is checked against the authority."""
    first = own_certificate(tmp_path / "tls", ["localhost", "127.0.0.1"])
    assert own_certificate(tmp_path / "tls", ["127.0.0.1", "localhost"]).chain_pem == first.chain_pem
    for name in ("ca.key", "server.key"):
        assert stat.S_IMODE((tmp_path / "tls" / name).stat().st_mode) == 0o600
    leaf = x509.load_pem_x509_certificate(first.chain_pem)
    leaf.verify_directly_issued_by(x509.load_pem_x509_certificate((tmp_path / "tls" / "ca.pem").read_bytes()))
    assert re.fullmatch(r"([0-9A-F]{2}:){31}[0-9A-F]{2}", fingerprint(first.chain_pem))
    assert "BEGIN" not in repr(first)


def test_a_certificate_is_renewed_for_new_names_and_near_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The authority stays, so clients need nothing new."""
    first = own_certificate(tmp_path, ["localhost"])
    authority = (tmp_path / "ca.pem").read_bytes()
    second = own_certificate(tmp_path, ["localhost", "annotate.example"])
    assert second.chain_pem != first.chain_pem
    monkeypatch.setattr(certificates, "_RENEWED_DAYS", 10_000)
    assert own_certificate(tmp_path, ["localhost"]).chain_pem != second.chain_pem
    assert (tmp_path / "ca.pem").read_bytes() == authority


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    """Rather than make a new authority that no client knows."""
    own_certificate(tmp_path, ["localhost"])
    (tmp_path / "ca.key").write_text("nonsense")
    with pytest.raises(InvalidInput, match=r"ca\.key"):
        own_certificate(tmp_path, ["other"])


def test_all_addresses_of_the_machine_are_named() -> None:
    """And what the operator adds."""
    names = reachable_names("0.0.0.0", "annotate.example, 10.1.2.3")
    assert {"localhost", "127.0.0.1", socket.gethostname(), "annotate.example", "10.1.2.3"} <= set(names)
    assert "192.168.7.8" in reachable_names("192.168.7.8")


@pytest.mark.parametrize(
    ("host", "settings", "tokens", "encrypted"),
    [
        ("127.0.0.1", {}, False, False),
        ("localhost", {"auth": "required"}, True, False),
        ("::1", {"tls": "on"}, False, True),
        ("0.0.0.0", {}, True, True),
        ("10.0.0.1", {}, True, True),
        ("::", {"auth": "auto", "tls": "auto"}, True, True),
    ],
)
def test_what_is_asked_of_callers(
    tmp_path: Path, host: str, settings: dict[str, str], tokens: bool, encrypted: bool
) -> None:
    """Off loopback there is no way round TLS and tokens."""
    made = transport_for(Settings(data_dir=tmp_path, **settings), host)  # type: ignore[arg-type]
    assert made.tokens_required is tokens
    assert (made.certificate is not None) is encrypted
    assert (made.grpc_credentials() is not None) is encrypted
    assert (made.ssl_context() is not None) is encrypted


def test_given_files_are_used_and_checked(tmp_path: Path) -> None:
    """A certificate with another's key, and a file that is not there, are refused at the start."""
    own_certificate(tmp_path / "a", ["localhost"])
    own_certificate(tmp_path / "b", ["localhost"])
    good = Settings(
        data_dir=tmp_path,
        tls_certificate=str(tmp_path / "a/server.pem"),
        tls_key=str(tmp_path / "a/server.key"),
    )
    found = transport_for(good, "0.0.0.0").certificate
    assert found is not None
    assert found.ca_file is None
    with pytest.raises(InvalidInput, match="tls_certificate"):
        transport_for(
            Settings(
                data_dir=tmp_path,
                tls_certificate=str(tmp_path / "a/server.pem"),
                tls_key=str(tmp_path / "b/server.key"),
            ),
            "0.0.0.0",
        )
    with pytest.raises(InvalidInput, match="tls_key"):
        Settings(tls_certificate="x.pem")
    with pytest.raises(InvalidInput, match="tls_client_ca"):
        transport_for(Settings(data_dir=tmp_path, tls="on", tls_client_ca="/nowhere.pem"), "127.0.0.1")


def test_plain_text_and_old_tls_get_nowhere(guarded: Running) -> None:
    """Without TLS there is no call, and below TLS 1.2 no handshake."""
    with Client(guarded.address, timeout_seconds=5) as client, pytest.raises(ApiError, match="UNAVAILABLE"):
        client.access.get_caller()
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="deprecated"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", guarded.port), timeout=60) as plain,
        pytest.raises((ssl.SSLError, ConnectionResetError)),
    ):
        context.wrap_socket(plain)


def test_a_server_of_another_authority_is_not_believed(guarded: Running, tmp_path: Path) -> None:
    """The client checks the certificate, so its token goes to nobody else."""
    own_certificate(tmp_path, ["localhost"])
    with guarded.connect("mm_x", ca_file=tmp_path / "ca.pem") as client, pytest.raises(ApiError) as raised:
        client.access.get_caller()
    assert raised.value.code == "UNAVAILABLE"


def test_a_wrong_client_certificate_ends_the_handshake(tmp_path: Path, tiny_clip: Path) -> None:
    """Fault 19: mutual TLS: no certificate, or one of another authority: no call; the right one: served."""
    mutual = Running(tmp_path, tiny_clip / "video.mp4", tls="on", tls_client_ca="own")
    try:
        pem, key = issue_client(tmp_path / "data/tls", "reader", tmp_path / "client")
        other_pem, other_key = issue_client(tmp_path / "elsewhere", "reader", tmp_path / "other")
        with mutual.connect(certificate_file=pem, key_file=key) as client:
            assert client.access.get_caller().user == "local"
        with mutual.connect() as client, pytest.raises(ApiError, match="UNAVAILABLE"):
            client.access.get_caller()
        with (
            mutual.connect(certificate_file=other_pem, key_file=other_key) as client,
            pytest.raises(ApiError, match="UNAVAILABLE"),
        ):
            client.access.get_caller()
        with pytest.raises(ValueError, match="key_file"):
            mutual.connect(certificate_file=pem)
        context = ssl.create_default_context(cafile=str(tmp_path / "data/tls/ca.pem"))
        context.set_alpn_protocols(["h2"])
        context.load_cert_chain(other_pem, other_key)
        assert _answer(mutual.port, context) == b""
        context.load_cert_chain(pem, key)
        assert _answer(mutual.port, context) != b""
    finally:
        mutual.stop()


def _answer(port: int, context: ssl.SSLContext) -> bytes:
    """The first bytes that a server sends over TLS; none where it ends the handshake."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as plain:
        try:
            with context.wrap_socket(plain, server_hostname="127.0.0.1") as wrapped:
                wrapped.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
                return wrapped.recv(1 << 16)  # with TLS 1.3 the refusal comes no sooner
        except (ssl.SSLError, ConnectionResetError):
            return b""


def micromodels(*arguments: str, data: Path) -> str:
    """Standard output of the command."""
    done = subprocess.run(
        [sys.executable, "-c", "from service.main import main; main()", *arguments, "--data", str(data)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@contextmanager
def served(data: Path, root: Path) -> Iterator[tuple[str, str]]:
    """`micromodels serve --host 0.0.0.0` as a process: its port and what it told people."""
    command = [
        sys.executable,
        "-c",
        "from service.main import main; main()",
        "serve",
        "--host",
        "0.0.0.0",
        "--port",
        "0",
        "--data",
        str(data),
    ]
    process = subprocess.Popen(
        [*command, "--allow-root", str(root)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "400"},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        said = ""
        while "no token exists" not in said:  # the last of what it says before it answers
            line = process.stderr.readline()
            assert line, said
            said += line
        yield process.stdout.readline().strip().rsplit(":", 1)[1], said
    finally:
        process.terminate()
        process.communicate(timeout=60)


def test_a_server_for_all_machines_from_start_to_end(tmp_path: Path, tiny_clip: Path) -> None:
    """As an operator does it: serve, first token, a project, a token for each role, work and refusals over TLS."""
    data = tmp_path / "data"
    with served(data, tiny_clip) as (port, said):
        ca = data / "tls" / "ca.pem"
        assert str(ca) in said
        assert fingerprint(ca.read_bytes()) in said
        assert "micromodels token create NAME --admin" in said
        address = f"localhost:{port}"
        with Client(address, ca_file=ca) as client, refused("UNAUTHENTICATED"):
            list(client.list_projects())
        with Client(address, ca_file=ca, token=micromodels("token", "create", "root", "--admin", data=data)) as root:
            project = root.create_project("Colon", ONTOLOGY, project_id="colon")
            video = root.register_video(project.name, str(tiny_clip / "video.mp4"), timeout_seconds=60)
        for role in Role:
            secret = micromodels(
                "token", "create", f"a-{role.value}", "--project", "colon", "--role", role.value, data=data
            )
            with Client(address, ca_file=ca, token=secret) as client:
                assert client.get_video(video.name).name == video.name
                if role is Role.VIEWER:
                    with refused("PERMISSION_DENIED"):
                        client.write_labels(video.name, [box(0)])
                else:
                    client.write_labels(video.name, [box(0, role.value)])
        assert "viewer" in micromodels("role", "list", "colon", data=data)
        listed = micromodels("token", "list", data=data)
        assert listed.count("valid") == 6
        assert "mm_" not in listed
    assert (
        datetime.now(UTC) + timedelta(days=600)
        < x509.load_pem_x509_certificate((data / "tls/server.pem").read_bytes()).not_valid_after_utc
    )
