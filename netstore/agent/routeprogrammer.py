"""Turns leases into kernel state: filters the leases, asks the backend what they need, and hands that to the
reconciler.

Each of these steps works on the leases that changed, and none costs more because there are many others. All
leases are judged again when the node itself changed. Beside that, some of them are judged and declared again
in each full round, in turn, so that no error in what is kept of them stays for ever.
"""

from __future__ import annotations

import math
from collections import Counter
from itertools import chain, islice
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from netstore.agent.backend import REPAIR_INTERVAL, plugin_errors
from netstore.agent.combined import Combined, Owner
from netstore.agent.declaration import checked_prepared, checked_wanted
from netstore.agent.localnode import refresh
from netstore.agent.problems import ProblemList
from netstore.agent.servedleases import ServedLeases, Site
from netstore.errors import NetstoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from netstore.agent.backend import Host, Wanted
    from netstore.agent.kernel import Kernel
    from netstore.agent.leaseholder import LeaseHolder
    from netstore.agent.leasewatcher import LeaseWatcher
    from netstore.agent.localnode import LocalNode
    from netstore.agent.problems import ProblemLog
    from netstore.agent.reconciler import Reconciler
    from netstore.agent.requiredhosts import RequiredHosts
    from netstore.network.config import Network
    from netstore.network.lease import SubnetLease
    from netstore.ops.agent import AgentConfig

RETRY_DELAY: Final = 1.0
"""Seconds after a failed round."""

DEBOUNCE_FACTOR: Final = 2.0
"""Debounce: the minimum pause between two updates, as a multiple of the time that the backend's `declare`
took, the only step that may look at all leases for one change (and `_published` while no lease is held, at
0.1 us each). What the other steps take is for what changed, and a pause would only delay what changes next:
the update in which all leases are new takes a second.
"""

MAX_DEBOUNCE: Final = 1.0
"""The longest such pause, in seconds."""

CONTENTION_DELAY: Final = 0.02
"""Seconds until the next repair while another program undoes our changes as fast as we make them."""

NODE: Final = ""
"""The name under which is declared what the node itself needs; no lease has it."""

PART: Final = 256
"""Leases that are judged or declared before other tasks may run: 3 ms."""

REPORT_FACTOR: Final = 10.0
"""The minimum pause between two reports of problems, as a multiple of the last one's duration."""

REFRESH_INTERVAL: Final = 60.0
"""Maximum seconds between two looks at interface and addresses, in case a notification was lost."""


