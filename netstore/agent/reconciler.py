"""Keeps the kernel's routes equal to the wanted routes: listens to notifications and repairs differences.

Invariants:

- `present` is the kernel's table main, limited to `ranges`, as of the last notification processed. When
  notifications are lost, the table is read again.
- A route the kernel rejected is tried again only when the wanted route changes, when links, addresses or
  on-link routes change, or at the periodic full repair.
- Nothing is changed before the first `set_wanted`: routes of an earlier run stay until it is known which are
  wanted.
- No change is forgotten: subnets that `MAX_ROUNDS` rounds did not bring into the wanted state are in
  `pending` and processed by the next call.
- Only one task calls anything but `listen`.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from typing import TYPE_CHECKING, Final

from netstore.agent.kernel import KernelError, Notifications, NotificationsLostError
from netstore.agent.routeplan import AddRoute, plan
from netstore.network.addresses import show_ip

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from netstore.agent.kernel import Kernel, Link, RouteChange
    from netstore.agent.routeplan import KernelRoute, Route
    from netstore.network.addresses import Subnet

MAX_ROUNDS: Final = 4
"""Rounds of plan and apply in one call. More are needed only while another program keeps undoing our changes;
other tasks run in between.
"""

MAX_QUEUED: Final = 256
"""Queued batches of notifications; with more, they are dropped and the table is read again."""

_OUT_OF_DATE: Final = frozenset({errno.EEXIST, errno.ESRCH})
"""Errors that mean that the kernel's table is not what `present` says."""


