"""The text of subnet.env, flannel's file with the subnet of this node: NAME=value lines. Pure.

flannel's CNI plugin and mk-docker-opts read the file; names, order and format are flannel's.
"""

from __future__ import annotations

from netstore.network.addresses import Subnet, parse_cidr, show_ip


def encode_subnet_env(network: Subnet, subnet: Subnet, mtu: int, *, ip_masq: bool) -> str:
    """The text of the file. FLANNEL_SUBNET is the first host address of the subnet with the prefix length;
    FLANNEL_IPMASQ says that the agent masquerades, so that container runtimes and CNI plugins do not.
    """
    return (
        f"FLANNEL_NETWORK={network}\n"
        f"FLANNEL_SUBNET={show_ip(subnet.base + 1)}/{subnet.length}\n"
        f"FLANNEL_MTU={mtu}\n"
        f"FLANNEL_IPMASQ={'true' if ip_masq else 'false'}\n"
    )


def parse_subnet_env(text: str) -> tuple[Subnet | None, Subnet | None]:
    """Network and subnet of the node; None for each that is absent or invalid."""
    values = dict(line.strip().partition("=")[::2] for line in text.splitlines() if "=" in line)
    return _subnet(values.get("FLANNEL_NETWORK")), _subnet(values.get("FLANNEL_SUBNET"))


def _subnet(text: str | None) -> Subnet | None:
    if text is None:
        return None
    try:
        return Subnet.around(*parse_cidr(text.strip().strip("\"'")))
    except ValueError:
        return None
