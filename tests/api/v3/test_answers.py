"""Large answers: given in steps as the client reads, of one moment, and given up when nobody waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from netstore import codes
from netstore.api.v3 import answers, delivery
from netstore.api.v3.delivery import CHECK_SECONDS, HELD_SECONDS, PACE_BYTES, PACE_SECONDS, Pace
from netstore.errors import MustStop
from netstore.proto import rpc_pb2 as pb
from netstore.state.v3.reads import RangeRead
from netstore.types import Revision
from tests.support.v3member import CANCELLED, FakeCall, Served

if TYPE_CHECKING:
    from collections.abc import Callable

KEYS = 1_200
WINDOW = 256 * 1024
PAIR = 1_100
ANY = Revision(1 << 40)
RANGE = "/etcdserverpb.KV/Range"
TXN = "/etcdserverpb.KV/Txn"
ALL = pb.RangeRequest(key=b"k", range_end=b"l")


class SlowCall(FakeCall):
    """A call whose client reads nothing before `drain`. Notes the most that waited for it."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.most = 0
        self.taken = 0
        self.window = WINDOW
        self.gone: Callable[[], None] = lambda: None

    def push(self, *pieces: bytes | memoryview) -> None:
        super().push(*pieces)
        self.backlog += sum(map(len, pieces))
        self.most = max(self.most, self.backlog)

    def on_cancelled(self, call: Callable[[], None]) -> None:
        self.gone = call

    def cancel(self) -> None:
        """The client hangs up."""
        self.status = CANCELLED
        self.gone()


@pytest.fixture
def served() -> Served:
    served = Served()
    for number in range(KEYS):
        put(served, b"k%05d" % number, bytes(1_000))
    return served


def put(served: Served, key: bytes, value: bytes = b"") -> None:
    served.call("/etcdserverpb.KV/Put", pb.PutRequest(key=key, value=value))


def begin(served: Served, path: str, request: pb.RangeRequest | pb.TxnRequest) -> SlowCall:
    call = SlowCall(path)
    served.services.unary[call.path](call, request.SerializeToString())
    return call


def run(served: Served, most: int = 10_000) -> int:
    """Do the steps there are to do; how many."""
    steps = 0
    while served.member.jobs.ready and steps < most:
        served.member.jobs.run(1)
        steps += 1
    return steps


def finish(served: Served, call: SlowCall) -> bytes:
    for _ in range(1_000):
        run(served)
        call.drain()
    (message,) = call.messages
    return message


def test_a_large_range_is_that_of_the_moment_it_was_asked_for(served: Served) -> None:
    expected = [b"k%05d" % number for number in range(KEYS)]
    call = begin(served, RANGE, ALL)
    run(served, 2)
    put(served, b"k00000", b"later")
    served.call("/etcdserverpb.KV/DeleteRange", pb.DeleteRangeRequest(key=b"k00001", range_end=b"k9"))
    found = pb.RangeResponse.FromString(finish(served, call))
    assert [kv.key for kv in found.kvs] == expected
    assert {len(kv.value) for kv in found.kvs} == {1_000}
    assert found.count == KEYS
    assert found.header.revision == KEYS + 1


def test_no_more_waits_than_may_however_slowly_a_client_reads(served: Served) -> None:
    call = begin(served, RANGE, ALL)
    run(served)
    assert call.open
    assert not served.member.jobs.ready
    finish(served, call)
    assert call.most <= WINDOW + 2 * PAIR


def test_a_client_that_hangs_up_leaves_nothing(served: Served) -> None:
    call = begin(served, RANGE, ALL)
    run(served)
    assert len(served.member.jobs) == 1
    call.cancel()
    assert len(served.member.jobs) == 0
    store = served.member.machine.mvcc
    assert store._pins.allow(ANY) == ANY


def pass_time(served: Served, call: SlowCall, seconds: float, rate: float = 0.0) -> None:
    """Let the client take `rate` bytes a second of what waits for it."""
    for _ in range(int(seconds)):
        served.advance(1)
        call.backlog = max(0, call.backlog - int(rate))
        call.taken += int(rate)
        if call.window_left:
            call.tell()
        run(served)


def is_given_up(served: Served, call: SlowCall) -> bool:
    if call.status in {None, codes.OK}:
        return False
    assert (call.status, call.text) == (codes.UNAVAILABLE, "etcdserver: request timed out")
    assert len(served.member.jobs) == 0
    assert served.member.machine.mvcc._pins.allow(ANY) == ANY
    return True


def test_a_client_that_never_reads_is_given_up(served: Served) -> None:
    call = begin(served, RANGE, ALL)
    run(served)
    pass_time(served, call, PACE_SECONDS)
    assert call.open
    pass_time(served, call, CHECK_SECONDS + 1)
    assert is_given_up(served, call)


