"""A member that is told to stop during its start."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import trio
import trio.testing

from netstore.net.reactor import Reactor
from netstore.ops.store import STORE
from netstore.server import daemon
from tests.support.daemon import free_port

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from netstore.node.host import Host
    from netstore.seams import Log


def test_it_never_tells_that_it_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The signal comes before it is published, and the answers of a connection hold up its end."""
    served: list[None] = []

    async def published_after_the_signal(host: Host, *_: object, log: Log, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await stopping.wait()

    async def held_up(_: Reactor) -> None:
        stopping.set()
        await trio.testing.wait_all_tasks_blocked()

    stopping = trio.Event()
    monkeypatch.setattr(daemon, "publish", published_after_the_signal)
    monkeypatch.setattr(Reactor, "drain", held_up)
    config = STORE.load(
        [
            f"--data-dir={tmp_path}",
            f"--listen-client-urls=http://127.0.0.1:{free_port()}",
            f"--listen-peer-urls=http://127.0.0.1:{free_port()}",
        ],
        {},
    ).config
    trio.run(lambda: daemon.serve(config, ready=lambda: served.append(None)))
    assert stopping.is_set()
    assert served == []
    assert "serving_clients" not in capfd.readouterr().err
