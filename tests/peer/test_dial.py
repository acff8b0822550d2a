"""Dialing a member: accepted, refused, invalid answers, unreachable."""

from __future__ import annotations

import errno
import gc
import socket
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from netstore.peer import dial as dialing
from netstore.peer.dial import StreamFailed, dial
from netstore.peer.handshake import (
    HIGHEST_VERSION,
    LOWEST_VERSION,
    RECORDS_VERSION,
    Challenge,
    Hello,
    Offer,
    Proof,
    Purpose,
    Secret,
    Verdict,
    Welcome,
)
from netstore.raft.invariant import InvariantBroken
from netstore.types import ClusterId, NodeId
from netstore.urls import BadPeerUrl, checked_peer_urls
from tests.support.daemon import free_port
from tests.support.links import eventually, running_reactor
from tests.support.patience import seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

HELLO = Hello(Purpose.MESSAGES, ClusterId(1), NodeId(2), NodeId(3), "test")
WELCOME = Welcome(Verdict.ACCEPTED, ClusterId(1), NodeId(3))
TOKEN = "a token"  # noqa: S105
SECRET = Secret(TOKEN)


class Answerer:
    """A plain socket in the place of a member."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.stream: trio.SocketStream | None = None
        self.heard = b""

    async def answer(self, data: bytes) -> None:
        """Accept a connection, read its hello, and send this."""
        stream = await self.hear()
        if data:
            await stream.send_all(data)

    async def hear(self) -> trio.SocketStream:
        """Accept a connection and read its hello."""
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(self.listener))
        stream = self.stream = await listener.accept()
        while (found := Hello.read(self.heard)) is None:
            self.heard += await stream.receive_some()
        assert found[0].offer is Offer.TOKEN
        offered = found[0].lowest, found[0].highest
        assert offered == (LOWEST_VERSION, HIGHEST_VERSION)
        like = {"nonce": HELLO.nonce, "offer": HELLO.offer, "highest": HELLO.highest}
        assert msgspec.structs.replace(found[0], **like) == HELLO
        assert found[0].nonce != HELLO.nonce
        return stream

    async def welcome(self, welcome: Welcome, more: bytes = b"", knows: str = TOKEN) -> None:
        """Accept a stream as a member that knows this token, whatever proof the caller sends."""
        stream = await self.hear()
        hello, self.heard = self.heard, b""
        challenge = Challenge(ClusterId(1), NodeId(3), bytes(range(32))).encode()
        await stream.send_all(challenge)
        while (found := Proof.read(self.heard)) is None:
            self.heard += await stream.receive_some()
        assert found[0].proof == SECRET.caller_proof(hello, challenge)
        proof = Secret(knows).called_proof(hello, challenge, welcome.without_proof())
        if welcome.version >= RECORDS_VERSION:
            more = SECRET.called_records(hello, challenge).encode(more)
        await stream.send_all(msgspec.structs.replace(welcome, proof=proof).encode() + more)


@contextmanager
def answerer() -> Iterator[Answerer]:
    made = Answerer()
    yield made
    made.listener.close()
    if made.stream is not None:
        made.stream.socket.close()


async def test_after_the_welcome_received_bytes_are_passed_on() -> None:
    got: list[bytes] = []
    with answerer() as other:
        async with running_reactor() as reactor, trio.open_nursery() as nursery:
            nursery.start_soon(other.welcome, WELCOME, b"first")
            made = await dial(reactor, other.url, HELLO, got.append, credentials=None, secret=SECRET)
            assert made.welcome is not None
            assert made.welcome.without_proof() == WELCOME.encode()
            made.link.write(b"ping")
            assert other.stream is not None
            assert await other.stream.receive_some() == b"ping"
            await other.stream.send_all(b"second")
            await eventually(lambda: b"".join(got) == b"firstsecond", "all was taken")
            await made.drained(5)
            made.link.cut("done")
            assert made.over.is_set()


async def test_records_received_together_with_the_welcome_are_decoded() -> None:
    got: list[bytes] = []
    sealed = Welcome(Verdict.ACCEPTED, ClusterId(1), NodeId(3), version=RECORDS_VERSION)
    with answerer() as other:
        async with running_reactor() as reactor, trio.open_nursery() as nursery:
            nursery.start_soon(other.welcome, sealed, b"first")
            made = await dial(reactor, other.url, HELLO, got.append, credentials=None, secret=SECRET)
            await eventually(lambda: b"".join(got) == b"first", "it was taken")
            made.link.cut("done")


async def test_a_refusal_raises_stream_failed_with_its_verdict() -> None:
    with answerer() as other:
        async with running_reactor() as reactor, trio.open_nursery() as nursery:
            refusal = Welcome(Verdict.REMOVED, ClusterId(1), NodeId(3), "was removed")
            nursery.start_soon(other.welcome, refusal)
            with pytest.raises(StreamFailed, match="refused: was removed") as caught:
                await dial(reactor, other.url, HELLO, lambda _: None, credentials=None, secret=SECRET)
            assert caught.value.verdict == Verdict.REMOVED


async def test_removed_counts_only_from_an_authenticated_member() -> None:
    """A member that believed it would stop for good."""
    refusal = Welcome(Verdict.REMOVED, ClusterId(1), NodeId(3), "was removed")
    async with running_reactor() as reactor, trio.open_nursery() as nursery:
        for speak in (
            lambda each: each.answer(refusal.encode()),
            lambda each: each.welcome(refusal, b"", "x"),
        ):
            with answerer() as other:
                nursery.start_soon(speak, other)
                with pytest.raises(StreamFailed, match="refused: was removed") as caught:
                    await dial(reactor, other.url, HELLO, lambda _: None, credentials=None, secret=SECRET)
                assert caught.value.verdict == Verdict.FAILED


async def test_a_called_side_without_a_proof_is_refused() -> None:
    got: list[bytes] = []
    refusal = Welcome(Verdict.BUSY, ClusterId(1), NodeId(3), "not now")
    async with running_reactor() as reactor, trio.open_nursery() as nursery:
        for speak, match in (
            (
                lambda each: each.answer(WELCOME.encode() + b"believe me"),
                "does not prove that it is a member",
            ),
            (lambda each: each.welcome(WELCOME, b"believe me", "x"), "does not prove that it is a member"),
            (lambda each: each.welcome(refusal, b"believe me"), "refused: not now"),
        ):
            with answerer() as other:
                nursery.start_soon(speak, other)
                with pytest.raises(StreamFailed, match=match) as caught:
                    await dial(reactor, other.url, HELLO, got.append, credentials=None, secret=SECRET)
                assert caught.value.verdict == (Verdict.NOT_PROVED if "prove" in match else Verdict.BUSY)
    assert got == [], "nothing it sends is passed on"


async def test_a_challenge_fails_the_stream_if_there_is_no_token() -> None:
    challenge = Challenge(ClusterId(1), NodeId(3), bytes(32)).encode()
    with answerer() as other:
        async with running_reactor() as reactor, trio.open_nursery() as nursery:
            nursery.start_soon(other.answer, challenge)
            with pytest.raises(StreamFailed, match="join token, and this member has none"):
                await dial(reactor, other.url, HELLO, lambda _: None, credentials=None, secret=None)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [(b"HTTP/1.1 400 Bad Request\r\n\r\n", "not a stream between members"), (b"nstpeer\n\x01", "")],
)
async def test_an_invalid_answer_fails_the_stream(
    monkeypatch: pytest.MonkeyPatch, answer: bytes, reason: str
) -> None:
    if not reason:
        monkeypatch.setattr(dialing, "DIAL_SECONDS", 0.2)
    with answerer() as other:
        async with running_reactor() as reactor, trio.open_nursery() as nursery:
            nursery.start_soon(other.answer, answer)
            with pytest.raises(StreamFailed, match=reason or r"no (greeting|answer) within 0\.2 s"):
                await dial(reactor, other.url, HELLO, lambda _: None, credentials=None, secret=SECRET)


async def test_connection_errors_are_reported_in_plain_words() -> None:
    with answerer() as other:
        url = other.url
    async with running_reactor() as reactor:
        with pytest.raises(StreamFailed, match=r"^connection refused$"):
            await dial(reactor, url, HELLO, lambda _: None, credentials=None, secret=SECRET)


async def test_https_needs_a_certificate() -> None:
    async with running_reactor() as reactor:
        with pytest.raises(StreamFailed, match="asks for TLS, and this member has no certificate"):
            await dial(reactor, "https://127.0.0.1:1", HELLO, lambda _: None, credentials=None, secret=SECRET)


async def test_drained_fails_if_the_other_side_does_not_read() -> None:
    with answerer() as other:
        async with running_reactor() as reactor, trio.open_nursery() as nursery:
            nursery.start_soon(other.welcome, WELCOME)
            made = await dial(reactor, other.url, HELLO, lambda _: None, credentials=None, secret=SECRET)
            made.link.write(bytes(32 << 20))
            with pytest.raises(StreamFailed, match=r"took nothing for 0\.1 s"):
                await made.drained(0.1)
            assert not made.link.open


async def test_a_cancelled_dial_leaves_nothing_open() -> None:
    with answerer() as other:
        async with running_reactor() as reactor:
            async with trio.open_nursery() as nursery:

                async def never() -> None:
                    await dial(reactor, other.url, HELLO, lambda _: None, credentials=None, secret=SECRET)

                nursery.start_soon(never)
                stream = await other.hear()
                nursery.cancel_scope.cancel()
            with trio.fail_after(seconds(10)):
                while await stream.receive_some():
                    pass
            await stream.aclose()


HOSTILE = (
    *(
        "http://a..b:1",
        "http://.:1",
        "http://.a:1",
        f"http://{'h' * 64}:1",
        "http://xn--\u00e9:1",
        "http://a\u2100b:1",
    ),
    *(
        "http://[1]:1",
        "http://[:::]:1",
        "http://h:99999999",
        "http://h:\u0661",
        "http://\ud800:1",
        "http://a\x00:1",
    ),
    *("", "http://", "://", "http://[", "x" * 100_000, "https://.a:1"),
)


class NoNames(trio.abc.HostnameResolver):
    """A resolver that knows no name."""

    async def getaddrinfo(self, *_: object, **__: object) -> NoReturn:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    async def getnameinfo(self, *_: object, **__: object) -> NoReturn:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")


@pytest.mark.parametrize("url", HOSTILE)
async def test_any_url_in_a_log_raises_nothing_but_stream_failed(url: str) -> None:
    trio.socket.set_custom_hostname_resolver(NoNames())
    async with running_reactor() as reactor:
        with pytest.raises(StreamFailed):
            await dial(reactor, url, HELLO, lambda _: None, credentials=None, secret=SECRET)


@given(st.text(st.sampled_from("http:/s[]%@?#.1a-_!*~é\u2100\u00ad xn"), max_size=12), st.booleans())
def test_every_accepted_peer_url_can_be_dialed_or_fails_the_stream(text: str, brackets: bool) -> None:
    url = f"http://[{text}]:1" if brackets else f"http://{text}:1"
    with suppress(BadPeerUrl):
        (url,) = checked_peer_urls([url])

    async def run() -> None:
        trio.socket.set_custom_hostname_resolver(NoNames())
        async with running_reactor() as reactor:
            with pytest.raises(StreamFailed):
                await dial(reactor, url, HELLO, lambda _: None, credentials=None, secret=SECRET)

    trio.run(run)


def descriptors() -> int:
    gc.collect()
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize(
    "fault", [RuntimeError("strange"), OSError(errno.ENOMEM, "no memory"), MemoryError()]
)
@pytest.mark.parametrize("place", ["getaddrinfo", "socket", "Link", "watch", "opened"])
async def test_any_fault_while_dialing_is_stream_failed_and_leaves_nothing_open(
    monkeypatch: pytest.MonkeyPatch, place: str, fault: Exception
) -> None:
    def fail(*_: object, **__: object) -> NoReturn:
        raise fault

    with answerer() as other:
        async with running_reactor() as reactor:
            open_before = descriptors()
            with monkeypatch.context() as patch:
                owner: object = {
                    "getaddrinfo": trio.socket,
                    "socket": trio.socket,
                    "Link": dialing,
                    "watch": reactor.watched,
                    "opened": dialing.OutgoingStream,
                }[place]
                patch.setattr(owner, place, fail)
                with pytest.raises(StreamFailed):
                    await dial(reactor, other.url, HELLO, lambda _: None, credentials=None, secret=SECRET)
            assert descriptors() == open_before


async def test_a_failed_dial_leaves_no_reference_cycle() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    async with running_reactor() as reactor:
        gc.collect()
        gc.disable()
        try:
            with pytest.raises(StreamFailed, match="connection refused") as caught:
                await dial(reactor, url, HELLO, lambda _: None, credentials=None, secret=SECRET)
            del caught
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            left = [each for each in gc.garbage if isinstance(each, OSError)]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
        assert left == []


async def test_must_stop_is_not_turned_into_stream_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> NoReturn:
        raise InvariantBroken("the log is wrong")

    monkeypatch.setattr(dialing, "Link", fail)
    with answerer() as other:
        async with running_reactor() as reactor:
            with pytest.raises(InvariantBroken):
                await dial(reactor, other.url, HELLO, lambda _: None, credentials=None, secret=SECRET)


async def test_an_answer_in_a_version_that_was_not_offered_fails_the_stream() -> None:
    later = msgspec.structs.replace(WELCOME, version=5)
    challenge = Challenge(ClusterId(1), NodeId(3), bytes(32), version=5)
    async with running_reactor() as reactor, trio.open_nursery() as nursery:
        for speak in (
            lambda each: each.welcome(later),
            lambda each: each.answer(challenge.encode()),
        ):
            with answerer() as other:
                nursery.start_soon(speak, other)
                with pytest.raises(StreamFailed, match="answers in version 5, which was not offered"):
                    await dial(reactor, other.url, HELLO, lambda _: None, credentials=None, secret=SECRET)
