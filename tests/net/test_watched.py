"""Descriptors of members in the rounds of a reactor."""

from __future__ import annotations

import select
import socket
from functools import partial

import pytest
import trio
import trio.lowlevel

from netstore.guard import unguarded
from netstore.net.watched import MEMBERS_SECONDS
from tests.support.patience import seconds
from tests.support.site import GET, asking, site


async def test_members_can_be_heard_between_rounds() -> None:
    """What waits on clients' sockets is not touched, and not forgotten although it is told of once only."""
    async with site() as here:
        (client,) = asking(here, 1)
        await here.until_asked(1)
        ours, theirs = socket.socketpair()
        heard: list[bytes] = []
        with ours, theirs, client:
            here.reactor.watched.watch(
                ours.fileno(), select.EPOLLIN, lambda _: heard.append(ours.recv(9)), unguarded
            )
            client.sendall(GET)
            theirs.send(b"alive")
            here.reactor.watched.catch_up()
            here.reactor.watched.catch_up()
            assert heard == [b"alive"]
            assert len(here.exchanges) == 1
            assert list(here.reactor.watched.aside) == list(here.reactor._connections)
            await here.until_asked(2)
            assert not here.reactor.watched.aside
            here.reactor.watched.unwatch(ours.fileno())


async def test_a_round_gets_a_part_of_what_was_set_aside() -> None:
    async with site() as here:
        watched = here.reactor.watched
        watched.aside = dict.fromkeys(range(100, 110), 1)
        assert watched.take_aside([(105, 4), (7, 1)], 3) == [(105, 5), (7, 1), (100, 1), (101, 1), (102, 1)]
        assert list(watched.aside) == [103, 104, 106, 107, 108, 109]
        assert len(watched.take_aside([], 512)) == 6
        assert watched.aside == {}


async def test_what_was_told_of_a_closed_client_is_forgotten() -> None:
    """Another one may have its descriptor by then."""
    async with site() as here:
        (client,) = asking(here, 1)
        await here.until_asked(1)
        ours, theirs = socket.socketpair()
        with ours, theirs, client:
            here.reactor.watched.watch(ours.fileno(), select.EPOLLIN, lambda _: None, unguarded)
            client.sendall(GET)
            here.reactor.watched.catch_up()
            for connection in list(here.reactor._connections.values()):
                connection.cut()
            assert not here.reactor.watched.aside
            here.reactor.watched.unwatch(ours.fileno())


async def test_members_have_their_turns_while_others_send_much() -> None:
    """Who was not heard in a round is the first in the next one."""
    async with site() as here:
        pairs = [socket.socketpair() for _ in range(4)]
        heard: list[int] = []
        rounds: list[int] = []

        def ready(place: int, _: int) -> None:
            heard.append(place)  # nothing is read: it is ready again at once, for ever
            rounds.append(here.rounds)
            here.time += MEMBERS_SECONDS * 2 / 3

        for place, (ours, theirs) in enumerate(pairs):
            theirs.send(b"x")
            here.reactor.watched.watch(ours.fileno(), select.EPOLLIN, partial(ready, place), unguarded)
        with trio.fail_after(seconds(10)):
            while len(heard) < 24:
                await trio.lowlevel.checkpoint()
        for ours, theirs in pairs:
            here.reactor.watched.unwatch(ours.fileno())
            ours.close()
            theirs.close()
        most = max(rounds.count(number) for number in rounds)
        assert most == 2
        for start in range(0, 20, 4):
            assert sorted(heard[start : start + 4]) == [0, 1, 2, 3]


def reopened(fd: int) -> tuple[socket.socket, list[socket.socket]]:
    """A socket that has this number, which is free, and others that have to be closed."""
    others: list[socket.socket] = []
    while not others or fd not in {each.fileno() for each in others}:
        others += socket.socketpair()
    return next(each for each in others if each.fileno() == fd), others


@pytest.mark.parametrize("when", ["in a round", "between two calls"])
async def test_what_was_told_of_a_descriptor_is_not_told_to_whoever_has_it_next(when: str) -> None:
    async with site() as here:
        pairs = [socket.socketpair() for _ in range(2)]
        opened: list[socket.socket] = []
        heard: list[str] = []

        def change() -> None:
            second = pairs[1][0]
            fd = second.fileno()
            here.reactor.watched.unwatch(fd)
            second.close()
            new, others = reopened(fd)
            opened.extend(others)
            here.reactor.watched.watch(fd, 0, lambda _: heard.append("the next one"), unguarded)
            assert new.fileno() == fd

        def ready(_: int) -> None:
            heard.append("one")
            for ours, _theirs in pairs:
                here.reactor.modify(ours.fileno(), 0)
            if when == "in a round":
                change()
            else:
                here.time += 2 * MEMBERS_SECONDS

        await trio.testing.wait_all_tasks_blocked()
        for _, theirs in pairs:
            theirs.send(b"x")
        here.reactor.watched.watch(pairs[0][0].fileno(), select.EPOLLIN, ready, unguarded)
        here.reactor.watched.watch(
            pairs[1][0].fileno(), select.EPOLLIN, lambda _: heard.append("two"), unguarded
        )
        if when == "in a round":
            with trio.fail_after(seconds(10)):
                while not heard:
                    await trio.lowlevel.checkpoint()
            await trio.testing.wait_all_tasks_blocked()
        else:
            assert not here.reactor.watched.catch_up()
            here.reactor.call_soon(change)
            here.reactor._round(0)
            assert here.reactor.watched.catch_up()
        assert heard == ["one"]
        for fd in list(here.reactor.watched.calls):
            here.reactor.watched.unwatch(fd)
        for ours, theirs in pairs:
            ours.close()
            theirs.close()
        for each in opened:
            each.close()


async def test_who_has_more_to_do_with_what_it_read_is_heard_too() -> None:
    async with site() as here:
        ours, theirs = socket.socketpair()
        heard: list[int] = []
        with ours, theirs:
            here.reactor.watched.watch(ours.fileno(), select.EPOLLIN, heard.append, unguarded)
            here.reactor.watched.again(ours.fileno())
            assert here.reactor.watched.catch_up()
            assert heard == [0]
            here.reactor.watched.again(ours.fileno())
            assert here.reactor._pending
            here.reactor.watched.unwatch(ours.fileno())
            assert not here.reactor._pending, "the loop would not rest any more"


async def test_members_are_heard_in_pieces_and_each_once() -> None:
    async with site() as here:
        pairs = [socket.socketpair() for _ in range(4)]
        heard: list[int] = []

        def ready(place: int, _: int) -> None:
            heard.append(place)
            here.time += MEMBERS_SECONDS * 2 / 3

        for place, (ours, theirs) in enumerate(pairs):
            theirs.send(b"x")
            here.reactor.watched.watch(ours.fileno(), select.EPOLLIN, partial(ready, place), unguarded)
        assert [here.reactor.watched.catch_up(), len(heard)] == [False, 2]
        here.reactor.watched.unwatch(pairs[heard[0]][0].fileno())
        assert [here.reactor.watched.catch_up(), len(heard)] == [True, 4]
        assert sorted(heard) == [0, 1, 2, 3]
        for ours, theirs in pairs:
            here.reactor.watched.unwatch(ours.fileno())
            ours.close()
            theirs.close()
        assert here.reactor.watched.catch_up()
