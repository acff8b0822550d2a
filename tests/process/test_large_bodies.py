"""Large requests sent at once: memory is short for all of them together, and each is served."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from tests.support.daemon import start_netstored
from tests.support.patience import seconds

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.daemon import Daemon

CLIENTS = 30
VALUE = b"ABCDEF" * 400_000


def put(daemon: Daemon, number: int) -> bytes:
    """The status line of a write; the whole body is sent before the answer is read."""
    with socket.create_connection((daemon.host, daemon.port), timeout=seconds(120)) as client:
        client.sendall(
            b"PUT /v2/keys/k%d HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n"
            b"Content-Length: %d\r\n\r\nvalue=" % (number, 6 + len(VALUE))
        )
        client.sendall(VALUE)
        return client.recv(4096).partition(b"\r\n")[0]


def test_large_forms_sent_at_once_are_all_written(tmp_path: Path) -> None:
    """Together eight times the memory budget of client connections; the requests do not deadlock."""
    with (
        start_netstored(tmp_path, "--memory-budget", str(64 << 20)) as daemon,
        ThreadPoolExecutor(CLIENTS) as pool,
    ):
        answers = list(pool.map(lambda number: put(daemon, number), range(CLIENTS)))
    assert answers == [b"HTTP/1.1 201 Created"] * CLIENTS
