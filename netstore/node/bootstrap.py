"""The ids of a new cluster and its members, and the first entries of its log.

Every initial member computes the same from the same flags, as etcd does. A member that joins later gets its
identity from the cluster and starts without a configuration: it neither votes nor accepts entries before it
has received a snapshot.
"""

from __future__ import annotations

from hashlib import sha1
from typing import TYPE_CHECKING, Final

from netstore.raft.change import Change
from netstore.raft.entry import ConfState, Entry, EntryKind, HardState, SnapshotMeta
from netstore.state.commands import AddMember, encode
from netstore.state.envelope import seal
from netstore.types import ClusterId, Index, NodeId, Term

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from netstore.disk.wal import Replay
    from netstore.state.machine import Machine

FIRST_TERM: Final = Term(1)
"""The term of the entries that every initial member writes by itself; it has no leader."""


def member_id(peer_urls: Iterable[str], token: str) -> NodeId:
    """The id of an initial member: a hash of its peer URLs and the cluster's token."""
    return NodeId(_first_64_bits("".join(sorted(peer_urls)) + token))


def cluster_id(members: Iterable[NodeId]) -> ClusterId:
    """The id of a new cluster: a hash of the ids of its initial members."""
    digest = sha1(b"".join(member.to_bytes(8, "big") for member in sorted(members)), usedforsecurity=False)
    return ClusterId(int.from_bytes(digest.digest()[:8], "big") or 1)


def first_batch(members: Mapping[NodeId, tuple[str, ...]]) -> tuple[HardState, list[Entry]]:
    """The first entries of a new cluster's log, all committed: each member is added, in the order of the ids.
    `members` has the peer URLs by id.
    """
    entries = [
        Entry(Index(place), FIRST_TERM, EntryKind.NORMAL, seal(encode(AddMember(id_, urls))))
        for place, (id_, urls) in enumerate(sorted(members.items()), 1)
    ]
    return HardState(FIRST_TERM, NodeId(0), Index(len(entries))), entries


def first_mark(members: Iterable[NodeId]) -> SnapshotMeta:
    """The configuration before the first entry of a new cluster's log: all members vote."""
    return SnapshotMeta(conf=ConfState(voters=tuple(sorted(members))))


def is_empty(replay: Replay) -> bool:
    """Whether nothing was ever written to the log, not even the first entries of a new cluster."""
    return replay.hard_state is None and not replay.entries and (replay.mark is None or not replay.mark.index)


def catch_up(machine: Machine, entries: Sequence[Entry]) -> None:
    """Apply the entries that the state has not applied yet, committed or not, and save.

    For a member that starts a new one-member cluster from its data: no other member can overwrite these
    entries any more, and dropping them could lose acknowledged writes.
    """
    for entry in entries:
        if entry.index > machine.applied:
            data = Change.decode(entry.data).context if entry.kind is EntryKind.CHANGE else entry.data
            machine.enter(entry.index, data)
    machine.v2.take_events()
    machine.save()


def sole_voter_mark(own: NodeId, replay: Replay) -> SnapshotMeta:
    """What a state stands for that has applied the whole log, with this member as the only voter."""
    last = replay.entries[-1] if replay.entries else replay.mark
    if last is None or not last.index:
        raise ValueError("a cluster cannot be started from a log without entries")
    return SnapshotMeta(last.index, last.term, ConfState(voters=(own,)))


def _first_64_bits(text: str) -> int:
    digest = sha1(text.encode(), usedforsecurity=False).digest()
    return int.from_bytes(digest[:8], "big") or 1
