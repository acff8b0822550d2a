"""History is forgotten by itself as the operator asked, by the leader alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from netstore.errors import timed_out
from netstore.node.autocompaction import SHORTEST_SECONDS, ByRevisions, ByTime
from netstore.proto import rpc_pb2 as pb
from netstore.types import NodeId
from tests.support.member import Lines
from tests.support.v3member import Served

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.seams import Alarm


@pytest.fixture
def served() -> Served:
    return Served()


def write(served: Served, times: int = 1) -> int:
    for _ in range(times):
        served.call("/etcdserverpb.KV/Put", pb.PutRequest(key=b"k"))
    return served.member.machine.mvcc.revision


def test_by_time(served: Served) -> None:
    mvcc, lines = served.member.machine.mvcc, Lines()
    write(served)
    ByTime(served.member, served.deadlines.after, 100.0, lines).start()
    revisions = []
    for _ in range(25):
        served.advance(10)
        revisions.append(mvcc.revision)
        write(served)
    assert lines.events == ["history_compacted"] * 2
    # With the 11th note to the first, with the 21st to the 11th.
    assert mvcc.compacted == revisions[10]


def test_an_idle_store_is_compacted_once(served: Served) -> None:
    lines = Lines()
    ByTime(served.member, served.deadlines.after, 10.0, lines).start()
    write(served, 3)
    for _ in range(100):
        served.advance(1)
    assert lines.events == ["history_compacted"]
    assert served.member.machine.mvcc.compacted == served.member.machine.mvcc.revision


def test_a_period_that_is_next_to_nothing_costs_next_to_nothing(served: Served) -> None:
    waits: list[float] = []

    def after(seconds: float, call: Callable[[], None]) -> Alarm:
        waits.append(seconds)
        return served.deadlines.after(seconds, call)

    ByTime(served.member, after, 5e-9, Lines()).start()
    assert waits == [SHORTEST_SECONDS]


def test_only_a_leader_compacts(served: Served) -> None:
    lines = Lines()
    ByTime(served.member, served.deadlines.after, 10.0, lines).start()
    write(served, 3)
    leader, served.member.leader = served.member.leader, NodeId(0)
    for _ in range(50):
        served.advance(1)
    assert lines.events == []
    served.member.leader = leader
    for _ in range(11):
        served.advance(1)
    assert lines.events == ["history_compacted"], "it has noted revisions all the time"


def test_by_revisions(served: Served) -> None:
    mvcc, lines = served.member.machine.mvcc, Lines()
    ByRevisions(served.member, served.deadlines.after, 10, lines).start()
    write(served, 5)
    served.advance(300)
    assert lines.events == [], "not so many yet"
    revision = write(served, 20)
    served.advance(300)
    assert mvcc.compacted == revision - 10
    served.advance(300)
    assert lines.events == ["history_compacted"]


def test_a_compaction_that_fails_is_tried_again(served: Served) -> None:
    lines = Lines()
    ByRevisions(served.member, served.deadlines.after, 10, lines).start()
    write(served, 20)
    served.member.unwritable = timed_out()
    served.advance(300)
    served.member.unwritable = None
    served.advance(300)
    assert lines.events == ["history_not_compacted", "history_compacted"]
