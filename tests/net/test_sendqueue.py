"""Pieces that wait to be sent: divided, joined and gathered, and how much of one stays in memory."""

from __future__ import annotations

import socket
from collections import deque
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.net.sendqueue import MOST_GATHERED, join_small, rest_of, send_gathered, take_joined


@given(st.binary(min_size=1, max_size=300), st.lists(st.floats(0, 1), max_size=12))
def test_the_rest_is_the_same_and_holds_no_more_than_twice_its_size(piece: bytes, cuts: list[float]) -> None:
    rest: bytes | memoryview = piece
    expected, copied = piece, 0
    for cut in cuts:
        start = int(cut * len(expected))
        before, rest, expected = rest, rest_of(rest, start), expected[start:]
        assert rest == expected
        held = len(rest.obj) if isinstance(rest, memoryview) else len(rest)  # type: ignore[arg-type]
        assert held <= 2 * len(expected)
        if isinstance(rest, bytes) and rest is not before:
            copied += len(rest)
    assert copied <= len(piece)


class Kernel:
    """A socket that takes as much as it is told to."""

    def __init__(self, *room: int) -> None:
        self.room = list(room)
        self.taken = b""

    def sendmsg(self, pieces: list[bytes | memoryview]) -> int:
        data = b"".join(pieces)[: self.room.pop(0)]
        self.taken += data
        return len(data)


pieces = st.lists(st.binary(max_size=20), min_size=1, max_size=100)


@given(pieces, st.lists(st.integers(0, 60), max_size=10))
def test_what_is_gathered_arrives_in_order_however_much_the_kernel_takes(
    given_pieces: list[bytes], room: list[int]
) -> None:
    queue: deque[bytes | memoryview] = deque(given_pieces)
    kernel = Kernel(*room, *[10_000] * 2)
    while queue:
        first = b"".join(list(queue)[:MOST_GATHERED])
        limit = kernel.room[0]
        sent, complete = send_gathered(cast("socket.socket", kernel), queue)
        assert (sent, complete) == (min(limit, len(first)), limit >= len(first))
    assert kernel.taken == b"".join(given_pieces)


def test_an_error_of_the_system_call_leaves_the_queue_as_it_is() -> None:
    queue: deque[bytes | memoryview] = deque((b"one", b"two"))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.shutdown(socket.SHUT_WR)
        with pytest.raises(BrokenPipeError):
            send_gathered(ours, queue)
    assert list(queue) == [b"one", b"two"]


@given(pieces, st.integers(1, 50))
def test_joined_pieces_are_as_long_as_the_limit_until_none_are_left(
    given_pieces: list[bytes], limit: int
) -> None:
    queue: deque[bytes | memoryview] = deque(given_pieces)
    taken = []
    while queue:
        taken.append(take_joined(queue, limit))
        assert len(taken[-1]) == limit or not queue
    assert b"".join(taken) == b"".join(given_pieces)


@given(pieces, st.integers(1, 50))
def test_small_pieces_are_joined_and_none_is_divided(given_pieces: list[bytes], limit: int) -> None:
    queue: deque[bytes | memoryview] = deque(given_pieces)
    while queue:
        before = list(queue)
        joined = join_small(queue.popleft(), queue, limit)
        count = len(before) - len(queue)
        assert joined == b"".join(before[:count])
        assert len(joined) <= limit or count == 1
        assert not queue or len(joined) + len(queue[0]) > limit
