"""States at points of an archive, from archived states and from full backups."""

from __future__ import annotations

import io
import random
import shutil
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from netstore.disk import archivefile
from netstore.disk.archivefile import (
    ArchiveWriter,
    Base,
    Listing,
    encode,
    listing,
    read_entries,
    wall_of,
)
from netstore.disk.archiveretention import Retention
from netstore.disk.backupfile import BackupReader, LogPart
from netstore.disk.engine import LmdbEngine
from netstore.disk.logpart import MOST_ENTRIES, last_part
from netstore.disk.skipped import write_skipped
from netstore.errors import CorruptData, NetstoreError
from netstore.node import pointintime
from netstore.node.fullbackup import begun_header, write
from netstore.node.pointintime import Goal, Place, Reach, extract, key_states, place_of
from netstore.node.replay import replay
from netstore.raft.entry import Entry, EntryKind
from netstore.state.commands import encode as encode_command
from netstore.state.display import payload_hash
from netstore.state.envelope import read, seal
from netstore.state.machine import Machine
from netstore.state.tables import TABLES, V3_STATE
from netstore.state.v3 import keyvalue
from netstore.state.v3.commands import Put
from netstore.types import ClusterId, Index, Nanos, NodeId, Term
from tests.node.test_replay import history, recorded
from tests.state.machines import machine_on
from tests.support.local_member import memory_engine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from netstore.disk.archivefile import Archived, Head
    from netstore.node.replay import Replayed
    from tests.node.test_replay import Recorded

CLUSTER = ClusterId(0xC1)
STORE = "5a"
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


