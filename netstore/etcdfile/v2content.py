"""The v2 store of an etcd as its v2 snapshots have it, in JSON, and the requests in its log that change it.

Users' keys are below `/1` in this store, and those of the cluster itself below `/0`.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import msgspec

from netstore.codec import Malformed
from netstore.errors import CorruptData, parse_problem
from netstore.etcdfile.protofields import Message
from netstore.types import Nanos

if TYPE_CHECKING:
    from collections.abc import Iterator

LATEST: Final = Nanos(2**63 - 1)
"""The latest instant that is told apart, in the year 2262."""

_METHODS: Final = frozenset({b"PUT", b"POST", b"DELETE", b"QGET", b"SYNC"})
_INSTANT: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)")


class StoredNode(msgspec.Struct, frozen=True, gc=False, rename="pascal"):
    """A node; a directory has children, by name."""

    path: str
    created_index: int = 0
    modified_index: int = 0
    expire_time: str = ""
    value: str = ""
    children: dict[str, StoredNode] | None = None


class ShownNode(msgspec.Struct, frozen=True, gc=False):
    """A node as the v2 API and the event history show it."""

    key: str = "/"
    value: str | None = None
    dir: bool = False
    expiration: str | None = None
    modified_index: int = msgspec.field(default=0, name="modifiedIndex")
    created_index: int = msgspec.field(default=0, name="createdIndex")
    nodes: tuple[ShownNode, ...] = ()


class StoredEvent(msgspec.Struct, frozen=True, gc=False):
    """An event of the history."""

    action: str
    node: ShownNode
    prev_node: ShownNode | None = msgspec.field(default=None, name="prevNode")
    refresh: bool = False


class _Queue(msgspec.Struct, frozen=True, rename="pascal"):
    events: list[StoredEvent | None] = []


class _History(msgspec.Struct, frozen=True, rename="pascal"):
    queue: _Queue = _Queue()


class _Hub(msgspec.Struct, frozen=True, rename="pascal"):
    event_history: _History = _History()


class V2Content(msgspec.Struct, frozen=True, rename="pascal"):
    """The whole store."""

    root: StoredNode
    current_index: int
    stats: dict[str, int] = {}
    watcher_hub: _Hub = _Hub()

    @property
    def events(self) -> Iterator[StoredEvent]:
        """The event history, in no order."""
        return filter(None, self.watcher_hub.event_history.queue.events)


def decode(data: bytes, name: str) -> V2Content:
    """The store in a v2 snapshot; `name` is that of its file. CorruptData if it is none."""
    try:
        return msgspec.json.decode(data, type=V2Content)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise CorruptData(
            f"{name}: not the JSON of a v2 store ({parse_problem(error)}); take another copy"
        ) from None


def instant(text: str | None) -> Nanos:
    """An instant in RFC 3339 as nanoseconds since 1970; 0 for none, which etcd writes as the year 1.

    ValueError if it is none.
    """
    if not text or text.startswith("0001-"):
        return Nanos(0)
    match = _INSTANT.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no instant")
    zone = "+00:00" if match[3] == "Z" else match[3]
    seconds = int(
        (datetime.fromisoformat(match[1] + zone) - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()
    )
    return Nanos(max(1, min(LATEST, seconds * 1_000_000_000 + int((match[2] or "").ljust(9, "0")))))


class V2Request(NamedTuple):
    """A request of the v2 API in the log."""

    method: bytes
    path: bytes
    value: bytes
    dir: bool
    prev_value: bytes
    prev_index: int
    prev_exist: bool | None
    expires: Nanos
    recursive: bool
    time: Nanos
    """Of a SYNC: nodes whose TTL ends up to then are removed."""
    refresh: bool


class ClusterVersionSet(NamedTuple):
    """A later etcd's request to set the version of the cluster, which the v2 store shows."""


class MemberAttributesSet(NamedTuple):
    """A later etcd's request to publish a member's name and URLs, which the v2 store shows."""

    member: int


Request = V2Request | ClusterVersionSet | MemberAttributesSet


def request_of(data: bytes) -> Request | None:
    """The request in the payload of an entry if it concerns the v2 store; None if it is one of the v3 API.

    Malformed if it is none.
    """
    outer = Message(data)
    if isinstance(outer.value(2), bytes):
        inner = outer.data(2)
        return _v2_request(outer if inner in _METHODS else Message(inner))
    if 1300 in outer:
        return ClusterVersionSet()
    if 1301 in outer:
        return MemberAttributesSet(Message(outer.data(1301)).number(1))
    return None


def _v2_request(message: Message) -> V2Request:
    method = message.data(2)
    if method not in _METHODS:
        raise Malformed(f"method {method!r}")
    return V2Request(
        method,
        message.data(3),
        message.data(4),
        bool(message.number(5)),
        message.data(6),
        message.number(7),
        bool(message.number(8)) if 8 in message else None,
        Nanos(max(0, message.signed(9))),
        bool(message.number(12)),
        Nanos(max(0, message.signed(15))),
        bool(message.number(17)),
    )


class RaftAttributes(msgspec.Struct, frozen=True, gc=False):
    """What a member is for the others."""

    peer_urls: tuple[str, ...] | None = msgspec.field(default=None, name="peerURLs")
    is_learner: bool = msgspec.field(default=False, name="isLearner")


class _Promotion(msgspec.Struct, frozen=True):
    promotes: bool = msgspec.field(default=False, name="isPromote")


class MemberChange(NamedTuple):
    """A change of the members in the log."""

    kind: int
    """0: add, 1: remove, 2: update, 3: add as a learner."""
    member: int
    attributes: RaftAttributes
    promotes: bool
    """A learner becomes a voter; of kind 0 or 3."""


def raft_attributes_of(data: bytes) -> RaftAttributes:
    """The attributes in the JSON of a member; those of one without any if there is none. ValueError if it is
    another JSON.
    """
    return _decoded(data, RaftAttributes)


def member_change_of(data: bytes) -> MemberChange:
    """The change in the payload of an entry of kind CHANGE. Malformed if it is none."""
    message = Message(data)
    context = message.data(4)
    try:
        attributes, promotion = _decoded(context, RaftAttributes), _decoded(context, _Promotion)
    except ValueError as error:
        raise Malformed(str(error)) from None
    return MemberChange(message.number(2), message.number(3), attributes, promotion.promotes)


_T = TypeVar("_T")


def _decoded(data: bytes, type_: type[_T]) -> _T:
    try:
        return msgspec.json.decode(data or b"{}", type=type_)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(f"not the JSON of a member ({parse_problem(error)})") from None
