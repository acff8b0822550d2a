"""States at points of an archive, from archived states and from full backups."""

from __future__ import annotations

import random
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING

import pytest

from netstore.disk.archivefile import ArchiveWriter, listing
from netstore.disk.backupfile import BackupReader
from netstore.disk.engine import LmdbEngine
from netstore.disk.statefile import StateFile
from netstore.errors import CorruptData, NetstoreError
from netstore.node.pointintime import Goal, extract, index_at, key_states
from netstore.node.replay import replay
from netstore.state.machine import Machine
from netstore.state.tables import TABLES
from netstore.state.v3 import keyvalue
from netstore.types import ClusterId, Index
from tests.node.test_replay import history, recorded
from tests.state.machines import machine_on
from tests.support.local_member import memory_engine

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from netstore.raft.entry import Entry
    from tests.node.test_replay import Recorded

CLUSTER = ClusterId(0xC1)
ENTRIES = history(3, 400)


@pytest.fixture(scope="module")
def record() -> dict[int, Recorded]:
    """What was recorded after each entry."""
    machine = machine_on(memory_engine())
    return {each.entry.index: recorded(machine) for each in replay(machine, ENTRIES)}


def state_file(path: Path, entries: Sequence[Entry]) -> Path:
    """A state that has applied these entries."""
    calls: SimpleQueue[Callable[[], object]] = SimpleQueue()
    engine = LmdbEngine(path, calls.put, TABLES, lambda _: None)
    machine = Machine(engine)
    machine.load()
    for _ in replay(machine, entries):
        pass
    machine.save()
    engine.close()
    return path


def applied(path: Path) -> Index:
    with StateFile(path) as state:
        return state.applied


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Entries 1 to 250 and 261 to 400, with states at 0, 100, 255 and 270."""
    folder = tmp_path_factory.mktemp("archive")
    writer = ArchiveWriter.open(folder, CLUSTER)
    for first in (*range(0, 250, 50), *range(260, 400, 70)):
        writer.add(ENTRIES[first : min(first + 50 if first < 260 else first + 70, 400)])
    for index in (0, 100, 255, 270):
        data = state_file(tmp_path_factory.mktemp("state") / "made", ENTRIES[:index]).read_bytes()
        writer.add_base(lambda file, data=data: Path(f"/proc/self/fd/{file}").write_bytes(data), applied)  # type: ignore[misc]  # a default
    writer.close()
    return folder


def loaded(path: Path) -> Recorded:
    """What can be read of a full backup."""
    engine = memory_engine()
    with path.open("rb") as file:
        reader = BackupReader(file, str(path))
        records = {(table, key): value for table, key, value in reader.records()}
    engine.write(Index(reader.header.index), dict(records))
    machine = machine_on(engine)
    assert (reader.header.index, reader.header.revision) == (machine.applied, machine.mvcc.revision)
    return recorded(machine)


def test_ten_random_points(archive: Path, record: dict[int, Recorded], tmp_path: Path) -> None:
    chance = random.Random(4)  # noqa: S311 - repeatable
    points = [*chance.sample(range(1, 251), 5), *chance.sample(range(270, 401), 5), 100]
    for index in points:
        target, work = tmp_path / str(index), tmp_path / "work"
        reached = extract(archive, Goal(applied=index), target, work)
        assert loaded(target) == record[index]
        assert (reached.applied, reached.revision) == (index, record[index].revision)
        assert reached.base == max(base for base in (0, 100, 270) if base <= index)
        assert not work.exists()


def test_a_revision_and_an_instant(archive: Path, record: dict[int, Recorded], tmp_path: Path) -> None:
    revision = record[180].revision
    extract(archive, Goal(revision=revision), tmp_path / "r", tmp_path / "work")
    assert loaded(tmp_path / "r") == next(each for each in record.values() if each.revision >= revision)
    # Entries have their index as time, in microseconds; some have none.
    wanted = index_at(listing(archive), 180_999)
    assert ENTRIES[wanted - 1].data
    assert not any(entry.data for entry in ENTRIES[wanted:180])
    extract(archive, Goal(instant=180_999), tmp_path / "t", tmp_path / "work")
    assert loaded(tmp_path / "t") == record[wanted]
    with pytest.raises(NetstoreError, match="nothing as old as"):
        index_at(listing(archive), 500)


def test_a_full_backup_to_begin_with(archive: Path, record: dict[int, Recorded], tmp_path: Path) -> None:
    extract(archive, Goal(applied=120), tmp_path / "base", tmp_path / "work")
    reached = extract(
        archive, Goal(applied=200), tmp_path / "made", tmp_path / "work", base_file=tmp_path / "base"
    )
    assert (reached.base, loaded(tmp_path / "made")) == (120, record[200])
    with pytest.raises(NetstoreError, match="has applied entry 120, after 60"):
        extract(archive, Goal(applied=60), tmp_path / "x", tmp_path / "work", base_file=tmp_path / "base")


def test_what_the_archive_does_not_lead_to(archive: Path, tmp_path: Path) -> None:
    def refusal(goal: Goal, folder: Path = archive) -> str:
        with pytest.raises(NetstoreError) as caught:
            extract(folder, goal, tmp_path / "x", tmp_path / "work")
        assert sorted(path.name for path in tmp_path.iterdir() if path.name in "xwork") == []
        return str(caught.value)

    assert "a gap: entries 251 to 253 are missing" in refusal(Goal(applied=253))
    assert "a gap: entries 256 to 260 are missing" in refusal(Goal(applied=265))
    assert "entries 401 to 500 are missing" in refusal(Goal(applied=500))
    assert "before 99999" in refusal(Goal(revision=99_999))
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no state to begin with" in refusal(Goal(applied=5), empty)
    ArchiveWriter.open(empty, CLUSTER).close()
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for path in archive.iterdir():
        data = bytearray(path.read_bytes())
        if path.name.endswith("96.entries"):
            data[300] ^= 1
        (damaged / path.name).write_bytes(data)
    with pytest.raises(CorruptData, match=r"96\.entries: damaged at offset"):
        extract(damaged, Goal(applied=150), tmp_path / "y", tmp_path / "work")


def test_all_states_of_a_key(archive: Path, tmp_path: Path) -> None:
    key = b"/3"
    machine = machine_on(memory_engine())
    wanted = []
    for entry, changes in replay(machine, ENTRIES):
        wanted += [
            (each.revision, each.deleted, entry.index * 1000, b"p") for each in changes if each.key == key
        ]
    found = list(key_states(archive, key, tmp_path / "work"))
    told = [(each.revision, each.deleted, each.wall, each.author) for each in found]
    # The state at 270 has the past of the gap as well, as far as it was not compacted.
    replayed = {each for each in wanted if not 250_000 < each[2] <= 270_000}
    assert replayed <= set(told) <= set(wanted)
    assert told == sorted(told)
    assert all(keyvalue.decode(each.pair).key == key for each in found)
    assert not (tmp_path / "work").exists()
