"""Which bridge a pod is attached to, on a node whose subnet has changed.

The plugin `bridge` gives its bridge one gateway address, and refuses a pod of another subnet while the bridge
has that of the former one. The pods that are there need it. So pods of the new subnet get a bridge of their
own, and the node routes between the two. Its name depends on nothing but the first bridge's name and the
subnet, so that two runs at once choose the same one.
"""

from __future__ import annotations

import errno
import fcntl
import socket
from typing import TYPE_CHECKING, Final, NamedTuple

from netstore.network.addresses import Subnet, parse_cidr

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.cni.delegate import Fields, NodeNetwork

DEFAULT_BRIDGE: Final = "cni0"
"""The plugin's own choice where the configuration names none."""

MAX_NAME: Final = 15
"""Characters of an interface's name (IFNAMSIZ of <linux/if.h>, less the final NUL)."""

_ASK_ADDRESS: Final = 0x8915
"""SIOCGIFADDR: the first IPv4 address of an interface (netdevice(7))."""
_ASK_MASK: Final = 0x891B
"""SIOCGIFNETMASK."""
_REQUEST_BYTES: Final = 40
"""sizeof(struct ifreq): the name in 16 bytes, then a socket address whose bytes 4 to 7 are the IPv4 one."""


class Bridge(NamedTuple):
    """An interface of the host. `subnet` is that of its first IPv4 address; None if it has none."""

    subnet: Subnet | None


def look(name: str) -> Bridge | None:
    """The interface with this name; None if there is none. OSError if the kernel cannot be asked."""
    request = name.encode().ljust(_REQUEST_BYTES, b"\0")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            address = fcntl.ioctl(asked, _ASK_ADDRESS, request)
            mask = fcntl.ioctl(asked, _ASK_MASK, request)
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                return Bridge(None)
            if error.errno == errno.ENODEV:
                return None
            raise
    length = int.from_bytes(mask[20:24]).bit_count()
    return Bridge(Subnet.around(int.from_bytes(address[20:24]), length))


def second_name(first: str, subnet: Subnet) -> str:
    """The name of the bridge beside `first` for pods of this subnet: its beginning, and the subnet's address
    in hexadecimal.
    """
    tail = f"-{subnet.base:08x}"
    return f"{first[: MAX_NAME - len(tail)]}{tail}"


def choose_bridge(
    delegate: Fields, node: NodeNetwork, look: Callable[[str], Bridge | None] = look
) -> str | None:
    """The bridge that a pod of the node's subnet needs instead of the one that is configured; None if that
    one will do, or what is configured has no gateway on its bridge. OSError as `look`.
    """
    first = delegate.get("bridge", DEFAULT_BRIDGE)
    has_gateway = delegate.get("isGateway") is True or delegate.get("isDefaultGateway") is True
    if delegate["type"] != "bridge" or not has_gateway or delegate.get("forceAddress") is True:
        return None
    if not (isinstance(first, str) and first.isascii() and 0 < len(first) <= MAX_NAME):
        return None  # the plugin tells what is wrong with it
    subnet = Subnet.around(*parse_cidr(node.subnets[0]))
    second = second_name(first, subnet)
    if look(second) is not None:
        return second
    found = look(first)
    if found is None or found.subnet is None or found.subnet.overlaps(subnet):
        return None
    return second
