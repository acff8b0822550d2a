"""What this node knows of its own subnet lease, and the next action: a state machine. Pure.

Invariants:

- A lease of another node is never written: one with another NodeName, or, where it or this node has none,
  with another PublicIP.
- Every write is conditional: create only if absent, or compare with the index last seen. So a write whose
  outcome is unknown does no harm: the next write fails the comparison, and the agent reads the key.
- A lease that was just created is not held before all older ones are known, and is given up if one of them
  overlaps it, whatever its length: in a dual-stack network, and while SubnetLen changes, their keys differ.
- A lease without a TTL is a reservation, and a TTL is never added to it.
- Observations have the store's index; those that are not newer than the known state are ignored.
- How long the lease lives is taken from the answer to a request alone, counted from when that was sent.

A subnet is chosen in flannel's order: the lease of this node, else the subnet this node had
before if it is free, else one of the first free ones at random. The IPv6 subnet that goes with it is the one
this node had before if it is free, else the one at the same place in its network, else one of the first free.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import msgspec

from netstore.network.addresses import Subnet, show_ip
from netstore.network.allocator import counterpart, free_subnets
from netstore.network.ipv6 import Subnet6
from netstore.network.lease import NodeSubnets, SubnetLease, is_of
from netstore.network.overlaps import SubnetIndex

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from netstore.client.subnetstore import Entry
    from netstore.network.config import Network, Network6
    from netstore.seams import Entropy

S = TypeVar("S", Subnet, Subnet6)

FIRST_RETRY_DELAY: Final = 0.5
"""Seconds before the second attempt at a failed write; each further delay is twice as long."""

MAX_RETRY_DELAY: Final = 60.0
"""Maximum seconds between attempts to renew while the store cannot be reached, as in flannel."""

MIN_REWRITES: Final = 3
"""Rewrites by another program, each within `QUIET_PERIOD` of the one before, that mean that another agent has
this node's PublicIP. An operator or flanneld, which this agent follows, rewrites the lease once.
"""

QUIET_PERIOD: Final = 2 * MAX_RETRY_DELAY
"""Seconds without a rewrite by another program after which it is over: an agent waits at most half of it."""

MAX_EARLY: Final = 1.1
"""How long before the expiry of a lease it is renewed at most, as a multiple of the margin."""

MAX_CLOCK_DRIFT: Final = 0.01
"""How much faster the store's clock may run than this node's, as a fraction of the TTL."""


class StoredLease(msgspec.Struct, frozen=True, gc=False):
    """A lease in the store. `index` is that of its last change, `created` that of its key's creation;
    `permanent` means it has no TTL.
    """

    lease: SubnetLease
    index: int
    permanent: bool
    created: int = 0


class Create(msgspec.Struct, frozen=True):
    """Create the lease if the key does not exist; without a TTL if it is `permanent`."""

    subnets: NodeSubnets
    permanent: bool = False


class Overwrite(msgspec.Struct, frozen=True):
    """Write the lease if its index is still `index`; without a TTL if it is `permanent`. `created` is the
    index at which its key was created.
    """

    subnets: NodeSubnets
    index: int
    permanent: bool
    created: int


class Discard(msgspec.Struct, frozen=True):
    """Delete this node's lease if its index is still `index`; `reason` says why."""

    subnets: NodeSubnets
    index: int
    reason: str


class NetworkFull(msgspec.Struct, frozen=True):
    """No subnet of this network is free."""

    network: Subnet | Subnet6
    leases: int


class ChooseSubnet(msgspec.Struct, frozen=True):
    """List the leases and choose a subnet."""


class Confirm(msgspec.Struct, frozen=True):
    """Wait until all leases are known that were created before this one, at index `created`; then tell
    whether one of them overlaps it (`older_claim`).
    """

    subnets: NodeSubnets
    created: int


class ReadBack(msgspec.Struct, frozen=True):
    """Read the lease's key: its current value is not known."""

    subnets: NodeSubnets


class Wait(msgspec.Struct, frozen=True):
    """Nothing to do until `until` on the monotonic clock, unless something is observed first."""

    until: float


Action = Create | Overwrite | Discard | ChooseSubnet | Confirm | ReadBack | Wait

