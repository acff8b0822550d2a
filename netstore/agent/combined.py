"""What the node and all its peers want together, kept by what each of them declares. Pure.

Each *owner* - the node, or a lease by its name - declares items: routes, devices, entries of devices, peers
of devices. A device has each entry and each peer once, and the kernel each route. If several nodes declare
the same, as copies of one machine do that publish one MAC, the node with the oldest lease has it. The leases
of the others get nothing through that device, because their packets would go to the wrong node, and the
reason is told. A node is one PublicIP. It may have several leases, because one that moved to another subnet
keeps its former lease for a while: its youngest lease says where the node is now, and a peer of WireGuard
gets the subnets of all of them.

A change of one owner costs O(its items), and O(log k) for each that k others declare too. What that means for
the others is found out when it is asked for, once for all changes since then: it costs O(m) for the m owners
of a node that has an item now and had it not before, or the other way round, and the subnets of all leases of
the node for a peer of WireGuard. The others' reasons are put into words when they are asked for.
"""

from __future__ import annotations

from base64 import b64encode
from bisect import bisect_left, insort
from collections.abc import Hashable, Mapping  # noqa: TC003 - msgspec reads the types of the fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from netstore.agent.wanted import Device, Route, Wanted, Wireguard, WireguardPeer
from netstore.network.addresses import Subnet, show_ip

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from netstore.network.ipv6 import Subnet6

    Destination = Subnet | Subnet6
    Named = tuple[str, bytes]
    """The name of a device, and what stands for an entry or a peer of it: packed address, MAC or key."""
    Key = Destination | str | Named
    Value = Route | Device | WireguardPeer | bytes

MAC_BYTES: Final = 6

_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


class Owner(NamedTuple):
    """Who declares: the node with the PublicIP `node`, since the index `created` of the store. `subject` is
    the subnet under whose name its problems are told; empty for this node itself.
    """

    node: int
    created: int
    subject: str


class Changes(NamedTuple):
    """What is wanted otherwise than before, and what no more (None)."""

    routes: dict[Destination, Route | None]
    devices: dict[str, Device | None]
    entries: dict[Named, bytes | None]
    """Neighbours and forwarding entries, with the MAC or the packed address."""
    peers: dict[Named, WireguardPeer | None]


class _Item(NamedTuple):
    """What stands for an item, the name of its owner, its device, and what it is."""

    key: Key
    name: Hashable
    device: str
    value: Value


_NOTHING_LOST: Final[Mapping[str, _Item]] = MappingProxyType({})


class _Declared(msgspec.Struct):
    """What one owner declared. `lost` are the devices that it gets nothing through, each with an item that
    another node has. There are thousands of owners, most with one item and nothing refused or lost, so no
    dict is made for these.
    """

    owner: Owner
    items: tuple[_Item, ...] = ()
    refused: Mapping[str, str] = _NOTHING
    lost: Mapping[str, _Item] = _NOTHING_LOST


class _Age(NamedTuple):
    """The place of an owner in the order of those that declare one item."""

    created: int
    subject: str
    text: str
    """Of the name, so that no two places are equal."""
    node: int
    name: Hashable


class _Shared:
    """An item that several owners declare, and the node that has it. A change costs O(log k) for k owners,
    and the moving of k pointers.
    """

    def __init__(self) -> None:
        self.items: dict[Hashable, _Item] = {}
        """By name of the owner."""
        self.node: int | None = None
        """The node that has the item; None before that is decided."""
        self._ages: dict[Hashable, _Age] = {}
        self._ordered: list[_Age] = []
        self._of_node: dict[int, list[_Age]] = {}

    @property
    def oldest(self) -> int:
        """The node that is to have the item."""
        return self._ordered[0].node

    def owners(self, node: int | None) -> Sequence[_Age]:
        """The owners of one node, the oldest first."""
        return () if node is None else self._of_node.get(node, ())

    def add(self, item: _Item, owner: Owner) -> None:
        """An owner declares the item, perhaps in the place of its former one."""
        age = _Age(owner.created, owner.subject, str(item.name), owner.node, item.name)
        if self._ages.get(item.name) != age:
            self._forget(item.name)
            self._ages[item.name] = age
            insort(self._ordered, age)
            insort(self._of_node.setdefault(age.node, []), age)
        self.items[item.name] = item

    def remove(self, name: Hashable) -> None:
        """An owner does not declare it any more."""
        del self.items[name]
        self._forget(name)

    def _forget(self, name: Hashable) -> None:
        age = self._ages.pop(name, None)
        if age is None:
            return
        del self._ordered[bisect_left(self._ordered, age)]
        of_node = self._of_node[age.node]
        del of_node[bisect_left(of_node, age)]
        if not of_node:
            del self._of_node[age.node]


