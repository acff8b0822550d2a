"""The reconciler on the real kernel, in a network namespace: tunnels are made, taken over, repaired and
removed.

This needs the kernel's VXLAN; IPIP and WireGuard devices are tested with the fake kernel.
"""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio

from netstore.agent.netlink import BATCH, Netlink
from netstore.agent.wanted import Device, Forwarding, Neighbour, Route, Vxlan, Wanted
from netstore.network.addresses import Subnet, parse_ip, show_ip
from netstore.network.ipv6 import Subnet6, parse_ip6
from tests.support.inside import inside
from tests.support.netns import Wire
from tests.support.patience import seconds
from tests.support.reconciler import WholeReconciler

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from tests.support.netns import Node

NETWORK, NETWORK6 = Subnet(parse_ip("10.32.0.0"), 12), Subnet6(parse_ip6("fd23::"), 48)
ALIAS = "netstore 10.32.0.0/12"
MAC = bytes.fromhex("0a0000000001")
DEVICE = "flannel.1"

pytestmark = [pytest.mark.root, pytest.mark.peer("ip"), pytest.mark.peer("bridge")]


@pytest.fixture
def node() -> Iterator[Node]:
    with Wire(nodes=1, length=16) as wire:
        wire.members[0].ip("address", "add", "fd77::11/64", "dev", "eth0", "nodad")
        yield wire.members[0]


def subnet(number: int) -> Subnet:
    return Subnet(NETWORK.base + number * 256, 24)


def subnet6(number: int) -> Subnet6:
    return Subnet6(NETWORK6.base + (number << 64), 64)


def vtep(number: int) -> bytes:
    return bytes([2, 0, 0, 0, number >> 8, number & 255])


def device(node: Node, **changes: Any) -> Device:
    tunnel = Vxlan(1, parse_ip(node.address).to_bytes(4, "big"), "eth0")
    made = Device(DEVICE, tunnel, 1450, MAC, ((subnet(200).base.to_bytes(4, "big"), 32),))
    return msgspec.structs.replace(made, **changes)


def remote(number: int) -> int:
    return parse_ip("192.168.79.0") + number


def vxlan(node: Node, *peers: int, **changes: Any) -> Wanted:
    """What the backend vxlan declares for these peers."""
    return Wanted(
        routes=[Route(subnet(one), subnet(one).base, DEVICE, onlink=True) for one in peers],
        devices=[device(node, **changes)],
        neighbours=[Neighbour(DEVICE, subnet(one).base.to_bytes(4, "big"), vtep(one)) for one in peers],
        forwarding=[Forwarding(DEVICE, vtep(one), remote(one).to_bytes(4, "big")) for one in peers],
    )


def run(node: Node, call: Callable[[WholeReconciler], Awaitable[None]]) -> None:
    """Call it with a reconciler in the node."""

    async def main() -> None:
        with Netlink() as kernel:
            [eth0] = [link for link in await kernel.links() if link.name == "eth0"]
            await call(WholeReconciler(kernel, [NETWORK, NETWORK6], eth0, lambda: None))

    inside(node.netns, lambda: trio.run(main))


def shown(node: Node, name: str = DEVICE) -> dict[str, Any]:
    """What `ip` tells of a device."""
    found: dict[str, Any] = json.loads(node.ip("-j", "-d", "address", "show", "dev", name))[0]
    return found


def neighbours(node: Node) -> dict[str, str]:
    listed = json.loads(node.ip("-j", "neighbour", "show", "dev", DEVICE, "nud", "permanent"))
    return {each["dst"]: each["lladdr"] for each in listed}


def forwarding(node: Node) -> dict[str, str]:
    listed = json.loads(node.run("bridge", "-j", "fdb", "show", "dev", DEVICE))
    return {each["mac"]: each["dst"] for each in listed if "dst" in each}


def assert_in_place(node: Node, *peers: int) -> None:
    """Routes, neighbours and forwarding entries are those of these peers, and no others are there."""
    assert neighbours(node) == {show_ip(subnet(one).base): vtep(one).hex(":") for one in peers}
    assert forwarding(node) == {vtep(one).hex(":"): show_ip(remote(one)) for one in peers}
    assert node.agent_routes() == {str(subnet(one)): show_ip(subnet(one).base) for one in peers}


