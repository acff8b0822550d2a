"""Records made from an etcd's database and v2 store are those that netstore would have written itself."""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING

import pytest

from netstore.codec import prefixed, varint
from netstore.disk.memoryengine import MemoryEngine
from netstore.errors import CorruptData, NetstoreError
from netstore.etcdfile import boltwriter, v2content, v3content
from netstore.etcdfile.boltreader import Database
from netstore.etcdfile.raftlog import CHANGE, NORMAL, Entry
from netstore.node import etcdimport
from netstore.node.etcdimport import Report, V2State, v3_records
from netstore.state import tables
from netstore.state.machine import Machine
from netstore.state.v3 import keyvalue
from netstore.state.v3.lease import MAX_TTL
from netstore.types import EtcdIndex, Index, LeaseId, Nanos

if TYPE_CHECKING:
    from collections.abc import Iterable

    from netstore.types import NodeView

SECOND = 1_000_000_000
NOW = Nanos(1_796_012_258 * SECOND)
"""2026-11-30T04:17:38Z."""


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def data(field: int, value: bytes) -> bytes:
    return varint(field << 3 | 2) + prefixed(value)


def put(
    revision: int, key: bytes, value: bytes = b"v", *, version: int = 1, lease: int = 0, sub: int = 0
) -> tuple[bytes, bytes]:
    created = revision if version == 1 else revision - 1
    record = keyvalue.encode(key, created, revision, version, value=value, lease=lease)
    return struct.pack(">QcQ", revision, b"_", sub), record


def deletion(revision: int, key: bytes) -> tuple[bytes, bytes]:
    return struct.pack(">QcQ", revision, b"_", 0) + b"t", data(1, key)


def lease(id_: int, ttl: int, remaining: int = 0) -> tuple[bytes, bytes]:
    fields = number(1, id_ % 2**64) + number(2, ttl) + (number(3, remaining) if remaining else b"")
    return (id_ % 2**64).to_bytes(8, "big"), fields


def database(
    keys: Iterable[tuple[bytes, bytes]] = (),
    leases: Iterable[tuple[bytes, bytes]] = (),
    **meta: int,
) -> Database:
    revisions = {name.encode(): struct.pack(">QcQ", value, b"_", 0) for name, value in meta.items()}
    file = io.BytesIO()
    buckets = {b"key": sorted(keys), b"lease": sorted(leases), b"meta": sorted(revisions.items())}
    size = boltwriter.write(file, buckets)
    return Database(file, "db", size)


def loaded(records: Iterable[tuple[str, bytes, bytes]], applied: int = 9) -> Machine:
    engine = MemoryEngine(lambda done: done(), tables.TABLES)
    changes = {(table, key): value for table, key, value in records}
    engine.write(Index(applied), dict(changes))
    machine = Machine(engine)
    machine.load()
    return machine


def imported(source: Database, report: Report | None = None) -> Machine:
    found = v3_records(source, v3content.facts(source), Index(9), report or Report())
    return loaded(found)


def test_keys_with_their_history() -> None:
    report = Report()
    source = database([put(2, b"a"), put(3, b"a", b"w", version=2), put(3, b"b", sub=1), deletion(4, b"b")])
    machine = imported(source, report)
    mvcc = machine.mvcc
    assert mvcc.revision == 4
    assert mvcc.get(b"a") == keyvalue.encode(b"a", 2, 3, 2, value=b"w", lease=0)
    assert not mvcc.exists(b"b")
    assert mvcc.count(b"\0", b"\0") in {0, 1}
    assert (report.revision, report.changes, report.compacted) == (4, 4, 0)


def test_a_compaction() -> None:
    source = database([put(5, b"a"), put(9, b"b")], scheduledCompactRev=7, finishedCompactRev=6)
    mvcc = imported(source).mvcc
    assert (mvcc.revision, mvcc.compacted, mvcc.swept) == (9, 7, 6)
    assert mvcc.check_revision(6) is not None
    assert mvcc.check_revision(7) is None
    empty = imported(database(scheduledCompactRev=7, finishedCompactRev=7)).mvcc
    assert (empty.revision, empty.compacted) == (7, 7)


