"""What the cluster knows of one of its members."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from netstore.types import NodeId  # noqa: TC001 - msgspec reads the annotations

if TYPE_CHECKING:
    from collections.abc import Iterable

ID_EXISTS: Final = "membership: ID exists"
ID_REMOVED: Final = "membership: ID removed"
ID_NOT_FOUND: Final = "membership: ID not found"
PEER_URL_EXISTS: Final = "membership: peerURL exists"
NOT_LEARNER: Final = "membership: can only promote a learner member"
TOO_MANY_LEARNERS: Final = "membership: too many learner members in cluster"
TOO_MANY_VOTERS: Final = "membership: too many voting members in cluster"
LEARNER_NOT_READY: Final = "etcdserver: can only promote a learner member which is in sync with leader"
NOT_ENOUGH_STARTED: Final = "etcdserver: re-configuration failed due to not enough started members"
UNHEALTHY: Final = "etcdserver: unhealthy cluster"


def to_vote(members: Iterable[MemberInfo]) -> int:
    """How many of these vote, or are to as soon as they have caught up."""
    return sum(each.promote or not each.learner for each in members)


class MemberInfo(msgspec.Struct, array_like=True, frozen=True):
    """A member: its name, empty before it first published itself, where clients and where peers reach it.

    A `learner` has no vote; with `promote` it is to get one as soon as it has caught up. `level` is the
    highest feature level it has told that it knows, 0 before it told any.
    """

    id: NodeId
    name: str
    client_urls: tuple[str, ...]
    peer_urls: tuple[str, ...]
    learner: bool = False
    promote: bool = False
    level: int = 0
