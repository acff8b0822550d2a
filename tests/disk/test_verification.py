"""A state that may be damaged is verified in a process of its own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from netstore.disk import verification
from netstore.disk.verification import (
    NotVerified,
    OpenMarker,
    readable_records,
    summary_of_state,
    verified_index,
    verify,
)
from netstore.errors import NetstoreError, StateDamaged
from netstore.types import Index
from tests.disk.states import make_state, spoil, write


def test_an_intact_state_is_verified(tmp_path: Path) -> None:
    assert verified_index(make_state(tmp_path / "state")) == 3


def test_damage_found_by_the_process_is_raised_here(tmp_path: Path) -> None:
    path = make_state(tmp_path / "state")
    spoil(path, b"x" * 9000)
    with pytest.raises(StateDamaged, match=r"state: table other, key b'big': not what was written; nothing"):
        verify(path)


def test_pages_that_end_the_process_are_damage(tmp_path: Path) -> None:
    path = make_state(tmp_path / "state")
    at = path.read_bytes().rindex(b"0123" + b"v" * 20) // 4096 * 4096
    with path.open("r+b") as file:
        file.seek(at)
        file.write(bytes(4096))
    with pytest.raises(StateDamaged, match=r"pages are damaged: reading them ended a process with SIG\w+; n"):
        verify(path)


def test_a_later_format_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state"
    monkeypatch.setattr("netstore.disk.summary.FORMAT", 2)
    write(path, {("plain", b"a"): b"1"})
    with pytest.raises(NetstoreError, match="upgrade") as caught:
        verify(path)
    assert not isinstance(caught.value, StateDamaged)


def test_without_a_process_that_is_reported_and_a_snapshot_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_state(tmp_path / "state")
    monkeypatch.setattr("sys.executable", str(tmp_path / "nothing"))
    with pytest.raises(NotVerified, match="no process could be started"):
        verified_index(path)
    OpenMarker(path).set()
    told: list[str] = []
    sizes: list[int] = []
    assert summary_of_state(path, told.append, sizes.append).applied == 3
    assert [str(path) in each for each in told] == [True]
    assert sizes == [path.stat().st_size], "what is about to be read is told before"
    assert summary_of_state(path, told.append, sizes.append).applied == 3
    assert len(sizes) == 1, "nothing is verified after that"


def test_a_process_that_cannot_do_its_work_has_verified_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_state(tmp_path / "state")
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(NotVerified, match="ended with 1"):
        verify(path)


def test_a_short_file_that_cannot_be_verified_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_state(tmp_path / "state")
    os.truncate(path, path.stat().st_size - 4096)
    monkeypatch.setattr("sys.executable", "/bin/false")
    told: list[str] = []
    with pytest.raises(NotVerified):
        OpenMarker(path).check(told.append)
    assert told == []


def test_only_an_unclean_shutdown_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Path] = []
    monkeypatch.setattr(verification, "verify", looked.append)
    path = make_state(tmp_path / "state")
    marker = OpenMarker(path)
    assert summary_of_state(path).applied == 3
    marker.set()
    marker.clear()
    marker.check()
    assert looked == []
    marker.set()
    marker.check()
    assert looked == [path]
    marker.check()
    assert looked == [path], "once is enough"


def test_a_state_that_does_not_exist_or_is_empty_is_new(tmp_path: Path) -> None:
    path = tmp_path / "state"
    assert summary_of_state(path).applied == 0
    OpenMarker(path).set()
    assert summary_of_state(path).applied == 0
    path.touch()
    OpenMarker(path).set()
    OpenMarker(path).check()


def test_a_file_that_lacks_only_unused_pages_is_extended(tmp_path: Path) -> None:
    path = make_state(tmp_path / "state")
    write(path, {("other", b"more"): b"y" * 20_000})
    write(path, {("other", b"more"): None})
    whole = path.stat().st_size
    os.truncate(path, whole - 4096)
    if b"y" * 100 not in path.read_bytes()[-4096:]:
        pytest.skip("the last page is in use")
    OpenMarker(path).check()
    assert path.stat().st_size == whole
    assert summary_of_state(path).applied == Index(5)


def test_a_file_cut_short_is_damage(tmp_path: Path) -> None:
    path = make_state(tmp_path / "state")
    os.truncate(path, path.stat().st_size // 2 // 4096 * 4096)
    with pytest.raises(StateDamaged, match=r"state: (cut short: the last \d+ bytes are gone|table)"):
        OpenMarker(path).check()


def test_the_records_of_a_small_table_can_be_read_from_a_damaged_state(tmp_path: Path) -> None:
    path = tmp_path / "state"
    write(path, {("plain", b"a"): b"spoiled", ("other", b"1"): b"one", ("other", b"2"): b"two"})
    spoil(path, b"spoiled")
    assert readable_records(path, "other") == [b"one", b"two"]
    assert readable_records(path, "plain") == []


def test_an_incomplete_record_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process may be ended while it prints one."""
    for half in (b"", b"6", b"61", b"616"):
        shown = subprocess.CompletedProcess((), -7, stdout=b"6f6e65\n74776f\n" + half)
        monkeypatch.setattr(verification, "_run", lambda *_, shown=shown: shown)
        assert readable_records(Path("state"), "other") == [b"one", b"two"]
