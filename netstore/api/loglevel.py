"""`/config/local/log`: the log level of this member, changed until it ends (v2 API)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from netstore.api.http.body import JSON_LIMIT_BYTES
from netstore.api.http.responses import JSON, method_allowed

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.net.exchange import Exchange

PATH: Final = b"/config/local/log"

LEVELS: Final = {
    **dict.fromkeys(("CRITICAL", "C", "ERROR", "0", "E"), "error"),
    **dict.fromkeys(("WARNING", "1", "W", "WARN"), "warn"),
    **dict.fromkeys(("NOTICE", "2", "N", "INFO", "3", "I"), "info"),
    **dict.fromkeys(("DEBUG", "4", "D", "TRACE", "5", "T"), "debug"),
}
"""etcd's log levels, with their numbers and letters, and ours for them; etcd does not have `WARN`."""


class LogLevel:
    """Answers requests to change the log level."""

    def __init__(self, change: Callable[[str], None]) -> None:
        """`change` sets the level: debug, info, warn or error."""
        self._change = change

    def __call__(self, exchange: Exchange) -> None:
        """Only PUT is allowed, with `{"Level": "DEBUG"}`; the content type is ignored."""
        if not method_allowed(exchange, b"PUT"):
            return
        name = _level(exchange.request.body)
        if name is None:
            _refuse(exchange, "Invalid json body")
        elif name.upper() not in LEVELS:
            _refuse(exchange, f"Invalid log level {name}")
        else:
            self._change(LEVELS[name.upper()])
            exchange.respond(204, b"")


def _level(body: bytes) -> str | None:
    """The level in a body, empty if it has none; None if the body is no JSON object, or too long."""
    if len(body) > JSON_LIMIT_BYTES:
        return None
    try:
        document = msgspec.json.decode(body, type=dict[str, object] | None)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    named = [value for key, value in (document or {}).items() if key.lower() == "level"]
    if not named or named[-1] is None:
        return ""
    return named[-1] if isinstance(named[-1], str) else None


def _refuse(exchange: Exchange, message: str) -> None:
    exchange.respond(400, JSON, msgspec.json.encode({"message": message}))
