"""Waking up the loop from outside a round: a socket pair whose reading end is in the epoll set."""

from __future__ import annotations

import socket


class Wakeup:
    """Callers look at `in_round` and `pending` first, so that a wakeup that is not needed costs no call."""

    __slots__ = ("_reader", "_writer", "fd", "in_round", "pending")

    def __init__(self) -> None:
        self.in_round = False
        """A round is under way: no wakeup is needed, because the next round is looked for at its end."""
        self.pending = False
        """A wakeup was sent and not received yet."""
        self._reader, self._writer = socket.socketpair()
        self.fd = self._reader.fileno()
        """The descriptor that becomes readable."""
        for end in (self._reader, self._writer):
            end.setblocking(False)

    def send(self) -> None:
        """Start a round even if no other descriptor is ready. May be called from any thread."""
        self.pending = True
        try:
            self._writer.send(b"\0")
        except BlockingIOError:
            return  # unread bytes are there already: one is enough

    def send_if_needed(self) -> None:
        """Start a round unless one is under way or was asked for."""
        if not (self.in_round or self.pending):
            self.send()

    def receive(self) -> None:
        """The round has started."""
        self._reader.recv(64)
        self.pending = False

    def close(self) -> None:
        """Close both ends."""
        self._reader.close()
        self._writer.close()
