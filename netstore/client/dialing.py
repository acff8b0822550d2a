"""A stream to an endpoint: TCP with the options of all clients, with TLS where the endpoint is https."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import trio

from netstore.client.faults import SOCKET_OPTIONS

if TYPE_CHECKING:
    import ssl


async def open_stream(endpoint: str, tls: ssl.SSLContext | None) -> tuple[trio.abc.Stream, trio.SocketStream]:
    """The stream, and the connection below it. OSError, an ExceptionGroup of them, or BrokenResourceError
    says why there is none. `tls` is needed for https.
    """
    parts = urlsplit(endpoint)
    host = parts.hostname or ""
    tcp = await trio.open_tcp_stream(host, parts.port or 2379)
    for option in SOCKET_OPTIONS:
        tcp.setsockopt(*option)
    if parts.scheme != "https":
        return tcp, tcp
    assert tls is not None  # noqa: S101 - made because an endpoint is https
    stream = trio.SSLStream(tcp, tls, server_hostname=host, https_compatible=True)
    try:
        await stream.do_handshake()
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return stream, tcp
