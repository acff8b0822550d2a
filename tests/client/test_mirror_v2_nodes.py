"""Which new connections to a source of a v2 mirror are a break."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import trio
from trio.testing import MockClock

from netstore.client.mirror import Proof
from netstore.client.mirror_v2_nodes import BREAK_SECONDS, Source

LATE = 2 * BREAK_SECONDS


class Waiting:
    """A poll that nothing comes of."""

    async def event(self, limit: float) -> None:
        await trio.sleep(limit)  # fixed: of a clock that is made up


def test_an_answer_over_a_new_connection_is_a_break_unless_the_source_was_heard_just_before() -> None:
    transport = SimpleNamespace(connections=0)
    client: Any = SimpleNamespace(transport=transport)
    poll: Any = Waiting()

    async def work() -> None:
        source = Source(client, may_go_back=False)

        def is_break(*, is_new: bool) -> bool:
            proof = Proof(lambda: source.breaks)
            transport.connections += is_new
            source.check("")
            return not proof.holds

        assert is_break(is_new=True), "the first one"
        await trio.sleep(600)  # fixed: of a clock that is made up
        assert not is_break(is_new=False), "the same connection"
        await trio.sleep(BREAK_SECONDS / 2)  # fixed: same
        assert not is_break(is_new=True)
        await trio.sleep(LATE)  # fixed: same
        assert is_break(is_new=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(source.event, poll, 600)
            await trio.sleep(LATE)  # fixed: same
            assert not is_break(is_new=True), "a poll is open"
        assert not is_break(is_new=True), "one was, just before"
        await source.event(poll, 5)
        await trio.sleep(300)  # fixed: as while a write waits for the target
        assert is_break(is_new=True), "the time is that at which the poll ended"

    trio.run(work, clock=MockClock(autojump_threshold=0))
