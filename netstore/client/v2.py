"""etcd's v2 API as a client sees it: keys, watches, members, version and health.

A call returns an `Answer` (or what its docstring says), or raises: `V2Error` if the store refused, else
`Unreachable` or `BadAnswer` (`client.faults`). `outcome_known` of the error tells whether a write may have
happened: for V2Error it is False with code 300, where it may still be applied (v2 API, "Cluster behaviour").
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, Protocol, Self, TypeVar
from urllib.parse import quote, urlencode

import msgspec
import trio

from netstore.client.faults import BadAnswer, ClientError
from netstore.errors import parse_problem

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from types import TracebackType

    from netstore.client.longpoll import PollAnswer
    from netstore.client.transport import Response, Transport

T = TypeVar("T")

KEY_NOT_FOUND: Final = 100
NOT_A_FILE: Final = 102
COMPARE_FAILED: Final = 101
NOT_A_FOLDER: Final = 104
KEY_EXISTS: Final = 105
NOT_EMPTY: Final = 108
RAFT_ERROR: Final = 300
WATCHER_CLEARED: Final = 400
INDEX_CLEARED: Final = 401
NOT_AUTHORIZED: Final = 110

MOST_INDEX_DIGITS: Final = 19
"""Of an X-Etcd-Index: an int64 has no more."""

POLL_LIMIT: Final = 60.0
"""Seconds after which a long poll is sent again: a lost network path is found out within a minute."""


class Node(msgspec.Struct, frozen=True, gc=False):
    """A node as the store shows it (v2 API, "Event"). `ttl` is None for a permanent node; 0 or less if it has
    expired and was not removed yet.
    """

    key: str = "/"
    value: str | None = None
    dir: bool = False
    expiration: str | None = None
    ttl: int | None = None
    nodes: tuple[Node, ...] = ()
    modified_index: int = msgspec.field(default=0, name="modifiedIndex")
    created_index: int = msgspec.field(default=0, name="createdIndex")


class _Event(msgspec.Struct, frozen=True, gc=False):
    action: str
    node: Node | None = None
    prev_node: Node | None = msgspec.field(default=None, name="prevNode")


class Answer(msgspec.Struct, frozen=True, gc=False):
    """A successful answer. `etcd_index` is the store's index at that time; for a watch, when it began."""

    action: str
    node: Node
    prev_node: Node | None
    etcd_index: int
    cluster_id: str
    status: int = 200


class ClusterMember(msgspec.Struct, frozen=True, gc=False):
    """A member of the cluster (v2 members API)."""

    id: str
    name: str = ""
    peer_urls: tuple[str, ...] = msgspec.field(default=(), name="peerURLs")
    client_urls: tuple[str, ...] = msgspec.field(default=(), name="clientURLs")


class _Members(msgspec.Struct, frozen=True):
    members: tuple[ClusterMember, ...] = ()


class _Auth(msgspec.Struct, frozen=True):
    enabled: bool


class _ErrorBody(msgspec.Struct, frozen=True):
    code: int = msgspec.field(name="errorCode")
    message: str = ""
    cause: str = ""
    index: int = 0


class _MessageBody(msgspec.Struct, frozen=True):
    message: str


class V2Error(ClientError):
    """The store's refusal, with its own code, message, cause and index (v2 API, "Errors")."""

    def __init__(
        self,
        code: int,
        message: str,
        cause: str = "",
        index: int = 0,
        *,
        cluster_id: str = "",
        endpoint: str = "",
        write: bool = False,
    ) -> None:
        super().__init__(code, message, cause, index)
        self.endpoint = endpoint
        self.code = code
        self.message = message
        self.cause = cause
        self.index = index
        self.cluster_id = cluster_id
        self.outcome_known = not (write and code == RAFT_ERROR)
        self.is_denied = code == NOT_AUTHORIZED

    def __str__(self) -> str:
        """The form that every etcd v2 client prints."""
        return f"{self.code}: {self.message} ({self.cause}) [{self.index}]"


_FORM: Final = "application/x-www-form-urlencoded"

_decode_event = msgspec.json.Decoder(_Event).decode
_decode_error = msgspec.json.Decoder(_ErrorBody).decode
_decode_message = msgspec.json.Decoder(_MessageBody).decode
_decode_members = msgspec.json.Decoder(_Members).decode
_decode_member = msgspec.json.Decoder(ClusterMember).decode
_decode_auth = msgspec.json.Decoder(_Auth).decode
_decode_words = msgspec.json.Decoder(dict[str, str]).decode


class _Head(Protocol):
    """What an answer says of itself; `write` tells whether its request may have changed anything."""

    endpoint: str
    status: int
    write: bool

    def header(self, name: str) -> str:
        """The value of a header field; empty if it was not sent."""


