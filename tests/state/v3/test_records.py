"""The cache of records, and records that are missing."""

from __future__ import annotations

import pytest

from netstore.errors import CorruptData
from netstore.state.tables import RECORDS
from netstore.state.v3 import records
from netstore.state.v3.commands import Put, Range
from netstore.state.v3.index import PLACE_BYTES
from netstore.state.v3.records import _Recent
from tests.state.v3.both import Both
from tests.support.local_member import memory_engine


def test_a_list_with_a_record_that_is_gone_is_not_answered() -> None:
    both = Both(Put(b"a", b"1"), Put(b"b", b"1"))
    both.save()
    both.engine.write(both.engine.applied(), {(RECORDS, (2 << 32).to_bytes(12, "big")): None})
    assert both.machine.mvcc.range(Range(b"a", b"\0")) == both.twin.range(Range(b"a", b"\0")), "remembered"
    both.machine.mvcc._records._recent = _Recent()
    with pytest.raises(CorruptData, match="there is no such record"):
        both.machine.mvcc.range(Range(b"a", b"\0"))


def test_the_cache_of_records_is_bounded_and_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "RECENT_BYTES", 3_000)
    both = Both()
    for number in range(100):
        both.apply(Put(b"%02d" % number, bytes(number)))
        both.save()
    store = both.machine.mvcc
    for query in (
        Range(b"0", b"\0"),
        Range(b"0", b"1"),
        Range(b"42"),
        Range(b"0", b"\0", revision=50),
        Range(b"5", b"6"),
        Range(b"0", b"1"),
    ):
        assert store.range(query) == both.twin.range(query)
        recent = store._records._recent
        for generation in (recent.young, recent.old):
            assert sum(map(len, generation.values())) <= 3_000
    assert store._records._recent.young
    assert store._records._recent.old


def test_a_record_that_is_gone_is_named_and_not_answered() -> None:
    both = Both()
    both.apply(Put(b"a", b"1"))
    both.save()
    both.engine.write(both.engine.applied(), {(RECORDS, (2 << 32).to_bytes(12, "big")): None})
    both.machine.mvcc._records._recent = _Recent()
    with pytest.raises(CorruptData, match="there is no such record"):
        both.machine.mvcc.get(b"a")


def test_reading_one_key_again_and_again_pushes_nothing_out_of_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(records, "RECENT_BYTES", 10_000)
    kept = records.Records(memory_engine())
    for place in range(2, 12, 2):
        kept.add([place], [b"%0100d" % place])
    for _ in range(1_000):
        assert kept.get(2) == b"%0100d" % 2
    assert len(kept._recent.young) == 5


@pytest.mark.parametrize("together", [1, 3, 50])
def test_what_is_written_together_is_kept_as_one_by_one(
    together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "RECENT_BYTES", 1_000)
    kept = records.Records(memory_engine())
    places = list(range(2, 102, 2))
    for start in range(0, 50, together):
        some = places[start : start + together]
        kept.add(some, [b"%0100d" % place for place in some])
        assert kept._recent.room >= 0
    assert kept.size == 50 * (100 + PLACE_BYTES)
    assert [place in kept._recent.young or place in kept._recent.old for place in places[-5:]] == [True] * 5
    assert len(kept._recent.young) + len(kept._recent.old) <= 10
    assert kept.stored(places) == [b"%0100d" % place for place in places]
    unsaved = kept.take_unsaved()
    assert [key for _, key in unsaved] == [place.to_bytes(PLACE_BYTES, "big") for place in places]
