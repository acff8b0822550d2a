"""Clients of v3 leases: each is granted one, attaches keys, renews it for a while, early or at the last
moment, then revokes it or lets it expire, and begins again.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from netstore.errors import Fault, Reason
from netstore.state.v3.commands import Done, LeaseGrant, LeaseGranted, LeaseRevoke, Put, PutDone
from tests.check.history import Fate
from tests.check.v3leases import Kind, LeaseCall

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from netstore.state.commands import Command
    from netstore.state.machine import Outcome
    from tests.sim.member import Member
    from tests.sim.timeline import MachineClock
    from tests.sim.world import World

LONGEST_TTL: Final = 2
"""Seconds."""

RETRY_SECONDS: Final = 0.1

JUST_BEFORE: Final = (0.0, 0.002, 0.02, 0.2)
"""How many seconds before a renewal another client renews the same lease at the same member, which may carry
out both at once.
"""


class LeaseLoad:
    """All of them, and what they were told."""

    def __init__(self, world: World, random: Random) -> None:
        self.calls: list[LeaseCall] = []
        self.world = world
        self.random = random
        self.last_id = 0

    def start(self) -> None:
        """From now on."""
        for _ in range(self.world.plan.lease_clients):
            self.world.timeline.after(self.random.random(), _Client(self).begin)


class _Client:
    """One lease at a time."""

    def __init__(self, load: LeaseLoad) -> None:
        self._load = load
        self._random = load.random
        self._id = 0
        self._ttl = 0
        self._left: list[Kind] = []
        """What is still to be asked about the lease."""
        self._renewed_at: Member | None = None
        """Where another client has just renewed the lease."""

    def begin(self) -> None:
        """Another lease."""
        load, random = self._load, self._random
        load.last_id += 1
        self._id, self._ttl = load.last_id, random.choice((1, 1, LONGEST_TTL))
        self._left = [
            Kind.GRANT,
            *[Kind.PUT] * random.randrange(1, 4),
            *[Kind.RENEW] * random.randrange(4),
            *[Kind.PUT] * random.randrange(2),
            *random.choice(((Kind.REVOKE,), (Kind.RENEW,), (), ())),
        ]
        self._step()

    def _step(self) -> None:
        load = self._load
        if load.world.workload.over:
            return
        call = LeaseCall(self._left.pop(0), self._id, load.world.timeline.now, self._ttl)
        load.calls.append(call)
        member, self._renewed_at = self._renewed_at, None
        self._ask(call, member or load.world.workload.someone())
        if call.waits:
            load.world.timeline.after(load.world.plan.patience, partial(self._give_up, call))

    def _ask(self, call: LeaseCall, member: Member) -> None:
        done = partial(self._told, call)
        if call.kind is Kind.RENEW:
            member.keep_alive(self._id, done)
            return
        command: Command
        if call.kind is Kind.GRANT:
            command = LeaseGrant(self._id, self._ttl)
        elif call.kind is Kind.REVOKE:
            command = LeaseRevoke(self._id)
        else:
            call.value = b"v%d" % len(self._load.calls)
            command = Put(b"l%d" % self._random.randrange(5), call.value, self._id)
        member.propose(partial(_given, command), partial(_answer, done))

    def _told(self, call: LeaseCall, answer: int | Fault) -> None:
        if not call.waits:
            return
        call.end(self._load.world.timeline.now, answer)
        gone = call.cause == Reason.LEASE_NOT_FOUND.cause or (call.kind is Kind.RENEW and answer == 0)
        if gone or (call.kind is Kind.GRANT and call.fate is Fate.REFUSED):
            self._left = []
        self._go_on(0.0 if call.fate is Fate.ANSWERED else RETRY_SECONDS)

    def _give_up(self, call: LeaseCall) -> None:
        if call.waits:
            call.fate = Fate.UNKNOWN
            self._go_on(0.0)

    def _go_on(self, pause: float) -> None:
        random, after = self._random.random(), self._load.world.timeline.after
        if not self._left:
            after(pause + 0.3 * random, self.begin)
        elif self._left[0] is Kind.RENEW:
            wait = pause + self._ttl * (0.1 + 1.1 * random)
            after(max(0.0, wait - self._random.choice(JUST_BEFORE)), self._renew_too)
            after(wait, self._step)
        else:
            after(pause + 0.2 * random, self._step)

    def _renew_too(self) -> None:
        """Another client renews the lease; what it is told does not matter."""
        if not self._load.world.workload.over:
            self._renewed_at = self._load.world.workload.someone()
            self._renewed_at.keep_alive(self._id, lambda _: None)


def _answer(done: Callable[[int | Fault], None], outcome: Outcome | Fault) -> None:
    assert isinstance(outcome, LeaseGranted | PutDone | Done | Fault)
    if isinstance(outcome, LeaseGranted):
        done(outcome.ttl)
    else:
        done(outcome if isinstance(outcome, Fault) else outcome.revision)


def _given(command: Command, _: MachineClock) -> Command:
    return command