class Poll:
    """A long poll whose head has arrived. `etcd_index` and `cluster_id` are those when the watch began."""

    def __init__(self, response: Response | PollAnswer, etcd_index: int) -> None:
        self.etcd_index = etcd_index
        self.endpoint = response.endpoint
        self.cluster_id = response.header("x-etcd-cluster-id")
        self.timed_out = False
        """Whether `event` waited for its whole time while the store kept the watch open."""
        self._response = response

    async def event(self, limit: float = POLL_LIMIT) -> Answer | None:
        """The event, or None if `limit` seconds passed or the store ended the watch: poll again with the same
        index.
        """
        with trio.move_on_after(limit):
            body = await self._response.body_of_watch()
            if body is None or not body.strip():
                return None  # a cut in the middle is like an early end (v2 API, "Watches", Answer)
            return _answer(self._response, body)
        self.timed_out = True
        return None


class V2Client:
    """The v2 API behind the endpoints of a transport. An async context manager, which opens the transport;
    tasks may share it.
    """

    def __init__(self, transport: Transport) -> None:
        self.transport = transport

    async def __aenter__(self) -> Self:
        await self.transport.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.transport.__aexit__(kind, error, trace)

    # Reads

    async def get(
        self, key: str, *, recursive: bool = False, sort: bool = False, quorum: bool = False
    ) -> Answer:
        """The node, with its children if it is a directory. `quorum` makes it a linearizable read; else one
        member answers from its own state.
        """
        query = {
            "quorum": _word(quorum),
            "recursive": _word(recursive),
            "sorted": _word(sort),
        }
        return await self._event("GET", key, query)

    @asynccontextmanager
    async def poll(
        self, key: str, *, index: int | None = None, recursive: bool = False
    ) -> AsyncIterator[Poll]:
        """A long poll from `index` on (None: from now on), entered once the store has sent the head of its
        answer.
        """
        async with self.transport.request(
            "GET", _path(key), _waiting(index, recursive=recursive), write=False, refusal=_refusal
        ) as response:
            if response.status != 200:
                raise _refusal(response, await response.body())
            yield Poll(response, _index(response))

    @asynccontextmanager
    async def poll_for_each(
        self, key: str, *, index: int | None = None, recursive: bool = False
    ) -> AsyncIterator[Poll]:
        """The same for who polls again for each of many events: over connections that only do that
        (`longpoll`) and cost less. `Transport.connections` does not count them.
        """
        answer = await self.transport.poll(_path(key), _waiting(index, recursive=recursive), _refusal)
        try:
            if answer.status != 200:
                raise _refusal(answer, await answer.body())
            yield Poll(answer, _index(answer))
        finally:
            await answer.close()

    async def watch(
        self, key: str, *, index: int | None = None, recursive: bool = False
    ) -> AsyncIterator[Answer]:
        """Events from `index` on (None: from now on), without end. Only an error ends it: V2Error 401 if
        events were lost.
        """
        while True:
            async with self.poll(key, index=index, recursive=recursive) as poll:
                if index is None:
                    index = poll.etcd_index + 1
                answer = await poll.event()
            if answer is not None:
                index = answer.node.modified_index + 1
                yield answer

    # Writes

    async def set(self, key: str, value: str, *, ttl: int | None = None) -> Answer:
        """Create or replace a file. Without `ttl` (seconds) it is permanent."""
        return await self._event("PUT", key, {}, _form(value, ttl))

    async def create(self, key: str, value: str, *, ttl: int | None = None) -> Answer:
        """Create a file; V2Error 105 if the key exists."""
        return await self._event("PUT", key, {"prevExist": "false"}, _form(value, ttl))

    async def create_in_order(self, folder: str, value: str, *, ttl: int | None = None) -> Answer:
        """Create a file in `folder` with a name that the store chooses; later names are greater."""
        return await self._event("POST", folder, {}, _form(value, ttl))

    async def compare_and_swap(
        self,
        key: str,
        value: str,
        *,
        prev_value: str | None = None,
        prev_index: int | None = None,
        ttl: int | None = None,
    ) -> Answer:
        """Replace the value if it is still `prev_value` and was last changed at `prev_index`; else V2Error
        101 or 100.
        """
        return await self._event("PUT", key, _condition(prev_value, prev_index), _form(value, ttl))

    async def delete(self, key: str, *, recursive: bool = False, dir: bool = False) -> Answer:  # noqa: A002 - the API's word
        """Remove a file; with `dir` an empty directory; with `recursive` a directory and everything in it."""
        query = {name: "true" for name, given in (("dir", dir), ("recursive", recursive)) if given}
        return await self._event("DELETE", key, query)

    async def compare_and_delete(
        self, key: str, *, prev_value: str | None = None, prev_index: int | None = None
    ) -> Answer:
        """Remove a file if it is still `prev_value` and was last changed at `prev_index`; else V2Error 101 or
        100.
        """
        return await self._event("DELETE", key, _condition(prev_value, prev_index))

    async def mkdir(self, key: str, *, ttl: int | None = None) -> Answer:
        """Create a directory; V2Error 105 if the key exists."""
        return await self._event("PUT", key, {"dir": "true", "prevExist": "false"}, _form(None, ttl))

    async def update_folder(self, key: str, *, ttl: int | None = None) -> Answer:
        """Give a directory another TTL; without one it is permanent. V2Error 100 if it does not exist. A file
        loses its value by it.
        """
        return await self._event("PUT", key, {"dir": "true", "prevExist": "true"}, _form(None, ttl))

    async def refresh(self, key: str, ttl: int) -> Answer:
        """Give a file or directory another TTL, which is no event for watchers; V2Error 100 if it does not
        exist.
        """
        return await self._event("PUT", key, {"prevExist": "true", "refresh": "true"}, _form(None, ttl))

    # The cluster

    async def version(self) -> dict[str, str]:
        """The answer of `/version`: `etcdserver`, `etcdcluster` and perhaps more."""
        return await self._document("/version", _decode_words)

    async def health(self) -> dict[str, str]:
        """The answer of `/health` at the first endpoint that answers: `health` is "true" or "false", perhaps
        with a `reason`.
        """
        async with self.transport.request("GET", "/health", write=False) as response:
            return _decoded(response, await response.body(), _decode_words)

    async def members(self) -> tuple[ClusterMember, ...]:
        """The members of the cluster."""
        return (await self._document("/v2/members", _decode_members)).members

    async def leader(self) -> ClusterMember:
        """The leader; BadAnswer with status 503 while there is none."""
        return await self._document("/v2/members/leader", _decode_member)

    async def asks_for_passwords(self) -> bool:
        """Whether the v2 API of an etcd knows its users by their passwords; False where there is none."""
        try:
            return (await self._document("/v2/auth/enable", _decode_auth)).enabled
        except BadAnswer as error:
            if error.status == 404:
                return False
            raise

    # One request

    async def _event(
        self, method: str, key: str, query: dict[str, str], form: dict[str, str] | None = None
    ) -> Answer:
        content = None if form is None else (_FORM, urlencode(form).encode())
        async with self.transport.request(
            method, _path(key), query, content, write=method != "GET", refusal=_refusal
        ) as response:
            body = await response.body()
            if response.status not in (200, 201):
                raise _refusal(response, body)
            return _answer(response, body)

    async def _document(self, path: str, decode: Callable[[bytes], T]) -> T:
        async with self.transport.request("GET", path, write=False, refusal=_refusal) as response:
            body = await response.body()
            if response.status != 200:
                raise _refusal(response, body)
            return _decoded(response, body, decode)


