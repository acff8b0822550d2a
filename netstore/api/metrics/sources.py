"""What the metrics of a member are read from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from netstore.api.health import Health
    from netstore.api.tracing import Tracer
    from netstore.disk.engine import LmdbEngine
    from netstore.disk.posix import PosixDevice
    from netstore.disk.scrub import Scrubber
    from netstore.limits import Shares
    from netstore.meter import Meter
    from netstore.net.grpc.server import GrpcServer
    from netstore.net.http2 import Http2Server
    from netstore.net.reactor import Reactor
    from netstore.node.archive import Archiver
    from netstore.node.backup import Backups
    from netstore.node.backupschedule import BackupState
    from netstore.node.host import Host
    from netstore.peer.peers import Peers


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Parts of a member whose attributes are read at each scrape. Nothing is changed."""

    host: Host
    peers: Peers
    grpc: GrpcServer
    http2: Http2Server
    reactor: Reactor
    device: PosixDevice
    engine: LmdbEngine
    backups: Backups
    health: Health
    meter: Meter
    scrubber: Scrubber
    shares: Shares
    tracer: Tracer
    quota_bytes: int
    """The largest v3 state; less than 0 without a limit."""
    scheduled: BackupState | None = None
    """Scheduled backups; None without."""
    archiver: Archiver | None = None
    """The archive of the log; None without."""
