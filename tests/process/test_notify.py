"""What netstored tells the service manager that started it."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from tests.support.daemon import start_netstored
from tests.support.patience import seconds

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_it_says_when_it_serves_and_that_it_goes_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(seconds(60))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "400000")
        with start_netstored(tmp_path) as daemon:
            told: set[str] = set()
            while "WATCHDOG=1" not in told or len(told) < 3:
                told.add(manager.recv(4096).decode())
            assert daemon.stop() == 0
        loading, ready = sorted(told - {"WATCHDOG=1"})
        assert loading.startswith("EXTEND_TIMEOUT_USEC=120000000\nSTATUS=loading 0 records, ")
        assert ready == f"READY=1\nSTATUS=serving clients on {daemon.url}"
        while (last := manager.recv(4096).decode()) == "WATCHDOG=1":
            pass
        assert last == "STOPPING=1\nSTATUS=finishing requests"
