"""Restoring a backup: what the data folders of a new cluster hold."""

from __future__ import annotations

import fcntl
import hashlib
from typing import TYPE_CHECKING

import pytest

from netstore.disk.backupfile import BackupReader
from netstore.disk.datadir import DataDir, read_token
from netstore.disk.engine import LmdbEngine
from netstore.disk.frame import Identity
from netstore.disk.posix import PosixDevice
from netstore.disk.wal import Wal
from netstore.errors import CorruptData, Fault, NetstoreError
from netstore.etcdfile import boltwriter
from netstore.node import fullbackup
from netstore.node.backup import BoltCopy
from netstore.node.restore import Wish, restore
from netstore.state.commands import encode
from netstore.state.digest import digest
from netstore.state.machine import Machine
from netstore.state.tables import TABLES
from netstore.state.v2.commands import Set
from netstore.state.v3 import commands as v3
from netstore.types import Index, LeaseId
from tests.node.test_etcdimport import put
from tests.node.test_etcdsource import Folder, write_database
from tests.support.backups import LONG_KEY, Place

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SHARED = "what all of them are given"
MEMBERS = {"a": ("http://a:1",), "b": ("http://b:1",), "c": ("http://c:1",)}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    folder = tmp_path / "source"
    folder.mkdir()
    place = Place(folder)
    place.fill()
    yield place
    place.engine.close()


@pytest.fixture
def full(place: Place, tmp_path: Path) -> Path:
    return place.make_full().path.rename(tmp_path / "full.backup")  # else the next one made there removes it


@pytest.fixture
def bolt(place: Place, tmp_path: Path) -> Path:
    copy = place.make()
    assert isinstance(copy, BoltCopy)
    path = tmp_path / "snapshot.db"
    data = copy.read(copy.size)
    path.write_bytes(data + hashlib.sha256(data).digest())
    copy.close()
    return path


class Opened:
    """A restored folder, as a member opens it."""

    def __init__(self, folder: Path) -> None:
        data = DataDir.lock(folder)
        self.identity = data.identity
        device = PosixDevice(data.wal_dir, lambda call: call())
        wal, self.replay = Wal.open(device, Identity(self.identity.cluster_id, self.identity.member_id))
        self.engine = LmdbEngine(data.state_dir / "state.lmdb", lambda _: None, TABLES, self._failed)
        self.machine = Machine(self.engine)
        self.machine.load()
        self.pair = self.machine.mvcc.get(b"k")
        self.token = read_token(folder)
        self.engine.close()
        wal.close()
        data.close()

    def _failed(self, failure: OSError) -> None:
        raise failure


def test_members_that_restore_one_backup_are_one_cluster(full: Path, place: Place, tmp_path: Path) -> None:
    found = {}
    for name in MEMBERS:
        done = restore(full, tmp_path / name, Wish(name, MEMBERS, SHARED, SHARED))
        found[name] = opened = Opened(tmp_path / name)
        assert (done.cluster, done.member) == (opened.identity.cluster_id, opened.identity.member_id)
        assert opened.identity.name == name
        assert opened.token == SHARED
        assert opened.replay.mark is not None
        assert opened.replay.hard_state is not None
        assert opened.replay.mark.index == opened.replay.hard_state.commit == opened.replay.last
        assert opened.replay.entries == []
    ids = {each.identity.member_id for each in found.values()}
    assert len(ids) == 3
    assert len({each.identity.cluster_id for each in found.values()}) == 1
    assert all(set(each.machine.members) == ids for each in found.values())
    assert all(set(each.replay.mark.conf.voters) == ids for each in found.values() if each.replay.mark)
    assert len({digest(each.machine) for each in found.values()}) == 1, "they would stop otherwise"
    before, after = place.machine, found["a"].machine
    assert after.applied == before.applied
    assert (after.mvcc.revision, after.mvcc.compacted) == (before.mvcc.revision, 3)
    assert found["a"].pair == before.mvcc.get(b"k")
    assert after.tree.index == before.tree.index
    assert after.tree.get(LONG_KEY) == before.tree.get(LONG_KEY)
    assert after.history.first == before.history.first
    assert after.plugins.content() == before.plugins.content()
    assert not after.alarms.active
    assert before.alarms.active


