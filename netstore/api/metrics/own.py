"""The metrics that etcd does not have; their names begin with `netstore_`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore import __version__
from netstore.api.health import raised_alarms
from netstore.exposition import counter, gauge, gauges
from netstore.node.member import all_problems

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric

    from netstore.api.metrics.sources import Sources
    from netstore.node.archive import Archiver
    from netstore.node.backupschedule import BackupState


def families(sources: Sources) -> Iterator[Metric]:
    """All of them. O(members, shares of the memory budget)."""
    host, meter, shares = sources.host, sources.meter, sources.shares
    machine = host.machine
    status = host.status()
    yield gauges(
        "netstore_info",
        "What runs here; always 1.",
        ("version", "name", "cluster_id"),
        [((__version__, host.name, f"{host.cluster_id:x}"), 1)],
    )
    yield gauge("netstore_raft_term", "The term of this member.", host.term)
    yield gauge("netstore_log_entries", "Entries of the log that are kept.", status.last - status.compacted)
    yield gauge("netstore_voters", "Members that vote, as this one knows.", len(status.conf.voters))
    yield gauge("netstore_learners", "Members that do not vote.", len(status.conf.learners))
    yield gauge("netstore_feature_level", "The feature level of the cluster.", machine.roster.level)
    yield gauge(
        "netstore_problems",
        "Alarms that are raised, why this member refuses requests, and that states differ.",
        len(raised_alarms(host)) + len(all_problems(host)),
    )
    yield gauge(
        "netstore_states_differ",
        "1 while this member's state and another's differ, and no majority tells which is right.",
        bool(host.differing),
    )
    yield gauge("netstore_backed_up", "1 while requests wait at this member, or would.", host.backed_up)
    yield gauge(
        "netstore_paced_bytes_per_second",
        "What this leader proposes at most because members are brought up; 0 without a limit.",
        host.paced_to,
    )
    yield gauge("netstore_members_behind", "Members that this leader brings up.", len(host.behind()))
    yield gauge("netstore_reads_waiting", "Linearizable reads that wait.", len(host.reads))
    yield gauge("netstore_jobs", "Requests that are answered in steps.", len(host.jobs))
    yield gauge("netstore_leases", "Leases that exist.", len(machine.v3.leases))
    yield gauge("netstore_connections", "Connections of clients that are open.", sources.reactor.connections)
    yield counter(
        "netstore_connections_accepted_total", "Connections of clients so far.", sources.reactor.accepted
    )
    yield counter(
        "netstore_loop_held_total",
        "Pieces of work that held the event loop longer than loop_budget_ms.",
        meter.held,
    )
    yield gauge(
        "netstore_loop_longest_seconds", "The longest of these, since the start.", round(meter.longest, 6)
    )
    yield counter("netstore_slow_requests_total", "Requests that took more than 0.1 s.", sources.tracer.slow)
    yield gauge("netstore_memory_budget_bytes", "memory_budget.", shares.whole.limit)
    yield gauges(
        "netstore_memory_used_bytes",
        "What buffers hold of memory_budget.",
        ("share",),
        [((name,), share.used) for name, share in shares.parts.items()],
    )
    yield counter(
        "netstore_scrub_rounds_total", "Verifications of the whole stored state.", sources.scrubber.rounds
    )
    yield gauge(
        "netstore_scrub_verified_bytes",
        "Bytes verified in the present round, or the last one.",
        sources.scrubber.verified_bytes,
    )
    if sources.scheduled is not None:
        yield from _backups(sources.scheduled, host.clock.wall() / 10**9)
    if sources.archiver is not None:
        yield from _archive(sources.archiver)


def _archive(archiver: Archiver) -> Iterator[Metric]:
    """The archive of the log; only of a member that has one. O(files of the archive)."""
    found = archiver.listing
    yield gauge("netstore_archive_index", "The last archived entry of the log.", archiver.archived)
    yield gauge(
        "netstore_archive_waiting_entries", "Applied entries that are not archived.", archiver.waiting
    )
    yield gauge("netstore_archive_gaps", "Gaps to which nothing can be restored.", len(found.gaps))
    yield gauge("netstore_archive_states", "Archived states.", len(found.bases))
    yield gauge(
        "netstore_archive_oldest_timestamp_seconds",
        "The oldest time to which the archive leads; 0 if that is not known.",
        archiver.oldest // 10**9,
    )
    yield gauge(
        "netstore_archive_keep_seconds", "archive_keep_seconds; 0 if all is kept.", archiver.keep_seconds
    )
    yield counter(
        "netstore_archive_removed_files_total",
        "Files of the archive that were removed because they were too old.",
        archiver.removed,
    )
    yield gauge(
        "netstore_archive_lag_seconds",
        "For how long, at least, an applied entry has waited to be archived.",
        round(archiver.lag_seconds(), 3),
    )
    yield gauge("netstore_archive_stopped", "1 while nothing is archived.", archiver.stopped)
    yield gauge(
        "netstore_archive_problems", "What somebody should look at (see status).", len(archiver.problems())
    )


def _backups(state: BackupState, now: float) -> Iterator[Metric]:
    """Scheduled backups; only of a member that makes some."""
    yield gauge("netstore_backup_period_seconds", "backup_every.", state.every)
    yield counter("netstore_backup_succeeded_total", "Scheduled backups made and verified.", state.succeeded)
    yield counter("netstore_backup_failed_total", "Attempts at one that failed.", state.failed)
    yield gauge(
        "netstore_backup_last_success_timestamp_seconds",
        "When the newest good one was made; 0 for none.",
        round(state.last_success),
    )
    yield gauge("netstore_backup_last_bytes", "Size of the newest good one.", state.last_bytes)
    yield gauge(
        "netstore_backup_last_duration_seconds",
        "How long making and verifying the last one took.",
        round(state.last_seconds, 3),
    )
    yield gauge("netstore_backup_running", "1 while one is made.", state.running)
    yield counter("netstore_backup_hook_failed_total", "Runs of backup_hook that failed.", state.hook_failed)
    yield gauge(
        "netstore_backup_warnings", "What somebody should look at (see status).", len(state.warnings(now))
    )
