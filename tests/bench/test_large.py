"""The part with much data, with little: what it finds and says, never how long something took."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import pytest

from contrib.bench import large
from contrib.bench.large import MEASURES, Found, GivenUp, Measure, Size
from contrib.bench.stores import OURS, Stores, beside
from tests.support.daemon import start_netstored

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.daemon import Daemon

LITTLE: Final = Size(gib=0.002, rounds=1, seconds=1)
"""32 keys, 2 MiB."""

MORE: Final = LITTLE._replace(gib=0.01)
"""40 transactions: more than are under way at once, so the last are sent after the first were answered."""


@pytest.mark.peer("h2load")
def test_each_measure_of_netstored_has_a_figure(tmp_path: Path) -> None:
    found = Found()
    large.of_store(OURS, start_netstored, tmp_path, LITTLE, found)
    assert {measure.name for measure in MEASURES} <= found.figures.keys()
    assert all(0 <= value < math.inf for value in found.figures.values())
    assert found.figures["snapshot: size"] > 2
    assert found.figures["disk after the fill"] > 2
    assert [sample["calls"] > 0 for sample in found.puts] == [True]
    assert not found.given_up
    assert list(tmp_path.iterdir()) == []


@pytest.mark.peer("etcd", "h2load")
def test_every_line_beside_an_etcd_has_a_ratio(tmp_path: Path) -> None:
    work, puts = large.measure(beside(None), tmp_path, LITTLE)
    assert [row.name for row in work.rows] == [measure.name for measure in MEASURES]
    ratios = {row.name: row.ratios for row in work.rows}
    assert ratios["fill"]["value"] > 0
    assert {len(row.cells) for row in work.rows} == {len(work.columns)}
    assert "GIVEN UP" not in work.note
    [row] = puts.rows
    assert row.ratios.keys() == {"rate", "p50", "p99", "cpu"}
    assert "small puts" in puts.text()


def test_a_store_that_refuses_data_is_given_up_with_the_reason(tmp_path: Path) -> None:
    def refusing(folder: Path, /, *flags: str) -> Daemon:
        return start_netstored(folder, *flags, "--quota-backend-bytes", "200000")

    stores = Stores({OURS: refusing, "other": refusing}, {})
    [table] = large.measure(stores, tmp_path, MORE)
    assert "NETSTORED WAS GIVEN UP: a call was refused: RESOURCE_EXHAUSTED" in table.note
    assert {row.cells for row in table.rows} == {("", "", "")}


def test_a_fill_that_is_too_slow_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large, "SLOWEST", math.inf)
    monkeypatch.setattr(large, "PATIENCE", 0.0)
    with pytest.raises(GivenUp, match="less than inf MiB/s"):
        large.of_store(OURS, start_netstored, tmp_path, MORE, Found())


def test_more_is_better_only_of_rates() -> None:
    rate, time = Measure("fill", "MiB/s", more=True), Measure("stop", "s", "a note")
    assert large.row(rate, [200.0, 100.0]).ratios == {"value": 2.0}
    assert large.row(time, [200.0, 100.0]).ratios == {"value": 0.5}
    assert large.row(time, [1.0, None]).cells == ("1.0 s", "", "")
    assert large.row(time, [1.0, None]).ratios == {}


def test_space_that_is_not_there_is_said(tmp_path: Path) -> None:
    assert large.lack_of_space(LITTLE.gib, tmp_path) is None
    lack = large.lack_of_space(1e9, tmp_path)
    assert lack is not None
    assert f"need 4,000,000,000 GiB free in {tmp_path}; there are" in lack
