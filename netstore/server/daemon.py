"""The store daemon: runs the parts of a member, and stops them in reverse order.

Start: bind the ports, so that a taken port is reported before anything is written; lock the data folder
(`server.base`); find out which member this is (`node.identity`); open log and state (`node.recovery`);
connect to the other members (`server.member`); answer probes on ports of their own; publish this one; serve
clients. A member that has a state serves it after `PUBLISH_SECONDS` even if the cluster does not answer; one
without waits for a majority, alive but not ready.

Stop, on SIGTERM or SIGINT, also during the start, of which nothing more is told or served then: notify the
service manager; close the clients' listeners; finish requests and transfer leadership, within
`DRAIN_SECONDS`; close the connections; commit the state; close the log; unlock the folder.
"""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from netstore import __version__
from netstore.api.v3.version import CLUSTER_VERSION
from netstore.disk.skipped import write_stopped
from netstore.errors import CannotApply, NetstoreError
from netstore.node.chores import do_chores
from netstore.node.handover import hand_over
from netstore.node.publication import publish
from netstore.node.timekeeper import is_quiet
from netstore.ops.notify import ServiceManager
from netstore.server.base import Base
from netstore.server.member import open_member
from netstore.state.commands import PublishMember
from netstore.types import Index

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from netstore.ops.store import StoreConfig
    from netstore.server.member import RunningMember

DRAIN_SECONDS: Final = 5.0
"""Time limit for requests to finish after a signal to stop."""

PUBLISH_SECONDS: Final = 5.0
"""How long a member that has a state waits to be published before it serves clients regardless."""


class _Daemon:
    """The tasks of one member, from its start to its stop."""

    def __init__(self, base: Base) -> None:
        self.base = base
        self.member: RunningMember | None = None
        """None until the storage is open."""
        self._stops = False
        """A signal to stop came: what is not served yet will not be."""

    async def serve(self, ready: Callable[[], None] | None) -> None:
        """Run until a signal to stop, or until a fault after which the member must not go on."""
        base = self.base
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._stop_on_signal, signals, nursery.cancel_scope)
                nursery.start_soon(base.reactor.run, base.sessions.session, base.loop)
                if base.folder.found is None:
                    await base.enrollment.find()
                self.member = member = await open_member(base)
                base.collector.begin()
                member.run_in(nursery)
                nursery.start_soon(
                    partial(do_chores, *member.chores(), is_quiet=partial(is_quiet, member.host))
                )
                for sock, tls in base.ports.for_peers():
                    member.peers.listen(sock, tls=tls)
                if member.host.is_only_voter:
                    member.host.campaign()
                if not self._stops:
                    self._serve_probes()
                published = trio.Event()
                nursery.start_soon(self._publish, member, published)
                nursery.start_soon(base.start.follow, member.host, member.store.engine)
                with trio.move_on_after(PUBLISH_SECONDS if member.host.machine.applied else float("inf")):
                    await published.wait()
                if not self._stops:
                    self._serve_clients()
                    if ready is not None:
                        ready()
                await trio.sleep_forever()

    async def _publish(self, member: RunningMember, published: trio.Event) -> None:
        config = self.base.config
        own = PublishMember(
            member.host.id,
            config.name,
            tuple(map(str, config.advertise_client_urls)),
            tuple(map(str, config.initial_advertise_peer_urls)),
        )
        await publish(
            member.host, own, CLUSTER_VERSION, remove_others=config.force_new_cluster, log=self.base.log
        )
        member.levels.settle(published.set)

    def _serve_probes(self) -> None:
        base = self.base
        for sock, credentials in base.ports.for_probes():
            base.reactor.listen(sock, credentials, base.probes)
        if probed := list(map(str, base.ports.bound_probe_urls())):
            base.log.info("serving_metrics", urls=probed)

    def _serve_clients(self) -> None:
        base = self.base
        for sock, credentials in base.ports.for_clients():
            base.reactor.listen(sock, credentials)
        urls = list(map(str, base.ports.bound_client_urls()))
        base.log.info("serving_clients", urls=urls, version=__version__, data_dir=str(base.config.data_dir))
        base.start.over = True
        base.manager.ready(f"serving clients on {', '.join(urls)}")

    async def _stop_on_signal(self, signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
        base = self.base
        async for number in signals:
            self._stops = base.start.over = True
            base.log.info("member_stopping", signal=signal.Signals(number).name)
            base.manager.stopping("finishing requests")
            base.reactor.stop_accepting()
            with trio.move_on_after(DRAIN_SECONDS):
                if self.member is not None:
                    await hand_over(self.member.host, base.loop)
                await base.reactor.drain()
            scope.cancel()
            return


async def serve(config: StoreConfig, *, ready: Callable[[], None] | None = None) -> None:
    """Run a member until SIGTERM or SIGINT. `ready` is called once clients are served.

    NetstoreError if it cannot start, or must not go on; everything acknowledged is on disk in either case.
    """
    manager = ServiceManager(os.environ)
    with ExitStack() as parts:
        base = Base(config, parts, manager)
        daemon = _Daemon(base)
        try:
            await daemon.serve(ready)
        except* NetstoreError as faults:
            fault = _first(faults)
            if isinstance(fault, CannotApply) and fault.entry is not None:
                write_stopped(base.folder.path, Index(fault.entry[0]), fault.entry[1])
            raise fault from None
        except* MemoryError:
            raise NetstoreError(
                "the member ends because memory ran out; what it acknowledged is on disk; allow the process"
                " more memory, or set a smaller memory_budget, and start it again"
            ) from None
        if daemon.member is not None:
            daemon.member.store.stops_cleanly = True
    base.log.info("member_stopped")


def _first(fault: BaseException) -> BaseException:
    """The first exception in a group, at any depth."""
    while isinstance(fault, BaseExceptionGroup):
        fault = fault.exceptions[0]
    return fault
