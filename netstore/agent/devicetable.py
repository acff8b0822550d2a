"""The devices of the backend: the wanted ones, all interfaces of the kernel, and which devices are ours.

Invariants:

- `links` has every interface as of the last notification processed.
- `peers` are kept apart from the devices: of a WireGuard device with many peers only those are looked at that
  were declared otherwise. `wireguard` has the configuration of the kernel without its peers.
- A device with a problem is tried again only when it is declared otherwise, or at `retry`.
- A device that is not declared is removed only if its alias says that this agent has made it or taken it
  over, and only when nothing else is left to do and no route waits in it for its
  successor.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

import msgspec

from netstore.agent.deviceplan import (
    BRIDGE,
    AddAddress,
    Blocked,
    ChangeDevice,
    CreateDevice,
    DeleteDevice,
    is_ours,
    plan_device,
)
from netstore.agent.wanted import Vxlan, Wireguard, WireguardPeer

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from netstore.agent.deviceplan import DeviceStep
    from netstore.agent.kernel import Link
    from netstore.agent.wanted import Device


_OUT_OF_DATE: Final = frozenset({errno.EEXIST, errno.ENODEV, errno.EADDRNOTAVAIL})
"""Errors that mean that the kernel's state is not what is known of it."""


class DeviceTable:
    """The devices of one network's backend. `aliases` are those that mark them, the present one first."""

    def __init__(self, aliases: Sequence[str]) -> None:
        self._aliases = tuple(aliases)
        self.wanted: dict[str, Device] = {}
        self.links: dict[str, Link] = {}
        self.addresses: dict[int, set[tuple[bytes, int]]] = {}
        """The packed addresses of the wanted devices, with their prefix lengths."""
        self.peers: dict[str, dict[bytes, WireguardPeer]] = {}
        """The wanted peers of the WireGuard devices, by name and public key."""
        self._wireguard: dict[int, tuple[Wireguard, dict[bytes, WireguardPeer]]] = {}
        """What the kernel knows of the wanted WireGuard devices: without the peers, and these by key."""
        self._dirty_peers: dict[str, set[bytes]] = {}
        """The peers to compare."""
        self.problems: dict[str, str] = {}
        """For each wanted device that is not as it should be, the reason."""
        self.unusable: set[str] = set()
        """Those of them through which nothing may be routed: they belong to others."""
        self.dirty = True
        """Whether the devices have to be compared."""
        self._stuck: set[int] = set()
        """Devices that the kernel refused to remove."""

    def manage(self, aliases: Sequence[str]) -> None:
        """The aliases are these from now on."""
        self._aliases = tuple(aliases)
        self.dirty = True

    def has_ours(self, alias: str) -> bool:
        """Whether the kernel has devices that this alias marks."""
        return any(is_ours(link, (alias,)) for link in self.links.values())

    @property
    def numbers(self) -> dict[str, int]:
        """The wanted devices that exist and belong to the backend, by name."""
        return {
            name: self.links[name].ifindex
            for name in self.wanted
            if name in self.links and name not in self.unusable
        }

    def number(self, name: str) -> int | None:
        """The number of an interface that routes may use."""
        link = self.links.get(name)
        return None if link is None or name in self.unusable else link.ifindex

    def declare(self, changes: Mapping[str, Device | None]) -> None:
        """Change the wanted devices; None for those that are wanted no more."""
        for name, device in changes.items():
            if device == self.wanted.get(name):
                continue
            self._forget_problem(name)
            self.dirty = True
            if device is not None:
                self.wanted[name] = device
            else:
                self.wanted.pop(name, None)

    def declare_peers(self, changes: Mapping[tuple[str, bytes], WireguardPeer | None]) -> None:
        """Change the wanted peers of WireGuard devices, by device and public key; None for those that are
        wanted no more.
        """
        for (name, key), peer in changes.items():
            peers = self.peers.setdefault(name, {})
            if peer is not None:
                peers[key] = peer
            else:
                peers.pop(key, None)
                if not peers:
                    del self.peers[name]
            self._dirty_peers.setdefault(name, set()).add(key)
            self._forget_problem(name)
            self.dirty = True

    def clear(self) -> None:
        """No device is wanted."""
        self.declare(dict.fromkeys(self.wanted))
        self.peers.clear()

    def retry(self) -> None:
        """What failed may work now."""
        self._stuck.clear()
        for name in list(self.problems):
            self._forget_problem(name)
        self.dirty = True

    def _forget_problem(self, name: str) -> None:
        self.problems.pop(name, None)
        self.unusable.discard(name)

    @property
    def bridges(self) -> set[tuple[int, bool, bool]]:
        """The number of each bridge, whether it is up, and whether it has a port."""
        masters = {link.master for link in self.links.values()}
        return {
            (link.ifindex, link.up, link.ifindex in masters)
            for link in self.links.values()
            if link.kind == BRIDGE
        }

    def load(self, links: Iterable[Link]) -> None:
        """Take over the kernel's interfaces."""
        self.links = {link.name: link for link in links}
        self.dirty = True

    def apply(self, link: Link) -> bool:
        """An interface appeared or changed. True if a device that routes may use is another one now or went
        down, with which the kernel removes routes without notification.
        """
        before = self.links.get(link.name)
        renamed = [name for name, one in self.links.items() if one.ifindex == link.ifindex]
        for name in renamed:
            del self.links[name]
        self.links[link.name] = link
        if link.name in self.wanted and before != link:
            self.dirty = True
            if before is None or before.ifindex != link.ifindex:
                self._forget_problem(link.name)
        return before is not None and (before.ifindex != link.ifindex or (before.up and not link.up))

    def remove(self, ifindex: int) -> str | None:
        """An interface is gone. Its name, if it was known."""
        for name, link in self.links.items():
            if link.ifindex == ifindex:
                del self.links[name]
                if name in self.wanted:
                    self._forget_problem(name)
                    self.dirty = True
                return name
        return None

    def steps(self) -> list[DeviceStep]:
        """The steps towards the wanted devices that have no problem."""
        found: list[DeviceStep] = []
        for name, device in self.wanted.items():
            if name in self.problems:
                continue
            link = self.links.get(name)
            addresses = self.addresses.get(link.ifindex, set()) if link is not None else set()
            planned = plan_device(device, self.links, addresses, self._aliases)
            if isinstance(planned, Blocked):
                self.problems[name] = planned.reason
                self.unusable.add(name)
            else:
                found += planned
        self.dirty = bool(found)
        return found

    def load_wireguard(self, number: int, name: str, present: Wireguard) -> None:
        """Take over what the kernel knows of a WireGuard device."""
        found = {peer.public_key: peer for peer in present.peers}
        self._wireguard[number] = msgspec.structs.replace(present, peers=()), found
        self._dirty_peers[name] = {*found, *self.peers.get(name, ())}
        self.dirty = True

    def wireguard_changes(self) -> list[tuple[int, str, Wireguard, Wireguard]]:
        """What is to be configured: number and name of each device, and what it should be and is; of its
        peers only those that may differ.
        """
        found = []
        for name, number in self.numbers.items():
            kind = self.wanted[name].kind
            if not isinstance(kind, Wireguard) or name in self.problems or number not in self._wireguard:
                continue
            head, present = self._wireguard[number]
            keys, wanted = self._dirty_peers.pop(name, set()), self.peers.get(name, {})
            keys = {key for key in keys if wanted.get(key) != present.get(key)}
            if keys or kind != head:
                found.append((number, name, _with(kind, wanted, keys), _with(head, present, keys)))
        return found

    def wireguard_configured(self, number: int, done: Wireguard, former: Wireguard) -> None:
        """A device was configured as `wireguard_changes` says."""
        _, present = self._wireguard[number]
        for peer in former.peers:
            del present[peer.public_key]
        present.update((peer.public_key, peer) for peer in done.peers)
        self._wireguard[number] = msgspec.structs.replace(done, peers=()), present

    def wireguard_failed(self, number: int, name: str, code: int) -> None:
        """A device refused its configuration with this errno; then it may have been taken in part."""
        self._wireguard.pop(number, None)
        self.problems[name] = f"WireGuard refused its keys or peers: {os.strerror(code)}"

    @property
    def ours(self) -> list[str]:
        """The names of all devices that are this agent's by their alias."""
        return [link.name for link in self.links.values() if is_ours(link, self._aliases)]

    def obsolete(self) -> list[DeleteDevice]:
        """The removal of our devices that are no longer wanted."""
        return [
            DeleteDevice(link.ifindex, link.name)
            for link in self.links.values()
            if is_ours(link, self._aliases)
            and link.name not in self.wanted
            and link.ifindex not in self._stuck
        ]

    def failed(self, step: DeviceStep, code: int) -> bool:
        """A step failed with this errno. True if the kernel's state has to be read again."""
        if code in _OUT_OF_DATE and not isinstance(step, CreateDevice):
            return True
        name = self._name(step)
        device = self.wanted.get(name)
        if device is not None:
            self.problems.setdefault(name, _rejection(step, device, code))
        elif isinstance(step, DeleteDevice):
            self._stuck.add(step.ifindex)
        return False

    def _name(self, step: DeviceStep) -> str:
        if isinstance(step, CreateDevice):
            return step.device.name
        if isinstance(step, DeleteDevice):
            return step.name
        names: Mapping[int, str] = {link.ifindex: name for name, link in self.links.items()}
        return names.get(step.ifindex, "")

    def set_addresses(self, addresses: Iterable[tuple[int, bytes, int]], ifindexes: Collection[int]) -> None:
        """Take over the kernel's addresses of these interfaces: number, packed address, prefix length."""
        self.addresses = {ifindex: set() for ifindex in ifindexes}
        for ifindex, address, length in addresses:
            if ifindex in self.addresses:
                self.addresses[ifindex].add((address, length))
        self.dirty = True


