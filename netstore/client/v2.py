"""The v2 keys API as its caller sees it: values in, values out, and three kinds of failure.

Every call ends in one of four ways, told apart by type and by `outcome_known`:

- an `Answer`;
- `V2Error`: the store understood and refused. For a write with code 300 the outcome is *unknown* (it may
  still be applied: v2 API, "Cluster behaviour");
- `Unreachable`: no endpoint answered in time. The outcome is unknown if the request may have reached one;
- `BadAnswer`: something answered that is not an etcd v2 endpoint.

Reads walk the list of endpoints until one answers. A write is sent to one endpoint only; it moves on to the
next only while no connection could be made, that is while it cannot have happened. Every wait has a limit.
Redirects are not followed: a store never sends one, and following it could turn a write into a read.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, Self, TypeVar
from urllib.parse import quote, urlencode

import msgspec
import trio

from netstore import __version__
from netstore.client.endpoints import Endpoints
from netstore.errors import NetstoreError
from netstore.net.tls import words

# httpx imports its own command line, and with it rich and pygments, when it finds them: 40 of its 60 ms.
# Entering None makes that import fail the way it does where the extra is not installed, which httpx provides
# for.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
import httpx  # noqa: E402 - after the line above

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable
    from types import TracebackType

T = TypeVar("T")

KEY_NOT_FOUND: Final = 100
COMPARE_FAILED: Final = 101
KEY_EXISTS: Final = 105
RAFT_ERROR: Final = 300
INDEX_CLEARED: Final = 401

TIMEOUT: Final = 8.0
"""Seconds for one endpoint to answer: above the 7 s after which a store without quorum gives up by itself."""

CONNECT_TIMEOUT: Final = 1.0
"""Seconds to make a connection (Go's etcd client, as flannel sets it up)."""

POLL_LIMIT: Final = 60.0
"""Seconds a long poll waits before it is asked again: a silent network path is found out within a minute."""

MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
"""A listing of 100,000 leases is a third of it."""

MAX_CONNECTIONS: Final = 16
"""Connections of one client: one for calls, one per watch, some to spare."""

_KEEPALIVE: Final = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
]
"""A peer that vanished without a word ends a long poll after about 25 s."""


