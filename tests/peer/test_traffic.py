"""Measurements of the communication with other members."""

from __future__ import annotations

import pytest

from netstore.peer.traffic import RoundTrip


def test_round_trip_statistics_need_no_history() -> None:
    way = RoundTrip()
    for seconds in (1.0, 2.0, 3.0, 4.0):
        way.add(seconds)
    assert (way.successes, way.current, way.average, way.least, way.most) == (4, 4.0, 2.5, 1.0, 4.0)
    assert way.deviation == pytest.approx(1.25**0.5)
    assert RoundTrip().deviation == 0.0
