"""What several of these tests begin with."""

from __future__ import annotations

import pytest

from netstore.watch import slices
from netstore.watch.streams import Selection, Stream
from tests.support.v3watching import (
    Sink,
    Store,
)

SLICE_WATCHES = slices.SLICE_WATCHES


@pytest.fixture
def crowd() -> tuple[Store, Stream, Sink]:
    """One stream with four slices of watches of one key."""
    store = Store()
    stream, sink = store.open()
    for _ in range(4 * SLICE_WATCHES):
        stream.create(Selection(b"a", b""))
    sink.take()
    return store, stream, sink
