"""Clients of the v3 keys: each asks, waits, thinks and asks again, beside those of the v2 tree. Every value
is written by one call only. Compactions are part of the load.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from netstore.errors import Fault
from netstore.state.v3.commands import EQUAL, VALUE, Compact, Compare, DeleteRange, Put, Range, Txn
from tests.check.history import Fate
from tests.check.pairs import PairCall

if TYPE_CHECKING:
    from random import Random

    from netstore.state.commands import Command
    from netstore.state.machine import Outcome
    from tests.sim.member import Member
    from tests.sim.timeline import MachineClock
    from tests.sim.world import World

RETRY_SECONDS: Final = 0.1
EVERYTHING: Final = Range(b"k", b"l")
"""All keys of this load; those of `leaseload` come behind them."""


class PairLoad:
    """All of them, and what they were told."""

    def __init__(self, world: World, random: Random) -> None:
        self.calls: list[PairCall] = []
        self._world = world
        self._random = random
        self._known: dict[bytes, bytes] = {}
        """A value each key had at some time."""

    def start(self) -> None:
        """From now on."""
        for _ in range(self._world.plan.pair_clients):
            self._later(self._random.random())

    def _later(self, seconds: float) -> None:
        self._world.timeline.after(seconds, self._step)

    def _step(self) -> None:
        load, random = self._world.workload, self._random
        if load.over:
            return
        member = load.someone()
        if random.random() < 0.05:
            self._compact(member)
            return
        call = PairCall(len(self.calls), self._command(b"p%d" % len(self.calls)), load.order())
        self.calls.append(call)
        done = partial(self._told, call)
        if isinstance(call.command, Range):
            member.read_pairs(call.command, done)
        else:
            member.propose(partial(_given, call.command), done)
        if call.waits:
            self._world.timeline.after(self._world.plan.patience, partial(self._give_up, call))

    def _command(self, value: bytes) -> Put | DeleteRange | Txn | Range:
        random, ranges = self._random, self._world.plan.pair_ranges
        if ranges and random.random() < ranges:
            return DeleteRange(EVERYTHING.key, EVERYTHING.range_end)
        key = b"k%d" % random.randrange(4)
        kind = random.random()
        if kind < 0.4:
            return Put(key, value)
        if kind < 0.5:
            return DeleteRange(key)
        if kind < 0.75:
            compare = Compare(key, target=VALUE, result=EQUAL, value=self._known.get(key, b"none"))
            return Txn((compare,), (Put(key, value),))
        return EVERYTHING

    def _compact(self, member: Member) -> None:
        if member.up:
            revision = max(1, member.machine.mvcc.revision - self._random.randrange(5))
            member.propose(partial(_given, Compact(revision)), self._compacted)
        self._later(self._world.plan.think)

    def _compacted(self, outcome: Outcome | Fault) -> None:
        self._world.reach["pair_compactions"] += not isinstance(outcome, Fault)

    def _told(self, call: PairCall, outcome: Outcome | Fault) -> None:
        if not call.waits:
            return
        call.end(self._world.workload.order(), outcome)
        answered = call.fate is Fate.ANSWERED
        self._world.reach["pair_calls_answered"] += answered
        if answered and call.written is not None:
            command = call.command if isinstance(call.command, Put) else call.command.success[0]  # type: ignore[union-attr] # only these two write
            self._known[command.key] = call.written  # type: ignore[union-attr] # and what they write has a key
        self._later(2 * self._world.plan.think * self._random.random() + (0 if answered else RETRY_SECONDS))

    def _give_up(self, call: PairCall) -> None:
        if call.waits:
            call.fate = Fate.UNKNOWN
            self._later(0)


def _given(command: Command, _: MachineClock) -> Command:
    return command
