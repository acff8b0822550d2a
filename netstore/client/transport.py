"""HTTP requests to a store behind several endpoints: failover, time limits, TLS, and failures in words.

A request ends with a `Response` or with one of two failures, of which `outcome_known` tells whether a write
may have happened:

- `Unreachable`: no endpoint answered in time. For a write the outcome is unknown if the request may have
  reached one;
- `BadAnswer`: something answered that is not the API that was expected.

A read is tried at one endpoint after the other until one answers. A write is sent to one endpoint only; the
next one is tried only if no connection could be made, so that it cannot have happened. Every wait has a
limit. Redirects are not followed: a store never sends one, and following it could turn a write into a read.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import urlencode

import msgspec
import trio

from netstore import __version__
from netstore.client.endpoints import Endpoints
from netstore.errors import NetstoreError
from netstore.net.tls import error_text, load_authorities, load_certificate

# httpx imports its own command line, and with it rich and pygments, if it finds them: 40 of its 60 ms. None
# makes that import fail as it does where the extra is not installed, which httpx allows for.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
import httpx  # noqa: E402 - after the line above

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable
    from types import TracebackType

TIMEOUT: Final = 8.0
"""Seconds for one endpoint to answer: more than the 7 s after which a store without quorum gives up itself.
"""

CONNECT_TIMEOUT: Final = 1.0
"""Seconds to make a connection (as flannel configures Go's etcd client)."""

MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
"""A listing of 100,000 leases is a third of it."""

MAX_CONNECTIONS: Final = 16
"""Connections of one client: one for calls, one for each watch, some to spare."""

_KEEPALIVE: Final = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
]
"""Ends a long poll about 25 s after the network path or the other host is lost."""

_CERTIFICATE_ALERT: Final = re.compile("ALERT_(.*CERTIFICATE|UNKNOWN_CA|ACCESS_DENIED)")
"""OpenSSL's names of alerts about the client's certificate."""

_NO_TLS: Final = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG")
"""OpenSSL's names, in one release or another, for an answer that is not TLS."""


class ClientError(NetstoreError):
    """A request without a useful answer. `outcome_known` is False if a write may have happened or may still
    happen.
    """

    outcome_known: bool = True


class Unreachable(ClientError):  # noqa: N818 - named for what was found
    """No endpoint answered in time. The text says for each what happened."""

    def __init__(self, tried: list[tuple[str, str]], *, outcome_known: bool) -> None:
        super().__init__(tried)
        self.tried = tried
        self.outcome_known = outcome_known

    def __str__(self) -> str:
        text = "; ".join(f"{endpoint}: {reason}" for endpoint, reason in self.tried)
        return f"no endpoint answered ({text})" if self.outcome_known else f"outcome unknown ({text})"


class BadAnswer(ClientError):  # noqa: N818 - named for what was found
    """An answer that is not of the API that was expected, or too long. The text names the endpoint and what
    it sent.
    """

    def __init__(self, endpoint: str, problem: str, *, status: int = 0, outcome_known: bool = True) -> None:
        super().__init__(endpoint, problem)
        self.endpoint = endpoint
        self.problem = problem
        self.status = status
        self.outcome_known = outcome_known

    def __str__(self) -> str:
        return f"{self.endpoint} {self.problem}"


