"""What is exported is read by the import as it was; in `tests/process/test_migration.py` by a real etcd."""

from __future__ import annotations

from contextlib import ExitStack
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from netstore.disk.datadir import DataDir
from netstore.disk.frame import Identity
from netstore.disk.posix import PosixDevice
from netstore.disk.wal import Wal
from netstore.errors import NetstoreError
from netstore.etcdfile import boltwriter, raftlogwriter
from netstore.limits import SMALLEST, Shares
from netstore.node.etcdexport import open_state, write_folder, write_snapshot
from netstore.node.etcdimport import Report
from netstore.node.etcdsource import open_file, open_folder
from netstore.node.seeding import founders, seed
from netstore.node.storage import Storage
from netstore.raft.entry import Entry, EntryKind, HardState
from netstore.state import tables
from netstore.state.v2.records import pack_node
from netstore.state.v2.statistics import REPLICATED
from netstore.types import EtcdIndex, Index, Nanos, NodeId, NodeView, Term
from tests.etcdfile.test_raftlog import mark
from tests.node.test_etcdimport import NOW, SECOND, data, lease, number, put
from tests.node.test_etcdsource import Folder, v2_put
from tests.node.test_storage import Calls, Reports
from tests.support.links import Quiet

if TYPE_CHECKING:
    from pathlib import Path

OWN = founders({"a": ["http://a:1"]}, "a", "t", "o")
LONG = "/1/" + "n" * 600 + "/x"


def records_of(path: Path) -> list[tuple[str, bytes, bytes]]:
    with ExitStack() as parts:
        return sorted(open_folder(path, None, Nanos(NOW), parts).records(Report()))


@pytest.fixture
def etcd(tmp_path: Path) -> Path:
    """A folder with keys of both APIs, a TTL, a hidden node, a path that is too long for a key of LMDB."""
    folder = Folder(tmp_path / "etcd")
    with (folder.snap / "db").open("wb") as file:
        content = {
            b"key": [put(2, b"a", lease=5), put(3, b"b")],
            b"lease": [lease(5, 60, 20)],
            b"meta": [(b"consistent_index", (12).to_bytes(8, "big"))],
        }
        boltwriter.write(file, content)
    expiring = (
        number(1, 3) + data(2, b"PUT") + data(3, b"/1/_h/t") + data(4, b"t") + number(9, NOW + 99 * SECOND)
    )
    entries = [v2_put(11, "/1/a"), v2_put(12, LONG), (2, number(2, 1) + number(3, 13) + data(4, expiring))]
    folder.write_log([mark(0, 0), mark(10), *entries])
    return folder.path


@pytest.fixture
def member(tmp_path: Path, etcd: Path) -> Path:
    with ExitStack() as parts:
        source = open_folder(etcd, None, Nanos(NOW), parts)
        seed(tmp_path / "member", OWN, source.applied, source.records(Report()))
    return tmp_path / "member"


def test_a_folder_there_and_back_is_the_same(tmp_path: Path, etcd: Path, member: Path) -> None:
    with ExitStack() as parts:
        assert write_folder(open_state(member, parts), tmp_path / "back", OWN).nodes == 5
    before, after = records_of(etcd), records_of(tmp_path / "back")
    changed = [one for one, other in zip(before, after, strict=True) if one != other]
    assert [table for table, _, _ in changed] == ["v3_leases"], "it began with another entry of another log"
    assert (tmp_path / "back").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "back" / "member" / "snap" / "db").stat().st_mode & 0o777 == 0o600


def test_a_snapshot_file_there_and_back_is_the_same(tmp_path: Path, member: Path) -> None:
    file = tmp_path / "s.db"
    with ExitStack() as parts:
        size = write_snapshot(open_state(member, parts), file)
    assert file.stat().st_size == size
    assert size % 512 == 32
    with ExitStack() as parts:
        found = {(table, key): value for table, key, value in open_file(file, parts).records(Report())}
    assert found["v3", (2 << 32).to_bytes(12, "big")] == put(2, b"a", lease=5)[1]
    assert not list(tmp_path.glob(".s.db*"))


def test_a_target_that_has_something_is_left_alone(tmp_path: Path, member: Path) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "x").touch()
    with ExitStack() as parts:
        state = open_state(member, parts)
        with pytest.raises(NetstoreError, match="used: is not empty; nothing was changed"):
            write_folder(state, tmp_path / "used", OWN)
    assert [each.name for each in (tmp_path / "used").iterdir()] == ["x"]


def test_a_log_that_is_elsewhere_is_named(tmp_path: Path, member: Path) -> None:
    (member / "wal").rename(tmp_path / "log")
    with ExitStack() as parts:
        with pytest.raises(NetstoreError, match=r"wal: is not there: name with --source-wal-dir the"):
            open_state(member, parts)
        assert not (member / "wal").exists(), "nothing in the source is changed"
        open_state(member, parts, tmp_path / "log")


