"""Sockets that this member listens on."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from netstore.errors import NetstoreError

if TYPE_CHECKING:
    from netstore.urls import Url


def bind(setting: str, url: Url) -> socket.socket:
    """A TCP socket bound to the address of a URL, not listening yet. `setting` names the setting that the
    URL is from.

    NetstoreError if the address cannot be bound.
    """
    family = socket.AF_INET6 if ":" in url.host else socket.AF_INET
    host = "127.0.0.1" if url.host == "localhost" else url.host
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, url.port))
    except OSError as fault:
        sock.close()
        why = os.strerror(fault.errno) if fault.errno else str(fault)
        raise NetstoreError(
            f"{setting}: cannot listen on {url}: {why}; stop what uses it or choose another address"
        ) from None
    return sock


def listen(sock: socket.socket, backlog: int) -> None:
    """Let a bound socket take connections, without blocking.

    NetstoreError if another program, which bound the same address before it was taken, listens there by now.
    """
    try:
        sock.listen(backlog)
    except OSError as fault:
        host, port = sock.getsockname()[:2]
        sock.close()
        why = os.strerror(fault.errno) if fault.errno else str(fault)
        raise NetstoreError(
            f"cannot listen on {host}, port {port}: {why}; stop what uses it or choose another address"
        ) from None
    sock.setblocking(False)


def bound_url(url: Url, sock: socket.socket) -> Url:
    """The URL with the port that the kernel chose, if the setting says 0."""
    return url._replace(port=sock.getsockname()[1])
