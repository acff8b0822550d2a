"""The member itself: what is built once it has an identity, on its log and its state."""

from __future__ import annotations

import os
import secrets
from functools import partial
from typing import TYPE_CHECKING, Final

from netstore import __version__
from netstore.api.admin import AdminApi
from netstore.api.backup import BackupApi
from netstore.api.beside import Beside
from netstore.api.gate import Gate
from netstore.api.health import Health
from netstore.api.metrics.endpoint import Metrics, Variables
from netstore.api.metrics.sources import Sources
from netstore.api.networks import NetworkWrites
from netstore.api.plugins import Admitted, PluginsApi
from netstore.api.routes import probe_routes, routes
from netstore.api.tracing import Tracer
from netstore.api.v2.stats import StatsApi
from netstore.api.v3 import services as v3
from netstore.disk.closer import Closer
from netstore.disk.scrub import Scrubber
from netstore.guard import guarded
from netstore.node.archive import Archiver
from netstore.node.backup import Backups, log_part
from netstore.node.backupschedule import LOOK_SECONDS, BackupPlan, BackupSchedule
from netstore.node.chores import EACH_ROUND
from netstore.node.consistency import Consistency
from netstore.node.driver import Driver
from netstore.node.featurelevel import Levels
from netstore.node.fullbackup import begun_header
from netstore.node.host import Host
from netstore.node.lessor import Lessor
from netstore.node.logcompaction import CATCH_UP_ENTRIES
from netstore.node.membership import MembershipChanges
from netstore.node.proposals import Proposals
from netstore.node.quota import DEFAULT_BYTES
from netstore.node.recovery import recover
from netstore.node.removal import Removal
from netstore.node.storage import Storage
from netstore.node.timekeeper import QUIET_SECONDS, Timekeeper
from netstore.ops import tracing
from netstore.ops.logging import get_logger, set_level
from netstore.peer.join import JoinService
from netstore.peer.peers import Peers
from netstore.peer.snapshots import SnapshotTransfers
from netstore.peer.wire import DigestMessage
from netstore.watch.hub import Hub

if TYPE_CHECKING:
    from collections.abc import Callable

    import trio

    from netstore.disk.backupfile import Header
    from netstore.net.grpc.protocols import Services
    from netstore.peer.wire import JoinRequest, MemberList
    from netstore.raft.core import Raft
    from netstore.server.base import Base
    from netstore.types import Index, NodeId

SAMPLE_SECONDS: Final = 1.0
"""How often the traffic with other members is sampled for the statistics."""


