"""A member that stops finishes what waits, and lets another one lead."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio

from netstore.node.handover import hand_over
from netstore.raft.status import Refusal
from netstore.types import NodeId

if TYPE_CHECKING:
    from trio.testing import MockClock

    from netstore.node.host import Host
    from netstore.node.loop import Loop

ME = NodeId(1)


class Leader:
    """A host and its loop, in one."""

    def __init__(self, *peers: tuple[int, bool, int], voters: tuple[int, ...] = (1, 2, 3)) -> None:
        """Each peer: its id, whether it is active, its place in the log."""
        self.id = self.leader = ME
        self.refusal: Refusal | None = None
        self.steps: list[object] = []
        self._status = SimpleNamespace(
            peers=[SimpleNamespace(id=id_, active=active, match=match) for id_, active, match in peers],
            conf=SimpleNamespace(voters=voters),
        )

    def status(self) -> Any:
        return self._status

    async def drained(self, host: object) -> None:
        assert host is self
        self.steps.append("drained")

    def transfer(self, to: NodeId) -> Refusal | None:
        self.steps.append(to)
        return self.refusal

    async def hand_over(self) -> None:
        await hand_over(cast("Host", self), cast("Loop", self))


async def test_the_active_voter_that_has_most_takes_over(autojump_clock: MockClock) -> None:
    host = Leader((2, True, 7), (3, True, 9), (4, True, 10), (5, False, 11), voters=(1, 2, 3, 5))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(host.hand_over)
        await trio.sleep(1)
        assert host.steps == ["drained", 3], "after what waits; 4 is a learner, 5 is silent"
        assert nursery.child_tasks, "it waits for the next leader"
        host.leader = NodeId(3)
    assert host.steps == ["drained", 3]


@pytest.mark.parametrize("peers", [[], [(2, False, 9), (4, True, 9)]])
async def test_a_leader_without_an_active_voter_just_stops(peers: list[tuple[int, bool, int]]) -> None:
    host = Leader(*peers)
    await host.hand_over()
    assert host.steps == ["drained"]


async def test_a_follower_transfers_nothing() -> None:
    host = Leader((2, True, 7))
    host.leader = NodeId(2)
    await host.hand_over()
    assert host.steps == ["drained"]


async def test_a_refused_transfer_is_not_waited_for() -> None:
    host = Leader((2, True, 7))
    host.refusal = next(iter(Refusal))
    await host.hand_over()
    assert host.steps == ["drained", 2]
