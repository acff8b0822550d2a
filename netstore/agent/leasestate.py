"""What this node knows of its own subnet lease, and the next action: a state machine. Pure.

Invariants:

- A subnet whose lease has another PublicIP is never written.
- Every write is conditional: create only if absent, or compare with the index last seen. So a write whose
  outcome is unknown does no harm: the next write fails the comparison, and the agent reads the key.
- A lease without a TTL is a reservation, and a TTL is never added to it.
- Observations have the store's index; those that are not newer than the known state are ignored.

A subnet is chosen in flannel's order: the lease with this node's PublicIP, else the subnet this node had
before if it is free, else one of the first free ones at random.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from netstore.network.addresses import Subnet  # noqa: TC001 - msgspec reads annotations
from netstore.network.allocator import free_subnets
from netstore.network.lease import SubnetLease  # noqa: TC001

if TYPE_CHECKING:
    from collections.abc import Iterable

    from netstore.network.config import Network
    from netstore.seams import Entropy

FIRST_RETRY_DELAY: Final = 0.5
"""Seconds before the second attempt at a failed write; each further delay is twice as long."""

MAX_RETRY_DELAY: Final = 60.0
"""Maximum seconds between attempts to renew while the store cannot be reached, as in flannel."""

MAX_CLOCK_DRIFT: Final = 0.01
"""How much faster the store's clock may run than this node's, as a fraction of the TTL."""


class StoredLease(msgspec.Struct, frozen=True, gc=False):
    """A lease in the store. `index` is its modifiedIndex; `permanent` means it has no TTL."""

    lease: SubnetLease
    index: int
    permanent: bool


@dataclass(frozen=True, slots=True)
class Create:
    """Create the lease if the key does not exist."""

    subnet: Subnet


@dataclass(frozen=True, slots=True)
class Overwrite:
    """Write the lease if its modifiedIndex is still `index`; without a TTL if it is `permanent`."""

    subnet: Subnet
    index: int
    permanent: bool


@dataclass(frozen=True, slots=True)
class Discard:
    """Delete this node's lease if its modifiedIndex is still `index`: the network config disallows it."""

    subnet: Subnet
    index: int


@dataclass(frozen=True, slots=True)
class NetworkFull:
    """No subnet of the network is free."""

    leases: int


@dataclass(frozen=True, slots=True)
class ChooseSubnet:
    """List the leases and choose a subnet."""


