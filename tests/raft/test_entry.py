"""The byte forms on disk decode to what was encoded, and anything else is CorruptData."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.errors import CorruptData
from netstore.raft.change import Change
from netstore.raft.entry import (
    MAX_CONF_MEMBERS,
    MAX_STORED,
    ConfState,
    Entry,
    EntryKind,
    HardState,
    SnapshotMeta,
    decode_entries,
    encode_entries,
)
from netstore.types import Index, NodeId, Term
from tests.support.raft_cluster import entry, voters
from tests.support.raft_forms import batches, confs, damaged, metas

if TYPE_CHECKING:
    from collections.abc import Callable

U64 = st.integers(0, 2**64 - 1)
STORED = st.integers(0, MAX_STORED)


@given(batches())
def test_entries_come_back(entries: list[Entry]) -> None:
    assert decode_entries(encode_entries(entries)) == entries


@given(STORED, U64, STORED)
def test_hard_state_comes_back(term: int, vote: int, commit: int) -> None:
    state = HardState(Term(term), NodeId(vote), Index(commit))
    assert HardState.decode(state.encode()) == state


@given(confs())
def test_configuration_comes_back(conf: ConfState) -> None:
    assert not conf.flaw()
    assert ConfState.decode(conf.encode()) == conf


@given(metas())
def test_snapshot_description_comes_back(meta: SnapshotMeta) -> None:
    assert SnapshotMeta.decode(meta.encode()) == meta


FORMS: list[tuple[Callable[[bytes], Any], Callable[[Any], bytes], st.SearchStrategy[Any]]] = [
    (decode_entries, encode_entries, batches()),
    (HardState.decode, HardState.encode, st.just(HardState(Term(3), NodeId(2), Index(9)))),
    (ConfState.decode, ConfState.encode, confs()),
    (SnapshotMeta.decode, SnapshotMeta.encode, metas()),
]


@pytest.mark.parametrize(("decode", "encode", "values"), FORMS)
@given(data=st.data())
def test_damage_is_corrupt_data_or_a_value_with_that_form(
    decode: Callable[[bytes], Any],
    encode: Callable[[Any], bytes],
    values: st.SearchStrategy[Any],
    data: st.DataObject,
) -> None:
    raw = data.draw(damaged(values.map(encode)))
    try:
        value = decode(raw)
    except CorruptData:
        return
    assert encode(value) == raw


def test_worked_example() -> None:
    """Two entries, byte by byte: 7/300 "hi", 8/301 the change that leaves a joint configuration."""
    batch = [
        Entry(Index(300), Term(7), EntryKind.NORMAL, b"hi"),
        Entry(Index(301), Term(8), EntryKind.CHANGE, Change().encode()),
    ]
    assert encode_entries(batch).hex(" ") == (
        "2c 01 00 00 00 00 00 00 02 00 00 00"
        " 07 00 00 00 00 00 00 00 00 02 00 00 00 68 69"
        " 08 00 00 00 00 00 00 00 01 07 00 00 00 01 00 00 00 00 00 00"
    )


@pytest.mark.parametrize(
    ("conf", "flaw"),
    [
        (ConfState(learners=(NodeId(1),)), "no voters"),
        (ConfState(voters=(NodeId(1),), learners=(NodeId(1),)), "a voter is also a learner"),
        (
            ConfState(voters=(NodeId(1),), learners_next=(NodeId(2),)),
            "a learner-to-be is not an outgoing voter",
        ),
    ],
)
def test_contradictions_have_a_name(conf: ConfState, flaw: str) -> None:
    assert conf.flaw() == flaw
    with pytest.raises(CorruptData, match=flaw):
        ConfState.decode(conf.encode())


@pytest.mark.parametrize("outgoing", [(), (NodeId(2),)])
def test_the_head_of_a_configuration_says_whether_it_is_joint(outgoing: tuple[NodeId, ...]) -> None:
    raw = bytearray(ConfState(voters=(NodeId(1),), voters_outgoing=outgoing).encode())
    raw[8] = 1 - raw[8]
    with pytest.raises(CorruptData, match="and flag"):
        ConfState.decode(bytes(raw))


def test_a_malformed_change_is_refused_before_it_reaches_the_log() -> None:
    batch = [Entry(Index(1), Term(1), EntryKind.CHANGE, b"red")]
    with pytest.raises(CorruptData, match="membership change"):
        decode_entries(encode_entries(batch))


def test_absurd_sizes_are_refused_before_anything_is_allocated() -> None:
    batch = encode_entries([entry(1, 1, b"abc")])
    with pytest.raises(CorruptData, match="cannot hold"):
        decode_entries(batch[:8] + b"\xff\xff\xff\xff" + batch[12:])
    with pytest.raises(CorruptData, match="claims"):
        decode_entries(batch[:21] + b"\xff\xff\xff\xff" + batch[25:])
    conf = voters(1).encode()
    with pytest.raises(CorruptData, match=f"more than {MAX_CONF_MEMBERS}"):
        ConfState.decode(b"\xff\xff" + conf[2:])


def test_numbers_that_no_group_reaches_are_damage() -> None:
    high = MAX_STORED + 1
    for state in (HardState(term=Term(high)), HardState(commit=Index(high))):
        with pytest.raises(CorruptData, match="no group reaches"):
            HardState.decode(state.encode())
    for meta in (SnapshotMeta(Index(high), Term(1)), SnapshotMeta(Index(1), Term(high))):
        with pytest.raises(CorruptData, match="no group reaches"):
            SnapshotMeta.decode(meta.encode())
    for batch in ([entry(high, 1)], [entry(1, high)]):
        with pytest.raises(CorruptData, match=r"starts at index|ends in term"):
            decode_entries(encode_entries(batch))


def test_a_snapshot_index_without_a_term_is_refused() -> None:
    for meta in (SnapshotMeta(Index(0), Term(1), voters(1)), SnapshotMeta(Index(1), Term(0), voters(1))):
        with pytest.raises(CorruptData, match="snapshot description has index"):
            SnapshotMeta.decode(meta.encode())


def test_members_and_votes() -> None:
    conf = ConfState(
        voters=(NodeId(2), NodeId(4)),
        voters_outgoing=(NodeId(2), NodeId(3)),
        learners=(NodeId(1),),
        learners_next=(NodeId(3),),
    )
    assert conf.joint
    assert conf.members() == (1, 2, 3, 4)
    assert [node for node in range(1, 6) if conf.votes(NodeId(node))] == [2, 3, 4]
