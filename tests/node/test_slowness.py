"""Where the time of slow writes went, and what finding that costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.node.slowness import COMMITS_KEPT, Slowness, Spent
from netstore.types import Index

if TYPE_CHECKING:
    from collections.abc import Iterator


class Syncs:
    """Times of syncs, which counts how often they are looked through."""

    def __init__(self, *times: tuple[float, float]) -> None:
        self._times = times
        self.looks = 0

    def __iter__(self) -> Iterator[tuple[float, float]]:
        self.looks += 1
        return iter(self._times)


def rounded(spent: Spent) -> Spent:
    return Spent(*(round(each, 6) for each in spent))


def test_a_write_has_the_times_of_its_own_commit() -> None:
    slowness = Slowness(lambda: 10.0)
    slowness.syncs = Syncs((1.0, 2.0), (3.0, 3.5), (7.0, 7.25))
    for index in range(1, COMMITS_KEPT + 10):
        slowness.committed(Index(10 * index), 5.0 + index / 1000)
    assert rounded(slowness.of_write(1.0, 1.5, Index(991))) == Spent(0.5, 1.0, 2.6, 4.9)
    assert rounded(slowness.of_write(1.0, 1.5, Index(1000))) == Spent(0.5, 1.0, 2.6, 4.9)
    assert rounded(slowness.of_write(1.0, 1.5, Index(1001))) == Spent(0.5, 1.0, 2.601, 4.899)
    after = slowness.of_write(1.0, 1.5, Index(10 * COMMITS_KEPT + 1000))
    assert rounded(after) == Spent(0.5, 1.25, 7.25, 0.0), "found to be committed just now"


def test_writes_that_waited_together_look_at_the_disk_once() -> None:
    slowness = Slowness(lambda: 10.0)
    slowness.syncs = syncs = Syncs((2.0, 4.0))
    slowness.committed(Index(500), 5.0)
    found = {slowness.of_write(0.5 + number / 1000, 1.5, Index(number)) for number in range(500)}
    assert syncs.looks == 1
    assert {(spent.disk, spent.quorum, spent.apply) for spent in found} == {(2.0, 1.5, 5.0)}
    slowness.syncs = later = Syncs((6.0, 6.5))
    slowness.committed(Index(600), 7.0)
    assert slowness.of_write(1.0, 1.5, Index(501)).disk == 0.5
    assert slowness.of_write(1.0, 1.75, Index(502)).disk == 0.5
    assert later.looks == 2


def test_nothing_waits_for_others_at_a_member_that_votes_alone() -> None:
    slowness = Slowness(lambda: 10.0)
    slowness.is_alone = lambda: True
    slowness.syncs = Syncs((2.0, 4.0))
    slowness.committed(Index(1), 9.0)
    assert slowness.of_write(1.0, 1.5, Index(1)) == Spent(0.5 + 5.5, 2.0, 0.0, 1.0)
    assert slowness.of_unfinished(1.0, 1.5, 9.0).quorum == 0.0
    assert slowness.of_read(7.0) == Spent(queue=3.0)
