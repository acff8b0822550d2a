"""What is written to the log and when it is reported durable: single entries, full disks, broken disks."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from netstore.errors import Fault, Reason
from netstore.limits import Budget
from netstore.node.logsize import BYTES_PER_TURN
from netstore.node.logwriter import QUICK_SYNCS, DiskFailed
from netstore.node.member import OWN
from netstore.raft.core import Raft
from netstore.raft.entry import ConfState
from netstore.raft.messages import AppendAccepted
from netstore.seams import SyncFailed
from netstore.state.commands import encode
from netstore.state.v2.commands import QuorumGet, Set
from netstore.types import Event, Index, NodeId
from tests.support.group import Group
from tests.support.member import ME, Solo
from tests.support.solo import FULL, Outcomes, put, refusal, refusal_of_next, value

if TYPE_CHECKING:
    from netstore.raft.ready import Ready


def test_nothing_is_acknowledged_before_it_is_synced() -> None:
    member = Solo().lead()
    outcomes = put(member)
    member.turn()
    assert member.device.waiting
    assert outcomes == []
    member.settle()
    assert isinstance(outcomes[0], Event)


def lone(member: Solo) -> Solo:
    """The batch before was a single entry in a turn that nobody waited for; the disk is fast from now on."""
    put(member)
    member.host.turn(is_idle=True)
    member.settle()
    member.device.fast = True
    return member


def test_a_lone_write_is_synced_applied_and_answered_in_one_turn() -> None:
    member = lone(Solo().lead())
    outcomes = put(member, b"lone")
    member.woken = False
    member.host.turn(is_idle=True)
    assert isinstance(outcomes[0], Event)
    assert value(member.crashed().lead()) == b"lone"
    assert not member.woken, "nothing is left to do"


def test_the_time_of_the_sync_counts_for_a_request_that_is_answered_after_it() -> None:
    member = lone(Solo().lead())
    calls: list[bool] = []
    outcomes = put(member, b"lone")
    member.host.read_clock = lambda: calls.append(bool(outcomes))
    member.host.turn(is_idle=True)
    assert calls == [False], "once, before the answer"
    assert outcomes


@pytest.mark.parametrize("why", ["not alone", "two", "after two", "under way", "slow"])
def test_others_are_not_kept_waiting_for_a_sync(why: str) -> None:
    member = lone(Solo().lead())
    if why == "after two":
        member.device.fast = False
        put(member)
        put(member)
        member.host.turn(is_idle=True)
        member.settle()
        member.device.fast = True
    if why == "under way":
        put(member)
        member.turn()
    if why == "two":
        put(member)
    if why == "slow":
        member.device.fast = False
    outcomes = put(member)
    member.host.turn(is_idle=why != "not alone")
    assert outcomes == []
    assert member.device.waiting
    member.settle()
    assert isinstance(outcomes[0], Event)


def test_after_a_group_one_lone_write_goes_by_the_writer() -> None:
    """Two clients that write without pause never are alone for two writes in a row."""
    member = lone(Solo().lead())
    put(member)
    member.turn()
    member.settle()
    first = put(member)
    member.host.turn(is_idle=True)
    assert first == []
    member.settle()
    second = put(member)
    member.host.turn(is_idle=True)
    assert isinstance(second[0], Event)


def test_a_lone_write_of_the_only_voter_takes_one_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the sync has set free is taken without another one."""
    member = lone(Solo().lead())
    member.settle()
    taken: list[Ready] = []
    take_ready = Raft.take_ready

    def note(raft: Raft) -> Ready:
        taken.append(take_ready(raft))
        return taken[-1]

    monkeypatch.setattr(Raft, "take_ready", note)
    for _ in range(3):
        outcomes = put(member)
        while member.woken:
            member.woken = False
            member.host.turn(is_idle=True)
        assert isinstance(outcomes[0], Event)
    assert [len(ready.entries) for ready in taken] == [1, 1, 1]


