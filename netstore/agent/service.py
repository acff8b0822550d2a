"""The agent: creates its parts and runs their tasks.

First it detects the local node (interface, network config, backend) and lists the leases. Then these tasks
run side by side: the lease watcher follows the leases, the lease holder holds this node's own, the route
programmer keeps the kernel's routes as the backend wants them, the reconciler listens to the kernel's
notifications, the addresses of the store are looked up now and then, the netfilter rules are kept if the
agent is given a `ruleset`, and the service manager is told how all that is. They share state that changes
only between two awaits, and wake each other by plain calls.

Stopping leaves lease, routes and subnet.env as they are, so that pods stay connected, unless the
configuration asks for clean-up.
"""

from __future__ import annotations

import errno
import random
import signal
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec
import trio

from netstore.agent import envfile, localsocket, privileges
from netstore.agent.announcer import Announcer
from netstore.agent.backend import REPAIR_INTERVAL, STOP_SECONDS, plugin_errors
from netstore.agent.envfile import SubnetFile
from netstore.agent.health import Health
from netstore.agent.lastingclock import LastingClock
from netstore.agent.leaseholder import LeaseHolder
from netstore.agent.leasestate import MAX_CLOCK_DRIFT, LeaseState
from netstore.agent.leasewatcher import LeaseWatcher
from netstore.agent.localnode import detect
from netstore.agent.migration import Migration, document_of
from netstore.agent.packetfilter import PacketFilter
from netstore.agent.planwatcher import PlanWatcher
from netstore.agent.pluginreport import PluginReporter, admitted, check_version, report_of
from netstore.agent.problems import ProblemLog
from netstore.agent.readiness import Readiness, routes_fault
from netstore.agent.reconciler import Reconciler
from netstore.agent.requiredhosts import RequiredHosts
from netstore.agent.routeprogrammer import RouteProgrammer
from netstore.agent.storeapi import store_access
from netstore.client.subnetstore import Entry
from netstore.errors import NetstoreError
from netstore.network.addresses import Subnet, show_ip
from netstore.network.backends import BUILT_IN
from netstore.network.ipv6 import Subnet6, show_ip6
from netstore.network.lease import is_node_name
from netstore.network.masquerade import PodNetwork
from netstore.network.migration import FOLDER
from netstore.network.plugins import with_settings
from netstore.network.subnetenv import encode_subnet_env
from netstore.ops.notify import ServiceManager

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence

    from netstore.agent.agentmetrics import Facts
    from netstore.agent.announcer import Manager
    from netstore.agent.kernel import Kernel
    from netstore.agent.localnode import LocalNode
    from netstore.agent.plugininstall import PluginInstaller
    from netstore.agent.ruleset import Ruleset
    from netstore.client.subnetstore import SubnetStore
    from netstore.network.config import Network
    from netstore.network.lease import NodeSubnets
    from netstore.network.plugins import Plugin
    from netstore.network.subnetenv import SubnetEnv
    from netstore.ops.agent import AgentConfig
    from netstore.seams import Entropy, Log

S = TypeVar("S", Subnet, Subnet6)
T = TypeVar("T")

RETRY_DELAY: Final = 1.0
"""Seconds between attempts during start, as in flannel."""

STUCK_SECONDS: Final = 6 * REPAIR_INTERVAL
"""Without a finished round of repairs for so long, the agent is stuck, as in a plugin that does not return: a
watchdog restarts it.
"""

CLEANUP_TIMEOUT: Final = 10.0
"""Seconds to remove what was declared, netfilter rules, lease and subnet.env."""


_FAULTS_OF_LEASES: Final = frozenset({errno.EINVAL, errno.EADDRNOTAVAIL})
"""Errors of an entry that what a lease says can lead to; one such lease makes no node unready."""


class SystemEntropy:
    """Random numbers from the system (`seams.Entropy`)."""

    def below(self, bound: int) -> int:
        """A number in range(bound)."""
        return random.randrange(bound)  # noqa: S311 - it spreads load; nothing is secret about it