def test_leases_with_their_keys() -> None:
    report = Report()
    source = database([put(2, b"a", lease=5), put(3, b"b", lease=-6)], [lease(5, 60, 20), lease(-6, 2**40)])
    machine = imported(source, report)
    found = {
        each.id: (each.ttl, each.remaining, each.since, list(each.all_keys())) for each in machine.leases
    }
    assert found == {LeaseId(5): (60, 20, 9, [b"a"]), LeaseId(-6): (MAX_TTL, 0, 9, [b"b"])}
    assert report.leases == 2
    assert not report.unleased


def test_a_key_whose_lease_does_not_exist_stays_for_ever() -> None:
    report = Report()
    keys = [
        put(2, b"ended", lease=7),
        deletion(3, b"ended"),
        put(4, b"freed", lease=7),
        put(5, b"freed", version=2),
        put(6, b"orphan", lease=8),
    ]
    machine = imported(database(keys), report)
    assert {each.id: each.ttl for each in machine.leases} == {8: MAX_TTL}
    assert (report.unleased, report.unleased_count) == ([b"orphan"], 1)
    assert machine.mvcc.lease_of(b"orphan") == 8


@pytest.mark.parametrize(
    ("key", "record", "why"),
    [
        (b"short", b"", "a key of the bucket key is no revision"),
        (struct.pack(">QcQ", 0, b"_", 0), b"", "revision 0"),
        (struct.pack(">QcQ", 2, b"_", 2**31), b"", "revision 2, change 2147483648"),
        (struct.pack(">QcQ", 2, b"_", 0), b"xx", "not a key with its value"),
        (put(3, b"a")[0], put(4, b"a")[1], "a pair of revision 4, version 1, under revision 3"),
        (deletion(3, b"a")[0], b"", "a deletion without a key"),
        (deletion(3, b"a")[0], b"\x0a\x05a", "a deletion without a key"),
    ],
)
def test_what_is_no_change_is_refused_with_its_place(key: bytes, record: bytes, why: str) -> None:
    with pytest.raises(CorruptData, match=rf"db: offset \d+: {why}"):
        imported(database([(key, record)]))


@pytest.mark.parametrize(
    "stored", [(b"12345678", b"\xff"), (bytes(8), b""), (lease(5, 1)[0], lease(6, 1)[1])]
)
def test_what_is_no_lease_is_refused_with_its_place(stored: tuple[bytes, bytes]) -> None:
    with pytest.raises(CorruptData, match=r"db: offset \d+: "):
        imported(database([], [stored]))


def test_a_value_that_no_backup_could_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(etcdimport, "MAX_DATA_BYTES", 1000)
    imported(database([put(2, b"a", bytes(900))]))
    with pytest.raises(
        NetstoreError, match=r"the key 'big' has a value of 1\d{3} bytes.*delete it in the etcd"
    ):
        imported(database([put(2, b"big", bytes(1000)), deletion(3, b"big")]))
    applied(request(1, b"PUT", "/1/a", bytes(900)))
    with pytest.raises(NetstoreError, match=r"the key '/big' has a value of 1\d{3} bytes"):
        applied(request(1, b"PUT", "/1/big", bytes(1001)))
    with pytest.raises(NetstoreError, match="the key '/big' has a value of 1001 bytes"):
        applied(request(1, b"PUT", "/1/big", bytes(1001)), request(2, b"DELETE", "/1/big"))


# --- v2


def request(index: int, method: bytes, path: str, value: bytes = b"", **fields: int | bytes) -> Entry:
    """A request as an etcd 3.4 has it in its log."""
    numbers = {
        "dir": 5,
        "prev_index": 7,
        "prev_exist": 8,
        "expires": 9,
        "recursive": 12,
        "time": 15,
        "refresh": 17,
    }
    parts = [number(1, index), data(2, method), data(3, path.encode()), data(4, value)]
    for name, given in fields.items():
        parts.append(data(6, given) if isinstance(given, bytes) else number(numbers[name], given))
    return Entry(index, NORMAL, b"".join(parts), "log: offset 0")