def _with(head: Wireguard, peers: Mapping[bytes, WireguardPeer], keys: Iterable[bytes]) -> Wireguard:
    """The configuration with those of the peers that have these keys."""
    return msgspec.structs.replace(head, peers=tuple(peers[key] for key in keys if key in peers))


def _rejection(step: DeviceStep, device: Device, code: int) -> str:
    kind = "VXLAN" if isinstance(device.kind, Vxlan) else type(device.kind).__name__
    what = "could not be changed"
    if isinstance(step, CreateDevice):
        what = "could not be made"
        if code == errno.EOPNOTSUPP:
            return f"this kernel has no {kind} devices; load the kernel module {kind.lower()}"
        if code == errno.EEXIST:
            return f"another {kind} device has its parameters; remove that one, or choose others"
    if isinstance(step, AddAddress) and len(step.address) == 16 and code == errno.EACCES:
        return f"IPv6 is off for it; set net.ipv6.conf.{device.name.replace('.', '/')}.disable_ipv6 to 0"
    if code in (errno.EPERM, errno.EACCES):
        return "no permission to make devices; the agent needs CAP_NET_ADMIN"
    if code == errno.EADDRINUSE:
        return "its UDP port is used by another program; choose another port, or stop that program"
    if isinstance(step, AddAddress):
        what = "did not get its address"
    elif isinstance(step, ChangeDevice) and step.mtu is not None and code == errno.EINVAL:
        return f"an MTU of {step.mtu} is not possible; choose a smaller one"
    return f"it {what}: {os.strerror(code)}"
