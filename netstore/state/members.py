"""What the cluster knows of one of its members."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from netstore.types import NodeId  # noqa: TC001 - msgspec reads the annotations

if TYPE_CHECKING:
    from collections.abc import Iterable


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
