"""The agent: wires its parts to the world and owns their nursery.

In order: survey the site (interface, network config, backend), list the leases, and then four tasks side by
side. The *mirror* follows the leases, the *tenant* holds this node's own, the *router* has the kernel as the
backend wants it, the *listener* hears what the kernel tells. They share state that changes only between two
awaits, and wake each other.

Stopping leaves lease, routes and subnet.env as they are, so that pods stay connected, unless clean-up was
asked for.
"""

from __future__ import annotations

import random
import signal
from typing import TYPE_CHECKING, Final, TypeVar

import trio

from netstore.agent import envfile
from netstore.agent.health import Health
from netstore.agent.ipv4 import show_ip
from netstore.agent.journal import Journal
from netstore.agent.keeper import Keeper
from netstore.agent.leaseplan import Tenure
from netstore.agent.mirror import Mirror
from netstore.agent.router import Router
from netstore.agent.site import survey
from netstore.agent.tenant import Tenant
from netstore.client.transport import Transport
from netstore.client.v2 import V2Client
from netstore.errors import NetstoreError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from netstore.agent.ipv4 import Subnet
    from netstore.agent.journal import Log
    from netstore.agent.kernel import Kernel
    from netstore.agent.site import Site
    from netstore.ops.config import AgentConfig

T = TypeVar("T")

RETRY: Final = 1.0
"""Seconds between attempts at what cannot go on yet (flannel)."""

CLEANUP_TIMEOUT: Final = 10.0
"""Seconds."""


class Chance:
    """Random numbers from the system (`seams.Entropy`)."""

    def below(self, bound: int) -> int:
        """A number in range(bound)."""
        return random.randrange(bound)  # noqa: S311 - it spreads load; nothing is secret about it


