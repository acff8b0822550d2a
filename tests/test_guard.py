"""What passes a guard, and what does not."""

from __future__ import annotations

import pytest

from netstore.errors import CorruptData, Fault, MustStop
from netstore.guard import guarded
from netstore.node.host import DiskFailed
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


def test_what_goes_well_is_told_so() -> None:
    made: list[tuple[int, int]] = []
    assert guarded(throw, lambda *numbers: made.append(numbers), 1, 2)
    assert made == [(1, 2)]
