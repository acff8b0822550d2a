"""Long polls in HTTP/1.1, over connections of their own (RFC 9112).

The store sends the head of its answer at once, and the body when there is an event. Each event takes a
request, so polls are most of what it costs to follow a v2 store, and what comes between an event and its use
delays it. Here is only what a poll needs: GET, and connections that are used again. All else is `transport`,
whose rules for several endpoints hold here too.

A connection whose answer was not read to its end is closed, and one that is idle is used again only if
nothing came over it meanwhile. An answer that two readers could take for different ones is refused.
"""

from __future__ import annotations

import logging
import re
import select
from typing import TYPE_CHECKING, Final

import trio

from netstore.client.dialing import open_stream
from netstore.client.faults import (
    CLOSED_EARLY,
    CONNECT_TIMED_OUT,
    MAX_ANSWER_BYTES,
    BadAnswer,
    ClientError,
    TlsFiles,
    Unreachable,
    reason,
)
from netstore.net.http1.chunked import BodyTooLarge, ChunkedBody
from netstore.net.http1.head import FIELD_LINE, Malformed

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping

    from netstore.client.endpoints import Endpoints

_log = logging.getLogger("netstore.client")

MAX_HEAD_BYTES: Final = 32 * 1024
"""Of an answer, and of the fields after a chunked body."""

MAX_IDLE: Final = 4
"""Connections that are kept while no poll uses them: more than one task polls."""

_READ_BYTES: Final = 64 * 1024
_HEAD: Final = re.compile(
    rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: [\t -~\x80-\xff]*+)?\r\n((?:%b)*+)\r\n" % FIELD_LINE
)
_FIELD: Final = re.compile(rb"([^:\r]++):[\t ]*+([^\r]*?)[\t ]*+\r\n")
_LENGTH: Final = re.compile(r"[0-9]{1,18}")
_START: Final = b"HTTP/1."
_CUT: Final = "it closed the connection within its answer"
_NOT_HTTP: Final = "it does not keep to HTTP/1.1; is it a store, and is it https:// there?"
_BODILESS: Final = frozenset({204, 304})