class Agent:
    """One agent of one network. `ready` is called once, with a sentence, when subnet.env is written."""

    def __init__(
        self,
        config: AgentConfig,
        kernel: Kernel,
        log: Log,
        ready: Callable[[str], object] = lambda _: None,
    ) -> None:
        self.journal = Journal(log)
        self._config = config
        self._kernel = kernel
        self._ready = ready
        self._chance = Chance()
        self._client = V2Client(
            Transport(
                [str(url) for url in config.endpoints],
                ca_file=_name(config.ca_file),
                cert_file=_name(config.cert_file),
                key_file=_name(config.key_file),
                username=config.username,
                password=config.password,
                shuffle=random.shuffle,
            )
        )
        self._mirror = Mirror(
            self._client, f"{config.prefix}/subnets", self.journal, self._chance, self._leases_changed
        )
        self._site: Site | None = None
        self._tenant: Tenant | None = None
        self._keeper: Keeper | None = None
        self._router: Router | None = None
        self._env_text = ""

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT. NetstoreError if the agent cannot go on or the clean-up fails."""
        async with self._client:
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._live)
                    number = await anext(signals)
                    self.journal.info("agent_stopping", signal=signal.Signals(number).name)
                    nursery.cancel_scope.cancel()
            if self._config.cleanup:
                await self._clean_up()

    def not_ready(self) -> str | None:
        """Why this node is not ready for pods, or None."""
        if self._site is None or self._tenant is None:
            return "no usable interface and network config yet"
        if not self._tenant.tenure.held:
            return "no subnet is held"
        if self._tenant.tenure.unsafe(trio.current_time()):
            return "the lease could not be renewed and may have ended"
        if not self._env_text:
            return f"{self._config.subnet_file} is not written"
        if self._router is None or not self._router.settled:
            return "the routes are not in place yet"
        return None

    def status(self) -> dict[str, object]:
        """What this agent knows, for people and tools. Names are stable."""
        site, tenant, keeper, router = self._site, self._tenant, self._keeper, self._router
        reason = self.not_ready()
        report: dict[str, object] = {"ready": reason is None, "reason": reason, "problems": self.journal.open}
        if site is not None and tenant is not None and keeper is not None and router is not None:
            report |= {
                "interface": site.host.link.name,
                "public_ip": show_ip(site.host.public_ip),
                "network": str(site.network.network),
                "backend": site.backend.manifest.name,
                "subnet": str(tenant.subnet) if tenant.subnet else None,
                "held": tenant.tenure.held,
                "reservation": tenant.tenure.permanent,
                "leases": len(self._mirror.leases),
                "routes": len(keeper.wanted) - len(keeper.problems),
                "repairs": keeper.repairs,
                "skipped": router.skipped.problems,
                "unserved": router.unserved.problems,
            }
        return report

    async def _live(self) -> None:
        async with trio.open_nursery() as nursery:
            if self._config.healthz_port:
                await self._serve_health(nursery)
            former_network, former_subnet = envfile.read(self._config.subnet_file)
            site = self._site = await self._until_it_works(
                lambda: survey(self._config, self._kernel, self._client)
            )
            self.journal.info(
                "site_found",
                network=str(site.network.network),
                backend=site.backend.manifest.name,
                interface=site.host.link.name,
                public_ip=show_ip(site.host.public_ip),
            )
            await self._until_it_works(self._mirror.load)
            tenant, keeper, router = self._crew(site, former_network)
            nursery.start_soon(keeper.listen)
            nursery.start_soon(tenant.run, former_subnet)
            nursery.start_soon(router.run)
            nursery.start_soon(self._mirror.run)

    def _crew(self, site: Site, former_network: Subnet | None) -> tuple[Tenant, Keeper, Router]:
        config = self._config
        tenure = Tenure(
            site.host.public_ip, site.lease_value, config.lease_ttl, config.renew_margin_seconds, self._chance
        )
        tenant = Tenant(
            client=self._client,
            mirror=self._mirror,
            network=site.network,
            tenure=tenure,
            journal=self.journal,
            entropy=self._chance,
            settle=self._settle,
            avoid=lambda: [subnet for subnet, _ in site.ground.networks],
        )
        ranges = {site.network.network, former_network or site.network.network}
        keeper = Keeper(self._kernel, ranges, site.host.link, self._kernel_changed)
        router = Router(
            config=config,
            kernel=self._kernel,
            site=site,
            mirror=self._mirror,
            tenant=tenant,
            keeper=keeper,
            journal=self.journal,
        )
        self._tenant, self._keeper, self._router = tenant, keeper, router
        return tenant, keeper, router

    async def _until_it_works(self, attempt: Callable[[], Awaitable[T]]) -> T:
        while True:
            try:
                result = await attempt()
            except NetstoreError as error:
                self.journal.problem("start", "waiting", reason=str(error))
                await trio.sleep(RETRY)
            else:
                self.journal.over("start", "waiting_over")
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
        if self._tenant is not None and self._router is not None:
            self._tenant.mirror_changed()
            self._router.wake()

    def _kernel_changed(self) -> None:
        if self._router is not None:
            self._router.hear()

    async def _settle(self, subnet: Subnet) -> bool:
        """This subnet is held: write subnet.env if it says something else. False if it cannot be."""
        assert self._site is not None  # noqa: S101 - the tenant runs on a site
        site, path = self._site, self._config.subnet_file
        text = envfile.content(site.network.network, subnet, site.prepared.mtu)
        if text == self._env_text:
            return True
        try:
            envfile.write(path, text)  # a few bytes to a memory file system: a thread would take longer
        except OSError as error:
            reason = error.strerror or str(error)
            self.journal.problem("subnet_file", "subnet_file_not_written", path=str(path), reason=reason)
            return False
        self.journal.over("subnet_file")
        first = not self._env_text
        self._env_text = text
        self.journal.info("subnet_held", subnet=str(subnet), mtu=site.prepared.mtu, path=str(path))
        if self._router is not None:
            self._router.wake()
        if first:
            self._ready(f"holding {subnet}")
        return True

    async def _clean_up(self) -> None:
        """Take back routes, lease and subnet.env."""
        site, tenant, keeper = self._site, self._tenant, self._keeper
        if site is None or tenant is None or keeper is None:
            self.journal.info("nothing_to_clean_up")
            return
        with trio.move_on_after(CLEANUP_TIMEOUT) as limit:
            removed = await keeper.clear()
            await site.backend.teardown()
            await tenant.release()
            self._config.subnet_file.unlink(missing_ok=True)
            self.journal.info("cleaned_up", routes=removed, subnet=str(tenant.subnet))
        if limit.cancelled_caught:
            raise NetstoreError(f"the clean-up was not finished within {CLEANUP_TIMEOUT:g} s")


def _name(path: Path | None) -> str | None:
    return None if path is None else str(path)
