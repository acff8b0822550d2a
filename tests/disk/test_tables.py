"""What rotted in the file of the state is never read for what was written, whichever byte it is."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import lmdb
import pytest

from netstore.disk.apart import verify
from netstore.disk.tables import Sum, Tables, Tracker, sealed, seed
from netstore.errors import NetstoreError, StateDamaged
from netstore.types import Index
from tests.disk.flipper import content
from tests.disk.test_engine import Opened

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from netstore.disk.engine import LmdbEngine
    from netstore.disk.tables import Changes


TABLES: Final = ("plain", "other")
MAP: Final = 1 << 24
NUMBER: Final = range(144, 152)
"""Where on one of LMDB's first two pages the number of its commit stands."""


def write(path: Path, *commits: Changes) -> None:
    tables = Tables.open(path, TABLES, MAP)
    for changes in commits:
        tables.write(Index(tables.summary.applied + 1), b"note", changes)
    tables.close()


LARGE: Final[tuple[Changes, ...]] = (
    {("plain", b"%04d" % number): b"v" * (20 + number % 7) for number in range(300)}
    | {("plain", b"k" * 600): b"long", ("other", b"big"): b"x" * 9000},
    {("plain", b"%04d" % number): b"newer" for number in range(0, 300, 9)},
    {("plain", b"%04d" % number): None for number in range(0, 300, 50)} | {("other", b"small"): b""},
)
"""A few pages of each kind: branches, leaves, a value of several pages, free ones; long keys."""

SMALL: Final[tuple[Changes, ...]] = (
    {("plain", b"%d" % number): b"value %d" % number for number in range(9)},
    {("plain", b"k" * 600): b"long", ("other", b"big"): b"x" * 5000, ("plain", b"3"): None},
)
"""The same kinds but for branches, and less on each."""


def make_state(path: Path, commits: Sequence[Changes] = LARGE) -> Path:
    """A state that was written in these commits."""
    write(path, *commits)
    return path


def outcomes(path: Path, commits: Sequence[Changes], places: Sequence[int], mask: int) -> dict[int, str]:
    """What comes of damaging each of these bytes; `ended` where it ended the process that read it."""
    now, before = path.with_name("now"), path.with_name("before")
    now.write_text(content(path))
    before.write_text(content(make_state(path.with_name("earlier"), commits[:-1])))
    whole = path.read_bytes()
    command = [sys.executable, "-m", "tests.disk.flipper", *map(str, (path, now, before, mask))]
    found: dict[int, str] = {}
    while len(found) < len(places):
        path.write_bytes(whole)
        left = " ".join(map(str, places[len(found) :]))
        done = subprocess.run(command, input=left, capture_output=True, text=True, check=False)
        for line in done.stdout.splitlines():
            offset, _, outcome = line.partition(" ")
            found[int(offset)] = outcome or "ended"
        assert done.returncode <= 0, done.stderr
    path.write_bytes(whole)
    return found


def require_found(path: Path, found: dict[int, str], mask: int) -> None:
    """Nothing wrong was served. A state of one commit earlier is no wrong one: it says so (`applied`), and
    the log has the rest or is refused (`images.settle`). Only the numbers of the two newest commits, on
    LMDB's first two pages, bring it back. What ended the process that read it is found by the one that
    verifies a state apart, as a member has it done after an end that was not orderly.
    """
    right = {"same", "found", "ended"}
    assert {
        at: outcome for at, outcome in found.items() if outcome not in right and at % 4096 not in NUMBER
    } == {}
    assert set(found.values()) <= right | {"before"}
    whole = path.read_bytes()
    for at in (at for at, outcome in found.items() if outcome == "ended"):
        path.write_bytes(whole[:at] + bytes((whole[at] ^ mask,)) + whole[at + 1 :])
        with pytest.raises(StateDamaged, match=r"state: (cut short|its pages are damaged|table)"):
            verify(path)
    path.write_bytes(whole)


def written_places(data: bytes) -> list[int]:
    """Every byte that is not zero or has such a byte within 16 places, and every 61st of the longer runs of
    zeros: those are the gaps in LMDB's pages, of which it reads nothing. About a sixth of a small state.
    """
    near = bytearray(len(data))
    for at, byte in enumerate(data):
        if byte:
            near[max(0, at - 16) : at + 17] = b"\1" * (min(len(data), at + 17) - max(0, at - 16))
    return [at for at in range(len(data)) if near[at] or at % 61 == 0]


