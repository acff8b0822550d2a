"""The store daemon: builds the parts of a member, runs them, and stops them in reverse order.

Start: bind the ports, so that a taken port is reported before anything is written; lock the data folder; find
out which member this is (`node.identity`); open log and state (`node.recovery`); connect to the other
members; publish this one; serve clients. A member that has a state serves it after `PUBLISH_SECONDS` even if
the cluster does not answer.

Stop, on SIGTERM or SIGINT: notify the service manager; close the clients' listeners; finish requests and
transfer leadership, within `DRAIN_SECONDS`; close the connections; commit the state; close the log; unlock
the folder.
"""

from __future__ import annotations

import gc
import os
import secrets
import signal
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from netstore import __version__
from netstore.api.admin import AdminApi
from netstore.api.gate import Gate
from netstore.api.routes import routes
from netstore.api.v2.stats import StatsApi
from netstore.api.v3 import services as v3
from netstore.api.v3.version import CLUSTER_VERSION
from netstore.collector import Collector
from netstore.disk.datadir import DataDir
from netstore.disk.scrub import Scrubber
from netstore.disk.skipped import write_stopped
from netstore.disk.threads import watch_threads
from netstore.errors import CannotApply, NetstoreError
from netstore.guard import guarded
from netstore.limits import Shares, default_budget
from netstore.meter import Meter
from netstore.net.grpc.headers import TIMEOUT_FIELD
from netstore.net.grpc.protocols import Services
from netstore.net.grpc.server import GrpcServer
from netstore.net.http1.server import Cors, Http1Server
from netstore.net.http2 import Http2Server
from netstore.net.http2exchange import opener
from netstore.net.listener import bind, bound_url
from netstore.net.negotiation import ALPN, SessionFactory
from netstore.net.reactor import Limits, Reactor
from netstore.net.tls import Credentials
from netstore.node.backup import Backups
from netstore.node.chores import ROUND_SECONDS, do_chores
from netstore.node.clock import SystemClock
from netstore.node.consistency import Consistency
from netstore.node.driver import Driver
from netstore.node.featurelevel import Levels
from netstore.node.handover import hand_over
from netstore.node.host import Host
from netstore.node.identity import Enrollment, NoAnswer
from netstore.node.jointoken import find_token, read_token_file
from netstore.node.lessor import Lessor
from netstore.node.logcompaction import CATCH_UP_ENTRIES
from netstore.node.loop import Loop
from netstore.node.membersettings import MemberSettings
from netstore.node.membership import Cluster
from netstore.node.proposals import Proposals
from netstore.node.publication import publish
from netstore.node.recovery import recover
from netstore.node.storage import Storage
from netstore.node.timekeeper import Deadlines, Timekeeper
from netstore.ops.addresses import Alone
from netstore.ops.descriptors import most_connections
from netstore.ops.logging import get_logger, set_level
from netstore.ops.memory import usable_memory
from netstore.ops.notify import ServiceManager
from netstore.ops.start import Start
from netstore.ops.store import DEFAULT_CLUSTER_TOKEN
from netstore.peer.dial import StreamFailed
from netstore.peer.handshake import Secret, Verdict
from netstore.peer.join import Expelled, JoinService, request_member_list
from netstore.peer.listener import MAX_INCOMING_STREAMS
from netstore.peer.peers import Peers
from netstore.peer.snapshots import SnapshotTransfers
from netstore.peer.wire import DigestMessage, JoinRequest
from netstore.state.commands import PublishMember
from netstore.types import Index, NodeId
from netstore.watch.hub import Hub

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from collections.abc import Set as AbstractSet
    from pathlib import Path

    from netstore.net.exchange import Exchange
    from netstore.ops.store import StoreConfig
    from netstore.peer.wire import MemberList

DRAIN_SECONDS: Final = 5.0
"""Time limit for requests to finish after a signal to stop."""

PUBLISH_SECONDS: Final = 5.0
"""How long a member that has a state waits to be published before it serves clients regardless."""

SAMPLE_SECONDS: Final = 1.0
"""How often the traffic with other members is sampled for the statistics."""


