"""Fetching backups: transfers that break, stores that have none, and bandwidth."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

import pytest
import trio

from netstore.client import backups
from netstore.client.backups import NoFullBackup, Pace, fetch_full
from netstore.client.cluster import Refused
from netstore.client.faults import BadAnswer, Unreachable
from netstore.client.transport import Transport
from tests.cli.commands.conftest import answering, http

if TYPE_CHECKING:
    from collections.abc import Callable

DATA = bytes(range(256)) * 400


def part(start: int, end: int, id_: str = "x1") -> bytes:
    """An answer with the bytes from `start` on that breaks at `end`."""
    head = (
        "HTTP/1.1 200 OK\r\n"
        f"X-Netstore-Backup: {id_}\r\nX-Netstore-Backup-Bytes: {len(DATA)}\r\n"
        f"Content-Length: {len(DATA) - start}\r\n\r\n"
    )
    return head.encode() + DATA[start:end]


def asked(head: bytes) -> tuple[str, int]:
    """The id and the offset of a request; empty and 0 if it begins."""
    found = re.match(rb"GET /netstore/backup(?:\?id=(\w+)&from=(\d+))? ", head)
    assert found is not None, head
    return (found[1] or b"").decode(), int(found[2] or 0)


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backups, "RESUME_PAUSE", 0.0)


async def fetched(answer: Callable[[bytes], bytes]) -> tuple[bytes, list[tuple[int, int]]]:
    file, told = io.BytesIO(), []
    with answering(answer) as url:
        async with Transport(url) as transport:
            await fetch_full(transport, file, rate=0, progress=lambda *each: told.append(each))
    return file.getvalue(), told


async def test_a_transfer_goes_on_where_it_broke() -> None:
    requests: list[tuple[str, int]] = []

    def answer(head: bytes) -> bytes:
        requests.append(asked(head))
        return part(requests[-1][1], requests[-1][1] + 30_000)

    data, told = await fetched(answer)
    assert data == DATA
    assert requests == [("", 0), ("x1", 30_000), ("x1", 60_000), ("x1", 90_000)]
    assert told[-1] == (len(DATA), len(DATA))
    assert [done for done, _ in told] == sorted({done for done, _ in told})


async def test_one_that_cannot_be_resumed_begins_anew() -> None:
    requests: list[tuple[str, int]] = []

    def answer(head: bytes) -> bytes:
        requests.append(asked(head))
        if len(requests) == 1:
            return part(0, 50_000, "x1")
        if requests[-1][0]:
            return http("410 Gone", '{"message":"id: there is no such backup"}')
        return part(0, len(DATA), "x2")

    assert (await fetched(answer))[0] == DATA
    assert requests == [("", 0), ("x1", 50_000), ("", 0)]


async def test_one_that_gets_no_further_ends() -> None:
    requests = 0

    def answer(head: bytes) -> bytes:
        nonlocal requests
        requests += 1
        start = asked(head)[1]
        return part(start, max(start, 1000))

    with pytest.raises(Unreachable):
        await fetched(answer)
    assert requests == 1 + backups.MOST_RESUMED


async def test_one_that_is_always_gone_ends() -> None:
    def answer(head: bytes) -> bytes:
        if asked(head)[0]:
            return http("410 Gone", '{"message":"id: gone"}')
        return part(0, 10)

    with pytest.raises(Refused, match="id: gone"):
        await fetched(answer)


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (http("404 Not Found", "404 page not found"), NoFullBackup, "has no full backups"),
        (http("409 Conflict", '{"message":"another one is made"}'), Refused, "another one is made"),
        (http("503 Unavailable", '{"message":"no room"}'), Refused, "no room"),
        (http("500 Error", "<html>"), BadAnswer, "answered with status 500"),
        (http("200 OK", "data"), BadAnswer, "without its size"),
    ],
)
async def test_refusals(answer: bytes, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        await fetched(lambda _: answer)


async def test_a_pace_holds_back(autojump_clock: trio.testing.MockClock) -> None:
    assert autojump_clock is not None
    start = trio.current_time()
    pace = Pace(1000.0)
    for _ in range(20):
        await pace.passed(500)
    assert trio.current_time() - start == pytest.approx(10.0)
    await trio.sleep(100)
    await pace.passed(3000)
    assert trio.current_time() - start == pytest.approx(112.0), "a pause is not made up for at once"
    start = trio.current_time()
    await Pace(0.0).passed(10**12)
    assert trio.current_time() == start
