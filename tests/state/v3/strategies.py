"""Random v3 commands that meet each other often: few keys, few values, few leases."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import strategies as st

from netstore.state.v3 import commands as v3

if TYPE_CHECKING:
    from netstore.state.v3.commands import Operation, V3Command

KEYS = st.sampled_from((b"a", b"a\0", b"aa", b"b", b"c", b"\xff"))
ENDS = st.sampled_from((b"", b"", b"", b"\0", b"a", b"b", b"c\0", b"\xff\xff"))
VALUES = st.sampled_from((b"", b"1", b"22"))
LEASES = st.sampled_from((0, 0, 0, 1, 2, -3))
REVISIONS = st.sampled_from((0, 0, 0, -1, *range(1, 20)))
FLAGS = st.booleans()
RARELY = st.sampled_from((False, False, False, True))
NUMBERS = st.sampled_from((0, 1, 2, 3, 5, -3))

puts = st.builds(v3.Put, KEYS, VALUES, LEASES, FLAGS, RARELY, RARELY)
deletes = st.builds(v3.DeleteRange, KEYS, ENDS, FLAGS)
bounds = st.sampled_from((0, 0, 0, 0, 3, 6))
ranges = st.builds(
    v3.Range,
    KEYS,
    ENDS,
    st.sampled_from((0, 0, 1, 2, -1)),
    REVISIONS,
    st.integers(0, 2),
    st.integers(0, 4),
    RARELY,
    RARELY,
    bounds,
    bounds,
    bounds,
    bounds,
)
compares = st.builds(v3.Compare, KEYS, st.integers(0, 4), st.integers(0, 3), NUMBERS, VALUES, ENDS)


def few(strategy: st.SearchStrategy[Operation]) -> st.SearchStrategy[tuple[Operation, ...]]:
    return st.lists(strategy, max_size=3).map(tuple)


def txns() -> st.SearchStrategy[v3.Txn]:
    flat = st.one_of(puts, deletes, ranges)
    conditions = st.lists(compares, max_size=2).map(tuple)
    nested = st.builds(v3.Txn, conditions, few(flat), few(flat))
    deep = st.one_of(flat, flat, st.builds(v3.Txn, conditions, few(st.one_of(flat, nested)), few(flat)))
    return st.builds(v3.Txn, conditions, few(deep), few(deep))


def v3_commands(*, alarms: bool = True) -> st.SearchStrategy[V3Command]:
    since = st.integers(1, 25)
    overdue = st.lists(st.tuples(LEASES, since), max_size=6).map(tuple)
    remaining = st.lists(st.tuples(LEASES, since, st.integers(0, 9)), max_size=6).map(tuple)
    commands: list[st.SearchStrategy[V3Command]] = [
        puts,
        puts,
        puts,
        deletes,
        ranges,
        txns(),
        txns(),
        st.builds(v3.Compact, st.integers(-1, 20)),
        st.builds(v3.LeaseGrant, LEASES, st.sampled_from((1, 5, 9_000_000_001))),
        st.builds(v3.LeaseGrant, LEASES, st.just(7)),
        st.builds(v3.LeaseRevoke, LEASES),
        st.builds(v3.LeaseRenew, LEASES),
        st.builds(v3.LeaseExpire, overdue),
        st.builds(v3.LeaseCheckpoint, remaining),
    ]
    if alarms:
        commands.append(st.builds(v3.SetAlarm, st.integers(1, 2), st.sampled_from((1, 1, 2)), RARELY))
    return st.one_of(*commands)
