"""A link over real sockets: order, queueing, pausing, its end, with and without TLS."""

from __future__ import annotations

import errno
import os
import select
import socket
import ssl
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING
from weakref import ref

import pytest
import trustme

from netstore.peer.link import ENCODED_PER_TURN, Link
from netstore.peer.records import RECORDS_PER_TURN, RecordLayer
from tests.support.links import Recorder, eventually, running_reactor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from netstore.net.reactor import Reactor

LARGE = os.urandom(3 << 20)


def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    ca = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost").configure_cert(server)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ca.configure_trust(client)
    return client, server


@contextmanager
def linked(reactor: Reactor, *, tls: bool = False) -> Iterator[tuple[Recorder, Recorder]]:
    """Two connected links with handlers that record their calls."""
    left, right = socket.socketpair()
    client, server = contexts() if tls else (None, None)
    caller, called = Recorder(), Recorder()
    caller.link = Link(reactor, left, caller, client, "localhost")
    called.link = Link(reactor, right, called, server)
    caller.link.start()
    called.link.start()
    yield caller, called
    caller.link.cut("over")
    called.link.cut("over")


async def has_arrived(handler: Recorder, size: int) -> None:
    await eventually(lambda: len(handler.got) >= size, "all has arrived")


@pytest.mark.parametrize("tls", [False, True])
async def test_bytes_arrive_complete_and_in_order_in_both_directions(tls: bool) -> None:
    async with running_reactor() as reactor:
        with linked(reactor, tls=tls) as (caller, called):
            await eventually(lambda: caller.is_open and called.is_open, "both may write")
            for sender, receiver in ((caller, called), (called, caller)):
                for start in range(0, len(LARGE), 100_000):
                    sender.link.write(LARGE[start : start + 100_000])
                assert sender.link.unsent > 0, "the kernel cannot take all of it at once"
                await has_arrived(receiver, len(LARGE))
                assert receiver.got == LARGE
                assert (sender.link.unsent, sender.flushes > 0) == (0, True)
                assert sender.link.taken > 0


async def test_a_small_write_is_sent_at_once() -> None:
    async with running_reactor() as reactor:
        left, right = socket.socketpair()
        handler = Recorder()
        handler.link = Link(reactor, left, handler)
        handler.link.start()
        handler.link.write(b"now")
        assert right.recv(9) == b"now"
        assert (handler.link.unsent, handler.flushes) == (0, 0)
        handler.link.cut("over")
        right.close()


async def test_a_paused_link_reads_nothing_and_the_sender_queues() -> None:
    async with running_reactor() as reactor:
        with linked(reactor) as (caller, called):
            called.link.pause()
            caller.link.write(LARGE)
            caller.link.write(b"more")
            held = caller.link.unsent
            assert held > 0
            assert called.got == b""
            called.link.resume()
            await eventually(lambda: len(called.got) == len(LARGE) + 4, "all has arrived")
            assert called.got == LARGE + b"more"


async def test_the_end_is_reported_once_with_its_reason() -> None:
    async with running_reactor() as reactor:
        with linked(reactor) as (caller, called):
            caller.link.cut("had enough")
            caller.link.cut("again")
            caller.link.write(b"lost")
            await eventually(lambda: called.reasons, "the other side is told")
            assert (caller.reasons, called.reasons) == (["had enough"], ["closed by the other side"])
            assert not caller.link.open
            assert not called.link.open


async def test_an_ended_link_does_not_refer_to_its_handler() -> None:
    """Their reference cycle would never be collected (`netstore.collector`)."""

    class Porter(Recorder):
        def is_here(self) -> bool:
            return True

    async with running_reactor() as reactor:
        left, right = socket.socketpair()
        handler = Porter()
        handler.link = Link(reactor, left, handler, gate=handler.is_here)
        handler.link.start()
        kept = ref(handler)
        handler.link.cut("over")
        del handler
        assert kept() is None
        right.close()


async def test_a_reset_is_reported_by_its_name() -> None:
    async with running_reactor() as reactor:
        listener = socket.create_server(("127.0.0.1", 0))
        stranger = socket.create_connection(listener.getsockname())
        sock, _ = listener.accept()
        handler = Recorder()
        handler.link = Link(reactor, sock, handler)
        handler.link.start()
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        stranger.close()
        await eventually(lambda: handler.reasons, "the end is told")
        assert handler.reasons == ["Connection reset by peer"]
        listener.close()


