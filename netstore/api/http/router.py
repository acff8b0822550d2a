"""From a path to its handler (v2 API, routes and path handling).

A route is an exact path, or a path with everything below it.

Paths of etcd's API, `/v2/members` included, can be requested by web pages of any origin unless `--cors`
restricts them, as with etcd. Paths that etcd does not have are closed to web pages: a browser sends `Origin`
with every request that may change something, and such a request is refused. This holds against DNS rebinding,
too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from netstore.api.http.paths import clean_path
from netstore.api.http.percent import decode
from netstore.api.http.responses import JSON, NOSNIFF, bad_request, json_line, not_found
from netstore.net.exchange import PLAIN, field_line

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from netstore.api.gate import Gate, Operation
    from netstore.net.exchange import Exchange, Request

_HTML: Final = b"Content-Type: text/html; charset=utf-8\r\n"
_KNOWN_PATHS: Final = 4096
"""Paths in the table; a full table is cleared."""
_KNOWN_PATH_BYTES: Final = 256
"""Longer paths are not kept, so that the table has at most 1 MiB of paths."""
_ESCAPED: Final = ((b"&", b"&amp;"), (b"<", b"&lt;"), (b">", b"&gt;"), (b'"', b"&#34;"), (b"'", b"&#39;"))


class Handler(Protocol):
    """Responds to the requests of one route."""

    def __call__(self, exchange: Exchange) -> None:
        """Respond now or later; never raises for bad input."""


class Redirect:
    """Redirects a client to the clean form of the path it requested; the query is kept."""

    def __init__(self, path: bytes) -> None:
        self._path = path

    def __call__(self, exchange: Exchange) -> None:
        request = exchange.request
        location = self._path + b"?" + request.query if request.query else self._path
        try:
            fields = field_line(b"Location", location)
        except ValueError:
            bad_request(exchange)
            return
        if request.method not in (b"GET", b"HEAD"):
            exchange.respond(301, fields)
            return
        shown = location
        for plain, escaped in _ESCAPED:
            shown = shown.replace(plain, escaped)
        exchange.respond(301, fields + _HTML, b'<a href="%s">Moved Permanently</a>.\n\n' % shown)


class Route:
    """A handler, and how to make the operation of a request for the gate (`api.gate`)."""

    __slots__ = ("closed", "handler", "operation")

    def __init__(
        self,
        handler: Handler,
        operation: Callable[[Request], Operation] | None,
        *,
        closed: bool = False,
    ) -> None:
        """Without `operation` the router does not ask the gate: the handler does, because only it can decode
        the operation, or there is nothing to be authorized. `closed`: not for web pages.
        """
        self.handler = handler
        self.operation = operation
        self.closed = closed


_NOT_FOUND: Final = Route(not_found, None)
_BAD_REQUEST: Final = Route(bad_request, None)


class Router:
    """Hands each request to the handler of its route, if the gate admits it.

    `exact` routes match one decoded path, `below` routes a path and everything under it. The route of a path
    that was seen before is found with one dictionary look-up (bounded table); a new path is decoded and
    cleaned first, which gives the same route.
    """

    def __init__(self, gate: Gate, exact: Mapping[bytes, Route], below: Mapping[bytes, Route]) -> None:
        self.exact = dict(exact)
        self.below = dict(below)
        self._gate = gate
        self._prefixes = [(path, path + b"/", route) for path, route in below.items()]
        self._known: dict[bytes, Route] = {}

    def handle(self, exchange: Exchange) -> None:
        """Respond to one request, or hand it on."""
        request = exchange.request
        path = request.path
        route = self._known.get(path)
        if route is None:
            route = self._find(path)
            if len(path) <= _KNOWN_PATH_BYTES and not isinstance(route.handler, Redirect):
                if len(self._known) >= _KNOWN_PATHS:
                    self._known.clear()
                self._known[path] = route
        if route.closed and request.origin is not None:
            exchange.respond(403, PLAIN + NOSNIFF, b"Not for web pages: the request has an Origin header\n")
            return
        if request.method == b"OPTIONS":
            exchange.respond(200, b"")
            return
        if self._gate.policy is not None and route.operation is not None:
            fault = self._gate.check(route.operation(request), exchange.principal)
            if fault is not None:
                message = {"message": fault.cause.decode("utf-8", "replace")}
                exchange.respond(fault.http_status, JSON, json_line(message))
                return
        route.handler(exchange)

    def _find(self, raw: bytes) -> Route:
        try:
            path = decode(raw)
            clean = clean_path(raw)
        except ValueError:
            return _BAD_REQUEST
        if clean is not None:
            return Route(Redirect(clean), None)
        if path in self.exact:
            return self.exact[path]
        for exact, prefix, route in self._prefixes:
            if path == exact or path.startswith(prefix):
                return route
        return _NOT_FOUND