class Combined:
    """What is declared, by name of the owner, and what follows for the kernel."""

    def __init__(self) -> None:
        self._declared: dict[Hashable, _Declared] = {}
        self._reasons: dict[str, dict[Hashable, str | _Item]] = {}
        """Why a subnet is not served, or not wholly, by who says so: in words, or the item that another node
        has."""
        self._sole: dict[Key, _Item] = {}
        self._shared: dict[Key, _Shared] = {}
        self._touched: set[Key] = set()
        self._kinds: dict[Key, type[Value]] = {}
        """Of the touched items that may be gone."""
        self._undecided: set[Key] = set()
        """The shared items that another node may be to have now."""
        self._unsettled: set[Hashable] = set()
        """The owners whose losses may be others now."""

    @property
    def refused(self) -> dict[str, str]:
        """The reason for each subnet that is not served, or not wholly."""
        self._settle()
        return {
            subject: self._words(next(iter(reasons.values()))) for subject, reasons in self._reasons.items()
        }

    def put(self, name: Hashable, owner: Owner, wanted: Wanted) -> None:
        """Take what an owner declares, in the place of what it declared before."""
        items = {item.key: item for item in _items(name, wanted)}
        refused: Mapping[str, str] = _NOTHING
        if wanted.refused:
            refused = {str(subnet): reason for subnet, reason in wanted.refused.items()}
        former = self._declared.get(name)
        if former is not None and (former.owner, former.items, former.refused) == (
            owner,
            tuple(items.values()),
            refused,
        ):
            return
        if former is None:
            former = _Declared(owner)
        else:
            self._forget_reasons(name, former)
        declared = self._declared[name] = _Declared(owner, tuple(items.values()), refused)
        before = {item.key: item for item in former.items}
        for key, item in before.items():
            if key not in items:
                self._kinds[key] = type(item.value)
                self._touched.add(key)
                self._release(key, name)
        for key, item in items.items():
            self._take(item, owner)
            if before.get(key) != item:
                self._touched.add(key)
        self._tell_reasons(name, declared)
        if self._shared or former.lost:
            self._touched.update(items)
            self._unsettled.add(name)
        if not items and not refused:
            del self._declared[name]

    def remove(self, name: Hashable) -> None:
        """An owner is gone, and what it declared."""
        former = self._declared.get(name)
        if former is not None:
            self.put(name, former.owner, Wanted())

    def take_changes(self) -> Changes:
        """What changed since the last call."""
        self._settle()
        changes = Changes({}, {}, {}, {})
        touched, self._touched = self._touched, set()
        kinds, self._kinds = self._kinds, {}
        for key in touched:
            value = self._value(key)
            kind = type(value) if value is not None else kinds.get(key) or self._kind(key)
            kept: dict[Key, Value | None]
            if kind is Route:
                kept = changes.routes  # type: ignore[assignment] # the key has the type of its kind
            elif kind is Device:
                kept = changes.devices  # type: ignore[assignment] # the same
            elif kind is WireguardPeer:
                kept = changes.peers  # type: ignore[assignment] # the same
            else:
                kept = changes.entries  # type: ignore[assignment] # the same
            kept[key] = value
        return changes

    def _kind(self, key: Key) -> type[Value]:
        """Of an item that somebody declares."""
        item = self._sole[key] if key in self._sole else next(iter(self._shared[key].items.values()))
        return type(item.value)

    # Items that several owners declare

    def _take(self, item: _Item, owner: Owner) -> None:
        """An owner declares the item, perhaps in the place of its former one."""
        key = item.key
        shared = self._shared.get(key)
        if shared is None:
            other = self._sole.get(key)
            if other is None or other.name == item.name:
                self._sole[key] = item
                return
            del self._sole[key]
            shared = self._shared[key] = _Shared()
            shared.add(other, self._declared[other.name].owner)
            self._unsettled.add(other.name)
        shared.add(item, owner)
        self._undecided.add(key)

    def _release(self, key: Key, name: Hashable) -> None:
        """An owner does not declare the item any more."""
        shared = self._shared.get(key)
        if shared is None:
            del self._sole[key]
            return
        shared.remove(name)
        self._undecided.add(key)
        if len(shared.items) == 1:
            del self._shared[key]
            [self._sole[key]] = shared.items.values()
            self._unsettled.update(shared.items)

    def _settle(self) -> None:
        """Find the nodes that have the shared items, and what each owner loses by that."""
        for key in self._undecided:
            shared = self._shared.get(key)
            if shared is not None and shared.node != shared.oldest:
                for node in (shared.node, shared.oldest):
                    self._unsettled.update(age.name for age in shared.owners(node))
                shared.node = shared.oldest
                self._touched.add(key)
        self._undecided.clear()
        for name in self._unsettled:
            if (declared := self._declared.get(name)) is not None:
                self._find_losses(name, declared)
        self._unsettled.clear()

    def _find_losses(self, name: Hashable, declared: _Declared) -> None:
        """Which devices an owner gets nothing through, because another node has an item of its."""
        lost: dict[str, _Item] = {}
        for item in declared.items:
            shared = self._shared.get(item.key)
            if shared is not None and shared.node != declared.owner.node:
                lost[item.device] = item
        if lost != declared.lost:
            self._forget_reasons(name, declared)
            declared.lost = lost or _NOTHING_LOST
            self._tell_reasons(name, declared)
            self._touched.update(item.key for item in declared.items)

    def _words(self, reason: str | _Item) -> str:
        """A reason in words; that of a lost item names the node that has it."""
        if isinstance(reason, str):
            return reason
        node = self._shared[reason.key].oldest
        return (
            f"{show_ip(node)}, whose lease is older, has the same {_words(reason.key, reason.value)}; remove"
            " what the backend keeps in its folder on one of them and restart its agent, or delete the older"
            " lease if its node is gone"
        )

    def _value(self, key: Key) -> Value | None:
        """What is wanted of an item."""
        shared = self._shared.get(key)
        if shared is None:
            item = self._sole.get(key)
            return None if item is None else self._given(item)
        youngest: Value | None = None
        allowed: dict[Destination, None] = {}
        for age in reversed(shared.owners(shared.node)):
            value = self._given(shared.items[age.name])
            if value is None:
                continue
            if not isinstance(value, WireguardPeer):
                return value
            youngest = youngest or value
            allowed.update(dict.fromkeys(value.allowed))
        if isinstance(youngest, WireguardPeer):
            return msgspec.structs.replace(youngest, allowed=tuple(allowed))
        return None

    def _given(self, item: _Item) -> Value | None:
        """What an owner declares, None if it gets nothing through that device."""
        return None if item.device in self._declared[item.name].lost else item.value

    def _tell_reasons(self, name: Hashable, declared: _Declared) -> None:
        for item in declared.lost.values():
            self._reasons.setdefault(declared.owner.subject, {})[name] = item
        for subject, reason in declared.refused.items():
            self._reasons.setdefault(subject, {})[name] = reason

    def _forget_reasons(self, name: Hashable, declared: _Declared) -> None:
        for subject in (*declared.refused, declared.owner.subject):
            reasons = self._reasons.get(subject, {})
            if reasons.pop(name, None) is not None and not reasons:
                del self._reasons[subject]


