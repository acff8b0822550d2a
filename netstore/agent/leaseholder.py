"""Holds this node's subnet lease in the store: carries out the actions of `leasestate` and reports their
outcome to it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NoReturn, TypeVar

import trio

from netstore.agent.lastingclock import LOOK_SECONDS, LastingClock
from netstore.agent.leasestate import (
    MAX_CLOCK_DRIFT,
    ChooseSubnet,
    Confirm,
    Create,
    Discard,
    NetworkFull,
    Overwrite,
    ReadBack,
    StoredLease,
    Wait,
    choose_subnet,
    older_claim,
)
from netstore.client.faults import ClientError
from netstore.client.subnetstore import Differs, Entry, Missing, Written
from netstore.network.addresses import show_ip
from netstore.network.lease import SubnetLease, is_of, parse_lease

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator

    from netstore.agent.leasestate import LeaseState
    from netstore.agent.leasewatcher import LeaseWatcher
    from netstore.agent.problems import ProblemLog
    from netstore.client.subnetstore import SubnetStore
    from netstore.network.addresses import Subnet
    from netstore.network.config import Network
    from netstore.network.ipv6 import Subnet6
    from netstore.network.lease import NodeSubnets
    from netstore.seams import Entropy

T = TypeVar("T")

RETRY_DELAY: Final = 1.0
"""Minimum seconds between attempts to get a subnet, and between calls of `on_held` that returned False."""

FULL_DELAY: Final = 10.0
"""Maximum seconds between attempts to get a subnet of a full network while no lease goes away."""

MAX_RACE_DELAY: Final = 0.2
"""Maximum seconds to wait after another node took the chosen subnet first."""

CONFIRM_SECONDS: Final = 2.0
"""Time for the watcher to report all leases that are older than the one just created; after that the leases
are listed.
"""

MAX_RACES: Final = 10
"""Subnets lost to other nodes in a row after which the delay becomes `RETRY_DELAY`. Flannel gives up then."""


DRAINED_DELAY: Final = 10.0
"""Seconds between two questions whether this node is still drained."""

MIN_LOOK: Final = 0.1
"""Minimum seconds between two looks whether the lease may have ended."""

MAX_SHOWN: Final = 300
"""Characters of another program's value that are logged."""


class Replaced(ClientError):  # noqa: N818 - named for what happened
    """An answer is not to be believed: it may be of a store that is not the one now."""

    def __str__(self) -> str:
        return "the store was replaced by another one while it was asked"


