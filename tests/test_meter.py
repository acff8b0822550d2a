"""Counting and logging of pieces of work that exceed their budget."""

from __future__ import annotations

from netstore.meter import Meter
from tests.support.log import KeptLog


def test_every_long_piece_is_counted_and_logged_at_most_once_a_second() -> None:
    now = 100.0
    log = KeptLog()
    meter = Meter(lambda: now, log, 0.005)
    meter.over("turn", 0.010)
    for _ in range(3):
        now += 0.2
        meter.over("requests", 0.020, "10.0.0.1")
    now += 1.0
    meter.over("sweep", 0.006)
    assert (meter.held, meter.longest, meter.what) == (5, 0.020, "requests of 10.0.0.1")
    assert [(line["work"], line["left_out"]) for line in log.told("loop_held")] == [("turn", 0), ("sweep", 3)]
    assert log.lines[0][1]["milliseconds"] == 10.0


def test_a_long_collection_is_counted_but_not_logged() -> None:
    now = 100.0
    log = KeptLog()
    meter = Meter(lambda: now, log, 0.005)
    for seconds in (0.001, 0.050, 0.004):
        meter.collecting("start", {"generation": 2})
        now += seconds
        meter.collecting("stop", {"generation": 2})
    assert (meter.held, meter.what, log.lines) == (1, "garbage collection", [])
