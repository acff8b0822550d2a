"""What the cluster knows of one of its members."""

from __future__ import annotations

import msgspec

from netstore.types import NodeId  # noqa: TC001 - msgspec reads the annotations


class MemberInfo(msgspec.Struct, array_like=True, frozen=True):
    """A member as it last published itself: its name, where clients and where peers reach it."""

    id: NodeId
    name: str
    client_urls: tuple[str, ...]
    peer_urls: tuple[str, ...]
