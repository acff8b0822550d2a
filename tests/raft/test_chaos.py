"""Seeded runs of small clusters (`tests.support.raft_chaos`), and the proof that they find known bugs."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from netstore.raft import commit, confchange, core, election, encoding, quorum, readindex, replication
from netstore.raft.invariant import InvariantBroken
from netstore.raft.log import Log
from netstore.raft.messages import AppendAccepted, MessageRefused, VoteAnswer, VoteRequest
from netstore.raft.status import Role
from tests.support.raft_chaos import Chaos

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from netstore.raft.core import Raft
    from netstore.raft.entry import ConfState, Entry
    from netstore.types import Index

STEPS = 1000
BLOCK = 30
SEEDS_TO_FIND = 200
"""A bug must show within this many seeds."""


@pytest.mark.parametrize("first", range(0, 300, BLOCK))
def test_raft_holds(first: int) -> None:
    reached: Counter[str] = Counter()
    for seed in range(first, first + BLOCK):
        chaos = Chaos(seed)
        try:
            chaos.steps(STEPS)
            chaos.recover()
        except Exception as failure:
            failure.add_note(f"seed {seed}")
            raise
        reached += chaos.record.reached
    # What a block does not reach it does not test.
    for what in (
        "committed",
        "elected",
        "crashed",
        "rejected",
        "snapshot",
        "read",
        "forwarded",
        "transferred",
    ):
        assert reached[what] > 0, what
    assert reached["joint"] + reached["changed"] > 0


@pytest.mark.parametrize("piece", [1, 2])
def test_raft_holds_when_long_messages_are_decoded_in_pieces(
    piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "PIECE_PAYLOADS", piece)
    test_raft_holds(1_000 * piece)


def test_a_seed_gives_the_same_run() -> None:
    def life(seed: int) -> object:
        chaos = Chaos(seed)
        chaos.steps(STEPS)
        return chaos.record.entries, chaos.record.leaders, chaos.record.reached, chaos.cluster.wire

    assert life(7) == life(7)


# --- bugs put back, one at a time


def _commit_old_terms(raft: Raft) -> None:
    index = quorum.reached(raft.conf, raft.match_at)
    if raft.log.commit_to(index):
        raft.send_due = True
        commit._settle(raft)


def _vote_before_sync(raft: Raft, message: VoteRequest) -> None:
    granted = election._can_vote_for(raft, message.sender) and election._is_up_to_date(raft, message)
    if granted:
        raft.vote = message.sender
    raft.messages.append(VoteAnswer(raft.id, message.sender, raft.term, granted))


def _answer_before_sync(raft: Raft) -> None:
    if raft.accepted is not None:
        raft.messages.append(AppendAccepted(raft.id, raft.leader, raft.term, raft.accepted))
        raft.accepted = None


def _read_without_round(raft: Raft) -> None:
    rounds = raft.reads.rounds
    while rounds:
        done = rounds.popleft()
        raft.reads.count -= len(done.reads)
        raft.reads_done.extend((token, done.index) for peer, token in done.reads if not peer)


def _read_before_own_commit(raft: Raft) -> bool:
    return bool(raft.reads.waiting) and raft.role is Role.LEADER


def _always_cut(log: Log, entries: Sequence[Entry]) -> Index | None:
    if not entries:
        return None
    if entries[0].index <= log.last:
        log._truncate(entries[0].index)
    log.append(entries)
    return entries[0].index


def _incoming_majority_only(conf: ConfState, value_of: Callable[[int], int]) -> int:
    return quorum._reached_by(conf.voters, value_of)


BUGS: dict[str, tuple[object, str, Callable[..., object]]] = {
    "an entry of an old term is committed by counting": (commit, "advance", _commit_old_terms),
    "an answer to an append leaves before the sync": (replication, "answer_appends", _answer_before_sync),
    "an incomplete log may lead": (election, "_is_up_to_date", lambda _raft, _message: True),
    "two votes in a term": (election, "_can_vote_for", lambda _raft, _sender: True),
    "half is a majority": (quorum, "majority", lambda size: max(1, size // 2)),
    "a read is served without a round": (readindex, "_complete_rounds", _read_without_round),
    "a read is served before a commit of the own term": (
        readindex,
        "can_start_round",
        _read_before_own_commit,
    ),
    "a late append cuts what is there": (Log, "merge", _always_cut),
    "the outgoing majority is not asked": (quorum, "reached", _incoming_majority_only),
    "a member being removed does not campaign": (
        confchange,
        "may_be_needed",
        lambda raft: raft.conf.votes(raft.id),
    ),
}


def _found_within(seeds: int) -> bool:
    for seed in range(seeds):
        chaos = Chaos(seed)
        try:
            chaos.steps(STEPS)
            chaos.recover()
        except (AssertionError, InvariantBroken, MessageRefused):  # members that work refuse nobody
            return True
    return False


@pytest.mark.parametrize("bug", BUGS)
def test_a_known_bug_is_found(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, name, wrong = BUGS[bug]
    monkeypatch.setattr(owner, name, wrong)
    assert _found_within(SEEDS_TO_FIND), bug


def test_a_vote_before_the_sync_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    for handlers in core.HANDLERS.values():
        monkeypatch.setitem(handlers, VoteRequest, _vote_before_sync)
    assert _found_within(SEEDS_TO_FIND)
