"""A state file whose bytes changed is never read as what was written, whichever byte it is."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import pytest

from netstore.disk.checksums import add_checksum, database_seed
from netstore.disk.summary import Sum
from netstore.disk.tables import Changes, Tables, Tracker
from netstore.disk.verification import verify
from netstore.errors import NetstoreError, StateDamaged
from tests.disk.flipper import content
from tests.disk.opened import TABLES
from tests.disk.states import LARGE, MAP, SMALL, make_state, raw, write

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

NUMBER: Final = range(144, 152)
"""Offset of the transaction number in one of LMDB's two meta pages."""


def outcomes(path: Path, commits: Sequence[Changes], places: Sequence[int], mask: int) -> dict[int, str]:
    """The result of damaging each of these bytes; `ended` if that ended the process that read the file."""
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
    """Nothing wrong was returned. The state of the commit before is not wrong: it has an older index, and the
    log has the rest or is refused (`snapshots.recover_install`). It may only be read where the damaged
    byte is in the transaction number of one of LMDB's two meta pages. Where the process that read it was
    ended, the one that verifies a state after an unclean shutdown reports damage.
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
def test_no_damaged_byte_is_returned(tmp_path: Path, start: int, step: int, mask: int) -> None:
    """Some of the bytes of a larger state."""
    path = make_state(tmp_path / "state")
    found = outcomes(path, LARGE, range(start, path.stat().st_size, step), mask)
    require_found(path, found, mask)
    assert Counter(found.values())["found"] > 0


@pytest.mark.parametrize("mask", [0xFF, 0x01, 0x80])
def test_damage_to_any_byte_of_a_small_state_is_detected_or_harmless(tmp_path: Path, mask: int) -> None:
    path = make_state(tmp_path / "state", SMALL)
    places = written_places(path.read_bytes())
    found = outcomes(path, SMALL, places, mask)
    assert sorted(found) == places
    require_found(path, found, mask)
    assert Counter(found.values())["found"] > 5_000


def read_all(path: Path) -> None:
    tables = Tables.read(path)
    try:
        with tables.env.begin() as txn:
            for name in tables.databases:
                list(tables.walk(txn, name, b"", None))
    finally:
        tables.close()


def test_a_record_under_another_key_or_in_another_table_is_detected(tmp_path: Path) -> None:
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


def test_a_missing_record_and_an_older_one_are_detected(tmp_path: Path) -> None:
    path = tmp_path / "state"
    write(path, {("plain", b"a"): b"1", ("plain", b"b"): b"1"})
    raw(path, lambda env, txn: txn.delete(b"b", db=env.open_db(b"plain", txn)))
    with pytest.raises(StateDamaged, match="table plain: 1 records, 2 were written"):
        read_all(path)
    path.unlink()
    write(path, {("plain", b"a"): b"1"}, {("plain", b"a"): b"2"})
    older, _ = add_checksum(database_seed("plain"), b"a", b"1")
    raw(path, lambda env, txn: txn.put(b"a", older, db=env.open_db(b"plain", txn)))
    with pytest.raises(StateDamaged, match="table plain: not the records that were written last"):
        read_all(path)


def test_a_missing_table_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    path = tmp_path / "state"
    for table in (b"plain", b"netstore"):
        path.unlink(missing_ok=True)
        write(path, {("plain", b"a"): b"1"})
        raw(path, lambda env, txn, table=table: txn.drop(env.open_db(table, txn)))
        with pytest.raises(StateDamaged, match=f"table {table.decode()} is missing"):
            Tables.open(path, TABLES, MAP)


def test_a_file_without_checksums_is_refused_and_not_changed(tmp_path: Path) -> None:
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


def test_sums_are_modulo_2_64() -> None:
    tracker = Tracker("plain")
    tracker.total = -1
    assert tracker.sum == Sum(0, 2**64 - 1)
