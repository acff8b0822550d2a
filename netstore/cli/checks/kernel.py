"""The kernel's settings and modules that pod networks need (Linux, Documentation/networking/ip-sysctl)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from netstore.cli.checks.finding import ok, unknown, warning, wrong

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from netstore.cli.checks.finding import Finding

MODULES: Final = {"vxlan": "vxlan", "ipip": "ipip", "wireguard": "wireguard"}
"""Backend -> the kernel module that it needs."""

MAX_BYTES: Final = 2 * 1024 * 1024
"""Most that is read of a file. Lists of modules have about one MiB; procfs refuses to read 4 MiB or more."""


def check_kernel(root: Path, interface: str | None, backend: str | None) -> Iterator[Finding]:
    """Forwarding, reverse path filter, bridges and the backend's module. `root` is where /proc, /sys and
    /lib/modules are.
    """
    yield _forwarding(root)
    yield _reverse_path(root, interface)
    yield _bridges(root)
    yield _module(root, backend)


def _forwarding(root: Path) -> Finding:
    subject, value = "ip_forward", _read(root / "proc/sys/net/ipv4/ip_forward")
    if value is None:
        return unknown(subject, "net.ipv4.ip_forward cannot be read", "run it where /proc is mounted")
    if value != "1":
        return wrong(
            subject,
            f"net.ipv4.ip_forward is {value}: this node forwards nothing to its pods",
            "sysctl -w net.ipv4.ip_forward=1, and keep it in /etc/sysctl.d",
        )
    return ok(subject, "net.ipv4.ip_forward is 1")


def _reverse_path(root: Path, interface: str | None) -> Finding:
    subject, names = "rp_filter", ["all", *([interface] if interface else [])]
    values = {name: _read(root / f"proc/sys/net/ipv4/conf/{name}/rp_filter") for name in names}
    lost = [name for name, value in values.items() if value is None]
    if lost:
        return unknown(
            subject, f"net.ipv4.conf.{lost[0]}.rp_filter cannot be read", "run it where /proc is mounted"
        )
    told = ", ".join(f"{name} {value}" for name, value in values.items())
    if max(int(value or 0) if (value or "0").isdigit() else 0 for value in values.values()) == 1:
        # The greater value of all and the interface counts.
        return warning(
            subject,
            f"strict ({told}): what arrives by another interface than answers would leave by is dropped",
            f"sysctl -w net.ipv4.conf.{interface or 'all'}.rp_filter=2 if nodes have several interfaces",
        )
    return ok(subject, told)


def _bridges(root: Path) -> Finding:
    subject, path = "bridge-nf-call", root / "proc/sys/net/bridge/bridge-nf-call-iptables"
    value = _read(path)
    if value is None and _exists(path) is not False:
        return unknown(subject, "net.bridge.bridge-nf-call-iptables cannot be read", "run it as root")
    if value is None:
        return warning(
            subject,
            "br_netfilter is not loaded: Services that a pod reaches on its own node may not work",
            "modprobe br_netfilter, and keep it in /etc/modules-load.d, if pods are on a bridge",
        )
    if value != "1":
        return warning(
            subject,
            f"net.bridge.bridge-nf-call-iptables is {value}: rules of kube-proxy are not applied on a bridge",
            "sysctl -w net.bridge.bridge-nf-call-iptables=1 if pods are on a bridge",
        )
    return ok(subject, "net.bridge.bridge-nf-call-iptables is 1")


def _module(root: Path, backend: str | None) -> Finding:
    subject = "module"
    if backend is None:
        return unknown(subject, "the backend is not known, so neither is its module", "see network config")
    module = MODULES.get(backend)
    if module is None:
        return ok(subject, f"backend {backend} needs none that is looked for")
    if _exists(root / f"sys/module/{module}"):
        return ok(subject, f"{module} is there")
    folder = root / "lib/modules" / os.uname().release
    lists = [_read(folder / name) for name in ("modules.dep", "modules.builtin")]
    if any(text is not None and f"/{module}.ko" in text for text in lists):
        return ok(subject, f"{module} is loaded when it is used")
    if all(text is None for text in lists):
        return unknown(subject, f"whether {module} can be loaded is not known here", f"modprobe {module}")
    return wrong(
        subject,
        f"this kernel has no module {module}, which backend {backend} needs",
        "install the kernel's extra modules, or another backend",
    )


def _read(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES).decode("utf-8", "replace").strip()
    except OSError:
        return None


def _exists(path: Path) -> bool | None:
    """None if that cannot be found out."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return None
    return True
