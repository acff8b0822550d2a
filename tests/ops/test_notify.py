"""The datagrams a service manager gets, on a real socket."""

from __future__ import annotations

import os
import socket
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from netstore.ops.notify import MAX_STATUS, ServiceManager

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(params=["path", "abstract"])
def listening(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """The value of NOTIFY_SOCKET, and the manager's end."""
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as manager:
        manager.setblocking(False)
        if request.param == "path":
            manager.bind(str(tmp_path / "notify"))
            yield str(tmp_path / "notify"), manager
        else:
            manager.bind("")
            yield "@" + manager.getsockname()[1:].decode(), manager


def test_life_of_a_service(listening: tuple[str, socket.socket]) -> None:
    address, manager = listening
    service = ServiceManager({"NOTIFY_SOCKET": address})
    assert service.ready("serving on http://127.0.0.1:2379")
    assert manager.recv(4096) == b"READY=1\nSTATUS=serving on http://127.0.0.1:2379"
    assert service.extend(1.5, "term 3")
    assert manager.recv(4096) == b"EXTEND_TIMEOUT_USEC=1500000\nSTATUS=term 3"
    assert service.alive()
    assert manager.recv(4096) == b"WATCHDOG=1"
    assert service.stopping("draining")
    assert manager.recv(4096) == b"STOPPING=1\nSTATUS=draining"


def test_a_status_cannot_add_fields(listening: tuple[str, socket.socket]) -> None:
    address, manager = listening
    ServiceManager({"NOTIFY_SOCKET": address}).stopping("a\nMAINPID=1\r\nb \udcff" + "x" * 10_000)
    text = manager.recv(65_536)
    state, status = text.split(b"\n")
    assert state == b"STOPPING=1"
    assert status.startswith(b"STATUS=a MAINPID=1 b ")
    assert len(status) <= MAX_STATUS + len("STATUS=")


def test_a_full_queue_never_blocks(listening: tuple[str, socket.socket]) -> None:
    address, manager = listening
    service = ServiceManager({"NOTIFY_SOCKET": address})
    manager.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    sent = 0
    while service.alive():
        sent += 1
    assert 0 < sent < 100_000
    assert not service.stopping("lost")
    manager.recv(64)
    assert service.alive()


@pytest.mark.parametrize("address", ["", "@", "relative", "vsock:2:1234", "/no\0where"])
def test_without_a_manager_nothing_is_sent(address: str) -> None:
    service = ServiceManager({"NOTIFY_SOCKET": address})
    assert not service.ready("x")
    assert not ServiceManager({}).stopping()


@pytest.mark.parametrize("address", ["/nonexistent/notify", "/" + "x" * 200])
def test_a_manager_that_is_gone_is_no_error(address: str) -> None:
    service = ServiceManager({"NOTIFY_SOCKET": address})
    assert not service.ready()


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": str(os.getpid())}, 0.5),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
        ({"WATCHDOG_USEC": "\u0661"}, None),
        ({"WATCHDOG_USEC": "9" * 5000}, None),
        ({}, None),
    ],
)
def test_watchdog(environ: dict[str, str], seconds: float | None) -> None:
    assert ServiceManager(environ).watchdog_seconds == seconds
