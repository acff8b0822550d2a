"""Whether this node is ready for pods: named checks, each with the reason while it fails. Pure.

Every part that must work for pods adds a check of its own; the node is ready while none fails. A check is
asked whenever somebody wants to know, so it looks at what is known already and does not wait.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final, NamedTuple

from netstore.agent.leasefilter import HOST_LENGTH
from netstore.network.addresses import show_ip

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from netstore.agent.kernel import Address

_OFF_LINK: Final = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN})
"""The kernel reaches the next hop by no network of the interface: the peer is where it should not be."""


class Result(NamedTuple):
    """What a check found: `reason` says why the node is not ready, None if this check does not fail."""

    name: str
    reason: str | None


class Readiness:
    """The checks of one node, in the order in which they were added. The reason of the first that fails is
    the one that is told, so causes come before their consequences.
    """

    def __init__(self) -> None:
        self._checks: dict[str, Callable[[], str | None]] = {}

    def add(self, name: str, check: Callable[[], str | None]) -> None:
        """Add a check, or replace the one of this name. Names are words joined by underscores: scripts and
        metrics use them.
        """
        self._checks[name] = check

    def results(self) -> list[Result]:
        """What all checks find now."""
        return [Result(name, check()) for name, check in self._checks.items()]

    def not_ready(self) -> str | None:
        """The reason of the first check that fails, or None if the node is ready."""
        for check in self._checks.values():
            if (reason := check()) is not None:
                return reason
        return None


def verbose(results: list[Result]) -> str:
    """The results as text, a line for each check."""
    lines = [f"[+] {name}" if reason is None else f"[-] {name}: {reason}" for name, reason in results]
    failed = sum(reason is not None for _, reason in results)
    lines.append("ready" if not failed else f"not ready: {failed} of {len(results)} checks fail")
    return "\n".join(lines) + "\n"


def routes_fault(rejected: Collection[int], wanted: int, address: Address) -> str | None:
    """Why a peer that can be served is not, given the errno of each route that the kernel rejected.

    A next hop that is not on-link is a fault of its lease, and so is a route of another program at its place
    (it is not among `rejected`): they do not make the node unready. But if none of the next hops is on-link
    and the node's address has no network, the fault is this node's.
    """
    ours = [code for code in rejected if code not in _OFF_LINK]
    if ours:
        if ours[0] in (errno.EPERM, errno.EACCES):
            reason = "the agent needs CAP_NET_ADMIN"
        else:
            reason = os.strerror(ours[0])
        return f"the kernel rejects the routes to {len(ours)} of {wanted} peers: {reason}"
    if rejected and len(rejected) == wanted and address.length == HOST_LENGTH:
        return (
            f"none of the {wanted} next hops is on-link: this node's address"
            f" {show_ip(address.ip)}/{HOST_LENGTH} has no network; give it the prefix length of its network"
        )
    return None
