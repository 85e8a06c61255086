"""Whether a server needs TLS and tokens, depending on its host and settings."""

from __future__ import annotations

import ipaddress
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path

import grpc

from micromodels.errors import InvalidInput
from service.access.certificates import ServerCertificate, own_certificate, reachable_names
from service.settings import Settings

__all__ = ["PLAIN", "Transport", "is_loopback", "transport_for"]

_OWN = "own"


@dataclass(frozen=True, slots=True)
class Transport:
    """What a server requires of its clients."""

    tokens_required: bool
    certificate: ServerCertificate | None = None
    """None: not encrypted, which is allowed on loopback only."""
    client_ca_pem: bytes | None = None
    """If set, clients must present a certificate of this authority."""

    def grpc_credentials(self) -> grpc.ServerCredentials | None:
        """For the gRPC server; None without TLS."""
        if self.certificate is None:
            return None
        pair = (self.certificate.key_pem, self.certificate.chain_pem)
        return grpc.ssl_server_credentials([pair], self.client_ca_pem, self.client_ca_pem is not None)

    def ssl_context(self) -> ssl.SSLContext | None:
        """For a web server; None without TLS."""
        if self.certificate is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.client_ca_pem is not None:
            context.load_verify_locations(cadata=self.client_ca_pem.decode())
            context.verify_mode = ssl.CERT_REQUIRED
        with tempfile.NamedTemporaryFile() as file:  # ssl reads certificates and keys from files only
            file.write(self.certificate.chain_pem + b"\n" + self.certificate.key_pem)
            file.flush()
            context.load_cert_chain(file.name)
        return context


PLAIN = Transport(tokens_required=False)
"""Loopback without configuration."""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host.

    Raises:
        InvalidInput: it is neither an address nor ``localhost``. Other names are not resolved.
    """
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        allowed = "localhost or an IP address of this machine, such as 127.0.0.1, or 0.0.0.0 for all of them"
        raise InvalidInput("host", host, allowed) from None


def transport_for(settings: Settings, host: str) -> Transport:
    """What a server on this host requires: always TLS and tokens unless it listens on loopback only.

    Raises:
        InvalidInput: the host, or a file of a certificate or key, cannot be used.
        StorageFailure: certificates cannot be written.
    """
    loopback = is_loopback(host)
    required = settings.auth == "required" or not loopback
    if loopback and settings.tls != "on":
        return Transport(required)
    folder = settings.data_dir / "tls"
    if settings.tls_certificate:
        certificate = ServerCertificate(
            _pem("tls_certificate", settings.tls_certificate), _pem("tls_key", settings.tls_key), None
        )
    else:
        certificate = own_certificate(folder, reachable_names(host, settings.tls_names))
    client_ca = None
    if settings.tls_client_ca == _OWN:
        own_certificate(folder, reachable_names(host, settings.tls_names))
        client_ca = (folder / "ca.pem").read_bytes()
    elif settings.tls_client_ca:
        client_ca = _pem("tls_client_ca", settings.tls_client_ca)
    made = Transport(required, certificate, client_ca)
    try:
        made.ssl_context()  # gRPC would report a mismatch only at the first connection
    except ssl.SSLError as error:
        raise InvalidInput(
            "tls_certificate", settings.tls_certificate, f"a certificate that matches tls_key ({error})"
        ) from None
    return made


def _pem(field: str, name: str) -> bytes:
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise InvalidInput(field, name, f"a readable PEM file ({error.strerror})") from None
