"""The metrics that etcd does not have."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from netstore import __version__
from netstore.api.metrics.endpoint import Metrics
from netstore.disk.datadir import DataDir
from netstore.node.archive import Archiver
from netstore.node.backupschedule import BackupState
from netstore.raft.entry import Entry, EntryKind
from netstore.raft.log import Log
from netstore.state.v3.commands import NOSPACE, SetAlarm
from netstore.types import ClusterId, Index, Term
from tests.support.links import Quiet
from tests.support.metered import Metered

if TYPE_CHECKING:
    from pathlib import Path


def test_how_the_member_stands() -> None:
    metered = Metered()
    told = metered.values()
    assert told[f"netstore_info{{cluster_id=63,name=solo,version={__version__}}}"] == 1
    assert told["netstore_problems"] == 0
    assert told["netstore_voters"] == 1
    assert told["netstore_scrub_rounds_total"] == 2
    assert told["netstore_memory_budget_bytes"] == 64 << 20
    assert told["netstore_slow_requests_total"] == 0
    metered.sources.shares.clients.add(1000)
    metered.solo.host.machine.alarms.set(SetAlarm(7, NOSPACE, active=True))
    metered.sources.meter.over("a piece", 0.25)
    told = metered.values()
    assert told["netstore_memory_used_bytes{share=clients}"] == 1000
    assert told["netstore_problems"] == 1
    assert told["netstore_states_differ"] == 0
    metered.solo.host.differing = "another state"
    told = metered.values()
    assert told["netstore_states_differ"] == 1
    assert told["netstore_problems"] == 2
    assert told["etcd_debugging_server_alarms{alarm_type=NOSPACE,server_id=7}"] == 1
    assert told["netstore_loop_held_total"] == 1
    assert told["netstore_loop_longest_seconds"] == 0.25


def test_scheduled_backups() -> None:
    metered = Metered()
    assert not any(name.startswith("netstore_backup_") for name in metered.values())
    state = BackupState(3600.0, succeeded=2, failed=1, last_success=5.0, last_bytes=7, problem="no room")
    metered.metrics = Metrics(replace(metered.sources, scheduled=state))
    told = metered.values()
    assert told["netstore_backup_period_seconds"] == 3600
    assert told["netstore_backup_succeeded_total"] == 2
    assert told["netstore_backup_failed_total"] == 1
    assert told["netstore_backup_last_success_timestamp_seconds"] == 5
    assert told["netstore_backup_last_bytes"] == 7
    assert told["netstore_backup_warnings"] == 1


def test_the_archive(tmp_path: Path) -> None:
    metered = Metered()
    assert not any(name.startswith("netstore_archive_") for name in metered.values())
    raft = Log(Index(0), Term(0), [])
    archiver = Archiver(
        tmp_path,
        ClusterId(1),
        DataDir(tmp_path, tmp_path, None),
        raft,
        metered.sources.engine,
        lag_seconds=1.0,
        keep_seconds=7_200,
        call_soon=lambda call: call(),
        monotonic=lambda: 0.0,
        wall=lambda: 0,
        log=Quiet(),
    )
    archiver.archived = Index(5)
    archiver.problem = "no room"
    archiver.removed = 3
    raft.append([Entry(Index(index), Term(1), EntryKind.NORMAL, b"") for index in range(1, 8)])
    raft.applied = Index(7)
    metered.metrics = Metrics(replace(metered.sources, archiver=archiver))
    told = metered.values()
    assert told["netstore_archive_index"] == 5
    assert told["netstore_archive_waiting_entries"] == 2
    assert told["netstore_archive_problems"] == told["netstore_archive_stopped"] == 1
    assert told["netstore_archive_lag_seconds"] == 0
    assert told["netstore_archive_states"] == told["netstore_archive_gaps"] == 0
    assert told["netstore_archive_keep_seconds"] == 7_200
    assert told["netstore_archive_oldest_timestamp_seconds"] == 0, "it is not open"
    assert told["netstore_archive_removed_files_total"] == 3
