"""One HTTP/2 stream: a request and its response."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import msgspec

from netstore.net.bodyadmission import Claim, QueueFull
from netstore.net.http2.bounds import STREAM_WINDOW, STRIKES_AFTER_DATA, UNSENT_LIMIT
from netstore.net.http2.charging import charge_kept
from netstore.net.http2.closing import close
from netstore.net.http2.flow import cancel_room, enqueue, takes_more
from netstore.net.http2.frames import DATA, END_STREAM, FRAME_HEAD
from netstore.net.http2.receiving import grant
from netstore.net.sendqueue import rest_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from netstore.net.http2.connection import Http2Connection


class Stream(msgspec.Struct, eq=False):
    """One request and its response, as frames. The application's streams derive from it.

    The parser calls `take` and `lost`, which only store what came and put the stream into `connection.ready`;
    `hand_over` handles it once the read is parsed. Answer with `put_head`, `put_data` and `put_last`.

    An exception of these callbacks resets this stream only, with INTERNAL_ERROR; if it was still open, `lost`
    is called, so that the application can tell whoever waits for it.

    A struct, because one is made for each request: setting these fields one by one would take a tenth of what
    a small read takes in all.
    """

    connection: Http2Connection
    number: int
    expected: int | None
    """Bytes of the body that are still to come by content-length; None without that field."""
    opened_at: float
    """`connection.now` when it was opened."""
    since: float | None = None
    """When the incomplete request, or message of a stream, was begun; None if there is none. Set anew after
    each period in which it kept the minimum pace.
    """
    allowed: int = STREAM_WINDOW
    """Our window: bytes of DATA the client may still send."""
    credit: int = 0
    """The peer's window less its initial window: bytes granted by WINDOW_UPDATE, less those sent. So a change
    of the initial window changes no stream (RFC 9113, 6.9.2).
    """
    received: int = 0
    """Bytes of DATA since `since`."""
    claim: Claim | None = None
    """The memory admitted or requested for an incomplete body or message. A unary call or request keeps it
    until it is answered, unless `return_claim` is called.
    """
    kept: int = 0
    """Bytes of complete data that stay here without a claim."""
    half_closed: bool = False
    """The client has sent END_STREAM."""
    open: bool = True
    """The response can still be given."""
    sending: bool = False
    """It is in `connection.senders`."""
    awaiting_drain: bool = False
    """`drained` is to be called when it has drained."""
    awaiting_room: bool = False
    """It is in `connection.room_waiters` or `connection.window_waiters`."""
    queued: int = 0
    """Bytes of queued DATA."""
    _weighed: int = 0
    _queue: deque[bytes | memoryview] | None = None
    _last: bytes | None = None

    defers_to_peer = True
    """Its request may be held back while much is queued for the peer's windows."""

    awaited = True
    """The time limit for incomplete requests applies; checked only while it has `since`."""

    @property
    def window(self) -> int:
        """The peer's window: bytes we may still send; negative if SETTINGS reduced it (RFC 9113, 6.9.2)."""
        return self.connection.initial_window + self.credit

    @property
    def backlog(self) -> int:
        """Bytes given to this stream that the kernel has not taken, plus the connection's unsent bytes."""
        return self.queued + self.connection.output.unsent

    @property
    def window_left(self) -> int:
        """Bytes that can be given now without exceeding the peer's windows; 0 while those are closed, or
        while the connection has enough queued or unsent. O(1).
        """
        connection = self.connection
        room = min(connection.initial_window + self.credit - self.queued, connection.window)
        return room if room > 0 and takes_more(connection) else 0

    @property
    def ended(self) -> bool:
        """The response was given completely, though not all of it may be sent."""
        return self._last is not None

    @property
    def waits(self) -> bool:
        """It waits for memory; the client's window is not opened until then."""
        return self.claim is not None and not self.claim.granted

    @property
    def size(self) -> int:
        """Bytes of a complete request that was not handed over."""
        return 0

    def want(self, size: int, received: int) -> bool:
        """Ask for memory for a body or message of `size` bytes, of which `received` have arrived: it is
        admitted or waits. False if no more can wait.
        """
        output = self.connection.output
        claim = self.claim
        if claim is None or claim.asker is None:
            self.unclaim()
            claim = self.claim = Claim(output, self)
        claim.received = received
        try:
            granted = output.admission.ask(claim, size, max(received, STREAM_WINDOW))
        except QueueFull:
            self.unclaim()
            return False
        if granted and size - received > self.allowed:
            grant(self.connection, self, size - received)
        return True

    def weigh(self, received: int) -> None:
        """State how many bytes of incomplete data are here. They count in `connection.held` unless an
        admitted claim counts them.
        """
        claim = self.claim
        if claim is not None:
            if claim.asker is not None:
                claim.received = received
            if claim.granted:
                received = 0
        self.connection.held += received - self._weighed
        self._weighed = received

    def complete(self) -> None:
        """The message is complete, of a request with END_STREAM. The memory is kept until it is answered."""
        claim = self.claim
        if claim is not None:
            self.connection.output.admission.completed(claim)
            if not claim.granted:  # all of it fitted into the first window
                self.return_claim()

    def return_claim(self) -> None:
        """Give the claim back because the answer may take long: the complete request is charged to the
        connection from now on, until the stream is over.
        """
        claim = self.claim
        size = self.size if claim is None else claim.received
        self.unclaim()
        if size:
            self.keep(size)

    def keep(self, size: int) -> None:
        """State how many bytes of complete data are kept without a claim."""
        kept, self.kept = self.kept, size
        charge_kept(self.connection, size - kept)

    def unclaim(self) -> None:
        """Release the claim."""
        claim, self.claim = self.claim, None
        if claim is not None:
            self.connection.output.admission.release(claim)

    def free(self) -> None:
        """Release all memory: the stream is over."""
        if self.kept:
            self.keep(0)
        if self.claim is not None:
            self.unclaim()

    def admitted(self) -> None:
        """See `bodyadmission.Asker`."""
        self.connection.attempt(self, self._read_on)

    def _read_on(self) -> None:
        claim = self.claim
        if claim is not None and self.open:
            self.since = self.connection.now if self.since is not None else None
            self.received = 0
            grant(self.connection, self, claim.size - claim.received)
            self.weigh(claim.received)
            self.connection.output.request_turn()

    def given_up(self, status: int, reason: bytes) -> None:
        """See `bodyadmission.Asker`."""
        raise NotImplementedError

    def take(self, data: bytes, start: int, stop: int, ended: int) -> None:
        """A piece of the body, `data[start:stop]`; `ended` is set with END_STREAM."""
        raise NotImplementedError

    def take_whole(self, data: bytes, start: int, stop: int) -> None:
        """`take` for all of the body at once, of a stream that has just been opened."""
        self.take(data, start, stop, END_STREAM)

    def hand_over(self) -> None:
        """Handle what was taken, after the read is parsed. Called once for each entry in `ready`."""
        raise NotImplementedError

    def lost(self) -> None:
        """The stream was reset, or the connection is over. `open` is False already."""
        raise NotImplementedError

    def drain(self) -> None:
        """The server stops: end a response that has no end of its own."""

    def drained(self) -> None:
        """Called once after `await_drain`, when the backlog has fallen to `LOW_WATER`; or after `await_room`,
        when there is `window_left`.
        """

    def put_head(self, block: bytes) -> None:
        """Send the header block of the response; a body or trailers follow."""
        if self.claim is not None and self.claim.asker is None:
            self.return_claim()
        self.connection.put_block(self.number, block, 0)

    def put_data(self, prefix: bytes, data: bytes | memoryview) -> None:
        """Send a piece of the body: `prefix`, then `data`, which many streams may share. Never refused: the
        backlog grows instead.
        """
        size = len(prefix) + len(data)
        connection = self.connection
        if (
            not self.queued
            and size <= connection.initial_window + self.credit
            and size <= connection.window
            and size <= connection.frame_limit
            and connection.output.unsent < UNSENT_LIMIT
        ):
            self.credit -= size
            connection.window -= size
            connection.strikes = STRIKES_AFTER_DATA
            connection.output.write(FRAME_HEAD.pack(size << 8, 0, self.number) + prefix + data)
        elif size:
            if self._queue is None:
                self._queue = deque()
            if prefix:
                self._queue.append(prefix)
            if data:
                self._queue.append(data)
            self.queued += size
            enqueue(connection, self, size)

    def put_pieces(self, pieces: Sequence[bytes | memoryview], size: int) -> None:
        """Send pieces of the body that have `size` bytes together; see `put_data`. They are framed, charged
        and written at once: that is most of what a piece costs.
        """
        if size:
            if self._queue is None:
                self._queue = deque()
            self._queue += pieces
            self.queued += size
            enqueue(self.connection, self, size)

    def put_last(self, block: bytes = b"") -> None:
        """End the response once everything before is sent, with trailers unless the block is empty."""
        self.open = False
        self._last = block
        if self.awaiting_room:
            cancel_room(self.connection, self)
        if self.queued:
            self.free()
        else:
            self.sent()

    def sent(self) -> None:
        """The queue is empty: send END_STREAM if the response is complete."""
        block = self._last
        if block is None:
            return
        connection = self.connection
        if block:
            connection.put_block(self.number, block, END_STREAM)
        else:
            connection.output.write(FRAME_HEAD.pack(DATA, END_STREAM, self.number))
        connection.strikes = STRIKES_AFTER_DATA
        close(connection, self)

    def fill(self, size: int, limit: int, pieces: list[bytes | memoryview]) -> None:
        """Move the first `size` bytes of the queue, which has them, to the end of `pieces`, as DATA frames of
        at most `limit` bytes. Nothing is copied but what `rest_of` copies of the last piece: a long answer
        comes in pieces of many frames, and cutting these one frame at a time would copy all of them again.
        """
        queue = self._queue
        self.queued -= size
        full = FRAME_HEAD.pack(limit << 8, 0, self.number)
        left = 0
        """Bytes that the last frame lacks."""
        while size and queue:
            piece = queue.popleft()
            if len(piece) > size:
                queue.appendleft(rest_of(piece, size))
                piece = memoryview(piece)[:size]
            start, end = 0, len(piece)
            while start < end:
                if not left:
                    left = min(size - start, limit)
                    pieces.append(full if left == limit else FRAME_HEAD.pack(left << 8, 0, self.number))
                stop = min(start + left, end)
                pieces.append(piece if stop - start == end else memoryview(piece)[start:stop])
                left -= stop - start
                start = stop
            size -= end

    def drop(self) -> int:
        """Drop the queue; the number of bytes that were in it."""
        dropped, self.queued = self.queued, 0
        self._queue = None
        return dropped
