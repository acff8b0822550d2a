"""The state of an etcd as records of netstore's tables (`state.tables`), for `node.seeding`: keys with their
history, revisions and leases, and the v2 tree with its indexes, TTLs and event window.

What cannot be taken over, or not as it was, is noted in a `Report`.
"""

from __future__ import annotations

import posixpath
import re
from array import array
from bisect import bisect_left
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from msgspec.structs import replace

from netstore.codec import Malformed
from netstore.disk.memoryengine import MemoryEngine
from netstore.errors import CorruptData, NetstoreError
from netstore.etcdfile import v2content, v3content
from netstore.etcdfile.protofields import Message
from netstore.etcdfile.raftlog import NORMAL
from netstore.etcdfile.v2content import ClusterVersionSet, MemberAttributesSet, V2Request
from netstore.raft.entry import MAX_DATA_BYTES
from netstore.state import tables
from netstore.state.commands import encode
from netstore.state.machine import Machine
from netstore.state.v2.commands import (
    LONGEST_TTL,
    CompareAndDelete,
    CompareAndSwap,
    Create,
    Delete,
    ExpireNodes,
    InOrder,
    Set,
    Update,
)
from netstore.state.v2.history import CAPACITY
from netstore.state.v2.records import pack_event, pack_node, unpack_event, window_key
from netstore.state.v2.statistics import REPLICATED
from netstore.state.v2.ttl import Timed
from netstore.state.v3 import keyvalue
from netstore.state.v3.index import NUMBER_BITS, PLACE_BYTES
from netstore.state.v3.lease import MAX_TTL, LeaseRecord, lease_key
from netstore.state.v3.mvcc import NEVER
from netstore.state.v3.store import V3Scalars
from netstore.types import EtcdIndex, Event, Index, LeaseId, Nanos, NodeView, Revision

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from netstore.etcdfile.boltreader import Database
    from netstore.etcdfile.raftlog import Entry
    from netstore.etcdfile.v2content import ShownNode, StoredEvent, StoredNode, V2Content
    from netstore.state.tables import Record

_NANOS: Final = 1_000_000_000
_USERS: Final = b"/1"
"""Where an etcd keeps the keys of users in its v2 store."""

_CLUSTER: Final = b"/0"
_MEMBERS: Final = b"/0/members"
_REMOVED: Final = b"/0/removed_members"
_AUTH: Final = b"/2"
_ATTRIBUTES: Final = re.compile(rb"/0/members/([0-9a-fA-F]{1,16})/attributes")
_VERSION: Final = b"/0/version"
_READ_ONLY: Final = frozenset({_CLUSTER, _USERS})
"""Folders that an etcd changes as little as the root."""

_ADD, _REMOVE, _UPDATE, _ADD_LEARNER = range(4)
_MOST_LEARNERS: Final = 1


@dataclass(slots=True)
class Report:
    """What was found, and what could not be taken over as it was."""

    revision: int = 0
    compacted: int = 0
    changes: int = 0
    leases: int = 0
    nodes: int = 0
    """Nodes of the v2 tree."""
    index: int = 0
    """Of the v2 tree."""
    unleased: list[bytes] = field(default_factory=list)
    """Keys attached to a lease that does not exist, at most `MOST_TOLD` of them."""
    unleased_count: int = 0


MOST_TOLD: Final = 10

MOST_SHOWN: Final = 200
"""Bytes of a key in a message."""


class Listed(Protocol):
    """A node as a running etcd lists it (`client.v2.Node`)."""

    @property
    def key(self) -> str:
        """Its path."""

    @property
    def value(self) -> str | None:
        """Of a file."""

    @property
    def dir(self) -> bool:
        """Whether it is a directory."""

    @property
    def expiration(self) -> str | None:
        """When its TTL ends, in RFC 3339."""

    @property
    def created_index(self) -> int:
        """See the v2 API."""

    @property
    def modified_index(self) -> int:
        """See the v2 API."""

    @property
    def nodes(self) -> Sequence[Listed]:
        """What is in a directory."""


# --- v3


