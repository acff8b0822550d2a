"""One request and its answer, as frames of a connection that many share."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from netstore.net.http2.bounds import FORGIVEN, PACE, STREAM_WINDOW
from netstore.net.http2.charging import charge_kept
from netstore.net.http2.closing import close
from netstore.net.http2.flow import cancel_room, enqueue, takes_more
from netstore.net.http2.frames import DATA, END_STREAM, FRAME_HEAD
from netstore.net.http2.receiving import grant
from netstore.net.intake import Claim, Crowded

if TYPE_CHECKING:
    from netstore.net.http2.connection import Http2Connection
    from netstore.net.http2.head import Head


class Stream:
    """One request and its answer, as frames. The application's streams derive from it.

    What comes is given to `take` and `lost`, inside the parser: they only keep it, and put the stream into
    `connection.ready`, for `hand_over` to handle once the read is parsed. Answers are given with `put_head`,
    `put_data` and `put_last`.

    What any of them raises ends this stream with INTERNAL_ERROR and no other: if it was still open, `lost` is
    called, so that whoever waits for it hears of it.
    """

    __slots__ = (
        "_last",
        "_queue",
        "_weighed",
        "allowed",
        "awaiting_drain",
        "awaiting_room",
        "came",
        "claim",
        "connection",
        "credit",
        "expected",
        "half_closed",
        "kept",
        "number",
        "open",
        "opened_at",
        "queued",
        "sending",
        "since",
    )

    patient = True
    """It may wait while the peer's windows hold back much of what was answered."""

    awaited = True
    """Something of it is here, or is owed, and the rest must come; asked only while it has `since`."""

    def __init__(self, connection: Http2Connection, number: int, head: Head) -> None:
        self.connection = connection
        self.number = number
        self.expected = head.content_length
        """Bytes of the body that content-length promises and that have not come yet."""
        self.allowed = STREAM_WINDOW
        """Bytes the client may still send."""
        self.credit = 0
        """Bytes we may send beyond the connection's initial window: granted, less those sent. So a change of
        the initial window changes no stream (RFC 9113, 6.9.2).
        """
        self.opened_at = connection.now
        self.since: float | None = connection.now
        """When what is not complete now was begun: the request, or a message of a stream. Later where it has
        come on at the pace that is asked for.
        """
        self.came = 0
        """Bytes of DATA since then."""
        self.claim: Claim | None = None
        """The memory for what has not come whole, or that it waits for; of a unary call or a request until it
        is answered, or may be for long.
        """
        self.kept = 0
        """Bytes of what came whole that stay here and have no claim."""
        self.half_closed = False
        """The client has sent everything."""
        self.open = True
        """The answer can still be given."""
        self.sending = False
        """It stands in the connection's line of streams that have something to send, and room for it."""
        self.awaiting_drain = False
        """It wants to know when it has drained."""
        self.awaiting_room = False
        """It stands in one of the connection's lines of streams that wait for room."""
        self.queued = 0
        """Bytes of DATA that wait for their turn or a window."""
        self._weighed = 0
        self._queue: deque[bytes | memoryview] | None = None
        self._last: bytes | None = None

    @property
    def window(self) -> int:
        """Bytes we may still send; below zero after the client took some back."""
        return self.connection.initial_window + self.credit

    @property
    def backlog(self) -> int:
        """Bytes given to this stream that the kernel has not taken, with those of the connection before
        them.
        """
        return self.queued + self.connection.output.unsent

    @property
    def room(self) -> int:
        """Bytes that would leave, or only wait for the network, if they were given now; 0 while the peer's
        windows or what waits on the connection hold back whatever is given. O(1).
        """
        connection = self.connection
        room = min(connection.initial_window + self.credit - self.queued, connection.window)
        return room if room > 0 and takes_more(connection) else 0

    @property
    def ended(self) -> bool:
        """Its answer was given to its end, though not all of it may be sent."""
        return self._last is not None

    @property
    def waits(self) -> bool:
        """What it sends is not to come before there is memory for it."""
        return self.claim is not None and not self.claim.granted

    @property
    def size(self) -> int:
        """Bytes of a whole request that was not handed over."""
        return 0

    def want(self, size: int, came: int) -> bool:
        """So many bytes are wanted in all for what has come in part: they are there, or it waits for them.
        False where no more can wait.
        """
        output = self.connection.output
        claim = self.claim
        if claim is None or claim.asker is None:
            self.unclaim()
            claim = self.claim = Claim(output, self)
        claim.came = came
        try:
            granted = output.intake.ask(claim, size, max(came, STREAM_WINDOW))
        except Crowded:
            self.unclaim()
            return False
        if granted and size - came > self.allowed:
            grant(self.connection, self, size - came)
        return True

    def weigh(self, came: int) -> None:
        """So many bytes are here of what has not come whole. They count in the connection's `held` where they
        have no claim that counts them.
        """
        claim = self.claim
        if claim is not None:
            if claim.asker is not None:
                claim.came = came
            if claim.granted:
                came = 0
        self.connection.held += came - self._weighed
        self._weighed = came

    def complete(self) -> None:
        """All of it has come, and of a request its end too. It keeps its memory until it is answered."""
        claim = self.claim
        if claim is not None:
            self.connection.output.intake.whole(claim)
            if not claim.granted:  # the rest came within the first window
                self.set_aside()

    def set_aside(self) -> None:
        """It may be long until it is answered, and nobody is to wait for its memory: what is here of a whole
        request is the connection's own from now on, until it is over.
        """
        claim = self.claim
        size = self.size if claim is None else claim.came
        self.unclaim()
        if size:
            self.keep(size)

    def keep(self, size: int) -> None:
        """So many bytes that came whole stay here."""
        kept, self.kept = self.kept, size
        charge_kept(self.connection, size - kept)

    def unclaim(self) -> None:
        """Nothing is here any more that its claim is for."""
        claim, self.claim = self.claim, None
        if claim is not None:
            self.connection.output.intake.release(claim)

    def free(self) -> None:
        """It is over: it needs no memory any more."""
        if self.kept:
            self.keep(0)
        claim, self.claim = self.claim, None
        if claim is not None:
            self.connection.output.intake.release(claim)

    def admitted(self) -> None:
        """See `intake.Asker`."""
        self.connection.attempt(self, self._read_on)

    def _read_on(self) -> None:
        claim = self.claim
        if claim is not None and self.open:
            self.since = self.connection.now if self.since is not None else None
            self.came = 0
            grant(self.connection, self, claim.size - claim.came)
            self.weigh(claim.came)
            self.connection.output.again()

    def given_up(self, status: int, reason: bytes) -> None:
        """See `intake.Asker`."""
        raise NotImplementedError

    def take(self, data: bytes, start: int, stop: int, ended: int) -> None:
        """A piece of the body, `data[start:stop]`; `ended` with the last."""
        raise NotImplementedError

    def hand_over(self) -> None:
        """The read is parsed: handle what was taken. Called once for each entry in `ready`."""
        raise NotImplementedError

    def lost(self) -> None:
        """The client reset the stream, or the connection is over. The stream is not open any more."""
        raise NotImplementedError

    def drain(self) -> None:
        """The server stops: end what has no end of its own."""

    def drained(self) -> None:
        """Called once after `await_drain`, when the backlog has fallen to `LOW_WATER`; or after `await_room`,
        when there is `room`.
        """

    def put_head(self, block: bytes) -> None:
        """Send a header block; the body follows."""
        if self.claim is not None and self.claim.asker is None:
            self.set_aside()
        self.connection.put_block(self.number, block, 0)

    def put_data(self, prefix: bytes, data: bytes | memoryview) -> None:
        """Send a piece of the body: `prefix` and `data`, which are apart so that many streams can share the
        data. Never refused: the backlog grows instead.
        """
        size = len(prefix) + len(data)
        connection = self.connection
        if (
            not self.queued
            and size <= connection.initial_window + self.credit
            and size <= connection.window
            and size <= connection.frame_limit
            and connection.output.unsent < PACE
        ):
            self.credit -= size
            connection.window -= size
            connection.progress += size
            connection.strikes = FORGIVEN
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

    def put_last(self, block: bytes = b"") -> None:
        """End the answer, with trailers unless the block is empty, once everything before it is sent."""
        self.open = False
        self.free()
        self._last = block
        if self.awaiting_room:
            cancel_room(self.connection, self)
        if not self.queued:
            self.sent()

    def sent(self) -> None:
        """The queue is empty: end the stream if it was to end."""
        block = self._last
        if block is None:
            return
        connection = self.connection
        if block:
            connection.put_block(self.number, block, END_STREAM)
        else:
            connection.output.write(FRAME_HEAD.pack(DATA, END_STREAM, self.number))
        connection.strikes = FORGIVEN
        close(connection, self)

    def fill(self, size: int, pieces: list[bytes | memoryview]) -> None:
        """Move the first `size` bytes of the queue, which has them, to the end of `pieces`."""
        queue = self._queue
        self.queued -= size
        while size and queue:
            piece = queue.popleft()
            if len(piece) > size:
                view = memoryview(piece)
                queue.appendleft(view[size:])
                piece = view[:size]
            size -= len(piece)
            pieces.append(piece)

    def drop(self) -> int:
        """Forget what was queued; how many bytes that were."""
        dropped, self.queued = self.queued, 0
        self._queue = None
        return dropped
