"""A member publishes itself at each start, however long its cluster takes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import trio

from netstore.errors import Fault
from netstore.node.member import OWN
from netstore.node.publication import POLL_SECONDS, RETRY_SECONDS, publish
from netstore.state.commands import PublishMember, RemoveMember, SetClusterVersion, encode
from netstore.types import NodeId
from tests.support.links import Quiet

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock

    from netstore.node.host import Host
    from netstore.state.machine import Outcome

BUSY = Fault(300, b"busy")
ME = PublishMember(NodeId(1), "a", ("http://a:2379",), ("http://a:2380",))


class Member:
    """Keeps what is proposed; each proposal has the next of the listed faults, then succeeds."""

    def __init__(self, *faults: Fault) -> None:
        self.id = self.leader = NodeId(1)
        self.machine = SimpleNamespace(members={NodeId(1): None}, roster=SimpleNamespace(cluster_version=""))
        self.faults = list(faults)
        self.proposed: list[bytes] = []

    def propose(self, command: bytes, done: Callable[[Outcome | Fault], None], principal: bytes) -> None:
        assert principal is OWN
        self.proposed.append(command)
        if self.faults:
            done(self.faults.pop(0))
            return
        if command == encode(SetClusterVersion("3.4.0")):
            self.machine.roster.cluster_version = "3.4.0"
        done(cast("Outcome", None))

    async def publish(self, *, remove_others: bool = False, lines: Quiet | None = None) -> None:
        await publish(cast("Host", self), ME, "3.4.0", remove_others=remove_others, log=lines or Quiet())


async def test_a_leader_publishes_itself_and_the_version(autojump_clock: MockClock) -> None:
    member = Member()
    await member.publish()
    assert member.proposed == [encode(ME), encode(SetClusterVersion("3.4.0"))]


async def test_a_follower_leaves_the_version_to_the_leader(autojump_clock: MockClock) -> None:
    member = Member()
    member.leader = NodeId(2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(member.publish)
        await trio.sleep(60)
        assert member.proposed == [encode(ME)]
        member.machine.roster.cluster_version = "3.4.0"
        await trio.sleep(2 * POLL_SECONDS)
        assert not nursery.child_tasks
    assert member.proposed == [encode(ME)]


async def test_a_member_that_joins_waits_for_its_list(autojump_clock: MockClock) -> None:
    member = Member()
    member.machine.members = {}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(member.publish)
        await trio.sleep(60)
        assert member.proposed == []
        member.machine.members = {NodeId(1): None}
    assert member.proposed[0] == encode(ME)


async def test_a_refusal_is_told_once_and_tried_again(autojump_clock: MockClock) -> None:
    member, lines = Member(BUSY, BUSY, Fault(300, b"stopped")), Quiet()
    begun = trio.current_time()
    await member.publish(lines=lines)
    assert member.proposed == [*4 * [encode(ME)], encode(SetClusterVersion("3.4.0"))]
    assert len(lines.events("member_not_published")) == 2, "each reason once"
    assert trio.current_time() - begun == 3 * RETRY_SECONDS


async def test_a_member_that_goes_on_alone_removes_the_others(autojump_clock: MockClock) -> None:
    member = Member()
    member.machine.members = dict.fromkeys((NodeId(3), NodeId(1), NodeId(2)))
    await member.publish(remove_others=True)
    assert member.proposed == [
        encode(ME),
        encode(RemoveMember(NodeId(2))),
        encode(RemoveMember(NodeId(3))),
        encode(SetClusterVersion("3.4.0")),
    ]
