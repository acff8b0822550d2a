"""The health pages."""

from __future__ import annotations

import json
import socket
import threading

import pytest
import trio
import trio.testing

from netstore.agent.health import MAX_HEAD_BYTES, Health
from netstore.agent.readiness import Readiness
from tests.support.patience import seconds


class Node:
    reason: str | None = "no subnet is held"

    def health(self) -> Health:
        readiness = Readiness()
        readiness.add("interface", lambda: None)
        readiness.add("lease", lambda: self.reason)
        return Health(readiness, lambda: {"ready": self.reason is None}, lambda: "a_metric 1\n")


def plain_health() -> Health:
    return Health(Readiness(), dict, str)


def ask(health: Health, line: str) -> tuple[int, str]:
    head, _, body = health.respond(f"{line}\r\nHost: x\r\n\r\n".encode()).decode().partition("\r\n\r\n")
    assert f"Content-Length: {len(body)}" in head or line.startswith("HEAD")
    return int(head.split(" ")[1]), body


def test_pages() -> None:
    node = Node()
    health = node.health()
    assert ask(health, "GET /healthz HTTP/1.1")[0] == 200
    assert ask(health, "GET /healthz?verbose HTTP/1.0")[0] == 200
    assert ask(health, "GET /readyz HTTP/1.1") == (503, "not ready: no subnet is held\n")
    assert ask(health, "GET /readyz?verbose HTTP/1.1") == (
        503,
        "[+] interface\n[-] lease: no subnet is held\nnot ready: 1 of 2 checks fail\n",
    )
    node.reason = None
    assert ask(health, "GET /readyz?verbose=1 HTTP/1.1") == (200, "[+] interface\n[+] lease\nready\n")
    assert ask(health, "GET /readyz HTTP/1.1")[0] == 200
    assert json.loads(ask(health, "GET /status HTTP/1.1")[1]) == {"ready": True}
    assert ask(health, "GET /metrics HTTP/1.1") == (200, "a_metric 1\n")
    assert b"version=0.0.4" in health.respond(b"GET /metrics HTTP/1.1\r\n\r\n")
    assert ask(health, "HEAD /healthz HTTP/1.1") == (200, "")
    assert ask(health, "GET / HTTP/1.1")[0] == 404
    assert ask(health, "POST /healthz HTTP/1.1")[0] == 405


@pytest.mark.parametrize(
    "line", ["", "GET", "GET /healthz", "GET /healthz SMTP/1", "\x16\x03\x01", "GET / a HTTP/1.1"]
)
def test_an_invalid_request_is_refused(line: str) -> None:
    assert ask(plain_health(), line)[0] == 400


@pytest.mark.trio
async def test_invalid_connections_do_not_affect_others(nursery: trio.Nursery) -> None:
    port: int = await nursery.start(plain_health().serve, "127.0.0.1", 0)
    for junk in (b"\0" * (MAX_HEAD_BYTES + 1), b"", b"GET /heal"):
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            if junk:
                await stream.send_all(junk)
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        await stream.send_all(b"GET /readyz HT")
        await stream.send_all(b"TP/1.1\r\n\r\n")
        answer = b"".join([piece async for piece in stream])
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_a_port_in_use_is_an_error(nursery: trio.Nursery) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        await nursery.start(plain_health().serve, "127.0.0.1", taken.getsockname()[1])


def test_a_page_that_cannot_be_made_is_told_in_words() -> None:
    def broken() -> object:
        raise ValueError("a fault")

    health = Health(Readiness(), broken, str)
    assert ask(health, "GET /status HTTP/1.1") == (
        500,
        "this page cannot be made now: a value in it is not valid\n",
    )
    assert ask(health, "GET /healthz HTTP/1.1")[0] == 200


async def scrape(port: int, line: str = "GET /metrics HTTP/1.1") -> tuple[int, str]:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        await stream.send_all(f"{line}\r\n\r\n".encode())
        answer = b"".join([piece async for piece in stream]).decode()
    return int(answer.split(" ")[1]), answer.partition("\r\n\r\n")[2]


@pytest.mark.trio
async def test_the_metrics_are_loaded_once_in_a_thread(nursery: trio.Nursery) -> None:
    loaded: list[int] = []
    began, goes_on = trio.Event(), threading.Event()

    def load() -> None:
        loaded.append(threading.get_ident())
        trio.from_thread.run_sync(began.set)
        goes_on.wait(seconds(10))

    answers: list[tuple[int, str]] = []

    async def ask_metrics() -> None:
        answers.append(await scrape(port))

    health = Health(Readiness(), dict, lambda: "a_metric 1\n", load_metrics=load)
    port: int = await nursery.start(health.serve, "127.0.0.1", 0)
    async with trio.open_nursery() as scrapes:
        scrapes.start_soon(ask_metrics)
        scrapes.start_soon(ask_metrics)
        await began.wait()
        assert (await scrape(port, "GET /healthz HTTP/1.1"))[0] == 200, "others are answered meanwhile"
        assert answers == []
        goes_on.set()
    assert answers == [(200, "a_metric 1\n")] * 2
    assert await scrape(port) == (200, "a_metric 1\n")
    assert len(loaded) == 1
    assert loaded[0] != threading.get_ident()
    nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_metrics_that_cannot_be_loaded_are_told_in_words(nursery: trio.Nursery) -> None:
    faults: list[Exception] = [ImportError("no module"), AttributeError("another version"), OSError("")]

    def load() -> None:
        if faults:
            raise faults.pop()

    health = Health(Readiness(), dict, lambda: "a_metric 1\n", load_metrics=load)
    port: int = await nursery.start(health.serve, "127.0.0.1", 0)
    assert await scrape(port, "HEAD /metrics HTTP/1.1") == (500, "")
    for _ in range(2):
        status, text = await scrape(port, "GET /metrics?x HTTP/1.1")
        assert (status, "start the agent again" in text) == (500, True)
    assert await scrape(port) == (200, "a_metric 1\n")
    nursery.cancel_scope.cancel()
