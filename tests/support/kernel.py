"""A kernel in memory: links, addresses, neighbour tables, table main, the rules the agent relies on, and
notifications that may get lost.

The rules were observed on Linux 6. A route of IPv4 is created only if no other has its destination, metric
and type of service, unless it is appended; one of IPv6 that is appended becomes another next hop, and a
second one through the same next hop is refused. A next hop must be on-link. When a link goes down, its routes
are removed, of IPv4 without notification; with a link go its addresses, its entries and what it carries.
"""

from __future__ import annotations

import errno
from collections import deque
from typing import TYPE_CHECKING

import trio

from netstore.agent.deviceplan import (
    KINDS,
    VXLAN_PORT,
    AddAddress,
    ChangeDevice,
    CreateDevice,
    DeleteAddress,
    DeleteDevice,
)
from netstore.agent.entryplan import DeleteEntry, Entry, SetEntry
from netstore.agent.kernel import (
    Address,
    EntryChange,
    Link,
    Notifications,
    NotificationsLostError,
    RouteChange,
    Tunnel,
)
from netstore.agent.routeplan import AddRoute, DeleteRoute, KernelRoute, in_kernel
from netstore.agent.wanted import Vxlan, Wireguard
from netstore.network.addresses import Subnet, parse_ip
from netstore.network.ipv6 import Subnet6

if TYPE_CHECKING:
    from collections.abc import Sequence

    from netstore.agent.kernel import Step
    from netstore.agent.routeplan import RouteStep
    from netstore.agent.wanted import Device

ETH0 = Link(2, "eth0", 1500, up=True)


