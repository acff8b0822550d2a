"""Lists of leases, and of the keys of a lease: made in steps, of one moment, shared, charged as they grow."""

from __future__ import annotations

import gc
from collections import deque
from typing import TYPE_CHECKING, Any

import pytest

from netstore import codes, parted
from netstore.api.v3.delivery import CHECK_SECONDS, PACE_SECONDS
from netstore.api.v3.lease import FEW_LEASES, KEYS_PER_UNIT
from netstore.api.v3.leaselists import ANSWERED_AT_ONCE, MOST_WAITING
from netstore.api.v3.sortedruns import STEP_BYTES
from netstore.api.v3.sortedruns import STEP_KEYS as FEW
from netstore.limits import Budget
from netstore.node import jobs
from netstore.parted import FIRST, FREE_STEP
from netstore.proto import rpc_pb2 as pb
from netstore.state.applying import UNIT_BYTES
from netstore.state.commands import encode
from netstore.state.envelope import seal
from netstore.state.machine import UNFINISHED
from netstore.state.v3 import mvcc
from netstore.state.v3.commands import DeleteRange, Found, LeaseGrant, LeaseRevoke, Put, Range, V3Command
from netstore.state.v3.lease import StoredLeases
from netstore.types import Index
from tests.support.v3member import CANCELLED, FakeCall, Served

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from google.protobuf.message import Message


@pytest.fixture
def served() -> Served:
    return Served()


