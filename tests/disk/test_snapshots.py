"""An installation that a crash interrupted is finished or undone, at each of its three steps."""

from __future__ import annotations

import os
from hashlib import sha256
from typing import TYPE_CHECKING, Final

import pytest

from netstore.disk import snapshots
from netstore.disk.engine import LmdbEngine
from netstore.disk.verification import summary_of_state, verified_index
from netstore.errors import CorruptData
from netstore.types import Index, NodeId

if TYPE_CHECKING:
    from pathlib import Path

TABLES: Final = ("plain",)
LAST: Final = Index(20)


def make_state(path: Path, applied: int, value: bytes) -> None:
    """A state with this applied index."""
    engine = LmdbEngine(path, lambda call: call(), TABLES, lambda _: None)
    engine.write(Index(applied), {("plain", b"k"): value})
    engine.close()


def value_in(path: Path) -> bytes | None:
    engine = LmdbEngine(path, lambda call: call(), TABLES, lambda _: None)
    try:
        return engine.get("plain", b"k")
    finally:
        engine.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A state at index 5, and a received snapshot at 9 that is not complete yet."""
    make_state(tmp_path / "state", 5, b"old")
    make_state(tmp_path / snapshots.INCOMING, 9, b"new")
    return tmp_path


def complete(folder: Path) -> Path:
    part = folder / snapshots.INCOMING
    return snapshots.complete(part, Index(9), sha256(part.read_bytes()).digest())


def settle(folder: Path, mark: Index, last: Index) -> Index | None:
    """What a member does at its start."""
    state = folder / "state"
    return snapshots.recover_install(folder, state, summary_of_state(state).applied, mark, last)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.endswith("-lock")}


def test_an_incomplete_snapshot_is_removed(folder: Path) -> None:
    assert settle(folder, Index(0), LAST) is None
    assert names(folder) == {"state"}
    assert value_in(folder / "state") == b"old"


def test_a_snapshot_without_a_mark_is_removed(folder: Path) -> None:
    complete(folder)
    assert settle(folder, Index(3), LAST) is None
    assert names(folder) == {"state"}
    assert value_in(folder / "state") == b"old"


def test_a_snapshot_that_the_mark_names_is_installed(folder: Path) -> None:
    image = complete(folder)
    size, read = image.stat().st_size, list[int]()
    assert snapshots.recover_install(folder, folder / "state", Index(3), Index(9), LAST, read.append) == 9
    assert read[-1] == size, "it is told how far it was checked"
    assert names(folder) == {"state"}
    assert value_in(folder / "state") == b"new"


def test_an_installed_snapshot_needs_nothing(folder: Path) -> None:
    complete(folder).rename(folder / "state")
    assert settle(folder, Index(9), LAST) is None
    assert value_in(folder / "state") == b"new"


def test_a_snapshot_whose_digest_does_not_fit_is_not_installed(folder: Path) -> None:
    image = complete(folder)
    with image.open("r+b") as file:
        file.seek(100)
        file.write(b"rot")
    with pytest.raises(CorruptData, match="has applied entry 5, the log begins after 9"):
        settle(folder, Index(9), LAST)
    assert value_in(folder / "state") == b"old"


def test_a_missing_state_is_not_taken_for_a_new_one(folder: Path) -> None:
    (folder / "state").unlink()
    with pytest.raises(CorruptData, match="has applied entry 0, the log begins after 4"):
        settle(folder, Index(4), LAST)


def test_snapshots_for_peers_are_removed(folder: Path) -> None:
    snapshots.outgoing(folder, NodeId(0xAB)).write_bytes(b"half")
    (folder / "kept").write_bytes(b"somebody else's")
    settle(folder, Index(0), LAST)
    assert names(folder) == {"state", "kept"}


def test_only_snapshots_up_to_the_index_are_removed(folder: Path) -> None:
    image = complete(folder)
    snapshots.remove_up_to(folder, Index(8))
    assert image.exists()
    snapshots.remove_up_to(folder, Index(9))
    assert not image.exists()


def test_a_copy_has_the_applied_index_of_its_engine(tmp_path: Path) -> None:
    engine = LmdbEngine(tmp_path / "state", lambda call: call(), TABLES, lambda _: None)
    engine.write(Index(7), {("plain", b"k"): b"v"})
    engine.close()
    engine = LmdbEngine(tmp_path / "state", lambda call: call(), TABLES, lambda _: None)
    file = os.open(tmp_path / "copy", os.O_WRONLY | os.O_CREAT, 0o600)
    engine.copy_to(file)
    os.close(file)
    engine.close()
    assert verified_index(tmp_path / "copy") == 7
    assert value_in(tmp_path / "copy") == b"v"


def test_a_file_that_is_no_state_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(b"not a state" * 1000)
    with pytest.raises(CorruptData, match="not a state that can be read"):
        verified_index(tmp_path / "state")


def test_a_log_that_ends_before_the_state_is_refused(folder: Path) -> None:
    with pytest.raises(CorruptData, match="ends with entry 4, the state has applied entry 5: files of"):
        settle(folder, Index(0), Index(4))
    assert settle(folder, Index(0), Index(5)) is None
