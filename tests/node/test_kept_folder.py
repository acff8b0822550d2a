"""Folders that earlier releases left are opened by this one, and hold what they held. They go back to the
release before as long as that is promised (`contrib/doc/install.md`).
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, get_args

import pytest

from netstore.disk.archivefile import listing, read_entries
from netstore.disk.datadir import STATE_FILE, DataDir
from netstore.disk.engine import LmdbEngine
from netstore.disk.frame import Identity
from netstore.disk.posix import PosixDevice
from netstore.disk.wal import Wal
from netstore.errors import CannotApply, NetstoreError, NoRestart
from netstore.node import bootstrap, fullbackup
from netstore.node.pointintime import Goal, extract
from netstore.node.restore import Wish, restore
from netstore.raft.change import Change
from netstore.raft.entry import EntryKind
from netstore.state.commands import Command, PublishMember, RaiseLevel, encode, head_of
from netstore.state.digest import digest
from netstore.state.envelope import command_of, seal
from netstore.state.features import LEVELS
from netstore.state.machine import Machine
from netstore.state.tables import TABLES
from netstore.state.v2.commands import Set
from netstore.state.v3 import keyvalue
from netstore.state.v3.commands import Put
from netstore.types import Index, LeaseId
from tests.support import everything, kept
from tests.support.contents import nodes_of
from tests.support.earlier import Earlier, EarlierEngine
from tests.support.later import Later
from tests.support.tree import file_at

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from netstore.raft.entry import Entry


NOT_LOGGED = {18, 66}
"""What is asked through the members' door, and what is logged inside transactions only."""


@contextmanager
def opened(folder: Path, release: type[Machine] = Machine) -> Iterator[tuple[Machine, list[Entry], int]]:
    """The state a member of a release has once it has applied its whole log; the log; and what was in the
    state before. What is applied to it is in the state afterwards.
    """
    data = DataDir.lock(folder)
    try:
        device = PosixDevice(data.wal_dir, lambda call: call(), kept.FILE_BYTES)
        wal, replay = Wal.open(device, Identity(data.identity.cluster_id, data.identity.member_id))
        wal.close()
        assert replay.cut is None
        path = data.state_dir / STATE_FILE
        if release is Earlier:
            engine: LmdbEngine = EarlierEngine(path)
        else:
            engine = LmdbEngine(path, lambda call: call(), TABLES, lambda _: None)
        try:
            machine = release(engine)
            machine.load()
            before = machine.applied
            bootstrap.catch_up(machine, replay.entries)
            yield machine, replay.entries, before
            machine.save()
        finally:
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
    assert numbers == declared - NOT_LOGGED - LEVELS.keys()


def test_this_release_makes_of_it_what_it_makes_of_its_own(folder: Path, tmp_path: Path) -> None:
    kept.make(tmp_path / "fresh")
    with opened(folder) as (old, *_), opened(tmp_path / "fresh") as (new, *_):
        assert digest(old) == digest(new)


# --- all that a member leaves


@pytest.fixture
def left(tmp_path: Path) -> Path:
    """A data folder, an archive of the log and a full backup of the second feature level."""
    kept.unpack(everything.ARCHIVE, tmp_path / "left")
    return tmp_path / "left"


def recorded(left: Path) -> dict[str, dict[str, Any]]:
    """What was readable at places of the log, by their names."""
    found: dict[str, dict[str, Any]] = json.loads((left / everything.READABLE).read_text())
    assert list(map(int, everything.ends().values())) == sorted(each["applied"] for each in found.values())
    return found


def test_the_folder_of_level_2_opens_and_holds_what_was_recorded(left: Path) -> None:
    told = recorded(left)
    with opened(left / everything.DATA) as (machine, entries, before):
        assert before == told["state"]["applied"] < machine.applied == entries[-1].index
        assert entries[0].index == told["log"]["applied"] + 1, "the log before it is forgotten"
        assert everything.readable(machine) == told["end"]


def test_the_recorded_state_has_everything(left: Path) -> None:
    """The record shows what the log was written for; else the comparisons compare little."""
    told = recorded(left)["end"]
    names = {each[0][0]: each for each in told["v2"]["nodes"]}
    assert names["/dir/ttl"][1][2] == 8_000_000_000, "a checkpoint of a TTL"
    assert {f"{everything.PREFIX}/config", f"{everything.PREFIX}/drained/192.0.2.9"} <= names.keys()
    assert "/gone" not in names, "it has expired"
    v3 = told["v3"]
    assert 0 < v3["compacted"] < v3["revision"]
    assert {bool(deleted) for _, deleted in v3["changes"]} == {False, True}
    assert {(lease[0], lease[3] > 0, len(lease[4])) for lease in v3["leases"]} == {
        (everything.LEASE, True, 2),
        (everything.FREE_LEASE, False, 0),
    }
    assert {each[0][0]: each[0][3] - each[0][4] for each in told["plugins"]} == {
        "bare-net": 0,
        "half-net": len(everything.HALF) - kept.FILE_BYTES,
        "whole-net": 0,
    }
    assert [each[4] for each in told["members"]] == [True, False], "a learner and a voter"
    assert told["removed"] == [everything.REMOVED]
    heads = {
        head[0]
        for part in listing(left / everything.LOG_ARCHIVE).parts
        for each in read_entries(part.path)
        if each.payload and (head := head_of(command_of(each.payload))) is not None
    }
    declared = {kind.__struct_config__.tag for kind in get_args(Command)}
    assert declared - heads - NOT_LOGGED <= {15}, "a learner is never promoted: it has to answer"


def of_the_cluster(told: dict[str, Any]) -> dict[str, Any]:
    """Without what a restored cluster has of its own."""
    return {name: each for name, each in told.items() if name not in {"members", "removed", "digest"}} | {
        "v3": told["v3"] | {"alarms": []}
    }


