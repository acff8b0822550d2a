"""The masquerade rules, compared with flannel's by a simple interpreter of both."""

from __future__ import annotations

import json
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.errors import NetstoreError
from netstore.network.masquerade import (
    IPV4,
    IPV6,
    TABLE,
    Family,
    PodNetwork,
    dropping_chains,
    iptables_chain,
    listed_comments,
    listed_tables,
    masquerade,
    rule_comments,
)

PODS = {
    IPV4: PodNetwork(("10.23.0.0/16",), "10.23.42.0/24"),
    IPV6: PodNetwork(("fd23::/48",), "fd23:0:0:2::/64"),
}

FLANNEL = """
-m mark --mark 0x4000/0x4000 -j RETURN
-s S -d N -j RETURN
-s N -d S -j RETURN
! -s N -d S -j RETURN
-s N ! -d M -j MASQUERADE
! -s N -d N -j MASQUERADE
"""
"""The chain FLANNEL-POSTRTG of flannel 0.28. N: the network, S: the node's subnet, M: multicast."""

ADDRESSES = {
    IPV4: [
        "10.23.42.9",
        "10.23.42.255",
        "10.23.7.1",
        "10.23.255.1",
        "10.24.0.1",
        "192.168.7.1",
        "224.0.0.5",
        "8.8.8.8",
    ],
    IPV6: ["fd23:0:0:2::9", "fd23:0:0:7::1", "fd23:0:1::1", "2001:db8::1", "ff02::5", "fe80::1"],
}


def commands(document: bytes, kind: str) -> list[dict[str, Any]]:
    entries = json.loads(document)["nftables"]
    return [entry["add"][kind] for entry in entries if kind in entry.get("add", {})]


def flannels(family: Family, source: str, destination: str, mark: int) -> str:
    """What flannel's chain does with a packet."""
    pods = PODS[family]
    ranges = {"N": pods.networks[0], "S": pods.subnet, "M": family.multicast}
    for line in FLANNEL.split("\n")[1:-1]:
        words, negated, fits = iter(line.split()), False, True
        for word in words:
            if word == "!":
                negated = True
                continue
            if word in ("-s", "-d"):
                inside = ip_address(source if word == "-s" else destination) in ip_network(
                    ranges[next(words)]
                )
                fits, negated = fits and inside != negated, False
            elif word == "--mark":
                value, mask = (int(each, 16) for each in next(words).split("/"))
                fits = fits and mark & mask == value
            elif word == "-j" and fits:
                return next(words)
    return "RETURN"


def ours(document: bytes, source: str, destination: str, mark: int) -> str:
    """What the rendered chain does with a packet."""
    for rule in commands(document, "rule"):
        *matches, verdict = rule["expr"]
        if all(matched(each["match"], source, destination, mark) for each in matches):
            return "MASQUERADE" if "masquerade" in verdict else "RETURN"
    return "RETURN"


def matched(match: dict[str, Any], source: str, destination: str, mark: int) -> bool:
    left, right = match["left"], match["right"]
    if "&" in left:
        return bool(mark & left["&"][1] == right)
    address = ip_address(source if left["payload"]["field"] == "saddr" else destination)
    prefixes = [each["prefix"] for each in right.get("set", [right])]
    inside = any(address in ip_network(f"{each['addr']}/{each['len']}") for each in prefixes)
    return inside is (match["op"] == "==")


@pytest.mark.parametrize("family", [IPV4, IPV6], ids=["ipv4", "ipv6"])
def test_every_packet_fares_as_with_flannel(family: Family) -> None:
    document = masquerade({family: PODS[family]}, fully_random=True)
    seen = set()
    for source in ADDRESSES[family]:
        for destination in ADDRESSES[family]:
            for mark in (0, 0x2000, 0x4000, 0xC001):
                expected = flannels(family, source, destination, mark)
                assert ours(document, source, destination, mark) == expected, (source, destination, mark)
                seen.add(expected)
    assert seen == {"RETURN", "MASQUERADE"}