class _Daemon:
    """The parts of one member, in the order in which they are built."""

    def __init__(self, config: StoreConfig, parts: ExitStack, manager: ServiceManager) -> None:
        """Build what needs no identity: ports, certificates, folder, reactor, protocols, join token.

        NetstoreError if the configuration cannot be used on this machine; by then nothing is written but the
        folder itself and the token. What must be closed is registered in `parts`.
        """
        self.config = config
        self.manager = manager
        self.log = get_logger("server")
        self.clock = SystemClock(self.log)
        self.start = Start(manager, self.clock.monotonic, self.log)
        self.clients = [bind("listen_client_urls", url) for url in config.listen_client_urls]
        self.callers = [bind("listen_peer_urls", url) for url in config.listen_peer_urls]
        for sock in (*self.clients, *self.callers):
            parts.callback(sock.close)
        self.credentials = _credentials(
            config.peer_cert_file, config.peer_key_file, config.peer_trusted_ca_file, prefix="peer_"
        )
        self.client_credentials = _credentials(
            config.cert_file, config.key_file, config.trusted_ca_file, ALPN
        )
        self.folder = DataDir.lock(config.data_dir, config.wal_dir)
        parts.callback(self.folder.close)
        if self.folder.narrowed:
            self.log.warning("files_made_private", files=self.folder.narrowed, mode="0600")
        self.parts = parts
        self.http1 = Http1Server(
            self._handle,
            head_limit=config.max_header_bytes,
            body_limit=config.max_body_bytes,
            cors=Cors(config.cors),
        )
        self.shares = Shares.of(config.memory_budget or default_budget(usable_memory()))
        self.meter = Meter(self.clock.monotonic, get_logger("loop"), config.loop_budget_ms / 1000)
        gc.callbacks.append(self.meter.collecting)
        parts.callback(gc.callbacks.remove, self.meter.collecting)
        self.collector = Collector(self.clock.monotonic)
        parts.callback(self.collector.end)
        self.reactor = Reactor(
            Limits(
                most_connections(config.max_connections, MAX_INCOMING_STREAMS, self.log),
                config.slow_client_seconds,
                self.shares.clients,
            ),
            self.http1,
            get_logger("net"),
            self.clock.monotonic,
            self.meter,
            worked=self.collector.worked,
        )
        parts.callback(watch_threads(self.reactor.call_soon))
        self.deadlines = Deadlines(self.clock)
        self.grpc = GrpcServer(
            Services({}, {}),
            self.clock.monotonic,
            self.deadlines.after,
            get_logger("grpc"),
            message_limit=config.max_request_bytes + v3.BEYOND_REQUEST,
            plain=opener(self._handle, self.http1),
            soon=self.reactor.call_soon,
        )
        self.sessions = SessionFactory(
            Http2Server(
                self.grpc,
                lambda: self.reactor.now,
                varying=TIMEOUT_FIELD,
                soon=self.reactor.call_soon,
            )
        )
        self.loop = Loop(self.meter)
        settings = _member_settings(config)
        certified = self.credentials is not None and self.credentials.client_auth
        token = find_token(
            settings,
            self.folder,
            certified=certified and all(url.scheme == "https" for url in config.listen_peer_urls),
            log=self.log,
        )
        self.secret = None if token is None else Secret(token)
        self.enrollment = Enrollment(settings, self.folder, self._list_members, self._join, self.log)
        self.is_open = False
        """The parts that need the storage are built."""

    async def serve(self, ready: Callable[[], None] | None) -> None:
        """Run until a signal to stop, or until a fault after which the member must not go on."""
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._stop_on_signal, signals, nursery.cancel_scope)
                nursery.start_soon(self.reactor.run, self.sessions.session, self.loop)
                if self.folder.found is None:
                    await self.enrollment.find()
                await self._open()
                self.collector.begin()
                nursery.start_soon(self.loop.run, self.host)
                nursery.start_soon(self.copies.run, self.host)
                nursery.start_soon(self.peers.run, self.host, self.copies)
                nursery.start_soon(self.timekeeper.run)
                nursery.start_soon(self.consistency.run)
                nursery.start_soon(do_chores, *self._chores())
                for sock, url in zip(self.callers, self.config.listen_peer_urls, strict=True):
                    self.peers.listen(sock, tls=url.scheme == "https")
                if self.host.is_only_voter:
                    self.host.campaign()
                published = trio.Event()
                nursery.start_soon(self._publish, published)
                nursery.start_soon(self.start.follow, self.host, self.store.engine)
                with trio.move_on_after(PUBLISH_SECONDS if self.host.machine.applied else float("inf")):
                    await published.wait()
                self._serve_clients()
                if ready is not None:
                    ready()
                await trio.sleep_forever()

    async def _open(self) -> None:
        """Open the storage and build the parts that need it."""
        config = self.config
        self.store, raft = await recover(
            partial(Storage, self.folder, self.reactor.call_soon, self.shares, self.start, self.log),
            self.enrollment,
            election_ticks=max(2, config.election_timeout // config.heartbeat_interval),
            below=secrets.randbelow,
            log=self.log,
        )
        self.parts.callback(self.store.close)
        store, identity = self.store, self.folder.identity
        self.peers = Peers(
            identity=identity,
            reactor=self.reactor,
            credentials=self.credentials,
            directory=self._directory,
            join=self._answer_join,
            on_removed=self._expelled,
            on_digest=self._take_digest,
            clock=self.clock,
            log=get_logger("peers"),
            secret=self.secret,
            budget=self.shares.peers,
        )
        self.copies = SnapshotTransfers(
            self.folder.state_dir, store.engine, self.peers, get_logger("copies"), self.shares.copies
        )
        self.copies.on_received = partial(self.start.moved, "receiving the state")
        self.copies.on_verifying = self.start.verifying
        limit = 5.0 + 2 * config.election_timeout / 1000
        self.host = host = Host(
            name=config.name,
            cluster_id=identity.cluster_id,
            driver=Driver(raft),
            wal=store.wal,
            engine=store.engine,
            machine=store.machine,
            hub=Hub(),
            clock=self.clock,
            proposals=Proposals(secrets.randbits(64), limit),
            wake=self.loop.wake,
            send=self.peers.send,
            flush=self.reactor.flush,
            snapshot_count=config.snapshot_count,
            log=get_logger("node"),
            catch_up_entries=min(CATCH_UP_ENTRIES, config.snapshot_count),
            log_budget=self.shares.log,
        )
        store.failed = host.engine_failed
        host.space.room = store.device
        host.background.contended = lambda: self.reactor.contended
        self.deadlines.failed = host.request_failed
        store.damaged = host.fail
        scrubber = Scrubber(store.engine, config.scrub_mib_per_second, get_logger("scrub"))
        self.parts.callback(scrubber.stop)
        scrubber.start()
        self.cluster = Cluster(host, log=get_logger("cluster"))
        self.levels = Levels(host)
        self.joins = JoinService(host, self.cluster, config.voters, get_logger("register"))
        self.lessor = Lessor(host, config.election_timeout / 1000)
        self.timekeeper = Timekeeper(
            host,
            self.deadlines,
            config.heartbeat_interval / 1000,
            self.reactor.flush,
            self.lessor,
            hear=self.reactor.watched.catch_up,
            meter=self.meter,
        )
        self.consistency = host.applier.observer = Consistency(
            host,
            lambda index, digest: self.peers.broadcast(DigestMessage(index, digest)),
            get_logger("consistency"),
        )
        self.gate = Gate()
        self.statistics = StatsApi(host, self.peers)
        self._route = routes(
            host,
            self.cluster,
            self.lessor,
            self.deadlines,
            gate=self.gate,
            statistics=self.statistics,
            admin_api=AdminApi(host, self.cluster, self.meter, scrubber, self.shares),
            set_level=set_level,
            enable_v2=config.enable_v2,
        )
        self.grpc.services = self._services()
        self.is_open = True

    def _services(self) -> Services:
        config, store = self.config, self.store
        return v3.build(
            self.host,
            v3.Options(
                election_seconds=config.election_timeout / 1000,
                max_request_bytes=config.max_request_bytes,
                max_txn_ops=config.max_txn_ops,
                quota_bytes=config.quota_backend_bytes,
                progress_seconds=config.progress_seconds,
                history_seconds=config.history_seconds,
                history_revisions=config.history_revisions,
            ),
            watches=self.host.watches,
            lessor=self.lessor,
            members=self.cluster,
            copies=Backups(
                self.folder.state_dir,
                store.engine,
                self._call_for_client,
                get_logger("backup"),
                self.host.fail,
            ),
            sizes=store.engine.sizes,
            after=self.deadlines.after,
            below=secrets.randbelow,
            log=get_logger("v3"),
            gate=self.gate,
        )

    def _call_for_client(self, call: Callable[[], object]) -> None:
        self.reactor.call_soon(partial(guarded, self.host.request_failed, call))

    async def _list_members(self, urls: Sequence[str], request: JoinRequest | None = None) -> MemberList:
        try:
            return await request_member_list(
                self.reactor,
                urls,
                request,
                program=f"netstored {__version__}",
                credentials=self.credentials,
                secret=self.secret,
            )
        except StreamFailed as fault:
            other_token = fault.verdict == Verdict.NOT_PROVED
            raise NoAnswer(str(fault), connected=fault.verdict is not None, other_token=other_token) from None

    async def _join(self, urls: Sequence[str], replaces: NodeId) -> MemberList:
        own = self.enrollment.settings
        return await self._list_members(urls, JoinRequest(own.name, own.peer_urls, replaces))

    def _answer_join(self, request: JoinRequest | None, answer: Callable[[MemberList], None]) -> None:
        self.joins.handle(request, answer)

    def _take_digest(self, member: NodeId, index: Index, digest: bytes) -> None:
        self.consistency.take(member, index, digest)

    def _directory(self) -> tuple[Mapping[NodeId, Sequence[str]], AbstractSet[NodeId]]:
        machine = self.store.machine
        if not machine.members:
            return self.enrollment.acquainted, machine.removed
        return {id_: member.peer_urls for id_, member in machine.members.items()}, machine.removed

    def _serve_clients(self) -> None:
        for url, sock in zip(self.config.listen_client_urls, self.clients, strict=True):
            self.reactor.listen(sock, self.client_credentials if url.scheme == "https" else None)
        urls = [
            str(bound_url(url, sock))
            for url, sock in zip(self.config.listen_client_urls, self.clients, strict=True)
        ]
        self.log.info("serving_clients", urls=urls, version=__version__, data_dir=str(self.config.data_dir))
        self.start.over = True
        self.manager.ready(f"serving clients on {', '.join(urls)}")

    async def _publish(self, published: trio.Event) -> None:
        config = self.config
        own = PublishMember(
            self.host.id,
            config.name,
            tuple(map(str, config.advertise_client_urls)),
            tuple(map(str, config.initial_advertise_peer_urls)),
        )
        await publish(self.host, own, CLUSTER_VERSION, remove_others=config.force_new_cluster, log=self.log)
        published.set()

    def _chores(self) -> list[tuple[float, Callable[[], object]]]:
        """Period and call."""
        chores: list[tuple[float, Callable[[], object]]] = [
            (ROUND_SECONDS, self.cluster.tick),
            (ROUND_SECONDS, self.levels.look),
            (SAMPLE_SECONDS, self.statistics.sample),
            (ROUND_SECONDS, self._stop_if_removed),
        ]
        if self.manager.watchdog_seconds:
            chores.append((self.manager.watchdog_seconds / 2, self.manager.alive))
        return chores

    def _stop_if_removed(self) -> None:
        if self.host.id in self.host.machine.removed:
            self._expelled("as its own log says")

    def _expelled(self, reason: str) -> None:
        self.host.fail(
            Expelled(
                f"member {self.host.id:x} was removed from cluster {self.host.cluster_id:x} ({reason}) and"
                f" stops: to let this machine in again, remove {self.config.data_dir} and start with --join"
            )
        )

    async def _stop_on_signal(self, signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
        async for number in signals:
            self.log.info("member_stopping", signal=signal.Signals(number).name)
            self.manager.stopping("finishing requests")
            self.reactor.stop_accepting()
            with trio.move_on_after(DRAIN_SECONDS):
                if self.is_open:
                    await hand_over(self.host, self.loop)
                await self.reactor.drain()
            scope.cancel()
            return

    def _handle(self, exchange: Exchange) -> None:
        self._route.handle(exchange)


async def serve(config: StoreConfig, *, ready: Callable[[], None] | None = None) -> None:
    """Run a member until SIGTERM or SIGINT. `ready` is called once clients are served.

    NetstoreError if it cannot start, or must not go on; everything acknowledged is on disk in either case.
    """
    manager = ServiceManager(os.environ)
    with ExitStack() as parts:
        daemon = _Daemon(config, parts, manager)
        try:
            await daemon.serve(ready)
        except* NetstoreError as faults:
            fault = _first(faults)
            if isinstance(fault, CannotApply) and fault.entry is not None:
                write_stopped(daemon.folder.path, Index(fault.entry[0]), fault.entry[1])
            raise fault from None
        except* MemoryError:
            raise NetstoreError(
                "the member ends because memory ran out; what it acknowledged is on disk; allow the process"
                " more memory, or set a smaller memory_budget, and start it again"
            ) from None
    daemon.log.info("member_stopped")


def _first(fault: BaseException) -> BaseException:
    """The first exception in a group, at any depth."""
    while isinstance(fault, BaseExceptionGroup):
        fault = fault.exceptions[0]
    return fault


def _credentials(
    cert: Path | None,
    key: Path | None,
    trusted: Path | None,
    alpn: tuple[str, ...] = (),
    *,
    prefix: str = "",
) -> Credentials | None:
    """The certificate of one port, or None. With `trusted`, clients and peers must show a certificate, as
    with etcd; `client_cert_auth` and `peer_client_cert_auth` change nothing, since they are refused without
    it.
    """
    if cert is None or key is None:
        return None
    log = get_logger("tls")
    asks = trusted is not None
    return Credentials(cert, key, trusted, client_auth=asks, log=log, alpn=alpn, prefix=prefix)


def _member_settings(config: StoreConfig) -> MemberSettings:
    token, file = config.join_token, config.join_token_file
    return MemberSettings(
        name=config.name,
        peer_urls=tuple(map(str, config.initial_advertise_peer_urls)),
        initial={each.name: tuple(map(str, each.peer_urls)) for each in config.initial_cluster},
        names_members=not isinstance(config.initial_cluster, Alone),
        initial_token=config.initial_cluster_token,
        known_token=DEFAULT_CLUSTER_TOKEN,
        joins_existing=config.initial_cluster_state == "existing",
        join=tuple(map(str, config.join)),
        join_token=read_token_file(file) if token is None and file is not None else token,
        force_new=config.force_new_cluster,
    )