NOT_ALLOWED: Final = "the network config does not allow it"
CONTESTED: Final = (
    "another node has a lease of it, which a lease with the name that it gets now would be younger than"
)
_EVER: Final = 2**63


def choose_subnet(
    leases: Iterable[StoredLease],
    own_ip: int,
    network: Network,
    remembered: NodeSubnets | None,
    entropy: Entropy,
    *,
    avoid: Iterable[Subnet | Subnet6] = (),
    own_name: str = "",
    former: Network | None = None,
) -> Create | Overwrite | Discard | NetworkFull:
    """Which lease to ask for, given all leases.

    `remembered` is what this node had last; a new subnet overlaps nothing in `avoid`. Of several leases of
    this node a reservation is taken first, so that a node that was moved stays moved, then the remembered
    one, else the lowest. One that has the right IPv4 subnet, and not the IPv6 subnet that the network config
    asks for, is followed by a lease with another name for the same IPv4 subnet, unless another node has a
    lease of that too; a reservation by another reservation. If none fits, the lowest is discarded, and the
    caller asks again. A lease of the network config `former` is left as it is, unless an older one overlaps
    it. O(n log n).
    """
    known = sorted(leases, key=lambda stored: stored.lease.subnet)
    own = [stored for stored in known if is_of(stored.lease, (own_ip,), own_name)]
    others = [stored for stored in known if not is_of(stored.lease, (own_ip,), own_name)]
    claims = _Claims(others)
    usable = [
        stored
        for stored in own
        if network.fits(stored.lease.subnet) and claims.older(stored.lease.subnet, stored.created) is None
    ]
    fitting = [stored for stored in usable if _has_right_ipv6(stored, network, claims)]
    for stored in sorted(fitting, key=lambda each: (not each.permanent, each.lease.subnets != remembered)):
        return Overwrite(stored.lease.subnets, stored.index, stored.permanent, stored.created)
    taken6 = [stored.lease.subnet6 for stored in known if stored.lease.subnet6 is not None]
    rest = _Rest(network, taken6, remembered, [each for each in avoid if isinstance(each, Subnet6)], entropy)
    last = None if remembered is None else remembered.subnet
    for stored in sorted(usable, key=lambda each: (not each.permanent, each.lease.subnet != last)):
        # Where another node has any lease of it, one with another name would be the younger one.
        if claims.older(stored.lease.subnet, _EVER) is None:
            return rest.create(stored.lease.subnet, permanent=stored.permanent)
    for stored in own:
        older = claims.older(stored.lease.subnet, stored.created)
        if former is not None and former.fits(stored.lease.subnet) and older is None:
            continue
        if stored.permanent and stored in usable:
            continue  # it is the operator's
        if older is not None:
            reason = f"the lease of {show_ip(older.lease.public_ip)} is older"
        else:
            reason = CONTESTED if stored in usable else NOT_ALLOWED
        return Discard(stored.lease.subnets, stored.index, reason)
    taken = [stored.lease.subnet for stored in known]
    if last is not None and network.fits(last) and not any(last.overlaps(subnet) for subnet in taken):
        return rest.create(last)
    free = free_subnets(network, [*taken, *(each for each in avoid if isinstance(each, Subnet))])
    if not free:
        return NetworkFull(network.network, len(taken))
    return rest.create(free[entropy.below(len(free))])


def older_claim(
    subnets: NodeSubnets,
    own_ips: Collection[int],
    created: int,
    leases: Iterable[StoredLease],
    *,
    own_name: str = "",
) -> StoredLease | None:
    """A lease of another node that was created before index `created` and overlaps one of these subnets."""
    others = [stored for stored in leases if not is_of(stored.lease, own_ips, own_name)]
    claims = _Claims(others)
    return claims.older(subnets.subnet, created) or claims.older6(subnets.subnet6, created)


class _Claims:
    """The oldest lease of each subnet, by family. A lease that does not fit the network config counts as
    well: it may fit that of a plan which this node does not know yet.
    """

    def __init__(self, leases: Iterable[StoredLease]) -> None:
        held = [(stored.lease.subnet, stored) for stored in leases]
        held6 = [(subnet6, each) for _, each in held if (subnet6 := each.lease.subnet6) is not None]
        self._family = _Family(held)
        self._family6 = _Family(held6)

    def older(self, subnet: Subnet, created: int) -> StoredLease | None:
        """The oldest lease that overlaps the subnet, if it was created before this index."""
        return self._family.older(subnet, created)

    def older6(self, subnet6: Subnet6 | None, created: int) -> StoredLease | None:
        """The same of IPv6."""
        return None if subnet6 is None else self._family6.older(subnet6, created)


