"""Requests at several endpoints: which one answers, and which failure a caller gets."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

import pytest

from netstore.client.faults import BadAnswer, TooLong, Unreachable
from netstore.client.transport import Response, Transport
from netstore.client.v2 import V2Client
from tests.cli.commands.conftest import answering, http

CUT_SHORT = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 100\r\n\r\nno lea"


def always(answer: bytes, _head: bytes) -> bytes:
    return answer


def refusal(response: Response, body: bytes) -> BadAnswer:
    return BadAnswer(response.endpoint, body.decode(), status=response.status)


async def read(*answers: bytes) -> tuple[int, bytes]:
    """Read from endpoints that give these answers, in this order."""
    with ExitStack() as stack:
        urls = [stack.enter_context(answering(partial(always, answer))) for answer in answers]
        async with (
            Transport(urls) as transport,
            transport.request("GET", "/x", write=False, refusal=refusal) as response,
        ):
            return response.status, await response.body()


async def test_a_read_goes_on_to_the_next_endpoint_after_one_that_cannot_serve_it() -> None:
    assert await read(http("503 Service Unavailable", "no leader"), http("200 OK", "found")) == (
        200,
        b"found",
    )


async def test_the_refusal_of_the_last_endpoint_counts() -> None:
    with pytest.raises(BadAnswer, match="second") as caught:
        await read(http("503 Service Unavailable", "first"), http("500 Internal Server Error", "second"))
    assert caught.value.status == 500


@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")  # the rest is not read
async def test_an_endpoint_whose_refusal_is_too_long_cannot_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("netstore.client.transport.MAX_ANSWER_BYTES", 9)
    long = http("503 Service Unavailable", "no leader at all")
    assert await read(long, http("200 OK", "found")) == (200, b"found")
    with pytest.raises(TooLong):
        await read(long)


async def test_an_endpoint_that_ends_within_its_refusal_is_one_that_did_not_answer() -> None:
    assert await read(CUT_SHORT, http("200 OK", "found")) == (200, b"found")
    with pytest.raises(Unreachable) as caught:
        await read(CUT_SHORT)
    assert caught.value.outcome_known


async def test_a_write_that_fails_leaves_the_endpoint_to_others() -> None:
    with answering(partial(always, b"")) as first, answering(partial(always, http("200 OK", "ok"))) as second:
        async with Transport(["http://127.0.0.1:1", first, second]) as transport:
            with pytest.raises(Unreachable) as caught:
                await transport.call("PUT", "/x", write=True)
            assert not caught.value.outcome_known
            assert (await transport.call("PUT", "/x", write=True)).endpoint == second


async def test_a_server_that_says_nothing_may_be_the_peer_port() -> None:
    with pytest.raises(Unreachable, match="closed the connection without an answer; is that its peer port"):
        await read(b"")


async def test_the_outcome_of_a_write_is_unknown_when_its_answer_makes_no_sense() -> None:
    done = http("201 Created", '{"action":"set","node":{"key":"/a","value":"v"}}')  # no X-Etcd-Index
    with answering(lambda _: done) as url:
        async with V2Client(Transport(url)) as client:
            with pytest.raises(BadAnswer, match="no X-Etcd-Index") as caught:
                await client.set("a", "v")
            assert not caught.value.outcome_known
            with pytest.raises(BadAnswer, match="no X-Etcd-Index") as caught:
                await client.get("a")
            assert caught.value.outcome_known


@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")  # the rest is not read
@pytest.mark.parametrize(("method", "known"), [("PUT", False), ("GET", True)])
async def test_the_outcome_of_a_write_is_unknown_when_its_answer_is_too_long(
    monkeypatch: pytest.MonkeyPatch, method: str, known: bool
) -> None:
    monkeypatch.setattr("netstore.client.transport.MAX_ANSWER_BYTES", 9)
    with answering(lambda _: http("200 OK", "0123456789")) as url:
        async with (
            Transport(url) as transport,
            transport.request(method, "/x", write=method != "GET") as response,
        ):
            with pytest.raises(BadAnswer, match="sent more than 9 bytes") as caught:
                await response.body()
    assert caught.value.outcome_known is known


async def test_an_endpoint_that_ends_within_its_answer_is_left() -> None:
    cut = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"
    with answering(partial(always, cut)) as first, answering(partial(always, http("200 OK", "ok"))) as second:
        async with Transport([first, second]) as transport:
            with pytest.raises(Unreachable):
                await transport.call("GET", "/x", write=False)
            assert (await transport.call("GET", "/x", write=False)).endpoint == second
