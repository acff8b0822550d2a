"""The Watch service: requests to watches, watches to the wire, and clients that do not read."""

from __future__ import annotations

from typing import Any, cast

import pytest

from netstore import codes
from netstore.api.v3.watch import MOST_UNREAD, SHARED_FROM
from netstore.proto import rpc_pb2 as pb
from netstore.watch.streams import MAX_BACKLOG, RESUME_BACKLOG
from tests.support.v3member import CANCELLED, FakeCall, Served

PATH = "/etcdserverpb.Watch/Watch"


@pytest.fixture
def served() -> Served:
    return Served()


def create(**options: object) -> bytes:
    wanted = pb.WatchCreateRequest(**{"key": b"k", **options})  # type: ignore[arg-type]  # fields by name
    return pb.WatchRequest(create_request=wanted).SerializeToString()


def answers(call: FakeCall) -> list[pb.WatchResponse]:
    read = [pb.WatchResponse.FromString(message) for message in call.messages]
    call.messages.clear()
    return read


def put(served: Served, value: bytes) -> None:
    served.call("/etcdserverpb.KV/Put", pb.PutRequest(key=b"k", value=value))


def test_two_clients_with_the_same_watch_get_the_same_bytes(served: Served) -> None:
    calls = []
    for _ in range(2):
        call, receiver = served.open(PATH)
        receiver.received(create())
        calls.append(call)
    put(served, b"v")
    assert calls[0].messages[-1] is calls[1].messages[-1]
    (made, told) = answers(calls[0])
    assert made.created
    assert [event.kv.value for event in told.events] == [b"v"]
    assert told.header.revision == served.member.machine.mvcc.revision


def test_a_stream_that_is_over_is_kept_by_nobody(served: Served) -> None:
    call, receiver = served.open(PATH)
    receiver.received(create(progress_notify=True))
    answers(call)
    assert len(served.deadlines) == 1
    receiver.cancelled()
    assert len(served.deadlines) == 0, "the next progress is minutes away"
    assert cast("Any", receiver)._stream.sink is not receiver, "they would hold each other"


def test_progress_comes_in_the_streams_own_time(served: Served) -> None:
    call, receiver = served.open(PATH)
    receiver.received(create(progress_notify=True))
    receiver.received(create(key=b"other"))
    answers(call)
    served.advance(600)
    assert answers(call) == [], "up to a tenth later"
    served.advance(30)
    (told,) = answers(call)
    assert (told.watch_id, told.header.revision) == (0, 1)
    put(served, b"v")
    answers(call)
    served.advance(630)
    assert answers(call) == [], "an event has told it"
    served.advance(630)
    assert len(answers(call)) == 1
    receiver.cancelled()
    call.finish(CANCELLED)
    served.advance(2000)
    assert len(served.deadlines) == 0, "nothing ticks for nobody"


def test_a_client_that_does_not_read_is_told_later(served: Served) -> None:
    call, receiver = served.open(PATH)
    receiver.received(create())
    call.backlog = MAX_BACKLOG + 1
    put(served, b"1")
    put(served, b"2")
    waiting = answers(call)
    assert all(not answer.events for answer in waiting)
    call.drain()
    served.member.settle()
    put(served, b"3")
    values = [event.kv.value for answer in answers(call) for event in answer.events]
    assert values == [b"1", b"2", b"3"]


def test_large_events_are_the_same_bytes_for_watches_of_different_numbers(served: Served) -> None:
    call, receiver = served.open(PATH)
    for number in (7, 8, 9):
        receiver.received(create(watch_id=number))
    answers(call)
    put(served, b"v" * SHARED_FROM)
    assert len({id(shared) for shared in call.shared if shared}) == 1
    told = answers(call)
    assert [answer.watch_id for answer in told] == [7, 8, 9]
    assert {answer.events[0].kv.value for answer in told} == {b"v" * SHARED_FROM}


def test_a_stream_of_a_crowded_connection_is_told_later(served: Served) -> None:
    call, receiver = served.open(PATH)
    receiver.received(create())
    answers(call)
    call.congested, call.window = True, 0
    put(served, b"1")
    put(served, b"2")
    assert answers(call) == []
    call.congested, call.window = False, 1 << 20
    call.backlog = RESUME_BACKLOG
    call.tell()
    assert answers(call) == [], "there is a window, but the network is slow"
    call.drain()
    served.member.settle()
    put(served, b"3")
    values = [event.kv.value for answer in answers(call) for event in answer.events]
    assert values == [b"1", b"2", b"3"]


def test_a_client_that_only_asks_is_cut_off(served: Served) -> None:
    call, receiver = served.open(PATH)
    receiver.received(create())
    call.backlog = MOST_UNREAD + 1
    receiver.received(pb.WatchRequest(progress_request=pb.WatchProgressRequest()).SerializeToString())
    assert call.status == codes.RESOURCE_EXHAUSTED
    assert served.member.watches.count == 0


def test_an_empty_request_is_passed_over(served: Served) -> None:
    call, receiver = served.open(PATH)
    receiver.received(b"")
    receiver.half_closed()
    assert call.open
    assert call.messages == []
    receiver.cancelled()