class Reconciler:
    """The routes of one network in one kernel.

    `ranges` are the subnets whose routes are managed: the network, and the former one if it was changed.
    `link` is the interface the routes use; changes of other interfaces are ignored. `wake` is called when
    there are notifications to process.
    """

    def __init__(
        self, kernel: Kernel, ranges: Iterable[Subnet], link: Link, wake: Callable[[], None]
    ) -> None:
        self.kernel = kernel
        self.link = link
        self.ranges = tuple(ranges)
        self.wanted: dict[Subnet, Route] = {}
        self.gateways: frozenset[int] = frozenset()
        self.present: dict[Subnet, list[KernelRoute]] = {}
        self.foreign: dict[Subnet, KernelRoute] = {}
        """Routes of others that prevent wanted ones."""
        self.rejected: dict[Route, int] = {}
        """Wanted routes the kernel rejected, with the errno."""
        self.pending: set[Subnet] = set()
        """Subnets whose routes changed again after the last round of a call; `repair` continues with them."""
        self.repairs = 0
        """Steps taken because another program changed the kernel's routes."""
        self._wake = wake
        self._queue: deque[Notifications] = deque()
        self._must_reread = True
        self._has_wanted = False
        self._network_changed = False

    @property
    def has_wanted(self) -> bool:
        """Whether it is known which routes are wanted."""
        return self._has_wanted

    @property
    def problems(self) -> dict[Subnet, str]:
        """For each wanted route that is not in place, the reason."""
        found = {route.subnet: _rejection(route, code) for route, code in self.rejected.items()}
        for subnet, route in self.foreign.items():
            found[subnet] = (
                f"another program's route is in its place: {route}; remove it to let the agent's in"
            )
        return found

    async def listen(self) -> None:
        """Queue the kernel's notifications and call `wake`, forever."""
        while True:
            batch = await self.kernel.notifications()
            if not any(batch):
                continue  # the other task took what this one was woken for
            self._queue.append(batch)
            if len(self._queue) > MAX_QUEUED:
                self._queue.clear()
                self._queue.append(Notifications(lost=True))
            self._wake()

    async def set_wanted(self, wanted: dict[Subnet, Route], gateways: Collection[int]) -> None:
        """Replace the wanted routes and bring the kernel's routes in line. `gateways` are the PublicIPs of
        all leases.
        """
        self._has_wanted = True
        before, self.wanted = self.wanted, wanted
        self.gateways = frozenset(gateways)
        self.rejected = {
            route: code for route, code in self.rejected.items() if wanted.get(route.subnet) == route
        }
        if self._must_reread:
            await self._converge(None)
            return
        changed = {subnet for subnet, route in wanted.items() if before.get(subnet) != route}
        changed.update(subnet for subnet in before if subnet not in wanted)
        changed.update(self.foreign)
        await self._converge(changed | self._take_pending())

    async def repair(self, *, full: bool = False) -> bool:
        """Repair the routes that queued notifications say were changed; with `full`, read the table first.
        True if links or addresses changed.
        """
        if full:
            self._must_reread = True
            self.rejected.clear()
        changed = self._take_pending()
        network_changed, self._network_changed = self._network_changed, False
        if network_changed:
            # The kernel removes the routes of a link that goes down without notifications, and may now accept
            # routes it rejected.
            self._must_reread = True
            self.rejected.clear()
        if self._has_wanted and (self._must_reread or changed):
            self.repairs += await self._converge(None if self._must_reread else changed)
        return network_changed

    async def clear(self) -> int:
        """Remove all our routes in the ranges. Returns how many were removed."""
        self.wanted, self._must_reread = {}, True
        return await self._converge(None)

    async def _converge(self, subnets: set[Subnet] | None) -> int:
        """Plan and apply until the kernel's routes to the subnets (None: all) are as wanted, or the rounds
        are used up. Returns the number of steps carried out.
        """
        taken = 0
        for _ in range(MAX_ROUNDS):
            if self._must_reread:
                await self._read_table()
                subnets = None
            steps, foreign = plan(self.wanted, self.present, self.gateways, subnets)
            self._update_foreign(foreign, subnets)
            steps = [
                step for step in steps if not (isinstance(step, AddRoute) and step.route in self.rejected)
            ]
            if not steps:
                return taken
            try:
                failed = await self.kernel.apply(steps)
            except NotificationsLostError:
                self._must_reread = True
                continue
            except KernelError:
                self._must_reread = True  # it is not known which steps were carried out
                raise
            taken += len(steps) - len(failed)
            for position, code in failed.items():
                step = steps[position]
                if code in _OUT_OF_DATE:
                    self._must_reread = True
                elif isinstance(step, AddRoute):
                    self.rejected[step.route] = code
            touched = {step.route.subnet for step in steps}
            changed = self._process_notifications()
            subnets = None if self._must_reread else touched | changed
        self.pending = {*self.wanted, *self.present} if self._must_reread or subnets is None else subnets
        return taken

    def _take_pending(self) -> set[Subnet]:
        """The subnets to look at: those left over, and those that notifications name now."""
        left, self.pending = self.pending, set()
        return left | self._process_notifications()

    async def _read_table(self) -> None:
        self._process_notifications()  # older than the dump below, so of these only link changes matter
        present: dict[Subnet, list[KernelRoute]] = {}
        for route in await self.kernel.routes():
            if self._is_in_ranges(route):
                present.setdefault(route.subnet, []).append(route)
        self.present = present
        self._must_reread = False

    def _is_in_ranges(self, route: KernelRoute) -> bool:
        return any(managed.covers(route.subnet) for managed in self.ranges)

    def _process_notifications(self) -> set[Subnet]:
        """Apply all notifications received so far to `present`. Returns the subnets whose routes changed."""
        changed: set[Subnet] = set()
        while True:
            is_queued = bool(self._queue)
            batch = self._queue.popleft() if is_queued else self.kernel.pending_notifications()
            if not is_queued and not any(batch):
                return changed
            if batch.lost:
                self._must_reread = True
            self._network_changed |= batch.addresses or self.link.ifindex in batch.removed_links
            for link in batch.links:
                if self.link.name == link.name or self.link.ifindex == link.ifindex:
                    self._network_changed |= link != self.link
                    self.link = link
            for one in batch.routes:
                if self._is_in_ranges(one.route):
                    self._apply_change(one)
                    changed.add(one.route.subnet)
                elif one.route.ifindex == self.link.ifindex and not one.route.gateway:
                    self._network_changed = True  # an on-link route: a next hop may have become reachable

    def _apply_change(self, change: RouteChange) -> None:
        route, there = change.route, self.present.setdefault(change.route.subnet, [])
        if change.how == "delete":
            if route in there:
                there.remove(route)
        elif change.how == "append":
            if route not in there:
                there.append(route)
        else:
            if change.how == "replace":
                same = [one for one in there if (one.metric, one.tos) == (route.metric, route.tos)]
                for one in same[:1]:
                    there.remove(one)
            if route in there:
                there.remove(route)
            there.insert(0, route)
        if not there:
            del self.present[route.subnet]

    def _update_foreign(self, foreign: dict[Subnet, KernelRoute], subnets: set[Subnet] | None) -> None:
        if subnets is None:
            self.foreign = foreign
            return
        for subnet in subnets:
            self.foreign.pop(subnet, None)
        self.foreign.update(foreign)


def _rejection(route: Route, code: int) -> str:
    via = show_ip(route.gateway)
    if code in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        return f"next hop {via} is not on-link; it is tried again when a link or an address changes"
    if code in (errno.EPERM, errno.EACCES):
        return "no permission to write routes; the agent needs CAP_NET_ADMIN"
    return f"the kernel rejected the route via {via}: {os.strerror(code)}"
