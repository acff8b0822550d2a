"""Random commands that meet each other often: few names, few values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import strategies as st

from netstore.state import commands
from netstore.state.v2 import commands as v2

if TYPE_CHECKING:
    from netstore.state.commands import Command

NAMES = (b"a", b"b", b"_h", b"ab", b"\xff")
VALUES = (b"", b"1", b"2", b"\xff\x00")
BASE = 1_000

PATHS = st.lists(st.sampled_from(NAMES), max_size=4).map(lambda names: b"/" + b"/".join(names))
EXPIRIES = st.sampled_from((0, 0, 0, *range(BASE, BASE + 5)))
INDEXES = st.sampled_from((0, 0, *range(1, 12)))
FLAGS = st.booleans()


def key_commands() -> st.SearchStrategy[Command]:
    """Commands on the tree."""
    values = st.sampled_from(VALUES)
    return st.one_of(
        st.builds(v2.Set, PATHS, values, FLAGS, EXPIRIES, FLAGS),
        st.builds(v2.Set, PATHS, values, FLAGS, EXPIRIES),
        st.builds(v2.Create, PATHS, values, FLAGS, EXPIRIES),
        st.builds(v2.Update, PATHS, values, EXPIRIES, FLAGS),
        st.builds(v2.CompareAndSwap, PATHS, values, values, INDEXES, EXPIRIES, FLAGS),
        st.builds(v2.InOrder, PATHS, values, FLAGS, EXPIRIES),
        st.builds(v2.Delete, PATHS, FLAGS, FLAGS),
        st.builds(v2.CompareAndDelete, PATHS, values, INDEXES),
        st.builds(v2.QuorumGet, PATHS, FLAGS),
        st.builds(v2.ExpireNodes, st.tuples(st.tuples(PATHS, INDEXES))),
        st.builds(v2.TtlCheckpoint, st.tuples(st.tuples(PATHS, INDEXES, st.integers(0, 9)))),
    )


def member_commands() -> st.SearchStrategy[Command]:
    """Commands on members, of which there are few."""
    ids = st.integers(1, 4)
    urls = st.lists(st.sampled_from(("http://a:1", "http://b:2", "http://c:3")), min_size=1, max_size=2)
    some = urls.map(lambda chosen: tuple(sorted(set(chosen))))
    return st.one_of(
        st.builds(commands.AddMember, ids, some, FLAGS, FLAGS),
        st.builds(commands.PublishMember, ids, st.sampled_from("xy"), some, some),
        st.builds(commands.UpdateMember, ids, some),
        st.builds(commands.PromoteMember, ids),
        st.builds(commands.RemoveMember, ids),
        st.builds(commands.RefuseChange, st.text(max_size=3)),
        st.builds(commands.JoinMember, ids, some, st.integers(0, 4), st.integers(0, 4)),
    )


def all_commands() -> st.SearchStrategy[Command]:
    """Commands on the tree and the cluster's own."""
    urls = st.lists(st.sampled_from(("http://a:1", "http://b:2")), max_size=2).map(tuple)
    return st.one_of(
        key_commands(),
        st.builds(commands.PublishMember, st.integers(0, 2**64 - 1), st.text(max_size=3), urls, urls),
        member_commands(),
        st.builds(commands.SetClusterVersion, st.sampled_from(("3.4.0", ""))),
    )
