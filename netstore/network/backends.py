"""The backends that flannel defined: the options of those that netstore has too, and the names of the others.
Pure.

This is the only place that lists them: the store checks network configs by it, the command shows it, and the
options of the plugins are these classes. Field names are flannel's; they match in any case and unknown ones
are ignored, as in Go. A default that flannel computes is 0 or None here.
"""

from __future__ import annotations

import re
from base64 import b64decode
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec

WIREGUARD_PORTS_ABOVE: Final = 2
"""How far above its port the second device of `wireguard` listens while the key is changed."""

MAX_VNI: Final = 9_999_999
"""The largest VNI with which the name of the device, `flannel.VNI`, fits into the 15 characters of Linux."""

MAX_VNI_IPV6: Final = 9_999
"""The same for `flannel-v6.VNI`, the device for IPv6."""

VXLAN_OVERHEAD: Final = 50
"""Bytes around a packet over IPv4: outer IP, UDP and VXLAN header, inner Ethernet header (RFC 7348)."""

VXLAN_OVERHEAD_IPV6: Final = 70
"""The same over IPv6."""

WIREGUARD_OVERHEAD: Final = 80
"""Bytes around a packet: outer IPv6 and UDP header, WireGuard's header and authentication tag (flannel counts
the same over IPv4, where 20 would be left)."""

LEAST_MTU: Final = 68
"""RFC 791: what every link must carry."""

LEAST_MTU_IPV6: Final = 1280
"""RFC 8200: what every link with IPv6 must carry."""

KEY_BYTES: Final = 32
"""Of the keys of WireGuard."""

_HALF_MAC: Final = re.compile(r"([0-9a-f]{2})[:-]([0-9a-f]{2})", re.IGNORECASE | re.ASCII)

_Port = Annotated[int, msgspec.Meta(ge=1, le=65535 - WIREGUARD_PORTS_ABOVE)]


class NoOptions(msgspec.Struct, frozen=True):
    """Options of a backend that has none."""


class VxlanOptions(msgspec.Struct, frozen=True):
    """`vxlan`: Ethernet in UDP between the nodes (RFC 7348)."""

    vni: Annotated[
        int,
        msgspec.Meta(
            ge=0,
            le=MAX_VNI,
            description="The VXLAN network identifier, also part of the device's name; with IPv6 at most"
            f" {MAX_VNI_IPV6}.",
        ),
    ] = msgspec.field(default=1, name="VNI")
    port: Annotated[
        int, msgspec.Meta(ge=0, le=65535, description="The UDP port; 0 is the kernel's, 8472.")
    ] = msgspec.field(default=0, name="Port")
    mtu: Annotated[
        int,
        msgspec.Meta(
            ge=0, le=65535, description="The MTU of the path between the nodes; 0: the interface's."
        ),
    ] = msgspec.field(default=0, name="MTU")
    gbp: Annotated[
        bool, msgspec.Meta(description="Carry packet marks as group policy, for programs that set them.")
    ] = msgspec.field(default=False, name="GBP")
    learning: Annotated[
        bool, msgspec.Meta(description="Let the kernel learn forwarding entries from traffic.")
    ] = msgspec.field(default=False, name="Learning")
    direct_routing: Annotated[
        bool,
        msgspec.Meta(description="Route to nodes in the same layer 2 network directly, without the tunnel."),
    ] = msgspec.field(default=False, name="DirectRouting")
    vtep_mac: Annotated[
        str,
        msgspec.Meta(
            description='The first two octets of every MAC, such as "0e:2a"; the PublicIP is the rest.'
            " Empty: a random MAC, which the node keeps."
        ),
    ] = msgspec.field(default="", name="VtepMAC")


class IpipOptions(msgspec.Struct, frozen=True):
    """`ipip`: IP in IP between the nodes (RFC 2003)."""

    direct_routing: Annotated[
        bool,
        msgspec.Meta(description="Route to nodes in the same layer 2 network directly, without the tunnel."),
    ] = msgspec.field(default=False, name="DirectRouting")


class WireguardOptions(msgspec.Struct, frozen=True):
    """`wireguard`: encrypted tunnels between the nodes."""

    listen_port: Annotated[
        _Port, msgspec.Meta(description="UDP port; while the key is changed, also the one two above it.")
    ] = msgspec.field(default=51820, name="ListenPort")
    listen_port_v6: Annotated[
        _Port, msgspec.Meta(description="The same of the device for IPv6, in the mode separate.")
    ] = msgspec.field(default=51821, name="ListenPortV6")
    psk: Annotated[
        str, msgspec.Meta(description="A preshared key of all nodes, as `wg genpsk` makes it; empty: none.")
    ] = msgspec.field(default="", name="PSK")
    mtu: Annotated[
        int,
        msgspec.Meta(
            ge=0, le=65535, description="The MTU of the path between the nodes; 0: the interface's."
        ),
    ] = msgspec.field(default=0, name="MTU")
    mode: Annotated[
        Literal["separate", "auto", "ipv4", "ipv6"],
        msgspec.Meta(
            description="separate: a device for each address family. ipv4, ipv6: one device for both, over"
            " this family. auto: one device, over the family by which each peer can be reached."
        ),
    ] = msgspec.field(default="separate", name="Mode")
    persistent_keepalive_interval: Annotated[
        int,
        msgspec.Meta(ge=0, le=65535, description="Seconds after which an idle peer is sent to; 0: never."),
    ] = msgspec.field(default=0, name="PersistentKeepaliveInterval")
    rotate_days: Annotated[
        int,
        msgspec.Meta(ge=0, le=36_500, description="Days after which the node's key is changed; 0: never."),
    ] = msgspec.field(default=0, name="RotateDays")

    def __repr__(self) -> str:
        return f"WireguardOptions(mode={self.mode!r}, listen_port={self.listen_port}, ...)"


