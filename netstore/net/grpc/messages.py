"""Length-prefixed messages: their framing, and the limits on messages that are still incomplete."""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

from netstore.codes import INTERNAL, RESOURCE_EXHAUSTED
from netstore.errors import Reason
from netstore.net.bodyadmission import SMALL
from netstore.net.http2.charging import holds_too_much

if TYPE_CHECKING:
    from netstore.net.grpc.call import GrpcCall

MESSAGE_LIMIT: Final = 2 * 1024 * 1024
"""Largest message from a client, in bytes: what etcd takes with its default request limit of 1.5 MiB."""

PREFIX: Final = Struct(">BI")
"""What precedes each message: the compressed flag and the length."""

read_prefix: Final = PREFIX.unpack_from
"""The prefix at an offset (`http2.frames.read_head` has the reason for the name)."""


def split(call: GrpcCall, data: bytes, start: int, stop: int) -> list[bytes]:
    """The messages that `data[start:stop]` completes. An incomplete rest is kept in `partial`. Sets `failure`
    if the framing is invalid or a message too large; no further message of the call is read then.
    """
    messages: list[bytes] = []
    if call.failure is not None:
        return messages  # framing is lost, or the call has failed
    buffer = call.partial
    if buffer is None and stop - start >= 5:
        compressed, size = read_prefix(data, start)
        if size == stop - start - 5 and not compressed and size <= call.server.message_limit:
            call.connection.spent += 1
            return [data[start + 5 : stop]]  # one whole message, the common case: as below
    elif buffer is not None:
        buffer += memoryview(data)[start:stop]
        call.weigh(len(buffer))
        if len(buffer) < call.needed:
            check_held(call)
            return messages
        data, start, stop = bytes(buffer), 0, len(buffer)
        call.partial = None
        if not call.is_unary:
            call.complete()
            call.weigh(0)
    need = 5
    while stop - start >= 5:
        compressed, size = read_prefix(data, start)
        if compressed:
            call.failure = (
                INTERNAL,
                (
                    "grpc: compressed flag set with identity or empty encoding"
                    if compressed == 1
                    else f"grpc: received unexpected payload format {compressed}"
                ),
            )
            return messages
        limit = call.server.message_limit
        if size > limit:
            call.failure = (
                RESOURCE_EXHAUSTED,
                f"grpc: received message larger than max ({size} vs. {limit})",
            )
            return messages
        need = size + 5
        if stop - start < need:
            break
        messages.append(data[start + 5 : start + need])
        call.connection.spent += 1
        start += need
        need = 5
        if call.is_unary and start < stop:
            call.failure = INTERNAL, "more than one message in a unary call"
            return messages
    if start < stop:
        call.partial = bytearray(data[start:stop])
        call.needed = need
        if need > SMALL and not call.want(need, stop - start):
            call.partial = None
            call.failure = RESOURCE_EXHAUSTED, Reason.TOO_MANY.text
            return messages
        call.weigh(stop - start)
        check_held(call)
    return messages


def check_held(call: GrpcCall) -> None:
    """Fail a call if its connection holds too many bytes of incomplete messages."""
    if holds_too_much(call.connection):
        held = call.connection.held
        call.discard()
        call.unclaim()
        call.failure = RESOURCE_EXHAUSTED, f"{held} bytes of unfinished messages on one connection"
