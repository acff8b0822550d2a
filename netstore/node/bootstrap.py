"""Who a member and its cluster are, and how the log of a new cluster begins.

Worked out alike by every one of its initial members, as etcd does. A member that joins later gets its
identity from the cluster, and begins with nothing: it has no configuration, so it neither votes nor takes
entries before it has got a state copy.
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
"""The term of what every initial member writes into its log by itself; nobody led in it."""


def member_id(peer_urls: Iterable[str], token: str) -> NodeId:
    """The id of an initial member: from its peer URLs and the cluster's token."""
    return NodeId(_first_64_bits("".join(sorted(peer_urls)) + token))


def cluster_id(members: Iterable[NodeId]) -> ClusterId:
    """The id of a new cluster: from the ids of its initial members."""
    digest = sha1(b"".join(member.to_bytes(8, "big") for member in sorted(members)), usedforsecurity=False)
    return ClusterId(int.from_bytes(digest.digest()[:8], "big") or 1)


def first_batch(members: Mapping[NodeId, tuple[str, ...]]) -> tuple[HardState, list[Entry]]:
    """What a new cluster's log begins with: each member is added to the list, in the order of their ids.

    All of it is committed. `members` gives their peer URLs by id.
    """
    entries = [
        Entry(Index(place), FIRST_TERM, EntryKind.NORMAL, seal(encode(AddMember(id_, urls))))
        for place, (id_, urls) in enumerate(sorted(members.items()), 1)
    ]
    return HardState(FIRST_TERM, NodeId(0), Index(len(entries))), entries


def first_mark(members: Iterable[NodeId]) -> SnapshotMeta:
    """The configuration that the log of a new cluster begins with: all its members vote."""
    return SnapshotMeta(conf=ConfState(voters=tuple(sorted(members))))


def is_empty(replay: Replay) -> bool:
    """Nothing was ever said under this log: what a new member's log begins with is not on disk yet."""
    return replay.hard_state is None and not replay.entries and (replay.mark is None or not replay.mark.index)


def catch_up(machine: Machine, entries: Sequence[Entry]) -> None:
    """Apply those of the entries that the state has not applied yet, committed or not, and save.

    For a member that begins a new cluster by itself: nobody else can overrule them any more, and dropping
    them could drop what was acknowledged.
    """
    for entry in entries:
        if entry.index > machine.applied:
            data = Change.decode(entry.data).context if entry.kind is EntryKind.CHANGE else entry.data
            machine.enter(entry.index, data)
    machine.take_events()
    machine.save()


def alone(own: NodeId, replay: Replay) -> SnapshotMeta:
    """What a log stands for whose member is to be the only voter, once its state has applied all of it."""
    last = replay.entries[-1] if replay.entries else replay.mark
    if last is None or not last.index:
        raise ValueError("a log without entries is no beginning of a cluster")
    return SnapshotMeta(last.index, last.term, ConfState(voters=(own,)))


def _first_64_bits(text: str) -> int:
    digest = sha1(text.encode(), usedforsecurity=False).digest()
    return int.from_bytes(digest[:8], "big") or 1