def copied(state: Path, applied: int, file: int) -> Index:
    Path(f"/proc/self/fd/{file}").write_bytes(state.read_bytes())
    return Index(applied)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Entries 1 to 250 and 261 to 400, with states at 0, 100, 255 and 270."""
    folder = tmp_path_factory.mktemp("archive")
    writer = ArchiveWriter.open(folder, CLUSTER, STORE)
    for first in (*range(0, 250, 50), *range(260, 400, 70)):
        writer.add(ENTRIES[first : min(first + 50 if first < 260 else first + 70, 400)])
    for index in (0, 100, 255, 270):
        made = state_file(tmp_path_factory.mktemp("state") / "made", ENTRIES[:index])
        writer.add_base(partial(copied, made, index))
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
    wanted = place_of(listing(archive), 180_999).applied
    assert ENTRIES[wanted - 1].data
    assert not any(entry.data for entry in ENTRIES[wanted:180])
    reached = extract(archive, Goal(instant=180_999), tmp_path / "t", tmp_path / "work")
    assert not reached.is_end
    assert loaded(tmp_path / "t") == record[wanted]
    with pytest.raises(NetstoreError, match="nothing as old as"):
        place_of(listing(archive), 500)
    reached = extract(archive, Goal(instant=10**15), tmp_path / "end", tmp_path / "work")
    last = max(entry.index for entry in ENTRIES if wall_of(entry))
    assert (reached.applied, reached.wall, reached.is_end) == (last, last * 1000, True)


def test_the_first_revision_and_one_that_an_archived_state_has(
    record: dict[int, Recorded], tmp_path: Path
) -> None:
    def tried(folder: Path, revision: int) -> Recorded:
        target = tmp_path / "made"
        target.unlink(missing_ok=True)
        reached = extract(folder, Goal(revision=revision), target, tmp_path / "work")
        found = loaded(target)
        assert (reached.revision, found) == (revision, record[reached.applied])
        return found

    folder = tmp_path / "archive"
    writer = ArchiveWriter.open(folder, CLUSTER, STORE)
    writer.add(ENTRIES)
    assert tried(folder, 1) == record[1], "a state has an entry"
    same = next(index for index in range(100, 400) if record[index].revision == record[index - 1].revision)
    wanted = record[same].revision
    first = min(index for index in record if record[index].revision == wanted)
    made = state_file(tmp_path / "state", ENTRIES[:same])
    writer.add_base(partial(copied, made, same))
    assert tried(folder, wanted) == record[first], "the entry with which it was reached, not a later one"
    writer.remove([], listing(folder).parts)
    writer.add(ENTRIES[same:])
    writer.close()
    assert tried(folder, wanted) == record[same], "what comes before is gone"


def test_points_beyond_an_archive(archive: Path, tmp_path: Path) -> None:
    for goal, text in (
        (
            Goal(applied=2**63 - 1),
            f"the archive ends with entry 400, before {2**63 - 1}; choose one up to it",
        ),
        (Goal(revision=2**63 - 1), "the archive ends with revision .*, before"),
        (Goal(instant=-(2**70)), "nothing as old as this time: it begins with 1970-01-01T00:00:00.001Z;"),
    ):
        with pytest.raises(NetstoreError, match=text):
            extract(archive, goal, tmp_path / "made", tmp_path / "work")
    writer = ArchiveWriter.open(tmp_path / "untimed", CLUSTER, STORE)
    writer.add([Entry(Index(1), Term(1), EntryKind.NORMAL, b"")])
    writer.close()
    with pytest.raises(NetstoreError, match="no entry with a time: choose a point by --to-index"):
        extract(tmp_path / "untimed", Goal(instant=2**60), tmp_path / "made", tmp_path / "work")


SECOND = 10**9


def timed(folder: Path, walls: Sequence[int]) -> None:
    """An archive whose entries from the second on have these times, two entries to a file."""
    writer = ArchiveWriter.open(folder, CLUSTER, STORE)
    entries = [ENTRIES[0]] + [
        Entry(Index(at), Term(1), EntryKind.NORMAL, seal(encode_command(Put(b"k", b"%d" % at)), wall=wall))
        for at, wall in enumerate(walls, 2)
    ]
    for begin in range(0, len(entries), 2):
        writer.add(entries[begin : begin + 2])
    writer.close()


def test_a_clock_that_was_set_back_is_told_with_an_entry_that_is_before_it(tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    timed(folder, [at * SECOND for at in (10, 20, 30, 15, 25, 40)])

    def reached(instant: int, number: int) -> tuple[int, int]:
        found = extract(folder, Goal(instant=instant), tmp_path / f"{number}", tmp_path / "work")
        return found.applied, found.first_later

    assert reached(26 * SECOND, 1) == (6, 4)
    assert reached(16 * SECOND, 2) == (5, 3)
    assert reached(30 * SECOND, 3) == (6, 0)
    extract(folder, Goal(applied=3), tmp_path / "before", tmp_path / "work")
    writer = ArchiveWriter.open(folder, CLUSTER, STORE)
    entries = [each.entry for part in listing(folder).parts for each in read_entries(part.path)]
    made = state_file(tmp_path / "state", entries[:4])
    writer.add_base(partial(copied, made, 4))
    writer.close()
    assert reached(26 * SECOND, 4) == (6, 0), "the entries before the state to begin with are not looked at"


def test_entries_of_several_members_overlap_without_a_warning(tmp_path: Path) -> None:
    """An entry has the time of who proposed it: it reaches the leader later than those of the leader."""
    folder = tmp_path / "archive"
    late = [at * SECOND // 10 - (9 * SECOND // 10 if at % 2 else 0) for at in range(20, 60)]
    timed(folder, late)
    for at in range(2, 40):
        found = extract(folder, Goal(instant=late[at]), tmp_path / f"{at}", tmp_path / "work")
        assert found.first_later == 0
        assert found.applied >= at + 2


def test_a_time_that_a_gap_makes_unknown_is_refused(tmp_path: Path) -> None:
    def entry(index: int, wall: int) -> Entry:
        return Entry(Index(index), Term(1), EntryKind.NORMAL, seal(b"c", wall=wall) if wall else b"")

    writer = ArchiveWriter.open(tmp_path, CLUSTER, STORE)
    writer.add([entry(1, 10), entry(2, 20), entry(3, 0)])
    writer.add([entry(8, 0), entry(9, 90), entry(10, 100)])
    writer.add([entry(12, 120)])
    writer.close()
    found = listing(tmp_path)
    assert place_of(found, 10) == Place(1, 10, is_end=False)
    assert place_of(found, 90) == Place(9, 90, is_end=False)
    assert place_of(found, 120) == place_of(found, 999) == Place(12, 120, is_end=True)
    for instant, gap in ((20, "4 to 7"), (89, "4 to 7"), (100, "11 to 11"), (119, "11 to 11")):
        with pytest.raises(NetstoreError, match=f"gap: entries {gap} are missing, .* choose a time before"):
            place_of(found, instant)


def test_an_archive_that_is_merged_meanwhile(
    archive: Path, record: dict[int, Recorded], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "archive"
    shutil.copytree(archive, folder)
    merged = [entry for part in listing(folder).parts[:4] for entry in read_entries(part.path)]

    def merge(each: Replayed) -> None:
        if each.entry.index == 30:
            name = f"{1:016x}-{merged[-1].entry.index:016x}.entries"
            for path in [part.path for part in listing(folder).parts[:4]]:
                path.unlink()
            (folder / name).write_bytes(encode(CLUSTER, merged))

    extract(folder, Goal(applied=90), tmp_path / "made", tmp_path / "work", progress=merge)
    assert loaded(tmp_path / "made") == record[90]
    real = archivefile.read_head
    gone = listing(folder).parts[-1].path

    def vanishing(path: Path, cluster: int | None = None) -> Head:
        path.unlink()
        return real(path, cluster)

    monkeypatch.setattr(pointintime, "read_head", vanishing)
    before = listing(folder)
    monkeypatch.setattr(pointintime, "listing", lambda _: before)
    with pytest.raises(NetstoreError, match=f"{gone.name}: cannot be read: No such file"):
        extract(folder, Goal(instant=10**15), tmp_path / "x", tmp_path / "work")


@pytest.mark.parametrize("goal", [Goal(revision=10**6), Goal(applied=240)])
def test_entries_that_are_removed_meanwhile(archive: Path, tmp_path: Path, goal: Goal) -> None:
    """The replay does not end early, as if the archive ended there."""
    folder = tmp_path / "archive"
    shutil.copytree(archive, folder)
    for base in listing(folder).bases[1:]:
        base.path.unlink()

    def remove(each: Replayed) -> None:
        if each.entry.index == 30:
            for part in listing(folder).parts[:3]:
                part.path.unlink()

    with pytest.raises(NetstoreError, match=r"entry 51 of the archive was removed meanwhile.*: run it again"):
        extract(folder, goal, tmp_path / "made", tmp_path / "work", progress=remove)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("goal", [Goal(revision=100), Goal(applied=120)])
def test_a_state_that_is_removed_meanwhile(archive: Path, tmp_path: Path, goal: Goal) -> None:
    found = listing(archive)
    gone = Base(found.bases[1].applied, tmp_path / "gone.state")
    shown = Listing(archive, found.parts, [gone])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pointintime, "listing", lambda _: shown)
        with pytest.raises(NetstoreError, match=r"the state gone.state of the archive was removed meanwhile"):
            extract(archive, goal, tmp_path / "made", tmp_path / "work")
        shown = Listing(archive, found.parts[1:], [gone])
        with pytest.raises(NetstoreError, match=r"the state gone.state of the archive was removed meanwhile"):
            list(key_states(archive, b"/3", tmp_path / "work", Reach()))


def test_a_full_backup_to_begin_with(archive: Path, record: dict[int, Recorded], tmp_path: Path) -> None:
    extract(archive, Goal(applied=120), tmp_path / "base", tmp_path / "work")
    reached = extract(
        archive, Goal(applied=200), tmp_path / "made", tmp_path / "work", base_file=tmp_path / "base"
    )
    assert (reached.base, loaded(tmp_path / "made")) == (120, record[200])
    with pytest.raises(NetstoreError, match="has applied entry 120, after 60"):
        extract(archive, Goal(applied=60), tmp_path / "x", tmp_path / "work", base_file=tmp_path / "base")
    other = tmp_path / "other"
    writer = ArchiveWriter.open(other, ClusterId(0xC2), STORE)
    writer.add(ENTRIES[:200])
    writer.close()
    with pytest.raises(NetstoreError, match="is a backup of cluster c1, and the archive is of c2"):
        extract(other, Goal(applied=200), tmp_path / "x", tmp_path / "work", base_file=tmp_path / "base")


OLD = 5 * 10**8
"""Nanoseconds that the store before this one is older."""


def of_another_store(entries: Sequence[Entry]) -> list[Entry]:
    """The same commands at the same indexes and terms, of other times: as a store that is begun anew has."""
    return [
        replace(entry, data=seal(read(entry.data).command, wall=wall + OLD, principal=b"p"))
        if wall
        else entry
        for entry, wall in ((entry, wall_of(entry)) for entry in entries)
    ]


def backup_of(path: Path, entries: Sequence[Entry], *, is_old: bool = False) -> Path:
    """A full backup of a member that has applied these entries; `is_old`: made by an earlier release."""
    made = state_file(path.with_suffix(".state"), entries)
    header = begun_header(CLUSTER, NodeId(7), "seven", Nanos(1), "1")
    part = last_part(entries[-5:])
    assert part is not None
    write(made, path, header if is_old else replace(header, log=part))
    return path


@pytest.mark.parametrize("is_old", [False, True])
def test_a_full_backup_of_another_store_is_refused(
    archive: Path, record: dict[int, Recorded], tmp_path: Path, is_old: bool
) -> None:
    """Although it is of a cluster with the same id."""
    index = max(at for at in range(150, 181) if record[at].revision > record[at - 1].revision)
    own = backup_of(tmp_path / "own", ENTRIES[:index], is_old=is_old)
    reached = extract(archive, Goal(applied=200), tmp_path / "made", tmp_path / "work", base_file=own)
    assert (reached.base, loaded(tmp_path / "made")) == (index, record[200])
    other = backup_of(tmp_path / "other", of_another_store(ENTRIES[:index]), is_old=is_old)
    why = "does not say of which log it is" if is_old else "is of another log than the archive"
    with pytest.raises(NetstoreError, match=f"other: {why}"):
        extract(archive, Goal(applied=200), tmp_path / "x", tmp_path / "work", base_file=other)
    assert not (tmp_path / "x").exists()


def test_a_full_backup_of_an_earlier_release_that_goes_on_after_its_last_v3_write_is_refused(
    archive: Path, record: dict[int, Recorded], tmp_path: Path
) -> None:
    """What follows that write in the backup, such as v2 writes, may be of another log."""
    last = next(at for at in range(150, 250) if record[at].revision == record[at - 1].revision)
    old = backup_of(tmp_path / "old", ENTRIES[:last], is_old=True)
    with pytest.raises(
        NetstoreError, match=rf"old: does not say .* has no entry {last} that wrote .*: make a new backup, or"
    ):
        extract(archive, Goal(applied=250), tmp_path / "x", tmp_path / "work", base_file=old)


@pytest.mark.parametrize("first", [121, 120 - MOST_ENTRIES, -(2**62)])
def test_a_full_backup_whose_header_tells_of_too_few_or_too_many_entries_is_refused(
    archive: Path, tmp_path: Path, first: int
) -> None:
    made = state_file(tmp_path / "state", ENTRIES[:120])
    header = begun_header(CLUSTER, NodeId(7), "seven", Nanos(1), "1")
    write(made, tmp_path / "bad", replace(header, log=LogPart(first=first, last=120, digest="00" * 16)))
    with pytest.raises(CorruptData, match=f"bad: its header has the field log with entries {first} to 120,"):
        extract(archive, Goal(applied=200), tmp_path / "x", tmp_path / "w", base_file=tmp_path / "bad")


def test_for_the_header_no_more_files_are_read_than_back_to_an_entry_with_a_time(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def noted(path: Path, cluster: int | None = None) -> Iterator[Archived]:
        read.append(path.name)
        return read_entries(path, cluster)

    monkeypatch.setattr(pointintime, "read_entries", noted)
    extract(archive, Goal(applied=100), tmp_path / "made", tmp_path / "work")
    assert read == [listing(archive).parts[1].path.name]
    header = BackupReader(io.BytesIO((tmp_path / "made").read_bytes()), "made").header
    assert header.log == last_part(ENTRIES[60:100])


def test_a_full_backup_of_a_member_that_was_left_behind_is_refused(archive: Path, tmp_path: Path) -> None:
    """The others had lost it, and were forced to go on without what it had last."""
    forked = [*ENTRIES[:179], replace(ENTRIES[179], term=Term(ENTRIES[179].term + 1), data=b"")]
    lost = backup_of(tmp_path / "lost", forked)
    with pytest.raises(NetstoreError, match="is of another log than the archive"):
        extract(archive, Goal(applied=200), tmp_path / "x", tmp_path / "work", base_file=lost)


@pytest.mark.parametrize("is_old", [False, True])
def test_a_full_backup_of_which_the_archive_has_no_entry_is_refused(tmp_path: Path, is_old: bool) -> None:
    writer = ArchiveWriter.open(tmp_path / "archive", CLUSTER, STORE)
    writer.add(ENTRIES[100:200])
    writer.close()
    before = backup_of(tmp_path / "before", ENTRIES[:100], is_old=is_old)
    why = (
        "has no entry 100 that wrote" if is_old else "no entry that shows .* up to 100 is of its log: name a"
    )
    with pytest.raises(NetstoreError, match=why):
        extract(tmp_path / "archive", Goal(applied=150), tmp_path / "x", tmp_path / "w", base_file=before)


POISON = seal(b"\x92\x5a\xc4\x00", wall=51_000)


def skipping(folder: Path, skipped: dict[Index, str]) -> Path:
    """An archive of a member that did not apply entry 51."""
    writer = ArchiveWriter.open(folder, CLUSTER, STORE, skipped=skipped)
    poison = Entry(Index(51), Term(1), EntryKind.NORMAL, POISON)
    later = [replace(entry, index=Index(entry.index + 1)) for entry in ENTRIES[50:200]]
    writer.add([*ENTRIES[:50], poison, *later])
    writer.close()
    return folder


def test_entries_that_were_passed_over_are_passed_over_again(
    record: dict[int, Recorded], tmp_path: Path
) -> None:
    folder = skipping(tmp_path / "archive", {Index(51): payload_hash(POISON)})
    extract(folder, Goal(applied=101), tmp_path / "made", tmp_path / "work")
    assert loaded(tmp_path / "made").pairs == record[100].pairs
    own = backup_of(tmp_path / "own", ENTRIES[:50])
    extract(folder, Goal(applied=61), tmp_path / "from", tmp_path / "work", base_file=own)
    assert loaded(tmp_path / "from").pairs == record[60].pairs
    last = max(each.revision for each in key_states(folder, b"/3", tmp_path / "work", Reach()))
    assert last > record[100].revision


def test_an_archive_that_does_not_tell_what_was_passed_over(
    record: dict[int, Recorded], tmp_path: Path
) -> None:
    folder = skipping(tmp_path / "archive", {})
    way_out = (
        r"^entry 51 of the log: not a command of this version: command 90 is not known; if the members passed"
        rf" over it \(netstored --skip-entry 51\), copy the file skipped of .* to {folder}/skipped; else"
        " upgrade netstore, or choose a point before it$"
    )
    with pytest.raises(NetstoreError, match=way_out):
        extract(folder, Goal(applied=101), tmp_path / "made", tmp_path / "work")
    with pytest.raises(NetstoreError, match=way_out):
        list(key_states(folder, b"/3", tmp_path / "work", Reach()))
    extract(folder, Goal(applied=50), tmp_path / "before", tmp_path / "work")
    write_skipped(folder, {Index(51): payload_hash(POISON)})
    extract(folder, Goal(applied=101), tmp_path / "made", tmp_path / "work")
    assert loaded(tmp_path / "made").pairs == record[100].pairs
    write_skipped(folder, {Index(51): "00" * 8})
    with pytest.raises(NetstoreError, match=r"entry 51 .* is not the one .*, and 0000000000000000 was to be"):
        extract(folder, Goal(applied=101), tmp_path / "x", tmp_path / "work")
    (folder / "skipped").write_bytes(b"x")
    with pytest.raises(CorruptData, match=r"archive/skipped: damaged.*: put the file of this name"):
        extract(folder, Goal(applied=101), tmp_path / "x", tmp_path / "work")


def cut(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize("goal", [Goal(applied=50), Goal(applied=150), Goal(revision=10)])
def test_a_damaged_state_is_passed_over_where_an_older_one_leads_to_the_point(
    archive: Path, record: dict[int, Recorded], tmp_path: Path, goal: Goal
) -> None:
    folder = tmp_path / "archive"
    shutil.copytree(archive, folder)
    damaged = listing(folder).bases[1].path
    cut(damaged)
    told: list[str] = []
    reached = extract(folder, goal, tmp_path / "made", tmp_path / "work", warn=told.append)
    assert (reached.base, loaded(tmp_path / "made")) == (0, record[reached.applied])
    if goal.applied == 50:
        assert not told, "it is not looked at"
    else:
        (text,) = told
        assert text.startswith(f"{damaged}: the state is damaged: cut short: ")
        assert text.endswith(" bytes are gone; an older state is taken, if there is one")


def spoil_root(path: Path, table: str) -> None:
    """Make the root page of a table one that LMDB ends the process for: it is no leaf any more."""
    data = bytearray(path.read_bytes())
    name, at, spoiled = table.encode(), 0, 0
    while (at := data.find(name, at) + 1) > 0:
        # After the name of a table are 48 bytes of what LMDB knows of it; the last 8 are its root page.
        end = at - 1 + len(name) + 48
        page = int.from_bytes(data[end - 8 : end], "little") * 4096
        if data[at - 2 : at - 1] != b":" and 0 < page < len(data):
            data[page + 10 : page + 12] = b"\1\0"
            spoiled += 1
    assert spoiled
    path.write_bytes(data)


def test_damage_that_would_end_the_command_is_passed_over(
    archive: Path, record: dict[int, Recorded], tmp_path: Path
) -> None:
    folder = tmp_path / "archive"
    shutil.copytree(archive, folder)
    damaged = listing(folder).bases[1].path
    spoil_root(damaged, V3_STATE)
    told: list[str] = []
    goal = Goal(revision=record[150].revision)
    reached = extract(folder, goal, tmp_path / "made", tmp_path / "work", warn=told.append)
    assert (reached.base, loaded(tmp_path / "made")) == (0, record[reached.applied])
    assert told[0].startswith(f"{damaged}: the state is damaged: its pages are damaged: ")


def test_a_damaged_state_to_which_no_older_one_leads(archive: Path, tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    shutil.copytree(archive, folder)
    found = listing(folder)
    for part in found.parts[:1]:
        part.path.unlink()
    cut(found.bases[1].path)
    found.bases[0].path.unlink()
    with pytest.raises(
        CorruptData, match=f"^{found.bases[1].path}: the state is damaged: .*older full backup"
    ):
        extract(folder, Goal(applied=150), tmp_path / "x", tmp_path / "work")
    told: list[str] = []
    states = list(key_states(folder, b"/3", tmp_path / "work", Reach(), told.append))
    assert [each.revision for each in states] == sorted(each.revision for each in states)
    assert told[0].startswith(f"{found.bases[1].path}: the state is damaged: ")


@pytest.mark.parametrize("skipped", [0, 50])
def test_a_point_before_the_oldest_state(record: dict[int, Recorded], tmp_path: Path, skipped: int) -> None:
    folder = tmp_path / "archive"
    writer = ArchiveWriter.open(folder, CLUSTER, STORE)
    writer.add(ENTRIES[skipped:200])
    made = state_file(tmp_path / "state", ENTRIES[:100])
    writer.add_base(partial(copied, made, 100))
    writer.close()
    target, work = tmp_path / "made", tmp_path / "work"
    if skipped:
        with pytest.raises(NetstoreError, match="has applied entry 100, which is after this point"):
            extract(folder, Goal(applied=60), target, work)
        return
    for goal in (Goal(applied=60), Goal(revision=record[60].revision)):
        reached = extract(folder, goal, target, work)
        assert reached.base == 0
        assert loaded(target) == record[reached.applied]
        target.unlink()
    states = [
        each.revision
        for _, changes in replay(machine_on(memory_engine()), ENTRIES[:200])
        for each in changes
        if each.key == b"/3"
    ]
    assert [each.revision for each in key_states(folder, b"/3", work, Reach())] == states


def test_points_within_the_time_that_is_kept(record: dict[int, Recorded], tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    writer = ArchiveWriter.open(folder, CLUSTER, STORE)
    for first in range(0, 400, 50):
        writer.add(ENTRIES[first : first + 50])
    for index in (0, 100, 250):
        writer.add_base(partial(copied, state_file(tmp_path / f"state{index}", ENTRIES[:index]), index))
    border = 180_999
    retention = Retention(writer)
    assert retention.run(border, 10**15).removed == 1 + 2
    found = listing(folder)
    assert [base.applied for base in found.bases] == [100, 250]
    oldest = place_of(found, retention.oldest).applied
    assert oldest <= 101
    chance = random.Random(6)  # noqa: S311 - repeatable
    instants = [border, retention.oldest, *chance.sample(range(border, 400_000), 6)]
    for number, instant in enumerate(instants):
        reached = extract(folder, Goal(instant=instant), tmp_path / f"{number}", tmp_path / "work")
        assert loaded(tmp_path / f"{number}") == record[reached.applied]
        assert reached.applied == max(entry.index for entry in ENTRIES if 0 < wall_of(entry) <= instant)
    with pytest.raises(NetstoreError, match="nothing as old as"):
        extract(folder, Goal(instant=60_000), tmp_path / "x", tmp_path / "work")
    with pytest.raises(NetstoreError, match="oldest state of the archive has applied entry 100"):
        extract(folder, Goal(applied=60), tmp_path / "x", tmp_path / "work")
    last = max(each.revision for each in record.values())
    reached = extract(folder, Goal(revision=last), tmp_path / "last", tmp_path / "work")
    assert loaded(tmp_path / "last") == record[reached.applied]
    assert next(iter(key_states(folder, b"/3", tmp_path / "work", Reach()))).revision > 0
    writer.close()


def test_what_the_archive_does_not_lead_to(archive: Path, tmp_path: Path) -> None:
    def refusal(goal: Goal, folder: Path = archive) -> str:
        with pytest.raises(NetstoreError) as caught:
            extract(folder, goal, tmp_path / "x", tmp_path / "work")
        assert sorted(path.name for path in tmp_path.iterdir() if path.name in "xwork") == []
        return str(caught.value)

    assert "a gap: entries 251 to 253 are missing" in refusal(Goal(applied=253))
    assert "a gap: entries 256 to 260 are missing" in refusal(Goal(applied=265))
    assert "the archive ends with entry 400, before 500" in refusal(Goal(applied=500))
    assert "before 99999" in refusal(Goal(revision=99_999))
    shutil.copytree(archive, gapped := tmp_path / "gapped")
    for base in listing(gapped).bases[2:]:
        base.path.unlink()
    told = refusal(Goal(revision=99_999), gapped)
    assert told.startswith("the archive has a gap: entries 251 to 260 are missing, and from revision ")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no state to begin with" in refusal(Goal(applied=5), empty)
    ArchiveWriter.open(empty, CLUSTER, STORE).close()
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for path in archive.iterdir():
        data = bytearray(path.read_bytes())
        if path.name.endswith("96.entries"):
            data[300] ^= 1
        (damaged / path.name).write_bytes(data)
    with pytest.raises(CorruptData, match=r"96\.entries: damaged at offset"):
        extract(damaged, Goal(applied=150), tmp_path / "y", tmp_path / "work")


def compacting(path: Path, entries: Sequence[Entry]) -> tuple[Path, int, int]:
    """A state that has applied these entries and a compaction of all that came before: what it has compacted,
    and its revision.
    """
    calls: SimpleQueue[Callable[[], object]] = SimpleQueue()
    engine = LmdbEngine(path, calls.put, TABLES, lambda _: None)
    machine = Machine(engine)
    machine.load()
    for _ in replay(machine, entries):
        pass
    machine.mvcc.compact(machine.mvcc.revision)
    while machine.sweeping:
        machine.sweep()
    machine.save()
    found = machine.mvcc.compacted, machine.mvcc.revision
    engine.close()
    return path, *found


def told_states(folder: Path, work: Path) -> tuple[list[int], Reach, list[str]]:
    """The revisions of the states of a key, and what is told of them."""
    reach, told = Reach(), list[str]()
    states = [each.revision for each in key_states(folder, b"/3", work, reach, told.append)]
    return states, reach, told


def test_what_an_archive_does_not_know_of_a_key_is_told(
    archive: Path, record: dict[int, Recorded], tmp_path: Path
) -> None:
    whole = tmp_path / "whole"
    writer = ArchiveWriter.open(whole, CLUSTER, STORE)
    writer.add(ENTRIES)
    writer.close()
    wanted, reach, told = told_states(whole, tmp_path / "work")
    assert (reach, told) == (Reach(0, record[400].revision), [])
    made, compacted, _ = compacting(tmp_path / "made", ENTRIES[:200])

    late = tmp_path / "late"
    writer = ArchiveWriter.open(late, CLUSTER, STORE)
    writer.add_base(partial(copied, made, 200))
    states, reach, _ = told_states(late, tmp_path / "work")
    assert reach == Reach(compacted, record[200].revision), "a state alone"
    assert states == [each for each in wanted if each <= compacted][-1:]
    writer.add(ENTRIES[200:])
    writer.close()
    states, reach, _ = told_states(late, tmp_path / "work")
    assert reach == Reach(compacted, record[400].revision)
    assert states == wanted[-len(states) :]
    assert states[1] > compacted

    gap = tmp_path / "gap"
    writer = ArchiveWriter.open(gap, CLUSTER, STORE)
    writer.add(ENTRIES[:100])
    writer.add(ENTRIES[250:300])
    writer.close()
    states, reach, told = told_states(gap, tmp_path / "work")
    assert reach == Reach(0, record[100].revision)
    assert told == ["no state of the archive leads to its entries 251 to 300: they are not looked at"]
    writer = ArchiveWriter.open(gap, CLUSTER, STORE)
    writer.add_base(partial(copied, made, 200))
    writer.close()
    _, reach, _ = told_states(gap, tmp_path / "work")
    assert reach == Reach(compacted, record[200].revision), "changes in the gap were compacted"
    _, reach, told = told_states(archive, tmp_path / "work")
    assert (reach.last, told) == (record[400].revision, [])


def test_all_states_of_a_key(archive: Path, tmp_path: Path) -> None:
    key = b"/3"
    machine = machine_on(memory_engine())
    wanted = []
    for entry, changes in replay(machine, ENTRIES):
        wanted += [
            (each.revision, each.deleted, entry.index * 1000, b"p") for each in changes if each.key == key
        ]
    found = list(key_states(archive, key, tmp_path / "work", Reach()))
    told = [(each.revision, each.deleted, each.wall, each.author) for each in found]
    # The state at 270 has the past of the gap as well, as far as it was not compacted.
    replayed = {each for each in wanted if not 250_000 < each[2] <= 270_000}
    assert replayed <= set(told) <= set(wanted)
    assert told == sorted(told)
    assert all(keyvalue.decode(each.pair).key == key for each in found)
    assert not (tmp_path / "work").exists()
