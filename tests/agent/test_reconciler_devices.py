"""Devices and their entries on a fake kernel, of the kinds that a test's kernel may lack as well: made, taken
over, repaired, refused in words and removed; and the generated test of everything together.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.agent.deviceplan import (
    AddAddress,
    ChangeDevice,
    CreateDevice,
    DeleteAddress,
    DeleteDevice,
)
from netstore.agent.entryplan import DeleteEntry, Entry, SetEntry
from netstore.agent.kernel import Address, Link, Tunnel
from netstore.agent.routeplan import BOOT, METRIC6, AddRoute, BoundRoute, DeleteRoute, KernelRoute, in_kernel
from netstore.agent.wanted import (
    Device,
    Forwarding,
    Ipip,
    Neighbour,
    Route,
    Vxlan,
    Wanted,
    Wireguard,
    WireguardPeer,
)
from netstore.network.addresses import Subnet, parse_ip
from netstore.network.ipv6 import Subnet6, parse_ip6
from tests.support.kernel import ETH0, FakeKernel, tunnel_of
from tests.support.reconciler import WholeReconciler

if TYPE_CHECKING:
    from netstore.agent.kernel import Step

NETWORK, NETWORK6 = Subnet(parse_ip("10.23.0.0"), 16), Subnet6(parse_ip6("fd23::"), 48)
ALIAS = "netstore 10.23.0.0/16"
LOCAL = parse_ip("192.168.77.11").to_bytes(4, "big")
MAC = bytes.fromhex("0a0000000001")
OWN = ((parse_ip("10.23.200.0").to_bytes(4, "big"), 32),)
TUNNEL = Device("flannel.1", Vxlan(1, LOCAL, "eth0"), 1450, MAC, OWN)
IPIP = Device("flannel.ipip", Ipip(LOCAL, "eth0"), 1480, None, OWN)
PEER = WireguardPeer(b"p" * 32, (LOCAL, 51820), (Subnet(parse_ip("10.23.1.0"), 24),))
WIREGUARD = Device("flannel-wg", Wireguard(51820, b"k" * 32, (PEER,)), 1420, None, OWN)


def subnet(number: int) -> Subnet:
    return Subnet(NETWORK.base + number * 256, 24)


def vtep(number: int) -> bytes:
    return bytes([2, 0, 0, 0, 0, number])


def vxlan(*peers: int, device: Device = TUNNEL) -> Wanted:
    """What the backend vxlan declares for these peers, at the addresses 192.168.77.NUMBER."""
    name = device.name
    return Wanted(
        routes=[Route(subnet(one), subnet(one).base, name, onlink=True) for one in peers],
        devices=[device],
        neighbours=[Neighbour(name, subnet(one).base.to_bytes(4, "big"), vtep(one)) for one in peers],
        forwarding=[Forwarding(name, vtep(one), bytes([192, 168, 77, one])) for one in peers],
    )


@pytest.fixture
def kernel() -> FakeKernel:
    return FakeKernel()


@pytest.fixture
def reconciler(kernel: FakeKernel) -> WholeReconciler:
    return WholeReconciler(kernel, [NETWORK, NETWORK6], ETH0, lambda: None)


def kinds_of(steps: list[Step]) -> list[type]:
    """The kinds of steps, each run of one kind once."""
    kinds = [type(step) for step in steps]
    return [kind for position, kind in enumerate(kinds) if position == 0 or kinds[position - 1] is not kind]


def assert_vxlan(kernel: FakeKernel, *peers: int) -> None:
    """The kernel has the tunnel and what these peers need, and nothing else of it."""
    link = kernel.link("flannel.1")
    number = link.ifindex
    assert link == Link(number, "flannel.1", 1450, True, MAC, "vxlan", ALIAS, tunnel_of(TUNNEL, 2))
    assert [one for one in kernel.address_list if one.ifindex == number] == [
        Address(number, parse_ip("10.23.200.0"), 32)
    ]
    wanted = {
        (number, subnet(one).base.to_bytes(4, "big")): Entry(
            number, subnet(one).base.to_bytes(4, "big"), vtep(one)
        )
        for one in peers
    }
    wanted |= {(number, vtep(one)): Entry(number, vtep(one), bytes([192, 168, 77, one])) for one in peers}
    assert kernel.entry_table == wanted
    routes = [in_kernel(BoundRoute(subnet(one), subnet(one).base, number, onlink=True)) for one in peers]
    assert sorted(one for there in kernel.table.values() for one in there) == sorted(routes)


@pytest.mark.trio
async def test_everything_is_made_in_the_order_in_which_packets_need_it_and_removed_in_reverse(
    kernel: FakeKernel, reconciler: WholeReconciler
) -> None:
    await reconciler.set_wanted(vxlan(12, 13), set())
    assert_vxlan(kernel, 12, 13)
    assert kinds_of(kernel.steps) == [CreateDevice, ChangeDevice, AddAddress, SetEntry, AddRoute]
    made = [step.entry.is_forwarding for step in kernel.steps if isinstance(step, SetEntry)]
    assert made == [True, True, False, False], "a neighbour's MAC is of use once frames to it have a way"
    assert kernel.sends == 3
    kernel.steps.clear()
    assert await reconciler.clear() == len(kernel.steps)
    assert kinds_of(kernel.steps) == [DeleteRoute, DeleteDevice], "the device takes its entries with it"
    assert kernel.link_list == [ETH0]


@pytest.mark.trio
async def test_a_peer_goes_in_the_reverse_order(kernel: FakeKernel, reconciler: WholeReconciler) -> None:
    await reconciler.set_wanted(vxlan(12, 13), set())
    kernel.steps.clear()
    await reconciler.set_wanted(vxlan(13), set())
    assert kinds_of(kernel.steps) == [DeleteRoute, DeleteEntry]
    assert not isinstance(kernel.steps[1], DeleteEntry) or not kernel.steps[1].entry.is_forwarding
    assert_vxlan(kernel, 13)


@pytest.mark.trio
async def test_a_restart_changes_nothing(kernel: FakeKernel, reconciler: WholeReconciler) -> None:
    await reconciler.set_wanted(vxlan(12, 13), set())
    kernel.steps.clear()
    again = WholeReconciler(kernel, [NETWORK, NETWORK6], ETH0, lambda: None)
    await again.set_wanted(vxlan(12, 13), set())
    assert kernel.steps == []
    assert_vxlan(kernel, 12, 13)


@pytest.mark.trio
async def test_a_peer_with_a_new_mac_is_switched_without_a_gap(
    kernel: FakeKernel, reconciler: WholeReconciler
) -> None:
    await reconciler.set_wanted(vxlan(12), set())
    kernel.steps.clear()
    neighbour = Neighbour("flannel.1", subnet(12).base.to_bytes(4, "big"), vtep(99))
    changed = msgspec.structs.replace(
        vxlan(12), neighbours=[neighbour], forwarding=[Forwarding("flannel.1", vtep(99), LOCAL)]
    )
    await reconciler.set_wanted(changed, set())
    number = kernel.link("flannel.1").ifindex
    assert kernel.steps == [
        SetEntry(Entry(number, vtep(99), LOCAL)),
        SetEntry(Entry(number, neighbour.address, vtep(99))),
        DeleteEntry(Entry(number, vtep(12), bytes([192, 168, 77, 12]))),
    ]


@pytest.mark.trio
async def test_a_backend_is_exchanged_without_a_gap(kernel: FakeKernel, reconciler: WholeReconciler) -> None:
    plain = Wanted([Route(subnet(12), parse_ip("192.168.77.12"), "eth0")])
    await reconciler.set_wanted(plain, set())
    kernel.steps.clear()
    await reconciler.set_wanted(vxlan(12), set())
    assert_vxlan(kernel, 12)
    assert kinds_of(kernel.steps)[-2:] == [AddRoute, DeleteRoute]
    kernel.steps.clear()
    await reconciler.set_wanted(plain, set())
    assert kinds_of(kernel.steps) == [AddRoute, DeleteRoute, DeleteDevice], "the device goes last"


@pytest.mark.trio
async def test_a_tunnel_stays_while_the_one_in_its_place_cannot_be_made(
    kernel: FakeKernel, reconciler: WholeReconciler
) -> None:
    await reconciler.set_wanted(vxlan(12, 13), set())
    other = msgspec.structs.replace(TUNNEL, name="flannel.2", kind=Vxlan(2, LOCAL, "eth0"))
    kernel.refusals[CreateDevice] = errno.EADDRINUSE
    await reconciler.set_wanted(vxlan(12, device=other), set())
    old = kernel.link("flannel.1")
    assert [there[0].ifindex for there in kernel.table.values() if there] == [old.ifindex]
    assert "its UDP port is used" in reconciler.problems["10.23.12.0/24"]
    assert not reconciler.pending
    kernel.refusals[AddRoute] = errno.EINVAL
    del kernel.refusals[CreateDevice]
    await reconciler.repair(full=True)
    assert {"flannel.1", "flannel.2"} <= {one.name for one in kernel.link_list}
    kernel.refusals.clear()
    await reconciler.repair(full=True)
    assert [one.name for one in kernel.link_list] == ["eth0", "flannel.2"]
    assert [len(there) for there in kernel.table.values() if there] == [1]


harms = st.sampled_from(
    ["neighbour", "fdb", "strange fdb", "route", "address", "mtu", "mac", "down", "delete", "lose", "alias"]
)


@pytest.mark.trio
@given(st.lists(harms, max_size=6))
async def test_whatever_is_done_to_a_tunnel_it_comes_back(harms: list[str]) -> None:
    kernel = FakeKernel()
    reconciler = WholeReconciler(kernel, [NETWORK, NETWORK6], ETH0, lambda: None)
    await reconciler.set_wanted(vxlan(12, 13), set())
    await reconciler.repair()  # the address that was just set is read again once
    for harm in harms:
        there = [one for one in kernel.link_list if one.name == "flannel.1"]
        if not there:
            break
        [link] = there
        number = link.ifindex
        if harm == "neighbour" and (number, subnet(12).base.to_bytes(4, "big")) in kernel.entry_table:
            kernel.delete_entry(number, subnet(12).base.to_bytes(4, "big"))
        elif harm == "fdb":
            kernel.set_entry(Entry(number, vtep(13), bytes([192, 168, 77, 99])))
        elif harm == "strange fdb":
            kernel.set_entry(Entry(number, vtep(77), bytes([192, 168, 77, 99])))
        elif harm == "route" and kernel.table.get(subnet(12)):
            kernel.delete(kernel.table[subnet(12)][0])
        elif harm == "address":
            kernel.set_addresses(*(one for one in kernel.address_list if one.ifindex != number))
        elif harm == "mtu":
            kernel.set_link(link._replace(mtu=1400))
        elif harm == "mac":
            kernel.set_link(link._replace(mac=vtep(5)))
        elif harm == "down":
            kernel.set_link(link._replace(up=False))
        elif harm == "alias":
            kernel.set_link(link._replace(alias=""))
        elif harm == "delete":
            kernel.remove_link(number)
        elif harm == "lose":
            kernel.lose_notifications()
    await reconciler.repair()
    await reconciler.repair()
    assert not reconciler.pending
    assert_vxlan(kernel, 12, 13)


@pytest.mark.trio
async def test_the_interface_that_carries_a_tunnel_comes_back_with_another_number(
    kernel: FakeKernel, reconciler: WholeReconciler
) -> None:
    await reconciler.set_wanted(vxlan(12), set())
    kernel.remove_link(2)
    await reconciler.repair()
    assert reconciler.device_problems == {"flannel.1": "the interface eth0 that carries it does not exist"}
    assert "eth0" in reconciler.problems["10.23.12.0/24"]
    kernel.set_link(Link(9, "eth0", 1500, up=True))
    kernel.set_addresses(Address(9, parse_ip("192.168.77.11"), 24))
    await reconciler.repair()
    assert not reconciler.problems
    tunnel = kernel.link("flannel.1").tunnel
    assert tunnel is not None
    assert tunnel.link == 9


@pytest.mark.trio
@pytest.mark.parametrize("device", [TUNNEL, IPIP, WIREGUARD])
async def test_a_device_of_each_kind_is_made_changed_in_place_and_removed(
    kernel: FakeKernel, reconciler: WholeReconciler, device: Device
) -> None:
    route = Route(subnet(1), 0, device.name)
    await reconciler.set_wanted(Wanted([route], devices=[device]), set())
    link = kernel.link(device.name)
    assert (link.mtu, link.up, link.alias, link.tunnel) == (device.mtu, True, ALIAS, tunnel_of(device, 2))
    assert kernel.table[subnet(1)] == [in_kernel(BoundRoute(subnet(1), 0, link.ifindex))]
    other = ((parse_ip("10.23.201.0").to_bytes(4, "big"), 32),)
    kernel.steps.clear()
    changed = msgspec.structs.replace(device, mtu=1300, addresses=other)
    await reconciler.set_wanted(Wanted([route], devices=[changed]), set())
    assert kinds_of(kernel.steps) == [ChangeDevice, AddAddress, DeleteAddress]
    assert kernel.link(device.name).ifindex == link.ifindex
    await reconciler.set_wanted(Wanted(), set())
    assert kernel.link_list == [ETH0]


@pytest.mark.trio
async def test_the_addresses_of_a_device_that_declares_none_are_left_alone(
    kernel: FakeKernel, reconciler: WholeReconciler
) -> None:
    await reconciler.set_wanted(vxlan(), set())
    undeclared = msgspec.structs.replace(TUNNEL, addresses=None)
    await reconciler.set_wanted(vxlan(device=undeclared), set())
    assert any(one.ip == parse_ip("10.23.200.0") for one in kernel.address_list)


@pytest.mark.trio
async def test_keys_and_peers_of_wireguard_are_configured_and_repaired(
    kernel: FakeKernel, reconciler: WholeReconciler
) -> None:
    await reconciler.set_wanted(Wanted(devices=[WIREGUARD]), set())
    number = kernel.link("flannel-wg").ifindex
    assert kernel.wireguards[number] == WIREGUARD.kind
    kernel.wireguards[number] = Wireguard(51820, b"k" * 32)  # WireGuard tells nobody about its changes
    await reconciler.repair(full=True)
    assert kernel.wireguards[number] == WIREGUARD.kind
    bare = msgspec.structs.replace(WIREGUARD, kind=Wireguard(51821, b"n" * 32))
    await reconciler.set_wanted(Wanted(devices=[bare]), set())
    assert kernel.wireguards[number] == bare.kind
    assert kernel.link("flannel-wg").ifindex == number


@pytest.mark.trio
@pytest.mark.parametrize("device", [TUNNEL, IPIP])
async def test_flannels_device_with_other_parameters_is_made_anew(
    kernel: FakeKernel, reconciler: WholeReconciler, device: Device
) -> None:
    kind = "vxlan" if device is TUNNEL else "ipip"
    kernel.set_link(Link(7, device.name, 1450, up=True, kind=kind, tunnel=Tunnel(b"\1\1\1\1", 2, vni=1)))
    await reconciler.set_wanted(Wanted(devices=[device]), set())
    assert kernel.link(device.name).tunnel == tunnel_of(device, 2)
    assert not reconciler.device_problems


FOREIGN = Link(7, "tun9", 1450, up=True, kind="vxlan", tunnel=Tunnel(LOCAL, 2, vni=9, port=8472))


@pytest.mark.trio
@pytest.mark.parametrize(
    ("present", "words"),
    [
        (FOREIGN, "another program has a vxlan device with other parameters of this name"),
        (FOREIGN._replace(kind="", tunnel=None), "another program has an interface of this name"),
        (
            FOREIGN._replace(alias="netstore 10.99.0.0/16"),
            "it belongs to the agent of the network 10.99.0.0/16",
        ),
    ],
)
async def test_a_device_of_others_is_left_alone_and_told(
    kernel: FakeKernel, reconciler: WholeReconciler, present: Link, words: str
) -> None:
    kernel.set_link(present)
    device = msgspec.structs.replace(TUNNEL, name="tun9")
    await reconciler.set_wanted(vxlan(12, device=device), set())
    assert kernel.link("tun9") == present
    assert words in reconciler.device_problems["tun9"]
    assert words in reconciler.problems["10.23.12.0/24"]
    assert not any(kernel.table.values())
    assert reconciler.entries.problems
    await reconciler.set_wanted(vxlan(device=device), set())
    assert not reconciler.entries.problems
    await reconciler.repair(full=True)
    await reconciler.clear()
    assert kernel.link("tun9") == present
    kernel.remove_link(7)
    await reconciler.set_wanted(vxlan(12, device=device), set())
    assert not reconciler.problems


@pytest.mark.trio
@pytest.mark.parametrize(
    ("step", "code", "words"),
    [
        (CreateDevice, errno.EOPNOTSUPP, "load the kernel module vxlan"),
        (CreateDevice, errno.EEXIST, "another VXLAN device has its parameters"),
        (CreateDevice, errno.EINVAL, "could not be made: Invalid argument"),
        (CreateDevice, errno.EPERM, "CAP_NET_ADMIN"),
        (ChangeDevice, errno.EADDRINUSE, "its UDP port is used by another program"),
        (AddAddress, errno.EINVAL, "did not get its address"),
    ],
)
async def test_what_the_kernel_refuses_is_told_in_words_and_tried_again(
    kernel: FakeKernel, reconciler: WholeReconciler, step: type, code: int, words: str
) -> None:
    kernel.refusals[step] = code
    await reconciler.set_wanted(
        msgspec.structs.replace(vxlan(12), routes=[Route(subnet(1), parse_ip("192.168.77.12"), "eth0")]),
        set(),
    )
    assert words in reconciler.device_problems["flannel.1"]
    assert kernel.table[subnet(1)], "nothing else is affected"
    tried = len(kernel.steps)
    await reconciler.repair()
    kernel.refusals.clear()
    assert len(kernel.steps) <= tried + 1
    await reconciler.repair(full=True)
    assert not reconciler.device_problems
    assert not reconciler.problems


@pytest.mark.trio
async def test_a_device_without_ipv6_says_which_setting_it_is(
    kernel: FakeKernel, reconciler: WholeReconciler
) -> None:
    kernel.refusals[AddAddress] = errno.EACCES
    own = ((parse_ip6("fd23:0:0:9::").to_bytes(16), 128),)
    await reconciler.set_wanted(vxlan(device=msgspec.structs.replace(TUNNEL, addresses=own)), set())
    words = "IPv6 is off for it; set net.ipv6.conf.flannel/1.disable_ipv6 to 0"
    assert reconciler.device_problems == {"flannel.1": words}


@pytest.mark.trio
async def test_an_entry_that_the_kernel_refuses_is_a_problem_of_its_peer_alone(
    kernel: FakeKernel, reconciler: WholeReconciler, monkeypatch: pytest.MonkeyPatch
) -> None:
    carry_out = kernel._carry_out

    def refused(step: Step) -> int:
        if isinstance(step, SetEntry) and step.entry.key == vtep(12):
            return errno.ENOBUFS
        return carry_out(step)

    monkeypatch.setattr(kernel, "_carry_out", refused)
    await reconciler.set_wanted(vxlan(12, 13), set())
    assert reconciler.problems == {
        "10.23.12.0/24": "the kernel rejected its forwarding entry: No buffer space available"
    }
    monkeypatch.undo()
    await reconciler.repair(full=True)
    assert not reconciler.problems
    assert_vxlan(kernel, 12, 13)


@pytest.mark.trio
async def test_entries_of_a_device_that_is_not_the_backends_are_refused(
    kernel: FakeKernel, reconciler: WholeReconciler
) -> None:
    address = parse_ip("192.168.77.12")
    wanted = Wanted(
        [Route(subnet(12), address, "eth0")],
        neighbours=[Neighbour("eth0", address.to_bytes(4, "big"), vtep(12))],
    )
    await reconciler.set_wanted(wanted, set())
    assert kernel.entry_table == {}
    assert "no usable device eth0 of the backend's" in reconciler.problems["10.23.12.0/24"]


@pytest.mark.trio
async def test_what_the_kernel_learned_by_itself_is_left_to_it(
    kernel: FakeKernel, reconciler: WholeReconciler
) -> None:
    await reconciler.set_wanted(vxlan(12), set())
    number = kernel.link("flannel.1").ifindex
    learned = Entry(number, vtep(66), bytes([192, 168, 77, 66]), permanent=False)
    kernel.set_entry(learned)
    kernel.set_entry(Entry(number, vtep(12), bytes([192, 168, 77, 66]), permanent=False))
    await reconciler.repair(full=True)
    assert kernel.entry_table[number, vtep(66)] == learned
    assert kernel.entry_table[number, vtep(12)] == Entry(number, vtep(12), bytes([192, 168, 77, 12]))


@pytest.mark.trio
async def test_neighbours_of_other_devices_wake_nobody(
    kernel: FakeKernel, reconciler: WholeReconciler
) -> None:
    await reconciler.set_wanted(vxlan(12), set())
    for number in range(50):
        kernel.set_entry(Entry(2, bytes([192, 168, 77, number]), vtep(number), permanent=False))
    dumps = kernel.dumps
    await reconciler.repair()
    assert (kernel.dumps, reconciler.repairs) == (dumps, 0)


@pytest.mark.trio
async def test_a_device_that_cannot_be_removed_is_not_tried_all_the_time(
    kernel: FakeKernel, reconciler: WholeReconciler
) -> None:
    await reconciler.set_wanted(vxlan(), set())
    kernel.refusals[DeleteDevice] = errno.EPERM
    await reconciler.set_wanted(Wanted(), set())
    assert not reconciler.pending
    tried = len(kernel.steps)
    await reconciler.repair()
    assert len(kernel.steps) <= tried + 1
    kernel.refusals.clear()
    await reconciler.repair(full=True)
    assert kernel.link_list == [ETH0]


# Everything together, with a naive twin

SUBNETS: list[Subnet | Subnet6] = [subnet(1), subnet(2), Subnet6(parse_ip6("fd23:0:0:1::"), 64)]
NODES = {parse_ip("192.168.77.12"), parse_ip6("fd77::12")}
devices = st.sampled_from([TUNNEL, IPIP, WIREGUARD])


def route_of(subnet: Subnet | Subnet6, way: str) -> Route:
    if way == "plain":
        return Route(subnet, max(NODES) if isinstance(subnet, Subnet6) else min(NODES), "eth0")
    return Route(subnet, subnet.base, TUNNEL.name, onlink=True)


@st.composite
def wanted_states(draw: st.DrawFn) -> Wanted:
    chosen = draw(st.lists(devices, max_size=3, unique_by=lambda device: device.name))
    ways = draw(st.dictionaries(st.sampled_from(SUBNETS), st.sampled_from(["plain", "tunnel"])))
    names = [device.name for device in chosen]
    neighbours = draw(st.dictionaries(st.integers(1, 3), st.integers(10, 13)))
    forwarding = draw(st.dictionaries(st.integers(10, 13), st.integers(1, 3)))
    return Wanted(
        routes=[route_of(subnet, way) for subnet, way in ways.items()],
        devices=chosen,
        neighbours=[
            Neighbour(TUNNEL.name, bytes([10, 23, one, 0]), vtep(mac)) for one, mac in neighbours.items()
        ],
        forwarding=[
            Forwarding(TUNNEL.name, vtep(mac), bytes([192, 168, 77, one])) for mac, one in forwarding.items()
        ]
        if TUNNEL.name in names
        else [],
    )


@st.composite
def kernels(draw: st.DrawFn) -> FakeKernel:
    kernel = FakeKernel()
    kernel.address_list6 = [Address(2, parse_ip6("fd77::11"), 64)]
    number = 50
    for device in draw(st.lists(devices, max_size=3, unique_by=lambda device: device.name)):
        number += 1
        kind = type(device.kind).__name__.lower()
        tunnel = tunnel_of(device, draw(st.sampled_from([2, 2, 8])))
        link = Link(number, device.name, draw(st.sampled_from([device.mtu, 1300])), up=draw(st.booleans()))
        alias = draw(st.sampled_from(["", ALIAS]))
        kernel.link_list.append(link._replace(kind=kind, tunnel=tunnel, mac=vtep(1), alias=alias))
        kernel.wireguards[number] = Wireguard(1, b"")
        for address in draw(st.lists(st.sampled_from(["10.23.200.0", "10.23.9.9"]), unique=True)):
            kernel.address_list.append(Address(number, parse_ip(address), 32))
        for key in draw(st.lists(st.integers(1, 4), unique=True)):
            entry = Entry(
                number, bytes([10, 23, key, 0]), vtep(draw(st.integers(10, 13))), draw(st.booleans())
            )
            kernel.entry_table[entry.ifindex, entry.key] = entry
    for subnet_ in draw(st.lists(st.sampled_from(SUBNETS), unique=True)):
        metric = METRIC6 if isinstance(subnet_, Subnet6) else 0
        gateway = draw(st.sampled_from([max(NODES) if metric else min(NODES), subnet_.base]))
        protocol = draw(st.sampled_from([78, 78, BOOT, 4]))
        kernel.table[subnet_] = [KernelRoute(subnet_, gateway, 2, protocol, metric)]
    return kernel


@pytest.mark.trio
@given(kernels(), wanted_states(), wanted_states())
async def test_from_any_state_the_kernel_becomes_what_a_naive_reading_says(
    kernel: FakeKernel, first: Wanted, second: Wanted
) -> None:
    before = {subnet: list(routes) for subnet, routes in kernel.table.items()}
    foreign_links = [one for one in kernel.link_list if one.alias != ALIAS]
    learned = {key: one for key, one in kernel.entry_table.items() if not one.permanent}
    reconciler = WholeReconciler(kernel, [NETWORK, NETWORK6], ETH0, lambda: None)
    await reconciler.set_wanted(first, NODES)
    await reconciler.set_wanted(second, NODES)
    await reconciler.repair()
    assert not reconciler.pending
    links = {link.name: link for link in kernel.link_list}
    declared = {device.name: device for device in second.devices}
    ever = declared.keys() | {device.name for device in first.devices}
    for device in second.devices:
        assert_made(kernel, links[device.name], device)
    for name in links.keys() - declared.keys() - {"eth0"}:
        assert name not in ever, "a device that was declared once is ours, and goes when it is not any more"
        assert links[name] in foreign_links
    for subnet_ in SUBNETS:
        assert_route(kernel, links, declared, second, subnet_, before.get(subnet_, []))
    assert_entries(kernel, links, declared, second, learned)


def assert_made(kernel: FakeKernel, link: Link, device: Device) -> None:
    assert (link.mtu, link.up, link.alias) == (device.mtu, True, ALIAS)
    assert device.mac in (None, link.mac)
    assert link.tunnel == tunnel_of(device, 2)
    packed = [
        (one.ip.to_bytes(4, "big"), one.length) for one in kernel.address_list if one.ifindex == link.ifindex
    ]
    assert packed == list(device.addresses or ())
    if isinstance(device.kind, Wireguard):
        assert kernel.wireguards[link.ifindex] == device.kind


def assert_route(  # noqa: PLR0917 - the whole state
    kernel: FakeKernel,
    links: dict[str, Link],
    declared: dict[str, Device],
    wanted: Wanted,
    subnet_: Subnet | Subnet6,
    before: list[KernelRoute],
) -> None:
    there = kernel.table.get(subnet_, [])
    own = [one for one in there if one.protocol == 78]
    named = next((one for one in wanted.routes if one.subnet == subnet_), None)
    static = [one for one in before if is_foreign(one)]
    assert [one for one in there if is_foreign(one)] == static
    if named is not None and named.device != "eth0" and named.device not in links:
        assert all(one.ifindex == 2 for one in own), "what was there stays, and no way that is gone"
        return
    if named is None or static:
        assert own == []
        return
    link = links[named.device]
    if not link.up:
        return  # a device that nobody declared
    assert own == [in_kernel(BoundRoute(named.subnet, named.gateway, link.ifindex, named.onlink))]


def is_foreign(route: KernelRoute) -> bool:
    """Whether somebody else made it; none of the routes that are there before is out of a tunnel."""
    return route.protocol == 4 or (route.protocol == BOOT and route.gateway not in NODES)


def assert_entries(
    kernel: FakeKernel,
    links: dict[str, Link],
    declared: dict[str, Device],
    wanted: Wanted,
    learned: dict[tuple[int, bytes], Entry],
) -> None:
    named: dict[tuple[int, bytes], bytes] = {}
    if TUNNEL.name in declared:
        number = links[TUNNEL.name].ifindex
        named = {(number, one.address): one.mac for one in wanted.neighbours}
        named |= {(number, one.mac): one.remote for one in wanted.forwarding}
    ours = {links[name].ifindex for name in declared}
    for key, entry in kernel.entry_table.items():
        if key[0] in ours:
            assert entry.value == named[key] if entry.permanent else entry == learned[key]
    assert named.items() <= {key: one.value for key, one in kernel.entry_table.items()}.items()


@pytest.mark.trio
async def test_a_device_of_a_former_range_goes_after_the_range_was_changed_twice() -> None:
    kernel = FakeKernel()
    reconciler = WholeReconciler(kernel, [NETWORK], ETH0, lambda: None)
    await reconciler.set_wanted(Wanted(devices=[TUNNEL]), set())
    assert [link.alias for link in kernel.link_list if link.name == TUNNEL.name] == [ALIAS]
    reconciler.manage([Subnet(parse_ip("10.24.0.0"), 16)])
    reconciler.manage([Subnet(parse_ip("10.25.0.0"), 16)])
    await reconciler.set_wanted(Wanted(), set())
    assert TUNNEL.name not in [link.name for link in kernel.link_list]