async def test_bytes_that_are_not_tls_end_a_tls_link() -> None:
    async with running_reactor() as reactor:
        left, right = socket.socketpair()
        handler = Recorder()
        handler.link = Link(reactor, left, handler, contexts()[1])
        handler.link.start()
        right.send(b"GET / HTTP/1.1\r\n\r\n")
        await eventually(lambda: handler.reasons, "the end is told")
        assert handler.reasons[0].startswith("TLS: ")
        assert not handler.is_open
        right.close()


async def test_a_wrong_server_name_is_reported_at_both_ends() -> None:
    async with running_reactor() as reactor:
        left, right = socket.socketpair()
        client, server = contexts()
        caller, called = Recorder(), Recorder()
        caller.link = Link(reactor, left, caller, client, "elsewhere")
        called.link = Link(reactor, right, called, server)
        called.link.start()
        caller.link.start()
        await eventually(lambda: caller.reasons and called.reasons, "both are over")
        assert "certificate refused: " in caller.reasons[0]
        assert "alert" in called.reasons[0] or "closed" in called.reasons[0]


async def test_an_exception_of_a_handler_ends_its_link_only() -> None:
    class Faulty(Recorder):
        def received(self, data: bytes) -> None:
            raise OverflowError("a number too large")

    async with running_reactor() as reactor:
        left, right = socket.socketpair()
        handler = Faulty()
        handler.link = Link(reactor, left, handler)
        handler.link.start()
        right.send(b"x")
        await eventually(lambda: handler.reasons, "the link is over")
        assert "OverflowError" in handler.reasons[0]
        right.close()
        with linked(reactor) as (caller, called):
            caller.link.write(b"still here")
            await has_arrived(called, 10)


