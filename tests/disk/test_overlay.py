"""Uncommitted changes: no layer is large, and each change is indexed once, in steps."""

from __future__ import annotations

import errno
import os
import random
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from netstore.disk import engine as engine_module
from netstore.disk import overlay
from netstore.disk.tables import Tables
from netstore.types import Index
from tests.disk.fakeloop import TIMEOUT
from tests.disk.opened import Opened, hold
from tests.support.patience import seconds

if TYPE_CHECKING:
    from pathlib import Path

    from netstore.disk.engine import LmdbEngine


class Work:
    """Counts the work of `some`: changes that it indexes, and comparisons of their keys."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.placed = self.compared = 0
        locate = Tables.locate

        def counted(tables: Tables, table: str, key: bytes) -> tuple[str, bytes]:
            self.placed += 1
            return locate(tables, table, key)

        monkeypatch.setattr(Tables, "locate", counted)
        work = self

        class Key(bytes):
            """A key whose comparisons are counted."""

            def __lt__(self, other: bytes) -> bool:
                work.compared += 1
                return bytes.__lt__(self, other)

            def __eq__(self, other: object) -> bool:
                work.compared += 1
                return bytes.__eq__(self, other)

            __hash__ = bytes.__hash__

        self.key: type[bytes] = Key

    def taken(self) -> tuple[int, int]:
        """The counts since the last call."""
        done = self.placed, self.compared
        self.placed = self.compared = 0
        return done


STEP = 100
"""Pairs that one step reads."""


PLACED = engine_module.INDEX_STEP + 2
"""Keys that one call locates at most: changes that it indexes, and its start."""


COMPARED = 12 * engine_module.INDEX_STEP + 2 * overlay._RUN_KEYS + 50 * STEP
"""Comparisons of one call at most: to sort what it indexes, to merge that into a run, and to find and merge
the next keys of all runs.
"""


def read(engine: LmdbEngine, work: Work) -> tuple[list[bytes], int]:
    """Read all keys of a table in steps, each within its bounds; also how many steps returned nothing."""
    work.taken()
    found: list[bytes] = []
    empty = 0
    following: bytes | None = b""
    while following is not None:
        part, following = engine.some("plain", following, STEP, 1_000_000)
        placed, compared = work.taken()
        assert placed <= PLACED
        assert compared <= COMPARED
        empty += not part
        keys = [bytes(key) for key, _ in part]  # their comparisons are not counted
        assert all(one < two for one, two in pairwise([*found[-1:], *keys]))
        found += keys
    return found, empty


@pytest.mark.parametrize("in_order", [True, False])
def test_changes_are_indexed_once_and_in_steps(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, in_order: bool
) -> None:
    """One call does a bounded part of the work, whatever is pending, in flight or committed meanwhile."""
    monkeypatch.setattr(overlay, "_LAYER_CHANGES", 15_000)
    engine, work = opened.engine, Work(monkeypatch)
    count = 40_000
    numbers = list(range(0, 2 * count, 2))
    if not in_order:
        random.Random(1).shuffle(numbers)  # noqa: S311 - any order will do
    for at in range(0, count, 1_000):
        engine.prepare({("plain", work.key(b"%05d" % number)): b"x" for number in numbers[at : at + 1_000]})
    assert len(engine._pending.layers) == 3
    expected = [b"%05d" % number for number in sorted(numbers)]
    found, empty = read(engine, work)
    assert found == expected
    assert empty == count // engine_module.INDEX_STEP
    reached, go_on = hold(engine, monkeypatch)
    engine.write(Index(1), {})  # hands over
    assert reached.wait(seconds(TIMEOUT))
    assert engine._in_flight
    assert not engine._pending
    assert read(engine, work) == (expected, 0), "its order went with it"
    engine.prepare({("plain", work.key(b"%05d" % number)): b"y" for number in range(1, 6_000, 2)})
    expected = sorted([*expected, *(b"%05d" % number for number in range(1, 6_000, 2))])
    assert read(engine, work) == (expected, 1)
    go_on.set()
    opened.loop.run_until(lambda: not engine._in_flight)
    assert read(engine, work) == (expected, 0), "nothing is done again when a commit was made"
    engine.write(Index(2), {})


def test_changes_whose_commit_failed_keep_their_index(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlay, "_LAYER_CHANGES", 2_500)
    engine, work = opened.engine, Work(monkeypatch)

    def short(*_arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(engine._shared, "_put", short)
        engine.prepare({("plain", work.key(b"%05d" % number)): b"x" for number in range(3_000)})
        engine.write(Index(1), {})
        engine._begin_commit()
        engine.prepare({("plain", work.key(b"%05d" % number)): b"x" for number in range(3_000, 6_000)})
        expected = [b"%05d" % number for number in range(6_000)]
        assert read(engine, work)[0] == expected
        opened.loop.run_until(engine.failing)
        engine.write(Index(2), {})
        assert opened.sync() is not None
        assert len(engine._in_flight) == 6_000
        assert read(engine, work) == (expected, 0)


def test_keys_that_changed_in_many_layers_do_not_make_a_step_long(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlay, "_LAYER_CHANGES", 500)
    engine, work = opened.engine, Work(monkeypatch)
    keys = [b"%03d" % number for number in range(500)]
    for number in range(40):
        engine.prepare({("plain", work.key(key)): b"%d" % number for key in keys})
    assert len(engine._pending.layers) == 40
    found, _ = read(engine, work)
    assert found == keys
    part, following = engine.some("plain", b"", STEP, 1_000_000)
    assert part == [(b"%03d" % number, b"39") for number in range(len(part))]
    assert following == b"%03d" % len(part)
    assert 0 < len(part) < STEP
    engine.write(Index(1), {})


def test_no_layer_is_large_and_the_last_one_counts(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last value is read from any layer, before it is committed and after."""
    monkeypatch.setattr(overlay, "_LAYER_CHANGES", 10)
    engine = opened.engine
    for number in range(0, 100, 5):
        changes: dict[tuple[str, bytes], bytes | None] = {
            ("plain", b"%d" % (each % 60)): b"%d" % each for each in range(number, number + 5)
        }
        changes["plain", b"gone"] = b"not yet" if number < 90 else None
        engine.prepare(changes)
    assert max(map(len, engine._pending.layers)) <= 10 + 6
    assert len(engine._pending.layers) > 7
    expected = {b"%d" % each: b"%d" % (each + 60 if each < 40 else each) for each in range(60)}

    def is_there() -> None:
        assert engine.get_many("plain", [*expected, b"gone"]) == [*expected.values(), None]
        assert [engine.get("plain", key) for key in (*expected, b"gone")] == [*expected.values(), None]
        assert dict(engine.scan("plain", b"", None)) == expected
        assert engine.some("plain", b"", 1_000, 1_000_000) == (sorted(expected.items()), None)

    is_there()
    engine.write(Index(1), {})
    is_there()
    assert opened.sync() is None
    assert not engine._pending
    assert not engine._in_flight
    is_there()


def test_changes_whose_commit_failed_are_part_of_the_next_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After any number of failures, no layer is large, and there are few where little was written."""
    monkeypatch.setattr(overlay, "_LAYER_CHANGES", 10)
    opened = Opened(tmp_path / "state")
    engine = opened.engine

    def short(*_arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(engine._shared, "_put", short)
    for number in range(40):
        engine.write(Index(number + 1), {("plain", b"%d" % (number % 30)): b"%d" % number})
        assert opened.sync() is not None
    assert [len(each) for each in engine._in_flight.layers] == [10, 10, 10, 10]
    expected = {b"%d" % each: b"%d" % (each + 30 if each < 10 else each) for each in range(30)}
    assert dict(engine.scan("plain", b"", None)) == expected
    monkeypatch.delattr(engine._shared, "_put")
    assert opened.sync() is None
    engine.close()
    again = Opened(tmp_path / "state").engine
    assert dict(again.scan("plain", b"", None)) == expected
    again.close()
