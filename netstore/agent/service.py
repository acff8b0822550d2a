"""The agent: creates its parts and runs their tasks.

First it detects the local node (interface, network config, backend) and lists the leases. Then four tasks run
side by side: the lease watcher follows the leases, the lease holder holds this node's own, the route
programmer keeps the kernel's routes as the backend wants them, and the reconciler listens to the kernel's
notifications. They share state that changes only between two awaits, and wake each other by plain calls.

Stopping leaves lease, routes and subnet.env as they are, so that pods stay connected, unless the
configuration asks for clean-up.
"""

from __future__ import annotations

import random
import signal
from typing import TYPE_CHECKING, Final, TypeVar

import trio

from netstore.agent import envfile
from netstore.agent.backend import plugin_errors
from netstore.agent.health import Health
from netstore.agent.leaseholder import LeaseHolder
from netstore.agent.leasestate import LeaseState
from netstore.agent.leasewatcher import LeaseWatcher
from netstore.agent.localnode import detect
from netstore.agent.pluginreport import PluginReporter, admitted, report_of
from netstore.agent.problems import ProblemLog
from netstore.agent.reconciler import Reconciler
from netstore.agent.routeprogrammer import RouteProgrammer
from netstore.agent.storeapi import StoreAccess
from netstore.errors import NetstoreError
from netstore.network.addresses import show_ip
from netstore.network.backends import BUILT_IN
from netstore.network.plugins import with_settings
from netstore.network.subnetenv import encode_subnet_env

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from netstore.agent.kernel import Kernel
    from netstore.agent.localnode import LocalNode
    from netstore.agent.plugininstall import PluginInstaller
    from netstore.client.subnetstore import SubnetStore
    from netstore.network.addresses import Subnet
    from netstore.network.config import Network
    from netstore.ops.agent import AgentConfig
    from netstore.seams import Log

T = TypeVar("T")

RETRY_DELAY: Final = 1.0
"""Seconds between attempts during start, as in flannel."""

CLEANUP_TIMEOUT: Final = 10.0
"""Seconds to remove routes, lease and subnet.env."""


class SystemEntropy:
    """Random numbers from the system (`seams.Entropy`)."""

    def below(self, bound: int) -> int:
        """A number in range(bound)."""
        return random.randrange(bound)  # noqa: S311 - it spreads load; nothing is secret about it


