"""`/config/local/log`: how much this member logs, changed while it runs and until it ends (v2 API)."""

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
"""What etcd calls its levels, each with its number and letter, to ours; `WARN` is ours alone."""


class LogLevel:
    """Answers requests to log more or less."""

    def __init__(self, change: Callable[[str], None]) -> None:
        """`change` takes a level: debug, info, warn or error."""
        self._change = change

    def __call__(self, exchange: Exchange) -> None:
        """Only PUT, with `{"Level": "DEBUG"}`, whatever the type of the content is said to be."""
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
    """The level in a body, empty when it names none; None when the body is no JSON object, or a long one."""
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
