"""What is judged of a node, given what the store holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from netstore.agent.interface import Choice
from netstore.agent.kernel import Address, Link
from netstore.cli.checks.finding import State
from netstore.cli.checks.node import Node, judge
from netstore.cli.checks.stores import Known, leases
from netstore.cli.commands.leases import survey
from netstore.client.subnetstore import Entry
from netstore.network.addresses import Subnet, parse_ip
from netstore.network.config import parse_network
from netstore.ops.agent import AgentConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

MINE, OTHER = "192.168.77.11", "192.168.77.12"
SUBNET = Subnet(parse_ip("10.23.5.0"), 24)


def known(held: Mapping[str, str], backend: str = "host-gw") -> Known:
    network = parse_network(f'{{"Network":"10.23.0.0/16","Backend":{{"Type":"{backend}"}}}}'.encode())
    entries = [
        Entry(name, f'{{"PublicIP":"{ip}","BackendType":"{backend}"}}', 1, 100) for name, ip in held.items()
    ]
    return Known(network=network, records=survey(entries, network, "/n"))


def node(mtu: int | None = 1500, subnet: Subnet | None = SUBNET) -> Node:
    choice = Choice(Link(2, "eth0", 1500, up=True), Address(2, parse_ip(MINE), 24))
    return Node(choice=choice, public_ip=parse_ip(MINE), subnet=subnet, mtu=mtu)


def states(here: Node, there: Known) -> dict[str, State]:
    return {each.subject: each.state for each in judge(AgentConfig(), here, there)}


def test_all_is_well() -> None:
    there = known({"10.23.5.0-24": MINE, "10.23.6.0-24": OTHER})
    assert set(states(node(), there).values()) == {State.OK}


@pytest.mark.parametrize(
    ("held", "subnet", "state"),
    [
        ({"10.23.5.0-24": MINE}, SUBNET, State.OK),
        ({"10.23.6.0-24": MINE}, SUBNET, State.WRONG),
        ({"10.23.5.0-24": OTHER}, SUBNET, State.WRONG),
        ({"10.23.5.0-24": MINE}, None, State.WRONG),
        ({"10.23.5.0-24": OTHER}, None, State.ABSENT),
    ],
)
def test_lease_and_subnet_env(held: dict[str, str], subnet: Subnet | None, state: State) -> None:
    assert states(node(subnet=subnet), known(held))["lease"] is state


def test_what_is_not_known_is_unknown() -> None:
    assert states(node(), Known())["lease"] is State.UNKNOWN
    found = states(Node(why="no default route"), known({}))
    assert (found["interface"], found["lease"]) == (State.WRONG, State.UNKNOWN)


@pytest.mark.parametrize(
    ("backend", "mtu", "state"),
    [
        ("host-gw", 1500, State.OK),
        ("host-gw", 1501, State.WRONG),
        ("vxlan", 1450, State.OK),
        ("vxlan", 1451, State.WRONG),
        ("ipip", 1480, State.OK),
        ("wireguard", 1421, State.WRONG),
        ("gce", 1500, State.ABSENT),
        ("host-gw", None, State.UNKNOWN),
    ],
)
def test_the_mtu_of_pods(backend: str, mtu: int | None, state: State) -> None:
    assert states(node(mtu), known({"10.23.5.0-24": MINE}, backend))["mtu"] is state


def test_next_hops_are_in_the_interfaces_network() -> None:
    there = {"10.23.5.0-24": MINE, "10.23.6.0-24": "192.168.78.1"}
    assert states(node(), known(there))["next hops"] is State.WRONG
    assert states(node(), known(there, "vxlan"))["next hops"] is State.ABSENT


def test_an_address_that_holds_two_subnets_is_named() -> None:
    records = known({"10.23.5.0-24": MINE, "10.23.6.0-24": MINE, "rubbish": MINE}).records
    assert records is not None
    twice, bad = leases(records)
    assert (twice.state, bad.state) == (State.WRONG, State.WRONG)
    assert f"{MINE} holds 10.23.5.0/24 and 10.23.6.0/24" in twice.told
    assert bad.told.startswith("1 of 3 have problems: rubbish: ")
