"""The store daemon: starts the rooms in order and stops them in reverse. The only place that names what
stands behind the seams.

Start: lock the data folder, bind the ports (so that a taken port is told before anything is written), open
state and log, replay, stand for election, publish this member, and only then serve. Stop, on SIGTERM or
SIGINT: tell the service manager, close the listeners, let what waits finish for a bounded time, cut the
connections, make the state durable, close the log, release the folder.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

import trio

from netstore import __version__
from netstore.api.health import Health, Version
from netstore.api.router import Handler, Router
from netstore.api.v2.keys import PREFIX, KeysApi
from netstore.api.v2.members import MembersApi
from netstore.api.v2.stats import StoreStatsApi
from netstore.disk.datadir import DataDir, MemberIdentity
from netstore.disk.engine import LmdbEngine
from netstore.disk.frame import Identity
from netstore.disk.posix import PosixDevice
from netstore.disk.wal import Wal
from netstore.errors import Fault, NetstoreError
from netstore.net.http1 import Cors, Http1Connection, Http1Server
from netstore.net.reactor import Limits, Reactor
from netstore.node.bootstrap import cluster_id, member_id
from netstore.node.driver import Driver
from netstore.node.host import Host
from netstore.node.loop import Loop
from netstore.node.proposals import Proposals
from netstore.node.timekeeper import Deadlines, Timekeeper
from netstore.ops.logging import get_logger
from netstore.ops.notify import ServiceManager
from netstore.raft.core import Boot, Config, Raft
from netstore.raft.entry import ConfState, HardState, SnapshotMeta
from netstore.state.commands import PublishMember, SetClusterVersion, encode
from netstore.state.machine import Machine
from netstore.state.mirror import TABLES
from netstore.types import Index, Nanos, NodeId, Term
from netstore.watch.hub import Hub

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from netstore.net.exchange import Exchange
    from netstore.net.reactor import Connection
    from netstore.ops.config import StoreConfig, Url
    from netstore.raft.messages import Message
    from netstore.state.machine import Outcome

CLUSTER_VERSION: Final = "3.4.0"
"""What the cluster agrees on, in etcd's numbering."""

STATE_FILE: Final = "state.lmdb"

DRAIN_SECONDS: Final = 5.0
"""How long waiting requests may take to finish once a stop was asked for."""

_SECOND: Final = 1_000_000_000


class SystemClock:
    """The clocks of this machine. Implements `seams.Clock`."""

    def monotonic(self) -> float:
        """Seconds from an unknown start; never decreases."""
        return time.monotonic()

    def wall(self) -> Nanos:
        """Wall time; may jump either way."""
        return Nanos(time.time_ns())


def bind(url: Url) -> socket.socket:
    """A socket bound to the address of a URL, not listening yet. NetstoreError when the address cannot be
    had.
    """
    family = socket.AF_INET6 if ":" in url.host else socket.AF_INET
    host = "127.0.0.1" if url.host == "localhost" else url.host
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, url.port))
    except OSError as fault:
        sock.close()
        why = os.strerror(fault.errno) if fault.errno else str(fault)
        raise NetstoreError(
            f"listen_client_urls: cannot listen on {url}: {why}; stop what uses it or choose another address"
        ) from None
    return sock