class Unwatching:
    """A reactor whose epoll calls fail: changing what is watched, or all."""

    def __init__(self, *, watches: bool) -> None:
        self.watches = watches
        self.watched = self

    def watch(self, *_: object) -> None:
        if not self.watches:
            raise OSError(errno.ENOSPC, "No space left on device")

    def modify(self, *_: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    def unwatch(self, _: int) -> None:
        """Nothing is watched."""


@pytest.mark.parametrize("watches", [True, False])
def test_a_failed_epoll_call_ends_its_link_only(watches: bool) -> None:
    left, right = socket.socketpair()
    handler = Recorder()
    handler.link = Link(Unwatching(watches=watches), left, handler)  # type: ignore[arg-type]
    handler.link.start()
    assert handler.link.open == watches
    handler.link.pause()
    assert not handler.link.open
    assert handler.is_open == watches, "a link that is not watched is not opened"
    right.close()


class Watching:
    """A reactor without rounds."""

    def __init__(self) -> None:
        self.watched = self
        self.mask = 0
        self.wanted = 0
        """How often another round was asked for."""

    def watch(self, _fd: int, mask: int, *_: object) -> None:
        self.mask = mask

    def modify(self, _: int, mask: int) -> None:
        self.mask = mask

    def again(self, _: int) -> None:
        self.wanted += 1

    def unwatch(self, _: int) -> None:
        self.mask = 0


class CountingRecords(RecordLayer):
    """Counts the bytes that it encodes."""

    def __init__(self) -> None:
        super().__init__(b"from here", b"to here")
        self.made = 0

    def encode(self, data: bytes) -> bytes:
        self.made += len(data)
        return super().encode(data)


def test_a_large_write_is_encoded_as_the_kernel_accepts_it() -> None:
    left, right = socket.socketpair()
    right.setblocking(False)
    reactor, handler, records = Watching(), Recorder(), CountingRecords()
    handler.link = Link(reactor, left, handler)  # type: ignore[arg-type]
    handler.link.start()
    handler.link.write(b"before")
    handler.link.use_records(records)
    handler.link.write(b"short")
    assert (records.made, handler.link.unsent) == (5, 0)
    handler.link.write(LARGE)
    assert records.made <= 5 + ENCODED_PER_TURN
    assert handler.link.unsent > len(LARGE) - 2 * ENCODED_PER_TURN, "what is not encoded yet counts as unsent"
    handler.link.write(b"after")
    came = b""
    while reactor.mask & select.EPOLLOUT:
        made = records.made
        came += right.recv(1 << 20)
        handler.link._ready(select.EPOLLOUT)
        assert records.made <= made + ENCODED_PER_TURN
    with suppress(BlockingIOError):
        while True:
            came += right.recv(1 << 20)
    assert (handler.link.unsent, handler.flushes) == (0, 1)
    assert came.startswith(b"before")
    assert RecordLayer(b"to here", b"from here").decode(came[6:]) == b"short" + LARGE + b"after"
    handler.link.cut("over")
    right.close()


def test_the_rest_of_a_write_keeps_no_more_than_twice_its_size_in_memory() -> None:
    """The bytes that others count are those unsent, not those of the objects they are part of."""
    left, right = socket.socketpair()
    reactor, handler = Watching(), Recorder()
    handler.link = Link(reactor, left, handler)  # type: ignore[arg-type]
    handler.link.start()
    handler.link.write(LARGE)
    while handler.link.unsent > len(LARGE) // 4:
        right.recv(1 << 16)
        handler.link._ready(select.EPOLLOUT)
    (rest,) = handler.link._encoded
    assert len(rest.obj if isinstance(rest, memoryview) else rest) <= 2 * handler.link.unsent  # type: ignore[arg-type]
    handler.link.cut("over")
    right.close()


def test_many_short_records_are_decoded_over_several_rounds_before_more_is_read() -> None:
    left, right = socket.socketpair()
    reactor, handler = Watching(), Recorder()
    handler.link = Link(reactor, left, handler)  # type: ignore[arg-type]
    handler.link.start()
    handler.link.use_records(RecordLayer(b"here", b"there"))
    there = RecordLayer(b"there", b"here")
    right.send(b"".join(there.encode(b"x") for _ in range(2 * RECORDS_PER_TURN + 1)))
    handler.link._ready(select.EPOLLIN)
    assert (len(handler.got), reactor.wanted) == (RECORDS_PER_TURN, 1)
    right.send(there.encode(b"y"))
    handler.link._ready(select.EPOLLIN)
    assert (handler.got, reactor.wanted) == (b"x" * 2 * RECORDS_PER_TURN, 2)
    handler.link.pause()
    handler.link._ready(0)
    assert len(handler.got) == 2 * RECORDS_PER_TURN, "a paused link passes nothing on"
    handler.link.resume()
    assert reactor.wanted == 3
    handler.link._ready(select.EPOLLIN)
    assert (len(handler.got), reactor.wanted) == (2 * RECORDS_PER_TURN + 1, 3)
    handler.link._ready(select.EPOLLIN)
    assert handler.got.endswith(b"xy")
    right.send(b"".join(there.encode(b"x") for _ in range(RECORDS_PER_TURN + 1)))
    handler.link._ready(select.EPOLLIN)
    handler.link.pause()
    right.close()
    handler.link._ready(select.EPOLLHUP)
    assert handler.reasons == ["closed by the other side"]


def test_a_paused_link_is_not_read_on_an_event() -> None:
    left, right = socket.socketpair()
    handler = Recorder()
    handler.link = Link(Watching(), left, handler)  # type: ignore[arg-type]
    handler.link.start()
    right.send(b"x")
    handler.link.pause()
    handler.link._ready(select.EPOLLIN)
    assert handler.got == b""
    handler.link.resume()
    handler.link._ready(select.EPOLLIN)
    assert handler.got == b"x"
    handler.link.cut("over")
    right.close()


def test_a_deferred_call_is_dropped_when_the_link_ends() -> None:
    left, right = socket.socketpair()
    handler = Recorder()
    handler.link = Link(Watching(), left, handler)  # type: ignore[arg-type]
    handler.link.start()
    done: list[str] = []
    handler.link.later(lambda: done.append("late"))
    handler.link.cut("over")
    handler.link._ready(0)
    assert not done
    right.close()


async def test_a_descriptor_that_cannot_be_watched_is_forgotten(tmp_path: Path) -> None:
    async with running_reactor() as reactor:
        with (tmp_path / "plain").open("w") as file:  # epoll watches no plain files
            with pytest.raises(OSError, match="not permitted"):
                reactor.watched.watch(file.fileno(), 1, lambda _: None, lambda _: None)
            reactor.watched.unwatch(file.fileno())


async def test_a_deferred_call_comes_before_more_is_read() -> None:
    async with running_reactor() as reactor:
        with linked(reactor) as (caller, called):
            order: list[int] = []

            def go_on() -> None:
                order.append(len(called.got))
                if len(order) < 3:
                    called.link.later(go_on)

            called.link.later(go_on)
            caller.link.write(b"more")
            await has_arrived(called, 4)
            assert order == [0, 0, 0]
            order.clear()
            called.link.later(go_on)
            await eventually(lambda: len(order) == 3, "also if nothing more is received")
            called.link.later(go_on)
            called.link.cut("over")
            called.link.later(go_on)
            caller.link.write(b"x")
            await eventually(lambda: caller.reasons, "it is over")
            assert len(order) == 3


async def test_an_exception_of_a_deferred_call_ends_the_link() -> None:
    async with running_reactor() as reactor:
        with linked(reactor) as (_, called):

            def fail() -> None:
                raise ValueError("no sense")

            called.link.later(fail)
            await eventually(lambda: called.reasons, "it is over")
            assert "no sense" in called.reasons[0]
