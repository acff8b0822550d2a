"""Leases: the clock against one that remembers every renewal, and what may end a lease.

The table's commands are held to the twin in `test_mvcc`.
"""

from __future__ import annotations

from itertools import pairwise
from math import inf
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from netstore import parted
from netstore.errors import Fault, Reason
from netstore.parted import LET_GO_STEP, PARTS
from netstore.state import countdown
from netstore.state.countdown import COUNTED_AT_ONCE, MAX_DUE, MOST_GRACES, RETRY_SECONDS, Countdown, KeyQueue
from netstore.state.v2.tree import Tree
from netstore.state.v2.ttl import Life
from netstore.state.v3.lease import MAX_TTL, Lease, LeaseRecord, Leases, StoredLeases, granted_ttl
from netstore.state.v3.reads import Lost
from netstore.types import Index, LeaseId, Nanos

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

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
        self.clock.begin_notes()
        found: dict[int, int] = {}
        for _ in range(3):
            piece = self.clock.notes(self.now, longer_than, 2)
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


@pytest.mark.parametrize(
    ("asked", "given"), [(-5, 2), (0, 2), (1, 2), (60, 60), (9_000_000_000, 9_000_000_000)]
)
def test_a_ttl_is_raised_to_the_minimum(asked: int, given: int) -> None:
    assert granted_ttl(asked, 2) == given


def test_too_long_a_ttl_is_refused() -> None:
    fault = granted_ttl(9_000_000_001, 2)
    assert isinstance(fault, Fault)
    assert fault.reason is Reason.LEASE_TTL_TOO_LARGE


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


def test_what_is_gone_is_forgotten_long_before_its_time() -> None:
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


def test_what_waits_longest_to_be_told_is_told_first() -> None:
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


