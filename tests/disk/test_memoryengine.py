"""The engine in memory is compared with the one on disk, after any sequence of calls."""

from __future__ import annotations

import errno
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from netstore.disk.memoryengine import MemoryEngine
from netstore.seams import SHORT_KEY_BYTES, Engine
from netstore.types import Index
from tests.disk.opened import LONG, TABLES, Answers, Opened

keys = st.sampled_from(
    [b"", b"a", b"b", b"b\0", b"c" * 511, b"c" * 512, LONG, LONG + b"2", b"z", b"\xff" * 3]
)


values = st.one_of(st.none(), st.binary(max_size=30), st.just(b"v" * 5000))


changes = st.dictionaries(st.tuples(st.sampled_from(TABLES), keys), values, max_size=5)


class Twins(RuleBasedStateMachine):
    """After any sequence of calls both return the same, also after restarts."""

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
        self.opened.loop.run_ready()

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


def test_a_crash_loses_exactly_what_was_not_durable() -> None:
    memory = MemoryEngine(lambda call: call(), TABLES)
    for index in range(1, 4):
        memory.write(Index(index), {("plain", b"a"): b"%d" % index})
    memory.commit(2)
    assert (memory.applied(), memory.durable()) == (3, 2)
    after = memory.crash()
    assert (after.applied(), after.durable(), after.get("plain", b"a")) == (2, 2, b"2")
    assert memory.get("plain", b"a") == b"3"


def test_it_can_fail() -> None:
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


def test_it_installs_what_is_durable_in_another_one() -> None:
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


def test_only_a_snapshot_can_be_installed(opened: Opened) -> None:
    for engine in (opened.engine, MemoryEngine(lambda call: call(), TABLES)):
        with pytest.raises(TypeError, match="copy"):
            engine.install(b"bytes", Answers())


def test_both_are_engines(opened: Opened) -> None:
    engines: tuple[Engine, ...] = (opened.engine, MemoryEngine(lambda call: call(), TABLES))
    assert [engine.applied() for engine in engines] == [0, 0]