def member_change(index: int, kind: int, member: int, context: bytes = b"") -> Entry:
    change = number(2, kind) + number(3, member) + (data(4, context) if context else b"")
    return Entry(index, CHANGE, change, "log: offset 0")


def applied(*entries: Entry, state: V2State | None = None, others: list[int] | None = None) -> Machine:
    state = state or V2State(NOW)
    found = state.apply(entries, lambda _: None)
    assert found == (others or [])
    return loaded(state.records(Report()), 999)


def shown(machine: Machine, path: str) -> NodeView | None:
    found = machine.tree.get(path.encode())
    return getattr(found, "node", None)


def test_requests_of_each_kind() -> None:
    machine = applied(
        member_change(1, 0, 0xA),
        request(2, b"PUT", "/0/members/a/attributes", b"{}"),
        request(3, b"PUT", "/0/version", b"3.4.0"),
        request(4, b"PUT", "/1/a", b"1"),
        request(5, b"PUT", "/1/a", b"2", prev_exist=1),
        request(6, b"PUT", "/1/a", b"3", prev_index=5),
        request(7, b"PUT", "/1/a", b"4", prev_value=b"2"),
        request(8, b"PUT", "/1/new", b"n", prev_exist=0),
        request(9, b"PUT", "/1/new", b"x", prev_exist=0),
        request(10, b"POST", "/1/queue", b"q"),
        request(11, b"PUT", "/1/d", dir=1),
        request(12, b"DELETE", "/1/d", dir=1),
        request(13, b"QGET", "/1/a"),
        request(14, b"DELETE", "/1/new", prev_value=b"other"),
        request(15, b"PUT", "/1/t/x", b"x"),
        request(16, b"DELETE", "/1/t", recursive=1),
        Entry(17, NORMAL, b"", "log: offset 0"),
        member_change(18, 1, 0xA),
        request(19, b"PUT", "/0/members/a/attributes", b"{}"),
    )
    node = shown(machine, "/a")
    assert node is not None
    assert (node.value, node.created, node.modified) == (b"3", 4, 6)
    assert shown(machine, "/queue/00000000000000000008") is not None
    assert shown(machine, "/new") is not None
    assert shown(machine, "/d") is None
    assert shown(machine, "/t") is None
    # 3 of the cluster, 3 of /a, /new, /queue, /d made and removed, /t made and removed, 2 of the removal
    assert machine.tree.index == 14
    assert machine.history.last == 14
    assert machine.statistics.create_fail == 1
    assert machine.statistics.compare_and_delete_success == 1, "as etcd counts it"


def test_requests_about_passwords_take_indexes() -> None:
    """Each that succeeds in an etcd, and no other: the next key has the index that it has there."""
    state = V2State(NOW)
    machine = applied(
        request(1, b"PUT", "/2", dir=1, prev_exist=0),
        request(2, b"PUT", "/2/users", dir=1, prev_exist=0),
        request(3, b"PUT", "/2/roles", dir=1, prev_exist=0),
        request(4, b"PUT", "/2/enabled", b"false", prev_exist=0),
        request(5, b"PUT", "/2/users", dir=1, prev_exist=0),
        request(6, b"PUT", "/2/users/root", b"{}", prev_exist=0),
        request(7, b"PUT", "/2/users/gone", b"{}", prev_exist=1),
        request(8, b"DELETE", "/2/users/gone"),
        request(9, b"PUT", "/2/roles/guest", b"{}", prev_exist=0),
        request(10, b"PUT", "/2/enabled", b"true", prev_exist=1),
        request(11, b"PUT", "/1/a", b"1"),
        state=state,
    )
    node = shown(machine, "/a")
    assert node is not None
    assert (node.modified, machine.tree.index, len(machine.tree)) == (8, 8, 1)
    assert state.auth == (True, 1, 1)
    assert [event.internal for event in machine.history.since(1)] == [True] * 7 + [False]
    assert not V2State(NOW).auth.enabled