def test_the_ids_are_new_each_time(place: Place, tmp_path: Path) -> None:
    clusters = set()
    for number in range(2):
        full = place.make_full().path
        for token in ("one", "two"):
            done = restore(full, tmp_path / f"{number}{token}", Wish("a", MEMBERS, token, token))
            clusters.add(done.cluster)
    assert len(clusters) == 4
    assert 0xC1 not in clusters


def test_members_that_are_restored_otherwise_are_not_one_cluster(
    full: Path, bolt: Path, tmp_path: Path
) -> None:
    for file in (full, bolt):
        clusters = {
            restore(file, tmp_path / f"{file.name}{bump}", wish).cluster
            for bump in (0, 1000)
            for wish in [Wish("a", MEMBERS, "t", "t", bump=bump, mark_compacted=bump > 0)]
        }
        assert len(clusters) == 2


def test_a_v3_snapshot_of_a_store_that_asks_for_passwords(tmp_path: Path) -> None:
    file = tmp_path / "s.db"
    auth = {b"authEnabled": b"\1", b"authRevision": bytes(8)}
    write_database(file, 5, auth=auth, authUsers={b"root": b""})
    wish = Wish("a", MEMBERS, "t", "t", skip_digest=True)
    with pytest.raises(NetstoreError, match=r"asks for passwords \(1 users, 0 roles\).*--without-auth"):
        restore(file, tmp_path / "a", wish)
    assert not (tmp_path / "a").exists()
    assert restore(file, tmp_path / "a", wish._replace(without_auth=True)).revision == 3


def test_what_a_v3_snapshot_has_otherwise_is_told(bolt: Path, tmp_path: Path) -> None:
    file = tmp_path / "s.db"
    with file.open("wb") as opened:
        boltwriter.write(opened, {b"authUsers": [(b"u", b"")], b"key": [put(2, b"a", lease=7)]})
    told = restore(file, tmp_path / "a", Wish("a", MEMBERS, "t", "t", skip_digest=True)).left_out
    assert "1 users and 0 roles were left out" in told[0]
    assert "1 keys have a lease that does not exist, and stay for ever: 'a'" in told[1]
    told = restore(bolt, tmp_path / "b", Wish("a", MEMBERS, "t", "t")).left_out
    assert told == ("the store it is of had the alarm CORRUPT: its members had different data",)


def test_a_v3_snapshot_is_restored(bolt: Path, place: Place, tmp_path: Path) -> None:
    done = restore(bolt, tmp_path / "a", Wish("a", MEMBERS, "t", "t"))
    opened = Opened(tmp_path / "a")
    machine = opened.machine
    assert done.revision == machine.mvcc.revision == place.machine.mvcc.revision
    assert opened.pair == place.machine.mvcc.get(b"k")
    assert machine.mvcc.compacted == 3
    assert machine.leases.get(LeaseId(5)) is not None
    assert len(machine.tree) == 0
    assert len(machine.members) == 3


def test_the_digest_of_a_v3_snapshot_is_verified_unless_that_is_not_wanted(
    bolt: Path, tmp_path: Path
) -> None:
    bolt.write_bytes(bolt.read_bytes()[:-32] + bytes(32))
    with pytest.raises(CorruptData, match="SHA-256 at its end does not fit"):
        restore(bolt, tmp_path / "a", Wish("a", MEMBERS, "t", "t"))
    assert not (tmp_path / "a").exists()
    restore(bolt, tmp_path / "a", Wish("a", MEMBERS, "t", "t", skip_digest=True))


def test_the_database_of_an_etcd_that_runs_is_not_read(bolt: Path, tmp_path: Path) -> None:
    wish = Wish("a", MEMBERS, "t", "t")
    with bolt.open("rb+") as used:
        fcntl.flock(used, fcntl.LOCK_EX)
        with pytest.raises(NetstoreError, match=r"in use by an etcd that runs: .* \(etcdctl snapshot"):
            restore(bolt, tmp_path / "a", wish)
    assert not (tmp_path / "a").exists()
    restore(bolt, tmp_path / "a", wish)


