"""Settings of the kernel without which pods of different nodes cannot talk. They are looked at and never
changed: they concern the whole machine, and other programs (Docker, the CNI plugin `bridge`, sysctl.d) set
them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from netstore.network.masquerade import IPV4, IPV6

if TYPE_CHECKING:
    from collections.abc import Collection

    from netstore.network.masquerade import Family

ROOT: Final = Path("/proc/sys/net")

_FORWARDING: Final = {IPV4: "ipv4/ip_forward", IPV6: "ipv6/conf/all/forwarding"}
_BRIDGE: Final = {IPV4: "bridge/bridge-nf-call-iptables", IPV6: "bridge/bridge-nf-call-ip6tables"}


def problems(families: Collection[Family], interface: str, root: Path = ROOT) -> dict[str, str]:
    """What is wrong, by the name of the setting, with the command that corrects it."""
    found: dict[str, str] = {}
    for family in families:
        forwarding = _FORWARDING[family]
        if _read(root / forwarding) == "0":
            found[_name(forwarding)] = (
                "the kernel forwards no packets, so pods reach nothing beyond this node; "
                + _command(forwarding, 1)
            )
        bridged = _BRIDGE[family]
        value = _read(root / bridged)
        if value is None:
            found[_name(bridged)] = (
                "the kernel's module br_netfilter is not loaded; kube-proxy needs it for pods that share a "
                "bridge; modprobe br_netfilter"
            )
        elif value == "0":
            found[_name(bridged)] = (
                "packets between pods that share a bridge do not pass netfilter; kube-proxy needs that; "
                + _command(bridged, 1)
            )
    filters = [f"ipv4/conf/{each}/rp_filter" for each in ("all", interface)]
    if IPV4 in families and max(_read(root / each) or "0" for each in filters) == "1":
        found[_name(filters[1])] = (
            "the kernel drops packets whose sender it would reach by another interface (strict reverse path "
            f"filter); for nodes with several networks: {_command(filters[1], 2)}"
        )
    return found


def strict_filter(interface: str, root: Path = ROOT) -> str | None:
    """Why packets that come in by this interface are dropped if their sender is reached by another one; None
    if they are not.
    """
    settings = [f"ipv4/conf/{each}/rp_filter" for each in ("all", interface)]
    if max(_read(root / each) or "0" for each in settings) != "1":
        return None
    return (
        f"the kernel drops what comes in by {interface} if it would answer by another interface (strict"
        f" reverse path filter), as is so while the way changes: {_command(settings[1], 2)}"
    )


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _name(path: str) -> str:
    """The setting's name for sysctl(8), which has dots for slashes and the reverse."""
    return "net." + path.translate(str.maketrans("/.", "./"))


def _command(path: str, value: int) -> str:
    return f"sysctl -w {_name(path)}={value}"
