"""The life of this node's lease as a state machine: what was seen goes in, the next thing to do comes out.
Pure.

Invariants:

- A subnet whose lease another PublicIP holds is never written.
- Every write names what it replaces: create-if-absent, or the index last seen. So a write whose outcome is
  unknown is harmless: the next one fails the comparison, and the agent looks.
- A lease without a TTL is a reservation and stays one: a TTL is never added to it.
- Observations carry the store's index; one that is not newer than what is known changes nothing.

The order of choosing a subnet is flannel's: the lease with my PublicIP, else the subnet I had before if
nobody has it, else one of the first free ones, at random.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from netstore.network.addresses import Subnet  # noqa: TC001 - msgspec reads annotations
from netstore.network.allocator import free_subnets
from netstore.network.lease import Lease  # noqa: TC001

if TYPE_CHECKING:
    from collections.abc import Iterable

    from netstore.network.config import Network
    from netstore.seams import Entropy

RETRY_FIRST: Final = 0.5
"""Seconds before the second attempt at a write that failed; each further pause is twice as long."""

RETRY_LONGEST: Final = 60.0
"""Seconds between attempts to renew while the store cannot be reached (flannel)."""

DRIFT: Final = 0.01
"""How much faster the store's clock may run than ours, as a part of the TTL, before a lease is called unsafe
early.
"""


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A lease in the store: `index` is its modifiedIndex, `permanent` says it has no TTL."""

    lease: Lease
    index: int
    permanent: bool


@dataclass(frozen=True, slots=True)
class Create:
    """Write the lease if nobody has it."""

    subnet: Subnet


@dataclass(frozen=True, slots=True)
class Overwrite:
    """Write the lease over the one last changed at `index`; without a TTL if it is `permanent`."""

    subnet: Subnet
    index: int
    permanent: bool


@dataclass(frozen=True, slots=True)
class Discard:
    """Remove my own lease, last changed at `index`, because the network no longer allows its subnet."""

    subnet: Subnet
    index: int


@dataclass(frozen=True, slots=True)
class Full:
    """Every subnet of the network is taken."""

    leases: int


@dataclass(frozen=True, slots=True)
class Choose:
    """List the leases and choose a subnet."""


@dataclass(frozen=True, slots=True)
class Look:
    """Read my key: something else than this plan may have written it."""

    subnet: Subnet


@dataclass(frozen=True, slots=True)
class Rest:
    """Nothing to do until `until`, on the monotonic clock, unless something is seen first."""

    until: float


Action = Create | Overwrite | Discard | Choose | Look | Rest


def choose(
    entries: Iterable[Entry],
    own_ip: int,
    network: Network,
    remembered: Subnet | None,
    entropy: Entropy,
    *,
    avoid: Iterable[Subnet] = (),
) -> Create | Overwrite | Discard | Full:
    """Which subnet to ask for, given all leases. `remembered` is the subnet this node had last; a new one
    overlaps nothing in `avoid`.

    Among several leases of mine the remembered one wins, then the lowest. None of mine fits: the lowest is
    discarded, and the caller asks again.
    """
    known = sorted(entries, key=lambda entry: entry.lease.subnet)
    mine = [entry for entry in known if entry.lease.public_ip == own_ip]
    fitting = [entry for entry in mine if network.fits(entry.lease.subnet)]
    for entry in sorted(fitting, key=lambda entry: entry.lease.subnet != remembered):
        return Overwrite(entry.lease.subnet, entry.index, entry.permanent)
    for entry in mine:
        return Discard(entry.lease.subnet, entry.index)
    taken = [entry.lease.subnet for entry in known]
    if (
        remembered is not None
        and network.fits(remembered)
        and not any(remembered.overlaps(subnet) for subnet in taken)
    ):
        return Create(remembered)
    free = free_subnets(network, [*taken, *avoid])
    return Create(free[entropy.below(len(free))]) if free else Full(len(taken))


