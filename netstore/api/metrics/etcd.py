"""The metrics that have etcd's names, labels and buckets, for what is the same here.

What etcd counts and netstored does not have (pages of its database file, its v2 proxies) is left out; the
list is in contrib/doc/observability.md. Where the meaning differs a little, the text of the family says so.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Final

from netstore.api.health import ALARMS
from netstore.api.v3.version import VERSION
from netstore.exposition import (
    counter,
    counters,
    counting,
    counting_by,
    gauge,
    gauges,
    histogram,
    histograms,
    process,
)
from netstore.histogram import Histogram, doubling

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric

    from netstore.api.metrics.grpcfamilies import Calls
    from netstore.api.metrics.sources import Sources

SLOW_APPLY_SECONDS: Final = 0.1
"""Applying for longer in one turn counts as slow, as with etcd for one entry."""

_DEFRAG_BOUNDS: Final = doubling(0.1, 13)
_V2_WRITES: Final = (
    ("set", "sets"),
    ("create", "create"),
    ("update", "update"),
    ("delete", "delete"),
    ("compareAndSwap", "compare_and_swap"),
    ("compareAndDelete", "compare_and_delete"),
)


def families(sources: Sources, calls: Calls) -> Iterator[Metric]:
    """All of them. O(members, alarms and open connections)."""
    return chain(
        _server(sources, calls),
        _disk(sources, calls),
        _network(sources),
        _peers(sources),
        _mvcc(sources, calls),
        _leases(sources),
        _v2(sources),
        _process(),
    )


def _server(sources: Sources, calls: Calls) -> Iterator[Metric]:
    host = sources.host
    machine = host.machine
    own = machine.members.get(host.id)
    yield gauge("etcd_server_has_leader", "1 if this member knows a leader.", bool(host.leader))
    yield gauge("etcd_server_is_leader", "1 if this member leads.", host.leader == host.id)
    yield gauge("etcd_server_is_learner", "1 if this member is a learner.", own is not None and own.learner)
    yield counting(
        "etcd_server_learner_promote_successes",
        "Learners that were given their vote, as each member counts them.",
        machine.roster.promoted,
    )
    yield counter(
        "etcd_server_leader_changes_seen_total",
        "How often this member came to know another leader.",
        host.leaders_seen,
    )
    yield gauge(
        "etcd_server_proposals_committed_total",
        "Index of the last entry of the log that is known to be committed.",
        host.commit_index,
    )
    yield gauge(
        "etcd_server_proposals_applied_total",
        "Index of the last entry of the log that was applied.",
        machine.applied,
    )
    yield gauge(
        "etcd_server_proposals_pending", "Requests of this member that wait for the log.", len(host.proposals)
    )
    yield counter(
        "etcd_server_proposals_failed_total",
        "Requests of this member for the log that were given up or refused.",
        host.proposals.given_up,
    )
    yield counter(
        "etcd_server_slow_apply_total",
        "Turns in which entries were applied for more than 0.1 s.",
        _above(host.applier.applying, SLOW_APPLY_SECONDS),
    )
    yield histograms(
        "etcd_server_apply_duration_seconds",
        "Seconds for which entries were applied in one turn of the event loop.",
        ("version", "op", "success"),
        [(("v3", "turn", "true"), host.applier.applying, 0)],
    )
    yield counter(
        "etcd_server_slow_read_indexes_total",
        "Linearizable reads that were given up because they waited too long.",
        host.reads_slow,
    )
    yield counter(
        "etcd_server_read_indexes_failed_total",
        "Linearizable reads for which no leader confirmed a read index.",
        host.reads_failed,
    )
    yield gauge(
        "etcd_server_snapshot_apply_in_progress_total",
        "1 while a copy of the state from the leader is being loaded.",
        host.snapshot_install.is_loading,
    )
    yield counter(
        "etcd_server_heartbeat_send_failures_total",
        "Batches of messages to other members that were dropped because these did not take those before.",
        sum(peer.counts.dropped for peer in sources.peers.known().values()),
    )
    yield gauge(
        "etcd_server_quota_backend_bytes",
        "The largest v3 state, in bytes; less than 0, as configured, without a limit.",
        sources.quota_bytes,
    )
    yield counting("etcd_server_health_success", "Checks of /health that found it well.", sources.health.well)
    yield counting(
        "etcd_server_health_failures", "Checks of /health that found it unwell.", sources.health.unwell
    )
    yield counters(
        "etcd_server_client_requests_total",
        "gRPC calls by the version that the client says it is of.",
        ("type", "client_api_version"),
        calls.of_versions.items(),
    )
    yield gauges(
        "etcd_server_version",
        "The version of etcd whose API is served.",
        ("server_version",),
        [((VERSION,), 1)],
    )
    yield gauges("etcd_server_id", "The id of this member.", ("server_id",), [((f"{host.id:x}",), 1)])
    yield gauges(
        "etcd_cluster_version",
        "The version that all members of the cluster serve.",
        ("cluster_version",),
        [((version,), 1)] if (version := machine.roster.cluster_version) else (),
    )
    yield gauges(
        "etcd_debugging_server_alarms",
        "Alarms that are raised.",
        ("server_id", "alarm_type"),
        [((f"{id_:x}", ALARMS[kind].decode()), 1) for id_, kind in machine.alarms.active],
    )


def _above(observed: Histogram, least: float) -> int:
    """How many observations are above the bound that is the next one to `least`, or above it."""
    first = next(place for place, bound in enumerate(observed.bounds) if bound >= least)
    return sum(observed.counts[first + 1 :])


def _disk(sources: Sources, calls: Calls) -> Iterator[Metric]:
    yield histogram(
        "etcd_disk_wal_fsync_duration_seconds", "Seconds of each fdatasync of the log.", sources.device.syncs
    )
    yield histogram(
        "etcd_disk_wal_write_duration_seconds",
        "Seconds of each write to the log ahead of its fdatasync, of all records that waited.",
        sources.device.writes,
    )
    yield gauge("etcd_disk_wal_write_bytes_total", "Bytes written to the log.", sources.device.written)
    yield histogram(
        "etcd_disk_backend_commit_duration_seconds",
        "Seconds of each commit of the state, with its sync.",
        sources.engine.commits,
    )
    yield histogram(
        "etcd_disk_backend_snapshot_duration_seconds",
        "Seconds that it took to make each snapshot for a client.",
        sources.backups.made,
    )
    defragmented = Histogram(_DEFRAG_BOUNDS)
    defragmented.counts[0] = calls.defragmentations
    yield histogram(
        "etcd_disk_backend_defrag_duration_seconds",
        "Defragment calls, which do nothing: free pages are reused, and given back at a start.",
        defragmented,
    )
    yield gauge("etcd_disk_defrag_inflight", "Always 0: Defragment does nothing.", 0)


def _network(sources: Sources) -> Iterator[Metric]:
    sent = sources.reactor.sent()
    yield counter(
        "etcd_network_client_grpc_received_bytes_total",
        "Bytes read on HTTP/2 connections of clients.",
        sources.http2.received,
    )
    yield counter(
        "etcd_network_client_grpc_sent_bytes_total",
        "Bytes sent on HTTP/2 connections of clients.",
        sum(size for kind, size in sent.items() if kind.__name__ == "Http2Connection"),
    )


def _peers(sources: Sources) -> Iterator[Metric]:
    own = f"{sources.host.id:x}"
    known = {f"{id_:x}": peer for id_, peer in sorted(sources.peers.known().items())}
    both = ("Local", "Remote")
    yield gauges("etcd_network_known_peers", "The other members.", both, [((own, name), 1) for name in known])
    yield gauges(
        "etcd_network_active_peers",
        "The other members to which a stream is open.",
        both,
        [((own, name), peer.is_connected) for name, peer in known.items()],
    )
    yield counters(
        "etcd_network_disconnected_peers_total",
        "Streams to other members that broke.",
        both,
        [((own, name), peer.counts.lost) for name, peer in known.items()],
    )
    yield counters(
        "etcd_network_peer_sent_bytes_total",
        "Bytes sent to another member, without copies of the state.",
        ("To",),
        [((name,), peer.counts.sent) for name, peer in known.items()],
    )
    yield counters(
        "etcd_network_peer_received_bytes_total",
        "Bytes received from another member, without copies of the state.",
        ("From",),
        [((name,), peer.counts.received) for name, peer in known.items()],
    )
    yield counters(
        "etcd_network_peer_sent_failures_total",
        "Failed attempts to reach another member, and messages for it that were dropped.",
        ("To",),
        [((name,), peer.counts.dropped + peer.round_trip.failures) for name, peer in known.items()],
    )
    yield counters(
        "etcd_network_peer_received_failures_total",
        "Streams of another member that were cut because of what it sent.",
        ("From",),
        [((name,), peer.counts.refused) for name, peer in known.items()],
    )
    yield histograms(
        "etcd_network_peer_round_trip_time_seconds",
        "Seconds of a ping to another member and back.",
        ("To",),
        [((name,), peer.round_trip.seconds, 0) for name, peer in known.items()],
    )
    yield counting_by(
        "etcd_network_snapshot_send_success",
        "Copies of the state that another member has taken.",
        ("To",),
        [((name,), peer.counts.copies_sent) for name, peer in known.items()],
    )
    yield counting_by(
        "etcd_network_snapshot_send_failures",
        "Copies of the state that another member has not taken.",
        ("To",),
        [((name,), peer.counts.copies_failed) for name, peer in known.items()],
    )
    copied = {each.id for each in sources.host.behind() if each.gets_snapshot}
    yield gauges(
        "etcd_network_snapshot_send_inflights_total",
        "1 while a copy of the state is being sent to another member.",
        ("To",),
        [((f"{id_:x}",), id_ in copied) for id_ in sorted(sources.peers.known())],
    )


def _mvcc(sources: Sources, calls: Calls) -> Iterator[Metric]:
    host = sources.host
    mvcc, v3, watches = host.machine.mvcc, host.machine.v3, host.watches
    size, in_use = sources.engine.sizes()
    yield gauge("etcd_mvcc_db_total_size_in_bytes", "Bytes of the file of the state.", size)
    yield gauge("etcd_mvcc_db_total_size_in_use_in_bytes", "Bytes of its pages that are in use.", in_use)
    for name in ("etcd_mvcc_range_total", "etcd_debugging_mvcc_range_total"):
        yield counter(name, "Ranges: calls, and operations of transactions.", calls.ranges + mvcc.ranges)
    yield counter("etcd_mvcc_put_total", "Puts that were applied.", max(0, mvcc.changed - mvcc.deleted))
    yield counter("etcd_mvcc_delete_total", "Keys that were deleted.", mvcc.deleted)
    yield counter("etcd_mvcc_txn_total", "Transactions, also those that only read.", v3.txns)
    yield gauge("etcd_debugging_mvcc_keys_total", "Keys that exist.", mvcc.count(b"\0", b"\0"))
    yield gauge("etcd_debugging_mvcc_watch_stream_total", "Watch calls that are open.", calls.watch_streams)
    yield gauge("etcd_debugging_mvcc_watcher_total", "Watches.", watches.count)
    yield gauge(
        "etcd_debugging_mvcc_slow_watcher_total",
        "Watches that read history.",
        max(0, watches.count - watches.synced),
    )
    yield counter("etcd_debugging_mvcc_events_total", "Events given to watches.", watches.events)
    yield gauge(
        "etcd_debugging_mvcc_pending_events_total",
        "Changes that wait to be given to watches.",
        watches.pending,
    )
    yield gauge("etcd_debugging_mvcc_current_revision", "The revision of the keys.", mvcc.revision)
    yield gauge(
        "etcd_debugging_mvcc_compact_revision",
        "The revision up to which history is compacted.",
        mvcc.compacted,
    )
    yield counter(
        "etcd_debugging_mvcc_db_compaction_keys_total",
        "Records that were erased after compactions.",
        mvcc.erased,
    )
    yield gauge(
        "etcd_debugging_mvcc_total_put_size_in_bytes", "Bytes of all records that are stored.", mvcc.size
    )


def _leases(sources: Sources) -> Iterator[Metric]:
    leases = sources.host.machine.v3.leases
    yield counter("etcd_debugging_lease_granted_total", "Leases granted.", leases.granted)
    yield counter("etcd_debugging_lease_revoked_total", "Leases revoked.", leases.revoked)
    yield counter("etcd_debugging_lease_renewed_total", "Renewals of leases.", leases.renewed)
    yield counter("etcd_debugging_server_lease_expired_total", "Leases that expired.", leases.expired)
    yield histogram(
        "etcd_debugging_lease_ttl_total", "Seconds of the TTLs of leases that were granted.", leases.ttls
    )


def _v2(sources: Sources) -> Iterator[Metric]:
    host = sources.host
    counted = host.machine.statistics
    action = ("action",)
    yield counters(
        "etcd_debugging_store_reads_total",
        "Reads of v2 keys by this member.",
        action,
        [(("get",), counted.gets_success)],
    )
    yield counters(
        "etcd_debugging_store_reads_failed_total",
        "Reads of v2 keys that were not there.",
        action,
        [(("get",), counted.gets_fail)],
    )
    yield counters(
        "etcd_debugging_store_writes_total",
        "Writes of v2 keys, by all members.",
        action,
        [((name,), getattr(counted, f"{field}_success")) for name, field in _V2_WRITES],
    )
    yield counters(
        "etcd_debugging_store_writes_failed_total",
        "Writes of v2 keys that were refused.",
        action,
        [((name,), getattr(counted, f"{field}_fail")) for name, field in _V2_WRITES],
    )
    yield counter("etcd_debugging_store_expires_total", "v2 keys that expired.", counted.expire_count)
    yield gauge("etcd_debugging_store_watchers", "Watchers of v2 keys.", host.hub.count)


def _process() -> Iterator[Metric]:
    for family in process():
        yield family
        if family.name == "process_open_fds":
            yield gauge("os_fd_used", "Open file descriptors.", family.samples[0].value)
        elif family.name == "process_max_fds":
            yield gauge("os_fd_limit", "How many file descriptors may be open.", family.samples[0].value)
