"""The log of changes in memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.state.v3 import index
from netstore.state.v3.index import NUMBER_BITS, ChangeLog


@given(
    st.lists(
        st.tuples(st.sampled_from(["add", "add", "add", "forget"]), st.integers(0, 5), st.booleans()),
        max_size=120,
    )
)
def test_it_is_what_a_plain_list_is(steps: list[tuple[str, int, bool]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "_BLOCK_BITS", 2)
        patch.setattr(index, "_BLOCK", 4)
        log = ChangeLog()
        twin: list[tuple[int, bytes]] = []
        first, revision, number = 0, 1, 0
        for step, value, is_same in steps:
            if step == "forget":
                first = min(len(twin), first + value)
                log.forget(first)
            else:
                revision, number = (revision, number + 1) if is_same else (revision + 1 + value, 0)
                place = revision << NUMBER_BITS | number
                log.add(place, b"%d" % place)
                twin.append((place, b"%d" % place))
            assert (log.first, log.end) == (first, len(twin))
            assert log.newest == (twin[-1][0] if len(twin) > first else 0)
            assert sum(len(block.keys) for block in log._blocks) < len(twin) - first + 4
        revisions = [place >> NUMBER_BITS for place, _ in twin]
        for at in range(first, len(twin)):
            assert (log.place(at), log.key(at), log.revision(at)) == (*twin[at], revisions[at])
            assert log.after(at) == at + sum(each == revisions[at] for each in revisions[at:])
            for end in range(at, len(twin) + 1):
                assert log.keys(at, end) == [key for _, key in twin[at:end]]
        for wanted in range(revision + 2):
            older = sum(each < wanted for each in revisions)
            assert log.find(wanted) == max(first, older)


def test_to_forget_some_moves_nothing_of_what_stays() -> None:
    log = ChangeLog()
    for number in range(50_000):
        log.add((number + 1) << NUMBER_BITS, b"k")
    kept = [id(block) for block in log._blocks]
    for before in range(200, 30_000, 200):
        log.forget(before)
        assert [id(block) for block in log._blocks] == kept[-len(log._blocks) :]
        assert all(len(block.keys) <= index._BLOCK for block in log._blocks)
    assert len(log._blocks) == len(kept) - 30_000 // index._BLOCK


@pytest.mark.parametrize("together", [1, 3, 4, 9])
def test_changes_that_are_appended_together_are_as_one_by_one(
    together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "_BLOCK_BITS", 2)
    monkeypatch.setattr(index, "_BLOCK", 4)
    places = [revision << NUMBER_BITS | number for revision in range(1, 10) for number in (0, 2, 5)]
    keys = [b"%d" % place for place in places]
    one, other = ChangeLog(), ChangeLog()
    for place, key in zip(places, keys, strict=True):
        one.add(place, key)
    for start in range(0, len(places), together):
        other.extend(places[start : start + together], keys[start : start + together])
        assert other.newest == places[min(start + together, len(places)) - 1]
    assert (other.end, other.columns(), other.keys(0, other.end)) == (one.end, one.columns(), keys)
    assert [len(block.keys) for block in other._blocks] == [len(block.keys) for block in one._blocks]
