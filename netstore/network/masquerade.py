"""The agent's own nftables tables, as documents for `nft -j` (libnftables-json(5)). Pure.

The rules are those of flannel, in the order of its latest releases. They are in a table of their own, whose
nat chain runs after those of others: what kube-proxy, a container runtime or a CNI plugin decides about a
connection holds, because the first chain that translates it is the last one that is asked.

There is no chain for the forward hook: an `accept` in one table does not keep another from dropping the
packet, so it would have no effect. `network.forwardrules` has the rules that have one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from netstore.errors import NetstoreError

if TYPE_CHECKING:
    from collections.abc import Mapping

TABLE: Final = "netstore"
"""Name of the tables `ip netstore` and `ip6 netstore`. All that is in them belongs to the agent."""

CHAIN: Final = "postrouting"

PRIORITY: Final = 105
"""After the chains of others, which have 100 (`srcnat`)."""

KUBE_PROXY_MARK: Final = 0x4000
"""kube-proxy marks packets that it masquerades itself; its --iptables-masquerade-bit is 14."""


@dataclass(frozen=True, slots=True)
class Family:
    """IPv4 or IPv6."""

    name: str
    """In nftables."""
    multicast: str
    iptables: str
    """The program for the chain FORWARD."""


IPV4: Final = Family("ip", "224.0.0.0/4", "iptables")
IPV6: Final = Family("ip6", "ff00::/8", "ip6tables")
FAMILIES: Final = (IPV4, IPV6)


class PodNetwork(NamedTuple):
    """The pod network's ranges, this node's subnet, and those that it held before and pods may still use, as
    CIDR text without host bits.
    """

    networks: tuple[str, ...]
    subnet: str
    former: tuple[str, ...] = ()


Expression = dict[str, Any]


def masquerade(wanted: Mapping[Family, PodNetwork | None], *, fully_random: bool) -> bytes:
    """The document that makes the tables of these families anew, or removes those with None. nft carries it
    out as one transaction: no packet meets a part of it.
    """
    commands: list[dict[str, Any]] = []
    for family, pods in wanted.items():
        table = {"table": {"family": family.name, "name": TABLE}}
        commands += [{"add": table}, {"delete": table}]  # to delete what is not there would be an error
        if pods is None:
            continue
        place = {"family": family.name, "table": TABLE}
        hook = {"type": "nat", "hook": "postrouting", "prio": PRIORITY, "policy": "accept"}
        commands += [{"add": table}, {"add": {"chain": {**place, "name": CHAIN, **hook}}}]
        commands += [
            {"add": {"rule": {**place, "chain": CHAIN, "comment": comment, "expr": expression}}}
            for comment, expression in _rules(family, pods, fully_random=fully_random).items()
        ]
    return msgspec.json.encode({"nftables": commands})


def rule_comments(family: Family, pods: PodNetwork) -> list[str]:
    """The comments of the rules of a table, in order. No two are the same."""
    return list(_rules(family, pods, fully_random=True))


def listed_comments(listing: bytes) -> list[str]:
    """The comments of all rules in the output of `nft -j list table`; "" for a rule without one."""
    return [rule.get("comment", "") for rule in _objects(listing, "rule")]


def listed_tables(listing: bytes) -> set[str]:
    """The families of the agent's tables in the output of `nft -j list tables`."""
    return {table.get("family", "") for table in _objects(listing, "table") if table.get("name") == TABLE}


def dropping_chains(listing: bytes, family: Family) -> list[str]:
    """The chains in the output of `nft -j list chains` that drop forwarded packets of the family unless a
    rule of theirs accepts them, as `FAMILY TABLE CHAIN`.
    """
    return [
        f"{chain.get('family')} {chain.get('table')} {chain.get('name')}"
        for chain in _objects(listing, "chain")
        if chain.get("hook") == "forward"
        and chain.get("policy") == "drop"
        and chain.get("family") in (family.name, "inet")
    ]


def iptables_chain(family: Family) -> str:
    """The name that `dropping_chains` has for the chain FORWARD of iptables: see `network.forwardrules`."""
    return f"{family.name} filter FORWARD"


def _objects(listing: bytes, kind: str) -> list[dict[str, Any]]:
    """All objects of one kind in a listing. NetstoreError if it is none."""
    try:
        document = msgspec.json.decode(listing, type=dict[str, list[dict[str, dict[str, Any]]]])
    except msgspec.MsgspecError as error:
        raise NetstoreError(
            f"what nft printed is not its JSON: {error}; install nftables 0.9.1 or newer"
        ) from None
    return [entry[kind] for entry in document.get("nftables", []) if kind in entry]


def _rules(family: Family, pods: PodNetwork, *, fully_random: bool) -> dict[str, list[Expression]]:
    """Comment -> expressions."""
    source, destination = (
        {"payload": {"protocol": family.name, "field": field}} for field in ("saddr", "daddr")
    )
    network, subnet = _addresses(*pods.networks), _addresses(pods.subnet, *pods.former)
    marked = _match({"&": [{"meta": {"key": "mark"}}, KUBE_PROXY_MARK]}, KUBE_PROXY_MARK)
    leave = {"return": None}
    hide = {"masquerade": {"flags": "fully-random"} if fully_random else None}
    return {
        "marked by kube-proxy": [marked, leave],
        "from own pods to pods": [_match(source, subnet), _match(destination, network), leave],
        "from pods to own pods": [_match(source, network), _match(destination, subnet), leave],
        "from outside to own pods": [_match(source, network, "!="), _match(destination, subnet), leave],
        "from pods to outside": [
            _match(source, network),
            _match(destination, _addresses(family.multicast), "!="),
            hide,
        ],
        "from outside to pods": [_match(source, network, "!="), _match(destination, network), hide],
    }


def _match(left: Expression, right: object, operator: str = "==") -> Expression:
    return {"match": {"op": operator, "left": left, "right": right}}


def _addresses(*ranges: str) -> Expression:
    prefixes = [
        {"prefix": {"addr": base, "len": int(length)}}
        for base, _, length in (text.partition("/") for text in ranges)
    ]
    return prefixes[0] if len(prefixes) == 1 else {"set": prefixes}
