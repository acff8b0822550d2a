"""The two sides of a migration in one kernel: the backend of the old network config and that of the new one,
together one `Backend`.

Both receive what they can. A peer is sent to by one of them, as the plan says (`network.migration`): the
routes are those of that side, while devices, neighbours and forwarding entries of both stay. A device that
both declare, as where only the MTU changes, is the one of the side by which this node sends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from netstore.agent.backend import Manifest, Prepared, Refused, Wanted, plugin_errors
from netstore.agent.declaration import checked_prepared, checked_wanted
from netstore.errors import NetstoreError
from netstore.network.addresses import show_ip
from netstore.network.migration import Phase, Plan, Told, reaches_new, sends_new

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from netstore.agent.backend import Backend, Device, Host, Network, Subnet, SubnetLease


class View(NamedTuple):
    """What a node knows of a plan: its `node` is the PublicIP."""

    plan: Plan
    told: Mapping[str, Told]
    node: str

    def by_new(self, peer: str) -> bool:
        """Whether this peer is sent to by the new config."""
        return reaches_new(self.plan, self.node, peer, self.told)


class Side(msgspec.Struct):
    """A backend with its network config, and what it prepared."""

    network: Network
    backend: Backend
    folder: Path
    prepared: Prepared | None = None

    @property
    def backend_type(self) -> str:
        """The BackendType of its leases."""
        return self.backend.manifest.backend_type

    def host(self, host: Host, published: bytes | None) -> Host:
        """The host as this backend is to see it."""
        return msgspec.structs.replace(host, network=self.network, folder=self.folder, published=published)

    async def prepare(self, host: Host, published: bytes | None = None) -> Prepared:
        """Ask the backend, and keep what it says."""
        with plugin_errors(self.backend.manifest.name):
            self.prepared = checked_prepared(await self.backend.prepare(self.host(host, published)))
        return self.prepared


class TwoSides:
    """See `backend.Backend`. `view` is what is to be done; whoever changes it has the peers declared anew."""

    def __init__(self, old: Side, new: Side, view: View) -> None:
        self.old = old
        self.new = new
        self.primary = old
        """The side that this node's lease is of."""
        self.view = view
        self.declared: View | None = None
        """The view by which all peers are declared, or are about to be."""
        self.refused: dict[str, str] = {}
        """Peers that have told a part and cannot be served by the new side, by PublicIP."""
        self.fault = ""
        """Why the new side is not there at all; empty if it is."""

    @property
    def manifest(self) -> Manifest:
        """That of the side that the lease is of."""
        return self.primary.backend.manifest

    async def prepare(self, host: Host) -> Prepared:
        """Both are prepared. The MTU is the lesser one, as long as packets may go either way."""
        old = await self.old.prepare(host, host.published)
        new = await self.new.prepare(host, host.published)
        primary = self.primary.prepared or old
        return msgspec.structs.replace(primary, mtu=min(old.mtu, new.mtu))

    async def declare(self, host: Host, peers: Sequence[SubnetLease]) -> Wanted:
        """What both want, with the routes of the side by which each peer is sent to."""
        view = self.view
        told = {node: each.part for node, each in view.told.items()}
        mine = told.get(view.node)
        data = None if mine is None else _data(mine.backend_data)
        new_peers = []
        for peer in peers:
            part = told.get(show_ip(peer.public_ip))
            if part is not None:
                new_peers.append(
                    msgspec.structs.replace(
                        peer,
                        backend_type=self.new.backend_type,
                        backend_data=_data(part.backend_data),
                        backend_v6_data=_data(part.backend_v6_data),
                    )
                )
            elif view.plan.phase is Phase.FINISH:
                new_peers.append(peer)  # a newcomer to the new network
        with plugin_errors(self.old.backend.manifest.name):
            old = checked_wanted(await self.old.backend.declare(self.old.host(host, host.published), peers))
        by_new: set[object] = set()
        for peer in peers:
            if view.by_new(show_ip(peer.public_ip)):
                by_new.update((peer.subnet, peer.subnet6))
        try:
            with plugin_errors(self.new.backend.manifest.name):
                new = checked_wanted(await self.new.backend.declare(self.new.host(host, data), new_peers))
            devices = _united(*((new, old) if sends_new(view.plan, view.node) else (old, new)))
            self.fault = ""
        except NetstoreError as error:
            if by_new or (mine is not None and mine.receives):
                raise  # others may send by it: the kernel stays as it is
            self.fault, new, devices = str(error), Wanted(), list(old.devices)
        refused: dict[Subnet, str] = {}
        self.refused = {}
        for peer in new_peers:
            node = show_ip(peer.public_ip)
            if peer.subnet in new.refused and node in told and node not in view.plan.without:
                self.refused[node] = new.refused[peer.subnet]
        for side, is_new in ((old, False), (new, True)):
            refused.update(
                (subnet, reason) for subnet, reason in side.refused.items() if (subnet in by_new) is is_new
            )
        routes = [route for route in old.routes if route.subnet not in by_new]
        routes += [route for route in new.routes if route.subnet in by_new]
        self.declared = view
        return Wanted(
            routes=routes,
            refused=refused,
            devices=devices,
            neighbours=list(dict.fromkeys((*old.neighbours, *new.neighbours))),
            forwarding=list(dict.fromkeys((*old.forwarding, *new.forwarding))),
            warnings=[*old.warnings, *new.warnings],
            prepare_again=old.prepare_again or new.prepare_again,
        )

    async def stop(self) -> None:
        """Both are stopped."""
        for side in (self.old, self.new):
            with plugin_errors(side.backend.manifest.name):
                await side.backend.stop()

    async def teardown(self) -> None:
        """What both did is undone."""
        for side in (self.old, self.new):
            with plugin_errors(side.backend.manifest.name):
                await side.backend.teardown()


def _data(text: str) -> bytes | None:
    return text.encode() if text else None


def _united(first: Wanted, second: Wanted) -> list[Device]:
    """The devices of both; of one that both declare, that of the first. Refused if it cannot be both."""
    found = {device.name: device for device in first.devices}
    for device in second.devices:
        other = found.setdefault(device.name, device)
        if (other.kind, other.mac) != (device.kind, device.mac):
            raise Refused(
                f"{device.name}: the old and the new network config want it with other parameters, and it"
                " cannot be there twice; abort the migration, and choose another VNI"
            )
    return list(found.values())
