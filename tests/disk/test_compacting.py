"""A state that is mostly free pages is replaced by a copy of the others; nothing else changes."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import lmdb
import pytest

from netstore.disk import compacting
from netstore.disk.compacting import COPY_FILE, compact
from netstore.disk.snapshots import recover_install
from netstore.disk.tables import Tables, read_summary
from netstore.disk.verification import NotVerified, OpenMarker, verify
from netstore.errors import NetstoreError, StateDamaged
from netstore.types import Index
from tests.disk.opened import TABLES
from tests.disk.states import MAP, make_state, spoil, write

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
        self.fixes: list[str] = []
        self.smaller = compact(state, self.copied.append, self.verified.append, self.failed)

    def failed(self, why: str, fix: str) -> None:
        self.failures.append(why)
        self.fixes.append(fix)


def marker(state: Path) -> Path:
    return state.with_name("state.lmdb-open")


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
    assert not marker(state).exists()
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
    assert done.fixes == ["make room on its disk before the next start"]
    assert not marker(state).exists()
    assert records(state)[2] == b"here"


@pytest.mark.parametrize(
    ("error", "fix"),
    [
        (OSError(28, "No space left"), "make room"),
        (lmdb.DiskError("no"), "make room"),
        (OSError(5, "Input/output error"), "check the disk"),
        (lmdb.Error("no"), "check the disk"),
        (MemoryError(), "more memory"),
        (NotVerified("no process"), "one more process"),
    ],
)
def test_a_copy_that_fails_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, fix: str
) -> None:
    state = make_state(tmp_path / "state.lmdb", EMPTIED)

    def fail(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(compacting, "verify" if isinstance(error, NotVerified) else "_copy", fail)
        done = Compacted(state)
    assert done.smaller == 0
    assert len(done.failures) == 1
    assert fix in done.fixes[0]
    assert not marker(state).exists()
    assert not (tmp_path / COPY_FILE).exists()
    assert records(state) == [b"v" * 10_000, None, b"here"]


def test_a_file_that_cannot_be_synced_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the thread that copies."""
    state = make_state(tmp_path / "state.lmdb", EMPTIED)
    real = os.fsync

    def fail(file: int) -> None:
        if stat.S_ISREG(os.fstat(file).st_mode) and os.fstat(file).st_size:
            raise OSError(28, "No space left")
        real(file)

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fail)
        assert "No space left" in Compacted(state).failures[0]
    assert not (tmp_path / COPY_FILE).exists()
    assert records(state) == [b"v" * 10_000, None, b"here"]


def test_without_a_thread_it_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = make_state(tmp_path / "state.lmdb", EMPTIED)

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        done = Compacted(state)
    assert "no thread can be started" in done.failures[0]
    assert "TasksMax" in done.fixes[0]
    assert records(state)[2] == b"here"


@pytest.mark.parametrize("which", ["copy", "state"])
def test_a_copy_that_is_not_whole_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    """It is told as what it is: damage of the state, if that is damaged, too."""
    state = make_state(tmp_path / "state.lmdb", EMPTIED)
    asked: list[str] = []

    def damaged(path: Path) -> None:
        asked.append(path.name)
        if which == "state" or path != state:
            raise StateDamaged(f"{path}: damaged; nothing was changed")

    with monkeypatch.context() as patch:
        patch.setattr(compacting, "verify", damaged)
        if which == "state":
            with pytest.raises(StateDamaged, match=f"^{state}: damaged"):
                Compacted(state)
            assert marker(state).exists()
        else:
            done = Compacted(state)
            assert (done.failures, done.fixes) == ([f"{tmp_path / COPY_FILE}: damaged"], ["check the disk"])
    assert asked == [COPY_FILE, "state.lmdb"]
    assert not (tmp_path / COPY_FILE).exists()
    assert records(state) == [b"v" * 10_000, None, b"here"]


def test_damage_that_ends_the_process_is_told_by_the_next_start(tmp_path: Path) -> None:
    """Copying reads pages in the member, and LMDB trusts them."""
    state = make_state(tmp_path / "state.lmdb", EMPTIED)
    script = (
        "import os, sys, pathlib\n"
        "from netstore.disk import compacting\n"
        "compacting.LEAST_FREE_BYTES = 1 << 20\n"
        "compacting._copy = lambda *_: os.abort()\n"
        "compacting.compact(pathlib.Path(sys.argv[1]), print, print, print)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(state)], check=False, stderr=subprocess.DEVNULL)
    assert done.returncode == -signal.SIGABRT
    spoil(state, b"here")
    with pytest.raises(StateDamaged, match=f"^{state}: "):
        OpenMarker(state).check()


def test_a_name_that_is_not_durable_fails_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a crash it could lead to the former file, while the log goes on from the new one."""
    state = make_state(tmp_path / "state.lmdb", EMPTIED)

    def fail(_: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(compacting, "sync_folder", fail)
    with pytest.raises(NetstoreError, match=f"^{tmp_path}: cannot be synced .*: check the disk"):
        Compacted(state)


def test_what_a_crash_left_of_a_copy_is_removed(tmp_path: Path) -> None:
    state = make_state(tmp_path / "state.lmdb", EMPTIED)
    (tmp_path / COPY_FILE).write_bytes(b"half")
    index = read_summary(state).applied
    assert recover_install(tmp_path, state, index, Index(1), index) is None
    assert not (tmp_path / COPY_FILE).exists()
    assert Compacted(state).smaller > 0
