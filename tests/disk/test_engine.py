"""The engine: what is durable when, its budget, and what it does when the disk fails or is damaged."""

from __future__ import annotations

import errno
import os
from functools import partial
from typing import TYPE_CHECKING, Any

import lmdb
import pytest

from netstore.disk.engine import LmdbEngine
from netstore.disk.memoryengine import MemoryEngine
from netstore.disk.overlay import CHANGE_COST, Overlay
from netstore.errors import CorruptData, StateDamaged
from netstore.limits import Budget
from netstore.seams import PASSING
from netstore.types import Index
from tests.disk.fakeloop import TIMEOUT
from tests.disk.opened import TABLES, Answers, Opened, copied, hold
from tests.disk.states import spoil
from tests.support.patience import seconds

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_nothing_is_durable_before_a_commit_and_all_is_readable(opened: Opened) -> None:
    engine = opened.engine
    engine.write(Index(1), {("plain", b"a"): b"1", ("plain", b"b"): b"2"})
    assert (engine.applied(), engine.durable()) == (1, 0)
    assert engine.get("plain", b"a") == b"1"
    engine.write(Index(2), {("plain", b"a"): None})
    assert engine.get("plain", b"a") is None
    assert list(engine.scan("plain", b"", None)) == [(b"b", b"2")]
    assert opened.sync() is None
    assert engine.durable() == 2
    assert engine.get("plain", b"a") is None


def test_prepared_changes_are_charged_at_once_and_count_in_behind_from_their_write_on(tmp_path: Path) -> None:
    budget = Budget(1000)
    opened = Opened(tmp_path / "state", commit_interval=3600, budget=budget)
    engine = opened.engine
    engine.write(Index(1), {("plain", b"0"): b"v"})
    written = 2 + CHANGE_COST
    assert (budget.used, engine.excess_bytes()) == (written, 0)
    engine.sync(lambda _: None)
    for number in range(1, 6):
        engine.prepare({("plain", b"%d" % number): b"v"})
        assert (budget.used, engine.excess_bytes()) == (written * (number + 1), 0)
    opened.loop.run_until(lambda: engine.durable() == 1)
    assert (budget.used, engine.excess_bytes()) == (written * 5, 0), (
        "what was committed meanwhile is not held"
    )
    engine.write(Index(2), {})
    assert (budget.used, engine.excess_bytes()) == (written * 5, written * 5 - 1000)
    opened.sync()
    assert (budget.used, engine.excess_bytes()) == (0, 0)
    engine.close()


def test_an_applied_index_alone_becomes_durable(opened: Opened) -> None:
    opened.engine.write(Index(7), {})
    assert opened.sync() is None
    assert opened.engine.durable() == 7


def test_a_sync_with_nothing_to_do_is_answered_on_the_loop(opened: Opened) -> None:
    answers = Answers()
    opened.engine.sync(answers)
    assert answers.got == []
    opened.loop.run_one()
    assert answers.got == [None]


class Source:
    """What an engine pulls: one write for each time that something changed, while it can be made."""

    def __init__(self, engine: LmdbEngine) -> None:
        self.engine = engine
        self.index = 0
        self.can = True
        engine.pull = self.pull

    def change(self) -> None:
        self.index += 1
        self.engine.changed()

    def pull(self) -> None:
        if self.can:
            self.engine.write(Index(self.index), {("plain", b"a"): b"%d" % self.index})


def test_what_changed_is_pulled_once_for_each_commit(tmp_path: Path) -> None:
    opened = Opened(tmp_path / "state", commit_interval=0.01)
    source = Source(opened.engine)
    for _ in range(2):
        source.change()
        source.change()
        assert opened.engine.applied() == source.index - 2
        opened.loop.run_until(lambda: opened.engine.durable() == source.index)
    assert opened.engine._serial == 2
    assert opened.engine.get("plain", b"a") == b"4"
    opened.engine.close()


def test_what_changed_during_a_commit_is_pulled_for_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Opened(tmp_path / "state", commit_interval=0.01)
    source = Source(opened.engine)
    reached, go_on = hold(opened.engine, monkeypatch)
    source.change()
    opened.loop.run_one()
    assert reached.wait(seconds(TIMEOUT))
    source.change()
    go_on.set()
    opened.loop.run_until(lambda: opened.engine.durable() == 2)
    opened.engine.close()


