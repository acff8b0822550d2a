"""Raft's host contract as a pure object: inputs in, effects out. The host carries the effects out, in
production and in the simulator.

The order that makes it safe (Ongaro's dissertation, sections 3.8 and 10.2.1):

1. send what need not wait for the disk: `Effects.send`. It goes first, so that the members that get it write
   at the same time as this one;
2. give the disk what must be durable: `Effects.append`;
3. apply what is committed: `Effects.apply`;
4. when the disk reports a batch durable, call `synced`: only then does Raft count this member's copy, and
   only then do the messages leave that depend on it (votes, answers to appends).

Batches are reported in the order they were given. What is not reported yet may be lost in a crash, and nobody
was told of it. A commit index that moved alone is not written: it is stored with the next batch, and the next
election finds it again if there is none.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import msgspec

from netstore.raft.invariant import InvariantBroken

if TYPE_CHECKING:
    from collections.abc import Sequence

    from netstore.raft.core import Raft
    from netstore.raft.entry import Entry, HardState, SnapshotMeta
    from netstore.raft.messages import Message
    from netstore.types import Index, Term


class LogBatch(msgspec.Struct, frozen=True):
    """A batch for the disk: the hard state if it changed, and entries. The log is cut before the index of the
    first one.
    """

    hard_state: HardState | None
    entries: Sequence[Entry]


class Effects(msgspec.Struct):
    """What the host has to do in a turn, in the order of the fields."""

    send: Sequence[Message]
    append: LogBatch | None
    install: SnapshotMeta | None
    apply: Sequence[Entry]
    reads: Sequence[tuple[int, Index]]
    reads_failed: Sequence[int]


class _InFlight(msgspec.Struct, frozen=True):
    """A batch that is not reported durable, or (`written` false) messages that wait for the batches before
    them.
    """

    written: bool
    last: tuple[Index, Term] | None
    messages: Sequence[Message]


class Driver:
    """Feeds one Raft core and holds back what must wait for the disk. No I/O, no clock; deterministic."""

    def __init__(self, raft: Raft) -> None:
        self.raft = raft
        self._in_flight: deque[_InFlight] = deque()
        self._unwritten: HardState | None = None
        self._released: list[Message] = []

    def take(self) -> Effects | None:
        """The effects of all inputs since the last call; None if there are none."""
        raft = self.raft
        released = self._released
        if not raft.has_ready():
            if not released:
                return None
            self._released = []
            return Effects(released, None, None, (), (), ())
        ready = raft.take_ready()
        append: LogBatch | None = None
        send = ready.messages
        hard_state = ready.hard_state or self._unwritten
        if ready.must_sync and (hard_state is not None or ready.entries):
            append = LogBatch(hard_state, ready.entries)
            last = (ready.entries[-1].index, ready.entries[-1].term) if ready.entries else None
            self._in_flight.append(_InFlight(True, last, ready.after_sync))
            self._unwritten = None
        else:
            self._unwritten = hard_state
            if ready.after_sync and self._in_flight:
                self._in_flight.append(_InFlight(False, None, ready.after_sync))
            else:
                send = [*send, *ready.after_sync]
        if released:
            self._released = []
            send = [*released, *send]
        return Effects(send, append, ready.snapshot, ready.committed, ready.reads, ready.reads_failed)

    def after_sync(self) -> tuple[Sequence[Message], Sequence[Entry]]:
        """For a host that syncs `Effects.append` before it goes on: messages to send now, and entries to
        apply after those of `Effects.apply`.
        """
        released = self._released
        if released:
            self._released = []
        return released, self.raft.take_committed()

    def synced(self) -> None:
        """The oldest batch not reported yet is durable."""
        batch = self._in_flight.popleft()
        if not batch.written:
            raise InvariantBroken("the disk reported more batches than it was given")
        if batch.last is not None:
            index, term = batch.last
            self.raft.persisted(index, term)
        if batch.messages:
            self._released.extend(batch.messages)
        while self._in_flight and not self._in_flight[0].written:
            self._released.extend(self._in_flight.popleft().messages)
