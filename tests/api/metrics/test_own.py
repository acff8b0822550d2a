"""The metrics that etcd does not have."""

from __future__ import annotations

from dataclasses import replace

from netstore import __version__
from netstore.api.metrics.endpoint import Metrics
from netstore.node.backupschedule import BackupState
from netstore.state.v3.commands import NOSPACE, SetAlarm
from tests.support.metered import Metered


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
