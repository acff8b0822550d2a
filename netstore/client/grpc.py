"""gRPC calls to a store behind several endpoints, on Trio and our own HTTP/2 (gRPC over HTTP/2; RFC 9113).

A `Channel` has at most one connection, opened by the first call, to the endpoint that answered last. All
calls share it. When it breaks, its calls fail, and the next call opens another, trying one endpoint after the
other.

A call ends with its answer, with `Status` if the store refused, or with `Unreachable` or `BadAnswer`
(`client.faults`). A unary call that only reads is tried at one endpoint after the other. One that writes is
sent once; the next endpoint is tried only if it cannot have been processed: no connection, or the stream was
refused unprocessed (RFC 9113, 8.7).

What a peer may make us hold is bounded: by the windows of `net.http2.client` for what nobody asked for yet,
and by `MAX_ANSWER_BYTES` for one message.
"""

from __future__ import annotations

import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

import trio

from netstore import __version__
from netstore.client.dialing import open_stream
from netstore.client.endpoints import Endpoints
from netstore.client.faults import (
    CLOSED_EARLY,
    CONNECT_TIMED_OUT,
    CONNECT_TIMEOUT,
    MAX_ANSWER_BYTES,
    SETTINGS,
    TIMEOUT,
    BadAnswer,
    ClientError,
    TlsFiles,
    TlsNames,
    Unreachable,
    reason,
    rejects_certificate,
    tls_context,
)
from netstore.net.http2.client import ClientConnection, Data, Fields, GoingAway, Pong, Reset
from netstore.net.http2.frames import NO_ERROR, REFUSED_STREAM, ConnectionFault

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable, Sequence

    from netstore.net.http2.client import Event

CANCELLED: Final = 1
UNKNOWN: Final = 2
INVALID_ARGUMENT: Final = 3
DEADLINE_EXCEEDED: Final = 4
NOT_FOUND: Final = 5
PERMISSION_DENIED: Final = 7
RESOURCE_EXHAUSTED: Final = 8
FAILED_PRECONDITION: Final = 9
OUT_OF_RANGE: Final = 11
UNIMPLEMENTED: Final = 12
UNAVAILABLE: Final = 14
UNAUTHENTICATED: Final = 16

PING_AFTER: Final = 30.0
"""Seconds of silence after which a connection with open calls is sent a PING. etcd allows one each 5 s."""

PING_TIMEOUT: Final = 10.0
"""Seconds for the answer to a PING; then the connection counts as broken."""

MAX_UNSENT_BYTES: Final = 4 * 1024 * 1024
"""Bytes of requests that may wait for the peer's windows."""

_READ_BYTES: Final = 64 * 1024
_STATUS_DIGITS: Final = 3
_PREFIX: Final = struct.Struct(">BI")
_MAYBE_DONE: Final = (CANCELLED, UNKNOWN, DEADLINE_EXCEEDED, UNAVAILABLE)
"""Codes of a write that may have been done or may still be done."""


class Status(ClientError):  # noqa: N818 - gRPC's word
    """The store ended a call with a code other than OK. `code` is gRPC's."""

    def __init__(self, endpoint: str, code: int, message: str, *, write: bool = False) -> None:
        super().__init__(endpoint, code, message)
        self.endpoint = endpoint
        self.code = code
        self.message = message
        self.outcome_known = not (write and code in _MAYBE_DONE)
        self.is_denied = code == PERMISSION_DENIED

    def __str__(self) -> str:
        return self.message or f"{self.endpoint} ended the call with gRPC code {self.code}"


class _Lost(Exception):  # noqa: N818 - named for what happened
    """A call whose connection or stream ended before it. `is_processed` is False if the store cannot have
    processed the call.
    """

    def __init__(self, why: str, *, is_processed: bool) -> None:
        super().__init__(why)
        self.why = why
        self.is_processed = is_processed


