"""TTL timers, against a twin that remembers every renewal: when an end may be proposed."""

from __future__ import annotations

from itertools import pairwise
from math import inf
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from netstore import parted
from netstore.errors import Fault
from netstore.parted import PARTS
from netstore.state import countdown
from netstore.state.countdown import COUNTED_AT_ONCE, MAX_DUE, MOST_GRACES, RETRY_SECONDS, Countdown, KeyQueue
from netstore.state.v2.tree import Tree
from netstore.state.v2.ttl import Life
from netstore.state.v3.lease import MAX_TTL, Lease, LeaseRecord, Leases, StoredLeases
from netstore.types import Index, LeaseId, Nanos

if TYPE_CHECKING:
    from collections.abc import Iterable


IDS = st.integers(1, 4)


class Clocks(RuleBasedStateMachine):
    """A clock and, as its twin, the moment each lease would end, worked out anew at every step."""

    @initialize()
    def begin(self) -> None:
        self.now = 100.0
        self.index = 0
        self.leases = Leases()
        self.clock = Countdown(self.leases)
        self.began: dict[int, tuple[float, int]] = {}
        self.leads: list[float] = []
        self.told: dict[int, float] = {}
        self.spared_until = -inf
        self.waiting: set[int] = set()
        """Renewals of these wait, whatever comes of them."""
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(countdown, "LONGEST_SPARED", 3.0)

    def teardown(self) -> None:
        self.patch.undo()

    @rule(id_=IDS, ttl=st.sampled_from((1, 3, 10)))
    def grant(self, id_: int, ttl: int) -> None:
        self.index += 1
        if not isinstance(self.leases.grant(id_, ttl, Index(self.index)), Fault):
            self.began[id_] = (self.now + ttl, len(self.leads))
            self.told.pop(id_, None)
        self.clock.left(LeaseId(id_), self.now)

    @rule(id_=IDS)
    def renew(self, id_: int) -> None:
        self.index += 1
        lease = self.leases.renew(id_, Index(self.index))
        if isinstance(lease, Lease):
            self.began[id_] = (self.now + lease.ttl, len(self.leads))
            self.told.pop(id_, None)  # what was told named an older renewal
            self.clock.left(LeaseId(id_), self.now)

    @rule(id_=IDS)
    def revoke(self, id_: int) -> None:
        lease = self.leases.get(id_)
        if lease is not None:
            self.leases.remove(lease)
            del self.began[id_]

    @rule(seconds=st.sampled_from((0.4, 1.0, 2.5, 4.0)))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def lead(self) -> None:
        self.leads.append(self.now)
        self.clock.lead(self.now, 1.0)

    @rule()
    def spare(self) -> None:
        self.spared_until = self.now + 2.0
        self.clock.spare(self.now, 2.0)

    @rule(ids=st.sets(IDS))
    def ask(self, ids: set[int]) -> None:
        self.waiting = ids

    @property
    def ends(self) -> dict[int, float]:
        return self._ends(set())

    def _ends(self, waiting: set[int]) -> dict[int, float]:
        found = {}
        for id_, (began, leads) in self.began.items():
            graces = len(self.leads) - leads
            end = max(began, self.leads[-1]) + 1.0 if 0 < graces <= MOST_GRACES else began
            spared = max(end, self.now + 0.1 if id_ in waiting else end, self.spared_until)
            found[id_] = min(spared, end + 3.0)
        return found

    @rule()
    def look(self) -> None:
        due = self.clock.due(self.now, set(map(LeaseId, self.waiting)))
        ends = self._ends(self.waiting)
        assert len({id_ for id_, _ in due}) == len(due)
        for each, since in due:
            id_ = int(each)
            lease = self.leases.at(id_, since)
            assert lease is not None
            assert ends[id_] <= self.now, "told before its time"
            assert self.now - self.told.get(id_, -9.0) >= RETRY_SECONDS, "told twice in a row"
            self.told[id_] = self.now
        for id_, end in ends.items():
            if end <= self.now:
                assert self.now - self.told.get(id_, -9.0) < RETRY_SECONDS, "overdue and not told"

    @rule(longer_than=st.sampled_from((0, 2, 5)))
    def checkpoint(self, longer_than: int) -> None:
        self.clock.begin_checkpoints()
        found: dict[int, int] = {}
        for _ in range(3):
            piece = self.clock.checkpoints(self.now, longer_than, 2)
            assert len(piece) <= 2
            found |= {id_: left for id_, _, left in piece}
        for id_, (end, _) in self.began.items():
            lease = self.leases.get(id_)
            assert lease is not None
            if lease.ttl > longer_than and end > self.now:
                assert end - self.now <= found[id_] < end - self.now + 1
            else:
                assert id_ not in found

    @invariant()
    def agree(self) -> None:
        for id_ in range(1, 5):
            left = self.clock.left(LeaseId(id_), self.now)
            if id_ in self.ends:
                assert left == max(0.0, self.ends[id_] - self.now)
            else:
                assert left is None
        self.clock.count(self.now)
        assert len(self.clock) == len(self.leases)


