"""The agent's health over HTTP: /healthz (running), /readyz (ready for pods), /status (JSON) and /metrics.

Made for a few requests a minute from a kubelet or a collector: one task and one request per connection, with
small limits.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from netstore.agent.readiness import verbose

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from netstore.agent.readiness import Readiness

MAX_HEAD_BYTES: Final = 8192
REQUEST_TIMEOUT: Final = 5.0
MAX_CONNECTIONS: Final = 32

ALIVE: Final = "netstore-agent is running\n"
READY: Final = "netstore-agent is ready\n"
NOT_LOADED: Final = (
    "the metrics cannot be loaded: the installed files are not those that this agent was started from, or "
    "some are missing; start the agent again, and install it again if that does not help\n"
)

_METRICS_HEAD: Final = re.compile(rb"(?:GET|HEAD) /metrics[ ?]")

_REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class Health:
    """The HTTP server. `status` returns the document of /status, `metrics` the text of /metrics; `more` has
    the documents of other paths. `load_metrics` imports what `metrics` needs; it is called in a thread before
    the first answer that has them.
    """

    def __init__(
        self,
        readiness: Readiness,
        status: Callable[[], object],
        metrics: Callable[[], str],
        more: Mapping[bytes, Callable[[], object]] | None = None,
        load_metrics: Callable[[], object] = lambda: None,
    ) -> None:
        self._readiness = readiness
        self._documents = {b"/status": status, **(more or {})}
        self._metrics = metrics
        self._load_metrics: Callable[[], object] | None = load_metrics
        """None: they are loaded."""
        self._loading = trio.Lock()
        self._free = trio.CapacityLimiter(MAX_CONNECTIONS)

    async def serve(
        self, host: str, port: int, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve forever; started once the port is bound. OSError if it cannot be bound."""
        listeners = await trio.open_tcp_listeners(port, host=host, backlog=MAX_CONNECTIONS)
        bound: int = listeners[0].socket.getsockname()[1]
        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, self.session, listeners)
            task_status.started(bound)

    async def session(self, stream: trio.SocketStream) -> None:
        """Answer the one request of a connection, within `REQUEST_TIMEOUT`."""
        with trio.move_on_after(REQUEST_TIMEOUT):
            async with stream, self._free:
                head = b""
                while b"\r\n\r\n" not in head and len(head) <= MAX_HEAD_BYTES:
                    try:
                        piece = await stream.receive_some(MAX_HEAD_BYTES)
                    except trio.BrokenResourceError:
                        return
                    if not piece:
                        return
                    head += piece
                if await self._is_loaded(head):
                    response = self.respond(head)
                else:
                    response = _response(500, NOT_LOADED, body=head.startswith(b"GET"))
                try:
                    await stream.send_all(response)
                except trio.BrokenResourceError:
                    return  # the client closed the connection

    async def _is_loaded(self, head: bytes) -> bool:
        """Load the metrics if a request asks for them. False if that fails."""
        if self._load_metrics is None or _METRICS_HEAD.match(head) is None:
            return True
        async with self._loading:
            if self._load_metrics is not None:
                try:
                    await trio.to_thread.run_sync(self._load_metrics)
                except Exception:  # noqa: BLE001 - files of another version may fail in any way
                    return False
                self._load_metrics = None
        return True

    def respond(self, head: bytes) -> bytes:
        """The complete response to a request head."""
        words = head.partition(b"\r\n")[0].split(b" ")
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            return _response(400, "send an HTTP/1 request\n")
        method, target, _ = words
        if method not in (b"GET", b"HEAD"):
            return _response(405, "only GET and HEAD\n")
        path, _, query = target.partition(b"?")
        try:
            status, text, kind = self._page(path, query)
        except Exception:  # noqa: BLE001 - a page is made from what plugins gave, and no page may end the agent
            return _response(500, "this page cannot be made now: a value in it is not valid\n")
        return _response(status, text, kind, body=method == b"GET")

    def _page(self, path: bytes, query: bytes) -> tuple[int, str, str]:
        plain = "text/plain; charset=utf-8"
        if path == b"/healthz":
            return 200, ALIVE, plain
        if path == b"/readyz":
            results = self._readiness.results()
            reason = next((reason for _, reason in results if reason is not None), None)
            if query.partition(b"=")[0] == b"verbose":
                text = verbose(results)
            else:
                text = READY if reason is None else f"not ready: {reason}\n"
            return 200 if reason is None else 503, text, plain
        if path in self._documents:
            return 200, msgspec.json.encode(self._documents[path]()).decode() + "\n", "application/json"
        if path == b"/metrics":
            from netstore.exposition import CONTENT_TYPE  # noqa: PLC0415 - see `load_metrics`

            return 200, self._metrics(), CONTENT_TYPE
        names = ", ".join(["/healthz", "/readyz", "/metrics", *(name.decode() for name in self._documents)])
        return 404, f"there are {names}\n", plain


def _response(status: int, text: str, kind: str = "text/plain; charset=utf-8", *, body: bool = True) -> bytes:
    content = text.encode()
    head = (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: {kind}\r\nContent-Length: {len(content)}\r\n"
        "X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + (content if body else b"")
