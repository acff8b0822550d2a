"""Who a member and its cluster are, worked out alike by every member of a new cluster, as etcd does."""

from __future__ import annotations

from hashlib import sha1
from typing import TYPE_CHECKING

from netstore.types import ClusterId, NodeId

if TYPE_CHECKING:
    from collections.abc import Iterable


def member_id(peer_urls: Iterable[str], token: str) -> NodeId:
    """The id of an initial member: from its peer URLs and the cluster's token."""
    return NodeId(_first_64_bits("".join(sorted(peer_urls)) + token))


def cluster_id(members: Iterable[NodeId]) -> ClusterId:
    """The id of a new cluster: from the ids of its initial members."""
    digest = sha1(b"".join(member.to_bytes(8, "big") for member in sorted(members)), usedforsecurity=False)
    return ClusterId(int.from_bytes(digest.digest()[:8], "big") or 1)


def _first_64_bits(text: str) -> int:
    digest = sha1(text.encode(), usedforsecurity=False).digest()
    return int.from_bytes(digest[:8], "big") or 1
