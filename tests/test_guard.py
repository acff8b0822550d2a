"""Which exceptions a guard handles, and which it lets through."""

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
def test_an_exception_is_given_to_failed(fault: Exception) -> None:
    seen: list[Exception] = []
    assert not guarded(seen.append, throw, fault)
    assert seen == [fault]


@pytest.mark.parametrize("fault", OURS, ids=repr)
def test_must_stop_is_raised(fault: BaseException) -> None:
    seen: list[Exception] = []
    with pytest.raises(type(fault)):
        guarded(seen.append, throw, fault)
    assert seen == []


@pytest.mark.parametrize("fault", THEIRS, ids=repr)
def test_what_failed_raises_is_dropped(fault: Exception) -> None:
    told: list[Exception] = []

    def failed(first: Exception) -> None:
        told.append(first)
        raise fault

    first = ValueError("the first")
    assert not guarded(failed, throw, first)
    assert told == [first]


def test_must_stop_of_failed_is_raised() -> None:
    def failed(_: Exception) -> None:
        raise MustStop

    with pytest.raises(MustStop):
        guarded(failed, throw, ValueError("theirs"))


def test_with_unguarded_everything_is_raised() -> None:
    with pytest.raises(MemoryError):
        guarded(unguarded, throw, MemoryError())


def test_without_an_exception_the_result_is_true() -> None:
    made: list[tuple[int, int]] = []
    assert guarded(throw, lambda *numbers: made.append(numbers), 1, 2)
    assert made == [(1, 2)]
