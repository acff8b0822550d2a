"""`/health` and `/version` (v2 API, section on version and health)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from netstore import __version__
from netstore.api.router import NOSNIFF, PLAIN, method_allowed
from netstore.api.v3.version import VERSION
from netstore.errors import Fault
from netstore.state.commands import QuorumGet, encode

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.net.exchange import Exchange
    from netstore.node.member import Member
    from netstore.node.timekeeper import Deadline
    from netstore.state.machine import Outcome

HEALTH_SECONDS: Final = 1.0
"""How long the read through the log may take before the member calls itself unhealthy, as etcd."""

_JSON: Final = b"Content-Type: application/json\r\n"
_SERVER: Final = b"Server: netstore/%s\r\n" % __version__.encode()
_READ: Final = encode(QuorumGet(path=b"/"))


class Version:
    """Answers `/version`: etcd's two fields; our own version is in the `Server` header line."""

    def __init__(self, member: Member) -> None:
        self._member = member

    def __call__(self, exchange: Exchange) -> None:
        if not method_allowed(exchange, b"GET"):
            return
        cluster = self._member.machine.cluster_version or "not_decided"
        body = {"etcdserver": VERSION, "etcdcluster": cluster}
        exchange.respond(200, _JSON + _SERVER, msgspec.json.encode(body))


class Health:
    """Answers `/health`: a leader is known and a read through the log comes back in time."""

    def __init__(self, member: Member, after: Callable[[float, Callable[[], None]], Deadline]) -> None:
        self._member = member
        self._after = after

    def __call__(self, exchange: Exchange) -> None:
        if not method_allowed(exchange, b"GET"):
            return
        if not self._member.leader:
            _answer(exchange, healthy=False)
            return
        check = _Check(exchange)
        check.deadline = self._after(HEALTH_SECONDS, check.late)
        self._member.propose(_READ, check.done)


class _Check:
    """One health request on its way through the log."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._answered = False
        self.deadline: Deadline | None = None
        exchange.on_gone(self._forget)

    def done(self, outcome: Outcome | Fault) -> None:
        self._finish(healthy=not isinstance(outcome, Fault))

    def late(self) -> None:
        self._finish(healthy=False)

    def _finish(self, *, healthy: bool) -> None:
        if not self._answered:
            self._forget()
            _answer(self._exchange, healthy=healthy)

    def _forget(self) -> None:
        self._answered = True
        if self.deadline is not None:
            self.deadline.cancel()


def _answer(exchange: Exchange, *, healthy: bool) -> None:
    if healthy:
        exchange.respond(200, PLAIN, b'{"health":"true"}')
    else:
        exchange.respond(503, PLAIN + NOSNIFF, b'{"health":"false"}\n')
