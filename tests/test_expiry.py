"""What expires, and when; the cost of a call does not grow with the number of entries."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING
from weakref import ref

from hypothesis import given
from hypothesis import strategies as st

from netstore.expiry import Expiries, Expiry

if TYPE_CHECKING:
    from collections.abc import Callable

MANY = 20_000


class Moment(float):
    """A time that counts how often it is compared."""

    compared = 0

    __hash__ = float.__hash__

    def __lt__(self, other: float) -> bool:
        Moment.compared += 1
        return float(self) < float(other)

    def __eq__(self, other: object) -> bool:
        Moment.compared += 1
        return float(self) == other


class Thing:
    """Something that a weak reference can refer to."""


def comparisons(call: Callable[[], object]) -> int:
    before = Moment.compared
    call()
    return Moment.compared - before


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["add", "add", "settle", "due", "bounded"]), st.integers(0, 20), st.integers(1, 4)
        ),
        max_size=150,
    )
)
def test_expiries_against_a_model(steps: list[tuple[str, int, int]]) -> None:
    expiries: Expiries[int] = Expiries()
    alive: dict[int, tuple[float, int, Expiry[int]]] = {}
    for number, (step, value, most) in enumerate(steps * 6):
        if step == "add":
            entry = expiries.add(value, number)
            alive[number] = (value, expiries.added, entry)
        elif step == "settle" and alive:
            *_, entry = alive.pop(list(alive)[value % len(alive)])
            for _ in range(most):
                expiries.settle(entry)
            assert entry.what is None
        else:
            last = expiries.added - most if step == "bounded" else expiries.added
            order = sorted(alive, key=lambda n: alive[n][:2])
            expected = [n for n in order if alive[n][:2] <= (value, last)]
            assert expiries.is_due(value, last) is bool(expected)
            assert expiries.due(value, most, last) == expected[:most]
            for n in expected[:most]:
                expiries.settle(alive.pop(n)[2])
        assert len(expiries) == len(alive)
        assert expiries.first() == min((when for when, *_ in alive.values()), default=None)


def test_the_cost_of_a_call_does_not_grow_with_the_entries() -> None:
    random = Random(1)  # noqa: S311 - of test data
    expiries: Expiries[int] = Expiries()
    entries = []
    for number in range(MANY):
        when = Moment(random.randrange(1_000))
        assert comparisons(lambda: entries.append(expiries.add(when, number))) < 100  # noqa: B023 - called now
    random.shuffle(entries)
    for entry in entries[: -MANY // 8]:
        assert comparisons(lambda: expiries.settle(entry)) < 100  # noqa: B023 - called now
        assert comparisons(expiries.first) < 10
    assert len(expiries) == MANY // 8
    while expiries:
        assert comparisons(lambda: expiries.due(1_000, 1)) < 100


def test_lists_stay_short() -> None:
    """None of the inner lists, which are changed in one piece, has more than 2,000 entries."""
    random = Random(1)  # noqa: S311 - of test data
    expiries: Expiries[int] = Expiries()
    entries = [expiries.add(random.random(), number) for number in range(MANY)]
    lists = expiries._places._lists
    assert max(map(len, lists)) <= 2_000
    random.shuffle(entries)
    while entries:
        expiries.settle(entries.pop())
        if not len(entries) % 100:
            assert max(map(len, lists), default=0) <= 2_000
            assert len(lists) <= 1 + len(entries) // 250


def test_what_was_settled_or_has_expired_is_freed_at_once() -> None:
    expiries: Expiries[Thing] = Expiries()
    things = [Thing() for _ in range(1_000)]
    entries = [expiries.add(number, each) for number, each in enumerate(things)]
    gone = [ref(each) for each in things]
    things.clear()
    for entry in entries[500:]:
        expiries.settle(entry)
    assert [each() for each in gone[500:]] == [None] * 500
    assert all(each() is not None for each in gone[:500])
    expiries.due(500, 500)
    assert [each() for each in gone] == [None] * 1_000
    assert all(each.place is None for each in entries), "no reference cycle is left"
    assert len(expiries) == 0