def test_a_sync_and_a_close_pull_what_changed(tmp_path: Path) -> None:
    opened = Opened(tmp_path / "state", commit_interval=3600)
    source = Source(opened.engine)
    source.change()
    assert opened.sync() is None
    assert opened.engine.durable() == 1
    source.change()
    opened.engine.close()
    again = Opened(tmp_path / "state")
    assert (again.engine.applied(), again.engine.get("plain", b"a")) == (2, b"2")
    again.engine.close()


def test_a_sync_waits_for_what_cannot_be_pulled_yet(tmp_path: Path) -> None:
    opened = Opened(tmp_path / "state", commit_interval=3600)
    source, answers = Source(opened.engine), Answers()
    source.can = False
    source.change()
    opened.engine.sync(answers)
    opened.loop.run_ready()
    assert answers.got == []
    source.can = True
    source.pull()
    opened.loop.run_until(lambda: bool(answers.got))
    assert (answers.got, opened.engine.durable()) == ([None], 1)
    opened.engine.close()


def test_what_changed_before_a_snapshot_is_installed_is_not_pulled(tmp_path: Path) -> None:
    opened = Opened(tmp_path / "state", commit_interval=0.01)
    opened.engine.write(Index(7), {("plain", b"a"): b"copied"})
    assert opened.sync() is None
    copy = copied(opened.engine, tmp_path / "copy")
    source, answers = Source(opened.engine), Answers()
    source.index = 7
    source.change()
    opened.engine.install(copy, answers)
    opened.loop.run_until(lambda: bool(answers.got))
    assert opened.sync() is None
    opened.engine.close()
    again = Opened(tmp_path / "state")
    assert (again.engine.applied(), again.engine.get("plain", b"a")) == (7, b"copied")
    again.engine.close()


def test_closing_before_the_loop_is_told_of_an_installed_snapshot_keeps_the_snapshot(tmp_path: Path) -> None:
    opened = Opened(tmp_path / "state", commit_interval=3600)
    engine, answers = opened.engine, Answers()
    engine.write(Index(7), {("plain", b"a"): b"copied"})
    assert opened.sync() is None
    copy = copied(engine, tmp_path / "copy")
    engine.write(Index(9), {("plain", b"a"): b"later"})
    engine.install(copy, answers)
    waiting = Answers()
    engine.sync(waiting)
    engine.close()
    assert [error and error.errno for error in waiting.got] == [errno.ECANCELED]
    again = Opened(tmp_path / "state")
    assert (again.engine.applied(), again.engine.get("plain", b"a")) == (7, b"copied")
    again.engine.close()


def test_after_a_failed_commit_nothing_is_committed_onto_a_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Opened(tmp_path / "state", commit_interval=3600)
    engine, answers = opened.engine, Answers()
    engine.write(Index(7), {("plain", b"a"): b"copied"})
    assert opened.sync() is None
    copy = copied(engine, tmp_path / "copy")
    real = engine._shared._put
    monkeypatch.setattr(engine._shared, "_put", full_disk)
    engine.write(Index(9), {("plain", b"a"): b"later"})
    engine.sync(Answers())
    engine.install(copy, answers)
    opened.loop.run_until(lambda: bool(opened.failures))
    monkeypatch.setattr(engine._shared, "_put", real)
    engine.sync(Answers())
    opened.loop.run_until(lambda: bool(answers.got))
    assert opened.sync() is None
    engine.close()
    again = Opened(tmp_path / "state")
    assert (again.engine.applied(), again.engine.get("plain", b"a")) == (7, b"copied")
    again.engine.close()


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, "no space")


@pytest.mark.parametrize("way", ["write", "prepare"])
def test_of_a_write_that_fails_in_the_middle_nothing_is_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    opened = Opened(tmp_path / "state", commit_interval=3600)
    engine = opened.engine
    engine.write(Index(1), {("plain", b"a"): b"1"})
    assert opened.sync() is None
    engine.write(Index(2), {("plain", b"a"): b"2"})

    def update(self: Overlay, changes: dict[tuple[str, bytes], bytes | None]) -> None:
        place = next(iter(changes))
        self.layers[-1][place] = changes[place]
        raise MemoryError

    monkeypatch.setattr(Overlay, "update", update)
    changes: dict[tuple[str, bytes], bytes | None] = {("plain", b"b"): b"3", ("plain", b"c"): b"3"}
    call = partial(engine.write, Index(3)) if way == "write" else engine.prepare
    with pytest.raises(MemoryError):
        call(changes)
    assert engine.applied() == 2
    engine.close()
    again = Opened(tmp_path / "state")
    assert again.engine.applied() == 1, "as after a crash: the log has the rest"
    assert list(again.engine.scan("plain", b"", None)) == [(b"a", b"1")]
    again.engine.close()


