"""Where events are cut into responses."""

from __future__ import annotations

from netstore.state.v3.commands import Put, Txn
from netstore.watch import slices
from tests.support.v3watching import (
    ALL,
    Store,
    told,
)

SLICE_WATCHES = slices.SLICE_WATCHES


def test_large_batches_are_cut_between_revisions() -> None:
    store = Store()
    stream, sink = store.open()
    stream.create(ALL)
    sink.take()
    value = b"v" * 400_000
    store.apply(*[Txn((), (Put(b"a", value), Put(b"b", value))) for _ in range(4)])
    sent = sink.take()
    assert [[event[0] for event in told(response)] for response in sent] == [[2, 2, 3, 3], [4, 4, 5, 5]]
    assert [response.revision for response in sent] == [3, 5]


def test_a_large_revision_is_fragmented_for_watches_that_ask_for_it() -> None:
    store = Store()
    stream, sink = store.open()
    stream.create(ALL, fragment=True)
    stream.create(ALL)
    sink.take()
    value = b"v" * 700_000
    store.apply(Txn((), tuple(Put(b"%d" % number, value) for number in range(5))))
    sent = sink.take()
    assert [(response.watch_id, response.fragment) for response in sent] == [
        (0, True),
        (0, True),
        (0, False),
        (1, False),
    ]
    assert [len(list(told(response))) for response in sent] == [2, 2, 1, 5]
    assert {response.revision for response in sent} == {2}


def test_one_event_is_never_cut() -> None:
    store = Store()
    stream, sink = store.open()
    stream.create(ALL, fragment=True)
    sink.take()
    store.apply(Put(b"a", b"v" * 3_000_000))
    assert [response.fragment for response in sink.take()] == [False]
