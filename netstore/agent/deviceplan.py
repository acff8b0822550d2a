"""Whether a device in the kernel is the one that is wanted, and the steps that make it so. Pure.

A device that the agent made or took over names the agent's network in its alias, which `ip link` shows. One
without an alias of an agent is taken over if it has the wanted parameters, or if it is flannel's by its name;
then the tunnels that flannel set up go on. Any other device of that name belongs to somebody else, is never
touched, and is a problem told in words.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from netstore.agent.wanted import Ipip, Vxlan, Wireguard

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from netstore.agent.kernel import Link
    from netstore.agent.wanted import Device
    from netstore.network.addresses import Subnet

_ALIAS: Final = "netstore "

FLANNELS: Final = re.compile(r"flannel(?:-v6)?\.(?:\d+|ipip)|flannel-wg(?:-v6)?")
"""The names of the devices that flannel makes."""

VXLAN_PORT: Final = 8472
"""The UDP port of a VXLAN device that was made without one (Linux, vxlan.udp_port)."""

BRIDGE: Final = "bridge"
"""The kind of a `Link` that has ports."""

KINDS: Final = {Vxlan: "vxlan", Ipip: "ipip", Wireguard: "wireguard"}


class CreateDevice(NamedTuple):
    """Make the device, down. `link` is the number of the interface that carries it, 0 for none."""

    device: Device
    link: int


class ChangeDevice(NamedTuple):
    """Change what is given of a device."""

    ifindex: int
    mtu: int | None = None
    mac: bytes | None = None
    alias: str | None = None
    up: bool | None = None


class AddAddress(NamedTuple):
    """Give a device a packed address, without duplicate address detection."""

    ifindex: int
    address: bytes
    length: int


class DeleteAddress(NamedTuple):
    """Take a packed address from a device."""

    ifindex: int
    address: bytes
    length: int


class DeleteDevice(NamedTuple):
    """Remove a device, and with it its addresses, routes and entries."""

    ifindex: int
    name: str


DeviceStep = CreateDevice | ChangeDevice | AddAddress | DeleteAddress | DeleteDevice


class Blocked(NamedTuple):
    """Why a device cannot be made or changed now, in words."""

    reason: str


def alias_of(network: Subnet) -> str:
    """The alias (IFLA_IFALIAS) of the devices of the agent of a network."""
    return f"{_ALIAS}{network}"


def is_ours(link: Link, aliases: Collection[str]) -> bool:
    """Whether it is a device that an agent with one of these aliases made or took over."""
    return link.alias in aliases and link.kind in KINDS.values()


def plan_device(
    device: Device,
    links: Mapping[str, Link],
    addresses: Collection[tuple[bytes, int]],
    aliases: Sequence[str],
) -> list[DeviceStep] | Blocked:
    """The steps towards a device; none if all is as wanted. `links` are all interfaces by name, `addresses`
    those of this one, `aliases` those of this agent's devices, the present one first.

    A device that has to be made anew or is not there yet is only deleted and made; what else it needs is
    planned once its number is known.
    """
    link = 0
    if not isinstance(device.kind, Wireguard):
        carrier = links.get(device.kind.link)
        if carrier is None:
            return Blocked(f"the interface {device.kind.link} that carries it does not exist")
        link = carrier.ifindex
    present = links.get(device.name)
    if present is None:
        return [CreateDevice(device, link)]
    fits = _fits(device, present, link)
    if present.alias.startswith(_ALIAS) and present.alias not in aliases:
        return Blocked(f"it belongs to the agent of the network {present.alias.removeprefix(_ALIAS)}")
    if not fits and present.alias not in aliases and not _is_flannels(device, present):
        what = f"a {present.kind} device with other parameters" if present.kind else "an interface"
        return Blocked(
            f"another program has {what} of this name; remove it with: ip link delete {device.name}"
        )
    if not fits:
        return [DeleteDevice(present.ifindex, device.name), CreateDevice(device, link)]
    return _changes(device, present, addresses, aliases[0])


def _is_flannels(device: Device, present: Link) -> bool:
    return FLANNELS.fullmatch(device.name) is not None and present.kind == KINDS[type(device.kind)]


def _fits(device: Device, present: Link, link: int) -> bool:
    """Whether kind and parameters are those that are wanted."""
    wanted, found = device.kind, present.tunnel
    if present.kind != KINDS[type(wanted)]:
        return False
    if isinstance(wanted, Wireguard):
        return True  # all else of it is changed in place
    if found is None or found.local != wanted.local or found.remote:
        return False
    if isinstance(wanted, Ipip):
        return found.link in (0, link)
    return (
        (found.vni, found.port) == (wanted.vni, wanted.port or VXLAN_PORT)
        and found.link == link
        and (found.learning, found.gbp) == (wanted.learning, wanted.gbp)
    )


def _changes(
    device: Device, present: Link, addresses: Collection[tuple[bytes, int]], alias: str
) -> list[DeviceStep]:
    """The changes in place; new addresses are added before old ones go."""
    steps: list[DeviceStep] = []
    change = ChangeDevice(
        present.ifindex,
        mtu=device.mtu if present.mtu != device.mtu else None,
        mac=device.mac if device.mac not in (None, present.mac) else None,
        alias=alias if present.alias != alias else None,
        up=True if not present.up else None,
    )
    if change != ChangeDevice(present.ifindex):
        steps.append(change)
    if device.addresses is None:
        return steps
    steps += [AddAddress(present.ifindex, *one) for one in device.addresses if one not in addresses]
    steps += [
        DeleteAddress(present.ifindex, *one)
        for one in sorted(addresses)
        if one not in device.addresses and not _is_link_local(one[0])
    ]
    return steps


def _is_link_local(address: bytes) -> bool:
    """Whether it is in fe80::/10 (RFC 4291, 2.5.6), which the kernel gives to each device."""
    return len(address) == 16 and address[0] == 0xFE and address[1] & 0xC0 == 0x80