def test_a_tunnel_is_made_with_its_address_and_its_peers_and_removed_again(node: Node) -> None:
    async def work(reconciler: WholeReconciler) -> None:
        await reconciler.set_wanted(vxlan(node, 1, 2), set())
        assert not reconciler.problems
        assert not reconciler.device_problems
        made = shown(node)
        data = made["linkinfo"]["info_data"]
        assert (data["id"], data["local"], data["link"], data["port"]) == (1, node.address, "eth0", 8472)
        assert (data["learning"], made["address"], made["mtu"]) == (False, MAC.hex(":"), 1450)
        assert made["ifalias"] == ALIAS
        assert [each["local"] for each in made["addr_info"] if each["family"] == "inet"] == ["10.32.200.0"]
        assert "UP" in made["flags"]
        assert_in_place(node, 1, 2)
        route = node.routes("proto", "78")["10.32.1.0/24"]
        assert (route["dev"], route["flags"]) == (DEVICE, ["onlink"])
        sends = reconciler.repairs
        await reconciler.repair()
        assert reconciler.repairs == sends, "what the agent did is nothing to repair"
        await reconciler.set_wanted(vxlan(node, 2), set())
        assert_in_place(node, 2)
        assert await reconciler.clear() > 0

    run(node, work)
    assert DEVICE not in node.ip("link")
    assert not node.agent_routes()


def test_what_is_deleted_or_changed_by_hand_comes_back(node: Node) -> None:
    async def work(reconciler: WholeReconciler) -> None:
        await reconciler.set_wanted(vxlan(node, 1, 2), set())
        await reconciler.repair()
        harms: tuple[tuple[str, ...], ...] = (
            ("ip", "neighbour", "delete", "10.32.1.0", "dev", DEVICE),
            ("ip", "neighbour", "replace", "10.32.2.0", "lladdr", "02:00:00:00:00:99", "dev", DEVICE),
            ("bridge", "fdb", "delete", vtep(1).hex(":"), "dev", DEVICE),
            ("bridge", "fdb", "replace", vtep(2).hex(":"), "dst", "192.168.77.9", "dev", DEVICE),
            ("bridge", "fdb", "add", "02:00:00:00:00:77", "dst", "192.168.77.9", "dev", DEVICE),
            ("ip", "route", "delete", "10.32.1.0/24"),
            ("ip", "address", "flush", "dev", DEVICE),
            ("ip", "link", "set", DEVICE, "mtu", "1400"),
            ("ip", "link", "set", DEVICE, "address", "02:00:00:00:00:55"),
            ("ip", "link", "set", DEVICE, "down"),
            ("ip", "link", "delete", DEVICE),
        )
        for words in harms:
            node.run(*words)
            await reconciler.repair()
            assert not reconciler.pending, words
            assert_in_place(node, 1, 2)
            made = shown(node)
            assert (made["address"], made["mtu"], "UP" in made["flags"]) == (MAC.hex(":"), 1450, True), words
            assert [one["local"] for one in made["addr_info"] if one["family"] == "inet"] == ["10.32.200.0"]

    run(node, work)


def test_flannels_device_with_all_it_has_is_taken_over_without_a_gap(node: Node) -> None:
    tunnel = ("id", "1", "dev", "eth0", "local", node.address, "dstport", "8472", "nolearning")
    node.ip("link", "add", DEVICE, "address", MAC.hex(":"), "mtu", "1450", "type", "vxlan", *tunnel)
    node.ip("address", "add", "10.32.200.0/32", "dev", DEVICE)
    node.ip("link", "set", DEVICE, "up")
    mac = vtep(1).hex(":")
    node.ip("neighbour", "add", "10.32.1.0", "lladdr", mac, "dev", DEVICE, "nud", "permanent")
    node.run("bridge", "fdb", "add", mac, "dst", show_ip(remote(1)), "dev", DEVICE)
    node.ip("route", "add", "10.32.1.0/24", "via", "10.32.1.0", "dev", DEVICE, "onlink")
    node.ip("route", "add", "10.32.5.0/24", "via", "10.32.5.0", "dev", DEVICE, "onlink")
    before = shown(node)["ifindex"]

    async def work(reconciler: WholeReconciler) -> None:
        await reconciler.set_wanted(vxlan(node, 1), set())
        assert not reconciler.problems

    run(node, work)
    assert (shown(node)["ifindex"], shown(node)["ifalias"]) == (before, ALIAS)
    assert_in_place(node, 1)
    assert "10.32.1.0/24 via 10.32.1.0 dev flannel.1 proto 78 onlink" in node.ip("route")
    assert node.ip("route").count("10.32.1.0/24") == 1


