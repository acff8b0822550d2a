"""Connections over TLS, on real loopback sockets: time limits, broken records, who is at the other end."""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.lowlevel

from netstore.limits import Budget
from netstore.net.connection import HANDSHAKE_SECONDS
from netstore.net.reactor import Limits
from netstore.net.tls import Credentials
from tests.support.certificates import Certificates
from tests.support.log import KeptLog
from tests.support.patience import seconds
from tests.support.site import GET, read_all, site

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_handshake_has_its_time_limit(tmp_path: Path) -> None:
    files = Certificates(tmp_path / "tls")
    log: Any = KeptLog()
    credentials = Credentials(files.certificate, files.key, None, client_auth=False, log=log)
    async with (
        site(credentials=credentials) as here,
        await here.connect() as silent,
        await here.connect() as slow,
    ):
        await slow.send_all(b"\x16\x03\x01")
        await here.until_open(2)
        here.let_pass(HANDSHAKE_SECONDS - 1)
        assert len(here.reactor._connections) == 2
        # Bytes that come slowly win no time.
        await slow.send_all(b"\x02\x00")
        here.let_pass(2)
        assert await read_all(silent) == b""
        assert await read_all(slow) == b""
        assert len(here.reactor._connections) == 0
        assert here.log.events == ["tls_handshake_failed"]