def _answer(response: _Head, body: bytes) -> Answer:
    try:
        event = _decode_event(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        deep = isinstance(error, RecursionError)
        problem = (
            "sent a tree nested too deep to read: ask for a part of it"
            if deep
            else f"sent what is not a v2 answer: {error}"
        )
        raise BadAnswer(
            response.endpoint, problem, status=response.status, outcome_known=not response.write
        ) from None
    return Answer(
        event.action,
        event.node or Node(),
        event.prev_node,
        _index(response),
        response.header("x-etcd-cluster-id"),
        response.status,
    )


def _refusal(response: _Head, body: bytes) -> ClientError:
    status = response.status
    try:
        error = _decode_error(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        try:
            text = _decode_message(body).message
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            text = body[:200].decode("utf-8", "replace").strip()
        unknown = response.write and status >= 500
        return BadAnswer(
            response.endpoint, f"answered {status}: {text}", status=status, outcome_known=not unknown
        )
    cluster_id = response.header("x-etcd-cluster-id")
    return V2Error(
        error.code,
        error.message,
        error.cause,
        error.index,
        cluster_id=cluster_id,
        endpoint=response.endpoint,
        write=response.write,
    )


def _decoded(response: _Head, body: bytes, decode: Callable[[bytes], T]) -> T:
    try:
        return decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadAnswer(response.endpoint, f"sent what this API does not: {parse_problem(error)}") from None


def _index(response: _Head) -> int:
    text = response.header("x-etcd-index")
    if text.isascii() and text.isdigit() and len(text) <= MOST_INDEX_DIGITS:
        return int(text)
    raise BadAnswer(
        response.endpoint,
        "sent no X-Etcd-Index: it is not an etcd v2 endpoint, or a proxy drops the header",
        status=response.status,
        outcome_known=not response.write,
    )


def _waiting(index: int | None, *, recursive: bool) -> dict[str, str]:
    query = {"recursive": _word(recursive), "wait": "true"}
    if index:
        query["waitIndex"] = str(index)
    return query


def _path(key: str) -> str:
    return "/v2/keys/" + quote(key.lstrip("/"), safe="/")


def _word(flag: bool) -> str:
    return "true" if flag else "false"


def _form(value: str | None, ttl: int | None) -> dict[str, str]:
    form = {}
    if ttl is not None:
        form["ttl"] = str(ttl)
    if value is not None:
        form["value"] = value
    return form


def _condition(prev_value: str | None, prev_index: int | None) -> dict[str, str]:
    if not prev_value and not prev_index:
        raise ValueError("a compare needs a previous value that is not empty, or a previous index")
    condition = {}
    if prev_index:
        condition["prevIndex"] = str(prev_index)
    if prev_value:
        condition["prevValue"] = prev_value
    return condition
