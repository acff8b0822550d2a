"""What a mirror keeps is bounded, in its order, and lost by nothing but a call."""

from __future__ import annotations

import random

import pytest
import trio
import trio.testing

from netstore.client import mirror_pending
from netstore.client.mirror_pending import Kept, Timed
from netstore.client.v2 import Answer, Node


def event(index: int, value: str = "v") -> Answer:
    node = Node(f"/{index}", value, nodes=(Node("/not/kept"),), modified_index=index)
    return Answer("set", node, Node("/not/kept"), index, "c")


@pytest.mark.parametrize("name", ["MOST_KEPT", "MOST_KEPT_CHARACTERS"])
def test_there_is_room_again_where_an_event_was_taken(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror_pending, name, 3)
    value = "v" if name == "MOST_KEPT" else ""
    size = 3 if name == "MOST_KEPT" else 2  # a key alone has two characters

    async def work() -> None:
        kept = Kept(4)
        assert kept.take() is None
        for number in range(size):
            assert await kept.room(0.0)
            kept.put(event(5 + number, value))
        assert kept.after == 4 + size
        assert not await kept.room(9.0)
        assert trio.current_time() == begun + 9, "it has waited for so long"

        async def take() -> None:
            await trio.sleep(5)  # fixed: by the clock of the test
            taken = kept.take()
            assert taken is not None
            assert (taken.node.key, taken.node.nodes, taken.prev_node) == ("/5", (), None)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take)
            assert await kept.room(9.0)
        assert trio.current_time() == begun + 14
        left = [taken.node.modified_index for _ in range(size - 1) if (taken := kept.take())]
        assert left == list(range(6, 5 + size))
        assert kept.take() is None
        assert kept._size == 0

    clock = trio.testing.MockClock(autojump_threshold=0)
    begun = clock.current_time()
    trio.run(work, clock=clock)


def test_when_nodes_are_looked_at() -> None:
    chance = random.Random(1)  # noqa: S311 - repeatable
    timed, twin = Timed(), dict[str, float]()
    for _ in range(3000):
        path = f"/{chance.randrange(40)}"
        if chance.random() < 0.3:
            timed.discard(path)
            twin.pop(path, None)
        else:
            twin[path] = float(chance.randrange(100))
            timed.put(path, twin[path])
            assert len(timed._heap) <= 2 * len(twin) + 101
        assert timed.next() == min(twin.values(), default=float("inf"))
        assert len(timed) == len(twin)
        if twin:
            assert twin[timed.first()] == timed.next()
