"""How many files this process may have open, and how many client connections that allows."""

from __future__ import annotations

import contextlib
import resource
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from netstore.seams import Log

OWN_DESCRIPTORS: Final = 128
"""File descriptors reserved for the member itself: its log, its state and snapshots. A cluster of one
needs 22 of them. Its streams with other members are counted separately.
"""

CLIENTS_PART: Final = 4
"""Clients get at least one in so many of all descriptors, however few there are."""

MOST_DESCRIPTORS: Final = 1 << 20
"""The limit to set where the system has none."""


def most_connections(wanted: int, streams: int, log: Log) -> int:
    """How many client connections to accept at a time: as many as wanted, if there are descriptors for them.

    Raises the limit of the process as far as it may be raised. `streams` is how many connections of other
    members are accepted.
    """
    able = connections_for(raise_limit(), OWN_DESCRIPTORS + streams)
    if able < wanted:
        log.warning("connections_limited", wanted=wanted, possible=able, fix="raise the limit on open files")
    return min(wanted, able)


def raise_limit() -> int:
    """Raise the soft limit on open files to the hard one; returns the limit (setrlimit(2))."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < most:
        with contextlib.suppress(OSError, ValueError):  # then the soft limit has to do
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            soft = most
    return most if soft == resource.RLIM_INFINITY else soft


def connections_for(descriptors: int, reserved: int) -> int:
    """How many client connections fit among so many descriptors, of which some are reserved."""
    return max(1, descriptors // CLIENTS_PART, descriptors - reserved)
