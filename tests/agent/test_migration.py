"""One agent in a migration, with a fake kernel, a fake store and a mock clock; the other nodes are entries
that the test writes.
"""

from __future__ import annotations

import dataclasses
import json
from itertools import combinations
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
import pytest
import trio
from netstore_plugins.vxlan import VxlanTunnels

from netstore.agent import leaseholder, leasestate
from netstore.agent.backend import Refused
from netstore.agent.deviceplan import CreateDevice
from netstore.agent.kernel import Address, Link
from netstore.agent.leaseholder import FULL_DELAY
from netstore.agent.migration import DRAIN_SECONDS, document_of
from netstore.agent.routeplan import AddRoute
from netstore.agent.routeprogrammer import REFRESH_INTERVAL
from netstore.network.addresses import Subnet, parse_cidr, parse_ip
from netstore.network.migration import (
    Change,
    Part,
    Phase,
    Plan,
    encode_part,
    encode_plan,
    parse_part,
)
from tests.agent.fake_store import PREFIX
from tests.agent.stores import APIS
from tests.agent.test_service import DUAL, DUAL_PEER, NETWORK, Node, make_dual_stack
from tests.support.ruleset import FakeRuleset

if TYPE_CHECKING:
    from pathlib import Path

    from trio.testing import MockClock

VXLAN: Final = '{"Network":"10.23.0.0/16","SubnetLen":24,"Backend":{"Type":"vxlan"}}'
ME: Final = "192.168.77.11"
PEER: Final = "192.168.77.12"
DATA: Final = '{"VNI":1,"VtepMAC":"02:00:00:00:00:0c"}'
PEER_SUBNET: Final = "10.23.200.0-24"


class Migrating(Node):
    """An agent, and a peer that the test plays."""

    def __init__(self, folder: Path, api: str, old: str = NETWORK, new: str = VXLAN) -> None:
        super().__init__(folder, api)
        self.old, self.new = old, new
        self.store.put(f"{PREFIX}/config", old)
        self.store.lease(PEER_SUBNET, PEER, None)

    def plan(self, phase: Phase, **more: Any) -> None:
        """Write the plan."""
        plan = Plan("one", phase, Change.BACKEND, self.old, self.new, **more)
        self.store.put(f"{PREFIX}/migration/plan", encode_plan(plan))

    def peer(self, **more: Any) -> None:
        """Write the peer's part."""
        key = f"{PREFIX}/migration/{PEER}"
        there = self.store.files.get(key)
        part = Part("one", Phase.PREPARE, DATA if "vxlan" in self.new else "")
        if there is not None:
            part = parse_part(there.value)
        action = "set" if there is None else "compareAndSwap"
        self.store.put(key, encode_part(msgspec.structs.replace(part, **more)), action=action)

    @property
    def part(self) -> Part:
        """What the agent has told."""
        return parse_part(self.store.files[f"{PREFIX}/migration/{ME}"].value)

    @property
    def has_part(self) -> bool:
        return f"{PREFIX}/migration/{ME}" in self.store.files

    @property
    def device(self) -> str:
        """The device by which the peer is sent to."""
        [route] = self.kernel.table[Subnet(parse_ip("10.23.200.0"), 24)]
        return next(link.name for link in self.kernel.link_list if link.ifindex == route.ifindex)

    @property
    def devices(self) -> set[str]:
        return {link.name for link in self.kernel.link_list}

    def lease(self) -> Any:
        """The agent's lease."""
        [value] = [
            kept.value
            for name, kept in self.store.files.items()
            if ME in kept.value and name.startswith(f"{PREFIX}/subnets/")
        ]
        return json.loads(value)

    def drain(self) -> None:
        """Let the agent take no subnet."""
        access = cast("Any", self.agent)._access
        access.kept_away.put(f"{PREFIX}/subnets/{ME}", "{}")

    async def later(self, seconds: float = 1.0) -> None:
        await trio.sleep(seconds)  # fixed: by the clock of the test


@pytest.fixture(params=APIS)
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Migrating:
    return Migrating(tmp_path, request.param)


@pytest.mark.trio
async def test_a_node_follows_a_plan_to_its_end(autojump_clock: MockClock, node: Migrating) -> None:
    async with node.running():
        node.plan(Phase.PREPARE)
        await node.later()
        assert json.loads(node.part.backend_data)["VNI"] == 1
        assert (node.device, "flannel.1" in node.devices) == ("eth0", True)
        assert "FLANNEL_MTU=1450" in node.env.read_text(), "new pods have the lesser MTU from now on"
        node.peer()
        await node.later()
        newest = node.store.files[f"{PREFIX}/migration/{PEER}"].created
        assert node.part.receives >= newest
        assert len(node.kernel.entry_table) == 2, "the peer's neighbour and forwarding entry"
        node.plan(Phase.SEND)
        await node.later()
        assert (node.device, node.part.sends) == ("eth0", 0), "the peer does not receive it yet"
        node.peer(receives=node.store.index, phase=Phase.RECEIVE)
        await node.later()
        assert node.device == "flannel.1"
        assert node.part.sends >= newest
        assert node.lease()["BackendType"] == "host-gw"
        node.plan(Phase.FINISH)
        await node.later()
        assert node.lease()["BackendType"] == "vxlan"
        assert node.part.phase is Phase.FINISH
        assert node.device == "flannel.1", "the peer's lease is still the old one"
        node.store.put(f"{PREFIX}/config", VXLAN)
        peer = f'{{"PublicIP":"{PEER}","BackendType":"vxlan","BackendData":{DATA}}}'
        node.store.put(f"{PREFIX}/subnets/{PEER_SUBNET}", peer, 86_400)
        node.plan(Phase.DONE)
        await node.later(2 * DRAIN_SECONDS)
        assert not node.has_part
        assert node.device == "flannel.1"
        assert node.agent.not_ready() is None
        status = node.agent.status()
        assert (status["backend"], status["migration"], status["unserved"]) == ("vxlan", None, {})