def v3_records(
    database: Database, facts: v3content.Facts, applied: Index, report: Report
) -> Iterator[Record]:
    """The records of all leases and changes of an etcd database. The TTL of a lease begins anew when the
    member starts, or goes on from etcd's last checkpoint.

    A key that is attached to a lease which does not exist, as some releases of etcd left them, stays for
    ever: its lease is made, with the longest TTL.

    Memory: eight bytes a lease, and the keys that are attached to an ended lease at one moment of the
    history. CorruptData if the database is damaged.
    """
    known = array("Q")
    for lease in v3content.leases(database):
        known.append(lease.id % 2**64)
        ttl = max(1, min(lease.ttl, MAX_TTL))
        yield _lease(lease.id, ttl, applied, max(0, min(lease.remaining, ttl)))
    report.leases = len(known)
    unleased: dict[bytes, int] = {}
    revision = 1
    for change in v3content.changes(database):
        place = change.revision << NUMBER_BITS | change.number << 1 | change.is_deletion
        if change.is_deletion:
            key, record = _deletion(database, change)
            unleased.pop(key, None)
        else:
            key, lease_id = _pair(database, change)
            _check_size(key, len(change.pair))
            record = change.pair
            if lease_id and not _has(known, lease_id % 2**64):
                unleased[key] = lease_id
            elif unleased:
                unleased.pop(key, None)
        revision = change.revision
        report.changes += 1
        yield tables.RECORDS, place.to_bytes(PLACE_BYTES, "big"), record
    for lease_id in sorted(set(unleased.values())):
        yield _lease(lease_id, MAX_TTL, applied, 0)
    report.unleased, report.unleased_count = sorted(unleased)[:MOST_TOLD], len(unleased)
    compacted = Revision(facts.compacted) if facts.compacted else NEVER
    swept = Revision(min(facts.swept, facts.compacted)) if facts.swept else NEVER
    report.revision = max(revision, facts.compacted)
    report.compacted = facts.compacted
    scalars = V3Scalars(Revision(report.revision), compacted, swept, 0)
    yield tables.V3_STATE, tables.STATE_KEY, tables.encode(scalars)


def _check_size(key: bytes, size: int) -> None:
    """NetstoreError, with the fix, if a value is larger than netstore can keep and back up."""
    if size > MAX_DATA_BYTES:
        name = key[:MOST_SHOWN].decode(errors="replace")
        raise NetstoreError(
            f"the key {name!r} has a value of {size} bytes, and netstore keeps at most {MAX_DATA_BYTES}:"
            " delete it in the etcd, compact its history, and import that"
        )


def _lease(id_: int, ttl: int, applied: Index, remaining: int) -> Record:
    lease = LeaseId(id_)
    return tables.LEASES, lease_key(lease), tables.encode(LeaseRecord(lease, ttl, applied, remaining))


def _has(known: array[int], lease: int) -> bool:
    at = bisect_left(known, lease)
    return at < len(known) and known[at] == lease


def _deletion(database: Database, change: v3content.Change) -> tuple[bytes, bytes]:
    """Key and record of a deletion."""
    try:
        key = Message(change.pair).data(1)
    except Malformed as error:
        raise database.damaged(f"a deletion without a key ({error})") from None
    if not key:
        raise database.damaged("a deletion without a key")
    return key, keyvalue.encode_deletion(key, change.revision)


def _pair(database: Database, change: v3content.Change) -> tuple[bytes, int]:
    """Key and lease of a pair, whose bytes are those of a record of ours."""
    try:
        key, created, modified, version, lease, _, _ = keyvalue.decode_fields(change.pair)
    except Malformed as error:
        raise database.damaged(f"not a key with its value ({error})") from None
    if modified != change.revision or not 0 < created <= modified or version < 1:
        raise database.damaged(
            f"a pair of revision {modified}, version {version}, under revision {change.revision}"
        )
    return key, lease


# --- v2


class V2Auth(NamedTuple):
    """What the v2 store says of passwords; the numbers are 0 where they are not known."""

    enabled: bool = False
    users: int = 0
    roles: int = 0


