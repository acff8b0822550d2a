"""The wall clock of the machine, also where it is far off."""

from __future__ import annotations

import time

import pytest

from netstore.node.clock import SystemClock
from tests.support.links import Quiet


@pytest.mark.parametrize(("told", "wall"), [(-1, 0), (0, 0), (5, 5)])
def test_no_wall_time_is_before_1970(told: int, wall: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: told)
    assert SystemClock(Quiet()).wall() == wall


def test_a_wall_clock_that_no_number_holds_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = Quiet()
    clock = SystemClock(lines)
    monkeypatch.setattr("time.time_ns", lambda: 7)
    assert clock.wall() == 7

    def beyond() -> int:
        raise OverflowError("timestamp too large to convert to C PyTime_t")

    monkeypatch.setattr("time.time_ns", beyond)
    assert (clock.wall(), clock.wall()) == (7, 7)
    assert len(lines.events("wall_clock_wrong")) == 1, "told once"
    monkeypatch.setattr("time.time_ns", lambda: 9)
    assert clock.wall() == 9
