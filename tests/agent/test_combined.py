"""What the node and its peers want together: each item is one node's, whatever the order of the changes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.agent.combined import Combined, Owner
from netstore.agent.wanted import (
    Device,
    Forwarding,
    Neighbour,
    Route,
    TunnelPeer,
    Vxlan,
    Wanted,
    Wireguard,
    WireguardPeer,
)
from netstore.network.addresses import Subnet, parse_ip

NODE = parse_ip("192.168.77.0")


def subnet(number: int) -> Subnet:
    return Subnet(parse_ip("10.23.0.0") + number * 256, 24)


def owner(number: int, node: int, created: int) -> Owner:
    return Owner(NODE + node, created, str(subnet(number)))


def vxlan(number: int, mac: int, node: int, device: str = "flannel.1") -> Wanted:
    vtep = bytes((2, 0, 0, 0, 0, mac))
    inside = subnet(number).base
    return Wanted(
        [Route(subnet(number), inside, device, onlink=True)],
        neighbours=[Neighbour(device, inside.to_bytes(4), vtep)],
        forwarding=[Forwarding(device, vtep, (NODE + node).to_bytes(4))],
    )


class Kept:
    """All changes so far."""

    def __init__(self, combined: Combined) -> None:
        self._combined = combined
        self.routes: dict[Any, Any] = {}
        self.devices: dict[Any, Any] = {}
        self.entries: dict[Any, Any] = {}
        self.peers: dict[Any, Any] = {}

    def take(self) -> None:
        for name, changed in self._combined.take_changes()._asdict().items():
            kept = getattr(self, name)
            for key, value in changed.items():
                if value is None:
                    kept.pop(key, None)
                else:
                    kept[key] = value


def test_only_what_changed_is_told() -> None:
    combined = Combined()
    for number in range(1, 4):
        combined.put(f"{number}", owner(number, number, number), vxlan(number, number, number))
    assert len(combined.take_changes().entries) == 6
    combined.put("2", owner(2, 2, 2), vxlan(2, 2, 2))
    assert combined.take_changes() == ({}, {}, {}, {})
    combined.put("2", owner(2, 9, 9), vxlan(2, 2, 9))
    mac = bytes((2, 0, 0, 0, 0, 2))
    assert combined.take_changes().entries == {("flannel.1", mac): (NODE + 9).to_bytes(4)}
    combined.remove("2")
    changes = combined.take_changes()
    assert changes.routes == {subnet(2): None}
    assert set(changes.entries.values()) == {None}
    combined.remove("2")
    assert combined.take_changes() == ({}, {}, {}, {})


def test_of_several_nodes_with_one_mac_the_oldest_is_served() -> None:
    combined = Combined()
    kept = Kept(combined)
    combined.put("2", owner(2, 2, 30), vxlan(2, 9, 2))
    combined.put("6", owner(6, 3, 40), vxlan(6, 9, 3))
    assert set(combined.refused) == {str(subnet(6))}
    combined.put("3", owner(3, 3, 20), vxlan(3, 9, 3))
    kept.take()
    assert set(kept.routes) == {subnet(3), subnet(6)}, "both leases of the node with the oldest"
    assert combined.refused == {
        str(subnet(2)): "192.168.77.3, whose lease is older, has the same MAC 02:00:00:00:00:09; remove what"
        " the backend keeps in its folder on one of them and restart its agent, or delete the older lease if"
        " its node is gone"
    }
    combined.remove("3")
    combined.remove("6")
    kept.take()
    assert set(kept.routes) == {subnet(2)}
    assert combined.refused == {}


def test_what_goes_through_another_device_is_served() -> None:
    combined = Combined()
    kept = Kept(combined)
    both = [vxlan(2, 9, 2), vxlan(52, 8, 2, "flannel-v6.1")]
    wanted = Wanted(
        [*both[0].routes, *both[1].routes],
        neighbours=[*both[0].neighbours, *both[1].neighbours],
        forwarding=[*both[0].forwarding, *both[1].forwarding],
    )
    combined.put("1", owner(1, 1, 1), vxlan(1, 9, 1))
    combined.put("2", owner(2, 2, 2), wanted)
    kept.take()
    assert set(kept.routes) == {subnet(1), subnet(52)}
    assert str(subnet(2)) in combined.refused


def test_the_node_itself_has_what_it_declares() -> None:
    combined = Combined()
    kept = Kept(combined)
    device = Device("flannel.1", Vxlan(1, b"1234", "eth0"), 1450)
    own = vxlan(9, 9, 9)
    combined.put("2", owner(2, 2, 1), vxlan(2, 9, 2))
    combined.put(
        "",
        Owner(NODE, -1, ""),
        Wanted(own.routes, {subnet(7): "a reason"}, [device], own.neighbours, own.forwarding),
    )
    kept.take()
    assert kept.devices == {"flannel.1": device}
    assert set(kept.routes) == {subnet(9)}
    assert set(combined.refused) == {str(subnet(2)), str(subnet(7))}


def test_a_node_is_one_peer_of_wireguard_with_the_subnets_of_all_its_leases() -> None:
    combined = Combined()
    kept = Kept(combined)
    device = Device("flannel-wg", Wireguard(51820, b"k" * 32), 1420)

    def peer(number: int, port: int) -> Wanted:
        far = WireguardPeer(b"p" * 32, (b"1234", port), (subnet(number),))
        return Wanted([Route(subnet(number), 0, "flannel-wg")], tunnel_peers=[TunnelPeer("flannel-wg", far)])

    combined.put("", Owner(NODE, -1, ""), Wanted(devices=[device]))
    combined.put("2", owner(2, 2, 50), peer(2, 1))
    combined.put("3", owner(3, 2, 70), peer(3, 2))
    kept.take()
    assert kept.peers == {
        ("flannel-wg", b"p" * 32): WireguardPeer(b"p" * 32, (b"1234", 2), (subnet(3), subnet(2)))
    }
    combined.put("4", owner(4, 4, 60), peer(4, 3))
    assert "has the same public key cHBw" in combined.refused[str(subnet(4))]
    combined.remove("3")
    kept.take()
    assert kept.peers["flannel-wg", b"p" * 32].allowed == (subnet(2),)
    assert set(kept.routes) == {subnet(2)}
    for name in ("2", "4"):
        combined.remove(name)
    kept.take()
    assert (kept.peers, kept.routes, combined.refused) == ({}, {}, {})


def test_peers_in_the_device_are_the_same() -> None:
    combined = Combined()
    kept = Kept(combined)
    far = WireguardPeer(b"p" * 32, (b"1234", 1), (subnet(2),))
    bare = Device("flannel-wg", Wireguard(51820, b"k" * 32), 1420)
    whole = Device("flannel-wg", Wireguard(51820, b"k" * 32, (far,)), 1420)
    combined.put("", Owner(NODE, -1, ""), Wanted(devices=[whole]))
    kept.take()
    assert kept.devices == {"flannel-wg": bare}
    assert kept.peers == {("flannel-wg", b"p" * 32): far}


drawn_changes = st.lists(
    st.tuples(
        st.integers(1, 6),  # the lease
        st.none() | st.integers(1, 3),  # its MAC, None: it goes
        st.integers(1, 3),  # its node
        st.integers(1, 4),  # when it was created
        st.booleans(),  # whether the changes are taken then
    ),
    max_size=20,
)


@given(drawn_changes)
def test_after_any_changes_it_is_as_if_all_were_declared_at_once(
    drawn: list[tuple[int, int | None, int, int, bool]],
) -> None:
    combined = Combined()
    kept = Kept(combined)
    now: dict[int, tuple[int, int, int]] = {}
    for number, mac, node, created, is_taken in drawn:
        if mac is None:
            now.pop(number, None)
            combined.remove(f"{number}")
        else:
            now[number] = (mac, node, created)
            combined.put(f"{number}", owner(number, node, created), vxlan(number, mac, node))
        if not is_taken:
            continue
        kept.take()
        served, refused, frames = expected(now)
        assert set(kept.routes) == {subnet(each) for each in served}
        assert set(combined.refused) == {str(subnet(each)) for each in refused}
        assert {key[1][-1]: value[-1] for key, value in kept.entries.items() if len(key[1]) == 6} == frames


def expected(now: dict[int, tuple[int, int, int]]) -> tuple[set[int], set[int], dict[int, int]]:
    """The leases that are served and refused, and the node that frames to each MAC go to."""
    served, refused, frames = set(), set(), {}
    for mac in {each[0] for each in now.values()}:
        sharing = {number: each for number, each in now.items() if each[0] == mac}
        oldest = min(sharing, key=lambda number: (sharing[number][2], str(subnet(number))))
        node = sharing[oldest][1]
        served |= {number for number, each in sharing.items() if each[1] == node}
        refused |= {number for number, each in sharing.items() if each[1] != node}
        frames[mac] = node
    return served, refused, frames


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("is_taken", [True, False])
def test_a_change_of_one_of_many_with_one_mac_concerns_few(
    order: int, is_taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether they come oldest first or youngest first, each in an update of its own or all in one."""
    found = given_count = 0
    find, give = Combined._find_losses, Combined._given

    def counted(*args: Any) -> None:
        nonlocal found
        found += 1
        find(*args)

    def counted_given(*args: Any) -> Any:
        nonlocal given_count
        given_count += 1
        return give(*args)

    monkeypatch.setattr(Combined, "_find_losses", counted)
    monkeypatch.setattr(Combined, "_given", counted_given)
    combined = Combined()
    kept = Kept(combined)
    count = 200
    for number in range(count)[::order]:
        combined.put(f"{number}", owner(number, number, number), vxlan(number, 9, number))
        if is_taken:
            kept.take()
    kept.take()
    assert found <= 4 * count
    assert given_count <= 12 * count
    assert len(combined.refused) == count - 1
    found = 0
    combined.remove("0")
    kept.take()
    assert found <= 2
    assert set(kept.routes) == {subnet(1)}
    assert combined.refused[str(subnet(150))].startswith("192.168.77.1, whose lease is older")


def test_a_node_with_many_leases_is_looked_at_by_its_youngest(monkeypatch: pytest.MonkeyPatch) -> None:
    combined = Combined()
    kept = Kept(combined)
    for number in range(200):
        combined.put(f"{number}", owner(number, 1, number), vxlan(number, 9, 1))
    kept.take()
    asked = 0
    give = Combined._given

    def counted(*args: Any) -> Any:
        nonlocal asked
        asked += 1
        return give(*args)

    monkeypatch.setattr(Combined, "_given", counted)
    combined.remove("100")
    kept.take()
    assert asked < 5
    assert len(kept.routes) == 199
