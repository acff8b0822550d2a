"""The state engine against its twin in memory, and what it does when the disk says no."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import lmdb
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from netstore.disk import engine as engines
from netstore.disk.engine import CHANGE_COST, LmdbEngine, MemoryEngine
from netstore.disk.tables import Tables
from netstore.errors import CorruptData
from netstore.limits import Budget
from netstore.seams import PASSING, SHORT_KEY_BYTES
from netstore.types import Index
from tests.disk.hand import PATIENCE, Hand
from tests.support.patience import seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from netstore.seams import Engine

TABLES = ("plain", "other")
LONG = b"k" * 600

keys = st.sampled_from(
    [b"", b"a", b"b", b"b\0", b"c" * 511, b"c" * 512, LONG, LONG + b"2", b"z", b"\xff" * 3]
)
values = st.one_of(st.none(), st.binary(max_size=30), st.just(b"v" * 5000))
changes = st.dictionaries(st.tuples(st.sampled_from(TABLES), keys), values, max_size=5)


class Answers:
    def __init__(self) -> None:
        self.got: list[OSError | None] = []

    def __call__(self, error: OSError | None) -> None:
        self.got.append(error)


class Opened:
    """An engine on a file, the loop it talks to, and the failures it told."""

    def __init__(self, path: Path, **options: Any) -> None:
        self.hand = Hand()
        self.failures: list[OSError] = []
        self.engine = LmdbEngine(path, self.hand, TABLES, self.failures.append, **options)

    def sync(self) -> OSError | None:
        answers = Answers()
        self.engine.sync(answers)
        self.hand.until(lambda: bool(answers.got))
        return answers.got[0]

    def wait_durable(self) -> None:
        self.hand.until(lambda: self.engine.durable() == self.engine.applied())


class Twins(RuleBasedStateMachine):
    """Any sequence of calls reads the same from both, at every moment and after every restart."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="netstore-engine-"))
        self.memory = MemoryEngine(lambda call: call(), TABLES)
        self.applied = 0
        self.open()

    def open(self) -> None:
        # A small map, so that it grows; few changes, so that commits overlap writes.
        self.opened = Opened(
            self.folder / "state", map_bytes=256 * 1024, commit_changes=8, commit_interval=0.001
        )
        self.lmdb = self.opened.engine

    def teardown(self) -> None:
        self.lmdb.close()
        shutil.rmtree(self.folder)

    @rule(step=st.integers(0, 2), changed=changes)
    def write(self, step: int, changed: dict[tuple[str, bytes], bytes | None]) -> None:
        self.applied += step
        for engine in (self.lmdb, self.memory):
            engine.write(Index(self.applied), changed)

    @rule(pieces=st.lists(changes, max_size=3), changed=changes)
    def write_in_pieces(
        self,
        pieces: list[dict[tuple[str, bytes], bytes | None]],
        changed: dict[tuple[str, bytes], bytes | None],
    ) -> None:
        for piece in pieces:
            for engine in (self.lmdb, self.memory):
                engine.prepare(piece)
        self.write(1, changed)

    @rule()
    def sync(self) -> None:
        answers = Answers()
        self.memory.sync(answers)
        assert [self.opened.sync()] == answers.got == [None]
        assert self.lmdb.durable() == self.memory.durable() == self.applied

    @rule()
    def settle(self) -> None:
        self.opened.wait_durable()

    @rule()
    def turn(self) -> None:
        self.opened.hand.drain()

    @rule()
    def restart(self) -> None:
        self.lmdb.close()
        self.memory.close()
        self.memory = self.memory.crash()
        self.open()
        assert self.lmdb.durable() == self.memory.durable() == self.applied

    @rule(table=st.sampled_from(TABLES), start=keys, end=st.one_of(st.none(), keys))
    def scan(self, table: str, start: bytes, end: bytes | None) -> None:
        assert list(self.lmdb.scan(table, start, end)) == list(self.memory.scan(table, start, end))

    @rule(table=st.sampled_from(TABLES), start=keys, most=st.integers(1, 4), size=st.integers(1, 50))
    def scan_in_steps(self, table: str, start: bytes, most: int, size: int) -> None:
        if len(start) > SHORT_KEY_BYTES:
            start = b""
        expected = [
            pair
            for pair in self.memory.scan(table, b"", None)
            if pair[0] >= start or len(pair[0]) > SHORT_KEY_BYTES
        ]
        for engine in (self.lmdb, self.memory):
            found = []
            following: bytes | None = start
            while following is not None:
                part, following = engine.some(table, following, most, size)
                assert len(part) <= most
                assert sum(len(value) for _, value in part[:-1]) < size
                found += part
            short = sum(len(key) <= SHORT_KEY_BYTES for key, _ in expected)
            assert found[:short] == [pair for pair in expected if len(pair[0]) <= SHORT_KEY_BYTES]
            assert sorted(found) == expected

    @rule(table=st.sampled_from(TABLES), key=keys)
    def get(self, table: str, key: bytes) -> None:
        assert self.lmdb.get(table, key) == self.memory.get(table, key)

    @rule(table=st.sampled_from(TABLES), wanted=st.lists(keys, max_size=8))
    def get_many(self, table: str, wanted: list[bytes]) -> None:
        expected = [self.memory.get(table, key) for key in wanted]
        assert self.lmdb.get_many(table, wanted) == expected
        assert self.memory.get_many(table, wanted) == expected

    @invariant()
    def positions_agree(self) -> None:
        assert self.lmdb.applied() == self.memory.applied() == self.applied
        assert self.lmdb.durable() <= self.applied
        assert self.opened.failures == []


