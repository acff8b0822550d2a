"""Who must stop when states differ, and that a member stops before it says anything else."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.node.consistency import (
    CONTRADICTED_SECONDS,
    LEFT_OVER_FIX,
    MOST_KEPT,
    RETRY_SECONDS,
    Consistency,
    DigestComparison,
    StateDiverged,
)
from netstore.node.member import OWN, all_problems
from netstore.raft.entry import Entry, EntryKind
from netstore.raft.messages import Append, LogContradicted
from netstore.state.commands import PublishMember, encode
from netstore.state.digest import digest as digest_of
from netstore.types import Index, Nanos, NodeId, Term
from tests.support.group import Group
from tests.support.local_member import HandClock
from tests.support.log import KeptLog

if TYPE_CHECKING:
    from collections.abc import Mapping

    from netstore.node.host import Host

A, B, C, L = map(NodeId, (1, 2, 3, 4))
VOTERS = (A, B, C)
AT = Index(9)


def verdicts(told: Mapping[NodeId, bytes], voters: tuple[NodeId, ...] = VOTERS) -> set[NodeId]:
    """Who stops once everybody has heard this."""
    stops = set()
    for own in told:
        judge = DigestComparison(own)
        for member, digest in told.items():
            judge.add(member, AT, digest)
        if judge.reason_to_stop(AT, voters):
            stops.add(own)
    return stops


def test_equal_states_let_everybody_go_on() -> None:
    assert verdicts({A: b"x", B: b"x", C: b"x", L: b"x"}) == set()


def test_the_odd_voter_stops_and_nobody_else() -> None:
    assert verdicts({A: b"x", B: b"y", C: b"x"}) == {B}


def test_an_odd_learner_stops_and_never_makes_a_voter_odd() -> None:
    assert verdicts({A: b"x", B: b"x", C: b"x", L: b"y"}) == {L}
    assert verdicts({A: b"x", L: b"y"}) == set(), "one voter of three is no judge"


def test_nobody_is_odd_before_more_than_half_have_told() -> None:
    assert verdicts({A: b"x", B: b"y"}) == set()


def test_where_nobody_is_right_all_stop() -> None:
    assert verdicts({A: b"x", B: b"y"}, (A, B)) == {A, B}
    assert verdicts({A: b"x", B: b"y", C: b"z", L: b"x"}) == {A, B, C, L}


def test_other_indexes_say_nothing() -> None:
    judge = DigestComparison(A)
    judge.add(A, AT, b"x")
    judge.add(B, Index(8), b"y")
    judge.add(C, Index(8), b"y")
    assert judge.reason_to_stop(AT, VOTERS) == ""
    assert judge.reason_to_stop(Index(8), VOTERS) == "", "this member has not told what it had there"


def test_only_the_newest_are_remembered() -> None:
    judge = DigestComparison(A)
    for index in range(MOST_KEPT + 2):
        judge.add(A, Index(index), b"x")
        judge.add(B, Index(index), b"y")
    assert judge.reason_to_stop(Index(1), (A, B)) == ""
    assert judge.reason_to_stop(Index(2), (A, B)) != ""


@pytest.mark.parametrize("replaced", [False, True])
def test_digests_of_a_state_are_not_compared_with_the_snapshot_that_replaced_it(replaced: bool) -> None:
    host = Group(3)[2].host
    consistency = Consistency(host, lambda *_: None, KeptLog())
    consistency.reached()
    index = host.machine.applied
    consistency.take(NodeId(1), index, b"another")
    if replaced:
        host.snapshot_install.installed += 1
    consistency.take(NodeId(3), index, b"another")
    assert isinstance(host._failure, StateDiverged) is not replaced


def differing(seconds: float = RETRY_SECONDS) -> tuple[Consistency, Host, KeptLog]:
    """The second of three members, so long after the first has reported another state; the third is
    silent.
    """
    host, log = Group(3)[2].host, KeptLog()
    consistency = Consistency(host, lambda *_: None, log)
    for _ in range(3):
        consistency.reached()
        consistency.take(A, host.machine.applied, b"another")
    pass_time(host, seconds)
    consistency.look()
    return consistency, host, log


def pass_time(host: Host, seconds: float) -> None:
    """The member's clock goes on."""
    assert isinstance(host.clock, HandClock)
    host.clock.now = Nanos(host.clock.now + round(seconds * 1e9))


def events(log: KeptLog) -> list[str]:
    return [event for event in log.events if event.startswith("states_differ")]


