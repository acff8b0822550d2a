"""Entries of the history, and the graphs that are made from them."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

import pytest

from contrib.bench import growth, history, svg

PATH = "{http://www.w3.org/2000/svg}"


def measured(commit: str, busy: float = 0.0, **ratios: float) -> dict[str, Any]:
    """What a run writes."""
    rows = [{"name": "  put", "ratios": ratios}, {"name": "not compared", "ratios": {}}]
    about = {"commit": commit, "date": "2026-01-02", "beside": "etcd 3.5", "machine": "m", "busy": busy}
    return {"about": about, "tables": [{"part": "single", "rows": rows}]}


def test_an_entry_has_the_rows_that_were_compared() -> None:
    [entry] = history.added([], measured("c1", rate=1.23456, cpu=2.0))
    assert entry["rows"] == {"single: put": {"rate": 1.235, "cpu": 2.0}}
    assert (entry["commit"], entry["beside"]) == ("c1", "etcd 3.5")


def test_rows_that_come_later_join_their_commit() -> None:
    first = history.added(history.added([], measured("c1", rate=1.0)), measured("c2", rate=1.0))
    later = measured("c1", rate=3.0)
    later["tables"][0]["part"] = "list"
    one, two = history.added(first, later)
    assert one["rows"] == {"single: put": {"rate": 1.0}, "list: put": {"rate": 3.0}}
    assert two == first[1]


def test_of_a_busy_machine_only_processor_time_counts() -> None:
    [entry] = history.added([], measured("c1", busy=5.0, rate=0.1, cpu=2.0))
    assert entry["rows"] == {"single: put": {"cpu": 2.0}}


def test_a_run_that_compared_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="compared nothing"):
        history.added([], measured("c1"))
    nobody = measured("c1", rate=1.0)
    nobody["about"]["beside"] = ""
    with pytest.raises(ValueError, match="beside"):
        history.added([], nobody)


def test_rows_of_one_name_do_not_replace_each_other() -> None:
    twice = measured("c1", rate=1.0)
    twice["tables"] *= 2
    with pytest.raises(ValueError, match="two rows are called single: put"):
        history.added([], twice)


def test_a_checkout_with_changes_is_refused() -> None:
    with pytest.raises(ValueError, match="in no commit"):
        history.added([], measured("c1+", rate=1.0))


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        {},
        {"about": 1, "tables": []},
        {"about": measured("c")["about"] | {"busy": None}, "tables": []},
        {**measured("c"), "tables": [{"part": "p", "rows": [{"name": "n", "ratios": 1}]}]},
    ],
)
def test_what_no_run_wrote_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="no run"):
        history.added([], wrong)


def test_entries_are_in_the_order_of_their_commits() -> None:
    entries = [{"commit": each} for each in ("gone", "bbb", "aaa")]
    found = history.in_order(entries, ["aaa1", "bbb2"])
    assert [each["commit"] for each in found] == ["aaa", "bbb", "gone"]


def test_each_release_of_etcd_has_a_line_of_its_own() -> None:
    other = measured("c1", rate=2.0)
    other["about"]["beside"] = "etcd 3.4.23"
    entries = history.added(history.added([], measured("c1", rate=1.0)), other)
    root = ET.fromstring(history.drawn(entries))  # noqa: S314 - made here
    texts = [each.text for each in root.iter(f"{PATH}text")]
    assert {"calls a second, etcd 3.5", "calls a second, etcd 3.4"} <= set(texts)
    assert texts.count("c1") == 1, "one place for a commit"


def test_the_committed_picture_is_that_of_the_committed_history() -> None:
    assert history.PICTURE.read_text() == history.drawn(history.kept()), (
        "python -m contrib.bench.history draw"
    )


def test_a_picture_has_a_panel_for_each_row_and_a_point_for_each_commit() -> None:
    entries = history.added(history.added([], measured("c1", rate=1.0)), measured("c<2", rate=2.0, cpu=3.0))
    root = ET.fromstring(history.drawn(entries))  # noqa: S314 - made here
    texts = [each.text for each in root.iter(f"{PATH}text")]
    assert texts.count("single: put") == 1
    assert "c<2" in texts
    assert len(list(root.iter(f"{PATH}circle"))) == 3


def test_a_picture_of_nothing_is_one_too() -> None:
    ET.fromstring(history.drawn([]))  # noqa: S314 - made here


def test_the_scale_ends_above_the_highest_point() -> None:
    panel = svg.Panel("t", {"a": [(0, 0.0), (1, 7.3)]}, [(0, "x")])
    root = ET.fromstring(svg.page([panel], 1, "c"))  # noqa: S314 - made here
    assert "8" in [each.text for each in root.iter(f"{PATH}text")]
    assert all(0 < float(each.get("cy", "0")) < svg.HEIGHT for each in root.iter(f"{PATH}circle"))


@pytest.mark.parametrize(
    ("points", "steps"),
    [
        ([(10_000, 10.0), (1_000_000, 15.0)], 0),  # the logarithm: 1.5 times
        ([(10_000, 10.0), (1_000_000, 18.0)], 1),
        ([(1, 1.0), (100, 50.0)], 0),  # 1 has no logarithm to compare with
        ([(100, 1.0), (1_000, 1.5), (10_000, 4.0)], 1),
    ],
)
def test_growth_names_what_is_worse_than_logarithmic(points: growth.Points, steps: int) -> None:
    assert len(growth.worse_than_logarithmic(points)) == steps


def test_growth_draws_what_it_found() -> None:
    found = {"keys": {"put us": [(10_000, 1.0), (1_000_000, 9.0)]}}
    root = ET.fromstring(growth.drawn(found))  # noqa: S314 - made here
    assert "faster than the logarithm" in [each.text for each in root.iter(f"{PATH}text")]
