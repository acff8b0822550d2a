"""JSON request bodies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from netstore.errors import parse_problem

if TYPE_CHECKING:
    from netstore.net.exchange import Exchange

JSON_LIMIT_BYTES: Final = 16 * 1024
"""Longest JSON body, twice the longest peer URLs of a member: decoded in at most 0.5 ms. 10 MiB would take up
to a second.
"""

_GO_KINDS: Final = ((bool, "bool"), (str, "string"), (int | float, "number"), (list, "array"))


class BadBody(ValueError):  # noqa: N818 - named for what was found
    """The body is not what the request needs. Carries the HTTP status of the response; its text is `str`."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def json_body(exchange: Exchange) -> dict[str, Any]:
    """The JSON object in the body, its keys in lower case; `null` gives an empty one. Raises BadBody for
    anything else, and for a body longer than `JSON_LIMIT_BYTES`.

    The content type is required: a web page cannot send it to another origin without a preflight request.
    """
    given = (exchange.request.content_type or b"").decode("latin-1")
    name, parameters, _ = given.partition(";")
    named = name.strip().lower() if parameters else given
    if named != "application/json":
        raise BadBody(415, f"Bad Content-Type {named}, accept application/json")
    body = exchange.request.body
    if exchange.request.too_large or len(body) > JSON_LIMIT_BYTES:
        raise BadBody(413, f"the body has more than {JSON_LIMIT_BYTES} bytes")
    if not body.strip():
        raise BadBody(400, "unexpected end of JSON input")
    try:
        document = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadBody(400, parse_problem(error)) from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise BadBody(400, f"json: cannot unmarshal {go_kind(document)} into an object")
    return {str(key).lower(): value for key, value in document.items()}


def go_kind(value: object) -> str:
    """What Go's JSON library calls the type of a decoded value in its error texts."""
    return next((kind for types, kind in _GO_KINDS if isinstance(value, types)), "object")