@pytest.mark.trio
async def test_the_old_side_goes_at_the_end(autojump_clock: MockClock, tmp_path: Path) -> None:
    node = Migrating(tmp_path, "v2", VXLAN, NETWORK)
    value = f'{{"PublicIP":"{PEER}","BackendType":"vxlan","BackendData":{DATA}}}'
    node.store.put(f"{PREFIX}/subnets/{PEER_SUBNET}", value)
    async with node.running():
        assert node.device == "flannel.1"
        node.plan(Phase.PREPARE)
        node.peer()
        await node.later()
        node.plan(Phase.SEND)
        node.peer(receives=node.store.index)
        await node.later()
        assert (node.device, "flannel.1" in node.devices) == ("eth0", True)
        node.plan(Phase.FINISH)
        await node.later()
        assert (node.device, "flannel.1" in node.devices) == ("eth0", True)
        node.store.put(f"{PREFIX}/config", NETWORK)
        node.store.lease(PEER_SUBNET, PEER, None)
        node.plan(Phase.DONE)
        await node.later(2 * DRAIN_SECONDS)
        assert (node.device, "flannel.1" in node.devices) == ("eth0", False)
        assert "FLANNEL_MTU=1500" in node.env.read_text()


async def sending(node: Migrating) -> None:
    """Bring the node to `send`: the peer receives all."""
    node.plan(Phase.PREPARE)
    node.peer()
    await node.later()
    node.peer(receives=node.store.index)
    node.plan(Phase.SEND)
    await node.later()


@pytest.mark.trio
@pytest.mark.parametrize("is_written", [False, True])
async def test_an_end_that_is_seen_late_keeps_all_routes(
    autojump_clock: MockClock, node: Migrating, *, is_written: bool
) -> None:
    async with node.running():
        await sending(node)
        node.plan(Phase.FINISH)
        await node.later()
        node.store.down = True
        node.store.cut()
        node.store.put(f"{PREFIX}/config", VXLAN)
        if is_written:
            peer = f'{{"PublicIP":"{PEER}","BackendType":"vxlan","BackendData":{DATA}}}'
            node.store.put(f"{PREFIX}/subnets/{PEER_SUBNET}", peer, 86_400)
        await node.later(3)
        node.plan(Phase.DONE)
        node.store.remove(f"{PREFIX}/migration/{PEER}")
        node.store.down = False
        for _ in range(300):
            await node.later(0.1)
            if node.agent.status()["migration"] is None:
                break
            assert node.device == "flannel.1"
        assert node.agent.status()["migration"] is None


@pytest.mark.trio
async def test_a_peer_whose_part_is_made_anew_at_the_end_keeps_its_route(
    autojump_clock: MockClock, node: Migrating
) -> None:
    async with node.running():
        await sending(node)
        node.plan(Phase.FINISH)
        await node.later()
        node.store.remove(f"{PREFIX}/migration/{PEER}")
        await node.later()
        assert node.device == "eth0", "the side of its lease"
        assert node.agent.status()["unserved"] == {}
        node.peer()
        await node.later()
        assert node.device == "flannel.1"


@pytest.mark.trio
async def test_a_plan_that_is_reverted_leaves_all_as_it_was(
    autojump_clock: MockClock, node: Migrating
) -> None:
    async with node.running():
        node.plan(Phase.PREPARE)
        node.peer()
        await node.later()
        node.plan(Phase.CANARY, canaries=(ME,))
        node.peer(receives=node.store.index)
        await node.later()
        assert node.device == "flannel.1"
        node.plan(Phase.REVERT)
        await node.later()
        assert (node.device, "flannel.1" in node.devices) == ("eth0", True)
        assert (node.part.phase, node.part.sends) == (Phase.REVERT, 0)
        node.plan(Phase.ABORTED)
        await node.later(2 * DRAIN_SECONDS)
        assert (node.device, "flannel.1" in node.devices) == ("eth0", False)
        assert not node.has_part
        assert node.lease()["BackendType"] == "host-gw"
        assert "FLANNEL_MTU=1500" in node.env.read_text()