def test_closing_releases_the_file_when_the_last_pull_fails(tmp_path: Path) -> None:
    opened = Opened(tmp_path / "state", commit_interval=3600)
    opened.engine.write(Index(1), {("plain", b"a"): b"1"})

    def fails() -> None:
        raise MemoryError

    opened.engine.pull = fails
    opened.engine.changed()
    with pytest.raises(MemoryError):
        opened.engine.close()
    again = Opened(tmp_path / "state")
    assert again.engine.applied() == 1
    again.engine.close()


def test_a_sync_for_what_could_not_be_pulled_is_not_answered_as_if_it_were(tmp_path: Path) -> None:
    opened = Opened(tmp_path / "state", commit_interval=3600)
    source, answers = Source(opened.engine), Answers()
    source.can = False
    source.change()
    opened.engine.sync(answers)
    opened.engine.close()
    assert [error and error.errno for error in answers.got] == [errno.ECANCELED]


def test_an_index_that_decreases_is_refused(opened: Opened) -> None:
    opened.engine.write(Index(5), {})
    twin = MemoryEngine(lambda call: call(), TABLES)
    twin.write(Index(5), {})
    for engine in (opened.engine, twin):
        with pytest.raises(ValueError, match="applied index 4 after 5"):
            engine.write(Index(4), {})


