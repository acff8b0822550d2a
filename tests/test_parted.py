"""`Parted` behaves as a dictionary, and none of its parts gets large."""

from __future__ import annotations

import os
import subprocess
import sys
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore import parted
from netstore.parted import FIRST, FREE_STEP, PARTS, Parted, batches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

MANY = 300_000

CALLS: dict[str, Callable[[Any, int, int], object]] = {
    "set": lambda table, key, value: table.__setitem__(key, value),
    "set another": lambda table, key, value: table.__setitem__(key + 40, value),
    "del": lambda table, key, _: table.__delitem__(key),
    "[]": lambda table, key, _: table[key],
    "get": lambda table, key, _: table.get(key),
    "get or": lambda table, key, value: table.get(key, value),
    "pop": lambda table, key, _: table.pop(key),
    "pop or": lambda table, key, value: table.pop(key, value),
    "setdefault": lambda table, key, value: table.setdefault(key, value),
    "update": lambda table, key, value: table.update({key: value, key + 1: value}),
    "in": lambda table, key, _: key in table,
}
STEPS = st.tuples(st.sampled_from([*CALLS, "popitem", "take"]), st.integers(0, 40), st.integers(0, 3))


def done(table: Any, call: str, key: int, value: int) -> object:
    try:
        return CALLS[call](table, key, value)
    except KeyError:
        return KeyError