def test_a_lone_write_that_fails_ends_the_member_before_anybody_is_told() -> None:
    member = lone(Solo().lead())
    outcomes = put(member)
    member.device.failure = SyncFailed(errno.EIO, "sync failed")
    with pytest.raises(DiskFailed):
        member.host.turn(is_idle=True)
    assert outcomes == []


def test_a_lone_write_that_finds_no_room_waits_for_some() -> None:
    member = lone(Solo().lead())
    outcomes = put(member, b"stuck")
    member.device.failure = FULL
    member.host.turn(is_idle=True)
    assert refusal(outcomes) == Reason.NO_SPACE.text
    member.device.failure = None
    member.host.retry_writes()
    member.settle()
    assert value(member) == b"stuck", "it was told that its outcome is not known"


@pytest.mark.parametrize("quick", [0, QUICK_SYNCS - 1, QUICK_SYNCS])
def test_members_that_others_vote_beside_sync_in_the_turn_while_the_disk_has_been_fast_for_long(
    quick: int,
) -> None:
    """A disk that stalls is to stop the loop of no leader, and of nobody who may become it. What a leader
    sends is sent before it syncs, and nobody is told before the sync.
    """
    group = Group(3)
    leader, follower = group.leader, group[3]
    before_sync: list[int] = []
    for each in (leader, follower):
        each.device.fast = True
        each.device.on_release = lambda: before_sync.append(len(group.sent))
    for number in range(3):
        if number == 1:
            leader.device.quick_syncs = follower.device.quick_syncs = quick
            before_sync.clear()
        is_fast = number > 0 and quick == QUICK_SYNCS
        outcomes: Outcomes = []
        leader.host.propose(encode(Set(path=b"/k")), outcomes.append, OWN)
        leader.host.turn(is_idle=True)
        assert bool(leader.device.waiting) == (not is_fast)
        brought = [each for each in group.sent if each.to == follower.id]
        group.sent[:] = [each for each in group.sent if each.to != follower.id]
        assert outcomes == []
        assert len(brought) == 1
        follower.host.receive(brought)
        sent = len(group.sent)
        follower.host.turn(is_idle=True)
        assert bool(follower.device.waiting) == (not is_fast)
        answers = [each for each in group.sent[sent:] if type(each) is AppendAccepted]
        assert len(answers) == is_fast
        group.settle()
        assert isinstance(outcomes[0], Event)
    assert before_sync == ([2, 1] * 2 if quick == QUICK_SYNCS else [])


def test_a_lone_sync_that_fails_ends_a_follower_before_it_acknowledges() -> None:
    group = Group(3)
    follower = group[3]
    follower.device.fast, follower.device.quick_syncs = True, QUICK_SYNCS
    for number in range(2):
        group.leader.host.propose(encode(Set(path=b"/k")), lambda _: None, OWN)
        group.leader.host.turn()
        brought = [each for each in group.sent if each.to == follower.id]
        group.sent.clear()
        follower.host.receive(brought)
        if number:
            follower.device.failure = SyncFailed(errno.EIO, "sync failed")
            with pytest.raises(DiskFailed):
                follower.host.turn(is_idle=True)
            assert group.sent == []
        else:
            follower.host.turn(is_idle=True)
            group.settle()


def test_while_members_that_leave_still_vote_nothing_is_given_up_and_nobody_votes_alone() -> None:
    """In a joint configuration a majority of the old voters is needed too."""
    member = Solo().lead()
    member.settle()
    found = [member.host.is_only_voter]
    outcomes = put(member)
    member.turn()
    member.host._raft.conf = ConfState(voters=(ME,), voters_outgoing=(ME, NodeId(9)))
    found.append(member.host.is_only_voter)
    assert found == [True, False]
    member.device.fail(FULL)
    assert member.host.problems() == {"log cannot be written: no space left on device": "free disk space"}
    assert outcomes == [], "the entry may be committed by the others"


