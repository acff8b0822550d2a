"""The v3 keys against a list of everything that was ever written (`twin`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netstore.codes import OUT_OF_RANGE, UNAVAILABLE
from netstore.errors import CorruptData, Fault, Reason
from netstore.state.commands import encode
from netstore.state.machine import Machine
from netstore.state.tables import RECORDS
from netstore.state.v3 import keyvalue, records
from netstore.state.v3.commands import Compact, DeleteRange, Found, LeaseGrant, Put, Range, Txn, V3Command
from netstore.state.v3.compaction import SWEEP_STEP
from netstore.state.v3.hashes import MAX_HASHES, Hash, _Run
from netstore.state.v3.index import PLACE_BYTES
from netstore.state.v3.mvcc import NEVER, Mvcc
from netstore.state.v3.records import _Recent
from netstore.state.v3.store import MOST_AWAIT_SWEEP
from netstore.types import Index, KeyChange, Revision
from tests.state.v3.strategies import ENDS, KEYS, ranges, v3_commands
from tests.state.v3.twin import Told, Twin
from tests.support.local_member import memory_engine
from tests.support.settled import settled

if TYPE_CHECKING:
    from netstore.disk.memoryengine import MemoryEngine

MUCH = 1 << 30
LEASES = tuple(LeaseGrant(id_, 5) for id_ in (1, 2, -3))


class Both:
    """The machine and its twin, given the same commands."""

    def __init__(self, *commands: V3Command) -> None:
        self.engine = memory_engine()
        self.twin = Twin()
        self.machine = self.load()
        for command in commands:
            self.apply(command)

    def load(self) -> Machine:
        self.machine = Machine(self.engine)
        self.machine.load()
        return self.machine

    def apply(self, command: V3Command) -> None:
        machine = self.machine
        outcome = machine.apply(Index(machine.applied + 1), encode(command))
        assert settled(machine, outcome) == self.twin.apply(command)
        told = [
            (c.revision, c.key, c.pair, machine.mvcc.pair(c.before) if c.before else None)
            for c in machine.take_changes()
        ]
        assert told == self.twin.history(self.twin.revision - len(told), b"\0", b"\0")[-len(told) or MUCH :]

    def save(self) -> None:
        self.machine.save()

    def agree(self) -> None:
        """Scalars, leases and everything that can be read, at every revision."""
        machine, twin = self.machine, self.twin
        store = machine.mvcc
        assert (store.revision, store.compacted) == (twin.revision, twin.compacted)
        assert {
            lease.id: (lease.ttl, lease.since, lease.remaining) for lease in machine.leases
        } == twin.leases
        assert {lease.id: sorted(lease.keys) for lease in machine.leases} == {
            id_: twin.holding(id_) for id_ in twin.leases
        }
        assert machine.alarms.active == sorted(twin.alarms)
        for revision in range(max(1, twin.compacted), twin.revision + 1):
            everything = Range(b"\0", b"\0", revision=revision)
            assert store.range(everything) == twin.range(everything)

    def history(self, start: Revision, key: bytes, range_end: bytes, limit: int) -> list[Told]:
        """All of it, in steps."""
        store = self.machine.mvcc
        found: list[Told] = []
        while start <= store.revision:
            changes: list[KeyChange] = []
            parts = list(store.history(start, key, range_end, looked=limit, told=limit, size=limit * 10))
            following = parts[-1][1]
            for part, _ in parts:
                assert not range_end or len(part) <= limit
                changes += part
            assert following > start
            revisions = {change.revision for change in changes}
            assert not revisions or (start <= min(revisions) and max(revisions) < following)
            found += [
                (c.revision, c.key, c.pair, store.pair(c.before) if c.before else None) for c in changes
            ]
            start = following
        return found


def hash_kv(store: Mvcc, revision: int) -> Hash | Fault:
    """At one go."""
    found: list[Hash | Fault] = []
    store.hash_kv(revision, found.append)
    while store.hashing:
        store.hash_on()
    return found[0]


def machine_on(engine: MemoryEngine) -> Machine:
    machine = Machine(engine)
    machine.load()
    return machine


@settings(max_examples=40, deadline=None)
@given(st.lists(v3_commands(), max_size=25), st.data())
def test_every_answer_is_the_twins(commands: list[V3Command], data: st.DataObject) -> None:
    """Commands, saved, swept and loaded at random moments: outcomes, events and all readable states."""
    both = Both(*LEASES)
    for command in commands:
        both.apply(command)
        match data.draw(st.sampled_from(("", "", "save", "sweep", "load"))):
            case "save":
                both.save()
            case "sweep":
                both.machine.mvcc.sweep(data.draw(st.integers(1, 4)))
                both.save()
            case "load":
                both.save()
                both.load()
    both.agree()


@settings(max_examples=40, deadline=None)
@given(st.lists(v3_commands(alarms=False), min_size=5, max_size=25), st.lists(ranges, max_size=8), st.data())
def test_every_read_is_the_twins(
    commands: list[V3Command], queries: list[Range], data: st.DataObject
) -> None:
    both = Both(*commands)
    if data.draw(st.booleans()):
        both.machine.sweep()
    if data.draw(st.booleans()):
        both.save()
        both.load()
    for query in queries:
        assert both.machine.mvcc.range(query) == both.twin.check_revision(
            query.revision
        ) or both.machine.mvcc.range(query) == both.twin.range(query)
    start = Revision(data.draw(st.integers(max(both.twin.compacted, 0), both.twin.revision + 2)))
    key, range_end, limit = data.draw(KEYS), data.draw(ENDS), data.draw(st.integers(1, 4))
    assert both.history(start, key, range_end, limit) == both.twin.history(start, key, range_end)
    found = hash_kv(both.machine.mvcc, 0)
    assert isinstance(found, Hash)
    assert found.checksum == both.twin.hash_kv(0)


@settings(max_examples=30, deadline=None)
@given(st.lists(v3_commands(alarms=False), min_size=3, max_size=25))
def test_what_is_loaded_is_what_was(commands: list[V3Command]) -> None:
    """The whole inner state, so that nothing that matters later can differ."""
    both = Both(*LEASES)
    for command in commands:
        both.apply(command)
        if both.machine.sweeping:
            both.machine.sweep()
    both.save()
    before = both.machine.mvcc
    after = both.load().mvcc
    for name in ("revision", "compacted", "swept", "size"):
        assert getattr(after, name) == getattr(before, name), name
    index, was = after._index, before._index
    assert index.items == was.items
    assert list(index.live) == list(was.live)
    assert list(index.dead) == list(was.dead)
    for start in range(max(0, after.compacted), after.revision + 2):
        assert index.log.find(start) - index.log.end == was.log.find(start) - was.log.end


@settings(max_examples=30, deadline=None)
@given(st.lists(v3_commands(alarms=False), min_size=5, max_size=30), st.integers(1, 3))
def test_compaction_leaves_only_what_can_be_read(commands: list[V3Command], steps: int) -> None:
    both = Both(*commands)
    both.save()
    both.machine.apply(Index(both.machine.applied + 1), encode(Compact(both.twin.revision)))
    checksum = hash_kv(both.machine.mvcc, 0)
    for _ in range(200):
        both.machine.mvcc.sweep(steps)
    assert not both.machine.sweeping
    assert hash_kv(both.machine.mvcc, 0) == checksum
    both.save()
    stored = [keyvalue.decode(record) for _, record in both.engine.scan(RECORDS, b"", None)]
    readable = {p.key: p.mod_revision for p in both.twin.now.values()}
    last = {
        change.key: change.revision
        for change in both.twin.written
        if change.pair is None and change.revision == both.twin.revision
    }
    kept = {p.key: p.modified for p in stored}
    assert kept == {**last, **readable}
    assert both.machine.mvcc.size == sum(
        len(key) + len(record) for key, record in both.engine.scan(RECORDS, b"", None)
    )


@settings(max_examples=30, deadline=None)
@given(st.lists(v3_commands(alarms=False), min_size=10, max_size=25), st.integers(1, 4), st.data())
def test_a_checksum_worked_out_in_pieces_is_of_the_moment_it_was_asked_for(
    commands: list[V3Command], records: int, data: st.DataObject
) -> None:
    """Whatever is written, compacted or saved in between."""
    asked = data.draw(st.integers(1, len(commands) - 1))
    both = Both(*commands[:asked])
    expected = both.twin.hash_kv(0)
    store = both.machine.mvcc
    found: list[Hash | Fault] = []
    store._hashes._runs.append(_Run(store.revision, store.compacted, found.append))
    for command in commands[asked:]:
        store.hash_on(records)
        both.apply(command)
        both.machine.sweep()
    while store.hashing:
        store.hash_on(records)
    (hashed,) = found
    assert isinstance(hashed, Hash)
    assert hashed.checksum == expected


def test_checksums_are_bounded_and_end_with_the_state() -> None:
    both = Both(*(Put(b"%d" % number) for number in range(600)))
    both.save()
    found: list[Hash | Fault] = []
    for _ in range(MAX_HASHES + 1):
        both.machine.mvcc.hash_kv(0, found.append)
    (refused,) = found
    assert isinstance(refused, Fault)
    assert refused.cause == b"etcdserver: too many requests"
    both.machine.load()
    assert [isinstance(each, Fault) and each.grpc_code == UNAVAILABLE for each in found[1:]] == [
        True
    ] * MAX_HASHES
    assert not both.machine.mvcc.hashing


def fresh() -> Mvcc:
    return Mvcc(memory_engine(), lambda key, before, after: None)


def test_a_new_store_stands_at_one_and_can_be_compacted_at_zero() -> None:
    store = fresh()
    assert (store.revision, store.compacted) == (1, NEVER)
    assert store.compact(0) is None
    fault = store.compact(0)
    assert fault is not None
    assert fault.reason is Reason.COMPACTED


@pytest.mark.parametrize(
    ("revision", "text"),
    [
        (4, b"etcdserver: mvcc: required revision is a future revision"),
        (1, b"etcdserver: mvcc: required revision has been compacted"),
    ],
)
def test_a_revision_that_cannot_be_read_is_refused_in_etcds_words(revision: int, text: bytes) -> None:
    store = fresh()
    for _ in range(2):
        store.put(b"a", b"", 0)
        store.finish()
    store.compact(2)
    for fault in (
        store.range(Range(b"a", revision=revision)),
        store.range(Range(b"a", b"\0", revision=revision)),
        hash_kv(store, revision),
        store.compact(revision),
    ):
        assert isinstance(fault, Fault)
        assert fault.cause == text
        assert fault.grpc_code == OUT_OF_RANGE
    assert text in {Reason.COMPACTED.cause, Reason.FUTURE_REVISION.cause}
    assert isinstance(store.range(Range(b"a", revision=2)), Found)


@pytest.mark.parametrize("keys", [1, 100, 5_000])
def test_a_large_compaction_goes_in_small_steps(keys: int) -> None:
    """However few keys the changes are of."""
    both = Both()
    store = both.machine.mvcc
    for number in range(12_500):
        store.put(b"%d" % (number % keys), b"", 0)
        store.finish()
    store.take_changes()
    both.save()
    store.compact(store.revision)
    steps = erased = 0
    while store.sweeping and steps < 500:
        store.sweep(100)
        gone = [record for record in store.take_records().values() if record is None]
        assert len(gone) <= 101
        erased += len(gone)
        steps += 1
    assert erased == 12_500 - keys
    assert store.size == sum(PLACE_BYTES + len(store.get(key) or b"") for key in store._index.live)
    log = store._index.log
    assert log.end - log.first == 1


def test_what_is_deleted_is_forgotten_by_the_compaction_after() -> None:
    both = Both()
    both.apply(Put(b"a", b"1"))
    both.apply(DeleteRange(b"a"))
    both.apply(Compact(3))
    both.machine.sweep()
    assert both.history(Revision(3), b"a", b"", 10) == [(3, b"a", b"\n\x01a\x18\x03", None)]
    both.apply(Put(b"b", b""))
    both.apply(Compact(4))
    both.machine.sweep()
    assert b"a" not in both.machine.mvcc._index.items
    assert [key[:8] for key, _ in both.engine.scan(RECORDS, b"", None)] == [(4).to_bytes(8, "big")]


@pytest.mark.parametrize("swept", [False, True])
def test_a_change_at_the_compacted_revision_is_told_without_what_was_before(swept: bool) -> None:
    """The pair before it is what compaction took, whether it is still stored or not."""
    both = Both(Put(b"a", b"1"), Put(b"a", b"2"), Put(b"a", b"3"), Compact(3))
    if swept:
        both.machine.sweep()
    both.save()
    both.load()
    told = both.history(Revision(3), b"\0", b"\0", 10)
    assert [(change[0], change[3] is None) for change in told] == [(3, True), (4, False)]
    assert told == both.history(Revision(3), b"a", b"", 10) == both.twin.history(3, b"a", b"")


def test_a_put_without_a_lease_takes_the_key_from_its_lease() -> None:
    both = Both(*LEASES, Put(b"a", lease=1), Put(b"b", lease=1), Put(b"b", lease=2), Put(b"a"))
    assert {lease.id: set(lease.keys) for lease in both.machine.leases} == {1: set(), 2: {b"b"}, -3: set()}
    both.agree()


def test_who_waits_for_a_compaction_is_told_when_it_is_over() -> None:
    both = Both()
    for _ in range(3):
        both.apply(Put(b"a", b""))
    both.apply(Compact(3))
    told: list[int] = []
    both.machine.v3.when_swept(Revision(3), lambda _: told.append(3))
    assert told == []
    both.machine.sweep()
    assert told == [3]
    both.machine.v3.when_swept(Revision(3), lambda _: told.append(4))
    assert told == [3, 4]


def test_a_compaction_that_is_half_over_goes_on_when_the_state_is_loaded() -> None:
    """At a restart, and in a copy that takes the place of the state: who waited waits for the rest of it."""
    both = Both()
    for _ in range(2 * SWEEP_STEP):
        both.apply(Put(b"a", b""))
    both.apply(Compact(2 * SWEEP_STEP))
    told: list[Fault | None] = []
    both.machine.v3.when_swept(Revision(2 * SWEEP_STEP), told.append)
    both.machine.sweep()
    both.machine.load()
    assert told == []
    assert both.machine.sweeping
    for _ in range(3):
        both.machine.sweep()
    assert both.machine.mvcc.swept == both.machine.mvcc.compacted == 2 * SWEEP_STEP
    assert told == [None]


def test_a_copy_that_is_swept_answers_who_waited_here_and_not_too_many_wait() -> None:
    ahead, both = Both(), Both()
    for each in (ahead, both):
        for _ in range(3):
            each.apply(Put(b"a", b""))
        each.apply(Compact(3))
    told: list[Fault | None] = []
    for _ in range(MOST_AWAIT_SWEEP + 1):
        both.machine.v3.when_swept(Revision(3), told.append)
    assert [fault and fault.cause.decode() for fault in told] == [Reason.TOO_MANY.text]
    ahead.machine.sweep()
    ahead.save()
    for each in (ahead, both):
        each.engine.commit()
    both.engine.install(ahead.engine, lambda _: None)
    both.machine.load()
    assert told[1:] == [None] * MOST_AWAIT_SWEEP
    assert not both.machine.sweeping


@pytest.mark.parametrize(
    ("stored", "record", "what"),
    [
        ((2 << 32).to_bytes(12, "big"), keyvalue.encode_deletion(b"a", 2), "it says revision 2, version 0"),
        (
            (2 << 32).to_bytes(12, "big"),
            keyvalue.encode(b"a", 3, 3, 1, value=b"", lease=0),
            "it says revision 3",
        ),
        (
            (9 << 32).to_bytes(12, "big"),
            keyvalue.encode(b"a", 9, 9, 1, value=b"", lease=0),
            "is at revision 1",
        ),
    ],
)
def test_a_record_in_the_wrong_place_is_named(stored: bytes, record: bytes, what: str) -> None:
    engine = memory_engine()
    engine.write(Index(1), {(RECORDS, stored): record})
    with pytest.raises(CorruptData, match=what) as caught:
        machine_on(engine)
    assert repr(stored) in str(caught.value)


def test_no_read_is_answered_while_the_state_is_replaced() -> None:
    """What the index in memory points at may be another's record already."""
    both = Both(Put(b"a", b"1"))
    both.save()
    both.machine.mvcc.suspended = True
    for answer in (
        both.machine.mvcc.range(Range(b"a")),
        both.machine.mvcc.range(Range(b"a", b"\0")),
        hash_kv(both.machine.mvcc, 0),
        both.machine.v3.read_txn(Txn((), (Range(b"a"),))),
    ):
        assert isinstance(answer, Fault)
        assert answer.grpc_code == UNAVAILABLE
    both.load()
    assert isinstance(both.machine.mvcc.range(Range(b"a")), Found)


