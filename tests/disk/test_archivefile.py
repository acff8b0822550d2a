"""The files of an archive: what is written is read again, whatever a crash left, and damage is told."""

from __future__ import annotations

import os
import random
import re
import subprocess
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from netstore.disk import archivefile, archiveretention
from netstore.disk.archivefile import (
    Archived,
    ArchiveWriter,
    Base,
    check_own,
    encode,
    is_archive,
    listing,
    read_entries,
    read_head,
    wall_of,
)
from netstore.disk.archiveretention import Retention
from netstore.disk.datadir import DataDir
from netstore.disk.skipped import read_archived_skips
from netstore.errors import CorruptData, NetstoreError
from netstore.inputfile import NotRegular
from netstore.raft.change import Change
from netstore.raft.entry import Entry, EntryKind
from netstore.state.envelope import seal
from netstore.types import ClusterId, Index, Term

if TYPE_CHECKING:
    from collections.abc import Callable

CLUSTER = ClusterId(0xC1)
STORE = "5a"


def entry(index: int, wall: int | None = None, size: int = 10) -> Entry:
    data = b"" if wall is None else seal(b"c" * size, wall=wall, principal=b"me")
    return Entry(Index(index), Term(3), EntryKind.NORMAL, data)


def entries(first: int, last: int) -> list[Entry]:
    return [entry(index, index * 10) for index in range(first, last + 1)]


def state(data: bytes, applied: int) -> Callable[[int], Index]:
    """What copies a state that has applied so many entries."""

    def copy(file: int) -> Index:
        os.write(file, data)
        return Index(applied)

    return copy


def stored(folder: Path) -> list[Entry]:
    return [each.entry for part in listing(folder).parts for each in read_entries(part.path, CLUSTER)]


def test_a_pipe_in_the_place_of_the_identity_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "identity")
    with pytest.raises(NotRegular, match="is a pipe"):
        is_archive(tmp_path)


def test_what_is_archived_is_read_again(tmp_path: Path) -> None:
    writer = ArchiveWriter.open(tmp_path / "a", CLUSTER, STORE)
    change = Entry(Index(3), Term(4), EntryKind.CHANGE, Change((), seal(b"x", wall=77)).encode())
    wanted = [entry(1), entry(2, 55), change, entry(4), Entry(Index(5), Term(4), EntryKind.NORMAL, b"?")]
    assert writer.add(wanted) == 77
    assert stored(tmp_path / "a") == wanted
    (part,) = listing(tmp_path / "a").parts
    assert [each.wall for each in read_entries(part.path)] == [0, 55, 77, 0, 0]
    assert read_head(part.path, CLUSTER)[:6] == (CLUSTER, 1, 5, 55, 77, 5)
    assert part.path.name == "0000000000000001-0000000000000005.entries"
    assert part.path.stat().st_mode & 0o777 == 0o600
    writer.close()


def test_times() -> None:
    broken = Entry(Index(1), Term(1), EntryKind.CHANGE, b"\xff" * 30)
    assert [wall_of(each) for each in (entry(1), entry(1, 9), broken)] == [0, 9, 0]


def test_small_files_are_merged_and_large_ones_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archivefile, "MERGED_FILES", 4)
    monkeypatch.setattr(archivefile, "MERGED_BYTES", 2000)
    writer = ArchiveWriter.open(tmp_path, CLUSTER, STORE)
    for index in range(1, 4):
        writer.add([entry(index, index)])
    assert len(writer.listing.parts) == 3
    writer.add([entry(4, 4)])
    assert [(part.first, part.last) for part in writer.listing.parts] == [(1, 4)]
    writer.add([entry(5, 5, 3000)])
    assert [(part.first, part.last) for part in writer.listing.parts] == [(1, 4), (5, 5)], "it is large"
    writer.add([entry(6, 6, 1000)])
    writer.add([entry(7, 7, 1000)])
    assert [(part.first, part.last) for part in writer.listing.parts] == [(1, 4), (5, 5), (6, 7)]
    assert [each.index for each in stored(tmp_path)] == [*range(1, 8)]
    assert sorted(path.name[-8:] for path in tmp_path.iterdir()) == [*[".entries"] * 3, "identity", "lock"]
    writer.close()


