"""Turns leases into kernel state: filters the leases, asks the backend what they need, and hands that to the
reconciler.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
import trio

from netstore.agent.backend import REPAIR_INTERVAL, plugin_errors
from netstore.agent.declaration import checked_prepared, checked_wanted
from netstore.agent.leasefilter import rejection
from netstore.agent.leasefilter6 import served_families
from netstore.agent.localnode import refresh
from netstore.agent.problems import ProblemList
from netstore.errors import NetstoreError
from netstore.network.overlaps import conflicts

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.agent.backend import Host, Wanted
    from netstore.agent.kernel import Kernel
    from netstore.agent.leaseholder import LeaseHolder
    from netstore.agent.leasewatcher import LeaseWatcher
    from netstore.agent.localnode import LocalNode
    from netstore.agent.problems import ProblemLog
    from netstore.agent.reconciler import Reconciler
    from netstore.agent.requiredhosts import RequiredHosts
    from netstore.network.addresses import Subnet
    from netstore.network.lease import SubnetLease
    from netstore.ops.agent import AgentConfig

RETRY_DELAY: Final = 1.0
"""Seconds after a failed round."""

DEBOUNCE_FACTOR: Final = 2.0
"""Debounce: the minimum pause between two updates, as a multiple of the last one's duration."""

CONTENTION_DELAY: Final = 0.02
"""Seconds until the next repair while another program undoes our changes as fast as we make them."""


REFRESH_INTERVAL: Final = 60.0
"""Maximum seconds between two looks at interface and addresses, in case a notification was lost."""


class RouteProgrammer:
    """Programs the routes of this node.

    `on_round` is called after each round, with whether it was a full one. Call `leases_changed` when the
    leases or the own subnet changed, `kernel_changed` when the reconciler has notifications.
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
        self._refused: dict[Subnet, str] = {}

    def leases_changed(self) -> None:
        """Leases or the own subnet changed: the backend is asked again."""
        self._must_update = True
        self._wake.set()

    def kernel_changed(self) -> None:
        """The reconciler has notifications."""
        self._wake.set()

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
            if self._reconciler.pending:
                await trio.sleep(CONTENTION_DELAY)
                continue
            with trio.move_on_at(min(repair_at, self._update_not_before) if self._must_update else repair_at):
                await self._wake.wait()

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
        if full or (self._must_update and trio.current_time() >= self._update_not_before):
            self._must_update = False
            await self._update_routes()
        if self._node.fault is not None:
            return  # then no peer is served, which need not be said of each
        problems = {str(subnet): reason for subnet, reason in self._refused.items()}
        self.unrouted_peers.update(problems | self._reconciler.problems)
        self.faulty_devices.update(self._reconciler.device_problems)

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
        started = trio.current_time()
        own = self._holder.subnet
        subnets = self._holder.subnets
        own_name = subnets.lease_name if subnets is not None else ""
        host = self._node.host_with(
            subnets,
            self._reconciler.devices.links or self._node.host.devices,
            self._published(own_name),
            dict(self._reconciler.device_problems),
        )
        accepted: dict[str, SubnetLease] = {}
        rejected = dict(self._watcher.invalid)
        others = {
            name: lease
            for name, lease in self._watcher.leases.items()
            if name != own_name or not self._holder.state.held
        }
        overlapping = conflicts(others, host.network, self._watcher.created)
        for name, lease in others.items():
            if lease.public_ip == host.public_ip and self._holder.explains(name):
                continue
            reason = rejection(lease, host.network, own, host.public_ip, self._node.protected)
            reason = reason or overlapping.get(name)
            if reason is None:
                accepted[name] = msgspec.structs.replace(lease, created=self._watcher.created(name))
            else:
                rejected[name] = reason
        peers, rejected6 = served_families(
            accepted,
            host.network.ipv6,
            (host.subnet6, host.public_ip6),
            self._node.protected6,
            self._watcher.created,
        )
        wanted = await self._ask_backend(host, peers)
        if wanted.prepare_again:
            await self._prepare_again(host)
        gateways = {host.public_ip, *(lease.public_ip for lease in peers)}
        gateways.update(lease.public_ip6 for lease in peers if lease.public_ip6 is not None)
        await self._reconciler.set_wanted(wanted, gateways)
        self._refused = wanted.refused
        self.warnings.update({warning: warning for warning in wanted.warnings})
        self.rejected_leases.update(rejected)
        self.rejected_ipv6.update(rejected6)
        if not self.placed.is_set():
            self.placed.set()
            self._log.info("routes_in_place", routes=len(wanted.routes), leases=len(peers))
        now = trio.current_time()
        self._update_not_before = now + (now - started) * DEBOUNCE_FACTOR

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

    async def _ask_backend(self, host: Host, peers: list[SubnetLease]) -> Wanted:
        backend = self._node.backend
        with plugin_errors(backend.manifest.name):
            return checked_wanted(await backend.declare(host, peers))
