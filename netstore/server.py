"""The store daemon: starts the rooms in order and stops them in reverse. The only place that names what
stands behind the seams.

Start: bind the ports (so that a taken port is told before anything is written), lock the data folder, find
out who this member is (`peer.join`), open log and state, replay, talk to the other members, publish this
one, and only then serve. A member with a state to read serves it after `PUBLISH_SECONDS` even if the cluster
does not answer. Stop, on SIGTERM or SIGINT: tell the service manager, close the clients' listeners, let what
waits finish for a bounded time, hand leadership over, cut the connections, make the state durable, close the
log, release the folder.

A member whose log or state is damaged is never served. If others of its cluster can be reached, it keeps the
damaged files aside and joins anew, under another identity (`peer.join`); alone it refuses to start.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import resource
import secrets
import signal
import socket
import time
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from netstore import __version__
from netstore.api import loglevel, operate
from netstore.api.health import Health, Version
from netstore.api.router import Handler, Router
from netstore.api.v2.keys import PREFIX, KeysApi
from netstore.api.v2.members import MembersApi
from netstore.api.v2.stats import StatsApi
from netstore.api.v3 import services as v3
from netstore.api.v3.version import CLUSTER_VERSION
from netstore.collector import Collector
from netstore.disk import images
from netstore.disk.apart import examined, records
from netstore.disk.datadir import (
    DAMAGED,
    MAX_TOKEN_CHARACTERS,
    DataDir,
    MemberIdentity,
    keep_token,
    read_token,
)
from netstore.disk.deliver import watch_threads
from netstore.disk.engine import LmdbEngine
from netstore.disk.frame import Identity
from netstore.disk.posix import PosixDevice
from netstore.disk.scrub import Scrubber
from netstore.disk.skips import keep_stop, read_skips
from netstore.disk.wal import Wal
from netstore.errors import CannotApply, CorruptData, Fault, Hopeless, NetstoreError, StateDamaged
from netstore.guard import guarded
from netstore.limits import Shares, default_budget
from netstore.meter import Meter
from netstore.net.front import ALPN, Front
from netstore.net.grpc import TIMEOUT_FIELD, GrpcServer, Services
from netstore.net.http1 import Cors, Http1Server
from netstore.net.http2 import Http2Server
from netstore.net.http2exchange import opener
from netstore.net.reactor import Limits, Reactor
from netstore.net.tls import Credentials
from netstore.node import bootstrap
from netstore.node.backup import Backups
from netstore.node.cluster import Cluster
from netstore.node.consistency import Consistency
from netstore.node.driver import Driver
from netstore.node.host import CATCH_UP_ENTRIES, Host
from netstore.node.lessor import Lessor
from netstore.node.level import Levels
from netstore.node.loop import Loop
from netstore.node.member import OWN
from netstore.node.proposals import Proposals
from netstore.node.timekeeper import Deadlines, Timekeeper
from netstore.ops.config import DEFAULT_CLUSTER_TOKEN, Alone
from netstore.ops.logging import get_logger, set_level
from netstore.ops.memory import usable_memory
from netstore.ops.notify import ServiceManager
from netstore.ops.start import Start
from netstore.peer.dial import StreamFailed
from netstore.peer.handshake import Secret, Verdict
from netstore.peer.join import Expelled, JoinService, request_member_list
from netstore.peer.listener import MAX_INCOMING_STREAMS
from netstore.peer.peers import Peers
from netstore.peer.snapshots import SnapshotTransfers
from netstore.peer.wire import DigestMessage, JoinRequest
from netstore.raft.core import Boot, Config, Raft
from netstore.raft.entry import HardState, SnapshotMeta
from netstore.state.commands import PublishMember, RemoveMember, SetClusterVersion, encode
from netstore.state.machine import Machine
from netstore.state.member import MemberInfo
from netstore.state.mirror import MEMBERS, TABLES
from netstore.types import Index, Nanos, NodeId
from netstore.watch.hub import Hub

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from collections.abc import Set as AbstractSet
    from pathlib import Path

    from netstore.net.exchange import Exchange
    from netstore.ops.config import StoreConfig, Url
    from netstore.peer.wire import MemberList
    from netstore.state.machine import Outcome

STATE_FILE: Final = "state.lmdb"

DRAIN_SECONDS: Final = 5.0
"""How long waiting requests may take to finish once a stop was asked for."""

PUBLISH_SECONDS: Final = 5.0
"""How long a member with a state to read waits for the cluster before it serves."""

JOIN_SECONDS: Final = 60.0
"""How long a member that has nothing yet asks the others before it gives up."""

REPLACE_SECONDS: Final = 20.0
"""How long a member whose data is damaged asks the others to be let in again."""

NO_MEMBER: Final = NodeId(0)

LEAVE_SECONDS: Final = 0.01
"""How often a stopping leader looks whether another one has taken over."""

CHORES_SECONDS: Final = 0.1
"""How often learners that caught up, and an own removal, are looked for."""


OWN_DESCRIPTORS: Final = 128 + MAX_INCOMING_STREAMS
"""Open files that clients leave to the member: its log, its state, copies, its streams with others. Where
there are hardly more, clients get one in `CLIENTS_PART`: a single connection would shut out everybody else.
"""

CLIENTS_PART: Final = 4
"""A member alone needs 22 open files beside its clients."""

MOST_DESCRIPTORS: Final = 1 << 20
"""Open files that are enough, where the system sets no limit."""

SAMPLE_ROUNDS: Final = 10
"""Chores between two looks at the traffic with other members."""


def raise_descriptor_limit() -> int:
    """Allow this process as many open files as it may allow itself; how many that is (setrlimit(2))."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < most:
        with contextlib.suppress(OSError, ValueError):  # what there is has to do, then
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            soft = most
    return most if soft == resource.RLIM_INFINITY else soft


