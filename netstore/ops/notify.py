"""Messages to the service manager that started this process: sd_notify(3), datagrams on a Unix socket.

Without a manager nothing is sent. A message that cannot be delivered is dropped, because trouble of the
manager must not stop the service; each call returns whether the message was sent.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

READY_WAIT_SECONDS: Final = 1.0
"""How long `ready` waits for room in the socket's queue. Other messages do not wait."""

MAX_STATUS: Final = 512
"""Most characters of a status text."""


class ServiceManager:
    """The manager at NOTIFY_SOCKET, or none."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self._watchdog = _watchdog(environ)

    @property
    def watchdog_seconds(self) -> float | None:
        """The manager kills this process if there is no `alive` for so long; None if it does not. Call at
        half this time (sd_watchdog_enabled(3)).
        """
        return self._watchdog

    def ready(self, status: str = "") -> bool:
        """Requests are served: the start is finished."""
        return self._send("READY=1", status, wait_seconds=READY_WAIT_SECONDS)

    def status(self, status: str) -> bool:
        """A line for people about what the service does now."""
        return self._send("", status)

    def extend(self, seconds: float, status: str = "") -> bool:
        """Extend the time limit of the start: the next message follows within so many seconds."""
        return self._send(f"EXTEND_TIMEOUT_USEC={seconds * 1e6:.0f}", status)

    def stopping(self, status: str = "") -> bool:
        """The stop has begun."""
        return self._send("STOPPING=1", status)

    def alive(self) -> bool:
        """Reset the watchdog. Call it only from code that runs if the service works."""
        return self._send("WATCHDOG=1", "")

    def _send(self, state: str, status: str, wait_seconds: float = 0.0) -> bool:
        if self._address is None:
            return False
        lines = [state] if state else []
        if status:
            lines.append(f"STATUS={' '.join(status[:MAX_STATUS].split())}")
        data = "\n".join(lines).encode("utf-8", "replace")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.settimeout(wait_seconds)
            try:
                return sender.sendto(data, self._address) == len(data)
            except OSError:
                return False


def _address(text: str) -> str | None:
    """A path, or a name in the abstract namespace (unix(7)), written with `@` for the leading zero byte."""
    if text.startswith("@") and len(text) > 1:
        return "\0" + text[1:]
    return text if text.startswith("/") and "\0" not in text else None


def _watchdog(environ: Mapping[str, str]) -> float | None:
    text, process = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not (text.isascii() and text.isdigit()) or len(text) > 18 or int(text) == 0:
        return None
    if process and process != str(os.getpid()):
        return None
    return int(text) / 1e6