TestClocks = Clocks.TestCase


TestClocks.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_a_renewal_counts_from_when_it_is_looked_at() -> None:
    leases = Leases()
    clock = Countdown(leases)
    leases.grant(1, 10, Index(1))
    assert clock.due(50.0) == []
    assert clock.due(59.9) == []
    leases.renew(1, Index(2))
    assert clock.due(60.0) == []
    assert clock.due(69.9) == []
    assert clock.due(70.0) == [(1, 2)]


def test_many_renewals_of_a_lease_cost_no_memory() -> None:
    leases = Leases()
    clock = Countdown(leases)
    leases.grant(1, 3_600, Index(1))
    for index in range(2, 1_000):
        leases.renew(1, Index(index))
        clock.due(float(index))
    assert len(clock._looks) == 1


def test_a_lease_granted_again_with_a_shorter_ttl_ends_in_its_own_time() -> None:
    leases = Leases()
    clock = Countdown(leases)
    for ttl, now in ((3_600, 0.0), (2, 1.0)):
        lease = leases.grant(1, ttl, Index(int(now) + 1))
        assert isinstance(lease, Lease)
        assert clock.due(now) == []
        if ttl > 2:
            leases.remove(lease)
    assert clock.due(2.9) == []
    assert clock.due(3.0) == [(1, 2)]


def test_a_wave_of_overdue_leases_comes_in_pieces() -> None:
    leases = Leases()
    clock = Countdown(leases)
    for id_ in range(1, 2 * MAX_DUE + 2):
        leases.grant(id_, 1, Index(id_))
    while clock.count(0.0):
        pass
    pieces = [len(clock.due(1.0)) for _ in range(4)]
    assert pieces == [MAX_DUE, MAX_DUE, 1, 0]
    assert len(clock.due(1.0 + RETRY_SECONDS)) == MAX_DUE


def stored(records: Iterable[LeaseRecord]) -> StoredLeases:
    """These, as they are loaded."""
    found = StoredLeases()
    found.add(records)
    return found


def test_a_loaded_lease_starts_with_what_a_checkpoint_left() -> None:
    leases = Leases()
    records = [LeaseRecord(LeaseId(1), 100, Index(5), 30), LeaseRecord(LeaseId(2), 100, Index(5), 0)]
    leases.restore(stored(records))
    clock = Countdown(leases)
    assert (clock.left(LeaseId(1), 7.0), clock.left(LeaseId(2), 7.0)) == (30, 100)
    leases.renew(1, Index(6))
    assert clock.left(LeaseId(1), 8.0) == 100


def test_leaders_that_follow_each_other_without_end_keep_nothing_for_ever() -> None:
    leases = Leases()
    clock = Countdown(leases)
    leases.grant(1, 5, Index(1))
    clock.count(0.0)
    now = 5.0
    for number in range(MOST_GRACES + 1):
        assert clock.due(now) == [] or number == 0
        clock.lead(now, 2.0)
        now += 1.0
    assert clock.due(now) == [(1, 1)]


def test_more_that_are_spared_than_one_look_finds_put_off_no_other() -> None:
    """And each is told as soon as it is not spared any more."""
    leases = Leases()
    clock = Countdown(leases)
    spared = set(range(1, 2 * MAX_DUE + 1))
    for number in (*spared, len(spared) + 1):
        leases.grant(number, 5, Index(number))
    while clock.count(0.0):
        pass
    found: list[int] = []
    for look in range(6):
        now = 6.0 + look / 2  # no end is told again in this time
        while clock.count(now):
            pass
        found += [id_ for id_, _ in clock.due(now, set(map(LeaseId, spared)))]
    assert found == [len(spared) + 1]
    assert len(clock._looks) + len(clock._overdue) == len(leases)
    told: set[int] = set()
    for now in (8.6, 8.7, 8.8):
        while clock.count(now):
            pass
        told |= {id_ for id_, _ in clock.due(now)}
    assert told == spared


