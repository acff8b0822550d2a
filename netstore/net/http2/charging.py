"""What a connection is charged for, and its limits: held bytes, empty frames, early resets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.net.http2.bounds import HELD_LIMIT, HELD_LIMIT_OVER, QUEUED_LIMIT_OVER, STREAM_COST
from netstore.net.http2.frames import ENHANCE_YOUR_CALM, ConnectionFault

if TYPE_CHECKING:
    from netstore.net.http2.connection import Http2Connection
    from netstore.net.http2.stream import Stream


def charge(connection: Http2Connection) -> None:
    """Bring the memory account up to date with what the connection holds: queued answers, incomplete
    messages, complete ones without a claim, streams, unparsed bytes, and cached header blocks.
    """
    block = connection.partial_block
    lasting = STREAM_COST * len(connection.streams) + connection.blocks.held + connection.kept
    held = connection.queued + connection.held + lasting + len(connection.unparsed)
    if block is not None:
        held += len(block)
    if held != connection.charged:
        connection.output.account.charge(held - connection.charged, lasting)
        connection.charged = held


def charge_kept(connection: Http2Connection, more: int) -> None:
    """A stream holds this many more (or fewer) bytes of complete messages without a claim. Charged at once,
    because answers are given at any time and an idle connection is not visited again.
    """
    connection.kept += more
    charge(connection)


def holds_too_much(connection: Http2Connection) -> bool:
    """Incomplete requests and messages exceed their limit, which is lower once the memory budget is spent."""
    held = connection.held
    return held > HELD_LIMIT or (held > HELD_LIMIT_OVER and connection.output.account.over)


def takes_answers(connection: Http2Connection) -> bool:
    """One more answer may be queued: little is queued so far, or the memory budget is not spent. What is
    queued is charged first, because many answers are given at once, when the reads of a round are done.
    """
    if connection.queued <= QUEUED_LIMIT_OVER:
        return True
    charge(connection)
    return not connection.output.account.over


def begin_message(connection: Http2Connection, stream: Stream) -> None:
    """Part of a message has arrived on a stream: its time limit starts."""
    if stream.since is None:
        connection.unfinished += 1
    stream.since = connection.now
    stream.received = 0


def complete_message(connection: Http2Connection, stream: Stream) -> None:
    """The incomplete message or request of a stream is complete, or was given up."""
    if stream.since is not None:
        stream.since = None
        connection.unfinished -= 1


def count_empty_frame(connection: Http2Connection) -> None:
    """Count a frame that carries nothing; ConnectionFault beyond the rate allowed."""
    if not connection.empty_frames.spend(connection.now):
        raise ConnectionFault(ENHANCE_YOUR_CALM, "too many frames that carry nothing")


def count_early_reset(connection: Http2Connection) -> None:
    """Count an early reset, or one for a fault of the client; ConnectionFault beyond the rate allowed."""
    if not connection.early_resets.spend(connection.now):
        raise ConnectionFault(ENHANCE_YOUR_CALM, "too many streams reset early")
