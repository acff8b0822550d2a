"""Sorted reads: their memory, and values that are longer than what is kept of them."""

from __future__ import annotations

import pytest

from netstore.limits import Budget
from netstore.state.v3 import mvcc, reads, sorting
from netstore.state.v3.commands import (
    ASCEND,
    BY_VALUE,
    BY_VERSION,
    DESCEND,
    Found,
    Put,
    Range,
)
from netstore.state.v3.reads import TooMuch
from tests.state.v3.reading import ALL, Store, steps


def test_rows_that_do_not_fit_are_not_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first few of them are, and what was held is given back."""
    monkeypatch.setattr(mvcc, "READ_BYTES", reads.OPEN_BYTES + 1_000 * sorting.NUMBER_ROW_BYTES)
    store = Store([Put(b"%04d" % number) for number in range(1_100)])
    by_version = Range(*ALL, sort_target=BY_VERSION, sort_order=ASCEND)
    for _ in range(3):
        read = store.read(by_version)
        with pytest.raises(TooMuch):
            list(steps(read))
        read.close()
        few = store.read(Range(*ALL, sort_target=BY_VERSION, sort_order=ASCEND, limit=100))
        assert sum(len(some) for some in steps(few)) == 100


def test_memory_held_by_other_parts_ends_no_sort() -> None:
    store = Store([Put(b"%04d" % number) for number in range(1_100)])
    read = store.read(Range(*ALL, sort_target=BY_VERSION, sort_order=ASCEND))
    store.machine.mvcc.read_budget.parent = Budget(-1)
    assert sum(len(some) for some in steps(read)) == 1_100


def test_values_are_charged_until_their_run_is_sorted() -> None:
    store = Store([Put(b"%04d" % number, bytes(5_000)) for number in range(300)])
    read = store.read(Range(*ALL, sort_target=BY_VALUE, sort_order=ASCEND))
    budget = store.machine.mvcc.read_budget
    most = 0
    while not read.measure(1):
        most = max(most, budget.used)
    assert most > 200 * 5_000
    assert budget.used == reads.OPEN_BYTES + 300 * sorting.VALUE_ROW_BYTES
    read.close()
    assert budget.used == 0


@pytest.mark.parametrize("order", [ASCEND, DESCEND])
@pytest.mark.parametrize("limit", [0, 7])
def test_long_values_are_sorted_by_all_their_bytes(order: int, limit: int) -> None:
    """Many runs of values that begin alike, some of them the same."""
    commands = [
        Put(b"%03d" % number, b"the same beginning of all values%b%d" % (b"x" * (number % 5), number % 7))
        for number in range(600)
    ]
    store = Store(commands)
    query = Range(*ALL, sort_target=BY_VALUE, sort_order=order, limit=limit)
    expected = store.twin.range(query)
    assert isinstance(expected, Found)
    assert [pair for some in steps(store.read(query)) for pair in some] == expected.kvs
