"""The agent's local socket: who may ask, what is told, and what an earlier run leaves behind."""

from __future__ import annotations

import json
import socket
import stat
from typing import TYPE_CHECKING

import pytest
import trio

from netstore.agent.health import Health
from netstore.agent.kernel import Link
from netstore.agent.localsocket import routes_of, serve, socket_of
from netstore.agent.readiness import Readiness
from netstore.agent.reconciler import Reconciler
from netstore.agent.wanted import Route
from netstore.cli.agentsocket import NoAgent, wanted_routes
from netstore.errors import NetstoreError
from netstore.network.addresses import Subnet, parse_ip
from tests.support.kernel import FakeKernel
from tests.support.patience import seconds

if TYPE_CHECKING:
    from pathlib import Path

NETWORK, SUBNET = Subnet(parse_ip("10.23.0.0"), 16), Subnet(parse_ip("10.23.5.0"), 24)


def health() -> Health:
    reconciler = Reconciler(FakeKernel(), [NETWORK], Link(2, "eth0", 1500, up=True), lambda: None)
    reconciler.routes.named[SUBNET] = Route(SUBNET, parse_ip("192.168.77.12"), "eth0")
    reconciler._has_wanted = True
    return Health(Readiness(), lambda: {"ready": True}, str, {b"/routes": lambda: routes_of(reconciler)})


async def asked(path: Path, target: str) -> tuple[str, object]:
    """The first line of an answer, and its document."""
    async with await trio.open_unix_socket(str(path)) as stream:
        await stream.send_all(f"GET {target} HTTP/1.1\r\n\r\n".encode())
        answer = b""
        async for piece in stream:
            answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.split(b"\r\n")[0].decode(), json.loads(body)


async def test_its_pages_and_who_may_ask(tmp_path: Path, nursery: trio.Nursery) -> None:
    path = socket_of(tmp_path / "run" / "subnet.env")
    assert path == tmp_path / "run" / "subnet.sock"
    await nursery.start(serve, path, health())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with trio.fail_after(seconds(20)):
        assert await asked(path, "/status") == ("HTTP/1.1 200 OK", {"ready": True})
        told = await wanted_routes(path)
    assert [(each.subnet, each.gateway, each.device) for each in told.wanted] == [
        ("10.23.5.0/24", "192.168.77.12", "eth0")
    ]
    assert (told.ranges, told.problems) == (["10.23.0.0/16"], {})


async def test_it_goes_with_the_agent(tmp_path: Path) -> None:
    path = tmp_path / "subnet.sock"
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, path, health())
        nursery.cancel_scope.cancel()
    assert not path.exists()
    with pytest.raises(NoAgent, match="No such file"):
        await wanted_routes(path)


async def test_one_that_was_left_behind_is_replaced(tmp_path: Path, nursery: trio.Nursery) -> None:
    path = tmp_path / "subnet.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    await nursery.start(serve, path, health())
    with trio.fail_after(seconds(20)):
        assert (await wanted_routes(path)).ranges == ["10.23.0.0/16"]


async def test_that_of_a_running_agent_and_other_files_are_left_alone(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    path, file = tmp_path / "subnet.sock", tmp_path / "file.sock"
    await nursery.start(serve, path, health())
    with pytest.raises(NetstoreError, match="another agent with this subnet file runs here"):
        await nursery.start(serve, path, health())
    file.write_text("mine")
    with pytest.raises(NetstoreError, match="it exists and is no socket"):
        await nursery.start(serve, file, health())
    assert file.read_text() == "mine"
    with trio.fail_after(seconds(20)):
        assert (await wanted_routes(path)).ranges == ["10.23.0.0/16"]


def test_there_is_nothing_to_tell_before_the_routes_are_known() -> None:
    assert not routes_of(None).known
    assert not routes_of(Reconciler(FakeKernel(), [], Link(2, "eth0", 1500, up=True), lambda: None)).known


async def test_who_is_no_agent_is_told(tmp_path: Path, nursery: trio.Nursery) -> None:
    path = tmp_path / "subnet.sock"
    await nursery.start(serve, path, Health(Readiness(), dict, str))
    with pytest.raises(NoAgent, match=r"answered 'HTTP/1\.1 404 Not Found'"):
        await wanted_routes(path)
