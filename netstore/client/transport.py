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

import logging
import ssl
import sys
import weakref
from base64 import b64encode
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import urlencode

import msgspec
import trio

from netstore import __version__
from netstore.client.endpoints import Endpoints
from netstore.client.faults import (
    CLOSED_EARLY,
    CONNECT_TIMED_OUT,
    CONNECT_TIMEOUT,
    MAX_ANSWER_BYTES,
    SETTINGS,
    SOCKET_OPTIONS,
    TIMEOUT,
    BadAnswer,
    ClientError,
    TlsFiles,
    TlsNames,
    TooLong,
    Unreachable,
    reason,
    rejects_certificate,
    tls_context,
)
from netstore.client.longpoll import LongPolls

# Where they are installed, httpx imports a command line of its own with rich and pygments, and its httpcore
# imports anyio and h2, which are not used here: together twice as much as all the rest. None in the place of
# each makes that import fail as it does where the extra is not installed, which both allow for.
_STAND_INS: Final = [name for name in ("httpx._main", "anyio", "h2") if name not in sys.modules]
sys.modules.update(dict.fromkeys(_STAND_INS))  # type: ignore[arg-type] # the import system knows None
import httpcore  # noqa: E402, F401 - httpx imports it when the first client is made
import httpx  # noqa: E402

for _name in _STAND_INS:
    del sys.modules[_name]

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable
    from types import TracebackType

    from netstore.client.longpoll import PollAnswer

_log = logging.getLogger("netstore.client")
"""Each request that was answered, at level INFO, without its headers, which may have secrets."""

MAX_CONNECTIONS: Final = 16
"""Connections of one client, beside those of its long polls."""


class Reply(msgspec.Struct, frozen=True):
    """The whole answer of one endpoint."""

    endpoint: str
    status: int
    body: bytes