def test_records_that_arrive_during_a_sync_are_the_next_batch() -> None:
    member = Solo().lead()
    put(member)
    member.turn()
    for _ in range(10):
        put(member)
    member.turn()
    assert len(member.device.waiting) == 2


def test_a_full_disk_refuses_writes_and_heals() -> None:
    member = Solo().lead()
    put(member, b"kept")
    member.settle()
    stuck = put(member, b"stuck")
    member.turn()
    member.device.fail(FULL)
    assert refusal_of_next(member) == Reason.NO_SPACE.text
    assert value(member) == b"kept"
    member.host.retry_writes()
    member.device.fail(FULL)
    assert refusal(stuck) == Reason.NO_SPACE.text, "at once, and not when its time is over"
    assert isinstance(stuck[0], Fault)
    assert not stuck[0].outcome_known
    member.host.retry_writes()
    member.settle()
    assert len(stuck) == 1
    assert value(member) == b"stuck"
    assert member.lines.events.count("log_not_writable") == 2
    after = put(member, b"after")
    member.settle()
    assert isinstance(after[0], Event)
    assert value(member.crashed().lead()) == b"after"


def puts_without_memory(member: Solo, monkeypatch: pytest.MonkeyPatch) -> tuple[Outcomes, Outcomes]:
    """A write that is under way, and one for whose record of the log there is no memory."""

    def short(*_arguments: object) -> None:
        raise MemoryError

    first = put(member, b"first")
    member.turn()
    monkeypatch.setattr("netstore.disk.wal.encode_record", short)
    second = put(member, b"second")
    member.turn()
    assert refusal_of_next(member) == Reason.TOO_MANY.text
    return first, second


def test_no_memory_for_a_record_of_the_log_keeps_it_and_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    member = Solo().lead()
    put(member, b"kept")
    member.settle()
    first, second = puts_without_memory(member, monkeypatch)
    member.host.retry_writes()
    assert len(member.device.waiting) == 1, "the first is still under way"
    member.settle()
    member.host.retry_writes()
    assert isinstance(first[0], Event)
    assert second == []
    monkeypatch.undo()
    member.host.retry_writes()
    member.settle()
    assert isinstance(second[0], Event)
    assert value(member.crashed().lead()) == b"second"


def test_want_of_room_is_told_also_where_memory_was_wanted_before(monkeypatch: pytest.MonkeyPatch) -> None:
    member = Solo().lead()
    first, second = puts_without_memory(member, monkeypatch)
    member.device.fail(FULL)
    assert [refusal(first), refusal(second)] == [Reason.NO_SPACE.text, Reason.NO_SPACE.text], (
        "at once, as where only that is wanted"
    )
    assert refusal_of_next(member) == Reason.NO_SPACE.text
    assert member.host.problems() == {"log cannot be written: no space left on device": "free disk space"}
    monkeypatch.undo()
    member.host.retry_writes()
    member.settle()
    assert value(member) == b"second", "nobody was told that it did not happen"


@pytest.mark.parametrize("code", [errno.ENOMEM, errno.EMFILE])
def test_a_passing_shortage_is_waited_for(code: int) -> None:
    member = Solo().lead()
    outcomes = put(member)
    member.turn()
    member.device.fail(OSError(code, os.strerror(code)))
    assert refusal_of_next(member) == Reason.TOO_MANY.text
    member.host.retry_writes()
    member.settle()
    assert isinstance(outcomes[0], Event)
    member.host.engine_failed(OSError(code, os.strerror(code)))
    member.turn()


@pytest.mark.parametrize("error", [SyncFailed(errno.EIO, "I/O error"), OSError(errno.EIO, "I/O error")])
def test_a_broken_disk_ends_the_member_before_it_answers(error: OSError) -> None:
    member = Solo().lead()
    outcomes = put(member)
    member.turn()
    member.device.fail(error)
    with pytest.raises(DiskFailed, match="nothing unsaved was acknowledged"):
        member.turn()
    member.host.stop()
    assert refusal(outcomes) == Reason.STOPPED.text


