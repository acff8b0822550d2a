"""The queue of a stream."""

from __future__ import annotations

from typing import cast

import pytest

from netstore.net import http2
from netstore.net.http2 import (
    WINDOW_UPDATE,
    frame,
)
from tests.support.h2client import Wire
from tests.support.h2frames import (
    body_sent,
    setting,
    u32,
)


@pytest.mark.parametrize("left", [1, 400, 20_000, 40_000])
def test_queued_data_keeps_no_more_than_twice_its_size_in_memory(left: int) -> None:
    """A queued rest of one byte is charged as one byte, so it must not keep the whole answer."""
    answer = bytes(range(250)) * 240
    wire = Wire(hold=True)
    wire.feed(setting(http2.SET_INITIAL_WINDOW, len(answer) - left), wire.request(1))
    stream = wire.application.streams[1]
    stream.put_data(b"", answer)
    assert stream.queued == left
    assert stream._queue is not None
    (rest,) = stream._queue
    held = len(cast("bytes", rest.obj)) if isinstance(rest, memoryview) else len(rest)
    assert held <= 2 * left
    sent = body_sent(wire)
    wire.feed(frame(WINDOW_UPDATE, 0, 1, u32(left)))
    assert sent + body_sent(wire) == answer