class Call:
    """One call: messages in both directions. Made by `Channel.open`; to be closed."""

    def __init__(
        self, connection: _Connection, fields: Sequence[tuple[bytes, bytes]], *, write: bool = False
    ) -> None:
        """`write` tells whether it may change anything, so that its outcome is unknown when it is lost."""
        self._connection = connection
        self._write = write
        self._stream = connection.http2.open(fields)
        self._held = bytearray()
        self._padding = 0
        """Bytes that came with those, and are charged too."""
        self._message = bytearray()
        self._head: dict[bytes, bytes] | None = None
        self._foreign = ""
        """The status of an answer that is not in gRPC."""
        self._trailers: dict[bytes, bytes] | None = None
        self._lost: _Lost | None = None
        self._woken = trio.Event()
        connection.calls[self._stream] = self

    @property
    def endpoint(self) -> str:
        """The endpoint that serves it."""
        return self._connection.endpoint

    def send(self, message: bytes, *, is_last: bool = False) -> None:
        """Send a message. `Unreachable` if too many bytes wait to be sent."""
        http2 = self._connection.http2
        if http2.unsent(self._stream) > MAX_UNSENT_BYTES:
            raise Unreachable(
                [(self.endpoint, "it does not read what is sent")], outcome_known=not self._write
            )
        http2.send(self._stream, _PREFIX.pack(0, len(message)) + message, is_end=is_last)
        self._connection.flush()

    async def receive(self) -> bytes:
        """The next message. `Status` once the store has ended the call, whatever the code; `Unreachable` or
        `BadAnswer` for other ends. Waits without limit.
        """
        try:
            return await self._receive()
        except _Lost as lost:
            raise Unreachable([(self.endpoint, lost.why)], outcome_known=not self._write) from None

    async def _receive(self) -> bytes:
        await trio.lowlevel.checkpoint()
        while True:
            if self._foreign:
                raise BadAnswer(
                    self.endpoint,
                    f"answered {self._foreign}, and not in gRPC; is it a store that has the v3 API?",
                )
            self._gather()
            message = self._whole_message()
            if message is not None:
                return message  # nothing is awaited after it was taken: a cancelled call loses none
            if self._trailers is not None:
                raise self._status(self._trailers)
            if self._lost is not None:
                raise self._lost
            self._woken = trio.Event()
            await self._woken.wait()

    def close(self) -> None:
        """Give the call up, if it has not ended."""
        connection = self._connection
        connection.calls.pop(self._stream, None)
        connection.http2.reset(self._stream)
        connection.flush()
        if connection.is_retired:
            connection.retire()

    def take(self, event: Event) -> None:
        """The connection received something for this call."""
        if isinstance(event, Data):
            self._held += event.data
            self._padding += event.charged - len(event.data)
        elif isinstance(event, Fields):
            fields = dict(event.fields)
            if self._head is None:
                self._head = fields
                status = fields.get(b":status", b"?")
                if status != b"200" or not fields.get(b"content-type", b"").startswith(b"application/grpc"):
                    self._foreign = status.decode("ascii", "replace")
            if event.is_end or b"grpc-status" in fields:
                self._trailers = fields
        elif isinstance(event, Reset):
            self.end(
                f"it reset the call with code {event.code} of HTTP/2",
                is_processed=event.code != REFUSED_STREAM,
            )
        if isinstance(event, Data) and event.is_end and self._trailers is None:
            self._trailers = {}
        self._woken.set()

    def end(self, why: str, *, is_processed: bool) -> None:
        """The connection cannot go on with this call."""
        if self._lost is None:
            self._lost = _Lost(why, is_processed=is_processed)
        self._woken.set()

    def _gather(self) -> None:
        """Take up what came, as far as the next message needs it, and let the peer send as much again."""
        held, message = self._held, self._message
        while held and (room := self._needed() - len(message)) > 0:
            part = held[:room]
            message += part
            del held[:room]
            self._connection.http2.consumed(self._stream, len(part) + self._padding)
            self._padding = 0
        self._connection.flush()

    def _needed(self) -> int:
        if len(self._message) < _PREFIX.size:
            return _PREFIX.size
        is_compressed, size = _PREFIX.unpack_from(self._message)
        if is_compressed:
            raise BadAnswer(self.endpoint, "sent a compressed message, which was not asked for")
        if size > MAX_ANSWER_BYTES:
            raise BadAnswer(
                self.endpoint,
                f"sent a message of more than {MAX_ANSWER_BYTES} bytes",
                outcome_known=not self._write,
            )
        return _PREFIX.size + int(size)

    def _whole_message(self) -> bytes | None:
        size = self._needed()
        if len(self._message) < size:
            return None
        message = bytes(self._message[_PREFIX.size : size])
        del self._message[:size]
        return message

    def _status(self, trailers: dict[bytes, bytes]) -> ClientError:
        code = trailers.get(b"grpc-status", b"")
        if not code.isdigit() or len(code) > _STATUS_DIGITS:
            return BadAnswer(self.endpoint, "ended a call without a status")
        text = unquote(trailers.get(b"grpc-message", b"").decode("ascii", "replace"))
        return Status(self.endpoint, int(code), text)