async def test_a_letter_inside_a_handshake_is_no_http(tmp_path: Path) -> None:
    files = Certificates(tmp_path / "tls")
    log: Any = KeptLog()
    credentials = Credentials(files.certificate, files.key, None, client_auth=False, log=log)
    inbound, outbound = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = files.context("http/1.1", shown=None).wrap_bio(inbound, outbound, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    hello = outbound.read()
    letter = hello.index(b"localhost")
    async with site(credentials=credentials) as here, await here.connect() as stream:
        await stream.send_all(hello[:letter])
        await here.until_open(1)
        (connection,) = here.reactor._connections.values()
        with trio.fail_after(seconds(10)):
            while connection._tunnel is not None and not connection._tunnel.records:
                await trio.lowlevel.checkpoint()
            await stream.send_all(hello[letter:])
            assert (await stream.receive_some(65536))[:1] == b"\x16"


async def open_tls(stream: trio.SocketStream, files: Certificates) -> tuple[ssl.SSLObject, ssl.MemoryBIO]:
    """Shake hands by hand; gives what seals, and where it puts what is sealed."""
    inbound, outbound = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = files.context("http/1.1", shown=None).wrap_bio(inbound, outbound, server_hostname="localhost")
    with trio.fail_after(seconds(10)):
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                await stream.send_all(outbound.read())
                inbound.write(await stream.receive_some(65536))
            else:
                return tls, outbound


BROKEN = b"\x17\x03\x03\x00\x20" + b"x" * 32
"""A record that nobody sealed: what anybody on the way can put in."""

SECRET = b"secret--"


async def test_after_a_broken_record_nothing_leaves_that_was_not_sealed(tmp_path: Path) -> None:
    """Neither what waits to be sent, nor what is answered later; an alert says why (RFC 8446, 6.2)."""
    files = Certificates(tmp_path / "tls")
    log: Any = KeptLog()
    credentials = Credentials(files.certificate, files.key, None, client_auth=False, log=log)
    async with site(credentials=credentials) as here:
        ((listener, _, _),) = here.reactor.acceptor.listeners.values()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        sock = trio.socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
        await sock.connect(("127.0.0.1", here.port))
        stream = trio.SocketStream(sock)
        here.answer = SECRET * 100_000
        tls, outbound = await open_tls(stream, files)
        tls.write(GET)
        await stream.send_all(outbound.read())
        await here.until_asked(1)
        (connection,) = here.reactor._connections.values()
        await stream.send_all(BROKEN)
        with trio.fail_after(seconds(10)):
            while not connection._closing:
                await trio.lowlevel.checkpoint()
        assert connection.unsent
        connection.write(SECRET)
        here.reactor.flush()
        data = await read_all(stream)
        assert SECRET not in data
        records = []
        while data:
            assert data[1:3] == b"\x03\x03"
            size = 5 + int.from_bytes(data[3:5], "big")
            records.append(data[:size])
            data = data[size:]
        assert {each[0] for each in records} == {0x17}, "in TLS 1.3 alerts are sealed, too"
        assert len(records[-1]) < 64
        await stream.aclose()
        await here.until_open(0)
        assert here.reactor.memory.used == 0


async def test_a_record_that_does_not_come_whole_is_charged_and_timed(tmp_path: Path) -> None:
    """However often a byte of it comes; one that becomes whole is neither any more."""
    files = Certificates(tmp_path / "tls")
    log: Any = KeptLog()
    credentials = Credentials(files.certificate, files.key, None, client_auth=False, log=log)
    async with site(Limits(stall_seconds=20), credentials) as here, await here.connect() as stream:
        tls, outbound = await open_tls(stream, files)
        tls.write(GET + b"GET /b HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 10_000 + b"\r\n\r\n")
        tls.write(GET + b"x" * 10_000)
        sealed = outbound.read()
        memory = here.reactor.memory
        size = sealed.index(b"\x17\x03\x03", 10_000)
        await stream.send_all(sealed[: size + 3])
        await here.until_asked(2)
        here.reactor.sweep()
        assert memory.used == 3
        sent = size + 3
        for _ in range(3):
            here.let_pass(8)
            assert len(here.reactor._connections) == 1
            await stream.send_all(sealed[sent : sent + 100])
            sent += 100
            with trio.fail_after(seconds(10)):
                while memory.used < sent - size:
                    await trio.lowlevel.checkpoint()
        here.let_pass(8)
        assert len(here.reactor._connections) == 0
        assert memory.used == 0


async def test_what_speaks_no_tls_is_told_so_in_clear(tmp_path: Path) -> None:
    files = Certificates(tmp_path / "tls")
    log: Any = KeptLog()
    credentials = Credentials(files.certificate, files.key, None, client_auth=False, log=log)
    async with site(credentials=credentials) as here, await here.connect() as stream:
        await stream.send_all(GET)
        assert b"Client sent an HTTP request to an HTTPS server" in await read_all(stream)
        assert here.reactor.connection_limit.oldest_silent is not None, "that is no word of a client's"
        await stream.aclose()
        await here.until_open(0)
        assert here.log.events == []


async def test_a_principal_is_the_name_in_the_certificate_where_there_is_one(tmp_path: Path) -> None:
    files = Certificates(tmp_path / "tls")
    log: Any = KeptLog()
    credentials = Credentials(files.certificate, files.key, files.ca, client_auth=True, log=log)
    async with site(credentials=credentials) as here, await here.connect() as plain:
        stream = trio.SSLStream(plain, files.context("http/1.1"), server_hostname="localhost")
        await stream.send_all(GET)
        await here.until_asked(1)
        (connection,) = here.reactor._connections.values()
        assert connection.principal == "operator"


async def test_who_waits_for_memory_over_tls_is_not_timed(tmp_path: Path) -> None:
    """Part of a record is here, and the rest is not read."""
    files = Certificates(tmp_path / "tls")
    log: Any = KeptLog()
    credentials = Credentials(files.certificate, files.key, None, client_auth=False, log=log)
    size = 300_000
    head = b"PUT /a HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size
    async with (
        site(Limits(stall_seconds=20, memory=Budget(2 * size)), credentials) as here,
        await here.connect() as one,
        await here.connect() as two,
    ):
        here.answer = None
        tls, outbound = await open_tls(one, files)
        tls.write(head + bytes(size))
        await one.send_all(outbound.read())
        await here.until_asked(1)
        tls, outbound = await open_tls(two, files)
        tls.write(head + bytes(size))
        await two.send_all(outbound.read(100_000))
        with trio.fail_after(seconds(10)):
            while not here.reactor.admission.waiting:
                await trio.lowlevel.checkpoint()
        (waiting,) = (each for each in here.reactor._connections.values() if each.paused)
        assert waiting._tunnel is not None
        assert waiting._tunnel.partial
        here.let_pass(100)
        assert len(here.reactor._connections) == 2
        here.exchanges[0].respond(200, b"")
        await two.send_all(outbound.read())
        await here.until_asked(2)
