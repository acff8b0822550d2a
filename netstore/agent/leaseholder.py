"""Holds this node's subnet lease in the store: carries out the actions of `leasestate` and reports their
outcome to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from netstore.agent.leasestate import (
    ChooseSubnet,
    Create,
    Discard,
    NetworkFull,
    Overwrite,
    ReadBack,
    StoredLease,
    Wait,
    choose_subnet,
)
from netstore.client.faults import ClientError
from netstore.client.subnetstore import Differs, Entry, Missing
from netstore.network.addresses import show_ip
from netstore.network.lease import SubnetLease, parse_lease

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from netstore.agent.leasestate import LeaseState
    from netstore.agent.leasewatcher import LeaseWatcher
    from netstore.agent.problems import ProblemLog
    from netstore.client.subnetstore import SubnetStore, Written
    from netstore.network.addresses import Subnet
    from netstore.network.config import Network
    from netstore.seams import Entropy

RETRY_DELAY: Final = 1.0
"""Seconds between attempts to get a subnet, and between calls of `on_held` that returned False."""

MAX_RACE_DELAY: Final = 0.2
"""Maximum seconds to wait after another node took the chosen subnet first."""

MAX_RACES: Final = 10
"""Subnets lost to other nodes in a row after which the delay becomes `RETRY_DELAY`. Flannel gives up then."""


class LeaseHolder:
    """The lease of this node.

    `on_held` is called with each subnet that is held, again after `set_value`, and again if it returned
    False. `avoid` returns the networks of this host, which no new subnet may overlap.
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
        on_held: Callable[[Subnet], Awaitable[bool]],
        avoid: Callable[[], Iterable[Subnet]] = tuple,
    ) -> None:
        self.state = state
        self.subnet: Subnet | None = None
        """The subnet this node uses: the one held, or the last one held until another is granted."""
        self._store = store
        self._watcher = watcher
        self._network = network
        self._log = log
        self._entropy = entropy
        self._on_held = on_held
        self._avoid = avoid
        self._wake = trio.Event()
        self._generation = watcher.generation
        self._races = 0
        self._accepted = True
        """Whether `on_held` returned True since the value was set."""

    async def run(self, former: Subnet | None) -> None:
        """Hold a lease forever. `former` is the subnet of an earlier run. The watcher must have listed the
        leases.
        """
        listed = True
        while True:
            self._wake = trio.Event()
            reserved = self._reserved_elsewhere()
            is_moved = reserved is not None and await self._move(reserved)
            action = self.state.next(trio.current_time())
            if is_moved:
                pass  # its new subnet is told below
            elif isinstance(action, Wait):
                is_done = self._accepted and reserved is None
                with trio.move_on_at(action.until if is_done else trio.current_time() + RETRY_DELAY):
                    await self._wake.wait()
                if self._accepted or not self.state.held:
                    continue
            elif isinstance(action, ChooseSubnet):
                delay = await self._acquire(self.subnet or former, listed=listed)
                listed = False
                if delay:
                    with trio.move_on_after(delay):
                        await self._wake.wait()
            else:
                await self._write(action)
            if self.state.held and self.state.subnet is not None:
                self.subnet = self.state.subnet
                self._accepted = await self._on_held(self.subnet)

    def leases_changed(self) -> None:
        """The watcher's leases changed; this node's own may be among them."""
        state = self.state
        if self._generation != self._watcher.generation:
            self._generation = self._watcher.generation
            state.store_replaced()
        subnet = state.subnet
        if subnet is None:
            if self._is_network_full:
                self._wake.set()
            return
        held, now = state.held, trio.current_time()
        seen = self._watcher.entries.get(subnet.lease_name)
        if seen is None:
            state.missing(self._watcher.index, now)
        else:
            lease = self._watcher.leases.get(subnet.lease_name)
            state.observed(lease, seen.value or "", seen.modified, seen.ttl, now)
        self._log_loss(subnet, held=held)
        self._wake.set()

    def set_value(self, own_ip: int, value: str) -> None:
        """Set what the lease says. `on_held` is called again, too: the MTU may have changed."""
        self.state.set_value(own_ip, value, trio.current_time())
        self._accepted = False
        self._wake.set()

    async def release(self) -> None:
        """Delete the lease, unless it is a reservation. ClientError if the store cannot be reached."""
        state = self.state
        if state.subnet is None or not state.held or state.permanent:
            return
        await self._store.remove(state.subnet.lease_name, state.index)

    def _reserved_elsewhere(self) -> StoredLease | None:
        """A reservation of another subnet for this node, while it holds its subnet by a lease: it is to
        move there (`netstorectl subnet move`).
        """
        state, watcher = self.state, self._watcher
        if not state.held or state.permanent or state.subnet is None:
            return None
        for name in watcher.permanent:
            lease = watcher.leases.get(name)
            if (
                lease is not None
                and lease.public_ip == state.own_ip
                and lease.subnet != state.subnet
                and self._network.fits(lease.subnet)
            ):
                return StoredLease(lease, watcher.entries[name].modified, permanent=True)
        return None

    async def _move(self, reserved: StoredLease) -> bool:
        """Take the subnet that is reserved for this node. Its former lease is not renewed any more, and stays
        until it ends or is released, so that pods that still use it keep their routes. False if the
        reservation could not be taken now.
        """
        subnet, sent = reserved.lease.subnet, trio.current_time()
        try:
            found = await self._store.replace(subnet.lease_name, self.state.value, reserved.index, None)
        except ClientError as error:
            self._log.report("lease", "lease_not_written", reason=str(error))
            return False
        if isinstance(found, Missing | Differs):
            return False  # it was changed, which the watcher will tell
        self._log.resolve("lease", "lease_written_again")
        self._log.info("subnet_moved", subnet=str(subnet), former=str(self.state.subnet))
        self.state.granted(subnet, found.index, permanent=True, sent=sent)
        return True

    @property
    def _is_network_full(self) -> bool:
        return self._log.open.get("lease") == "network_full"

    async def _acquire(self, remembered: Subnet | None, *, listed: bool) -> float:
        """Try once to get a subnet. Returns the seconds to wait before the next action."""
        if not listed:
            try:
                await self._watcher.list_once()
            except ClientError as error:
                self._log.report("lease", "no_subnet_yet", reason=str(error))
                return RETRY_DELAY
        leases = [
            StoredLease(lease, seen.modified, seen.ttl is None)
            for name, lease in self._watcher.leases.items()
            if (seen := self._watcher.entries.get(name)) is not None
        ]
        action = choose_subnet(
            leases, self.state.own_ip, self._network, remembered, self._entropy, avoid=self._avoid()
        )
        if isinstance(action, NetworkFull):
            self._log.report(
                "lease",
                "network_full",
                network=str(self._network.network),
                leases=action.leases,
                fix="remove the leases of nodes that are gone, or choose a larger Network",
            )
            return RETRY_DELAY
        if isinstance(action, Discard):
            self._log.warning(
                "lease_discarded", subnet=str(action.subnet), reason="the network config does not allow it"
            )
        if not await self._write(action):
            return RETRY_DELAY
        if self.state.held or isinstance(action, Discard):
            self._races = 0
            return 0.0
        self._races += 1
        if self._races > MAX_RACES:
            return RETRY_DELAY
        return MAX_RACE_DELAY * (1 + self._entropy.below(1000)) / 1000

    async def _write(self, action: Create | Overwrite | Discard | ReadBack) -> bool:
        """Carry out one action on the store and report its outcome to the state. False if the outcome is
        unknown.
        """
        state, subnet = self.state, action.subnet
        name, held, sent = subnet.lease_name, state.held, trio.current_time()
        is_permanent = False
        found: Entry | Written | Missing | Differs
        try:
            if isinstance(action, Create):
                found = await self._store.create(name, state.value, state.ttl)
            elif isinstance(action, Overwrite):
                is_permanent = action.permanent
                ttl = None if is_permanent else state.ttl
                found = await self._store.replace(name, state.value, action.index, ttl)
            elif isinstance(action, ReadBack):
                found = await self._store.entry(name)
            else:
                found = await self._store.remove(name, action.index)
        except ClientError as error:
            return self._write_failed(error)
        if isinstance(found, Missing):
            state.missing(found.index, sent)
        elif isinstance(found, Differs):
            state.comparison_failed(sent)
        elif isinstance(found, Entry):
            lease = parse_lease(name, found.value)
            valid = lease if isinstance(lease, SubnetLease) else None
            state.observed(valid, found.value or "", found.modified, found.ttl, sent)
        elif not isinstance(action, Discard):
            state.granted(subnet, found.index, permanent=is_permanent, sent=sent)
        self._log.resolve("lease", "lease_written_again")
        self._log_loss(subnet, held=held)
        return True

    def _write_failed(self, error: ClientError) -> bool:
        # Without the subnet: a new one is chosen for each attempt, and would make each a problem of its own.
        self._log.report("lease", "lease_not_written", reason=str(error))
        self.state.write_failed(trio.current_time())
        return False

    def _log_loss(self, subnet: Subnet, *, held: bool) -> None:
        """Log that the lease was lost, if it was `held` before."""
        if held and not self.state.held:
            if self.state.taken_by is not None:
                self._log.warning("lease_taken", subnet=str(subnet), by=show_ip(self.state.taken_by))
            else:
                self._log.warning("lease_gone", subnet=str(subnet))
