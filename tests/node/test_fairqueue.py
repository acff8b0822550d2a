"""What waits in lines, where there is no room for all of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.node.fairqueue import TURN, TURN_BYTES, FairQueue

if TYPE_CHECKING:
    from collections import deque


class Item:
    """One that waits, of so many bytes."""

    def __init__(self, owner: str, size: int) -> None:
        self.owner = owner
        self.payload = bytes(size)


def queues(*what: tuple[str, int]) -> FairQueue[Item]:
    made: FairQueue[Item] = FairQueue()
    for owner, size in what:
        made.add(Item(owner, size))
    return made


def told(items: list[Item]) -> list[tuple[str, int]]:
    return [(item.owner, len(item.payload)) for item in items]


def test_where_only_what_fits_is_taken_a_line_waits_and_the_others_go_on() -> None:
    made = queues(("large", 101), ("large", 1), ("ann", 40), ("bob", 40), ("cid", 40), ("ann", 20))
    assert told(made.take(9, 100, fitting=True)) == [("ann", 40), ("ann", 20), ("bob", 40)]
    assert told(made.take(9, 100, fitting=True)) == [("cid", 40)]
    assert made.take(9, 100, fitting=True) == []
    assert told(made.take(9, 100)) == [("large", 101)]
    assert told(made.take(9, 100, fitting=True)) == [("large", 1)]
    assert not made


def test_own_requests_go_on_where_nothing_fits() -> None:
    half = TURN_BYTES // 2
    made = queues(("ann", 1), *[("", half)] * 5)
    assert told(made.take(9, 0, fitting=True)) == [("", half)] * 2
    assert told(made.take(9, 10, fitting=True)) == [("", half)] * 2
    assert told(made.take(9, 0, fitting=True)) == [("", half)]
    assert made.take(9, 0, fitting=True) == []
    assert told(made.take(9, 1, fitting=True)) == [("ann", 1)]


def test_a_request_put_back_is_the_next_of_its_queue_and_delays_no_other_queue() -> None:
    made = queues(("bob", 1), ("ann", 50), ("cid", 8), ("ann", 1), ("", 1))
    made.put_back(made.take(4, 100)[2:])
    made.add(Item("", 2))
    assert told(made.take(9, 10, fitting=True)) == [("", 2), ("cid", 8)]
    assert made.take(9, 10, fitting=True) == []
    assert told(made.take(9, 100)) == [("ann", 50), ("ann", 1)]
    assert not made


def test_lines_of_what_was_put_back_have_the_next_turns_in_the_order_in_which_they_had_them() -> None:
    made = queues(*((owner, size) for size in (1, 2, 3) for owner in ("ann", "bob", "cid")))
    taken = made.take(5, 100)
    assert told(taken) == [("ann", 1), ("ann", 2), ("ann", 3), ("bob", 1), ("bob", 2)]
    made.add(Item("ann", 4))
    made.put_back(taken)
    assert told(made.take(7, 100)) == [*told(taken[:3]), ("ann", 4), *told(taken[3:]), ("bob", 3)]


def test_however_lines_that_fit_lie_among_others_so_many_have_a_turn_at_once() -> None:
    """Each that fits would else be a reason to look at all others again."""
    made = queues(*((f"{number}", 100) for number in range(500)))
    for _ in range(800):
        made.add(Item("small", 1))
    turns = 0
    popped = made.queues.popitem

    def counted(last: bool = True) -> tuple[str, deque[Item]]:
        nonlocal turns
        turns += 1
        return popped(last=last)

    made.queues.popitem = counted  # type: ignore[method-assign]
    taken: list[Item] = []
    for calls in range(1, 5):
        taken += made.take(512, 99, fitting=True)
        assert turns <= 512 * calls
    assert TURN <= len(taken) <= 8 * TURN
    assert {item.owner for item in taken} == {"small"}


def test_lines_of_which_nothing_fits_are_looked_at_some_at_a_time() -> None:
    made = queues(*((f"{number}", 100) for number in range(1_000)), ("small", 1))
    looks = 0
    while not (found := made.take(100, 10, fitting=True)):
        looks += 1
    assert (told(found), looks) == ([("small", 1)], 10)
