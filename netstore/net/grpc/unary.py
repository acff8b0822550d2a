"""Unary calls: one message, one answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.codes import INTERNAL
from netstore.errors import MustStop
from netstore.guard import tell
from netstore.net.grpc.call import GrpcCall
from netstore.net.grpc.messages import check_held, read_prefix, split
from netstore.net.http2 import END_STREAM, HELD_LIMIT_OVER

if TYPE_CHECKING:
    from netstore.net.grpc.protocols import Handler


class UnaryCall(GrpcCall, kw_only=True, eq=False):
    """A unary call. Handed over when the client has sent END_STREAM.

    END_STREAM may come long after the message, or never: until then the message counts as incomplete, both in
    `Http2Connection.held` and for its claim, whose pace is enforced while others wait for memory.
    """

    handler: Handler | None
    """What handles the message; None once it has."""
    _message: bytes | None = None

    is_unary = True

    def take_whole(self, data: bytes, start: int, stop: int) -> None:
        """See `http2.Stream.take_whole`: the common case, one whole message."""
        size = stop - start - 5
        if 0 <= size <= self.server.message_limit and read_prefix(data, start) == (0, size):
            self._message = data[start + 5 : stop]
            self.connection.ready.append(self)
        else:
            self.take(data, start, stop, END_STREAM)

    def take(self, data: bytes, start: int, stop: int, ended: int) -> None:
        """See `http2.Stream.take`."""
        if self.failure is not None:
            return  # the failure is queued to be sent
        message = self._message
        if message is None:
            for message in split(self, data, start, stop):
                self._message = message
        elif start < stop:
            self.failure = INTERNAL, "more than one message in a unary call"
        if self.failure is None:
            if ended and (message is None or self.partial is not None):
                self.failure = INTERNAL, "a unary call ended without a whole message"
            elif ended:
                if self.claim is not None:
                    self.complete()
                self.connection.held -= self._weighed
                self._weighed = 0
            elif message is not None and self.claim is None:
                # Inlined `weigh`: many clients send END_STREAM in a frame of its own.
                held = len(message) + 5
                self.connection.held += held - self._weighed
                self._weighed = held
                if self.connection.held > HELD_LIMIT_OVER:
                    check_held(self)
        if self.failure is not None:
            self.discard()
            self.unclaim()
            self.connection.ready.append(self)
        elif ended:
            self.connection.ready.append(self)

    def discard(self) -> None:
        """See `GrpcCall.discard`."""
        self._message = None
        super().discard()

    @property
    def size(self) -> int:
        """See `http2.Stream.size`."""
        return 0 if self._message is None else len(self._message)

    def hand_over(self) -> None:
        """See `http2.Stream.hand_over`."""
        if not self.open:
            cancelled, self._cancelled = self._cancelled, None
            if cancelled is not None:
                self.guard(cancelled)
            return
        handler, self.handler = self.handler, None
        if self.failure is not None:
            self.finish(*self.failure)
        elif handler is not None:
            message, self._message = self._message or b"", None
            try:
                handler(self, message)
            except MustStop:
                raise
            except Exception as fault:  # noqa: BLE001 - given to `_failed`
                tell(self._failed, fault)
