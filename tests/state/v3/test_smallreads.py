"""Which reads are answered in one call."""

from __future__ import annotations

from netstore.state.v3 import smallreads
from netstore.state.v3.commands import (
    Found,
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
