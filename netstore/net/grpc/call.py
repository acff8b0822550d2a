"""One gRPC call, whatever its kind: how it is answered, and how it ends."""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

from netstore.codes import CANCELLED, DEADLINE_EXCEEDED, INTERNAL, OK, RESOURCE_EXHAUSTED
from netstore.errors import MustStop
from netstore.guard import guarded
from netstore.net.exchange import LOW_WATER
from netstore.net.grpc.counted import SHORTEST_BOUND
from netstore.net.grpc.headers import ENDING, OPENING, status_block
from netstore.net.grpc.messages import PREFIX
from netstore.net.http2 import STRIKES_AFTER_DATA, UNSENT_LIMIT, Stream
from netstore.net.http2.charging import takes_answers
from netstore.net.http2.closing import close
from netstore.net.http2.flow import await_drain, await_room, is_congested, may_send_whole

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.expiry import Expiry
    from netstore.net.grpc.server import GrpcServer
    from netstore.net.http2 import Head

_HEAD_AND_DATA: Final = Struct(f">IBI{len(OPENING)}sIBIBI")
_TRAILERS: Final = Struct(f">IBI{len(ENDING)}s")
_OPENING_FRAME: Final = len(OPENING) << 8 | 1
_ENDING_FRAME: Final = len(ENDING) << 8 | 1
_END_HEADERS: Final = 0x4
_END_ALL: Final = 0x5
_EXPIRED: Final = "context deadline exceeded"
_UNREAD: Final = "answers wait to be read on this connection, and memory is short: read them first"
_FAILED: Final = "internal error; the log of the server has it"


