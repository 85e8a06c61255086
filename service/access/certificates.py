"""Certificates of the server's own authority, created at the first start, for machines that have no other.

The folder holds ``ca.pem`` (give it to clients), ``ca.key``, ``server.pem`` and ``server.key``. Only the owner can read
the keys. The authority is valid for ten years, the server's certificate for two. A start renews the certificate if it
has less than 90 days left or other names.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from micromodels.errors import InvalidInput
from service.domain.errors import disk_errors

__all__ = ["ServerCertificate", "fingerprint", "issue_client", "own_certificate", "reachable_names"]

_AUTHORITY_DAYS = 3650
_LEAF_DAYS = 730
_RENEWED_DAYS = 90
_SLACK = timedelta(days=1)  # clocks of clients may be behind


@dataclass(frozen=True, slots=True)
class ServerCertificate:
    """The certificate a server presents, and the authority clients check it with."""

    chain_pem: bytes
    key_pem: bytes
    ca_file: Path | None
    """The authority's certificate; None if the operator provided the files."""

    def __repr__(self) -> str:
        return f"ServerCertificate({fingerprint(self.chain_pem)})"


def own_certificate(folder: Path, names: Iterable[str]) -> ServerCertificate:
    """The server's certificate, created or renewed if necessary.

    Args:
        folder: created if missing.
        names: host names and addresses by which clients reach the server.

    Raises:
        InvalidInput: a file in the folder is damaged; the error names it.
        StorageFailure: the folder cannot be written to.
    """
    with disk_errors():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    authority, authority_key = _authority(folder)
    wanted = sorted(set(names))
    chain, key = folder / "server.pem", folder / "server.key"
    if not (chain.exists() and key.exists() and _is_good(_read(chain), authority, wanted)):
        made, made_key = _leaf(authority, authority_key, wanted[0], ExtendedKeyUsageOID.SERVER_AUTH, wanted)
        _write(key, _key_pem(made_key), 0o600)
        _write(chain, _pem(made), 0o644)
    return ServerCertificate(chain.read_bytes(), key.read_bytes(), folder / "ca.pem")


def issue_client(folder: Path, name: str, out: Path) -> tuple[Path, Path]:
    """A client certificate of the server's own authority, for mutual TLS.

    Args:
        folder: that of ``own_certificate``.
        name: of the client; used in the certificate and in the file names.
        out: folder for ``NAME.pem`` and ``NAME.key``; created if missing.

    Returns:
        The two files.
    """
    with disk_errors():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        out.mkdir(parents=True, exist_ok=True)
    made, key = _leaf(*_authority(folder), name, ExtendedKeyUsageOID.CLIENT_AUTH, [])
    _write(out / f"{name}.key", _key_pem(key), 0o600)
    _write(out / f"{name}.pem", _pem(made), 0o644)
    return out / f"{name}.pem", out / f"{name}.key"


def fingerprint(pem: bytes) -> str:
    """SHA-256 of the first certificate in a PEM text, as browsers show it: ``AB:CD:...``."""
    return x509.load_pem_x509_certificate(pem).fingerprint(hashes.SHA256()).hex(":").upper()


def reachable_names(host: str, extra: str = "") -> list[str]:
    """Names and addresses at which a server listening on ``host`` can be reached, plus those the operator adds."""
    found = {"localhost", "127.0.0.1", "::1", socket.gethostname(), *filter(None, map(str.strip, extra.split(",")))}
    if host in ("0.0.0.0", "::"):
        found |= set(_addresses())
    else:
        found.add(host)
    return sorted(found)


def _addresses() -> Iterable[str]:
    with contextlib.suppress(OSError):
        yield from (str(info[4][0]).partition("%")[0] for info in socket.getaddrinfo(socket.gethostname(), None))
    for family, elsewhere in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((elsewhere, 9))  # sends nothing; shows which address would be used
                yield str(probe.getsockname()[0])
        except OSError:
            continue


def _authority(folder: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    chain, key_file = folder / "ca.pem", folder / "ca.key"
    if not (chain.exists() and key_file.exists()):
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"micromodels on {socket.gethostname()}"[:64])])
        builder = _builder(name, name, key.public_key(), _AUTHORITY_DAYS)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        _write(key_file, _key_pem(key), 0o600)
        _write(chain, _pem(builder.sign(key, hashes.SHA256())), 0o644)
    try:
        loaded = serialization.load_pem_private_key(key_file.read_bytes(), None)
    except ValueError:
        raise InvalidInput(str(key_file), "its content", "a private key in PEM; restore or delete the file") from None
    assert isinstance(loaded, ec.EllipticCurvePrivateKey)
    return _read(chain), loaded


def _leaf(
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    name: str,
    use: x509.ObjectIdentifier,
    names: Iterable[str],
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    builder = _builder(subject, authority.subject, key.public_key(), _LEAF_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(digital_signature=True), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([use]), critical=False)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
    )
    if alternatives := [_general_name(other) for other in names]:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    return builder.sign(authority_key, hashes.SHA256()), key


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    begun = datetime.now(UTC).replace(tzinfo=None) - _SLACK  # the builder compares naive instants
    return (
        x509.CertificateBuilder(issuer, subject, public_key, x509.random_serial_number(), begun)
        .not_valid_after(begun + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _is_good(leaf: x509.Certificate, authority: x509.Certificate, names: list[str]) -> bool:
    """Whether a certificate is from this authority, for these names, and not about to expire."""
    try:
        leaf.verify_directly_issued_by(authority)
        found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (InvalidSignature, ValueError, TypeError, x509.ExtensionNotFound):
        return False
    fresh = leaf.not_valid_after_utc - datetime.now(UTC) > timedelta(days=_RENEWED_DAYS)
    return fresh and set(found) >= {_general_name(name) for name in names}


def _read(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError:
        raise InvalidInput(str(path), "its content", "a certificate in PEM; restore or delete the file") from None


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, data: bytes, mode: int) -> None:
    """Write a file completely or not at all; at no time can more people read it than ``mode`` allows."""
    with disk_errors():
        descriptor, name = tempfile.mkstemp(dir=path.parent)  # readable by its owner alone
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        Path(name).replace(path)