def test_the_folders_of_the_store_itself_are_not_changed() -> None:
    machine = applied(
        request(1, b"PUT", "/1", b"x"),
        request(2, b"PUT", "/1", dir=1, prev_exist=1),
        request(3, b"DELETE", "/1", dir=1, recursive=1),
        request(4, b"DELETE", "/0", dir=1, recursive=1),
        request(5, b"POST", "/1", b"in order"),
    )
    assert machine.tree.index == 1
    assert shown(machine, "/00000000000000000001") is not None


A, B, C = b'{"peerURLs":["http://a:1"]}', b'{"peerURLs":["http://b:1"]}', b'{"peerURLs":["http://c:1"]}'
LEARNER = b'{"peerURLs":["http://l:1"],"isLearner":true}'
PROMOTION = b'{"id":11,"isPromote":true}'


@pytest.mark.parametrize(
    ("changes", "index"),
    [
        ([(0, 0xA, A), (0, 0xB, B)], 2),
        ([(0, 0xA, A), (0, 0xA, B)], 1),
        ([(0, 0xA, A), (0, 0xB, A)], 1),
        ([(0, 0xA, A), (2, 0xA, A), (2, 0xA, C), (0, 0xB, A)], 4),
        ([(0, 0xA, A), (0, 0xB, B), (2, 0xA, B), (2, 0xC, C)], 2),
        ([(0, 0xA, A), (0, 0xB, B), (1, 0xB, b""), (1, 0xB, b""), (0, 0xB, B), (0, 0xC, B)], 5),
        ([(0, 0xA, A), (3, 0xB, LEARNER), (3, 0xC, b'{"isLearner":true}'), (0, 0xB, PROMOTION)], 3),
        ([(0, 0xA, A), (3, 0xB, LEARNER), (0, 0xB, PROMOTION), (0, 0xB, PROMOTION), (3, 0xC, LEARNER)], 3),
        ([(0, 0xA, A), (0, 0xA, PROMOTION), (0, 0xC, PROMOTION)], 1),
    ],
)
def test_changes_of_members_take_indexes(changes: list[tuple[int, int, bytes]], index: int) -> None:
    """A change that an etcd refuses takes none; a removal takes two."""
    entries = (member_change(at, *change) for at, change in enumerate(changes, 1))
    assert applied(*entries).tree.index == index


def test_members_of_a_snapshot_are_known() -> None:
    members = b"""{"a":{"Path":"/0/members/a","Children":{"raftAttributes":
      {"Path":"/0/members/a/raftAttributes","Value":"{\\"peerURLs\\":[\\"http://a:1\\"]}"}}}}"""
    removed = b"""{"b":{"Path":"/0/removed_members/b","Value":""}}"""
    store = b"""{"Root":{"Path":"/","Children":{"0":{"Path":"/0","Children":{
      "members":{"Path":"/0/members","Children":%b},
      "removed_members":{"Path":"/0/removed_members","Children":%b}}}}},"CurrentIndex":70}"""
    state = V2State(NOW)
    state.restore(v2content.decode(store % (members, removed), "snap"))
    machine = applied(
        member_change(41, 0, 0xA, B),
        member_change(42, 0, 0xB, B),
        member_change(43, 0, 0xC, A),
        member_change(44, 2, 0xA, C),
        request(45, b"PUT", "/0/members/b/attributes"),
        request(46, b"PUT", "/0/members/a/attributes"),
        state=state,
    )
    assert machine.tree.index == 72


def test_a_member_that_is_none_is_refused_with_its_place() -> None:
    for context in (b"[]", b'{"peerURLs":[7]}', b"{"):
        with pytest.raises(CorruptData, match=r"log: offset 0: not a request \(not the JSON of a member"):
            applied(member_change(1, 0, 0xA, context))


def test_requests_of_the_v3_api_are_told() -> None:
    applied(
        request(1, b"PUT", "/1/a"),
        Entry(2, NORMAL, data(4, data(1, b"key")), "log: offset 0"),
        others=[2],
    )