class RouteProgrammer:
    """Programs the routes of this node.

    `on_round` is called after each round, with whether it was a full one. Call `leases_changed` when leases
    or the own subnet changed, `kernel_changed` when the reconciler has notifications.
    """

    def __init__(
        self,
        *,
        config: AgentConfig,
        kernel: Kernel,
        node: LocalNode,
        watcher: LeaseWatcher,
        holder: LeaseHolder,
        reconciler: Reconciler,
        log: ProblemLog,
        hosts: RequiredHosts,
        on_round: Callable[[bool], None] = lambda _: None,
    ) -> None:
        self.rejected_leases = ProblemList(log, "lease_skipped", "lease_no_longer_skipped")
        self.rejected_ipv6 = ProblemList(log, "lease_ipv6_skipped", "lease_ipv6_no_longer_skipped")
        self.unrouted_peers = ProblemList(log, "peer_not_routed", "peer_routed_again")
        self.faulty_devices = ProblemList(log, "device_not_ready", "device_ready_again")
        self.warnings = ProblemList(log, "backend_warns", "backend_warns_no_more")
        self.placed = trio.Event()
        """Set when all routes were in place for the first time."""
        self.fault: str | None = None
        """Why the last round failed, None if it did not."""
        self.checked = trio.current_time()
        """When the last round ended."""
        self._config = config
        self._kernel = kernel
        self._node = node
        self._watcher = watcher
        self._holder = holder
        self._reconciler = reconciler
        self._log = log
        self._hosts = hosts
        self._on_round = on_round
        self._must_refresh = False
        self._refreshed = trio.current_time()
        self._wake = trio.Event()
        self._must_update = True
        self._update_not_before = 0.0
        self._must_report = False
        self._report_not_before = 0.0
        self._leases = ServedLeases(self._site())
        self._basis: tuple[object, ...] = ()
        """What beside each other, and each lease itself, decides about leases."""
        self._peer_basis: tuple[Host, object] | tuple[()] = ()
        """What beside each lease decides what is declared for it."""
        self._combined = Combined()
        self._declared: dict[str, SubnetLease] = {}
        """The leases as they were declared last."""
        self._gateways: Counter[int] = Counter()
        """The public addresses of this node and of the leases that are declared."""
        self._failed: dict[str, str] = {}
        """The leases for which the backend failed, with the reason; what it declared before stays."""
        self._unjudged: dict[str, None] = {}
        """The names of the leases that changed."""
        self._undeclared: dict[str, None] = {}
        """Those whose declaration is out of date."""
        self._turn: Iterator[str] = iter(())

    @property
    def refused(self) -> dict[str, str]:
        """The reason for each subnet for which the backend, or what others declare, leaves no way."""
        return self._combined.refused

    @property
    def rejected(self) -> dict[str, str]:
        """The reason for each lease, by name, that is not served."""
        return self._leases.rejected

    @property
    def failed(self) -> dict[str, str]:
        """The reason for each lease, by name, for which the backend failed; what it declared before stays."""
        return self._failed

    @property
    def networks(self) -> tuple[Network, Network | None]:
        """The network configs whose leases are served."""
        return self._leases.site.networks

    def leases_changed(self, names: Collection[str] = ()) -> None:
        """The leases with these names or the own subnet changed."""
        self._unjudged.update(dict.fromkeys(names))
        self._must_update = True
        self._wake.set()

    def kernel_changed(self) -> None:
        """The reconciler has notifications."""
        self._wake.set()

    def networks_changed(self) -> None:
        """The network configs whose leases are served changed, and with them what no lease may have."""
        self._must_refresh = True
        self.leases_changed()

    def hosts_changed(self) -> None:
        """The addresses of the hosts that this node needs changed."""
        self._must_refresh = True
        self._wake.set()

    async def run(self) -> None:
        """Keep the routes up to date forever."""
        repair_at = trio.current_time() + REPAIR_INTERVAL
        while True:
            self._wake = trio.Event()
            now = trio.current_time()
            full = now >= repair_at
            if full:
                repair_at = now + REPAIR_INTERVAL
            try:
                await self._run_once(full=full)
            except NetstoreError as error:
                self._must_update = True
                self._update_not_before = trio.current_time() + RETRY_DELAY
                self.fault = str(error)
                self._log.report("routes", "routes_not_kept", reason=self.fault)
            else:
                self.fault = None
                self._log.resolve("routes", "routes_kept_again")
            self.checked = trio.current_time()
            self._on_round(full)
            if self._reconciler.pending or self._reconciler.is_changed:
                await trio.sleep(CONTENTION_DELAY)
                continue
            with trio.move_on_at(min(repair_at, self._due())):
                await self._wake.wait()

    def _due(self) -> float:
        """When what waits is to be done, if nothing wakes this task before."""
        update = self._update_not_before if self._must_update else math.inf
        return min(update, self._report_not_before if self._must_report else math.inf)

    async def _run_once(self, *, full: bool) -> None:
        network_changed = await self._reconciler.repair(full=full)
        now = trio.current_time()
        if full and (
            self._node.fault is not None
            or self._reconciler.others_changed
            or now - self._refreshed >= REFRESH_INTERVAL
        ):
            self._must_refresh = True
        if network_changed or self._must_refresh:
            self._must_refresh = self._reconciler.others_changed = False
            self._refreshed = now
            await self._refresh_node()
        if full:
            self._take_turn()
        if full or (self._must_update and trio.current_time() >= self._update_not_before):
            self._must_update = False
            await self._update_routes()
        self._must_report = True
        if full or trio.current_time() >= self._report_not_before:
            self._report()

    def _take_turn(self) -> None:
        """Judge and declare again the leases whose turn it is, and those for which the backend failed."""
        names = list(islice(self._turn, PART))
        if len(names) < PART:
            watcher, leases = self._watcher, self._leases  # also what is left of leases that are gone
            sources = (watcher.leases, watcher.invalid, leases.served, leases.rejected, self._declared)
            self._turn = iter(dict.fromkeys(chain.from_iterable(sources)))
        self._unjudged.update(dict.fromkeys(names))
        self._undeclared.update(dict.fromkeys(names))
        self._undeclared.update(dict.fromkeys(self._failed))

    def _report(self) -> None:
        """Log which problems began and which are over."""
        started = trio.current_time()
        self._must_report = False
        self.rejected_leases.update(self._leases.rejected)
        self.rejected_ipv6.update(self._leases.rejected_ipv6)
        if self._node.fault is None:  # else no peer is served, which need not be said of each
            failed = {str(self._declared[name].subnet): reason for name, reason in self._failed.items()}
            self.unrouted_peers.update(self._combined.refused | failed | self._reconciler.problems)
            self.faulty_devices.update(self._reconciler.device_problems)
        now = trio.current_time()
        self._report_not_before = now + (now - started) * REPORT_FACTOR

    async def _refresh_node(self) -> None:
        """The host's interface or address may have changed, and with it the routes to all peers."""
        try:
            changed = await refresh(self._node, self._config, self._kernel, self._hosts.addresses)
        except NetstoreError:
            changed = False  # `fault` says why
        if self._node.fault is not None:
            if "interface" not in self._log.open:  # once, also if the reason changes
                self._log.report("interface", "interface_lost", reason=self._node.fault)
        else:
            self._log.resolve("interface", "interface_back", interface=self._node.host.link.name)
        if changed:
            self._reconciler.link = self._node.host.link
            self._holder.set_value(self._node.host.public_ip, self._node.lease_value)
            self._must_update = True
            self._update_not_before = 0.0

    async def _update_routes(self) -> None:
        subnets = self._holder.subnets
        host = self._node.host_with(
            subnets,
            self._reconciler.devices.links or self._node.host.devices,
            self._published(subnets.lease_name if subnets is not None else ""),
            dict(self._reconciler.device_problems),
        )
        await self._judge()
        started = trio.current_time()
        wanted = await self._ask_backend(host)
        pause = min(MAX_DEBOUNCE, (trio.current_time() - started) * DEBOUNCE_FACTOR)
        if wanted.prepare_again:
            await self._prepare_again(host)
        await self._declare(host, wanted)
        await self._reconciler.declare(self._combined.take_changes(), self._gateways)
        self.warnings.update({warning: warning for warning in wanted.warnings})
        if not self.placed.is_set():
            self._report()
            self.placed.set()
            self._log.info(
                "routes_in_place",
                routes=len(self._reconciler.routes.named),
                leases=len(self._leases.served),
            )
        self._update_not_before = trio.current_time() + pause

    def _site(self) -> Site:
        node, host = self._node, self._node.host
        subnet, subnet6 = self._holder.subnets or (None, None)
        return Site(
            node.network,
            subnet,
            subnet6,
            host.public_ip,
            host.public_ip6,
            node.protected,
            node.protected6,
            node.former,
        )

    async def _judge(self) -> None:
        """Decide anew about the leases that changed; about all if the node or its own lease did."""
        state, own_name = self._holder.state, ""
        if state.held and self._holder.subnets is not None:
            own_name = self._holder.subnets.lease_name
        site = self._site()
        basis = (site, own_name, state.held, state.permanent, state.subnets)
        if site.networks != self._leases.site.networks:
            self._leases = ServedLeases(site)
            self._undeclared.update(dict.fromkeys(self._declared))
        if basis != self._basis:
            self._basis, self._leases.site = basis, site
            self._unjudged.update(dict.fromkeys([*self._watcher.leases, *self._watcher.invalid]))
        judged = self._leases.judged
        while self._unjudged:
            name, _ = self._unjudged.popitem()
            lease = self._watcher.leases.get(name) if name != own_name else None
            if lease is not None and lease.created != (created := self._watcher.created(name)):
                lease = msgspec.structs.replace(lease, created=created)
            changed = self._leases.put(
                name,
                lease,
                invalid=self._watcher.invalid.get(name),
                unnoticed=lease is not None
                and lease.public_ip == site.public_ip
                and self._holder.explains(name),
            )
            self._undeclared.update(dict.fromkeys(changed))
            if self._leases.judged - judged >= PART:
                judged = self._leases.judged
                await trio.lowlevel.checkpoint()
        self._unjudged.clear()  # a dict that was emptied one by one keeps its room, 50 bytes for each

    async def _declare(self, host: Host, wanted: Wanted) -> None:
        """Declare what the node wants, and what the peers want that changed; all of them if what they depend
        on did.
        """
        self._combined.put(NODE, Owner(host.public_ip, -1, NODE), wanted)
        plain = msgspec.structs.replace(
            host, subnet=None, subnet6=None, devices={}, published=None, faults={}
        )
        basis = (plain, wanted.peers_depend_on)
        if basis != self._peer_basis:
            if self._peer_basis:
                self._count_gateways(self._peer_basis[0], -1)
            self._count_gateways(plain, 1)
            self._peer_basis = basis
            self._undeclared.update(dict.fromkeys(self._leases.served))
        taken = 0
        while self._undeclared:
            name, _ = self._undeclared.popitem()
            self._declare_peer(name, plain)
            taken += 1
            if taken % PART == 0:
                await trio.lowlevel.checkpoint()
        self._undeclared.clear()

    def _declare_peer(self, name: str, host: Host) -> None:
        """Declare what one lease needs, if it is served."""
        lease, former = self._leases.served.get(name), self._declared.pop(name, None)
        self._failed.pop(name, None)
        if former is not None:
            self._count_gateways(former, -1)
        if lease is None:
            self._combined.remove(name)
            return
        self._declared[name] = lease
        self._count_gateways(lease, 1)
        backend = self._node.backend
        try:
            with plugin_errors(backend.manifest.name):
                wanted = checked_wanted(backend.declare_peer(host, lease), "declare_peer")
        except NetstoreError as error:
            self._failed[name] = str(error)
        else:
            self._combined.put(name, Owner(lease.public_ip, lease.created, str(lease.subnet)), wanted)

    def _count_gateways(self, of: SubnetLease | Host, count: int) -> None:
        for ip in (of.public_ip, of.public_ip6):
            if ip is not None:
                self._gateways[ip] += count
                if not self._gateways[ip]:
                    del self._gateways[ip]

    def _published(self, own_name: str) -> bytes | None:
        """The BackendData by which other nodes know this one: of its lease, or of one that it left."""
        if self._holder.state.held:
            lease = self._watcher.leases.get(own_name)
        else:
            public_ip = self._node.host.public_ip
            left = [name for name, each in self._watcher.leases.items() if each.public_ip == public_ip]
            lease = self._watcher.leases[max(left, key=self._watcher.created)] if left else None
        return lease.backend_data if lease is not None else None

    async def _prepare_again(self, host: Host) -> None:
        """The backend has other data to publish."""
        with plugin_errors(self._node.backend.manifest.name):
            self._node.prepared = checked_prepared(await self._node.backend.prepare(host))
        self._holder.set_value(self._node.host.public_ip, self._node.lease_value)

    async def _ask_backend(self, host: Host) -> Wanted:
        backend = self._node.backend
        with plugin_errors(backend.manifest.name):
            return checked_wanted(await backend.declare(host, self._leases.served.values()))