class _Family(Generic[S]):
    """The oldest lease of each subnet of one family."""

    def __init__(self, held: Iterable[tuple[S, StoredLease]]) -> None:
        self._oldest: dict[S, StoredLease] = {}
        for subnet, stored in held:
            oldest = self._oldest.get(subnet)
            if oldest is None or stored.created < oldest.created:
                self._oldest[subnet] = stored
        self._index: SubnetIndex[S] = SubnetIndex(self._oldest)

    def older(self, subnet: S, created: int) -> StoredLease | None:
        found = [
            self._oldest[each] for each in (*self._index.overlapping(subnet), subnet) if each in self._oldest
        ]
        oldest = min(found, key=lambda each: each.created, default=None)
        return oldest if oldest is not None and oldest.created < created else None


def _has_right_ipv6(stored: StoredLease, network: Network, claims: _Claims) -> bool:
    subnet6 = stored.lease.subnet6
    if subnet6 is None or network.ipv6 is None:
        return (subnet6 is None) == (network.ipv6 is None)
    return network.ipv6.fits(subnet6) and claims.older6(subnet6, stored.created) is None


class _Rest(msgspec.Struct, frozen=True):
    """The choice of what goes with an IPv4 subnet."""

    network: Network
    taken6: Sequence[Subnet6]
    remembered: NodeSubnets | None
    avoid6: Sequence[Subnet6]
    entropy: Entropy

    def create(self, subnet: Subnet, *, permanent: bool = False) -> Create | NetworkFull:
        """Create the lease of this subnet."""
        network6 = self.network.ipv6
        if network6 is None:
            return Create(NodeSubnets(subnet), permanent)
        subnet6 = self._choose(subnet, network6)
        if subnet6 is None:
            return NetworkFull(network6.network, len(self.taken6))
        return Create(NodeSubnets(subnet, subnet6), permanent)

    def _choose(self, subnet: Subnet, network6: Network6) -> Subnet6 | None:
        former = None if self.remembered is None else self.remembered.subnet6
        if (
            former is not None
            and network6.fits(former)
            and not any(former.overlaps(taken) for taken in self.taken6)
        ):
            return former
        taken = [*self.taken6, *self.avoid6]
        usual = counterpart(self.network, subnet, network6)
        if usual is not None and not any(usual.overlaps(each) for each in taken):
            return usual
        free = free_subnets(network6, taken)
        return free[self.entropy.below(len(free))] if free else None


