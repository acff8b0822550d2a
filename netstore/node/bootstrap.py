"""Who a member and its cluster are, and how the log of a new cluster begins.

Worked out alike by every one of its initial members, as etcd does.
"""

from __future__ import annotations

from hashlib import sha1
from typing import TYPE_CHECKING, Final

from netstore.node.proposals import REQUEST_ID_SIZE
from netstore.raft.entry import Entry, EntryKind, HardState
from netstore.state.commands import AddMember, encode
from netstore.types import ClusterId, Index, NodeId, Term

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

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
        Entry(
            Index(place), FIRST_TERM, EntryKind.NORMAL, bytes(REQUEST_ID_SIZE) + encode(AddMember(id_, urls))
        )
        for place, (id_, urls) in enumerate(sorted(members.items()), 1)
    ]
    return HardState(FIRST_TERM, NodeId(0), Index(len(entries))), entries


def _first_64_bits(text: str) -> int:
    digest = sha1(text.encode(), usedforsecurity=False).digest()
    return int.from_bytes(digest[:8], "big") or 1