class Node(msgspec.Struct, frozen=True, gc=False):
    """A node as the store shows it (v2 API, "Event"). `ttl` is None for a permanent node; 0 or less is
    overdue.
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
    """A successful answer. `etcd_index` is the store's index then; for a watch, its index when the watch
    began.
    """

    action: str
    node: Node
    prev_node: Node | None
    etcd_index: int
    cluster_id: str
    status: int = 200


class Member(msgspec.Struct, frozen=True, gc=False):
    """A member of the cluster (v2 members API)."""

    id: str
    name: str = ""
    peer_urls: tuple[str, ...] = msgspec.field(default=(), name="peerURLs")
    client_urls: tuple[str, ...] = msgspec.field(default=(), name="clientURLs")


class Reply(msgspec.Struct, frozen=True):
    """What one endpoint answered to a `call`."""

    endpoint: str
    status: int
    body: bytes
    server: str


class _Members(msgspec.Struct, frozen=True):
    members: tuple[Member, ...] = ()


class _ErrorBody(msgspec.Struct, frozen=True):
    code: int = msgspec.field(name="errorCode")
    message: str = ""
    cause: str = ""
    index: int = 0


class _MessageBody(msgspec.Struct, frozen=True):
    message: str


class ClientError(NetstoreError):
    """A call that gave no answer of use. `outcome_known` is False if a write may have happened or may still
    happen.
    """

    outcome_known: bool = True


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
        write: bool = False,
    ) -> None:
        super().__init__(code, message, cause, index)
        self.code = code
        self.message = message
        self.cause = cause
        self.index = index
        self.cluster_id = cluster_id
        self.outcome_known = not (write and code == RAFT_ERROR)

    def __str__(self) -> str:
        """The form every etcd v2 client prints."""
        return f"{self.code}: {self.message} ({self.cause}) [{self.index}]"


class Unreachable(ClientError):  # noqa: N818 - named for what was found
    """No endpoint answered within its time. The text says for each what happened."""

    def __init__(self, tried: list[tuple[str, str]], *, outcome_known: bool) -> None:
        super().__init__(tried)
        self.tried = tried
        self.outcome_known = outcome_known

    def __str__(self) -> str:
        text = "; ".join(f"{endpoint}: {reason}" for endpoint, reason in self.tried)
        return f"no endpoint answered ({text})" if self.outcome_known else f"outcome unknown ({text})"


class BadAnswer(ClientError):  # noqa: N818 - named for what was found
    """An answer that is not from an etcd v2 endpoint, or too long. The text names the endpoint and what it
    said.
    """

    def __init__(self, endpoint: str, problem: str, *, status: int = 0, outcome_known: bool = True) -> None:
        super().__init__(endpoint, problem)
        self.endpoint = endpoint
        self.problem = problem
        self.status = status
        self.outcome_known = outcome_known

    def __str__(self) -> str:
        return f"{self.endpoint} {self.problem}"


_FORM: Final = "application/x-www-form-urlencoded"

_decode_event = msgspec.json.Decoder(_Event).decode
_decode_error = msgspec.json.Decoder(_ErrorBody).decode
_decode_message = msgspec.json.Decoder(_MessageBody).decode
_decode_members = msgspec.json.Decoder(_Members).decode
_decode_member = msgspec.json.Decoder(Member).decode
_decode_words = msgspec.json.Decoder(dict[str, str]).decode


_OF_OURS: Final = re.compile("ALERT_(.*CERTIFICATE|UNKNOWN_CA|ACCESS_DENIED)")
"""What OpenSSL calls an alert that is about our certificate."""

_NO_TLS: Final = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG")
"""What OpenSSL calls an answer that is no TLS, in one release or another."""


def tls_context(ca_file: str | None, cert_file: str | None, key_file: str | None) -> ssl.SSLContext:
    """A client's TLS settings: the system's trust or `ca_file` alone, and our certificate if there is one."""
    try:
        context = ssl.create_default_context(cafile=ca_file or None)
    except OSError as error:
        raise NetstoreError(
            f"CA file {ca_file}: {words(error)}: give a PEM file of authorities' certificates"
        ) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if cert_file:
        try:
            context.load_cert_chain(cert_file, key_file or None)
        except OSError as error:
            raise NetstoreError(
                f"certificate {cert_file} with key {key_file or cert_file}: {words(error)}: give a PEM"
                " certificate and the key that belongs to it"
            ) from None
    return context


class Poll:
    """One long poll whose head has arrived: `etcd_index` and `cluster_id` are the store's when the watch
    began.
    """

    def __init__(self, endpoint: str, response: httpx.Response, etcd_index: int) -> None:
        self.etcd_index = etcd_index
        self.cluster_id = response.headers.get("x-etcd-cluster-id", "")
        self.timed_out = False
        """Whether `event` waited its whole time and the store would have gone on."""
        self._endpoint = endpoint
        self._response = response

    async def event(self, limit: float = POLL_LIMIT) -> Answer | None:
        """The event, or None when `limit` seconds passed or the store closed the watch: ask again with the
        same index.
        """
        with trio.move_on_after(limit):
            try:
                body = await _read(self._endpoint, self._response)
            except httpx.TransportError:
                return None  # cut in the middle: the same as closed early (v2 API, "Watches", Answer)
            if not body.strip():
                return None
            return _answer(self._endpoint, self._response, body, write=False)
        self.timed_out = True
        return None


class V2Client:
    """A caller of the v2 API over httpx on Trio. Use it as an async context manager; tasks may share it.

    `endpoints` is a comma-separated text or a sequence. `shuffle` (such as `random.shuffle`) spreads many
    clients over the list. `username` and `password` are sent as HTTP Basic. `timeout` bounds each attempt at
    one endpoint.
    """

    def __init__(
        self,
        endpoints: str | Iterable[str],
        *,
        ca_file: str | None = None,
        cert_file: str | None = None,
        key_file: str | None = None,
        username: str | None = None,
        password: str | None = None,
        timeout: float = TIMEOUT,
        connect_timeout: float = CONNECT_TIMEOUT,
        shuffle: Callable[[list[str]], None] | None = None,
    ) -> None:
        self.endpoints = Endpoints(endpoints, shuffle)
        self._timeout = timeout
        if self.endpoints.uses_tls():
            context = tls_context(ca_file, cert_file, key_file)
        else:
            # Never used, and therefore empty: loading the system's certificates takes longer than all other
            # set-up.
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        limits = httpx.Limits(
            max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_CONNECTIONS, keepalive_expiry=60.0
        )
        # The total of an attempt is bounded by a cancel scope; only making the connection has a limit of its
        # own.
        self._limits = httpx.Timeout(None, connect=connect_timeout, pool=connect_timeout)
        transport = httpx.AsyncHTTPTransport(
            verify=context, limits=limits, trust_env=False, socket_options=_KEEPALIVE
        )
        self._http = httpx.AsyncClient(
            transport=transport,
            trust_env=False,
            timeout=self._limits,
            auth=(username, password or "") if username else None,
            headers={"User-Agent": f"netstore/{__version__}", "Accept-Encoding": "identity"},
        )

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.__aexit__(kind, error, trace)

    # Reads

    async def get(
        self, key: str, *, recursive: bool = False, sort: bool = False, quorum: bool = False
    ) -> Answer:
        """The node, with its children when it is a directory. `quorum` asks the cluster, not one member's
        memory.
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
        """One long poll from `index` on (None: from now on), entered once the store has sent the head of its
        answer.
        """
        query = {"recursive": _word(recursive), "wait": "true"}
        if index:
            query["waitIndex"] = str(index)
        endpoint, response = await self._send("GET", _path(key), query, None, write=False)
        try:
            if response.status_code != 200:
                raise _refusal(endpoint, response, await self._body(endpoint, response), write=False)
            yield Poll(endpoint, response, _index(endpoint, response))
        finally:
            await _close(response)

    async def watch(
        self, key: str, *, index: int | None = None, recursive: bool = False
    ) -> AsyncIterator[Answer]:
        """Events from `index` on (None: from now on), for ever. Ends only by an error: V2Error 401 if some
        were lost.
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
        """Create a file in `folder` with a name the store picks; names grow with time."""
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

    # The cluster

    async def version(self) -> dict[str, str]:
        """What `/version` tells: `etcdserver`, `etcdcluster` and maybe more."""
        endpoint, body = await self._plain("/version")
        return _parsed(endpoint, body, _decode_words)

    async def health(self) -> dict[str, str]:
        """What `/health` of the first endpoint that answers tells: `health` is "true" or "false", maybe with
        a `reason`.
        """
        endpoint, response = await self._send("GET", "/health", {}, None, write=False, any_status=True)
        try:
            return _parsed(endpoint, await self._body(endpoint, response), _decode_words)
        finally:
            await _close(response)

    async def members(self) -> tuple[Member, ...]:
        """The members of the cluster."""
        endpoint, body = await self._plain("/v2/members")
        return _parsed(endpoint, body, _decode_members).members

    async def leader(self) -> Member:
        """The member that leads; BadAnswer with status 503 while there is none."""
        endpoint, body = await self._plain("/v2/members/leader")
        return _parsed(endpoint, body, _decode_member)

    # Other calls of a store

    async def call(self, method: str, path: str, document: object = None, *, write: bool) -> Reply:
        """A call that answers in JSON, whatever its status. `document` is sent as JSON, None is no body.

        `write` says whether it changes anything: a read is asked of the next endpoint when one is silent.
        """
        sent_body = None if document is None else ("application/json", msgspec.json.encode(document))
        endpoint, response = await self._send(method, path, {}, sent_body, write=write, any_status=True)
        try:
            body = await self._body(endpoint, response, write=write)
            return Reply(endpoint, response.status_code, body, response.headers.get("server", ""))
        finally:
            await _close(response)

    # One request

    async def _event(
        self, method: str, key: str, query: dict[str, str], form: dict[str, str] | None = None
    ) -> Answer:
        write = method != "GET"
        sent_body = None if form is None else (_FORM, urlencode(form).encode())
        endpoint, response = await self._send(method, _path(key), query, sent_body, write=write)
        try:
            body = await self._body(endpoint, response, write=write)
            if response.status_code not in (200, 201):
                raise _refusal(endpoint, response, body, write=write)
            return _answer(endpoint, response, body, write=write)
        finally:
            await _close(response)

    async def _plain(self, path: str) -> tuple[str, bytes]:
        endpoint, response = await self._send("GET", path, {}, None, write=False)
        try:
            body = await self._body(endpoint, response)
            if response.status_code != 200:
                raise _refusal(endpoint, response, body, write=False)
            return endpoint, body
        finally:
            await _close(response)

    async def _send(
        self,
        method: str,
        path: str,
        query: dict[str, str],
        sent_body: tuple[str, bytes] | None,
        *,
        write: bool,
        any_status: bool = False,
    ) -> tuple[str, httpx.Response]:
        """The head of an answer and who gave it. The caller reads the body and closes the response."""
        target = f"{path}?{urlencode(query)}" if query else path
        content = sent_body[1] if sent_body is not None else None
        headers = {"Content-Type": sent_body[0]} if sent_body is not None else None
        tried: list[tuple[str, str]] = []
        order = self.endpoints.order()
        for endpoint in order:
            request = self._http.build_request(method, endpoint + target, content=content, headers=headers)
            sent = True
            reason = f"no answer within {self._timeout:g} s"
            with trio.move_on_after(self._timeout):
                try:
                    response = await self._http.send(request, stream=True)
                except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
                    sent = False
                    reason = _reason(error)
                except httpx.TransportError as error:
                    reason = _reason(error)
                    sent = not _is_turned_away(error)
                else:
                    if response.status_code < 500 or write or any_status:
                        self.endpoints.pin(endpoint)
                        return endpoint, response
                    # A member without a leader, or a proxy in front of nothing: another one may know better.
                    try:
                        body = await _read(endpoint, response)
                    finally:
                        await _close(response)
                    refusal = _refusal(endpoint, response, body, write=False)
                    if endpoint == order[-1]:
                        raise refusal
                    reason = refusal.problem if isinstance(refusal, BadAnswer) else str(refusal)
                    tried.append((endpoint, reason))
                    continue
            tried.append((endpoint, reason))
            if write and sent:
                raise Unreachable(tried, outcome_known=False)
        raise Unreachable(tried, outcome_known=True)

    async def _body(self, endpoint: str, response: httpx.Response, *, write: bool = False) -> bytes:
        reason = f"the rest of the answer did not come within {self._timeout:g} s"
        with trio.move_on_after(self._timeout):
            try:
                return await _read(endpoint, response)
            except httpx.TransportError as error:
                reason = _reason(error)
        raise Unreachable([(endpoint, reason)], outcome_known=not write)


async def _read(endpoint: str, response: httpx.Response) -> bytes:
    pieces: list[bytes] = []
    size = 0
    async for piece in response.aiter_raw():
        size += len(piece)
        if size > MAX_ANSWER_BYTES:
            raise BadAnswer(endpoint, f"sent more than {MAX_ANSWER_BYTES} bytes")
        pieces.append(piece)
    return b"".join(pieces)


async def _close(response: httpx.Response) -> None:
    # Closing only gives the connection back or drops it; shielded because httpx would leave it checked out
    # otherwise.
    with trio.CancelScope(shield=True, deadline=trio.current_time() + 1.0):
        await response.aclose()


def _answer(endpoint: str, response: httpx.Response, body: bytes, *, write: bool) -> Answer:
    try:
        event = _decode_event(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        deep = isinstance(error, RecursionError)
        told = (
            "sent a tree nested too deep to read: ask for a part of it"
            if deep
            else f"sent what is not a v2 answer: {error}"
        )
        raise BadAnswer(endpoint, told, status=response.status_code, outcome_known=not write) from None
    return Answer(
        event.action,
        event.node or Node(),
        event.prev_node,
        _index(endpoint, response),
        response.headers.get("x-etcd-cluster-id", ""),
        response.status_code,
    )


def _refusal(endpoint: str, response: httpx.Response, body: bytes, *, write: bool) -> ClientError:
    status = response.status_code
    try:
        told = _decode_error(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        try:
            text = _decode_message(body).message
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            text = body[:200].decode("utf-8", "replace").strip()
        unknown = write and status >= 500
        return BadAnswer(endpoint, f"answered {status}: {text}", status=status, outcome_known=not unknown)
    cluster_id = response.headers.get("x-etcd-cluster-id", "")
    return V2Error(told.code, told.message, told.cause, told.index, cluster_id=cluster_id, write=write)


def _parsed(endpoint: str, body: bytes, decode: Callable[[bytes], T]) -> T:
    try:
        return decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadAnswer(endpoint, f"sent what this API does not: {error}") from None


def _index(endpoint: str, response: httpx.Response) -> int:
    text: str = response.headers.get("x-etcd-index", "")
    if text.isascii() and text.isdigit():
        return int(text)
    raise BadAnswer(
        endpoint, "sent no X-Etcd-Index: it is not an etcd v2 endpoint, or a proxy drops the header"
    )


def _tls_fault(error: Exception) -> ssl.SSLError | None:
    """What TLS had against a request: it stands behind errors that say nothing."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    return cause


def _is_turned_away(error: Exception) -> bool:
    """The store does not accept our certificate. It may say so after the request was sent (RFC 8446, 4.4.2.4
    and 6.2), which it has not read then.
    """
    fault = _tls_fault(error)
    return fault is not None and _OF_OURS.search(fault.reason or "") is not None


def _reason(error: Exception) -> str:
    """Why nothing came of a request."""
    fault = _tls_fault(error)
    if fault is not None:
        told = f"TLS: {words(fault)}"
        if _is_turned_away(error):
            return f"{told}: the store wants a certificate of ours that it trusts"
        return f"{told}; is it http:// there?" if fault.reason in _NO_TLS else told
    if isinstance(error, httpx.ConnectTimeout):
        return "no connection, or no end of its TLS handshake, in time"
    return _word_of_system(error) or str(error) or type(error).__name__


def _word_of_system(error: BaseException) -> str:
    """What the system said where no connection was made; what is around that repeats the address."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, socket.gaierror):
            return cause.strerror or ""
        if isinstance(cause, OSError) and cause.errno:
            return os.strerror(cause.errno)
        if isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        else:
            cause = cause.__cause__ or cause.__context__
    return ""


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
