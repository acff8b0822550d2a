"""The messages of WireGuard devices, judged by pyroute2's codec and by a kernel in memory that follows them.

The kernels that the project is tested on may lack the module `wireguard`; tests/plugins/test_wireguard.py has
traffic where it is there.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyroute2.netlink import ctrlmsg  # type: ignore[import-untyped] # has no types
from pyroute2.netlink.generic.wireguard import wgmsg  # type: ignore[import-untyped] # has no types

from netstore.agent.wanted import Wireguard, WireguardPeer
from netstore.agent.wgnetlink import (
    MAX_ALLOWED,
    MAX_MESSAGE_BYTES,
    family_request,
    get_request,
    parse_device,
    parse_family,
    set_requests,
)
from netstore.network.addresses import Subnet, parse_ip
from netstore.network.ipv6 import Subnet6, parse_ip6

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

FAMILY, IFINDEX = 31, 7
V4, V6 = parse_ip("10.23.0.0"), parse_ip6("fd23::")


def key(number: int) -> bytes:
    return number.to_bytes(4) * 8


def peer(number: int, **changes: Any) -> WireguardPeer:
    fields: dict[str, Any] = {
        "public_key": key(number),
        "endpoint": (bytes((192, 168, number >> 8 & 255, number & 255)), 51820),
        "allowed": (Subnet(V4 + (number << 8), 24), Subnet6(V6 + (number << 64), 64)),
    }
    return WireguardPeer(**(fields | changes))


def device(*peers: WireguardPeer, private: int = 99, port: int = 51820) -> Wireguard:
    return Wireguard(port, key(private), peers)


class FakeDevice:
    """The device as the kernel changes it (drivers/net/wireguard/netlink.c), reading messages by pyroute2."""

    def __init__(self) -> None:
        self.private_key, self.port = b"", 0
        self.peers: dict[bytes, dict[str, Any]] = {}
        self.touched: list[bytes] = []
        self.key_changes = 0

    def take(self, messages: Iterable[bytes]) -> None:
        for data in messages:
            assert len(data) <= MAX_MESSAGE_BYTES
            message = wgmsg(data)
            message.decode()
            assert message["header"]["length"] == len(data)
            assert (message["header"]["type"], message["header"]["flags"]) == (FAMILY, 5)
            assert (message["cmd"], message["version"]) == (1, 1)
            assert message.get_attr("WGDEVICE_A_IFINDEX") == IFINDEX
            self._set(message)

    def _set(self, message: wgmsg) -> None:
        if (private := message.get_attr("WGDEVICE_A_PRIVATE_KEY")) is not None:
            self.private_key = b64decode(private)
            self.key_changes += 1
        if (port := message.get_attr("WGDEVICE_A_LISTEN_PORT")) is not None:
            self.port = port
        if message.get_attr("WGDEVICE_A_FLAGS"):
            self.peers.clear()
        for each in message.get_attr("WGDEVICE_A_PEERS") or ():
            public = b64decode(each.get_attr("WGPEER_A_PUBLIC_KEY"))
            flags = each.get_attr("WGPEER_A_FLAGS") or 0
            self.touched.append(public)
            if flags & 1:
                self.peers.pop(public, None)
                continue
            there = self.peers.setdefault(public, {"allowed": set(), "endpoint": None})
            if flags & 2:
                there["allowed"] = set()
            if (endpoint := each.get_attr("WGPEER_A_ENDPOINT")) is not None:
                there["endpoint"] = endpoint["addr"], endpoint["port"]
            for name in ("PRESHARED_KEY", "PERSISTENT_KEEPALIVE_INTERVAL"):
                if (value := each.get_attr(f"WGPEER_A_{name}")) is not None:
                    there[name] = value
            for subnet in each.get_attr("WGPEER_A_ALLOWEDIPS") or ():
                for other in self.peers.values():
                    other["allowed"].discard(subnet["addr"])
                there["allowed"].add(subnet["addr"])

    def told(self) -> list[bytes]:
        """The payloads of the answers to WG_CMD_GET_DEVICE, by pyroute2, with few peers in each."""
        peers = [
            {
                "attrs": [
                    ["WGPEER_A_PUBLIC_KEY", _text(public)],
                    ["WGPEER_A_PRESHARED_KEY", there.get("PRESHARED_KEY", _text(bytes(32)))],
                    ["WGPEER_A_LAST_HANDSHAKE_TIME", {"tv_sec": 0, "tv_nsec": 0}],
                    [
                        "WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL",
                        there.get("PERSISTENT_KEEPALIVE_INTERVAL", 0),
                    ],
                    *_endpoint(there["endpoint"]),
                    ["WGPEER_A_ALLOWEDIPS", [_allowed(text) for text in sorted(there["allowed"])]],
                ]
            }
            for public, there in self.peers.items()
        ]
        head: list[list[Any]] = [
            ["WGDEVICE_A_IFINDEX", IFINDEX],
            ["WGDEVICE_A_LISTEN_PORT", self.port],
            ["WGDEVICE_A_PRIVATE_KEY", _text(self.private_key)],
        ]
        return [
            _payload(head),
            *(_payload([["WGDEVICE_A_PEERS", peers[at : at + 3]]]) for at in range(0, len(peers), 3)),
        ]


def _text(raw: bytes) -> bytes:
    return b64encode(raw)


def _endpoint(endpoint: tuple[str, int] | None) -> list[list[Any]]:
    return [["WGPEER_A_ENDPOINT", {"addr": endpoint[0], "port": endpoint[1]}]] if endpoint else []


def _allowed(text: str) -> dict[str, Any]:
    network = ip_network(text)
    return {
        "attrs": [
            ["WGALLOWEDIP_A_FAMILY", 2 if network.version == 4 else 10],
            ["WGALLOWEDIP_A_IPADDR", network.network_address.packed],
            ["WGALLOWEDIP_A_CIDR_MASK", network.prefixlen],
        ]
    }


def _payload(attributes: list[list[Any]]) -> bytes:
    message = wgmsg()
    message["header"]["type"] = FAMILY
    message["attrs"] = attributes
    message.encode()
    return bytes(message.data[16:])


def same(found: Wireguard, wanted: Wireguard) -> bool:
    """Equal but for the order of peers and their subnets."""

    def form(each: Wireguard) -> object:
        peers = {
            one.public_key: (one.endpoint, set(one.allowed), one.preshared_key, one.keepalive)
            for one in each.peers
        }
        return each.port, each.private_key, peers

    return form(found) == form(wanted)


@pytest.fixture
def there() -> FakeDevice:
    return FakeDevice()


def configured(there: FakeDevice, wanted: Wireguard) -> Wireguard:
    """The device after it was made anew, as the kernel tells it."""
    there.take(set_requests(FAMILY, IFINDEX, wanted, None))
    there.touched.clear()
    there.key_changes = 0
    return parse_device(there.told())


PEERS = st.lists(
    st.builds(
        lambda number, psk, keepalive, port, six: peer(
            number,
            preshared_key=psk,
            keepalive=keepalive,
            endpoint=(bytes((0xFD, *range(14), number)) if six else bytes((10, 0, 0, number)), port),
        ),
        st.integers(1, 9),
        st.none() | st.just(key(77)),
        st.sampled_from((0, 25)),
        st.sampled_from((51820, 51822)),
        st.booleans(),
    ),
    max_size=8,
    unique_by=lambda each: each.public_key,
)


@settings(max_examples=40)
@given(PEERS, PEERS)
def test_any_device_becomes_any_other_and_only_what_differs_is_touched(
    before: Sequence[WireguardPeer], after: Sequence[WireguardPeer]
) -> None:
    there = FakeDevice()
    present = configured(there, device(*before))
    assert same(present, device(*before))
    there.take(set_requests(FAMILY, IFINDEX, device(*after), present))
    assert same(parse_device(there.told()), device(*after))
    unchanged = {each.public_key for each in before if each in after}
    assert not unchanged & set(there.touched)
    assert there.key_changes == 0
    assert list(set_requests(FAMILY, IFINDEX, device(*after), parse_device(there.told()))) == []


def test_a_new_device_gets_key_port_and_the_flag_to_replace_peers() -> None:
    [data] = set_requests(FAMILY, IFINDEX, device(peer(1)), None)
    message = wgmsg(data)
    message.decode()
    assert message.get_attr("WGDEVICE_A_FLAGS") == 1
    assert b64decode(message.get_attr("WGDEVICE_A_PRIVATE_KEY")) == key(99)
    assert message.get_attr("WGDEVICE_A_LISTEN_PORT") == 51820


def test_a_changed_port_or_private_key_touches_no_peer(there: FakeDevice) -> None:
    present = configured(there, device(peer(1), peer(2)))
    there.take(set_requests(FAMILY, IFINDEX, device(peer(1), peer(2), private=5, port=7), present))
    assert (there.private_key, there.port, there.touched) == (key(5), 7, [])


def test_hundreds_of_peers_go_into_many_messages_of_which_one_replaces(there: FakeDevice) -> None:
    wanted = device(*(peer(number) for number in range(1, 701)))
    messages = list(set_requests(FAMILY, IFINDEX, wanted, None))
    assert len(messages) > 2
    assert all(len(data) <= MAX_MESSAGE_BYTES for data in messages)
    there.take(messages)
    assert same(parse_device(there.told()), wanted)


def test_a_peer_with_very_many_subnets_is_continued_in_the_next_message(there: FakeDevice) -> None:
    subnets = tuple(Subnet6(V6 + (number << 64), 64) for number in range(3 * MAX_ALLOWED + 1))
    wanted = device(peer(1, allowed=subnets), peer(2, allowed=()))
    there.take(set_requests(FAMILY, IFINDEX, wanted, None))
    assert same(parse_device(there.told()), wanted)


def test_a_subnet_that_moves_to_another_key_is_never_without_a_peer(there: FakeDevice) -> None:
    present = configured(there, device(peer(1)))
    there.take(set_requests(FAMILY, IFINDEX, device(peer(2, allowed=peer(1).allowed)), present))
    assert there.touched == [key(2), key(1)]


def test_the_endpoint_of_a_peer_that_moved_is_left_alone_until_another_is_wanted(there: FakeDevice) -> None:
    told = device(peer(1))
    configured(there, told)
    there.peers[key(1)]["endpoint"] = "203.0.113.9", 4000  # the kernel followed the peer
    roamed = parse_device(there.told())
    assert list(set_requests(FAMILY, IFINDEX, told, roamed, told)) == []
    assert (
        list(set_requests(FAMILY, IFINDEX, told, roamed)) != []
    )  # somebody else's, before this process set any
    other = device(peer(1, endpoint=(bytes((192, 168, 9, 9)), 51820)))
    there.take(set_requests(FAMILY, IFINDEX, other, roamed, told))
    assert there.peers[key(1)]["endpoint"] == ("192.168.9.9", 51820)


def test_a_preshared_key_that_is_no_longer_wanted_is_cleared(there: FakeDevice) -> None:
    present = configured(there, device(peer(1, preshared_key=key(8))))
    assert present.peers[0].preshared_key == key(8)
    there.take(set_requests(FAMILY, IFINDEX, device(peer(1)), present))
    assert parse_device(there.told()).peers[0].preshared_key is None


def test_requests_for_family_and_device_are_what_pyroute2_reads() -> None:
    asked = ctrlmsg(family_request())
    asked.decode()
    assert (asked["header"]["type"], asked["header"]["flags"], asked["cmd"]) == (16, 1, 3)
    assert asked.get_attr("CTRL_ATTR_FAMILY_NAME") == "wireguard"
    request = wgmsg(get_request(FAMILY, IFINDEX))
    request.decode()
    assert (request["header"]["type"], request["header"]["flags"], request["cmd"]) == (FAMILY, 0x301, 0)
    assert request.get_attr("WGDEVICE_A_IFINDEX") == IFINDEX


def test_the_family_is_found_in_the_answer() -> None:
    answer = ctrlmsg()
    answer["cmd"] = 1
    answer["attrs"] = [["CTRL_ATTR_FAMILY_NAME", "wireguard"], ["CTRL_ATTR_FAMILY_ID", 31]]
    answer.encode()
    assert parse_family(bytes(answer.data[16:])) == 31
    with pytest.raises(ValueError, match="names no family"):
        parse_family(b"\1\2\0\0")


@pytest.mark.parametrize("cut", [1, 5, 40, 100])
def test_what_is_cut_short_is_read_as_far_as_it_goes(cut: int, there: FakeDevice) -> None:
    configured(there, device(peer(1)))
    assert isinstance(parse_device([data[:-cut] for data in there.told()[:1]]), Wireguard)


def test_no_key_is_shown() -> None:
    shown = repr(device(peer(1, preshared_key=key(8))))
    assert str(key(99)) not in shown
    assert key(99).hex() not in shown
    assert str(key(8)) not in repr(peer(1, preshared_key=key(8)))
