"""An etcd's files are opened as a whole, or refused with what to do."""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import ExitStack
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from netstore.errors import CorruptData, NetstoreError
from netstore.etcdfile import boltwriter, raftlogwriter
from netstore.node.etcdimport import Report
from netstore.node.etcdsource import EtcdSource, open_file, open_folder
from netstore.types import Nanos
from tests.etcdfile.test_raftlog import data_field, entry, file_of, mark, number, state
from tests.node.test_etcdimport import loaded, put

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STORE = b'{"Root":{"Path":"/","Children":{"1":{"Path":"/1","Children":{}}}},"CurrentIndex":4}'


def v2_put(index: int, path: str, value: bytes = b"v") -> tuple[int, bytes]:
    request = number(1, index) + data_field(2, b"PUT") + data_field(3, path.encode()) + data_field(4, value)
    return entry(index, request)


def v3_put(index: int) -> tuple[int, bytes]:
    return entry(index, data_field(4, data_field(1, b"key")))


def write_database(path: Path, consistent_index: int, **buckets: dict[bytes, bytes]) -> None:
    with path.open("wb") as file:
        meta = {b"consistent_index": consistent_index.to_bytes(8, "big")}
        given = {name.encode(): sorted(pairs.items()) for name, pairs in buckets.items()}
        content = {b"key": [put(2, b"a"), put(3, b"b")], b"meta": list(meta.items())}
        boltwriter.write(file, content | given)


