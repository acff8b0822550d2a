"""The ports of a member: their sockets and certificates, for clients and for other members."""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.net.listener import bind, bound_url
from netstore.net.negotiation import ALPN
from netstore.net.tls import Credentials
from netstore.ops.logging import get_logger

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from pathlib import Path

    from netstore.ops.store import StoreConfig
    from netstore.urls import Url


class Ports:
    """Bound sockets; those who accept connections make them listen."""

    def __init__(self, config: StoreConfig) -> None:
        """Bind all ports and read the certificates. NetstoreError if one cannot be bound or read."""
        self._client_urls = config.listen_client_urls
        self._peer_urls = config.listen_peer_urls
        self._clients: list[socket.socket] = []
        self._peers: list[socket.socket] = []
        try:
            for url in self._client_urls:
                self._clients.append(bind("listen_client_urls", url))
            for url in self._peer_urls:
                self._peers.append(bind("listen_peer_urls", url))
            self.peer_credentials = _credentials(
                config.peer_cert_file, config.peer_key_file, config.peer_trusted_ca_file, prefix="peer_"
            )
            """For connections in both directions."""
            self.client_credentials = _credentials(
                config.cert_file, config.key_file, config.trusted_ca_file, ALPN
            )
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the sockets."""
        for sock in (*self._clients, *self._peers):
            sock.close()

    @property
    def certifies_peers(self) -> bool:
        """Whether every member has to show a certificate here."""
        credentials = self.peer_credentials
        has_tls = all(url.scheme == "https" for url in self._peer_urls)
        return credentials is not None and credentials.client_auth and has_tls

    def for_clients(self) -> Iterator[tuple[socket.socket, Credentials | None]]:
        """Each port for clients, with its certificate if it has TLS."""
        for url, sock in zip(self._client_urls, self._clients, strict=True):
            yield sock, self.client_credentials if url.scheme == "https" else None

    def for_peers(self) -> Iterator[tuple[socket.socket, bool]]:
        """Each port for other members, and whether it has TLS."""
        for url, sock in zip(self._peer_urls, self._peers, strict=True):
            yield sock, url.scheme == "https"

    def bound_client_urls(self) -> list[Url]:
        """The URLs for clients, with the ports that the kernel chose for 0."""
        return [bound_url(url, sock) for url, sock in zip(self._client_urls, self._clients, strict=True)]


def _credentials(
    cert: Path | None,
    key: Path | None,
    trusted: Path | None,
    alpn: tuple[str, ...] = (),
    *,
    prefix: str = "",
) -> Credentials | None:
    """The certificate of one port, or None. With `trusted`, clients and peers must show a certificate, as
    with etcd; `client_cert_auth` and `peer_client_cert_auth` change nothing, since they are refused without
    it.
    """
    if cert is None or key is None:
        return None
    log = get_logger("tls")
    asks = trusted is not None
    return Credentials(cert, key, trusted, client_auth=asks, log=log, alpn=alpn, prefix=prefix)
