"""What waits in lines, where there is no room for all of it."""

from __future__ import annotations

from netstore.node.lines import TURN_BYTES, Lines


class Item:
    """One that waits, of so many bytes."""

    def __init__(self, owner: str, size: int) -> None:
        self.owner = owner
        self.payload = bytes(size)


def lines(*what: tuple[str, int]) -> Lines[Item]:
    made: Lines[Item] = Lines()
    for owner, size in what:
        made.add(Item(owner, size))
    return made


def told(items: list[Item]) -> list[tuple[str, int]]:
    return [(item.owner, len(item.payload)) for item in items]


def test_where_only_what_fits_is_taken_a_line_waits_and_the_others_go_on() -> None:
    made = lines(("large", 101), ("large", 1), ("ann", 40), ("bob", 40), ("cid", 40), ("ann", 20))
    assert told(made.take(9, 100, fitting=True)) == [("ann", 40), ("ann", 20), ("bob", 40)]
    assert told(made.take(9, 100, fitting=True)) == [("cid", 40)]
    assert made.take(9, 100, fitting=True) == []
    assert told(made.take(9, 100)) == [("large", 101)]
    assert told(made.take(9, 100, fitting=True)) == [("large", 1)]
    assert not made


def test_what_a_member_asks_for_itself_goes_on_where_nothing_fits() -> None:
    half = TURN_BYTES // 2
    made = lines(("ann", 1), *[("", half)] * 5)
    assert told(made.take(9, 0, fitting=True)) == [("", half)] * 2
    assert told(made.take(9, 10, fitting=True)) == [("", half)] * 2
    assert told(made.take(9, 0, fitting=True)) == [("", half)]
    assert made.take(9, 0, fitting=True) == []
    assert told(made.take(9, 1, fitting=True)) == [("ann", 1)]


def test_nothing_overtakes_what_was_put_back() -> None:
    made = lines(("ann", 50), ("ann", 1), ("bob", 1))
    made.put_back(made.take(1, 100))
    assert made.take(9, 10, fitting=True) == []
    assert told(made.take(9, 100, fitting=True)) == [("ann", 50), ("bob", 1), ("ann", 1)]


def test_lines_of_which_nothing_fits_are_looked_at_some_at_a_time() -> None:
    made = lines(*((f"{number}", 100) for number in range(1_000)), ("small", 1))
    looks = 0
    while not (found := made.take(100, 10, fitting=True)):
        looks += 1
    assert (told(found), looks) == ([("small", 1)], 10)
