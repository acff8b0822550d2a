"""`/v2/stats/store`, `/v2/stats/self`, `/v2/stats/leader` (v2 API, statistics).

The traffic between members is counted by the streams, and read here through `Transport`. Rates are computed
from samples of those counters, taken once a second, so that counting a message costs one addition.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from netstore.api.http.responses import JSON, method_allowed
from netstore.api.v2.render import expiration
from netstore.raft.status import Role

if TYPE_CHECKING:
    from netstore.net.exchange import Exchange
    from netstore.node.member import Member
    from netstore.peer.traffic import RoundTrip, Traffic
    from netstore.types import NodeId

_STORE: Final = (
    "getsSuccess",
    "getsFail",
    "setsSuccess",
    "setsFail",
    "deleteSuccess",
    "deleteFail",
    "updateSuccess",
    "updateFail",
    "createSuccess",
    "createFail",
    "compareAndSwapSuccess",
    "compareAndSwapFail",
    "compareAndDeleteSuccess",
    "compareAndDeleteFail",
    "expireCount",
    "watchers",
)
"""The members of the document in etcd's order: the fields of `Statistics`, then the number of watchers."""

_NEVER: Final = "0001-01-01T00:00:00Z"
"""An unknown instant, as etcd writes it."""

_SECOND: Final = 1_000_000_000
_MILLISECOND: Final = 1_000_000
_MICROSECOND: Final = 1_000

RATE_SECONDS: Final = 2.0
"""Largest age of the samples that rates are computed from."""


class Transport(Protocol):
    """What the streams between members count (`peer.peers.Peers`)."""

    @property
    def traffic(self) -> Traffic:
        """The counters, which are updated in place."""

    def round_trip(self, peer: NodeId) -> RoundTrip:
        """The round trips to one member; all zeros if it is unknown."""


class StatsApi:
    """Answers requests for statistics at once. Only GET is allowed."""

    def __init__(self, member: Member, transport: Transport) -> None:
        self._member = member
        self._transport = transport
        self._started = member.clock.wall()
        self._samples: deque[tuple[float, Traffic]] = deque(maxlen=2)
        """Copies of the counters, and their times."""

    def sample(self) -> None:
        """To be called about once a second; rates are those between the last two calls."""
        self._samples.append((self._member.clock.monotonic(), replace(self._transport.traffic)))

    def store(self, exchange: Exchange) -> None:
        """The counters of the store: writes, which are equal on all members, and the reads of this member."""
        if method_allowed(exchange, b"GET"):
            counts = msgspec.structs.astuple(self._member.machine.statistics)
            self._respond(exchange, dict(zip(_STORE, (*counts, self._member.hub.count), strict=True)))

    def own(self, exchange: Exchange) -> None:
        """This member, its leader and since when it leads, and the traffic with the other members."""
        if not method_allowed(exchange, b"GET"):
            return
        member = self._member
        traffic = self._transport.traffic
        leads = member.status().role is Role.LEADER
        packets_in, bytes_in, packets_out, bytes_out = self._rates()
        since = member.leader_since
        document: dict[str, object] = {
            "name": member.name,
            "id": f"{member.id:x}",
            "state": "StateLeader" if leads else "StateFollower",
            "startTime": expiration(self._started).decode(),
            "leaderInfo": {
                "leader": f"{member.leader:x}" if member.leader else "",
                "uptime": duration(max(0, member.clock.wall() - since)) if member.leader else "0s",
                "startTime": expiration(since).decode() if member.leader else _NEVER,
            },
            "recvAppendRequestCnt": traffic.appends_received,
            "recvPkgRate": packets_in,
            "recvBandwidthRate": bytes_in,
            "sendAppendRequestCnt": traffic.appends_sent,
            "sendPkgRate": packets_out,
            "sendBandwidthRate": bytes_out,
        }
        self._respond(exchange, {k: v for k, v in document.items() if v or not k.endswith("Rate")})

    def leader(self, exchange: Exchange) -> None:
        """The leader's round trips to each follower; other members refuse, as with etcd."""
        if not method_allowed(exchange, b"GET"):
            return
        status = self._member.status()
        if status.role is not Role.LEADER:
            exchange.respond(403, JSON, b'{"message":"not current leader"}')
            return
        followers = {f"{peer.id:x}": _follower(self._transport.round_trip(peer.id)) for peer in status.peers}
        self._respond(exchange, {"leader": f"{status.id:x}", "followers": followers})

    def _rates(self) -> tuple[float, float, float, float]:
        """Messages and bytes per second in, then out; zeros without recent samples."""
        if len(self._samples) < 2:
            return 0.0, 0.0, 0.0, 0.0
        (since, old), (until, new) = self._samples
        span = until - since
        if span <= 0 or self._member.clock.monotonic() - until > RATE_SECONDS:
            return 0.0, 0.0, 0.0, 0.0
        return (
            (new.messages_received - old.messages_received) / span,
            (new.bytes_received - old.bytes_received) / span,
            (new.messages_sent - old.messages_sent) / span,
            (new.bytes_sent - old.bytes_sent) / span,
        )

    @staticmethod
    def _respond(exchange: Exchange, document: object) -> None:
        exchange.respond(200, JSON, msgspec.json.encode(document))


def _follower(way: RoundTrip) -> dict[str, object]:
    milliseconds = {
        "current": way.current,
        "average": way.average,
        "standardDeviation": way.deviation,
        "minimum": way.least,
        "maximum": way.most,
    }
    return {
        "latency": {name: value * 1000 for name, value in milliseconds.items()},
        "counts": {"fail": way.failures, "success": way.successes},
    }


def duration(nanos: int) -> str:
    """A duration as Go prints it: `1h2m3.5s`, `250ms`, `10µs`."""
    if nanos < _SECOND:
        for unit, name in ((_MILLISECOND, "ms"), (_MICROSECOND, "µs")):
            if nanos >= unit:
                return f"{_decimal(nanos, unit)}{name}"
        return f"{nanos}ns" if nanos else "0s"
    minutes, rest = divmod(nanos, 60 * _SECOND)
    hours, minutes = divmod(minutes, 60)
    text = f"{_decimal(rest, _SECOND)}s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text


def _decimal(value: int, unit: int) -> str:
    whole, rest = divmod(value, unit)
    digits = f"{rest:0{len(str(unit)) - 1}d}".rstrip("0")
    return f"{whole}.{digits}" if digits else str(whole)