class Tenure:
    """What is known of this node's lease, and what to do next. Times are seconds on one monotonic clock.

    `margin` is how long before its end a lease is renewed, at most half its TTL. The caller carries out
    `next`, reports what became of it (`granted`, `refused`, `missing`, `failed`) and what it saw in the
    meantime (`observed`, `missing`), and asks again.
    """

    def __init__(self, own_ip: int, value: str, ttl: int, margin: float, entropy: Entropy) -> None:
        self.own_ip = own_ip
        self.value = value
        self.ttl = ttl
        self.margin = min(margin, ttl / 2)
        self.subnet: Subnet | None = None
        self.index = 0
        self.permanent = False
        self.expires = 0.0
        self.taken_by: int | None = None
        """The PublicIP that took the last subnet from this node, until another subnet is granted."""
        self._due = 0.0
        self._held = False
        self._unsure = False
        self._failures = 0
        self._former_ips: set[int] = set()
        self._entropy = entropy

    def __repr__(self) -> str:
        state = "held" if self._held else "sought"
        return f"Tenure({self.subnet}, {state}, index={self.index}, permanent={self.permanent})"

    @property
    def held(self) -> bool:
        """Whether the store granted the lease and nothing to the contrary was seen."""
        return self._held

    def unsafe(self, now: float) -> bool:
        """Whether the lease may have ended in the store, by its own clock, before `now`."""
        return not self._held or (not self.permanent and now >= self.expires - self.ttl * DRIFT)

    def next(self, now: float) -> Action:
        """The one thing to do at `now`."""
        if self.subnet is None:
            return Choose()
        if not self._held:
            return Create(self.subnet) if now >= self._due else Rest(self._due)
        if now < self._due:
            return Rest(self._due)
        if self._unsure:
            return Look(self.subnet)
        return Overwrite(self.subnet, self.index, self.permanent)

    def granted(self, subnet: Subnet, index: int, *, permanent: bool, sent: float) -> None:
        """The store took my write, made from what I sent at `sent`."""
        self.subnet = subnet
        self.index = index
        self.permanent = permanent
        self.taken_by = None
        self._held = True
        self._unsure = False
        self._failures = 0
        self._former_ips.clear()
        self._life(sent, self.ttl)

    def observed(self, lease: Lease | None, value: str, index: int, ttl: int | None, now: float) -> None:
        """My key was seen as it stands at `index`. `lease` is None if its value is no lease."""
        if (
            index < self.index
            or self.subnet is None
            or (index == self.index and self._held and not self._unsure)
        ):
            return
        if lease is not None and lease.public_ip != self.own_ip and lease.public_ip not in self._former_ips:
            self.taken_by = lease.public_ip
            self._lose()
            return
        self.index = index
        self.permanent = ttl is None
        self._held = True
        self._unsure = False
        if value == self.value:
            self._life(now, ttl or 0)
        else:
            self._due = now  # Mine, but not what I publish: write it again.

    def missing(self, index: int, now: float) -> None:
        """My key was absent when the store stood at `index`: deleted or expired. The same subnet is asked for
        again.
        """
        if index >= self.index and self.subnet is not None and (self._held or self._unsure):
            self._held = False
            self._unsure = False
            self._due = now

    def refused(self, now: float) -> None:
        """The comparison of my write failed: somebody else was there."""
        if self._held:
            self._unsure = True
            self._due = now
        else:
            self._lose()

    def failed(self, now: float) -> None:
        """My write did not reach the store, or its outcome is unknown: look and try again after a pause."""
        self._unsure = self._held
        self._due = now + min(RETRY_LONGEST, self.margin / 6, RETRY_FIRST * 2**self._failures)
        self._failures = min(self._failures + 1, 10)

    def publish(self, own_ip: int, value: str, now: float) -> None:
        """From now on the lease says this: written at once if it differs.

        Until the store took it, a lease with the former address still counts as this node's.
        """
        if value != self.value:
            self._former_ips.add(self.own_ip)
            self.own_ip = own_ip
            self.value = value
            self._due = now

    def restart(self) -> None:
        """The store is another one, or went back in time: its indexes cannot be compared with older ones."""
        self.index = 0
        self._unsure = self._held

    def _lose(self) -> None:
        self.subnet = None
        self.index = 0
        self._held = False
        self._unsure = False

    def _life(self, since: float, ttl: int) -> None:
        """Renewal comes up to a tenth of the margin early, so that nodes started together do not stay
        together.
        """
        self.expires = since + ttl
        early = self.margin * (1 + self._entropy.below(1000) / 10_000)
        self._due = float("inf") if self.permanent else since + max(0.0, ttl - early)
