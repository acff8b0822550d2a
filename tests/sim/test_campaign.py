"""Campaigns: what is counted, what is resumed, what fails."""

from __future__ import annotations

import sys
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.sim.__main__ import main
from tests.sim.campaign import REACHED, Campaign, Run, code_digest, run

if TYPE_CHECKING:
    from pathlib import Path


def test_a_campaign_goes_on_where_its_record_left(tmp_path: Path) -> None:
    record = tmp_path / "campaign.json"
    first = Campaign.resume(50, 6, record)
    first.go(1, record)
    again = Campaign.resume(50, 6, record)
    assert (again.done, again.reach, again.failures) == (6, first.reach, first.failures)
    assert again.reach["elections"] > 0
    again.go(1, record)
    assert again.reach == first.reach
    longer = Campaign.resume(50, 9, record)
    longer.go(1, record)
    assert longer.done == 9
    assert longer.reach["elections"] > first.reach["elections"]


def test_a_record_of_other_seeds_is_not_taken(tmp_path: Path) -> None:
    record = tmp_path / "campaign.json"
    other = Campaign(50, 6, done=6)
    other.save(record)
    assert Campaign.resume(51, 6, record).done == 0


def test_a_record_of_other_code_is_not_taken(tmp_path: Path) -> None:
    record = tmp_path / "campaign.json"
    Campaign(50, 6, done=6).save(record)
    assert Campaign.resume(50, 6, record).done == 6
    record.write_text(record.read_text().replace(code_digest(), "0" * 64))
    assert Campaign.resume(50, 6, record).done == 0


def test_what_no_run_went_through_is_told() -> None:
    campaign = Campaign(0, 1)
    campaign._take(Run(0, Counter({name: 1 for name in REACHED if name != "tails_cut"}), 0.1), 0)
    assert campaign.unreached() == ["tails_cut"]


def test_a_failure_is_kept_with_its_seed() -> None:
    campaign = Campaign(0, 1)
    campaign._take(Run(7, Counter(), 0.1, "Violated: two leaders"), 0)
    assert campaign.failures == {7: "Violated: two leaders"}


@pytest.mark.parametrize(("arguments", "code"), [(["--seed", "3"], 0), (["--seeds", "3", "--jobs", "1"], 1)])
def test_the_program_says_whether_it_proved_anything(
    arguments: list[str],
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One seed passes; a campaign of three has not reached everything."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sim", *arguments])
    assert main() == code
    shown = capsys.readouterr().out
    assert ("never reached: " in shown) == bool(code)
    assert ("too few runs to reach all; use SEEDS=500" in shown) == bool(code)


def test_a_trace_is_shown_line_by_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["sim", "--seed", "3", "--trace"])
    assert main() == 0
    assert len(capsys.readouterr().out.splitlines()) > 100


def test_memory_of_a_run_does_not_outlive_it() -> None:
    """A seed with a burst of writes, run twice: the second time needs nothing new."""
    import tracemalloc  # noqa: PLC0415 - slows down whatever runs under it

    run(8)
    tracemalloc.start()
    try:
        before = tracemalloc.take_snapshot()
        run(8)
        after = tracemalloc.take_snapshot()
    finally:
        tracemalloc.stop()
    grown = sum(change.size_diff for change in after.compare_to(before, "filename"))
    assert grown < 2_000_000