def test_ttls_end_as_the_log_says() -> None:
    soon, late = NOW + 5 * SECOND, NOW + 1000 * SECOND
    machine = applied(
        request(1, b"PUT", "/1/a", expires=soon),
        request(2, b"PUT", "/1/b", expires=soon),
        request(3, b"PUT", "/1/b", expires=late, refresh=1, prev_exist=1),
        request(4, b"PUT", "/1/c", expires=NOW - 50 * SECOND),
        request(5, b"SYNC", "", time=soon + 1),
        request(6, b"PUT", "/1/past", expires=NOW - 9 * SECOND),
    )
    assert shown(machine, "/a") is None
    assert shown(machine, "/c") is None
    node = shown(machine, "/b")
    assert node is not None
    assert node.expires == late
    timed = machine.tree.timed.get(b"/b")
    assert timed is not None
    assert timed.ttl == 1000
    overdue = machine.tree.timed.get(b"/past")
    assert overdue is not None
    assert overdue.ttl == 1
    assert machine.statistics.expire_count == 2


STORE = b"""{"Root":{"Path":"/","Children":{
  "0":{"Path":"/0","Children":{"members":{"Path":"/0/members","Children":{"b":{"Path":"/0/members/b","Children":{}}}}}},
  "1":{"Path":"/1","Children":{
    "f":{"Path":"/1/f","CreatedIndex":3,"ModifiedIndex":7,"Value":"v","ExpireTime":"2026-11-30T04:18:38.5Z"},
    "d":{"Path":"/1/d","CreatedIndex":4,"ModifiedIndex":4,"Children":{
      "x":{"Path":"/1/d/x","CreatedIndex":4,"ModifiedIndex":4,"Value":""}}}}}}},
 "WatcherHub":{"EventHistory":{"Queue":{"Events":[
   {"action":"set","node":{"key":"/1/f","value":"v","modifiedIndex":7,"createdIndex":3},
    "prevNode":{"key":"/1/f","value":"u","modifiedIndex":3,"createdIndex":3}},
   {"action":"set","node":{"key":"/0/version","modifiedIndex":6,"createdIndex":6}},
   {"action":"set","node":{"key":"/1/lost","modifiedIndex":4,"createdIndex":4}}, null]}}},
 "CurrentIndex":7,"Stats":{"setsSuccess":5,"expireCount":2},"CurrentVersion":2}"""


def restored() -> V2State:
    state = V2State(NOW)
    state.restore(v2content.decode(STORE, "snap"))
    return state


def test_a_v2_snapshot() -> None:
    machine = applied(
        request(41, b"PUT", "/0/members/b/attributes"), request(42, b"PUT", "/1/f", b"w"), state=restored()
    )
    node, inner = shown(machine, "/f"), shown(machine, "/d/x")
    assert node is not None
    assert inner is not None
    assert (node.value, node.created, node.modified, inner.value) == (b"w", 9, 9, b"")
    assert (machine.tree.index, machine.history.first, machine.history.last) == (9, 6, 9)
    assert [event.internal for event in machine.history.since(6)] == [True, False, True, False]
    assert machine.statistics.sets_success == 7, "as an etcd counts those of the cluster, too"
    assert machine.statistics.expire_count == 2


def test_a_ttl_of_a_snapshot_goes_on() -> None:
    machine = applied(state=restored())
    timed = machine.tree.timed.get(b"/f")
    assert timed is not None
    assert (timed.ttl, timed.since) == (61, 7)
    gone = applied(request(41, b"SYNC", "", time=NOW + 3600 * SECOND), state=restored())
    assert shown(gone, "/f") is None
    assert shown(gone, "/d") is not None


def test_a_listing_has_an_index_at_which_watches_begin() -> None:
    state = V2State(NOW)
    nodes = (v2content.ShownNode(key="/a", value="1", created_index=3, modified_index=5),)
    state.restore_listing(v2content.ShownNode(dir=True, nodes=nodes), EtcdIndex(70))
    machine = loaded(state.records(Report()))
    node = shown(machine, "/a")
    assert node is not None
    assert (node.value, node.created, node.modified) == (b"1", 3, 5)
    assert (machine.tree.index, machine.history.first, machine.history.last) == (70, 70, 70)


def test_an_entry_that_is_none_is_refused_with_its_place() -> None:
    with pytest.raises(CorruptData, match="log: offset 512: not a request"):
        V2State(NOW).apply([Entry(1, NORMAL, b"\xff", "log: offset 512")], lambda _: None)