@pytest.mark.trio
@pytest.mark.parametrize("phase", [Phase.SEND, Phase.FINISH])
async def test_an_agent_that_starts_in_a_plan_leaves_the_kernel_as_it_told(
    autojump_clock: MockClock, node: Migrating, phase: Phase
) -> None:
    async with node.running():
        node.plan(Phase.PREPARE)
        node.peer()
        await node.later()
        node.plan(Phase.SEND)
        node.peer(receives=node.store.index)
        await node.later()
        node.plan(phase)
        await node.later()
    before = len(node.kernel.steps)
    told, mac = node.part, node.kernel.link("flannel.1").mac
    node.agent = node.make()
    async with node.running():
        await node.later()
        assert node.kernel.steps[before:] == []
        assert (node.part.sends >= told.sends, node.kernel.link("flannel.1").mac) == (True, mac)
        assert node.agent.not_ready() is None


@pytest.mark.trio
async def test_an_agent_that_comes_in_between_has_both_sides_before_it_declares(
    autojump_clock: MockClock, node: Migrating
) -> None:
    node.plan(Phase.SEND)
    node.peer(receives=1)
    async with node.running():
        assert (node.device, "flannel.1" in node.devices) == ("eth0", True)
        assert node.part.receives > 0
        node.peer(receives=node.store.index)
        await node.later()
        assert node.device == "flannel.1"


@pytest.mark.trio
async def test_what_a_node_cannot_do_is_told_with_the_reason(
    autojump_clock: MockClock, node: Migrating
) -> None:
    node.kernel.refusals[CreateDevice] = 95
    async with node.running():
        node.plan(Phase.PREPARE)
        await node.later(3)
        assert "no VXLAN devices" in node.part.problem
        assert node.part.receives == 0
        assert node.device == "eth0"
        node.kernel.refusals.clear()
        await node.later(30)
        assert (node.part.problem, node.part.receives > 0) == ("", True)


@pytest.mark.trio
async def test_a_peer_that_cannot_be_served_by_the_new_side_is_told(
    autojump_clock: MockClock, node: Migrating
) -> None:
    async with node.running():
        node.plan(Phase.PREPARE)
        node.peer(backend_data="")
        await node.later(3)
        assert node.part.problem.startswith(f"{PEER} cannot be served by the new config")


@pytest.mark.trio
async def test_an_agent_with_another_config_says_so(autojump_clock: MockClock, node: Migrating) -> None:
    async with node.running():
        node.old = '{"Network":"10.24.0.0/16","Backend":{"Type":"host-gw"}}'
        node.plan(Phase.PREPARE)
        await node.later(3)
        assert "another network config" in node.part.problem
        assert node.devices == {"eth0"}


@pytest.mark.trio
@pytest.mark.parametrize("is_new", [False, True])
async def test_a_plan_that_vanishes_is_decided_by_the_config(
    autojump_clock: MockClock, node: Migrating, *, is_new: bool
) -> None:
    """The other side is received by for a while: packets are on their way, and others have not seen it."""
    async with node.running():
        node.plan(Phase.PREPARE)
        await node.later()
        if is_new:
            node.store.put(f"{PREFIX}/config", VXLAN)
        node.store.remove(f"{PREFIX}/migration/plan")
        await node.later(DRAIN_SECONDS - 1)
        assert "flannel.1" in node.devices
        await node.later(3)
        assert node.agent.status()["backend"] == ("vxlan" if is_new else "host-gw")
        assert ("flannel.1" in node.devices) is is_new


@pytest.mark.trio
async def test_both_sides_stay_while_the_store_is_empty(autojump_clock: MockClock, node: Migrating) -> None:
    async with node.running():
        node.plan(Phase.PREPARE)
        node.peer()
        await node.later()
        node.peer(receives=node.store.index)
        node.plan(Phase.SEND)
        await node.later()
        node.plan(Phase.FINISH)
        node.store.put(f"{PREFIX}/config", VXLAN)
        await node.later()
        assert node.device == "flannel.1"
        node.store.remove(f"{PREFIX}/migration/plan")
        node.store.remove(f"{PREFIX}/config")
        await node.later(10)
        assert node.device == "flannel.1"
        [told] = node.recorded.told("migration_waits")
        assert "are gone from the store" in told["reason"]
        node.store.put(f"{PREFIX}/config", VXLAN)
        await node.later(10)
        assert node.agent.status()["backend"] == "vxlan"
        assert len(node.recorded.told("migration_goes_on")) == 1


@pytest.mark.trio
async def test_a_node_whose_address_changes_tells_its_part_with_the_new_one(
    autojump_clock: MockClock, node: Migrating
) -> None:
    async with node.running():
        node.plan(Phase.PREPARE)
        node.peer()
        await node.later()
        before = node.part
        node.kernel.set_addresses(Address(2, parse_ip("192.168.77.50"), 24))
        await node.later(10)
        assert not node.has_part
        told = node.store.files[f"{PREFIX}/migration/192.168.77.50"]
        part = parse_part(told.value)
        assert (part.plan, bool(part.backend_data), part.receives >= told.created) == (
            before.plan,
            True,
            True,
        )
        node.peer(receives=node.store.index)
        node.plan(Phase.SEND)
        await node.later()
        assert node.device == "flannel.1"


