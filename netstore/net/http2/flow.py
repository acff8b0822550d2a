"""Flow control: DATA of all streams sent in turn within the peer's windows (RFC 9113, 5.2 and 6.9).

A stream keeps only how its window differs from the initial window of the connection (`Stream.credit`), so a
change of the initial window visits only streams that wait for a window. Streams that wait are kept in these
attributes of the connection:

- `senders`: has queued DATA and an open window; sends one frame in turn.
- `blocked`: has queued DATA and a closed window.
- `drained`: asked for `Stream.drained` and its queue is short; called once the network takes what is sent.
- `window_waiters`: asked for room, and its window is closed.
- `room_waiters`: asked for room, and its window is open; waits for the connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.net.exchange import LOW_WATER
from netstore.net.http2.bounds import (
    ANSWERS_LIMIT,
    ANSWERS_LIMIT_OVER,
    EVENTS_LIMIT,
    FRAME_LIMIT,
    HANDLING_WORK,
    ROOM_CALLS_AT_ONCE,
    STREAMS_PER_UNIT,
    STRIKES_AFTER_DATA,
    UNSENT_LIMIT,
)
from netstore.net.http2.charging import charge
from netstore.net.http2.frames import (
    FLOW_CONTROL_ERROR,
    MAX_WINDOW,
    ConnectionFault,
)

if TYPE_CHECKING:
    from netstore.net.http2.connection import Http2Connection
    from netstore.net.http2.stream import Stream


def enqueue(connection: Http2Connection, stream: Stream, size: int) -> None:
    """Account for bytes that were added to the queue of a stream, and send what may be sent."""
    connection.queued += size
    if stream.defers_to_peer:
        connection.answers += size
    if stream.sending:
        return
    if stream.window > 0:
        stream.sending = True
        connection.senders.append(stream)
        pump(connection)
    else:
        connection.blocked[stream] = connection.server.clock()
    charge(connection)


def pump(connection: Http2Connection) -> None:
    """Send queued DATA, one frame of each stream in turn, as far as windows and `UNSENT_LIMIT` allow."""
    while connection.senders and connection.window > 0 and connection.output.unsent < UNSENT_LIMIT:
        if connection.spent >= connection.turn_limit:
            connection.ask()
            break
        _frame_some(connection, UNSENT_LIMIT - connection.output.unsent)


def _frame_some(connection: Http2Connection, most: int) -> None:
    """Frame about `most` bytes of DATA and write them in one call: one frame of each stream in turn, or, if
    only one stream sends, several at once.
    """
    senders, limit = connection.senders, connection.frame_limit
    framed: list[bytes | memoryview] = []
    while senders and connection.window > 0 and most > 0 and connection.spent < connection.turn_limit:
        stream = senders.popleft()
        room = limit
        if not senders:  # all of it if that is little more, rather than the rest in a turn of its own
            room = max(-(-most // limit) * limit, min(stream.queued, most + FRAME_LIMIT))
        room = min(connection.initial_window + stream.credit, connection.window, room)
        if room <= 0 or not stream.queued:
            connection.spent += 1
            stream.sending = False
            if stream.queued:
                connection.blocked[stream] = connection.server.clock()
            continue
        size = min(stream.queued, room)
        connection.spent += -(-size // limit)
        stream.fill(size, limit, framed)
        stream.credit -= size
        connection.window -= size
        connection.queued -= size
        if stream.defers_to_peer:
            connection.answers -= size
        connection.strikes = STRIKES_AFTER_DATA
        most -= size
        if stream.awaiting_drain and stream.queued <= LOW_WATER // 2 < stream.queued + size:
            connection.drained.append(stream)
        if stream.queued:
            senders.append(stream)
            continue
        stream.sending = False
        if stream.ended:  # its trailers follow
            connection.output.write(*framed)
            framed = []
            stream.sent()
    if framed:
        connection.output.write(*framed)


def unblock(connection: Http2Connection, stream: Stream) -> None:
    """The window of a stream with queued DATA has opened."""
    del connection.blocked[stream]
    stream.sending = True
    connection.senders.append(stream)


def window_opened(connection: Http2Connection, stream: Stream) -> None:
    """The window of a stream that asked for room has opened: it waits for the connection now."""
    del connection.window_waiters[stream]
    connection.room_waiters[stream] = None


def set_initial_window(connection: Http2Connection, window: int) -> None:
    """Apply SETTINGS_INITIAL_WINDOW_SIZE; of several in one frame only the last is applied.

    Streams keep their difference from it, so only those that may send now are touched. No window may exceed
    2^31-1 (RFC 9113, 6.9.2): `max_credit` is an upper bound of `Stream.credit`, recomputed only when the
    limit could be exceeded.
    """
    if window + connection.max_credit > MAX_WINDOW:
        connection.spent += len(connection.streams) // STREAMS_PER_UNIT
        connection.max_credit = max((stream.credit for stream in connection.streams.values()), default=0)
        if window + connection.max_credit > MAX_WINDOW:
            raise ConnectionFault(FLOW_CONTROL_ERROR, "a stream's window is larger than 2^31-1")
    wider = window > connection.initial_window
    connection.initial_window = window
    if wider and connection.blocked:
        connection.spent += len(connection.blocked) // STREAMS_PER_UNIT
        for stream in [each for each in connection.blocked if window + each.credit > 0]:
            unblock(connection, stream)
    if wider and connection.window_waiters:
        connection.spent += len(connection.window_waiters) // STREAMS_PER_UNIT
        for stream in [each for each in connection.window_waiters if window + each.credit > each.queued]:
            window_opened(connection, stream)


def await_drain(connection: Http2Connection, stream: Stream) -> None:
    """Call `Stream.drained` once, when the backlog of the stream has fallen to `LOW_WATER`."""
    if not stream.awaiting_drain:
        stream.awaiting_drain = True
        if stream.queued <= LOW_WATER // 2:
            connection.drained.append(stream)


def tell_drained(connection: Http2Connection) -> None:
    """Call `drained` of the streams whose queue is short, while the connection has few unsent bytes. Streams
    with a closed window are not in this queue, so the loop does not visit them.
    """
    drained = connection.drained
    for _ in range(len(drained)):
        if connection.output.unsent > LOW_WATER // 2:
            break
        if connection.spent >= connection.turn_limit:
            connection.ask()
            break
        stream = drained.popleft()
        if stream.queued > LOW_WATER // 2:
            continue  # more was queued meanwhile; `_frame_some` puts it here again as that is sent
        stream.awaiting_drain = False
        if stream.open:
            connection.spent += HANDLING_WORK
            connection.attempt(stream, stream.drained)


def takes_more(connection: Http2Connection) -> bool:
    """More of a long answer may be given: the connection has few enough unsent and queued bytes."""
    if connection.output.unsent >= UNSENT_LIMIT:
        return False
    answers = connection.answers
    return answers <= ANSWERS_LIMIT_OVER or (answers <= ANSWERS_LIMIT and not connection.output.account.over)


def may_send_whole(connection: Http2Connection, size: int) -> bool:
    """An answer of this size may be given in one piece, although all of it may be queued."""
    return connection.answers + size <= (
        ANSWERS_LIMIT_OVER if connection.output.account.over else ANSWERS_LIMIT
    )


def is_congested(connection: Http2Connection) -> bool:
    """The streams together have as much queued DATA as allowed, or the memory budget is spent."""
    return connection.queued > EVENTS_LIMIT or connection.output.account.over


def await_room(connection: Http2Connection, stream: Stream) -> None:
    """Call `Stream.drained` once, when the stream has `window_left`. Only for a stream that has none."""
    if not stream.awaiting_room:
        stream.awaiting_room = True
        if stream.window > stream.queued:
            connection.room_waiters[stream] = None
        else:
            connection.window_waiters[stream] = connection.server.clock()


def cancel_room(connection: Http2Connection, stream: Stream) -> None:
    """Undo `await_room`."""
    stream.awaiting_room = False
    connection.window_waiters.pop(stream, None)
    connection.room_waiters.pop(stream, None)


def tell_room(connection: Http2Connection) -> None:
    """Call `drained` of the first streams that wait for room. The others are called later for certain: either
    there is no room, and whatever makes room (a WINDOW_UPDATE, a send, a dropped stream) leads to `resume`,
    or another turn is requested here.
    """
    waiters = connection.room_waiters
    called = 0
    while (
        waiters and connection.window > 0 and connection.output.unsent <= LOW_WATER and takes_more(connection)
    ):
        if called >= ROOM_CALLS_AT_ONCE or connection.spent >= connection.turn_limit:
            connection.ask()
            break
        stream, _ = waiters.popitem(last=False)
        if stream.window <= stream.queued:  # SETTINGS made its window smaller
            connection.spent += 1
            connection.window_waiters[stream] = connection.server.clock()
            continue
        stream.awaiting_room = False
        called += 1
        connection.spent += HANDLING_WORK
        connection.attempt(stream, stream.drained)