def test_a_gap_is_known_and_nothing_is_read_across_it(tmp_path: Path) -> None:
    writer = ArchiveWriter.open(tmp_path, CLUSTER, STORE)
    writer.add(entries(1, 4))
    writer.add(entries(8, 9))
    found = writer.listing
    assert (found.gaps, found.stretches, found.last) == ([(5, 7)], [(1, 4), (8, 9)], 9)
    assert [part.first for part in found.between(2, 4)] == [1]
    for first, last in ((2, 8), (5, 6), (4, 9)):
        with pytest.raises(NetstoreError, match=r"gap: entries 5 to \d+ are missing"):
            found.between(first, last)
    with pytest.raises(NetstoreError, match="the archive ends with entry 9, before 11"):
        found.between(9, 11)
    assert not found.has_usable_base
    writer.add_base(state(b"state", 4))
    assert not writer.listing.has_usable_base, "it leads to the gap"
    base = writer.add_base(state(b"state", 7))
    assert base == Base(7, tmp_path / "0000000000000007.state")
    assert (base.path.read_bytes(), writer.listing.has_usable_base) == (b"state", True)
    writer.close()


def test_one_member_of_one_cluster_writes(tmp_path: Path) -> None:
    writer = ArchiveWriter.open(tmp_path, CLUSTER, STORE)
    with pytest.raises(NetstoreError, match="another member writes its archive there"):
        ArchiveWriter.open(tmp_path, CLUSTER, STORE)
    writer.add(entries(1, 1))
    writer.close()
    for words in ("is the archive of cluster c1, not of c2", "entries: is of cluster c1, not of c2"):
        with pytest.raises(NetstoreError, match=words):
            ArchiveWriter.open(tmp_path, ClusterId(0xC2), STORE)
        (tmp_path / "identity").unlink(missing_ok=True)  # as of an earlier release
    ArchiveWriter.open(tmp_path, CLUSTER, STORE).close()
    with pytest.raises(NetstoreError, match="name the folder of an archive"):
        listing(tmp_path / "none")


def test_whose_archive_it_is(tmp_path: Path) -> None:
    def reopened(store: str) -> ArchiveWriter:
        writer = ArchiveWriter.open(tmp_path, CLUSTER, store)
        writer.close()
        return writer

    file = tmp_path / "identity"
    reopened("bb")
    assert not reopened("aa").is_others, "there was nothing in it"
    text = file.read_bytes()
    assert text.startswith(b"netstore archive\ncluster c1\nstore aa\ncheck ")
    writer = ArchiveWriter.open(tmp_path, CLUSTER, "aa")
    writer.add(entries(1, 2))
    writer.close()
    assert not reopened("aa").is_others
    assert reopened("bb").is_others
    assert file.read_bytes() == text
    writer = ArchiveWriter.open(tmp_path, CLUSTER, "bb")
    writer.add(entries(3, 3))  # its log was found to go on here
    writer.close()
    assert reopened("aa").is_others
    file.unlink()
    assert not reopened("aa").is_others, "an earlier release wrote it"
    assert not file.exists()
    writer = ArchiveWriter.open(tmp_path, CLUSTER, "aa")
    writer.add(entries(4, 4))
    writer.close()
    assert file.read_bytes() == text
    for damaged in (text[:-3], text.replace(b"aa", b"ab"), b""):
        file.write_bytes(damaged)
        with pytest.raises(CorruptData, match="identity: damaged: remove it if the archive is of this store"):
            reopened("aa")


