"""Two backends as one: whose routes are declared, and what of both stays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from netstore_plugins.hostgw import HostGateway
from netstore_plugins.vxlan import VxlanTunnels

from netstore.agent.backend import Refused
from netstore.agent.sides import Side, TwoSides, View
from netstore.network.addresses import Subnet, parse_ip
from netstore.network.backends import NoOptions, VxlanOptions
from netstore.network.config import parse_network
from netstore.network.lease import SubnetLease
from netstore.network.migration import Change, Part, Phase, Plan, Told
from tests.plugins.hosts import host

if TYPE_CHECKING:
    from netstore.agent.backend import Host, Wanted

OLD = '{"Network":"10.23.0.0/16","Backend":{"Type":"host-gw"}}'
NEW = '{"Network":"10.23.0.0/16","Backend":{"Type":"vxlan"}}'
ME, PEER = "192.168.77.11", "192.168.77.12"
LEASE = SubnetLease(Subnet(parse_ip("10.23.9.0"), 24), parse_ip(PEER), "host-gw")
HOST = host(Path("/nonexistent"))
DATA = '{"VNI":1,"VtepMAC":"02:00:00:00:00:0c"}'


def view(phase: Phase, *, receives: int = 0, data: str = DATA, **more: Any) -> View:
    told = {
        ME: Told(Part("one", Phase.PREPARE, '{"VNI":1}', receives=1), 3),
        PEER: Told(Part("one", Phase.PREPARE, data, receives=receives), 4),
    }
    return View(Plan("one", phase, Change.BACKEND, OLD, NEW, **more), told, ME)


@pytest.fixture
async def sides(tmp_path: Path) -> TwoSides:
    old = Side(parse_network(OLD.encode()), HostGateway(NoOptions()), tmp_path)
    new = Side(parse_network(NEW.encode()), VxlanTunnels(VxlanOptions()), tmp_path)
    made = TwoSides(old, new, view(Phase.PREPARE))
    await made.prepare(HOST)
    return made


async def declared(sides: TwoSides, seen: View, host: Host = HOST) -> tuple[Wanted, Wanted]:
    """What the node and the peer need."""
    sides.view = seen
    return await sides.declare(host, [LEASE]), sides.declare_peer(host, LEASE)


def ways(wanted: Wanted) -> list[str]:
    return [route.device for route in wanted.routes]


@pytest.mark.trio
async def test_the_new_side_is_there_before_anything_is_sent_by_it(sides: TwoSides) -> None:
    node, peer = await declared(sides, view(Phase.RECEIVE, receives=9))
    assert [device.name for device in node.devices] == ["flannel.1"]
    assert ways(peer) == ["eth0"]
    assert len(peer.neighbours) == len(peer.forwarding) == 1
    assert (await sides.prepare(HOST)).mtu == 1450


@pytest.mark.trio
async def test_a_peer_is_sent_to_by_the_new_side_when_it_receives(sides: TwoSides) -> None:
    before, peer = await declared(sides, view(Phase.SEND, receives=2))
    assert ways(peer) == ["eth0"]
    after, peer = await declared(sides, view(Phase.SEND, receives=3))
    assert ways(peer) == ["flannel.1"]
    assert before.peers_depend_on != after.peers_depend_on
    same, _ = await declared(sides, view(Phase.SEND, receives=5))
    assert same.peers_depend_on == after.peers_depend_on, "nothing that matters here has changed"
    _, peer = await declared(sides, view(Phase.CANARY, receives=5))
    assert ways(peer) == ["eth0"]
    _, peer = await declared(sides, view(Phase.CANARY, receives=5, canaries=(ME,)))
    assert ways(peer) == ["flannel.1"]
    _, peer = await declared(sides, view(Phase.REVERT, receives=5))
    assert (ways(peer), len(peer.forwarding)) == (["eth0"], 1)


@pytest.mark.trio
async def test_a_peer_that_the_new_side_cannot_serve_is_told_unless_it_is_left_out(sides: TwoSides) -> None:
    _, peer = await declared(sides, view(Phase.RECEIVE, data=""))
    assert ways(peer) == ["eth0"]
    assert list(sides.refused) == [PEER]
    await declared(sides, view(Phase.RECEIVE, data="", without=(PEER,)))
    assert sides.refused == {}


@pytest.mark.trio
async def test_a_newcomer_at_the_end_is_served_by_its_lease(sides: TwoSides) -> None:
    lease = msgspec.structs.replace(LEASE, backend_type="vxlan", backend_data=DATA.encode())
    seen = view(Phase.FINISH)
    seen = seen._replace(told={ME: seen.told[ME]})
    sides.view = seen
    await sides.declare(HOST, [lease])
    assert ways(sides.declare_peer(HOST, lease)) == ["flannel.1"]


@pytest.mark.trio
@pytest.mark.parametrize("phase", [Phase.FINISH, Phase.DONE])
async def test_a_peer_whose_part_is_gone_is_served_by_the_side_of_its_lease(
    sides: TwoSides, phase: Phase
) -> None:
    seen = view(phase)
    gone = seen._replace(told={ME: seen.told[ME]})
    node, peer = await declared(sides, gone)
    assert (ways(peer), list(peer.refused), len(node.devices)) == (["eth0"], [], 1)
    written = msgspec.structs.replace(LEASE, backend_type="vxlan", backend_data=DATA.encode())
    assert ways(sides.declare_peer(HOST, written)) == ["flannel.1"]
    broken = msgspec.structs.replace(LEASE, backend_type="vxlan", backend_data=b"[]")
    peer = sides.declare_peer(HOST, broken)
    assert (ways(peer), "host-gw" in str(peer.refused)) == ([], False), "what the new side says is told"


@pytest.mark.trio
async def test_a_device_that_cannot_be_twice_is_refused_and_the_old_side_stays(tmp_path: Path) -> None:
    port = NEW.replace('"vxlan"', '"vxlan","Port":4789')
    old = Side(parse_network(NEW.encode()), VxlanTunnels(VxlanOptions()), tmp_path)
    new = Side(parse_network(port.encode()), VxlanTunnels(VxlanOptions(port=4789)), tmp_path)
    sides = TwoSides(old, new, view(Phase.PREPARE))
    await sides.prepare(HOST)
    seen = view(Phase.PREPARE)
    sides.view = seen._replace(told={})
    node = await sides.declare(HOST, [])
    assert ([device.name for device in node.devices], "cannot be there twice" in sides.fault) == (
        ["flannel.1"],
        True,
    )
    sides.view = seen
    with pytest.raises(Refused, match=r"flannel\.1"):
        await sides.declare(HOST, [])


@pytest.mark.trio
async def test_of_one_device_the_mtu_is_that_of_the_side_in_use(tmp_path: Path) -> None:
    low = NEW.replace('"vxlan"', '"vxlan","MTU":1400')
    old = Side(parse_network(NEW.encode()), VxlanTunnels(VxlanOptions()), tmp_path)
    new = Side(parse_network(low.encode()), VxlanTunnels(VxlanOptions(mtu=1400)), tmp_path)
    sides = TwoSides(old, new, view(Phase.PREPARE))
    await sides.prepare(HOST)
    assert json.loads(old.prepared.backend_data or b"") == json.loads(new.prepared.backend_data or b"")  # type: ignore[union-attr] # both are prepared
    for phase, mtu in ((Phase.RECEIVE, 1450), (Phase.SEND, 1350), (Phase.REVERT, 1450)):
        node, _ = await declared(sides, view(phase, receives=9))
        assert [device.mtu for device in node.devices] == [mtu]
