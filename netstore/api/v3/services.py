"""Builds all services of the v3 API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from netstore.api.v3 import health
from netstore.api.v3.answers import Answers
from netstore.api.v3.auth import AuthService
from netstore.api.v3.cluster import ClusterService
from netstore.api.v3.delivery import Deliveries
from netstore.api.v3.interceptor import Interceptor
from netstore.api.v3.kv import KvService
from netstore.api.v3.lease import LeaseService
from netstore.api.v3.maintenance import MaintenanceService
from netstore.api.v3.messages import Headers, WatchAnswers
from netstore.api.v3.shared import SharedAnswers
from netstore.api.v3.watch import WatchService
from netstore.net.grpc.protocols import Services
from netstore.node.autocompaction import ByRevisions, ByTime
from netstore.node.quota import Quota

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.api.gate import Gate
    from netstore.api.networks import NetworkWrites
    from netstore.api.v3.lessor import Lessor
    from netstore.api.v3.maintenance import BackupSource, Sizes
    from netstore.node.member import Membership, Replica
    from netstore.seams import After, Log
    from netstore.watch.watches import Watches

BEYOND_REQUEST: Final = 512 * 1024
"""Bytes by which a message may exceed the largest write, as in etcd: up to there a write that is too large is
refused with its own error text.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The settings of the v3 API."""

    election_seconds: float
    max_request_bytes: int
    """Of one write."""
    max_txn_ops: int
    quota_bytes: int
    """0 for the default, below 0 for none."""
    progress_seconds: float
    """Interval of progress notifications for idle watches that request them."""
    history_seconds: float = 0
    """For how long history is kept before it is compacted; 0 for ever."""
    history_revisions: int = 0
    """How many revisions of history are kept; 0 for all."""

    @property
    def minimum_ttl(self) -> int:
        """Seconds that a lease lives at least: one and a half election timeouts, rounded up, as in etcd."""
        return -int(-1.5 * self.election_seconds // 1)


def build(
    member: Replica,
    options: Options,
    *,
    watches: Watches,
    lessor: Lessor,
    members: Membership,
    backups: BackupSource,
    sizes: Sizes,
    after: After,
    below: Callable[[int], int],
    log: Log,
    gate: Gate,
    networks: NetworkWrites | None = None,
) -> Services:
    """The services of one member. `below` draws a random number below a bound; `networks` checks what is
    written to the configs of networks. Auto-compaction is started if
    the options say so.
    """
    headers = Headers(member)
    interceptor = Interceptor(member, gate, after, options.election_seconds)
    quota = Quota(member, options.quota_bytes)
    deliveries = Deliveries(member.clock, after)
    answers = Answers(member, headers, deliveries)
    shared = SharedAnswers(member, deliveries)
    kv = KvService(
        member,
        headers,
        quota,
        answers,
        max_request_bytes=options.max_request_bytes,
        max_txn_ops=options.max_txn_ops,
        networks=networks,
    )
    lease = LeaseService(member, headers, quota, lessor, shared, below=below, minimum_ttl=options.minimum_ttl)
    maintenance = MaintenanceService(member, headers, quota, sizes=sizes, backups=backups, members=members)
    watch = WatchService(watches, WatchAnswers(headers), after, below, options.progress_seconds)
    cluster = ClusterService(member, headers, members)
    if options.history_seconds:
        ByTime(member, after, options.history_seconds, log).start()
    if options.history_revisions:
        ByRevisions(member, after, options.history_revisions, log).start()
    return Services(
        kv.methods(interceptor)
        | lease.methods(interceptor)
        | cluster.methods(interceptor)
        | maintenance.methods(interceptor)
        | AuthService(member, headers).methods(interceptor)
        | health.methods(gate),
        lease.streams(interceptor)
        | maintenance.streams(interceptor)
        | watch.streams(interceptor)
        | health.streams(gate),
    )
