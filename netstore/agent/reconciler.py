"""Keeps the kernel as the backend declares it: listens to notifications, finds the difference, repairs it.

What is wanted needs an order: a device before its addresses, its forwarding and neighbour entries, and last
the routes that send packets there. What is no longer wanted goes in the reverse order, and what is replaced
goes when its successor is in the kernel. So no packet meets a route whose device or neighbour is not ready,
also while a peer or the whole backend changes.

Invariants:

- The tables (`routetable`, `entrytable`, `devicetable`) hold the kernel's state as of the last notification
  processed. When notifications are lost, all of it is read again.
- What the kernel rejected is tried again only when it is declared otherwise, when links, addresses or on-link
  routes change, or at the periodic full repair.
- Nothing is changed before the first `declare`: what an earlier run made stays until it is known what is
  wanted.
- No change is forgotten: what `MAX_ROUNDS` rounds did not bring into the wanted state is `pending`, and
  processed by the next call.
- Only one task calls anything but `listen`.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, TypeVar

import trio

from netstore.agent.deviceplan import alias_of
from netstore.agent.devicetable import DeviceTable
from netstore.agent.entryplan import DeleteEntry, SetEntry
from netstore.agent.entrytable import EntryTable
from netstore.agent.kernel import KernelError, Notifications, NotificationsLostError
from netstore.agent.routeplan import PROTOCOL, AddRoute, DeleteRoute
from netstore.agent.routetable import RouteTable
from netstore.agent.wanted import Wireguard
from netstore.errors import NetstoreError
from netstore.network.addresses import Subnet

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Sequence

    from netstore.agent.combined import Changes
    from netstore.agent.kernel import Kernel, Link, Step
    from netstore.network.ipv6 import Subnet6

T = TypeVar("T")

MAX_ROUNDS: Final = 8
"""Rounds of plan and apply in one call: one makes devices, one sets them up, one fills them, one removes
routes and entries that were replaced, one the devices that those used, one sees that all is done. More are
needed only while another program keeps undoing our changes; other tasks run in between.
"""

MAX_QUEUED: Final = 256
"""Queued batches of notifications; with more, they are dropped and the state is read again."""


class Reconciler:
    """What one network's backend wants in one kernel.

    `ranges` are the subnets whose routes are managed: the network of IPv4 first, then that of IPv6 and the
    former ones if they were changed (see `manage`). `link` is the interface that carries the traffic between
    the nodes. `wake` is called when there are notifications to process.
    """

    def __init__(
        self,
        kernel: Kernel,
        ranges: Sequence[Subnet | Subnet6],
        link: Link,
        wake: Callable[[], None],
    ) -> None:
        self.kernel = kernel
        self.link = link
        self.routes = RouteTable(ranges)
        self.entries = EntryTable()
        self.devices = DeviceTable([alias_of(each) for each in ranges if isinstance(each, Subnet)])
        self.repairs = 0
        """Steps taken because another program changed the kernel's state."""
        self.others_changed = False
        """A route outside `ranges` changed since the caller set this to False."""
        self._wake = wake
        self._queue: deque[Notifications] = deque()
        self._must_reread = True
        self._must_read_addresses = True
        self._must_bind = True
        self._has_wanted = False
        self._network_changed = False

    @property
    def has_wanted(self) -> bool:
        """Whether it is known what is wanted."""
        return self._has_wanted

    @property
    def pending(self) -> bool:
        """Whether the last call left work to the next one."""
        return self._has_wanted and bool(
            self._must_reread
            or self._must_bind
            or self.devices.dirty
            or not self.routes.is_settled
            or not self.entries.is_settled
        )

    @property
    def is_changed(self) -> bool:
        """Whether links or addresses changed, which `repair` has not told yet."""
        return self._network_changed

    @property
    def in_place(self) -> int:
        """How many of the wanted routes are in place."""
        routes = self.routes
        return len(routes.named) - len(routes.unbound) - len(routes.rejected) - len(routes.foreign)

    @property
    def problems(self) -> dict[str, str]:
        """For each subnet that is not reached as it should be, the reason."""
        found = {str(subnet): reason for subnet, reason in self.routes.problems.items()}
        for subnet, words in self.routes.unbound.items():
            device = self.routes.named[subnet].device
            if device in self.devices.problems:
                found[str(subnet)] = f"{words}: {self.devices.problems[device]}"
        if wrong := self.entries.problems:
            for device, gateway, name in self._tunnelled():
                mac = self.entries.named.get((device, gateway), b"")
                if reason := wrong.get((device, gateway)) or wrong.get((device, mac)):
                    found.setdefault(name, reason)
        return found

    @property
    def device_problems(self) -> dict[str, str]:
        """For each wanted device that is not as it should be, the reason."""
        return self.devices.problems

    def _tunnelled(self) -> list[tuple[str, bytes, str]]:
        """Device, packed next hop and subnet of each wanted route that has a next hop."""
        return [
            (
                route.device,
                route.gateway.to_bytes(4 if isinstance(subnet, Subnet) else 16, "big"),
                str(subnet),
            )
            for subnet, route in self.routes.named.items()
            if route.gateway
        ]

    def manage(self, ranges: Sequence[Subnet | Subnet6]) -> None:
        """The ranges are these from now on. Former ones that still have routes or devices of ours are managed
        as well, so that those go when nothing wants them any more. What is in the kernel is read again in the
        next round.
        """
        managed = [*ranges, *(each for each in self.routes.ranges if each not in ranges and self._uses(each))]
        if tuple(managed) != self.routes.ranges:
            self.routes.manage(managed)
            self.devices.manage([alias_of(each) for each in managed if isinstance(each, Subnet)])
            self._must_reread = True

    def _uses(self, managed: Subnet | Subnet6) -> bool:
        """Whether there are routes or devices of ours in this range."""
        return self.routes.has_ours(managed) or (
            isinstance(managed, Subnet) and self.devices.has_ours(alias_of(managed))
        )

    async def listen(self) -> None:
        """Queue the kernel's notifications and call `wake`, forever."""
        while True:
            batch = await self.kernel.notifications()
            if batch.entries:  # most are of other devices, whose neighbours come and go all the time
                kept = [one for one in batch.entries if one.entry.ifindex in self.entries.devices]
                batch = batch._replace(entries=kept)
            if not any(batch):
                continue  # nothing of ours, or the other task took what this one was woken for
            self._queue.append(batch)
            if len(self._queue) > MAX_QUEUED:
                self._queue.clear()
                self._queue.append(Notifications(lost=True))
            self._wake()

    async def declare(self, changes: Changes, gateways: Collection[int]) -> None:
        """Change what is wanted and bring the kernel in line. `gateways` are the public addresses of the
        accepted leases.
        """
        self._has_wanted = True
        if changes.devices:
            self.devices.declare(changes.devices)
            self._must_bind = self._must_read_addresses = True
        if changes.peers:
            self._must_read_addresses |= bool(self.devices.problems)
            self.devices.declare_peers(changes.peers)
        self.routes.declare(changes.routes, gateways)
        self.entries.declare(changes.entries)
        self._process_notifications()
        await self._converge()

    async def repair(self, *, full: bool = False) -> bool:
        """Repair what queued notifications say was changed; with `full`, read everything first. True if links
        or addresses changed.
        """
        self._process_notifications()
        network_changed, self._network_changed = self._network_changed, False
        self._must_reread |= full
        if full or network_changed:  # the kernel may accept now what it rejected
            self.routes.retry()
            self.entries.retry()
            self.devices.retry()
        if self.pending:
            self.repairs += await self._converge()
        return network_changed

    async def clear(self) -> int:
        """Remove everything that was declared. Returns how many steps that took. KernelError if something of
        it is still there.
        """
        self._has_wanted = self._must_reread = True
        self.devices.clear()
        self.routes.clear()
        self.entries.clear()
        taken = await self._converge()
        await self._read()
        left = [
            str(one) for there in self.routes.present.values() for one in there if one.protocol == PROTOCOL
        ]
        left += self.devices.ours
        if left:
            raise KernelError(f"the kernel still has {len(left)} routes and devices: {', '.join(left[:8])}")
        return taken

    async def _converge(self) -> int:
        """Plan and apply until everything is as wanted, or the rounds are used up. Returns the number of
        steps carried out.
        """
        taken = 0
        try:
            for _ in range(MAX_ROUNDS):
                if self._must_reread:
                    await self._read()
                steps = await self._next_steps()
                if not steps and not self.pending:
                    break
                taken += await self._apply(steps)
                self._process_notifications()
        except NetstoreError:
            self._must_reread = True  # it is not known what was read, and which steps were carried out
            raise
        return taken

    async def _next_steps(self) -> Sequence[Step]:
        """The steps that can be taken now: first those of the devices, then all others, at last the removal
        of devices.
        """
        if self.devices.dirty:
            if self._must_read_addresses:
                await self._read_addresses()
            if device_steps := self.devices.steps():
                self._must_bind = True
                return device_steps
            await self._configure_wireguard()
        if self._must_bind:
            self._must_bind = False
            self.routes.rebind(self.devices.number)
            if self.entries.rebind(self.devices.numbers):
                await self._read_entries()
        await _in_parts(self.routes.bind(self.devices.number))
        new_entries: list[SetEntry] = []
        old_entries: list[DeleteEntry] = []
        if not self.entries.is_settled:
            await _in_parts(self.entries.bind())
            new_entries, old_entries = await _in_parts(self.entries.steps())
        new_routes, old_routes = await _in_parts(self.routes.steps(self.entries.devices))
        if new_routes:  # routes that these replace go in the next round, and only then what those use
            old_entries = []
        steps: list[Step] = [*new_entries, *new_routes, *old_routes, *old_entries]
        return steps or self._obsolete_devices()

    def _obsolete_devices(self) -> Sequence[Step]:
        """The removal of devices that are not declared any more, except those that routes use whose
        successors are not possible now.
        """
        steps = self.devices.obsolete()
        used = self.routes.waiting_numbers() if steps else ()
        return [step for step in steps if step.ifindex not in used]

    async def _apply(self, steps: Sequence[Step]) -> int:
        """Carry out the steps. Returns how many were."""
        try:
            failed = await self.kernel.apply(steps)
        except NotificationsLostError:
            self._must_reread = True
            return 0
        for position, code in failed.items():
            step = steps[position]
            if isinstance(step, AddRoute | DeleteRoute):
                self._must_reread |= self.routes.failed(step, code)
            elif isinstance(step, SetEntry | DeleteEntry):
                self._must_reread |= self.entries.failed(step, code)
            else:
                self._must_reread |= self.devices.failed(step, code)
        return len(steps) - len(failed)

    async def _configure_wireguard(self) -> None:
        for number, name, wanted, present in self.devices.wireguard_changes():
            code = await self.kernel.configure_wireguard(number, wanted, present)
            if code:
                self.devices.wireguard_failed(number, name, code)
            else:
                self.devices.wireguard_configured(number, wanted, present)

    # The kernel's state

    async def _read(self) -> None:
        """Read everything. Notifications that are older than that matter for the links alone."""
        self._process_notifications()
        self._must_reread = False
        self.devices.load(await self.kernel.links())
        await self._read_addresses()
        routes = await self.kernel.routes()
        if self.routes.has_ipv6:
            routes += await self.kernel.routes6()
        await _in_parts(self.routes.load(routes))
        self.entries.rebind(self.devices.numbers)
        await self._read_entries()
        self._must_bind = True

    async def _read_addresses(self) -> None:
        """Read the addresses of the wanted devices, and the configuration of WireGuard."""
        self._must_read_addresses = False
        numbers = self.devices.numbers
        found: list[tuple[int, bytes, int]] = []
        if numbers:
            found = [
                (one.ifindex, one.ip.to_bytes(4, "big"), one.length) for one in await self.kernel.addresses()
            ]
            found += [
                (one.ifindex, one.ip.to_bytes(16, "big"), one.length)
                for one in await self.kernel.addresses6()
            ]
        self.devices.set_addresses(found, numbers.values())
        for name, number in numbers.items():
            if isinstance(self.devices.wanted[name].kind, Wireguard):
                present = await self.kernel.wireguard(number)
                if present is not None:
                    self.devices.load_wireguard(number, name, present)

    async def _read_entries(self) -> None:
        """Read the entries of the backend's devices."""
        found = [entry for number in self.entries.devices for entry in await self.kernel.entries(number)]
        await _in_parts(self.entries.load(found))

    def _process_notifications(self) -> None:
        """Apply all notifications received so far to the tables."""
        while True:
            is_queued = bool(self._queue)
            batch = self._queue.popleft() if is_queued else self.kernel.pending_notifications()
            if not is_queued and not any(batch):
                return
            if batch.lost:
                self._must_reread = True
            if batch.addresses:
                self._network_changed = self._must_read_addresses = self.devices.dirty = True
            bridges = self.devices.bridges if batch.links or batch.removed_links else None
            for number in batch.bared:  # with the last address go all routes, and nobody is told
                self._must_reread |= self._is_used(number)
            for link in batch.links:
                self._link_changed(link)
            for number in batch.removed_links:  # last: a link changes once more before it goes
                self._link_removed(number)
            if bridges is not None and bridges != self.devices.bridges:
                self._network_changed = True  # what they protect from leases is another
            for change in batch.routes:
                if self.routes.is_in_ranges(change.route):
                    self.routes.apply(change)
                    continue
                self.others_changed = True
                if change.route.ifindex == self.link.ifindex and not change.route.gateway:
                    self._network_changed = True  # an on-link route: a next hop may have become reachable
            for one in batch.entries:
                self.entries.apply(one)

    def _is_used(self, number: int) -> bool:
        """Whether routes go through the interface."""
        used = {self.devices.number(name) for name in self.routes.used}
        return number == self.link.ifindex or number in used

    def _link_changed(self, link: Link) -> None:
        if link.name == self.link.name or link.ifindex == self.link.ifindex:
            if link != self.link:
                self._network_changed = self._must_reread = True
            self.link = link
        is_used = link.name in self.devices.wanted or link.name in self.routes.used
        before = self.devices.links.get(link.name)
        lost_routes = self.devices.apply(link)
        if is_used:
            self._must_reread |= lost_routes
            if before is None or before.ifindex != link.ifindex:
                self._must_bind = self._must_read_addresses = True
            if link.up and before is not None and not before.up:
                self.routes.retry()
                self.entries.retry()

    def _link_removed(self, number: int) -> None:
        if number == self.link.ifindex:
            self._network_changed = self._must_reread = True
        name = self.devices.remove(number)
        if name in self.devices.wanted or name in self.routes.used:
            self._must_reread = True


async def _in_parts(work: Generator[None, None, T]) -> T:
    """Do the work, and let other tasks run after each part of it. The last part's result."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: T = end.value
            return result
        await trio.lowlevel.checkpoint()