def _items(owner: Hashable, wanted: Wanted) -> Iterator[_Item]:
    """The items of the owner with this name."""
    for route in wanted.routes:
        yield _Item(route.subnet, owner, route.device, route)
    for device in wanted.devices:
        kind = device.kind
        if isinstance(kind, Wireguard) and kind.peers:
            yield from _peers(owner, device.name, kind.peers)
            kind = msgspec.structs.replace(kind, peers=())
        yield _Item(device.name, owner, device.name, msgspec.structs.replace(device, kind=kind))
    for name, address, mac in wanted.neighbours:
        yield _Item((name, address), owner, name, mac)
    for name, mac, remote in wanted.forwarding:
        yield _Item((name, mac), owner, name, remote)
    for name, peer in wanted.tunnel_peers:
        yield _Item((name, peer.public_key), owner, name, peer)


def _peers(owner: Hashable, device: str, peers: Iterable[WireguardPeer]) -> Iterator[_Item]:
    for peer in peers:
        yield _Item((device, peer.public_key), owner, device, peer)


def _words(key: Key, value: Value) -> str:
    """What an item is, for an operator."""
    if isinstance(value, WireguardPeer):
        return f"public key {b64encode(value.public_key).decode()}"
    if isinstance(value, Route):
        return f"subnet {value.subnet}"
    if isinstance(value, Device):
        return f"device {value.name}"
    named = key[1]
    if isinstance(named, bytes) and len(named) == MAC_BYTES:
        return f"MAC {named.hex(':')}"
    return "address of a neighbour"
