"""Stores with a v2 API, asked in the same words: a member in this process, or a server behind a socket.

What two stores answer is compared byte for byte, save for what must differ: instants, the order of an
unsorted listing, the numbers of clusters and of Raft, and what passed between the two of the time to live.
"""

from __future__ import annotations

import json
import re
import socket
import time
from dataclasses import dataclass, field
from http.client import HTTPResponse
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol
from urllib.parse import urlsplit

from netstore.state.countdown import LONGEST_SPARED
from netstore.types import Nanos
from tests.support.contents import nodes_of
from tests.support.local_member import HandClock, LocalMember, RecordedExchange
from tests.support.patience import seconds, until

if TYPE_CHECKING:
    from collections.abc import Iterable

FORM: Final = b"application/x-www-form-urlencoded"
_WAIT_SECONDS: Final = 60.0
"""For what comes at once where others do not hold the processor or the disk."""
_EXPIRY_SECONDS: Final = LONGEST_SPARED + _WAIT_SECONDS
"""For the end of a node whose time is up: a store at which requests wait puts it off."""
_COMPARED: Final = ("Content-Type", "X-Etcd-Index", "Allow", "Location", "X-Content-Type-Options")
_PRESENCE: Final = ("X-Etcd-Cluster-Id", "X-Raft-Index", "X-Raft-Term")
_EXPIRATION: Final = re.compile(rb'"expiration":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?Z"')
_TTL: Final = re.compile(rb',?"ttl":(-?\d+)')


@dataclass(frozen=True)
class Question:
    """One request. `target` is the raw request target, the query included."""

    method: bytes
    target: bytes
    body: bytes = b""
    content_type: bytes | None = FORM

    @property
    def path(self) -> bytes:
        return self.target.partition(b"?")[0]

    @property
    def query(self) -> bytes:
        return self.target.partition(b"?")[2]


class Shown(NamedTuple):
    """An answer as it is compared: what must be the same, and the seconds to live that it names, in order.
    One that is over counts as 0 and may be left out.
    """

    same: tuple[int, dict[str, str], object]
    seconds: tuple[int, ...]
    overdue: int
    """By how many seconds something is, at most."""

    def difference(self, other: Shown) -> float:
        """The most seconds by which times to live differ, or are overdue."""
        pairs = zip(self.seconds, other.seconds, strict=True)
        return max((abs(one - two) for one, two in pairs), default=0) + max(self.overdue, other.overdue)


@dataclass
class Answer:
    """A status, the fields that are compared, and a body."""

    status: int
    fields: dict[str, str]
    body: bytes

    def shown(self, *, in_order: bool) -> Shown:
        """The answer without what may differ."""
        body = _EXPIRATION.sub(b'"expiration":""', self.body)
        if not in_order and b'"nodes"' in body:
            body = json.dumps(_sorted(json.loads(body)), separators=(",", ":")).encode()
        left = [int(seconds) for seconds in _TTL.findall(body)]
        overdue = -min((0, *left))
        return Shown(
            (self.status, self.fields, _TTL.sub(_alive, body)),
            tuple(each for each in left if each > 0),
            overdue,
        )

    @property
    def index(self) -> int:
        return int(self.fields["X-Etcd-Index"])


def _alive(found: re.Match[bytes]) -> bytes:
    """That it has a time to live, without how long that is."""
    return b',"ttl":0' if int(found[1]) > 0 else b""


def _sorted(document: Any) -> Any:
    if isinstance(document, dict):
        return {name: _sorted(value) for name, value in document.items()}
    if isinstance(document, list):
        return sorted(map(_sorted, document), key=lambda node: json.dumps(node["key"]))
    return document