def tls_context(ca_file: str | None, cert_file: str | None, key_file: str | None) -> ssl.SSLContext:
    """A client's TLS settings: trusts the system's authorities, or those in `ca_file` alone; with a
    certificate of its own if one is given. `BadFile` names the parameter.
    """
    if ca_file:
        load_authorities(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ca_file, "ca_file")
    context = ssl.create_default_context(cafile=ca_file or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if cert_file:
        load_certificate(context, cert_file, key_file or None)
    return context


class Reply(msgspec.Struct, frozen=True):
    """The whole answer of one endpoint."""

    endpoint: str
    status: int
    body: bytes


class Response:
    """An answer whose head has arrived. `write` tells whether the request may have changed anything."""

    def __init__(self, endpoint: str, response: httpx.Response, timeout: float, *, write: bool) -> None:
        """Made by `Transport.request`; `timeout` is for the body."""
        self.endpoint = endpoint
        self.status = response.status_code
        self.write = write
        self._response = response
        self._timeout = timeout

    def header(self, name: str) -> str:
        """The value of a header field; empty if it was not sent."""
        value: str = self._response.headers.get(name, "")
        return value

    async def body(self) -> bytes:
        """The whole body. Unreachable if it does not arrive in time."""
        reason = f"the rest of the answer did not come within {self._timeout:g} s"
        with trio.move_on_after(self._timeout):
            try:
                return await self.body_without_limit()
            except httpx.TransportError as error:
                reason = _reason(error)
        raise Unreachable([(self.endpoint, reason)], outcome_known=not self.write)

    async def body_of_watch(self) -> bytes | None:
        """The whole body, however long it takes; None if the connection was cut before its end."""
        try:
            return await self.body_without_limit()
        except httpx.TransportError:
            return None

    async def body_without_limit(self) -> bytes:
        """The whole body, however long it takes. BadAnswer if it is longer than `MAX_ANSWER_BYTES`, with an
        unknown outcome if the request is a write. May raise httpx.TransportError.
        """
        pieces: list[bytes] = []
        size = 0
        async for piece in self._response.aiter_raw():
            size += len(piece)
            if size > MAX_ANSWER_BYTES:
                raise BadAnswer(
                    self.endpoint,
                    f"sent more than {MAX_ANSWER_BYTES} bytes",
                    status=self.status,
                    outcome_known=not self.write,
                )
            pieces.append(piece)
        return b"".join(pieces)

    async def close(self) -> None:
        """Give the connection back, or drop it. Shielded, because httpx would not release the connection if
        it were cancelled.
        """
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 1.0):
            await self._response.aclose()