def test_a_device_with_other_parameters_is_made_anew_if_it_is_ours_or_flannels(node: Node) -> None:
    node.ip("link", "add", DEVICE, "type", "vxlan", "id", "1", "dev", "eth0", "dstport", "4789")

    async def work(reconciler: WholeReconciler) -> None:
        await reconciler.set_wanted(vxlan(node, 1), set())
        first = shown(node)["ifindex"]
        assert_in_place(node, 1)
        tunnel = Vxlan(1, parse_ip(node.address).to_bytes(4, "big"), "eth0", port=4790)
        await reconciler.set_wanted(vxlan(node, 1, kind=tunnel, mtu=1400), set())
        made = shown(node)
        assert (made["linkinfo"]["info_data"]["port"], made["mtu"]) == (4790, 1400)
        assert made["ifindex"] != first
        assert_in_place(node, 1)

    run(node, work)


def test_a_device_of_another_program_is_never_touched(node: Node) -> None:
    node.ip("link", "add", "vx9", "type", "vxlan", "id", "9", "dev", "eth0", "dstport", "4789")
    before = shown(node, "vx9")

    async def work(reconciler: WholeReconciler) -> None:
        wanted = Wanted(
            [Route(subnet(1), subnet(1).base, "vx9", onlink=True)],
            devices=[device(node, name="vx9")],
        )
        await reconciler.set_wanted(wanted, set())
        assert reconciler.device_problems == {
            "vx9": "another program has a vxlan device with other parameters of this name; remove it with:"
            " ip link delete vx9"
        }
        assert "no usable device vx9: another program has" in reconciler.problems["10.32.1.0/24"]
        await reconciler.clear()

    run(node, work)
    assert shown(node, "vx9") == before
    assert not node.agent_routes()


def test_a_peer_that_moves_or_changes_its_mac_is_switched_in_place(node: Node) -> None:
    async def work(reconciler: WholeReconciler) -> None:
        await reconciler.set_wanted(vxlan(node, 1), set())
        neighbour = Neighbour(DEVICE, subnet(1).base.to_bytes(4, "big"), vtep(7))
        moved = msgspec.structs.replace(
            vxlan(node, 1),
            neighbours=[neighbour],
            forwarding=[Forwarding(DEVICE, vtep(7), remote(8).to_bytes(4, "big"))],
        )
        await reconciler.set_wanted(moved, set())
        assert neighbours(node) == {"10.32.1.0": vtep(7).hex(":")}
        assert forwarding(node) == {vtep(7).hex(":"): show_ip(remote(8))}

    run(node, work)


def test_ipv6_routes_of_both_kinds(node: Node) -> None:
    gateway, other = parse_ip6("fd77::12"), parse_ip6("fd77::13")
    node.ip("-6", "route", "add", "fd23:0:0:1::/64", "via", "fd77::12", "dev", "eth0")
    node.ip("-6", "route", "add", "fd23:0:0:2::/64", "via", "fd77::12", "dev", "eth0")
    node.ip("-6", "route", "add", "fd23:0:0:3::/64", "via", "fd77::99", "dev", "eth0", "proto", "static")

    def routes() -> dict[str, tuple[str, str, int]]:
        listed = json.loads(node.ip("-6", "-j", "-N", "route", "show", "root", "fd23::/48"))
        return {one["dst"]: (one["protocol"], one["gateway"], one["metric"]) for one in listed}

    async def work(reconciler: WholeReconciler) -> None:
        wanted = Wanted([Route(subnet6(one), gateway, "eth0") for one in (1, 2, 3, 4)])
        await reconciler.set_wanted(wanted, {gateway, other})
        ours = ("78", "fd77::12", 1024)
        static = ("4", "fd77::99", 1024)
        assert list(reconciler.problems) == ["fd23:0:0:3::/64"]
        assert routes() == {
            "fd23:0:0:1::/64": ours,
            "fd23:0:0:2::/64": ours,
            "fd23:0:0:3::/64": static,
            "fd23:0:0:4::/64": ours,
        }
        await reconciler.repair()
        node.ip("-6", "route", "replace", "fd23:0:0:1::/64", "via", "fd77::13", "dev", "eth0", "proto", "78")
        node.ip("-6", "route", "append", "fd23:0:0:2::/64", "via", "fd77::13", "dev", "eth0", "proto", "78")
        node.ip("-6", "route", "delete", "fd23:0:0:3::/64")
        node.ip("-6", "route", "delete", "fd23:0:0:4::/64")
        await reconciler.repair()
        assert routes() == {f"fd23:0:0:{one}::/64": ours for one in (1, 2, 3, 4)}
        assert not reconciler.pending
        wanted = Wanted([Route(subnet6(1), other, "eth0"), Route(subnet6(2), parse_ip6("fd99::1"), "eth0")])
        await reconciler.set_wanted(wanted, {gateway, other})
        assert routes()["fd23:0:0:1::/64"] == ("78", "fd77::13", 1024)
        assert "next hop fd99::1 is not on-link" in reconciler.problems["fd23:0:0:2::/64"]
        await reconciler.clear()
        assert routes() == {}

    run(node, work)