@pytest.mark.trio
async def test_a_node_that_was_left_out_takes_the_new_config(
    autojump_clock: MockClock, node: Migrating
) -> None:
    async with node.running():
        node.store.put(f"{PREFIX}/config", VXLAN)
        node.plan(Phase.DONE, without=(ME,))
        await node.later(3)
        assert node.lease()["BackendType"] == "vxlan"
        assert node.agent.status()["backend"] == "vxlan"


@pytest.mark.trio
async def test_a_store_that_is_away_is_told_once(autojump_clock: MockClock, node: Migrating) -> None:
    async with node.running():
        node.store.down = True
        node.store.cut()
        await node.later(60)
        node.store.down = False
        await node.later(5)
        node.plan(Phase.PREPARE)
        await node.later()
        assert node.part.backend_data
    assert len(node.recorded.told("migrations_not_followed")) in (1, 2), "a line for each reason"


@pytest.mark.trio
async def test_a_folder_that_cannot_be_made_is_for_the_backend_to_tell(
    autojump_clock: MockClock, node: Migrating
) -> None:
    node.config.data_dir.write_text("no folder")
    async with node.running():
        node.plan(Phase.PREPARE)
        await node.later()
        assert "data/vxlan/mac cannot be read" in node.part.problem
        assert node.device == "eth0"


