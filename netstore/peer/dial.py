"""Opening a stream to another member: resolve, connect, do the caller's side of the handshake."""

from __future__ import annotations

import os
import secrets
import socket
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import msgspec
import trio

from netstore.errors import CorruptData, MustStop, NetstoreError
from netstore.peer.handshake import (
    HIGHEST_VERSION,
    LOWEST_VERSION,
    NONCE_BYTES,
    RECORDS_VERSION,
    Challenge,
    Offer,
    Proof,
    Verdict,
    proofs_equal,
    read_answer,
)
from netstore.peer.link import Link

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.net.reactor import Reactor
    from netstore.net.tls import Credentials
    from netstore.peer.handshake import Hello, Secret, Welcome

DIAL_SECONDS: Final = 5.0
"""Time limit for connecting, and again for TLS and handshake together."""


class StreamFailed(NetstoreError):  # noqa: N818 - named for what happened
    """A stream could not be opened, was refused, or broke. `verdict` is that of the refusal, FAILED where
    something answered without one, None where nothing answered.
    """

    def __init__(self, text: str, verdict: int | None = None) -> None:
        super().__init__(text)
        self.verdict = verdict


class OutgoingStream:
    """A stream that this side opened; made by `dial`. A `peer.link.LinkHandler`."""

    def __init__(self, hello: Hello, receive: Callable[[bytes], None], secret: Secret | None) -> None:
        """For `dial`."""
        self.link: Link
        self.reason = ""
        """Why it ended."""
        self.welcome: Welcome | None = None
        self.over = trio.Event()
        self._hello = hello
        self._receive = receive
        self._secret = secret
        self._challenge: Challenge | None = None
        self._proved = hello.offer is Offer.CERTIFICATE
        """The called side is authenticated."""
        self._answered = trio.Event()
        """Set by the welcome or the end of the stream."""
        self._flushed = trio.Event()
        self._read = b""

    async def accepted(self) -> None:
        """Wait for the welcome. StreamFailed if there is none, if it is a refusal, or if the called side does
        not authenticate itself.
        """
        with trio.move_on_after(DIAL_SECONDS):
            await self._answered.wait()
        welcome = self.welcome
        if welcome is None:
            self.link.cut(f"no greeting within {DIAL_SECONDS:g} s")
            raise StreamFailed(self.reason, Verdict.FAILED)
        if welcome.verdict != Verdict.ACCEPTED:
            self.link.cut("refused")
            # A member must not stop for good because an unauthenticated host says that it was removed.
            removed = welcome.verdict == Verdict.REMOVED and not self._proved
            raise StreamFailed(f"refused: {welcome.text}", Verdict.FAILED if removed else welcome.verdict)
        if not self._proved:
            self.link.cut("does not prove that it is a member: it may have another join token")
            raise StreamFailed(self.reason, Verdict.NOT_PROVED)

    async def drained(self, seconds: float) -> None:
        """Wait until the kernel has accepted everything. StreamFailed if that takes longer than `seconds`."""
        with trio.move_on_after(seconds):
            while self.link.unsent:
                self._flushed = trio.Event()
                await self._flushed.wait()
        if self.link.unsent:
            self.link.cut(f"took nothing for {seconds:g} s")
        if not self.link.open:
            raise StreamFailed(self.reason)

    def opened(self) -> None:
        """See `peer.link.LinkHandler`."""
        self.link.write(self._hello.encode())

    def received(self, data: bytes) -> None:
        """See `peer.link.LinkHandler`."""
        try:
            if self.welcome is not None:
                self._pass_on(data)
                return
            self._read += data
            found = read_answer(self._read)
            if found is None:
                return
            answer, length = found
            _check_version(answer)
            rest, self._read = self._read[length:], b""
            if isinstance(answer, Challenge):
                self._prove(answer, rest)
                return
            self._take_welcome(answer)
            if rest and self.link.open:
                rest = self.link.decoded(rest)
            if rest and self.link.open:
                self._pass_on(rest)
        except MustStop:
            raise
        except CorruptData as fault:
            self.link.cut(str(fault))

    def _pass_on(self, data: bytes) -> None:
        """What follows the welcome is ignored unless that was an acceptance by an authenticated member."""
        if self._proved and self.welcome is not None and self.welcome.verdict == Verdict.ACCEPTED:
            self._receive(data)

    def _prove(self, challenge: Challenge, rest: bytes) -> None:
        if rest or self._challenge is not None:
            raise CorruptData("more was sent after a challenge, before the proof")
        if self._secret is None:
            self.link.cut("asks for the cluster's join token, and this member has none: give join_token")
            return
        self._challenge = challenge
        self.link.write(Proof(self._secret.caller_proof(self._hello.encode(), challenge.encode())).encode())

    def _take_welcome(self, welcome: Welcome) -> None:
        if self._challenge is not None and self._secret is not None:
            greetings = self._hello.encode(), self._challenge.encode(), welcome.without_proof()
            self._proved = proofs_equal(welcome.proof, self._secret.called_proof(*greetings))
            if self._proved and welcome.version >= RECORDS_VERSION:
                self.link.use_records(self._secret.caller_records(*greetings[:2]))
        self.welcome = welcome
        self._answered.set()

    def flushed(self) -> None:
        """See `peer.link.LinkHandler`."""
        self._flushed.set()

    def gone(self, reason: str) -> None:
        """See `peer.link.LinkHandler`."""
        self.reason = reason
        self.over.set()
        self._answered.set()
        self._flushed.set()


