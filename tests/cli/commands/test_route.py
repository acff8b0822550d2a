"""`netstorectl route diff`: every difference is seen, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from netstore.agent.kernel import Link
from netstore.agent.localsocket import Routes, WantedRoute
from netstore.agent.routeplan import KernelRoute
from netstore.cli.commands import route
from netstore.cli.commands.route import differences
from netstore.network.addresses import Subnet, parse_cidr, parse_ip

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.commands.conftest import Run

LINKS = [Link(2, "eth0", 1500, up=True), Link(3, "cni0", 1500, up=True)]


def kernel(
    subnet: str, gateway: str | None, *, ifindex: int = 2, protocol: int = 78, metric: int = 0
) -> KernelRoute:
    ip = parse_ip(gateway) if gateway else 0
    return KernelRoute(Subnet.around(*parse_cidr(subnet)), ip, ifindex, protocol, metric)


def wanted(*routes: tuple[str, str]) -> Routes:
    return Routes(
        True,
        [WantedRoute(subnet, gateway, "eth0") for subnet, gateway in routes],
        ["10.23.0.0/16"],
        {"10.23.6.0/24": "the gateway is not on-link"},
    )


def test_each_kind_of_difference() -> None:
    told = wanted(*((f"10.23.{number}.0/24", f"192.168.77.{number}") for number in (5, 6, 7, 8)))
    there = [
        kernel("10.23.5.0/24", "192.168.77.5"),
        kernel("10.23.7.0/24", "192.168.77.9", protocol=3),
        kernel("10.23.8.0/24", "192.168.77.8", metric=5),
        kernel("10.23.9.0/24", "192.168.77.9"),
        kernel("10.23.1.0/24", None, ifindex=3, protocol=2),
        kernel("10.99.9.0/24", "192.168.77.9"),
        kernel("10.99.0.0/16", "192.168.77.1", protocol=3),
    ]
    assert [
        (str(each.subnet), each.state, each.kernel, each.reason) for each in differences(told, there, LINKS)
    ] == [
        ("10.23.6.0/24", "missing", None, "the gateway is not on-link"),
        ("10.23.7.0/24", "different", "via 192.168.77.9 dev eth0 proto 3", None),
        ("10.23.8.0/24", "different", "via 192.168.77.8 dev eth0 proto 78 metric 5", None),
        ("10.23.9.0/24", "left over", "via 192.168.77.9 dev eth0 proto 78", None),
    ]


@pytest.mark.parametrize(
    ("node", "seen"),
    [
        (None, ["10.23.5.0/24", "10.23.6.0/24", "10.23.9.0/24"]),
        ("192.168.77.5", ["10.23.5.0/24"]),
        ("10.23.6.0/24", ["10.23.6.0/24"]),
        ("192.168.77.9", ["10.23.9.0/24"]),
    ],
)
def test_one_node_or_all(
    run: Run, monkeypatch: pytest.MonkeyPatch, node: str | None, seen: list[str]
) -> None:
    async def ask(_path: Path) -> object:
        told = wanted(("10.23.5.0/24", "192.168.77.5"), ("10.23.6.0/24", "192.168.77.6"))
        return told, [kernel("10.23.9.0/24", "192.168.77.9")], LINKS

    monkeypatch.setattr(route, "_ask", ask)
    told = run("route", "diff", *([node] if node else []), "-o", "json")
    assert [each["subnet"] for each in told.document["differences"]] == seen
    assert told.status == (1 if seen else 0)


@pytest.mark.parametrize("node", ["192.168.77.77", "10.23.77.0/24", "worker-77"])
def test_a_node_that_nobody_knows(run: Run, monkeypatch: pytest.MonkeyPatch, node: str) -> None:
    async def ask(_path: Path) -> object:
        return wanted(("10.23.5.0/24", "192.168.77.5")), [kernel("10.23.5.0/24", "192.168.77.5")], LINKS

    monkeypatch.setattr(route, "_ask", ask)
    told = run("route", "diff", node)
    assert (told.status, told.out) == (3, "")
    assert (
        told.err
        == f"netstorectl: {node}: the agent wants no route to such a node; see subnet ls for the nodes\n"
    )
    assert run("route", "diff", "192.168.77.5").status == run("route", "diff", "10.23.5.0-24").status == 0


def test_no_agent_is_there(run: Run, tmp_path: Path) -> None:
    told = run("route", "diff", "--socket", str(tmp_path / "none.sock"))
    assert told.status == 3
    assert "No such file or directory; is netstore-agent running?" in told.err


def test_an_agent_that_does_not_know_its_routes_yet(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask(_path: Path) -> object:
        return Routes(False, [], [], {}), [], LINKS

    monkeypatch.setattr(route, "_ask", ask)
    told = run("route", "diff")
    assert (told.status, told.out) == (4, "")
