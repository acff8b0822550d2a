"""The file subnet.env, from which flannel's CNI plugin, mk-docker-opts and the agent's next start learn the
subnet.

Names, order and format are flannel's. The file is replaced atomically.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

from netstore.network.addresses import Subnet, parse_cidr, show_ip

if TYPE_CHECKING:
    from pathlib import Path

MAX_FILE_BYTES: Final = 64 * 1024


def content(network: Subnet, subnet: Subnet, mtu: int) -> str:
    """The text of the file. FLANNEL_SUBNET is the first host address of the subnet with the prefix length."""
    return (
        f"FLANNEL_NETWORK={network}\n"
        f"FLANNEL_SUBNET={show_ip(subnet.base + 1)}/{subnet.length}\n"
        f"FLANNEL_MTU={mtu}\n"
        "FLANNEL_IPMASQ=false\n"
    )


def write(path: Path, text: str) -> None:
    """Replace the file (mode 0644); creates its folder (0755) if there is none. OSError if that fails."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("w", encoding="ascii") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(text)
        draft.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


def read(path: Path) -> tuple[Subnet | None, Subnet | None]:
    """Network and own subnet written by an earlier run; None for each that is absent or invalid."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE_BYTES).decode("utf-8", "replace")
    except OSError:
        return None, None
    values = dict(line.strip().partition("=")[::2] for line in text.splitlines() if "=" in line)
    return _subnet(values.get("FLANNEL_NETWORK")), _subnet(values.get("FLANNEL_SUBNET"))


def _subnet(text: str | None) -> Subnet | None:
    if text is None:
        return None
    try:
        return Subnet.around(*parse_cidr(text.strip().strip("\"'")))
    except ValueError:
        return None
