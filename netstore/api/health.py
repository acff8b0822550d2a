"""`/health` and `/version` (v2 API, section on version and health)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec

from netstore import __version__
from netstore.admission import Admission
from netstore.api.http.percent import BadEscapeError, decode
from netstore.api.http.responses import JSON, NOSNIFF, json_line, method_allowed
from netstore.api.v2.form import MAX_PAIRS
from netstore.api.v3.version import VERSION
from netstore.errors import Fault
from netstore.guard import guarded
from netstore.net.exchange import PLAIN
from netstore.node.member import OWN
from netstore.state.commands import encode
from netstore.state.v2.commands import QuorumGet
from netstore.state.v3.commands import CORRUPT, NOSPACE

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Set as AbstractSet

    from netstore.net.exchange import Exchange
    from netstore.node.member import Member
    from netstore.seams import After, Alarm
    from netstore.state.machine import Outcome

HEALTH_SECONDS: Final = 1.0
"""Time limit of the read through the log; the member is unhealthy if it takes longer, as with etcd."""

MOST_CHECKS: Final = 250
"""Checks that may wait at the same time, of one principal half of them: they are answered in one piece of
work, about 2 ms. Others are answered at once with the last result.
"""

ALARMS: Final = {NOSPACE: b"NOSPACE", CORRUPT: b"CORRUPT"}
"""The kinds of alarms and their names in a query."""

_SERVER: Final = b"Server: netstore/%s\r\n" % __version__.encode()
_READ: Final = encode(QuorumGet(path=b"/"))
_LATE: Final = f"the log takes longer than {HEALTH_SECONDS:g} s"
_FIRST: Final = "no read through the log has come back yet"


class Version:
    """Answers `/version` with etcd's two fields; the version of netstore is in the `Server` header field."""

    def __init__(self, member: Member) -> None:
        self._member = member

    def __call__(self, exchange: Exchange) -> None:
        if not method_allowed(exchange, b"GET"):
            return
        cluster = self._member.machine.roster.cluster_version or "not_decided"
        body = {"etcdserver": VERSION, "etcdcluster": cluster}
        exchange.respond(200, JSON + _SERVER, msgspec.json.encode(body))


class Health:
    """Answers `/health`: a member is healthy if no alarm is raised, it knows a leader, and a read through the
    log completes in time.

    The read goes through the log instead of using a read index, because a member that cannot write to its
    disk is not healthy. It is proposed by the member itself, so that it does not queue behind client
    requests: a client that writes much would otherwise make its member look unhealthy, and have it restarted.
    Checks that arrive while a read is under way share it, so there is at most one in the log at a time. Each
    check waits for `HEALTH_SECONDS`. When too many wait, further checks are answered with the last result,
    until the read under way is late: many checks do not make a healthy member look unhealthy.

    Each `exclude` in the query names an alarm that is ignored; in a query of more than `MAX_PAIRS` pairs none
    is.
    """

    def __init__(self, member: Member, after: After) -> None:
        self._member = member
        self._after = after
        self._admission = Admission(MOST_CHECKS)
        self._read: _LogRead | None = None
        """The read that is under way."""
        self._found = _FIRST
        """The last result: why the member was not healthy; empty if it was."""
        self.well = 0
        """Checks that found the member healthy."""
        self.unwell = 0
        """Checks that did not."""

    def __call__(self, exchange: Exchange) -> None:
        if not method_allowed(exchange, b"GET"):
            return
        alarms = self._alarms(exchange.request.query)
        if alarms or not self._member.leader:
            self.answer(exchange, "; ".join(alarms) or "knows no leader")
            return
        if not self._admission.enter(exchange.principal):
            self.answer(exchange, _explained(self._member, self._found))
            return
        check = _Check(exchange, self._member, self._admission, self.answer)
        check.deadline = self._after(HEALTH_SECONDS, check.late)
        if self._read is not None:
            self._read.join(check)
            return
        self._read = read = _LogRead()
        read.join(check)
        read.deadline = self._after(HEALTH_SECONDS, self._late)
        try:
            self._member.propose(_READ, partial(self._done, read), OWN)
        except Exception:  # out of memory: there will be no outcome, so nobody may wait for it
            self._read = None
            read.deadline.cancel()
            raise

    def _done(self, read: _LogRead, outcome: Outcome | Fault) -> None:
        if read.deadline is not None:
            read.deadline.cancel()
        if self._read is read:
            self._read = None
        fault = outcome if isinstance(outcome, Fault) else None
        reason = "" if fault is None else fault.cause.decode("utf-8", "replace") or fault.message
        self._found = reason
        read.answer(self._member.hub.failed, reason)

    def _late(self) -> None:
        """The read under way takes too long."""
        self._found = _LATE

    def answer(self, exchange: Exchange, reason: str) -> None:
        """Answer one check. Without a reason the member is healthy. etcd 3.4 gives no reason, later versions
        do.
        """
        if reason:
            self.unwell += 1
            exchange.respond(503, PLAIN + NOSNIFF, json_line({"health": "false", "reason": reason}))
        else:
            self.well += 1
            exchange.respond(200, PLAIN, b'{"health":"true"}')

    def _alarms(self, query: bytes) -> list[str]:
        """The raised alarms that the query does not exclude."""
        return raised_alarms(self._member, _excluded(query) if query else set())