class Response:
    """An answer whose head has arrived. `write` tells whether the request may have changed anything."""

    def __init__(
        self,
        endpoint: str,
        response: httpx.Response,
        timeout: float,
        endpoints: Endpoints,
        *,
        write: bool,
    ) -> None:
        """Made by `Transport.request`; `timeout` is for the body."""
        self.endpoint = endpoint
        self.status = response.status_code
        self.write = write
        self._response = response
        self._timeout = timeout
        self._endpoints = endpoints

    def header(self, name: str) -> str:
        """The value of a header field; empty if it was not sent."""
        value: str = self._response.headers.get(name, "")
        return value

    async def body(self) -> bytes:
        """The whole body. Unreachable if it does not arrive in time; another endpoint is used then."""
        why = f"the rest of the answer did not come within {self._timeout:g} s"
        with trio.move_on_after(self._timeout):
            try:
                return await self.body_without_limit()
            except httpx.TransportError as error:
                why = _reason(error)
        self._endpoints.avoid(self.endpoint)
        raise Unreachable([(self.endpoint, why)], outcome_known=not self.write)

    async def body_of_watch(self) -> bytes | None:
        """The whole body, however long it takes; None if the connection was cut before its end."""
        try:
            return await self.body_without_limit()
        except httpx.TransportError:
            return None

    async def body_without_limit(self) -> bytes:
        """The whole body, however long it takes. TooLong if it is longer than `MAX_ANSWER_BYTES`, with an
        unknown outcome if the request is a write. May raise httpx.TransportError.
        """
        pieces: list[bytes] = []
        size = 0
        async for piece in self._response.aiter_raw():
            size += len(piece)
            if size > MAX_ANSWER_BYTES:
                raise TooLong(
                    self.endpoint, MAX_ANSWER_BYTES, status=self.status, outcome_known=not self.write
                )
            pieces.append(piece)
        return b"".join(pieces)

    async def pieces(self, seconds: float) -> AsyncIterator[bytes]:
        """The body piece by piece. Unreachable if the next one does not come within so many seconds, or the
        connection breaks.
        """
        source = self._response.aiter_raw()
        while True:
            try:
                with trio.fail_after(seconds):
                    piece: bytes = await anext(source)
            except StopAsyncIteration:
                return
            except trio.TooSlowError:
                why = f"nothing more came within {seconds:g} s"
                raise Unreachable([(self.endpoint, why)], outcome_known=True) from None
            except httpx.TransportError as error:
                raise Unreachable([(self.endpoint, _reason(error))], outcome_known=True) from None
            yield piece

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
        tls_names: TlsNames = SETTINGS,
    ) -> None:
        self.endpoints = Endpoints(endpoints, shuffle)
        self.credentials = (username, password or "") if username else None
        self._timeout = timeout
        self._files = TlsFiles(ca_file, cert_file, tls_names)
        if self.endpoints.uses_tls():
            context = tls_context(ca_file, cert_file, key_file)
        else:
            # Not used. Loading the system's certificates would take longer than everything else here.
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.set_alpn_protocols(["http/1.1"])
        limits = httpx.Limits(
            max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_CONNECTIONS, keepalive_expiry=60.0
        )
        # Only connecting has a limit here; the whole of an attempt is bounded by a cancel scope.
        times = httpx.Timeout(None, connect=connect_timeout, pool=connect_timeout)
        self._extensions = {"timeout": times.as_dict()}
        # httpx's client on top of it, with cookies and redirects, would take half as much time again.
        self._http = httpx.AsyncHTTPTransport(
            verify=context, limits=limits, trust_env=False, socket_options=SOCKET_OPTIONS
        )
        self.connections = 0
        """How many have brought an answer, without those of `poll`."""
        self._seen: weakref.WeakSet[object] = weakref.WeakSet()
        """The streams of those that are still there."""
        self._headers = {"User-Agent": f"netstore/{__version__}", "Accept-Encoding": "identity"}
        self._authorization = ""
        if self.credentials is not None:
            pair = ":".join(self.credentials).encode()
            self._authorization = f"Basic {b64encode(pair).decode()}"
        fields = self._headers | ({"Authorization": self._authorization} if self._authorization else {})
        self._polls = LongPolls(
            self.endpoints,
            fields,
            context,
            self._files,
            timeout=timeout,
            connect_timeout=connect_timeout,
        )

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._polls.close()
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
        token: str | None = None,
    ) -> AsyncIterator[Response]:
        """Send a request, with the content type and body in `content`, and enter with the head of the answer.

        `refusal` makes an error of an answer and its body. With it, an answer to a read with a status of 500
        or more is taken as that of an endpoint that cannot serve it: the next one is tried, and the error of
        the last is raised. Without it, an answer with any status is returned. `token` is sent in the place of
        name and password; an empty one is not sent, nor are they.
        """
        response = await self._send(
            method, path, query or {}, content, write=write, refusal=refusal, token=token
        )
        try:
            yield response
        finally:
            await response.close()

    async def poll(
        self, path: str, query: dict[str, str], refusal: Callable[[PollAnswer, bytes], ClientError]
    ) -> PollAnswer:
        """Send a long poll over a connection of its own (`longpoll`), and return when the head of the answer
        has come. To be closed.
        """
        return await self._polls.open(f"{path}?{urlencode(query)}", refusal)

    async def call(
        self, method: str, path: str, document: object = None, *, write: bool, token: str | None = None
    ) -> Reply:
        """Send a request with a JSON body, or none if `document` is None; the answer, whatever its status.
        `token`: see `request`.
        """
        content = None if document is None else ("application/json", msgspec.json.encode(document))
        async with self.request(method, path, content=content, write=write, token=token) as response:
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
        token: str | None,
    ) -> Response:
        target = f"{path}?{urlencode(query)}" if query else path
        content = sent_body[1] if sent_body is not None else None
        headers = self._headers
        authorization = self._authorization if token is None else token
        if sent_body is not None or authorization:
            headers = headers.copy()
            if sent_body is not None:
                headers["Content-Type"] = sent_body[0]
            if authorization:
                headers["Authorization"] = authorization
        tried: list[tuple[str, str]] = []
        order = self.endpoints.order()
        for endpoint in order:
            request = httpx.Request(
                method, endpoint + target, headers=headers, content=content, extensions=self._extensions
            )
            sent = True
            why = f"no answer within {self._timeout:g} s"
            with trio.move_on_after(self._timeout):
                try:
                    head = await self._http.handle_async_request(request)
                except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
                    sent = False
                    why = _reason(error, self._files, in_handshake=True)
                except httpx.TransportError as error:
                    why = _reason(error, self._files)
                    sent = not rejects_certificate(error)
                else:
                    self._count(head)
                    if _log.isEnabledFor(logging.INFO):
                        _log.info("HTTP Request: %s %s %d", method, endpoint + target, head.status_code)
                    response = Response(endpoint, head, self._timeout, self.endpoints, write=write)
                    if response.status < 500 or write or refusal is None:
                        self.endpoints.pin(endpoint)
                        return response
                    # A member without a leader, or a proxy without a backend: another endpoint may serve it.
                    refused: ClientError
                    try:
                        refused = refusal(response, await response.body_without_limit())
                    except TooLong as error:
                        refused = error
                    except httpx.TransportError as error:
                        self.endpoints.avoid(endpoint)
                        tried.append((endpoint, _reason(error)))
                        continue
                    finally:
                        await response.close()
                    if endpoint == order[-1]:
                        raise refused
                    why = refused.problem if isinstance(refused, BadAnswer) else str(refused)
            self.endpoints.avoid(endpoint)
            tried.append((endpoint, why))
            if write and sent:
                raise Unreachable(tried, outcome_known=False)
        raise Unreachable(tried, outcome_known=True)

    def _count(self, head: httpx.Response) -> None:
        """An answer has come over a connection, perhaps a new one."""
        stream = head.extensions.get("network_stream")
        if stream is not None and stream not in self._seen:
            self._seen.add(stream)
            self.connections += 1


def _reason(error: Exception, files: TlsFiles | None = None, *, in_handshake: bool = False) -> str:
    """Why a request failed, in words."""
    if isinstance(error, httpx.RemoteProtocolError) and "without sending a response" in str(error):
        return CLOSED_EARLY
    if isinstance(error, httpx.ConnectTimeout):
        return CONNECT_TIMED_OUT
    return reason(error, files, in_handshake=in_handshake)
