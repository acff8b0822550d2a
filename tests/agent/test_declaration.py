"""What plugins return: everything valid passes, everything else is refused with its name."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import pytest

from netstore.agent.backend import Prepared, Refused
from netstore.agent.declaration import checked_prepared, checked_wanted
from netstore.agent.wanted import (
    Device,
    Forwarding,
    Ipip,
    Neighbour,
    Route,
    TunnelPeer,
    Vxlan,
    Wanted,
    Wireguard,
    WireguardPeer,
)
from netstore.network.addresses import Subnet, parse_ip
from netstore.network.ipv6 import Subnet6, parse_ip6

SUBNET, SUBNET6 = Subnet(parse_ip("10.23.1.0"), 24), Subnet6(parse_ip6("fd23:0:0:1::"), 64)
LOCAL, MAC = bytes(4), bytes(6)
PEER = WireguardPeer(bytes(32), (LOCAL, 51820), (SUBNET, SUBNET6))
DEVICES = [
    Device("flannel.1", Vxlan(1, LOCAL, "eth0"), 1450, MAC, ((LOCAL, 32),)),
    Device("flannel.ipip", Ipip(LOCAL, "eth0"), 1480),
    Device("flannel-wg", Wireguard(51820, bytes(32), (PEER,)), 1420),
]
VALID = Wanted(
    [Route(SUBNET, 0, "eth0"), Route(SUBNET6, SUBNET6.base, "flannel.1", onlink=True)],
    {SUBNET: "a reason"},
    DEVICES,
    [Neighbour("flannel.1", bytes(16), MAC)],
    (Forwarding("flannel.1", MAC, LOCAL),),
    ["a warning"],
    tunnel_peers=[TunnelPeer("flannel-wg", PEER)],
)


def test_what_is_valid_passes() -> None:
    assert checked_wanted(VALID) is VALID
    assert checked_wanted(Wanted()) == Wanted()
    for prepared in (Prepared(1500), Prepared(65536, b"{}", b'{"a":1}')):
        assert checked_prepared(prepared) is prepared


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("routes", None),
        ("routes", "text"),
        ("routes", [None]),
        ("routes", [(SUBNET, 0, "eth0", False)]),
        ("routes", [Route(SUBNET, 1 << 40, "eth0")]),
        ("routes", [Route(SUBNET, -1, "eth0")]),
        ("routes", [Route(SUBNET, 0, "a name that is too long")]),
        ("routes", [Route(Subnet(SUBNET.base + 1, 24), 0, "eth0")]),
        ("routes", [Route(Subnet(0, 33), 0, "eth0")]),
        ("routes", [Route(cast("Any", "10.23.1.0/24"), 0, "eth0")]),
        ("devices", None),
        ("devices", [None]),
        ("devices", [msgspec.structs.replace(DEVICES[0], mtu=1 << 31)]),
        ("devices", [msgspec.structs.replace(DEVICES[0], mac=b"1")]),
        ("devices", [msgspec.structs.replace(DEVICES[0], kind=Vxlan(1 << 24, LOCAL, "eth0"))]),
        ("devices", [msgspec.structs.replace(DEVICES[0], addresses=((LOCAL, 33),))]),
        ("devices", [msgspec.structs.replace(DEVICES[2], kind=Wireguard(1, b"short"))]),
        ("neighbours", [Neighbour("flannel.1", b"", MAC)]),
        ("forwarding", [Forwarding("flannel.1", LOCAL, LOCAL)]),
        ("tunnel_peers", [("flannel-wg", None)]),
        ("tunnel_peers", [TunnelPeer("flannel-wg", WireguardPeer(b"short", (LOCAL, 1), ()))]),
        ("refused", ["a reason"]),
        ("refused", {"10.23.1.0/24": "a reason"}),
        ("warnings", "text"),
        ("warnings", [1]),
    ],
)
def test_what_is_not_valid_in_a_declaration_is_refused_with_its_name(name: str, value: Any) -> None:
    with pytest.raises(Refused, match=rf"the backend gave as Wanted.{name} .*; correct the plugin"):
        checked_wanted(msgspec.structs.replace(VALID, **{name: value}))


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (None, "prepare"),
        (Prepared("1500"), "Prepared.mtu"),  # type: ignore[arg-type] # it is refused
        (Prepared(1), "Prepared.mtu"),
        (Prepared(1500, "{}"), "Prepared.backend_data"),  # type: ignore[arg-type] # it is refused
        (Prepared(1500, b"{"), "Prepared.backend_data"),
        (Prepared(1500, None, {}), "Prepared.backend_v6_data"),  # type: ignore[arg-type] # it is refused
    ],
)
def test_what_is_not_valid_in_what_is_prepared_is_refused(value: object, name: str) -> None:
    with pytest.raises(Refused, match=f"the backend gave as {name} "):
        checked_prepared(value)


def test_nothing_is_no_declaration() -> None:
    with pytest.raises(Refused, match="the backend gave as declare None, not a Wanted"):
        checked_wanted(None)
