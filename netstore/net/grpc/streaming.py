"""Streaming calls: any number of messages in either direction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from netstore.codes import OK, UNAVAILABLE
from netstore.errors import MustStop, Reason
from netstore.guard import tell
from netstore.net.bodyadmission import SMALL
from netstore.net.grpc.call import GrpcCall
from netstore.net.grpc.messages import read_prefix, split
from netstore.net.http2 import END_STREAM, HANDLING_WORK, QUEUED_LIMIT_OVER
from netstore.net.http2.charging import begin_message, complete_message, takes_answers

if TYPE_CHECKING:
    from netstore.net.grpc.protocols import Receiver, StreamHandler

_STOPPED: Final = Reason.STOPPED.text
_MESSAGES_AT_ONCE: Final = 32
_MESSAGE_COST: Final = 64
"""Bytes charged for each waiting message of a stream, in addition to its own."""


class StreamCall(GrpcCall, kw_only=True, eq=False):
    """A streaming call. Handed over when it opens, and whenever messages have arrived."""

    handler: StreamHandler | None
    """What makes the receiver; None once it has."""
    _receiver: Receiver | None = None
    _inbox: list[bytes] = msgspec.field(default_factory=list)
    _inbox_size: int = 0
    """Bytes in `_inbox` with `_MESSAGE_COST` each; charged while they exceed `SMALL`."""
    _ended: bool = False
    """END_STREAM was received, and the receiver was not told yet."""
    _listed: bool = True
    """It is in `connection.ready`."""
    _lost: bool = False
    """It was reset, or its connection is over."""

    defers_to_peer = False

    def __post_init__(self) -> None:
        self.connection.ready.append(self)

    @property
    def awaited(self) -> bool:  # type: ignore[override]  # a constant for what is no stream of messages
        """See `http2.Stream.awaited`: a client may open a stream long before its first message."""
        return self.partial is not None

    def complete(self) -> None:
        """See `http2.Stream.complete`. The claim ends with the message; the next message has its own."""
        self.unclaim()

    def take_whole(self, data: bytes, start: int, stop: int) -> None:
        """See `http2.Stream.take_whole`: one whole message, as clients renew a lease once. 80 bytecodes less
        than `take`, 5 % of a renewal.
        """
        size = stop - start - 5
        most = min(SMALL - _MESSAGE_COST, self.server.message_limit)
        if 0 <= size <= most and read_prefix(data, start) == (0, size):
            self.connection.spent += 1
            self._inbox.append(data[start + 5 : stop])
            self._inbox_size = size + _MESSAGE_COST
            self._ended = True
        else:
            self.take(data, start, stop, END_STREAM)

    def take(self, data: bytes, start: int, stop: int, ended: int) -> None:
        """See `http2.Stream.take`."""
        messages = split(self, data, start, stop)
        if messages:
            self._inbox += messages
            self._inbox_size += sum(map(len, messages)) + _MESSAGE_COST * len(messages)
            if self._inbox_size > SMALL:
                self.keep(self._inbox_size)
        if ended:
            self._ended = True
        elif self.partial is not None:
            if messages or self.since is None:
                begin_message(self.connection, self)
        elif messages and self.since is not None:
            complete_message(self.connection, self)
        if not self._listed:
            self._listed = True
            self.connection.ready.append(self)

    def hand_over(self) -> None:
        """See `http2.Stream.hand_over`."""
        self._listed = False
        if not self.open:
            self._tell_end()
            return
        try:
            self._serve()
        except MustStop:
            raise
        except Exception as fault:  # noqa: BLE001 - given to `_failed`
            tell(self._failed, fault)

    def end(self, status: int, text: str) -> None:
        """See `GrpcCall.end`."""
        if not self.open:
            return
        receiver = self._receiver
        try:
            super().end(status, text)
        finally:
            if receiver is not None:
                self.guard(receiver.cancelled)

    def drain(self) -> None:
        """See `http2.Stream.drain`: end with UNAVAILABLE, so that the client goes to another member."""
        self.end(UNAVAILABLE, _STOPPED)

    def reply(self, message: bytes) -> None:
        """See `Call.reply`."""
        connection = self.connection
        if self._begun or (connection.queued > QUEUED_LIMIT_OVER and not takes_answers(connection)):
            self.send(message)
            self.finish()
        elif self.open:
            self._receiver = self._drained = self.partial = None
            if self._weighed:
                self.weigh(0)
            GrpcCall.reply(self, message)

    def finish(self, status: int = OK, text: str = "") -> None:
        """See `Call.finish`."""
        if self.open:
            self._receiver = None
            super().finish(status, text)

    def free(self) -> None:
        """See `http2.Stream.free`."""
        self._inbox.clear()
        self._inbox_size = 0
        super().free()

    def lost(self) -> None:
        """See `http2.Stream.lost`."""
        self._lost = True
        super().lost()

    def _tell_end(self) -> None:
        """The call was lost: run both end callbacks, whatever either of them raises."""
        receiver, self._receiver = self._receiver, None
        cancelled, self._cancelled = self._cancelled, None
        if receiver is not None:
            self.guard(receiver.cancelled)
        if cancelled is not None:
            self.guard(cancelled)

    def _serve(self) -> None:
        handler, self.handler = self.handler, None
        if handler is not None:
            receiver = handler(self)
            if self._lost:
                # The connection ended while the handler ran, before it returned this receiver.
                self.guard(receiver.cancelled)
            elif not self.ended:
                self._receiver = receiver  # told in `_tell_end` if the connection has ended
        inbox, self._inbox = self._inbox, []
        count = len(inbox)
        if count > _MESSAGES_AT_ONCE:
            inbox, self._inbox = inbox[:_MESSAGES_AT_ONCE], inbox[_MESSAGES_AT_ONCE:]
            count = _MESSAGES_AT_ONCE
            self._inbox_size -= sum(map(len, inbox)) + _MESSAGE_COST * count
        else:
            self._inbox_size = 0
        self.head.route.received += count
        self.connection.spent += HANDLING_WORK * count
        if self.kept:
            self.keep(self._inbox_size)
        for message in inbox:
            if self.open and self._receiver is not None:
                self._receiver.received(message)
        if self._inbox and self.open:
            self._listed = True
            self.connection.ready.append(self)
            return
        if self.failure is not None:
            self.end(*self.failure)
        elif self._ended and self.open and self._receiver is not None:
            self._ended = False
            self._receiver.half_closed()