@pytest.mark.parametrize(
    ("made", "text", "what"),
    [
        ("identity", "netstore data folder\n", "the data of a netstored"),
        ("state/state.lmdb", "x", "the data of a netstored"),
        ("state.lmdb", "x", "the data of a netstored"),
        ("0000000000000000.wal", "x", "the log of a netstored"),
        ("0000000000000000-0000000000000000.wal", "x", "the log of an etcd"),
        ("member/snap/db", "x", "the data of an etcd (the folder member)"),
        ("member/wal/0.wal", "x", "the data of an etcd (the folder member)"),
    ],
)
def test_the_folder_of_a_store_is_no_place_for_an_archive(
    tmp_path: Path, made: str, text: str, what: str
) -> None:
    path = tmp_path / "store" / made
    path.parent.mkdir(parents=True)
    path.write_text(text)
    told = f"store: has {re.escape(what)}; nothing was changed: leave it as it is"
    with pytest.raises(NetstoreError, match=told):
        ArchiveWriter.open(tmp_path / "store", CLUSTER, STORE)
    with pytest.raises(NetstoreError, match=told):
        check_own(tmp_path / "store", DataDir.glance(tmp_path / "data"))
    assert not (tmp_path / "store" / "lock").exists()


def test_an_identity_of_something_else_is_not_to_be_removed(tmp_path: Path) -> None:
    (tmp_path / "identity").write_text("of my bank\n")
    with pytest.raises(NetstoreError, match="is no archive") as caught:
        ArchiveWriter.open(tmp_path, CLUSTER, STORE)
    assert "remove" not in str(caught.value)


def test_a_state_of_another_store_that_is_further_than_the_entries_is_put_aside(tmp_path: Path) -> None:
    """Nothing shows that it is of the log that is archived from then on."""
    writer = ArchiveWriter.open(tmp_path, CLUSTER, STORE)
    writer.add(entries(1, 5))
    writer.add_base(state(b"5", 5))
    writer.add_base(state(b"7", 7))
    writer.close()
    for store, bases in ((STORE, [5, 7]), ("77", [5])):
        writer = ArchiveWriter.open(tmp_path, CLUSTER, store)
        writer.tidy()
        assert [base.applied for base in writer.listing.bases] == bases
        writer.close()
    assert (tmp_path / f"{7:016x}.state.unproven").read_bytes() == b"7"


def test_what_is_not_applied_is_noted_with_what_was_noted_before(tmp_path: Path) -> None:
    def noted(store: str, skipped: dict[Index, str]) -> dict[Index, str]:
        writer = ArchiveWriter.open(tmp_path, CLUSTER, store, skipped=skipped)
        before = read_archived_skips(tmp_path)
        writer.tidy()
        writer.close()
        assert before == {} or before.items() <= read_archived_skips(tmp_path).items()
        return read_archived_skips(tmp_path)

    assert noted(STORE, {}) == {}
    assert not (tmp_path / "skipped").exists()
    assert noted(STORE, {Index(3): "aa"}) == {3: "aa"}
    assert noted("77", {Index(9): "bb"}) == {3: "aa", 9: "bb"}
    assert noted("77", {}) == {3: "aa", 9: "bb"}
    (tmp_path / "skipped").write_bytes(b"x")
    writer = ArchiveWriter.open(tmp_path, CLUSTER, STORE, skipped={Index(3): "aa"})
    writer.tidy()
    writer.close()
    assert read_archived_skips(tmp_path) == {3: "aa"}


def test_damage_is_told(tmp_path: Path) -> None:
    writer = ArchiveWriter.open(tmp_path, CLUSTER, STORE)
    writer.add(entries(1, 3))
    writer.close()
    (part,) = listing(tmp_path).parts
    whole = part.path.read_bytes()
    chance = random.Random(5)  # noqa: S311 - repeatable
    for place in [*range(len(archivefile.MAGIC)), *chance.sample(range(len(whole)), 60)]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << chance.randrange(8)
        part.path.write_bytes(damaged)
        with pytest.raises(NetstoreError):
            list(read_entries(part.path))
    for size in (0, 20, len(whole) - 1, len(whole) // 2):
        part.path.write_bytes(whole[:size])
        with pytest.raises(CorruptData):
            list(read_entries(part.path))
    part.path.write_bytes(whole + b"\0")
    with pytest.raises(CorruptData):
        list(read_entries(part.path))


def test_a_pipe_in_the_place_of_a_file_is_refused_at_once(tmp_path: Path) -> None:
    file = tmp_path / f"{1:016x}-{5:016x}.entries"
    os.mkfifo(file)
    for reading in (read_head, lambda path: list(read_entries(path))):
        with pytest.raises(NetstoreError) as told:
            reading(file)
        assert str(told.value) == f"{file}: cannot be read: is a pipe, not a regular file; move it away"
    file.unlink()
    os.mkfifo(tmp_path / "identity")
    with pytest.raises(NetstoreError, match="identity: cannot be read: is a pipe"):
        ArchiveWriter.open(tmp_path, CLUSTER, STORE)


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def test_a_damaged_small_file_is_passed_over_when_others_are_merged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archivefile, "MERGED_FILES", 4)
    writer = ArchiveWriter.open(tmp_path, CLUSTER, STORE)
    for index in range(1, 4):
        writer.add(entries(index, index))
    bad = writer.listing.parts[1].path
    damage(bad)
    for index in range(4, 12):
        writer.add(entries(index, index))
    assert [(part.first, part.last) for part in writer.listing.parts] == [
        *((1, 1), (2, 2), (3, 9), (10, 10), (11, 11))
    ]
    assert writer.listing == listing(tmp_path)
    ((path, words),) = writer.damaged.items()
    assert path == bad
    assert "checksum of an entry is wrong" in words
    writer.close()


