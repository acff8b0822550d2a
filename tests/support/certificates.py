"""Certificates in files: an authority, a server, a client, and a client nobody trusts."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import trustme

if TYPE_CHECKING:
    from pathlib import Path


class Certificates:
    """PEM files under a folder. `context` makes what a client needs of them."""

    def __init__(self, folder: Path, *addresses: str) -> None:
        """`addresses` are those of the server beside loopback."""
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self._ca = trustme.CA()
        self.ca = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(self.ca)
        self.certificate, self.key = self.issue(
            "server", self._ca.issue_cert("127.0.0.1", "localhost", *addresses)
        )
        self.client_certificate, self.client_key = self.issue(
            "client", self._ca.issue_cert("client@store.example", common_name="operator")
        )
        self.stranger_certificate, self.stranger_key = self.issue(
            "stranger", trustme.CA().issue_cert("client@store.example", common_name="stranger")
        )

    def issue(self, name: str, made: trustme.LeafCert) -> tuple[Path, Path]:
        """Write a certificate and its key as `NAME.pem` and `NAME.key`."""
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        key.touch(mode=0o600)
        made.private_key_pem.write_to_path(key)
        made.cert_chain_pems[0].write_to_path(certificate)
        return certificate, key

    def expire(self) -> None:
        """Put a certificate of the server that is valid no more in the place of the first."""
        before = datetime.now(UTC) - timedelta(days=3)
        made = self._ca.issue_cert(
            "127.0.0.1", "localhost", not_before=before, not_after=before + timedelta(days=1)
        )
        self.issue("server", made)

    def renew(self) -> None:
        """Put another certificate of the server in the place of the first."""
        self.issue("server", self._ca.issue_cert("127.0.0.1", "localhost"))

    def context(self, *alpn: str, shown: str | None = "client") -> ssl.SSLContext:
        """For a client that trusts the authority, and shows the certificate `shown`."""
        context = ssl.create_default_context(cafile=str(self.ca))
        if alpn:
            context.set_alpn_protocols(list(alpn))
        if shown is not None:
            context.load_cert_chain(self.folder / f"{shown}.pem", self.folder / f"{shown}.key")
        return context