@pytest.mark.parametrize(("start", "step", "mask"), [(0, 251, 0xFF), (7, 241, 0x01), (3, 239, 0x80)])
def test_no_damaged_byte_is_served(tmp_path: Path, start: int, step: int, mask: int) -> None:
    """A share of those of a larger state."""
    path = make_state(tmp_path / "state")
    found = outcomes(path, LARGE, range(start, path.stat().st_size, step), mask)
    require_found(path, found, mask)
    assert Counter(found.values())["found"] > 0


@pytest.mark.parametrize("mask", [0xFF, 0x01, 0x80])
def test_every_byte_of_a_small_state_is_read_right_or_found_when_it_is_damaged(
    tmp_path: Path, mask: int
) -> None:
    path = make_state(tmp_path / "state", SMALL)
    places = written_places(path.read_bytes())
    found = outcomes(path, SMALL, places, mask)
    assert sorted(found) == places
    require_found(path, found, mask)
    assert Counter(found.values())["found"] > 5_000


def test_a_file_cut_short_at_any_page_is_refused(tmp_path: Path) -> None:
    path = make_state(tmp_path / "state")
    whole = path.read_bytes()
    for size in range(1, len(whole), 1024):
        path.write_bytes(whole[:size])
        with pytest.raises(StateDamaged, match=r"cut short: the last|not a state"):
            Tables.open(path, TABLES, MAP)
        with pytest.raises(StateDamaged, match=r"cut short: the last|not a state"):
            Tables.read(path)
        assert path.stat().st_size == size, "nothing was changed"


def raw(path: Path, change: Any) -> None:
    """Change the file behind the back of `Tables`."""
    with lmdb.open(str(path), subdir=False, max_dbs=20, map_size=MAP) as env, env.begin(write=True) as txn:
        change(env, txn)


def read_all(path: Path) -> None:
    tables = Tables.read(path)
    try:
        with tables.env.begin() as txn:
            for name in tables.names:
                list(tables.walk(txn, name, b"", None))
    finally:
        tables.close()


def test_a_record_under_another_key_or_in_another_table_is_found(tmp_path: Path) -> None:
    path = tmp_path / "state"
    for table, key in (("plain", b"b"), ("other", b"a")):
        path.unlink(missing_ok=True)
        write(path, {("plain", b"a"): b"1", ("plain", b"b"): b"1", ("other", b"a"): b"1"})

        def misdirect(env: Any, txn: Any, table: str = table, key: bytes = key) -> None:
            stored = txn.get(b"a", db=env.open_db(b"plain", txn))
            txn.put(key, stored, db=env.open_db(table.encode(), txn))

        raw(path, misdirect)
        with pytest.raises(StateDamaged, match=f"state: table {table}, key b'{key.decode()}': not what was"):
            read_all(path)


def test_a_record_that_is_gone_and_one_that_came_back_are_found(tmp_path: Path) -> None:
    path = tmp_path / "state"
    write(path, {("plain", b"a"): b"1", ("plain", b"b"): b"1"})
    raw(path, lambda env, txn: txn.delete(b"b", db=env.open_db(b"plain", txn)))
    with pytest.raises(StateDamaged, match="table plain: 1 records, 2 were written"):
        read_all(path)
    path.unlink()
    write(path, {("plain", b"a"): b"1"}, {("plain", b"a"): b"2"})
    older, _ = sealed(seed("plain"), b"a", b"1")
    raw(path, lambda env, txn: txn.put(b"a", older, db=env.open_db(b"plain", txn)))
    with pytest.raises(StateDamaged, match="table plain: not the records that were written last"):
        read_all(path)


def test_a_table_that_is_gone_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    path = tmp_path / "state"
    for table in (b"plain", b"netstore"):
        path.unlink(missing_ok=True)
        write(path, {("plain", b"a"): b"1"})
        raw(path, lambda env, txn, table=table: txn.drop(env.open_db(table, txn)))
        with pytest.raises(StateDamaged, match=f"table {table.decode()} is missing"):
            Tables.open(path, TABLES, MAP)


