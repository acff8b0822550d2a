"""`Ready`: everything the host must do now, in one value, and in which order.

The host's turn: step all input, then `take_ready` once, then

1. put `entries` (cutting its log at the first one's index) and `hard_state` into the write-ahead log, in this
   order or as one record, and sync if `must_sync`; several such writes may be under way, as long as they
   reach the disk in order;
2. send `messages` at once: nothing in them depends on the disk. An `InstallSnapshot` among them asks for a
   state copy to be sent;
3. send `after_sync` when this write *and all before it* are durable, and call `persisted` with the last
   entry;
4. if there is a `snapshot`, put the received state copy in place, durably, then call `snapshot_installed`;
5. apply `committed` in order, `apply_change` for each CHANGE among them, then `applied_to`;
6. answer `reads` whose index is applied, and fail `reads_failed`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from netstore.raft.entry import Entry, HardState, SnapshotMeta
    from netstore.raft.messages import Message
    from netstore.types import Index


@dataclass(slots=True)
class Ready:
    """One turn's work. Taking it counts as having promised to do all of it."""

    hard_state: HardState | None
    """The new hard state, None if it did not change. If only the commit index moved (`must_sync` is False) it
    may wait for the next batch, but must be in it: the core does not tell it twice."""

    entries: Sequence[Entry]
    """To append; the log before is cut at the index of the first."""

    snapshot: SnapshotMeta | None
    """A state copy, already received, to put in place of the whole state and log."""

    messages: Sequence[Message]
    after_sync: Sequence[Message]
    """Not empty only if `must_sync`, though there may be nothing new to write then: earlier writes must be
    waited for."""

    committed: Sequence[Entry]
    reads: Sequence[tuple[int, Index]]
    """(token, index): the read may be served once `index` is applied."""

    reads_failed: Sequence[int]
    """Tokens whose reads may be tried again; nothing is known about them."""

    must_sync: bool
