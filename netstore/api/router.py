"""From a path to its handler, and the answers that belong to no handler (v2 API, routes and path handling).

Routes are exact paths, or prefixes (written with a trailing slash) that also match the path without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from netstore.api.v2.paths import clean_path, unquote

if TYPE_CHECKING:
    from collections.abc import Mapping

    from netstore.net.exchange import Exchange

PLAIN: Final = b"Content-Type: text/plain; charset=utf-8\r\n"
NOSNIFF: Final = b"X-Content-Type-Options: nosniff\r\n"
_HTML: Final = b"Content-Type: text/html; charset=utf-8\r\n"
_KNOWN_PATHS: Final = 4096
_ESCAPED: Final = ((b"&", b"&amp;"), (b"<", b"&lt;"), (b">", b"&gt;"), (b'"', b"&#34;"), (b"'", b"&#39;"))


class Handler(Protocol):
    """Answers the requests of one route."""

    def __call__(self, exchange: Exchange) -> None:
        """Answer now or later; never raises for bad input."""


def method_allowed(exchange: Exchange, allowed: bytes) -> bool:
    """Whether the method is among `allowed` (comma separated); answers 405 when it is not."""
    if exchange.request.method in allowed.split(b","):
        return True
    exchange.respond(405, PLAIN + NOSNIFF + b"Allow: %s\r\n" % allowed, b"Method Not Allowed\n")
    return False


def not_found(exchange: Exchange) -> None:
    """No route has this path."""
    exchange.respond(404, PLAIN + NOSNIFF, b"404 page not found\n")


def bad_request(exchange: Exchange) -> None:
    """The path has a malformed escape."""
    exchange.refuse(400, b"400 Bad Request")


class Redirect:
    """Sends a client to the clean form of the path it asked for; the query is kept."""

    def __init__(self, path: bytes) -> None:
        self._path = path

    def __call__(self, exchange: Exchange) -> None:
        request = exchange.request
        location = self._path + b"?" + request.query if request.query else self._path
        fields = b"Location: %s\r\n" % location
        if request.method not in (b"GET", b"HEAD"):
            exchange.respond(301, fields)
            return
        shown = location
        for plain, escaped in _ESCAPED:
            shown = shown.replace(plain, escaped)
        exchange.respond(301, fields + _HTML, b'<a href="%s">Moved Permanently</a>.\n\n' % shown)


class Router:
    """Sends each request to its handler.

    `exact` routes match one decoded path; `below` routes match a path and everything under it. Paths seen
    before cost one dictionary look-up (bounded table); a new one is decoded and cleaned first.
    """

    def __init__(self, exact: Mapping[bytes, Handler], below: Mapping[bytes, Handler]) -> None:
        self._exact = dict(exact)
        self._below = [(path, path + b"/", handler) for path, handler in below.items()]
        self._known: dict[bytes, Handler] = {}

    def handle(self, exchange: Exchange) -> None:
        """Answer, redirect or hand on one request."""
        request = exchange.request
        if request.method == b"OPTIONS":
            exchange.respond(200, b"")
            return
        handler = self._known.get(request.path)
        if handler is None:
            handler = self._find(request.path)
            if len(self._known) >= _KNOWN_PATHS:
                self._known.clear()
            self._known[request.path] = handler
        handler(exchange)

    def _find(self, raw: bytes) -> Handler:
        try:
            path = unquote(raw)
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