@given(
    st.ip_addresses(v=4, network="10.16.0.0/12"),
    st.ip_addresses(v=4, network="10.16.0.0/12") | st.ip_addresses(v=4),
)
def test_any_packet_fares_as_with_flannel(source: object, destination: object) -> None:
    document = masquerade({IPV4: PODS[IPV4]}, fully_random=False)
    assert ours(document, str(source), str(destination), 0) == flannels(
        IPV4, str(source), str(destination), 0
    )


def test_two_networks_are_one_to_each_other() -> None:
    pods = PodNetwork(("10.23.0.0/16", "10.99.0.0/16"), "10.99.1.0/24")
    document = masquerade({IPV4: pods}, fully_random=False)
    assert ours(document, "10.99.1.7", "10.23.1.1", 0) == "RETURN"
    assert ours(document, "10.23.1.1", "10.99.1.7", 0) == "RETURN"
    assert ours(document, "10.99.1.7", "10.98.0.1", 0) == "MASQUERADE"


@pytest.mark.parametrize(("fully_random", "flags"), [(True, {"flags": "fully-random"}), (False, None)])
def test_ports_are_random_unless_that_is_off(fully_random: bool, flags: object) -> None:
    document = masquerade({IPV4: PODS[IPV4]}, fully_random=fully_random)
    found = [rule["expr"][-1] for rule in commands(document, "rule")]
    assert [each["masquerade"] for each in found if "masquerade" in each] == [flags, flags]


def test_a_table_is_replaced_as_a_whole_and_removed_in_the_same_transaction() -> None:
    document = json.loads(masquerade({IPV4: PODS[IPV4], IPV6: None}, fully_random=True))["nftables"]
    verbs = [(next(iter(entry)), next(iter(next(iter(entry.values()))))) for entry in document]
    assert verbs[:4] == [("add", "table"), ("delete", "table"), ("add", "table"), ("add", "chain")]
    assert verbs[-2:] == [("add", "table"), ("delete", "table")]
    named = {
        each["table"] if "table" in each else each["name"]
        for entry in document
        for kind in entry.values()
        for each in kind.values()
    }
    assert named == {TABLE}, "no other table is named"


def test_the_comments_tell_the_rules_apart() -> None:
    comments = rule_comments(IPV4, PODS[IPV4])
    assert len(set(comments)) == len(comments) == 6
    document = masquerade({IPV4: PODS[IPV4]}, fully_random=False)
    listing = json.dumps({"nftables": [{"rule": rule} for rule in commands(document, "rule")]}).encode()
    assert listed_comments(listing) == comments
    assert listed_comments(b'{"nftables":[{"metainfo":{}},{"rule":{"expr":[]}}]}') == [""]


def test_listings_are_read() -> None:
    tables = [
        {"family": "ip", "name": TABLE},
        {"family": "inet", "name": "fw"},
        {"family": "ip6", "name": "filter"},
    ]
    listing = json.dumps({"nftables": [{"metainfo": {}}, *({"table": each} for each in tables)]}).encode()
    assert listed_tables(listing) == {"ip"}
    with pytest.raises(NetstoreError, match="not its JSON"):
        listed_tables(b"table ip netstore {")


def test_chains_that_drop_are_found() -> None:
    def chain(family: str, table: str, name: str, **rest: str) -> dict[str, object]:
        return {"chain": {"family": family, "table": table, "name": name, **rest}}

    listing = json.dumps(
        {
            "nftables": [
                chain("ip", "filter", "FORWARD", hook="forward", policy="drop"),
                chain("inet", "fw", "fwd", hook="forward", policy="drop"),
                chain("inet", "fw", "in", hook="input", policy="drop"),
                chain("ip6", "six", "fwd", hook="forward", policy="drop"),
                chain("ip", "kind", "fwd", hook="forward", policy="accept"),
                chain("ip", "kind", "jumped"),
            ]
        }
    ).encode()
    assert dropping_chains(listing, IPV4) == [iptables_chain(IPV4), "inet fw fwd"]
    assert dropping_chains(listing, IPV6) == ["inet fw fwd", "ip6 six fwd"]
