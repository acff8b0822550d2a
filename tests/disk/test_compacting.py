"""A state that is mostly free pages is replaced by a copy of the others; nothing else changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lmdb
import pytest

from netstore.disk import compacting
from netstore.disk.compacting import COPY_FILE, compact
from netstore.disk.snapshots import recover_install
from netstore.disk.tables import Tables, read_summary
from netstore.disk.verification import verify
from netstore.errors import StateDamaged
from netstore.types import Index
from tests.disk.opened import TABLES
from tests.disk.states import MAP, make_state, write

if TYPE_CHECKING:
    from pathlib import Path

EMPTIED = (
    {("plain", b"%04d" % number): b"v" * 10_000 for number in range(400)},
    {("plain", b"%04d" % number): None for number in range(1, 400)},
    {("other", b"kept"): b"here"},
)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small states count, too."""
    monkeypatch.setattr(compacting, "LEAST_FREE_BYTES", 1 << 20)


class Compacted:
    """One attempt, and what it told."""

    def __init__(self, state: Path) -> None:
        self.copied: list[int] = []
        self.verified: list[int] = []
        self.failures: list[str] = []
        self.smaller = compact(state, self.copied.append, self.verified.append, self.failures.append)


def records(state: Path) -> list[bytes | None]:
    tables = Tables.open(state, TABLES, MAP)
    try:
        return [tables.get("plain", b"0000"), tables.get("plain", b"0001"), tables.get("other", b"kept")]
    finally:
        tables.close()


def test_an_emptied_state_is_as_small_as_what_it_has(tmp_path: Path) -> None:
    state = make_state(tmp_path / "state.lmdb", EMPTIED)
    before, summary = state.stat().st_size, read_summary(state)
    done = Compacted(state)
    assert before > 4_000_000
    assert state.stat().st_size == before - done.smaller < before // 10
    assert done.verified == [state.stat().st_size]
    assert done.copied
    assert done.failures == []
    assert state.stat().st_mode & 0o777 == 0o600
    assert read_summary(state) == summary
    verify(state)
    assert records(state) == [b"v" * 10_000, None, b"here"]
    write(state, {("plain", b"0001"): b"new"})
    verify(state)
    assert [path.name for path in tmp_path.iterdir() if "part" in path.name] == []


def test_a_state_that_is_new_or_used_or_small_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Compacted(tmp_path / "none").smaller == 0
    used = make_state(tmp_path / "used.lmdb", EMPTIED[:1])
    monkeypatch.setattr(compacting, "LEAST_FREE_BYTES", 0)
    emptied = make_state(tmp_path / "emptied.lmdb", EMPTIED)
    numbers = [path.stat().st_ino for path in (used, emptied)]
    assert Compacted(used).smaller == 0
    monkeypatch.setattr(compacting, "LEAST_FREE_BYTES", 1 << 30)
    assert Compacted(emptied).smaller == 0
    assert [path.stat().st_ino for path in (used, emptied)] == numbers


def test_without_room_for_a_copy_it_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = make_state(tmp_path / "state.lmdb", EMPTIED)
    monkeypatch.setattr(compacting, "SPARE_BYTES", 1 << 62)
    done = Compacted(state)
    assert (done.smaller, done.copied) == (0, [])
    assert "no room for a copy" in done.failures[0]
    assert records(state)[2] == b"here"


@pytest.mark.parametrize("error", [OSError(28, "No space left"), lmdb.Error("no"), MemoryError()])
def test_a_copy_that_fails_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    state = make_state(tmp_path / "state.lmdb", EMPTIED)

    def fail(_: int) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fail)
        done = Compacted(state)
    assert done.smaller == 0
    assert len(done.failures) == 1
    assert not (tmp_path / COPY_FILE).exists()
    assert records(state) == [b"v" * 10_000, None, b"here"]


def test_a_copy_that_is_not_whole_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = make_state(tmp_path / "state.lmdb", EMPTIED)

    def damaged(path: Path) -> None:
        raise StateDamaged(f"{path}: damaged")

    monkeypatch.setattr(compacting, "verify", damaged)
    assert Compacted(state).failures == [f"{tmp_path / COPY_FILE}: damaged"]
    assert not (tmp_path / COPY_FILE).exists()
    assert records(state) == [b"v" * 10_000, None, b"here"]


def test_what_a_crash_left_of_a_copy_is_removed(tmp_path: Path) -> None:
    state = make_state(tmp_path / "state.lmdb", EMPTIED)
    (tmp_path / COPY_FILE).write_bytes(b"half")
    index = read_summary(state).applied
    assert recover_install(tmp_path, state, index, Index(1), index) is None
    assert not (tmp_path / COPY_FILE).exists()
    assert Compacted(state).smaller > 0
