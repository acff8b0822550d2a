"""The metrics of a real etcd are ours, or are known to be absent (contrib/doc/observability.md)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.request import Request, urlopen

import pytest

from tests.support.daemon import ROOT, start_netstored
from tests.support.patience import seconds
from tests.support.peers import start_etcd

if TYPE_CHECKING:
    from pathlib import Path

ABSENT: Final = frozenset(
    (
        "etcd_debugging_auth_revision",
        "etcd_debugging_disk_backend_commit_rebalance_duration_seconds",
        "etcd_debugging_disk_backend_commit_spill_duration_seconds",
        "etcd_debugging_disk_backend_commit_write_duration_seconds",
        "etcd_debugging_mvcc_db_compaction_last",
        "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds",
        "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds",
        "etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds",
        "etcd_debugging_snap_save_marshalling_duration_seconds",
        "etcd_debugging_snap_save_total_duration_seconds",
        "etcd_debugging_store_watch_requests_total",
        "etcd_grpc_proxy_cache_hits_total",
        "etcd_grpc_proxy_cache_keys_total",
        "etcd_grpc_proxy_cache_misses_total",
        "etcd_grpc_proxy_events_coalescing_total",
        "etcd_grpc_proxy_watchers_coalescing_total",
        "etcd_http_failed_total",
        "etcd_http_received_total",
        "etcd_http_successful_duration_seconds",
        "etcd_mvcc_db_open_read_transactions",
        "etcd_mvcc_hash_duration_seconds",
        "etcd_mvcc_hash_rev_duration_seconds",
        "etcd_server_go_version",
        "etcd_snap_db_fsync_duration_seconds",
        "etcd_snap_db_save_total_duration_seconds",
        "etcd_snap_fsync_duration_seconds",
    )
)
"""Families of etcd 3.5 that netstored does not have."""


def families(url: str) -> set[str]:
    """Names of the families after a write in the v2 API, which has some of its own."""
    write = Request(f"{url}/v2/keys/a", b"value=1", method="PUT")  # noqa: S310 - a store on this machine
    with urlopen(write, timeout=seconds(10)):  # noqa: S310 - as above
        pass
    with urlopen(f"{url}/metrics", timeout=seconds(10)) as answer:  # noqa: S310 - as above
        found = re.findall(r"^# TYPE (etcd_\w+) ", answer.read().decode(), re.MULTILINE)
    return set(found)


@pytest.mark.peer("etcd")
def test_every_family_of_etcd_is_here_or_known_to_be_absent(tmp_path: Path) -> None:
    with start_etcd(tmp_path) as etcd, start_netstored(tmp_path) as own:
        theirs, ours = families(etcd.url), families(own.url)
    assert len(theirs) > 40
    assert "etcd_disk_wal_fsync_duration_seconds" in theirs & ours
    lost = theirs - ours - ABSENT
    assert {each for each in lost if each.replace("_debugging", "") not in ours} == set(), "as 3.5 calls it"
    assert ours & ABSENT == set()


def test_what_is_absent_is_documented() -> None:
    document = (ROOT / "contrib/doc/observability.md").read_text()
    told = re.findall(r"`(etcd_\w+\*?)`", document)
    assert [
        name
        for name in sorted(ABSENT)
        if not any(name == each or (each.endswith("*") and name.startswith(each[:-1])) for each in told)
    ] == []
