"""From a path to its handler, and the answers that belong to no handler (v2 API, routes and path handling).

Routes are exact paths, or paths that are matched with everything below them.

What etcd's API has, `/v2/members` included, web pages of any origin may ask for unless `--cors` narrows it,
as with etcd. Paths that etcd does not have are closed to pages: a browser sends `Origin` with every request
that may change something, and such a request is refused, also where the name of the page's host was made to
point to this member.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from netstore.api.http.paths import clean_path
from netstore.api.http.percent import decode
from netstore.api.http.responses import NOSNIFF, bad_request, not_found
from netstore.net.exchange import PLAIN, field_line

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from netstore.net.exchange import Exchange

_HTML: Final = b"Content-Type: text/html; charset=utf-8\r\n"
_KNOWN_PATHS: Final = 4096
_KNOWN_PATH_BYTES: Final = 256
"""Longer paths are looked up each time, so that the table holds 1 MiB of them at most."""
_ESCAPED: Final = ((b"&", b"&amp;"), (b"<", b"&lt;"), (b">", b"&gt;"), (b'"', b"&#34;"), (b"'", b"&#39;"))


class Handler(Protocol):
    """Answers the requests of one route."""

    def __call__(self, exchange: Exchange) -> None:
        """Answer now or later; never raises for bad input."""


class Redirect:
    """Sends a client to the clean form of the path it asked for; the query is kept."""

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


class NoPages:
    """Refuses what comes from a web page."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    def __call__(self, exchange: Exchange) -> None:
        if exchange.request.origin is None:
            self._handler(exchange)
        else:
            exchange.respond(403, PLAIN + NOSNIFF, b"Not for web pages: the request has an Origin header\n")


class Router:
    """Sends each request to its handler.

    `exact` routes match one decoded path; `below` routes match a path and everything under it, those in
    `closed` for no web page. Paths of handlers seen before cost one dictionary look-up (bounded table); a new
    one is decoded and cleaned first, which gives the same handler.
    """

    def __init__(
        self,
        exact: Mapping[bytes, Handler],
        below: Mapping[bytes, Handler],
        closed: Collection[bytes] = (),
    ) -> None:
        self._exact = dict(exact)
        self._below = [
            (path, path + b"/", NoPages(handler) if path in closed else handler)
            for path, handler in below.items()
        ]
        self._known: dict[bytes, Handler] = {}

    def handle(self, exchange: Exchange) -> None:
        """Answer, redirect or hand on one request."""
        request = exchange.request
        path = request.path
        handler = self._known.get(path)
        if handler is None:
            handler = self._find(path)
            if len(path) <= _KNOWN_PATH_BYTES and not isinstance(handler, Redirect):
                if len(self._known) >= _KNOWN_PATHS:
                    self._known.clear()
                self._known[path] = handler
        if request.method == b"OPTIONS" and (request.origin is None or not isinstance(handler, NoPages)):
            exchange.respond(200, b"")
            return
        handler(exchange)

    def _find(self, raw: bytes) -> Handler:
        try:
            path = decode(raw)
            clean = clean_path(raw)
        except ValueError:
            return bad_request
        if clean is not None:
            return Redirect(clean)
        if path in self._exact:
            return self._exact[path]
        for exact, prefix, handler in self._below:
            if path == exact or path.startswith(prefix):
                return handler
        return not_found