def _compared(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    given = {name.lower(): value for name, value in headers}
    fields = {name: given[name.lower()] for name in _COMPARED if name.lower() in given}
    return fields | {name: "present" for name in _PRESENCE if name.lower() in given}


class Watching(Protocol):
    """A watch whose head has come."""

    @property
    def head(self) -> Answer:
        """Status and fields; the body is what `lines` gives."""

    def lines(self, count: int, *, ended: bool) -> tuple[list[bytes], bool]:
        """The first `count` lines of the body, and, if `ended` is asked for, whether it ended then."""

    def close(self) -> None:
        """Hang up."""


class Store(Protocol):
    """Something that answers the v2 API."""

    def ask(self, question: Question) -> Answer | Watching:
        """The answer, or a watch that waits."""

    def after_expiry(self, target: bytes, index: int) -> None:
        """Return when the node that was given no time to live is gone; it was given it at `index`."""


@dataclass
class LocalWatching:
    exchange: RecordedExchange

    @property
    def head(self) -> Answer:
        return Answer(self.exchange.status, _compared(self.exchange.headers.items()), b"")

    def lines(self, count: int, *, ended: bool) -> tuple[list[bytes], bool]:
        return self.exchange.pieces, self.exchange.done

    def close(self) -> None:
        self.exchange.hang_up()


@dataclass
class LocalStore:
    """A member in this process that shows the real time."""

    member: LocalMember = field(default_factory=lambda: LocalMember(clock=HandClock(Nanos(time.time_ns()))))

    def ask(self, question: Question) -> Answer | Watching:
        self.member.clock.now = Nanos(time.time_ns())
        exchange = self.member.send(
            question.method.decode(), question.target, question.body, question.content_type
        )
        if exchange.open or exchange.pieces:
            return LocalWatching(exchange)
        return Answer(exchange.status, _compared(exchange.headers.items()), exchange.body)

    def top_level(self) -> list[bytes]:
        """The names in the root, hidden ones too, sorted."""
        return sorted(
            node.key[1:] for node in nodes_of(self.member.machine.tree) if node.key.rfind(b"/") == 0
        )

    def after_expiry(self, target: bytes, index: int) -> None:
        self.member.clock.now = Nanos(time.time_ns())
        self.member.tick()


class HttpWatching:
    def __init__(self, response: HTTPResponse, connection: socket.socket) -> None:
        self._response = response
        self._connection = connection
        self.head = Answer(response.status, _compared(response.getheaders()), b"")

    def lines(self, count: int, *, ended: bool) -> tuple[list[bytes], bool]:
        lines = [self._response.readline() for _ in range(count)]
        return lines, bool(ended and self._response.readline() == b"")

    def patience(self, quiet: float) -> None:
        """Wait for each line as long as so many seconds of a quiet machine."""
        self._connection.settimeout(seconds(quiet))

    def close(self) -> None:
        self._response.close()
        self._connection.close()


class HttpStore:
    """A server at a URL; watches have a connection each, everything else shares one."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname or "", parts.port or 0)
        self._shared: socket.socket | None = None

    def ask(self, question: Question) -> Answer | Watching:
        lines = [b"%b %b HTTP/1.1" % (question.method, question.target), b"Host: x"]
        if question.content_type is not None:
            lines.append(b"Content-Type: " + question.content_type)
        if question.body or question.method in (b"PUT", b"POST"):
            lines.append(b"Content-Length: %d" % len(question.body))
        connection = self._shared or socket.create_connection(self._address, seconds(_WAIT_SECONDS))
        self._shared = None
        connection.sendall(b"\r\n".join(lines) + b"\r\n\r\n" + question.body)
        response = HTTPResponse(connection, method=question.method.decode("latin-1"))
        response.begin()
        if response.status == 200 and response.chunked and b"wait" in question.query:
            return HttpWatching(response, connection)
        body = response.read()
        if response.will_close:
            connection.close()
        else:
            self._shared = connection
        response.close()
        return Answer(response.status, _compared(response.getheaders()), body)

    def after_expiry(self, target: bytes, index: int) -> None:
        watch = self.ask(Question(b"GET", target + b"?wait=true&waitIndex=%d" % (index + 1)))
        assert isinstance(watch, HttpWatching)
        watch.patience(_EXPIRY_SECONDS)
        watch.lines(1, ended=True)
        watch.close()

    def settle(self) -> None:
        """Return when the store has decided its version: a change of its own, which takes an index."""

        def decided() -> bool:
            answer = self.ask(Question(b"GET", b"/version"))
            assert isinstance(answer, Answer)
            return bool(json.loads(answer.body)["etcdcluster"] != "not_decided")

        until(decided, "the store has decided its version", _WAIT_SECONDS)

    def close(self) -> None:
        """Hang up."""
        if self._shared is not None:
            self._shared.close()
            self._shared = None
