"""This node's part in a migration of the network (`network.migration` has the rules).

While a plan is under way the node's backend is `sides.TwoSides`. The plan's phase decides by which side peers
are sent to; what the node has done is told after the round that brought it into the kernel. When the plan is
over, one backend is left. If this agent ends meanwhile, the kernel stays as it is; one that starts finds the
plan before it declares anything.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final, cast

import msgspec
import trio

from netstore.agent.backend import find, plugin_errors
from netstore.agent.leasefilter import conflict
from netstore.agent.sides import Side, TwoSides, View
from netstore.agent.sysctls import strict_filter
from netstore.client.faults import ClientError
from netstore.errors import NetstoreError
from netstore.network.addresses import show_ip
from netstore.network.config import parse_network
from netstore.network.migration import Change, Part, Phase, claims, moves_path, sends_new

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from netstore.agent.backend import Backend, Prepared
    from netstore.agent.leaseholder import LeaseHolder
    from netstore.agent.leasewatcher import LeaseWatcher
    from netstore.agent.localnode import LocalNode
    from netstore.agent.planwatcher import PlanWatcher
    from netstore.agent.problems import ProblemLog
    from netstore.agent.reconciler import Reconciler
    from netstore.agent.routeprogrammer import RouteProgrammer
    from netstore.network.config import Network
    from netstore.network.migration import Plan

RETRY_DELAY: Final = 1.0
"""Seconds after which what failed is tried again."""

DRAIN_SECONDS: Final = 2.0
"""How long a side is received by after all nodes have told that they do not send by it, for packets that are
on their way.
"""

TOPIC: Final = "migration_part"


def document_of(plan: Plan | None, config: str) -> str:
    """The network config that a node starts with: that of the plan until it is over, unless somebody has
    written another one since than the two that the plan is about.
    """
    if plan is None or plan.phase.is_over or config not in {plan.old, plan.new}:
        return config
    return plan.new if plan.phase is Phase.FINISH else plan.old


class Migration:
    """What this node does in migrations. Call `plan_changed` when the plan's watcher has news, `round_ended`
    after each round of the route programmer.
    """

    def __init__(
        self,
        *,
        node: LocalNode,
        folder: Path,
        plans: PlanWatcher,
        leases: LeaseWatcher,
        holder: LeaseHolder,
        programmer: RouteProgrammer,
        reconciler: Reconciler,
        log: ProblemLog,
    ) -> None:
        self.sides: TwoSides | None = None
        self._node = node
        self._folder = folder
        """Where the folders of the backends are."""
        self._plans = plans
        self._leases = leases
        self._holder = holder
        self._programmer = programmer
        self._reconciler = reconciler
        self._log = log
        self._told_as = self._name
        """The PublicIP with which this node's part was told first; it changes with the address."""
        self._plan: Plan | None = None
        """The plan that `sides` are of."""
        self._problem = ""
        self._applied: View | None = None
        """The view that the kernel is as."""
        self._wanted: View | None = None
        """What is to be applied of a plan that changes the range."""
        self._forgotten = ""
        self._wake = trio.Event()
        self.ready = trio.Event()
        """Set when the first round may begin: no plan is under way, or this node has its part in it."""
        self.may_hold = trio.Event()
        """Set when the lease may be held: with `ready`, or when what an earlier run set up has to stay for
        now, and with it the lease.
        """

    @property
    def _name(self) -> str:
        """The name of this node's part: its PublicIP."""
        return show_ip(self._node.host.public_ip)

    @property
    def phase(self) -> str | None:
        """The phase of the plan that this node takes part in."""
        return None if self._plan is None else str(self._plan.phase)

    def plan_changed(self) -> None:
        """The plan or a part changed."""
        self._wake.set()

    def leases_changed(self) -> None:
        """Leases changed; this node's may have been written anew, which is waited for at the end."""
        if self._plan is not None and self._plan.phase is Phase.FINISH:
            self._wake.set()

    def round_ended(self) -> None:
        """A round of the route programmer ended: what was declared may be in the kernel."""
        if self._told_as != self._name:
            self._wake.set()
        sides, node = self.sides, self._node
        if self._wanted is not None and self._programmer.networks == (node.network, node.former):
            if self._programmer.fault is None and not self._reconciler.pending:
                self._applied = self._wanted
                self._wake.set()
            return
        if sides is None or sides.declared is None:
            return
        if self._programmer.fault is not None or self._reconciler.pending:
            return
        if self._applied is not sides.declared or self._fault() != self._problem:
            self._applied = sides.declared
            self._wake.set()

    async def run(self) -> None:
        """Take part in migrations forever."""
        while True:
            self._wake = trio.Event()
            try:
                is_done = await self._step()
            except NetstoreError as error:
                self._log.report(TOPIC, "migration_waits", reason=str(error))
                is_done = False
            else:
                if self._problem:
                    self._log.report(TOPIC, "migration_waits", reason=self._problem)
                else:
                    self._log.resolve(TOPIC, "migration_goes_on")
            with trio.move_on_after(60.0 if is_done else RETRY_DELAY):
                await self._wake.wait()

    async def _step(self) -> bool:
        """Do what the plan says. False if something is to be tried again."""
        plan = self._plans.plan
        former = self._plan
        if former is not None and former.change is Change.RANGE and (plan is None or plan.id != former.id):
            is_new = await self._is_new_stored(former)
            self._log.warning("migration_plan_gone", id=former.id, config="new" if is_new else "old")
            self._renumber(former, is_new=is_new, network_is_new=is_new)
            self._plan = self._applied = self._wanted = None
        if self.sides is not None and self._plan is not None and (plan is None or plan.id != self._plan.id):
            # The plan is gone, as with a store that was restored: what is stored is what is to be.
            is_new = await self._is_new_stored(self._plan)
            self._log.warning("migration_plan_gone", id=self._plan.id, config="new" if is_new else "old")
            phase = Phase.DONE if is_new else Phase.ABORTED
            await self._drain(self.sides, msgspec.structs.replace(self._plan, phase=phase))
            await self._settle(is_new=is_new)
        if plan is None or plan.phase.is_over:
            self._told_as = self._name
        if plan is None:
            self._set_ready()
            return True
        if plan.phase.is_over:
            return await self._end(plan)
        try:
            await self._take_part(plan)
            self._problem = self._fault()
        except NetstoreError as error:
            self._problem = str(error)
            if self._is_known(plan) and plan.change is Change.BACKEND:
                self.may_hold.set()
        is_told = await self._tell(plan)
        if self._told_as != self._name in self._plans.told:
            await self._plans.forget(self._told_as)
            self._told_as = self._name
        if self._name in self._plans.told and (self._has_begun or not self._is_known(plan)):
            self._set_ready()
        return is_told and not (self._problem and not self._has_begun)

    def _set_ready(self) -> None:
        self.ready.set()
        self.may_hold.set()

    async def _is_new_stored(self, plan: Plan) -> bool:
        """Which of its configs a plan that is gone has left. NetstoreError if there is none: a store that is
        empty says nothing.
        """
        config = await self._plans.config()
        if config is None:
            raise NetstoreError(
                "plan and network config are gone from the store; both sides stay until a network config is"
                " written"
            )
        return config == plan.new

    @property
    def _has_begun(self) -> bool:
        """Whether this node receives by both configs, or is about to."""
        return self.sides is not None or self._wanted is not None

    def _is_known(self, plan: Plan) -> bool:
        """Whether an earlier run of this agent may have set up both sides."""
        told = self._plans.told.get(self._name)
        return told is not None and (told.part.receives > 0 or plan.phase is Phase.FINISH)

    async def _take_part(self, plan: Plan) -> None:
        """Have both sides, and declare what the plan says."""
        node = self._node
        if plan.change is Change.RANGE:
            self._check_document(plan)
            if self._plan is None or self._plan.phase is not plan.phase:
                self._log.info("migration_phase", id=plan.id, phase=str(plan.phase))
            is_new = sends_new(plan, self._name)
            self._renumber(plan, is_new=is_new, network_is_new=plan.phase is Phase.FINISH)
            self._plan, self._wanted = plan, View(plan, dict(self._plans.told), self._name)
            if self._applied is not None and self._programmer.networks == (node.network, node.former):
                self._applied = self._wanted  # what others have told changes nothing in the kernel
            return
        if self.sides is None:
            self.sides = await self._begin(plan)
            self._node.backend = cast("Backend", self.sides)  # its manifest is one of two
            self._log.info("migration_begins", id=plan.id, phase=str(plan.phase))
        sides = self.sides
        if plan.phase is Phase.FINISH and sides.primary is sides.old:
            sides.primary = sides.new
            self._node.document = plan.new
            self._become(sides.new)
            self._set_prepared(sides)
        view = View(plan, dict(self._plans.told), self._name)
        if self._plan is None or self._plan.phase is not plan.phase:
            self._log.info("migration_phase", id=plan.id, phase=str(plan.phase))
        self._plan = plan
        if view != sides.view or sides.declared is None:
            sides.view = view
            self._programmer.leases_changed()

    async def _begin(self, plan: Plan) -> TwoSides:
        """Both sides; the one that this node does not run yet is made and prepared."""
        self._check_document(plan)
        node = self._node
        is_old = self._node.document == plan.old
        networks = [parse_network(text.encode()) for text in (plan.old, plan.new)]
        found = [
            Side(network, node.backend, self._own(network), node.prepared)
            if is_running
            else Side(network, find(network), self._own(network))
            for network, is_running in zip(networks, (is_old, not is_old), strict=True)
        ]
        view = View(plan, dict(self._plans.told), self._name)
        sides = TwoSides(found[0], found[1], view)
        for side in found:
            with contextlib.suppress(OSError):  # a backend that keeps something there says that it cannot
                side.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if side.prepared is None:
                await side.prepare(node.host)
        sides.primary = found[0] if is_old else found[1]
        self._set_prepared(sides)
        return sides

    def _check_document(self, plan: Plan) -> None:
        if self._node.document not in (plan.old, plan.new):
            raise NetstoreError(
                f"this agent runs with another network config than those of the migration {plan.id}: start it"
                " again, or end the migration (netstorectl network migrate abort)"
            )

    def _renumber(self, plan: Plan, *, is_new: bool, network_is_new: bool) -> None:
        """Serve the leases of both ranges, and hold a subnet of the new one if `is_new`. `network_is_new`:
        the new config is this node's.
        """
        node = self._node
        old, new = (parse_network(text.encode()) for text in (plan.old, plan.new))
        networks = (new, old) if network_is_new else (old, new)
        if (node.network, node.former) != networks:
            node.network, node.former = networks
            node.document = plan.new if network_is_new else plan.old
            node.host = msgspec.structs.replace(node.host, network=node.network)
            self._reconciler.manage(list(dict.fromkeys(one for each in networks for one in each.ranges)))
            self._programmer.networks_changed()
            self._holder.set_value(node.host.public_ip, node.lease_value)  # subnet.env names the network
        self._holder.renumber(*((new, old) if is_new else (old, new)))

    def _become(self, side: Side) -> None:
        """The network config of the side is this node's."""
        node = self._node
        node.network = side.network
        node.host = msgspec.structs.replace(node.host, network=side.network, folder=side.folder)

    def _own(self, network: Network) -> Path:
        return self._folder / network.backend_type

    def _set_prepared(self, sides: TwoSides) -> None:
        """What the lease says, and the MTU of new pods, which is the lesser one of both."""
        prepared = [side.prepared for side in (sides.old, sides.new) if side.prepared is not None]
        primary = sides.primary.prepared
        assert primary is not None  # noqa: S101 - both are prepared
        least = min(each.mtu for each in prepared)
        self._change_lease(msgspec.structs.replace(primary, mtu=least))

    def _change_lease(self, prepared: Prepared) -> None:
        if prepared != self._node.prepared or self._node.lease_value != self._holder.state.value:
            self._node.prepared = prepared
            self._holder.set_value(self._node.host.public_ip, self._node.lease_value)

    def _fault(self) -> str:
        """Why the node cannot do what the plan says; empty if it can."""
        sides, reconciler = self.sides, self._reconciler
        if self._wanted is not None:
            return self._range_fault(self._wanted)
        if sides is None or sides.declared is None:
            return self._problem
        if sides.fault:
            return sides.fault
        for name, reason in reconciler.device_problems.items():
            return f"{name}: {reason}"
        if moves_path(sides.old.network, sides.new.network):
            for name in (self._node.host.link.name, *reconciler.devices.wanted):
                if (strict := strict_filter(name)) is not None:
                    return strict
        if sides.refused:
            peer, reason = next(iter(sides.refused.items()))
            return f"{peer} cannot be served by the new config: {reason}"
        return self._unserved(sides.declared, {})

    def _range_fault(self, view: View) -> str:
        """Why the node cannot use the range of the new config, or not reach the subnets of others in it."""
        node = self._node
        new = node.network if view.plan.phase is Phase.FINISH else node.former
        if new is None or self._applied is None:
            return ""  # the next round says
        if view.plan.phase.can_revert:
            own = {
                lease.subnet
                for lease in self._leases.leases.values()
                if lease.public_ip == node.host.public_ip
            }
            if self._holder.subnet is not None:
                own.add(self._holder.subnet)
            if (found := conflict(new, [node.network.network, *own], node.protected)) is not None:
                return found
        rejected = self._programmer.rejected
        if rejected:
            rejected = {
                name: reason
                for name, reason in rejected.items()
                if (lease := self._leases.leases.get(name)) is not None and new.fits(lease.subnet)
            }
        return self._unserved(view, rejected)

    def _unserved(self, view: View, rejected: Mapping[str, str]) -> str:
        """Why a lease of a node that is waited for is not served, empty if all are. `rejected` has reasons by
        the names of leases.
        """
        by_name = {**rejected, **self._programmer.failed}
        by_subnet = self._programmer.refused | self._reconciler.problems
        if by_name or by_subnet:
            waited = view.told.keys() - {*view.plan.without, self._name}
            for name, lease in self._leases.leases.items():
                reason = by_name.get(name) or by_subnet.get(str(lease.subnet))
                if reason is not None and show_ip(lease.public_ip) in waited:
                    return f"{lease.subnet}: {reason}"
        return ""

    async def _tell(self, plan: Plan) -> bool:
        """Tell what is done, if the store does not know it yet. False if it is to be tried again."""
        told, name = self._plans.told, self._name
        new = None if self.sides is None else self.sides.new.prepared
        part = Part(plan.id, Phase.PREPARE, problem=self._problem)
        if new is not None:
            part = msgspec.structs.replace(
                part, backend_data=_text(new.backend_data), backend_v6_data=_text(new.backend_v6_data)
            )
        is_whole = True
        if name in told:
            known = told[name].part
            if not self._has_begun and self._is_known(plan):
                # What an earlier run set up is in the kernel, as it told.
                part = msgspec.structs.replace(known, problem=self._problem)
            else:
                part = msgspec.structs.replace(
                    part, phase=known.phase, receives=known.receives, sends=known.sends
                )
            applied = self._applied
            can_claim = plan.phase is Phase.REVERT or not self._problem
            if not self._has_begun and plan.phase is Phase.REVERT and not self._is_known(plan):
                # It never had both sides.
                part = msgspec.structs.replace(part, phase=Phase.REVERT)
            elif applied is not None and applied.plan == plan and can_claim and name in applied.told:
                may = claims(plan, name, applied.told)
                part = msgspec.structs.replace(part, receives=may.receives, sends=may.sends)
                is_whole = may.phase is not Phase.FINISH or self._has_new_lease()
                if plan.change is Change.RANGE and not (self._holder.is_settled or self._is_without_lease):
                    is_whole = False
                    part = msgspec.structs.replace(part, sends=known.sends)
                if is_whole:
                    part = msgspec.structs.replace(part, phase=may.phase)
            if part == known:
                return is_whole
        try:
            return await self._plans.tell(name, part) and is_whole
        except ClientError as error:
            raise NetstoreError(f"this node's part could not be written: {error}") from None

    def _has_new_lease(self) -> bool:
        """Whether the store has this node's lease as the new config wants it, or none of this node."""
        if self._is_without_lease:
            return True
        subnets = self._holder.subnets
        entry = None if subnets is None else self._leases.entries.get(subnets.lease_name)
        return entry is not None and entry.value == self._node.lease_value

    @property
    def _is_without_lease(self) -> bool:
        """Whether this node holds no lease, as if it is drained: what it writes later is as the config."""
        state = self._holder.state
        return not (state.is_written or state.is_writing) and not any(
            lease.public_ip in state.own_ips for lease in self._leases.leases.values()
        )

    async def _end(self, plan: Plan) -> bool:
        """The plan is over: one side is left, and this node's part is removed."""
        is_new = plan.phase is Phase.DONE
        if plan.change is Change.RANGE:
            document = plan.new if is_new else plan.old
            if self._plan is not None or await self._plans.config() == document:
                self._check_document(plan)
                self._renumber(plan, is_new=is_new, network_is_new=is_new)
            self._plan = self._applied = self._wanted = None
        if self.sides is not None:
            self._plan = plan
            await self._drain(self.sides, plan)
            await self._settle(is_new=is_new)
        elif (
            is_new and self._node.document == plan.old != plan.new and await self._plans.config() == plan.new
        ):
            # This node was left out, and runs with the former config.
            self.sides, self._plan = await self._begin(plan), plan
            await self._settle(is_new=True)
        self._set_ready()
        if self._name in self._plans.told and self._forgotten != plan.id:
            self._forgotten = plan.id
            await self._plans.forget(self._name)
        return True

    async def _drain(self, sides: TwoSides, plan: Plan) -> None:
        """Send as the plan says, which is over, and receive by both sides for `DRAIN_SECONDS`."""
        # A node whose part is gone has ended before this one, and still receives as it told.
        told = {**sides.view.told, **self._plans.told}
        sides.view = View(plan, told, self._name)
        self._programmer.leases_changed()
        await trio.sleep(DRAIN_SECONDS)

    async def _settle(self, *, is_new: bool) -> None:
        """Keep one side. The leases are listed first: then those that nodes have written anew are known."""
        sides, plan = self.sides, self._plan
        assert sides is not None  # noqa: S101 - the caller looked
        await self._leases.list_once()
        kept, other = (sides.new, sides.old) if is_new else (sides.old, sides.new)
        self._become(kept)
        self._node.backend = kept.backend
        if plan is not None:
            self._node.document = plan.new if is_new else plan.old
        assert kept.prepared is not None  # noqa: S101 - both are prepared
        self._change_lease(kept.prepared)
        self.sides = self._plan = self._applied = None
        self._problem = ""
        self._programmer.leases_changed()
        self._log.info(
            "migration_ends", backend=kept.backend.manifest.name, config="new" if is_new else "old"
        )
        with plugin_errors(other.backend.manifest.name):
            await other.backend.stop()


def _text(data: bytes | None) -> str:
    return "" if data is None else data.decode()
