"""Which bridge a pod is attached to when the node's subnet has changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from netstore.cni.bridges import MAX_NAME, Bridge, choose_bridge, look, second_name
from netstore.cni.delegate import NodeNetwork
from netstore.network.addresses import Subnet, parse_ip

if TYPE_CHECKING:
    from netstore.cni.delegate import Fields

NODE = NodeNetwork(["10.24.0.0/16"], ["10.24.1.0/24", "fd24::/64"], 1450, masquerades=True)
SECOND = "cni0-0a180100"
DELEGATE: Fields = {"type": "bridge", "isGateway": True}


def at(address: str, length: int = 24) -> Bridge:
    return Bridge(Subnet.around(parse_ip(address), length))


@pytest.mark.parametrize(
    ("there", "chosen"),
    [
        ({}, None),
        ({"cni0": Bridge(None)}, None),
        ({"cni0": at("10.24.1.1")}, None),
        ({"cni0": at("10.24.1.1", 25)}, None),  # a second gateway inside one range would take its packets
        ({"cni0": at("10.23.1.1")}, SECOND),
        ({"cni0": at("10.23.1.1"), SECOND: at("10.24.1.1")}, SECOND),
        ({SECOND: at("10.24.1.1")}, SECOND),  # pods are there; the first bridge was removed
        ({"br7": at("10.23.1.1")}, None),
    ],
)
def test_a_bridge_with_the_gateway_of_another_subnet_is_left(
    there: dict[str, Bridge], chosen: str | None
) -> None:
    assert choose_bridge(DELEGATE, NODE, there.get) == chosen


@pytest.mark.parametrize(
    "fields",
    [
        {"type": "ptp"},
        {"isGateway": False},
        {"forceAddress": True},
        {"bridge": 7},
        {"bridge": ""},
        {"bridge": "a" * 16},
        {"bridge": "\ud800"},
    ],
)
def test_what_needs_no_second_bridge_or_is_for_the_plugin_to_refuse(fields: Fields) -> None:
    assert choose_bridge(DELEGATE | fields, NODE, lambda _: at("10.23.1.1")) is None


def test_a_default_gateway_counts_and_the_name_is_that_of_the_configured_bridge() -> None:
    fields: Fields = {"type": "bridge", "isDefaultGateway": True, "bridge": "a-long-name-of-1"[:15]}
    there = {"a-long-name-of-": at("10.23.1.1")}
    assert choose_bridge(fields, NODE, there.get) == "a-long-0a180100"[:6] + "-0a180100"


def test_names_fit_the_kernel_and_differ() -> None:
    names = {
        second_name(first, Subnet(parse_ip(base), 24))
        for first in ("cni0", "br")
        for base in ("10.0.0.0", "10.0.1.0", "255.255.255.0")
    }
    assert len(names) == 6
    assert all(len(name) <= MAX_NAME for name in names)


def test_the_kernel_is_asked() -> None:
    assert look("lo") == at("127.0.0.1", 8)
    assert look("nothere") is None
