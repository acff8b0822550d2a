"""Certificates that a member makes itself (`auto_tls`, `peer_auto_tls`): they encrypt, and prove nothing."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from netstore.disk.datadir import OWN_CERTIFICATES, explain_errors
from netstore.inputfile import read_regular
from netstore.outputfile import open_output

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from netstore.urls import Url

_ORGANIZATION: Final = "netstore"
_YEAR: Final = timedelta(days=365)

_MAX_BYTES: Final = 1 << 20
"""Of a certificate in PEM. One has 1 KB for 20 hosts."""


def own_certificate(data_dir: Path, side: str, urls: Iterable[Url], years: int) -> tuple[Path, Path]:
    """The files of the certificate and the key of one side, made unless they are there and the certificate
    has not ended. It is valid for the hosts of the URLs. Blocks. NetstoreError if they cannot be written.
    """
    folder = data_dir / OWN_CERTIFICATES / side
    certificate, key = folder / "cert.pem", folder / "key.pem"
    with explain_errors(folder):
        if not (key.exists() and certificate.exists() and _is_valid(read_regular(certificate, _MAX_BYTES))):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            made = _make(sorted({url.host for url in urls}), years)
            for path, data in ((key, made[1]), (certificate, made[0])):
                with open_output(path) as output:
                    output.file.write(data)
    return certificate, key


def _is_valid(data: bytes) -> bool:
    from cryptography import x509  # noqa: PLC0415 - few have such certificates, and it takes 50 ms

    try:
        return x509.load_pem_x509_certificate(data).not_valid_after_utc > datetime.now(UTC)
    except ValueError:
        return False


def _make(hosts: Iterable[str], years: int) -> tuple[bytes, bytes]:
    """A certificate and its key, as PEM."""
    from cryptography import x509  # noqa: PLC0415 - as in `_is_valid`
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID  # noqa: PLC0415

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, _ORGANIZATION)])
    names: list[x509.GeneralName] = []
    for host in hosts:
        try:
            names.append(x509.IPAddress(ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    now = datetime.now(UTC)
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(secrets.randbits(127) + 1)
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + years * _YEAR)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .sign(key, hashes.SHA256())
    )
    return (
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )
