"""What the two drivers of non-blocking sockets share, `connection` for clients and `peer.link` for members:
the pieces of bytes that wait, in a deque, until the kernel has room for them.

Both keep the calls of recv(2) and send(2) inline, because a function of its own would cost a Python call for
each read and each write.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import socket
    from collections import deque

MOST_GATHERED: Final = 64
"""Pieces passed to one sendmsg(2): about as much as the kernel takes of a connection at once."""


def rest_of(piece: bytes | memoryview, start: int) -> bytes | memoryview:
    """The rest of a piece from `start` on. A view if it is at least half of the underlying object, else a
    copy: a short view would keep the whole object in memory, while only the view's length is charged. All
    copies made of one object together are no longer than that object.
    """
    rest = memoryview(piece)[start:]
    whole: bytes = rest.obj  # type: ignore[assignment]  # pieces are bytes, or views of bytes
    return rest if 2 * len(rest) >= len(whole) else bytes(rest)


def take_joined(queue: deque[bytes | memoryview], limit: int) -> bytes:
    """Remove the first `limit` bytes of the queue, or all if there are fewer, and return them in one piece.
    The last piece is divided if need be. O(bytes returned), beside the copies that `rest_of` makes: one of up
    to half of the object that the last piece is a view of, each at most half as long as the one before.
    """
    pieces: list[bytes | memoryview] = []
    while queue and limit:
        piece = queue.popleft()
        if len(piece) > limit:
            queue.appendleft(rest_of(piece, limit))
            piece = memoryview(piece)[:limit]
        pieces.append(piece)
        limit -= len(piece)
    return b"".join(pieces)


def join_small(first: bytes | memoryview, queue: deque[bytes | memoryview], limit: int) -> bytes:
    """`first`, which was taken from the queue, joined with as many of the pieces after it as fit into `limit`
    bytes. No piece is divided: a large one may be kept by others too, and is sent without a copy.
    """
    pieces, size = [first], len(first)
    while queue and size + len(queue[0]) <= limit:
        pieces.append(queue.popleft())
        size += len(pieces[-1])
    return b"".join(pieces)


def send_gathered(sock: socket.socket, queue: deque[bytes | memoryview]) -> tuple[int, bool]:
    """Send up to `MOST_GATHERED` pieces with one sendmsg(2), without copying them, and remove what was sent
    from the queue. Returns the number of bytes, and whether the kernel took all that it was given. Errors of
    the system call are raised; nothing is removed then.
    """
    pieces = list(islice(queue, MOST_GATHERED))
    sent = left = sock.sendmsg(pieces)
    for piece in pieces:
        if left < len(piece):
            queue[0] = rest_of(piece, left)
            return sent, False
        left -= len(piece)
        queue.popleft()
    return sent, True