def test_many_clients_that_never_read_are_given_up_in_pieces(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "CHECKED_AT_ONCE", 3)
    calls = [begin(served, RANGE, ALL) for _ in range(8)]
    run(served)
    given_up = [0]
    for _ in range(int(PACE_SECONDS + 2 * CHECK_SECONDS)):
        served.advance(1)
        given_up.append(sum(not call.open for call in calls))
        assert given_up[-1] - given_up[-2] <= 3
    assert given_up[-1] == len(calls)
    late = begin(served, RANGE, ALL)
    run(served)
    pass_time(served, late, PACE_SECONDS + CHECK_SECONDS + 1)
    assert is_given_up(served, late)


@pytest.mark.parametrize(("rate", "is_cut"), [(1.2, False), (0.8, True)])
def test_a_slow_client_has_all_the_time_it_needs_at_its_pace(
    served: Served, rate: float, is_cut: bool
) -> None:
    """The whole takes more than five minutes, at a little more than the least pace."""
    call = begin(served, RANGE, ALL)
    run(served)
    pass_time(served, call, 330, rate * PACE_BYTES / PACE_SECONDS)
    assert call.taken > WINDOW
    assert is_given_up(served, call) == is_cut


def read_on(served: Served, seconds: float, *calls: SlowCall) -> None:
    """Let these clients take what they have to, and a little more."""
    for _ in range(int(seconds)):
        served.advance(1)
        for call in calls:
            call.backlog = max(0, call.backlog - int(1.1 * PACE_BYTES / PACE_SECONDS))
            if call.window_left:
                call.tell()
        run(served)


def compact(served: Served) -> None:
    revision = served.member.machine.mvcc.revision
    served.call("/etcdserverpb.KV/Compact", pb.CompactionRequest(revision=revision))


def test_an_answer_holds_back_a_compaction_for_so_long_only(served: Served) -> None:
    """However fast it is taken. One that holds nothing back lasts."""
    for number in range(KEYS, 3 * KEYS):
        put(served, b"k%05d" % number, bytes(1_000))
    mvcc = served.member.machine.mvcc
    old = begin(served, RANGE, ALL)
    run(served)
    read_on(served, 2 * HELD_SECONDS, old)
    put(served, b"k00000")
    compact(served)
    new = begin(served, RANGE, ALL)
    run(served)
    read_on(served, HELD_SECONDS, old, new)
    assert old.open
    assert mvcc.swept < mvcc.compacted
    read_on(served, 2 * CHECK_SECONDS, old, new)
    assert (old.status, old.text) == (codes.UNAVAILABLE, "etcdserver: request timed out")
    served.member.settle()
    assert mvcc.swept == mvcc.compacted
    assert new.open
    read_on(served, HELD_SECONDS, new)
    assert new.open


def test_an_answer_holds_back_what_was_compacted_since_and_nothing_older(served: Served) -> None:
    """Else answers that follow one another would keep everything."""
    mvcc = served.member.machine.mvcc
    calls: list[SlowCall] = []
    compacted: list[int] = []
    for _ in range(3):
        calls.append(begin(served, RANGE, ALL))
        put(served, b"k00000")
        compact(served)
        compacted.append(mvcc.compacted)
    assert mvcc.swept < compacted[0]
    for number in range(3):
        calls[number].cancel()
        served.member.settle()
        following = compacted[number] if number < 2 else mvcc.compacted
        assert mvcc.swept == following
    found = pb.RangeResponse.FromString(served.call(RANGE, ALL).messages[0])
    assert found.count == KEYS


def test_only_the_time_counts_in_which_a_client_is_waited_for() -> None:
    pace = Pace()
    pace.wait(0.0)  # fixed: the clock of the test
    pace.resume(PACE_SECONDS - 1)
    assert not pace.is_slow(9 * PACE_SECONDS)
    pace.wait(9 * PACE_SECONDS)  # fixed: the clock of the test
    pace.take(PACE_BYTES - 1)
    pace.resume(9 * PACE_SECONDS + 2)
    assert pace.is_slow(9 * PACE_SECONDS + 2), "though nobody waits at this moment"
    pace.take(1)
    assert not pace.is_slow(9 * PACE_SECONDS + 2)


def test_a_client_that_makes_room_now_and_then_for_next_to_nothing_is_given_up(served: Served) -> None:
    call = begin(served, RANGE, ALL)
    run(served)
    for _ in range(int(1.2 * PACE_SECONDS + CHECK_SECONDS)):
        call.tell()
        served.advance(0.1)
        run(served)
        served.advance(0.9)
    assert is_given_up(served, call)


def test_an_answer_that_waits_for_its_turn_is_not_held_against_its_client(served: Served) -> None:
    call = begin(served, RANGE, ALL)
    served.advance(10 * PACE_SECONDS)
    run(served)
    call.drain()
    served.advance(10 * PACE_SECONDS)
    assert call.open
    finish(served, call)