class _Broken(Exception):  # noqa: N818 - named for what happened
    """The connection cannot be used any more."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class _Connection:
    """One connection, for one poll at a time."""

    def __init__(
        self, endpoint: str, stream: trio.abc.Stream, tcp: trio.SocketStream, files: TlsFiles
    ) -> None:
        self.endpoint = endpoint
        self.received = b""
        """What came and was not taken."""
        self._stream = stream
        self._files = files
        self._input = select.poll()
        self._input.register(tcp.socket.fileno(), select.POLLIN)

    @property
    def is_silent(self) -> bool:
        """Whether nothing came that nobody asked for, nor its end."""
        return not self.received and not self._input.poll(0)

    async def send(self, data: bytes) -> None:
        """Send all of it."""
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise _Broken(reason(error.__cause__ or error, self._files)) from error

    async def receive(self) -> bytes:
        """What comes next."""
        try:
            data = await self._stream.receive_some(_READ_BYTES)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise _Broken(reason(error.__cause__ or error, self._files)) from error
        return bytes(data)

    async def close(self) -> None:
        """Close it without a word: nothing of a poll gets lost by it. Shielded, because all are to be closed,
        and it does not wait.
        """
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(self._stream)


class PollAnswer:
    """The answer to a poll, whose head has arrived. To be closed."""

    write = False

    def __init__(
        self, polls: LongPolls, connection: _Connection, status: int, fields: dict[str, str], *, keeps: bool
    ) -> None:
        """Made by `LongPolls.open`; `keeps` tells whether the connection can be used again."""
        self.endpoint = connection.endpoint
        self.status = status
        self._polls = polls
        self._connection = connection
        self._fields = fields
        self._keeps = keeps
        self._is_whole = False

    def header(self, name: str) -> str:
        """The value of a header field, given in lower case; empty if it was not sent."""
        return self._fields.get(name, "")

    async def body(self) -> bytes:
        """The whole body. Unreachable if it does not arrive in time; another endpoint is used then."""
        timeout = self._polls.timeout
        why = f"the rest of the answer did not come within {timeout:g} s"
        with trio.move_on_after(timeout):
            try:
                return await self.read()
            except _Broken as broken:
                why = broken.why
        self._polls.endpoints.avoid(self.endpoint)
        raise Unreachable([(self.endpoint, why)], outcome_known=True)

    async def body_of_watch(self) -> bytes | None:
        """The whole body, however long it takes; None if the connection was cut before its end."""
        try:
            return await self.read()
        except _Broken:
            return None

    async def read(self) -> bytes:
        """The whole body, however long it takes. BadAnswer if it is longer than `MAX_ANSWER_BYTES`."""
        length, connection = self._fields.get("content-length"), self._connection
        if self.status in _BODILESS:
            body = b""
        elif "transfer-encoding" in self._fields:
            body = await self._read_chunks(connection)
        else:
            size = MAX_ANSWER_BYTES + 1 if length is None else int(length)
            if length is not None and size > MAX_ANSWER_BYTES:
                raise self._too_long()
            parts, missing = [connection.received], size - len(connection.received)
            while missing > 0 and (more := await connection.receive()):
                parts.append(more)
                missing -= len(more)
            if length is None and missing <= 0:
                raise self._too_long()
            if length is not None and missing > 0:
                raise _Broken(_CUT)
            whole = b"".join(parts)
            body, connection.received = whole[:size], whole[size:]
        self._is_whole = True
        return body

    async def _read_chunks(self, connection: _Connection) -> bytes:
        body = ChunkedBody(MAX_ANSWER_BYTES, MAX_HEAD_BYTES)
        data = connection.received
        try:
            while True:
                at = body.take(data, 0)
                if body.ended:
                    connection.received = data[at:]
                    return body.whole()
                data = await connection.receive()
                if not data:
                    raise _Broken(_CUT)
        except Malformed:
            raise _Broken(_NOT_HTTP) from None
        except BodyTooLarge:
            raise self._too_long() from None

    def _too_long(self) -> BadAnswer:
        return BadAnswer(self.endpoint, f"sent more than {MAX_ANSWER_BYTES} bytes", status=self.status)

    async def close(self) -> None:
        """Keep the connection for the next poll, or close it."""
        if self._keeps and self._is_whole and self._polls.keep(self._connection):
            return
        await self._connection.close()


class LongPolls:
    """Sends polls to the first endpoint that answers; tasks may share it. `fields` are sent with each poll;
    `timeout` bounds the time until the head of an answer, at one endpoint.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        fields: Mapping[str, str],
        tls: ssl.SSLContext | None,
        files: TlsFiles,
        *,
        timeout: float,
        connect_timeout: float,
    ) -> None:
        self.endpoints = endpoints
        self.timeout = timeout
        self._tls = tls
        self._files = files
        self._connect_timeout = connect_timeout
        self._lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self._idle: list[_Connection] = []

    async def close(self) -> None:
        """Close the connections that no poll uses."""
        while self._idle:
            await self._idle.pop().close()

    async def open(self, target: str, refusal: Callable[[PollAnswer, bytes], ClientError]) -> PollAnswer:
        """Poll this path with its query, until the head of the answer has come. As with a read in
        `Transport.request`, an endpoint that answers with a status of 500 or more cannot serve it, and the
        next one is asked; `refusal` makes the error of the last.
        """
        tried: list[tuple[str, str]] = []
        order = self.endpoints.order()
        for endpoint in order:
            why = f"no answer within {self.timeout:g} s"
            with trio.move_on_after(self.timeout):
                try:
                    answer = await self._ask(endpoint, target)
                    if answer.status < 500:
                        self.endpoints.pin(endpoint)
                        return answer
                    try:
                        refused = refusal(answer, await answer.read())
                    except BadAnswer as error:
                        refused = error  # its body is too long
                    finally:
                        await answer.close()
                except _Broken as broken:
                    why = broken.why
                else:
                    if endpoint == order[-1]:
                        raise refused
                    why = refused.problem if isinstance(refused, BadAnswer) else str(refused)
            self.endpoints.avoid(endpoint)
            tried.append((endpoint, why))
        raise Unreachable(tried, outcome_known=True)

    def keep(self, connection: _Connection) -> bool:
        """Keep a connection whose answer is over, if there is room."""
        has_room = len(self._idle) < MAX_IDLE
        if has_room:
            self._idle.append(connection)
        return has_room

    async def _ask(self, endpoint: str, target: str) -> PollAnswer:
        connection = await self._connected(endpoint)
        authority = endpoint.rpartition("/")[2]
        try:
            await connection.send(f"GET {target} HTTP/1.1\r\nHost: {authority}\r\n{self._lines}\r\n".encode())
            answer = await self._head(connection)
        except BaseException:
            await connection.close()
            raise
        if _log.isEnabledFor(logging.INFO):
            _log.info("HTTP Request: GET %s %d", endpoint + target, answer.status)
        return answer

    async def _connected(self, endpoint: str) -> _Connection:
        """A connection to the endpoint that no poll uses; the idle ones to others are closed."""
        while self._idle:
            connection = self._idle.pop()
            if connection.endpoint == endpoint and connection.is_silent:
                return connection
            await connection.close()
        why = CONNECT_TIMED_OUT
        with trio.move_on_after(self._connect_timeout):
            try:
                stream, tcp = await open_stream(endpoint, self._tls)
                return _Connection(endpoint, stream, tcp, self._files)
            except (OSError, trio.BrokenResourceError, ExceptionGroup) as error:
                why = reason(error, self._files, in_handshake=True)
        raise _Broken(why)

    async def _head(self, connection: _Connection) -> PollAnswer:
        """The answer, behind interim ones (RFC 9110, 15.2)."""
        received = b""
        while True:
            end = received.find(b"\r\n\r\n") + 4
            if end >= 4:
                status, fields, keeps = _parsed(received[:end])
                received = received[end:]
                if status >= 200:
                    connection.received = received
                    return PollAnswer(self, connection, status, fields, keeps=keeps)
                continue
            if len(received) > MAX_HEAD_BYTES or not received.startswith(_START[: len(received)]):
                raise _Broken(_NOT_HTTP)
            more = await connection.receive()
            if not more:
                raise _Broken(_CUT if received else CLOSED_EARLY)
            received += more


def _parsed(head: bytes) -> tuple[int, dict[str, str], bool]:
    """Status, fields, and whether the connection stays open behind the body."""
    whole = _HEAD.fullmatch(head)
    if whole is None:
        raise _Broken(_NOT_HTTP)
    fields: dict[str, str] = {}
    for written, value in _FIELD.findall(whole[3]):
        name = written.decode("latin-1").lower()
        if name in fields and name in {"content-length", "transfer-encoding"}:
            raise _Broken(_NOT_HTTP)
        fields[name] = value.decode("latin-1")
    length, coding = fields.get("content-length"), fields.get("transfer-encoding")
    if coding is not None and (coding.lower() != "chunked" or length is not None):
        raise _Broken(_NOT_HTTP)
    if length is not None and _LENGTH.fullmatch(length) is None:
        raise _Broken(_NOT_HTTP)
    is_last = whole[1] == b"0" or "close" in fields.get("connection", "").lower()
    return int(whole[2]), fields, not is_last and (length is not None or coding is not None)