class FakeKernel:
    """One namespace with the interface eth0, 192.168.77.11/24. Implements `agent.kernel.Kernel`."""

    def __init__(self) -> None:
        self.link_list: list[Link] = [ETH0]
        self.address_list: list[Address] = [Address(2, parse_ip("192.168.77.11"), 24)]
        self.address_list6: list[Address] = []
        self.table: dict[Subnet | Subnet6, list[KernelRoute]] = {}
        self.entry_table: dict[tuple[int, bytes], Entry] = {}
        self.wireguards: dict[int, Wireguard] = {}
        self.kinds = set(KINDS.values())
        """The kinds of devices it can make."""
        self.refusals: dict[type[Step], int] = {}
        """Steps that are refused, with the errno."""
        self.steps: list[Step] = []
        """Every step applied."""
        self.sends = 0
        self.dumps = 0
        self.lose_next_answer = False
        self._next_ifindex = 100
        self._queue: deque[Notifications] = deque()
        self._arrived = trio.Event()

    @property
    def route_steps(self) -> list[RouteStep]:
        """Every step applied to a route."""
        return [step for step in self.steps if isinstance(step, AddRoute | DeleteRoute)]

    # The protocol agent.kernel.Kernel

    async def links(self) -> list[Link]:
        await trio.lowlevel.checkpoint()
        return list(self.link_list)

    async def addresses(self) -> list[Address]:
        await trio.lowlevel.checkpoint()
        return list(self.address_list)

    async def addresses6(self) -> list[Address]:
        await trio.lowlevel.checkpoint()
        return list(self.address_list6)

    async def routes(self) -> list[KernelRoute]:
        await trio.lowlevel.checkpoint()
        self.dumps += 1
        return [one for subnet, routes in self.table.items() if isinstance(subnet, Subnet) for one in routes]

    async def routes6(self) -> list[KernelRoute]:
        await trio.lowlevel.checkpoint()
        return [one for subnet, routes in self.table.items() if isinstance(subnet, Subnet6) for one in routes]

    async def entries(self, ifindex: int) -> list[Entry]:
        await trio.lowlevel.checkpoint()
        return [one for one in self.entry_table.values() if one.ifindex == ifindex]

    async def apply(self, steps: Sequence[Step]) -> dict[int, int]:
        await trio.lowlevel.checkpoint()
        self.sends += 1
        self.steps.extend(steps)
        codes = {position: self._carry_out(step) for position, step in enumerate(steps)}
        if self.lose_next_answer:
            self.lose_next_answer = False
            raise NotificationsLostError("lost by the test")
        return {position: code for position, code in codes.items() if code}

    async def wireguard(self, ifindex: int) -> Wireguard | None:
        await trio.lowlevel.checkpoint()
        return self.wireguards.get(ifindex)

    async def configure_wireguard(self, ifindex: int, wanted: Wireguard, present: Wireguard) -> int:
        await trio.lowlevel.checkpoint()
        there = self.wireguards.get(ifindex)
        if there is None or (there.port, there.private_key) != (present.port, present.private_key):
            return errno.ENODEV
        peers = {peer.public_key: peer for peer in there.peers}
        for peer in present.peers:
            if peers.pop(peer.public_key, None) != peer:
                return errno.ENODEV
        peers |= {peer.public_key: peer for peer in wanted.peers}
        self.wireguards[ifindex] = Wireguard(wanted.port, wanted.private_key, tuple(peers.values()))
        return 0

    async def route_to(self, ip: int, *, is_ipv6: bool = False) -> tuple[int, int] | None:
        await trio.lowlevel.checkpoint()
        if is_ipv6:
            for address in self.address_list6:
                if Subnet6.around(address.ip, address.length).holds(ip):
                    return address.ifindex, address.ip
            return None
        for address in self.address_list:
            if Subnet.around(address.ip, address.length).holds(ip):
                return address.ifindex, address.ip
        return None

    async def notifications(self) -> Notifications:
        while not self._queue:
            self._arrived = trio.Event()
            await self._arrived.wait()
        return self._queue.popleft()

    def pending_notifications(self) -> Notifications:
        return self._queue.popleft() if self._queue else Notifications()

    # Changes by other programs

    def add(self, route: KernelRoute) -> None:
        """`ip route prepend`."""
        self.table.setdefault(route.subnet, []).insert(0, route)
        self.notify(Notifications(routes=[RouteChange(route, "prepend")]))

    def replace(self, route: KernelRoute) -> None:
        """`ip route replace`: replaces the first one with the same metric, of IPv6 all of them."""
        there = self.table.setdefault(route.subnet, [])
        if isinstance(route.subnet, Subnet6):
            there[:] = [route, *(one for one in there if one.metric != route.metric)]
            self.notify(Notifications(routes=[RouteChange(route, "reset")]))
            return
        for position, old in enumerate(there):
            if (old.metric, old.tos) == (route.metric, route.tos):
                there[position] = route
                self.notify(Notifications(routes=[RouteChange(route, "replace")]))
                return
        self.add(route)

    def delete(self, route: KernelRoute) -> None:
        """`ip route delete`."""
        self.table[route.subnet].remove(route)
        self.notify(Notifications(routes=[RouteChange(route, "delete")]))

    def set_link(self, link: Link) -> None:
        """The link changes or appears; when it goes down, its routes are removed."""
        self.link_list = [one for one in self.link_list if link.name != one.name]
        self.link_list.append(link)
        if not link.up:
            self._flush(link.ifindex)
            self.address_list6 = [one for one in self.address_list6 if one.ifindex != link.ifindex]
        self.notify(Notifications(links=[link]))

    def remove_link(self, number: int) -> None:
        """The link disappears with its addresses, routes, entries, and the tunnels that it carries."""
        carried = [one.ifindex for one in self.link_list if one.tunnel and one.tunnel.link == number]
        for one in carried:
            self.remove_link(one)
        self.link_list = [one for one in self.link_list if one.ifindex != number]
        self.address_list = [one for one in self.address_list if one.ifindex != number]
        self.address_list6 = [one for one in self.address_list6 if one.ifindex != number]
        self.entry_table = {key: one for key, one in self.entry_table.items() if one.ifindex != number}
        self.wireguards.pop(number, None)
        self._flush(number)
        self.notify(Notifications(removed_links=[number]))

    def set_addresses(self, *addresses: Address) -> None:
        """Replace the addresses."""
        self.address_list = list(addresses)
        self.notify(Notifications(addresses=True))

    def set_entry(self, entry: Entry) -> None:
        """`ip neighbour replace` or `bridge fdb replace`."""
        self.entry_table[entry.ifindex, entry.key] = entry
        self.notify(Notifications(entries=[EntryChange(entry)]))

    def delete_entry(self, ifindex: int, key: bytes) -> None:
        """`ip neighbour delete` or `bridge fdb delete`; a neighbour is told without its MAC."""
        entry = self.entry_table.pop((ifindex, key))
        told = entry if entry.is_forwarding else entry._replace(value=b"", permanent=False)
        self.notify(Notifications(entries=[EntryChange(told, deleted=True)]))

    def notify(self, notifications: Notifications) -> None:
        """Queue notifications."""
        self._queue.append(notifications)
        self._arrived.set()

    def lose_notifications(self) -> None:
        """The receive buffer overflowed: what was queued is lost."""
        self._queue.clear()
        self.notify(Notifications(lost=True))

    def link(self, name: str) -> Link:
        """The link of this name."""
        return next(one for one in self.link_list if one.name == name)

    # The rules

    def _carry_out(self, step: Step) -> int:
        if type(step) in self.refusals:
            return self.refusals[type(step)]
        if isinstance(step, AddRoute):
            return self._add(step)
        if isinstance(step, DeleteRoute):
            if step.route not in self.table.get(step.route.subnet, []):
                return errno.ESRCH
            self.delete(step.route)
            return 0
        if isinstance(step, CreateDevice):
            return self._create(step.device, step.link)
        if isinstance(step, SetEntry | DeleteEntry):
            return self._change_entry(step)
        link = next((one for one in self.link_list if one.ifindex == step.ifindex), None)
        if link is None:
            return errno.ENODEV
        if isinstance(step, DeleteDevice):
            self.remove_link(step.ifindex)
            return 0
        if isinstance(step, ChangeDevice):
            changed = link._replace(
                mtu=link.mtu if step.mtu is None else step.mtu,
                mac=link.mac if step.mac is None else step.mac,
                alias=link.alias if step.alias is None else step.alias,
                up=link.up if step.up is None else step.up,
            )
            self.set_link(changed)
            return 0
        return self._change_address(step)

    def _change_entry(self, step: SetEntry | DeleteEntry) -> int:
        entry = step.entry
        link = next((one for one in self.link_list if one.ifindex == entry.ifindex), None)
        if link is None:
            return errno.ENODEV
        if isinstance(step, SetEntry):
            if entry.is_forwarding and link.kind != "vxlan":
                return errno.EOPNOTSUPP
            self.set_entry(entry)
            return 0
        if (entry.ifindex, entry.key) not in self.entry_table:
            return errno.ENOENT
        self.delete_entry(entry.ifindex, entry.key)
        return 0

    def _change_address(self, step: AddAddress | DeleteAddress) -> int:
        listed = self.address_list if len(step.address) == 4 else self.address_list6
        address = Address(step.ifindex, int.from_bytes(step.address, "big"), step.length)
        if isinstance(step, AddAddress):
            if address in listed:
                return errno.EEXIST
            listed.append(address)
        elif address not in listed:
            return errno.EADDRNOTAVAIL
        else:
            listed.remove(address)
        self.notify(Notifications(addresses=True))
        return 0

    def _create(self, device: Device, link: int) -> int:
        kind = KINDS[type(device.kind)]
        if kind not in self.kinds:
            return errno.EOPNOTSUPP
        if any(one.name == device.name for one in self.link_list):
            return errno.EEXIST
        tunnel = tunnel_of(device, link)
        taken = [one.tunnel for one in self.link_list if one.kind == kind]
        if tunnel is not None and any(
            (one.vni, one.port) == (tunnel.vni, tunnel.port) for one in taken if one
        ):
            return errno.EEXIST
        self._next_ifindex += 1
        number = self._next_ifindex
        mac = b"" if kind != "vxlan" else device.mac or bytes([2, 0, 0, 0, 0, number % 256])
        if isinstance(device.kind, Wireguard):
            self.wireguards[number] = Wireguard(0, b"")
        self.set_link(Link(number, device.name, device.mtu, up=False, mac=mac, kind=kind, tunnel=tunnel))
        return 0

    def _add(self, step: AddRoute) -> int:
        route = in_kernel(step.route)
        link = next((one for one in self.link_list if one.ifindex == route.ifindex), None)
        if link is None:
            return errno.ENODEV
        if not link.up or not self._on_link(route):
            return errno.ENETUNREACH if isinstance(route.subnet, Subnet) else errno.EHOSTUNREACH
        there = self.table.setdefault(route.subnet, [])
        rivals = [one for one in there if (one.metric, one.tos) == (route.metric, route.tos)]
        if step.how == "replace":
            if not rivals:
                return errno.ENOENT
            self.replace(route)
            return 0
        if route in there or (rivals and step.how == "create"):
            return errno.EEXIST
        if isinstance(route.subnet, Subnet6) and any(
            (one.gateway, one.ifindex) == (route.gateway, route.ifindex) for one in rivals
        ):
            return errno.EEXIST
        there.append(route)
        self.notify(Notifications(routes=[RouteChange(route, "append")]))
        return 0

    def _on_link(self, route: KernelRoute) -> bool:
        if route.onlink or not route.gateway:
            return True
        if isinstance(route.subnet, Subnet6):
            return any(
                one.ifindex == route.ifindex and Subnet6.around(one.ip, one.length).holds(route.gateway)
                for one in self.address_list6
            )
        return any(
            one.ifindex == route.ifindex and Subnet.around(one.ip, one.length).holds(route.gateway)
            for one in self.address_list
        )

    def _flush(self, number: int) -> None:
        for subnet, routes in self.table.items():
            gone = [one for one in routes if one.ifindex == number]
            routes[:] = [one for one in routes if one.ifindex != number]
            if isinstance(subnet, Subnet6) and gone:
                self.notify(Notifications(routes=[RouteChange(one, "delete") for one in gone]))


def tunnel_of(device: Device, link: int) -> Tunnel | None:
    """What the kernel tells of a device that was made so."""
    kind = device.kind
    if isinstance(kind, Wireguard):
        return None
    if isinstance(kind, Vxlan):
        return Tunnel(kind.local, link, b"", kind.vni, kind.port or VXLAN_PORT, kind.learning, kind.gbp)
    return Tunnel(kind.local, link)
