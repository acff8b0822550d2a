"""Majority arithmetic, single and joint (Ongaro's dissertation, sections 3.6.2 and 4.3). Pure functions.

A configuration without voters elects nobody, commits nothing and is never active. Empty outgoing voters, on
the other hand, mean that the configuration is not joint, and are not asked.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from netstore.raft.entry import ConfState
    from netstore.types import NodeId


class Verdict(Enum):
    """How an election stands."""

    PENDING = "pending"
    WON = "won"
    LOST = "lost"


def majority(size: int) -> int:
    """The smallest number of members that is more than half of `size`."""
    return size // 2 + 1


def reached(conf: ConfState, value_of: Callable[[NodeId], int]) -> int:
    """The largest value that a majority (each majority, if joint) has reached or passed; 0 without voters.

    With match indexes this is what may be committed; with round numbers, which read rounds are confirmed.
    """
    lowest = _reached_by(conf.voters, value_of)
    if conf.voters_outgoing:
        return min(lowest, _reached_by(conf.voters_outgoing, value_of))
    return lowest


def tally(conf: ConfState, votes: Mapping[NodeId, bool]) -> Verdict:
    """Count votes granted (True) and refused (False); voters not in `votes` have not answered."""
    verdict = _tally_of(conf.voters, votes)
    if not conf.voters_outgoing or verdict is Verdict.LOST:
        return verdict
    outgoing = _tally_of(conf.voters_outgoing, votes)
    if outgoing is Verdict.WON:
        return verdict
    return outgoing


def _reached_by(voters: Sequence[NodeId], value_of: Callable[[NodeId], int]) -> int:
    size = len(voters)
    if size == 1:
        return value_of(voters[0])
    if size == 0:
        return 0
    return sorted(map(value_of, voters))[size - majority(size)]


def _tally_of(voters: Sequence[NodeId], votes: Mapping[NodeId, bool]) -> Verdict:
    needed = majority(len(voters))
    answers = [votes[voter] for voter in voters if voter in votes]
    granted = sum(answers)
    if granted >= needed:
        return Verdict.WON
    open_votes = len(voters) - len(answers)
    return Verdict.LOST if granted + open_votes < needed else Verdict.PENDING