def test_a_file_from_before_there_were_checksums_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "state"

    def first(env: Any, txn: Any) -> None:
        txn.put(b"applied", (77).to_bytes(8, "little"), db=env.open_db(b"engine", txn))
        txn.put(b"a", b"1", db=env.open_db(b"plain", txn))

    raw(path, first)
    before = path.read_bytes()
    with pytest.raises(NetstoreError, match="start the build that wrote it") as refusal:
        Tables.read(path)
    assert not isinstance(refusal.value, StateDamaged), "a member that is damaged is replaced"
    with pytest.raises(NetstoreError, match="start the build that wrote it"):
        Tables.open(path, TABLES, MAP)
    assert path.read_bytes() == before


def test_what_a_later_version_wrote_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state"
    monkeypatch.setattr("netstore.disk.tables.FORMAT", 2)
    write(path, {("plain", b"a"): b"1"})
    monkeypatch.undo()
    with pytest.raises(NetstoreError, match="written in format 2, this version reads up to 1: upgrade"):
        Tables.read(path)


def spoil(path: Path, value: bytes) -> None:
    """Flip a bit of a value in the file."""
    at = path.read_bytes().find(value)
    assert at > 0
    with path.open("r+b") as file:
        file.seek(at)
        file.write(bytes((value[0] ^ 1,)))


def test_a_read_that_meets_rot_raises_and_is_told_and_is_looked_into_at_the_next_start(
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


def test_a_record_that_its_owner_misses_is_damage(tmp_path: Path) -> None:
    told: list[StateDamaged] = []
    opened = Opened(tmp_path / "state", on_damage=told.append)
    assert told == [opened.engine.lost("plain", b"x")]
    opened.engine.close()


def go_through(engine: LmdbEngine, trackers: list[Tracker], steps: int) -> None:
    for _ in range(steps):
        if not trackers:
            return
        if engine.verify_step(trackers[0], 7, 1000) is None:
            trackers.pop(0)


def test_verifying_in_steps_counts_right_whatever_is_committed_between_them(tmp_path: Path) -> None:
    """Every key moves in and out, before and after the place that was reached."""
    opened = Opened(tmp_path / "state")
    engine = opened.engine
    trackers = [Tracker(table) for table in engine.tables]
    index = 0
    while trackers:
        index += 1
        keys = [b"%03d" % (index * each % 97) for each in (3, 7, 31)]
        changes: dict[tuple[str, bytes], bytes | None] = {
            ("plain", keys[0]): b"%d" % index,
            ("plain", keys[1]): None,
            ("other", keys[2] * 200): b"%d" % index if index % 2 else None,
        }
        engine.write(Index(index), changes)
        assert opened.sync() is None
        go_through(engine, trackers, 1 if index > 60 else 0)
    assert index > 70
    engine.close()


def test_verifying_in_steps_finds_what_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "state"
    write(path, {("plain", b"%03d" % number): b"1" for number in range(50)})
    raw(path, lambda env, txn: txn.delete(b"030", db=env.open_db(b"plain", txn)))
    told: list[StateDamaged] = []
    opened = Opened(path, on_damage=told.append)
    trackers = [Tracker(table) for table in opened.engine.tables]
    with pytest.raises(StateDamaged, match="table plain: 49 records, 50 were written"):
        go_through(opened.engine, trackers, 100)
    opened.hand.drain()
    assert len(told) == 1
    opened.engine.close()


def test_a_state_that_was_replaced_is_gone_through_anew(tmp_path: Path) -> None:
    path = tmp_path / "state"
    write(tmp_path / "copy", {("plain", b"a"): b"1"})
    opened = Opened(path)
    tracker = Tracker("plain")
    opened.engine.write(Index(1), {("plain", b"b"): b"1"})
    assert opened.sync() is None
    assert opened.engine.verify_step(tracker, 1, 1000)
    done: list[OSError | None] = []
    opened.engine.install(tmp_path / "copy", done.append)
    opened.hand.until(lambda: bool(done))
    with pytest.raises(OSError, match="replaced"):
        opened.engine.verify_step(tracker, 1, 1000)
    opened.engine.close()


def test_pages_that_were_given_back_are_part_of_the_file(tmp_path: Path) -> None:
    path = make_state(tmp_path / "state")
    tables = Tables.read(path)
    pages = tables.env.info()["last_pgno"] + 1
    tables.close()
    assert os.path.getsize(path) >= pages * 4096  # noqa: PTH202


def test_sums_are_of_a_table() -> None:
    tracker = Tracker("plain")
    tracker.total = -1
    assert tracker.seen == Sum(0, 2**64 - 1)
