"""`/health` and `/version` (v2 API, section on version and health)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from netstore import __version__
from netstore.api.checks import SharedQuestion, query_values
from netstore.api.http.responses import JSON, NOSNIFF, json_line, method_allowed
from netstore.api.v3.version import VERSION
from netstore.net.exchange import PLAIN
from netstore.node.member import OWN
from netstore.state.commands import encode
from netstore.state.v2.commands import QuorumGet
from netstore.state.v3.commands import CORRUPT, NOSPACE

if TYPE_CHECKING:
    from collections.abc import Collection

    from netstore.net.exchange import Exchange
    from netstore.node.member import Member
    from netstore.seams import After

HEALTH_SECONDS: Final = 1.0
"""Time limit of the read through the log; the member is unhealthy if it takes longer."""

ALARMS: Final = {NOSPACE: b"NOSPACE", CORRUPT: b"CORRUPT"}
"""The kinds of alarms and their names in a query."""

_SERVER: Final = b"Server: netstore/%s\r\n" % __version__.encode()
_READ: Final = encode(QuorumGet(path=b"/"))


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

    Each `exclude` in the query names an alarm that is ignored. With `serializable=true` only the alarms and
    this member count, whether or not there is a leader. A query of more than `MAX_PAIRS` pairs is ignored.
    """

    def __init__(self, member: Member, after: After) -> None:
        self._member = member
        self.well = 0
        """Checks that found the member healthy."""
        self.unwell = 0
        """Checks that did not."""
        self._log_read = SharedQuestion(
            member, after, HEALTH_SECONDS, "the log", lambda done: member.propose(_READ, done, OWN)
        )

    def __call__(self, exchange: Exchange) -> None:
        self._check(exchange, takes_fresh=False)

    def answer_probe(self, exchange: Exchange) -> None:
        """Answer at a port that asks nobody for a certificate: with a read of another check if that is
        fresh, so that whoever asks causes at most a few entries of the log each second.
        """
        self._check(exchange, takes_fresh=True)

    def _check(self, exchange: Exchange, *, takes_fresh: bool) -> None:
        if not method_allowed(exchange, b"GET"):
            return
        query = query_values(exchange.request.query)
        alarms = raised_alarms(self._member, query.get(b"exclude", ()))
        if alarms:
            self._answer(exchange, "; ".join(f"ALARM {name}" for name in alarms))
        elif query.get(b"serializable", [b""])[0] == b"true":
            self._answer(exchange, "")
        elif not self._member.leader:
            self._answer(exchange, "RAFT NO LEADER")
        else:
            self._log_read.put(
                exchange,
                lambda reason: self._answer(exchange, reason and f"RANGE ERROR:{reason}"),
                takes_fresh=takes_fresh,
            )

    def _answer(self, exchange: Exchange, reason: str) -> None:
        """Without a reason the member is healthy. The reason is there in either case, as in etcd from 3.5
        on.
        """
        if reason:
            self.unwell += 1
            document = {"health": "false", "reason": reason}
            exchange.respond(503, PLAIN + NOSNIFF, json_line(document))
        else:
            self.well += 1
            exchange.respond(200, PLAIN, b'{"health":"true","reason":""}')


def raised_alarms(member: Member, excluded: Collection[bytes] = ()) -> list[str]:
    """The names of the alarms that are raised, of any member, without the `excluded`."""
    kinds = sorted({kind for _, kind in member.machine.alarms.active})
    return [ALARMS[kind].decode() for kind in kinds if ALARMS[kind] not in excluded]
