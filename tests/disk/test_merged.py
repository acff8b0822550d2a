"""Scans and steps over uncommitted changes and LMDB."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from netstore.disk import engine as engine_module
from netstore.disk import overlay
from netstore.disk.tables import Changes, Tables
from netstore.seams import SHORT_KEY_BYTES
from netstore.types import Index
from tests.disk.opened import LONG, Opened

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest


def test_a_key_equal_to_the_hash_of_a_long_one_is_not_taken_for_that(opened: Opened) -> None:
    engine, place = opened.engine, sha256(LONG).digest()
    engine.prepare({("plain", LONG): b"long", ("plain", place): b"short"})
    assert engine.some("plain", b"", 9, 999) == ([(place, b"short"), (LONG, b"long")], None)
    engine.write(Index(1), {})


class Steps(RuleBasedStateMachine):
    """A step returns all pairs between its start and that of the next step, whatever is pending, in flight,
    failed to be committed, or is not indexed yet.
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
    SIZES: Final = (
        (overlay, "_LAYER_CHANGES", 6),
        (engine_module, "INDEX_STEP", 5),
        (overlay, "_RUN_KEYS", 4),
        (overlay, "_MAX_REPEATS", 2),
    )

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="netstore-engine-"))
        self.before = [(module, name, getattr(module, name)) for module, name, _ in self.SIZES]
        for module, name, size in self.SIZES:
            setattr(module, name, size)
        self.opened = Opened(self.folder / "state", commit_interval=3600)
        self.engine = self.opened.engine
        self.fails = False
        self.model: dict[bytes, bytes] = {}
        self.following = b""
        self.applied = 0
        put = self.engine._shared._put

        def put_or_fail(applied: Index, log: bytes, changes: Changes) -> None:
            if self.fails:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            put(applied, log, changes)

        self.engine._shared._put = put_or_fail  # type: ignore[method-assign]

    def teardown(self) -> None:
        self.fails = False
        self.write({})
        self.engine.close()
        for module, name, size in self.before:
            setattr(module, name, size)
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
        self.engine._begin_commit()

    @rule()
    def settle(self) -> None:
        self.opened.loop.run_until(lambda: not self.engine._busy)

    @rule(most=st.integers(1, 9), size=st.integers(1, 60))
    def go_on(self, most: int, size: int) -> None:
        """The next step of one reader, with all other calls in between."""
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
        """Read all of it, then from one of its keys on in steps of another size."""
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


def test_a_step_reads_no_more_records_than_it_returns(
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


def test_a_scan_is_of_one_moment(opened: Opened) -> None:
    engine = opened.engine
    engine.write(Index(1), {("plain", b"a"): b"1", ("plain", b"b"): b"1"})
    scan = engine.scan("plain", b"", None)
    engine.write(Index(2), {("plain", b"a"): b"2", ("plain", b"b"): None, ("plain", b"c"): b"2"})
    assert opened.sync() is None
    assert list(scan) == [(b"a", b"1"), (b"b", b"1")]
