"""The judge of v3 leases (P6; v3 API, Lease). The log says what was asked for and in which order; from that
alone follows which leases lived at each index, and everything else is held against it:

 a. a lease ends by a revocation, or by an expiry that names its newest renewal, and by nothing else; its keys
    go with it, all of them and no others, in one revision, and no key with a lease goes in any other way;
 b. when it expires, its TTL has passed since the newest renewal was committed, by the fastest clock there is,
    and since anybody who was answered had asked for one;
 c. once nothing fails any more it expires within its TTL, by the slowest clock, and a bound;
 d. it never lives again: no client that knows of its end is told of its life by a later call;
 e. what was told happened, and what was refused did not.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum
from itertools import groupby
from math import inf
from typing import TYPE_CHECKING, NamedTuple

from netstore.errors import Fault, Reason
from netstore.state.v3 import keyvalue
from netstore.state.v3.commands import LeaseExpire, LeaseGrant, LeaseRenew, LeaseRevoke
from tests.check.history import Fate, Wrong

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from netstore.state.commands import Command
    from netstore.types import KeyChange

KEYS_FROM = b"l"
"""Keys from here on are written with a lease only."""

_EPSILON = 1e-6


class Kind(Enum):
    """What a client asks."""

    GRANT = "grant"
    RENEW = "renew"
    REVOKE = "revoke"
    PUT = "put"


class Step(NamedTuple):
    """One entry of the log: its index, when it was first seen to be committed, what it changed, and whether
    it was done and not refused.
    """

    place: int
    at: float
    command: Command
    changes: tuple[KeyChange, ...]
    done: bool


class Bounds(NamedTuple):
    """What is known of clocks. `late` is in seconds, beyond the TTL, for leases that end after `calm_since`;
    None when it never was calm.
    """

    slowest: float
    fastest: float
    late: float
    calm_since: float | None


@dataclass(slots=True, eq=False)
class LeaseCall:
    """One call, from `called` to `returned` in seconds of true time."""

    kind: Kind
    lease: int
    called: float
    ttl: int = 0
    """That was asked for, of a grant."""
    value: bytes = b""
    """Of a put; no other call writes it."""
    returned: float = inf
    fate: Fate = Fate.OPEN
    answer: int = 0
    """The TTL that a grant or a renewal told, 0 for no such lease; of the others, the revision."""
    cause: bytes = b""
    """Why it was refused."""

    @property
    def waits(self) -> bool:
        """Nobody has answered and nobody has given up."""
        return self.fate is Fate.OPEN

    def end(self, at: float, answer: int | Fault) -> None:
        """The answer came."""
        if isinstance(answer, Fault):
            self.cause = answer.cause
            self.fate = Fate.REFUSED if answer.outcome_known else Fate.UNKNOWN
        else:
            self.fate, self.answer = Fate.ANSWERED, answer
        if self.fate is not Fate.UNKNOWN:
            self.returned = at


@dataclass(slots=True)
class _Lease:
    ttl: int
    since: int
    since_at: float
    keys: set[bytes] = field(default_factory=set)
    renewals: int = 0


class _End(NamedTuple):
    place: int
    at: float
    expired: bool
    lease: _Lease


def judge(calls: Sequence[LeaseCall], steps: Iterable[Step], bounds: Bounds) -> Counter[str]:
    """How many leases were granted, renewed, revoked and expired. Wrong when a promise was broken."""
    table = _Table(bounds)
    for step in steps:
        table.take(step)
    _writes(calls, table)
    by_lease: dict[int, list[LeaseCall]] = {}
    for call in calls:
        by_lease.setdefault(call.lease, []).append(call)
    for id_, asked in by_lease.items():
        _clients(id_, asked, table, bounds)
    return table.counts


class _Table:
    """Which leases lived, by the log."""

    def __init__(self, bounds: Bounds) -> None:
        self.alive: dict[int, _Lease] = {}
        self.ended: dict[int, _End] = {}
        self.values: dict[bytes, int] = {}
        """What was written with a lease, and at which revision."""
        self.counts: Counter[str] = Counter()
        self._bounds = bounds
        self._holders: dict[bytes, int] = {}

    def take(self, step: Step) -> None:
        """The next entry of the log."""
        command = step.command
        gone: list[_Lease] = []
        done = True
        if isinstance(command, LeaseGrant):
            done = command.id not in self.alive
            if step.done and command.id in self.ended:
                raise Wrong(f"lease {command.id} lives again at {step.place}: {self.ended[command.id]}")
            if done:
                self.alive[command.id] = _Lease(command.ttl, step.place, step.at)
                self.counts["granted"] += 1
        elif isinstance(command, LeaseRenew):
            lease = self.alive.get(command.id)
            done = lease is not None
            if lease is not None:
                lease.since, lease.since_at = step.place, step.at
                lease.renewals += 1
                self.counts["renewed"] += 1
        elif isinstance(command, LeaseRevoke):
            done = command.id in self.alive
            if done:
                gone.append(self._end(command.id, step, expired=False))
        elif isinstance(command, LeaseExpire):
            for id_, since in command.leases:
                lease = self.alive.get(id_)
                if lease is not None and lease.since == since:
                    self._in_time(id_, lease, step)
                    gone.append(self._end(id_, step, expired=True))
        else:
            self._write(step)
            return
        if step.done != done:
            raise Wrong(f"{'done' if step.done else 'refused'}, against the log before it: {step}")
        self._gone(step, gone)

    def _in_time(self, id_: int, lease: _Lease, step: Step) -> None:
        bounds = self._bounds
        lived = step.at - lease.since_at
        if lived < lease.ttl / bounds.fastest - _EPSILON:
            raise Wrong(f"lease {id_} expired after {lived} s, at {step.place}: {lease}")
        if bounds.calm_since is not None:
            latest = max(lease.since_at, bounds.calm_since) + lease.ttl / bounds.slowest + bounds.late
            if step.at > latest:
                raise Wrong(f"lease {id_} expired at {step.at} s, not before {latest} s: {lease}")

    def _end(self, id_: int, step: Step, *, expired: bool) -> _Lease:
        lease = self.alive.pop(id_)
        self.ended[id_] = _End(step.place, step.at, expired, lease)
        self.counts["expired" if expired else "revoked"] += 1
        return lease

    def _gone(self, step: Step, gone: list[_Lease]) -> None:
        wanted = [[(key, True) for key in sorted(lease.keys)] for lease in gone if lease.keys]
        found = [
            [(change.key, change.deleted) for change in changes]
            for _, changes in groupby(step.changes, key=lambda change: change.revision)
        ]
        if found != wanted:
            raise Wrong(f"the end of leases took {found}, not {wanted}: {step}")
        for lease in gone:
            for key in lease.keys:
                del self._holders[key]

    def _write(self, step: Step) -> None:
        for change in step.changes:
            if change.key < KEYS_FROM:
                continue
            if change.deleted:
                raise Wrong(f"{change.key!r} went without its lease: {step}")
            written = keyvalue.decode(change.pair)
            lease = self.alive.get(written.lease)
            if lease is None:
                raise Wrong(f"written with lease {written.lease}, which does not live: {step}")
            if written.value in self.values:
                raise Wrong(f"{written.value!r} was written twice: {step}")
            self.values[written.value] = change.revision
            before = self._holders.get(change.key)
            if before is not None:
                self.alive[before].keys.discard(change.key)
            self._holders[change.key] = written.lease
            lease.keys.add(change.key)


def _writes(calls: Sequence[LeaseCall], table: _Table) -> None:
    asked = {call.value: call for call in calls if call.kind is Kind.PUT}
    for value, revision in table.values.items():
        call = asked.get(value)
        if call is None or call.fate is Fate.REFUSED:
            raise Wrong(f"nobody asked for {value!r} at revision {revision}: {call}")
    for call in asked.values():
        if call.fate is Fate.ANSWERED and table.values.get(call.value) != call.answer:
            raise Wrong(f"told of a write at another revision than {table.values.get(call.value)}: {call}")


def _clients(id_: int, calls: list[LeaseCall], table: _Table, bounds: Bounds) -> None:
    """What was told of one lease."""
    end = table.ended.get(id_)
    lease = end.lease if end is not None else table.alive.get(id_)
    told = [call for call in calls if call.fate is Fate.ANSWERED]
    starts = [call for call in told if call.kind in {Kind.GRANT, Kind.RENEW} and call.answer]
    if starts and lease is None:
        raise Wrong(f"told of lease {id_}, which never was: {starts}")
    if lease is None:
        return
    if sum(call.kind is Kind.RENEW for call in starts) > lease.renewals:
        raise Wrong(f"told of more renewals of lease {id_} than there were: {lease}, {starts}")
    for call in starts:
        if call.answer != lease.ttl:
            raise Wrong(f"told of another TTL than {lease.ttl}: {call}")
        if end is not None and end.expired and end.at < call.called + lease.ttl / bounds.fastest - _EPSILON:
            raise Wrong(f"lease {id_} expired at {end.at} s in spite of {call}")
    dead = min((call.returned for call in calls if _tells_of_end(call, starts)), default=inf)
    if dead < inf and end is None:
        raise Wrong(f"lease {id_} was told to have ended, and lives: {lease}")
    for call in told:
        if call.called > dead and call.answer:
            raise Wrong(f"lease {id_} was known to have ended at {dead} s, and lives again: {call}")


def _tells_of_end(call: LeaseCall, starts: list[LeaseCall]) -> bool:
    """Whether the client knows from it that the lease has ended: it had been told before that it lives."""
    if call.fate is Fate.ANSWERED and call.kind is Kind.REVOKE:
        return True
    missing = (call.fate is Fate.ANSWERED and call.kind is Kind.RENEW and not call.answer) or (
        call.fate is Fate.REFUSED and call.cause == Reason.LEASE_NOT_FOUND.cause
    )
    return missing and any(start.returned <= call.called for start in starts)
