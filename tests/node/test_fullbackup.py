"""Full backups: what is in them, and what verifying one finds."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from netstore.disk.backupfile import BackupReader, BackupWriter, Header
from netstore.disk.statefile import StateFile
from netstore.errors import CorruptData, NetstoreError
from netstore.node import fullbackup
from netstore.node.fullbackup import READ_THROUGH, RESTORED, Found, NotDone
from netstore.state import tables
from netstore.state.features import LEVEL
from netstore.state.v3 import commands as v3
from tests.support.backups import LONG_KEY, Place

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ENOUGH = 1 << 30


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.engine.close()


@pytest.fixture
def full(place: Place) -> Path:
    place.fill()
    return place.make_full().path


def rewritten(path: Path, change: Any, **header: Any) -> Path:
    """Another backup whose checksums fit, of records that `change` gives, and with other fields."""
    target = path.with_name("other.backup")
    with path.open("rb") as file, target.open("wb") as other:
        reader = BackupReader(file, str(path))
        writer = BackupWriter(other, msgspec.structs.replace(reader.header, **header))
        for record in reader.records():
            for each in change(record):
                writer.add(*each)
        writer.finish()
    return target


def test_every_record_is_in_it(place: Place, full: Path) -> None:
    with (place.folder / "again.lmdb").open("w+b") as file:
        place.engine.copy_to(file.fileno())
    with StateFile(place.folder / "again.lmdb") as source:
        stored = {(table, key): value for table in tables.TABLES for key, value in source.scan(table)}
        everything = list(source.records())
    with full.open("rb") as file:
        reader = BackupReader(file, "FILE")
        found = list(reader.records())
    assert found == everything
    in_backup = {(table, key): value for table, key, value in found}
    assert (tables.NODES, LONG_KEY) in in_backup, "a key that LMDB does not take"
    assert stored.items() <= in_backup.items()
    assert len(in_backup) == len(found) == sum(reader.counts.values())
    assert {table for table, _, _ in found} == set(tables.TABLES) - {tables.REMOVED}


def test_the_header_says_what_the_state_says(place: Place, full: Path) -> None:
    with full.open("rb") as file:
        header = BackupReader(file, "FILE").header
    machine = place.machine
    assert (header.cluster, header.member, header.name, header.version) == ("c1", "7", "seven", "1.0")
    assert header.made == "2001-09-09T01:46:40Z"
    assert header.index == machine.applied
    assert (header.revision, header.compacted) == (machine.mvcc.revision, 3)
    assert (header.v2_index, header.level) == (machine.tree.index, 2)


def test_a_backup_is_restored_into_memory(place: Place, full: Path) -> None:
    found = fullbackup.verify(full, ENOUGH)
    assert found.how == RESTORED
    assert found.keys == 1
    assert (found.leases, found.members) == (1, 1)
    assert found.nodes == len(place.machine.tree) == found.records[tables.NODES]
    assert found == fullbackup.run("verify", full, str(ENOUGH)), "in a process of its own"


def test_a_backup_too_large_for_memory_is_read_through(full: Path) -> None:
    found = fullbackup.verify(full, full.stat().st_size)
    assert (found.how, found.keys) == (READ_THROUGH, None)
    assert found.nodes == fullbackup.verify(full, ENOUGH).nodes


@pytest.mark.parametrize("memory", [0, ENOUGH])
def test_damage_is_told_with_its_offset(full: Path, memory: int) -> None:
    data = bytearray(full.read_bytes())
    at = data.index(LONG_KEY)
    data[at] ^= 1
    full.write_bytes(data)
    with pytest.raises(CorruptData, match=r"\.full\.part: damaged at offset \d+: the checksum"):
        fullbackup.run("verify", full, str(memory))


@pytest.mark.parametrize("memory", [0, ENOUGH])
def test_a_table_that_is_not_known_is_refused(full: Path, memory: int) -> None:
    other = rewritten(full, lambda record: [(record[0].replace("plugins", "later"), *record[1:])])
    with pytest.raises(CorruptData, match="a table 'later' that is not known"):
        fullbackup.verify(other, memory)


@pytest.mark.parametrize("table", [tables.NODES, tables.RECORDS, tables.LEASES, tables.STATE])
@pytest.mark.parametrize("memory", [0, ENOUGH])
def test_a_record_that_cannot_be_read_is_refused(full: Path, table: str, memory: int) -> None:
    other = rewritten(full, lambda each: [(*each[:2], b"\xc1" if each[0] == table else each[2])])
    with pytest.raises(CorruptData, match=f"other.backup: cannot be restored: table {table}"):
        fullbackup.verify(other, memory)


def test_a_lost_record_of_the_window_is_found(full: Path) -> None:
    other = rewritten(full, lambda each: [] if each[:2] == (tables.WINDOW, b"003") else [each])
    with pytest.raises(CorruptData, match="cannot be restored"):
        fullbackup.verify(other, ENOUGH)


@pytest.mark.parametrize("field", ["revision", "compacted", "v2_index", "level"])
def test_a_header_that_does_not_fit_is_refused(full: Path, field: str) -> None:
    other = rewritten(full, lambda each: [each], **{field: 1})
    with pytest.raises(CorruptData, match="the header says"):
        fullbackup.verify(other, ENOUGH)


def test_a_later_feature_level_is_refused(full: Path) -> None:
    other = rewritten(full, lambda each: [each], level=LEVEL + 1)
    with pytest.raises(NotDone, match=f"is of feature level {LEVEL + 1} .*: upgrade netstore"):
        fullbackup.run("verify", other, "0")


def test_what_is_no_backup_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"something else")
    with pytest.raises(NetstoreError, match="is no backup of netstore"):
        fullbackup.verify(other, 0)
    with pytest.raises(NotDone, match="none: No such file"):
        fullbackup.run("verify", tmp_path / "none", "0")


def test_a_file_in_the_way_is_not_overwritten(place: Place, tmp_path: Path) -> None:
    place.apply(v3.Put(b"k", b"1"))
    place.make_full()
    there = tmp_path / "there"
    there.write_text("kept")
    with pytest.raises(NotDone, match="there: File exists"):
        fullbackup.run(
            "write", place.folder / "state.lmdb", there, msgspec.json.encode(place.header()).decode()
        )
    assert there.read_text() == "kept"


def test_a_process_that_is_killed_is_no_verdict() -> None:
    with pytest.raises(NotDone, match="ended with SIGKILL"):
        fullbackup.outcome(-9, b"", b"")


def test_what_a_process_tells_is_read() -> None:
    header = Header(
        id="0",
        cluster="1",
        member="2",
        name="",
        version="",
        made="",
        index=1,
        revision=1,
        compacted=-1,
        v2_index=0,
        level=1,
    )
    found = Found(header=header, size=1, digest="00", records={"v3": 1}, nodes=0, leases=0, members=0)
    assert fullbackup.outcome(0, msgspec.json.encode(found), b"") == found
    with io.BytesIO() as file:
        assert BackupWriter(file, header).size == len(file.getvalue())
