"""Keeps the kernel's routes as they are wanted: told what is wanted, it hears what happens and puts it right.

Invariants:

- `present` is the kernel's table main, cut to the ranges kept here, as of the last message heard. Whatever is
  lost is read again.
- A route the kernel refused is not tried again until it is wanted differently, the network's links, addresses
  or on-link routes change, or the slow repair comes round.
- Before the first `hold` nothing is touched: the routes of an earlier run stay until it is known which are
  wanted.
- Nothing heard is forgotten: what `MAX_ROUNDS` plans could not settle is in `unsettled` for the next call.
- Only one task calls anything but `listen`.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from typing import TYPE_CHECKING, Final

from netstore.agent.kernel import News, NewsLostError
from netstore.agent.routeplan import Put, plan
from netstore.network.addresses import show_ip

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from netstore.agent.kernel import Kernel, Link, RouteNews
    from netstore.agent.routeplan import KernelRoute, Route
    from netstore.network.addresses import Subnet

MAX_ROUNDS: Final = 4
"""Plans made in one go. More are needed when somebody undoes what we do as fast as we do it; others get their
turn in between.
"""

MAX_QUEUED: Final = 256
"""News batches waiting; beyond it the table is read again instead."""

_STALE: Final = frozenset({errno.EEXIST, errno.ESRCH})
"""What the kernel says when it is not as we thought."""


class Keeper:
    """The routes of one network in one kernel.

    `ranges` are the subnets whose routes are kept: the network, maybe a former one. `link` is the interface
    the routes use; what happens to others is not this keeper's concern. `awake` is called when there is
    something to repair.
    """

    def __init__(
        self, kernel: Kernel, ranges: Iterable[Subnet], link: Link, awake: Callable[[], None]
    ) -> None:
        self.kernel = kernel
        self.link = link
        self.ranges = tuple(ranges)
        self.wanted: dict[Subnet, Route] = {}
        self.gateways: frozenset[int] = frozenset()
        self.present: dict[Subnet, list[KernelRoute]] = {}
        self.foreign: dict[Subnet, KernelRoute] = {}
        self.rejected: dict[Route, int] = {}
        self.unsettled: set[Subnet] = set()
        """Subnets that were changed again after the last plan of a call; `repair` goes on with them."""
        self.repairs = 0
        """Steps taken because the kernel was changed by somebody else."""
        self._awake = awake
        self._queue: deque[News] = deque()
        self._stale = True
        self._held = False
        self._network_changed = False

    @property
    def problems(self) -> dict[Subnet, str]:
        """Why a wanted route is not there, for each that is not."""
        found = {route.subnet: _words(route, code) for route, code in self.rejected.items()}
        for subnet, route in self.foreign.items():
            found[subnet] = (
                f"a route that is not the agent's is in its place: {route}; remove it to let it in"
            )
        return found

    async def listen(self) -> None:
        """Queue what the kernel tells, for ever, and call `awake`."""
        while True:
            self._queue.append(await self.kernel.news())
            if len(self._queue) > MAX_QUEUED:
                self._queue.clear()
                self._queue.append(News(lost=True))
            self._awake()

    async def hold(self, wanted: dict[Subnet, Route], gateways: Collection[int]) -> None:
        """From now on these routes are wanted; `gateways` are the PublicIPs of all leases. Returns when it is
        so.
        """
        self._held = True
        before, self.wanted = self.wanted, wanted
        self.gateways = frozenset(gateways)
        self.rejected = {
            route: code for route, code in self.rejected.items() if wanted.get(route.subnet) == route
        }
        if self._stale:
            await self._settle(None)
            return
        changed = {subnet for subnet, route in wanted.items() if before.get(subnet) != route}
        changed.update(subnet for subnet in before if subnet not in wanted)
        changed.update(self.foreign)
        await self._settle(changed | self._open())

    async def repair(self, *, all_again: bool = False) -> bool:
        """Put right what the queued news say. `all_again`: read the table first. True if links or addresses
        changed.
        """
        if all_again:
            self._stale = True
            self.rejected.clear()
        changed = self._open()
        network_changed, self._network_changed = self._network_changed, False
        if network_changed:
            # The kernel drops routes of a link that goes down without a word, and refused ones may be
            # possible now.
            self._stale = True
            self.rejected.clear()
        if self._held and (self._stale or changed):
            self.repairs += await self._settle(None if self._stale else changed)
        return network_changed

    async def clear(self) -> int:
        """Remove every route of ours in the ranges; the number removed."""
        self.wanted, self._stale = {}, True
        return await self._settle(None)

    async def _settle(self, subnets: set[Subnet] | None) -> int:
        """Plan and act until plan and kernel agree about the subnets (None: all)."""
        taken = 0
        for _ in range(MAX_ROUNDS):
            if self._stale:
                await self._read()
                subnets = None
            steps, foreign = plan(self.wanted, self.present, self.gateways, subnets)
            self._note_foreign(foreign, subnets)
            steps = [step for step in steps if not (isinstance(step, Put) and step.route in self.rejected)]
            if not steps:
                return taken
            try:
                failed = await self.kernel.apply(steps)
            except NewsLostError:
                self._stale = True
                continue
            taken += len(steps) - len(failed)
            for position, code in failed.items():
                step = steps[position]
                if code in _STALE:
                    self._stale = True
                elif isinstance(step, Put):
                    self.rejected[step.route] = code
            touched = {step.route.subnet for step in steps}
            heard = self._heard()
            subnets = None if self._stale else touched | heard
        self.unsettled = subnets or set()
        return taken

    def _open(self) -> set[Subnet]:
        """What is to be looked at: what was left, and what is heard now."""
        left, self.unsettled = self.unsettled, set()
        return left | self._heard()

    async def _read(self) -> None:
        self._heard()  # older than the dump that follows, so only what it says of links counts
        present: dict[Subnet, list[KernelRoute]] = {}
        for route in await self.kernel.routes():
            if self._kept(route):
                present.setdefault(route.subnet, []).append(route)
        self.present = present
        self._stale = False

    def _kept(self, route: KernelRoute) -> bool:
        return any(kept.covers(route.subnet) for kept in self.ranges)

    def _heard(self) -> set[Subnet]:
        """Take in all news; the subnets whose routes changed."""
        changed: set[Subnet] = set()
        while True:
            news = self._queue.popleft() if self._queue else self.kernel.news_now()
            if not any(news):
                return changed
            if news.lost:
                self._stale = True
            self._network_changed |= news.addresses or self.link.number in news.links_gone
            for link in news.links:
                if self.link.name == link.name or self.link.number == link.number:
                    self._network_changed |= link != self.link
                    self.link = link
            for one in news.routes:
                if self._kept(one.route):
                    self._take(one)
                    changed.add(one.route.subnet)
                elif one.route.link == self.link.number and not one.route.gateway:
                    self._network_changed = True  # an on-link route: a next hop may be reachable now

    def _take(self, news: RouteNews) -> None:
        route, there = news.route, self.present.setdefault(news.route.subnet, [])
        if news.how == "gone":
            if route in there:
                there.remove(route)
        elif news.how == "last":
            if route not in there:
                there.append(route)
        else:
            if news.how == "replace":
                same = [one for one in there if (one.metric, one.tos) == (route.metric, route.tos)]
                for one in same[:1]:
                    there.remove(one)
            if route in there:
                there.remove(route)
            there.insert(0, route)
        if not there:
            del self.present[route.subnet]

    def _note_foreign(self, foreign: dict[Subnet, KernelRoute], subnets: set[Subnet] | None) -> None:
        if subnets is None:
            self.foreign = foreign
            return
        for subnet in subnets:
            self.foreign.pop(subnet, None)
        self.foreign.update(foreign)


def _words(route: Route, code: int) -> str:
    via = show_ip(route.gateway)
    if code in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        return f"next hop {via} is not on-link; it is tried again when a link or an address changes"
    if code in (errno.EPERM, errno.EACCES):
        return "no permission to write routes; the agent needs CAP_NET_ADMIN"
    return f"the kernel refused the route via {via}: {os.strerror(code)}"
