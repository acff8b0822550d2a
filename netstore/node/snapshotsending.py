"""Bookkeeping for the snapshots that this leader sends: which place of the log each one stands for, and how
far it is, so that the log keeps what follows it (`node.pacing`). `peer.snapshots` makes and sends them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.types import Index

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.node.logcompaction import LogCompaction
    from netstore.raft.core import Raft
    from netstore.raft.entry import SnapshotMeta
    from netstore.seams import Clock
    from netstore.types import NodeId


class SnapshotSending:
    """The snapshots one member sends to others, one for each of them at a time."""

    def __init__(self, raft: Raft, compaction: LogCompaction, clock: Clock, wake: Callable[[], None]) -> None:
        self._raft = raft
        self._compaction = compaction
        self._pacing = compaction.pacing
        self._clock = clock
        self._wake = wake

    def begun(self, index: Index, peer: NodeId) -> SnapshotMeta:
        """What a snapshot of the state that has applied `index` stands for; it is for this peer. The log
        keeps what follows that place until the peer has taken it, or `ended` says that there is no snapshot,
        or until it weighs too much: then `LogCompaction.compacted` passes it, and the snapshot is of no use.
        """
        meta = self._raft.snapshot_meta(index)
        self._pacing.snapshot_begun(peer, index, self._clock.monotonic())
        return meta

    def made(self, index: Index, peer: NodeId) -> SnapshotMeta:
        """The same, for a snapshot that turned out to have applied more than `begun` was told."""
        meta = self._raft.snapshot_meta(index)
        self._pacing.snapshot_made(peer, index)
        return meta

    def sent(self, peer: NodeId, sent: int, size: int) -> None:
        """So many bytes of the snapshot for this peer were sent, of a total `size`."""
        self._pacing.snapshot_sent(peer, sent, size)

    def ended(self, peer: NodeId, *, ok: bool, was_begun: bool = True, refused: bool = False) -> None:
        """The snapshot for this peer was delivered, or was given up; if not `was_begun`, before `begun` was
        called.
        """
        index = self._pacing.snapshot_ended(peer, ok=ok, refused=refused) if was_begun else Index(0)
        self._raft.report_snapshot(peer, ok, index)
        self._wake()

    def is_usable(self, index: Index) -> bool:
        """Whether this member has the log that follows a snapshot at `index`, and has applied as much: only
        then may `begun` and `made` be called with it.
        """
        return self._compaction.compacted <= index <= self._raft.status().applied