def digests(*folders: Path) -> dict[Path, tuple[int, int, str]]:
    """Mode, size and SHA-256 of all files."""
    files = [each for folder in folders for each in folder.rglob("*") if each.is_file()]
    return {
        each: (each.stat().st_mode, each.stat().st_size, sha256(each.read_bytes()).hexdigest())
        for each in files
    }


@pytest.mark.parametrize("is_torn", [False, True])
def test_the_source_stays_as_it_is(tmp_path: Path, member: Path, *, is_torn: bool) -> None:
    log = tmp_path / "log"
    (member / "wal").rename(log)
    (member / "lock").write_bytes(b"1\n")
    (member / "token").chmod(0o640)
    if is_torn:
        newest = max(log.glob("*.wal"))
        data = newest.read_bytes()
        end = len(data.rstrip(b"\0"))
        newest.write_bytes(data[:end] + b"\x40torn" + data[end + 5 :])
    before = digests(member, log)
    with ExitStack() as parts:
        write_folder(open_state(member, parts, log), tmp_path / "back", OWN)
    assert digests(member, log) == before
    assert records_of(tmp_path / "back")
    (member / "token").chmod(0o600)
    data_folder = DataDir.lock(member, log)
    device = PosixDevice(log, lambda call: call())
    own = data_folder.identity
    opened, replay = Wal.open(device, Identity(own.cluster_id, own.member_id))
    opened.close()
    data_folder.close()
    assert (replay.cut is not None) == is_torn, "a member that starts does cut it"


def test_files_of_others_are_left_alone(tmp_path: Path, member: Path) -> None:
    (tmp_path / "back.part").mkdir()
    (tmp_path / "back.part" / "x").touch()
    (tmp_path / "s.db.part").write_text("theirs")
    with ExitStack() as parts:
        state = open_state(member, parts)
        write_folder(state, tmp_path / "back", OWN)
        write_snapshot(state, tmp_path / "s.db")
    assert (tmp_path / "back.part" / "x").exists()
    assert (tmp_path / "s.db.part").read_text() == "theirs"


def with_keys(path: Path, pairs: dict[str, bytes]) -> Path:
    """A member's folder with these keys of the v2 API, whose names are in Latin-1."""
    node = {
        (tables.NODES, b"/" + name.encode("latin-1")): pack_node(
            NodeView(b"/" + name.encode("latin-1"), EtcdIndex(1), EtcdIndex(1), value), None
        )
        for name, value in pairs.items()
    }
    scalars = tables.encode(tables.Scalars(EtcdIndex(1), (0,) * len(REPLICATED), ""))
    records = [(tables.STATE, tables.STATE_KEY, scalars), *((*key, value) for key, value in node.items())]
    seed(path, OWN, Index(1), records)
    return path


def test_v2_keys_that_are_no_text(tmp_path: Path) -> None:
    with ExitStack() as parts:
        pairs = {"a": b"text", "b": b"\xff", "k\xfe": b"1"}
        state = open_state(with_keys(tmp_path / "1", pairs), parts)
        done = write_folder(state, tmp_path / "back", OWN)
        assert (done.nodes, done.changed_count, done.changed) == (3, 2, ["/b", "/k\ufffd"])
        state = open_state(with_keys(tmp_path / "2", {"k\xfe": b"1", "k\xff": b"2"}), parts)
        with pytest.raises(NetstoreError, match="the v2 key '/k\ufffd': there are two that differ only"):
            write_folder(state, tmp_path / "other", OWN)
    assert not (tmp_path / "other").exists()


def test_what_cannot_be_written_leaves_nothing(
    tmp_path: Path, member: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(raftlogwriter, "write_log", full)
    with ExitStack() as parts:
        state = open_state(member, parts)
        with pytest.raises(NetstoreError, match="back: No space left on device: check the disk"):
            write_folder(state, tmp_path / "back", OWN)
    assert not list(tmp_path.glob("*back*"))


def test_a_member_that_was_killed_is_refused(member: Path) -> None:
    folder, calls = DataDir.lock(member), Calls()
    storage = Storage(folder, calls.queue.put, Shares.of(SMALLEST), Reports(), Quiet())
    done: list[object] = []
    entry = Entry(Index(14), Term(1), EntryKind.NORMAL, b"")
    storage.wal.append(HardState(Term(1), NodeId(0), Index(13)), [entry], done.append)
    while not done:
        calls.queue.get()()
    storage.close()
    folder.close()
    with (
        ExitStack() as parts,
        pytest.raises(NetstoreError, match="its log ends with entry 14, and its state with 13"),
    ):
        open_state(member, parts)


def test_a_member_that_runs_is_refused(member: Path) -> None:
    folder = DataDir.lock(member)
    with ExitStack() as parts, pytest.raises(NetstoreError, match="in use by process"):
        open_state(member, parts)
    folder.close()


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with ExitStack() as parts, pytest.raises(NetstoreError, match="not the data folder of a netstore"):
        open_state(tmp_path, parts)
    assert not list(tmp_path.iterdir())
