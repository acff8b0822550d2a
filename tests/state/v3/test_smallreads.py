"""Which reads are answered in one call."""

from __future__ import annotations

from netstore.state.v3 import keyvalue, smallreads
from netstore.state.v3.commands import (
    Found,
    LeaseGrant,
    Range,
)
from tests.state.v3.reading import ALL, Store


def test_a_list_out_of_memory_is_read_at_once_and_one_from_the_disk_in_steps() -> None:
    store = Store()
    keys = smallreads._MOST_FAR + 1
    for number in range(keys):
        store.machine.mvcc.put(b"%06d" % number, b"", 0)
        store.machine.mvcc.finish()
    store.machine.take_changes()
    store.machine.save()
    found = store.machine.mvcc.read_small(Range(*ALL))
    assert isinstance(found, Found)
    assert len(found.kvs) == keys
    recent = store.machine.mvcc._records._recent
    recent.old, recent.young = recent.young, {}
    assert isinstance(store.machine.mvcc.read_small(Range(*ALL)), Found)
    recent.old, recent.young = {}, {}
    assert store.machine.mvcc.read_small(Range(*ALL)) is None
    assert isinstance(store.machine.mvcc.read_small(Range(*ALL, limit=keys - 1)), Found)


def test_a_list_without_values_reads_no_record_and_its_size_is_that_of_the_keys() -> None:
    store = Store()
    store.apply(LeaseGrant(7, 60))
    mvcc = store.machine.mvcc
    for number in range(3):
        for value in (b"first", b"v" * (smallreads.SMALL_BYTES // 2)):
            mvcc.put(b"%d" % number, value, 7 if number == 1 else 0)
            mvcc.finish()
    records = [mvcc.pair(item.at) for item in map(mvcc._index.items.get, (b"0", b"1", b"2")) if item]
    mvcc._records._recent.young.clear()
    mvcc._records._unsaved.clear()
    found = mvcc.read_small(Range(*ALL, keys_only=True, limit=2))
    assert isinstance(found, Found)
    assert found.kvs == [keyvalue.without_value(record) for record in records[:2]]
    assert found.more
    assert found.count == 3
    assert mvcc.read_small(Range(*ALL)) is None
    for number in range(3):
        mvcc.put(b"%d" % number + b"k" * (smallreads.SMALL_BYTES // 2), b"", 0)
        mvcc.finish()
    assert mvcc.read_small(Range(*ALL, keys_only=True)) is None
