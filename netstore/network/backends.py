"""The backends that flannel defined: the options of those that netstore has too, and the names of the others.
Pure.

This is the only place that lists them: the store checks network configs by it, the command shows it, and the
options of the plugins are these classes. Field names are flannel's; they match in any case and unknown ones
are ignored, as in Go. A default that flannel computes is 0 or None here.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec

_Port = Annotated[int, msgspec.Meta(ge=0, le=65_535)]
_Mtu = Annotated[int, msgspec.Meta(ge=0, le=65_535)]
_Vni = Annotated[int, msgspec.Meta(ge=0, le=(1 << 24) - 1)]
"""RFC 7348, section 5: 24 bits."""


class HostGatewayOptions(msgspec.Struct, frozen=True):
    """`host-gw`: a route to each node's subnet through that node. It has no options."""


class VxlanOptions(msgspec.Struct, frozen=True, rename="pascal"):
    """`vxlan`: Ethernet in UDP between the nodes (RFC 7348). Port 0 is the kernel's default, MTU 0 what the
    interface allows.
    """

    vni: _Vni = msgspec.field(default=1, name="VNI")
    port: _Port = 0
    gbp: bool = msgspec.field(default=False, name="GBP")
    learning: bool = False
    direct_routing: bool = False
    vtep_mac: str = msgspec.field(default="", name="VtepMAC")
    mtu: _Mtu = msgspec.field(default=0, name="MTU")


class IpipOptions(msgspec.Struct, frozen=True, rename="pascal"):
    """`ipip`: IP in IP between the nodes (RFC 2003)."""

    direct_routing: bool = False


class WireguardOptions(msgspec.Struct, frozen=True, rename="pascal"):
    """`wireguard`: encrypted tunnels between the nodes. The interval is in seconds, 0 for none."""

    listen_port: _Port = 51_820
    listen_port_v6: _Port = 51_821
    psk: str = msgspec.field(default="", name="PSK")
    mtu: _Mtu = msgspec.field(default=0, name="MTU")
    persistent_keepalive_interval: Annotated[int, msgspec.Meta(ge=0, le=65_535)] = 0
    mode: Literal["", "separate", "auto", "ipv4", "ipv6"] = "separate"


class AllocOptions(msgspec.Struct, frozen=True):
    """`alloc`: a lease and nothing else. It has no options."""


class ExtensionOptions(msgspec.Struct, frozen=True, rename="pascal"):
    """`extension`: commands of the operator make the data path. An empty one is not run."""

    pre_startup_command: str = ""
    post_startup_command: str = ""
    shutdown_command: str = ""
    subnet_add_command: str = ""
    subnet_remove_command: str = ""


BUILT_IN: Final[dict[str, type[msgspec.Struct]]] = {
    "host-gw": HostGatewayOptions,
    "vxlan": VxlanOptions,
    "ipip": IpipOptions,
    "wireguard": WireguardOptions,
    "alloc": AllocOptions,
    "extension": ExtensionOptions,
}
"""Type in the network config, in lower case -> the options of its Backend section without `Type`."""

FOREIGN: Final = frozenset(("udp", "ipsec", "aws-vpc", "gce", "ali-vpc", "tencent-vpc"))
"""Types that flanneld has, or had, and netstore's agent does not."""


def schema_of(options: type[msgspec.Struct]) -> dict[str, Any]:
    """The JSON Schema of a Backend section with these options."""
    _, components = msgspec.json.schema_components((options,))
    schema: dict[str, Any] = components[options.__name__]
    return schema