def _check_version(answer: Challenge | Welcome) -> None:
    """A challenge or acceptance must use a version that the hello offered; a refusal may use any."""
    goes_on = isinstance(answer, Challenge) or answer.verdict == Verdict.ACCEPTED
    if goes_on and not LOWEST_VERSION <= answer.version <= HIGHEST_VERSION:
        raise CorruptData(f"answers in version {answer.version}, which was not offered")


async def dial(
    reactor: Reactor,
    url: str,
    hello: Hello,
    receive: Callable[[bytes], None],
    *,
    credentials: Credentials | None,
    secret: Secret | None,
) -> OutgoingStream:
    """Open a stream to the member at `url` and be accepted there; StreamFailed with the reason if not.
    `receive` is called with what follows the handshake.

    Each side proves to the other that it belongs to the cluster: by its certificate, if the stream has TLS
    and an authority of the cluster's own is trusted, else by the join token that `secret` is derived from.
    A host in between cannot prevent that: a called side that answers without a proof is not talked to.
    Bounded by two times `DIAL_SECONDS`. The caller of this function ends the stream with `link.cut`.

    URLs come from a log that others write to, and whatever cannot be dialed fails in many ways (a name
    that the resolver rejects, no descriptor left, a certificate that does not verify): all are a
    StreamFailed.
    """
    try:
        return await _dial(reactor, url, hello, receive, credentials=credentials, secret=secret)
    except (StreamFailed, MustStop):
        raise
    except Exception as fault:
        why = f"{url} cannot be called: {type(fault).__name__}: {fault}"
        raise StreamFailed(why, Verdict.FAILED) from fault


async def _dial(
    reactor: Reactor,
    url: str,
    hello: Hello,
    receive: Callable[[bytes], None],
    *,
    credentials: Credentials | None,
    secret: Secret | None,
) -> OutgoingStream:
    place = urlsplit(url)
    host, port = place.hostname or "", place.port or 0
    tls = None
    if place.scheme == "https":
        if credentials is None:
            raise StreamFailed(f"{url} asks for TLS, and this member has no certificate for its peers")
        tls = credentials.client()
    sock = await _connect(host, port)
    certified = tls is not None and credentials is not None and credentials.client_auth
    offer = Offer.CERTIFICATE if certified else Offer.TOKEN
    hello = msgspec.structs.replace(
        hello, nonce=secrets.token_bytes(NONCE_BYTES), offer=offer, highest=HIGHEST_VERSION
    )
    stream = OutgoingStream(hello, receive, secret)
    try:
        stream.link = Link(reactor, sock, stream, tls, host)
    except Exception:
        sock.close()
        raise
    try:
        stream.link.start()
        await stream.accepted()
    except BaseException:
        stream.link.cut("given up")
        raise
    return stream


async def _connect(host: str, port: int) -> socket.socket:
    """A connected socket; the name is resolved in a thread, and the addresses are tried in turn."""
    why = "has no address"
    with trio.move_on_after(DIAL_SECONDS):
        try:
            places = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise StreamFailed(f"{host} is not found: {error.strerror or error}") from None
        for family, kind, protocol, _, address in places:
            try:
                with trio.socket.socket(family, kind, protocol) as sock:
                    await sock.connect(address)
                    return socket.socket(fileno=sock.detach())
            except OSError as error:
                # Only the text is kept: the exception would keep this frame alive, and the frame it.
                why = (
                    os.strerror(error.errno) if error.errno else str(error)
                ).lower()  # Trio's text is longer
        raise StreamFailed(why)
    raise StreamFailed(f"no answer within {DIAL_SECONDS:g} s")