def test_a_damaged_last_file_is_set_aside_and_becomes_a_gap(tmp_path: Path) -> None:
    writer = ArchiveWriter.open(tmp_path, CLUSTER, STORE)
    for index in range(1, 5):
        writer.add(entries(index, index))
    writer.close()
    for part in writer.listing.parts[2:]:
        damage(part.path)
    writer = ArchiveWriter.open(tmp_path, CLUSTER, STORE)
    assert (writer.listing.last, writer.newest) == (2, entry(2, 20))
    assert [path.name[-10:] for path in writer.damaged] == ["04.entries", "03.entries"]
    writer.add(entries(5, 6))
    assert [path.name[-18:] for path in writer.damaged] == ["04.entries.damaged", "03.entries.damaged"]
    assert all("it was renamed to" in words for words in writer.damaged.values())
    assert writer.listing.gaps == listing(tmp_path).gaps == [(3, 4)]
    writer.close()


def test_a_damaged_last_file_that_was_replaced_or_removed_meanwhile_is_not_set_aside(tmp_path: Path) -> None:
    writer = ArchiveWriter.open(tmp_path, CLUSTER, STORE)
    for index in range(1, 5):
        writer.add(entries(index, index))
    writer.close()
    third, fourth = (part.path for part in writer.listing.parts[2:])
    whole = third.read_bytes()
    damage(third)
    damage(fourth)
    writer = ArchiveWriter.open(tmp_path, CLUSTER, STORE)
    assert set(writer.damaged) == {third, fourth}
    third.write_bytes(whole)
    fourth.unlink()
    writer.add(entries(3, 6))
    assert (writer.damaged, list(tmp_path.glob("*.damaged"))) == ({}, [])
    assert (writer.listing.last, writer.listing.gaps) == (6, [])
    writer.close()


@pytest.mark.parametrize("wrong", ["unreadable", "of another cluster"])
def test_a_damaged_last_file_that_cannot_be_read_later_is_set_aside_too(tmp_path: Path, wrong: str) -> None:
    writer = ArchiveWriter.open(tmp_path, CLUSTER, STORE)
    for index in (1, 2):
        writer.add(entries(index, index))
    writer.close()
    last = writer.listing.parts[-1].path
    damage(last)
    writer = ArchiveWriter.open(tmp_path, CLUSTER, STORE)
    last.unlink()
    if wrong == "unreadable":
        last.mkdir()
    else:
        last.write_bytes(archivefile.encode(CLUSTER + 1, [Archived(entry(2, 20), 20)]))
    writer.add(entries(2, 3))
    [(aside, words)] = writer.damaged.items()
    assert aside.name == last.name + ".damaged"
    assert aside.exists()
    assert ("cannot be read" if wrong == "unreadable" else "is of cluster") in words
    assert writer.listing.stretches == [(1, 3)]
    writer.close()


def test_a_file_that_is_written_again_is_not_needless(tmp_path: Path) -> None:
    """As after an addition whose merging failed, or that was reported as failed."""
    writer = ArchiveWriter.open(tmp_path, CLUSTER, STORE)
    writer.add(entries(1, 4))
    writer.add(entries(1, 4))
    assert (writer.listing.needless, writer.listing.stretches) == ([], [(1, 4)])
    writer.close()


