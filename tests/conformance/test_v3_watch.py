"""Watch over gRPC, the same on Debian's etcd and on netstored.

Nothing here waits for silence: that an event is not told is seen by the one that must come after it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from netstore.proto.kv_pb2 import Event
from netstore.proto.rpc_pb2 import (
    CompactionRequest,
    DeleteRangeRequest,
    LeaseGrantRequest,
    LeaseRevokeRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
    WatchCancelRequest,
    WatchCreateRequest,
    WatchProgressRequest,
    WatchRequest,
)
from tests.support.v3client import prefix_end

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.v3client import Stream, V3Client

PUT, DELETE = Event.PUT, Event.DELETE


@pytest.fixture
def stream(v3: V3Client) -> Iterator[Stream]:
    with v3.watch.Watch() as stream:
        yield stream


def put(v3: V3Client, key: bytes, value: bytes = b"", **options: Any) -> int:
    revision: int = v3.kv.Put(PutRequest(key=key, value=value, **options)).header.revision
    return revision


def delete(v3: V3Client, key: bytes, end: bytes = b"") -> int:
    revision: int = v3.kv.DeleteRange(DeleteRangeRequest(key=key, range_end=end)).header.revision
    return revision


def ask(stream: Stream, key: bytes, end: bytes = b"", **options: Any) -> None:
    stream.send(WatchRequest(create_request=WatchCreateRequest(key=key, range_end=end, **options)))


def create(stream: Stream, key: bytes, end: bytes = b"", **options: Any) -> Any:
    """Create a watch; its first answer, which must be the next on the stream."""
    ask(stream, key, end, **options)
    answer = stream.next()
    assert answer.created
    assert not answer.events
    return answer


def events(answer: Any) -> list[tuple[int, bytes, bytes]]:
    return [(event.type, event.kv.key, event.kv.value) for event in answer.events]


def gather(stream: Stream, watch_id: int, count: int) -> list[Any]:
    """This many events of one watch, from as many answers as they come in."""
    found: list[Any] = []
    last = 0
    while len(found) < count:
        answer = stream.next()
        assert answer.watch_id == watch_id
        assert answer.events
        assert answer.header.revision >= max(last, answer.events[-1].kv.mod_revision)
        last = answer.header.revision
        found += answer.events
    assert len(found) == count
    return found


def test_what_happens_from_now_on(v3: V3Client, stream: Stream, space: bytes) -> None:
    key = space + b"a"
    before = put(v3, key, b"0")
    created = create(stream, key)
    assert created.header.revision >= before
    assert created.header.cluster_id
    assert created.header.member_id
    put(v3, space + b"b", b"other")
    first = put(v3, key, b"1")
    answer = stream.next()
    assert answer.watch_id == created.watch_id
    assert events(answer) == [(PUT, key, b"1")]
    kv = answer.events[0].kv
    assert (kv.create_revision, kv.mod_revision, kv.version) == (before, first, 2)
    assert answer.header.revision >= first
    gone = delete(v3, key)
    (event,) = stream.next().events
    assert event.type == DELETE
    assert event.kv.key == key
    assert event.kv.mod_revision == gone
    assert (event.kv.create_revision, event.kv.version, event.kv.value) == (0, 0, b"")
    assert not event.HasField("prev_kv")


def test_many_watches_on_one_stream(v3: V3Client, stream: Stream, space: bytes) -> None:
    names = [space + b"%d" % number for number in range(20)]
    ids = [create(stream, name).watch_id for name in names]
    assert ids == list(range(20)), "numbered as they come"
    whole = create(stream, space, prefix_end(space), watch_id=77).watch_id
    assert whole == 77
    seen = []
    for name in names:
        put(v3, name)
        pair = [stream.next(), stream.next()]
        seen += [answer.watch_id for answer in pair if answer.watch_id != whole]
        assert [events(answer) for answer in pair] == [[(PUT, name, b"")]] * 2
    assert seen == ids


def test_ids_in_use_are_stepped_over_and_refused(v3: V3Client, stream: Stream, space: bytes) -> None:
    assert create(stream, space, watch_id=1).watch_id == 1
    assert create(stream, space).watch_id == 0
    assert create(stream, space).watch_id == 2
    ask(stream, space, watch_id=1)
    answer = stream.next()
    assert (answer.created, answer.canceled, answer.watch_id) == (True, True, -1)
    assert answer.cancel_reason == "mvcc: duplicate watch ID provided on the WatchStream"


def test_an_empty_range_is_refused_and_the_stream_lives(v3: V3Client, stream: Stream, space: bytes) -> None:
    for end in (space, b"!"):
        ask(stream, space, end)
        answer = stream.next()
        assert (answer.created, answer.canceled, answer.watch_id) == (True, True, -1)
        assert answer.cancel_reason == "mvcc: watcher range is empty"
    create(stream, space)
    put(v3, space, b"x")
    assert events(stream.next()) == [(PUT, space, b"x")]


def test_the_past_first_then_the_present(v3: V3Client, stream: Stream, space: bytes) -> None:
    key = space + b"k"
    revisions = [put(v3, key, b"%d" % number) for number in range(5)]
    gone = delete(v3, key)
    created = create(stream, space, prefix_end(space), start_revision=revisions[2])
    put(v3, key, b"live")
    found = gather(stream, created.watch_id, 5)
    assert [event.kv.mod_revision for event in found] == [*revisions[2:], gone, gone + 1]
    assert [event.type for event in found] == [PUT, PUT, PUT, DELETE, PUT]
    assert [event.kv.version for event in found] == [3, 4, 5, 0, 1]


def test_the_future(v3: V3Client, stream: Stream, space: bytes) -> None:
    now = put(v3, space, b"now")
    watched = create(stream, space, start_revision=now + 2).watch_id
    put(v3, space, b"too early")
    put(v3, space, b"told")
    put(v3, space, b"and later")
    assert [event.kv.value for event in gather(stream, watched, 2)] == [b"told", b"and later"]


def test_a_prefix_the_rest_and_everything(v3: V3Client, stream: Stream, space: bytes) -> None:
    prefix = create(stream, space + b"p/", prefix_end(space + b"p/")).watch_id
    rest = create(stream, space + b"q", b"\0").watch_id
    everything = create(stream, b"", b"\0").watch_id
    for name, expected in (
        (b"p/x", {prefix, everything}),
        (b"p0", {everything}),
        (b"p", {everything}),
        (b"q", {rest, everything}),
        (b"r", {rest, everything}),
    ):
        put(v3, space + name)
        answers = [stream.next() for _ in expected]
        assert {answer.watch_id for answer in answers} == expected
        assert all(events(answer) == [(PUT, space + name, b"")] for answer in answers)


def test_filters(v3: V3Client, stream: Stream, space: bytes) -> None:
    no_put = create(stream, space, filters=[WatchCreateRequest.NOPUT]).watch_id
    no_delete = create(stream, space, filters=[WatchCreateRequest.NODELETE]).watch_id
    create(stream, space, filters=[WatchCreateRequest.NOPUT, WatchCreateRequest.NODELETE])
    start = put(v3, space, b"1")
    answer = stream.next()
    assert (answer.watch_id, events(answer)) == (no_delete, [(PUT, space, b"1")])
    delete(v3, space)
    answer = stream.next()
    assert (answer.watch_id, events(answer)) == (no_put, [(DELETE, space, b"")])
    put(v3, space, b"2")
    answer = stream.next()
    assert (answer.watch_id, events(answer)) == (no_delete, [(PUT, space, b"2")])
    past = create(stream, space, start_revision=start, filters=[WatchCreateRequest.NOPUT])
    answer = stream.next()
    assert (answer.watch_id, events(answer)) == (past.watch_id, [(DELETE, space, b"")])


def test_the_pair_before(v3: V3Client, stream: Stream, space: bytes) -> None:
    watched = create(stream, space, prev_kv=True).watch_id
    start = put(v3, space, b"1")
    put(v3, space, b"2")
    delete(v3, space)
    put(v3, space, b"3")

    def before(found: list[Any]) -> list[tuple[int, bytes, int] | None]:
        return [
            (event.type, event.prev_kv.value, event.prev_kv.mod_revision)
            if event.HasField("prev_kv")
            else None
            for event in found
        ]

    expected = [None, (PUT, b"1", start), (DELETE, b"2", start + 1), None]
    assert before(gather(stream, watched, 4)) == expected
    again = create(stream, space, prev_kv=True, start_revision=start).watch_id
    assert before(gather(stream, again, 4)) == expected, "from history too"


def test_one_revision_is_one_answer(v3: V3Client, stream: Stream, space: bytes) -> None:
    live = create(stream, space, prefix_end(space)).watch_id
    ops = [RequestOp(request_put=PutRequest(key=space + b"%03d" % number)) for number in range(100)]
    first = v3.kv.Txn(TxnRequest(success=ops)).header.revision
    answer = stream.next()
    assert [event.kv.key for event in answer.events] == [op.request_put.key for op in ops]
    assert {event.kv.mod_revision for event in answer.events} == {first}
    swapped = TxnRequest(
        success=[
            RequestOp(request_put=PutRequest(key=space + b"b")),
            RequestOp(request_delete_range=DeleteRangeRequest(key=space + b"001")),
            RequestOp(request_put=PutRequest(key=space + b"a")),
        ]
    )
    v3.kv.Txn(swapped)
    assert [(kind, key[-3:]) for kind, key, _ in events(stream.next())] == [
        (PUT, (space + b"b")[-3:]),
        (DELETE, b"001"),
        (PUT, (space + b"a")[-3:]),
    ], "in the order of the operations"
    last = delete(v3, space, prefix_end(space))
    assert len(stream.next().events) == 101
    replay = create(stream, space, prefix_end(space), start_revision=first)
    found = gather(stream, replay.watch_id, 100 + 3 + 101)
    assert [event.kv.mod_revision for event in found] == [first] * 100 + [first + 1] * 3 + [last] * 101
    assert live != replay.watch_id


def test_keys_of_a_lease_go_in_one_revision(v3: V3Client, stream: Stream, space: bytes) -> None:
    lease = v3.lease.LeaseGrant(LeaseGrantRequest(TTL=600)).ID
    for name in (b"c", b"a", b"b"):
        put(v3, space + name, lease=lease)
    create(stream, space, prefix_end(space), prev_kv=True)
    v3.lease.LeaseRevoke(LeaseRevokeRequest(ID=lease))
    answer = stream.next()
    assert events(answer) == [(DELETE, space + name, b"") for name in (b"a", b"b", b"c")]
    assert len({event.kv.mod_revision for event in answer.events}) == 1
    assert {event.prev_kv.lease for event in answer.events} == {lease}


def test_cancel(v3: V3Client, stream: Stream, space: bytes) -> None:
    first = create(stream, space).watch_id
    second = create(stream, space).watch_id
    stream.send(WatchRequest(cancel_request=WatchCancelRequest(watch_id=4711)))
    stream.send(WatchRequest(cancel_request=WatchCancelRequest(watch_id=first)))
    answer = stream.next()
    assert (answer.watch_id, answer.canceled, answer.created) == (first, True, False)
    assert (answer.cancel_reason, answer.compact_revision) == ("", 0)
    assert answer.header.revision
    put(v3, space, b"x")
    answer = stream.next()
    assert (answer.watch_id, events(answer)) == (second, [(PUT, space, b"x")])


def test_a_start_before_the_compaction(v3: V3Client, stream: Stream, space: bytes) -> None:
    first = put(v3, space, b"1")
    put(v3, space, b"2")
    third = put(v3, space, b"3")
    v3.kv.Compact(CompactionRequest(revision=third))
    created = create(stream, space, start_revision=first)
    assert not created.canceled
    answer = stream.next()
    assert (answer.watch_id, answer.canceled, answer.created) == (created.watch_id, True, False)
    assert (answer.compact_revision, answer.cancel_reason) == (third, "")
    assert answer.header.revision == 0
    at = create(stream, space, start_revision=third).watch_id
    answer = stream.next()
    assert (answer.watch_id, events(answer)) == (at, [(PUT, space, b"3")])


def test_large_answers_are_cut_only_when_asked(v3: V3Client, stream: Stream, space: bytes) -> None:
    for number in range(4):
        put(v3, space + b"%d" % number, bytes(900_000))
    cut = create(stream, space, prefix_end(space), fragment=True, prev_kv=True).watch_id
    put(v3, space + b"0", b"small")
    assert stream.next().fragment is False
    gone = delete(v3, space, prefix_end(space))
    for watch_id in (cut, None):
        if watch_id is None:
            made = create(stream, space, prefix_end(space), fragment=True, prev_kv=True, start_revision=gone)
            watch_id = made.watch_id  # noqa: PLW2901 - the same again, from history
        parts = [stream.next()]
        while parts[-1].fragment:
            parts.append(stream.next())
        assert len(parts) >= 2
        assert {part.watch_id for part in parts} == {watch_id}
        assert len({part.header.revision for part in parts}) == 1
        events = [event for part in parts for event in part.events]
        assert [event.kv.key[-1:] for event in events] == [b"0", b"1", b"2", b"3"]
        assert {event.kv.mod_revision for event in events} == {gone}
        assert all(part.ByteSize() < 3 << 20 for part in parts)
    again = create(stream, space, prefix_end(space), prev_kv=True, start_revision=gone).watch_id
    answer = stream.next()
    assert (answer.watch_id, answer.fragment, len(answer.events)) == (again, False, 4)


def test_progress_on_request(v3: V3Client, stream: Stream, space: bytes) -> None:
    watched = create(stream, space).watch_id
    last = 0
    for number in range(20):
        last = put(v3, space, b"%d" % number)
    found = gather(stream, watched, 20)
    assert found[-1].kv.mod_revision == last
    stream.send(WatchRequest(progress_request=WatchProgressRequest()))
    answer = stream.next()
    assert (answer.watch_id, len(answer.events)) == (-1, 0)
    assert (answer.created, answer.canceled, answer.compact_revision) == (False, False, 0)
    assert answer.header.revision >= last


def test_progress_by_itself(v3: V3Client, stream: Stream, space: bytes) -> None:
    create(stream, space + b"quiet")
    told = create(stream, space, progress_notify=True).watch_id
    revision = put(v3, space + b"elsewhere")
    while True:
        answer = stream.next()
        assert (answer.watch_id, len(answer.events), answer.created, answer.canceled) == (
            told,
            0,
            False,
            False,
        )
        if answer.header.revision >= revision:
            break


def test_a_stream_that_will_ask_no_more_is_told_on(v3: V3Client, space: bytes) -> None:
    with v3.watch.Watch() as stream:
        watched = create(stream, space).watch_id
        stream.half_close()
        put(v3, space, b"1")
        put(v3, space, b"2")
        assert [event.kv.value for event in gather(stream, watched, 2)] == [b"1", b"2"]


def test_a_deleted_key_is_read_at_the_revision_of_its_watch(v3: V3Client, space: bytes) -> None:
    """What every informer does: list, then watch from the next revision."""
    put(v3, space + b"a", b"1")
    listed = v3.kv.Range(RangeRequest(key=space, range_end=prefix_end(space)))
    put(v3, space + b"b", b"2")
    with v3.watch.Watch() as stream:
        watched = create(stream, space, prefix_end(space), start_revision=listed.header.revision + 1)
        delete(v3, space + b"a")
        found = gather(stream, watched.watch_id, 2)
    assert [(event.type, event.kv.key) for event in found] == [(PUT, space + b"b"), (DELETE, space + b"a")]