class Steps:
    """What a member's jobs do, step by step, and how much of something each did."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.most = 0

    def run(self, counter: list[int]) -> Iterator[None]:
        jobs = self.served.member.jobs
        while jobs.ready:
            before = counter[0]
            jobs.run(1)
            self.most = max(self.most, counter[0] - before)
            yield


def begin(served: Served, path: str, request: Message) -> FakeCall:
    """A call that nothing is done for yet."""
    call = FakeCall("/etcdserverpb.Lease/" + path)
    served.services.unary[call.path](call, request.SerializeToString())
    return call


def apply(served: Served, *commands: V3Command) -> None:
    machine = served.member.machine
    for command in commands:
        machine.apply(Index(machine.applied + 1), encode(command))
    machine.save()


def counting(monkeypatch: pytest.MonkeyPatch, name: str, field: str) -> list[int]:
    """How many elements messages of a kind were made with, in all."""
    count, kind = [0], getattr(pb, name)

    def make(**fields: Any) -> Any:
        count[0] += len(fields.get(field, ()))
        return kind(**fields)

    monkeypatch.setattr(pb, name, make)
    return count


def test_many_leases_are_told_in_steps_as_of_one_moment(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply(served, *[LeaseGrant(number, 60) for number in range(1, 5 * FEW)])
    kind = pb.LeaseLeasesResponse
    count = counting(monkeypatch, "LeaseLeasesResponse", "leases")
    call, steps = begin(served, "LeaseLeases", pb.LeaseLeasesRequest()), Steps(served)
    for number, _ in enumerate(steps.run(count), 1):
        apply(served, LeaseRevoke(number), LeaseGrant(9_000 + number, 60))
    assert steps.most <= FEW
    (message,) = call.messages
    assert [each.ID for each in kind.FromString(message).leases] == list(range(1, 5 * FEW))


def test_many_keys_of_a_lease_are_told_in_steps_as_of_one_moment(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [b"%05d" % number for number in range(4_500)]
    apply(served, LeaseGrant(1, 60), *[Put(key, b"", 1) for key in keys])
    kind = pb.LeaseTimeToLiveResponse
    count = counting(monkeypatch, "LeaseTimeToLiveResponse", "keys")
    asked = pb.LeaseTimeToLiveRequest(ID=1, keys=True)
    call, steps = begin(served, "LeaseTimeToLive", asked), Steps(served)
    revision = served.member.machine.mvcc.revision
    later: list[FakeCall] = []
    for number, _ in enumerate(steps.run(count)):
        if number < 3:
            apply(served, DeleteRange(keys[number]), Put(b"new%d" % number, b"", 1))
            later.append(begin(served, "LeaseTimeToLive", asked))
    assert steps.most <= FEW
    answer = kind.FromString(call.messages[0])
    assert (answer.header.revision, answer.TTL, answer.grantedTTL) == (revision, 59, 60)
    assert list(answer.keys) == keys
    for each in later:
        answer = kind.FromString(each.messages[0])
        assert list(answer.keys) == [*keys[3:], b"new0", b"new1", b"new2"]
        assert answer.header.revision == revision + 6
    assert count[0] == 9_000, "those who came meanwhile share a list"


def test_keys_that_are_told_at_once_are_counted(served: Served) -> None:
    """So that a turn does not answer for too long (`Host._serve_reads`)."""
    apply(served, LeaseGrant(1, 60), *[Put(b"%05d" % number, b"", 1) for number in range(FEW)])
    store = served.member.machine.mvcc
    before = store.read_units
    for keys, units in ((False, 0), (True, FEW // KEYS_PER_UNIT + 5 * FEW // UNIT_BYTES)):
        begin(served, "LeaseTimeToLive", pb.LeaseTimeToLiveRequest(ID=1, keys=keys))
        assert store.read_units - before == units
    assert not served.member.jobs.ready


def test_a_lease_that_ends_while_its_keys_are_listed_takes_all_of_them_along(served: Served) -> None:
    apply(served, LeaseGrant(1, 60), *[Put(b"%05d" % number, b"", 1) for number in range(3_000)])
    call = begin(served, "LeaseTimeToLive", pb.LeaseTimeToLiveRequest(ID=1, keys=True))
    served.member.jobs.run(1)
    apply(served, DeleteRange(b"00000"), Put(b"new", b"", 1), LeaseRevoke(1))
    found = served.member.machine.mvcc.range(Range(b"\0", b"\0", count_only=True))
    assert isinstance(found, Found)
    assert found.count == 0
    served.member.settle()
    assert len(pb.LeaseTimeToLiveResponse.FromString(call.messages[0]).keys) == 3_000


@pytest.mark.parametrize("at_once", [1, 4])
@pytest.mark.parametrize("is_replaced", [False, True])
def test_keys_of_a_large_lease_are_told_though_it_is_freed_meanwhile(
    served: Served, is_replaced: bool, at_once: int
) -> None:
    """The lease ends, or the state is replaced by another; what is left to do is done between the steps."""
    keys = [b"%06d" % number for number in range(FIRST + 5_000)]
    apply(served, LeaseGrant(1, 60), *[Put(key, b"", 1) for key in keys])
    machine, ready = served.member.machine, served.member.jobs
    lease = machine.leases.get(1)
    assert lease is not None
    call = begin(served, "LeaseTimeToLive", pb.LeaseTimeToLiveRequest(ID=1, keys=True))
    ready.run(6)
    steps: Iterator[None] = iter(())
    if is_replaced:
        steps = machine.leases.restore(StoredLeases())
    else:
        apply(served, LeaseRevoke(1))
    while call.open:
        if machine.sweeping:
            machine.sweep()
        next(steps, None)
        ready.run(at_once)
    assert call.status == codes.OK
    assert list(pb.LeaseTimeToLiveResponse.FromString(b"".join(call.messages)).keys) == keys
    served.member.settle()
    before = len(lease.keys)
    while machine.leases.spent:
        assert len(lease.keys) >= before - FREE_STEP
        before = len(lease.keys)
        machine.leases.free_step()
    assert not lease.keys


def test_an_answer_in_steps_that_cannot_be_made_is_said_to_fail(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply(served, LeaseGrant(1, 60), *[Put(b"%05d" % number, b"", 1) for number in range(3_000)])
    asked = pb.LeaseTimeToLiveRequest(ID=1, keys=True)
    call = begin(served, "LeaseTimeToLive", asked)
    served.member.jobs.run(2)
    with monkeypatch.context() as patch:
        patch.setattr("netstore.api.v3.sortedruns.merge", None)
        served.member.settle()
    assert call.status == codes.INTERNAL
    again = served.call("/etcdserverpb.Lease/LeaseTimeToLive", asked)
    assert len(pb.LeaseTimeToLiveResponse.FromString(again.messages[0]).keys) == 3_000


def test_a_listing_that_fails_keeps_no_notes_of_what_comes_and_goes(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply(served, LeaseGrant(1, 60), *[Put(b"%05d" % number, b"", 1) for number in range(3_000)])
    lease = served.member.machine.leases.get(1)
    assert lease is not None
    call = begin(served, "LeaseTimeToLive", pb.LeaseTimeToLiveRequest(ID=1, keys=True))
    served.member.jobs.run(2)
    apply(served, DeleteRange(b"00000"), Put(b"new", b"", 1))
    assert len(lease.late or ()) == 2
    with monkeypatch.context() as patch:
        patch.setattr("netstore.api.v3.leaselists.sorted", None, raising=False)
        served.member.settle()
    assert call.status == codes.INTERNAL
    kept = {b"new", *[b"%05d" % number for number in range(1, 3_000)]}
    assert set(lease.all_keys()) == kept
    apply(served, Put(b"other", b"", 1), DeleteRange(b"other"))
    assert lease.late is None
    assert set(lease.keys) == kept


def test_those_who_wait_for_the_keys_of_a_lease_that_ends_are_told_some_at_a_time(served: Served) -> None:
    """And only so many of one principal may."""
    apply(served, LeaseGrant(1, 60), *[Put(b"%05d" % number, b"", 1) for number in range(3_000)])
    first = FakeCall("/etcdserverpb.Lease/LeaseTimeToLive")
    ask_keys(served, first)
    waiting = [FakeCall("/etcdserverpb.Lease/LeaseTimeToLive") for _ in range(MOST_WAITING)]
    for call in waiting:
        ask_keys(served, call)
    refused = waiting[MOST_WAITING // 2 :]
    assert {(call.status, call.text) for call in refused} == {
        (codes.RESOURCE_EXHAUSTED, "etcdserver: too many requests")
    }
    waiting = waiting[: MOST_WAITING // 2]
    assert all(call.open for call in waiting)
    other = FakeCall("/etcdserverpb.Lease/LeaseTimeToLive")
    other.principal = "bob"
    ask_keys(served, other)
    waiting.append(other)
    apply(served, LeaseRevoke(1))
    before = 0
    while any(call.open for call in waiting):
        served.member.jobs.run(1)
        told = sum(not call.open for call in waiting)
        assert told - before <= ANSWERED_AT_ONCE
        before = told
    assert {pb.LeaseTimeToLiveResponse.FromString(call.messages[0]).TTL for call in waiting} == {-1}
    served.member.settle()
    assert len(served.member.jobs) == 0


def left(call: FakeCall) -> tuple[int, int, list[bytes]]:
    """What was told of a lease: how long it has left, of how much, and its keys."""
    answer = pb.LeaseTimeToLiveResponse.FromString(call.messages[0])
    return answer.TTL, answer.grantedTTL, list(answer.keys)


KEYS = [b"%05d" % number for number in range(3_000)]


def test_who_waited_for_the_keys_of_a_lease_is_told_of_the_next_one_with_its_id(served: Served) -> None:
    """All of it: none has what one lease had left, and the keys of another."""
    apply(served, LeaseGrant(1, 3_600), *[Put(key, b"", 1) for key in KEYS])
    calls = [FakeCall("/etcdserverpb.Lease/LeaseTimeToLive") for _ in range(4)]
    ask_keys(served, calls[0])
    served.member.jobs.run(1)
    ask_keys(served, calls[1])
    apply(served, LeaseRevoke(1))
    ask_keys(served, calls[2])
    apply(served, LeaseGrant(1, 5), Put(b"new", b"", 1))
    ask_keys(served, calls[3])
    served.member.settle()
    assert left(calls[0]) == (3_599, 3_600, KEYS)
    assert left(calls[1]) == (4, 5, [b"new"])
    assert left(calls[2]) == (-1, 0, [])
    assert left(calls[3]) == (4, 5, [b"new"])
    assert served.member.machine.mvcc.read_budget.used == len(served.member.jobs) == 0


@pytest.mark.parametrize("follows", [False, True])
def test_a_lease_that_ends_before_its_keys_are_listed_is_not_told_of(served: Served, follows: bool) -> None:
    apply(served, LeaseGrant(1, 3_600), *[Put(key, b"", 1) for key in KEYS])
    calls = [FakeCall("/etcdserverpb.Lease/LeaseTimeToLive") for _ in range(2)]
    for call in calls:
        ask_keys(served, call)
    apply(served, LeaseRevoke(1))
    if follows:
        apply(served, LeaseGrant(1, 5), *[Put(key, b"", 1) for key in KEYS])
    served.member.settle()
    for call in calls:
        assert left(call) == ((4, 5, KEYS) if follows else (-1, 0, []))
        revision = pb.LeaseTimeToLiveResponse.FromString(call.messages[0]).header.revision
        assert revision == served.member.machine.mvcc.revision
    assert served.member.machine.mvcc.read_budget.used == len(served.member.jobs) == 0


def test_keys_of_a_lease_of_a_state_that_was_replaced_are_not_told(served: Served) -> None:
    apply(served, LeaseGrant(1, 3_600), *[Put(key, b"", 1) for key in KEYS])
    call = FakeCall("/etcdserverpb.Lease/LeaseTimeToLive")
    ask_keys(served, call)
    served.member.machine.leases.restore(StoredLeases())
    served.member.settle()
    assert left(call) == (-1, 0, [])
    assert served.member.machine.mvcc.read_budget.used == 0


def test_who_waited_for_an_ended_lease_is_told_of_one_that_follows_meanwhile(served: Served) -> None:
    apply(served, LeaseGrant(1, 3_600), *[Put(key, b"", 1) for key in KEYS])
    calls = [FakeCall("/etcdserverpb.Lease/LeaseTimeToLive") for _ in range(3 * ANSWERED_AT_ONCE)]
    ask_keys(served, FakeCall("/etcdserverpb.Lease/LeaseTimeToLive"))
    served.member.jobs.run(1)
    for call in calls:
        ask_keys(served, call)
    apply(served, LeaseRevoke(1))
    while all(call.open for call in calls):
        served.member.jobs.run(1)
    apply(served, LeaseGrant(1, 5), Put(b"new", b"", 1))
    readers = served.member.readers
    before = len(readers)
    while served.member.jobs.ready:
        asked = len(readers)
        served.member.jobs.run(1)
        assert len(readers) - asked <= ANSWERED_AT_ONCE
    assert len(readers) - before == 2 * ANSWERED_AT_ONCE
    served.member.settle()
    told = [left(call) for call in calls]
    assert told == [(-1, 0, [])] * ANSWERED_AT_ONCE + [(4, 5, [b"new"])] * 2 * ANSWERED_AT_ONCE


class SlowCall(FakeCall):
    """A call whose client reads nothing before `drain`."""

    def __init__(self, principal: str = "ann") -> None:
        super().__init__("/etcdserverpb.Lease/LeaseTimeToLive")
        self.principal = principal
        self.window = 64 * 1024
        self.most = 0
        self.given: list[bytes] = []
        self.gone: list[Callable[[], None]] = []

    def push(self, *pieces: bytes | memoryview) -> None:
        super().push(*pieces)
        for piece in pieces:
            assert isinstance(piece, bytes)
            self.given.append(piece)
            self.backlog += len(piece)
        self.most = max(self.most, self.backlog)

    def on_cancelled(self, call: Callable[[], None]) -> None:
        self.gone.append(call)


LONG = [b"%0200d" % number for number in range(3_000)]
PART = 203 * FEW
REFUSED = (codes.RESOURCE_EXHAUSTED, "etcdserver: too many requests")


def ask_keys(served: Served, call: FakeCall) -> None:
    served.services.unary[call.path](call, pb.LeaseTimeToLiveRequest(ID=1, keys=True).SerializeToString())


@pytest.fixture
def holding(served: Served) -> Served:
    """With a lease that has many keys."""
    apply(served, LeaseGrant(1, 60), *[Put(key, b"", 1) for key in LONG])
    return served


def test_what_other_parts_of_the_memory_hold_ends_no_list(served: Served) -> None:
    apply(served, *[LeaseGrant(number, 60) for number in range(1, 3 * FEW)])
    call = begin(served, "LeaseLeases", pb.LeaseLeasesRequest())
    served.member.machine.mvcc.read_budget.parent = Budget(-1)
    served.member.settle()
    assert len(pb.LeaseLeasesResponse.FromString(call.messages[0]).leases) == 3 * FEW - 1


def test_keys_are_given_as_they_are_taken_and_the_same_bytes_to_all(holding: Served) -> None:
    served = holding
    ask_keys(served, FakeCall("/etcdserverpb.Lease/LeaseTimeToLive"))
    calls = [SlowCall("ann"), SlowCall("bob")]
    for call in calls:
        ask_keys(served, call)
    budget = served.member.machine.mvcc.read_budget
    for _ in range(20):
        served.member.settle()
        if any(call.open for call in calls):
            assert 200 * len(LONG) < budget.used < 210 * len(LONG), "they are held once"
        for call in calls:
            call.drain()
    for call in calls:
        assert list(pb.LeaseTimeToLiveResponse.FromString(call.messages[0]).keys) == LONG
        assert call.most <= call.window + PART
    first, second = (call.given for call in calls)
    assert len(first) > 3
    assert all(one is other for one, other in zip(first[1:], second[1:], strict=True))
    assert budget.used == 0
    assert len(served.member.jobs) == 0


def test_who_does_not_take_the_keys_or_hangs_up_leaves_nothing(holding: Served) -> None:
    served = holding
    budget = served.member.machine.mvcc.read_budget
    stuck, lost = SlowCall(), SlowCall()
    ask_keys(served, stuck)
    ask_keys(served, lost)
    served.member.settle()
    assert budget.used > 0
    lost.status = CANCELLED
    lost.gone[0]()
    for _ in range(int(PACE_SECONDS + 2 * CHECK_SECONDS)):
        served.advance(1)
    assert (stuck.status, stuck.text) == (codes.UNAVAILABLE, "etcdserver: request timed out")
    assert budget.used == 0
    assert len(served.member.jobs) == 0
    late = SlowCall()
    ask_keys(served, late)
    late.status = CANCELLED
    served.member.settle()
    assert (late.given, budget.used) == ([], 0)


def test_lists_that_are_not_taken_hold_so_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks twice for one list, or under two addresses of one network, holds it once."""
    monkeypatch.setattr(mvcc, "READ_BYTES", 540 * len(LONG))
    served = Served()
    apply(served, LeaseGrant(1, 60), *[Put(key, b"", 1) for key in LONG])
    first = FakeCall("/etcdserverpb.Lease/LeaseTimeToLive")
    ask_keys(served, first)
    first.status = CANCELLED
    for call in (calls := [SlowCall(name) for name in ("2001:db8::1", "2001:db8::2", "bob", "carol")]):
        ask_keys(served, call)
    served.member.settle()
    assert [call.open for call in calls] == [True, True, True, False]
    assert (calls[3].status, calls[3].text) == REFUSED
    for call in calls[:3]:
        call.gone[0]()
    assert served.member.machine.mvcc.read_budget.used == 0


