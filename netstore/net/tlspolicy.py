"""What an operator may ask of TLS beyond a trusted authority: versions, cipher suites, revocation lists, and
the names that certificates of callers may have.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from netstore.errors import NetstoreError, NoRestart
from netstore.inputfile import UnusableFile, read_input

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable, Mapping
    from pathlib import Path

VERSIONS: Final = MappingProxyType({"TLS1.2": 0x0303, "TLS1.3": 0x0304})
"""etcd's name of a version -> its number in the protocol (RFC 8446, 4.2.1), as `ssl.TLSVersion` has it."""

SUITES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "TLS_RSA_WITH_AES_128_CBC_SHA": "AES128-SHA",
        "TLS_RSA_WITH_AES_256_CBC_SHA": "AES256-SHA",
        "TLS_RSA_WITH_AES_128_CBC_SHA256": "AES128-SHA256",
        "TLS_RSA_WITH_AES_128_GCM_SHA256": "AES128-GCM-SHA256",
        "TLS_RSA_WITH_AES_256_GCM_SHA384": "AES256-GCM-SHA384",
        "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": "ECDHE-ECDSA-AES128-SHA",
        "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": "ECDHE-ECDSA-AES256-SHA",
        "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256": "ECDHE-ECDSA-AES128-SHA256",
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305": "ECDHE-ECDSA-CHACHA20-POLY1305",
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
        "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": "ECDHE-RSA-AES128-SHA",
        "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": "ECDHE-RSA-AES256-SHA",
        "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256": "ECDHE-RSA-AES128-SHA256",
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
        "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305": "ECDHE-RSA-CHACHA20-POLY1305",
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
        "TLS_AES_128_GCM_SHA256": "",
        "TLS_AES_256_GCM_SHA384": "",
        "TLS_CHACHA20_POLY1305_SHA256": "",
    }
)
"""IANA's name of a suite -> OpenSSL's. Empty: of TLS 1.3, whose suites are always all offered, as in etcd."""


MAX_LIST_BYTES: Final = 64 * 1024 * 1024
"""Largest list of revoked certificates: about a million of them."""


class TlsFailed(NetstoreError):  # noqa: N818 - named for what happened
    """The peer is not the expected one, or what it sent is not valid TLS. The text says what is wrong."""


class BadFile(NoRestart):
    """A file of TLS that cannot be used. The text names the setting, the file, the problem and the fix."""

    def __init__(self, setting: str, problem: str, fix: str) -> None:
        super().__init__(f"{setting}: {problem}; {fix}")
        self.setting = setting
        self.problem = problem
        self.fix = fix


class NoKey(BadFile):
    """A file of a certificate does not have its key, too, and no other file is given for that."""


@dataclass(frozen=True, slots=True)
class TlsPolicy:
    """What is asked of the streams of one port."""

    lowest: str = "TLS1.2"
    """Least version, a word of `VERSIONS`."""
    highest: str = "TLS1.3"
    """Greatest version."""
    suites: tuple[str, ...] = ()
    """Names of `SUITES`; without any the library chooses those of TLS 1.2. With names of TLS 1.3 alone,
    TLS 1.2 has no suite left and is not spoken, as in etcd.
    """
    revoked: Path | None = None
    """A certificate revocation list, in PEM or DER form. Only the serial numbers in it count, as in etcd."""
    names: tuple[str, ...] = ()
    """Common names, one of which a certificate must have; none: any."""
    hosts: tuple[str, ...] = ()
    """Host names and addresses, for one of which a certificate must be valid; none: any."""
    verifies: bool = True
    """Whether the calling side verifies the called side's certificate."""

    def apply(self, context: ssl.SSLContext) -> None:
        """Set the versions and suites of a context."""
        version = type(context.minimum_version)
        suites = [SUITES[name] for name in self.suites if SUITES[name]]
        lowest = "TLS1.3" if self.suites and not suites else self.lowest
        context.minimum_version = version(VERSIONS[lowest])
        context.maximum_version = version(VERSIONS[self.highest])
        if suites:
            context.set_ciphers(":".join(suites))

    def rule(self, setting: str) -> CertificateRule | None:
        """What certificates of others are checked for; None for nothing. `BadFile`, which names the setting
        of the list, if that cannot be read.
        """
        revoked = frozenset[int]() if self.revoked is None else read_revoked(self.revoked, setting)
        if not (revoked or self.names or self.hosts):
            return None
        return CertificateRule(revoked, self.names, self.hosts)


@dataclass(frozen=True, slots=True)
class CertificateRule:
    """Which certificates of a trusted authority are accepted."""

    revoked: frozenset[int]
    """Serial numbers that are not."""
    names: tuple[str, ...]
    hosts: tuple[str, ...]

    def check(self, shown: Mapping[str, Any] | None, issuers: Iterable[Mapping[str, Any]] = ()) -> None:
        """Raise `TlsFailed` for a certificate, as `ssl.SSLSocket.getpeercert` shows it, that is not accepted.
        One that was not shown is accepted unless names are asked for.

        `issuers` are the other certificates that were shown or led to a trusted authority. None of them may
        be revoked, except that one which signed itself is trusted or not (RFC 5280, 6.1).
        """
        if not shown:
            if self.names or self.hosts:
                raise TlsFailed("no certificate was shown, and its name is asked for")
            return
        signed = (each for each in issuers if each["subject"] != each["issuer"])
        for each in (shown, *signed) if self.revoked else ():
            if int(each["serialNumber"], 16) in self.revoked:
                raise TlsFailed(f"certificate refused: serial number {each['serialNumber']} is revoked")
        subject = [value for part in shown["subject"] for name, value in part if name == "commonName"]
        if self.names and not set(self.names).intersection(subject):
            raise TlsFailed(f"certificate refused: common name {', '.join(subject) or 'none'} is not allowed")
        valid_for = shown.get("subjectAltName", ())
        if self.hosts and not any(_is_for(host, valid_for) for host in self.hosts):
            raise TlsFailed("certificate refused: it is valid for none of the allowed hosts")


def _is_for(host: str, valid_for: tuple[tuple[str, str], ...]) -> bool:
    """Whether a certificate is valid for a host (RFC 6125, 6.4): addresses are equal, and a leading asterisk
    stands for one label.
    """
    try:
        address = ip_address(host)
    except ValueError:
        wanted = host.lower().rstrip(".")
        parent = "*." + wanted.partition(".")[2]
        return any(kind == "DNS" and name.lower() in (wanted, parent) for kind, name in valid_for)
    return any(kind == "IP Address" and ip_address(name) == address for kind, name in valid_for)


def read_revoked(file: Path, setting: str) -> frozenset[int]:
    """The serial numbers in a certificate revocation list, in PEM or DER form. `BadFile` if it is none."""
    from cryptography import x509  # noqa: PLC0415 - few have such a list, and it takes 50 ms

    fix = "name a revocation list that can be read"
    try:
        data = read_input(file, MAX_LIST_BYTES, fix)
    except UnusableFile as error:
        raise BadFile(setting, f"{file}: {error.problem}", fix) from None
    try:
        pem = data.lstrip().startswith(b"-----BEGIN")
        found = x509.load_pem_x509_crl(data) if pem else x509.load_der_x509_crl(data)
        return frozenset(each.serial_number for each in found)
    except ValueError:
        raise BadFile(
            setting,
            f"{file}: holds no certificate revocation list",
            "give one in PEM or DER form, as openssl ca -gencrl writes it",
        ) from None