class _Connection:
    """An HTTP/2 connection and the two tasks that read and write it."""

    def __init__(self, endpoint: str, stream: trio.abc.Stream, files: TlsFiles | None = None) -> None:
        self.endpoint = endpoint
        self._files = files
        self.http2 = ClientConnection()
        self.calls: dict[int, Call] = {}
        self.broken: str | None = None
        """Why it cannot be used any more."""
        self.is_retired = False
        """It is closed when its last call ends."""
        self._scope = trio.CancelScope()
        self._stream = stream
        self._has_output = trio.Event()
        self._has_input = False
        self._is_at_fault = False
        """The peer did what it must not; it is told so."""
        self._heard_at = trio.current_time()

    @property
    def is_usable(self) -> bool:
        """Whether another call may be opened."""
        http2 = self.http2
        return self.broken is None and not http2.is_going_away and http2.open_streams < http2.max_streams

    def flush(self) -> None:
        """There may be something to be sent."""
        if self.http2.output:
            self._has_output.set()

    def retire(self) -> None:
        """Open no more calls on it, and close it when its last one ends."""
        self.is_retired = True
        if not self.calls:
            self._scope.cancel()

    async def run(self) -> None:
        """Serve the connection until it breaks, or is retired or cancelled."""
        self.flush()
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    nursery.start_soon(self._watch_silence)
                    await self._read()
                    nursery.cancel_scope.cancel()
        except* Exception as errors:  # noqa: BLE001 - it must not end the others in the channel's nursery
            self._break(f"the connection failed: {reason(errors)}")
        finally:
            self._break("the connection was closed")
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1.0):
                if self._is_at_fault:
                    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                        await self._stream.send_all(bytes(self.http2.output))
                await trio.aclose_forcefully(self._stream)

    async def _read(self) -> None:
        while self.broken is None:
            try:
                data = await self._stream.receive_some(_READ_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                return self._break(reason(error.__cause__ or error, self._files), cause=error)
            if not data:
                why = "it closed the connection" if self._has_input else CLOSED_EARLY
                return self._break(why)
            self._has_input = True
            self._heard_at = trio.current_time()
            try:
                events = self.http2.receive(bytes(data))
            except ConnectionFault as fault:
                self._is_at_fault = True
                if data.startswith(b"HTTP/1"):
                    return self._break("it answers in HTTP/1; is it https:// there, or without v3?")
                if not self.http2.is_http2:
                    return self._break("it does not speak HTTP/2; is it a store?")
                return self._break(f"it does not keep to HTTP/2: {fault}; is it a store?")
            for event in events:
                self._take(event)
            self.flush()
        return None

    def _take(self, event: Event) -> None:
        if isinstance(event, Pong):
            return
        if isinstance(event, GoingAway):
            why = f"it ends the connection with code {event.code} of HTTP/2 ({event.text})"
            for number, call in self.calls.items():
                if number > event.last or event.code != NO_ERROR:
                    call.end(why, is_processed=number <= event.last)
            return
        receiver = self.calls.get(event.stream)
        if receiver is not None:
            receiver.take(event)

    async def _write(self) -> None:
        output = self.http2.output
        while True:
            await self._has_output.wait()
            self._has_output = trio.Event()
            while output:
                data = bytes(output)
                output.clear()
                try:
                    await self._stream.send_all(data)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    return  # the reader finds out why

    async def _watch_silence(self) -> None:
        """Break a connection whose peer is gone without a word."""
        while True:
            await trio.sleep_until(self._heard_at + PING_AFTER)
            if trio.current_time() < self._heard_at + PING_AFTER:
                continue
            if self.calls:
                before = self._heard_at
                self.http2.ping()
                self.flush()
                await trio.sleep(PING_TIMEOUT)
                if self._heard_at == before:
                    self._break(f"nothing came for {PING_AFTER + PING_TIMEOUT:g} s")
                    await trio.aclose_forcefully(self._stream)
                    return
            else:
                self._heard_at = trio.current_time()

    def _break(self, why: str, cause: BaseException | None = None) -> None:
        if self.broken is None:
            self.broken = why
        rejected = cause is not None and rejects_certificate(cause)
        for call in self.calls.values():
            call.end(self.broken, is_processed=not rejected)


class Channel:
    """Calls to the first endpoint that can be reached; tasks may share it. Its connection is served by tasks
    in `nursery`, and closed when that is cancelled.

    `endpoints` is a comma-separated text or a sequence; `shuffle` distributes many clients over it. `timeout`
    bounds each unary call at one endpoint.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        endpoints: str | Iterable[str],
        *,
        ca_file: str | None = None,
        cert_file: str | None = None,
        key_file: str | None = None,
        timeout: float = TIMEOUT,
        connect_timeout: float = CONNECT_TIMEOUT,
        shuffle: Callable[[list[str]], None] | None = None,
        tls_names: TlsNames = SETTINGS,
    ) -> None:
        self.endpoints = Endpoints(endpoints, shuffle)
        self.metadata: dict[bytes, bytes] = {}
        """Fields that each call carries, by name."""
        self.connections = 0
        """How many have been made: the number of the present one."""
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._files = TlsFiles(ca_file, cert_file, tls_names)
        self._tls: ssl.SSLContext | None = None
        if self.endpoints.uses_tls():
            self._tls = tls_context(ca_file, cert_file, key_file)
            self._tls.set_alpn_protocols(["h2"])
        self._nursery = nursery
        self._connection: _Connection | None = None
        self._connecting = trio.Lock()

    async def open(self, path: str, *fields: tuple[bytes, bytes]) -> Call:
        """Open a call that only reads, for messages in both directions, at the first endpoint that can be
        reached.
        """
        tried: list[tuple[str, str]] = []
        for endpoint in self.endpoints.order():
            connection = await self._connected(endpoint, tried)
            if connection is not None:
                return self._call(connection, path, fields, write=False)
        raise Unreachable(tried, outcome_known=True)

    async def unary(self, path: str, request: bytes, *, write: bool) -> bytes:
        """Make a call with one request and one answer. `Status` if the store refuses."""
        tried: list[tuple[str, str]] = []
        order = self.endpoints.order()
        for endpoint in order:
            connection = await self._connected(endpoint, tried)
            if connection is None:
                continue
            why, is_processed = f"no answer within {self._timeout:g} s", True
            with trio.move_on_after(self._timeout):
                try:
                    answer = await self._ask(connection, path, request, write=write)
                except _Lost as lost:
                    why, is_processed = lost.why, lost.is_processed
                except (Status, BadAnswer) as error:
                    # A member without a leader, one that is stopping, or a proxy without either: another
                    # endpoint may serve it.
                    is_refused = isinstance(error, Status) and error.code != UNAVAILABLE
                    if not is_refused:
                        self.avoid(endpoint)
                    if write or is_refused or endpoint == order[-1]:
                        raise
                    why = error.problem if isinstance(error, BadAnswer) else str(error)
                else:
                    self.endpoints.pin(endpoint)
                    return answer
            self.avoid(endpoint)
            tried.append((endpoint, why))
            if write and is_processed:
                raise Unreachable(tried, outcome_known=False)
        raise Unreachable(tried, outcome_known=True)

    async def _ask(self, connection: _Connection, path: str, request: bytes, *, write: bool) -> bytes:
        call = self._call(connection, path, (), write=write)
        try:
            call.send(request, is_last=True)
            answer: bytes | None = None
            try:
                while True:
                    answer = await call._receive()  # noqa: SLF001 - of this module
            except Status as status:
                if status.code:
                    raise Status(status.endpoint, status.code, status.message, write=write) from None
            except BadAnswer as error:
                error.outcome_known = not write
                raise
            if answer is None:
                raise BadAnswer(call.endpoint, "ended a call without an answer", outcome_known=not write)
            return answer
        finally:
            call.close()

    def _call(
        self, connection: _Connection, path: str, more: Sequence[tuple[bytes, bytes]], *, write: bool
    ) -> Call:
        scheme, authority = connection.endpoint.split("://")
        fields = [
            (b":method", b"POST"),
            (b":scheme", scheme.encode()),
            (b":path", path.encode()),
            (b":authority", authority.encode()),
            (b"content-type", b"application/grpc"),
            (b"te", b"trailers"),
            (b"user-agent", f"netstore/{__version__}".encode()),
            *self.metadata.items(),
            *more,
        ]
        return Call(connection, fields, write=write)

    def avoid(self, endpoint: str) -> None:
        """Prefer other endpoints for the next calls: this one cannot be reached, or does not serve."""
        self.endpoints.avoid(endpoint)

    async def _connected(self, endpoint: str, tried: list[tuple[str, str]]) -> _Connection | None:
        """The connection to this endpoint, opened if needed. None, with the reason in `tried`, if it cannot
        be opened.
        """
        async with self._connecting:
            current = self._connection
            if current is not None and current.endpoint == endpoint and current.is_usable:
                return current
            why = CONNECT_TIMED_OUT
            with trio.move_on_after(self._connect_timeout):
                try:
                    stream, _ = await open_stream(endpoint, self._tls)
                except (OSError, trio.BrokenResourceError, ExceptionGroup) as error:
                    why = reason(error, self._files, in_handshake=True)
                else:
                    if current is not None:
                        current.retire()
                    self._connection = connection = _Connection(endpoint, stream, self._files)
                    self.connections += 1
                    self._nursery.start_soon(connection.run)
                    return connection
            self.avoid(endpoint)
            tried.append((endpoint, why))
            return None