Twins.TestCase.settings = settings(max_examples=40, stateful_step_count=30)
TestTwins = Twins.TestCase


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    made = Opened(tmp_path / "state", commit_interval=3600)
    yield made
    made.engine.close()


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


class Work:
    """Counts what `some` does: changes that it puts in order, and comparisons of their keys."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.placed = self.compared = 0
        place = Tables.place

        def counted(tables: Tables, table: str, key: bytes) -> tuple[str, bytes]:
            self.placed += 1
            return place(tables, table, key)

        monkeypatch.setattr(Tables, "place", counted)
        work = self

        class Key(bytes):
            """One whose comparisons are counted."""

            def __lt__(self, other: bytes) -> bool:
                work.compared += 1
                return bytes.__lt__(self, other)

            def __eq__(self, other: object) -> bool:
                work.compared += 1
                return bytes.__eq__(self, other)

            __hash__ = bytes.__hash__

        self.key: type[bytes] = Key

    def taken(self) -> tuple[int, int]:
        """How much it was since the last call."""
        done = self.placed, self.compared
        self.placed = self.compared = 0
        return done


STEP = 100
"""Pairs that are read at once below."""

PLACED = engines._IN_ORDER + 2
"""Changes that one call puts in order at most, with where it begins."""

COMPARED = 12 * engines._IN_ORDER + 2 * engines._RUN + 50 * STEP
"""Comparisons of one call at most: to order a piece, to merge it with those before it, and to find and merge
the next of all lists.
"""


def read(engine: LmdbEngine, work: Work) -> tuple[list[bytes], int]:
    """All keys of a table in steps, no longer than they may be, and how many of these gave nothing."""
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
        found += [bytes(key) for key, _ in part]  # their comparisons are not counted
        assert found == sorted(set(found))
    return found, empty


@pytest.mark.parametrize("in_order", [True, False])
def test_what_waits_is_put_in_order_once_and_in_pieces(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, in_order: bool
) -> None:
    """Whatever waits, and whatever becomes of it meanwhile: one call holds the loop for a piece of it."""
    monkeypatch.setattr(engines, "_LAYER", 15_000)
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
    assert empty == count // engines._IN_ORDER
    reached, go_on = hold(engine, monkeypatch)
    engine.write(Index(1), {})  # hands over
    assert reached.wait(seconds(PATIENCE))
    assert engine._in_flight
    assert not engine._pending
    assert read(engine, work) == (expected, 0), "its order went with it"
    engine.prepare({("plain", work.key(b"%05d" % number)): b"y" for number in range(1, 6_000, 2)})
    expected = sorted([*expected, *(b"%05d" % number for number in range(1, 6_000, 2))])
    assert read(engine, work) == (expected, 1)
    go_on.set()
    opened.hand.until(lambda: not engine._in_flight)
    assert read(engine, work) == (expected, 0), "nothing is done again when a commit was made"
    engine.write(Index(2), {})


def test_what_no_commit_took_keeps_its_order(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_LAYER", 2_500)
    engine, work = opened.engine, Work(monkeypatch)

    def short(*_arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(engine, "_put", short)
        engine.prepare({("plain", work.key(b"%05d" % number)): b"x" for number in range(3_000)})
        engine.write(Index(1), {})
        engine._hand_over()
        engine.prepare({("plain", work.key(b"%05d" % number)): b"x" for number in range(3_000, 6_000)})
        expected = [b"%05d" % number for number in range(6_000)]
        assert read(engine, work)[0] == expected
        opened.hand.until(engine.failing)
        engine.write(Index(2), {})
        assert opened.sync() is not None
        assert len(engine._in_flight) == 6_000
        assert read(engine, work) == (expected, 0)


def test_what_changed_in_many_layers_does_not_make_a_step_long(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "_LAYER", 500)
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


def test_a_key_that_is_the_place_of_another_one_is_that_key(opened: Opened) -> None:
    engine, place = opened.engine, sha256(LONG).digest()
    engine.prepare({("plain", LONG): b"long", ("plain", place): b"short"})
    assert engine.some("plain", b"", 9, 999) == ([(place, b"short"), (LONG, b"long")], None)
    engine.write(Index(1), {})


class Steps(RuleBasedStateMachine):
    """A step gives what there is at its moment between where it begins and where the next one does: whatever
    waits, is under way, was not committed, or is not in order yet.
    """

    NAMES = (
        b"",
        *(b"%02d" % number for number in range(30)),
        b"c" * 511,
        b"c" * 512,
        LONG,
        LONG + b"2",
        sha256(LONG).digest(),  # the place of another key, in another of LMDB's tables
    )
    SIZES: Final = {"_LAYER": 6, "_IN_ORDER": 5, "_RUN": 4, "_REPEATS": 2}

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="netstore-engine-"))
        self.before = {name: getattr(engines, name) for name in self.SIZES}
        for name, size in self.SIZES.items():
            setattr(engines, name, size)
        self.opened = Opened(self.folder / "state", commit_interval=3600)
        self.engine = self.opened.engine
        self.fails = False
        self.model: dict[bytes, bytes] = {}
        self.following = b""
        self.applied = 0
        put = self.engine._put

        def put_or_fail(batch: Any) -> None:
            if self.fails:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            put(batch)

        self.engine._put = put_or_fail  # type: ignore[method-assign]

    def teardown(self) -> None:
        self.fails = False
        self.write({})
        self.engine.close()
        for name, size in self.before.items():
            setattr(engines, name, size)
        shutil.rmtree(self.folder)

    def change(self, given: dict[bytes, bytes | None]) -> dict[tuple[str, bytes], bytes | None]:
        for key, value in given.items():
            self.model.pop(key, None)
            if value is not None:
                self.model[key] = value
        return {("plain", key): value for key, value in given.items()} | {("other", b"beside"): b"x"}

    given = st.dictionaries(st.sampled_from(NAMES), st.one_of(st.none(), st.binary(max_size=9)), max_size=8)

    @rule(given=given)
    def prepare(self, given: dict[bytes, bytes | None]) -> None:
        self.engine.prepare(self.change(given))

    @rule(given=given)
    def write(self, given: dict[bytes, bytes | None]) -> None:
        self.applied += 1
        self.engine.write(Index(self.applied), self.change(given))

    @rule(fails=st.booleans())
    def hand_over(self, fails: bool) -> None:
        if not self.engine._busy:
            self.fails = fails
        self.engine._hand_over()

    @rule()
    def settle(self) -> None:
        self.opened.hand.until(lambda: not self.engine._busy)

    @rule(most=st.integers(1, 9), size=st.integers(1, 60))
    def go_on(self, most: int, size: int) -> None:
        """The next step of a reading that goes on while all else happens."""
        self.following = self.step(self.following, most, size)[1] or b""

    @rule(
        start=st.sampled_from([name for name in NAMES if len(name) <= SHORT_KEY_BYTES]),
        most=st.integers(1, 9),
    )
    def from_anywhere(self, start: bytes, most: int) -> None:
        self.step(start, most, 1_000)

    def step(self, start: bytes, most: int, size: int) -> tuple[list[tuple[bytes, bytes]], bytes | None]:
        part, following = self.engine.some("plain", start, most, size)
        assert len(part) <= most
        assert sum(len(value) for _, value in part[:-1]) < size
        assert all(self.model[key] == value for key, value in part)
        short = [key for key, _ in part if len(key) <= SHORT_KEY_BYTES]
        is_behind = following is None or len(following) > SHORT_KEY_BYTES
        if len(start) > SHORT_KEY_BYTES:
            assert not short
        else:
            keys = sorted(key for key in self.model if start <= key and len(key) <= SHORT_KEY_BYTES)
            assert short == [key for key in keys if is_behind or key < (following or b"")]
        return part, following

    @rule(most=st.integers(1, 9), place=st.integers(0, 40))
    def read(self, most: int, place: int) -> None:
        """All of it, then from one of its keys on in other steps."""
        whole = self.all_from(b"", 4)
        assert sorted(whole) == sorted(self.model.items())
        if whole:
            rest = whole[place % len(whole) :]
            assert self.all_from(rest[0][0], most) == rest

    def all_from(self, start: bytes, most: int) -> list[tuple[bytes, bytes]]:
        found = []
        waiting = len(self.engine._pending) + len(self.engine._in_flight)
        following: bytes | None = start
        empty = 0
        while following is not None:
            begun = following
            part, following = self.step(begun, most, 1_000)
            empty += following == begun
            found += part
            assert empty <= 2 * waiting, "it comes to an end"
            assert len(found) <= len(self.model)
        return found


Steps.TestCase.settings = settings(max_examples=30, stateful_step_count=40)
TestSteps = Steps.TestCase


def test_what_waits_lies_in_dictionaries_that_are_not_large(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What came last holds, wherever it lies, until it is committed and after."""
    monkeypatch.setattr(engines, "_LAYER", 10)
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