def connections_for(descriptors: int) -> int:
    """How many client connections fit among so many open files."""
    return max(1, descriptors // CLIENTS_PART, descriptors - OWN_DESCRIPTORS)


class SystemClock:
    """The clocks of this machine. Implements `seams.Clock`."""

    monotonic = staticmethod(time.monotonic)
    """Seconds from an unknown start; never decreases. The function itself: it is called for each request."""

    def __init__(self) -> None:
        """Nothing is read."""
        self._wall = 0
        self._is_told = False

    def wall(self) -> Nanos:
        """Wall time; may jump either way. Not before 1970, which could not be written down; beyond 2262,
        where nanoseconds do not fit 64 bits, it stands still at what was read last, and that is told once.
        """
        try:
            self._wall = max(time.time_ns(), 0)
        except OverflowError:
            if not self._is_told:
                self._is_told = True
                get_logger("server").warning(
                    "wall_clock_wrong", reason="it is beyond the year 2262", fix="set the clock"
                )
        return Nanos(self._wall)


def bind(key: str, url: Url) -> socket.socket:
    """A socket bound to the address of a URL that the setting `key` names, not listening yet.

    NetstoreError when the address cannot be had.
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
            f"{key}: cannot listen on {url}: {why}; stop what uses it or choose another address"
        ) from None
    return sock


class _Store:
    """Log, state and position of one member, opened and found to fit together."""

    def __init__(
        self,
        folder: DataDir,
        deliver: Callable[[Callable[[], object]], object],
        shares: Shares,
        start: Start,
    ) -> None:
        """Changes of the state that are not committed, and reads in steps, have their shares. Blocks.

        CorruptData when something that was safe once cannot be read; nothing is changed then."""
        self.failed: Callable[[OSError], None] = _no_listener
        """Called when the state cannot be committed."""
        self.damaged: Callable[[StateDamaged], object] = _raised_anyway
        """Called when what was read of the state is not what was written: it must not be served."""
        self.log = get_logger("server")
        identity = folder.identity
        with ExitStack() as parts:
            path = folder.state_dir / STATE_FILE
            told = examined(path, self._not_verified, start.verifying)
            self.device = device = PosixDevice(folder.wal_dir, deliver)
            parts.callback(device.close)
            owner = Identity(identity.cluster_id, identity.member_id)
            self.wal, self.replay = Wal.open(
                device, owner, told=told.log, moved=partial(start.moved, "reading the log")
            )
            parts.callback(self.wal.close)
            if self.replay.cut is not None:
                self.log.warning("log_tail_cut", file=self.replay.cut.name, offset=self.replay.cut.offset)
            self.mark = self.replay.mark or SnapshotMeta()
            placed = images.settle(
                folder.state_dir,
                path,
                told.applied,
                self.mark.index,
                self.replay.last,
                partial(start.moved, "checking a copy of the state"),
            )
            if placed is not None:
                self.log.info("state_copy_installed", index=placed)
            self.engine = LmdbEngine(
                path,
                deliver,
                TABLES,
                self._engine_failed,
                on_damage=self._found_damage,
                budget=shares.overlay,
            )
            parts.callback(self._close_engine)
            self.engine.log_position = self.wal.position
            self.machine = Machine(self.engine, shares.reads, shares.walks)
            self.machine.passed_over = read_skips(folder.path)
            if self.machine.passed_over:
                self.log.warning("entries_skipped", entries=sorted(self.machine.passed_over))
            start.loading(self.machine.stored, self.engine.sizes()[1])
            self.machine.load(start.loaded)
            self._parts = parts.pop_all()

    def boot(self, initial: Mapping[NodeId, Sequence[str]]) -> Boot:
        """Where Raft takes up. A log that is empty begins as that of a new cluster of these members; without
        any it waits for a state copy.
        """
        replay = self.replay
        hard_state, entries = replay.hard_state or HardState(), replay.entries
        if initial and bootstrap.is_empty(replay) and not self.machine.applied:
            self.mark = bootstrap.first_mark(initial)
            hard_state, entries = bootstrap.first_batch({id_: tuple(urls) for id_, urls in initial.items()})
            self.wal.mark(self.mark, self._written)
            self.wal.append(hard_state, entries, self._written)
        return Boot(hard_state=hard_state, snapshot=self.mark, entries=entries, applied=self.machine.applied)

    async def begin_anew(self, own: NodeId) -> None:
        """Make this member the only voter, with everything it has."""
        bootstrap.catch_up(self.machine, self.replay.entries)
        await self._when_done(self.engine.sync)
        mark = bootstrap.alone(own, self.replay)
        await self._when_done(lambda done: self.wal.mark(mark, done))
        self.mark, self.replay.mark, self.replay.entries = mark, mark, []

    async def _when_done(self, begin: Callable[[Callable[[OSError | None], None]], None]) -> None:
        over = trio.Event()
        failures: list[OSError] = []

        def done(failure: OSError | None) -> None:
            if failure is not None:
                failures.append(failure)
            over.set()

        begin(done)
        await over.wait()
        for failure in failures:
            raise NetstoreError(
                f"data_dir: cannot be written: {failure}; free disk space or replace the disk"
            )

    def _not_verified(self, why: str) -> None:
        self.log.warning(
            "state_not_verified",
            reason=why,
            fix="give the process room for one more; until then what is read is verified as it is read",
        )

    def _engine_failed(self, failure: OSError) -> None:
        self.failed(failure)

    def _found_damage(self, damage: StateDamaged) -> None:
        self.damaged(damage)

    def _written(self, failure: OSError | None) -> None:
        """The beginning of a log was kept. Whatever is against it ends the member before it says anything."""
        if failure is not None:
            raise NetstoreError(f"data_dir: {failure}; free disk space or replace the disk")

    def close(self) -> None:
        """Make the state durable if there is room, then close the log. Blocks."""
        self._parts.close()

    def _close_engine(self) -> None:
        try:
            self.engine.close()
        except OSError as error:  # no loss: the log has what the state has not, and the next start applies it
            self.log.warning("state_not_saved", reason=error.strerror or str(error))


class _Daemon:
    """One run of a member: its parts in the order in which they come to life."""

    def __init__(self, config: StoreConfig, parts: ExitStack, manager: ServiceManager) -> None:
        """Whatever can be refused before anything is written."""
        self.config = config
        self.manager = manager
        self.log = get_logger("server")
        self.clock = SystemClock()
        self.start = Start(manager, self.clock.monotonic, self.log)
        self.clients = [bind("listen_client_urls", url) for url in config.listen_client_urls]
        self.callers = [bind("listen_peer_urls", url) for url in config.listen_peer_urls]
        for sock in (*self.clients, *self.callers):
            parts.callback(sock.close)
        self.credentials = _credentials(
            config.peer_cert_file, config.peer_key_file, config.peer_trusted_ca_file
        )
        self.client_credentials = _credentials(
            config.cert_file,
            config.key_file,
            config.trusted_ca_file,
            ALPN,
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
            Limits(self._most_connections(), config.slow_client_seconds, self.shares.clients),
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
        self.front = Front(
            Http2Server(
                self.grpc,
                lambda: self.reactor.now,
                varying=TIMEOUT_FIELD,
                soon=self.reactor.call_soon,
            )
        )
        self.loop = Loop(self.meter)
        self.initial = {
            bootstrap.member_id(map(str, each.peer_urls), config.initial_cluster_token): each
            for each in config.initial_cluster
        }
        self.secret = self._know_token()
        """What this member and the others prove themselves with where no certificate does."""
        self.acquainted: dict[NodeId, tuple[str, ...]] = {}
        """Where others are reached, as the cluster said before this member had a list of its own."""

    async def serve(self, ready: Callable[[], None] | None) -> None:
        """Run until a signal asks to stop, or until a fault that must not be survived."""
        manager = self.manager
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._stop_on_signal, signals, manager, nursery.cancel_scope)
                nursery.start_soon(self.reactor.run, self.front.session, self.loop)
                if self.folder.found is None:
                    await self._find_identity()
                await self._open()
                self.collector.begin()
                nursery.start_soon(self.loop.run, self.host)
                nursery.start_soon(self.copies.run, self.host)
                nursery.start_soon(self.peers.run, self.host, self.copies)
                nursery.start_soon(self.timekeeper.run)
                nursery.start_soon(self.consistency.run)
                nursery.start_soon(self._do_chores, manager)
                for sock, url in zip(self.callers, self.config.listen_peer_urls, strict=True):
                    self.peers.listen(sock, tls=url.scheme == "https")
                if self.host.status().conf.voters == (self.host.id,):
                    self.host.campaign()
                published = trio.Event()
                nursery.start_soon(self._publish, published)
                nursery.start_soon(self._tell_start)
                with trio.move_on_after(PUBLISH_SECONDS if self.host.machine.applied else float("inf")):
                    await published.wait()
                self._serve_clients(manager)
                if ready is not None:
                    ready()
                await trio.sleep_forever()

    # --- who this is

    def _know_token(self) -> Secret | None:
        """The join token: as the folder has it, as it is given, or a new one for a cluster that begins here.

        It is on disk before the identity is, and stays when the folder becomes another member's.
        """
        config, log = self.config, self.log
        stored, given = read_token(config.data_dir), _given_token(config)
        token = stored
        if self.folder.found is None or stored is None:
            token = given or self._first_token() or stored
        elif given is not None and given != stored:
            log.warning("join_token_ignored", reason=f"{config.data_dir} has another one already")
        if token is not None and token != stored:
            keep_token(config.data_dir, token)
        certified = self.credentials is not None and self.credentials.client_auth
        plain = not certified or any(url.scheme == "http" for url in config.listen_peer_urls)
        if plain and token == DEFAULT_CLUSTER_TOKEN:
            log.warning(
                "join_token_weak",
                reason="it is the default initial_cluster_token, which everybody knows",
                fix="begin the cluster with a secret --initial-cluster-token, or use TLS among the members",
            )
        return None if token is None else Secret(token)

    def _first_token(self) -> str | None:
        """That of a folder which has none: what those share that `initial_cluster` names, now or later, or a
        random one.
        """
        config = self.config
        if config.join:
            if self.folder.found is None and any(url.scheme == "http" for url in config.join):
                raise Hopeless(
                    "join_token: is needed to join over http: run netstorectl member token where a member"
                    " runs, and give what it prints with --join-token or --join-token-file"
                )
            return None
        shared = not isinstance(config.initial_cluster, Alone) or config.initial_cluster_state == "existing"
        if shared or config.initial_cluster_token != DEFAULT_CLUSTER_TOKEN:
            return config.initial_cluster_token
        if self.folder.found is not None:
            return None  # it may have joined by its certificate: the others would have another one
        return read_token(config.data_dir) or secrets.token_hex(32)

    async def _find_identity(self) -> None:
        """Give the empty folder its identity: one of a new cluster's, or one that a running cluster gives."""
        config = self.config
        if config.force_new_cluster:
            raise NetstoreError(
                f"force_new_cluster: {config.data_dir} is empty: name the folder of the member whose data is"
                " to become the cluster's"
            )
        if config.join:
            roster = await self._apply(self._others())
            identity = MemberIdentity(roster.cluster, roster.you, config.name)
        elif config.initial_cluster_state == "existing":
            identity = self._own_place(await self._ask(self._others()))
        else:
            own = next(id_ for id_, each in self.initial.items() if each.name == config.name)
            identity = MemberIdentity(bootstrap.cluster_id(self.initial), own, config.name)
            await self._refuse_to_begin_twice(identity)
        self.folder.adopt(identity)
        self.log.info("identity_found", member=f"{identity.member_id:x}", cluster=f"{identity.cluster_id:x}")

    def _most_connections(self) -> int:
        """What the configuration allows, as far as there are descriptors for it beside the member's own."""
        wanted = self.config.max_connections
        able = connections_for(raise_descriptor_limit())
        if able < wanted:
            self.log.warning(
                "connections_limited",
                wanted=wanted,
                possible=able,
                fix="raise the limit on open files",
            )
        return min(wanted, able)

    def _others(self) -> list[str]:
        """Peer URLs of members that the configuration names."""
        config = self.config
        named = (url for each in config.initial_cluster if each.name != config.name for url in each.peer_urls)
        return [str(url) for url in (*config.join, *named)]

    def _own_place(self, roster: MemberList) -> MemberIdentity:
        """Which of the cluster's members this one was added as: the one with its peer URLs."""
        urls = {str(url) for url in self.config.initial_advertise_peer_urls}
        found = next((member for member in roster.members if set(member.peer_urls) == urls), None)
        if found is None:
            raise NetstoreError(
                f"initial_cluster_state: the cluster has no member at {', '.join(sorted(urls))}: add it first"
                " (netstorectl member add), or start with --join"
            )
        if found.name:
            raise _already_started(found.id, self.config)
        self._meet(roster, found.id)
        return MemberIdentity(roster.cluster, found.id, self.config.name)

    async def _refuse_to_begin_twice(self, identity: MemberIdentity) -> None:
        """A member of a running cluster that lost its data must not begin as if it had never voted: it begins
        only where none of the others can be connected to. Who is there has to say who is a member.
        """
        others = self._others()
        if not others:
            return
        try:
            roster = await self._ask(others, patient=False)
        except StreamFailed:
            return  # nobody is there yet: all begin now
        if roster.cluster != identity.cluster_id:
            raise NetstoreError(
                f"initial_cluster: its members are in cluster {roster.cluster:x} already, not in"
                f" {identity.cluster_id:x}: start with --join, or give another initial_cluster_token"
            )
        own = next((member for member in roster.members if member.id == identity.member_id), None)
        if own is None or own.name:
            raise _already_started(identity.member_id, self.config)

    async def _apply(
        self, others: Sequence[str], replaces: NodeId = NO_MEMBER, seconds: float = JOIN_SECONDS
    ) -> MemberList:
        """Ask to be let in."""
        config = self.config
        urls = tuple(str(url) for url in config.initial_advertise_peer_urls)
        roster = await self._ask(others, JoinRequest(config.name, urls, replaces), seconds)
        self._meet(roster, roster.you)
        return roster

    def _meet(self, roster: MemberList, own: NodeId) -> None:
        self.acquainted = {member.id: member.peer_urls for member in roster.members if member.id != own}

    async def _ask(
        self,
        urls: Sequence[str],
        application: JoinRequest | None = None,
        seconds: float = JOIN_SECONDS,
        *,
        patient: bool = True,
    ) -> MemberList:
        """Ask again and again, for a while; another token stays another one, and is told at once. Who is not
        `patient` gets StreamFailed when nobody is there at all, and nobody was before.
        """
        reason = ""
        with trio.move_on_after(seconds):
            while True:
                try:
                    return await self._ask_once(urls, application)
                except StreamFailed as fault:
                    if fault.verdict == Verdict.NOT_PROVED:
                        raise self._other_token(fault) from None
                    if fault.verdict is not None:
                        patient = True
                    elif not patient:
                        raise
                    if str(fault) != reason:
                        reason = str(fault)
                        self.log.warning("cluster_not_reached", reason=reason)
                await trio.sleep(1)
        raise NetstoreError(f"the cluster did not let this member in within {seconds:g} s: {reason}")

    def _other_token(self, fault: StreamFailed) -> NetstoreError:
        shown = (
            "run netstorectl member token where a member runs, and give what it prints with --join-token or"
            " --join-token-file"
        )
        if self.config.join:
            return NetstoreError(f"join_token: {fault}: {shown}")
        return NetstoreError(
            f"initial_cluster_token: {fault}: another cluster runs there, or its join token is another one:"
            f" {shown}, or give other peer URLs"
        )

    async def _ask_once(self, urls: Sequence[str], application: JoinRequest | None = None) -> MemberList:
        return await request_member_list(
            self.reactor,
            urls,
            application,
            program=f"netstored {__version__}",
            credentials=self.credentials,
            secret=self.secret,
        )

    # --- the parts

    async def _recover(self) -> Raft:
        """Open the store; one that is damaged is replaced, if the cluster lets this member in again."""
        try:
            return await self._open_store()
        except CorruptData as fault:
            damage = fault
        if self.config.force_new_cluster:
            raise damage
        await self._become_another(damage)
        return await self._open_store()

    async def _become_another(self, damage: CorruptData) -> None:
        """Begin anew, with an empty store, as another member; the damaged files are kept.

        Raises the damage where there is nobody to ask, or none of those asked agrees.
        """
        old = self.folder.identity.member_id
        self.acquainted = self._others_in_state()
        known = (url for urls in self.acquainted.values() for url in urls)
        others = list(dict.fromkeys((*self._others(), *known)))
        if not others:
            raise damage
        self.log.error("data_damaged", error=str(damage), member=f"{old:x}", asking=others)
        try:
            roster = await self._apply(others, replaces=old, seconds=REPLACE_SECONDS)
        except NetstoreError as fault:
            raise CorruptData(f"{damage}; {fault}") from damage
        self.folder.replace(MemberIdentity(roster.cluster, roster.you, self.config.name))
        self.log.warning("member_replaced", old=f"{old:x}", new=f"{roster.you:x}", kept=DAMAGED)

    async def _open_store(self) -> Raft:
        store = _Store(self.folder, self.reactor.call_soon, self.shares, self.start)
        try:
            raft = await self._begin(store)
        except BaseException:
            store.close()
            raise
        self.store = store
        self.parts.callback(store.close)
        return raft

    async def _begin(self, store: _Store) -> Raft:
        config, own = self.config, self.folder.identity
        if config.force_new_cluster:
            await store.begin_anew(own.member_id)
        begins_here = own.member_id in self.initial and bootstrap.cluster_id(self.initial) == own.cluster_id
        first = {id_: tuple(map(str, each.peer_urls)) for id_, each in self.initial.items()}
        boot = store.boot(first if begins_here else {})
        if not boot.snapshot.conf.voters and not self.acquainted:
            self._meet(await self._ask(self._others()), own.member_id)
        ticks = max(2, config.election_timeout // config.heartbeat_interval)
        raft = Raft(Config(id=own.member_id, election_ticks=ticks), boot, secrets.randbelow)
        self.log.info(
            "member_recovered",
            member=f"{own.member_id:x}",
            cluster=f"{own.cluster_id:x}",
            term=raft.term,
            applied=boot.applied,
            commit=raft.commit,
            last=raft.last_index,
        )
        return raft

    def _others_in_state(self) -> dict[NodeId, tuple[str, ...]]:
        """Where others are reached as far as a damaged member's state can still tell."""
        path = self.folder.state_dir / STATE_FILE
        if not path.exists():
            return {}
        decode = msgspec.msgpack.Decoder(MemberInfo).decode
        try:
            members = [decode(record) for record in records(path, MEMBERS)]
        except (OSError, msgspec.MsgspecError):
            return {}
        own = self.folder.identity.member_id
        return {member.id: member.peer_urls for member in members if member.id != own}

    async def _open(self) -> None:
        """Open the store and put the member together around it."""
        config = self.config
        raft = await self._recover()
        store, identity = self.store, self.folder.identity
        self.peers = Peers(
            identity=identity,
            reactor=self.reactor,
            credentials=self.credentials,
            directory=self._directory,
            join=self._answer_who,
            on_removed=self._expelled,
            on_digest=self._noted,
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
        host.room = store.device
        host.contended = lambda: self.reactor.contended
        self.deadlines.failed = host.request_failed
        store.damaged = host.fail
        self.scrubber = scrubber = Scrubber(store.engine, config.scrub_mib_per_second, get_logger("scrub"))
        self.parts.callback(scrubber.stop)
        scrubber.start()
        self.cluster = Cluster(host, log=get_logger("cluster"))
        self.levels = Levels(host)
        self.register = JoinService(host, self.cluster, config.voters, get_logger("register"))
        self.lessor = Lessor(host, config.election_timeout / 1000)
        self.timekeeper = Timekeeper(
            host,
            self.deadlines,
            config.heartbeat_interval / 1000,
            self.reactor.flush,
            self.lessor,
            hear=self.reactor.hear,
            meter=self.meter,
        )
        self.consistency = host.observer = Consistency(
            host,
            lambda index, digest: self.peers.broadcast(DigestMessage(index, digest)),
            get_logger("consistency"),
        )
        self.statistics = StatsApi(host, self.peers)
        self._route = self._routes()
        self.grpc.services = self._services()

    def _routes(self) -> Router:
        host = self.host
        members = MembersApi(host, self.cluster)
        exact: dict[bytes, Handler] = {
            b"/version": Version(host),
            b"/health": Health(host, self.deadlines.after),
            loglevel.PATH: loglevel.LogLevel(set_level),
        }
        operating = operate.OperateApi(host, self.cluster, self.meter, self.scrubber, self.shares)
        below: dict[bytes, Handler] = {operate.PREFIX: operating.handle}
        if self.config.enable_v2:
            exact |= {
                b"/v2/machines": members.machines,
                b"/v2/stats/store": self.statistics.store,
                b"/v2/stats/self": self.statistics.own,
                b"/v2/stats/leader": self.statistics.leader,
            }
            keys = KeysApi(host, self.lessor.nodes)
            self.lessor.renewing_nodes = keys.renewing
            below |= {PREFIX: keys.handle, b"/v2/members": members.members}
        return Router(exact, below, closed=(operate.PREFIX,))

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
        )

    def _call_for_client(self, call: Callable[[], object]) -> None:
        self.reactor.call_soon(partial(guarded, self.host.request_failed, call))

    def _answer_who(self, application: JoinRequest | None, answer: Callable[[MemberList], None]) -> None:
        self.register.handle(application, answer)

    def _noted(self, member: NodeId, index: Index, digest: bytes) -> None:
        self.consistency.take(member, index, digest)

    def _directory(self) -> tuple[Mapping[NodeId, Sequence[str]], AbstractSet[NodeId]]:
        machine = self.store.machine
        if not machine.members:
            return self.acquainted, machine.removed
        return {id_: member.peer_urls for id_, member in machine.members.items()}, machine.removed

    # --- the running member

    def _serve_clients(self, manager: ServiceManager) -> None:
        for url, sock in zip(self.config.listen_client_urls, self.clients, strict=True):
            self.reactor.listen(sock, self.client_credentials if url.scheme == "https" else None)
        urls = [
            _shown(url, sock) for url, sock in zip(self.config.listen_client_urls, self.clients, strict=True)
        ]
        self.log.info("serving_clients", urls=urls, version=__version__, data_dir=str(self.config.data_dir))
        self.start.over = True
        manager.ready(f"serving clients on {', '.join(urls)}")

    async def _tell_start(self) -> None:
        """Until clients are served, tell what moves of the member: one that joins gets its state from others,
        loads it, and applies what has come since.
        """
        start, machine = self.start, self.host.machine
        was_loading = False
        while not start.over:
            is_loading = self.host.loading
            if is_loading and not was_loading:
                start.loading(machine.stored, self.store.engine.sizes()[1])
            if is_loading:
                start.loaded(machine.loaded)
            else:
                start.applied(machine.applied)
            was_loading = is_loading
            await trio.sleep(CHORES_SECONDS)

    async def _publish(self, published: trio.Event) -> None:
        """Tell the cluster this member's name and URLs, as etcd does at each start; whoever leads also sets
        the cluster's version.
        """
        config, host = self.config, self.host
        peer_urls = tuple(map(str, config.initial_advertise_peer_urls))
        client_urls = tuple(map(str, config.advertise_client_urls))
        while not host.machine.members:  # noqa: ASYNC110 - a member that joins has no list before its copy
            await trio.sleep(CHORES_SECONDS)
        await self._propose(encode(PublishMember(host.id, config.name, client_urls, peer_urls)))
        if config.force_new_cluster:
            for other in sorted(set(host.machine.members) - {host.id}):
                await self._propose(encode(RemoveMember(other)))
        while not host.machine.cluster_version:
            if host.leader == host.id:
                await self._propose(encode(SetClusterVersion(CLUSTER_VERSION)))
            else:
                await trio.sleep(CHORES_SECONDS)
        published.set()

    async def _propose(self, command: bytes) -> None:
        """Propose until it is accepted. Each try is bounded by the time limit of proposals."""
        told = ""
        while True:
            outcomes: list[Outcome | Fault] = []
            done = trio.Event()

            def take(
                outcome: Outcome | Fault, outcomes: list[Outcome | Fault] = outcomes, done: trio.Event = done
            ) -> None:
                outcomes.append(outcome)
                done.set()

            self.host.propose(command, take, OWN)
            await done.wait()
            if not isinstance(outcomes[0], Fault):
                return
            if str(outcomes[0]) != told:
                told = str(outcomes[0])
                self.log.warning("member_not_published", reason=told)
            await trio.sleep(1)

    async def _do_chores(self, manager: ServiceManager) -> None:
        """What nobody asks for and no message brings."""
        host = self.host
        patience = manager.watchdog_seconds
        beat = max(1, int(patience / 2 / CHORES_SECONDS)) if patience else 0
        for round_ in itertools.count():
            await trio.sleep(CHORES_SECONDS)
            self.cluster.tick()
            self.levels.look()
            if beat and round_ % beat == 0:
                manager.alive()
            if round_ % SAMPLE_ROUNDS == 0:
                self.statistics.sample()
            if host.id in host.machine.removed:
                self._expelled("as its own log says")

    def _expelled(self, reason: str) -> None:
        self.host.fail(
            Expelled(
                f"member {self.host.id:x} was removed from cluster {self.host.cluster_id:x} ({reason}) and"
                f" stops: to let this machine in again, remove {self.config.data_dir} and start with --join"
            )
        )

    async def _stop_on_signal(
        self, signals: AsyncIterator[int], manager: ServiceManager, scope: trio.CancelScope
    ) -> None:
        async for number in signals:
            self.log.info("member_stopping", signal=signal.Signals(number).name)
            manager.stopping("finishing requests")
            self.reactor.stop_accepting()
            with trio.move_on_after(DRAIN_SECONDS):
                await self._leave()
                await self.reactor.drain()
            scope.cancel()
            return

    async def _leave(self) -> None:
        """Finish what waits, then let somebody else lead, so that the others need no election."""
        if not hasattr(self, "host"):
            return
        await self.loop.drained(self.host)
        host = self.host
        voters = host.status().conf.voters
        able = [each for each in host.status().peers if each.active and each.id in voters]
        if host.leader != host.id or not able:
            return
        if host.transfer(max(able, key=lambda each: each.match).id) is None:
            while host.leader == host.id:  # noqa: ASYNC110 - it shows in no other way
                await trio.sleep(LEAVE_SECONDS)

    def _handle(self, exchange: Exchange) -> None:
        self._route.handle(exchange)


async def serve(config: StoreConfig, *, ready: Callable[[], None] | None = None) -> None:
    """Run a member until SIGTERM or SIGINT. `ready` is called once requests are served.

    NetstoreError when it cannot start, or must not go on; everything acknowledged is on disk in either case.
    """
    manager = ServiceManager(os.environ)
    with ExitStack() as parts:
        daemon = _Daemon(config, parts, manager)
        try:
            await daemon.serve(ready)
        except* NetstoreError as faults:
            fault = _first(faults)
            if isinstance(fault, CannotApply) and fault.entry is not None:
                keep_stop(daemon.folder.path, Index(fault.entry[0]), fault.entry[1])
            raise fault from None
        except* MemoryError:
            raise NetstoreError(
                "memory ran out where nothing could be given up: the member ends; what it acknowledged is on"
                " disk; allow the process more memory, or set a smaller memory_budget, and start it again"
            ) from None
    daemon.log.info("member_stopped")


def _first(fault: BaseException) -> BaseException:
    """The first of what a group of exceptions holds."""
    while isinstance(fault, BaseExceptionGroup):
        fault = fault.exceptions[0]
    return fault


def _credentials(
    cert: Path | None, key: Path | None, trusted: Path | None, alpn: tuple[str, ...] = ()
) -> Credentials | None:
    """What a port shows; None where it has no certificate. With `trusted`, callers must show one, as with
    etcd; the settings that ask for it by name are refused without it.
    """
    if cert is None or key is None:
        return None
    return Credentials(cert, key, trusted, client_auth=trusted is not None, log=get_logger("tls"), alpn=alpn)


def _given_token(config: StoreConfig) -> str | None:
    """The join token that was given, in either way; itself before a file."""
    file = config.join_token_file
    if file is None or config.join_token is not None:
        return config.join_token
    try:
        with file.open(encoding="utf-8") as opened:
            token = opened.read(4 * MAX_TOKEN_CHARACTERS).strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "is no text"
        raise NetstoreError(f"join_token_file: {file}: {why}; name a file with the token alone") from None
    if not token or len(token) > MAX_TOKEN_CHARACTERS or not token.isprintable():
        raise NetstoreError(
            f"join_token_file: {file}: holds no token of 1 to {MAX_TOKEN_CHARACTERS} printable characters;"
            " write what netstorectl member token prints"
        )
    return token


def _already_started(member: NodeId, config: StoreConfig) -> NetstoreError:
    return NetstoreError(
        f"data_dir: {config.data_dir} is empty, but member {member:x} of this name was started before, and"
        f" may have voted: restore the folder, or remove the member (netstorectl member rm {member:x}) and"
        " start with --join"
    )


def _no_listener(error: OSError) -> None:
    raise NetstoreError(
        f"data_dir: the state cannot be written: {error}; free disk space or replace the disk"
    )


def _raised_anyway(_damage: StateDamaged) -> None:
    """While a store is opened, what reads it raises to who opens it."""


def _shown(url: Url, sock: socket.socket) -> str:
    return str(url._replace(port=sock.getsockname()[1]))
