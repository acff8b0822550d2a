"""Clocks: what a Date header of whole seconds can tell."""

from __future__ import annotations

from email.utils import formatdate

import pytest

from netstore.cli.checks.finding import State
from netstore.cli.checks.stores import clock

NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("sent", "began", "ended", "state"),
    [
        (NOW, NOW, NOW + 0.1, State.OK),
        (NOW, NOW + 0.9, NOW + 0.95, State.OK),
        (NOW, NOW - 1.9, NOW - 1.8, State.OK),
        (NOW, NOW - 3, NOW - 2.5, State.WARNING),
        (NOW, NOW + 4, NOW + 4.1, State.WARNING),
        (NOW, NOW - 5, NOW + 5, State.OK),
        (NOW, NOW + 3600, NOW + 3601, State.WRONG),
    ],
)
def test_the_drift_of_a_clock(sent: float, began: float, ended: float, state: State) -> None:
    assert clock("http://store", formatdate(sent, usegmt=True), began, ended).state is state


def test_its_direction_is_told() -> None:
    date = formatdate(NOW, usegmt=True)
    assert clock("http://store", date, NOW + 11, NOW + 11).told == "10 s ahead of http://store"
    assert clock("http://store", date, NOW - 10, NOW - 10).told == "10 s behind http://store"


@pytest.mark.parametrize("date", ["", "rubbish", "Tue, 99 Foo 2026 99:99:99 GMT"])
def test_no_time_is_unknown(date: str) -> None:
    assert clock("http://store", date, NOW, NOW).state is State.UNKNOWN