class ExtensionOptions(msgspec.Struct, frozen=True):
    """`extension`: commands of the operator, for `sh -c`, make the data path. An empty one is not run."""

    pre_startup: Annotated[
        str, msgspec.Meta(description="Run before the lease is taken; what it prints is the BackendData.")
    ] = msgspec.field(default="", name="PreStartupCommand")
    post_startup: Annotated[str, msgspec.Meta(description="Run when the lease is held.")] = msgspec.field(
        default="", name="PostStartupCommand"
    )
    shutdown: Annotated[str, msgspec.Meta(description="Run when the agent ends.")] = msgspec.field(
        default="", name="ShutdownCommand"
    )
    subnet_add: Annotated[
        str, msgspec.Meta(description="Run for each peer, with its BackendData on standard input.")
    ] = msgspec.field(default="", name="SubnetAddCommand")
    subnet_remove: Annotated[
        str, msgspec.Meta(description="Run for each peer that left, with its BackendData on standard input.")
    ] = msgspec.field(default="", name="SubnetRemoveCommand")


BUILT_IN: Final[dict[str, type[msgspec.Struct]]] = {
    "host-gw": NoOptions,
    "vxlan": VxlanOptions,
    "ipip": IpipOptions,
    "wireguard": WireguardOptions,
    "alloc": NoOptions,
    "extension": ExtensionOptions,
}
"""Type in the network config, in lower case -> the options of its Backend section without `Type`."""

FOREIGN: Final = frozenset(("udp", "ipsec", "aws-vpc", "gce", "ali-vpc", "tencent-vpc"))
"""Types that flanneld has, or had, and netstore's agent does not."""


class Problem(NamedTuple):
    """Why no node could use the options: which one, what is wrong, and what to do. No text shows a key."""

    option: str
    text: str
    fix: str


def problem(options: msgspec.Struct, *, ipv6: bool = False) -> Problem | None:
    """What is wrong with the options of a built-in backend, each of which matches the schema; None if nothing
    is. `ipv6`: they are for a dual-stack network.
    """
    if isinstance(options, VxlanOptions):
        return _vxlan_problem(options, ipv6=ipv6)
    if isinstance(options, WireguardOptions):
        return _wireguard_problem(options, ipv6=ipv6)
    return None


def _vxlan_problem(options: VxlanOptions, *, ipv6: bool) -> Problem | None:
    most = MAX_VNI_IPV6 if ipv6 else MAX_VNI
    if options.vni > most:
        return Problem(
            "VNI", f"{options.vni} makes a device's name longer than Linux allows", f"choose at most {most}"
        )
    half = _HALF_MAC.fullmatch(options.vtep_mac)
    if options.vtep_mac and (half is None or int(half[1], 16) & 1):
        return Problem(
            "VtepMAC",
            f"{options.vtep_mac[:40]!r} is not the first two octets of a unicast MAC address",
            'write two such as "0e:2a"; a whole one would be the same on all nodes',
        )
    return _mtu_problem(options.mtu, VXLAN_OVERHEAD_IPV6 if ipv6 else VXLAN_OVERHEAD, ipv6=ipv6)


def _wireguard_problem(options: WireguardOptions, *, ipv6: bool) -> Problem | None:
    if options.psk:
        try:
            size = len(b64decode(options.psk, validate=True))
        except ValueError:
            return Problem("PSK", "it is not base64", "make one with `wg genpsk`")
        if size != KEY_BYTES:
            return Problem("PSK", f"it has {size} bytes, not {KEY_BYTES}", "make one with `wg genpsk`")
    above = options.listen_port_v6 - options.listen_port
    if options.mode == "separate" and above in (-WIREGUARD_PORTS_ABOVE, 0, WIREGUARD_PORTS_ABOVE):
        return Problem(
            "ListenPortV6",
            f"{options.listen_port_v6} is ListenPort {options.listen_port}, or {WIREGUARD_PORTS_ABOVE} from"
            " it, which is used while the key is changed",
            "choose ports that differ, but not by that",
        )
    return _mtu_problem(options.mtu, WIREGUARD_OVERHEAD, ipv6=ipv6)


def _mtu_problem(mtu: int, overhead: int, *, ipv6: bool) -> Problem | None:
    least = overhead + (LEAST_MTU_IPV6 if ipv6 else LEAST_MTU)
    if mtu and mtu < least:
        return Problem(
            "MTU",
            f"{mtu} leaves less than {least - overhead} bytes for packets in a tunnel",
            f"choose at least {least}, or leave it out for the interface's",
        )
    return None


def schema_of(options: type[msgspec.Struct]) -> dict[str, Any]:
    """The JSON Schema of a Backend section with these options."""
    _, components = msgspec.json.schema_components((options,))
    schema: dict[str, Any] = components[options.__name__]
    return schema
