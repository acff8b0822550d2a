"""Folders that earlier releases left are opened by this one, and hold what they held."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, get_args

import pytest

from netstore.disk.datadir import STATE_FILE, DataDir
from netstore.disk.engine import LmdbEngine
from netstore.disk.frame import Identity
from netstore.disk.posix import PosixDevice
from netstore.disk.wal import Wal
from netstore.node import bootstrap
from netstore.raft.change import Change
from netstore.raft.entry import EntryKind
from netstore.state.commands import Command, head_of
from netstore.state.digest import digest
from netstore.state.envelope import command_of
from netstore.state.features import LEVELS
from netstore.state.machine import Machine
from netstore.state.tables import TABLES
from netstore.state.v3 import keyvalue
from netstore.types import LeaseId
from tests.support import kept
from tests.support.contents import nodes_of
from tests.support.tree import file_at

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from netstore.raft.entry import Entry


@contextmanager
def opened(folder: Path) -> Iterator[tuple[Machine, list[Entry], int]]:
    """The state a member has once it has applied its whole log; the log; and what was in the state before."""
    data = DataDir.lock(folder)
    try:
        device = PosixDevice(data.wal_dir, lambda call: call(), kept.FILE_BYTES)
        wal, replay = Wal.open(device, Identity(data.identity.cluster_id, data.identity.member_id))
        wal.close()
        assert replay.cut is None
        engine = LmdbEngine(data.state_dir / STATE_FILE, lambda call: call(), TABLES, lambda _: None)
        machine = Machine(engine)
        machine.load()
        before = machine.applied
        bootstrap.catch_up(machine, replay.entries)
        yield machine, replay.entries, before
        engine.close()
    finally:
        data.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    kept.unpack(kept.ARCHIVE, tmp_path / "data")
    return tmp_path / "data"


def test_the_folder_of_level_1_opens_and_holds_what_it_held(folder: Path) -> None:
    with opened(folder) as (machine, entries, before):
        assert 0 < before < machine.applied == entries[-1].index == 43
        files = {
            path: node.value
            for path in (b"/dir/a", b"/\xff\x00", b"/_hidden", b"/gone", b"/" + b"long" * 200, b"/last")
            if (node := file_at(machine.tree, path)) is not None
        }
        assert files == {
            b"/dir/a": b"3",
            b"/\xff\x00": b"\x00\xff",
            b"/_hidden": b"h",
            b"/" + b"long" * 200: b"l",
            b"/last": b"in the log only",
        }
        assert len([node for node in nodes_of(machine.tree) if node.key.startswith(b"/queue/")]) == 1
        pairs = {
            key: keyvalue.decode(record).value
            for key in (b"a", b"b\x00" + b"k" * 600, b"ends", b"held", b"last", b"txn")
            if (record := machine.mvcc.get(key)) is not None
        }
        assert pairs == {
            b"a": b"3",
            b"b\x00" + b"k" * 600: b"long key",
            b"held": b"1",
            b"last": b"in the log only",
            b"txn": b"yes",
        }
        assert (machine.mvcc.revision, machine.mvcc.compacted) == (11, 4)
        lease = machine.leases.get(kept.LEASE)
        assert lease is not None
        assert (lease.id, lease.ttl, set(lease.keys)) == (LeaseId(kept.LEASE), 9_000_000_000, {b"held"})
        assert machine.alarms.active == []
        assert [(each.id, each.name, each.level) for each in machine.members.values()] == [
            (kept.MEMBER, kept.NAME, 1)
        ]
        assert machine.removed == {kept.OTHER}
        assert (machine.roster.level, machine.roster.cluster_version) == (1, "3.4.0")


def test_it_has_every_command_there_was(folder: Path) -> None:
    with opened(folder) as (_, entries, _):
        pass
    payloads = [
        Change.decode(each.data).context if each.kind is EntryKind.CHANGE else each.data for each in entries
    ]
    heads = {head_of(command_of(payload)) for payload in payloads if payload}
    numbers = {head[0] for head in heads if head is not None}
    declared = {kind.__struct_config__.tag for kind in get_args(Command)}
    later = {18, 66}  # what is asked through the members' door, and what is logged inside transactions only
    assert numbers == declared - later - LEVELS.keys()


def test_this_release_makes_of_it_what_it_makes_of_its_own(folder: Path, tmp_path: Path) -> None:
    kept.make(tmp_path / "fresh")
    with opened(folder) as (old, *_), opened(tmp_path / "fresh") as (new, *_):
        assert digest(old) == digest(new)
