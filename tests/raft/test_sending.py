"""Who is told of a commit and when, and what is answered: messages for each write."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from netstore.raft.entry import EntryKind
from netstore.raft.messages import (
    Append,
    AppendAccepted,
    Forward,
    Heartbeat,
    HeartbeatAnswer,
    ReadRequest,
)
from netstore.raft.progress import ProgressState
from netstore.types import Index, Term
from tests.support.raft_cluster import entry, group, said
from tests.support.raft_members import HERE, ONE, THREE, TWO, following, leading

if TYPE_CHECKING:
    from netstore.raft.core import Raft
    from netstore.raft.messages import Message
    from tests.support.raft_cluster import Cluster


def written(cluster: Cluster, count: int) -> int:
    """How many messages as many writes cost, one after another."""
    leader = cluster.leader().raft
    sent = 0

    def count_one(_: object) -> bool:
        nonlocal sent
        sent += 1
        return True

    for number in range(count):
        leader.propose([b"%d" % number])
        cluster.settle(count_one)
    return sent


def trio(*, waits: bool) -> Cluster:
    cluster = group(3)
    for host in cluster.hosts.values():
        host.raft.waits = waits
    cluster.settle()
    written(cluster, 1)
    return cluster


@pytest.mark.parametrize(("waits", "each"), [(False, 4), (True, 6)])
def test_a_write_costs_an_append_and_an_answer_for_each_follower(waits: bool, each: int) -> None:
    """Two members wait for the commit itself: they get one message more, which they do not answer."""
    cluster = trio(waits=waits)
    assert written(cluster, 10) == 10 * each
    states = [host.state for host in cluster.hosts.values()]
    assert len(states[0]) == 12
    assert [len(state) for state in states[1:]] == ([12, 12] if waits else [11, 11])


def test_what_nobody_waits_for_is_told_when_nothing_follows_soon() -> None:
    cluster = trio(waits=False)
    leader = cluster.leader().raft
    assert leader.has_untold_commits()
    leader.tell_commits()
    cluster.settle()
    assert not leader.has_untold_commits()
    assert {len(host.state) for host in cluster.hosts.values()} == {2}


def test_a_heartbeat_tells_of_a_commit() -> None:
    cluster = trio(waits=False)
    leader = cluster.leader().raft
    leader.tick()
    assert not leader.has_untold_commits()
    cluster.settle()
    assert {len(host.state) for host in cluster.hosts.values()} == {2}


def quiet_leader(**options: int) -> Raft:
    """A leader of three whose followers have its two entries, and wait for nothing. The second is not
    committed in their view.
    """
    raft = leading(**options)
    for peer in (TWO, THREE):
        raft.step(AppendAccepted(peer, ONE, Term(1), Index(1), waits=False))
    said(raft)
    raft.propose([b""])
    said(raft)
    raft.persisted(Index(2), Term(1))
    for peer in (TWO, THREE):
        raft.step(AppendAccepted(peer, ONE, Term(1), Index(2), waits=False))
    assert raft.commit == 2
    return raft


def appended(raft: Raft) -> list[Append]:
    return [message for message in said(raft) if type(message) is Append]


@pytest.mark.parametrize(
    "message",
    [
        AppendAccepted(THREE, ONE, Term(1), Index(2)),
        Forward(THREE, ONE, Term(1), EntryKind.NORMAL, [b"x"]),
        ReadRequest(THREE, ONE, Term(1), 7),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_follower_where_somebody_waits_is_told_at_once(message: Message) -> None:
    raft = quiet_leader()
    assert appended(raft) == []
    raft.step(message)
    told = [each for each in said(raft) if isinstance(each, Append | Heartbeat)]  # the round of a read tells
    assert [each.commit for each in told if each.to == THREE] == [2]
    assert [each for each in told if type(each) is Append and each.to == TWO and not each.entries] == []
    if type(message) is Forward:
        raft.persisted(Index(3), Term(1))
        raft.step(AppendAccepted(TWO, ONE, Term(1), Index(3), waits=False))
        assert [(each.to, each.commit) for each in appended(raft)] == [(THREE, 3)], "before it acknowledges"


def test_an_older_member_which_says_nothing_of_it_is_told_at_once() -> None:
    raft = leading()
    for peer in (TWO, THREE):
        raft.step(AppendAccepted(peer, ONE, Term(1), Index(1)))
    raft.persisted(Index(1), Term(1))
    assert [(each.to, each.commit) for each in appended(raft)] == [(TWO, 1), (THREE, 1)]


def test_an_append_that_only_moves_the_commit_index_is_not_answered() -> None:
    raft = following()
    raft.step(Append(*HERE, Term(1), Index(1), Term(1), Index(0), [entry(2, 1)]))
    assert said(raft) == [AppendAccepted(ONE, TWO, Term(1), Index(2))]
    raft.step(Append(*HERE, Term(1), Index(2), Term(1), Index(2), ()))
    assert (said(raft), raft.commit) == ([], 2)
    raft.step(Append(*HERE, Term(1), Index(2), Term(1), Index(2), ()))
    assert said(raft) == [AppendAccepted(ONE, TWO, Term(1), Index(2))], "it may be the probe of an older one"
    raft.step(Append(*HERE, Term(1), Index(2), Term(1), Index(0), ()))
    assert said(raft) == [AppendAccepted(ONE, TWO, Term(1), Index(2))]


def test_entries_are_acknowledged_though_a_commit_follows_in_the_same_turn() -> None:
    raft = following()
    raft.step(Append(*HERE, Term(1), Index(1), Term(1), Index(0), [entry(2, 1)]))
    raft.step(Append(*HERE, Term(1), Index(2), Term(1), Index(2), ()))
    assert said(raft) == [AppendAccepted(ONE, TWO, Term(1), Index(2))]


def test_entries_that_bring_a_commit_are_acknowledged() -> None:
    raft = following()
    raft.step(Append(*HERE, Term(1), Index(1), Term(1), Index(1), [entry(2, 1)]))
    assert (said(raft), raft.commit) == ([AppendAccepted(ONE, TWO, Term(1), Index(2))], 1)


def test_an_acknowledgement_says_whether_somebody_waits() -> None:
    raft = following()
    for waits in (False, True):
        raft.waits = waits
        raft.step(Append(*HERE, Term(1), Index(1), Term(1), Index(0), [entry(2, 1)]))
        assert said(raft) == [AppendAccepted(ONE, TWO, Term(1), Index(2), waits)]


def test_a_probe_of_a_follower_that_stopped_answering_has_no_commit_index() -> None:
    """It would move the commit index there again and again, and never be answered."""
    raft = quiet_leader(max_inflight_messages=1)
    raft.propose([b""])
    said(raft)
    raft.persisted(Index(3), Term(1))
    raft.step(AppendAccepted(TWO, ONE, Term(1), Index(3), waits=False))
    said(raft)
    raft.step(HeartbeatAnswer(THREE, ONE, Term(1), 0))
    assert [(each.to, each.previous_index, each.commit) for each in appended(raft)] == [(THREE, 3, 0)]


def test_a_full_window_is_not_told_and_not_asked_about() -> None:
    raft = quiet_leader(max_inflight_messages=1)
    raft.propose([b""])
    said(raft)
    raft.persisted(Index(3), Term(1))
    raft.step(AppendAccepted(TWO, ONE, Term(1), Index(3), waits=False))
    raft.tell_commits()
    assert [each.to for each in appended(raft)] == [TWO]
    assert not raft.has_untold_commits(), "it would be asked without end"


def test_a_follower_whose_messages_were_lost_is_told_again() -> None:
    raft = quiet_leader()
    raft.tell_commits()
    assert len(appended(raft)) == 2
    raft.report_unreachable(THREE)
    assert [(each.to, each.commit) for each in appended(raft)] == [(THREE, 0)]
    raft.step(AppendAccepted(THREE, ONE, Term(1), Index(2), waits=False))
    assert raft.progress[THREE].state is ProgressState.REPLICATE
    assert raft.has_untold_commits()


def test_a_heartbeat_of_the_leader_tells_no_more_than_what_matches() -> None:
    raft = quiet_leader()
    raft.propose([b""])
    said(raft)
    raft.persisted(Index(3), Term(1))
    raft.step(AppendAccepted(TWO, ONE, Term(1), Index(3), waits=False))
    said(raft)
    raft.tick()
    assert [(each.to, each.commit) for each in said(raft) if type(each) is Heartbeat] == [
        (TWO, 3),
        (THREE, 2),
    ]
    assert raft.has_untold_commits(), "member 3 has the entry, perhaps, and was not told"