@given(st.integers(1, 8), st.lists(STEPS, max_size=60))
def test_it_behaves_as_a_dictionary(first: int, steps: list[tuple[str, int, int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parted, "FIRST", first)
        table: Parted[int, int] = Parted({1: 1})
        twin = {1: 1}
        for call, key, value in steps * 2:
            if call == "take":
                taken = table.take(value)
                assert len(taken) == len(set(taken)) == min(value, len(twin))
                assert all(twin.pop(each, None) is not None for each in taken)
            elif call == "popitem":
                if twin:
                    found, was = table.popitem()
                    assert twin.pop(found) == was
                else:
                    with pytest.raises(KeyError):
                        table.popitem()
            else:
                assert done(table, call, key, value) == done(twin, call, key, value)
            assert len(table) == len(twin)
            assert bool(table) is bool(twin)
        assert sorted(table) == sorted(twin)
        assert sorted(table.items()) == sorted(twin.items())
        assert sorted(table.values()) == sorted(twin.values())
        assert table.many(twin) == list(twin.values())
        assert table == twin
        assert table == Parted(dict(twin))
        assert table != {**twin, 1_000: 0}
        assert len(table._first) <= first + 1, "`update` adds its entries at once"


@pytest.mark.parametrize(
    "keys",
    [
        [b"/registry/pods/default/pod-%08d" % number for number in range(MANY)],
        [number * PARTS for number in range(MANY)],
        [number << 40 for number in range(MANY)],
    ],
    ids=["paths", "numbers with equal low bits", "numbers with equal high bits"],
)
def test_no_part_of_a_large_table_is_large(keys: list[Any]) -> None:
    table: Parted[Any, None] = Parted()
    for key in keys:
        table[key] = None
    first, *parts = map(len, table.parts())
    assert (first, len(parts), len(table)) == (FIRST, PARTS, MANY)
    assert max(parts) < 1.5 * (MANY - FIRST) / PARTS


def colliding_numbers(most: int) -> Iterator[int]:
    """Numbers whose hash as part of a tuple ends in the same bits, whatever follows them in the tuple: the
    constants that CPython multiplies by and adds are public.
    """
    bits = (1 << 64) - 1
    inverse = pow(14029467366897019727, -1, 1 << 64)
    for middle in range(1 << 23):
        number = ((((0x1234567 << 33) | (middle << 10) | 0x55) - 2870177450012600261) * inverse) & bits
        if number < (1 << 61) - 1:
            yield number
            most -= 1
        if not most:
            return


def test_chosen_numbers_are_spread_over_the_parts() -> None:
    table: Parted[int, None] = Parted()
    for number in colliding_numbers(2 * FIRST):
        table[number] = None
    _, *parts = map(len, table.parts())
    assert sum(parts) == FIRST
    assert max(parts) < 2 * FIRST / PARTS


def parts_of(numbers: Iterable[int]) -> dict[int, int]:
    """The part of a large table that each number is in."""
    table: Parted[int, None] = Parted({-number - 1: None for number in range(FIRST)})
    for number in numbers:
        table[number] = None
    return {number: at for at, part in enumerate(table.parts()) for number in part if number >= 0}


def test_the_part_of_a_number_does_not_follow_from_those_of_others() -> None:
    """With a product by a secret number the part of 2 * n would follow from that of n."""
    chance = Random(1)  # noqa: S311 - a test must be repeatable
    numbers = [chance.getrandbits(60) for _ in range(4_000)]
    once, twice = parts_of(numbers), parts_of(2 * number for number in numbers)
    told = sum((twice[2 * number] - 2 * once[number]) % PARTS < 2 for number in numbers)
    assert told < 2 * 2 * len(numbers) / PARTS


def test_the_parts_of_keys_differ_between_processes() -> None:
    told = """if True:
        from netstore.parted import FIRST, Parted
        for keys in ([*range(FIRST + 20)], [b"%d" % number for number in range(FIRST + 20)]):
            table = Parted(dict.fromkeys(keys[:FIRST]))
            for key in keys[FIRST:]:
                table[key] = None
            print([*map(sorted, table.parts())][1:])
    """
    environment = {**os.environ, "PYTHONHASHSEED": "random"}
    first, second = (
        subprocess.run(
            [sys.executable, "-c", told], env=environment, capture_output=True, check=True
        ).stdout.splitlines()
        for _ in range(2)
    )
    assert len(first) == 2
    assert all(one != other for one, other in zip(first, second, strict=True))


def test_deleting_and_adding_does_not_enlarge_the_first_dictionary() -> None:
    table: Parted[int, int] = Parted()
    chance = Random(1)  # noqa: S311 - a test must be repeatable
    for number in range(4 * FIRST):
        table[number] = number
        table.pop(chance.randrange(number + 1), None)
        assert len(next(table.parts())) <= FIRST


def test_a_large_dictionary_becomes_the_first_one() -> None:
    first = dict.fromkeys(range(FIRST))
    table = Parted(first)
    table[-1] = None
    assert next(table.parts()) is first
    assert len(first) == FIRST
    assert sorted(table) == list(range(-1, FIRST))


def test_it_is_freed_in_steps() -> None:
    table: Parted[int, int] = Parted()
    for number in range(3 * FIRST):
        table[number] = number
    before = len(table)
    for _ in table.free_steps():
        assert before - FREE_STEP <= len(table) < before
        before = len(table)
    assert not table
    table[1] = 1
    assert len([*table.parts()]) == 1, "it has no parts any more"


def test_take_removes_old_entries_while_new_ones_are_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parted, "FIRST", 10)
    table: Parted[int, None] = Parted(dict.fromkeys(range(5_000)))
    table.update(dict.fromkeys(range(5_000, 6_000)))
    waits = set(table)
    for number in range(6_000, 24_000):
        table[number] = None
        waits.difference_update(table.take(1))
    assert not waits, "all entries of the beginning are taken, although others were added meanwhile"


def test_new_keys_of_a_part_come_after_the_old_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parted, "FIRST", 10)
    table: Parted[int, None] = Parted()
    for number in range(100):
        table[number] = None
    before = [list(part) for part in table.parts()]
    for number in range(200):
        table[number] = None
    after = [list(part) for part in table.parts()]
    assert all(new[: len(old)] == old for old, new in zip(before, after, strict=True))


@given(st.lists(st.integers()), st.integers(1, 5))
def test_batches_have_the_same_size(entries: list[int], most: int) -> None:
    found = list(batches(entries, most))
    assert [each for some in found for each in some] == entries
    assert all(len(some) == most for some in found[:-1])
    assert all(found)
