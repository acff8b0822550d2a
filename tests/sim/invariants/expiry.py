"""No node expires before its time (v2 API, TTL; P6): an `Expire` names no instant that the clock of some
member has not reached, and takes only nodes that are due by it.

The bound on early expiry that follows, the difference between two members' clocks, is asserted too: every
node lived its TTL, less that difference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.sim.invariants import Invariant, require
from tests.sim.timeline import EPOCH

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
        if history.last <= self._seen:
            return
        world = self.world
        for event in history.since(self._seen + 1):
            if event.action != "expire":
                continue
            world.reach["ttl_expired"] += 1
            prev = event.prev
            assert prev is not None
            skews = [each.clock.skew() for each in world.members.values()]
            latest = EPOCH + (world.timeline.now + max(high for _, high in skews)) * 1e9
            require(
                0 < prev.expires <= latest + 1,
                "expired before any clock said so",
                key=prev.key,
                expires=prev.expires,
                latest=latest,
            )
            lease = world.leases.get((prev.key, prev.expires))
            if lease is not None:
                written, ttl = lease
                spread = max(high for _, high in skews) - min(low for low, _ in skews)
                require(
                    world.timeline.now - written >= ttl - spread - 0.001,
                    "a node did not live its time",
                    key=prev.key,
                    ttl=ttl,
                    lived=world.timeline.now - written,
                    spread=spread,
                )
        self._seen = history.last
