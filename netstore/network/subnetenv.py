"""The text of subnet.env, flannel's file with the subnets of this node: NAME=value lines. Pure.

flannel's CNI plugin and mk-docker-opts read the file; names, order and format are flannel's. One line may
follow that is the agent's own, and that they ignore.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from netstore.network.addresses import Subnet, parse_cidr, show_ip
from netstore.network.ipv6 import Subnet6, parse_cidr6, show_ip6
from netstore.network.lease import NodeSubnets

_RESERVATION: Final = "NETSTORE_RESERVATION"


class SubnetEnv(NamedTuple):
    """What a file says of networks and subnets; None for each that is absent or invalid. `is_reservation`:
    the subnets were held by a lease that never expires.
    """

    network: Subnet | None = None
    subnet: Subnet | None = None
    network6: Subnet6 | None = None
    subnet6: Subnet6 | None = None
    is_reservation: bool = False

    @property
    def subnets(self) -> NodeSubnets | None:
        """The node's subnets, as a lease has them."""
        return None if self.subnet is None else NodeSubnets(self.subnet, self.subnet6)


def encode_subnet_env(
    network: Subnet,
    subnet: Subnet,
    mtu: int,
    *,
    ip_masq: bool,
    ipv6: tuple[Subnet6, Subnet6] | None = None,
    is_reservation: bool = False,
) -> str:
    """The text of the file. A node's subnet is written as its first host address with the prefix length.

    `ipv6` is network and subnet of IPv6 in a dual-stack network. FLANNEL_IPMASQ says that the agent
    masquerades, so that container runtimes and CNI plugins do not.
    """
    lines = [f"FLANNEL_NETWORK={network}", f"FLANNEL_SUBNET={show_ip(subnet.base + 1)}/{subnet.length}"]
    if ipv6 is not None:
        network6, subnet6 = ipv6
        lines += [
            f"FLANNEL_IPV6_NETWORK={network6}",
            f"FLANNEL_IPV6_SUBNET={show_ip6(subnet6.base + 1)}/{subnet6.length}",
        ]
    lines += [f"FLANNEL_MTU={mtu}", f"FLANNEL_IPMASQ={'true' if ip_masq else 'false'}"]
    if is_reservation:
        lines.append(f"{_RESERVATION}=true")
    return "".join(f"{line}\n" for line in lines)


def parse_subnet_env(text: str) -> SubnetEnv:
    """Networks and subnets of the node."""
    values = dict(line.strip().partition("=")[::2] for line in text.splitlines() if "=" in line)
    return SubnetEnv(
        _subnet(values.get("FLANNEL_NETWORK")),
        _subnet(values.get("FLANNEL_SUBNET")),
        _subnet6(values.get("FLANNEL_IPV6_NETWORK")),
        _subnet6(values.get("FLANNEL_IPV6_SUBNET")),
        is_reservation=_bare(values.get(_RESERVATION, "")) == "true",
    )


def _subnet(text: str | None) -> Subnet | None:
    if text is None:
        return None
    try:
        return Subnet.around(*parse_cidr(_bare(text)))
    except ValueError:
        return None


def _subnet6(text: str | None) -> Subnet6 | None:
    if text is None:
        return None
    try:
        return Subnet6.around(*parse_cidr6(_bare(text)))
    except ValueError:
        return None


def _bare(text: str) -> str:
    return text.strip().strip("\"'")
