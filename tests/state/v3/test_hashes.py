"""etcd's checksum of the history, computed in pieces."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from netstore.codes import UNAVAILABLE
from netstore.errors import Fault
from netstore.state.v3.commands import Put, V3Command
from netstore.state.v3.hashes import MAX_HASHES, Hash, _Run
from tests.state.v3.both import Both
from tests.state.v3.strategies import v3_commands


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