def test_what_no_commit_took_goes_with_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many failed, in dictionaries that are not large, and few where little was written."""
    monkeypatch.setattr(engines, "_LAYER", 10)
    opened = Opened(tmp_path / "state")
    engine = opened.engine

    def short(*_arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(engine, "_put", short)
    for number in range(40):
        engine.write(Index(number + 1), {("plain", b"%d" % (number % 30)): b"%d" % number})
        assert opened.sync() is not None
    assert [len(each) for each in engine._in_flight.layers] == [10, 10, 10, 10]
    expected = {b"%d" % each: b"%d" % (each + 30 if each < 10 else each) for each in range(30)}
    assert dict(engine.scan("plain", b"", None)) == expected
    monkeypatch.delattr(engine, "_put")
    assert opened.sync() is None
    engine.close()
    again = Opened(tmp_path / "state").engine
    assert dict(again.scan("plain", b"", None)) == expected
    again.close()


def test_a_step_reads_what_it_gives_also_of_keys_that_are_long(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = 0
    walk = Tables.walk

    def counted(tables: Tables, *place: Any) -> Iterator[tuple[bytes, bytes]]:
        nonlocal looked
        for pair in walk(tables, *place):
            looked += 1
            yield pair

    monkeypatch.setattr(Tables, "walk", counted)
    engine = opened.engine
    lengths = (3, SHORT_KEY_BYTES, SHORT_KEY_BYTES + 1, 700)
    written = {b"%03d" % number * (length // 3) for number in range(500) for length in lengths}
    written |= {b"", b"1" * SHORT_KEY_BYTES, b"1" * (SHORT_KEY_BYTES + 1)}
    engine.write(Index(1), {("plain", key): b"v" for key in written})
    opened.sync()
    changed = sorted(written)[::7]
    engine.write(Index(2), {("plain", key): b"w" for key in changed})
    found: list[bytes] = []
    following: bytes | None = b""
    while following is not None:
        before = looked
        part, following = engine.some("plain", following, 20, 1000)
        found += [key for key, _ in part]
        assert looked - before <= 20 + 2
    assert sorted(found) == sorted(written)
    assert looked <= 2 * len(written)


def test_what_is_prepared_is_charged_at_once_and_never_too_much_for_its_own_command(tmp_path: Path) -> None:
    budget = Budget(1000)
    opened = Opened(tmp_path / "state", commit_interval=3600, budget=budget)
    engine = opened.engine
    engine.write(Index(1), {("plain", b"0"): b"v"})
    written = 2 + CHANGE_COST
    assert (budget.used, engine.behind()) == (written, 0)
    engine.sync(lambda _: None)
    for number in range(1, 6):
        engine.prepare({("plain", b"%d" % number): b"v"})
        assert (budget.used, engine.behind()) == (written * (number + 1), 0)
    opened.hand.until(lambda: engine.durable() == 1)
    assert (budget.used, engine.behind()) == (written * 5, 0), "what was committed meanwhile is not held"
    engine.write(Index(2), {})
    assert (budget.used, engine.behind()) == (written * 5, written * 5 - 1000)
    opened.sync()
    assert (budget.used, engine.behind()) == (0, 0)
    engine.close()


def test_an_applied_index_alone_becomes_durable(opened: Opened) -> None:
    opened.engine.write(Index(7), {})
    assert opened.sync() is None
    assert opened.engine.durable() == 7


def test_a_sync_with_nothing_to_do_is_answered_on_the_loop(opened: Opened) -> None:
    answers = Answers()
    opened.engine.sync(answers)
    assert answers.got == []
    opened.hand.turn()
    assert answers.got == [None]


def test_an_index_that_goes_back_is_refused(opened: Opened) -> None:
    opened.engine.write(Index(5), {})
    twin = MemoryEngine(lambda call: call(), TABLES)
    twin.write(Index(5), {})
    for engine in (opened.engine, twin):
        with pytest.raises(ValueError, match="applied index 4 after 5"):
            engine.write(Index(4), {})


def hold(engine: LmdbEngine, monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Stop the storage thread inside its next commit: (reached, go on)."""
    reached, go_on = threading.Event(), threading.Event()
    real = engine._put

    def put(*arguments: Any) -> None:
        reached.set()
        assert go_on.wait(seconds(PATIENCE))
        real(*arguments)

    monkeypatch.setattr(engine, "_put", put)
    return reached, go_on


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
    assert reached.wait(seconds(PATIENCE))
    engine.write(Index(3), {("plain", b"c"): None, ("plain", b"d"): b"newest"})
    engine.sync(second)
    want = [(b"a", b"new"), (b"b", b"old"), (b"d", b"newest")]
    assert list(engine.scan("plain", b"", None)) == want
    assert [engine.get("plain", key) for key in (b"a", b"b", b"c", b"d")] == [b"new", b"old", None, b"newest"]
    assert engine.durable() == 1
    go_on.set()
    opened.hand.until(lambda: bool(first.got))
    assert (engine.durable(), second.got) == (2, [])
    opened.hand.until(lambda: bool(second.got))
    assert engine.durable() == 3
    assert list(engine.scan("plain", b"", None)) == want


