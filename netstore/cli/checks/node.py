"""This node: its interface, its own lease and subnet.env, MTU and next hops."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from netstore.agent import envfile
from netstore.agent.localnode import find_interface
from netstore.agent.netlink import Netlink
from netstore.cli.checks.finding import absent, ok, unknown, wrong
from netstore.errors import NetstoreError
from netstore.inputfile import open_regular
from netstore.network.addresses import Subnet, parse_ip, show_ip

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from netstore.agent.interface import Choice
    from netstore.cli.checks.finding import Finding
    from netstore.cli.checks.stores import Known
    from netstore.ops.agent import AgentConfig

OVERHEAD: Final = {"host-gw": 0, "vxlan": 50, "ipip": 20, "wireguard": 80}
"""Bytes that a backend adds to each packet (RFC 7348, 5; RFC 2003, 3; WireGuard over IPv6)."""

NAMED: Final = 3
"""How many next hops are named; the rest is counted."""

_MTU: Final = re.compile(r"^FLANNEL_MTU=(\d{1,6})\s*$", re.MULTILINE)


@dataclass(slots=True)
class Node:
    """What was found of this node; None if it could not be found."""

    choice: Choice | None = None
    why: str = ""
    """Why there is no interface."""
    public_ip: int | None = None
    subnet: Subnet | None = None
    """That of subnet.env."""
    mtu: int | None = None
    """That of subnet.env."""


async def look(config: AgentConfig) -> Node:
    """Read interface, address and subnet.env, as the agent would choose them."""
    node = Node()
    try:
        with Netlink() as kernel:
            node.choice = await find_interface(config, kernel)
    except (NetstoreError, OSError) as error:
        node.why = str(error)
    if config.public_ip:
        node.public_ip = parse_ip(config.public_ip)
    elif node.choice is not None:
        node.public_ip = node.choice.address.ip
    node.subnet = envfile.read(config.subnet_file).subnet
    node.mtu = _mtu(config)
    return node


def judge(config: AgentConfig, node: Node, known: Known) -> Iterator[Finding]:
    """What is wrong with this node, given what the store holds. Pure."""
    choice = node.choice
    if choice is None:
        yield wrong("interface", node.why, "set iface in netstore.toml")
    else:
        yield ok("interface", f"{choice.link.name} with {show_ip(choice.address.ip)}, MTU {choice.link.mtu}")
    held = own_subnets(node, known)
    yield _lease(config, node, held)
    if node.subnet is None and not held:
        yield absent("mtu", "no agent holds a subnet on this machine")
        yield absent("next hops", "no agent holds a subnet on this machine")
        return
    yield _usable_mtu(node, known)
    yield _next_hops(node, known)


def own_subnets(node: Node, known: Known) -> list[Subnet] | None:
    """The subnets that this node holds in the store; None if that is not known."""
    if known.records is None or node.public_ip is None:
        return None
    found = [record.lease for record in known.records if record.lease is not None]
    return [lease.subnet for lease in found if lease.public_ip == node.public_ip]


def _lease(config: AgentConfig, node: Node, held: Sequence[Subnet] | None) -> Finding:
    subject, file = "lease", config.subnet_file
    if held is None:
        return unknown(subject, "whether this node holds a lease is not known", "see the store above")
    who = f"{show_ip(node.public_ip)}" if node.public_ip is not None else "this node"
    if not held and node.subnet is None:
        return absent(subject, f"{who} holds no subnet, and {file} does not exist")
    if not held:
        advice = "start netstore-agent, or remove the file when this node has left the network"
        return wrong(subject, f"{file} says {node.subnet}, and {who} holds no lease", advice)
    named = " and ".join(map(str, held[:NAMED]))
    if node.subnet is None:
        advice = "look at the agent's log; netstorectl subnet release when this node has left the network"
        return wrong(subject, f"{who} holds {named}, and {file} cannot be read", advice)
    if node.subnet not in held:
        advice = "restart netstore-agent and then what makes pods' networks"
        return wrong(subject, f"{who} holds {named}, and {file} says {node.subnet}", advice)
    return ok(subject, f"{who} holds {node.subnet}, as {file} says")


def _usable_mtu(node: Node, known: Known) -> Finding:
    subject = "mtu"
    if node.mtu is None or node.choice is None or known.network is None:
        return unknown(subject, "subnet.env, interface or backend are not known", "see above")
    backend = known.network.backend_type
    if backend not in OVERHEAD:
        return absent(subject, f"what backend {backend} adds to packets is not known")
    link = node.choice.link
    most = link.mtu - OVERHEAD[backend]
    told = f"pods have {node.mtu}, {link.name} {link.mtu}, backend {backend} takes {OVERHEAD[backend]}"
    if node.mtu > most:
        return wrong(subject, told, f"set the MTU of pods to {most}, or that of {link.name} higher")
    return ok(subject, told)


def _next_hops(node: Node, known: Known) -> Finding:
    subject = "next hops"
    if node.choice is None or known.network is None or known.records is None:
        return unknown(subject, "interface, network or leases are not known", "see above")
    if known.network.backend_type != "host-gw":
        return absent(subject, f"backend {known.network.backend_type} does not need them on-link")
    address = node.choice.address
    here = Subnet.around(address.ip, address.length)
    others = {
        record.lease.public_ip
        for record in known.records
        if record.lease is not None and record.lease.public_ip != node.public_ip
    }
    far = sorted(ip for ip in others if not here.holds(ip))
    if far:
        named = ", ".join(map(show_ip, far[:NAMED])) + (" and more" if len(far) > NAMED else "")
        return wrong(
            subject,
            f"{len(far)} of {len(others)} nodes are not in {here} of {node.choice.link.name}: {named}",
            "host-gw needs all nodes in one network: use another backend, or set public_ip there",
        )
    return ok(subject, f"all {len(others)} other nodes are in {here}")


def _mtu(config: AgentConfig) -> int | None:
    try:
        with open_regular(config.subnet_file) as file:
            text = file.read(envfile.MAX_FILE_BYTES).decode("utf-8", "replace")
    except OSError:
        return None
    found = _MTU.search(text)
    return None if found is None else int(found[1])
