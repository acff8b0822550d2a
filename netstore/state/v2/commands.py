"""The replicated commands of the v2 API.

They are numbered from 1; the rules of `commands` apply (numbers never change, unknown fields are refused).

A TTL is a number of seconds, which each member measures from when it applied the command (`countdown`). The
instant of expiry, by the wall clock of the member that took the request, is only shown to users (v2 API, TTL
and refresh).
"""

from __future__ import annotations

import re
from typing import Annotated, Final

import msgspec

from netstore.types import Nanos

LATEST: Final = Nanos(2**63 - 1)
"""The latest instant a node can expire at, in the year 2262; a longer TTL is cut to it."""

_NANOS_PER_SECOND: Final = 1_000_000_000

LONGEST_TTL: Final = LATEST // _NANOS_PER_SECOND
"""Seconds; a longer TTL is cut to it."""

_Instant = Annotated[int, msgspec.Meta(ge=0, le=LATEST)]
_Seconds = Annotated[int, msgspec.Meta(ge=0, le=LONGEST_TTL)]
_Number = Annotated[int, msgspec.Meta(ge=0)]  # msgpack itself ends at 64 bits


def expiry(now: Nanos, ttl_seconds: int) -> Nanos:
    """The instant a node written at `now` with this TTL expires, cut to `LATEST` (there etcd overflows)."""
    return Nanos(min(now + ttl_seconds * _NANOS_PER_SECOND, LATEST))


is_canonical: Final = re.compile(rb"(?:/[^/]++)++|/").fullmatch
"""Whether bytes are the one way to write a node of the tree: "/" or names each led by one slash, no slash at
the end. A match, or None. One call in C for each command: half the time of four operations in Python, for
short paths.
"""


class KeyCommand(msgspec.Struct, array_like=True, frozen=True, gc=False, forbid_unknown_fields=True):
    """The base of the commands on one node of the v2 tree: its path, canonical (`is_canonical`)."""

    path: bytes


class Set(KeyCommand, frozen=True, tag=1):
    """Create or replace a node. `expires` 0 is permanent, else the node lives for `ttl` seconds; `refresh`
    keeps the value and wakes no watcher.
    """

    value: bytes = b""
    dir: bool = False
    expires: _Instant = 0
    refresh: bool = False
    ttl: _Seconds = 0


class Create(KeyCommand, frozen=True, tag=2):
    """Create a node that must not exist."""

    value: bytes = b""
    dir: bool = False
    expires: _Instant = 0
    ttl: _Seconds = 0


class Update(KeyCommand, frozen=True, tag=3):
    """Change the value and TTL of a node that must exist; of a directory only the TTL."""

    value: bytes = b""
    expires: _Instant = 0
    refresh: bool = False
    ttl: _Seconds = 0


class CompareAndSwap(KeyCommand, frozen=True, tag=4):
    """Update a file if its value and modified index are the given ones; empty and 0 stand for "any"."""

    value: bytes = b""
    prev_value: bytes = b""
    prev_index: _Number = 0
    expires: _Instant = 0
    refresh: bool = False
    ttl: _Seconds = 0


class InOrder(KeyCommand, frozen=True, tag=5):
    """Create a node in the directory `path`, named by the index of this change (v2 API, POST)."""

    value: bytes = b""
    dir: bool = False
    expires: _Instant = 0
    ttl: _Seconds = 0


class Delete(KeyCommand, frozen=True, tag=6):
    """Remove a file, with `dir` an empty directory, with `recursive` a directory and all below it."""

    dir: bool = False
    recursive: bool = False


class CompareAndDelete(KeyCommand, frozen=True, tag=7):
    """Remove a file if its value and modified index are the given ones; empty and 0 stand for "any"."""

    prev_value: bytes = b""
    prev_index: _Number = 0


class QuorumGet(KeyCommand, frozen=True, tag=8):
    """A linearizable read, at this entry of the log (v2 API, `quorum=true`)."""

    recursive: bool = False


class ExpireNodes(msgspec.Struct, array_like=True, frozen=True, gc=False, forbid_unknown_fields=True, tag=20):
    """Remove nodes whose TTL is over by the leader's clock: each as (path, since), unless its TTL was set
    anew after the index `since` (`ttl.Timed`). Removed in this order, each with an event of its own.
    """

    nodes: tuple[tuple[bytes, _Number], ...]


class TtlCheckpoint(
    msgspec.Struct, array_like=True, frozen=True, gc=False, forbid_unknown_fields=True, tag=21
):
    """A checkpoint of what nodes have left of their TTLs, as (path, since, seconds), for restarts."""

    nodes: tuple[tuple[bytes, _Number, _Seconds], ...]