def test_a_scan_is_of_one_moment(opened: Opened) -> None:
    engine = opened.engine
    engine.write(Index(1), {("plain", b"a"): b"1", ("plain", b"b"): b"1"})
    scan = engine.scan("plain", b"", None)
    engine.write(Index(2), {("plain", b"a"): b"2", ("plain", b"b"): None, ("plain", b"c"): b"2"})
    assert opened.sync() is None
    assert list(scan) == [(b"a", b"1"), (b"b", b"1")]


def test_a_full_map_grows(tmp_path: Path) -> None:
    opened = Opened(tmp_path / "state", map_bytes=128 * 1024)
    many = {("plain", b"%06d" % number): os.urandom(200) for number in range(5000)}
    opened.engine.write(Index(1), many)
    assert opened.sync() is None
    assert opened.engine._tables.env.info()["map_size"] > 1_000_000
    assert all(opened.engine.get(*place) == value for place, value in many.items())
    opened.engine.close()


def test_a_copy_gives_way_when_the_map_must_grow(tmp_path: Path) -> None:
    """Whoever takes the copy has stopped taking: commits, and so the overlay, do not wait for that."""
    opened = Opened(tmp_path / "state", map_bytes=8 * 1024 * 1024, commit_interval=0.001)
    engine = opened.engine
    engine.write(Index(1), {("plain", b"%06d" % number): b"x" * 300 for number in range(10_000)})
    assert opened.sync() is None
    source, sink = os.pipe()
    failures: list[OSError] = []

    def copy_out() -> None:
        try:
            engine.copy_to(sink)
        except OSError as error:
            failures.append(error)

    copier = threading.Thread(target=copy_out)
    copier.start()
    assert os.read(source, 1)
    engine.write(Index(2), {("plain", b"%06d" % number): b"y" * 300 for number in range(10_000, 30_000)})
    assert opened.sync() is None
    assert engine.durable() == 2
    with os.fdopen(source, "rb") as stream:
        os.set_blocking(source, False)
        while copier.is_alive():
            stream.read(65536)
    copier.join()
    os.close(sink)
    assert [failure.errno for failure in failures] == [errno.EAGAIN]
    engine.close()


