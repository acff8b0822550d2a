"""Campaigns: what is counted, what is resumed, what fails."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from tests.sim.campaign import REACHED, Campaign, Run, run

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


def test_what_no_run_went_through_is_told() -> None:
    campaign = Campaign(0, 1)
    campaign._take(Run(0, Counter({name: 1 for name in REACHED if name != "tails_cut"}), 0.1), 0)
    assert campaign.unreached() == ["tails_cut"]


def test_a_failure_is_kept_with_its_seed() -> None:
    campaign = Campaign(0, 1)
    campaign._take(Run(7, Counter(), 0.1, "Violated: two leaders"), 0)
    assert campaign.failures == {7: "Violated: two leaders"}


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
