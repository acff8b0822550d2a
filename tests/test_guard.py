"""What passes a guard, and what does not."""

from __future__ import annotations

import pytest

from netstore.errors import CorruptData, Fault, MustStop
from netstore.guard import guarded, unguarded
from netstore.node.logwriter import DiskFailed
from netstore.raft.invariant import InvariantBroken

THEIRS = [ValueError("x"), MemoryError(), RecursionError(), OverflowError(), CorruptData("x"), Fault(300)]
OURS = [InvariantBroken("x"), DiskFailed("x"), MustStop(), KeyboardInterrupt()]


def throw(fault: BaseException) -> None:
    raise fault


@pytest.mark.parametrize("fault", THEIRS, ids=repr)
def test_what_is_raised_for_somebody_else_is_theirs(fault: Exception) -> None:
    seen: list[Exception] = []
    assert not guarded(seen.append, throw, fault)
    assert seen == [fault]


@pytest.mark.parametrize("fault", OURS, ids=repr)
def test_what_a_member_must_not_survive_goes_on(fault: BaseException) -> None:
    seen: list[Exception] = []
    with pytest.raises(type(fault)):
        guarded(seen.append, throw, fault)
    assert seen == []


@pytest.mark.parametrize("fault", THEIRS, ids=repr)
def test_what_telling_of_it_raises_is_theirs_as_well(fault: Exception) -> None:
    told: list[Exception] = []

    def failed(first: Exception) -> None:
        told.append(first)
        raise fault

    first = ValueError("the first")
    assert not guarded(failed, throw, first)
    assert told == [first]


def test_a_member_that_must_stop_stops_there_too() -> None:
    def failed(_: Exception) -> None:
        raise MustStop

    with pytest.raises(MustStop):
        guarded(failed, throw, ValueError("theirs"))


def test_unguarded_is_not_guarded() -> None:
    with pytest.raises(MemoryError):
        guarded(unguarded, throw, MemoryError())


def test_what_goes_well_is_told_so() -> None:
    made: list[tuple[int, int]] = []
    assert guarded(throw, lambda *numbers: made.append(numbers), 1, 2)
    assert made == [(1, 2)]