class Agent:
    """One agent for one network. `ready` is called once, with a status text, when subnet.env was written."""

    def __init__(
        self,
        config: AgentConfig,
        kernel: Kernel,
        log: Log,
        ready: Callable[[str], object] = lambda _: None,
    ) -> None:
        self._log = ProblemLog(log)
        self._config = config
        self._kernel = kernel
        self._ready = ready
        self._entropy = SystemEntropy()
        self._access = StoreAccess(config, self._log)
        self._installer: PluginInstaller | None = None
        self._watcher: LeaseWatcher | None = None
        self._node: LocalNode | None = None
        self._holder: LeaseHolder | None = None
        self._reconciler: Reconciler | None = None
        self._programmer: RouteProgrammer | None = None
        self._env_text = ""
        self._store_api = ""

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT. NetstoreError if the agent cannot continue or the clean-up fails."""
        async with self._access:
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._run)
                    number = await anext(signals)
                    self._log.info("agent_stopping", signal=signal.Signals(number).name)
                    nursery.cancel_scope.cancel()
            if self._config.cleanup:
                await self._clean_up()

    def not_ready(self) -> str | None:
        """Why this node is not ready for pods, or None."""
        if self._node is None or self._holder is None:
            return "no usable interface and network config yet"
        if not self._holder.state.held:
            return "no subnet is held"
        if self._holder.state.may_have_expired(trio.current_time()):
            return "the lease could not be renewed and may have expired"
        if not self._env_text:
            return f"{self._config.subnet_file} is not written"
        if self._programmer is None or not self._programmer.in_place:
            return "the routes are not in place yet"
        return None

    def status(self) -> dict[str, object]:
        """The state of this agent for /status. The field names are stable."""
        node, holder, reconciler, programmer = self._node, self._holder, self._reconciler, self._programmer
        watcher = self._watcher
        reason = self.not_ready()
        report: dict[str, object] = {"ready": reason is None, "reason": reason, "problems": self._log.open}
        if watcher and node and holder and reconciler and programmer:
            report |= {
                "store_api": self._store_api,
                "interface": node.host.link.name,
                "public_ip": show_ip(node.host.public_ip),
                "network": str(node.network.network),
                "backend": node.backend.manifest.name,
                "subnet": str(holder.subnet) if holder.subnet else None,
                "held": holder.state.held,
                "reservation": holder.state.permanent,
                "leases": len(watcher.leases),
                "routes": len(reconciler.wanted) - len(reconciler.problems),
                "repairs": reconciler.repairs,
                "skipped": programmer.rejected_leases.problems,
                "unserved": programmer.unrouted_peers.problems,
            }
        return report

    async def _run(self) -> None:
        async with trio.open_nursery() as nursery:
            if self._config.healthz_port:
                await self._serve_health(nursery)
            former_network, former_subnet = envfile.read(self._config.subnet_file)
            api, store = await self._retry(self._access.choose)
            node = self._node = await self._retry(
                lambda: detect(self._config, self._kernel, store, self._complete)
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
            holder, reconciler, programmer = self._create_parts(store, watcher, node, former_network)
            nursery.start_soon(reconciler.listen)
            nursery.start_soon(holder.run, former_subnet)
            nursery.start_soon(programmer.run)
            nursery.start_soon(watcher.run)
            nursery.start_soon(self._reporter(api, node).run)

    async def _complete(self, network: Network) -> Network:
        """The network with the settings of its plugin, once that is there. The plugin store is asked only for
        what is not built in.
        """
        if network.backend_type in BUILT_IN:
            return network
        plugin = await admitted(await self._access.plugins(), network.backend_type)
        if plugin is not None and self._config.plugins_install:
            await self._provide(plugin.name)
        return with_settings(network, plugin)

    async def _provide(self, name: str) -> None:
        from netstore.agent.plugininstall import PluginInstaller  # noqa: PLC0415 - few agents need it

        if self._installer is None:
            config = self._config
            self._installer = PluginInstaller(
                config.plugins_folder, config.plugins_keys, self._access.plugins
            )
        await self._installer.provide(name)

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
        self, store: SubnetStore, watcher: LeaseWatcher, node: LocalNode, former_network: Subnet | None
    ) -> tuple[LeaseHolder, Reconciler, RouteProgrammer]:
        config = self._config
        state = LeaseState(
            node.host.public_ip,
            node.lease_value,
            config.lease_ttl,
            config.renew_margin_seconds,
            self._entropy,
        )
        holder = LeaseHolder(
            store=store,
            watcher=watcher,
            network=node.network,
            state=state,
            log=self._log,
            entropy=self._entropy,
            on_held=self._subnet_held,
            avoid=lambda: [subnet for subnet, _ in node.protected.networks],
        )
        ranges = {node.network.network, former_network or node.network.network}
        reconciler = Reconciler(self._kernel, ranges, node.host.link, self._kernel_changed)
        programmer = RouteProgrammer(
            config=config,
            kernel=self._kernel,
            node=node,
            watcher=watcher,
            holder=holder,
            reconciler=reconciler,
            log=self._log,
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
                self._log.report("start", "waiting", reason=str(error))
                await trio.sleep(RETRY_DELAY)
            else:
                self._log.resolve("start", "waiting_over")
                return result

    async def _serve_health(self, nursery: trio.Nursery) -> None:
        host, port = self._config.healthz_ip, self._config.healthz_port
        health = Health(self.not_ready, self.status)
        try:
            await nursery.start(health.serve, host, port)
        except OSError as error:
            raise NetstoreError(
                f"healthz_port: cannot serve on {host}:{port}: {error.strerror or error}; choose a free port"
            ) from None

    def _leases_changed(self) -> None:
        if self._holder is not None and self._programmer is not None:
            self._holder.leases_changed()
            self._programmer.leases_changed()

    def _kernel_changed(self) -> None:
        if self._programmer is not None:
            self._programmer.kernel_changed()

    async def _subnet_held(self, subnet: Subnet) -> bool:
        """Write subnet.env if its content differs. False if that fails."""
        assert self._node is not None  # noqa: S101 - the lease holder is created after the node was detected
        node, path = self._node, self._config.subnet_file
        text = encode_subnet_env(node.network.network, subnet, node.prepared.mtu)
        if text == self._env_text:
            return True
        try:
            envfile.write(path, text)  # a few bytes to a memory file system: a thread would take longer
        except OSError as error:
            reason = error.strerror or str(error)
            self._log.report("subnet_file", "subnet_file_not_written", path=str(path), reason=reason)
            return False
        self._log.resolve("subnet_file")
        first = not self._env_text
        self._env_text = text
        self._log.info("subnet_held", subnet=str(subnet), mtu=node.prepared.mtu, path=str(path))
        if self._programmer is not None:
            self._programmer.leases_changed()
        if first:
            self._ready(f"holding {subnet}")
        return True

    async def _clean_up(self) -> None:
        """Remove routes, lease and subnet.env."""
        node, holder, reconciler = self._node, self._holder, self._reconciler
        if node is None or holder is None or reconciler is None:
            self._log.info("nothing_to_clean_up")
            return
        with trio.move_on_after(CLEANUP_TIMEOUT) as limit:
            removed = await reconciler.clear()
            with plugin_errors(node.backend.manifest.name):
                await node.backend.teardown()
            await holder.release()
            self._config.subnet_file.unlink(missing_ok=True)
            self._log.info("cleaned_up", routes=removed, subnet=str(holder.subnet))
        if limit.cancelled_caught:
            raise NetstoreError(f"the clean-up was not finished within {CLEANUP_TIMEOUT:g} s")
