"""What a member starts with: its settings (`Config`) and what its disk has (`Boot`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from netstore.errors import CorruptData

if TYPE_CHECKING:
    from collections.abc import Sequence

    from netstore.raft.entry import Entry, HardState, SnapshotMeta
    from netstore.types import Index, NodeId


@dataclass(slots=True, frozen=True)
class Config:
    """The settings of one member. Times are in ticks, sizes in bytes; a value out of range is a ValueError
    that names the field."""

    id: NodeId
    election_ticks: int = 10
    """Shortest election timeout; each timeout is drawn between this and twice as long."""
    heartbeat_ticks: int = 1
    max_inflight_messages: int = 256
    """Window per follower, in unanswered messages with entries."""
    max_inflight_bytes: int = 16 * 1024 * 1024
    max_append_bytes: int = 256 * 1024
    """Most bytes of entries in one message, or one larger entry."""
    max_ready_bytes: int = 512 * 1024
    """Most bytes of entries for the disk in one Ready, or one larger entry; and of entries in its messages,
    give or take one message. The rest is for the next Ready."""
    max_uncommitted_bytes: int = 64 * 1024 * 1024
    """Size of uncommitted entries beyond which a leader refuses proposals; also the most that a follower
    forwards for one Ready."""
    max_waiting_reads: int = 65536

    def __post_init__(self) -> None:
        for field in (
            "id",
            "election_ticks",
            "heartbeat_ticks",
            "max_inflight_messages",
            "max_inflight_bytes",
            "max_append_bytes",
            "max_ready_bytes",
            "max_uncommitted_bytes",
            "max_waiting_reads",
        ):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} is {getattr(self, field)}; it must be at least 1")
        if self.election_ticks <= self.heartbeat_ticks:
            raise ValueError(
                f"election_ticks is {self.election_ticks}; "
                f"it must be more than heartbeat_ticks ({self.heartbeat_ticks})"
            )


@dataclass(slots=True, frozen=True)
class Boot:
    """What a member's disk has. A new group starts with SnapshotMeta(conf=...) naming its voters, the same on
    each of them.

    A member that joins an existing group starts with an empty configuration: it never campaigns, and asks the
    leader for a snapshot.
    """

    hard_state: HardState
    snapshot: SnapshotMeta
    entries: Sequence[Entry]
    """All entries after the snapshot."""
    applied: Index
    """Applied index of the state machine; at least `snapshot.index`."""

    def check(self) -> None:
        """CorruptData if these contradict each other: they come from files that are written separately."""
        commit, term = self.hard_state.commit, self.hard_state.term
        first = self.snapshot.index
        last, last_term = first, self.snapshot.term
        for entry in self.entries:
            if entry.index != last + 1 or entry.term < last_term:
                raise CorruptData(
                    f"log entry {entry.index} of term {entry.term} follows entry {last} of term {last_term}: "
                    "entries are missing or mixed up"
                )
            last, last_term = entry.index, entry.term
        if term < last_term:
            raise CorruptData(f"the log has term {last_term}, but the vote record only term {term}")
        if commit > last:
            raise CorruptData(f"entries up to {commit} were committed, but the log ends at {last}")
        if self.entries and not self.snapshot.conf.voters:
            raise CorruptData(f"the log holds entries up to {last}, but nothing says who its voters were")
        if not first <= self.applied <= last:
            raise CorruptData(
                f"the state has applied entry {self.applied}, but the log holds {first}..{last}"
            )
