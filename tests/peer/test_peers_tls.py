"""Streams between members inside TLS: when a certificate authenticates, and when the token does."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from netstore.net.tls import Credentials
from netstore.net.tokenbucket import TokenBucket
from netstore.peer import link as linking
from netstore.peer import listener
from netstore.peer.dial import StreamFailed
from netstore.peer.handshake import Secret, Verdict
from tests.support.certificates import Certificates
from tests.support.links import Quiet, eventually, running_reactor
from tests.support.peermembers import A, B, Member, knock, met, open_stream, who_is_there

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

ONE, TWO = Secret("one token"), Secret("another token")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Certificates:
    made = Certificates(tmp_path / "tls")
    monkeypatch.setenv("SSL_CERT_FILE", str(made.ca))  # the system trusts it too
    return made


def shown(files: Certificates, *, own_authority: bool) -> Credentials:
    trusted = files.ca if own_authority else None
    return Credentials(files.certificate, files.key, trusted, client_auth=own_authority, log=Quiet())


@asynccontextmanager
async def members(
    one: Credentials, two: Credentials, *secrets: Secret | None
) -> AsyncIterator[tuple[Member, Member]]:
    """A and B with these certificates and tokens."""
    async with running_reactor() as reactor, trio.open_nursery() as nursery:
        first = Member(reactor, A, credentials=one, secret=secrets[0])
        second = Member(reactor, B, credentials=two, secret=secrets[1])
        for each in (first, second):
            each.addresses = {A: (first.url,), B: (second.url,)}
            nursery.start_soon(each.peers.run, each, each)
        yield first, second
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("secrets", [(None, None), (ONE, TWO), (ONE, None)])
async def test_certificates_of_the_clusters_authority_are_enough(
    files: Certificates, secrets: tuple[Secret | None, Secret | None]
) -> None:
    mutual = shown(files, own_authority=True)
    async with members(mutual, mutual, *secrets) as (one, two):
        await met(one, two)


async def test_certificates_of_a_public_authority_are_not_enough_and_the_token_counts(
    files: Certificates,
) -> None:
    public = shown(files, own_authority=False)
    async with members(public, public, ONE, ONE) as (one, two):
        await met(one, two)
    async with members(public, public, ONE, TWO) as (one, two):
        await eventually(lambda: one.log.events("peer_not_reached"), "it is refused")
        assert "does not know the join token" in one.log.events("peer_not_reached")[0]
        assert one.connections == 0
        assert not two.incoming_streams


async def test_each_side_decides_whether_it_needs_a_proof(files: Certificates) -> None:
    """Each side decides by its own configuration; a welcome without proof is not enough for one without an
    authority.
    """
    mutual, public = shown(files, own_authority=True), shown(files, own_authority=False)
    async with members(mutual, public, ONE, ONE) as (one, two):
        await met(one, two)
    async with members(mutual, public, ONE, TWO) as (one, two):
        await eventually(lambda: two.log.events("peer_not_reached"), "the side without an authority refuses")
        assert two.connections == 0


async def test_without_a_certificate_no_greeting_is_read(files: Certificates) -> None:
    mutual = shown(files, own_authority=True)
    async with members(mutual, mutual, ONE, ONE) as (one, two):
        await met(one, two)
        plain = one.url.replace("https", "http")
        one.url, secure = plain, one.url
        with pytest.raises(StreamFailed) as caught:
            await open_stream(one, secret=ONE)
        assert caught.value.verdict == Verdict.FAILED, "something answered, without a verdict"
        with pytest.raises(StreamFailed):
            await who_is_there(one, plain, secret=ONE)
        one.url = secure
        assert len(one.incoming_streams) == 1


async def test_tls_handshakes_are_limited_in_rate_and_all_complete(
    files: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "HANDSHAKES_PER_SECOND", 0)
    monkeypatch.setattr(listener, "HANDSHAKE_BURST", 0)
    mutual = shown(files, own_authority=True)
    async with members(mutual, mutual, None, None) as (one, two):
        waiting = [each.peers.listener._waiting_handshakes for each in (one, two)]
        await eventually(lambda: all(waiting), "both wait")
        with knock(one, says=b"\x16\x03\x01"):
            await eventually(lambda: len(waiting[0]) == 2, "so does an unverified caller")
        for each in (one, two):
            each.peers.listener._handshakes = TokenBucket(1000, each.clock.monotonic(), 1000)
        await met(one, two)
        await eventually(lambda: not waiting[0], "all handshakes complete")


async def test_a_tls_handshake_that_is_too_long_is_ended(
    files: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linking, "HANDSHAKE_BYTES", 64)
    mutual = shown(files, own_authority=True)
    async with members(mutual, mutual, None, None) as (one, _):
        await eventually(lambda: one.log.events("peer_refused"), "it is told")
        assert "the handshake does not end" in one.log.events("peer_refused")[0]