def test_the_loop_reads_and_writes_while_a_commit_is_under_way(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = opened.engine
    engine.write(Index(1), {("plain", b"a"): b"old", ("plain", b"b"): b"old"})
    assert opened.sync() is None
    reached, go_on = hold(engine, monkeypatch)
    engine.write(Index(2), {("plain", b"a"): b"new", ("plain", b"c"): b"new"})
    first, second = Answers(), Answers()
    engine.sync(first)
    assert reached.wait(seconds(TIMEOUT))
    engine.write(Index(3), {("plain", b"c"): None, ("plain", b"d"): b"newest"})
    engine.sync(second)
    want = [(b"a", b"new"), (b"b", b"old"), (b"d", b"newest")]
    assert list(engine.scan("plain", b"", None)) == want
    assert [engine.get("plain", key) for key in (b"a", b"b", b"c", b"d")] == [b"new", b"old", None, b"newest"]
    assert engine.durable() == 1
    go_on.set()
    opened.loop.run_until(lambda: bool(first.got))
    assert (engine.durable(), second.got) == (2, [])
    opened.loop.run_until(lambda: bool(second.got))
    assert engine.durable() == 3
    assert list(engine.scan("plain", b"", None)) == want


def test_the_overlay_is_charged_and_committed_by_bytes_and_reports_when_it_is_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = Budget(1 << 20)
    opened = Opened(tmp_path / "state", commit_interval=3600, commit_bytes=100_000, budget=budget)
    engine = opened.engine
    reached, go_on = hold(engine, monkeypatch)
    engine.write(Index(1), {("plain", b"a"): bytes(100_000)})
    assert reached.wait(seconds(TIMEOUT)), "committed for its size, long before the interval"
    assert budget.used == 100_000 + 1 + CHANGE_COST
    index = 1
    while not engine.excess_bytes():
        index += 1
        engine.write(Index(index), {("plain", b"%d" % index): bytes(100_000), ("other", b"gone"): None})
        assert index < 20
    assert budget.used > 1 << 20
    eased: list[bool] = []
    engine.eased = lambda: eased.append(engine.excess_bytes() > 0)
    go_on.set()
    opened.loop.run_until(lambda: not engine.excess_bytes())
    assert eased == [False], "told by the commit that made room"
    assert opened.sync() is None
    assert (budget.used, engine.durable()) == (0, index)
    engine.write(Index(index + 1), {("plain", b"a"): b"v"})
    assert opened.sync() is None
    assert len(eased) == 1, "only while it is behind"
    engine.close()


def test_any_other_failure_ends_commits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Opened(tmp_path / "state")
    engine = opened.engine

    def broken(*_arguments: Any) -> None:
        raise lmdb.Error("mdb_txn_commit: Input/output error")

    monkeypatch.setattr(engine._shared, "_put", broken)
    engine.write(Index(1), {("plain", b"a"): b"1"})
    error = opened.sync()
    assert error is not None
    assert error.errno == errno.EIO
    assert opened.failures == [error]
    monkeypatch.undo()
    engine.write(Index(2), {("plain", b"b"): b"2"})
    assert opened.sync() is error
    assert engine.get("plain", b"a") == b"1"
    assert engine.durable() == 0
    with pytest.raises(OSError, match="Input/output error"):
        engine.close()


@pytest.mark.parametrize("number", PASSING)
def test_a_commit_is_retried_after_each_failure_that_a_host_waits_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    opened = Opened(tmp_path / "state")
    engine = opened.engine

    def short(*_arguments: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(engine._shared, "_put", short)
    engine.write(Index(1), {("plain", b"a"): b"1"})
    error = opened.sync()
    assert error is not None
    assert error.errno == number
    assert engine.failing()
    monkeypatch.undo()
    assert opened.sync() is None
    assert engine.durable() == 1
    assert not engine.failing()
    monkeypatch.setattr(engine._shared, "_put", short)
    engine.write(Index(1), {("plain", b"b"): b"2"})
    assert opened.sync() is not None
    assert engine.failing()
    monkeypatch.undo()
    assert opened.sync() is None
    assert (engine.durable(), engine.failing()) == (1, False)
    engine.close()


@pytest.mark.parametrize("shortage", [MemoryError, lmdb.MemoryError])
def test_a_commit_without_memory_is_tried_again_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shortage: type[Exception]
) -> None:
    opened = Opened(tmp_path / "state", commit_interval=0.001)
    engine = opened.engine
    real, tries = engine._shared._put, 0

    def short(*arguments: Any) -> None:
        nonlocal tries
        tries += 1
        if tries <= 2:
            raise shortage
        real(*arguments)

    monkeypatch.setattr(engine._shared, "_put", short)
    engine.write(Index(1), {("plain", b"a"): b"1"})
    opened.wait_durable()
    assert [each.errno for each in opened.failures] == [errno.ENOMEM] * 2
    assert engine.get("plain", b"a") == b"1"
    engine.close()


def test_a_batch_that_cannot_be_made_for_want_of_memory_is_made_later(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short() -> bytes:
        raise MemoryError

    engine = opened.engine
    monkeypatch.setattr(engine, "log_position", short)
    engine.write(Index(1), {("plain", b"a"): b"1"})
    answers = Answers()
    with pytest.raises(MemoryError):
        engine.sync(answers)
    monkeypatch.setattr(engine, "log_position", bytes)
    assert opened.sync() is None
    assert engine.durable() == 1
    assert answers.got == [], "a sync that raises has not taken its callback"


def test_a_read_without_memory_is_no_damage(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    class Short:
        def begin(self) -> None:
            raise lmdb.MemoryError("mdb_txn_begin: Cannot allocate memory")

    env = opened.engine._shared.tables.env
    monkeypatch.setattr(opened.engine._shared.tables, "env", Short())
    with pytest.raises(MemoryError):
        opened.engine.get("plain", b"a")
    with pytest.raises(MemoryError):
        opened.engine.get_many("plain", [b"a"])
    monkeypatch.setattr(opened.engine._shared.tables, "env", env)


def test_closing_answers_what_waits_and_keeps_what_was_written(tmp_path: Path) -> None:
    opened = Opened(tmp_path / "state", commit_interval=3600)
    answers = Answers()
    opened.engine.write(Index(1), {("plain", b"a"): b"1"})
    opened.engine.sync(answers)
    opened.engine.write(Index(2), {("plain", b"b"): b"2"})
    opened.engine.close()
    assert answers.got == [None]
    again = Opened(tmp_path / "state")
    assert again.engine.applied() == 2
    assert list(again.engine.scan("plain", b"", None)) == [(b"a", b"1"), (b"b", b"2")]
    again.engine.close()


def test_closing_works_when_the_loop_has_ended(tmp_path: Path) -> None:
    def gone(_call: Callable[[], object]) -> None:
        raise RuntimeError("run finished")

    engine = LmdbEngine(tmp_path / "state", gone, TABLES, lambda error: None, commit_interval=0.001)
    engine.write(Index(1), {("plain", b"a"): b"1"})
    engine.close()
    again = Opened(tmp_path / "state")
    assert again.engine.applied() == 1
    again.engine.close()


def test_the_file_is_private(tmp_path: Path) -> None:
    opened = Opened(tmp_path / "state")
    opened.engine.close()
    for file in tmp_path.iterdir():
        assert file.stat().st_mode & 0o077 == 0


def test_a_file_that_is_not_a_state_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(b"not a database" * 1000)
    with pytest.raises(CorruptData, match=r"state: not a state .*; nothing was changed"):
        Opened(tmp_path / "state")


def test_sizes_are_the_previous_ones_while_a_snapshot_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file is open while a slow disk syncs the folder."""
    source = Opened(tmp_path / "source")
    source.engine.write(Index(5), {("plain", b"%d" % number): bytes(1_000) for number in range(500)})
    assert source.sync() is None
    image = copied(source.engine, tmp_path / "image")
    source.engine.close()
    opened = Opened(tmp_path / "state")
    before = opened.engine.sizes()
    seen: list[tuple[int, int]] = []
    monkeypatch.setattr("netstore.disk.shared.sync_folder", lambda _: seen.append(opened.engine.sizes()))
    answers = Answers()
    opened.engine.install(image, answers)
    opened.loop.run_until(lambda: bool(answers.got))
    assert (answers.got, seen) == ([None], [before])
    assert opened.engine.sizes()[1] > before[1]
    opened.engine.close()


def test_prepared_changes_become_durable_with_their_write_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "state"
    opened = Opened(path, commit_changes=3, commit_interval=0.001)
    engine = opened.engine
    engine.write(Index(1), {("plain", b"0"): b"0"})
    for number in range(9):
        engine.prepare({("plain", b"%d" % number): b"1"})
    answers = Answers()
    engine.sync(answers)
    engine._begin_commit()
    assert (engine.durable(), engine.applied(), answers.got) == (0, 1, [])
    assert engine.get("plain", b"8") == b"1"
    engine.write(Index(2), {("plain", b"9"): b"1"})
    opened.loop.run_until(lambda: answers.got == [None])
    assert engine.durable() == 2
    engine.write(Index(3), {})
    engine.prepare({("plain", b"9"): b"2"})
    engine.sync(answers)
    engine.close()
    assert isinstance(answers.got[1], OSError)
    again = Opened(path)
    assert again.engine.applied() == 2
    assert list(again.engine.scan("plain", b"", None)) == [(b"%d" % number, b"1") for number in range(10)]
    again.engine.close()


def test_a_damaged_record_is_raised_reported_and_verified_at_the_next_start(
    tmp_path: Path,
) -> None:
    path = tmp_path / "state"
    told: list[StateDamaged] = []
    opened = Opened(path, on_damage=told.append)
    opened.engine.write(Index(1), {("plain", b"a"): b"good", ("plain", b"b"): b"to be spoiled"})
    assert opened.sync() is None
    spoil(path, b"to be spoiled")
    assert opened.engine.get("plain", b"a") == b"good"
    with pytest.raises(StateDamaged, match=r"state: table plain, key b'b': not what was written; "):
        opened.engine.get("plain", b"b")
    assert len(told) == 1
    with pytest.raises(StateDamaged):
        opened.engine.get_many("plain", [b"a", b"b"])
    with pytest.raises(StateDamaged):
        list(opened.engine.scan("plain", b"", None))
    assert len(told) == 1, "once is enough"
    opened.engine.close()
    assert path.with_name("state-open").exists()
    with pytest.raises(StateDamaged, match="key b'b'"):
        Opened(path)


def test_a_lost_record_is_reported_as_damage(tmp_path: Path) -> None:
    told: list[StateDamaged] = []
    opened = Opened(tmp_path / "state", on_damage=told.append)
    assert told == [opened.engine.lost("plain", b"x")]
    opened.engine.close()