def raised_alarms(member: Member, excluded: AbstractSet[bytes] = frozenset()) -> list[str]:
    """The alarms that are raised, of any member, without those of these names."""
    kinds = sorted({kind for _, kind in member.machine.alarms.active})
    return [f"alarm {ALARMS[kind].decode()}" for kind in kinds if ALARMS[kind] not in excluded]


def _excluded(query: bytes) -> set[bytes]:
    """The values of `exclude` in a query; malformed pairs are ignored."""
    if query.count(b"&") >= MAX_PAIRS:
        return set()
    names = set()
    for pair in query.split(b"&"):
        name, _, value = pair.partition(b"=")
        try:
            if decode(name) == b"exclude":
                names.add(decode(value))
        except BadEscapeError:
            continue
    return names


class _LogRead:
    """One read through the log, with the checks that wait for it."""

    def __init__(self) -> None:
        self.deadline: Alarm | None = None
        self._checks: dict[_Check, None] = {}

    def join(self, check: _Check) -> None:
        """Add a check."""
        self._checks[check] = None
        check.among = self._checks

    def answer(self, failed: Callable[[Exception], object], reason: str) -> None:
        """The read completed: answer all checks, even if answering one of them raises."""
        for check in list(self._checks):
            guarded(failed, check.finish, reason)


class _Check:
    """One health check that waits."""

    def __init__(
        self,
        exchange: Exchange,
        member: Member,
        admission: Admission,
        answer: Callable[[Exchange, str], None],
    ) -> None:
        self._exchange = exchange
        self._answer = answer
        self._member = member
        self._admission = admission
        self.among: dict[_Check, None] = {}
        self.deadline: Alarm | None = None
        exchange.on_gone(self._forget)

    def late(self) -> None:
        """The time limit is over."""
        self.finish(_LATE)

    def finish(self, reason: str) -> None:
        """Answer once; `reason` is why the member is not healthy."""
        if self in self.among:
            self._forget()
            self._answer(self._exchange, _explained(self._member, reason))

    def _forget(self) -> None:
        if self in self.among:
            del self.among[self]
            self._admission.leave(self._exchange.principal)
        if self.deadline is not None:
            self.deadline.cancel()


def _explained(member: Member, reason: str) -> str:
    """The reason why a member is not healthy, replaced by its own problems if it has any; empty if it is
    healthy.
    """
    return ("; ".join(member.problems()) or reason) if reason else ""
