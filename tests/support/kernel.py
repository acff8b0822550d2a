"""A kernel in memory: links, addresses, table main, the rules the agent relies on, and news that get lost.

The rules were seen on Linux 6: a route is created only where no other has its destination, metric and type of
service, unless it is appended; a next hop must be on-link; a link that goes down takes its routes along,
silently.
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
        """Every step asked for."""
        self.sends = 0
        self.dumps = 0
        self.lose_next_answer = False
        self._queue: deque[Notifications] = deque()
        self._arrived = trio.Event()

    # What the agent calls

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
            raise NotificationsLostError("lost, as the test wants it")
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

    # What somebody else does

    def add(self, route: KernelRoute) -> None:
        """`ip route prepend`: put it first."""
        self.table.setdefault(route.subnet, []).insert(0, route)
        self.tell(Notifications(routes=[RouteChange(route, "prepend")]))

    def replace(self, route: KernelRoute) -> None:
        """`ip route replace`: instead of the first with its metric."""
        there = self.table.setdefault(route.subnet, [])
        for position, old in enumerate(there):
            if (old.metric, old.tos) == (route.metric, route.tos):
                there[position] = route
                self.tell(Notifications(routes=[RouteChange(route, "replace")]))
                return
        self.add(route)

    def delete(self, route: KernelRoute) -> None:
        """`ip route delete`."""
        self.table[route.subnet].remove(route)
        self.tell(Notifications(routes=[RouteChange(route, "delete")]))

    def set_link(self, link: Link) -> None:
        """The link changes or appears; going down it silently takes its routes along."""
        self.link_list = [one for one in self.link_list if one.name != link.name]
        self.link_list.append(link)
        if not link.up:
            self._flush(link.ifindex)
        self.tell(Notifications(links=[link]))

    def remove_link(self, number: int) -> None:
        """The link disappears with its addresses and routes."""
        self.link_list = [one for one in self.link_list if one.ifindex != number]
        self.address_list = [one for one in self.address_list if one.ifindex != number]
        self._flush(number)
        self.tell(Notifications(removed_links=[number]))

    def set_addresses(self, *addresses: Address) -> None:
        """These are the addresses from now on."""
        self.address_list = list(addresses)
        self.tell(Notifications(addresses=True))

    def tell(self, news: Notifications) -> None:
        """Queue a message."""
        self._queue.append(news)
        self._arrived.set()

    def lose_notifications(self) -> None:
        """The receive buffer overflowed: what was queued is gone."""
        self._queue.clear()
        self.tell(Notifications(lost=True))

    # The rules

    def _carry_out(self, step: Step) -> int:
        if isinstance(step, AddRoute):
            return self._put(step)
        there = self.table.get(step.route.subnet, [])
        if step.route not in there:
            return errno.ESRCH
        self.delete(step.route)
        return 0

    def _put(self, step: AddRoute) -> int:
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
        self.tell(Notifications(routes=[RouteChange(route, "append")]))
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
