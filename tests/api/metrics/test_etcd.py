"""The metrics that have etcd's names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.api.metrics.etcd import SLOW_APPLY_SECONDS
from netstore.state.commands import AddMember, PromoteMember, encode
from netstore.state.v3.commands import (
    Compact,
    DeleteRange,
    LeaseGrant,
    LeaseRenew,
    LeaseRevoke,
    Put,
    Range,
    Txn,
)
from netstore.types import NodeId
from netstore.watch.streams import Selection
from tests.support.metered import OTHER, Metered, NoSink

if TYPE_CHECKING:
    from netstore.state.commands import Command


def test_requests_are_counted_where_they_are_applied() -> None:
    metered = Metered()
    host = metered.solo.host
    host.watches.open(NoSink()).create(Selection(b"/", b"0"))
    commands = (
        Put(b"/a", b"1"),
        Put(b"/b", b"1"),
        Put(b"/a", b"2"),
        Txn((), (Put(b"/c", b"1"), Range(b"/a")), ()),
        DeleteRange(b"/b"),
        LeaseGrant(5, 60),
        LeaseRenew(5),
        LeaseRevoke(5),
    )
    for command in commands:
        host.propose(encode(command), lambda _: None, b"10.0.0.9")
        metered.solo.settle()
    told = metered.values()
    assert told["etcd_mvcc_put_total"] == 4
    assert told["etcd_mvcc_delete_total"] == 1
    assert told["etcd_mvcc_txn_total"] == 1
    assert told["etcd_mvcc_range_total"] == told["etcd_debugging_mvcc_range_total"] == 1
    assert told["etcd_debugging_mvcc_keys_total"] == 2
    assert told["etcd_debugging_mvcc_events_total"] == 5
    assert told["etcd_debugging_mvcc_watcher_total"] == 1
    assert told["etcd_debugging_mvcc_slow_watcher_total"] == 0
    assert told["etcd_debugging_lease_granted_total"] == 1
    assert told["etcd_debugging_lease_renewed_total"] == 1
    assert told["etcd_debugging_lease_revoked_total"] == 1
    assert told["etcd_debugging_server_lease_expired_total"] == 0
    assert told["etcd_debugging_lease_ttl_total_bucket{le=64}"] == 1
    assert told["etcd_debugging_lease_ttl_total_bucket{le=32}"] == 0
    assert told["etcd_server_proposals_committed_total"] == host.commit_index
    assert told["etcd_server_proposals_applied_total"] == host.machine.applied
    assert told["etcd_server_proposals_pending"] == 0
    assert told["etcd_server_leader_changes_seen_total"] == 1
    assert told["etcd_server_is_leader"] == told["etcd_server_has_leader"] == 1
    assert told["etcd_server_apply_duration_seconds_count{op=turn,success=true,version=v3}"] >= len(commands)


def test_what_a_compaction_erases_is_counted() -> None:
    metered = Metered()
    host = metered.solo.host
    puts = tuple(Put(b"/a", b"%d" % number) for number in range(3))
    commands: tuple[Command, ...] = (*puts, Put(b"/b"), DeleteRange(b"/b"), Put(b"/c"), Compact(7))
    for command in commands:
        host.propose(encode(command), lambda _: None, b"10.0.0.9")
        metered.solo.settle()
    host.machine.mvcc.sweep()
    assert metered.values()["etcd_debugging_mvcc_db_compaction_keys_total"] == 4


def test_learners_that_get_their_vote_are_counted() -> None:
    metered = Metered()
    roster = metered.solo.host.machine.roster
    roster.add_member(AddMember(OTHER, ("http://other:2380",), learner=True))
    assert metered.values()["etcd_server_learner_promote_successes"] == 0
    assert roster.promote_member(PromoteMember(OTHER)) is None
    assert roster.promote_member(PromoteMember(NodeId(99))) is not None
    assert metered.values()["etcd_server_learner_promote_successes"] == 1


def test_applying_for_too_long_is_slow() -> None:
    metered = Metered()
    assert metered.values()["etcd_server_slow_apply_total"] == 0
    applying = metered.solo.host.applier.applying
    applying.observe(SLOW_APPLY_SECONDS / 2)
    applying.observe(SLOW_APPLY_SECONDS * 2)
    assert metered.values()["etcd_server_slow_apply_total"] == 1


def test_requests_that_are_given_up_are_counted() -> None:
    metered = Metered()
    host = metered.solo.host
    host.propose(encode(Put(b"/a", b"1")), lambda _: None, b"10.0.0.9")
    assert metered.values()["etcd_server_proposals_pending"] == 1
    host.stop()
    assert metered.values()["etcd_server_proposals_failed_total"] == 1


def test_each_other_member_has_its_counts() -> None:
    metered = Metered()
    counts, way = metered.peer.counts, metered.peer.round_trip
    counts.sent, counts.received, counts.dropped, counts.lost, counts.refused = 10, 20, 3, 1, 2
    way.failures = 4
    way.add(0.0003)
    told = metered.values()
    name = f"{OTHER:x}"
    assert told[f"etcd_network_peer_sent_bytes_total{{To={name}}}"] == 10
    assert told[f"etcd_network_peer_received_bytes_total{{From={name}}}"] == 20
    assert told[f"etcd_network_peer_sent_failures_total{{To={name}}}"] == 7
    assert told[f"etcd_network_peer_received_failures_total{{From={name}}}"] == 2
    assert told[f"etcd_network_disconnected_peers_total{{Local=7,Remote={name}}}"] == 1
    assert told[f"etcd_network_active_peers{{Local=7,Remote={name}}}"] == 1
    assert told[f"etcd_network_peer_round_trip_time_seconds_bucket{{To={name},le=0.0004}}"] == 1
    assert told[f"etcd_network_peer_round_trip_time_seconds_bucket{{To={name},le=0.0002}}"] == 0
    assert told["etcd_server_heartbeat_send_failures_total"] == 3


def test_sizes_health_and_the_process() -> None:
    metered = Metered()
    metered.sources.health.well, metered.sources.health.unwell = 5, 1
    told = metered.values()
    assert told["etcd_mvcc_db_total_size_in_bytes"] == 4096
    assert told["etcd_mvcc_db_total_size_in_use_in_bytes"] == 1024
    assert told["etcd_server_quota_backend_bytes"] == 2 << 30
    assert told["etcd_disk_wal_write_bytes_total"] == 77
    assert told["etcd_disk_wal_write_duration_seconds_bucket{le=0.002}"] == 1
    assert told["etcd_disk_wal_write_duration_seconds_bucket{le=0.001}"] == 0
    assert told["etcd_server_health_success"] == 5
    assert told["etcd_server_health_failures"] == 1
    assert told["os_fd_used"] == told["process_open_fds"] > 2
    assert told["os_fd_limit"] == told["process_max_fds"] > told["os_fd_used"]
    assert told["process_resident_memory_bytes"] > 1_000_000
    assert told["process_virtual_memory_max_bytes"] > told["process_resident_memory_bytes"]
    assert told["process_cpu_seconds_total"] > 0