def test_a_database_that_lacks_what_its_log_has_is_not_restored(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "etcd")
    wish = Wish("a", MEMBERS, "t", "t")
    assert not restore(folder.snap / "db", tmp_path / "a", wish).left_out
    write_database(folder.snap / "db", 11)
    with pytest.raises(NetstoreError, match="its log has 1 requests of the v3 API from entry 12 on"):
        restore(folder.snap / "db", tmp_path / "b", wish)
    assert not (tmp_path / "b").exists()
    copy = (folder.snap / "db").rename(tmp_path / "db")
    told = restore(copy, tmp_path / "b", wish).left_out
    assert "so the last ones may be missing" in told[0]


def test_a_bumped_revision_hides_what_came_before(full: Path, place: Place, tmp_path: Path) -> None:
    before = place.machine
    done = restore(full, tmp_path / "a", Wish("a", MEMBERS, "t", "t", bump=1000, mark_compacted=True))
    opened = Opened(tmp_path / "a")
    machine = opened.machine
    assert done.revision == machine.mvcc.revision == before.mvcc.revision + 1000
    assert done.v2_index == machine.tree.index == before.tree.index + 1000
    assert machine.mvcc.compacted == machine.mvcc.revision
    assert opened.pair == before.mvcc.get(b"k"), "the newest of each key stays"
    refused = machine.history.scan(b"/a", True, before.tree.index)
    assert isinstance(refused, Fault)
    assert refused.code == 401, "a watch that goes on from before reads anew"
    assert machine.history.scan(b"/", True, machine.tree.index) is None, "and is shown no event"


def test_a_restored_state_can_be_written(full: Path, tmp_path: Path) -> None:
    for name, bump in (("a", 0), ("b", 7)):
        restore(full, tmp_path / name, Wish("a", MEMBERS, "t", "t", bump=bump, mark_compacted=bool(bump)))
        data = DataDir.lock(tmp_path / name)
        engine = LmdbEngine(data.state_dir / "state.lmdb", lambda _: None, TABLES, print)
        machine = Machine(engine)
        machine.load()
        for command in (Set(b"/a/b", b"9"), v3.Put(b"k", b"9"), v3.LeaseRenew(5)):
            outcome = machine.apply(Index(machine.applied + 1), encode(command))
            assert not isinstance(outcome, Fault)
        while machine.sweeping:
            machine.sweep()
        machine.save()
        engine.close()
        data.close()


@pytest.mark.parametrize("what", ["file", "folder"])
def test_only_an_empty_folder_is_filled(full: Path, tmp_path: Path, what: str) -> None:
    folder = tmp_path / "a"
    folder.mkdir(mode=0o700)
    if what == "file":
        (folder / "other").write_text("kept")
    else:
        restore(full, folder, Wish("a", MEMBERS, "t", "t"))
    before = sorted(path for path in folder.rglob("*"))
    with pytest.raises(NetstoreError, match="choose a new or empty folder"):
        restore(full, folder, Wish("a", MEMBERS, "t", "t"))
    assert sorted(path for path in folder.rglob("*")) == before


@pytest.mark.parametrize("kind", ["full", "bolt"])
def test_a_damaged_file_leaves_nothing(full: Path, bolt: Path, tmp_path: Path, kind: str) -> None:
    path = full if kind == "full" else bolt
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + data[len(data) // 2 + 512 :])
    with pytest.raises(CorruptData, match=r"offset \d+"):
        restore(path, tmp_path / "a", Wish("a", MEMBERS, "t", "t"))
    assert not (tmp_path / "a").exists()


def test_a_backup_of_the_restored_member_is_a_backup(full: Path, tmp_path: Path) -> None:
    restore(full, tmp_path / "a", Wish("a", MEMBERS, "t", "t"))
    target = tmp_path / "again.backup"
    data = DataDir.lock(tmp_path / "a")
    data.close()
    with full.open("rb") as file:
        header = BackupReader(file, "FILE").header
    fullbackup.write(tmp_path / "a" / "state" / "state.lmdb", target, header)
    assert fullbackup.verify(target, 1 << 30).how == fullbackup.RESTORED


def test_a_cluster_of_one_is_another_at_each_restore(full: Path, tmp_path: Path) -> None:
    wish = Wish("a", {"a": ("http://a:1",)}, "t", "t")
    made = [restore(full, tmp_path / str(number), wish) for number in range(2)]
    assert made[0].cluster != made[1].cluster
    assert made[0].member != made[1].member