async def open_member(base: Base) -> RunningMember:
    """Open the storage and build the parts that need it."""
    config = base.config
    store, raft = await recover(
        partial(Storage, base.folder, base.reactor.call_soon, base.shares, base.start, base.log),
        base.enrollment,
        election_ticks=max(2, config.election_timeout // config.heartbeat_interval),
        below=secrets.randbelow,
        log=base.log,
    )
    base.parts.callback(store.close)
    return RunningMember(base, store, raft)


class RunningMember:
    """The parts of one member that need its storage, in the order in which they are built."""

    def __init__(self, base: Base, store: Storage, raft: Raft) -> None:
        config = base.config
        self._base = base
        self.store = store
        self.closer = Closer()
        base.parts.callback(self.closer.stop)
        self._build_peers()
        self._build_host(raft)
        host = self.host
        self.scrubber = Scrubber(store.engine, config.scrub_mib_per_second, get_logger("scrub"))
        base.parts.callback(self.scrubber.stop)
        self.scrubber.start()
        self.cluster = MembershipChanges(host, log=get_logger("cluster"))
        self.levels = Levels(host)
        self.removal = Removal(host, config.data_dir)
        self.joins = JoinService(host, self.cluster, config.voters, get_logger("join"))
        self.lessor = Lessor(host, config.election_timeout / 1000)
        self.timekeeper = Timekeeper(
            host,
            base.deadlines,
            config.heartbeat_interval / 1000,
            base.reactor.flush,
            self.lessor,
            read_pending=base.reactor.watched.catch_up,
            meter=base.meter,
            quiet_seconds=QUIET_SECONDS,
        )
        self.consistency = host.applier.observer = Consistency(
            host,
            lambda index, digest: self.peers.broadcast(DigestMessage(index, digest)),
            get_logger("consistency"),
        )
        self.archiver = self._build_archiver(raft)
        self.gate = Gate()
        admitted, beside = (
            Admitted(host.machine.plugins),
            Beside(self._call_for_client, get_logger("schemas")),
        )
        self.networks = NetworkWrites(
            config.network_prefixes if config.network_validate else (),
            admitted,
            beside,
            base.clock,
            get_logger("networks"),
            read=host.read,
        )
        self.statistics = StatsApi(host, self.peers)
        self.backups = Backups(
            base.folder.state_dir,
            store.engine,
            self._call_for_client,
            get_logger("backup"),
            closer=self.closer,
            suspect=self.scrubber.hurry,
            header=self._backup_header,
            log_part=partial(log_part, raft.log),
        )
        self.backup_schedule = self._schedule_backups()
        backup = BackupApi(self.backups, self.closer, base.deadlines.after)
        base.parts.callback(backup.close)
        self.health = Health(host, base.deadlines.after)
        self.tracer = self._make_tracer()
        sources = self._sources()
        self.metrics = Metrics(sources)
        base.router = routes(
            host,
            self.cluster,
            self.lessor,
            base.deadlines,
            gate=self.gate,
            statistics=self.statistics,
            admin_api=AdminApi(
                host,
                self.cluster,
                base.meter,
                self.scrubber,
                base.shares,
                plugins=PluginsApi(host, admitted, beside),
                archive=self.archiver,
                backup=backup,
                scheduled=None if self.backup_schedule is None else self.backup_schedule.state,
            ),
            set_level=set_level,
            enable_v2=config.enable_v2,
            networks=self.networks,
            health=self.health,
            metrics=self.metrics,
            variables=Variables(sources),
        )
        base.probe_router = probe_routes(base.router, self.gate, self.health)
        base.grpc.services = self._services()

    def _build_peers(self) -> None:
        base, store = self._base, self.store
        self.peers = Peers(
            identity=base.folder.identity,
            reactor=base.reactor,
            credentials=base.ports.peer_credentials,
            directory=partial(base.enrollment.directory, store.machine),
            join=self._answer_join,
            on_removed=self._removed,
            on_digest=self._take_digest,
            clock=base.clock,
            log=get_logger("peers"),
            secret=base.secret,
            budget=base.shares.peers,
        )
        self.snapshot_transfers = SnapshotTransfers(
            base.folder.state_dir,
            store.engine,
            self.peers,
            get_logger("copies"),
            budget=base.shares.copies,
            closer=self.closer,
        )
        self.snapshot_transfers.on_received = partial(base.start.moved, "receiving the state")
        self.snapshot_transfers.on_verifying = base.start.verifying

    def _build_host(self, raft: Raft) -> None:
        base, config, store = self._base, self._base.config, self.store
        limit = 5.0 + 2 * config.election_timeout / 1000
        self.host = host = Host(
            name=config.name,
            cluster_id=base.folder.identity.cluster_id,
            driver=Driver(raft),
            wal=store.wal,
            engine=store.engine,
            machine=store.machine,
            hub=Hub(),
            clock=base.clock,
            proposals=Proposals(secrets.randbits(64), limit, base.clock),
            wake=base.loop.wake,
            send=self.peers.send,
            flush=base.reactor.flush,
            snapshot_count=config.entries_per_snapshot,
            log=get_logger("node"),
            catch_up_entries=min(CATCH_UP_ENTRIES, config.entries_per_snapshot),
            log_budget=base.shares.log,
        )
        host.estranged = self.peers.estranged
        host.space.next_segment = store.device
        host.slowness.syncs = store.device.recent
        host.read_clock = base.reactor.read_clock
        host.background.contended = lambda: base.reactor.contended
        store.failed = host.engine_failed
        store.damaged = host.fail
        base.deadlines.failed = host.request_failed

    def _build_archiver(self, raft: Raft) -> Archiver | None:
        base, config, host = self._base, self._base.config, self.host
        if config.archive_folder is None:
            return None
        archiver = Archiver(
            config.archive_folder,
            host.cluster_id,
            base.folder,
            raft.log,
            self.store.engine,
            lag_seconds=config.archive_lag_seconds,
            keep_seconds=config.archive_keep_seconds,
            call_soon=self._call_for_client,
            monotonic=base.clock.monotonic,
            wall=base.clock.wall,
            skipped=self.store.machine.skipped,
            log=get_logger("archive"),
        )
        host.compaction.wanted = archiver.needed
        return archiver

    def _make_tracer(self) -> Tracer:
        base, host = self._base, self.host
        exporter = tracing.exporter_of(base.config.name, os.environ)
        if exporter is not None:
            base.parts.callback(exporter.close)
        tracer = Tracer(host.slowness, base.clock, get_logger("slow"), secrets.token_bytes, exporter)
        base.grpc.slow = tracer.call_ended
        host.slow_write = tracer.write_ended
        return tracer

    def _sources(self) -> Sources:
        base, config = self._base, self._base.config
        return Sources(
            host=self.host,
            peers=self.peers,
            grpc=base.grpc,
            http2=base.http2,
            reactor=base.reactor,
            device=self.store.device,
            engine=self.store.engine,
            backups=self.backups,
            health=self.health,
            meter=base.meter,
            scrubber=self.scrubber,
            shares=base.shares,
            tracer=self.tracer,
            quota_bytes=config.quota_backend_bytes or DEFAULT_BYTES,
            scheduled=None if self.backup_schedule is None else self.backup_schedule.state,
            archiver=self.archiver,
        )

    def _services(self) -> Services:
        base, config, store = self._base, self._base.config, self.store
        return v3.build(
            self.host,
            v3.Options(
                election_seconds=config.election_timeout / 1000,
                max_request_bytes=base.bounded.request_bytes,
                max_txn_ops=base.bounded.txn_ops,
                quota_bytes=config.quota_backend_bytes,
                progress_seconds=config.progress_seconds,
                history_seconds=config.history_seconds,
                history_revisions=config.history_revisions,
            ),
            watches=self.host.watches,
            lessor=self.lessor,
            members=self.cluster,
            backups=self.backups,
            sizes=store.engine.sizes,
            after=base.deadlines.after,
            below=secrets.randbelow,
            log=get_logger("v3"),
            gate=self.gate,
            networks=self.networks,
        )

    def _backup_header(self) -> Header:
        host = self.host
        return begun_header(host.cluster_id, host.id, host.name, host.clock.wall(), __version__)

    def _schedule_backups(self) -> BackupSchedule | None:
        base, config, host = self._base, self._base.config, self.host
        if config.backup_folder is None:
            return None
        plan = BackupPlan(
            folder=config.backup_folder,
            every=config.backup_seconds,
            keep=config.backup_keep,
            hook=config.backup_hook,
            hook_seconds=config.backup_hook_seconds,
            memory_bytes=base.shares.whole.limit,
        )
        identity = (host.cluster_id, host.id)
        closer = Closer()  # of its own: that folder may be on a file system that does not answer
        base.parts.callback(closer.stop)
        return BackupSchedule(plan, self.backups, identity, base.clock, get_logger("backup"), closer=closer)

    def _answer_join(self, request: JoinRequest | None, answer: Callable[[MemberList], None]) -> None:
        self.joins.handle(request, answer)

    def _removed(self, reason: str) -> None:
        self.removal.expelled(reason)

    def _take_digest(self, member: NodeId, index: Index, digest: bytes) -> None:
        self.consistency.take(member, index, digest)

    def _call_for_client(self, call: Callable[[], object]) -> None:
        self._base.reactor.call_soon(partial(guarded, self.host.request_failed, call))

    def run_in(self, nursery: trio.Nursery) -> None:
        """Start the tasks that end the member if they fail."""
        nursery.start_soon(self._base.loop.run, self.host)
        nursery.start_soon(self.snapshot_transfers.run, self.host)
        nursery.start_soon(self.peers.run, self.host, self.snapshot_transfers)
        nursery.start_soon(self.timekeeper.run)
        nursery.start_soon(self.consistency.run)
        if self.backup_schedule is not None:
            nursery.start_soon(self.backup_schedule.run)

    def chores(self) -> list[tuple[float, Callable[[], object]]]:
        """Period and call of each (`node.chores`)."""
        manager = self._base.manager
        chores: list[tuple[float, Callable[[], object]]] = [
            (EACH_ROUND, self.cluster.tick),
            (EACH_ROUND, self.levels.look),
            (SAMPLE_SECONDS, self.statistics.sample),
            (EACH_ROUND, self.removal.look),
        ]
        if self.archiver is not None:
            chores.append((EACH_ROUND, self.archiver.look))
        if self.backup_schedule is not None:
            chores.append((LOOK_SECONDS, self.backup_schedule.look))
        if manager.watchdog_seconds:
            chores.append((manager.watchdog_seconds / 2, manager.alive))
        return chores