def test_commits_go_on_while_a_copy_is_made(opened: Opened) -> None:
    engine = opened.engine
    engine.write(Index(1), {("plain", b"%06d" % number): b"x" * 300 for number in range(3000)})
    assert opened.sync() is None
    source, sink = os.pipe()

    def copy_out() -> None:
        engine.copy_to(sink)
        os.close(sink)

    copier = threading.Thread(target=copy_out)
    copier.start()
    first = os.read(source, 1)
    for index in range(2, 20):
        changed = {("plain", b"%06d" % number): b"%d" % index * 300 for number in range(index, 3000, 7)}
        engine.write(Index(index), changed)
        assert opened.sync() is None
    with os.fdopen(source, "rb") as stream:
        copy = first + stream.read()
    copier.join()
    path = opened.engine._path.with_name("copy")
    path.write_bytes(copy)
    again = Opened(path)
    assert again.engine.applied() == 1
    assert {value for _, value in again.engine.scan("plain", b"", None)} == {b"x" * 300}
    again.engine.close()


def test_the_map_does_not_move_under_a_scan(tmp_path: Path) -> None:
    opened = Opened(tmp_path / "state", map_bytes=256 * 1024, commit_interval=0.001)
    engine = opened.engine
    engine.write(Index(1), {("plain", b"%06d" % number): b"x" for number in range(500)})
    assert opened.sync() is None
    scan = engine.scan("plain", b"", None)
    assert next(scan) == (b"000000", b"x")
    engine.write(Index(2), {("other", b"%06d" % number): b"y" * 300 for number in range(5000)})
    answers = Answers()
    engine.sync(answers)
    assert engine.get("plain", b"000001") == b"x", "a read within a scan"
    assert len(list(scan)) == 499
    opened.hand.until(lambda: bool(answers.got))
    assert answers.got == [None]
    unread = engine.scan("plain", b"", None)
    del unread
    engine.write(Index(3), {("other", b"%07d" % number): b"y" * 300 for number in range(9000)})
    assert opened.sync() is None
    engine.close()


