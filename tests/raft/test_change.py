"""Byte form of membership changes."""

from __future__ import annotations

import pytest
from hypothesis import given

from netstore.errors import CorruptData
from netstore.raft.change import MAX_CHANGE_STEPS, Change, Step, StepKind
from netstore.types import NodeId
from tests.support.raft_forms import changes, damaged


@given(changes())
def test_changes_come_back(change: Change) -> None:
    assert Change.decode(change.encode()) == change


@given(damaged(changes().map(Change.encode)))
def test_damage_is_corrupt_data_or_a_change_with_that_form(raw: bytes) -> None:
    try:
        change = Change.decode(raw)
    except CorruptData:
        return
    assert change.encode() == raw


def test_too_many_steps_are_refused() -> None:
    step = Step(StepKind.REMOVE, NodeId(1))
    with pytest.raises(CorruptData, match=f"{MAX_CHANGE_STEPS + 1} steps"):
        Change((step,) * (MAX_CHANGE_STEPS + 1)).encode() and Change.decode(
            Change((step,) * (MAX_CHANGE_STEPS + 1)).encode()
        )


def test_a_change_that_keeps_a_joint_configuration_is_refused() -> None:
    raw = Change((Step(StepKind.REMOVE, NodeId(1)),)).encode()
    with pytest.raises(CorruptData, match="flag 0"):
        Change.decode(b"\0" + raw[1:])
