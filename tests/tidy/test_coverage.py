"""Every room has a floor for `make coverage`, and what is measured is the room's own code."""

from __future__ import annotations

from pathlib import Path

import pytest

from contrib.coverage import SHARED, Measured, floors, main, paths, rooms, settings
from tests.support.daemon import ROOT


def test_every_room_has_a_floor() -> None:
    assert sorted(floors()) == sorted(rooms())
    assert {"raft", "state", SHARED} <= set(rooms())
    assert all(50 <= floor <= 100 for floor in floors().values())


def test_the_tests_of_every_room_are_there() -> None:
    for room in rooms():
        assert all((ROOT / each).exists() for each in paths(room))
    assert "tests/test_guard.py" in paths(SHARED)
    assert "source = netstore.raft\n" in settings("raft", Path("x"))
    assert "    netstore/*/*\n" in settings(SHARED, Path("x"))


def test_a_room_below_its_floor_is_seen() -> None:
    assert Measured("raft", 200, 20).problem(90) == ""
    assert Measured("raft", 200, 21).problem(90) == "below 90"
    assert Measured("raft", 200, 0, "1 failed").problem(90) == "tests fail"


def test_the_table_is_printed_and_judged(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("contrib.coverage.measure", lambda room: Measured(room, 100, 99 * (room == "state")))
    assert main(["raft"]) == 0
    assert main(["raft", "state"]) == 1
    raft, state = capsys.readouterr().out.splitlines()[-2:]
    assert raft.split() == ["raft", "100", "0", "100.0", f"{floors()['raft']:g}"]
    assert state.endswith(f"below {floors()['state']:g}")
    with pytest.raises(SystemExit):
        main(["kitchen"])


def test_a_room_without_a_floor_is_told_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(room: str) -> Measured:
        raise AssertionError(room)

    monkeypatch.setattr("contrib.coverage.measure", measure)
    monkeypatch.setattr("contrib.coverage.floors", lambda: {"raft": 90.0})
    with pytest.raises(SystemExit):
        main(["raft", "etcdfile"])
    assert "tool.netstore.coverage) for etcdfile: add one" in capsys.readouterr().err