def test_one_principal_leaves_half_of_the_reads_to_the_others(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of a transaction are counted one by one, and places are given back however an answer ends."""
    monkeypatch.setattr(answers, "MOST_READS", 16)
    served = Served()
    for number in range(KEYS):
        put(served, b"k%05d" % number, bytes(1_000))
    three = pb.TxnRequest(success=[pb.RequestOp(request_range=ALL)] * 3)
    calls = [begin(served, TXN, three) for _ in range(4)]
    assert [call.status for call in calls] == [None, None, None, codes.RESOURCE_EXHAUSTED]
    assert calls[3].text == "etcdserver: too many requests"
    other = SlowCall(RANGE)
    other.principal = "10.0.0.9"
    served.services.unary[other.path](other, ALL.SerializeToString())
    assert other.open
    calls[0].cancel()
    finish(served, calls[1])
    served.member.machine.load()
    calls[2].drain()
    other.drain()
    run(served)
    assert [call.open for call in (*calls, other)] == [False] * 5
    finish(served, begin(served, RANGE, ALL))
    served.member.machine.mvcc.clear_parts()
    assert served.member.machine.mvcc.read_budget.used == 0


def test_a_transaction_of_many_ranges_is_one_moment_and_many_steps(served: Served) -> None:
    ranges = [pb.RequestOp(request_range=ALL) for _ in range(8)]
    ranges[0] = pb.RequestOp(request_range=pb.RangeRequest(key=b"k00001"))
    call = begin(served, TXN, pb.TxnRequest(success=ranges))
    run(served, 1)
    put(served, b"k00001", b"later")
    done = pb.TxnResponse.FromString(finish(served, call))
    assert [op.response_range.count for op in done.responses] == [1] + [KEYS] * 7
    assert done.responses[0].response_range.kvs[0].version == 1
    assert len({op.response_range.SerializeToString() for op in done.responses[1:]}) == 1
    assert call.most <= WINDOW + 2 * PAIR


def test_what_a_writing_transaction_reads_is_between_its_operations(served: Served) -> None:
    """Though it is read after the whole of it was applied, and after later ones."""
    nested = pb.TxnRequest(success=[pb.RequestOp(request_range=ALL)])
    ops = [
        pb.RequestOp(request_range=ALL),
        pb.RequestOp(request_put=pb.PutRequest(key=b"k00000", value=b"new", prev_kv=True)),
        pb.RequestOp(request_range=pb.RangeRequest(key=b"k", range_end=b"l", count_only=True)),
        pb.RequestOp(
            request_delete_range=pb.DeleteRangeRequest(key=b"k00001", range_end=b"k01000", prev_kv=True)
        ),
        pb.RequestOp(request_txn=nested),
    ]
    call = begin(served, TXN, pb.TxnRequest(success=ops))
    put(served, b"k00000", b"later still")
    done = pb.TxnResponse.FromString(finish(served, call))
    first, changed, count, deleted, last = done.responses
    assert len(first.response_range.kvs) == KEYS
    assert first.response_range.kvs[0].version == 1
    assert len(changed.response_put.prev_kv.value) == 1_000
    assert count.response_range.count == KEYS
    assert [kv.key for kv in deleted.response_delete_range.prev_kvs] == [
        b"k%05d" % n for n in range(1, 1_000)
    ]
    inner = last.response_txn.responses[0].response_range
    assert [kv.key for kv in inner.kvs] == [b"k00000"] + [b"k%05d" % n for n in range(1_000, KEYS)]
    assert inner.kvs[0].value == b"new"


def test_a_read_that_compares_much_goes_through_the_log(served: Served) -> None:
    everything = pb.Compare(key=b"k", range_end=b"l", target=pb.Compare.VERSION, version=1)
    before = served.member.proposed
    call = served.call(TXN, pb.TxnRequest(compare=[everything]))
    assert pb.TxnResponse.FromString(call.messages[0]).succeeded
    assert served.member.proposed == before + 1


def test_an_answer_longer_than_clients_take_is_refused(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "MOST_BYTES", 1_000_000)
    call = begin(served, RANGE, ALL)
    run(served)
    assert call.status == codes.RESOURCE_EXHAUSTED
    assert "larger than max" in call.text
    assert len(served.member.jobs) == 0


def test_an_answer_ends_with_the_state_it_was_of(served: Served) -> None:
    call = begin(served, RANGE, ALL)
    run(served, 2)
    served.member.machine.load()
    run(served)
    assert call.status == codes.UNAVAILABLE
    assert len(served.member.jobs) == 0


def test_an_answer_that_cannot_be_made_fails_alone(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def burst(self: RangeRead, units: int = 0) -> None:
        raise MemoryError

    call = begin(served, RANGE, ALL)
    with monkeypatch.context() as patch:
        patch.setattr(RangeRead, "give", burst)
        run(served)
    assert call.status == codes.INTERNAL
    assert len(served.member.jobs) == 0
    assert served.member.machine.mvcc._pins.allow(ANY) == ANY
    finish(served, begin(served, RANGE, ALL))


def test_a_record_that_is_gone_ends_the_member(served: Served) -> None:
    records = served.member.machine.mvcc._records
    records._recent.young.clear()
    records._recent.old.clear()
    engine = served.member.engine
    engine.write(engine.applied(), {("v3", (700 << 32).to_bytes(12, "big")): None})
    call = begin(served, RANGE, ALL)
    with pytest.raises(MustStop, match="there is no such record"):
        finish(served, call)
