"""The judge of v3 leases judged: right histories are accepted, each spoiled one is rejected. The right ones
come from the real state machine and the real clock of leases.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
import pytest

from netstore.errors import Fault
from netstore.state.commands import encode
from netstore.state.countdown import Countdown
from netstore.state.machine import Machine
from netstore.state.v3.commands import (
    Done,
    LeaseExpire,
    LeaseGrant,
    LeaseGranted,
    LeaseRenew,
    LeaseRevoke,
    Put,
    PutDone,
)
from netstore.types import Index
from tests.check import v3leases
from tests.check.history import Fate, Wrong
from tests.check.v3leases import Bounds, Kind, LeaseCall, Step
from tests.support.local_member import memory_engine

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.state.commands import Command

HISTORIES: Final = 40
LATE: Final = 0.5
SECONDS: Final = 8.0


class History(NamedTuple):
    """What clients were told and what the log held; all of it in calm."""

    calls: list[LeaseCall]
    steps: list[Step]

    def judge(self) -> int:
        """The verdict: how many leases ended."""
        counts = v3leases.judge(self.calls, self.steps, Bounds(1.0, 1.0, LATE, 0.0))
        return counts["expired"] + counts["revoked"]


class Store:
    """A machine, what was applied to it and when."""

    def __init__(self) -> None:
        self.machine = Machine(memory_engine())
        self.clock = Countdown(self.machine.leases)
        self.steps: list[Step] = []

    def apply(self, now: float, command: Command) -> int | Fault:
        """What a client is told."""
        machine = self.machine
        place = Index(machine.applied + 1)
        outcome = machine.apply(place, encode(command))
        self.clock.count(now)
        done = not isinstance(outcome, Fault)
        self.steps.append(Step(place, now, command, tuple(machine.take_changes()), done))
        if isinstance(outcome, LeaseGranted):
            return outcome.ttl
        assert isinstance(outcome, PutDone | Done | Fault)
        return outcome if isinstance(outcome, Fault) else outcome.revision


def history(random: Random) -> History:
    """Calls on a few leases, and the end of those whose time is up; some calls are never answered."""
    store = Store()
    calls: list[LeaseCall] = []
    last, now = 0, 0.0
    while now < SECONDS:
        now += 0.1 * random.random()
        due = store.clock.due(now)
        if due:
            store.apply(now, LeaseExpire(tuple(due)))
        kind = random.choice((Kind.GRANT, Kind.PUT, Kind.PUT, Kind.RENEW, Kind.RENEW, Kind.REVOKE))
        if kind is Kind.GRANT:
            last += 1
        elif not last or (kind is Kind.REVOKE and random.random() < 0.8):
            continue
        call = LeaseCall(kind, max(1, last - random.randrange(3)) if kind is not Kind.GRANT else last, now, 1)
        if kind is Kind.PUT:
            call.value = b"v%d" % len(calls)
        calls.append(call)
        answer = store.apply(now + 0.001, _command(call, random))
        if kind is Kind.RENEW and isinstance(answer, Fault):
            answer = 0
        now += 0.002
        if random.random() < 0.05:
            call.fate = Fate.UNKNOWN
        else:
            call.end(now, answer)
    while any(store.machine.leases):
        now += 0.1
        due = store.clock.due(now)
        if due:
            store.apply(now, LeaseExpire(tuple(due)))
    return History(calls, store.steps)


def _command(call: LeaseCall, random: Random) -> Command:
    if call.kind is Kind.GRANT:
        return LeaseGrant(call.lease, call.ttl)
    if call.kind is Kind.RENEW:
        return LeaseRenew(call.lease)
    if call.kind is Kind.REVOKE:
        return LeaseRevoke(call.lease)
    return Put(b"l%d" % random.randrange(5), call.value, call.lease)


def test_right_histories_are_accepted() -> None:
    assert all(history(Random(seed)).judge() > 3 for seed in range(HISTORIES))  # noqa: S311 - repeatable


def _place(random: Random, found: History, kind: type, *, keys: bool = False) -> int | None:
    places = [
        place
        for place, step in enumerate(found.steps)
        if isinstance(step.command, kind) and step.done and (step.changes or not keys)
    ]
    return random.choice(places) if places else None


def _answered(random: Random, found: History, kind: Kind) -> LeaseCall | None:
    calls = [c for c in found.calls if c.kind is kind and c.fate is Fate.ANSWERED and c.answer]
    return random.choice(calls) if calls else None


def ends_early(random: Random, found: History) -> bool:
    """An expiry a little before its time."""
    place = _place(random, found, LeaseExpire)
    if place is None:
        return False
    found.steps[place] = found.steps[place]._replace(at=found.steps[place].at - 0.5)
    return True


def ends_late(random: Random, found: History) -> bool:
    place = _place(random, found, LeaseExpire)
    if place is None:
        return False
    found.steps[place] = found.steps[place]._replace(at=found.steps[place].at + 1 + LATE)
    return True


def ends_in_spite_of_a_renewal(random: Random, found: History) -> bool:
    """The expiry names a renewal that is not the newest, and takes the keys all the same."""
    place = _place(random, found, LeaseExpire, keys=True)
    if place is None:
        return False
    command = found.steps[place].command
    assert isinstance(command, LeaseExpire)
    older = tuple((id_, since - 1) for id_, since in command.leases)
    found.steps[place] = found.steps[place]._replace(command=LeaseExpire(older))
    return True


def keeps_a_key(random: Random, found: History) -> bool:
    place = _place(random, found, LeaseExpire, keys=True)
    if place is None:
        return False
    found.steps[place] = found.steps[place]._replace(changes=found.steps[place].changes[1:])
    return True


def takes_two_revisions(random: Random, found: History) -> bool:
    for place, step in enumerate(found.steps):
        if isinstance(step.command, LeaseRevoke) and len(step.changes) > 1:
            first, *rest = step.changes
            early = msgspec.structs.replace(first, revision=first.revision - 1)
            found.steps[place] = step._replace(changes=(early, *rest))
            return True
    return False


def takes_a_key_at_random(random: Random, found: History) -> bool:
    """A key with a lease is deleted by another command."""
    place = _place(random, found, Put)
    if place is None:
        return False
    step = found.steps[place]
    gone = msgspec.structs.replace(step.changes[0], deleted=True)
    found.steps[place] = step._replace(changes=(*step.changes, gone))
    return True


def lives_again(random: Random, found: History) -> bool:
    """A lease that has ended is granted once more."""
    place = _place(random, found, LeaseGrant)
    if place is None:
        return False
    found.steps.append(found.steps[place]._replace(place=found.steps[-1].place + 1, at=SECONDS + 5))
    return True


def is_renewed_after_its_end(random: Random, found: History) -> bool:
    """Somebody is told so who had been told of the end."""
    dead = [c for c in found.calls if c.kind is Kind.RENEW and c.fate is Fate.ANSWERED and not c.answer]
    if not dead:
        return False
    call = random.choice(dead)
    more = LeaseCall(Kind.RENEW, call.lease, call.returned + 0.5, returned=call.returned + 0.6)
    more.fate, more.answer = Fate.ANSWERED, 1
    found.calls.append(more)
    return True


def renewal_is_lost(random: Random, found: History) -> bool:
    """A renewal was acknowledged and is not in the log."""
    call = _answered(random, found, Kind.RENEW)
    if call is None or any(
        c.lease == call.lease and c.kind is Kind.RENEW and c.fate is Fate.UNKNOWN for c in found.calls
    ):
        return False
    for place, step in enumerate(found.steps):
        if step.command == LeaseRenew(call.lease) and call.called <= step.at <= call.returned:
            del found.steps[place]
            return True
    return False


def write_is_lost(random: Random, found: History) -> bool:
    call = _answered(random, found, Kind.PUT)
    if call is not None:
        call.answer += 1
    return call is not None


def refused_write_happened(random: Random, found: History) -> bool:
    call = _answered(random, found, Kind.PUT)
    if call is not None:
        call.fate, call.cause = Fate.REFUSED, b"refused"
    return call is not None


def other_ttl(random: Random, found: History) -> bool:
    call = _answered(random, found, Kind.GRANT)
    if call is not None:
        call.answer += 1
    return call is not None


@pytest.mark.parametrize(
    "spoil",
    [
        ends_early,
        ends_late,
        ends_in_spite_of_a_renewal,
        keeps_a_key,
        takes_two_revisions,
        takes_a_key_at_random,
        lives_again,
        is_renewed_after_its_end,
        renewal_is_lost,
        write_is_lost,
        refused_write_happened,
        other_ttl,
    ],
)
def test_what_is_spoiled_is_rejected(spoil: Callable[[Random, History], bool]) -> None:
    rejected = 0
    for seed in range(HISTORIES):
        random = Random(seed)  # noqa: S311 - repeatable
        found = history(random)
        if spoil(random, found):
            with pytest.raises(Wrong):
                found.judge()
            rejected += 1
    assert rejected > HISTORIES // 4
