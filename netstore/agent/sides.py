"""The two sides of a migration in one kernel: the backend of the old network config and that of the new one,
together one `Backend`.

Both receive what they can. A peer is sent to by one of them, as the plan says (`network.migration`): the
routes are those of that side, while devices, neighbours and forwarding entries of both stay. A device that
both declare, as where only the MTU changes, is the one of the side by which this node sends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeVar

import msgspec

from netstore.agent.backend import Manifest, Prepared, Refused, Wanted, plugin_errors
from netstore.agent.declaration import checked_prepared, checked_wanted
from netstore.errors import NetstoreError
from netstore.network.addresses import show_ip
from netstore.network.migration import Phase, Plan, Told, reaches_new, sends_new

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from netstore.agent.backend import Backend, Device, Host, Network, SubnetLease
    from netstore.network.migration import Part

T = TypeVar("T")


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


class _Decision(NamedTuple):
    """How a peer is sent to, and what it publishes for the new side."""

    by_new: bool
    is_left_out: bool
    data: bytes | None
    data6: bytes | None


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
        self._decisions: dict[str, _Decision] = {}
        self._phase: Phase | None = None
        self._generation = 0

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

    async def declare(self, host: Host, peers: Collection[SubnetLease]) -> Wanted:
        """The devices of both. Peers are declared anew if another side is to be used for one, or it has told
        something else.
        """
        view = self.view
        decisions = {
            node: _Decision(view.by_new(node), node in view.plan.without, _data(part), _data6(part))
            for node, (part, _) in view.told.items()
        }
        if decisions != self._decisions or view.plan.phase is not self._phase:
            self._decisions, self._phase = decisions, view.plan.phase
            self._generation += 1
            self.refused = {}
        mine = view.told.get(view.node)
        data = None if mine is None else _data(mine.part)
        with plugin_errors(self.old.backend.manifest.name):
            old = checked_wanted(await self.old.backend.declare(self.old.host(host, host.published), peers))
        try:
            with plugin_errors(self.new.backend.manifest.name):
                new = checked_wanted(await self.new.backend.declare(self.new.host(host, data), peers))
            devices = _united(*((new, old) if sends_new(view.plan, view.node) else (old, new)))
            self.fault = ""
        except NetstoreError as error:
            if mine is not None and mine.part.receives:
                raise  # others may send by it: the kernel stays as it is
            self.fault, new, devices = str(error), Wanted(), list(old.devices)
        self.declared = view
        return Wanted(
            devices=devices,
            warnings=[*old.warnings, *new.warnings],
            prepare_again=old.prepare_again or new.prepare_again,
            peers_depend_on=(self._generation, old.peers_depend_on, new.peers_depend_on),
        )

    def declare_peer(self, host: Host, peer: SubnetLease) -> Wanted:
        """What both want for a peer, with the routes of the side by which it is sent to."""
        node = show_ip(peer.public_ip)
        decision = self._decisions.get(node)
        by_new = decision is not None and decision.by_new
        old = self._ask(self.old, host, peer)
        new = Wanted()
        if decision is not None:
            told = msgspec.structs.replace(
                peer,
                backend_type=self.new.backend_type,
                backend_data=decision.data,
                backend_v6_data=decision.data6,
            )
            try:
                new = self._ask(self.new, host, told)
            except NetstoreError as error:
                if by_new:
                    raise
                new = Wanted(refused={peer.subnet: str(error)})
            if new.refused and not decision.is_left_out:
                self.refused[node] = next(iter(new.refused.values()))
        elif self._phase in (Phase.FINISH, Phase.DONE):
            # It came later, or its part is gone: its lease says which side it receives by.
            new = self._of_lease(host, peer)
            by_new = not new.refused or bool(old.refused)
        chosen = new if by_new else old
        return Wanted(
            routes=chosen.routes,
            refused=chosen.refused,
            neighbours=_both(old.neighbours, new.neighbours),
            forwarding=_both(old.forwarding, new.forwarding),
            tunnel_peers=_both(old.tunnel_peers, new.tunnel_peers),
        )

    def _of_lease(self, host: Host, peer: SubnetLease) -> Wanted:
        """What the new side wants for the lease as it is; refused if that side cannot serve it."""
        try:
            return self._ask(self.new, host, peer)
        except NetstoreError as error:
            return Wanted(refused={peer.subnet: str(error)})

    @staticmethod
    def _ask(side: Side, host: Host, peer: SubnetLease) -> Wanted:
        with plugin_errors(side.backend.manifest.name):
            return checked_wanted(
                side.backend.declare_peer(side.host(host, host.published), peer), "declare_peer"
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


def _data(part: Part) -> bytes | None:
    return part.backend_data.encode() or None


def _data6(part: Part) -> bytes | None:
    return part.backend_v6_data.encode() or None


def _both(first: Sequence[T], second: Sequence[T]) -> list[T]:
    """What is in either, once."""
    return list(dict.fromkeys((*first, *second)))


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
