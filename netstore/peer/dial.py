"""Calling another member: find it, connect, greet, and talk over the stream that this opens."""

from __future__ import annotations

import secrets
import socket
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import msgspec
import trio

from netstore.errors import CorruptData, MustStop, NetstoreError
from netstore.peer.handshake import NONCE_BYTES, same
from netstore.peer.link import Link
from netstore.peer.wire import (
    HIGHEST_VERSION,
    LOWEST_VERSION,
    SEALED_VERSION,
    Challenge,
    Offer,
    Proof,
    Verdict,
    read_answer,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.net.reactor import Reactor
    from netstore.net.tls import Credentials
    from netstore.peer.handshake import Secret
    from netstore.peer.wire import Hello, Welcome

DIAL_SECONDS: Final = 5.0
"""How long a connection may take, and after it TLS and greeting together."""


class CallFailed(NetstoreError):  # noqa: N818 - named for what happened
    """A stream could not be opened, was refused, or broke. `verdict` is the refusal, FAILED where somebody
    was there and gave none, None where nobody was there.
    """

    def __init__(self, text: str, verdict: int | None = None) -> None:
        super().__init__(text)
        self.verdict = verdict


class Call:
    """A stream that this side opened; made by `call`. `take` gets what comes after the welcome."""

    def __init__(self, hello: Hello, take: Callable[[bytes], None], secret: Secret | None) -> None:
        """For `call`."""
        self.link: Link
        self.reason = ""
        """Why it is over."""
        self.welcome: Welcome | None = None
        self.over = trio.Event()
        self._hello = hello
        self._take = take
        self._secret = secret
        self._challenge: Challenge | None = None
        self._proved = hello.offer is Offer.CERTIFICATE
        """The other side is known to be a member."""
        self._greeted = trio.Event()
        self._flushed = trio.Event()
        self._read = b""

    async def greeted(self) -> None:
        """Wait for the welcome. CallFailed when there is none, when it is a refusal, or comes from somebody
        who does not prove that it is a member.
        """
        with trio.move_on_after(DIAL_SECONDS):
            await self._greeted.wait()
        welcome = self.welcome
        if welcome is None:
            self.link.cut(f"no greeting within {DIAL_SECONDS:g} s")
            raise CallFailed(self.reason, Verdict.FAILED)
        if welcome.verdict != Verdict.ACCEPTED:
            self.link.cut("refused")
            # Nobody stops for ever because a stranger says so.
            removed = welcome.verdict == Verdict.REMOVED and not self._proved
            raise CallFailed(f"refused: {welcome.text}", Verdict.FAILED if removed else welcome.verdict)
        if not self._proved:
            self.link.cut("does not prove that it is a member: it may have another join token")
            raise CallFailed(self.reason, Verdict.NOT_PROVED)

    async def drained(self, seconds: float) -> None:
        """Wait until what was written is on its way. CallFailed when the other side does not take it."""
        with trio.move_on_after(seconds):
            while self.link.unsent:
                self._flushed = trio.Event()
                await self._flushed.wait()
        if self.link.unsent:
            self.link.cut(f"took nothing for {seconds:g} s")
        if not self.link.open:
            raise CallFailed(self.reason)

    def opened(self) -> None:
        """See `peer.link.Party`."""
        self.link.write(self._hello.encode())

    def received(self, data: bytes) -> None:
        """See `peer.link.Party`."""
        try:
            if self.welcome is not None:
                self._heed(data)
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
            self._be_welcome(answer)
            if rest and self.link.open:
                rest = self.link.unsealed(rest)
            if rest and self.link.open:
                self._heed(rest)
        except MustStop:
            raise
        except CorruptData as fault:
            self.link.cut(str(fault))

    def _heed(self, data: bytes) -> None:
        """What follows a welcome counts only if that let this side in, and is proved."""
        if self._proved and self.welcome is not None and self.welcome.verdict == Verdict.ACCEPTED:
            self._take(data)

    def _prove(self, challenge: Challenge, rest: bytes) -> None:
        if rest or self._challenge is not None:
            raise CorruptData("a challenge is followed by something else than a proof")
        if self._secret is None:
            self.link.cut("asks for the cluster's join token, and this member has none: give join_token")
            return
        self._challenge = challenge
        self.link.write(Proof(self._secret.caller(self._hello.encode(), challenge.encode())).encode())

    def _be_welcome(self, welcome: Welcome) -> None:
        if self._challenge is not None and self._secret is not None:
            greetings = self._hello.encode(), self._challenge.encode(), welcome.unproved()
            self._proved = same(welcome.proof, self._secret.called(*greetings))
            if self._proved and welcome.version >= SEALED_VERSION:
                self.link.seal(self._secret.caller_seal(*greetings[:2]))
        self.welcome = welcome
        self._greeted.set()

    def flushed(self) -> None:
        """See `peer.link.Party`."""
        self._flushed.set()

    def gone(self, reason: str) -> None:
        """See `peer.link.Party`."""
        self.reason = reason
        self.over.set()
        self._greeted.set()
        self._flushed.set()


def _check_version(answer: Challenge | Welcome) -> None:
    """Whoever goes on does so in a version that the hello offered; a refusal may be in any."""
    accepted = isinstance(answer, Challenge) or answer.verdict == Verdict.ACCEPTED
    if accepted and not LOWEST_VERSION <= answer.version <= HIGHEST_VERSION:
        raise CorruptData(f"answers in version {answer.version}, which was not offered")


async def call(
    reactor: Reactor,
    url: str,
    hello: Hello,
    take: Callable[[bytes], None],
    *,
    credentials: Credentials | None,
    secret: Secret | None,
) -> Call:
    """Open a stream to the member at `url` and be welcome there. CallFailed, with the reason, when not.

    Each side proves to the other that it belongs to the cluster: by its certificate, where the stream has
    TLS and an authority of its own is trusted, else by the join token that `secret` is made of. Nobody on
    the way can talk them out of it: who is called and answers without a proof is not spoken to. Bounded by
    two times `DIAL_SECONDS`. Whoever calls ends the stream with `link.cut`.

    Addresses come from a log that others write to, and what cannot be called is told in many ways (a name
    that no resolver takes, no descriptor left, a certificate's rules): all of them are a CallFailed.
    """
    try:
        return await _call(reactor, url, hello, take, credentials=credentials, secret=secret)
    except (CallFailed, MustStop):
        raise
    except Exception as fault:
        why = f"{url} cannot be called: {type(fault).__name__}: {fault}"
        raise CallFailed(why, Verdict.FAILED) from fault


async def _call(
    reactor: Reactor,
    url: str,
    hello: Hello,
    take: Callable[[bytes], None],
    *,
    credentials: Credentials | None,
    secret: Secret | None,
) -> Call:
    place = urlsplit(url)
    host, port = place.hostname or "", place.port or 0
    tls = None
    if place.scheme == "https":
        if credentials is None:
            raise CallFailed(f"{url} asks for TLS, and this member has no certificate for its peers")
        tls = credentials.client()
    sock = await _connect(host, port)
    certified = tls is not None and credentials is not None and credentials.client_auth
    offer = Offer.CERTIFICATE if certified else Offer.TOKEN
    hello = msgspec.structs.replace(
        hello, nonce=secrets.token_bytes(NONCE_BYTES), offer=offer, highest=HIGHEST_VERSION
    )
    made = Call(hello, take, secret)
    try:
        made.link = Link(reactor, sock, made, tls, host)
    except Exception:
        sock.close()
        raise
    try:
        made.link.start()
        await made.greeted()
    except BaseException:
        made.link.cut("given up")
        raise
    return made


async def _connect(host: str, port: int) -> socket.socket:
    """A connected socket; names are resolved in a thread, and their addresses tried in turn."""
    why = "has no address"
    with trio.move_on_after(DIAL_SECONDS):
        try:
            places = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise CallFailed(f"{host} is not found: {error.strerror or error}") from None
        for family, kind, protocol, _, address in places:
            try:
                with trio.socket.socket(family, kind, protocol) as sock:
                    await sock.connect(address)
                    return socket.socket(fileno=sock.detach())
            except OSError as error:
                why = (error.strerror or str(error)).lower()  # kept, it would keep this frame, and that it
        raise CallFailed(why)
    raise CallFailed(f"no answer within {DIAL_SECONDS:g} s")