class _Running:
    """The parts of a started member, in the order they were opened."""

    def __init__(self, config: StoreConfig, parts: ExitStack) -> None:
        self.config = config
        self.log = get_logger("server")
        clock = SystemClock()
        initial = {
            member_id(map(str, each.peer_urls), config.initial_cluster_token): each
            for each in config.initial_cluster
        }
        if len(initial) > 1:
            raise NetstoreError(
                "initial_cluster: names more than one member, which is not served yet; name this member alone"
            )
        own = next(member for member, each in initial.items() if each.name == config.name)
        fresh = MemberIdentity(cluster_id(initial), own, config.name)
        folder = DataDir.open(config.data_dir, fresh, config.wal_dir)
        parts.callback(folder.close)
        identity = folder.identity
        self.http1 = Http1Server(
            self._handle,
            head_limit=config.max_header_bytes,
            body_limit=config.max_body_bytes,
            cors=Cors(config.cors),
        )
        self.reactor = Reactor(
            Limits(config.max_connections, config.slow_client_seconds),
            self.http1,
            get_logger("net"),
            clock.monotonic,
        )
        deliver = self.reactor.call_soon
        self.sockets = [bind(url) for url in config.listen_client_urls]
        for sock in self.sockets:
            parts.callback(sock.close)
        engine = LmdbEngine(folder.state_dir / STATE_FILE, deliver, TABLES, self._engine_failed)
        parts.callback(engine.close)
        machine = Machine(engine)
        machine.load()
        device = PosixDevice(folder.wal_dir, deliver)
        parts.callback(device.close)
        wal, replay = Wal.open(device, Identity(identity.cluster_id, identity.member_id))
        parts.callback(wal.close)
        if replay.cut is not None:
            self.log.warning("log_tail_cut", file=replay.cut.name, offset=replay.cut.offset)
        mark = replay.mark
        if mark is None:
            mark = SnapshotMeta(index=Index(0), term=Term(0), conf=ConfState(voters=tuple(sorted(initial))))
            wal.mark(mark, self._marked)
        boot = Boot(
            hard_state=replay.hard_state or HardState(term=Term(0), vote=NodeId(0), commit=Index(0)),
            snapshot=mark,
            entries=replay.entries,
            applied=machine.applied,
        )
        ticks = max(2, config.election_timeout // config.heartbeat_interval)
        raft = Raft(Config(id=identity.member_id, election_ticks=ticks), boot, secrets.randbelow)
        limit = 5.0 + 2 * config.election_timeout / 1000
        self.deadlines = Deadlines(clock)
        self.loop = Loop()
        self.host = Host(
            name=config.name,
            cluster_id=identity.cluster_id,
            driver=Driver(raft),
            wal=wal,
            engine=engine,
            machine=machine,
            hub=Hub(),
            clock=clock,
            proposals=Proposals(raft.id, clock.wall() // 1_000_000, limit),
            wake=self.loop.wake,
            send=_nobody,
            flush=self.reactor.flush,
            snapshot_count=config.snapshot_count,
            log=get_logger("node"),
        )
        self.timekeeper = Timekeeper(
            self.host, self.deadlines, config.heartbeat_interval / 1000, self.reactor.flush
        )
        self._route = self._routes()

    def _routes(self) -> Router:
        host = self.host
        members = MembersApi(host)
        v2 = self.config.enable_v2
        exact: dict[bytes, Handler] = {
            b"/version": Version(host),
            b"/health": Health(host, self.deadlines.after),
        }
        if v2:
            exact |= {b"/v2/machines": members.machines, b"/v2/stats/store": StoreStatsApi(host).handle}
        return Router(exact, {PREFIX: KeysApi(host).handle, b"/v2/members": members.members} if v2 else {})

    async def serve(self, manager: ServiceManager, ready: Callable[[], None] | None) -> None:
        """Run until a signal asks to stop, or until a fault that must not be survived."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.loop.run, self.host)
            nursery.start_soon(self.reactor.run, _session, self.loop)
            nursery.start_soon(self.timekeeper.run)
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                nursery.start_soon(self._stop_on_signal, signals, manager, nursery.cancel_scope)
                self.host.campaign()
                await self._publish()
                for sock in self.sockets:
                    self.reactor.listen(sock)
                urls = [
                    _shown(url, sock)
                    for url, sock in zip(self.config.listen_client_urls, self.sockets, strict=True)
                ]
                self.log.info(
                    "serving_clients", urls=urls, version=__version__, data_dir=str(self.config.data_dir)
                )
                manager.ready(f"serving clients on {', '.join(urls)}")
                if ready is not None:
                    ready()
                await trio.sleep_forever()

    async def _publish(self) -> None:
        """Tell the cluster this member's name and URLs, as etcd does at each start; the first member also
        sets the cluster's version.
        """
        config, machine = self.config, self.host.machine
        peer_urls = tuple(map(str, config.initial_advertise_peer_urls))
        client_urls = tuple(map(str, config.advertise_client_urls))
        if self.host.id not in machine.members:
            await self._propose(encode(PublishMember(self.host.id, "", (), peer_urls)))
        await self._propose(encode(PublishMember(self.host.id, config.name, client_urls, peer_urls)))
        if not machine.cluster_version:
            await self._propose(encode(SetClusterVersion(CLUSTER_VERSION)))

    async def _propose(self, command: bytes) -> None:
        """Propose until it is accepted. Each try is bounded by the time limit of proposals."""
        while True:
            outcomes: list[Outcome | Fault] = []
            done = trio.Event()

            def take(
                outcome: Outcome | Fault, outcomes: list[Outcome | Fault] = outcomes, done: trio.Event = done
            ) -> None:
                outcomes.append(outcome)
                done.set()

            self.host.propose(command, take)
            await done.wait()
            if not isinstance(outcomes[0], Fault):
                return
            self.log.warning("member_not_published", reason=str(outcomes[0]))
            await trio.sleep(1)

    async def _stop_on_signal(
        self, signals: AsyncIterator[int], manager: ServiceManager, scope: trio.CancelScope
    ) -> None:
        async for number in signals:
            self.log.info("member_stopping", signal=signal.Signals(number).name)
            manager.stopping("finishing requests")
            self.reactor.stop_accepting()
            with trio.move_on_after(DRAIN_SECONDS):
                await self.loop.drained(self.host)
            scope.cancel()
            return

    def _handle(self, exchange: Exchange) -> None:
        self._route.handle(exchange)

    def _engine_failed(self, failure: OSError) -> None:
        self.host.engine_failed(failure)

    def _marked(self, failure: OSError | None) -> None:
        if failure is not None:
            self.host.fail(
                NetstoreError(
                    f"data_dir: the log cannot be written: {failure}; free disk space or replace the disk"
                )
            )


async def serve(config: StoreConfig, *, ready: Callable[[], None] | None = None) -> None:
    """Run a member until SIGTERM or SIGINT. `ready` is called once requests are served.

    NetstoreError when it cannot start, or must not go on; everything acknowledged is on disk in either case.
    """
    manager = ServiceManager(os.environ)
    with ExitStack() as parts:
        running = _Running(config, parts)
        try:
            await running.serve(manager, ready)
        except* NetstoreError as faults:
            raise faults.exceptions[0] from None
    running.log.info("member_stopped")


def _nobody(_: Sequence[Message]) -> None:
    """A member alone has nobody to send to."""


def _session(connection: Connection, server: Http1Server) -> Http1Connection:
    return Http1Connection(server, connection)


def _shown(url: Url, sock: socket.socket) -> str:
    return str(url._replace(port=sock.getsockname()[1]))
