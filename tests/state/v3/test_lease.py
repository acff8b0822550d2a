"""The table of leases, and listings of it and of the keys of a lease.

Its commands are held to the twin in `test_mvcc`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore import parted
from netstore.errors import Fault, Reason
from netstore.parted import FREE_STEP
from netstore.state.countdown import Countdown
from netstore.state.v2.tree import Tree
from netstore.state.v2.ttl import Life
from netstore.state.v3.lease import Lease, Leases, StoredLeases, granted_ttl
from netstore.state.v3.reads import Lost
from netstore.types import Index, Nanos

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.mark.parametrize(
    ("asked", "given"), [(-5, 2), (0, 2), (1, 2), (60, 60), (9_000_000_000, 9_000_000_000)]
)
def test_a_ttl_is_raised_to_the_minimum(asked: int, given: int) -> None:
    assert granted_ttl(asked, 2) == given


def test_too_long_a_ttl_is_refused() -> None:
    fault = granted_ttl(9_000_000_001, 2)
    assert isinstance(fault, Fault)
    assert fault.reason is Reason.LEASE_TTL_TOO_LARGE


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


def test_keys_attached_during_a_listing_are_merged_in_steps() -> None:
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
def test_a_lease_that_ends_is_freed_in_steps_when_it_is_listed_no_more(
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
        leases.free_step()
        sizes.append(len(lease.keys) + len(late))
    assert all(before - after <= FREE_STEP for before, after in pairwise(sizes))
    assert sizes[-1] == 0
    assert [*leases.listed(lease)] == [], "of what is gone nothing is listed"


def test_a_lease_that_ends_after_its_listing_was_given_up_is_freed_in_steps(
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
        leases.free_step()
    assert (len(lease.keys), len(late)) == (0, 0)


def test_keys_attached_and_detached_during_a_listing_are_not_kept() -> None:
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
