"""Accepting streams: which unverified caller is displaced, and what is limited."""

from __future__ import annotations

import errno
import socket

from netstore.peer import incoming, listener
from netstore.peer.handshake import Hello, Offer, Purpose, Verdict
from netstore.peer.wire import PING, encode_document, frame
from netstore.types import ClusterId, NodeId
from tests.support.callers import ASKING, CLUSTER, ME, MEMBER_LIST, OTHER, CalledMember, prove, told


def test_streams_past_the_deadline_of_their_stage_are_ended() -> None:
    called = CalledMember()
    silent, greeted, proved = called.call(), called.call(), called.call()
    greeted.handler.received(Hello(Purpose.MESSAGES, CLUSTER, OTHER, ME, "test", offer=Offer.TOKEN).encode())
    prove(proved, Hello(Purpose.MESSAGES, CLUSTER, OTHER, ME, "test"))
    called.now = incoming.AUTHENTICATION_SECONDS - 0.1
    proved.handler.received(PING)
    called.listener.sweep()
    assert silent.open
    assert greeted.open
    called.now = incoming.AUTHENTICATION_SECONDS + 0.1
    called.listener.sweep()
    assert (silent.open, greeted.open, proved.open) == (False, False, True)
    called.now += incoming.SILENCE_SECONDS + 0.1
    called.listener.sweep()
    assert not proved.open


def test_in_the_largest_crowd_the_silent_and_then_the_oldest_is_displaced() -> None:
    called = CalledMember()
    crowd = [called.call("10.0.0.9") for _ in range(listener.MAX_UNVERIFIED_PER_NETWORK)]
    for wire in (crowd[0], crowd[2]):
        wire.handler.received(b"nst")
    for lost in (1, 3):
        called.listener.make_room("10.0.0.9")
        assert [crowd.index(wire) for wire in crowd if not wire.open][-1] == lost
        crowd.append(called.call("10.0.0.9"))
    called.listener.make_room("10.0.0.8")
    assert len(called.listener.unverified) == listener.MAX_UNVERIFIED_PER_NETWORK, "there is room for others"
    for number in range(listener.MAX_UNVERIFIED - listener.MAX_UNVERIFIED_PER_NETWORK):
        called.listener.make_room(f"10.0.1.{number}")
        called.call(f"10.0.1.{number}")
    assert len(called.listener.unverified) == listener.MAX_UNVERIFIED
    called.listener.make_room("10.0.2.1")
    assert not crowd[4].open, "one of the largest crowd makes room for a caller from elsewhere"
    for wire in crowd:
        if wire.open:
            wire.handler.received(b"nst"[: 3 - len(wire.handler._read)] or b"p")
    called.call("10.0.2.1")
    called.listener.make_room("10.0.2.2")
    assert not crowd[0].open, "if all are at the same stage the oldest is displaced"


def test_an_authenticated_stream_is_never_displaced() -> None:
    called = CalledMember()
    member = called.call("10.0.0.9")
    prove(member, Hello(Purpose.MESSAGES, CLUSTER, OTHER, ME, "test"))
    for _ in range(3 * listener.MAX_UNVERIFIED):
        called.listener.make_room("10.0.0.9")
        called.call("10.0.0.9")
    assert member.open
    assert len(called.listener.unverified) == listener.MAX_UNVERIFIED_PER_NETWORK


def test_without_a_crowd_the_caller_that_got_least_far_is_displaced() -> None:
    """Streams from a different IPv6 network each displace no caller that got further."""
    called = CalledMember()
    greeted, asking = called.call("2001:db8:0:1::1"), called.call("2001:db8:0:1::2")
    greeted.handler.received(Hello(Purpose.MESSAGES, CLUSTER, OTHER, ME, "test", offer=Offer.TOKEN).encode())
    asking.handler.received(b"nst")
    for number in range(3 * listener.MAX_UNVERIFIED):
        address = f"2001:db8:1:{number:x}::1"
        called.listener.make_room(address)
        wire = called.call(address)
    assert (greeted.open, asking.open) == (True, True)
    assert len(called.listener.unverified) == listener.MAX_UNVERIFIED
    for number in range(2 * listener.MAX_UNVERIFIED):
        address = f"2001:db8:2:{number:x}::1"
        called.listener.make_room(address)
        wire = called.call(address)
        wire.handler.received(b"nst")
    assert (greeted.open, asking.open) == (True, False), (
        "the oldest of those at the lowest stage is displaced"
    )


def test_ipv6_addresses_of_one_network_count_together() -> None:
    called = CalledMember()
    for number in range(2 * listener.MAX_UNVERIFIED):
        called.listener.make_room(f"2001:db8::{number:x}")
        called.call(f"2001:db8::{number:x}")
    assert len(called.listener.unverified) == listener.MAX_UNVERIFIED_PER_NETWORK


def test_member_list_streams_are_limited() -> None:
    called = CalledMember()
    asking = Hello(Purpose.MEMBER_LIST, ClusterId(0), NodeId(0), NodeId(0), "test")
    wires = [called.call() for _ in range(listener.MAX_MEMBER_LIST_STREAMS)]
    for wire in wires:
        prove(wire, asking)
    late = called.call()
    prove(late, asking)
    assert all(wire.open for wire in wires)
    assert (late.open, late.reason) == (False, "refused")


def test_answers_to_unverified_callers_are_limited_in_rate_and_number() -> None:
    called = CalledMember()
    data = ASKING.encode() + frame(encode_document(None))
    owed = [called.call() for _ in range(listener.MAX_MEMBER_LIST_STREAMS)]
    for wire in owed:
        wire.handler.received(ASKING.encode())
        wire.unsent = 1
        wire.handler.received(frame(encode_document(None)))
        assert wire.open
    late = called.call()
    late.handler.received(data)
    assert (told(late)[0].verdict, late.open) == (Verdict.BUSY, False)
    for wire in owed:
        wire.cut("over")
    for _ in range(listener.ANSWERS_BURST - listener.MAX_MEMBER_LIST_STREAMS):
        wire = called.call()
        wire.handler.received(data)
        assert told(wire)[0].verdict == Verdict.ACCEPTED
    late = called.call()
    late.handler.received(data)
    assert told(late)[0].verdict == Verdict.BUSY
    called.now += 1.0
    again = called.call()
    again.handler.received(data)
    assert told(again)[1] == MEMBER_LIST


def test_a_listening_socket_that_cannot_be_watched_is_tried_again() -> None:
    """`sweep` runs in the task of all streams: an exception would end the member."""
    called = CalledMember()
    faults = [OSError(errno.ENOSPC, "No space left on device")] * 2
    watched: list[int] = []

    class Kernel:
        def __init__(self) -> None:
            self.watched = self

        def watch(self, fd: int, *_: object) -> None:
            if faults:
                raise faults.pop()
            watched.append(fd)

    called.reactor = Kernel()
    with socket.socket() as sock:
        called.listener._sockets[sock] = lambda _: None
        called.listener._not_watched.append(sock)
        for left in (1, 0):
            called.listener.sweep()
            assert (len(faults), called.listener._not_watched) == (left, [sock])
        assert called.lines
        called.listener.sweep()
        assert (watched, called.listener._not_watched) == ([sock.fileno()], [])
