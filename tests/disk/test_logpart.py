"""What tells of which log a state is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from netstore.disk.logpart import DATA_BYTES, joined, last_of, last_part, piece_of
from netstore.raft.entry import Entry, EntryKind
from netstore.state.envelope import seal
from netstore.types import Index, Term

if TYPE_CHECKING:
    from collections.abc import Sequence

    from netstore.disk.backupfile import LogPart


def entry(index: int, term: int = 1, *, wall: int = 0, data: bytes = b"") -> Entry:
    payload = seal(data, wall=wall) if wall else data
    return Entry(Index(index), Term(term), EntryKind.NORMAL, payload)


def part_of(entries: Sequence[Entry]) -> LogPart:
    """That of all of these entries."""
    return joined([piece_of(each) for each in entries])


def test_the_newest_entry_with_a_time_and_those_after_it() -> None:
    entries = [entry(1), entry(2, wall=5), entry(3, wall=6), entry(4, 2), entry(5, 3)]
    assert last_part(entries) == part_of(entries[2:])
    assert last_part(entries[:3]) == part_of(entries[2:3])
    assert last_part(entries[3:]) == part_of(entries[3:])
    assert last_part([]) is None
    found = part_of(entries[2:])
    assert (found.first, found.last, len(found.digest)) == (3, 5, 32)


@pytest.mark.parametrize(
    "other",
    [
        [entry(3, wall=7, data=b"a"), entry(4)],
        [entry(3, wall=6, data=b"b"), entry(4)],
        [entry(3, wall=6, data=b"a"), entry(4, 2)],
        [entry(3, wall=6, data=b"a"), entry(4, data=b"x")],
    ],
)
def test_another_log_has_another_digest(other: list[Entry]) -> None:
    assert part_of(other) != part_of([entry(3, wall=6, data=b"a"), entry(4)])


def test_of_a_large_entry_the_begin_and_the_size() -> None:
    data = bytes(2 * DATA_BYTES)
    assert part_of([entry(1, data=data)]) == part_of([entry(1, data=data[:-1] + b"x")])
    assert part_of([entry(1, data=data)]) != part_of([entry(1, data=data + b"x")])
    assert len(piece_of(entry(1, data=data)).data) < DATA_BYTES + 64


def test_no_more_pieces_are_taken_than_to_one_with_a_time() -> None:
    entries = [entry(3, wall=6), entry(2, wall=5)]
    rest = map(piece_of, entries)
    assert last_of(rest) == part_of(entries[:1])
    assert next(rest).at == 2