class Agent:
    """One agent for one network. `require_privileges` raises NetstoreError if routes cannot be changed.
    `on_placed` is called when all routes were in place for the first time.
    """

    def __init__(
        self,
        config: AgentConfig,
        kernel: Kernel,
        log: Log,
        *,
        manager: Manager | None = None,
        require_privileges: Callable[[], None] = privileges.require,
        ruleset: Ruleset | None = None,
        on_placed: Callable[[], None] = lambda: None,
    ) -> None:
        self._log = ProblemLog(log)
        self._config = config
        self._kernel = kernel
        self._require_privileges = require_privileges
        self._on_placed = on_placed
        self._entropy: Entropy = SystemEntropy()
        self._installer: PluginInstaller | None = None
        self._access = store_access(config, self._log)
        self._watcher: LeaseWatcher | None = None
        self._node: LocalNode | None = None
        self._holder: LeaseHolder | None = None
        self._reconciler: Reconciler | None = None
        self._programmer: RouteProgrammer | None = None
        self._migration: Migration | None = None
        self._hosts = RequiredHosts((url.host for url in config.endpoints), self._hosts_changed)
        self._subnet_file = SubnetFile(config.subnet_file, self._log)
        self._filter = None if ruleset is None else PacketFilter(config, ruleset, self._log)
        self._own_leases: set[str] = set()
        """The names of this node's leases whose subnets have rules, while the network changes."""
        self._store_api = ""
        self._waiting_for: str | None = None
        """Why the start does not go on."""
        self.readiness = Readiness()
        """Parts of the agent add their checks here."""
        for name, check in (
            ("start", self._not_started),
            ("interface", self._interface_fault),
            ("lease", self._lease_fault),
            ("subnet_file", self._subnet_file.problem),
            ("routes", self._routes_fault),
            ("devices", self._devices_fault),
            ("peers", self._peers_fault),
            ("netfilter", self._netfilter_fault),
        ):
            self.readiness.add(name, check)
        self._announcer = Announcer(
            manager or ServiceManager({}), self.readiness.not_ready, self._summary, self._is_stuck
        )

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT. NetstoreError if the agent cannot continue or the clean-up fails."""
        async with self._access:
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._run)
                    number = await anext(signals)
                    self._log.info("agent_stopping", signal=signal.Signals(number).name)
                    nursery.cancel_scope.cancel()
            await self._stop_backend()
            if self._config.cleanup:
                await self._clean_up()

    def not_ready(self) -> str | None:
        """Why this node is not ready for pods, or None."""
        return self.readiness.not_ready()

    def _not_started(self) -> str | None:
        if self._node is None or self._programmer is None:
            return self._waiting_for or "the start is not finished"
        return None

    def _interface_fault(self) -> str | None:
        return None if self._node is None else self._node.fault

    def _lease_fault(self) -> str | None:
        if self._holder is None:
            return "no subnet is held"
        if not self._holder.state.held:
            return self._holder.fault or "no subnet is held"
        if self._holder.may_have_expired:
            return "the lease could not be renewed and may have expired: no pod gets an address until it is"
        return self._holder.fault

    def _routes_fault(self) -> str | None:
        programmer = self._programmer
        if programmer is None or not programmer.placed.is_set():
            return "the routes are not in place yet"
        if self._is_stuck():
            return f"the routes were not checked for {STUCK_SECONDS:g} s"
        return programmer.fault

    def _peers_fault(self) -> str | None:
        if self._reconciler is None or self._node is None:
            return None
        routes, entries = self._reconciler.routes, self._reconciler.entries
        fault = routes_fault(routes.rejected.values(), len(routes.named), self._node.host.address)
        if fault is not None or not entries.rejected:
            return fault
        if len(entries.rejected) == len(entries.wanted) or not _FAULTS_OF_LEASES.issuperset(
            entries.rejected.values()
        ):
            named, words = next(iter(entries.problems.items()))
            return f"{len(entries.rejected)} entries of tunnels are not in place; of {named[0]}: {words}"
        return None

    def _devices_fault(self) -> str | None:
        problems = self._reconciler.device_problems if self._reconciler is not None else {}
        return next((f"{name}: {reason}" for name, reason in problems.items()), None)

    def _netfilter_fault(self) -> str | None:
        return self._filter.not_in_place if self._filter is not None else None

    def _is_stuck(self) -> bool:
        programmer = self._programmer
        return programmer is not None and trio.current_time() - programmer.checked > STUCK_SECONDS

    def _summary(self) -> str:
        assert self._holder is not None and self._reconciler is not None  # noqa: S101, PT018 - it is ready
        unserved = len(self._programmer.unrouted_peers.problems) if self._programmer else 0
        words = f"holding {self._holder.subnet}, {self._reconciler.in_place} routes in place"
        return f"{words}, {unserved} peers not served" if unserved else words

    def status(self) -> dict[str, object]:
        """The state of this agent for /status. The field names are stable."""
        node, holder, reconciler, programmer = self._node, self._holder, self._reconciler, self._programmer
        watcher = self._watcher
        reason = self.readiness.not_ready()
        report: dict[str, object] = {
            "ready": reason is None,
            "reason": reason,
            "checks": dict(self.readiness.results()),
            "problems": self._log.open,
        }
        if watcher and node and holder and reconciler and programmer:
            report |= {
                "store_api": self._store_api,
                "interface": node.host.link.name,
                "public_ip": show_ip(node.host.public_ip),
                "public_ipv6": None if node.host.public_ip6 is None else show_ip6(node.host.public_ip6),
                "network": str(node.network.network),
                "ipv6_network": None if node.network.ipv6 is None else str(node.network.ipv6.network),
                "backend": node.backend.manifest.name,
                "subnet": str(holder.subnet) if holder.subnet else None,
                "subnet6": str(holder.subnet6) if holder.subnet6 else None,
                "held": holder.state.held,
                "reservation": holder.state.permanent,
                "migration": None if self._migration is None else self._migration.phase,
                "leases": len(watcher.leases),
                "routes": reconciler.in_place,
                "repairs": reconciler.repairs,
                "rule_repairs": self._filter.repairs if self._filter is not None else 0,
                "skipped": programmer.rejected_leases.problems,
                "ipv6_skipped": programmer.rejected_ipv6.problems,
                "unserved": programmer.unrouted_peers.problems,
                "devices": programmer.faulty_devices.problems,
                "warnings": list(programmer.warnings.problems),
            }
        return report

    def metrics(self) -> Facts:
        """What the metrics tell."""
        holder, reconciler, programmer, watcher = (
            self._holder,
            self._reconciler,
            self._programmer,
            self._watcher,
        )
        from netstore.agent.agentmetrics import Facts  # noqa: PLC0415 - see `_load_metrics`

        facts = Facts(checks=self.readiness.results(), problems=len(self._log.open))
        if (
            self._node is None
            or holder is None
            or reconciler is None
            or programmer is None
            or watcher is None
        ):
            return facts
        return msgspec.structs.replace(
            facts,
            backend=self._node.backend.manifest.name,
            store_api=self._store_api,
            lease_held=holder.state.held,
            lease_ends_in=None if holder.state.permanent or not holder.state.held else holder.ends_in,
            leases=len(watcher.leases),
            skipped=len(programmer.rejected_leases.problems),
            unserved=len(programmer.unrouted_peers.problems),
            routes=reconciler.in_place,
            repairs=reconciler.repairs,
            listings=watcher.listings,
            store_replacements=watcher.generation,
        )

    def _metrics_text(self) -> str:
        from netstore.agent.agentmetrics import render  # noqa: PLC0415 - see `_load_metrics`

        return render(self.metrics())

    async def _run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._announcer.run)
            if self._config.healthz_port:
                await self._serve_health(nursery)
            await self._serve_locally(nursery)
            former = envfile.read(self._config.subnet_file)
            if former.subnets is not None and not former.is_reservation:
                nursery.start_soon(self._forget_left)
            await self._retry(self._check_privileges)
            api, store = await self._retry(self._access.choose)
            await self._hosts.update()
            migrations = await self._access.store(api, FOLDER)
            plans = PlanWatcher(migrations, self._log, self._entropy, self._plan_changed)
            await self._retry(plans.list_once)
            node = self._node = await self._retry(
                lambda: detect(
                    self._config,
                    self._kernel,
                    store,
                    self._hosts.addresses,
                    complete=self._complete,
                    planned=lambda config: document_of(plans.plan, config),
                )
            )
            self._store_api = api
            self._log.info(
                "site_found",
                store_api=api,
                network=str(node.network.network),
                backend=node.backend.manifest.name,
                interface=node.host.link.name,
                public_ip=show_ip(node.host.public_ip),
            )
            watcher = self._watcher = LeaseWatcher(store, self._log, self._entropy, self._leases_changed)
            await self._retry(watcher.list_once)
            holder, reconciler, programmer = self._create_parts(store, watcher, node, former)
            migration = self._migration = Migration(
                node=node,
                folder=self._config.data_dir,
                plans=plans,
                leases=watcher,
                holder=holder,
                programmer=programmer,
                reconciler=reconciler,
                log=self._log,
            )
            nursery.start_soon(reconciler.listen)
            nursery.start_soon(plans.run)
            nursery.start_soon(migration.run)
            nursery.start_soon(watcher.run)
            await migration.may_hold.wait()
            nursery.start_soon(holder.run, former.subnets)
            await migration.ready.wait()
            nursery.start_soon(programmer.run)
            nursery.start_soon(self._hosts.keep)
            if self._filter is not None:
                nursery.start_soon(self._filter.run)
            nursery.start_soon(self._reporter(api, node).run)
            await programmer.placed.wait()
            self._on_placed()
            await self._access.look_for_another(api)

    async def _check_privileges(self) -> None:
        await trio.lowlevel.checkpoint()
        self._require_privileges()

    async def _complete(self, network: Network) -> Network:
        """The network with the settings of its plugin, once that is there. The plugin store is asked only for
        what is not built in.
        """
        if network.backend_type in BUILT_IN:
            return network
        plugin = await admitted(await self._access.plugins(), network.backend_type)
        if self._config.plugins_install:
            retired = await self._provide(network.backend_type)
            plugin = plugin or retired
        if plugin is not None:
            check_version(plugin)
        return with_settings(network, plugin)

    async def _provide(self, name: str) -> Plugin | None:
        from netstore.agent.plugininstall import PluginInstaller  # noqa: PLC0415 - few agents need it

        if self._installer is None:
            config = self._config
            self._installer = PluginInstaller(
                config.plugins_folder, config.plugins_keys, self._access.plugins
            )
        return await self._installer.provide(name)

    def _reporter(self, api: str, node: LocalNode) -> PluginReporter:
        wheels = {} if self._installer is None else self._installer.wheels
        return PluginReporter(
            lambda: self._access.reports(api),
            lambda: report_of(node, wheels),
            node.host.public_ip,
            self._log,
            self._entropy,
        )

    def _create_parts(
        self, store: SubnetStore, watcher: LeaseWatcher, node: LocalNode, former: SubnetEnv
    ) -> tuple[LeaseHolder, Reconciler, RouteProgrammer]:
        config = self._config
        state = LeaseState(
            node.host.public_ip,
            node.lease_value,
            config.lease_ttl,
            config.renew_margin_seconds,
            self._entropy,
            own_name=config.node_name or "",
        )
        holder = LeaseHolder(
            store=store,
            watcher=watcher,
            network=node.network,
            state=state,
            log=self._log,
            entropy=self._entropy,
            on_held=self._subnet_held,
            on_unsafe=self._subnet_unsafe,
            drained_as=self._drained_as,
            avoid=node.protected_subnets,
        )
        ranges = list(node.network.ranges)
        ranges += [
            each for each in (former.network, former.network6) if each is not None and each not in ranges
        ]
        reconciler = Reconciler(self._kernel, ranges, node.host.link, self._kernel_changed)
        programmer = RouteProgrammer(
            config=config,
            kernel=self._kernel,
            node=node,
            watcher=watcher,
            holder=holder,
            reconciler=reconciler,
            log=self._log,
            hosts=self._hosts,
            on_round=self._round_ended,
        )
        self._holder, self._reconciler, self._programmer = holder, reconciler, programmer
        return holder, reconciler, programmer

    async def _retry(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """The result of the first attempt that succeeds; NetstoreError is logged and leads to another
        attempt.
        """
        while True:
            try:
                result = await attempt()
            except NetstoreError as error:
                self._waiting_for = str(error)
                self._log.report("start", "waiting", reason=self._waiting_for)
                await trio.sleep(RETRY_DELAY)
            else:
                self._waiting_for = None
                self._log.resolve("start", "waiting_over")
                return result

    def _health(self, more: Mapping[bytes, Callable[[], object]] | None = None) -> Health:
        return Health(self.readiness, self.status, self._metrics_text, more, _load_metrics)

    async def _serve_health(self, nursery: trio.Nursery) -> None:
        host, port = self._config.healthz_ip, self._config.healthz_port
        health = self._health()
        try:
            await nursery.start(health.serve, host, port)
        except OSError as error:
            raise NetstoreError(
                f"healthz_port: cannot serve on {host}:{port}: {error.strerror or error}; choose a free port"
            ) from None

    async def _serve_locally(self, nursery: trio.Nursery) -> None:
        path = localsocket.socket_of(self._config.subnet_file)
        routes = {b"/routes": lambda: localsocket.routes_of(self._reconciler)}
        health = self._health(routes)
        try:
            await nursery.start(localsocket.serve, path, health)
        except NetstoreError as error:  # nothing but netstorectl on this node needs it
            self._log.warning("local_socket_not_served", reason=str(error))

    def _leases_changed(self, names: Collection[str]) -> None:
        if self._holder is not None and self._programmer is not None:
            self._holder.leases_changed(names)
            self._programmer.leases_changed(names)
        if self._migration is not None:
            self._migration.leases_changed()
        if not self._own_leases.isdisjoint(names):  # another node may have the subnet of one that ended
            self._pods_changed()

    def _pods_changed(self) -> None:
        if self._node is not None and self._holder is not None and self._holder.subnets is not None:
            self._serve_pods(self._node, self._holder.subnets)

    def _kernel_changed(self) -> None:
        if self._programmer is not None:
            self._programmer.kernel_changed()

    def _plan_changed(self) -> None:
        if self._migration is not None:
            self._migration.plan_changed()

    def _round_ended(self, full: bool) -> None:
        if self._migration is not None:
            self._migration.round_ended()
        if full:
            self._subnet_file.check()
        self._announcer.call()

    def _hosts_changed(self) -> None:
        if self._programmer is not None:
            self._programmer.hosts_changed()

    async def _subnet_held(self, subnets: NodeSubnets) -> bool:
        """Write subnet.env if its content differs. False if that fails."""
        assert self._node is not None and self._holder is not None  # noqa: S101, PT018 - the holder calls this
        node, file = self._node, self._subnet_file
        network = node.network
        if node.former is not None and not network.fits(subnets.subnet):
            network = node.former
        ipv6 = (network.ipv6.network, subnets.subnet6) if network.ipv6 and subnets.subnet6 else None
        self._serve_pods(node, subnets)
        text = encode_subnet_env(
            network.network,
            subnets.subnet,
            node.prepared.mtu,
            ipv6=ipv6,
            ip_masq=self._config.ip_masq,
            is_reservation=self._holder.state.permanent,
        )
        if text == file.text:
            return True
        if not file.put(text):
            return False
        self._log.resolve(envfile.TOPIC)
        self._log.resolve("subnet", "subnet_used_again")
        path = str(self._config.subnet_file)
        self._log.info("subnet_held", subnet=str(subnets), mtu=node.prepared.mtu, path=path)
        if self._programmer is not None:
            self._programmer.leases_changed()
        return True

    async def _drained_as(self) -> str | None:
        """The name under which this node is noted as drained."""
        assert self._node is not None  # noqa: S101 - the lease holder is created after the node was detected
        store = await self._access.drained(self._store_api)
        for name in (show_ip(self._node.host.public_ip), *filter(is_node_name, [self._node.name])):
            if isinstance(await store.entry(name), Entry):
                return name
        return None

    def _subnet_unsafe(self) -> None:
        """Let no pod get an address of the subnet. What pods have stays, and so do routes and rules."""
        subnets = envfile.read(self._config.subnet_file).subnets
        self._subnet_file.withdraw()
        self._log.report("subnet", "subnet_withdrawn", subnet=str(subnets), reason=self._lease_fault())

    async def _forget_left(self) -> None:
        """Withdraw what an earlier run wrote when the lease of that run has ended, unless this run has
        written the file. Not for a reservation, which does not end.
        """
        await LastingClock().sleep(self._config.lease_ttl * (1 - MAX_CLOCK_DRIFT))
        if not self._subnet_file.text:
            self._subnet_unsafe()

    def _serve_pods(self, node: LocalNode, subnets: NodeSubnets) -> None:
        """Keep the rules for the subnets that this node uses, and has besides."""
        if self._filter is not None:
            self._filter.serve(node.host.link.name, *self._pods(node, subnets))

    def _pods(self, node: LocalNode, subnets: NodeSubnets) -> tuple[PodNetwork, PodNetwork | None]:
        """The pod networks of both families, with this node's other subnets while the network changes."""
        leases = {} if node.former is None or self._watcher is None else self._watcher.leases
        self._own_leases = {name for name, each in leases.items() if each.public_ip == node.host.public_ip}
        own = [leases[name].subnets for name in self._own_leases]
        networks = node.networks
        pods = pod_network([each.network for each in networks], subnets.subnet, [one for one, _ in own])
        networks6 = [each.ipv6.network for each in networks if each.ipv6 is not None]
        if not networks6 or subnets.subnet6 is None:
            return pods, None
        own6 = [each for _, each in own if each is not None]
        return pods, pod_network(networks6, subnets.subnet6, own6)

    async def _stop_backend(self) -> None:
        """Let the backend end what it runs. An error of its is logged."""
        if self._node is None:
            return
        backend = self._node.backend
        with trio.move_on_after(STOP_SECONDS) as limit:
            try:
                with plugin_errors(backend.manifest.name):
                    await backend.stop()
            except NetstoreError as error:
                self._log.warning("backend_not_stopped", reason=str(error))
        if limit.cancelled_caught:
            self._log.warning("backend_not_stopped", reason=f"it took more than {STOP_SECONDS:g} s")

    async def _clean_up(self) -> None:
        """Remove subnet.env if this run wrote it, what was declared, netfilter rules, what the backend made,
        and last the lease, for which the store is needed. A step that fails does not prevent the next;
        NetstoreError tells all that did.
        """
        node, holder, reconciler = self._node, self._holder, self._reconciler
        if node is None or holder is None or reconciler is None:
            self._log.info("nothing_to_clean_up")
            return
        removed = 0
        faults: list[str] = []

        async def clear_kernel() -> None:
            nonlocal removed
            removed = await reconciler.clear()

        async def tear_down() -> None:
            with plugin_errors(node.backend.manifest.name):
                await node.backend.teardown()

        steps: list[tuple[str, Callable[[], Awaitable[None]]]] = [
            ("subnet.env", self._remove_subnet_file),
            ("routes and devices", clear_kernel),
        ]
        if self._filter is not None:
            steps.append(("netfilter rules", self._filter.clear))
        steps += [("what the backend made", tear_down), ("the lease", holder.release)]
        end = trio.current_time() + CLEANUP_TIMEOUT
        for what, step in steps:
            with trio.move_on_at(min(end, trio.current_time() + STOP_SECONDS)) as limit:
                try:
                    await step()
                except (NetstoreError, OSError) as error:
                    faults.append(f"{what}: {error}")
            if limit.cancelled_caught:
                faults.append(f"{what}: not done in time")
        if faults:
            raise NetstoreError(f"the clean-up is not complete: {'; '.join(faults)}")
        self._log.info("cleaned_up", removed=removed, subnet=str(holder.subnets))

    async def _remove_subnet_file(self) -> None:
        await trio.lowlevel.checkpoint()
        self._subnet_file.remove()


def _load_metrics() -> None:
    """Import what the metrics need, for the first scrape: prometheus_client takes a sixth of the time to
    start.
    """
    import netstore.agent.agentmetrics  # noqa: F401, PLC0415


def pod_network(networks: Sequence[S], subnet: S, own: Iterable[S]) -> PodNetwork:
    """A pod network of one family. A range inside of another is left out: nft before 1.0 refuses a set of
    both.
    """
    ranges = [
        each
        for each in dict.fromkeys(networks)
        if not any(other != each and other.covers(each) for other in networks)
    ]
    former = sorted({each for each in own if each != subnet})
    return PodNetwork(tuple(map(str, ranges)), str(subnet), tuple(map(str, former)))