def test_what_is_archived_anew_where_a_damaged_file_was_replaced_is_needless(tmp_path: Path) -> None:
    writer = ArchiveWriter.open(tmp_path, CLUSTER, STORE)
    writer.add(entries(1, 4))
    writer.close()
    [part] = writer.listing.parts
    whole = part.path.read_bytes()
    damage(part.path)
    writer = ArchiveWriter.open(tmp_path, CLUSTER, STORE)
    part.path.write_bytes(whole)
    writer.add(entries(1, 2))
    writer.add(entries(3, 6))
    assert (writer.damaged, writer.listing.stretches) == ({}, [(1, 6)])
    writer.close()


def test_an_unfinished_file_of_another_member_is_left_alone(tmp_path: Path) -> None:
    """Where a file system does not lock, another one may be writing it."""
    others = {"entries-6b.part", "state-6b.part"}
    for name in (*others, f"entries-{STORE}.part", f"state-{STORE}.part", "entries.part", "state.part"):
        (tmp_path / name).touch()
    writer = ArchiveWriter.open(tmp_path, CLUSTER, STORE)
    writer.add(entries(1, 2))
    writer.close()
    assert {path.name for path in tmp_path.glob("*.part")} == others
    assert [path.name for path in writer.listing.unfinished] == sorted(others)


def test_nothing_is_written_into_another_folder_that_lies_at_its_path(tmp_path: Path) -> None:
    """As when its file system is no longer mounted."""
    folder, away = tmp_path / "a", tmp_path / "away"
    writer = ArchiveWriter.open(folder, CLUSTER, STORE)
    writer.add(entries(1, 10))
    base = writer.add_base(state(b"one", 10))
    folder.rename(away)
    for bare in (False, True):
        if bare:
            folder.mkdir()
        for call in (
            lambda: writer.add(entries(11, 20)),
            lambda: writer.add_base(state(b"two", 20)),
            lambda: writer.remove([base], []),
        ):
            told = "another folder lies there" if bare else "is gone: mount or move it back"
            with pytest.raises(NetstoreError, match=told):
                call()
    other = ArchiveWriter.open(folder, CLUSTER, "another")
    with pytest.raises(NetstoreError, match="another folder lies there"):
        writer.add(entries(11, 20))
    other.close()
    assert stored(folder) == []
    folder.rename(tmp_path / "bare")
    away.rename(folder)
    (folder / "lock").rename(tmp_path / "lock")
    with pytest.raises(NetstoreError, match="its file lock was removed or replaced"):
        writer.add(entries(11, 20))
    (tmp_path / "lock").rename(folder / "lock")
    writer.add(entries(11, 20))
    assert stored(folder) == entries(1, 20)
    writer.close()


def test_an_archive_that_was_emptied_is_gone_unless_nothing_was_there_yet(tmp_path: Path) -> None:
    folder = tmp_path / "it's"

    def begun() -> ArchiveWriter:
        return ArchiveWriter.open(folder, CLUSTER, STORE, is_begun=True)

    with pytest.raises(NetstoreError, match="make the folder with an empty file new in it") as told:
        begun()
    (commands,) = re.findall(r"\((.*)\)", str(told.value))
    subprocess.run(["sh", "-ec", commands], check=True)
    for _ in range(2):
        begun().close()
    assert {path.name for path in folder.iterdir()} == {"identity", "lock", "new"}, "nothing was written"
    writer = begun()
    writer.add(entries(1, 3))
    writer.close()
    assert {path.suffix or path.name for path in folder.iterdir()} == {".entries", "identity", "lock"}
    writer.listing.parts[0].path.unlink()
    with pytest.raises(
        NetstoreError,
        match=r"no file of the archive that this member began there: .* if none was ever written, as where"
        r" the disk was full, or to begin a new one, make an empty file new in this folder",
    ):
        begun()
    (folder / "identity").rename(tmp_path / "identity")
    with pytest.raises(
        NetstoreError, match="is gone: mount or move it back; to begin a new one make an empty"
    ):
        begun()
    (tmp_path / "identity").rename(folder / "identity")
    (folder / "new").touch()
    writer = begun()
    base = writer.add_base(state(b"one", 3))
    assert {path.name for path in folder.iterdir()} == {base.path.name, "identity", "lock"}
    writer.close()


