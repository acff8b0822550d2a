"""What tests do to the data folder of a member that is stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.disk.datadir import DataDir
from netstore.disk.frame import Identity
from netstore.disk.posix import PosixDevice
from netstore.disk.tables import Tables
from netstore.disk.wal import Wal
from netstore.raft.entry import Entry, EntryKind
from netstore.types import Index

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def append_to_log(folder: Path, payloads: Sequence[bytes]) -> Index:
    """Put an entry for each payload at the end of the log; the index of the last one."""
    data = DataDir.lock(folder)
    identity = data.identity
    device = PosixDevice(data.wal_dir, lambda call: call())
    wal, replay = Wal.open(device, Identity(identity.cluster_id, identity.member_id))
    last = replay.entries[-1]
    entries = [
        Entry(Index(last.index + n), last.term, EntryKind.NORMAL, payload)
        for n, payload in enumerate(payloads, 1)
    ]
    failures: list[OSError | None] = []
    wal.append(replay.hard_state, entries, failures.append)
    wal.close()
    data.close()
    assert failures == [None]
    return entries[-1].index


def rewrite(state: Path, key: bytes, old: bytes, new: bytes) -> None:
    """Change a stored value of a stopped member, with valid checksums."""
    found = Tables.read(state)
    names = found.databases
    found.close()
    tables = Tables.open(state, names, 1 << 30)
    try:
        record = tables.get("v2", key)
        assert record is not None
        assert old in record
        before = tables.summary
        tables.write(before.applied, before.log, {("v2", key): record.replace(old, new)})
    finally:
        tables.close()
