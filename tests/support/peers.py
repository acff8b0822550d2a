"""Debian's programs as independent peers: a real etcd with its v2 API on, and its etcdctl."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Final

from tests.support.daemon import START_SECONDS, Daemon, free_port, launch
from tests.support.patience import seconds

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PACKAGE_OF: Final = {
    "etcd": "etcd-server",
    "etcdctl": "etcd-client",
    "wrk": "wrk",
    "mandoc": "mandoc",
    "bridge": "iproute2",
    "ip": "iproute2",
    "ping": "iputils-ping",
    "ps": "procps",
    "setpriv": "util-linux",
    "systemd-analyze": "systemd",
    "jq": "jq",
    "bash": "bash",
    "curl": "curl",
    "h2load": "nghttp2-client",
    "make": "make",
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "nft": "nftables",
    "iptables": "iptables",
    "ip6tables": "iptables",
    "/usr/lib/cni/portmap": "containernetworking-plugins",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "openssl": "openssl",
    "valgrind": "valgrind",
    "dpkg-buildpackage": "dpkg-dev",
    "dh": "debhelper",
    "lintian": "lintian",
    "kubectl": "kubernetes-client",
}
"""Program -> the Debian package that has it."""


def missing(*programs: str) -> str | None:
    """Why a test that needs these programs cannot run here, or None; names the packages to install.

    KeyError for a program that `PACKAGE_OF` does not know: then nobody would install it either.
    """
    package_of = {program: PACKAGE_OF[program] for program in programs}
    absent = [program for program in programs if shutil.which(program) is None]
    if not absent:
        return None
    packages = " ".join(package_of[program] for program in absent)
    return f"{', '.join(absent)} not installed (apt-get install {packages})"


def etcd_command(
    data_dir: Path, *flags: str, host: str = "127.0.0.1", port: int = 0, program: str = "etcd"
) -> tuple[str, ...]:
    """The words that start a one-member etcd with v2 on; a port left at 0 is picked free."""
    client = f"http://{host}:{port or free_port()}"
    peer = f"http://{host}:{free_port()}"
    return (
        *(program, "--enable-v2", "--name", "default", "--data-dir", str(data_dir)),
        *("--listen-client-urls", client),
        *("--advertise-client-urls", client),
        *("--listen-peer-urls", peer),
        *("--initial-advertise-peer-urls", peer),
        *("--initial-cluster", f"default={peer}"),
        *flags,
    )


def start_etcd(
    tmp_path: Path,
    *flags: str,
    host: str = "127.0.0.1",
    port: int = 0,
    netns: str | None = None,
    limit: float = START_SECONDS,
    program: str = "etcd",
) -> Daemon:
    """Start Debian's etcd, or the `program` named, with v2 on and return when it serves; see
    `daemon.start_netstored` for the rest.
    """
    folder = tmp_path / "etcd.data"
    port = port or free_port()
    command = etcd_command(folder, *flags, host=host, port=port, program=program)
    return launch(
        command,
        f"http://{host}:{port}",
        folder,
        tmp_path / "etcd.log",
        netns=netns,
        limit=limit,
    )


def etcdctl(
    url: str, *words: str, stdin: str = "", environment: Mapping[str, str] | None = None, limit: float = 20.0
) -> subprocess.CompletedProcess[str]:
    """Run Debian's etcdctl in its v2 mode against `url`."""
    return subprocess.run(
        ("etcdctl", "--endpoints", url, *words),
        env={**os.environ, "ETCDCTL_API": "2", **(environment or {})},
        input=stdin,
        capture_output=True,
        timeout=seconds(limit),
        check=False,
        text=True,
    )


def main() -> None:
    """Print the Debian packages that are not installed here, on one line."""
    absent = {package for program, package in PACKAGE_OF.items() if not shutil.which(program)}
    sys.stdout.write(" ".join(sorted(absent)) + "\n")


if __name__ == "__main__":
    main()
