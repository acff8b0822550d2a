"""The clock of the daemon."""

from __future__ import annotations

import time

import pytest

from netstore.server import SystemClock


@pytest.mark.parametrize(("told", "wall"), [(-1, 0), (0, 0), (5, 5)])
def test_no_wall_time_is_before_1970(told: int, wall: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: told)
    assert SystemClock().wall() == wall