def test_who_asks_beside_others_has_the_keys_in_its_own_turns(served: Served) -> None:
    """One that keeps many lists under way makes nobody wait who wants the keys of the same lease."""
    keys = [b"%05d" % number for number in range(5_000)]
    apply(served, LeaseGrant(1, 60), *[Put(key, b"", 1) for key in keys])

    def ask(principal: str) -> FakeCall:
        call = FakeCall("/etcdserverpb.Lease/LeaseTimeToLive")
        call.principal = principal
        ask_keys(served, call)
        return call

    ask("ann")
    for _ in range(100):
        served.member.jobs.start("ann", Endless())
    for principal in ("ann", "bob"):
        ask(principal)
    call = ask("bob")
    steps = 0
    while call.open and steps < 1_000:
        served.member.jobs.run(1)
        steps += 1
    assert call.status == codes.OK
    assert steps < 100, "about 20 for each of two lists, and as many of the other's"


class Endless:
    """A job that is never over."""

    def step(self) -> bool:
        return False

    def failed(self, fault: Exception) -> None:
        raise fault


def test_who_has_too_many_jobs_is_refused_and_others_get_their_list(
    holding: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = holding
    monkeypatch.setattr(jobs, "MOST_EACH", 2)
    first, busy, other = (SlowCall(name) for name in ("ann", "busy", "other"))
    ask_keys(served, first)
    hindrances = [Endless(), Endless()]
    for each in hindrances:
        assert served.member.jobs.start("busy", each) is None
    for call in (busy, other):
        call.window = 1 << 20
        ask_keys(served, call)
    for _ in range(100):
        served.member.jobs.run(1)
    assert (busy.status, busy.text) == (codes.RESOURCE_EXHAUSTED, "etcdserver: too many requests")
    assert other.status == codes.OK


def test_keys_that_a_command_is_about_to_take_are_listed_in_steps(served: Served) -> None:
    """Though few are left of them: nothing of the command is seen before it is over."""
    apply(served, LeaseGrant(1, 60), *[Put(b"%05d" % number, b"", 1) for number in range(3_000)])
    machine = served.member.machine
    lease = machine.leases.get(1)
    assert lease is not None
    outcome = machine.begin(Index(machine.applied + 1), seal(encode(DeleteRange(b"0", b"1")), 1))
    while len(lease.keys) > FEW:
        assert outcome is UNFINISHED
        outcome = machine.go_on()
    assert outcome is UNFINISHED
    call = begin(served, "LeaseTimeToLive", pb.LeaseTimeToLiveRequest(ID=1, keys=True))
    assert call.open
    while outcome is UNFINISHED:
        served.member.jobs.run(1)
        outcome = machine.go_on()
    served.member.settle()
    assert list(pb.LeaseTimeToLiveResponse.FromString(call.messages[0]).keys) == []


HUGE = [b"k" * 60_000 + b"%03d" % number for number in range(40)]
"""Fewer than `FEW` keys, of more than `STEP_BYTES`."""


@pytest.fixture
def huge(served: Served) -> Served:
    """With a lease that has a few keys which are long and begin alike."""
    apply(served, LeaseGrant(1, 60), *[Put(key, b"", 1) for key in HUGE])
    return served


def test_a_few_long_keys_are_told_in_steps_of_bytes(huge: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: dict[str, list[int]] = {"sorted": [], "made": []}
    kind = pb.LeaseTimeToLiveResponse

    def sort(keys: list[bytes]) -> list[bytes]:
        sizes["sorted"].append(sum(map(len, keys)))
        return sorted(keys)

    def make(**fields: Any) -> Any:
        sizes["made"].append(sum(map(len, fields.get("keys", ()))))
        return kind(**fields)

    monkeypatch.setattr("netstore.api.v3.leaselists.sorted", sort, raising=False)
    monkeypatch.setattr(pb, "LeaseTimeToLiveResponse", make)
    call = SlowCall()
    call.window = 1 << 30
    ask_keys(huge, call)
    assert call.open, "a job"
    huge.member.settle()
    for some in sizes.values():
        assert sum(some) == sum(map(len, HUGE))
        assert max(some) <= STEP_BYTES + len(HUGE[0])
    answer = kind.FromString(call.messages[0])
    assert (answer.TTL, answer.grantedTTL, list(answer.keys)) == (59, 60, HUGE)
    assert answer.SerializeToString() == call.messages[0]


def test_bytes_of_keys_that_are_told_at_once_are_counted(served: Served) -> None:
    apply(served, LeaseGrant(1, 60), *[Put(b"%0100d" % number, b"", 1) for number in range(FEW)])
    before = served.member.machine.mvcc.read_units
    begin(served, "LeaseTimeToLive", pb.LeaseTimeToLiveRequest(ID=1, keys=True))
    units = served.member.machine.mvcc.read_units - before
    assert units == FEW // KEYS_PER_UNIT + 100 * FEW // UNIT_BYTES


def test_keys_are_told_at_once_only_to_who_can_take_them(served: Served) -> None:
    apply(served, LeaseGrant(1, 60), *[Put(b"%0100d" % number, b"", 1) for number in range(FEW)])
    call = SlowCall()
    call.backlog = call.window
    ask_keys(served, call)
    served.member.settle()
    assert (call.open, call.given) == (True, [])
    assert served.member.machine.mvcc.read_budget.used > 100 * FEW
    call.drain()
    served.member.settle()
    assert len(pb.LeaseTimeToLiveResponse.FromString(call.messages[0]).keys) == FEW


def test_what_a_list_of_keys_is_made_of_is_charged_as_it_grows(huge: Served) -> None:
    budget, jobs = huge.member.machine.mvcc.read_budget, huge.member.jobs
    call = SlowCall()
    ask_keys(huge, call)
    jobs.run(1)
    assert budget.used >= sum(map(len, HUGE))
    most = 0
    while jobs.ready:
        jobs.run(1)
        most = max(most, budget.used)
        assert budget.used >= sum(map(len, HUGE))
    assert most < 1.1 * sum(map(len, HUGE))
    call.gone[0]()
    assert budget.used == 0


def test_a_list_of_keys_that_has_no_room_is_refused_before_it_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mvcc, "READ_BYTES", sum(map(len, HUGE)) * 3 // 2)
    served = Served()
    apply(served, LeaseGrant(1, 60), *[Put(key, b"", 1) for key in HUGE])
    count = counting(monkeypatch, "LeaseTimeToLiveResponse", "keys")
    calls = [SlowCall("ann"), SlowCall("bob")]
    for call in calls:
        ask_keys(served, call)
    served.member.settle()
    half = sum(map(len, HUGE)) * 3 // 4
    text = (
        f"etcdserver: the list is larger than the {half} bytes that one client gets of memory_budget (3/64 of"
        " it): raise memory_budget, or ask for less"
    )
    assert [(call.status, call.text) for call in calls] == [(codes.RESOURCE_EXHAUSTED, text)] * 2
    assert count[0] == 0
    assert served.member.machine.mvcc.read_budget.used == 0
    lease = served.member.machine.leases.get(1)
    assert lease is not None
    assert not lease.late


def test_one_list_takes_no_more_than_half_of_the_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though nobody else holds any."""
    monkeypatch.setattr(mvcc, "READ_BYTES", 24 * 2 * FEW)
    for leases, status in ((2 * FEW, codes.OK), (5 * FEW, codes.RESOURCE_EXHAUSTED)):
        served = Served()
        apply(served, *[LeaseGrant((1 << 61) + number, 60) for number in range(leases)])
        budget, most = served.member.machine.mvcc.read_budget, 0
        call = begin(served, "LeaseLeases", pb.LeaseLeasesRequest())
        while served.member.jobs.ready:
            served.member.jobs.run(1)
            most = max(most, budget.used)
        assert call.status == status
        assert most <= budget.limit // 2 + 12 * FEW
        assert budget.used == 0


def test_whoever_has_room_gets_the_list_where_others_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    size = 203 * len(LONG)
    monkeypatch.setattr(mvcc, "READ_BYTES", 4 * size)
    served = Served()
    apply(served, LeaseGrant(1, 60), *[Put(key, b"", 1) for key in LONG])
    first = SlowCall("ann")
    ask_keys(served, first)
    served.member.settle()
    apply(served, LeaseGrant(2, 60), *[Put(b"2" + key, b"", 2) for key in LONG])
    second = SlowCall("bob")
    served.services.unary[second.path](second, pb.LeaseTimeToLiveRequest(ID=2, keys=True).SerializeToString())
    served.member.settle()
    assert (first.open, second.open) == (True, True)
    apply(served, LeaseGrant(3, 60), *[Put(b"3%06d" % number, b"", 3) for number in range(2_000)])
    calls = [SlowCall("ann"), SlowCall("eve")]
    begun = SlowCall("ann")
    for call in (begun, *calls):
        call.window = 1 << 20
        served.services.unary[call.path](call, pb.LeaseTimeToLiveRequest(ID=3, keys=True).SerializeToString())
    served.member.settle()
    assert [(call.status, call.text) for call in (begun, calls[0])] == [REFUSED, REFUSED]
    assert calls[1].status == codes.OK
    assert len(pb.LeaseTimeToLiveResponse.FromString(calls[1].messages[0]).keys) == 2_000


def test_lists_of_leases_are_shared_and_as_of_after_they_were_asked_for(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply(served, *[LeaseGrant(number, 60) for number in range(1, 2 * FEW + 1)])
    kind = pb.LeaseLeasesResponse
    count = counting(monkeypatch, "LeaseLeasesResponse", "leases")
    calls = [begin(served, "LeaseLeases", pb.LeaseLeasesRequest()) for _ in range(100)]
    served.member.jobs.run(1)
    apply(served, LeaseRevoke(1), LeaseGrant(9_000, 60))
    calls.append(begin(served, "LeaseLeases", pb.LeaseLeasesRequest()))
    served.member.settle()
    told = [{each.ID for each in kind.FromString(call.messages[0]).leases} for call in calls]
    assert told[0] == set(range(1, 2 * FEW + 1))
    assert all(some == {*range(2, 2 * FEW + 1), 9_000} for some in told[1:])
    assert count[0] == 2 * 2 * FEW


def test_leases_that_are_gone_count_for_a_list_while_their_places_are_there(served: Served) -> None:
    """They are looked at as well."""
    number = 3 * FEW
    apply(served, *[LeaseGrant(id_, 60) for id_ in range(1, number)])
    begin(served, "LeaseLeases", pb.LeaseLeasesRequest())
    served.member.jobs.run(1)
    apply(served, *[LeaseRevoke(id_) for id_ in range(2, number)])
    assert (len(served.member.machine.leases), served.member.machine.leases.places) == (1, number - 1)
    call = begin(served, "LeaseLeases", pb.LeaseLeasesRequest())
    assert call.open, "in steps"
    served.member.settle()
    assert [each.ID for each in pb.LeaseLeasesResponse.FromString(call.messages[0]).leases] == [1]
    assert served.member.machine.leases.places == 1


@pytest.mark.parametrize("number", [FEW_LEASES, 12 * FEW])
def test_the_order_of_leases_tells_nothing_of_the_table_they_lie_in(
    served: Served, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Else who chooses ids would know which ones lie in one part of it."""
    monkeypatch.setattr(parted, "FIRST", 10)
    ids = [(id_ * 0x9E3779B97F4A7C15 & (1 << 64) - 1) - (1 << 63) for id_ in range(1, number + 1)]
    apply(served, *[LeaseGrant(id_, 60) for id_ in ids])
    assert [*served.member.machine.leases.timed_keys()] != sorted(ids)
    call = begin(served, "LeaseLeases", pb.LeaseLeasesRequest())
    served.member.settle()
    answer = pb.LeaseLeasesResponse.FromString(call.messages[0])
    assert [each.ID for each in answer.leases] == sorted(ids)


def test_leases_are_told_alike_in_one_call_and_in_steps(served: Served) -> None:
    for number in range(1, FEW_LEASES + 2):
        apply(served, LeaseGrant(number << 40, 60))
        call = begin(served, "LeaseLeases", pb.LeaseLeasesRequest())
        assert call.open == (number > FEW_LEASES)
        served.member.settle()
        answer = pb.LeaseLeasesResponse.FromString(call.messages[0])
        assert answer.SerializeToString() == call.messages[0]
        assert [each.ID for each in answer.leases] == [each << 40 for each in range(1, number + 1)]


def test_what_the_collector_walks_is_no_list_of_keys_or_leases(served: Served) -> None:
    """It would walk them three times, in one go each."""
    number = 10 * FEW
    apply(served, *[LeaseGrant(id_, 60) for id_ in range(1, number)])
    apply(served, *[Put(b"%05d" % id_, b"", 1) for id_ in range(number)])
    gc.collect()
    gc.freeze()  # what is there by now is not listed below
    try:
        for _ in range(20):
            begin(served, "LeaseLeases", pb.LeaseLeasesRequest())
        ask_keys(served, SlowCall())
        most = 0
        while served.member.jobs.ready:
            served.member.jobs.run(5)
            most = max(most, sum(len(each) for each in gc.get_objects() if isinstance(each, list | deque)))
    finally:
        gc.unfreeze()
    assert 0 < most < 7 * FEW, "what is worked on in a step, of each list"


def test_a_list_of_leases_ends_when_the_state_is_replaced(served: Served) -> None:
    apply(served, *[LeaseGrant(number, 60) for number in range(1, 3 * FEW)])
    call = begin(served, "LeaseLeases", pb.LeaseLeasesRequest())
    served.member.jobs.run(1)
    assert len([*served.member.machine.leases.restore(StoredLeases())]) > 1
    served.member.settle()
    assert call.status == codes.UNAVAILABLE
    again = served.call("/etcdserverpb.Lease/LeaseLeases", pb.LeaseLeasesRequest())
    assert again.status == codes.OK
    assert served.member.machine.mvcc.read_budget.used == 0


class Unlucky(FakeCall):
    """A call for which nothing can be begun, and, where it is `mute`, nothing ended."""

    def __init__(self, path: str, *, mute: bool = False) -> None:
        super().__init__("/etcdserverpb.Lease/" + path)
        self.mute = mute
        self.finished = 0

    def begin_reply(self, size: int) -> None:
        raise MemoryError

    def finish(self, status: int = codes.OK, text: str = "") -> None:
        self.finished += 1
        if self.mute:
            raise MemoryError
        super().finish(status, text)


@pytest.mark.parametrize("path", ["LeaseLeases", "LeaseTimeToLive"])
@pytest.mark.parametrize("mute", [False, True])
def test_an_answer_that_cannot_be_begun_fails_its_own_call_and_no_other(
    served: Served, path: str, mute: bool
) -> None:
    apply(served, *[LeaseGrant(number, 60) for number in range(1, 2 * FEW)])
    apply(served, *[Put(b"%05d" % number, b"", 1) for number in range(2 * FEW)])
    message = pb.LeaseTimeToLiveRequest(ID=1, keys=True) if path.endswith("Live") else pb.LeaseLeasesRequest()
    calls = [FakeCall("/etcdserverpb.Lease/" + path), Unlucky(path, mute=mute)]
    calls += [FakeCall("/etcdserverpb.Lease/" + path) for _ in range(3)]
    for call in calls:
        served.services.unary[call.path](call, message.SerializeToString())
        if call is calls[0]:
            served.member.jobs.run(1)
    served.member.settle()
    assert [call.status for call in calls] == [codes.OK, None if mute else codes.INTERNAL, *[codes.OK] * 3]
    assert isinstance(calls[1], Unlucky)
    assert calls[1].finished == 1
    assert served.member.machine.mvcc.read_budget.used == 0
    assert len(served.member.jobs) == 0


@pytest.mark.parametrize("path", ["LeaseLeases", "LeaseTimeToLive"])
def test_a_listing_that_fails_is_told_to_all_who_wait_whatever_becomes_of_one_of_them(
    served: Served, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And to those who came meanwhile, and who ask later get a new one."""
    apply(served, *[LeaseGrant(number, 60) for number in range(1, 2 * FEW)])
    apply(served, *[Put(b"%05d" % number, b"", 1) for number in range(2 * FEW)])
    message = pb.LeaseTimeToLiveRequest(ID=1, keys=True) if path.endswith("Live") else pb.LeaseLeasesRequest()

    def ask(call: FakeCall) -> FakeCall:
        served.services.unary[call.path](call, message.SerializeToString())
        return call

    first = ask(FakeCall("/etcdserverpb.Lease/" + path))
    calls = [ask(Unlucky(path, mute=number == 1)) for number in range(4)]
    failing = served.member.jobs.start
    with monkeypatch.context() as patch:

        def start(principal: str, job: Any) -> Any:
            if len(served.member.jobs) == 0:
                raise MemoryError
            return failing(principal, job)

        served.member.jobs.run(1)
        patch.setattr(served.member.jobs, "start", start)
        for name in ("grow", "add"):
            patch.setattr(f"netstore.api.v3.shared.SharedPieces.{name}", None, raising=False)
        served.member.settle()
    assert first.status == codes.INTERNAL
    assert [call.status for call in calls] == [codes.INTERNAL, None, codes.INTERNAL, codes.INTERNAL]
    assert all(call.finished for call in calls if isinstance(call, Unlucky))
    assert served.member.machine.mvcc.read_budget.used == 0
    assert len(served.member.jobs) == 0
    again = ask(FakeCall("/etcdserverpb.Lease/" + path))
    served.member.settle()
    assert again.status == codes.OK