def restored(backup: Path, folder: Path) -> dict[str, Any]:
    """What is readable of a backup that was restored to this folder."""
    restore(backup, folder, Wish("new", {"new": ("http://127.0.0.1:5380",)}, "t", "t"))
    with opened(folder) as (machine, _, _):
        assert [each.peer_urls for each in machine.members.values()] == [("http://127.0.0.1:5380",)]
        return everything.readable(machine)


def test_the_backup_is_verified_and_restored(left: Path, tmp_path: Path) -> None:
    told = recorded(left)["backup"]
    found = fullbackup.verify(left / everything.BACKUP, 1 << 30)
    assert (found.how, found.header.index) == (fullbackup.RESTORED, told["applied"])
    assert told["v3"]["alarms"], "they are left out"
    assert of_the_cluster(restored(left / everything.BACKUP, tmp_path / "new")) == of_the_cluster(told)


@pytest.mark.parametrize("name", everything.ends())
def test_every_point_of_the_archive_can_be_restored(left: Path, tmp_path: Path, name: str) -> None:
    told = recorded(left)[name]
    archive, target, work = left / everything.LOG_ARCHIVE, tmp_path / "point", tmp_path / "work"
    reached = extract(archive, Goal(instant=everything.instant(told["applied"])), target, work)
    assert (reached.applied, reached.revision) == (told["applied"], told["v3"]["revision"])
    assert of_the_cluster(restored(target, tmp_path / "new")) == of_the_cluster(told)


def test_a_backup_that_tells_nothing_of_its_log_is_not_taken(left: Path, tmp_path: Path) -> None:
    """Its last entry wrote no v3 key, by which it could be known in the archive."""
    archive, target, work = left / everything.LOG_ARCHIVE, tmp_path / "point", tmp_path / "work"
    goal = Goal(revision=recorded(left)["end"]["v3"]["revision"])
    with pytest.raises(NetstoreError, match="does not say of which log it is, as backups of earlier"):
        extract(archive, goal, target, work, base_file=left / everything.BACKUP)
    assert not target.exists()


def test_this_release_reads_of_its_own_what_it_reads_of_the_kept(left: Path, tmp_path: Path) -> None:
    (tmp_path / "fresh").mkdir(mode=0o700)
    (tmp_path / "scratch").mkdir()
    everything.make(tmp_path / "fresh", tmp_path / "scratch")
    assert recorded(tmp_path / "fresh") == recorded(left)


# --- back to another release

REFUSAL = r"is at feature level 2, this member knows 1: .*upgrade it"


def test_a_folder_goes_back_to_the_release_before_until_the_level_has_risen(folder: Path) -> None:
    """The release before knows neither the commands of this one's level nor its tables."""
    with opened(folder) as (machine, _, _):
        assert (machine.LEVEL, machine.roster.level) == (2, 1)
        machine.enter(Index(44), seal(encode(Set(b"/new", b"1")), wall=kept.WALL))
        machine.enter(Index(45), seal(encode(Put(b"new", b"1")), wall=kept.WALL, principal=b"p"))
        told = everything.readable(machine)
    with opened(folder, Earlier) as (machine, _, before):
        assert before == 45
        assert everything.readable(machine) | {"v3": told["v3"]} == told
        machine.enter(Index(46), seal(encode(Put(b"new", b"by the earlier one")), wall=kept.WALL))
        at = digest(machine)
    with opened(folder) as (machine, _, before):
        assert (before, digest(machine)) == (46, at)
        assert list(machine.mvcc.values(b"new", b"")) == [b"by the earlier one"]
        assert [each.principal for each in machine.mvcc.origins.since(12)[0]] == [b"p"], (
            "what was noted stays"
        )


def test_once_the_level_has_risen_the_release_before_refuses_the_folder(folder: Path) -> None:
    with opened(folder) as (machine, _, _):
        urls = ("http://127.0.0.1:2379",), (kept.PEER_URL,)
        machine.apply(Index(44), encode(PublishMember(kept.MEMBER, kept.NAME, *urls)))
        assert machine.apply(Index(45), encode(RaiseLevel(2))) is None
        told = everything.readable(machine)
    with pytest.raises(NoRestart, match=REFUSAL), opened(folder, Earlier):
        pass
    with opened(folder) as (machine, _, _):
        assert everything.readable(machine) == told


def test_the_release_before_refuses_what_this_one_has_left(left: Path) -> None:
    state = left / everything.DATA / "state" / STATE_FILE
    before = state.read_bytes()
    with pytest.raises(NoRestart, match=REFUSAL), opened(left / everything.DATA, Earlier):
        pass
    assert state.read_bytes() == before
    with opened(left / everything.DATA) as (machine, _, _):
        assert everything.readable(machine) == recorded(left)["end"]


def test_an_entry_of_this_release_stops_the_release_before(folder: Path, left: Path) -> None:
    admission = next(
        each.payload
        for part in listing(left / everything.LOG_ARCHIVE).parts
        for each in read_entries(part.path)
        if each.payload and head_of(command_of(each.payload)) == (22, 4)
    )
    with opened(folder, Earlier) as (machine, _, _):
        told = everything.readable(machine)
        with pytest.raises(CannotApply, match="command 22 is not known"):
            machine.enter(Index(44), admission)
        assert everything.readable(machine) == told


def test_a_folder_comes_back_from_the_next_release_until_the_level_has_risen(left: Path) -> None:
    told = recorded(left)["end"]
    with opened(left / everything.DATA, Later) as (machine, _, _):
        assert everything.readable(machine) == told
    with opened(left / everything.DATA) as (machine, _, _):
        assert everything.readable(machine) == told