@pytest.mark.trio
async def test_an_agent_that_starts_and_cannot_have_both_sides_tells_it_and_keeps_its_lease(
    autojump_clock: MockClock, node: Migrating, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> None:
        raise Refused("there are no VXLAN devices now")

    async with node.running():
        await sending(node)
        told = node.part
    before = len(node.kernel.steps)
    node.agent = node.make()
    with monkeypatch.context() as patched:
        patched.setattr(VxlanTunnels, "prepare", refuse)
        async with node.running():
            await node.later(30)
            assert node.part == msgspec.structs.replace(told, problem="there are no VXLAN devices now")
            assert len(node.recorded.told("migration_waits")) == 1
            assert node.agent.not_ready() is not None
            assert node.agent.status()["held"] is True
            assert node.kernel.steps[before:] == []
            patched.undo()
            await node.later(5)
            assert (node.part.problem, node.agent.not_ready()) == ("", None)


@pytest.mark.trio
async def test_a_peer_that_the_backend_fails_for_is_not_sent_to(
    autojump_clock: MockClock, node: Migrating, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise Refused("it cannot be reached")

    async with node.running():
        node.plan(Phase.PREPARE)
        node.peer()
        await node.later()
        monkeypatch.setattr(VxlanTunnels, "declare_peer", fail)
        node.peer(receives=node.store.index)
        node.plan(Phase.SEND)
        await node.later(3)
        assert "it cannot be reached" in node.part.problem
        assert (node.part.sends, node.device) == (0, "eth0")


@pytest.mark.trio
async def test_a_node_without_a_lease_keeps_nobody_waiting(
    autojump_clock: MockClock, node: Migrating
) -> None:
    node.drain()
    async with node.running():
        await sending(node)
        node.plan(Phase.FINISH)
        node.store.put(f"{PREFIX}/config", VXLAN)
        await node.later(5)
        assert (node.part.phase, node.part.problem) == (Phase.FINISH, "")


HALVES: Final = NETWORK.replace('"SubnetLen":24', '"SubnetLen":25')
OTHER_RANGE: Final = '{"Network":"10.24.0.0/16","SubnetLen":25,"Backend":{"Type":"host-gw"}}'


class Renumbering(Migrating):
    """An agent that goes to another range."""

    def plan(self, phase: Phase, **more: Any) -> None:
        plan = Plan("one", phase, Change.RANGE, self.old, self.new, **more)
        self.store.put(f"{PREFIX}/migration/plan", encode_plan(plan))

    @property
    def own(self) -> list[str]:
        """The agent's leases."""
        return sorted(
            name.rpartition("/")[2]
            for name, kept in self.store.files.items()
            if ME in kept.value and name.startswith(f"{PREFIX}/subnets/")
        )


@pytest.fixture(params=APIS)
def moving(request: pytest.FixtureRequest, tmp_path: Path) -> Renumbering:
    return Renumbering(tmp_path, request.param, NETWORK, OTHER_RANGE)


@pytest.mark.trio
async def test_a_node_goes_to_another_range_and_keeps_what_it_had(
    autojump_clock: MockClock, moving: Renumbering
) -> None:
    node = moving
    async with node.running():
        [old] = node.own
        node.plan(Phase.PREPARE)
        node.store.lease("10.24.7.0-25", PEER, None)
        await node.later()
        assert node.part.receives > 0
        assert {str(each) for each in node.kernel.table} == {"10.23.200.0/24", "10.24.7.0/25"}
        assert node.own == [old]
        node.peer(receives=node.store.index)
        node.plan(Phase.SEND)
        await node.later(5)
        assert len(node.own) == 2
        assert old in node.own
        assert "FLANNEL_NETWORK=10.24.0.0/16\nFLANNEL_SUBNET=10.24." in node.env.read_text()
        assert node.part.sends > 0
        node.plan(Phase.FINISH)
        await node.later(3)
        assert node.part.phase is Phase.FINISH
        node.store.put(f"{PREFIX}/config", OTHER_RANGE)
        node.plan(Phase.DONE)
        await node.later(3)
        assert not node.has_part
        assert node.agent.not_ready() is None
        assert len(node.kernel.table) == 2
    before, written = len(node.kernel.steps), node.store.index
    for _ in range(3):
        await trio.sleep(3600)  # fixed: by the clock of the test
        node.agent = node.make()
        async with node.running():
            await node.later(30)
            assert node.store.index == written, "the former lease has had its time, and ends"
    node.agent = node.make()
    async with node.running():
        assert node.kernel.steps[before:] == []
        assert len(node.own) == 2
        assert node.agent.status()["network"] == "10.24.0.0/16"
        assert node.recorded.told("lease_discarded") == []


def subnet(name: str) -> Subnet:
    """The subnet of a lease's name."""
    return Subnet(*parse_cidr(name.replace("-", "/")))


@pytest.mark.trio
@pytest.mark.parametrize("length", [25, 23])
async def test_a_node_takes_a_subnet_of_another_length_beside_all_that_are_held(
    autojump_clock: MockClock, tmp_path: Path, length: int
) -> None:
    other = NETWORK.replace('"SubnetLen":24', f'"SubnetLen":{length}')
    node = Renumbering(tmp_path, "v3", NETWORK, other)
    theirs = f"10.23.202.0-{length}"
    async with node.running():
        [old] = node.own
        await sending(node)
        node.store.lease(theirs, PEER, None)
        await node.later(5)
        assert len(node.own) == 2
        new = str(node.agent.status()["subnet"]).replace("/", "-")
        held = [subnet(each) for each in (old, new, PEER_SUBNET, theirs)]
        assert held[1].length == length
        assert not any(one.overlaps(another) for one, another in combinations(held, 2)), held
        assert set(node.routes()) == {str(held[2]), str(held[3])}
        assert node.part.sends > 0
        node.plan(Phase.FINISH)
        node.store.put(f"{PREFIX}/config", other)
        await node.later(3)
        node.plan(Phase.DONE)
        await node.later(3)
        assert node.agent.not_ready() is None
        assert set(node.routes()) == {str(held[2]), str(held[3])}
    assert node.recorded.told("lease_taken") == []
    assert node.agent.status()["unserved"] == {}


@pytest.mark.trio
async def test_what_a_node_has_in_the_present_range_stops_no_other_subnet_length(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    node = Renumbering(tmp_path, "v3", NETWORK, NETWORK.replace('"SubnetLen":24', '"SubnetLen":25'))
    node.kernel.link_list += [
        Link(9, "cni0", 1500, up=True, kind="bridge"),
        Link(10, "veth1", 1500, up=True, master=9),
    ]
    node.kernel.address_list.append(Address(9, parse_ip("10.23.77.1"), 24))
    async with node.running():
        node.plan(Phase.PREPARE)
        await node.later(5)
        assert (node.part.phase, node.part.problem) == (Phase.PREPARE, "")


@pytest.mark.trio
async def test_both_families_are_served_while_the_range_of_a_dual_stack_network_changes(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    halves = DUAL.replace('"SubnetLen":24', '"SubnetLen":25')
    node = Renumbering(tmp_path, "v3", DUAL, halves)
    make_dual_stack(node)
    node.store.remove(f"{PREFIX}/subnets/{PEER_SUBNET}")
    peers = {"10.23.200.0-24": "fd23:0:0:c8::-64", "10.23.201.0-25": "fd23:0:0:c9::-64"}
    old, new = (f"{PREFIX}/subnets/{one}&{other}" for one, other in peers.items())
    served = {each.replace("-", "/") for pair in peers.items() for each in pair}
    node.store.put(old, DUAL_PEER, 86_400)
    async with node.running():
        await sending(node)
        node.store.put(new, DUAL_PEER, 86_400)
        await node.later(5)
        [before, after] = sorted(node.own, key=lambda name: int(name.partition("&")[0][-2:]))
        assert before.partition("&")[2] != after.partition("&")[2], "an IPv6 subnet of its own"
        assert set(node.routes()) == served
        status = node.agent.status()
        assert [status["subnet"], status["subnet6"]] == [each.replace("-", "/") for each in after.split("&")]
        node.plan(Phase.FINISH)
        node.store.put(f"{PREFIX}/config", halves)
        await node.later(3)
        node.plan(Phase.DONE)
        await node.later(3)
        assert node.agent.not_ready() is None
        assert set(node.routes()) == served
        assert sorted(node.own) == sorted([before, after])


@pytest.mark.trio
async def test_a_subnet_that_overlaps_an_older_one_is_given_up_before_it_is_used(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    node = Renumbering(tmp_path, "v2", NETWORK, HALVES)
    async with node.running():
        [old] = node.own
        node.store.lease("10.23.200.128-25", ME, None)
        await sending(node)
        await node.later(10)
        assert "10.23.200.128-25" not in node.own
        assert len(node.own) == 2
        assert old in node.own
        [told] = node.recorded.told("lease_given_up")
        assert told["reason"] == f"the lease of {PEER} is older"
    assert not any("10.23.200" in each["subnet"] for each in node.recorded.told("subnet_held"))


@pytest.mark.trio
@pytest.mark.parametrize("is_moved", [False, True])
async def test_the_former_lease_has_its_whole_time_after_a_restart(
    autojump_clock: MockClock, tmp_path: Path, *, is_moved: bool
) -> None:
    node = Renumbering(tmp_path, "v3", NETWORK, HALVES)
    async with node.running():
        [old] = node.own
        node.plan(Phase.PREPARE)
        node.peer()
        await node.later(3)
        node.peer(receives=node.store.index)
        if is_moved:
            node.store.lease("10.23.77.0-25", ME)  # the agent ends between its two writes
    await trio.sleep(80_000)  # fixed: by the clock of the test
    node.plan(Phase.SEND)
    node.agent = node.make()
    node.store.unheard_writes = 2
    async with node.running():
        await node.later(60)
        assert len(node.own) == 2
        kept = node.store.files[f"{PREFIX}/subnets/{old}"]
        assert kept.expires is not None
        assert kept.expires > trio.current_time() + 86_000
        await node.later(600)
        assert node.store.files[f"{PREFIX}/subnets/{old}"] == kept, "once"


@pytest.mark.trio
async def test_the_former_lease_has_its_whole_time_beside_an_old_reservation(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    node = Renumbering(tmp_path, "v2", NETWORK, HALVES)
    async with node.running():
        [old] = node.own
        former = f"{PREFIX}/subnets/{old}"
        node.store.put(f"{PREFIX}/subnets/10.23.77.0-25", node.store.files[former].value)
        reserved = node.store.index
        node.plan(Phase.PREPARE)
        node.peer()
        await node.later(84_000)
        assert node.store.files[former].modified > reserved, "it was renewed after the reservation was made"
        node.peer(receives=node.store.index)
    await trio.sleep(40_000)  # fixed: by the clock of the test
    node.plan(Phase.SEND)
    node.agent = node.make()
    async with node.running():
        await node.later(60)
        kept = node.store.files[former]
        assert kept.expires is not None
        assert kept.expires > trio.current_time() + 86_000
        assert "FLANNEL_SUBNET=10.23.77.1/25" in node.env.read_text()
    written = node.store.index
    node.agent = node.make()
    async with node.running():
        await node.later(60)
        assert node.store.index == written, "once"


@pytest.mark.trio
async def test_a_former_lease_that_goes_while_another_is_written_ends_nothing(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    node = Renumbering(tmp_path, "v2", NETWORK, HALVES)
    async with node.running():
        await sending(node)
        await node.later(5)
    former = [f"{PREFIX}/subnets/{name}" for name in node.own if name.endswith("-24")]
    node.store.lease("10.23.66.0-24", ME)
    former.append(f"{PREFIX}/subnets/10.23.66.0-24")
    for key in former:
        node.store.put(key, node.store.files[key].value.replace("}", ',"Other":1}'), 86_400)
    before = {key: node.store.files[key].modified for key in former}
    node.agent = node.make()
    node.store.answer_delay = 2.0
    async with node.running():
        while not (written := [key for key in former if node.store.files[key].modified != before[key]]):
            await node.later(0.1)
        assert len(written) == 1
        [other] = set(former) - set(written)
        node.store.remove(other)
        await node.later(10)
        assert node.agent.not_ready() is None
        assert written[0] in node.store.files


@pytest.mark.trio
async def test_a_full_network_is_searched_again_when_a_lease_goes_or_after_some_time(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = HALVES.replace('25,"', '25,"SubnetMin":"10.23.200.0","SubnetMax":"10.23.200.128","')
    node = Renumbering(tmp_path, "v2", NETWORK, small)
    chosen = []

    def choose(*args: Any, **more: Any) -> Any:
        chosen.append(leasestate.choose_subnet(*args, **more))
        return chosen[-1]

    monkeypatch.setattr(leaseholder, "choose_subnet", choose)
    async with node.running():
        await sending(node)
        await node.later(2)
        chosen.clear()
        for number in range(300):
            node.store.lease(f"10.23.{100 + number % 50}.0-24", PEER)
            await node.later(0.01)
        assert len(chosen) <= 1
        [told] = node.recorded.told("no_subnet_to_move_to")
        assert told["network"] == "10.23.0.0/16"
        await node.later(2 * FULL_DELAY)
        assert chosen
        node.store.remove(f"{PREFIX}/subnets/{PEER_SUBNET}")
        await node.later(5)
        assert len(node.own) == 2


@pytest.mark.trio
async def test_a_full_ipv6_network_is_told_by_its_own_range(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    dual = json.loads(DUAL)
    dual["SubnetLen"] = 25
    halves = json.dumps(dual)
    node = Renumbering(tmp_path, "v3", DUAL, halves)
    make_dual_stack(node)
    node.store.remove(f"{PREFIX}/subnets/{PEER_SUBNET}")
    async with node.running():
        node.store.put(f"{PREFIX}/subnets/10.23.200.0-24&{dual['IPv6Network'].replace('/', '-')}", DUAL_PEER)
        await sending(node)
        await node.later(5)
        [told] = node.recorded.told("no_subnet_to_move_to")
        assert told["network"] == dual["IPv6Network"]


@pytest.mark.trio
async def test_a_node_that_is_drained_takes_no_subnet_of_another_range(
    autojump_clock: MockClock, moving: Renumbering
) -> None:
    node = moving
    async with node.running():
        [old] = node.own
        node.drain()
        await sending(node)
        await node.later(5)
        assert node.own == [old]
        assert len(node.recorded.told("node_drained")) == 1


@pytest.mark.trio
async def test_a_node_that_need_not_leave_any_more_takes_no_other_subnet(
    autojump_clock: MockClock, moving: Renumbering, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = moving

    async def slowly(*_: object) -> bool:
        if node.recorded.told("migration_phase")[-1]["phase"] != "revert":
            node.plan(Phase.REVERT)
        await node.later(5)
        return True

    monkeypatch.setattr(leaseholder.LeaseHolder, "_knows", slowly)
    async with node.running():
        [old] = node.own
        await sending(node)
        await node.later(20)
        assert node.own == [old]
        assert node.recorded.told("subnet_moved") == []


@pytest.mark.trio
async def test_a_lease_that_fits_neither_config_is_discarded(
    autojump_clock: MockClock, moving: Renumbering
) -> None:
    node = moving
    async with node.running():
        node.store.lease("10.23.64.0-20", ME)
        await sending(node)
        await node.later(5)
        assert "10.23.64.0-20" not in node.own
        assert len(node.own) == 2
        assert node.recorded.told("no_subnet_to_move_to") == []


@pytest.mark.trio
async def test_a_reservation_that_is_left_stays_one(autojump_clock: MockClock, tmp_path: Path) -> None:
    node = Renumbering(tmp_path, "v3", NETWORK, HALVES)
    async with node.running():
        [old] = node.own
        node.plan(Phase.PREPARE)
        await node.later()
        node.store.lease(old, ME, None)
        await sending(node)
        await node.later(5)
        assert len(node.own) == 2
        assert node.store.files[f"{PREFIX}/subnets/{old}"].expires is None


@pytest.mark.trio
async def test_an_older_lease_of_a_plan_that_is_not_known_yet_is_a_claim(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """A node was cut off until its lease ended, and hears of the leases before it hears of the plan."""
    node = Renumbering(tmp_path, "v2", NETWORK, HALVES)
    async with node.running():
        [lost] = node.own
        node.store.lease(lost.replace("-24", "-25"), PEER)
        node.store.remove(f"{PREFIX}/subnets/{lost}")
        await node.later(5)
        assert len(node.own) == 1
        assert not subnet(node.own[0]).overlaps(subnet(lost))
        assert node.agent.not_ready() is None
        [told] = node.recorded.told("lease_given_up")
        assert told["reason"] == f"the lease of {PEER} is older"
    node.agent = node.make()
    node.store.lease("10.23.9.128-25", PEER, None)
    for each in node.own:
        node.store.remove(f"{PREFIX}/subnets/{each}")
    node.store.lease("10.23.9.0-24", ME, None)
    async with node.running():
        assert "10.23.9.0-24" not in node.own, "nor is it held from the start"


@pytest.mark.trio
async def test_a_former_subnet_has_rules_as_long_as_its_lease(
    autojump_clock: MockClock, moving: Renumbering
) -> None:
    node, rules = moving, FakeRuleset()
    node.config = dataclasses.replace(node.config, ip_masq=True)
    node.agent = node.make(rules)
    async with node.running():
        [old] = node.own
        base = old.partition("-")[0]
        await sending(node)
        await node.later(5)
        assert len(node.own) == 2
        assert base in str(rules.tables["ip"])
        node.store.lease("10.23.201.0-24", PEER)
        await node.later(5)
        writes = rules.writes
        node.store.remove(f"{PREFIX}/subnets/{old}")
        await node.later(5)
        [new] = node.own
        assert base not in str(rules.tables["ip"]), "another node may have it"
        assert new.partition("-")[0] in str(rules.tables["ip"])
        assert rules.writes == writes + 1


@pytest.mark.trio
async def test_the_pods_of_the_former_range_stay_in_a_wide_network_of_hosts(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    node = Renumbering(tmp_path, "v2", NETWORK, OTHER_RANGE.replace("10.24.", "172.30."))
    node.kernel.link_list.append(Link(7, "eth1", 1500, up=True))
    node.kernel.address_list.append(Address(7, parse_ip("10.1.0.11"), 8))
    served = {"10.23.200.0/24", "172.30.7.0/25"}
    async with node.running():
        await sending(node)
        node.store.lease("172.30.7.0-25", PEER, None)
        await node.later(5)
        node.plan(Phase.FINISH)
        node.store.put(f"{PREFIX}/config", node.new)
        await node.later(REFRESH_INTERVAL + 20)
        assert node.routes().keys() == served
        node.plan(Phase.DONE)
        await node.later(REFRESH_INTERVAL + 20)
        assert node.routes().keys() == served
    node.agent = node.make()
    async with node.running():
        await node.later(REFRESH_INTERVAL + 20)
        assert node.routes().keys() == served


@pytest.mark.trio
async def test_a_range_that_is_in_use_on_this_node_is_told_before_anything_changes(
    autojump_clock: MockClock, moving: Renumbering
) -> None:
    node = moving
    node.kernel.link_list.append(Link(7, "lxdbr0", 1500, up=True))
    node.kernel.address_list.append(Address(7, parse_ip("10.24.7.1"), 24))
    async with node.running():
        node.plan(Phase.PREPARE)
        await node.later()
        assert "own address 10.24.7.1" in node.part.problem
        node.plan(Phase.RECEIVE)
        await node.later()
        assert node.part.receives == 0


@pytest.mark.trio
async def test_a_lease_in_the_new_range_that_is_not_served_is_told(
    autojump_clock: MockClock, moving: Renumbering
) -> None:
    node = moving
    async with node.running():
        node.plan(Phase.PREPARE)
        node.peer()
        await node.later()
        node.store.lease("10.24.7.0-25", "192.168.77.99", None)
        node.store.lease("10.24.7.128-25", PEER, None)
        await node.later()
        assert node.part.problem == ""
        node.kernel.refusals[AddRoute] = 22
        node.store.lease("10.24.9.0-25", PEER, None)
        await node.later()
        assert node.part.problem.startswith("10.24.9.0/25: the kernel rejected")
        node.kernel.refusals.clear()
        await node.later(30)
        assert node.part.problem == ""
        node.kernel.link_list.append(Link(7, "lxdbr0", 1500, up=True))
        node.plan(Phase.FINISH)
        await node.later()
        node.kernel.address_list.append(Address(7, parse_ip("10.24.9.1"), 25))
        await node.later(2 * REFRESH_INTERVAL)
        assert "10.24.9.0/25 overlaps the network" in node.part.problem


@pytest.mark.trio
async def test_a_node_without_a_lease_keeps_nobody_waiting_for_another_range(
    autojump_clock: MockClock, moving: Renumbering
) -> None:
    moving.drain()
    async with moving.running():
        await sending(moving)
        await moving.later(5)
        assert moving.part.sends > 0
        moving.plan(Phase.FINISH)
        await moving.later(5)
        assert moving.part.phase is Phase.FINISH


@pytest.mark.trio
async def test_a_node_goes_back_from_another_range(autojump_clock: MockClock, moving: Renumbering) -> None:
    node = moving
    async with node.running():
        [old] = node.own
        node.plan(Phase.PREPARE)
        node.peer(receives=node.store.index)
        await node.later()
        node.plan(Phase.SEND)
        await node.later(5)
        assert len(node.own) == 2
        node.plan(Phase.REVERT)
        await node.later(5)
        assert node.part.phase is Phase.REVERT
        assert f"FLANNEL_SUBNET={old.partition('0-')[0]}" in node.env.read_text()
        node.plan(Phase.ABORTED)
        await node.later(3)
        assert not node.has_part
        assert node.agent.status()["subnet"] == old.replace("-", "/")


@pytest.mark.trio
async def test_subnet_env_names_the_new_network_also_where_it_has_the_subnet_already(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    larger = '{"Network":"10.22.0.0/15","SubnetLen":24,"Backend":{"Type":"host-gw"}}'
    node = Renumbering(tmp_path, "v3", NETWORK, larger)
    async with node.running():
        before = node.own
        node.plan(Phase.PREPARE)
        node.store.lease("10.22.7.0-24", PEER, None)
        node.peer(receives=node.store.index)
        await node.later()
        node.plan(Phase.SEND)
        await node.later(5)
        node.plan(Phase.FINISH)
        await node.later(5)
        assert (node.part.phase, node.own) == (Phase.FINISH, before)
        assert "FLANNEL_NETWORK=10.22.0.0/15\n" in node.env.read_text()
        assert set(node.routes()) == {"10.23.200.0/24", "10.22.7.0/24"}


def test_the_document_of_a_node_that_starts() -> None:
    plan = Plan("one", Phase.SEND, Change.BACKEND, "old", "new")
    assert document_of(None, "stored") == "stored"
    for stored in ("old", "new"):
        found = {phase: document_of(msgspec.structs.replace(plan, phase=phase), stored) for phase in Phase}
        assert found[Phase.SEND] == found[Phase.REVERT] == "old"
        assert found[Phase.FINISH] == "new"
        assert found[Phase.DONE] == found[Phase.ABORTED] == stored
    for phase in Phase:
        assert document_of(msgspec.structs.replace(plan, phase=phase), "another one") == "another one"