def test_files_that_are_removed_from_a_running_member_s_archive_are_told(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    writer = ArchiveWriter.open(folder, CLUSTER, STORE)
    writer.add(entries(1, 10))
    writer.add_base(state(b"one", 10))
    (gone,) = folder.glob("*.entries")
    gone.rename(tmp_path / "gone")
    with pytest.raises(NetstoreError, match=f"{gone.name}: was removed: put it back"):
        writer.add(entries(11, 20))
    (tmp_path / "gone").rename(gone)
    writer.add(entries(11, 20))
    for each in folder.iterdir():
        each.unlink()
    told = "its files were removed: put them back, or for a new archive make an empty file new in this folder"
    with pytest.raises(NetstoreError, match=told):
        writer.add(entries(21, 30))
    writer.close()
    (folder / "new").touch()
    writer = ArchiveWriter.open(folder, CLUSTER, STORE, is_begun=True)
    writer.add(entries(21, 30))
    assert stored(folder) == entries(21, 30)
    writer.close()


def test_an_archive_can_be_closed_twice(tmp_path: Path) -> None:
    writer = ArchiveWriter.open(tmp_path, CLUSTER, STORE)
    writer.close()
    with (tmp_path / "other").open("w") as other:  # it gets the descriptor that is free now
        writer.close()
        other.write("open")
    ArchiveWriter.open(tmp_path, CLUSTER, STORE).close()


def test_nothing_is_changed_in_an_archive_before_it_is_known_whose_it_is(tmp_path: Path) -> None:
    writer = ArchiveWriter.open(tmp_path, CLUSTER, STORE)
    for index in range(1, 4):
        writer.add(entries(index, index))
    writer.close()
    path = writer.listing.parts[-1].path
    damage(path)
    (tmp_path / "state.part").touch()
    encoded = encode(CLUSTER, [Archived(each, 0) for each in entries(1, 2)])
    (tmp_path / f"{1:016x}-{2:016x}.entries").write_bytes(encoded)
    before = sorted(tmp_path.iterdir())
    (tmp_path / "identity").rename(tmp_path.with_name("kept"))
    with pytest.raises(NetstoreError, match="entries: is of cluster c1, not of c2"):
        ArchiveWriter.open(tmp_path, ClusterId(0xC2), STORE)
    tmp_path.with_name("kept").rename(tmp_path / "identity")
    writer = ArchiveWriter.open(tmp_path, CLUSTER, "another")
    assert (writer.is_others, writer.newest) == (True, entry(2, 20))
    writer.close()
    assert sorted(tmp_path.iterdir()) == before
    for each in tmp_path.glob("*.entries"):
        each.write_bytes(b"")
    writer = ArchiveWriter.open(tmp_path, CLUSTER, "another")
    assert writer.is_others, "also where no file can be read"
    writer.close()
    assert sorted(tmp_path.iterdir()) == before
    writer = ArchiveWriter.open(tmp_path, CLUSTER, STORE)
    writer.tidy()
    assert {each.suffix for each in tmp_path.iterdir()} == {"", ".damaged"}
    assert len(writer.damaged) == len(list(tmp_path.glob("*.entries.damaged"))) == 4
    writer.close()


def test_a_failed_write_leaves_nothing_and_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    writer = ArchiveWriter.open(tmp_path, CLUSTER, STORE)
    monkeypatch.setattr(archivefile, "MERGED_FILES", 2)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        for last in (3, 4):
            with pytest.raises(OSError, match="No space left"):
                writer.add(entries(1, last))
        with pytest.raises(OSError, match="No space left"):
            writer.add_base(state(b"state", 2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["identity", "lock", "new"]
    writer.add(entries(1, 4))
    real = archivefile.encode

    def only_small(cluster: int, archived: list[archivefile.Archived]) -> bytes:
        if len(archived) > 4:
            full(0)
        return real(cluster, archived)

    with monkeypatch.context() as patched:
        patched.setattr(archivefile, "encode", only_small)
        writer.add(entries(5, 5))
        assert "No space left" in writer.not_merged
        writer.add(entries(6, 6))
    assert [part.first for part in writer.listing.parts] == [1, 5, 6]
    writer.add(entries(7, 7))
    assert (writer.not_merged, len(writer.listing.parts)) == ("", 1)
    assert stored(tmp_path) == entries(1, 7)
    writer.close()


def test_the_listing_goes_along_and_the_folder_is_seldom_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = 0
    real = archivefile.listing

    def counted(folder: Path) -> archivefile.Listing:
        nonlocal listed
        listed += 1
        return real(folder)

    monkeypatch.setattr(archivefile, "listing", counted)
    monkeypatch.setattr(archivefile, "MERGED_FILES", 3)
    writer = ArchiveWriter.open(tmp_path, CLUSTER, STORE)
    writer.tidy()
    opened = listed
    at = 1
    for number in range(60):
        at += 2 if number % 13 == 5 else 0
        writer.add(entries(at, at))
        if number % 9 == 0:
            writer.add_base(state(b"state", at))
        wanted = real(tmp_path)
        assert writer.listing == wanted
        first = wanted.stretches[-1][0]
        assert wanted.has_usable_base == any(base.applied >= first - 1 for base in wanted.bases)
        at += 1
    assert listed == opened
    monkeypatch.setattr(archivefile, "RELISTED_FILES", 61)
    for base in writer.listing.bases:
        base.path.unlink()
    writer.add(entries(at, at))
    assert (listed, writer.listing.bases) == (opened + 1, [])
    writer.close()


class Killed(BaseException):
    """The process ended here."""


class Killer:
    """Ends the process at one of its steps that change the folder."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = 0
        for place, name in ((Path, "rename"), (Path, "unlink"), (os, "fsync")):
            monkeypatch.setattr(place, name, self._killing(getattr(place, name)))

    def _killing(self, real: Callable[..., object]) -> Callable[..., object]:
        def step(*arguments: object, **options: object) -> object:
            self.left -= 1
            if self.left == 0:
                raise Killed
            return real(*arguments, **options)

        return step


def test_a_kill_at_every_step_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archivefile, "MERGED_FILES", 3)
    monkeypatch.setattr(archivefile, "MERGED_BYTES", 300)
    monkeypatch.setattr(archiveretention, "verify", lambda _: None)
    killer = Killer(monkeypatch)
    archived = 0

    def life(folder: Path) -> None:
        """Archive twelve entries in three files, with two states; the first of both are removed."""
        nonlocal archived
        writer = ArchiveWriter.open(folder, CLUSTER, STORE)
        try:
            while (last := writer.listing.last) < 12:
                archived = last
                writer.add(entries(last + 1, last + 2))
                if last in {0, 4}:
                    writer.add_base(state(b"s" * 9000, last))
                if last == 8:
                    Retention(writer).run(since=65, until=1000)
            writer.tidy()
            Retention(writer).run(since=65, until=1000)
        finally:
            writer.close()

    firsts: list[int] = []
    for step in count(1):
        folder, archived = tmp_path / str(step), 0
        killer.left = step
        try:
            life(folder)
        except Killed:
            found = listing(folder)
            firsts.append(found.parts[0].first if found.parts else 1)
            assert found.last >= archived, step
            assert [each.index for each in stored(folder)] == [*range(firsts[-1], found.last + 1)], step
            assert firsts[-1] == 1 or 4 in [base.applied for base in found.bases], "nothing leads on"
        if killer.left > 0:
            break
        life(folder)
        found = listing(folder)
        assert stored(folder)[-8:] == entries(5, 12), step
        assert (found.gaps, found.unfinished, found.needless) == ([], [], []), step
        assert all(base.path.stat().st_size == 9000 for base in found.bases), step
        first = found.parts[0].first
        assert first == 1 or any(first - 1 <= base.applied <= 6 for base in found.bases), "65 is not reached"
    assert step > 40, "of a life without a kill"
    assert set(firsts) == {1, 5}