class LeaseState:
    """What is known of this node's lease. Times are seconds on one monotonic clock, which also goes on while
    the machine is suspended (`lastingclock`).

    `margin` is how long before its expiry a lease is renewed, at most half its TTL. The caller carries out
    the action that `next` returns, reports its outcome (`granted`, `confirmed`, `contested`, `missing`,
    `comparison_failed`, `write_failed`, `read_back`) and what it observes meanwhile (`observed`, `missing`),
    and asks for the next action.
    """

    def __init__(
        self, own_ip: int, value: str, ttl: int, margin: float, entropy: Entropy, *, own_name: str = ""
    ) -> None:
        self.own_ip = own_ip
        self.own_name = own_name
        """The node's name in its lease; "" if only the PublicIP tells whose it is."""
        self.value = value
        self.ttl = ttl
        self.margin = min(margin, ttl / 2)
        self.subnets: NodeSubnets | None = None
        self.index = 0
        self.created = 0
        """The index at which the lease's key was created."""
        self.permanent = False
        self.expires = 0.0
        self.taken_by: int | None = None
        """The PublicIP that took this node's last subnet, until another subnet is granted."""
        self._next_action_at = 0.0
        self._held = False
        self._is_confirmed = False
        """No older lease has a subnet of this one."""
        self._must_read_back = False
        self._may_read_at = -math.inf
        """When the key may be read again because of an event, so that somebody who writes it often has it
        read seldom."""
        self._failures = 0
        self._former_ips: set[int] = set()
        self._former_values: frozenset[str] = frozenset()
        self.is_writing = False
        """Whether a write of the lease is under way; the caller sets it."""
        self.foreign_value: str | None = None
        """What another program wrote to the lease's key last."""
        self._rewrites = 0
        self._quiet_at = 0.0
        self._entropy = entropy

    def __repr__(self) -> str:
        state = "held" if self.held else "written" if self._held else "not held"
        return f"LeaseState({self.subnets}, {state}, index={self.index}, permanent={self.permanent})"

    @property
    def held(self) -> bool:
        """Whether the store granted the lease, no older one has a subnet of it, and nothing observed since
        then says otherwise.
        """
        return self._held and self._is_confirmed

    @property
    def is_written(self) -> bool:
        """Whether the store has the lease, as far as is known; it may not be confirmed yet."""
        return self._held

    @property
    def own_ips(self) -> set[int]:
        """The PublicIPs by which leases are this node's."""
        return {self.own_ip, *self._former_ips}

    @property
    def lives_until(self) -> float:
        """Until when the lease lives in the store at least, allowing for clock drift."""
        return math.inf if self.permanent else self.expires - self.ttl * MAX_CLOCK_DRIFT

    def may_have_expired(self, now: float) -> bool:
        """Whether the lease may have expired in the store before `now`."""
        return not self.held or now >= self.lives_until

    def next(self, now: float) -> Action:
        """The action to carry out at `now`."""
        if self.subnets is None:
            return ChooseSubnet()
        if not self._held:
            return Create(self.subnets) if now >= self._next_action_at else Wait(self._next_action_at)
        if now < self._next_action_at:
            return Wait(self._next_action_at) if self._is_confirmed else Confirm(self.subnets, self.created)
        if self._must_read_back:
            return ReadBack(self.subnets)
        return Overwrite(self.subnets, self.index, self.permanent, self.created)

    def granted(
        self,
        subnets: NodeSubnets,
        index: int,
        *,
        value: str,
        permanent: bool,
        sent: float,
        created: int | None = None,
        ttl: int | None = None,
    ) -> None:
        """The store accepted the write that was sent at `sent`, of this value: if what the lease says was set
        anew meanwhile, that is written at once. `created` is None if the write created the key; otherwise it
        was created at that index, and if nothing was held, the caller knows that no older lease has a subnet
        of it. What replaces another lease is confirmed first. `ttl` is what was left of the lease's time at
        `sent` if nothing had to be written (`serves_as_it_is`).
        """
        is_known = self.subnets is None or (self._is_confirmed and self.subnets == subnets)
        self._is_confirmed = created is not None and is_known
        self.subnets = subnets
        self.index = index
        self.created = index if created is None else created
        self.permanent = permanent
        self.taken_by = None
        self._held = True
        self._must_read_back = False
        self._failures = 0
        self._set_expiry(sent, self.ttl if ttl is None else ttl)
        if value == self.value:
            self._former_ips.clear()
            self._former_values = frozenset()
        else:
            self._next_action_at = sent

    def serves_as_it_is(self, entry: Entry) -> bool:
        """Whether a lease of this node that is in the store need not be written to be held: it says what it
        must, never expires or has no longer to live than one that is written now, and is not to be renewed
        yet.
        """
        ttl = entry.ttl
        return entry.value == self.value and (ttl is None or self.margin * MAX_EARLY < ttl <= self.ttl)

    def confirmed(self) -> None:
        """All leases that were created before this one are known, and none has a subnet of it."""
        self._is_confirmed = True

    def contested(self, by: int) -> None:
        """The node with this PublicIP has an older lease with a subnet of this one."""
        self.taken_by = by
        self._give_up()

    def observed(self, lease: SubnetLease | None, entry: Entry, now: float) -> None:
        """The watcher knows that the lease's key has this content. `lease` is None if the value is not a
        lease.

        That tells no time: `entry.ttl` is that of when the entry was written or listed, perhaps long ago. It
        can only show that the lease ends earlier. So this node's own value of a later index is read back; of
        the index that is known there is nothing to learn.
        """
        index, ttl = entry.modified, entry.ttl
        if index < self.index or self.subnets is None or (index == self.index and self._held):
            return
        was_timed = self._held and not self.permanent
        if not self._take(lease, entry, now):
            return
        is_expected = entry.value == self.value
        if is_expected and self.permanent:
            self._must_read_back, self._next_action_at = False, math.inf
        elif is_expected and (ttl or not was_timed):
            self._must_read_back = bool(ttl)
            self._next_action_at = max(now, self._may_read_at) if ttl else now
        else:
            self._write_again(entry, now)

    def read_back(self, lease: SubnetLease | None, entry: Entry, sent: float) -> None:
        """The lease's key was read, by a request that was sent at `sent`, and had this content; `entry.ttl`
        seconds of its time were left then at least. `lease` is None if the value is not a lease.
        """
        self._may_read_at = sent + FIRST_RETRY_DELAY
        if entry.modified < self.index or self.subnets is None:
            self.read_in_vain(sent)
            return
        if not self._take(lease, entry, sent):
            return
        if entry.value == self.value:
            self._must_read_back = False
            # No longer one is believed than this node writes: what is taken off for drift is a part of that.
            self._set_expiry(sent, min(entry.ttl or 0, self.ttl))
        else:
            self._write_again(entry, sent)

    def read_in_vain(self, now: float) -> None:
        """A read told of an earlier state than the one that is known: the key is read again after a delay."""
        if self._must_read_back:
            self.write_failed(now)

    def _take(self, lease: SubnetLease | None, entry: Entry, since: float) -> bool:
        """Take what an entry says but for a later end. False if the lease is another node's now."""
        if lease is not None and not is_of(lease, self.own_ips, self.own_name):
            self.taken_by = lease.public_ip
            self._give_up()
            return False
        ends = since + entry.ttl if entry.ttl else math.inf  # 0: the store did not say when
        self.expires = min(self.expires, ends) if self._held and not self.permanent else since
        self._is_confirmed = self._is_confirmed and entry.created == self.created
        self.index = entry.modified
        self.created = entry.created
        self.permanent = entry.ttl is None
        self._held = True
        return True

    def _write_again(self, entry: Entry, now: float) -> None:
        """Write this node's lease again, which has another content, or an end that only a write tells."""
        is_own, self._must_read_back = self._is_own(entry.value), False
        self._next_action_at = now if is_own else now + self._rewritten(entry, now)

    def rewritten_until(self, now: float) -> float | None:
        """Until when this node's lease counts as rewritten by another agent with its PublicIP; None if it is
        not.
        """
        return self._quiet_at if self._rewrites >= MIN_REWRITES and now < self._quiet_at else None

    def _is_own(self, value: str | None) -> bool:
        """Whether this node may have written the value just observed."""
        is_unanswered = self.is_writing or self._must_read_back
        return value in self._former_values or (value == self.value and is_unanswered)

    def _rewritten(self, entry: Entry, now: float) -> float:
        """Note that another program wrote the key. Returns the seconds after which this node writes it back:
        none for the first time, then twice as many each time.
        """
        self._rewrites = min(self._rewrites + 1, 10) if now < self._quiet_at else 1
        self._quiet_at = now + QUIET_PERIOD
        self.foreign_value = entry.value
        first = self._rewrites == 1
        return 0.0 if first else min(MAX_RETRY_DELAY, FIRST_RETRY_DELAY * 2 ** (self._rewrites - 1))

    def missing(self, index: int, now: float) -> None:
        """The lease's key was absent at `index`: deleted or expired. The same subnet is requested again."""
        if index >= self.index and self.subnets is not None and (self._held or self._must_read_back):
            self.index = index  # what the watcher knew before is no news
            self._held = self._is_confirmed = False
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
            self._former_values |= {self.value}
            self.own_ip = own_ip
            self.value = value
            self._next_action_at = now

    def store_replaced(self) -> None:
        """The store was replaced or restored: its indexes cannot be compared with earlier ones."""
        self.index = 0
        self._must_read_back = self._held

    def _give_up(self) -> None:
        self.subnets = None
        self.index = self.created = 0
        self._held = self._is_confirmed = False
        self._must_read_back = False

    def _set_expiry(self, since: float, ttl: int) -> None:
        """Renewal is up to a tenth of the margin early, at random, so that nodes that started together do not
        renew together.
        """
        self.expires = since + ttl
        early = self.margin * (1 + self._entropy.below(1000) * (MAX_EARLY - 1) / 1000)
        self._next_action_at = float("inf") if self.permanent else since + max(0.0, ttl - early)
