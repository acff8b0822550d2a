"""The reference's transcript player, with a local member in place of network and time."""

from __future__ import annotations

import importlib.util
import json
from email.message import Message
from typing import TYPE_CHECKING, Any, Final

from netstore.net.http1.server import Cors

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from tests.support.local_member import LocalMember, RecordedExchange

_STEP_NANOS: Final = 100_000_000


def load_player(reference: Path) -> ModuleType:
    """The player as a fresh module, so that what a test replaces in it stays with the test."""
    spec = importlib.util.spec_from_file_location("replay_v2", reference / "replay_v2.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class LocalServer:
    """Stands in for the player's `Server`."""

    def __init__(self, member: LocalMember) -> None:
        self.member = member

    def request(
        self, method: str, path: str, body: str | bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Message, bytes]:
        exchange = self.send(method, path, body, headers or {})
        assert exchange.done, f"no answer to {method} {path}"
        return exchange.status, message_of(exchange), exchange.text

    def send(
        self, method: str, path: str, body: str | bytes | None, headers: dict[str, str]
    ) -> RecordedExchange:
        content_type = next((v.encode() for k, v in headers.items() if k.lower() == "content-type"), None)
        data = body.encode() if isinstance(body, str) else body or b""
        return self.member.send(method, path, data, content_type)


class LocalWatch:
    """Stands in for the player's `Watch`: waiting is moving the member's clock."""

    def __init__(self, server: LocalServer, method: str, path: str, headers: dict[str, str]) -> None:
        self.error = None
        self.exchange = server.send(method, path, None, headers)
        self.member = server.member
        self.status = self.exchange.status
        self.headers = message_of(self.exchange)
        self.started = self

    def wait(self, timeout: float) -> bool:
        """The head has come, or never will."""
        return bool(self.status)

    def collect(self, want: int, ended: bool, timeout: float, quiet: float) -> tuple[list[Any], bool]:
        left = int(timeout * 1e9)
        while left > 0 and (len(self.exchange.pieces) < want or (ended and not self.exchange.done)):
            self.member.advance(_STEP_NANOS)
            left -= _STEP_NANOS
        return [json.loads(piece) for piece in self.exchange.pieces], self.exchange.done

    def shut(self) -> None:
        self.exchange.hang_up()


def message_of(exchange: RecordedExchange) -> Message:
    """The head's fields as `http.client` shows them, with what a connection adds."""
    message = Message()
    cors = Cors().fields(exchange.request.origin).decode().splitlines()
    for line in (*exchange.fields.decode("latin-1").splitlines(), *cors):
        name, _, value = line.partition(": ")
        message[name] = value
    return message


class LocalTime:
    """Stands in for the player's `time`."""

    def __init__(self, member: LocalMember) -> None:
        self.member = member

    def sleep(self, seconds: float) -> None:
        self.member.advance(int(seconds * 1e9))