def test_a_revoked_lease_is_forgotten_long_before_its_time() -> None:
    leases = Leases()
    clock = Countdown(leases)
    for number in range(1, 3_001):
        lease = leases.grant(number, MAX_TTL, Index(number))
        assert isinstance(lease, Lease)
        clock.count(float(number))
        leases.remove(lease)
    clock.count(4_000.0)
    clock.count(4_000.0)
    assert len(clock) + len(clock._looks) + len(clock._overdue) == 0


def test_a_shrinking_ttl_leaves_nothing_behind() -> None:
    leases = Leases()
    clock = Countdown(leases)
    for number in range(3_000):
        kept = leases.get(1)
        if kept is not None:
            leases.remove(kept)
        leases.grant(1, 10_000 - number, Index(number + 1))
        clock.count(0.0)
    assert len(clock._looks) == 1
    assert clock.due(7_000.9) == []
    assert clock.due(7_001.0) == [(1, 3_000)]


def test_the_longest_due_is_reported_first() -> None:
    """However often others were told already."""
    leases = Leases()
    clock = Countdown(leases)
    for number in range(1, 2 * MAX_DUE + 1):
        leases.grant(number, 60 + (number > MAX_DUE), Index(number))
    while clock.count(0.0):
        pass
    while clock.count(70.0):
        pass
    first = clock.due(70.0)
    while clock.count(70.0 + RETRY_SECONDS):
        pass
    second = clock.due(70.0 + RETRY_SECONDS)
    assert len(first) == len(second) == MAX_DUE
    assert not set(first) & set(second)


def test_loaded_leases_are_counted_in_pieces_and_live_longer_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(countdown, "COUNTED_AT_ONCE", 10)
    leases = Leases()
    clock = Countdown(leases)
    records = [LeaseRecord(LeaseId(number), 5, Index(1), 0) for number in range(1, 26)]
    leases.restore(stored(records))
    assert clock.left(LeaseId(25), 100.0) == 5, "not counted yet: it has everything before it"
    assert clock.count(100.0)
    assert clock.count(100.0)
    assert not clock.count(101.0)
    assert [len(clock.due(now)) for now in (104.9, 105.0, 105.0, 105.0, 106.0)] == [0, 10, 10, 1, 4]