class V2State:
    """The v2 store of an etcd: as of a v2 snapshot, then changed by the requests in the log after it; or as a
    running etcd lists it. All of it is in memory, as in an etcd.

    The keys of users, those of the cluster and those of the users' passwords are one tree with one index, as
    in an etcd, so that each request has the outcome, and takes the index, that it has there.
    """

    def __init__(self, now: Nanos) -> None:
        """`now` is the instant from which TTLs count; a node that is overdue lives for a second more."""
        self._now = now
        self._engine = MemoryEngine(_call, tables.TABLES)
        self._machine = Machine(self._engine)
        self._members = _Members()
        self._ends: list[tuple[int, bytes, int]] = []
        """A heap of the ends of TTLs: instant, path, and index since when. Some were set anew since."""
        self._begin({}, EtcdIndex(0), [], (0,) * len(REPLICATED))

    def restore(self, snapshot: V2Content) -> None:
        """Begin with a v2 snapshot. ValueError for an instant or a member that is none."""
        changes: dict[tuple[str, bytes], bytes | None] = {}
        self._add_stored(changes, snapshot.root)
        events = sorted(map(_event, snapshot.events), key=lambda event: event.index)
        counts = tuple(snapshot.stats.get(_camel(name), 0) for name in REPLICATED)
        self._begin(changes, EtcdIndex(snapshot.current_index), events, counts)
        for home in self._children(_MEMBERS):
            attributes = self._value(home + b"/raftAttributes")
            self._members.add(_id(home), v2content.raft_attributes_of(attributes))
        self._members.removed.update(map(_id, self._children(_REMOVED)))

    def restore_listing(self, root: Listed, index: EtcdIndex) -> None:
        """Begin with what a running etcd has listed. It does not list hidden nodes."""
        changes: dict[tuple[str, bytes], bytes | None] = {}
        self._add_shown(changes, root)
        self._begin(changes, index, [], (0,) * len(REPLICATED))

    def _begin(
        self,
        changes: dict[tuple[str, bytes], bytes | None],
        index: EtcdIndex,
        events: list[Event],
        counts: tuple[int, ...],
    ) -> None:
        """Load the state. The window is what of the events leads up to the index without a gap; its last one
        is a change that is not shown if there is none.
        """
        for path in sorted(_READ_ONLY):
            folder = NodeView(path, EtcdIndex(0), EtcdIndex(0), None, True)
            changes.setdefault((tables.NODES, path), pack_node(folder))
        window: list[Event] = []
        for event in reversed(events):
            if event.index != index - len(window) or len(window) == CAPACITY:
                break
            window.append(event)
        if not window and index:
            window.append(Event("set", index, NodeView(_VERSION, index, index)))
        for event in window:
            changes[tables.WINDOW, window_key(event.index)] = pack_event(event)
        changes[tables.STATE, tables.STATE_KEY] = tables.encode(tables.Scalars(index, counts, ""))
        self._engine.write(Index(self._machine.applied + 1), changes)
        self._machine.load()
        heapify(self._ends)

    def apply(self, entries: Iterable[Entry], told: Callable[[int], object]) -> list[int]:
        """Apply the requests of the v2 API among these entries; the indexes of those of the v3 API. `told` is
        called with the number of entries looked at, each.

        CorruptData, with file and offset, for an entry that is none.
        """
        others = array("Q")
        for number, entry in enumerate(entries, 1):
            try:
                if not self._apply(entry):
                    others.append(entry.index)
            except Malformed as error:
                raise CorruptData(f"{entry.place}: not a request ({error})") from None
            self._machine.v2.take_events()
            told(number)
        return list(others)

    @property
    def auth(self) -> V2Auth:
        """What the store says of passwords."""
        users, roles = (len(self._children(_AUTH + name)) for name in (b"/users", b"/roles"))
        return V2Auth(self._value(_AUTH + b"/enabled") == b"true", users, roles)

    def records(self, report: Report) -> Iterator[Record]:
        """The records of the users' part. Nothing may be applied any more."""
        self._machine.save()
        report.nodes, report.index = 0, self._machine.tree.index
        for path, value in self._engine.scan(tables.NODES, b"", None):
            if path.startswith(_USERS + b"/"):
                report.nodes += 1
                _check_size(path.removeprefix(_USERS), len(value))
                yield tables.NODES, path.removeprefix(_USERS), value
        for key, value in self._engine.scan(tables.WINDOW, b"", None):
            event = _as_users_see(unpack_event(key, value))
            for node in filter(None, (event.node, event.prev)):
                _check_size(node.key, len(node.value or b""))
            yield tables.WINDOW, key, pack_event(event)
        for key, value in self._engine.scan(tables.STATE, b"", None):
            yield tables.STATE, key, value

    def _children(self, path: bytes) -> list[bytes]:
        """The paths of the nodes in a folder; none if it is not there."""
        found = self._machine.tree.get(path)
        return [node.key for node in found.node.nodes or ()] if isinstance(found, Event) else []

    def _value(self, path: bytes) -> bytes:
        """The value of a file; empty if it is not there."""
        found = self._machine.tree.get(path)
        return (found.node.value or b"") if isinstance(found, Event) else b""

    def _apply(self, entry: Entry) -> bool:
        """Whether the entry concerns the v2 store, or nothing."""
        if not entry.data:
            return True
        if entry.kind != NORMAL:
            self._change_members(v2content.member_change_of(entry.data))
            return True
        request = v2content.request_of(entry.data)
        match request:
            case V2Request():
                self._carry_out(request)
            case ClusterVersionSet():
                self._do(Set(_VERSION))
            case MemberAttributesSet(member):
                self._publish(member)
        return request is not None

    def _do(self, command: _OnNode | ExpireNodes) -> None:
        """Apply a command, and note the end of the TTL that it sets."""
        outcome = self._machine.apply(Index(self._machine.applied + 1), encode(command))
        if isinstance(outcome, Event) and outcome.node.expires:
            path = outcome.node.key
            timed = self._machine.tree.timed.get(path)
            if timed is not None:
                heappush(self._ends, (outcome.node.expires, path, timed.since))

    def _carry_out(self, request: V2Request) -> None:
        if request.method == b"SYNC":
            self._expire(request.time)
            return
        path = posixpath.normpath(b"/" + request.path.lstrip(b"/"))
        is_plain = request.method == b"PUT" and request.prev_exist is None
        if is_plain and not request.prev_index and not request.prev_value:
            attributes = _ATTRIBUTES.fullmatch(path)
            if attributes:
                self._publish(int(attributes[1], 16))
                return
        command = self._command(request, b"/" if path in _READ_ONLY and request.method != b"POST" else path)
        if command is not None:
            self._do(command)

    def _command(self, request: V2Request, path: bytes) -> _OnNode | None:
        value, expires, refresh = request.value, request.expires, request.refresh
        ttl = self._seconds_left(expires) if expires else 0
        compares = request.prev_index > 0 or bool(request.prev_value)
        prev_value, prev_index = request.prev_value, request.prev_index
        if request.method == b"DELETE":
            if compares:
                return CompareAndDelete(path, prev_value, prev_index)
            return Delete(path, request.dir, request.recursive)
        if request.method == b"POST":
            return InOrder(path, value, request.dir, expires, ttl)
        if request.method != b"PUT":
            return None
        if request.prev_exist is False:
            return Create(path, value, request.dir, expires, ttl)
        if compares:
            return CompareAndSwap(path, value, prev_value, prev_index, expires, refresh, ttl)
        if request.prev_exist:
            return Update(path, value, expires, refresh, ttl)
        return Set(path, value, request.dir, expires, refresh, ttl)

    def _expire(self, until: Nanos) -> None:
        """Remove the nodes whose TTL ends up to this instant."""
        overdue: list[tuple[bytes, int]] = []
        while self._ends and self._ends[0][0] <= until:
            _, path, since = heappop(self._ends)
            overdue.append((path, since))
        if overdue:
            self._do(ExpireNodes(tuple(overdue)))

    def _change_members(self, change: v2content.MemberChange) -> None:
        """Carry out a change of the members, unless an etcd refuses it."""
        if not self._members.change(change):
            return
        home = _home(change.member)
        attributes = home + b"/raftAttributes"
        if change.kind == _REMOVE:
            self._do(Delete(home, dir=True, recursive=True))
            self._do(Create(_REMOVED + b"/%x" % change.member))
        elif change.kind == _UPDATE or change.promotes:
            self._do(Update(attributes))
        else:
            self._do(Create(attributes))

    def _publish(self, member: int) -> None:
        if member in self._members:
            self._do(Set(_home(member) + b"/attributes"))

    def _seconds_left(self, expires: int) -> int:
        return max(1, min(LONGEST_TTL, -(-(expires - self._now) // _NANOS)))

    def _add_stored(self, changes: dict[tuple[str, bytes], bytes | None], top: StoredNode) -> None:
        waiting = [top]
        while waiting:
            node = waiting.pop()
            children = node.children
            waiting += () if children is None else children.values()
            value = node.value.encode() if children is None else None
            self._add(changes, node.path, value, node.expire_time, node.created_index, node.modified_index)

    def _add_shown(self, changes: dict[tuple[str, bytes], bytes | None], top: Listed) -> None:
        waiting = [top]
        while waiting:
            node = waiting.pop()
            waiting += node.nodes
            value = None if node.dir else (node.value or "").encode()
            path, created, modified = _USERS.decode() + node.key, node.created_index, node.modified_index
            self._add(changes, path, value, node.expiration, created, modified)

    def _add(  # noqa: PLR0917 - a node has these fields
        self,
        changes: dict[tuple[str, bytes], bytes | None],
        stored_path: str,
        value: bytes | None,
        expiration: str | None,
        created: int,
        modified: int,
    ) -> None:
        path = _path(stored_path)
        if path == b"/":  # is implied
            return
        expires = v2content.instant(expiration)
        timed = None
        if expires:
            timed = Timed(self._seconds_left(expires), EtcdIndex(max(1, modified)))
            self._ends.append((expires, path, timed.since))
        node = NodeView(path, EtcdIndex(created), EtcdIndex(modified), value, value is None, expires)
        changes[tables.NODES, path] = pack_node(node, timed)


_OnNode = Set | Create | Update | CompareAndSwap | InOrder | Delete | CompareAndDelete


def _call(done: Callable[[], object]) -> None:
    done()


def _path(stored: str) -> bytes:
    return stored.rstrip("/").encode() or b"/"


def _home(member: int) -> bytes:
    """The folder of a member."""
    return _MEMBERS + b"/%x" % member


def _id(home: bytes) -> int:
    """The id of the member whose folder this is. ValueError if it is none."""
    return int(home.rpartition(b"/")[2], 16)


class _Members:
    """The members of the cluster, and what an etcd asks of a change of them."""

    def __init__(self) -> None:
        self._known: dict[int, v2content.RaftAttributes] = {}
        self._owners: dict[str, int] = {}
        """The member that has a peer URL."""
        self._learners = 0
        self.removed: set[int] = set()
        """The ids that were of members, and are never so again."""

    def __contains__(self, member: int) -> bool:
        """Whether it is a member."""
        return member in self._known

    def add(self, member: int, attributes: v2content.RaftAttributes) -> None:
        """Add one, or replace what is known of it."""
        self.remove(member)
        self._known[member] = attributes
        self._learners += attributes.is_learner
        for url in attributes.peer_urls or ():
            self._owners.setdefault(url, member)

    def remove(self, member: int) -> None:
        """Forget one, if it is there."""
        before = self._known.pop(member, None)
        if before is not None:
            self._learners -= before.is_learner
            for url in before.peer_urls or ():
                if self._owners.get(url) == member:
                    del self._owners[url]

    def change(self, change: v2content.MemberChange) -> bool:
        """Carry out a change, unless an etcd refuses it: of an id that was removed, is there already or is
        not there, with a peer URL of another member, a second learner, or the promotion of a voter. Whether
        it was carried out.
        """
        member, new = change.member, change.attributes
        known = self._known.get(member)
        if member in self.removed:
            return False
        if change.promotes and change.kind in {_ADD, _ADD_LEARNER}:
            if known is None or not known.is_learner:
                return False
            new = v2content.RaftAttributes(known.peer_urls)
        elif change.kind == _REMOVE:
            if known is None:
                return False
            self.remove(member)
            self.removed.add(member)
            return True
        else:
            is_new = change.kind != _UPDATE
            if is_new != (known is None):
                return False
            if any(self._owners.get(url, member) != member for url in new.peer_urls or ()):
                return False
            if is_new and new.is_learner and self._learners >= _MOST_LEARNERS:
                return False
        self.add(member, new)
        return True


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def _event(stored: StoredEvent) -> Event:
    index = EtcdIndex(stored.node.modified_index)
    prev = None if stored.prev_node is None else _view(stored.prev_node)
    return Event(stored.action, index, _view(stored.node), prev, refresh=stored.refresh)


def _view(node: ShownNode) -> NodeView:
    value = None if node.value is None else node.value.encode()
    created, modified = EtcdIndex(node.created_index), EtcdIndex(node.modified_index)
    return NodeView(_path(node.key), created, modified, value, node.dir, v2content.instant(node.expiration))


def _as_users_see(event: Event) -> Event:
    """An event of etcd's store as one of ours: without what is not of users but its path and index."""
    path = event.node.key
    if not path.startswith(_USERS + b"/"):
        node = NodeView(path.removeprefix(_CLUSTER) or b"/", event.index, event.index)
        return Event(event.action, event.index, node, internal=True)
    path = path.removeprefix(_USERS)
    prev = None if event.prev is None else replace(event.prev, key=path)
    return replace(event, node=replace(event.node, key=path), prev=prev)
