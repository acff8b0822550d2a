"""What this process tells the service manager that started it: sd_notify(3), in datagrams on a Unix socket.

Without a manager nothing is sent. A message that cannot be delivered is dropped, because a manager in
trouble must not stop the service; each call says whether the message was handed over.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

READY_WAIT_SECONDS: Final = 1.0
"""How long the message that start-up depends on may wait for room in the manager's queue."""

MAX_STATUS: Final = 512
"""Characters of a status text."""


class ServiceManager:
    """The manager named by NOTIFY_SOCKET, or nobody."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self._watchdog = _watchdog(environ)

    @property
    def present(self) -> bool:
        """Somebody listens, as far as the environment says."""
        return self._address is not None

    @property
    def watchdog_seconds(self) -> float | None:
        """The longest time between two `alive` before the manager kills this process; None when it does not
        watch.

        Calling at half this time is usual (sd_watchdog_enabled(3)).
        """
        return self._watchdog

    def ready(self, status: str = "") -> bool:
        """Start-up, or a reload, is finished: requests are served."""
        return self._send("READY=1", status, wait_seconds=READY_WAIT_SECONDS)

    def status(self, status: str) -> bool:
        """A sentence for `systemctl status`."""
        return self._send("", status)

    def extend(self, seconds: float, status: str = "") -> bool:
        """Start-up goes on, and will have told more, or be finished, within so many seconds."""
        return self._send(f"EXTEND_TIMEOUT_USEC={seconds * 1e6:.0f}", status)

    def stopping(self, status: str = "") -> bool:
        """Shutdown has begun."""
        return self._send("STOPPING=1", status)

    def alive(self) -> bool:
        """The watchdog's sign of life; to be called only when real work made progress."""
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
    """A path, or a name in the abstract namespace (unix(7)): there `@` stands for the leading zero byte."""
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