def test_a_renewal_that_is_not_counted_yet_spares_its_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would be ended in the name of that very renewal."""
    leases = Leases()
    clock = Countdown(leases)
    for number in range(1, 41):
        leases.grant(number, 5, Index(number))
    clock.count(0.0)
    monkeypatch.setattr(countdown, "COUNTED_AT_ONCE", 10)
    for number in range(1, 41):
        leases.renew(number, Index(100 + number))
    assert [clock.due(6.0) for _ in range(6)] == [[]] * 6
    assert not clock.count(6.0)
    found = [each for _ in range(6) for each in clock.due(11.0)]
    assert sorted(found) == [(number, 100 + number) for number in range(1, 41)]


def test_a_flood_of_renewals_puts_no_lease_off() -> None:
    """Though more come between two calls than one call counts."""
    leases = Leases()
    clock = Countdown(leases)
    leases.grant(1, 5, Index(1))
    for number in range(2, 2 + COUNTED_AT_ONCE + 100):
        leases.grant(number, 600, Index(number))
    clock.count(0.0)
    for turn in range(8):
        for number in range(2, 2 + COUNTED_AT_ONCE + 100):
            leases.renew(number, Index(1_000 + turn))
        found = clock.due(float(turn))
        assert found == ([(1, 1)] if turn == 5 else [])
    for number in range(2, 2 * COUNTED_AT_ONCE):
        leases.grant(-number, 5, Index(number))
    for turn in range(3):
        for number in range(2, 2 + COUNTED_AT_ONCE):
            leases.renew(number, Index(2_000 + turn))
        clock.count(9.0)
    assert all(clock._counts.get(LeaseId(-number)) for number in range(2, COUNTED_AT_ONCE))


WAITING_STEPS = st.tuples(st.sampled_from(("add", "drop", "take")), st.integers(0, 9))


@given(st.lists(WAITING_STEPS, max_size=60))
def test_the_longest_queued_key_is_taken_first(steps: list[tuple[str, int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parted, "FIRST", 2)
        waiting: KeyQueue[int] = KeyQueue()
        twin: dict[int, bool] = {}
        for step, number in steps:
            if step == "add":
                waiting.add(number)
                twin[number] = True
            elif step == "drop":
                assert waiting.drop(number) is twin.get(number, False)
                if number in twin:
                    twin[number] = False
            else:
                places = list(twin)[:number]
                assert waiting.take(number) == [key for key in places if twin[key]]
                for key in places:
                    del twin[key]
            assert len(waiting) == len(twin)
        waiting.take(10)
        assert not waiting._is_wanted.is_large, "the room is given back"


def test_the_room_of_many_that_waited_is_given_back_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parted, "FIRST", 2)
    waiting: KeyQueue[int] = KeyQueue()
    for number in range(1_000):
        waiting.add(number)
    table = waiting._is_wanted
    assert waiting.take(1_000) == [*range(1_000)]
    rooms = [len([*table.parts()])]
    for number in range(20):
        waiting.add(number)
        assert waiting.take(1) == [number]
        rooms.append(len([*table.parts()]))
    assert rooms[0] == PARTS + 1
    assert rooms[-1] == 1
    assert all(before - after <= 16 for before, after in pairwise(rooms))
    for number in range(5_000):
        waiting.add(number)
    sizes = [len(waiting) for _ in waiting.free_steps()]
    assert sizes[:3] == [3_000, 1_000, 0]
    assert not waiting._is_wanted


def test_keys_added_and_removed_between_counts_take_one_place_each() -> None:
    leases = Leases()
    clock = Countdown(leases)
    for index in range(1, 2_000):
        lease = leases.grant(1, 5, Index(index))
        assert isinstance(lease, Lease)
        clock.left(LeaseId(1), 0.0)
        leases.renew(1, Index(index))
        leases.remove(lease)
    assert (len(leases.ttl_changes._renewed), len(leases.ttl_changes._removed)) == (1, 1)


class Instant(float):
    """A time that counts how often it is compared."""

    compared = 0

    __hash__ = float.__hash__

    def __lt__(self, other: float) -> bool:
        Instant.compared += 1
        return float(self) < float(other)

    def __gt__(self, other: float) -> bool:
        Instant.compared += 1
        return float(self) > float(other)

    def __le__(self, other: float) -> bool:
        Instant.compared += 1
        return float(self) <= float(other)

    def __eq__(self, other: object) -> bool:
        Instant.compared += 1
        return float(self) == other

    def __add__(self, other: float) -> Instant:
        return Instant(float(self) + other)


def test_no_call_does_more_for_more_leases() -> None:
    """Whether they come, go, are all renewed, or are overdue at once."""
    leases = Leases()
    clock = Countdown(leases)
    most = 0

    def count(now: float) -> bool:
        nonlocal most
        before = Instant.compared
        is_behind = clock.count(Instant(now))
        most = max(most, Instant.compared - before)
        return is_behind

    for number in range(1, 20_001):
        leases.grant(number, 5 + number % 50, Index(number))
    while count(0.0):
        pass
    for number in range(1, 15_001):
        lease = leases.get(number)
        assert lease is not None
        leases.remove(lease)
    while count(1.0):
        pass
    for number in range(15_001, 20_001):
        leases.renew(number, Index(number))
    for now in (2.0, 56.5, 57.0):
        while count(now):
            pass
    for _ in range(20):
        before = Instant.compared
        clock.due(Instant(60.0))
        most = max(most, Instant.compared - before)
    assert most < 60 * countdown.COUNTED_AT_ONCE


def test_long_keys_come_in_small_proposals() -> None:
    tree = Tree()
    for number in range(10):
        tree.set(b"/%d" % number + b"x" * 30_000, b"", False, Life(Nanos(1), 400))
    clock: Countdown[bytes] = Countdown(tree.timed)
    clock.count(0.0)
    clock.begin_checkpoints()
    counts = []
    while found := clock.checkpoints(1.0, 300, 1_000):
        counts.append(len(found))
    assert counts == [3, 3, 3, 1]
    assert [len(clock.due(500.0)) for _ in range(5)] == [3, 3, 3, 1, 0]