class LeaseHolder:
    """The lease of this node.

    `on_held` is called with what is held each time that changes, again after `set_value`, again if it
    returned False, again after `on_unsafe`, and when the lease becomes a reservation or is one
    no more. `on_unsafe` is called when the subnet in use may be another node's soon: the lease could not be
    renewed and may end, or it is gone and could not be written again.
    `avoid` returns the networks of this host, which no new subnet may overlap. `drained_as` asks
    for the name, an address or a node name, under which this node is noted as one that may take no subnet
    (`netstorectl subnet drain`); that is asked before each lease that is created.
    """

    def __init__(
        self,
        *,
        store: SubnetStore,
        watcher: LeaseWatcher,
        network: Network,
        state: LeaseState,
        log: ProblemLog,
        entropy: Entropy,
        on_held: Callable[[NodeSubnets], Awaitable[bool]],
        on_unsafe: Callable[[], None] = lambda: None,
        avoid: Callable[[], Iterable[Subnet | Subnet6]] = tuple,
        drained_as: Callable[[], Awaitable[str | None]] | None = None,
    ) -> None:
        self.state = state
        self.subnets: NodeSubnets | None = None
        """What this node uses: what is held, or was held last until something else is."""
        self._store = store
        self._watcher = watcher
        self._network = network
        self._former: Network | None = None
        """The network config whose subnet this node leaves, or has left."""
        self._log = log
        self._entropy = entropy
        self._on_held = on_held
        self._on_unsafe = on_unsafe
        self._avoid = avoid
        self._drained_as = drained_as
        self._clock = LastingClock()
        """The clock of all times of `state`."""
        self._mark = ""
        """The name that `drained_as` returned last."""
        self._wake = trio.Event()
        self._generation = watcher.generation
        self._races = 0
        self._leases_when_full = 0
        self._full_until = -math.inf
        """Until when no subnet of a full network is looked for while no lease goes away."""
        self._accepted = True
        """Whether `on_held` returned True since the value was set, and no other name of the lease is left."""
        self._told_permanent = False
        """Whether the lease was a reservation when `on_held` was called last."""
        self._in_use = False
        """Whether `on_held` was called, and `on_unsafe` not since then."""
        self._left: NodeSubnets | None = None
        """What an earlier run held, until `on_held` or `on_unsafe` is called."""
        self._only_name: NodeSubnets | None = None
        """What was held when no other name was left."""
        self._is_former_kept = False
        """Whether this node's leases of the former network config were written since it holds another."""
        self._has_left = False
        """Whether this run left a subnet of the former network config."""
        self._created_at = 0
        """The index at which a lease was created that this node is about to move to."""
        self._is_at_rest = False
        """Nothing has to be done before a time, unless a lease of this node changes."""
        self._listings = 0
        """The listings of the watcher when it was looked at last."""

    @property
    def subnet(self) -> Subnet | None:
        """The IPv4 subnet this node uses."""
        return None if self.subnets is None else self.subnets.subnet

    @property
    def subnet6(self) -> Subnet6 | None:
        """The IPv6 subnet this node uses."""
        return None if self.subnets is None else self.subnets.subnet6

    async def run(self, former: NodeSubnets | None) -> None:
        """Hold a lease forever. `former` is what an earlier run held; `on_unsafe` is called if it is lost:
        another node has it, the network is full, or this node is drained. The watcher must have listed the
        leases.
        """
        self._left = former
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_safe)
            await self._hold(former)

    async def _hold(self, former: NodeSubnets | None) -> NoReturn:
        listed = True
        while True:
            self._wake = trio.Event()
            reserved = self._reserved_elsewhere()
            is_moved = reserved is not None and await self._move(reserved)
            is_moved = is_moved or (self._must_leave and await self._leave())
            is_kept = await self._keep_former()
            rewritten_until = self._tell_rewrites()
            action = self.state.next(self._clock.now())
            self._accepted &= self.state.permanent == self._told_permanent
            is_unsafe = self._check_safe(is_refused=isinstance(action, Wait | ChooseSubnet))
            if is_moved:
                pass  # its new subnet is told below
            elif isinstance(action, ChooseSubnet | Create) and await self._kept_away():
                self._check_safe(is_refused=True)
                await trio.sleep(DRAINED_DELAY if self._is_known_drained else RETRY_DELAY)
            elif isinstance(action, Wait):
                is_done = self._accepted or is_unsafe
                is_done = is_done and reserved is None and is_kept and not self._must_leave
                until = min(action.until, rewritten_until)
                self._is_at_rest = is_done and self.state.held and "reservation" not in self._log.open
                with trio.move_on_at(
                    self._clock.deadline(until) if is_done else trio.current_time() + RETRY_DELAY
                ):
                    await self._wake.wait()
                self._is_at_rest = False
                if self._accepted or is_unsafe:
                    continue
            elif isinstance(action, ChooseSubnet):
                delay = await self._acquire(self.subnets or former, listed=listed)
                # Of a full network the watcher tells which leases go; to list them tells nothing more.
                listed = self._is_network_full
                await trio.sleep(delay)
                if listed:
                    with trio.move_on_after(FULL_DELAY - RETRY_DELAY):
                        await self._wake.wait()
            elif isinstance(action, Confirm):
                await self._confirm(action)
            else:
                await self._write(action)
            if self.state.subnets is not None and not self.may_have_expired:
                if self.subnets != self.state.subnets:
                    self.subnets, self._only_name = self.state.subnets, None
                self._in_use, self._left = True, None
                self._told_permanent = self.state.permanent
                # The node says what it uses before its lease's other name goes.
                self._accepted = await self._on_held(self.subnets) and await self._remove_other_names()
            await self._store.settle()

    async def _kept_away(self) -> bool:
        """Whether this node may take no subnet, or that is not known. The user of an agent that may not read
        the marks is not kept away: `drained_as` cannot be answered there.
        """
        try:
            mark = None if self._drained_as is None else await self._drained_as()
        except ClientError as error:
            if error.is_denied:
                return False
            if not self._is_known_drained:
                self._log.report("lease", "no_subnet_yet", reason=str(error))
            return True
        if mark is None:
            return False
        self._mark = mark
        self._log.report(
            "lease",
            "node_drained",
            public_ip=show_ip(self.state.own_ip),
            fix=f"netstorectl subnet undrain {mark} lets it come back",
        )
        self._withdraw_left()
        return True

    async def _keep_safe(self) -> NoReturn:
        """Notice the end of the lease also while a write of it is under way, and that the machine was
        suspended: then what waits for a time waits too long.
        """
        added = self._clock.added
        while True:
            now, until = self._clock.now(), self.state.lives_until
            # No lease that is granted lives shorter.
            pause = max(MIN_LOOK, min(self.state.ttl * MAX_CLOCK_DRIFT, LOOK_SECONDS))
            await trio.sleep(min(until - now, pause) if until > now else pause)
            self._check_safe(is_refused=False)
            if self._clock.added != added:
                added = self._clock.added
                self._wake.set()

    def _check_safe(self, *, is_refused: bool) -> bool:
        """Call `on_unsafe` if the subnet is in use and must not be. `is_refused`: the lease is not written if
        it is not held. Returns whether no subnet may be used.
        """
        state, now = self.state, self._clock.now()
        is_unsafe = now >= state.lives_until or (is_refused and not state.held)
        if is_unsafe and self._in_use:
            self._in_use = self._accepted = False
            self._on_unsafe()
        return is_unsafe

    def _withdraw_left(self) -> None:
        """Call `on_unsafe` if what an earlier run held may still be in use; it will not be held again."""
        if self._left is not None:
            self._left = None
            self._on_unsafe()

    def explains(self, name: str) -> bool:
        """Whether a lease of this node's PublicIP is explained by what this node does: left by an earlier run
        and about to be taken again, or the place that it moves to, or moved from, for a reservation or
        another network config.
        """
        state, is_reserved = self.state, name in self._watcher.permanent
        if not state.held or state.subnets is None or name == state.subnets.lease_name:
            return True
        subnet = self._watcher.leases[name].subnet
        if self._former is not None and self._former.fits(subnet):
            return True
        if self._must_leave and self._network.fits(subnet):
            return True
        if state.permanent:
            return not is_reserved
        return is_reserved and self._fits(self._watcher.leases[name].subnets)

    @property
    def may_have_expired(self) -> bool:
        """Whether the lease may have expired in the store."""
        return self.state.may_have_expired(self._clock.now())

    @property
    def ends_in(self) -> float:
        """The seconds until the lease ends, if it is no reservation."""
        return self.state.expires - self._clock.now()

    @property
    def _is_known_drained(self) -> bool:
        return self._log.open.get("lease") == "node_drained"

    @property
    def fault(self) -> str | None:
        """Why the lease does not serve this node alone, or why none is asked for; None otherwise."""
        if self._is_known_drained:
            return f"this node is drained; `netstorectl subnet undrain {self._mark}` lets it come back"
        if self.state.rewritten_until(self._clock.now()) is None:
            return None
        if (name := self.state.own_name) and f'"NodeName":"{name}"' in (self.state.foreign_value or ""):
            return f"another agent uses the node name {name}; give each node its own with --node-name"
        return (
            f"another agent uses the PublicIP {show_ip(self.state.own_ip)};"
            " give each node its own with --public-ip or --iface"
        )

    def _tell_rewrites(self) -> float:
        """Log the begin and the end of rewrites by another agent. Returns when they may be over."""
        until = self.state.rewritten_until(self._clock.now())
        if until is None:
            self._log.resolve("public_ip", "public_ip_unique_again")
            return math.inf
        if "public_ip" not in self._log.open:  # once, whatever the other agent writes
            self._log.report(
                "public_ip",
                "public_ip_not_unique",
                public_ip=show_ip(self.state.own_ip),
                lease=(self.state.foreign_value or "")[:MAX_SHOWN],
                reason=self.fault,
            )
        return until

    def leases_changed(self, names: Collection[str]) -> None:
        """The watcher's leases with these names changed; this node's own may be among them."""
        state = self.state
        if self._is_at_rest and not self._concern(names):
            return
        self._listings = self._watcher.listings
        if self._generation != self._watcher.generation:
            self._generation = self._watcher.generation
            self._created_at = 0
            state.store_replaced()
        subnets = state.subnets
        if subnets is None:
            if len(self._watcher.leases) < self._leases_when_full:
                self._wake.set()
            return
        held = state.held
        self._look(subnets)
        self._log_loss(subnets, held=held)
        self._wake.set()

    def _concern(self, names: Collection[str]) -> bool:
        """Whether these leases, or a listing or another store, matter to a node that holds its subnet."""
        watcher, state = self._watcher, self.state
        if watcher.listings != self._listings or watcher.generation != self._generation:
            return True
        own, ips = "" if state.subnets is None else state.subnets.lease_name, state.own_ips
        for name in names:
            lease = watcher.leases.get(name)
            if name == own or (lease is not None and _may_be_of(lease, ips, state.own_name)):
                return True
        return False

    def _look(self, subnets: NodeSubnets) -> None:
        """Report to the state what the watcher knows of the lease."""
        name, now = subnets.lease_name, self._clock.now()
        seen = self._watcher.entries.get(name)
        if seen is None:
            self.state.missing(self._watcher.index, now)
        else:
            self.state.observed(self._watcher.leases.get(name), seen, now)

    def set_value(self, own_ip: int, value: str) -> None:
        """Set what the lease says. `on_held` is called again, too: the MTU may have changed."""
        self.state.set_value(own_ip, value, self._clock.now())
        self._accepted = False
        self._wake.set()

    async def release(self) -> None:
        """Delete the lease, unless it is a reservation. ClientError if the store cannot be reached."""
        state = self.state
        if state.subnets is None or not state.is_written or state.permanent:
            return
        await self._store.remove(state.subnets.lease_name, state.index)
        await self._store.settle()

    def _reserved_elsewhere(self) -> StoredLease | None:
        """A reservation of another subnet for this node, while it holds its subnet by a lease: it is to
        move there (`netstorectl subnet move`). One that is not of the network's families is left for the next
        start, and one with a subnet that an older lease of another node has is not taken.
        """
        state, watcher = self.state, self._watcher
        if not state.held or state.permanent or state.subnets is None:
            return None
        for name in watcher.permanent:
            lease = watcher.leases.get(name)
            if (
                lease is not None
                and lease.public_ip == state.own_ip
                and lease.subnet != state.subnets.subnet
                and self._fits(lease.subnets)
            ):
                seen = watcher.entries[name]
                if (older := self._older_claim(lease.subnets, seen.created)) is None:
                    self._log.resolve("reservation")
                    return StoredLease(lease, seen.modified, permanent=True, created=seen.created)
                by = show_ip(older.lease.public_ip)
                self._log.report(
                    "reservation",
                    "reservation_not_taken",
                    subnet=str(lease.subnets),
                    reason=f"the lease {older.lease.subnets.lease_name} of {by} is older",
                    fix="remove the reservation, and reserve a subnet that no lease has",
                )
                return None
        self._log.resolve("reservation")
        return None

    def _fits(self, subnets: NodeSubnets) -> bool:
        """Whether the network config allows these subnets, and needs both or one of them."""
        network6 = self._network.ipv6
        if network6 is None or subnets.subnet6 is None:
            fits6 = (subnets.subnet6 is None) == (network6 is None)
        else:
            fits6 = network6.fits(subnets.subnet6)
        return fits6 and self._network.fits(subnets.subnet)

    def _older_claim(self, subnets: NodeSubnets, created: int) -> StoredLease | None:
        state = self.state
        return older_claim(
            subnets,
            state.own_ips,
            created,
            self._stored(),
            own_name=state.own_name,
        )

    async def _move(self, reserved: StoredLease) -> bool:
        """Take the subnet that is reserved for this node; it is confirmed before it is used. Its former lease
        is not renewed any more, and stays until it ends or is released, so that pods that still use it keep
        their routes. False if the reservation could not be taken now.
        """
        subnets, value, sent = reserved.lease.subnets, self.state.value, self._clock.now()
        try:
            found = await self._asked(self._store.replace(subnets.lease_name, value, reserved.index, None))
        except ClientError as error:
            self._log.report("lease", "lease_not_written", reason=str(error))
            return False
        if isinstance(found, Missing | Differs):
            return False  # it was changed, which the watcher will tell
        self._log.resolve("lease", "lease_written_again")
        self._log.info("subnet_moved", subnet=str(subnets), former=str(self.state.subnets))
        self.state.granted(
            subnets, found.index, value=value, permanent=True, sent=sent, created=reserved.created
        )
        return True

    def renumber(self, network: Network, former: Network) -> None:
        """Hold a subnet of this network config. One of `former` is left: its lease is written once more when
        the other is held, and then not renewed, so that pods that still use it keep their routes for a TTL.
        """
        if (network, former) != (self._network, self._former):
            self._network, self._former = network, former
            self._is_former_kept, self._full_until = False, -math.inf
            self._accepted = self._has_left = False
            self._wake.set()

    @property
    def is_settled(self) -> bool:
        """Whether the subnet that is held fits the network config, and `on_held` has accepted it."""
        subnets = self.state.subnets
        return (
            self.state.held and self._accepted and subnets is not None and self._network.fits(subnets.subnet)
        )

    @property
    def _must_leave(self) -> bool:
        """Whether the subnet that is held is one of the former network config."""
        state = self.state
        return (
            self._former is not None
            and state.held
            and state.subnets is not None
            and not self._network.fits(state.subnets.subnet)
        )

    async def _leave(self) -> bool:
        """Take a subnet of the present network config instead of the one that is held. False if that is not
        done yet. The lease is created first, and taken when all older ones are known and none overlaps it.
        """
        state = self.state
        if len(self._watcher.leases) >= self._leases_when_full and trio.current_time() < self._full_until:
            return False
        if not await self._knows(self._created_at):
            return False
        if await self._kept_away():
            await trio.sleep(RETRY_DELAY)
            return False
        if not self._must_leave:
            return False  # what is to be held changed meanwhile
        former, value, sent = state.subnets, state.value, self._clock.now()
        action = choose_subnet(
            self._stored(),
            state.own_ip,
            self._network,
            None,
            self._entropy,
            avoid=self._avoid(),
            own_name=state.own_name,
            former=self._former,
        )
        if isinstance(action, NetworkFull):
            self._note_full()
            self._log.report(
                "lease", "no_subnet_to_move_to", network=str(action.network), leases=action.leases
            )
            return False
        name = action.subnets.lease_name
        found: Written | Missing | Differs
        try:
            if isinstance(action, Create):
                found = await self._asked(self._store.create(name, value, state.ttl))
                if isinstance(found, Written):
                    self._created_at = found.index
                return False
            if isinstance(action, Discard):
                self._log.info("lease_given_up", subnet=str(action.subnets), reason=action.reason)
                await self._store.remove(name, action.index)
                await trio.sleep(self._race_delay())
                return False
            ttl = None if action.permanent else state.ttl
            found = await self._asked(self._store.replace(name, value, action.index, ttl))
        except ClientError as error:
            self._log.report("lease", "lease_not_written", reason=str(error))
            return False
        if not isinstance(found, Written):
            return False  # it was changed, which the watcher will tell
        self._races = 0
        self._log.resolve("lease", "lease_written_again")
        self._log.info("subnet_moved", subnet=str(action.subnets), former=str(former))
        state.granted(
            action.subnets,
            found.index,
            value=value,
            permanent=action.permanent,
            sent=sent,
            created=action.created,
        )
        state.confirmed()
        self._has_left = True
        return True

    async def _keep_former(self) -> bool:
        """Write this node's leases of the former network config once, with the full TTL, when a subnet of the
        present one is held. One that an earlier run wrote since it took the present lease has had its time:
        since it created that, or, where that is a reservation, which may be older, wrote it. Reservations
        have no TTL and stay as they are. What an older lease overlaps is not served, and is removed. False if
        that is not done yet.
        """
        state, former, value = self.state, self._former, self.state.value
        if former is None or self._is_former_kept or not state.held or self._must_leave:
            return True
        since = state.index if state.permanent else state.created
        for stored in list(self._stored()):
            lease, name = stored.lease, stored.lease.subnets.lease_name
            is_former = former.fits(lease.subnet) and not self._network.fits(lease.subnet)
            if stored.permanent or not is_former or not is_of(lease, state.own_ips, state.own_name):
                continue
            entry = self._watcher.entries.get(name)
            if entry is None:
                continue  # it went away while another one was written
            older = self._older_claim(lease.subnets, stored.created)
            is_written = entry.value == value and stored.index > since
            if older is None and is_written and not self._has_left:
                continue
            try:
                if older is None:
                    found = await self._asked(
                        self._store.replace(name, value, stored.index, state.ttl, is_change=True)
                    )
                else:
                    found = await self._asked(self._store.remove(name, stored.index))
            except ClientError as error:
                self._log.report("former_lease", "former_lease_not_written", name=name, reason=str(error))
                return False
            if not isinstance(found, Written):
                return False  # it was changed, which the watcher will tell
            if older is not None:
                self._log.info("former_lease_removed", name=name)
        self._log.resolve("former_lease")
        self._is_former_kept = state.value == value
        return self._is_former_kept

    async def _knows(self, index: int) -> bool:
        """Wait until the watcher knows what the store had at this index; after some time all leases are
        listed. False if that could not be done.
        """
        with trio.move_on_after(CONFIRM_SECONDS):
            while self._watcher.index < index:
                self._wake = trio.Event()
                await self._wake.wait()
            return True
        try:
            await self._watcher.list_once()
        except ClientError as error:
            self._log.report("lease", "lease_not_confirmed", reason=str(error))
        return self._watcher.index >= index

    @property
    def _is_network_full(self) -> bool:
        return self._log.open.get("lease") == "network_full"

    def _note_full(self) -> None:
        """No subnet is free: look again when a lease goes away, or after some time."""
        self._leases_when_full = len(self._watcher.leases)
        self._full_until = trio.current_time() + FULL_DELAY

    async def _acquire(self, remembered: NodeSubnets | None, *, listed: bool) -> float:
        """Try once to get a subnet. Returns the seconds to wait before the next action."""
        if not listed:
            try:
                await self._watcher.list_once()
            except ClientError as error:
                self._log.report("lease", "no_subnet_yet", reason=str(error))
                return RETRY_DELAY
        action = choose_subnet(
            self._stored(),
            self.state.own_ip,
            self._network,
            remembered,
            self._entropy,
            avoid=self._avoid(),
            own_name=self.state.own_name,
            former=self._former,
        )
        if self._left is not None and not isinstance(action, Overwrite) and self._is_taken(self._left):
            self._withdraw_left()
        if isinstance(action, NetworkFull):
            self._withdraw_left()
            self._note_full()
            self._log.report(
                "lease",
                "network_full",
                network=str(action.network),
                leases=action.leases,
                fix="remove the leases of nodes that are gone, or choose a larger network",
            )
            return RETRY_DELAY
        if isinstance(action, Discard):
            self._log.warning("lease_discarded", subnet=str(action.subnets), reason=action.reason)
        # A reservation of the present network config that is taken now is written, for `_keep_former`.
        is_moved = self._former is not None and action.subnets != remembered
        if (
            isinstance(action, Overwrite)
            and not (action.permanent and is_moved)
            and await self._hold_as_it_is(action)
        ):
            return 0.0
        if not await self._write(action):
            return RETRY_DELAY
        if isinstance(action, Discard) or self.state.is_written:
            return 0.0
        return self._race_delay()

    async def _hold_as_it_is(self, action: Overwrite) -> bool:
        """Hold a lease of an earlier run without writing it, if it need not be: so a restart changes nothing
        in the store. False if it is to be written.
        """
        state, name, value = self.state, action.subnets.lease_name, self.state.value
        if self._watcher.entries[name].value != value:
            return False
        sent = self._clock.now()
        try:
            found = await self._asked(self._store.entry(name))
        except ClientError:
            return False  # the write fails as well, and tells why
        if not isinstance(found, Entry) or found.modified != action.index or not state.serves_as_it_is(found):
            return False
        permanent = found.ttl is None
        state.granted(
            action.subnets,
            found.modified,
            value=value,
            permanent=permanent,
            sent=sent,
            created=found.created,
            ttl=found.ttl,
        )
        self._log.resolve("lease", "lease_written_again")
        return True

    def _is_taken(self, subnets: NodeSubnets) -> bool:
        """Whether another node has a lease that overlaps one of these subnets."""
        subnet, subnet6 = subnets
        return any(
            subnet.overlaps(lease.subnet)
            or (subnet6 is not None and lease.subnet6 is not None and subnet6.overlaps(lease.subnet6))
            for lease in self._watcher.leases.values()
            if not is_of(lease, self.state.own_ips, self.state.own_name)
        )

    def _race_delay(self) -> float:
        """Seconds to wait after a race for a subnet was lost."""
        self._races += 1
        if self._races > MAX_RACES:
            return RETRY_DELAY
        return MAX_RACE_DELAY * (1 + self._entropy.below(1000)) / 1000

    def _stored(self) -> Iterator[StoredLease]:
        """All leases in the store, as far as the watcher knows."""
        for name, lease in self._watcher.leases.items():
            seen = self._watcher.entries.get(name)
            if seen is not None:
                yield StoredLease(lease, seen.modified, seen.ttl is None, seen.created)

    async def _confirm(self, action: Confirm) -> None:
        """Wait for older leases, and hold the lease if none of them has a subnet of it."""
        state = self.state
        if self._watcher.index < action.created:
            with trio.move_on_after(CONFIRM_SECONDS) as limit:
                await self._wake.wait()
            if not limit.cancelled_caught:
                return  # the watcher has news
            try:
                await self._watcher.list_once()
            except ClientError as error:
                self._log.report("lease", "lease_not_confirmed", reason=str(error))
                return
        self._look(action.subnets)
        if not state.is_written or state.subnets != action.subnets or state.created != action.created:
            return
        older = self._older_claim(action.subnets, action.created)
        if older is None:
            state.confirmed()
            self._races = 0
            self._log.resolve("lease", "lease_written_again")
            return
        by = older.lease.public_ip
        self._log.info(
            "lease_given_up", subnet=str(action.subnets), reason=f"the lease of {show_ip(by)} is older"
        )
        state.contested(by)
        await trio.sleep(self._race_delay())

    async def _remove_other_names(self) -> bool:
        """Remove this node's other leases of the subnet it holds: they have the form of a name for another
        network config. Returns whether none is left.
        """
        held = self.state.subnets
        if held == self._only_name:
            return True
        others = [
            (name, entry.modified)
            for name, lease in self._watcher.leases.items()
            if held is not None
            and lease.subnet == held.subnet
            and lease.subnet6 != held.subnet6
            and lease.public_ip in self.state.own_ips
            and (entry := self._watcher.entries.get(name)) is not None
        ]
        for name, index in others:
            try:
                found = await self._asked(self._store.remove(name, index))
            except ClientError as error:
                self._log.report("former_lease", "former_lease_not_removed", name=name, reason=str(error))
                return False
            if isinstance(found, Written):
                self._log.info("former_lease_removed", name=name)
        self._log.resolve("former_lease")
        if not others:
            self._only_name = held
        return not others

    async def _asked(self, answer: Awaitable[T]) -> T:
        """What the store answers. ClientError also if the store was replaced meanwhile, as by a restored one:
        it may be the former one that has answered, whose indexes are higher than those that come now.
        """
        generation = self._watcher.generation
        found = await answer
        if self._watcher.generation != generation:
            raise Replaced
        return found

    async def _write(self, action: Create | Overwrite | Discard | ReadBack) -> bool:
        """Carry out one action on the store and report its outcome to the state. False if the outcome is
        unknown.
        """
        state, subnets = self.state, action.subnets
        name, value, held, sent = subnets.lease_name, state.value, state.held, self._clock.now()
        found: Entry | Written | Missing | Differs
        state.is_writing = not isinstance(action, ReadBack)
        try:
            if isinstance(action, Create):
                ttl = None if action.permanent else state.ttl
                found = await self._asked(self._store.create(name, value, ttl))
            elif isinstance(action, Overwrite):
                ttl = None if action.permanent else state.ttl
                found = await self._asked(self._store.replace(name, value, action.index, ttl))
            elif isinstance(action, ReadBack):
                found = await self._asked(self._store.entry(name))
            else:
                found = await self._asked(self._store.remove(name, action.index))
        except ClientError as error:
            return self._write_failed(error)
        finally:
            state.is_writing = False
        if isinstance(found, Missing):
            state.missing(found.index, sent)
            if isinstance(action, ReadBack):
                state.read_in_vain(self._clock.now())
        elif isinstance(found, Differs):
            state.comparison_failed(sent)
        elif isinstance(found, Entry):
            lease = parse_lease(name, found.value)
            state.read_back(lease if isinstance(lease, SubnetLease) else None, found, sent)
        elif isinstance(action, Create | Overwrite):
            created = action.created if isinstance(action, Overwrite) else None
            state.granted(
                subnets, found.index, value=value, permanent=action.permanent, sent=sent, created=created
            )
        self._log.resolve("lease", "lease_written_again")
        self._log_loss(subnets, held=held)
        return True

    def _write_failed(self, error: ClientError) -> bool:
        # Without the subnet: a new one is chosen for each attempt, and would make each a problem of its own.
        self._log.report("lease", "lease_not_written", reason=str(error))
        self.state.write_failed(self._clock.now())
        return False

    def _log_loss(self, subnets: NodeSubnets, *, held: bool) -> None:
        """Log that the lease was lost, if it was `held` before."""
        if held and not self.state.is_written:
            if self.state.taken_by is not None:
                self._log.warning("lease_taken", subnet=str(subnets), by=show_ip(self.state.taken_by))
            else:
                self._log.warning("lease_gone", subnet=str(subnets))


def _may_be_of(lease: SubnetLease, ips: Collection[int], name: str) -> bool:
    """Whether the lease is that of the node with this name and these PublicIPs, or has one of them."""
    return lease.public_ip in ips or is_of(lease, ips, name)
