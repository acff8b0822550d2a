"""Turns leases into routes: asks the backend what is wanted, has the keeper hold it, repairs what others
change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from netstore.agent.backend import REPAIR_INTERVAL
from netstore.agent.leasefilter import objection
from netstore.agent.localnode import revisit
from netstore.agent.problems import Roll
from netstore.errors import NetstoreError
from netstore.network.overlaps import conflicts

if TYPE_CHECKING:
    from netstore.agent.backend import Host, Wanted
    from netstore.agent.kernel import Kernel
    from netstore.agent.leaseholder import Tenant
    from netstore.agent.leasewatcher import Mirror
    from netstore.agent.localnode import Site
    from netstore.agent.problems import Journal
    from netstore.agent.reconciler import Keeper
    from netstore.network.addresses import Subnet
    from netstore.network.lease import Lease
    from netstore.ops.config import AgentConfig

RETRY: Final = 1.0
"""Seconds after a failed round."""

BREATH: Final = 2.0
"""After asking the backend the router rests this many times as long as that took: a burst becomes few rounds.
"""


CONTEST: Final = 0.02
"""Seconds until routes are put right again that somebody removed as fast as they were put there."""


class Router:
    """The routes of one site. Call `wake` when leases or the own subnet changed, `hear` when the kernel has
    news.
    """

    def __init__(
        self,
        *,
        config: AgentConfig,
        kernel: Kernel,
        site: Site,
        mirror: Mirror,
        tenant: Tenant,
        keeper: Keeper,
        journal: Journal,
    ) -> None:
        self.skipped = Roll(journal, "lease_skipped", "lease_no_longer_skipped")
        self.unserved = Roll(journal, "peer_not_routed", "peer_routed_again")
        self.settled = False
        """Whether the routes were as wanted at least once."""
        self._config = config
        self._kernel = kernel
        self._site = site
        self._mirror = mirror
        self._tenant = tenant
        self._keeper = keeper
        self._journal = journal
        self._awake = trio.Event()
        self._due = True
        self._rest_until = 0.0
        self._refused: dict[Subnet, str] = {}

    def wake(self) -> None:
        """Leases or the own subnet changed: ask the backend again."""
        self._due = True
        self._awake.set()

    def hear(self) -> None:
        """The kernel has news."""
        self._awake.set()

    async def run(self) -> None:
        """Keep the routes for ever."""
        repair_at = trio.current_time() + REPAIR_INTERVAL
        while True:
            self._awake = trio.Event()
            now = trio.current_time()
            repair = now >= repair_at
            if repair:
                repair_at = now + REPAIR_INTERVAL
            try:
                await self._round(repair=repair)
            except NetstoreError as error:
                self._due = True
                self._rest_until = trio.current_time() + RETRY
                self._journal.problem("routes", "routes_not_kept", reason=str(error))
            else:
                self._journal.over("routes", "routes_kept_again")
            if self._keeper.unsettled:
                await trio.sleep(CONTEST)
                continue
            with trio.move_on_at(min(repair_at, self._rest_until) if self._due else repair_at):
                await self._awake.wait()

    async def _round(self, *, repair: bool) -> None:
        network_changed = await self._keeper.repair(all_again=repair)
        if network_changed or (repair and "interface" in self._journal.open):
            await self._revisit()
        if repair or (self._due and trio.current_time() >= self._rest_until):
            self._due = False
            await self._route()
        problems = {str(subnet): reason for subnet, reason in self._refused.items()}
        problems.update((str(subnet), reason) for subnet, reason in self._keeper.problems.items())
        self.unserved.call(problems)

    async def _revisit(self) -> None:
        """The host's interface may have changed, and with it what every peer needs."""
        try:
            changed = await revisit(self._site, self._config, self._kernel)
        except NetstoreError as error:
            self._journal.problem("interface", "interface_lost", reason=str(error))
            return
        self._journal.over("interface", "interface_back", interface=self._site.host.link.name)
        if changed:
            self._keeper.link = self._site.host.link
            self._tenant.publish(self._site.host.public_ip, self._site.lease_value)
            self._due = True
            self._rest_until = 0.0

    async def _route(self) -> None:
        started = trio.current_time()
        own = self._tenant.subnet
        name_of_own = own.key if own is not None else ""
        host = self._site.at(own)
        peers: list[Lease] = []
        skipped = dict(self._mirror.skipped)
        others = {
            name: lease
            for name, lease in self._mirror.leases.items()
            if name != name_of_own or not self._tenant.tenure.held
        }
        refused = conflicts(others, host.network)
        for name, lease in others.items():
            reason = objection(lease, host.network, own, host.public_ip, self._site.ground)
            reason = reason or refused.get(name)
            if reason is None:
                peers.append(lease)
            else:
                skipped[name] = reason
        wanted = await self._ask(host, peers)
        gateways = {lease.public_ip for lease in self._mirror.leases.values()}
        await self._keeper.hold({route.subnet: route for route in wanted.routes}, gateways)
        self._refused = wanted.refused
        self.skipped.call(skipped)
        if not self.settled:
            self.settled = True
            self._journal.info("routes_in_place", routes=len(self._keeper.wanted), leases=len(peers))
        now = trio.current_time()
        self._rest_until = now + (now - started) * BREATH

    async def _ask(self, host: Host, peers: list[Lease]) -> Wanted:
        backend = self._site.backend
        try:
            return await backend.reconcile(host, peers)
        except NetstoreError:
            raise
        except Exception as error:  # a stranger's code: its faults are told, not suffered
            raise NetstoreError(f"backend {backend.manifest.name} failed: {error!r}") from error