class Folder:
    """A data folder of an etcd under construction: a v2 snapshot of entry 10, and a log after it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.snap, self.wal = path / "member" / "snap", path / "member" / "wal"
        self.snap.mkdir(parents=True)
        self.wal.mkdir()
        write_database(self.snap / "db", 12)
        self.write_snapshot(10)
        self.write_log([mark(0, 0), mark(10), v2_put(11, "/1/a"), v3_put(12), state(12)])

    def write_snapshot(self, index: int, content: bytes = STORE) -> Path:
        file = self.snap / raftlogwriter.snapshot_file(index, 1)
        file.write_bytes(raftlogwriter.snapshot(content, (5,), index, 1))
        return file

    def write_log(self, records: list[tuple[int, bytes]]) -> None:
        (self.wal / raftlogwriter.LOG_FILE).write_bytes(file_of(records)[0] + bytes(512))


@pytest.fixture
def parts() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "etcd")


def opened(folder: Folder, parts: ExitStack) -> EtcdSource:
    return open_folder(folder.path, None, Nanos(0), parts)


def test_a_folder_has_both_apis(folder: Folder, parts: ExitStack) -> None:
    source = opened(folder, parts)
    report = Report()
    machine = loaded(source.records(report), 99)
    assert source.applied == 12
    assert (report.revision, report.nodes, report.index) == (3, 1, 5)
    assert machine.mvcc.exists(b"b")
    assert not source.uncommitted
    assert not source.torn


def test_a_folder_without_a_database_or_a_snapshot(folder: Folder, parts: ExitStack) -> None:
    (folder.snap / "db").unlink()
    next(folder.snap.glob("*.snap")).unlink()
    folder.write_log([mark(0, 0), v2_put(1, "/1/a"), v2_put(2, "/1/b")])
    source = opened(folder, parts)
    machine = loaded(source.records(Report()), 99)
    assert len(machine.tree) == 2
    assert source.uncommitted == 2


def test_the_log_may_be_elsewhere(folder: Folder, parts: ExitStack, tmp_path: Path) -> None:
    folder.wal.rename(tmp_path / "log")
    with pytest.raises(NetstoreError, match=r"not the data folder of an etcd: .*member/wal is not there"):
        opened(folder, parts)
    source = open_folder(folder.path, tmp_path / "log", Nanos(0), parts)
    assert source.applied == 12


def test_requests_that_the_database_lacks_are_not_lost(folder: Folder, parts: ExitStack) -> None:
    write_database(folder.snap / "db", 11)
    with pytest.raises(
        NetstoreError, match=r"has 1 requests of the v3 API from entry 12 on .*put any key.* SIGTERM"
    ):
        opened(folder, parts)


def test_a_database_older_than_the_snapshot_is_refused(folder: Folder, parts: ExitStack) -> None:
    folder.write_log([mark(0, 0), mark(10), v2_put(11, "/1/a"), state(11)])
    write_database(folder.snap / "db", 10)
    assert opened(folder, parts).applied == 11
    for index in (9, 0):
        write_database(folder.snap / "db", index)
        with pytest.raises(NetstoreError, match=f"database is of entry {index}, and its v2 snapshot of ent"):
            opened(folder, parts)
    with (folder.snap / "db").open("wb") as file:
        boltwriter.write(file, {})
    assert opened(folder, parts).applied == 11, "an etcd of which only the v2 API was used"


def test_a_log_that_ends_before_the_database_is_refused(folder: Folder, parts: ExitStack) -> None:
    write_database(folder.snap / "db", 13, members={b"5": b"{}"})
    with pytest.raises(CorruptData, match="its log ends with entry 12, and its database has entry 13"):
        opened(folder, parts)
    write_database(folder.snap / "db", 13)
    assert opened(folder, parts).applied == 12, "a folder of etcdctl backup"


def test_a_backup_without_v3_keys_is_told(folder: Folder, parts: ExitStack) -> None:
    def told(members: dict[bytes, bytes], keys: dict[bytes, bytes]) -> list[str]:
        write_database(folder.snap / "db", 12, members=members, key=keys)
        source, report = opened(folder, parts), Report()
        assert list(source.records(report))
        return source.left_out(report)

    [words] = told({}, {})
    assert "has no v3 keys, which that copies only with --with-v3" in words
    assert not told({}, dict([put(2, b"a")]))
    assert not told({b"5": b"{}"}, {}), "a member of which only the v2 API was used"


def test_the_newest_snapshot_that_the_log_knows_is_used(folder: Folder, parts: ExitStack) -> None:
    folder.write_snapshot(77, b"not in the log")
    assert opened(folder, parts).applied == 12


def test_damage_is_told_with_its_place(folder: Folder, parts: ExitStack) -> None:
    file = folder.write_snapshot(10)
    whole = file.read_bytes()
    file.write_bytes(whole[:30] + b"?" + whole[31:])
    with pytest.raises(CorruptData, match=rf"{file}: offset 0: the checksum of the snapshot does not fit"):
        opened(folder, parts)
    folder.write_snapshot(10, STORE.replace(b"4}", b'4,"Stats":{"setsSuccess":"x"}}'))
    with pytest.raises(CorruptData, match="not the JSON of a v2 store"):
        opened(folder, parts)
    bad = STORE.replace(b'"Children":{}', b'"Children":{"x":{"Path":"/1/x","ExpireTime":"soon"}}')
    folder.write_snapshot(10, bad)
    with pytest.raises(CorruptData, match="the v2 snapshot of entry 10: 'soon' is no instant"):
        opened(folder, parts)


def test_a_log_that_lacks_something_is_refused(folder: Folder, parts: ExitStack) -> None:
    folder.write_log([mark(0, 0), mark(10), v2_put(11, "/1/a"), state(12)])
    with pytest.raises(CorruptData, match="the log ends with entry 11, and entry 12 was committed"):
        opened(folder, parts)
    folder.write_log([mark(10), v2_put(13, "/1/a")])
    with pytest.raises(CorruptData, match="begins with entry 13, and the newest v2 snapshot is of entry 10"):
        opened(folder, parts)
    (folder.wal / raftlogwriter.LOG_FILE).unlink()
    with pytest.raises(NetstoreError, match="has no log of an etcd"):
        opened(folder, parts)


def test_a_damaged_end_is_left_out_only_when_asked(folder: Folder, parts: ExitStack) -> None:
    log = folder.wal / raftlogwriter.LOG_FILE
    folder.write_log([mark(0, 0), mark(10), v3_put(11), v3_put(12), v2_put(13, "/1/a"), v2_put(14, "/1/b")])
    whole = log.read_bytes()
    at = whole.index(b"/1/a")
    log.write_bytes(whole[:at] + b"?" + whole[at + 1 :])
    with pytest.raises(CorruptData, match=r"may have been acknowledged, .* --without-damaged-end"):
        opened(folder, parts)
    source = open_folder(folder.path, None, Nanos(0), parts, without_damaged_end=True)
    assert source.applied == 12
    assert source.lost is not None
    assert 0 < source.lost.size < len(whole)


def test_a_damaged_end_that_the_rest_cannot_do_without_is_not_left_out(
    folder: Folder, parts: ExitStack
) -> None:
    log = folder.wal / raftlogwriter.LOG_FILE
    for is_committed in (True, False):
        commit = state(12 if is_committed else 11)
        folder.write_log([mark(0, 0), mark(10), v3_put(11), commit, v2_put(12, "/1/a"), v3_put(13)])
        whole = log.read_bytes()
        at = whole.index(b"/1/a")
        log.write_bytes(whole[:at] + b"?" + whole[at + 1 :])
        write_database(folder.snap / "db", 12, members={b"8e9e05c52164694d": b"{}"})
        with pytest.raises(CorruptData, match=r"offset [0-9]+: .*take the folder of another member$"):
            opened(folder, parts)
        with pytest.raises(CorruptData, match="log ends with entry 11"):
            open_folder(folder.path, None, Nanos(0), parts, without_damaged_end=True)


def test_passwords_of_the_v2_api(folder: Folder, parts: ExitStack) -> None:
    """Whether they are in the snapshot or in the log."""
    store = STORE.replace(
        b'"1":{',
        b'"2":{"Path":"/2","Children":{"enabled":{"Path":"/2/enabled","Value":"true"},'
        b'"users":{"Path":"/2/users","Children":{"root":{"Path":"/2/users/root","Value":"{}"}}},'
        b'"roles":{"Path":"/2/roles","Children":{}}}},"1":{',
    )
    folder.write_snapshot(10, store)
    with pytest.raises(NetstoreError, match=r"passwords \(in its v2 API: 1 users, 0 roles\).*--without-auth"):
        opened(folder, parts).check_open(without_auth=False)
    opened(folder, parts).check_open(without_auth=True)
    folder.write_log([mark(0, 0), mark(10), v2_put(11, "/2/enabled", b"false"), v3_put(12)])
    source = opened(folder, parts)
    source.check_open(without_auth=False)
    assert source.left_out(Report(changes=1)) == [
        "1 users and 0 roles of the v2 API were left out: netstore has none"
    ]
    folder.write_snapshot(10)
    folder.write_log([mark(0, 0), mark(10), v2_put(11, "/2/enabled", b"true"), v3_put(12)])
    with pytest.raises(NetstoreError, match=r"asks for passwords \(in its v2 API\)"):
        opened(folder, parts).check_open(without_auth=False)


def test_what_an_etcd_uses_is_refused(folder: Folder, parts: ExitStack) -> None:
    with (folder.snap / "db").open("rb+") as used:
        fcntl.flock(used, fcntl.LOCK_EX)
        with pytest.raises(
            NetstoreError, match="db: in use by an etcd that runs: stop it, or import from its URL"
        ):
            opened(folder, parts)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EIO])
def test_a_file_system_that_has_no_locks_has_no_etcd_either(
    folder: Folder, parts: ExitStack, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def failing(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", failing)
    if number == errno.ENOLCK:
        assert opened(folder, parts).applied == 12
    else:
        with pytest.raises(OSError, match="Input/output error"):
            opened(folder, parts)


def test_a_database_is_taken_from_its_folder_if_the_log_has_no_more(folder: Folder, parts: ExitStack) -> None:
    database = folder.snap / "db"
    assert not open_file(database, parts).may_lack
    write_database(database, 11)
    with pytest.raises(
        NetstoreError,
        match=rf"has 1 requests of the v3 API from entry 12 on .*; without its log {database} may lack",
    ):
        open_file(database, parts)
    link = folder.path.parent / "db"
    link.symlink_to(database)
    with pytest.raises(NetstoreError, match="has 1 requests of the v3 API"):
        open_file(link, parts)
    with pytest.raises(NetstoreError, match="has 1 requests of the v3 API"):
        open_file(database, parts, skip_digest=True)
    file = folder.wal / raftlogwriter.LOG_FILE
    data = bytearray(file.read_bytes())
    data[60] ^= 1
    file.write_bytes(data)
    with pytest.raises(NetstoreError, match="may lack writes that were acknowledged"):
        open_file(database, parts)


def test_a_database_without_its_log_may_lack_writes(folder: Folder, parts: ExitStack, tmp_path: Path) -> None:
    copy = tmp_path / "db"
    copy.write_bytes((folder.snap / "db").read_bytes())
    source = open_file(copy, parts)
    assert "so the last ones may be missing" in source.left_out(Report())[-1]
    data = copy.read_bytes()
    copy.write_bytes(data + sha256(data).digest())
    source = open_file(copy, parts)
    assert not source.may_lack
    assert not source.left_out(Report())
    (folder.wal / raftlogwriter.LOG_FILE).unlink()
    assert open_file(folder.snap / "db", parts).may_lack


def test_a_snapshot_file(tmp_path: Path, parts: ExitStack) -> None:
    file = tmp_path / "s.db"
    write_database(file, 0)
    data = file.read_bytes()
    file.write_bytes(data + sha256(data).digest())
    source = open_file(file, parts)
    assert source.applied == 1
    assert loaded(source.records(Report())).mvcc.revision == 3
    file.write_bytes(data + sha256(data + b"x").digest())
    with pytest.raises(CorruptData, match=f"{file}: offset {len(data)}: the SHA-256"):
        open_file(file, parts)
    with pytest.raises(NetstoreError, match=r"gone\.db: No such file"):
        open_file(tmp_path / "gone.db", parts)


def test_a_file_that_is_none(tmp_path: Path, parts: ExitStack) -> None:
    (tmp_path / "f").write_bytes(b"hello" * 1000)
    with pytest.raises(CorruptData, match="f: offset 0: not a bbolt database"):
        open_file(tmp_path / "f", parts)


def test_each_import_of_a_folder_gives_the_same(folder: Folder, parts: ExitStack) -> None:
    second = 1_000_000_000
    expiring = number(1, 3) + data_field(2, b"PUT") + data_field(3, b"/1/t") + number(9, 100 * second)
    sync = number(1, 4) + data_field(2, b"SYNC") + number(15, 90 * second)
    folder.write_log([mark(0, 0), mark(10), entry(11, expiring), entry(12, sync), v2_put(13, "/1/a")])
    one, other = (open_folder(folder.path, None, Nanos(now), parts) for now in (0, 95 * second))
    assert one.digest() == other.digest()
    assert list(one.records(Report())) == list(other.records(Report())), "also after it was read once"
    folder.write_log([mark(0, 0), mark(10), entry(11, expiring), entry(12, sync), v2_put(13, "/1/b")])
    assert opened(folder, parts).digest() != one.digest()