def test_a_next_hop_that_another_program_adds_to_a_route_of_ours_leads_to_no_end_of_repairs(
    node: Node,
) -> None:
    async def work(reconciler: WholeReconciler) -> None:
        await reconciler.set_wanted(Wanted([Route(subnet6(1), parse_ip6("fd77::12"), "eth0")]), set())
        node.ip("-6", "route", "append", "fd23:0:0:1::/64", "via", "fd77::9", "dev", "eth0", "proto", "4")
        await reconciler.repair()
        assert not reconciler.pending
        assert "fd77::12" in node.ip("-6", "route", "show", "fd23:0:0:1::/64")

    run(node, work)


def test_a_thousand_peers_are_a_few_sends(node: Node) -> None:
    peers = range(300, 1300)

    async def work(reconciler: WholeReconciler) -> None:
        kernel = reconciler.kernel
        sends: list[int] = []
        apply = kernel.apply

        async def counted(steps: Any) -> dict[int, int]:
            sends.append(-(-len(steps) // BATCH))
            return await apply(steps)

        kernel.apply = counted  # type: ignore[method-assign] # it counts, and is the kernel's else
        await reconciler.set_wanted(vxlan(node, *peers), set())
        assert sum(sends) <= 3 + -(-3 * len(peers) // BATCH)
        assert not reconciler.problems
        assert_in_place(node, *peers)
        await reconciler.clear()

    run(node, work)
    assert DEVICE not in node.ip("link")


@pytest.mark.peer("ping")
def test_two_nodes_change_between_routes_and_a_tunnel_without_losing_a_packet() -> None:
    """A ping every 10 ms: plain routes, the tunnel's device beside them, the tunnel, and back."""
    with Wire(nodes=2) as wire:
        first, second = wire.members
        for number, member in ((1, first), (2, second)):
            member.ip("address", "add", f"10.32.{number}.1/32", "dev", "lo")

        def declare(me: int, *, device: bool, tunnel: bool) -> Wanted:
            own, other = wire.members[me - 1], wire.members[2 - me]
            peer, address = subnet(3 - me), parse_ip(other.address)
            local = Vxlan(1, parse_ip(own.address).to_bytes(4), "eth0")
            plain = Wanted([Route(peer, address, "eth0")])
            if not device:
                return plain
            return Wanted(
                [Route(peer, peer.base, DEVICE, onlink=True)] if tunnel else plain.routes,
                devices=[Device(DEVICE, local, 1450, vtep(me), ((subnet(me).base.to_bytes(4), 32),))],
                neighbours=[Neighbour(DEVICE, peer.base.to_bytes(4), vtep(3 - me))],
                forwarding=[Forwarding(DEVICE, vtep(3 - me), address.to_bytes(4))],
            )

        def switch(*, device: bool, tunnel: bool) -> None:
            for me, member in ((1, first), (2, second)):

                async def work(reconciler: WholeReconciler, me: int = me) -> None:
                    await reconciler.set_wanted(declare(me, device=device, tunnel=tunnel), set())
                    assert not reconciler.problems

                run(member, work)

        switch(device=False, tunnel=False)
        words = ("ping", "-q", "-c", "200", "-i", "0.01", "-I", "10.32.1.1", "10.32.2.1")
        command = ("ip", "netns", "exec", first.netns, *words)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as ping:
            while ping.poll() is None:
                for device, tunnel in ((True, False), (True, True), (True, False), (False, False)):
                    switch(device=device, tunnel=tunnel)
                    assert (DEVICE in first.ip("route", "get", "10.32.2.1")) is tunnel
            told = ping.communicate(timeout=seconds(10))[0]
        assert "200 packets transmitted, 200 received" in told
