"""The table of the agent beside flanneld: what its ratios mean."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from contrib.bench.routes import Subject, _rows

if TYPE_CHECKING:
    from contrib.bench.report import Row

AGENT = Subject("agent, v2", "v2")
FLANNELD = Subject("flanneld, v2", "v2", "/usr/bin/flanneld")


def rows(what: str, ours: list[float], theirs: list[float]) -> list[Row]:
    figures: list[dict[str, Any]] = [
        {"subject": AGENT.name, "leases": 50, what: ours},
        {"subject": FLANNELD.name, "leases": 50, what: theirs},
    ]
    return _rows(figures, [AGENT], {"v2": FLANNELD})


def test_a_ratio_says_how_many_times_as_good_the_agent_is() -> None:
    [row] = rows("start, wall", [0.5, 0.4, 0.6], [2.0, 1.0, 3.0])
    assert row.ratios == {"v2": 4.0}
    assert row.cells == ("0.40 / 0.50 / 0.60 s", "1.00 / 2.00 / 3.00 s", "4")


def test_what_was_not_finished_has_no_ratio() -> None:
    for ours, theirs in (
        ([1.0], [math.inf]),
        ([math.inf], [1.0]),
        ([0.0], [1.0]),
        ([1.0], [0.0]),
        ([1.0], []),
    ):
        [row] = rows("start, wall", ours, theirs)
        assert (row.ratios, row.cells[-1]) == ({}, "")
    assert rows("start, wall", [1.0], [math.inf])[0].cells == ("1.00 s", "lost", "")


def test_the_load_has_no_ratio() -> None:
    for what in ("churn, changes written a second", "live, writing them"):
        [row] = rows(what, [100.0], [50.0])
        assert (row.ratios, row.cells[-1]) == ({}, "")