class GrpcCall(Stream, kw_only=True, eq=False):
    """The common part of unary and streaming calls. Implements `protocols.Call`."""

    server: GrpcServer
    head: Head
    deadline: float | None = None
    expiry: Expiry[GrpcCall] | None = None
    """Its entry in the server's list of deadlines."""
    _begun: bool = False
    """The response headers were sent."""
    _owed: int = 0
    """Bytes of the message begun with `begin_reply` that are still to come."""
    answering_since: float | None = None
    """When the message begun with `begin_reply` was begun."""
    partial: bytearray | None = None
    """What has arrived of an incomplete message, with its prefix."""
    needed: int = 0
    """Bytes of `partial` once the message, or its prefix, is complete."""
    failure: tuple[int, str] | None = None
    """Status and text of an error found while reading: the call ends with it."""
    _cancelled: Callable[[], None] | None = None
    _drained: Callable[[], None] | None = None
    """The callback of `on_drained` or `on_room`."""

    is_unary = False
    """The client sends exactly one message."""

    @property
    def path(self) -> bytes:
        """See `Call.path`."""
        return self.head.path

    @property
    def peer(self) -> str:
        """See `Call.peer`."""
        return self.connection.peer

    @property
    def principal(self) -> str:
        """See `Call.principal`."""
        return self.connection.output.principal

    @property
    def common_name(self) -> str | None:
        """See `Call.common_name`."""
        return self.connection.common_name

    def metadata(self, name: bytes) -> bytes | None:
        """See `Call.metadata`."""
        return self.head.field(name)

    def reply(self, message: bytes) -> None:
        """See `Call.reply`."""
        if not self.open:
            return
        size = len(message) + 5
        connection = self.connection
        output = connection.output
        if (
            size > connection.frame_limit
            or size > connection.initial_window + self.credit
            or size > connection.window
            or self.queued
            or self._begun
            or connection.table_update_due  # this and the next are `Http2Connection.plain`, without a call
            or output.unsent >= UNSENT_LIMIT
        ):
            if takes_answers(connection):
                self.send(message)
                self.finish()
            else:
                self.finish(RESOURCE_EXHAUSTED, _UNREAD)
            return
        connection.window -= size
        number = self.number
        output.write(
            _HEAD_AND_DATA.pack(
                _OPENING_FRAME, _END_HEADERS, number, OPENING, size << 8, 0, number, 0, size - 5
            )
            + message
            + _TRAILERS.pack(_ENDING_FRAME, _END_ALL, number, ENDING)
        )
        connection.strikes = STRIKES_AFTER_DATA
        if self._cancelled is not None:
            self._cancelled = None
        method = self.head.route
        method.answered += 1  # this and what follows is `Counted.ended`, without a call
        if self.is_unary:
            seconds = self.server.rounds.now - self.opened_at
            if seconds > SHORTEST_BOUND:
                method.took(self, seconds)
            else:
                method.short += seconds
        if self.deadline is not None:
            self.server.settle(self)
        close(connection, self)

    def begin_reply(self, size: int) -> None:
        """See `Call.begin_reply`."""
        if not self.open:
            return
        if self._begun:
            raise ValueError("this call has been answered in part already")
        if not 0 <= size < 1 << 32:
            raise ValueError(f"a message of {size} bytes has no length in gRPC: at most 2^32-1")
        self._begun = True
        self.answering_since = self.server.rounds.now
        self._owed = size
        self.put_head(OPENING)
        self.put_data(PREFIX.pack(0, size), b"")

    def push(self, *pieces: bytes | memoryview) -> None:
        """See `Call.push`."""
        if not self.open:
            return
        size = sum(map(len, pieces))
        if size > self._owed:
            raise ValueError(f"{size} bytes more of a message that lacks {self._owed}")
        self._owed -= size
        self.put_pieces(pieces, size)

    def end_reply(self) -> None:
        """See `Call.end_reply`."""
        if not self.open:
            return
        if self._owed:
            raise ValueError(f"a message ends that lacks {self._owed} bytes")
        self.finish()

    @property
    def congested(self) -> bool:
        """See `Call.congested`."""
        connection = self.connection
        return connection.queued > LOW_WATER and self.window <= self.queued and is_congested(connection)

    def send(self, message: bytes, shared: bytes = b"") -> None:
        """See `Call.send`."""
        if not self.open:
            return
        self.head.route.sent += 1
        if not self._begun:
            self._begun = True
            size = len(message) + 5
            connection = self.connection
            if (
                not shared
                and self.claim is None
                and size <= connection.frame_limit
                and size <= connection.initial_window + self.credit
                and size <= connection.window
                and connection.plain
            ):  # as `put_head` and `put_data` do, in one piece
                self.credit -= size
                connection.window -= size
                connection.strikes = STRIKES_AFTER_DATA
                head = _HEAD_AND_DATA.pack(
                    _OPENING_FRAME, _END_HEADERS, self.number, OPENING, size << 8, 0, self.number, 0, size - 5
                )
                connection.output.write(head + message)
                return
            self.put_head(OPENING)
        if shared:
            self.put_data(PREFIX.pack(0, len(message) + len(shared)) + message, shared)
        else:
            self.put_data(PREFIX.pack(0, len(message)), message)

    def finish(self, status: int = OK, text: str = "") -> None:
        """See `Call.finish`."""
        if not self.open:
            return
        self._cancelled = self._drained = None
        method = self.head.route
        if status or self.is_unary:
            method.ended(self, status)
        else:
            method.answered += 1
        self.discard()
        if self.deadline is not None:
            self.server.settle(self)
        if (
            self._begun
            and not (status or text or self.queued or self.awaiting_room)
            and self.connection.plain
        ):
            number = self.number  # as `put_last` does, in one piece
            self._last = ENDING
            self.connection.output.write(_TRAILERS.pack(_ENDING_FRAME, _END_ALL, number, ENDING))
            self.connection.strikes = STRIKES_AFTER_DATA
            close(self.connection, self)
            return
        block = ENDING if status == OK and not text else status_block(status, text)
        self.put_last(block if self._begun else OPENING + block)

    def on_drained(self, call: Callable[[], None]) -> None:
        """See `Call.on_drained`."""
        if not self.open:
            return
        if self.backlog <= LOW_WATER:
            self.guard(call)
            return
        self._drained = call
        await_drain(self.connection, self)

    def may_send_whole(self, size: int) -> bool:
        """See `Call.may_send_whole`."""
        return may_send_whole(self.connection, size)

    def on_room(self, call: Callable[[], None]) -> None:
        """See `Call.on_room`."""
        if not self.open:
            return
        if self.window_left > 0:
            self.guard(call)
            return
        self._drained = call
        await_room(self.connection, self)

    def on_cancelled(self, call: Callable[[], None]) -> None:
        """See `Call.on_cancelled`."""
        if self.open:
            self._cancelled = call

    def end(self, status: int, text: str) -> None:
        """End a call that its service has not finished, and tell the service even if sending fails."""
        if not self.open:
            return
        cancelled = self._cancelled
        try:
            self.finish(status, text)
        finally:
            if cancelled is not None:
                self.guard(cancelled)

    def expire(self) -> None:
        """End the call because its deadline has passed."""
        self.end(DEADLINE_EXCEEDED, _EXPIRED)

    def drained(self) -> None:
        """See `http2.Stream.drained`."""
        call, self._drained = self._drained, None
        if call is not None:
            self.guard(call)

    def lost(self) -> None:
        """See `http2.Stream.lost`."""
        self._drained = None
        self.head.route.ended(self, CANCELLED)
        self.discard()
        if self.deadline is not None:
            self.server.settle(self)
        self.connection.ready.append(self)

    def guard(self, call: Callable[[], None]) -> None:
        """See `Call.guard`."""
        guarded(self._failed, call)

    def _failed(self, fault: Exception) -> None:
        """The service raised: end the call with INTERNAL, tell the service that it ended, and log it."""
        try:
            self.end(INTERNAL, _FAILED)
        except MustStop:
            raise
        except Exception:  # noqa: BLE001 - the status cannot be sent: the client must not wait for it
            output = self.connection.output
            output.call_next_turn(output.cut)  # later: a caller may be using the connection now
        finally:
            self.server.failed(self, fault)

    def given_up(self, status: int, reason: bytes) -> None:  # noqa: ARG002 - a call has its own status
        """See `bodyadmission.Asker`."""
        self.discard()
        self.unclaim()
        self.failure = RESOURCE_EXHAUSTED, reason.decode()
        self.connection.ready.append(self)
        self.connection.output.request_turn()

    def discard(self) -> None:
        """Drop received data that was not handed over."""
        self.partial = None
        if self._weighed:
            self.weigh(0)
