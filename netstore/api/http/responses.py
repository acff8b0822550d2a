"""Responses that belong to no API in particular: JSON documents, and refusals in plain text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from netstore.net.exchange import PLAIN

if TYPE_CHECKING:
    from netstore.net.exchange import Exchange

JSON: Final = b"Content-Type: application/json\r\n"
NOSNIFF: Final = b"X-Content-Type-Options: nosniff\r\n"


def json_line(document: object) -> bytes:
    """A document as JSON on one line that ends with a line break."""
    return msgspec.json.encode(document) + b"\n"


def method_allowed(exchange: Exchange, allowed: bytes) -> bool:
    """Whether the method is in `allowed` (comma separated); responds with 405 if it is not."""
    if exchange.request.method in allowed.split(b","):
        return True
    exchange.respond(405, PLAIN + NOSNIFF + b"Allow: %s\r\n" % allowed, b"Method Not Allowed\n")
    return False


def not_found(exchange: Exchange) -> None:
    """Respond that no route has this path."""
    exchange.respond(404, PLAIN + NOSNIFF, b"404 page not found\n")


def bad_request(exchange: Exchange) -> None:
    """Respond that the path has a malformed escape, and close the connection."""
    exchange.refuse(400, b"400 Bad Request")
