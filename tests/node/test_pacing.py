"""How fast a leader writes while others are brought up: courses in virtual time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from netstore.node.pacing import (
    BEHIND_PART,
    DEBT_SECONDS,
    NEAR_PART,
    PACED_SECONDS,
    SPARE_PART,
    WINDOW_SECONDS,
    Behind,
    Pacing,
)
from netstore.raft.entry import ConfState
from netstore.raft.status import PeerStatus, Role, Status
from netstore.types import Index, NodeId, Term

if TYPE_CHECKING:
    from collections.abc import Callable

ME, SHE, HE = NodeId(1), NodeId(2), NodeId(3)
TICK = 0.1
ENTRY = 1_000
LIMIT = 1_000 * ENTRY
"""A log of a thousand entries."""


def standing(last: int, matches: dict[NodeId, int], *, silent: frozenset[NodeId] = frozenset()) -> Status:
    """What Raft tells at a leader."""
    peers = tuple(PeerStatus(id_, Index(match), id_ not in silent, False) for id_, match in matches.items())
    place, term = Index(last), Term(1)
    conf = ConfState(voters=(ME, *matches))
    return Status(ME, term, Role.LEADER, ME, Index(0), place, place, place, conf, peers)


class Course:
    """A leader that is asked for more than it may write, and one other member."""

    def __init__(self, demand: float, match: int = 1_000) -> None:
        self.pacing = Pacing(LIMIT, Index(0))
        self.now = 0.0
        self.demand = demand
        self.compacted = 0
        self.last = self.match = match
        self.silent: frozenset[NodeId] = frozenset()
        self.rates: list[float] = []
        """Bytes a second that were written, for each tick."""
        self.part = self.taken = 0.0
        self.heaviest = 0
        self.shorten(match)
        self.pacing.look(0.0, standing(match, {SHE: match}))

    @property
    def weight(self) -> int:
        return (self.last - self.compacted) * ENTRY

    def shorten(self, to: int) -> None:
        size = (to - self.compacted) * ENTRY
        self.compacted = to
        self.pacing.measure(Index(self.last), self.weight + size)
        self.pacing.forgot(Index(to), size)

    def tick(self, takes: float = 0.0) -> None:
        """A tick goes by, in which the other one takes so many bytes a second of the log."""
        pacing = self.pacing
        self.now += TICK
        self.taken += takes * TICK / ENTRY
        self.match, self.taken = min(self.last, self.match + int(self.taken)), self.taken % 1
        pacing.measure(Index(self.last), self.weight)
        pacing.look(self.now, standing(self.last, {SHE: self.match}, silent=self.silent))
        self.part += self.demand * TICK / ENTRY
        asked, self.part = int(self.part), self.part % 1
        written = 0
        while written < asked and pacing.room != 0:
            written += 1
            pacing.spend(ENTRY)
        if written < asked:
            pacing.hold()
        self.last += written
        self.rates.append(written * ENTRY / TICK)
        if self.weight > LIMIT:
            pacing.measure(Index(self.last), self.weight)
            needed = pacing.needed()
            half = self.last - LIMIT // 2 // ENTRY
            self.shorten(max(self.compacted, half if needed is None else min(half, needed)))
        self.heaviest = max(self.heaviest, self.weight)

    def ticks(self, seconds: float, takes: float = 0.0) -> None:
        for _ in range(round(seconds / TICK)):
            self.tick(takes)

    def until(self, met: Callable[[], bool], takes: float = 0.0, most: float = 1_000.0) -> float:
        """Go on until something is so: the seconds that took."""
        begun = self.now
        while not met():
            self.tick(takes)
            assert self.now - begun < most, "never"
        return self.now - begun

    def written(self, seconds: float) -> float:
        """Bytes a second that were written lately, on average."""
        rates = self.rates[-round(seconds / TICK) :]
        return sum(rates) / len(rates)

    @property
    def behind(self) -> list[Behind]:
        return self.pacing.behind()

    def copy(self, making: float, sending: float, loading: float) -> int:
        """She is given a state copy, each part of which takes so long: where it is of."""
        place = self.last
        self.match = self.compacted - 1 if self.compacted else 0
        self.pacing.snapshot_begun(SHE, Index(place), self.now)
        self.ticks(making)
        for sent in range(round(sending / TICK)):
            self.pacing.snapshot_sent(SHE, sent, round(sending / TICK))
            self.tick()
        self.pacing.snapshot_ended(SHE, ok=True)
        self.ticks(loading)
        self.match = max(self.match, place)
        return place


FAST = LIMIT / 2
"""Bytes a second: the log is full in two seconds."""


@pytest.mark.parametrize(
    "parts",
    [
        (10.0, 10.0, 10.0),
        (1.0, 20.0, 2.0),
        (20.0, 1.0, 1.0),
        (1.0, 1.0, 20.0),
        (0.1, 0.2, 0.1),
        (60.0, 10.0, 10.0),
    ],
)
def test_the_log_after_a_state_copy_stays_within_its_bound_until_it_is_there(
    parts: tuple[float, float, float],
) -> None:
    course = Course(FAST)
    place = course.copy(*parts)
    assert course.compacted <= place, "its log is there"
    assert course.heaviest <= LIMIT * 1.01
    seconds = [sum(course.rates[at : at + 10]) / 10 for at in range(0, len(course.rates) - 9, 10)]
    assert min(seconds, default=FAST) >= course.pacing.least - ENTRY, "writes never stop"
    course.until(lambda: not course.behind, takes=FAST / 2)
    assert course.compacted <= course.match
    course.ticks(1.0, takes=2 * FAST)
    assert course.rates[-5:] == [FAST] * 5


def test_without_it_the_log_is_forgotten_meanwhile() -> None:
    course = Course(FAST)
    course.pacing.least = FAST
    assert course.copy(10.0, 10.0, 10.0) < course.compacted


def test_a_member_that_takes_the_log_comes_near_and_writes_go_on() -> None:
    course = Course(FAST)
    course.until(lambda: course.pacing.paced)
    assert [(each.gets_snapshot, each.counts) for each in course.behind] == [(False, True)]
    taken = course.until(lambda: not course.behind, takes=FAST / 2)
    assert course.compacted <= course.match
    assert course.last - course.match <= (LIMIT / NEAR_PART + FAST * TICK) / ENTRY
    assert course.written(taken / 2) > FAST / 4, "three quarters of what it takes"
    assert course.heaviest <= LIMIT * 1.01


def test_a_member_that_begins_slowly_is_not_given_up() -> None:
    course = Course(FAST)
    course.until(lambda: course.pacing.paced)
    course.ticks(2.0, takes=1.2 * course.pacing.least)
    course.until(lambda: not course.behind, takes=FAST / 2)
    assert course.compacted <= course.match


def test_a_member_little_behind_slows_nobody() -> None:
    course = Course(FAST)
    course.ticks(0.9)
    assert course.last - course.match < LIMIT / BEHIND_PART / ENTRY
    course.ticks(2.0, takes=FAST)
    assert course.rates == [FAST] * 29
    assert [each.counts for each in course.behind] == [False], "but it is told of"
    assert not course.pacing.paced


def test_a_member_without_progress_slows_others_for_a_moment_only() -> None:
    course = Course(FAST)
    course.until(lambda: course.pacing.paced)
    course.ticks(WINDOW_SECONDS - 0.5)
    assert course.behind[0].counts
    assert course.written(3.0) == pytest.approx(course.pacing.least, abs=ENTRY)
    course.ticks(1.0)
    assert course.rates[-3:] == [FAST] * 3


@pytest.mark.parametrize("copying", [False, True])
def test_a_silent_member_slows_nobody(copying: bool) -> None:
    course = Course(FAST)
    if copying:
        course.pacing.snapshot_begun(SHE, Index(course.last), 0.0)
    course.ticks(1.5)
    course.silent = frozenset({SHE})
    course.tick()
    assert course.pacing.rate is None
    assert len(course.behind) == copying


def test_a_copy_that_will_not_be_there_in_time_slows_nobody() -> None:
    course = Course(FAST)
    course.pacing.snapshot_begun(SHE, Index(course.last), 0.0)
    for sent in range(1, 100):
        course.pacing.snapshot_sent(SHE, sent, 100_000)
        course.ticks(1.0)
        if course.pacing.rate is None:
            break
    assert course.behind[0].counts is False
    assert course.now < PACED_SECONDS
    course.until(lambda: course.compacted > 1_000, most=10.0)
    assert course.pacing.needed() is None, "what is forgotten keeps nothing"


def test_a_member_that_refused_a_snapshot_slows_nobody_during_the_next_until_it_gets_further() -> None:
    course = Course(FAST)
    pacing = course.pacing
    course.ticks(1.0)

    def counts(sent: int) -> bool:
        pacing.snapshot_sent(SHE, sent, 1_000)
        course.tick()
        assert (pacing.rate is not None) == course.behind[0].counts
        return course.behind[0].counts

    def begin() -> None:
        pacing.snapshot_begun(SHE, Index(course.last), course.now)

    begin()
    assert counts(100)
    for _ in range(2):
        pacing.snapshot_ended(SHE, ok=False, refused=True)
        begin()
        assert [counts(sent) for sent in (0, 100)] == [False, False]
    assert [counts(sent) for sent in (225, 226)] == [False, True], "it takes more than the one before"
    pacing.snapshot_ended(SHE, ok=False, refused=True)
    begin()
    assert not counts(226)
    pacing.snapshot_ended(SHE, ok=True)
    begin()
    assert counts(0), "what it took makes up for what it refused"


def test_one_refusal_keeps_no_member_from_being_brought_up() -> None:
    """The copy after it, for which nobody waits, is lost when the log outgrows it; the next one arrives."""
    course = Course(FAST)
    course.match = 0
    course.ticks(1.0)
    course.pacing.snapshot_begun(SHE, Index(course.last), course.now)
    course.ticks(1.0)
    course.pacing.snapshot_ended(SHE, ok=False, refused=True)
    course.ticks(1.0)
    copies = 0
    while course.match == 0:
        copies += 1
        assert copies <= 2
        place = course.last
        course.pacing.snapshot_begun(SHE, Index(place), course.now)
        for sent in (0, 0, 1, 2, 3, 4):
            course.pacing.snapshot_sent(SHE, sent, 4 if sent else 0)
            course.ticks(5.0)
        is_whole = course.compacted <= place
        course.pacing.snapshot_ended(SHE, ok=is_whole)
        course.ticks(5.0)
        course.match = place if is_whole else 0
    assert copies == 2


def test_copies_that_are_never_taken_slow_others_for_a_bounded_time() -> None:
    course = Course(FAST)
    for _ in range(200):
        course.copy(10.0, 10.0, 0.0)
        course.match = 0
        course.pacing.snapshot_begun(SHE, Index(course.last), course.now)
        course.pacing.snapshot_ended(SHE, ok=False)
        course.ticks(10.0)
    paced = sum(rate < FAST for rate in course.rates) * TICK
    given_back = (course.now - paced) / 10
    assert PACED_SECONDS + given_back / 2 < paced <= PACED_SECONDS + given_back + 25


def test_a_member_that_used_up_its_time_counts_again_once_half_of_it_is_given_back() -> None:
    """So it gets a time that may be enough, and not a little again and again."""
    course = Course(FAST)

    def copying() -> bool:
        course.pacing.snapshot_ended(SHE, ok=False)
        course.match = 0
        course.pacing.snapshot_begun(SHE, Index(course.last), course.now)
        course.ticks(3.0)
        return course.behind[0].counts

    course.until(lambda: not copying())
    used = course.pacing._peers[SHE].used
    assert used > 0.9 * PACED_SECONDS
    begun = course.now
    assert course.until(copying, most=2 * PACED_SECONDS * 10) >= 10 * (used - PACED_SECONDS / 2)
    assert course.now - begun < 10 * (used - PACED_SECONDS / 2) + 20, "a tenth of the time"


def test_one_large_request_is_waited_for_a_moment_and_small_ones_do_not_wait() -> None:
    pacing = Pacing(LIMIT, Index(0))
    rate = 40_000.0

    def give(seconds: float) -> None:
        pacing.rate = rate
        for _ in range(round(seconds / TICK)):
            pacing._give(rate, TICK)

    give(5.0)
    assert (pacing.room, pacing.spare) == (rate * TICK, rate / SPARE_PART), "nothing more is saved up"
    pacing.spend(ENTRY)
    assert (pacing.room, pacing.spare) == (rate * TICK - ENTRY, rate / SPARE_PART)
    pacing.spend(3 * LIMIT)
    assert (pacing.room, pacing.spare) == (0, rate / SPARE_PART)
    give(DEBT_SECONDS - TICK)
    assert pacing.room == 0
    give(2 * TICK)
    assert pacing.room
    pacing.spend(pacing.room + ENTRY)
    written = 0
    for _ in range(100):
        give(TICK)
        for _ in range(100):
            written += (size := min(pacing.room or pacing.spare, 700))
            pacing.spend(size)
    assert written == pytest.approx(rate * 100 * TICK, rel=0.05), "the small ones are counted"


def test_a_member_that_is_always_too_slow_slows_others_for_a_bounded_time() -> None:
    course = Course(FAST)
    for _ in range(20_000):
        course.tick(takes=FAST / 8)
        if course.match < course.compacted:
            course.match = course.last  # a copy brought it there
    paced = sum(rate < FAST for rate in course.rates) * TICK
    assert PACED_SECONDS / 2 < paced <= PACED_SECONDS + course.now / 10 + 25


def test_of_two_the_slower_one_counts_and_who_is_no_member_is_forgotten() -> None:
    pacing = Pacing(LIMIT, Index(0))
    pacing.measure(Index(100), 100 * ENTRY)
    pacing.snapshot_begun(SHE, Index(50), 0.0)
    pacing.snapshot_begun(HE, Index(90), 0.0)
    pacing.snapshot_begun(NodeId(9), Index(10), 0.0)
    assert pacing.needed() == 10
    pacing.snapshot_ended(NodeId(9), ok=False)
    pacing.snapshot_sent(HE, 1, 2)
    pacing.look(1.0, standing(100, {SHE: 1, HE: 1}))
    pacing.look(2.0, standing(100, {SHE: 1, HE: 1}))
    assert pacing.rate == pytest.approx((LIMIT * 15 / 16 - 50 * ENTRY) / (2.0 * 3))
    assert pacing.needed() == 50
    assert pacing.behind() == [
        Behind(SHE, gets_snapshot=True, sent=0, size=0, entries=50, counts=True),
        Behind(HE, gets_snapshot=True, sent=1, size=2, entries=10, counts=True),
    ]
    pacing.snapshot_made(SHE, Index(60))
    assert pacing.needed() == 60
    pacing.snapshot_ended(SHE, ok=True)
    pacing.look(2.0, standing(100, {SHE: 1, HE: 1}))
    assert pacing.needed() == 60, "it is being put in place there"
    pacing.look(2.0, standing(100, {SHE: 60, HE: 1}))
    pacing.look(2.0, standing(100, {SHE: 60, HE: 1}))
    assert pacing.needed() == 90, "it takes the log, and is near"


def test_a_former_leader_paces_nothing() -> None:
    course = Course(FAST)
    course.until(lambda: course.pacing.paced)
    course.pacing.look(2.0, standing(course.last, {}))
    assert (course.pacing.rate, course.pacing.room, course.behind) == (None, None, [])


def test_the_log_after_a_place_weighs_what_it_does_whatever_is_cut_and_forgotten() -> None:
    pacing = Pacing(LIMIT, Index(0))
    sizes: list[int] = []
    for number in range(400):
        sizes.append(100 if number < 200 else 5_000)
        pacing.measure(Index(len(sizes)), sum(sizes))
    del sizes[300:]
    pacing.measure(Index(300), sum(sizes))
    pacing.forgot(Index(120), sum(sizes[:120]))
    pacing.measure(Index(300), sum(sizes[120:]))
    for place in (120, 150, 199, 200, 201, 250, 299, 300):
        assert pacing._total - pacing._sum(Index(place)) == pytest.approx(sum(sizes[place:]), abs=5_000)
    pacing.restart(Index(500))
    pacing.measure(Index(510), 1_000)
    assert pacing._total - pacing._sum(Index(505)) == 500
    for number in range(3_000):
        pacing.measure(Index(510 + number), 1_000 + number * LIMIT // 1_000)
        pacing.forgot(Index(510 + number // 2), 0)
    assert len(pacing._places) <= 1_000