def test_what_was_loaded_is_counted_in_pieces_and_lives_longer_for_it(
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
def test_what_waits_longest_is_taken_first(steps: list[tuple[str, int]]) -> None:
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
    sizes = [len(waiting) for _ in waiting.let_go()]
    assert sizes[:3] == [3_000, 1_000, 0]
    assert not waiting._is_wanted


def test_what_comes_and_goes_uncounted_takes_no_more_places_than_there_are_keys() -> None:
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
    clock.begin_notes()
    notes = []
    while found := clock.notes(1.0, 300, 1_000):
        notes.append(len(found))
    assert notes == [3, 3, 3, 1]
    assert [len(clock.due(500.0)) for _ in range(5)] == [3, 3, 3, 1, 0]


def test_all_leases_are_listed_as_of_one_moment_whatever_comes_and_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("netstore.state.v3.lease.KEYS_AT_ONCE", 3)
    leases = Leases()
    there = set()
    for id_ in range(1, 20):
        leases.grant(id_, 60, Index(id_))
        there.add(id_)

    def end(id_: int) -> None:
        lease = leases.get(id_)
        assert lease is not None
        leases.remove(lease)
        there.discard(id_)

    def grant(id_: int) -> None:
        lease = leases.grant(id_, 60, Index(id_))
        assert isinstance(lease, Lease) == (id_ not in there)
        there.add(id_)

    for turn in range(4):
        told: set[int] = set()
        before = set(there)
        for number, some in enumerate(leases.ids()):
            assert len(some) <= 3
            assert told.isdisjoint(some)
            told.update(some)
            if turn == 3 and number == 2:
                break
            if number < 9:
                new = 100 * turn + 50 + number
                end(min(there))
                grant(new)
                grant(new)
                leases.move(b"key", 0, new)
                if number % 3 == 0:
                    end(new)
                if number % 3 == 1:
                    grant(min(before - there, default=new))
            assert {lease.id for lease in leases} == set(leases.timed_keys()) == there
            assert len(leases) == len(there)
            assert all((leases.get(id_) is not None) == (id_ in there) for id_ in range(500))
        if turn < 3:
            assert told == before
            assert leases._gone == leases._young == {}
    assert {id_ for some in leases.ids() for id_ in some} == there


def test_a_list_of_all_leases_ends_with_the_state_it_began_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("netstore.state.v3.lease.KEYS_AT_ONCE", 3)
    leases = Leases()
    for id_ in range(1, 10):
        leases.grant(id_, 60, Index(id_))
    ids = leases.ids()
    assert len(next(ids)) == 3
    leases.grant(11, 60, Index(11))
    gone = leases.restore(StoredLeases())
    assert len([*gone]) == 4, "what waited to be counted, then one table after the other"
    assert not leases.ttl_changes.take_renewed(1)
    assert sorted(leases.ttl_changes.take_removed(20)) == [*range(1, 10), 11]
    with pytest.raises(Lost):
        next(ids)
    leases.grant(1, 60, Index(12))
    assert [*leases.ids()] == [[1]]


STEPS = st.sampled_from(("come", "go", "list", "give up"))


@given(st.lists(st.tuples(STEPS, st.integers(0, 9)), max_size=60))
def test_a_listing_may_be_given_up_at_any_moment(steps: list[tuple[str, int]]) -> None:
    leases = Leases()
    lease = leases.grant(1, 60, Index(1))
    assert isinstance(lease, Lease)
    held: set[bytes] = set()
    listing: Iterator[list[bytes]] | None = None
    listed: set[bytes] = set()
    expected: set[bytes] = set()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("netstore.state.v3.lease.KEYS_AT_ONCE", 2)
        for step, number in steps:
            key = b"%d" % number
            if step in {"come", "go"}:
                is_there = step == "come"
                if (key in held) is not is_there:
                    leases.move(key, 0 if is_there else 1, 1 if is_there else 0)
                (held.add if is_there else held.discard)(key)
            elif step == "give up" and listing is not None:
                listing = None
                leases.unlist(lease)
            elif step == "list":
                if listing is None:
                    listing, listed = leases.listed(lease), set()
                some = next(listing, None)
                if some is None:
                    assert listed == (expected if listed else held)
                    listing = None
                    leases.unlist(lease)
                elif some:
                    expected = expected if listed else set(held)
                    listed.update(some)
            assert set(lease.all_keys()) == set(leases.keys_of(lease)) == held


def test_a_key_that_moves_twice_in_a_command_was_where_it_was_before() -> None:
    leases = Leases()
    one, two = leases.grant(1, 60, Index(1)), leases.grant(2, 60, Index(2))
    assert isinstance(one, Lease)
    assert isinstance(two, Lease)
    for key in (b"back", b"on", b"away"):
        leases.move(key, 0, 1)
    leases.begin()
    for before, after in ((1, 2), (2, 1)):
        leases.move(b"back", before, after)
    for before, after in ((1, 0), (0, 1), (1, 2)):
        leases.move(b"on", before, after)
    for before, after in ((1, 2), (2, 0)):
        leases.move(b"away", before, after)
    for before, after in ((0, 1), (1, 0), (0, 2)):
        leases.move(b"new", before, after)
    assert leases.keys_of(one) == {b"back", b"on", b"away"}
    assert leases.keys_of(two) == set()
    leases.finish()
    assert leases.keys_of(one) == {b"back"}
    assert leases.keys_of(two) == {b"on", b"new"}


def being_listed(keys: int) -> tuple[Leases, Lease]:
    """A lease with so many keys, of which the first are listed."""
    leases = Leases()
    lease = leases.grant(1, 60, Index(1))
    assert isinstance(lease, Lease)
    for number in range(keys):
        leases.move(b"%d" % number, 0, 1)
    next(leases.listed(lease))
    return leases, lease


def test_what_came_while_keys_were_listed_is_put_to_them_a_little_at_a_time() -> None:
    leases, lease = being_listed(3_000)
    for number in range(3_000, 4_000):
        leases.move(b"%d" % number, 0, 1)
    leases.unlist(lease)
    assert (len(lease.keys), len(lease.late or ())) == (3_000, 1_000)
    for number in range(999):
        leases.move(b"%d" % number, 1, 0)
        assert len(lease.late or ()) == 999 - number
    leases.move(b"999", 1, 0)
    assert lease.late is None
    assert set(lease.keys) == {b"%d" % number for number in range(1_000, 4_000)}


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_lease_that_ends_is_let_go_of_in_steps_when_it_is_listed_no_more(
    monkeypatch: pytest.MonkeyPatch, is_replaced: bool
) -> None:
    """Its keys, and what came and went while they were listed."""
    monkeypatch.setattr(parted, "FIRST", 10)
    leases, lease = being_listed(10_000)
    for number in range(10_000):
        leases.move(b"%d" % number, 1, 0)
    if is_replaced:
        for _ in leases.restore(StoredLeases()):
            pass
    else:
        leases.remove(lease)
    assert [*leases._spent] == []
    late = lease.late
    assert late is not None
    assert (len(lease.keys), len(late)) == (10_000, 10_000)
    leases.unlist(lease)
    sizes = [20_000]
    while leases.spent:
        leases.let_go()
        sizes.append(len(lease.keys) + len(late))
    assert all(before - after <= LET_GO_STEP for before, after in pairwise(sizes))
    assert sizes[-1] == 0
    assert [*leases.listed(lease)] == [], "of what is gone nothing is listed"


def test_a_lease_that_ends_after_its_listing_was_given_up_is_let_go_of_in_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parted, "FIRST", 10)
    leases, lease = being_listed(5_000)
    for number in range(5_000):
        leases.move(b"%d" % number, 1, 0)
    leases.unlist(lease)
    leases.remove(lease)
    late = lease.late
    assert late is not None
    assert len(late) == 5_000
    while leases.spent:
        leases.let_go()
    assert (len(lease.keys), len(late)) == (0, 0)


def test_what_came_and_went_while_keys_are_listed_is_not_kept() -> None:
    leases, lease = being_listed(3_000)
    for number in range(3_000, 5_000):
        leases.move(b"%d" % number, 0, 1)
        leases.move(b"%d" % number, 1, 0)
    leases.move(b"7", 1, 0)
    leases.move(b"7", 0, 1)
    assert not lease.late


class Compared(bytes):
    """Counts comparisons."""

    times = 0

    def __lt__(self, other: object) -> bool:
        Compared.times += 1
        return super().__lt__(other)  # type: ignore[operator]  # like with like


def test_keys_that_begin_alike_are_not_compared() -> None:
    """Each comparison goes through all that they have in common."""
    table = Tree()
    for number in range(1_000):
        table.set(b"/%d" % number, b"", False, Life(Nanos(1), 60))
    clock: Countdown[bytes] = Countdown(table.timed)
    while clock.count(0.0):
        pass
    for key, count in list(clock._counts.items()):
        clock._look(Compared(key), count, 60.0)
    assert Compared.times == 0
