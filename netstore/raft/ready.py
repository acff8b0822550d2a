"""`Ready`: everything that the host must do now, and in which order.

The host's turn: step all input, then `take_ready` once, then

1. send `messages` at once: they do not depend on the disk, and those that get them write while this member
   does (section 10.2.1). An `InstallSnapshot` asks the host to send a snapshot;
2. put `entries` (cutting its log at the first one's index) and `hard_state` into the write-ahead log, in this
   order or as one record, and sync if `must_sync`; several such writes may be under way, as long as they
   reach the disk in order;
3. send `after_sync` when this write *and all before it* are durable, and call `persisted` with the last
   entry;
4. if there is a `snapshot`, put the received one in place, durably, then call `snapshot_installed`;
5. apply `committed` in order, `apply_change` for each CHANGE among them, then `applied_to`;
6. answer `reads` whose index is applied, and fail `reads_failed`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from netstore.raft.entry import Entry, HardState, SnapshotMeta
    from netstore.raft.messages import Message
    from netstore.types import Index


class Ready(msgspec.Struct):
    """The work of one turn. A host that takes it must do all of it."""

    hard_state: HardState | None
    """The new hard state, None if it did not change. If only the commit index moved (`must_sync` is False) it
    may be written with the next Ready, but must not be left out: it is given once."""

    entries: Sequence[Entry]
    """To append to the log on disk, which is truncated first from the index of the first one on."""

    snapshot: SnapshotMeta | None
    """A snapshot, already received, that replaces the whole state and log."""

    messages: Sequence[Message]
    after_sync: Sequence[Message]
    """Not empty only if `must_sync`; there may be nothing to write then, and they wait for earlier writes."""

    committed: Sequence[Entry]
    reads: Sequence[tuple[int, Index]]
    """(token, read index): the read may be served once that index is applied."""

    reads_failed: Sequence[int]
    """Tokens of reads that failed; they may be tried again."""

    must_sync: bool
