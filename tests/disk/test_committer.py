"""When commits are made, and how what they wrote is freed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from netstore.disk import overlay
from netstore.seams import SHORT_KEY_BYTES
from netstore.types import Index
from tests.disk.opened import Answers, Opened, copied

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_the_interval_commits_without_being_asked(tmp_path: Path) -> None:
    opened = Opened(tmp_path / "state", commit_interval=0.001)
    for index in range(1, 6):
        opened.engine.write(Index(index), {("plain", b"%d" % index): b"x"})
        opened.wait_durable()
    assert opened.engine.durable() == 5
    opened.engine.close()


def test_many_changes_commit_before_the_interval(tmp_path: Path) -> None:
    opened = Opened(tmp_path / "state", commit_interval=3600, commit_changes=10)
    opened.engine.write(Index(1), {("plain", b"%d" % number): b"x" for number in range(10)})
    opened.wait_durable()
    opened.engine.close()


def test_the_interval_commits_after_a_snapshot_was_installed_within_one(tmp_path: Path) -> None:
    source = Opened(tmp_path / "source")
    source.engine.write(Index(5), {("plain", b"a"): b"copied"})
    assert source.sync() is None
    image = copied(source.engine, tmp_path / "image")
    source.engine.close()
    opened = Opened(tmp_path / "state", commit_interval=0.2)
    opened.engine.write(Index(1), {("plain", b"old"): b"1"})
    answers = Answers()
    opened.engine.install(image, answers)
    opened.loop.run_until(lambda: bool(answers.got))
    assert opened.engine.durable() == 5
    opened.engine.write(Index(6), {("plain", b"b"): b"2"})
    opened.wait_durable()
    assert opened.engine.durable() == 6
    opened.engine.close()


def test_a_write_before_prepared_changes_is_committed_by_the_interval_after_theirs(tmp_path: Path) -> None:
    opened = Opened(tmp_path / "state", commit_interval=0.001)
    opened.engine.prepare({("plain", b"1"): b"1"})
    opened.engine.write(Index(1), {})
    opened.engine.prepare({("plain", b"2"): b"1"})
    opened.loop.run_one()
    assert opened.engine.durable() == 0
    opened.engine.write(Index(2), {})
    opened.wait_durable()
    opened.engine.close()


def test_committed_changes_are_freed_in_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Opened(tmp_path / "state", commit_interval=3600)
    written = 2_000
    opened.engine.write(
        Index(1), {("plain", b"%0*d" % (SHORT_KEY_BYTES + 9, number)): b"x" for number in range(written)}
    )
    in_flight = opened.engine._in_flight or opened.engine._pending
    while not opened.engine.some("plain", b"", 1, 1)[0]:
        pass
    (order,) = in_flight.indexes
    (keys,) = order._keys.values()
    assert len(keys) == written
    turns = 0

    def turn() -> None:
        nonlocal turns
        turns += 1

    monkeypatch.setattr(os, "sched_yield", turn)
    assert opened.sync() is None
    assert opened.engine._in_flight is not in_flight
    opened.engine.close()
    assert not in_flight, "the thread has emptied it"
    assert not keys
    assert not order._runs
    assert turns == 2 * written // overlay._FREE_STEP
