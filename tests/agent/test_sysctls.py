"""Which settings of the kernel are told as problems."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from netstore.agent.sysctls import problems
from netstore.network.masquerade import IPV4, IPV6

if TYPE_CHECKING:
    from pathlib import Path

GOOD = {
    "ipv4/ip_forward": "1",
    "ipv6/conf/all/forwarding": "1",
    "bridge/bridge-nf-call-iptables": "1",
    "bridge/bridge-nf-call-ip6tables": "1",
    "ipv4/conf/all/rp_filter": "0",
    "ipv4/conf/eth0.7/rp_filter": "0",
}


def write(root: Path, settings: dict[str, str]) -> None:
    for name, value in settings.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")


@pytest.mark.parametrize(
    ("setting", "value", "name", "command"),
    [
        ("ipv4/ip_forward", "0", "net.ipv4.ip_forward", "sysctl -w net.ipv4.ip_forward=1"),
        (
            "ipv6/conf/all/forwarding",
            "0",
            "net.ipv6.conf.all.forwarding",
            "sysctl -w net.ipv6.conf.all.forwarding=1",
        ),
        ("bridge/bridge-nf-call-iptables", "0", "net.bridge.bridge-nf-call-iptables", "call-iptables=1"),
        ("bridge/bridge-nf-call-ip6tables", "0", "net.bridge.bridge-nf-call-ip6tables", "call-ip6tables=1"),
        (
            "ipv4/conf/all/rp_filter",
            "1",
            "net.ipv4.conf.eth0/7.rp_filter",
            "net.ipv4.conf.eth0/7.rp_filter=2",
        ),
        ("ipv4/conf/eth0.7/rp_filter", "1", "net.ipv4.conf.eth0/7.rp_filter", "rp_filter=2"),
    ],
)
def test_a_wrong_value_is_told_with_the_command(
    tmp_path: Path, setting: str, value: str, name: str, command: str
) -> None:
    write(tmp_path, GOOD)
    assert problems([IPV4, IPV6], "eth0.7", tmp_path) == {}
    write(tmp_path, {setting: value})
    found = problems([IPV4, IPV6], "eth0.7", tmp_path)
    assert list(found) == [name]
    assert command in found[name]


def test_a_module_that_is_not_loaded_is_told(tmp_path: Path) -> None:
    write(tmp_path, {name: value for name, value in GOOD.items() if not name.startswith("bridge")})
    assert (
        "modprobe br_netfilter" in problems([IPV4], "eth0.7", tmp_path)["net.bridge.bridge-nf-call-iptables"]
    )


def test_a_loose_filter_of_all_interfaces_wins_over_a_strict_one(tmp_path: Path) -> None:
    write(tmp_path, GOOD | {"ipv4/conf/all/rp_filter": "2", "ipv4/conf/eth0.7/rp_filter": "1"})
    assert problems([IPV4], "eth0.7", tmp_path) == {}


def test_a_family_that_is_not_served_is_not_looked_at(tmp_path: Path) -> None:
    write(tmp_path, GOOD | {"ipv6/conf/all/forwarding": "0", "bridge/bridge-nf-call-ip6tables": "0"})
    assert problems([IPV4], "eth0.7", tmp_path) == {}
