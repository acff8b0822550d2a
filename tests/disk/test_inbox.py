"""Jobs are done once and in order, whichever side takes them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from tests.disk.devices import found_fast

if TYPE_CHECKING:
    from netstore.runqueue import RunQueue
    from tests.disk.devices import Disk


def test_held_writes_keep_their_order_while_the_writer_wakes_and_sleeps(disk: Disk) -> None:
    """Both sides take jobs: each job is done once, and never two at the same time."""
    busy = threading.Lock()
    put = disk.device._put

    def alone(group: list[Any], queue: RunQueue) -> OSError | None:
        assert busy.acquire(blocking=False), "two threads write"
        try:
            return put(group, queue)
        finally:
            busy.release()

    disk.device._put = alone  # type: ignore[method-assign]
    found_fast(disk)
    for number in range(2_000):
        disk.write("a", b"%05d" % number, held=number % 3 > 0)
        if number % 3:
            disk.device.release()
        if number % 7 == 0:
            disk.settle()
    assert set(disk.settle()) == {None}
    assert disk.content("a") == b"".join(b"%05d" % number for number in range(2_000))
