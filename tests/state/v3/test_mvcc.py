"""The v3 keys against a list of everything that was ever written (`twin`)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netstore.codes import OUT_OF_RANGE
from netstore.errors import Fault, Reason
from netstore.state.v3.commands import Found, Put, Range, V3Command
from netstore.state.v3.hashes import Hash
from netstore.state.v3.mvcc import NEVER, Mvcc
from netstore.types import Revision
from tests.state.v3.both import LEASES, Both, hash_kv
from tests.state.v3.strategies import ENDS, KEYS, ranges, v3_commands
from tests.support.local_member import memory_engine


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


def test_a_put_without_a_lease_takes_the_key_from_its_lease() -> None:
    both = Both(*LEASES, Put(b"a", lease=1), Put(b"b", lease=1), Put(b"b", lease=2), Put(b"a"))
    assert {lease.id: set(lease.keys) for lease in both.machine.leases} == {1: set(), 2: {b"b"}, -3: set()}
    both.agree()
