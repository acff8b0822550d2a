"""What the cluster knows of one of its members."""

from __future__ import annotations

import msgspec

from netstore.types import NodeId  # noqa: TC001 - msgspec reads the annotations


class MemberInfo(msgspec.Struct, array_like=True, frozen=True):
    """A member: its name, empty before it first published itself, where clients and where peers reach it.

    A `learner` has no vote; with `promote` it is to get one as soon as it has caught up.
    """

    id: NodeId
    name: str
    client_urls: tuple[str, ...]
    peer_urls: tuple[str, ...]
    learner: bool = False
    promote: bool = False
