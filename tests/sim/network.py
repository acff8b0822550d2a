"""The network between members: loses, delays, reorders, repeats, parts, clogs.

Messages are handed over as they are (they are never changed after sending) or, in some runs, through their
byte form. A `Forward` is never repeated: the stream between two members delivers a frame at most once, and a
proposal that arrived twice would be applied twice.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from netstore.raft.encoding import decode_message, encode_message
from netstore.raft.messages import Forward, InstallSnapshot

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterable, Sequence
    from random import Random

    from netstore.raft.messages import Message
    from netstore.types import NodeId
    from tests.sim.plan import Plan
    from tests.sim.timeline import Timeline

CLOGGED: float = 3.0
"""Most seconds a message is held up on a clogged path."""


class Network:
    """Carries messages. `deliver` takes one at its receiver, `lost` hears of those that will not arrive."""

    def __init__(
        self,
        timeline: Timeline,
        random: Random,
        plan: Plan,
        reach: Counter[str],
        *,
        deliver: Callable[[Message], None],
        lost: Callable[[Message], None],
    ) -> None:
        self._timeline = timeline
        self._random = random
        self._deliver = deliver
        self._lost = lost
        self._reach = reach
        self._delay = plan.delay
        self._loss = plan.loss
        self._repeat = plan.repeat
        self._in_order = plan.in_order
        self._bytes = plan.byte_form
        self._cut: set[tuple[NodeId, NodeId]] = set()
        self._clogged: set[tuple[NodeId, NodeId]] = set()
        self._arrival: dict[tuple[NodeId, NodeId], float] = {}

    def cut(self, pairs: Iterable[tuple[NodeId, NodeId]]) -> None:
        """From now on nothing goes from the first to the second of each pair, and everything else goes."""
        self._cut = set(pairs)

    def clog(self, pairs: Iterable[tuple[NodeId, NodeId]]) -> None:
        """Hold up what goes from the first to the second of each pair, and nothing else."""
        self._clogged = set(pairs)

    def heal(self) -> None:
        """No fault from now on; what is under way keeps its delay."""
        self._cut, self._clogged = set(), set()
        self._loss = self._repeat = 0.0

    def passes(self, sender: NodeId, to: NodeId) -> bool:
        """Whether anything goes this way now."""
        return (sender, to) not in self._cut

    def send(self, messages: Sequence[Message]) -> None:
        """Put messages on their way."""
        random = self._random.random
        for message in messages:
            way = (message.sender, message.to)
            if way in self._cut or (self._loss and random() < self._loss):
                self._reach["messages_lost"] += 1
                self._lost(message)
                continue
            delay = self._delay * (0.5 + random())
            if random() < 0.02:
                delay *= 10
            if way in self._clogged:
                delay += CLOGGED * random()
            if self._in_order:
                arrival = max(self._arrival.get(way, 0.0), self._timeline.now + delay)
                self._arrival[way] = arrival
                delay = arrival - self._timeline.now
            self._timeline.after(delay, partial(self._arrive, message))
            if (
                self._repeat
                and random() < self._repeat
                and not isinstance(message, Forward | InstallSnapshot)
            ):
                self._reach["messages_repeated"] += 1
                self._timeline.after(delay + 20 * self._delay * random(), partial(self._arrive, message))

    def _arrive(self, message: Message) -> None:
        if (message.sender, message.to) in self._cut:
            self._reach["messages_lost"] += 1
            self._lost(message)
        else:
            self._deliver(decode_message(encode_message(message)) if self._bytes else message)
