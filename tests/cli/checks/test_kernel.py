"""The kernel's settings and modules, below a root that the test makes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from netstore.cli.checks.finding import State
from netstore.cli.checks.kernel import check_kernel

SETTINGS = {
    "proc/sys/net/ipv4/ip_forward": "1",
    "proc/sys/net/ipv4/conf/all/rp_filter": "0",
    "proc/sys/net/ipv4/conf/eth0/rp_filter": "2",
    "proc/sys/net/bridge/bridge-nf-call-iptables": "1",
}


def states(
    root: Path, changed: dict[str, str | None] | None = None, backend: str | None = "host-gw"
) -> dict[str, State]:
    """What is found with these settings, some of them changed; None leaves one out."""
    for name, value in {**SETTINGS, **(changed or {})}.items():
        if value is not None:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(f"{value}\n")
    findings = list(check_kernel(root, "eth0", backend))
    assert all(bool(each.advice) is (each.state is not State.OK) for each in findings), "each has its advice"
    return {each.subject: each.state for each in findings}


def test_all_is_well(tmp_path: Path) -> None:
    assert states(tmp_path) == dict.fromkeys(
        ("ip_forward", "rp_filter", "bridge-nf-call", "module"), State.OK
    )


@pytest.mark.parametrize(
    ("name", "value", "subject", "state"),
    [
        ("proc/sys/net/ipv4/ip_forward", "0", "ip_forward", State.WRONG),
        ("proc/sys/net/ipv4/ip_forward", None, "ip_forward", State.UNKNOWN),
        ("proc/sys/net/ipv4/conf/all/rp_filter", "1", "rp_filter", State.OK),
        ("proc/sys/net/ipv4/conf/eth0/rp_filter", "1", "rp_filter", State.WARNING),
        ("proc/sys/net/ipv4/conf/eth0/rp_filter", None, "rp_filter", State.UNKNOWN),
        ("proc/sys/net/bridge/bridge-nf-call-iptables", "0", "bridge-nf-call", State.WARNING),
        ("proc/sys/net/bridge/bridge-nf-call-iptables", None, "bridge-nf-call", State.WARNING),
    ],
)
def test_one_setting_is_another(
    tmp_path: Path, name: str, value: str | None, subject: str, state: State
) -> None:
    assert states(tmp_path, {name: value})[subject] is state


@pytest.mark.parametrize(
    ("files", "backend", "state"),
    [
        ({"sys/module/vxlan/refcnt": "0"}, "vxlan", State.OK),
        ({"modules.dep": "kernel/net/ipv4/ipip.ko.xz: x"}, "ipip", State.OK),
        ({"modules.builtin": "kernel/drivers/net/wireguard/wireguard.ko"}, "wireguard", State.OK),
        ({"modules.dep": "kernel/net/ipv4/ipip.ko"}, "vxlan", State.WRONG),
        ({}, "vxlan", State.UNKNOWN),
        ({}, None, State.UNKNOWN),
        ({}, "host-gw", State.OK),
    ],
)
def test_the_backends_module(
    tmp_path: Path, files: dict[str, str], backend: str | None, state: State
) -> None:
    folder = f"lib/modules/{os.uname().release}"
    placed: dict[str, str | None] = {
        name if "/" in name else f"{folder}/{name}": text for name, text in files.items()
    }
    assert states(tmp_path, placed, backend)["module"] is state


def test_the_settings_of_this_kernel_are_read() -> None:
    found = {each.subject: each.state for each in check_kernel(Path("/"), None, None)}
    there = Path("/proc/sys/net/ipv4/ip_forward").exists()
    assert (found["ip_forward"] is State.UNKNOWN) == (not there)