@dataclass(frozen=True, slots=True)
class ReadBack:
    """Read the lease's key: its current value is not known."""

    subnet: Subnet


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do until `until` on the monotonic clock, unless something is observed first."""

    until: float


Action = Create | Overwrite | Discard | ChooseSubnet | ReadBack | Wait


def choose_subnet(
    leases: Iterable[StoredLease],
    own_ip: int,
    network: Network,
    remembered: Subnet | None,
    entropy: Entropy,
    *,
    avoid: Iterable[Subnet] = (),
) -> Create | Overwrite | Discard | NetworkFull:
    """Which subnet to ask for, given all leases.

    `remembered` is the subnet this node had last; a new one overlaps nothing in `avoid`. Of several leases of
    this node a reservation is taken first, so that a node that was moved stays moved, then the remembered
    one, else the lowest. If none of them fits the network config, the lowest is discarded, and the caller
    asks again.
    """
    known = sorted(leases, key=lambda stored: stored.lease.subnet)
    own = [stored for stored in known if stored.lease.public_ip == own_ip]
    fitting = [stored for stored in own if network.fits(stored.lease.subnet)]
    for stored in sorted(fitting, key=lambda each: (not each.permanent, each.lease.subnet != remembered)):
        return Overwrite(stored.lease.subnet, stored.index, stored.permanent)
    for stored in own:
        return Discard(stored.lease.subnet, stored.index)
    taken = [stored.lease.subnet for stored in known]
    if (
        remembered is not None
        and network.fits(remembered)
        and not any(remembered.overlaps(subnet) for subnet in taken)
    ):
        return Create(remembered)
    free = free_subnets(network, [*taken, *avoid])
    return Create(free[entropy.below(len(free))]) if free else NetworkFull(len(taken))


class LeaseState:
    """What is known of this node's lease. Times are seconds on one monotonic clock.

    `margin` is how long before its expiry a lease is renewed, at most half its TTL. The caller carries out
    the action that `next` returns, reports its outcome (`granted`, `comparison_failed`, `missing`,
    `write_failed`) and what it observes meanwhile (`observed`, `missing`), and asks for the next action.
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
        """The PublicIP that took this node's last subnet, until another subnet is granted."""
        self._next_action_at = 0.0
        self._held = False
        self._must_read_back = False
        self._failures = 0
        self._former_ips: set[int] = set()
        self._entropy = entropy

    def __repr__(self) -> str:
        state = "held" if self._held else "not held"
        return f"LeaseState({self.subnet}, {state}, index={self.index}, permanent={self.permanent})"

    @property
    def held(self) -> bool:
        """Whether the store granted the lease and nothing observed since then says otherwise."""
        return self._held

    def may_have_expired(self, now: float) -> bool:
        """Whether the lease may have expired in the store before `now`, allowing for clock drift."""
        return not self._held or (not self.permanent and now >= self.expires - self.ttl * MAX_CLOCK_DRIFT)

    def next(self, now: float) -> Action:
        """The action to carry out at `now`."""
        if self.subnet is None:
            return ChooseSubnet()
        if not self._held:
            return Create(self.subnet) if now >= self._next_action_at else Wait(self._next_action_at)
        if now < self._next_action_at:
            return Wait(self._next_action_at)
        if self._must_read_back:
            return ReadBack(self.subnet)
        return Overwrite(self.subnet, self.index, self.permanent)

    def granted(self, subnet: Subnet, index: int, *, permanent: bool, sent: float) -> None:
        """The store accepted the write that was sent at `sent`."""
        self.subnet = subnet
        self.index = index
        self.permanent = permanent
        self.taken_by = None
        self._held = True
        self._must_read_back = False
        self._failures = 0
        self._former_ips.clear()
        self._set_expiry(sent, self.ttl)

    def observed(
        self, lease: SubnetLease | None, value: str, index: int, ttl: int | None, now: float
    ) -> None:
        """The lease's key had this value at `index`. `lease` is None if the value is not a lease."""
        if (
            index < self.index
            or self.subnet is None
            or (index == self.index and self._held and not self._must_read_back)
        ):
            return
        if lease is not None and lease.public_ip != self.own_ip and lease.public_ip not in self._former_ips:
            self.taken_by = lease.public_ip
            self._give_up()
            return
        keeps_expiry = ttl == 0 and self._held and not self.permanent  # 0: the store did not say when
        self.index = index
        self.permanent = ttl is None
        self._held = True
        self._must_read_back = False
        if value == self.value and not keeps_expiry:
            self._set_expiry(now, ttl or 0)
        else:
            # This node's lease with another content, or of unknown time: write it again. If it is the write
            # under way, its answer comes first.
            self._next_action_at = now

    def missing(self, index: int, now: float) -> None:
        """The lease's key was absent at `index`: deleted or expired. The same subnet is requested again."""
        if index >= self.index and self.subnet is not None and (self._held or self._must_read_back):
            self._held = False
            self._must_read_back = False
            self._next_action_at = now

    def comparison_failed(self, now: float) -> None:
        """The condition of the write failed: somebody else wrote the key."""
        if self._held:
            self._must_read_back = True
            self._next_action_at = now
        else:
            self._give_up()

    def write_failed(self, now: float) -> None:
        """The write did not reach the store, or its outcome is unknown: read the key after a delay."""
        self._must_read_back = self._held
        self._next_action_at = now + min(
            MAX_RETRY_DELAY, self.margin / 6, FIRST_RETRY_DELAY * 2**self._failures
        )
        self._failures = min(self._failures + 1, 10)

    def set_value(self, own_ip: int, value: str, now: float) -> None:
        """Set what the lease says; it is written at once if it differs.

        Until the store has accepted that, a lease with the former address still counts as this node's.
        """
        if value != self.value:
            self._former_ips.add(self.own_ip)
            self.own_ip = own_ip
            self.value = value
            self._next_action_at = now

    def store_replaced(self) -> None:
        """The store was replaced or restored: its indexes cannot be compared with earlier ones."""
        self.index = 0
        self._must_read_back = self._held

    def _give_up(self) -> None:
        self.subnet = None
        self.index = 0
        self._held = False
        self._must_read_back = False

    def _set_expiry(self, since: float, ttl: int) -> None:
        """Renewal is up to a tenth of the margin early, at random, so that nodes that started together do not
        renew together.
        """
        self.expires = since + ttl
        early = self.margin * (1 + self._entropy.below(1000) / 10_000)
        self._next_action_at = float("inf") if self.permanent else since + max(0.0, ttl - early)
