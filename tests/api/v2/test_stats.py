"""Statistics: of the store, of this member, and of the leader's followers (v2 API, statistics)."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest

from netstore.api.v2.stats import StatsApi, duration
from netstore.net.exchange import Request
from netstore.peer.traffic import RoundTrip, Traffic
from netstore.raft.status import PeerStatus
from netstore.types import Index, Nanos, NodeId
from tests.support.local_member import START, LocalMember, RecordedExchange

if TYPE_CHECKING:
    from collections.abc import Callable

SECOND = 1_000_000_000


class CountingTransport:
    """Counts what a test tells it."""

    def __init__(self) -> None:
        self.traffic = Traffic()

    def round_trip(self, peer: NodeId) -> RoundTrip:
        return RoundTrip(3, 1, 0.002, 0.0015, 0.001, 0.002, 3 * 0.0005**2) if peer == 2 else RoundTrip()


def told(handler: Callable[[RecordedExchange], None]) -> tuple[int, Any]:
    exchange = RecordedExchange(Request(b"GET", b"/"))
    handler(exchange)
    assert not exchange.body.endswith(b"\n")
    assert exchange.headers == {"Content-Type": "application/json"}
    return exchange.status, json.loads(exchange.body)


def test_a_member_alone_tells_of_itself() -> None:
    member = LocalMember()
    member.clock.now = Nanos(START + 90 * SECOND)
    status, document = told(member.stats.own)
    assert status == 200
    assert document == {
        "name": "local",
        "id": "8e9e05c52164694d",
        "state": "StateLeader",
        "startTime": "2026-11-18T11:06:40.123456789Z",
        "leaderInfo": {
            "leader": "8e9e05c52164694d",
            "uptime": "1m30s",
            "startTime": "2026-11-18T11:06:40.123456789Z",
        },
        "recvAppendRequestCnt": 0,
        "sendAppendRequestCnt": 0,
    }
    assert told(member.stats.leader) == (200, {"leader": "8e9e05c52164694d", "followers": {}})


def test_without_a_leader_there_is_nothing_to_tell_of_it() -> None:
    member = LocalMember()
    member.leader = NodeId(0)
    document = told(member.stats.own)[1]
    assert document["state"] == "StateFollower"
    assert document["leaderInfo"] == {"leader": "", "uptime": "0s", "startTime": "0001-01-01T00:00:00Z"}


def test_followers_do_not_tell_of_others() -> None:
    member = LocalMember()
    member.leader = NodeId(2)
    exchange = member.send("GET", "/v2/stats/leader")
    assert (exchange.status, exchange.body) == (403, b'{"message":"not current leader"}')


def test_rates_are_those_between_two_samples_and_left_out_when_nothing_moves() -> None:
    member, transport = LocalMember(), CountingTransport()
    stats = StatsApi(member, transport)
    stats.sample()
    assert "recvPkgRate" not in told(stats.own)[1]
    transport.traffic = Traffic(4, 10, 1000, 6, 20, 4000)
    member.clock.now = Nanos(START + 2 * SECOND)
    stats.sample()
    document = told(stats.own)[1]
    assert (document["recvAppendRequestCnt"], document["sendAppendRequestCnt"]) == (4, 6)
    rates = [name for name in document if name.endswith("Rate")]
    assert rates == ["recvPkgRate", "recvBandwidthRate", "sendPkgRate", "sendBandwidthRate"]
    assert [document[name] for name in rates] == [5, 500, 10, 2000]
    member.clock.now = Nanos(START + 4 * SECOND)
    stats.sample()
    assert "recvPkgRate" not in told(stats.own)[1]
    transport.traffic = Traffic(4, 11, 1000, 6, 20, 4000)
    member.clock.now = Nanos(START + 5 * SECOND)
    stats.sample()
    member.clock.now = Nanos(START + 8 * SECOND)
    assert "recvPkgRate" not in told(stats.own)[1], "too long ago"


def test_the_leader_tells_of_the_way_to_each_follower_in_milliseconds() -> None:
    member, transport = LocalMember(), CountingTransport()
    stats = StatsApi(member, transport)
    member.peers = tuple(PeerStatus(NodeId(id_), Index(1), True, False) for id_ in (2, 3))
    followers = told(stats.leader)[1]["followers"]
    assert list(followers) == ["2", "3"]
    assert followers["2"]["counts"] == {"fail": 1, "success": 3}
    latency = followers["2"]["latency"]
    assert list(latency) == ["current", "average", "standardDeviation", "minimum", "maximum"]
    assert all(
        math.isclose(value, wanted)
        for value, wanted in zip(latency.values(), (2, 1.5, 0.5, 1, 2), strict=True)
    )
    assert followers["3"]["counts"] == {"fail": 0, "success": 0}


def test_the_store_tells_what_it_counted() -> None:
    member = LocalMember()
    member.send("PUT", "/v2/keys/a", b"value=1")
    member.send("GET", "/v2/keys/a?wait=true")
    document = told(member.stats.store)[1]
    assert (document["watchers"], document["getsFail"], document["expireCount"]) == (1, 2, 0)
    assert list(document)[-2:] == ["expireCount", "watchers"]


@pytest.mark.parametrize("path", ["self", "leader", "store"])
def test_only_get_is_allowed(path: str) -> None:
    answer = LocalMember().send("POST", f"/v2/stats/{path}")
    assert (answer.status, answer.headers["Allow"]) == (405, "GET")


@pytest.mark.parametrize(
    ("nanos", "written"),
    [
        (0, "0s"),
        (7, "7ns"),
        (1_500, "1.5µs"),
        (250_000_000, "250ms"),
        (SECOND, "1s"),
        (21_534_227_726, "21.534227726s"),
        (294_290_000_000, "4m54.29s"),
        (3600 * SECOND, "1h0m0s"),
        (90_061 * SECOND + 1, "25h1m1.000000001s"),
    ],
)
def test_spans_of_time_are_written_as_go_does(nanos: int, written: str) -> None:
    assert duration(nanos) == written
