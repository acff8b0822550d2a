"""A kernel in memory: links, addresses, table main, the rules the agent relies on, and notifications that may
get lost.

The rules were observed on Linux 6: a route is created only if no other has its destination, metric and type
of service, unless it is appended; a next hop must be on-link; when a link goes down, its routes are removed
without notification.
"""

from __future__ import annotations

import errno
from collections import deque
from typing import TYPE_CHECKING

import trio

from netstore.agent.kernel import Address, Link, Notifications, NotificationsLostError, RouteChange
from netstore.agent.routeplan import AddRoute, KernelRoute
from netstore.network.addresses import Subnet, parse_ip

if TYPE_CHECKING:
    from collections.abc import Sequence

    from netstore.agent.routeplan import Step

ETH0 = Link(2, "eth0", 1500, up=True)


class FakeKernel:
    """One namespace with the interface eth0, 192.168.77.11/24. Implements `agent.kernel.Kernel`."""

    def __init__(self) -> None:
        self.link_list: list[Link] = [ETH0]
        self.address_list: list[Address] = [Address(2, parse_ip("192.168.77.11"), 24)]
        self.table: dict[Subnet, list[KernelRoute]] = {}
        self.steps: list[Step] = []
        """Every step applied."""
        self.sends = 0
        self.dumps = 0
        self.lose_next_answer = False
        self._queue: deque[Notifications] = deque()
        self._arrived = trio.Event()

    # The protocol agent.kernel.Kernel

    async def links(self) -> list[Link]:
        await trio.lowlevel.checkpoint()
        return list(self.link_list)

    async def addresses(self) -> list[Address]:
        await trio.lowlevel.checkpoint()
        return list(self.address_list)

    async def routes(self) -> list[KernelRoute]:
        await trio.lowlevel.checkpoint()
        self.dumps += 1
        return [route for routes in self.table.values() for route in routes]

    async def apply(self, steps: Sequence[Step]) -> dict[int, int]:
        await trio.lowlevel.checkpoint()
        self.sends += 1
        self.steps.extend(steps)
        codes = {position: self._carry_out(step) for position, step in enumerate(steps)}
        if self.lose_next_answer:
            self.lose_next_answer = False
            raise NotificationsLostError("lost by the test")
        return {position: code for position, code in codes.items() if code}

    async def route_to(self, ip: int) -> tuple[int, int] | None:
        await trio.lowlevel.checkpoint()
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
        """`ip route replace`: replaces the first one with the same metric."""
        there = self.table.setdefault(route.subnet, [])
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
        """The link changes or appears; when it goes down, its routes are removed without notification."""
        self.link_list = [one for one in self.link_list if one.name != link.name]
        self.link_list.append(link)
        if not link.up:
            self._flush(link.ifindex)
        self.notify(Notifications(links=[link]))

    def remove_link(self, number: int) -> None:
        """The link disappears with its addresses and routes."""
        self.link_list = [one for one in self.link_list if one.ifindex != number]
        self.address_list = [one for one in self.address_list if one.ifindex != number]
        self._flush(number)
        self.notify(Notifications(removed_links=[number]))

    def set_addresses(self, *addresses: Address) -> None:
        """Replace the addresses."""
        self.address_list = list(addresses)
        self.notify(Notifications(addresses=True))

    def notify(self, notifications: Notifications) -> None:
        """Queue notifications."""
        self._queue.append(notifications)
        self._arrived.set()

    def lose_notifications(self) -> None:
        """The receive buffer overflowed: what was queued is lost."""
        self._queue.clear()
        self.notify(Notifications(lost=True))

    # The rules

    def _carry_out(self, step: Step) -> int:
        if isinstance(step, AddRoute):
            return self._add(step)
        there = self.table.get(step.route.subnet, [])
        if step.route not in there:
            return errno.ESRCH
        self.delete(step.route)
        return 0

    def _add(self, step: AddRoute) -> int:
        route = KernelRoute(step.route.subnet, step.route.gateway, step.route.ifindex)
        link = next((one for one in self.link_list if one.ifindex == route.ifindex), None)
        if link is None:
            return errno.ENODEV
        if not link.up or not self._on_link(route):
            return errno.ENETUNREACH
        there = self.table.setdefault(route.subnet, [])
        if route in there or (not step.append and any((one.metric, one.tos) == (0, 0) for one in there)):
            return errno.EEXIST
        there.append(route)
        self.notify(Notifications(routes=[RouteChange(route, "append")]))
        return 0

    def _on_link(self, route: KernelRoute) -> bool:
        return any(
            one.ifindex == route.ifindex and Subnet.around(one.ip, one.length).holds(route.gateway)
            for one in self.address_list
        )

    def _flush(self, number: int) -> None:
        self.table = {
            subnet: [one for one in routes if one.ifindex != number] for subnet, routes in self.table.items()
        }