def forgetting() -> Solo:
    """A member whose log is marked, which the disk has not kept yet."""
    member = Solo(snapshot_count=10, log_budget=Budget(20_000)).lead()
    for _ in range(50):
        member.host.propose(encode(QuorumGet(path=b"/" + b"x" * 1000)), lambda _: None, OWN)
    member.settle()
    member.engine.commit()
    assert member.host.compaction.compact()
    assert len(member.device.waiting) == 1
    return member


def test_records_behind_a_mark_without_room_wait_for_it() -> None:
    """The disk reports one failure after the other: what comes between two of them must not be kept while
    what was given before it is not.
    """
    member = forgetting()
    lost = put(member, b"lost")
    member.turn()
    persisted = member.host._raft.log.persisted
    member.device.fail(FULL, writes=1)
    between = put(member, b"between")
    member.host.campaign()
    member.turn()
    assert refusal(between) == Reason.NO_SPACE.text
    assert len(member.device.waiting) == 1, "nothing is given until all that failed is reported"
    member.device.fail(FULL)
    member.turn()
    assert member.host._raft.log.persisted == persisted
    member.host.retry_writes()
    after = put(member, b"after")
    member.settle()
    assert isinstance(after[0], Event)
    assert len(lost) == 1
    assert member.host._raft.log.persisted == persisted + 2
    again = member.crashed()
    assert again.host.compaction.compacted == member.host.compaction.compacted
    assert value(again.lead()) == b"after"


@pytest.mark.parametrize("lack", ["room", "memory"])
def test_a_mark_that_could_not_be_written_is_written_when_it_can(
    lack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    member = Solo(snapshot_count=10, log_budget=Budget(20_000)).lead()
    for _ in range(50):
        member.host.propose(encode(QuorumGet(path=b"/" + b"x" * 1000)), lambda _: None, OWN)
    member.settle()
    member.engine.commit()
    dropped: list[Index] = []
    monkeypatch.setattr(member.host._writer._wal, "drop_before", dropped.append)
    if lack == "memory":

        def short(*_arguments: object) -> None:
            raise MemoryError

        with monkeypatch.context() as patch:
            patch.setattr("netstore.disk.wal.encode_record", short)
            assert member.host.compaction.compact()
    else:
        assert member.host.compaction.compact()
        member.device.fail(FULL)
    assert not member.device.waiting
    assert member.lines.events[-2:].count("log_not_writable") == 1
    assert member.crashed().host.compaction.compacted == 0
    member.host.retry_writes()
    member.settle()
    assert dropped == [member.host.compaction.compacted + 1]
    assert member.crashed().host.compaction.compacted == member.host.compaction.compacted > 0


@pytest.mark.parametrize("error", [OSError(errno.EIO, "I/O error"), SyncFailed(errno.EIO, "gone")])
def test_a_mark_that_a_broken_disk_did_not_take_ends_the_member(error: OSError) -> None:
    member = forgetting()
    member.device.fail(error)
    with pytest.raises(DiskFailed):
        member.host.turn()


def test_records_the_log_had_no_room_for_are_written_some_in_each_turn() -> None:
    member = Solo().lead()
    put(member)
    member.turn()
    member.host.retry_writes()
    stuck = [put(member, bytes(BYTES_PER_TURN // 2)) for _ in range(5)]
    for _ in range(5):
        member.turn()
    member.device.fail(FULL)
    member.host.retry_writes()
    seen = [len(member.device.waiting)]
    last = put(member, b"last")
    while member.woken:
        member.turn()
        seen.append(len(member.device.waiting))
    assert seen[0] < seen[1] < seen[-1]
    member.settle()
    assert all(isinstance(outcomes[0], Fault) for outcomes in stuck), "they were given up when it was full"
    assert isinstance(last[0], Event)
    assert value(member) == b"last"
    assert value(member.crashed().lead()) == b"last"