def test_a_difference_that_nobody_settles_is_told_and_logged_once() -> None:
    _, host, log = differing()
    assert "members 1, 2 differ" in host.differing
    assert "start the voters that do not run" in host.differing
    assert events(log) == ["states_differ"]
    assert host._failure is None


def test_a_difference_that_the_third_report_settles_at_once_is_not_told() -> None:
    consistency, host, log = differing(RETRY_SECONDS / 2)
    assert (host.differing, events(log)) == ("", [])
    consistency.take(C, host.machine.applied, digest_of(host.machine))
    pass_time(host, RETRY_SECONDS)
    consistency.look()
    assert (host.differing, events(log)) == ("", []), "it was settled"


def test_a_difference_ends_when_a_majority_agrees() -> None:
    consistency, host, log = differing()
    consistency.take(C, host.machine.applied, digest_of(host.machine))
    assert host.differing == ""
    assert events(log) == ["states_differ", "states_differ_no_more"]
    assert host._failure is None, "the other one is wrong"


def test_reports_of_an_entry_that_is_not_in_the_log_are_no_difference() -> None:
    """They would be the last ones for good."""
    host, log = Group(3)[2].host, KeptLog()
    consistency = Consistency(host, lambda *_: None, log)
    consistency.take(A, Index(2**60), b"one")
    consistency.take(C, Index(2**60), b"other")
    assert (host.differing, events(log)) == ("", [])


def test_one_that_has_a_command_where_others_compare_their_states_stops() -> None:
    group = Group(3)
    host = group[2].host
    host.propose(encode(PublishMember(B, "m2", ("http://c2:1",), (), 1)), lambda _: None, OWN)
    group.settle()
    consistency = Consistency(host, lambda *_: None, KeptLog())
    index = host.machine.applied
    consistency.take(A, index, b"theirs")
    assert host._failure is None, "one of them is no majority"
    consistency.take(C, index, b"theirs")
    assert isinstance(host._failure, StateDiverged)


def test_one_that_has_compared_earlier_is_not_taken_for_another() -> None:
    """As after a restart."""
    host = Group(3)[2].host
    bare = next(at for at in range(1, host.machine.applied) if not host.applier.has_command_at(Index(at)))
    consistency = Consistency(host, lambda *_: None, KeptLog())
    for member in (A, C):
        consistency.take(member, Index(bare), b"theirs")
        consistency.take(member, Index(host.machine.applied + 1), b"theirs")
    assert (host._failure, host.differing) == (None, "")


def test_a_leader_with_another_log_is_told_until_it_leads_no_more() -> None:
    """One that is left of an earlier cluster, with a clock that was ahead."""
    group = Group(3)
    host, log = group[2].host, KeptLog()
    consistency = Consistency(host, lambda *_: None, log)
    for _ in range(2):
        commit, term = host.commit_index, Term(host.status().term + 100)
        other = Entry(commit, term, EntryKind.NORMAL, b"")
        with pytest.raises(LogContradicted):
            host.receive([Append(C, B, term, Index(commit - 1), Term(1), commit, (other,))])
        pass_time(host, CONTRADICTED_SECONDS / 2)
        consistency.look()
    assert "leader 3 has entry" in host.differing
    assert all_problems(host)[host.differing] == LEFT_OVER_FIX
    assert log.events == ["leader_has_another_log"]
    pass_time(host, CONTRADICTED_SECONDS)
    consistency.look()
    assert host.differing == ""
    assert log.events == ["leader_has_another_log", "leader_is_not_refused_any_more"]


def test_a_difference_ends_when_the_state_is_replaced() -> None:
    consistency, host, log = differing()
    host.snapshot_install.installed += 1
    consistency.reached()
    assert host.differing == ""
    assert events(log) == ["states_differ", "states_differ_no_more"]


def test_a_difference_ends_when_who_differs_is_removed() -> None:
    consistency, host, log = differing()
    consistency.look()
    assert host.differing
    del host.machine.roster.by_id[A]
    consistency.look()
    assert host.differing == ""
    assert events(log) == ["states_differ", "states_differ_no_more"]


@given(st.dictionaries(st.sampled_from((A, B, C, L)), st.sampled_from((b"x", b"y", b"z"))))
def test_whoever_agrees_with_more_than_half_of_the_voters_goes_on(told: dict[NodeId, bytes]) -> None:
    stops = verdicts(told)
    counts = Counter(digest for member, digest in told.items() if member in VOTERS)
    for member, digest in told.items():
        if counts[digest] * 2 > len(VOTERS):
            assert member not in stops
        elif max(counts.values(), default=0) * 2 > len(VOTERS):
            assert member in stops
