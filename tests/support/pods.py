"""Pods in the nodes of a `netns.Wire`: a namespace behind a veth, and which address others see of whom."""

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import TYPE_CHECKING

from tests.support.inside import inside
from tests.support.netns import ip
from tests.support.patience import seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.netns import Node


@dataclass(frozen=True)
class Host:
    """A namespace that can be reached at the address."""

    netns: str
    address: str


@contextlib.contextmanager
def pod(node: Node, subnet: str, name: str = "pod") -> Iterator[Host]:
    """The second address of a node's subnet (`10.23.4.0-24`), in a namespace of its own; the node forwards
    for it, as the first, through an interface with this name.
    """
    netns = f"{node.netns}-{name}"
    addresses = IPv4Network(subnet.replace("-", "/"))
    gateway, own, length = addresses[1], addresses[2], addresses.prefixlen
    ip("netns", "add", netns)
    try:
        ip("link", "add", name, "netns", node.netns, "type", "veth", "peer", "name", "eth0", "netns", netns)
        node.ip("address", "add", f"{gateway}/{length}", "dev", name)
        node.ip("link", "set", name, "up")
        for words in (("address", "add", f"{own}/{length}", "dev", "eth0"), ("link", "set", "eth0", "up")):
            ip(*words, netns=netns)
        ip("link", "set", "lo", "up", netns=netns)
        ip("route", "add", "default", "via", str(gateway), netns=netns)
        ip("netns", "exec", node.netns, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        yield Host(netns, str(own))
    finally:
        ip("netns", "delete", netns, check=False)


def seen(client: Host, server: Host, address: str = "", port: int = 7000, target: int = 0) -> str:
    """Connect from one host to another, or to `address` and port `target` that lead there; the client's
    address as the server sees it, "" if it cannot connect.
    """
    family = socket.AF_INET6 if ":" in server.address else socket.AF_INET
    listener = inside(server.netns, lambda: socket.create_server((server.address, port), family=family))
    answers: list[str] = []
    with listener:
        listener.settimeout(seconds(10))

        def accept() -> None:
            with contextlib.suppress(OSError):
                connection, peer = listener.accept()
                answers.append(peer[0])
                connection.close()

        acceptor = threading.Thread(target=accept)
        acceptor.start()

        def connect() -> bool:
            with socket.socket(family, socket.SOCK_STREAM) as sock:
                sock.settimeout(seconds(1))
                try:
                    sock.connect((address or server.address, target or port))
                except OSError:
                    return False
                return True

        if not inside(client.netns, connect):
            listener.shutdown(socket.SHUT_RDWR)  # the acceptor need not wait
        acceptor.join()
    return answers[0] if answers else ""
