"""The settings that decide who a member is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberSettings:
    """What the configuration says about one member. URLs are in their normal form."""

    name: str
    peer_urls: tuple[str, ...]
    """Where the others reach this member (`initial_advertise_peer_urls`)."""
    initial: Mapping[str, tuple[str, ...]]
    """`initial_cluster`: name -> peer URLs; this member alone if it was not set."""
    names_members: bool
    """Whether `initial_cluster` was set."""
    initial_token: str
    """`initial_cluster_token`."""
    known_token: str
    """Its default, which everybody knows."""
    joins_existing: bool
    """`initial_cluster_state` is existing."""
    join: tuple[str, ...]
    """Peer URLs of a running cluster that is asked to add this member."""
    join_token: str | None
    """What `join_token` or `join_token_file` gives."""
    force_new: bool
    """`force_new_cluster`."""
