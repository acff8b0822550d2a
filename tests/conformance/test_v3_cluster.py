"""The v3 API of a cluster of three: every member serves it, and what one acknowledged the others know."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from netstore.proto.kv_pb2 import Event
from netstore.proto.rpc_pb2 import (
    CompactionRequest,
    HashKVRequest,
    LeaseGrantRequest,
    LeaseKeepAliveRequest,
    LeaseTimeToLiveRequest,
    MemberAddRequest,
    MemberListRequest,
    MemberRemoveRequest,
    MoveLeaderRequest,
    PutRequest,
    RangeRequest,
    StatusRequest,
    WatchCreateRequest,
    WatchRequest,
)
from tests.support.cluster import Members
from tests.support.patience import seconds
from tests.support.v3client import Refused, V3Client

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.v3client import Stream


class Trio:
    """Three members and a client of each, the leader's first."""

    def __init__(self, members: Members) -> None:
        self.members = members
        self.clients = {name: V3Client(members[name].url) for name in "abc"}

    @property
    def leader(self) -> V3Client:
        return self.clients[self.members.leader()]

    @property
    def followers(self) -> list[V3Client]:
        return [self.clients[name] for name in self.members.followers()]

    def close(self) -> None:
        for client in self.clients.values():
            client.close()


@pytest.fixture(scope="module")
def trio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trio]:
    with Members(tmp_path_factory.mktemp("cluster")) as members:
        trio = Trio(members)
        yield trio
        trio.close()


def id_of(client: V3Client) -> int:
    number: int = client.maintenance.Status(StatusRequest()).header.member_id
    return number


def watch(stream: Stream, key: bytes) -> None:
    stream.send(WatchRequest(create_request=WatchCreateRequest(key=key)))
    assert stream.next().created


def test_a_read_at_any_member_sees_what_any_other_has_acknowledged(trio: Trio) -> None:
    clients = [trio.leader, *trio.followers]
    for number in range(30):
        writer, reader = clients[number % 3], clients[(number + 1) % 3]
        revision = writer.kv.Put(PutRequest(key=b"/seen", value=b"%d" % number)).header.revision
        answer = reader.kv.Range(RangeRequest(key=b"/seen"))
        assert answer.kvs[0].value == b"%d" % number
        assert answer.header.revision >= revision
    assert len({id_of(client) for client in clients}) == 3
    leaders = {client.maintenance.Status(StatusRequest()).leader for client in clients}
    assert leaders == {id_of(trio.leader)}


def test_watches_at_every_member_tell_the_same(trio: Trio) -> None:
    clients = [trio.leader, *trio.followers]
    streams = [client.watch.Watch(metadata=(("hasleader", "true"),)) for client in clients]
    try:
        for stream in streams:
            watch(stream, b"/told")
        for number in range(10):
            clients[number % 3].kv.Put(PutRequest(key=b"/told", value=b"%d" % number))
        told = []
        for stream in streams:
            found: list[tuple[bytes, int]] = []
            while len(found) < 10:
                found += [(event.kv.value, event.kv.mod_revision) for event in stream.next().events]
            told.append(found)
        assert [value for value, _ in told[0]] == [b"%d" % number for number in range(10)]
        assert told[1] == told[0]
        assert told[2] == told[0]
    finally:
        for stream in streams:
            stream.cancel()


def test_a_lease_is_kept_alive_through_any_member(trio: Trio) -> None:
    follower, other = trio.followers
    life = math.ceil(seconds(1.5))
    kept, alone = (follower.lease.LeaseGrant(LeaseGrantRequest(TTL=life)).ID for _ in range(2))
    other.kv.Put(PutRequest(key=b"/kept", lease=kept))
    other.kv.Put(PutRequest(key=b"/alone", lease=alone))
    with (
        follower.lease.LeaseKeepAlive() as stream,
        other.watch.Watch() as of_kept,
        other.watch.Watch() as of_alone,
    ):
        watch(of_kept, b"/kept")
        watch(of_alone, b"/alone")
        told = None
        while told is None:
            stream.send(LeaseKeepAliveRequest(ID=kept))
            assert life == stream.next().TTL
            told = of_alone.next_if_any(0.1)
        assert [(event.type, event.kv.key) for event in told.events] == [(Event.DELETE, b"/alone")]
        left = other.lease.LeaseTimeToLive(LeaseTimeToLiveRequest(ID=kept, keys=True))
        assert (left.grantedTTL, list(left.keys)) == (life, [b"/kept"])
        (event,) = of_kept.next(2 * life).events
        assert (event.type, event.kv.key) == (Event.DELETE, b"/kept")
    assert follower.lease.LeaseTimeToLive(LeaseTimeToLiveRequest(ID=kept)).TTL == -1


def test_all_members_have_the_same_history(trio: Trio) -> None:
    clients = [trio.leader, *trio.followers]
    revision = trio.followers[0].kv.Put(PutRequest(key=b"/hash", value=b"1")).header.revision
    for client in clients:
        client.kv.Range(RangeRequest(key=b"/hash"))
    assert len({client.maintenance.HashKV(HashKVRequest(revision=revision)).hash for client in clients}) == 1
    trio.followers[1].kv.Compact(CompactionRequest(revision=revision))
    for client in clients:
        client.kv.Range(RangeRequest(key=b"/hash"))
        hashed = client.maintenance.HashKV(HashKVRequest(revision=revision))
        assert hashed.compact_revision == revision
        with pytest.raises(Refused, match="has been compacted"):
            client.kv.Range(RangeRequest(key=b"/hash", revision=revision - 1))


def test_leadership_moves_and_nothing_is_lost(trio: Trio) -> None:
    old, new = trio.leader, trio.followers[0]
    target = id_of(new)
    with old.watch.Watch() as stream:
        watch(stream, b"/moving")
        with pytest.raises(Refused, match="etcdserver: not leader"):
            new.maintenance.MoveLeader(MoveLeaderRequest(targetID=target))
        old.kv.Put(PutRequest(key=b"/moving", value=b"before"))
        old.maintenance.MoveLeader(MoveLeaderRequest(targetID=target))
        assert old.maintenance.Status(StatusRequest()).leader == target
        old.kv.Put(PutRequest(key=b"/moving", value=b"after"))
        values: list[bytes] = []
        while len(values) < 2:
            values += [event.kv.value for event in stream.next().events]
        assert values == [b"before", b"after"]


def test_a_learner_that_has_not_started_is_in_the_list_of_every_member(trio: Trio) -> None:
    follower = trio.followers[0]
    request = MemberAddRequest(peerURLs=["http://127.0.0.1:24995"], isLearner=True)
    new = follower.cluster.MemberAdd(request).member
    try:
        for client in trio.clients.values():
            members = client.cluster.MemberList(MemberListRequest(linearizable=True)).members
            assert len(members) == 4
            assert [member.ID for member in members if member.isLearner] == [new.ID]
    finally:
        left = follower.cluster.MemberRemove(MemberRemoveRequest(ID=new.ID)).members
    assert len(left) == 3
