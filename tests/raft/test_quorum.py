"""Majority arithmetic against a model that tries every subset."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.raft import quorum
from netstore.raft.entry import ConfState
from netstore.raft.quorum import Verdict
from netstore.types import NodeId
from tests.support.raft_cluster import voters

if TYPE_CHECKING:
    from collections.abc import Iterator


def confs(most: int = 7) -> st.SearchStrategy[ConfState]:
    nodes = st.frozensets(st.integers(1, 9).map(NodeId), max_size=most)
    return st.builds(
        lambda incoming, outgoing: ConfState(tuple(sorted(incoming)), tuple(sorted(outgoing))),
        nodes.filter(bool),
        nodes,
    )


def _majorities(group: tuple[NodeId, ...]) -> Iterator[set[NodeId]]:
    """Every subset that is more than half."""
    for size in range(len(group) + 1):
        if size > len(group) - size:
            yield from map(set, combinations(group, size))


def _quorums(conf: ConfState) -> Iterator[set[NodeId]]:
    for first in _majorities(conf.voters):
        if not conf.voters_outgoing:
            yield first
        for second in _majorities(conf.voters_outgoing) if conf.voters_outgoing else ():
            yield first | second


@given(confs(), st.dictionaries(st.integers(1, 9), st.integers(0, 5)))
def test_reached_is_the_best_of_all_quorums(conf: ConfState, values: dict[int, int]) -> None:
    def value_of(node: int) -> int:
        return values.get(node, 0)

    best = max(min(map(value_of, members)) for members in _quorums(conf))
    assert quorum.reached(conf, value_of) == best


@given(confs(), st.dictionaries(st.integers(1, 9).map(NodeId), st.booleans()))
def test_tally_considers_the_votes_that_are_missing(conf: ConfState, votes: dict[NodeId, bool]) -> None:
    granted = {node for node, vote in votes.items() if vote}
    refused = {node for node, vote in votes.items() if not vote}
    won = any(members <= granted for members in _quorums(conf))
    possible = any(not members & refused for members in _quorums(conf))
    expected = Verdict.WON if won else Verdict.PENDING if possible else Verdict.LOST
    assert quorum.tally(conf, votes) is expected


@given(confs(most=4))
def test_two_quorums_share_a_member(conf: ConfState) -> None:
    every = list(_quorums(conf))
    assert all(first & second for first in every for second in every)


@pytest.mark.parametrize(("size", "needed"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (6, 4), (7, 4)])
def test_majority(size: int, needed: int) -> None:
    assert quorum.majority(size) == needed


def test_without_voters_nothing_is_decided() -> None:
    nobody = ConfState()
    assert quorum.reached(nobody, lambda _node: 9) == 0
    assert quorum.tally(nobody, {}) is Verdict.LOST
    assert quorum.tally(voters(1), {NodeId(1): True}) is Verdict.WON
