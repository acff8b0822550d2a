"""The ports of a member: their sockets and certificates, for clients and for other members."""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.net.listener import bind, bound_url
from netstore.net.negotiation import ALPN
from netstore.net.tls import Credentials
from netstore.ops.logging import get_logger
from netstore.ops.owncertificate import own_certificate

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from netstore.ops.store import StoreConfig
    from netstore.urls import Url


class Ports:
    """Bound sockets; those who accept connections make them listen."""

    def __init__(self, config: StoreConfig) -> None:
        """Bind all ports and read the certificates. NetstoreError if one cannot be bound or read."""
        self._config = config
        self._client_urls = config.listen_client_urls
        self._peer_urls = config.listen_peer_urls
        self._bound: dict[str, list[socket.socket]] = {}
        """Setting -> the sockets of its URLs, in their order."""
        try:
            for key in (
                "listen_client_urls",
                "listen_client_http_urls",
                "listen_metrics_urls",
                "listen_peer_urls",
            ):
                sockets = self._bound[key] = []
                for url in getattr(config, key):
                    sockets.append(bind(key, url))  # noqa: PERF401 - those bound before a fault are closed
            self.peer_credentials = self._credentials("peer_", config.peer_cert_file, config.peer_key_file)
            """For connections in both directions."""
            self.client_credentials = self._credentials("", config.cert_file, config.key_file)
            self._probe_credentials = None
            if _encrypted(config.listen_metrics_urls):
                self._probe_credentials = self._credentials("", config.cert_file, config.key_file, ())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the sockets."""
        for sockets in self._bound.values():
            for sock in sockets:
                sock.close()

    def certify(self) -> None:
        """Make certificates for https URLs that have none, as `auto_tls` and `peer_auto_tls` ask for, in the
        locked data folder. Blocks. NetstoreError if they cannot be written.
        """
        config = self._config
        served = (*config.listen_client_urls, *config.listen_client_http_urls, *config.listen_metrics_urls)
        if config.auto_tls and self.client_credentials is None and _encrypted(served):
            pair = own_certificate(config.data_dir, "client", served, config.self_signed_cert_validity)
            self.client_credentials = self._credentials("", *pair)
            self._probe_credentials = self._credentials("", *pair, ())
        if config.peer_auto_tls and self.peer_credentials is None and _encrypted(self._peer_urls):
            pair = own_certificate(config.data_dir, "peer", self._peer_urls, config.self_signed_cert_validity)
            self.peer_credentials = self._credentials("peer_", *pair)

    @property
    def certifies_peers(self) -> bool:
        """Whether every member has to show a certificate here."""
        credentials = self.peer_credentials
        has_tls = all(url.scheme == "https" for url in self._peer_urls)
        return credentials is not None and credentials.client_auth and has_tls

    def for_clients(self) -> Iterator[tuple[socket.socket, Credentials | None]]:
        """Each port for clients, with its certificate if it has TLS."""
        yield from self._with_credentials("listen_client_urls", self.client_credentials)
        yield from self._with_credentials("listen_client_http_urls", self.client_credentials)

    def for_probes(self) -> Iterator[tuple[socket.socket, Credentials | None]]:
        """Each port for metrics and probes alone, with its certificate if it has TLS."""
        yield from self._with_credentials("listen_metrics_urls", self._probe_credentials)

    def _with_credentials(
        self, key: str, credentials: Credentials | None
    ) -> Iterator[tuple[socket.socket, Credentials | None]]:
        for url, sock in zip(getattr(self._config, key), self._bound[key], strict=True):
            yield sock, credentials if url.scheme == "https" else None

    def for_peers(self) -> Iterator[tuple[socket.socket, bool]]:
        """Each port for other members, and whether it has TLS."""
        for url, sock in zip(self._peer_urls, self._bound["listen_peer_urls"], strict=True):
            yield sock, url.scheme == "https"

    def bound_client_urls(self) -> list[Url]:
        """The URLs for clients, with the ports that the kernel chose for 0."""
        return self._urls("listen_client_urls")

    def bound_probe_urls(self) -> list[Url]:
        """The URLs for metrics and probes alone, likewise."""
        return self._urls("listen_metrics_urls")

    def _urls(self, key: str) -> list[Url]:
        pairs = zip(getattr(self._config, key), self._bound[key], strict=True)
        return [bound_url(url, sock) for url, sock in pairs]

    def _credentials(
        self, prefix: str, cert: Path | None, key: Path | None, alpn: tuple[str, ...] = ALPN
    ) -> Credentials | None:
        """The certificate of one side, "" for clients and "peer_" for members, or None. With a file of
        trusted authorities, others must show a certificate, as with etcd; `client_cert_auth` and
        `peer_client_cert_auth` change nothing, since they are refused without it.
        """
        if cert is None or key is None:
            return None
        config = self._config
        trusted = getattr(config, f"{prefix}trusted_ca_file")
        calling = config.peer_client_cert_file, config.peer_client_key_file
        return Credentials(
            cert,
            key,
            trusted,
            client_auth=trusted is not None,
            log=get_logger("tls"),
            alpn=() if prefix else alpn,
            prefix=prefix,
            policy=config.tls_policy(prefix),
            calling=(calling[0], calling[1]) if prefix and calling[0] and calling[1] else None,
            open_keys=config.etcd_compat,
        )


def _encrypted(urls: Sequence[Url]) -> bool:
    return any(url.scheme == "https" for url in urls)
