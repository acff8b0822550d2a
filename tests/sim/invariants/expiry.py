"""No node expires before its time (v2 API, TTL; P6): each lived its TTL from when it was asked for, by the
fastest monotonic clock of the run, however the wall clocks jumped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.sim.invariants import Invariant, require

if TYPE_CHECKING:
    from tests.sim.member import Member
    from tests.sim.world import World


class Expiry(Invariant):
    """Follows the events of whichever member applies them first."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._seen = 0

    def turned(self, member: Member) -> None:
        history = member.machine.history
        if self.world.plan.hostile:
            return  # they propose instants themselves
        if history.last <= self._seen:
            return
        world = self.world
        for event in history.since(self._seen + 1):
            if event.action != "expire":
                continue
            world.reach["ttl_expired"] += 1
            prev = event.prev
            assert prev is not None
            require(prev.expires > 0, "a node without a TTL expired", key=prev.key)
            lease = world.leases.get((prev.key, prev.expires))
            if lease is not None:
                written, ttl = lease
                fastest = max(each.clock.rate for each in world.members.values())
                require(
                    (world.timeline.now - written) * fastest >= ttl - 0.001,
                    "a node did not live its time",
                    key=prev.key,
                    ttl=ttl,
                    lived=world.timeline.now - written,
                    fastest=fastest,
                )
        self._seen = history.last
