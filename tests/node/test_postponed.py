"""What other members asked and waits: by whose turn, within which bound, for how long."""

from __future__ import annotations

from netstore.node.fairqueue import TURN
from netstore.node.postponed import MAX_POSTPONED, Postponed, Request
from netstore.types import NodeId, Term

ANY = float("inf")


def asked(owner: str, request: int = 0, *, size: int = 100, came: float = 0.0) -> Request:
    return Request(NodeId(9), Term(1), request, bytes(size), owner, False, size, came)


def test_a_household_with_many_requests_delays_only_itself() -> None:
    waiting = Postponed(1 << 20)
    assert all(waiting.add(asked("busy", number), ANY) for number in range(500))
    assert waiting.add(asked("calm", 500), ANY)
    taken = [each.request for each in waiting.take(100, 1 << 20, fitting=False)]
    assert taken.index(500) == TURN
    assert [each for each in taken if each != 500] == list(range(99))


def test_one_leaves_half_to_the_others() -> None:
    waiting = Postponed(100_000)
    assert sum(waiting.add(asked("busy"), ANY) for _ in range(1_000)) == 500
    assert sum(waiting.add(asked("calm"), ANY) for _ in range(1_000)) == 125
    assert waiting._held.size == 62_500
    waiting.give_up(10_000)
    assert sum(waiting.add(asked("busy", size=1), ANY) for _ in range(MAX_POSTPONED)) == MAX_POSTPONED // 2
    assert waiting.add(asked("calm"), ANY)


def test_a_line_holds_what_will_be_proposed_in_time() -> None:
    waiting = Postponed(100_000)
    assert waiting.add(asked("large", size=5_000), 1_000), "where it has nothing before it"
    assert not waiting.add(asked("large", size=1), 1_000)
    assert sum(waiting.add(asked("busy"), 1_000) for _ in range(30)) == 10
    assert sum(waiting.add(asked(""), 1_000) for _ in range(30)) == 30, "what members ask for themselves"


def test_the_oldest_are_given_up_first_whoever_asked() -> None:
    waiting = Postponed(100_000)
    for number in range(30):
        waiting.add(asked("ann" if number % 3 else "", number, came=float(number)), ANY)
    taken = waiting.take(2, 1_000, fitting=False)
    assert [each.request for each in taken] == [0, 3]
    waiting.put_back(taken)
    assert [each.request for each in waiting.give_up(4, 20.0)] == [0, 1, 2, 3]
    assert [each.request for each in waiting.give_up(100, 20.0)] == list(range(4, 20))
    assert waiting.give_up(100, 20.0) == []
    rest = waiting.take(100, 100_000, fitting=False)
    assert sorted(each.request for each in rest) == list(range(20, 30))
    waiting.leave(rest)
    assert (len(waiting), waiting._held.size) == (0, 0)
    assert not waiting._queue