def test_little_address_space_is_a_small_map_and_a_full_one_no_end(tmp_path: Path) -> None:
    """In a process of its own: the limit is one of processes."""
    source = """
import resource, sys
from pathlib import Path
from netstore.disk.engine import LmdbEngine
from netstore.types import Index
from tests.disk.hand import Hand
resource.setrlimit(resource.RLIMIT_AS, (700 << 20, 700 << 20))
hand, told = Hand(), []
engine = LmdbEngine(Path(sys.argv[1]), hand, ("plain",), told.append, commit_interval=0.001)
index = 0
while not told:
    index += 1
    engine.write(Index(index), {("plain", b"%d" % index): bytes(8 << 20)})
    hand.until(lambda: bool(told) or engine.durable() == index)
    assert index < 200
assert engine.get("plain", b"1") == bytes(8 << 20)
print(told[0].errno, index)
"""
    command = [sys.executable, "-c", source, str(tmp_path / "state")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    number, index = map(int, done.stdout.split())
    assert number == errno.ENOSPC
    assert index > 10


def test_closing_ends_a_copy(tmp_path: Path) -> None:
    opened = Opened(tmp_path / "state")
    opened.engine.write(Index(1), {("plain", b"%06d" % number): b"x" * 300 for number in range(10_000)})
    assert opened.sync() is None
    source, sink = os.pipe()

    def copy_out() -> None:
        with contextlib.suppress(OSError):
            opened.engine.copy_to(sink)

    copier = threading.Thread(target=copy_out)
    copier.start()
    assert os.read(source, 1)
    opened.engine.close()
    os.close(source)
    copier.join()
    os.close(sink)
    with pytest.raises(OSError, match="closed"):
        opened.engine.copy_to(0)


def test_the_overlay_is_counted_by_bytes_committed_by_bytes_and_told_when_it_is_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = Budget(1 << 20)
    opened = Opened(tmp_path / "state", commit_interval=3600, commit_bytes=100_000, budget=budget)
    engine = opened.engine
    reached, go_on = hold(engine, monkeypatch)
    engine.write(Index(1), {("plain", b"a"): bytes(100_000)})
    assert reached.wait(seconds(PATIENCE)), "committed for its size, long before the interval"
    assert budget.used == 100_000 + 1 + CHANGE_COST
    index = 1
    while not engine.behind():
        index += 1
        engine.write(Index(index), {("plain", b"%d" % index): bytes(100_000), ("other", b"gone"): None})
        assert index < 20
    assert budget.used > 1 << 20
    eased: list[bool] = []
    engine.eased = lambda: eased.append(engine.behind() > 0)
    go_on.set()
    opened.hand.until(lambda: not engine.behind())
    assert eased == [False], "told by the commit that made room"
    assert opened.sync() is None
    assert (budget.used, engine.durable()) == (0, index)
    engine.write(Index(index + 1), {("plain", b"a"): b"v"})
    assert opened.sync() is None
    assert len(eased) == 1, "only while it is behind"
    engine.close()


def test_a_map_at_its_limit_is_told_tried_again_and_loses_nothing(tmp_path: Path) -> None:
    opened = Opened(
        tmp_path / "state", map_bytes=128 * 1024, map_limit_bytes=128 * 1024, commit_interval=0.001
    )
    engine = opened.engine
    engine.write(Index(1), {("plain", b"%06d" % number): b"x" * 300 for number in range(2000)})
    error = opened.sync()
    assert error is not None
    assert error.errno == errno.ENOSPC
    engine.write(Index(2), {("plain", b"000000"): b"newer", ("plain", b"000001"): None})
    opened.hand.until(lambda: len(opened.failures) >= 3)
    assert engine.durable() == 0
    assert engine.get("plain", b"001999") == b"x" * 300
    assert engine.get("plain", b"000000") == b"newer"
    engine._map_limit_bytes = 1 << 30
    opened.wait_durable()
    assert engine.durable() == 2
    engine.close()
    again = Opened(tmp_path / "state")
    assert again.engine.get("plain", b"000000") == b"newer"
    assert again.engine.get("plain", b"000001") is None
    assert len(list(again.engine.scan("plain", b"", None))) == 1999
    again.engine.close()


def test_any_other_failure_ends_commits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Opened(tmp_path / "state")
    engine = opened.engine

    def broken(*_arguments: Any) -> None:
        raise lmdb.Error("mdb_txn_commit: Input/output error")

    monkeypatch.setattr(engine, "_put", broken)
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
def test_what_a_host_waits_for_the_engine_tries_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    opened = Opened(tmp_path / "state")
    engine = opened.engine

    def short(*_arguments: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(engine, "_put", short)
    engine.write(Index(1), {("plain", b"a"): b"1"})
    error = opened.sync()
    assert error is not None
    assert error.errno == number
    assert engine.failing()
    monkeypatch.undo()
    assert opened.sync() is None
    assert engine.durable() == 1
    assert not engine.failing()
    monkeypatch.setattr(engine, "_put", short)
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
    real, tries = engine._put, 0

    def short(*arguments: Any) -> None:
        nonlocal tries
        tries += 1
        if tries <= 2:
            raise shortage
        real(*arguments)

    monkeypatch.setattr(engine, "_put", short)
    engine.write(Index(1), {("plain", b"a"): b"1"})
    opened.wait_durable()
    assert [each.errno for each in opened.failures] == [errno.ENOMEM] * 2
    assert engine.get("plain", b"a") == b"1"
    engine.close()


def test_changes_that_cannot_be_handed_over_for_want_of_memory_are_handed_over_later(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short() -> bytes:
        raise MemoryError

    engine = opened.engine
    monkeypatch.setattr(engine, "log_position", short)
    engine.write(Index(1), {("plain", b"a"): b"1"})
    with pytest.raises(MemoryError):
        engine.sync(Answers())
    monkeypatch.setattr(engine, "log_position", bytes)
    assert opened.sync() is None
    assert engine.durable() == 1


def test_a_read_without_memory_is_no_damage(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    class Short:
        def begin(self) -> None:
            raise lmdb.MemoryError("mdb_txn_begin: Cannot allocate memory")

    env = opened.engine._tables.env
    monkeypatch.setattr(opened.engine._tables, "env", Short())
    with pytest.raises(MemoryError):
        opened.engine.get("plain", b"a")
    with pytest.raises(MemoryError):
        opened.engine.get_many("plain", [b"a"])
    monkeypatch.setattr(opened.engine._tables, "env", env)


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


def test_the_twin_loses_in_a_crash_what_was_not_durable_and_only_that() -> None:
    memory = MemoryEngine(lambda call: call(), TABLES)
    for index in range(1, 4):
        memory.write(Index(index), {("plain", b"a"): b"%d" % index})
    memory.commit(2)
    assert (memory.applied(), memory.durable()) == (3, 2)
    after = memory.crash()
    assert (after.applied(), after.durable(), after.get("plain", b"a")) == (2, 2, b"2")
    assert memory.get("plain", b"a") == b"3"


def test_the_twin_can_fail() -> None:
    memory = MemoryEngine(lambda call: call(), TABLES)
    full = OSError(errno.ENOSPC, "full")
    memory.write(Index(1), {("plain", b"a"): b"1"})
    memory.fail(full)
    answers = Answers()
    memory.sync(answers)
    assert answers.got == [full]
    assert memory.durable() == 0
    with pytest.raises(OSError, match="full"):
        memory.close()
    memory.fail(None)
    memory.sync(answers)
    assert answers.got == [full, None]


def copied(engine: LmdbEngine, path: Path) -> Path:
    with path.open("wb") as file:
        engine.copy_to(file.fileno())
    return path


def test_a_copy_replaces_everything_also_what_was_not_committed(
    opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Opened(tmp_path / "source")
    source.engine.write(Index(9), {("plain", b"a"): b"copied", ("other", LONG): b"long"})
    assert source.sync() is None
    image = copied(source.engine, tmp_path / "image")
    source.engine.close()
    engine = opened.engine
    engine.write(Index(1), {("plain", b"old"): b"1"})
    assert opened.sync() is None
    reached, go_on = hold(engine, monkeypatch)
    engine.write(Index(2), {("plain", b"old"): b"2"})
    answers = Answers()
    engine.sync(answers)
    assert reached.wait(seconds(PATIENCE))
    engine.write(Index(3), {("plain", b"pending"): b"3"})
    engine.install(image, answers)
    assert answers.got == []
    go_on.set()
    opened.hand.until(lambda: len(answers.got) == 2)
    assert answers.got == [None, None]
    assert (engine.applied(), engine.durable()) == (9, 9)
    assert list(engine.scan("plain", b"", None)) == [(b"a", b"copied")]
    assert (engine.get("plain", b"pending"), engine.get("other", LONG)) == (None, b"long")
    assert not image.exists()
    engine.write(Index(10), {("plain", b"b"): b"after"})
    assert opened.sync() is None
    assert engine.durable() == 10


def test_the_interval_commits_after_a_copy_that_came_within_one(tmp_path: Path) -> None:
    source = Opened(tmp_path / "source")
    source.engine.write(Index(5), {("plain", b"a"): b"copied"})
    assert source.sync() is None
    image = copied(source.engine, tmp_path / "image")
    source.engine.close()
    opened = Opened(tmp_path / "state", commit_interval=0.2)
    opened.engine.write(Index(1), {("plain", b"old"): b"1"})
    answers = Answers()
    opened.engine.install(image, answers)
    opened.hand.until(lambda: bool(answers.got))
    assert opened.engine.durable() == 5
    opened.engine.write(Index(6), {("plain", b"b"): b"2"})
    opened.wait_durable()
    assert opened.engine.durable() == 6
    opened.engine.close()


def test_sizes_are_those_from_before_while_a_copy_is_put_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no file to look at for as long as a slow disk syncs the folder."""
    source = Opened(tmp_path / "source")
    source.engine.write(Index(5), {("plain", b"%d" % number): bytes(1_000) for number in range(500)})
    assert source.sync() is None
    image = copied(source.engine, tmp_path / "image")
    source.engine.close()
    opened = Opened(tmp_path / "state")
    before = opened.engine.sizes()
    seen: list[tuple[int, int]] = []
    monkeypatch.setattr("netstore.disk.engine.sync_folder", lambda _: seen.append(opened.engine.sizes()))
    answers = Answers()
    opened.engine.install(image, answers)
    opened.hand.until(lambda: bool(answers.got))
    assert (answers.got, seen) == ([None], [before])
    assert opened.engine.sizes()[1] > before[1]
    opened.engine.close()


def test_a_copy_that_cannot_be_put_in_place_ends_the_engine(tmp_path: Path) -> None:
    opened = Opened(tmp_path / "state")
    answers = Answers()
    opened.engine.install(tmp_path / "none", answers)
    opened.hand.until(lambda: bool(answers.got))
    assert isinstance(answers.got[0], FileNotFoundError)
    with pytest.raises(FileNotFoundError):
        opened.engine.close()


def test_the_twin_takes_what_is_durable_of_another() -> None:
    source, target = (MemoryEngine(lambda call: call(), TABLES) for _ in range(2))
    source.write(Index(9), {("plain", b"a"): b"copied"})
    source.commit()
    source.write(Index(10), {("plain", b"b"): b"not durable"})
    target.write(Index(3), {("plain", b"c"): b"old"})
    answers = Answers()
    target.fail(OSError(errno.EIO, "broken"))
    target.install(source, answers)
    assert target.applied() == 3
    target.fail(None)
    target.install(source, answers)
    assert [error is None for error in answers.got] == [False, True]
    assert (target.applied(), target.durable()) == (9, 9)
    assert list(target.scan("plain", b"", None)) == [(b"a", b"copied")]
    source.write(Index(11), {("plain", b"a"): None})
    source.commit()
    assert target.get("plain", b"a") == b"copied"


def test_only_a_copy_can_be_installed(opened: Opened) -> None:
    for engine in (opened.engine, MemoryEngine(lambda call: call(), TABLES)):
        with pytest.raises(TypeError, match="copy"):
            engine.install(b"bytes", Answers())


def test_both_are_engines(opened: Opened) -> None:
    engines: tuple[Engine, ...] = (opened.engine, MemoryEngine(lambda call: call(), TABLES))
    assert [engine.applied() for engine in engines] == [0, 0]


@pytest.mark.root
def test_a_really_full_disk_is_told_and_recovers_when_there_is_room(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=True)
    try:
        (folder / "ballast").write_bytes(bytes(512 * 1024))
        opened = Opened(folder / "state", commit_interval=0.001)
        opened.engine.write(Index(1), {("plain", b"small"): b"1"})
        assert opened.sync() is None
        opened.engine.write(Index(2), {("plain", b"%06d" % number): b"x" * 300 for number in range(1500)})
        error = opened.sync()
        assert error is not None
        assert error.errno == errno.ENOSPC
        assert opened.engine.durable() == 1
        (folder / "ballast").unlink()
        opened.wait_durable()
        opened.engine.close()
        again = Opened(folder / "state")
        assert len(list(again.engine.scan("plain", b"", None))) == 1501
        again.engine.close()
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_write_that_is_given_in_pieces_becomes_durable_with_the_last_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "state"
    opened = Opened(path, commit_changes=3, commit_interval=0.001)
    engine = opened.engine
    engine.write(Index(1), {("plain", b"0"): b"0"})
    for number in range(9):
        engine.prepare({("plain", b"%d" % number): b"1"})
    answers = Answers()
    engine.sync(answers)
    engine._hand_over()
    assert (engine.durable(), engine.applied(), answers.got) == (0, 1, [])
    assert engine.get("plain", b"8") == b"1"
    engine.write(Index(2), {("plain", b"9"): b"1"})
    opened.hand.until(lambda: answers.got == [None])
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


def test_what_was_written_before_the_pieces_is_committed_by_the_interval_after_them(tmp_path: Path) -> None:
    opened = Opened(tmp_path / "state", commit_interval=0.001)
    opened.engine.prepare({("plain", b"1"): b"1"})
    opened.engine.write(Index(1), {})
    opened.engine.prepare({("plain", b"2"): b"1"})
    opened.hand.turn()
    assert opened.engine.durable() == 0
    opened.engine.write(Index(2), {})
    opened.wait_durable()
    opened.engine.close()


def test_what_was_committed_is_let_go_of_piece_by_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Opened(tmp_path / "state", commit_interval=3600)
    written = 2_000
    opened.engine.write(
        Index(1), {("plain", b"%0*d" % (SHORT_KEY_BYTES + 9, number)): b"x" for number in range(written)}
    )
    in_flight = opened.engine._in_flight or opened.engine._pending
    while not opened.engine.some("plain", b"", 1, 1)[0]:
        pass
    (order,) = in_flight.orders
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
    assert turns == 2 * written // engines._LET_GO