def test_a_list_with_a_record_that_is_gone_is_not_answered() -> None:
    both = Both(Put(b"a", b"1"), Put(b"b", b"1"))
    both.save()
    both.engine.write(both.engine.applied(), {(RECORDS, (2 << 32).to_bytes(12, "big")): None})
    assert both.machine.mvcc.range(Range(b"a", b"\0")) == both.twin.range(Range(b"a", b"\0")), "remembered"
    both.machine.mvcc._records._recent = _Recent()
    with pytest.raises(CorruptData, match="there is no such record"):
        both.machine.mvcc.range(Range(b"a", b"\0"))


def test_what_is_remembered_is_bounded_and_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "RECENT_BYTES", 3_000)
    both = Both()
    for number in range(100):
        both.apply(Put(b"%02d" % number, bytes(number)))
        both.save()
    store = both.machine.mvcc
    for query in (
        Range(b"0", b"\0"),
        Range(b"0", b"1"),
        Range(b"42"),
        Range(b"0", b"\0", revision=50),
        Range(b"5", b"6"),
        Range(b"0", b"1"),
    ):
        assert store.range(query) == both.twin.range(query)
        recent = store._records._recent
        for generation in (recent.young, recent.old):
            assert sum(map(len, generation.values())) <= 3_000
    assert store._records._recent.young
    assert store._records._recent.old


def test_a_record_that_is_gone_is_named_and_not_answered() -> None:
    both = Both()
    both.apply(Put(b"a", b"1"))
    both.save()
    both.engine.write(both.engine.applied(), {(RECORDS, (2 << 32).to_bytes(12, "big")): None})
    both.machine.mvcc._records._recent = _Recent()
    with pytest.raises(CorruptData, match="there is no such record"):
        both.machine.mvcc.get(b"a")


def test_reading_one_key_again_and_again_pushes_nothing_out_of_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(records, "RECENT_BYTES", 10_000)
    kept = records.Records(memory_engine())
    for place in range(2, 12, 2):
        kept.add(place, b"%0100d" % place)
    for _ in range(1_000):
        assert kept.get(2) == b"%0100d" % 2
    assert len(kept._recent.young) == 5