class Transport:
    """Sends requests with httpx on Trio. An async context manager; tasks may share it.

    `endpoints` is a comma-separated text or a sequence. `shuffle` (such as `random.shuffle`) distributes many
    clients over the list. `username` and `password` are sent as HTTP Basic. `timeout` bounds each attempt at
    one endpoint.
    """

    def __init__(
        self,
        endpoints: str | Iterable[str],
        *,
        ca_file: str | None = None,
        cert_file: str | None = None,
        key_file: str | None = None,
        username: str | None = None,
        password: str | None = None,
        timeout: float = TIMEOUT,
        connect_timeout: float = CONNECT_TIMEOUT,
        shuffle: Callable[[list[str]], None] | None = None,
    ) -> None:
        self.endpoints = Endpoints(endpoints, shuffle)
        self._timeout = timeout
        if self.endpoints.uses_tls():
            context = tls_context(ca_file, cert_file, key_file)
        else:
            # Not used. Loading the system's certificates would take longer than everything else here.
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        limits = httpx.Limits(
            max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_CONNECTIONS, keepalive_expiry=60.0
        )
        # Only connecting has a limit here; the whole of an attempt is bounded by a cancel scope.
        self._limits = httpx.Timeout(None, connect=connect_timeout, pool=connect_timeout)
        transport = httpx.AsyncHTTPTransport(
            verify=context, limits=limits, trust_env=False, socket_options=_KEEPALIVE
        )
        self._http = httpx.AsyncClient(
            transport=transport,
            trust_env=False,
            timeout=self._limits,
            auth=(username, password or "") if username else None,
            headers={"User-Agent": f"netstore/{__version__}", "Accept-Encoding": "identity"},
        )

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.__aexit__(kind, error, trace)

    @asynccontextmanager
    async def request(
        self,
        method: str,
        path: str,
        query: dict[str, str] | None = None,
        content: tuple[str, bytes] | None = None,
        *,
        write: bool,
        refusal: Callable[[Response, bytes], ClientError] | None = None,
    ) -> AsyncIterator[Response]:
        """Send a request, with the content type and body in `content`, and enter with the head of the answer.

        `refusal` makes an error of an answer and its body. With it, an answer to a read with a status of 500
        or more is taken as that of an endpoint that cannot serve it: the next one is tried, and the error of
        the last is raised. Without it, an answer with any status is returned.
        """
        response = await self._send(method, path, query or {}, content, write=write, refusal=refusal)
        try:
            yield response
        finally:
            await response.close()

    async def call(self, method: str, path: str, document: object = None, *, write: bool) -> Reply:
        """Send a request with a JSON body, or none if `document` is None; the answer, whatever its status."""
        content = None if document is None else ("application/json", msgspec.json.encode(document))
        async with self.request(method, path, content=content, write=write) as response:
            return Reply(response.endpoint, response.status, await response.body())

    async def _send(
        self,
        method: str,
        path: str,
        query: dict[str, str],
        sent_body: tuple[str, bytes] | None,
        *,
        write: bool,
        refusal: Callable[[Response, bytes], ClientError] | None,
    ) -> Response:
        target = f"{path}?{urlencode(query)}" if query else path
        content = sent_body[1] if sent_body is not None else None
        headers = {"Content-Type": sent_body[0]} if sent_body is not None else None
        tried: list[tuple[str, str]] = []
        order = self.endpoints.order()
        for endpoint in order:
            request = self._http.build_request(method, endpoint + target, content=content, headers=headers)
            sent = True
            reason = f"no answer within {self._timeout:g} s"
            with trio.move_on_after(self._timeout):
                try:
                    head = await self._http.send(request, stream=True)
                except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
                    sent = False
                    reason = _reason(error)
                except httpx.TransportError as error:
                    reason = _reason(error)
                    sent = not _rejects_certificate(error)
                else:
                    response = Response(endpoint, head, self._timeout, write=write)
                    if response.status < 500 or write or refusal is None:
                        self.endpoints.pin(endpoint)
                        return response
                    # A member without a leader, or a proxy without a backend: another endpoint may serve it.
                    try:
                        body = await response.body_without_limit()
                    except httpx.TransportError as error:
                        tried.append((endpoint, _reason(error)))
                        continue
                    finally:
                        await response.close()
                    refused = refusal(response, body)
                    if endpoint == order[-1]:
                        raise refused
                    reason = refused.problem if isinstance(refused, BadAnswer) else str(refused)
                    tried.append((endpoint, reason))
                    continue
            tried.append((endpoint, reason))
            if write and sent:
                raise Unreachable(tried, outcome_known=False)
        raise Unreachable(tried, outcome_known=True)


def _tls_fault(error: Exception) -> ssl.SSLError | None:
    """The TLS error behind one of httpx, which does not name it."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    return cause


def _rejects_certificate(error: Exception) -> bool:
    """The store does not accept the client's certificate. With TLS 1.3 it may say so after the request was
    sent (RFC 8446, 4.4.2.4 and 6.2), which it has not read then.
    """
    fault = _tls_fault(error)
    return fault is not None and _CERTIFICATE_ALERT.search(fault.reason or "") is not None


def _reason(error: Exception) -> str:
    """Why a request failed, in words."""
    fault = _tls_fault(error)
    if fault is not None:
        text = f"TLS: {error_text(fault)}"
        if _rejects_certificate(error):
            return f"{text}: the store wants a certificate of ours that it trusts"
        return f"{text}; is it http:// there?" if fault.reason in _NO_TLS else text
    if isinstance(error, httpx.RemoteProtocolError) and "without sending a response" in str(error):
        return "it closed the connection without an answer; is that its peer port, or https:// there?"
    if isinstance(error, httpx.ConnectTimeout):
        return "no connection, or no end of its TLS handshake, in time"
    return _system_error(error) or str(error) or type(error).__name__


def _system_error(error: BaseException) -> str:
    """The system's message behind a failed connection, without the address that other messages repeat."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, socket.gaierror):
            return cause.strerror or ""
        if isinstance(cause, OSError) and cause.errno:
            return os.strerror(cause.errno)
        if isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        else:
            cause = cause.__cause__ or cause.__context__
    return ""
