"""A mirror of a v2 tree is equal to its source at the end, whatever happened on the way; real stores on both
sides.
"""

from __future__ import annotations

import random
import re
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio

from netstore.client import mirror, mirror_v2, mirror_v2_nodes, mirror_v2_proof
from netstore.client.endpoints import Endpoints
from netstore.client.faults import TooLong, Unreachable
from netstore.client.mirror import NotMirrored, Proof, TakenOver
from netstore.client.mirror_v2 import Mirror
from netstore.client.mirror_v2_nodes import Scope
from netstore.client.transport import Transport
from netstore.client.v2 import INDEX_CLEARED, KEY_NOT_FOUND, Poll, V2Client, V2Error
from tests.client.test_mirror_v3 import Log, compare, counted, shows_last
from tests.support.cluster import put
from tests.support.daemon import start_netstored
from tests.support.patience import Deadline, seconds
from tests.support.peers import start_etcd

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from netstore.client.v2 import Answer, Node
    from tests.support.daemon import Daemon
    from tests.support.twins import Twins

ALL = Scope("/", "/", "/_mirrored")
LIMIT = 30.0
STRANGE = ("%FF", "%FE")
"""Names that are not UTF-8, as in a URL: both are told as U+FFFD."""
STARTS: dict[str, Callable[[Path], Daemon]] = {"etcd": start_etcd, "netstored": start_netstored}


@pytest.fixture(autouse=True)
def _soon_sure(monkeypatch: pytest.MonkeyPatch) -> None:
    """An event of the past that does not come is waited for shortly."""
    monkeypatch.setattr(mirror_v2_proof, "SURE_SECONDS", 1.0)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("etcd netstored", marks=[pytest.mark.peer("etcd"), pytest.mark.slow]),
        pytest.param("netstored etcd", marks=[pytest.mark.peer("etcd"), pytest.mark.slow]),
        "netstored netstored",
    ],
)
def stores(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Daemon, Daemon]]:
    """A source and a target."""
    one, other = (STARTS[word] for word in request.param.split())
    folders = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("other")
    with one(folders[0]) as source, other(folders[1]) as target:
        yield source, target


async def _delete(client: V2Client, key: str) -> None:
    """The key has gone afterwards: it may expire before its deletion comes, or have never been."""
    try:
        await client.delete(key, recursive=True)
    except V2Error as refused:
        if refused.code != KEY_NOT_FOUND:
            raise


class Writer(V2Client):
    """For the tests, which make connections as they like. A mirror counts those of the other one."""

    reader: V2Client


@asynccontextmanager
async def clients(stores: tuple[Daemon, Daemon]) -> AsyncIterator[tuple[Writer, V2Client]]:
    """Clients of both, of stores that have no key."""
    async with open_clients(*stores) as (one, other):
        for client in (one, other):
            for node in (await client.get("/", quorum=True)).node.nodes:
                for name in STRANGE if "\ufffd" in node.key else ():
                    await remove_strange(client, f"/{name}")
                await _delete(client, node.key)
            for key in ("/_mirrored", "/_hidden", "/_in"):
                await _delete(client, key)
        yield one, other


async def content(client: V2Client, folder: str = "/") -> dict[str, tuple[str | None, bool]]:
    """Value of each node, None for a folder, and whether it has a TTL."""
    found: dict[str, tuple[str | None, bool]] = {}
    waiting = [(await client.get(folder, recursive=True, quorum=True)).node]
    while waiting:
        node = waiting.pop()
        waiting += node.nodes
        found[node.key.rstrip("/")[len(folder.rstrip("/")) :]] = (node.value, node.expiration is not None)
    return found


def run(work: Callable[[], Any]) -> None:
    async def limited() -> None:
        with trio.fail_after(seconds(3 * LIMIT)):
            await work()

    trio.run(limited)


def mirrored(one: V2Client, other: V2Client, log: Log, scope: Scope = ALL, **more: Any) -> Mirror:
    more.setdefault("notice", log.trouble)
    source = one.reader if isinstance(one, Writer) else one
    return Mirror(source, other, scope, log, log.trouble, **more)


@asynccontextmanager
async def followed(
    one: V2Client, other: V2Client, scope: Scope = ALL, *, log: Log | None = None, **more: Any
) -> AsyncIterator[Log]:
    """A mirror follows meanwhile; what it tells."""
    log = log or Log()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mirrored(one, other, log, scope, **more).follow)
        yield log
        nursery.cancel_scope.cancel()


async def ttl_of(client: V2Client, key: str) -> int | None:
    return (await client.get(key, quorum=True)).node.ttl


def test_it_copies_once(stores: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror_v2_nodes, "TTL_SLACK", 60)  # what a busy machine takes between two reads

    async def work() -> None:
        async with clients(stores) as (one, other):
            for number in range(30):
                await one.set(f"/d{number % 3}/e{number % 5}/k{number}", f"v{number}")
            await one.mkdir("/empty")
            await one.mkdir("/short", ttl=500)
            await one.set("/short/below", "")
            await one.set("/a b%/ü&?#", "1 & ü\n", ttl=1000)
            await one.set("/_hidden/secret", "s")
            log = Log()
            await mirrored(one, other, log).copy()
            assert await content(other) == await content(one)
            assert log.troubles == []
            assert 900 < (await ttl_of(other, "/a b%/ü&?#") or 0) <= 1000
            assert 400 < (await ttl_of(other, "/short") or 0) <= 500
            with pytest.raises(V2Error, match="100"):
                await other.get("/_hidden")
            await mirrored(one, other, log).copy()
            assert log.told[-1].written == log.told[-1].deleted == 0, "nothing differs"
            await one.set("/d0/e0/k0", "new")
            await one.delete("/d1", recursive=True)
            await one.delete("/empty", dir=True)
            await one.set("/empty", "a file now")
            await one.update_folder("/short")
            await mirrored(one, other, log).copy()
            assert await content(other) == await content(one)
            assert (log.told[-1].written, log.told[-1].deleted) == (3, 2)

    run(work)


async def change(client: V2Client, chance: random.Random) -> int:
    """Do something to a small tree; the index of the store then, as far as it is known."""
    key = "".join(f"/{chance.choice('abc')}" for _ in range(chance.randrange(1, 5)))
    key = f"/_h{key}" if chance.random() < 0.1 else key
    ttl = chance.choice((None, None, 1, 300))
    value = str(chance.randrange(9))
    try:
        match chance.randrange(9):
            case 0:
                answer = await client.delete(key, recursive=True)
            case 1:
                answer = await client.mkdir(key, ttl=ttl)
            case 2:
                answer = await client.create_in_order(key, value, ttl=ttl)
            case 3:
                answer = await client.update_folder(key, ttl=ttl)
            case 4:
                answer = await client.compare_and_swap(key, "swapped", prev_value=value)
            case 5:
                answer = await client.compare_and_delete(key, prev_value=value)
            case 6 if (
                await client.get(key)
            ).node.expiration is not None:  # else it gets one without an event
                answer = await client.refresh(key, 300)
            case _:
                answer = await client.set(key, value, ttl=ttl)
    except V2Error:
        return 0
    return answer.etcd_index


def test_it_follows_and_goes_on_where_it_was(stores: tuple[Daemon, Daemon]) -> None:
    chance = random.Random(3)  # noqa: S311 - repeatable

    async def work() -> None:
        async with clients(stores) as (one, other):
            await one.set("/before", "1")
            for _ in range(3):
                async with followed(one, other) as log:
                    for _ in range(60):
                        await change(one, chance)
                    index = (await one.set("/last", "x")).etcd_index
                    await log.reached(index)
                    await until_equal(one, other)
                for _ in range(20):
                    await change(one, chance)

    run(work)


async def until_equal(one: V2Client, other: V2Client) -> None:
    """Wait for nodes whose TTL ends at about the same time in both."""
    deadline = Deadline(5.0)
    while (found := await content(other)) != (wanted := await content(one)):
        assert not deadline.passed(), (
            sorted(found.items() - wanted.items()),
            sorted(wanted.items() - found.items()),
        )
        await trio.sleep(0.1)  # fixed: between two looks


def test_a_node_with_a_ttl_that_was_changed_in_place_is_shown_by_its_creation(
    stores: tuple[Daemon, Daemon],
) -> None:
    async def work() -> None:
        async with clients(stores) as (one, other):
            await one.set("/before", "1")
            index = (await one.set("/timed", "1", ttl=900)).etcd_index
            await mirrored(one, other, Log()).copy()
            await one.compare_and_swap("/timed", "2", prev_index=index, ttl=900)
            await mirrored(one, other, Log()).copy()
            assert (await other.get("/timed")).node.value == "2"

    run(work)


def test_a_folder_that_was_made_for_a_key_below_it_is_shown_by_the_event_of_that(
    stores: tuple[Daemon, Daemon],
) -> None:
    async def work() -> None:
        async with clients(stores) as (one, other):
            await one.set("/before", "1")
            await one.set("/folder/below/key", "1")
            await one.delete("/folder/below/key")
            await mirrored(one, other, Log()).copy()
            await one.delete("/folder", recursive=True)
            await mirrored(one, other, Log()).copy()
            assert await content(other) == await content(one)

    run(work)


def test_of_a_refreshed_file_and_the_folder_that_was_made_for_it_the_file_is_the_witness(
    stores: tuple[Daemon, Daemon],
) -> None:
    async def work() -> None:
        async with clients(stores) as (one, other):
            await one.set("/svc/a", "1", ttl=900)
            await one.refresh("/svc/a", 800)
            first = mirrored(one, other, Log())
            await first.copy()
            assert first._witness is not None
            assert bytes.fromhex(first._witness.key) == b"/svc/a"
            await one.delete("/svc", recursive=True)
            await one.set("/svc/a", "1", ttl=900)
            await mirrored(one, other, Log()).copy()
            assert await content(other) == await content(one)

    run(work)


def test_a_folder_is_not_shown_by_the_change_of_a_key_that_was_there_before(
    stores: tuple[Daemon, Daemon],
) -> None:
    async def work() -> None:
        async with clients(stores) as (one, other):
            created = (await one.set("/folder/key", "1")).node.created_index
            changed = await one.compare_and_swap("/folder/key", "2", prev_value="1")
            await one.delete("/folder", recursive=True)
            asked = mirrored(one, other, Log())
            await asked._begin()
            for index, is_shown in ((created, True), (changed.node.modified_index, False)):
                asked._witness = mirror.Witness(b"/folder".hex(), index, index, quiet=True)
                assert await shows_last(asked) == is_shown

    run(work)


class Stalled(V2Client):
    """A source of which a member that lags behind answers the first poll for an event of the past, or that
    poll is cut off.
    """

    is_cut = False
    polls = 0

    @asynccontextmanager
    async def poll(
        self, key: str, *, index: int | None = None, recursive: bool = False
    ) -> AsyncIterator[Poll]:
        self.polls += 1
        async with super().poll(key, index=index, recursive=recursive) as poll:
            if self.polls == 1:

                async def nothing(limit: float = 1.0) -> None:
                    poll.timed_out = not self.is_cut

                poll.etcd_index = 0
                poll.event = nothing  # type: ignore[method-assign] # of this poll only
            yield poll


@pytest.mark.parametrize("is_cut", [True, False], ids=["cut", "behind"])
def test_an_event_of_the_past_that_does_not_come_is_asked_for_again(
    stores: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch, *, is_cut: bool
) -> None:
    avoided: list[str] = []
    monkeypatch.setattr(Endpoints, "avoid", lambda _, endpoint: avoided.append(endpoint))

    async def work() -> None:
        async with clients(stores) as (one, other):
            await one.set("/f/k", "1")
            await mirrored(one, other, Log()).copy()
            index = (await one.set("/f/k", "2")).etcd_index
            log, source = Log(), Stalled(one.reader.transport)
            source.is_cut = is_cut
            async with followed(source, other, log=log):
                await log.reached(index)
            assert source.polls > 2
            assert avoided == list(one.reader.transport.endpoints.order())
            assert await content(other) == await content(one)

    run(work)


def test_a_witness_of_which_there_is_no_event_leads_to_the_standby(stores: tuple[Daemon, Daemon]) -> None:
    async def work() -> None:
        async with clients(stores) as (one, other):
            index = (await one.set("/a", "1")).etcd_index
            await mirrored(one, other, Log()).copy()
            asked = mirrored(one, other, Log())
            await asked._begin()
            asked._witness = mirror.Witness(b"/gone".hex(), index, index)
            proof = await asked._prove()
            assert asked._is_behind
            await asked._compare(proof)
            asked._witness, asked._standby = mirror.Witness(b"/gone".hex(), index, index), None
            with pytest.raises(NotMirrored, match="does not show the last change"):
                await asked._prove()

    run(work)


async def refresh_plainly(client: V2Client, key: str) -> int:
    """Without prevExist: the node gets another index of its creation, and there is no event."""
    return (await client._event("PUT", key, {"refresh": "true"}, {"ttl": "900"})).etcd_index


def test_a_file_that_is_created_again_by_each_refresh_is_not_the_witness(
    stores: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_v2, "POLL_SECONDS", 0.2)

    async def work() -> None:
        async with clients(stores) as (one, other):
            await one.set("/f/a", "1")
            await one.set("/f/timed", "1", ttl=900)
            for _ in range(2):
                await refresh_plainly(one, "/f/timed")
                await mirrored(one, other, Log()).copy()
            async with followed(one, other) as log:
                await log.reached(await refresh_plainly(one, "/f/timed"))
                await refresh_plainly(one, "/f/timed")
                one.reader.transport.connections += 1
                await log.reached((await one.set("/f/b", "1")).etcd_index)
            assert await content(other) == await content(one)

    run(work)


def test_nodes_are_looked_at_while_an_event_of_the_past_is_waited_for(
    stores: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_v2, "_next_look", lambda now, _: now + 0.2)

    async def work() -> None:
        async with clients(stores) as (one, other):
            await one.mkdir("/folder", ttl=900)
            await one.set("/folder/key", "1")
            await one.set("/timed", "1", ttl=900)
            await refresh_plainly(one, "/timed")
            log = Log()
            copying = mirrored(one, other, log)
            shows_created, asked = copying._past.shows_created, list[bool]()

            async def late(witness: mirror.Witness) -> bool:
                asked.append(True)
                if len(asked) == 1:
                    await _delete(other, "/folder")  # as if it was waited for so long
                return await shows_created(witness)

            monkeypatch.setattr(copying._past, "shows_created", late)
            await copying.copy()
            assert asked
            assert [text for text in log.troubles if "/folder: this folder with a TTL has ended" in text]
            assert await content(other) == await content(one)

    run(work)


def test_a_source_is_not_refused_by_what_two_connections_have_said(
    stores: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        async with clients(stores) as (one, other):
            await one.set("/a", "1")
            await mirrored(one, other, Log()).copy()
            asked = mirrored(one, other, Log())
            await asked._begin()

            async def is_proven(_: mirror.Witness) -> bool:
                one.reader.transport.connections += 1
                return False

            monkeypatch.setattr(asked, "_is_proven", is_proven)
            with pytest.raises(mirror.Reconnected):
                await asked._prove()

    run(work)


def test_a_run_that_is_killed_after_its_first_write_is_gone_on_with(
    stores: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        async with clients(stores) as (one, other):
            scope = Scope("/mine", "/mine", "/_mirrored")
            killed = mirrored(one, other, Log(), scope)
            await killed._begin()
            await compare(killed)
            event = await one.set("/mine/a", "1")
            killed._source.saw(event.etcd_index)
            write = killed._target._write

            async def write_and_end(*more: Any, **others: Any) -> None:
                await write(*more, **others)
                raise KeyboardInterrupt

            monkeypatch.setattr(killed._target, "_write", write_and_end)
            with pytest.raises(KeyboardInterrupt):
                await killed._carry_out(Proof(killed._breaks), event, is_past=False)
            assert await content(other) == await content(one)
            await one.set("/mine/b", "1")
            await mirrored(one, other, Log(), scope).copy()
            assert await content(other) == await content(one)

    run(work)


class Long(V2Client):
    """A store with a folder whose listing is not read to its end."""

    async def get(
        self, key: str, *, recursive: bool = False, sort: bool = False, quorum: bool = False
    ) -> Answer:
        if key == "/deep/big":
            raise TooLong("http://a", 1, status=200, outcome_known=True)
        return await super().get(key, recursive=recursive, sort=sort, quorum=quorum)


def test_a_folder_whose_listing_is_too_long_is_named(stores: tuple[Daemon, Daemon]) -> None:
    async def work() -> None:
        async with clients(stores) as (one, other):
            await one.set("/deep/big/7", "1")
            source = Long(one.reader.transport)
            with pytest.raises(NotMirrored, match=r"^/deep/big: the keys of this folder of SOURCE.*--checkp"):
                await mirrored(source, other, Log()).copy()
            scope = Scope("/deep/big/7", "/deep/big/7", "/_in/7")
            await mirrored(source, other, Log(), scope).copy()
            assert (await other.get("/deep/big/7")).node.value == "1"

    run(work)


def test_a_name_that_is_not_utf_8_in_a_folder_too_long_to_be_listed_is_followed(
    stores: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_v2, "POLL_SECONDS", 0.2)

    async def work() -> None:
        async with clients(stores) as (one, other):
            await one.set("/a", "1")
            source = Long(one.reader.transport)
            calls = counted(monkeypatch, Mirror, "_ask")
            async with followed(source, other) as log:
                await log.reached(1)  # all was compared
                await log.reached(await strange(one, "/deep/big/%FF"))
                asked, deadline = len(calls), Deadline(LIMIT)
                while len(calls) < asked + 3:
                    assert not deadline.passed()
                    await trio.sleep(0.1)  # fixed: between two looks
                await log.reached((await one.set("/a", "2")).etcd_index)
            assert (await other.get("/deep/big/\ufffd")).node.value == "1"

    run(work)


@pytest.mark.parametrize("quiet", [False, True])
def test_a_forgotten_change_in_a_folder_too_long_to_be_listed_is_not_shown(
    stores: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch, *, quiet: bool
) -> None:
    async def work() -> None:
        async with clients(stores) as (one, other):
            index = await strange(one, "/deep/big/%FF")
            asked = mirrored(Long(one.reader.transport), other, Log())
            await asked._begin()

            async def forgotten(_: mirror.Witness) -> None:
                raise V2Error(INDEX_CLEARED, "forgotten")

            monkeypatch.setattr(asked._past, "_event", forgotten)
            asked._witness = mirror.Witness("/deep/big/\ufffd".encode().hex(), index, index, quiet=quiet)
            assert not await shows_last(asked)

    run(work)


def test_a_folder_of_the_target_that_is_too_long_to_be_listed_can_be_deleted(
    stores: tuple[Daemon, Daemon],
) -> None:
    async def work() -> None:
        async with clients(stores) as (one, other):
            await one.set("/deep/big/a", "1")
            await one.set("/a", "1")
            await mirrored(one, other, Log()).copy()
            target = Long(other.transport)
            await one.delete("/deep", recursive=True)
            following = mirrored(one, target, Log())
            await following._begin()
            await following._carry_out(Proof(following._breaks), await one.mkdir("/deep/big"), is_past=False)
            await following._remove(Proof(following._breaks), "/deep/big")
            assert await content(other) == {"": (None, False), "/deep": (None, False), "/a": ("1", False)}

    run(work)


def test_hidden_nodes_of_the_folder_of_the_target_stay(stores: tuple[Daemon, Daemon]) -> None:
    async def work() -> None:
        async with clients(stores) as (one, other):
            await other.set("/y/_kept", "1")
            scope = Scope("/x", "/y", "/_mirrored")
            await mirrored(one, other, Log(), scope).copy()
            await one.set("/x/a/b", "1")
            await mirrored(one, other, Log(), scope).copy()
            assert await content(other, "/y") == await content(one, "/x")
            await one.delete("/x", recursive=True)
            await mirrored(one, other, Log(), scope).copy()
            assert set(await content(other, "/y")) == {""}
            await one.set("/x", "1")
            with pytest.raises(NotMirrored, match="/y: is a folder of TARGET with hidden nodes"):
                await mirrored(one, other, Log(), scope).copy()
            assert (await other.get("/y/_kept")).node.value == "1"

    run(work)


def test_a_run_that_is_killed_at_the_first_event_of_an_empty_folder_is_gone_on_with(
    stores: tuple[Daemon, Daemon],
) -> None:
    async def work() -> None:
        async with clients(stores) as (one, other):
            scope = Scope("/mine", "/mine", "/_mirrored")
            killed = mirrored(one, other, Log(), scope)
            await killed._begin()
            await compare(killed)
            event = await one.set("/mine/a", "1")
            killed._source.saw(event.etcd_index)
            await killed._claim(is_again=False)
            await killed._carry_out(Proof(killed._breaks), event, is_past=False)
            await one.set("/mine/b", "1")
            await mirrored(one, other, Log(), scope).copy()
            assert await content(other) == await content(one)

    run(work)


async def strange(client: V2Client, quoted: str, method: str = "PUT") -> int:
    """Write a file with a name that is given as in a URL, or do something else to it."""
    form = ("application/x-www-form-urlencoded", b"value=1")
    content = form if method == "PUT" else None
    async with client.transport.request(method, f"/v2/keys{quoted}", content=content, write=True) as answer:
        return int(answer.header("x-etcd-index"))


async def remove_strange(client: V2Client, quoted: str) -> int:
    """Delete such a node, if it is there: no listing tells its name."""
    return await strange(client, f"{quoted}?recursive=true", "DELETE")


@pytest.mark.parametrize("folder", ["", "/f"], ids=["root", "folder"])
def test_a_node_whose_name_is_not_utf_8_is_shown_by_the_listing_and_the_event(
    stores: tuple[Daemon, Daemon], folder: str
) -> None:
    async def work() -> None:
        async with clients(stores) as (one, other):
            await one.set("/f/a", "1")
            asked = mirrored(one, other, Log())
            await asked._begin()
            index = await strange(one, f"{folder}/%FF")
            await compare(asked)
            witness = asked._witness
            assert witness == mirror.Witness(
                f"{folder}/\ufffd".encode().hex(),
                index,
                index,
                digest=mirror.digest(repr((False, "1")).encode()),
            )
            asked._standby = None
            await strange(one, f"{folder}/%FE")
            assert await shows_last(asked), "by the node of that index"
            await strange(one, f"{folder}/%FF")
            assert await shows_last(asked), "by the event"
            removed = await remove_strange(one, f"{folder}/%FF")
            asked._witness = mirror.Witness(witness.key, removed, removed - 2)
            with pytest.raises(mirror.Another, match="in SOURCE it has another history"):
                await shows_last(asked)
            created = await strange(one, f"{folder}/%FF")
            asked._witness = mirror.Witness(witness.key, await remove_strange(one, f"{folder}/%FF"), created)
            assert await shows_last(asked), "by the event of the deletion"
            asked._witness = msgspec.structs.replace(witness, revision=created - 1)
            with pytest.raises(mirror.Another, match="in SOURCE it has another history"):
                await shows_last(asked)

    run(work)


@pytest.mark.parametrize("name", ["%FF", "%FF/x"], ids=["file", "in a folder"])
def test_a_source_whose_names_are_all_not_utf_8_is_followed_over_new_connections(
    stores: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(mirror_v2, "SAVE_SECONDS", 0.1)
    monkeypatch.setattr(mirror, "RETRY_DELAYS", (0.05,))
    calls = counted(monkeypatch, Mirror, "_prove", "_compare")

    async def work() -> None:
        async with clients(stores) as (one, other):
            await one.set("/before", "1")
            await one.delete("/before")
            await mirrored(one, other, Log()).copy()
            async with followed(one, other) as log:
                await log.until(lambda: "_compare" in calls and bool(log.told))
                await log.reached(await strange(one, f"/{name}"))
                for _ in range(2):
                    calls.clear()
                    one.reader.transport.connections += 1
                    await log.reached(await strange(one, f"/{name}"))
                    await log.until(lambda: "_prove" in calls)
                    await log.reached(await strange(one, f"/{name}"))
                    assert "_compare" not in calls
            async with followed(one, other) as log:  # it goes on where the one before was
                await log.reached(await strange(one, f"/{name}"))
            assert "_compare" not in calls
            await remove_strange(one, f"/{name.partition('/')[0]}")
            await mirrored(one, other, Log()).copy()
            assert await content(other) == await content(one) == {"": (None, False)}

    run(work)


def test_a_run_that_is_killed_at_the_first_event_where_that_is_shown_by_no_node_is_gone_on_with(
    stores: tuple[Daemon, Daemon],
) -> None:
    async def work() -> None:
        async with clients(stores) as (one, other):
            killed = mirrored(one, other, Log())
            await killed._begin()
            await compare(killed)
            index = await strange(one, "/%FF/x")
            async with killed._source.poll("/", index - 1, recursive=True) as poll:
                event = await poll.event()
            assert event is not None
            killed._source.saw(index)
            await killed._carry_out(Proof(killed._breaks), event, is_past=False)
            assert await content(other) == await content(one)
            again = mirrored(one, other, Log())
            await again._begin()
            await again._prove()

    run(work)


@pytest.mark.parametrize("scope", [ALL, Scope("/mine", "/mine", "/_mirrored")], ids=["all", "folder"])
@pytest.mark.parametrize("has_folder", [False, True], ids=["absent", "empty"])
def test_a_folder_that_stays_empty_is_followed_over_new_connections(
    stores: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch, scope: Scope, *, has_folder: bool
) -> None:
    monkeypatch.setattr(mirror_v2, "SAVE_SECONDS", 0.1)
    monkeypatch.setattr(mirror, "RETRY_DELAYS", (0.05,))
    monkeypatch.setattr(mirror_v2, "POLL_SECONDS", 0.2)

    async def work() -> None:
        async with clients(stores) as (one, other):
            if has_folder:
                await one.mkdir("/mine")
            if scope.target != "/":
                await other.set(f"{scope.target}/_hidden", "of others")
            for _ in range(2):
                work = mirrored(one, other, Log(), scope)
                await work._begin()
                await compare(work)
                await compare(work)  # after a proof as over a new connection
                async with followed(one, other, scope) as log:
                    for number in range(2):
                        one.reader.transport.connections += 1
                        await log.reached((await one.set("/_others", str(number))).etcd_index)
            async with followed(one, other, scope) as log:
                one.reader.transport.connections += 1
                await log.reached((await one.set("/mine/a", "1")).etcd_index)
                assert (await other.get("/mine/a")).node.value == "1"
            await _delete(one, "/_others")

    run(work)


def test_what_is_in_a_folder_whose_name_is_not_utf_8_is_not_removed_by_a_comparison(
    stores: tuple[Daemon, Daemon],
) -> None:
    async def work() -> None:
        async with clients(stores) as (one, other):
            await strange(one, "/%FF/old")
            await one.set("/a", "1")
            log = Log()
            await mirrored(one, other, log).copy()
            assert set(await content(other)) == {"", "/a", "/\ufffd"}
            several, alone = sorted(log.troubles, key=lambda text: "by its events alone" in text)
            assert "the removal of one of them removes that" in several
            assert "/\ufffd: is a folder of SOURCE" in alone
            async with followed(one, other) as log:
                await log.reached(await strange(one, "/%FF/new"))
            await mirrored(one, other, Log()).copy()
            assert set(await content(other)) == {"", "/a", "/\ufffd", "/\ufffd/new"}
            await remove_strange(one, "/%FF")
            await mirrored(one, other, Log()).copy()
            assert set(await content(other)) == {"", "/a"}

    run(work)


def test_a_node_with_a_ttl_whose_name_is_not_utf_8_is_looked_at_in_the_listing(
    stores: tuple[Daemon, Daemon],
) -> None:
    async def work() -> None:
        async with clients(stores) as (one, other):
            await strange(one, "/f/%FF?ttl=900")
            log = Log()
            asked = mirrored(one, other, log)
            await asked._begin()
            await compare(asked)
            await _delete(other, "/f")
            asked._timed.put("/f/\ufffd", trio.current_time())
            await asked._look(Proof(asked._breaks))
            assert await content(other) == await content(one)
            assert "/f/\ufffd" in asked._timed
            await remove_strange(one, "/f/%FF")
            asked._timed.put("/f/\ufffd", trio.current_time())
            await asked._look(Proof(asked._breaks))
            assert "/f/\ufffd" not in asked._timed
            assert len(log.troubles) == 1
            for _ in range(2):
                asked._timed.put("/f/\ufffd/x", trio.current_time())
                await asked._look(Proof(asked._breaks))
            assert len(log.troubles) == 2
            assert "/f/\ufffd/x: has a TTL" in log.troubles[1]
            assert not asked._timed

    run(work)


def test_a_source_that_lost_a_node_whose_name_is_not_utf_8_is_refused(twins: Twins) -> None:
    async def copy() -> None:
        async with open_clients(source, twins.target) as (one, other):
            await strange(one, "/%FF")
            await mirrored(one, other, Log()).copy()

    async def refused() -> None:
        async with open_clients(source, twins.target) as (one, other):
            for _ in range(5):
                await strange(one, "/%FE")
            for way in ("copy", "follow"):
                with pytest.raises(mirror.Another, match="in SOURCE it has another history"):
                    await getattr(mirrored(one, other, Log()), way)()
            assert set(await content(other)) == {"", "/a", "/a/0", "/\ufffd"}

    first = twins.begin()
    assert put(first, "a/0", "1").status == 201
    old = twins.copy("old")
    source = twins.begin(of=old)
    run(copy)
    source = twins.begin(of=old)
    assert put(source, "a/0", "2").status == 200
    run(refused)


def test_a_source_whose_names_are_all_not_utf_8_is_followed_without_comparisons(
    stores: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_v2, "POLL_SECONDS", 0.3)

    async def work() -> None:
        async with clients(stores) as (one, other):
            await strange(one, "/%FF")
            calls = counted(monkeypatch, Mirror, "_compare", "_ask")
            async with followed(one, other) as log:
                await log.until(lambda: bool(log.told))
                deadline = Deadline(LIMIT)
                while calls.count("_ask") < 4:
                    assert not deadline.passed()
                    await trio.sleep(0.1)  # fixed: between two looks
                await log.reached((await one.set("/a", "1")).etcd_index)
            # A connection that broke on a busy machine costs no comparison either.
            assert calls.count("_compare") == 1
            assert set(await content(other)) == {"", "/a", "/\ufffd"}

    run(work)


def test_it_goes_on_from_the_stored_index(stores: tuple[Daemon, Daemon]) -> None:
    async def work() -> None:
        async with clients(stores) as (one, other):
            await one.set("/a", "1")
            await mirrored(one, other, Log()).copy()
            await other.set("/theirs", "is seen when all is compared")
            await one.set("/f/b", "2")
            index = (await one.delete("/a")).etcd_index
            async with followed(one, other) as log:
                await log.reached(index)
            assert (log.told[-1].written, log.told[-1].deleted) == (1, 1), "nothing was compared"
            assert set(await content(other)) == {"", "/f", "/f/b", "/theirs"}

    run(work)


def test_the_checkpoint_follows_others_keys_too(
    stores: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_v2, "POLL_SECONDS", 0.2)
    monkeypatch.setattr(mirror_v2_proof, "SURE_SECONDS", 0.1)
    monkeypatch.setattr(mirror_v2, "SAVE_SECONDS", 0.1)

    async def work() -> None:
        async with clients(stores) as (one, other):
            await one.set("/mine/a", "1")
            async with followed(one, other, Scope("/mine", "/mine", "/_mirrored")) as log:
                await log.reached(1)
                index = (await one.set("/others/a", "1")).etcd_index
                await log.reached(index)
            assert log.troubles == []

    run(work)


def test_events_that_the_source_has_forgotten_lead_to_a_comparison(stores: tuple[Daemon, Daemon]) -> None:
    async def work() -> None:
        async with clients(stores) as (one, other):
            for name in ("stays", "gone", "f/gone", "f/stays", "last"):
                await one.set(f"/{name}", "1")
            await mirrored(one, other, Log()).copy()
            await one.delete("/gone")
            await one.delete("/f/gone")
            await one.set("/new/deep", "1")
            index = 0
            for number in range(1005):
                index = (await one.set("/f/stays", str(number))).etcd_index
            async with followed(one, other) as log:
                await log.reached(index)
                assert await content(other) == await content(one)
                assert log.told[-1].deleted == 2
                assert log.told[-1].written < 10, "the events themselves were not carried out"
                index = (await one.delete("/new", recursive=True)).etcd_index
                await log.reached(index)
            assert await content(other) == await content(one)

    run(work)


def test_refreshes_are_followed(stores: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror_v2, "_next_look", lambda now, _: now + 0.2)

    async def work() -> None:
        async with clients(stores) as (one, other):
            await one.set("/node", "v", ttl=300)
            await one.mkdir("/folder", ttl=300)
            await one.set("/plain", "shows that it is the same, when the others were refreshed")
            for _ in range(2):
                async with followed(one, other) as log:
                    await log.reached(1)
                    made = (await other.get("/node")).node.created_index
                    for ttl in (1000, 5000):
                        for key in ("/node", "/folder"):
                            await one.refresh(key, ttl)
                            deadline = Deadline(LIMIT)
                            while (await ttl_of(other, key) or 0) < ttl - 100:
                                assert not deadline.passed(), "the target has the new TTL"
                                await trio.sleep(0.1)  # fixed: between two looks
                    assert (await other.get("/node")).node.created_index == made, "it was there all the time"
                await one.refresh("/node", 300)  # while no mirror runs
            async with followed(one, other, log=log):
                await one.refresh("/node", 1)
                deadline = Deadline(LIMIT)
                while "/node" in await content(other):
                    assert not deadline.passed(), "it ends when it is not refreshed any more"
                    await trio.sleep(0.1)  # fixed: between two looks

    run(work)


@pytest.mark.parametrize("way", ["look", "key below", "update", "made permanent"])
def test_what_was_in_a_folder_that_ended_in_the_target_first_is_copied_again(
    stores: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch, *, way: str
) -> None:
    if way in {"look", "key below"}:
        monkeypatch.setattr(mirror_v2, "_next_look", lambda now, _: now + 0.5)

    async def work() -> None:
        async with clients(stores) as (one, other):
            await one.mkdir("/folder", ttl=900)
            await one.set("/folder/file", "1")
            await one.set("/folder/below/file", "1")
            async with followed(one, other) as log:
                await log.reached(1)
                await other.delete("/folder", recursive=True)  # as if the target was away for so long
                if way == "key below":
                    await one.set("/folder/later", "1")
                elif way != "look":
                    await one.update_folder("/folder", ttl=900 if way == "update" else None)
                await until_equal(one, other)

    run(work)


class SlowPoll(Poll):
    """The event comes a moment after the head."""

    async def event(self, limit: float = 1.0) -> Answer | None:
        with trio.move_on_after(limit):  # fixed: the caller gives it
            await trio.sleep(0.02)  # fixed: that moment
            return await super().event(limit)
        self.timed_out = True
        return None


class Busy(V2Client):
    """A source whose events come a moment after the head; it counts how often `node` was asked for."""

    looks = 0

    @asynccontextmanager
    async def poll(
        self, key: str, *, index: int | None = None, recursive: bool = False
    ) -> AsyncIterator[Poll]:
        async with super().poll(key, index=index, recursive=recursive) as poll:
            yield SlowPoll(poll._response, poll.etcd_index)

    async def get(
        self, key: str, *, recursive: bool = False, sort: bool = False, quorum: bool = False
    ) -> Answer:
        self.looks += key.startswith("/timed")
        return await super().get(key, recursive=recursive, sort=sort, quorum=quorum)


def test_events_and_nodes_that_are_always_due_both_go_on(
    stores: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_v2, "_next_look", lambda now, _: now)
    monkeypatch.setattr(mirror_v2, "LATE_SECONDS", 0.0)

    async def work() -> None:
        async with clients(stores) as (one, other):
            for number in range(150):
                await one.set(f"/timed{number}", "v", ttl=900)
            source = Busy(one.reader.transport)
            async with followed(source, other) as log:
                await log.reached(1)
                before = source.looks
                for number in range(20):
                    index = (await one.set(f"/k{number}", "v")).etcd_index
                await log.reached(index)
                assert source.looks - before >= 20, "one for each event"
            assert len(log.troubles) == 1, "it is told once"
            assert re.match(r"of \d+ nodes with a TTL some are looked at", log.troubles[0])

    run(work)


def test_the_checkpoint_goes_on_without_events_while_nodes_are_always_due(
    stores: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_v2, "_next_look", lambda now, _: now)
    monkeypatch.setattr(mirror_v2, "POLL_SECONDS", 0.2)
    monkeypatch.setattr(mirror_v2_proof, "SURE_SECONDS", 0.1)
    monkeypatch.setattr(mirror_v2, "SAVE_SECONDS", 0.1)

    async def work() -> None:
        async with clients(stores) as (one, other):
            for number in range(150):
                await one.set(f"/mine/timed{number}", "v", ttl=900)
            async with followed(one, other, Scope("/mine", "/mine", "/_mirrored")) as log:
                await log.reached(1)
                index = (await one.set("/others/a", "1")).etcd_index
                await log.reached(index)

    run(work)


class Behind(V2Client):
    """A source of which the second poll is answered by a member that is `lag` behind; none has an event."""

    lag = 0
    polls = 0
    reached: list[int]
    """How far the mirror was after each poll."""
    mirror: Mirror

    @asynccontextmanager
    async def poll(
        self, key: str, *, index: int | None = None, recursive: bool = False
    ) -> AsyncIterator[Poll]:
        self.polls += 1
        self.reached.append(self.mirror.copied)
        async with super().poll(key, index=index, recursive=recursive) as poll:
            poll.etcd_index -= self.lag * (self.polls == 2)
            yield poll


def test_a_poll_by_a_member_that_lags_behind_does_not_move_the_checkpoint(
    stores: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_v2, "POLL_SECONDS", 0.2)
    monkeypatch.setattr(mirror_v2_proof, "SURE_SECONDS", 0.1)
    monkeypatch.setattr(mirror_v2, "SAVE_SECONDS", 0.1)

    async def work() -> None:
        async with clients(stores) as (one, other):
            await one.set("/mine/a", "1")
            scope, log = Scope("/mine", "/mine", "/_mirrored"), Log()
            await mirrored(one, other, log, scope).copy()
            for number in range(6):
                last = (await one.set("/others/a", str(number))).etcd_index
            source = Behind(one.reader.transport)
            source.lag, source.reached = 3, []
            source.mirror = mirrored(source, other, log, scope)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(source.mirror.follow)
                await log.reached(last)
                await log.until(lambda: len(source.reached) > 3)
                nursery.cancel_scope.cancel()
            begun = source.reached[0]
            assert source.reached[1:3] == [begun, begun], "neither the first poll nor the one that lags"
            assert source.reached[3] == last, "the third one is sure"

    run(work)


class Frozen(V2Client):
    """A source whose member that answers the first poll stops then: no event comes, and no end."""

    polls = 0

    @asynccontextmanager
    async def poll(
        self, key: str, *, index: int | None = None, recursive: bool = False
    ) -> AsyncIterator[Poll]:
        self.polls += 1
        async with super().poll(key, index=index, recursive=recursive) as poll:
            if self.polls == 1:
                poll.event = _never  # type: ignore[method-assign] # of this poll only
            yield poll


async def _never(limit: float = 1.0) -> Answer | None:
    await trio.sleep_forever()


def test_what_a_frozen_member_does_not_send_is_seen_though_nothing_was_there(
    stores: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_v2, "POLL_SECONDS", 0.2)

    async def work() -> None:
        async with clients(stores) as (one, other):
            log, source = Log(), Frozen(one.reader.transport)
            scope = Scope("/mine", "/mine", "/_mirrored")
            async with followed(source, other, scope, log=log):
                await log.until(lambda: bool(log.told))
                await log.reached((await one.set("/mine/a", "1")).etcd_index)
                assert await content(other) == await content(one)
            assert log.troubles == []

    run(work)


def test_a_folder_that_stays_empty_is_followed_without_comparisons(
    stores: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_v2, "POLL_SECONDS", 0.1)
    monkeypatch.setattr(mirror_v2, "SAVE_SECONDS", 0.1)
    calls = counted(monkeypatch, Mirror, "_compare")

    async def follow(one: Writer, other: V2Client, scope: Scope) -> None:
        async with followed(one, other, scope) as log:
            await log.until(lambda: bool(log.told))
            for number in range(3):
                await log.reached((await one.set("/_others/a", str(number))).etcd_index)
        assert log.troubles == []

    async def work() -> None:
        async with clients(stores) as (one, other):
            for scope in (ALL, Scope("/mine", "/mine", "/_mirrored")):
                await _delete(other, "/_mirrored")
                calls.clear()
                await follow(one, other, scope)
                assert calls == ["_compare"]
            await _delete(one, "/_others")

    run(work)


@pytest.mark.parametrize(
    ("ttl", "when"), [(1, 2.5), (4, 4.0), (9, 6.5), (10, 7.0), (11, 7.5), (1000, 502.0), (86400, 43202.0)]
)
def test_a_ttl_is_looked_at_when_half_of_it_is_over(ttl: int, when: float) -> None:
    assert mirror_v2._next_look(2.0, ttl) == when


def test_short_ttls_may_differ_less() -> None:
    near = mirror_v2_nodes._is_near
    assert near(None, None)
    assert not near(5, None)
    assert near(1000, 998)
    assert not near(1000, 997)
    assert near(3, 3)
    assert not near(3, 2)
    assert not near(2, 2), "either may end first"
    assert not near(1, 1)


def test_a_folder_with_a_ttl_is_copied_to_the_root_which_has_none(
    stores: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_v2, "_next_look", lambda now, _: now)
    calls = counted(monkeypatch, Mirror, "_compare")

    async def work() -> None:
        async with clients(stores) as (one, other):
            await one.mkdir("/f", ttl=900)
            async with followed(one, other, Scope("/f", "/", "/_mirrored")) as log:
                await log.reached((await one.set("/f/a", "1")).etcd_index)
                await log.reached((await one.update_folder("/f", ttl=800)).etcd_index)
                await log.reached((await one.set("/f/b", "1")).etcd_index)
            assert set(await content(other)) == {"", "/a", "/b"}
            assert calls == ["_compare"]
            assert log.troubles == []

    run(work)


def test_what_is_due_is_looked_at_during_a_comparison_and_what_ended_is_compared_again(
    stores: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_v2, "_next_look", lambda now, _: now)

    async def work() -> None:
        async with clients(stores) as (one, other):
            await one.mkdir("/a", ttl=900)
            for number in range(3):
                await one.set(f"/a/below/{number}", "1")
            log = Log()
            copying = mirrored(one, other, log)
            ensure, ended = copying._target.ensure, list[str]()

            async def slow(proof: Proof, path: str, *more: Any, **others: Any) -> None:
                if path.startswith("/a/below/") and len(ended) < 3:  # as if all before had taken so long
                    await _delete(other, "/a")
                    ended.append(path)
                await ensure(proof, path, *more, **others)

            monkeypatch.setattr(copying._target, "ensure", slow)
            await copying.copy()
            assert await content(other) == await content(one)
            assert len(ended) == 3
            assert len(log.troubles) == 1, "it is told once"
            assert "/a: this folder with a TTL has ended in TARGET" in log.troubles[0]
            assert not copying._is_behind

    run(work)


def test_a_file_that_ended_after_the_target_was_listed_is_copied(
    stores: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_v2, "LISTED_SHARE", 0.0)

    async def work() -> None:
        async with clients(stores) as (one, other):
            await one.set("/f/timed", "1", ttl=900)
            await mirrored(one, other, Log()).copy()
            copying = mirrored(one, other, Log())
            ensure = copying._target.ensure

            async def late(proof: Proof, path: str, *more: Any, **others: Any) -> None:
                if path == "/f":  # which was listed just before
                    await _delete(other, "/f/timed")
                await ensure(proof, path, *more, **others)

            monkeypatch.setattr(copying._target, "ensure", late)
            await copying.copy()
            assert await content(other) == await content(one)

    run(work)


@pytest.mark.parametrize("way", ["after a removal", "at the end"])
def test_what_is_due_is_looked_at_after_removals_and_before_a_comparison_is_complete(
    stores: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr(mirror_v2, "_next_look", lambda now, _: now)

    async def work() -> None:
        async with clients(stores) as (one, other):
            await one.mkdir("/a", ttl=900)
            await one.set("/a/b/key", "1")
            await mirrored(one, other, Log()).copy()
            for number in range(2):
                await other.set(f"/a/b/foreign{number}", "1")
            copying, removed = mirrored(one, other, Log()), list[str]()
            remove = copying._target.remove

            async def late(proof: Proof, path: str) -> None:
                await remove(proof, path)
                removed.append(path)
                if len(removed) == 1:
                    await _delete(other, "/a")
                elif way == "after a removal":
                    assert (await other.get("/a", quorum=True)).node.expiration is not None

            async def nothing(_: Proof) -> None:
                """No look between nodes."""

            monkeypatch.setattr(copying._target, "remove", late)
            if way == "at the end":
                monkeypatch.setattr(copying, "_look_meanwhile", nothing)
            await copying.copy()
            assert len(removed) == 2
            assert await content(other) == await content(one)

    run(work)


@pytest.mark.parametrize("stays", [True, False], ids=["is there", "was removed"])
def test_nodes_that_were_known_before_a_comparison_are_looked_at_during_it(
    stores: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch, *, stays: bool
) -> None:
    async def work() -> None:
        async with clients(stores) as (one, other):
            await one.mkdir("/timed", ttl=900)
            await one.set("/timed/key", "1")
            await one.set("/a", "1")
            log = Log()
            asked = mirrored(one, other, log)
            await asked._begin()
            await compare(asked)
            ensure, looked = asked._target.ensure, list[str]()

            async def watched(proof: Proof, path: str, *more: Any, **others: Any) -> None:
                looked.append(path)
                await ensure(proof, path, *more, **others)

            monkeypatch.setattr(asked._target, "ensure", watched)
            await _delete(other, "/timed")
            if not stays:
                await _delete(one, "/timed")
            asked._timed.put("/timed", trio.current_time())
            await compare(asked)
            assert await content(other) == await content(one)
            assert ("/timed" in asked._timed) == stays
            assert looked[:2] == (["", "/timed"] if stays else ["", "/a"])
            assert [text for text in log.troubles if "has ended in TARGET" in text] == log.troubles
            assert len(log.troubles) == stays, "it is told once"

    run(work)


def test_a_folder_that_is_lost_several_times_is_listed_again_once(stores: tuple[Daemon, Daemon]) -> None:
    async def work() -> None:
        async with clients(stores) as (one, other):
            asked = mirrored(one, other, Log())
            asked._patience.is_endless = True
            await one.mkdir("/a", ttl=900)
            await asked._begin()
            await compare(asked)
            await _delete(other, "/a")
            mkdir, refused = other.mkdir, list[str]()

            async def fails_at_first(key: str, *, ttl: int | None = None) -> Answer:
                if len(refused) < 3:
                    refused.append(key)
                    raise Unreachable([("http://a", "no leader")], outcome_known=True)
                return await mkdir(key, ttl=ttl)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(other, "mkdir", fails_at_first)
                patch.setattr(mirror, "RETRY_DELAYS", (0.01,))
                asked._timed.put("/a", 0.0)
                await asked._look(Proof(asked._breaks))
            assert refused == ["/a"] * 3
            assert list(asked._lost_folders) == ["/a"]

    run(work)


def test_a_new_connection_to_look_at_a_node_during_a_comparison_is_a_break(
    stores: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        async with clients(stores) as (one, other):
            await one.set("/a", "1", ttl=900)
            asked = mirrored(one, other, Log())
            await asked._begin()
            await compare(asked)
            asked._timed.put("/a", 0.0)
            proof = Proof(asked._breaks)
            one.reader.transport.connections += 1
            with pytest.raises(mirror.Reconnected):
                await asked._look_meanwhile(proof)

    run(work)


@pytest.mark.parametrize("stays", [True, False], ids=["is there", "was removed"])
def test_an_update_of_the_past_of_a_folder_that_was_removed_since_leads_to_no_comparison(
    stores: tuple[Daemon, Daemon], *, stays: bool
) -> None:
    async def work() -> None:
        async with clients(stores) as (one, other):
            await one.mkdir("/f")
            following = mirrored(one, other, Log())
            await following._begin()
            await compare(following)
            await other.delete("/f", dir=True)
            event = await one.update_folder("/f", ttl=900)
            following._source.saw(event.etcd_index)
            if not stays:
                await one.delete("/f", dir=True)
            await following._carry_out(Proof(following._breaks), event, is_past=True)
            assert following._is_behind == stays

    run(work)


def test_what_was_in_a_folder_that_was_removed_is_not_looked_at(stores: tuple[Daemon, Daemon]) -> None:
    async def work() -> None:
        async with clients(stores) as (one, other):
            for key in ("/f/a", "/f/b/c", "/f!", "/g"):
                await one.set(key, "1", ttl=900)
            following = mirrored(one, other, Log())
            await following._begin()
            await compare(following)
            assert len(following._timed) == 4
            removed = await one.delete("/f", recursive=True)
            await following._carry_out(Proof(following._breaks), removed, is_past=False)
            assert [path in following._timed for path in ("/f/a", "/f/b/c", "/f!", "/g")] == [0, 0, 1, 1]
            assert len(following._timed) == 2

    run(work)


def test_a_folder_in_the_place_of_another(stores: tuple[Daemon, Daemon]) -> None:
    scope = Scope("/a/x", "/copy", "/_mirrored")

    async def work() -> None:
        async with clients(stores) as (one, other):
            await one.set("/a/x/k", "1")
            await one.set("/a/xy", "beside it")
            await other.set("/own", "stays")
            async with followed(one, other, scope) as log:
                await log.reached(1)
                index = (await one.set("/a/x/f/k", "2")).etcd_index
                await log.reached(index)
                assert set(await content(other)) == {"", "/own", "/copy", "/copy/k", "/copy/f", "/copy/f/k"}
                await one.delete("/a/xy")
                await one.delete("/a", recursive=True)
                await log.until(lambda: log.told[-1].deleted == 3)  # k, f and the folder itself
                assert set(await content(other)) == {"", "/own"}
                index = (await one.set("/a/x", "a file now")).etcd_index
                await log.reached(index)
            assert await content(other, "/copy") == {"": ("a file now", False)}

    run(work)


def test_what_is_there_is_kept_unless_it_may_be_replaced(stores: tuple[Daemon, Daemon]) -> None:
    async def work() -> None:
        async with clients(stores) as (one, other):
            await one.set("/a/b/c", "1")
            await one.set("/f", "1")
            await other.set("/a", "a file")
            await other.set("/f/below", "in a folder")
            await other.set("/z", "1")
            with pytest.raises(NotMirrored, match="TARGET has v2 keys already, such as '/"):
                await mirrored(one, other, Log()).copy()
            assert set(await content(other)) == {"", "/a", "/f", "/f/below", "/z"}
            log = Log()
            await mirrored(one, other, log, overwrite=True).copy()
            assert await content(other) == await content(one)
            assert sorted(log.troubles) == [
                "/a: the file of the target gives way to a folder of the source",
                "/f: the folder of the target gives way to a file of the source",
            ]

    run(work)


def test_what_others_put_in_the_way_is_told_and_removed(stores: tuple[Daemon, Daemon]) -> None:
    async def work() -> None:
        async with clients(stores) as (one, other):
            await one.mkdir("/a")
            async with followed(one, other) as log:
                await log.reached(1)
                await other.delete("/a", dir=True)
                await other.set("/a", "in the way")
                index = (await one.set("/a/b/c", "1")).etcd_index
                await log.reached(index)
            assert await content(other) == await content(one)
            assert log.troubles == ["/a: the file of the target gives way to a folder of the source"]

    run(work)


def test_a_file_above_the_folder_of_the_target_is_kept(stores: tuple[Daemon, Daemon]) -> None:
    scope = Scope("/n", "/prod/deep/n", "/_mirrored")

    async def work() -> None:
        async with clients(stores) as (one, other):
            await one.set("/n/x", "1")
            await other.set("/prod", "precious")
            refusal = "/prod/deep/n: cannot be a folder of TARGET, as /prod is a file there"
            for overwrite in (False, True):
                with pytest.raises(NotMirrored, match=refusal):
                    await mirrored(one, other, Log(), scope, overwrite=overwrite).copy()
                with pytest.raises(V2Error, match="100"):
                    await other.get("/_mirrored")
            await other.delete("/prod")
            work = mirrored(one, other, Log(), scope)
            await work.copy()
            await other.delete("/prod", recursive=True)
            await other.set("/prod", "precious")
            with pytest.raises(NotMirrored, match=refusal):
                await compare(work)
            with pytest.raises(NotMirrored, match=refusal):
                await mirrored(one, other, Log(), scope).follow()
            assert await content(other) == {"": (None, False), "/prod": ("precious", False)}

    run(work)


def test_a_checkpoint_of_something_else_is_refused(stores: tuple[Daemon, Daemon]) -> None:
    async def work() -> None:
        async with clients(stores) as (one, other):
            await mirrored(one, other, Log(), Scope("/a", "/a", "/_mirrored")).copy()
            with pytest.raises(NotMirrored, match=r"is a mirror of cluster .*, prefix '/a'"):
                await mirrored(one, other, Log(), Scope("/b", "/b", "/_mirrored")).copy()
            await other.set("/_mirrored", "text")
            with pytest.raises(NotMirrored, match="TARGET has something else in that key"):
                await mirrored(one, other, Log(), Scope("/b", "/b", "/_mirrored")).copy()
            with pytest.raises(NotMirrored, match="checkpoint /_mirrored/c: /_mirrored is in its way"):
                await mirrored(one, other, Log(), Scope("/b", "/b", "/_mirrored/c")).copy()

    run(work)


def test_a_store_is_not_copied_into_itself(
    stores: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        async with clients(stores) as (one, _):
            for source, target in (("/", "/"), ("/a", "/a/b"), ("/a/b", "/a"), ("/", "/x")):
                with pytest.raises(NotMirrored, match="SOURCE and TARGET are the same store"):
                    await mirrored(one, one, Log(), Scope(source, target, "/_mirrored")).copy()
                with pytest.raises(V2Error, match="100"):
                    await one.get("/_mirrored")
            with pytest.raises(NotMirrored, match="a --checkpoint outside of what is copied"):
                await mirrored(one, one, Log(), Scope("/_in", "/x", "/_in/checkpoint")).copy()
            probe = V2Client.delete

            async def remove_first(self: V2Client, key: str, **more: Any) -> Any:
                await probe(self, key)
                return await probe(self, key)

            with monkeypatch.context() as patched:
                patched.setattr(V2Client, "delete", remove_first)
                with pytest.raises(TakenOver, match="was removed"):
                    await mirrored(one, one, Log())._claim_target()
            await one.set("/a/x", "1")
            await mirrored(one, one, Log(), Scope("/a", "/ab", "/_mirrored")).copy()
            assert await content(one, "/ab") == await content(one, "/a")

    run(work)


def test_two_stores_that_were_begun_with_the_same_flags_are_two(alike: tuple[Daemon, Daemon]) -> None:
    async def work() -> None:
        async with open_clients(*alike) as (one, other):
            assert (await one.get("/")).cluster_id == (await other.get("/")).cluster_id
            await one.set("/a", "1")
            await mirrored(one, other, Log()).copy()
            await one.set("/b", "1")
            kept = mirrored(one, other, Log())
            await kept.copy()
            assert await content(other) == await content(one)
            with pytest.raises(NotMirrored, match="SOURCE and TARGET are the same store"):
                await mirrored(other, other, Log()).copy()
            await kept._save()

    run(work)


def test_a_source_that_went_back_does_not_empty_the_target(stores: tuple[Daemon, Daemon]) -> None:
    async def work() -> None:
        async with clients(stores) as (one, other):
            await one.set("/a", "1")
            await mirrored(one, other, Log()).copy()
            # As if the source had been at a later index, with another key, when it was copied last.
            ahead = mirrored(one, other, Log())
            await ahead._begin()
            ahead._seen += 100_000
            await ahead._save()
            await other.set("/last copy", "1")
            wanted = rf"SOURCE went back from index {ahead._seen} to \d+: .* with --overwrite to let"
            for work in (mirrored(one, other, Log()).copy, mirrored(one, other, Log()).follow):
                with pytest.raises(NotMirrored, match=wanted):
                    await work()
            assert set(await content(other)) == {"", "/a", "/last copy"}

    run(work)


def test_a_source_that_goes_back_while_it_is_copied_is_refused(stores: tuple[Daemon, Daemon]) -> None:
    async def work() -> None:
        async with clients(stores) as (one, other):
            await one.set("/a", "1")
            await mirrored(one, other, Log()).copy()
            await other.set("/f/last copy", "1")
            work = mirrored(one, other, Log())
            await work._begin()
            work._source.saw(work.copied + 100_000)
            with pytest.raises(NotMirrored, match="SOURCE went back"):
                await work._compare_node(Proof(work._breaks), "/f")
            with pytest.raises(NotMirrored, match="SOURCE went back"):
                await compare(work)
            assert "/f/last copy" in await content(other)
            following = mirrored(one, other, Log())
            await following._begin()
            following._seen += 100_000
            with pytest.raises(NotMirrored, match="SOURCE went back"):
                await following._follow()

    run(work)


def test_a_target_that_may_go_back_is_compared(stores: tuple[Daemon, Daemon]) -> None:
    async def work() -> None:
        async with clients(stores) as (one, other):
            await one.set("/a", "1")
            await mirrored(one, other, Log()).copy()
            # As if the source had been at a later index, with another key, when it was copied last.
            ahead = mirrored(one, other, Log())
            await ahead._begin()
            ahead._seen += 100_000
            await ahead._save()
            await other.set("/lost", "1")
            async with followed(one, other, overwrite=True) as log:
                await log.until(lambda: bool(log.told) and 0 < log.told[-1].revision < 100_000)
                assert "made equal to it all the same" in log.troubles[0]
                assert await content(other) == await content(one)
                index = (await one.set("/b", "2")).etcd_index
                await log.reached(index)
                assert await content(other) == await content(one)

    run(work)


def test_another_cluster_is_not_copied(stores: tuple[Daemon, Daemon]) -> None:
    async def work() -> None:
        async with clients(stores) as (one, other):
            work = mirrored(one, other, Log())
            await work._begin()
            work._source.client = other
            with pytest.raises(NotMirrored, match="another cluster answers at the address"):
                await compare(work)

    run(work)


def write_nodes(daemon: Daemon, prefix: str, count: int) -> None:
    """Write as many files, each at an index of its own."""
    for number in range(count):
        assert put(daemon, f"f/{prefix}{number}", prefix).status == 201


def files(prefix: str, count: int) -> set[str]:
    return {"", "/f", *(f"/f/{prefix}{number}" for number in range(count))}


@asynccontextmanager
async def open_clients(*stores: Daemon) -> AsyncIterator[tuple[Writer, V2Client]]:
    """Clients of both, as they are."""
    source, target = stores
    async with (
        V2Client(Transport(source.url)) as reader,
        Writer(Transport(source.url)) as one,
        V2Client(Transport(target.url)) as other,
    ):
        one.reader = reader
        yield one, other


def test_a_source_that_was_begun_anew_is_told_from_the_one_before(twins: Twins) -> None:
    write_nodes(source := twins.begin(), "first", 5)

    async def copy() -> None:
        async with open_clients(source, twins.target) as (one, other):
            await mirrored(one, other, Log()).copy()

    run(copy)
    write_nodes(source := twins.begin(), "second", 30)

    async def refused() -> None:
        async with open_clients(source, twins.target) as (one, other):
            for work in (mirrored(one, other, Log()).copy, mirrored(one, other, Log()).follow):
                with pytest.raises(NotMirrored, match=r"another history|does not show the last"):
                    await work()
            assert set(await content(other)) == files("first", 5)
            async with followed(one, other, overwrite=True) as log:
                await log.until(lambda: bool(log.told) and log.told[-1].deleted == 5)
                await log.until(lambda: log.told[-1].written == 30)
            assert set(await content(other)) == files("second", 30)

    run(refused)


def test_a_source_that_is_replaced_while_it_is_followed_ends_the_mirror(
    twins: Twins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "RETRY_DELAYS", (0.05,))
    write_nodes(source := twins.begin(), "first", 5)

    async def work() -> None:
        async with open_clients(source, twins.target) as (one, other):
            log = Log()
            ended: list[NotMirrored] = []

            async def follow() -> None:
                try:
                    await mirrored(one, other, log).follow()
                except NotMirrored as error:
                    ended.append(error)
                log.trouble("ended")

            async with trio.open_nursery() as nursery:
                nursery.start_soon(follow)
                await log.reached(5)
                await trio.to_thread.run_sync(
                    lambda: twins.begin(write=lambda hidden: write_nodes(hidden, "second", 30))
                )
                await log.until(lambda: "ended" in log.troubles)
            assert "SOURCE is the store that was copied" in str(ended[0]).replace("is not", "is")
            assert set(await content(other)) == files("first", 5)

    run(work)


def test_the_leases_of_a_source_begun_anew_with_the_same_first_file_are_kept(twins: Twins) -> None:
    subnets = "/coreos.com/network/subnets"

    async def copy() -> None:
        async with open_clients(source, twins.target) as (one, other):
            await one.set("/coreos.com/network/config", '{"Network":"10.5.0.0/16"}')
            for number in range(5):
                await one.set(f"{subnets}/10.5.{number}.0-24", str(number), ttl=900)
            await mirrored(one, other, Log()).copy()
            await one.refresh(f"{subnets}/10.5.4.0-24", 900)
            await mirrored(one, other, Log()).copy()

    async def refused() -> None:
        async with open_clients(source, twins.target) as (one, other):
            await one.set("/coreos.com/network/config", '{"Network":"10.5.0.0/16"}')
            for number in range(60):
                await one.set(f"{subnets}/10.5.99.0-24", str(number), ttl=900)
            before = await content(other)
            for way in ("copy", "follow"):
                with pytest.raises(NotMirrored, match=r"10\.5\.4\.0-24' at index .*cannot be shown"):
                    await getattr(mirrored(one, other, Log()), way)()
            assert await content(other) == before

    source = twins.begin()
    run(copy)
    source = twins.begin()
    run(refused)


def test_a_lease_is_shown_by_when_it_was_created(stores: tuple[Daemon, Daemon]) -> None:
    async def work() -> None:
        async with clients(stores) as (one, other):
            await one.set("/f/a", "1", ttl=900)
            following = mirrored(one, other, Log())
            await following._begin()
            await compare(following)
            created = (await one.get("/f/a")).node.created_index
            witness = following._witness
            assert witness is not None
            assert (witness.revision, witness.quiet) == (created, True)
            await one.refresh("/f/a", 800)
            assert await shows_last(following), "by the node, whatever was refreshed"
            await one.delete("/f/a")
            assert await shows_last(following), "by the event"
            following._witness, following._standby = msgspec.structs.replace(witness, digest="x"), None
            assert not await shows_last(following), "by another value"
            following._witness = witness
            for number in range(1001):
                await one.set("/other", str(number))
            assert not await shows_last(following), "it is forgotten"

    run(work)


def test_a_source_that_was_put_back_to_a_copy_is_told_from_the_one_before(twins: Twins) -> None:
    write_nodes(twins.begin(), "shared", 3)
    before = twins.copy("before")
    write_nodes(source := twins.begin(of=before), "first", 5)

    async def copy() -> None:
        async with open_clients(source, twins.target) as (one, other):
            await mirrored(one, other, Log()).copy()

    run(copy)
    write_nodes(source := twins.begin(of=before), "second", 30)

    async def refused() -> None:
        async with open_clients(source, twins.target) as (one, other):
            with pytest.raises(NotMirrored, match=r"SOURCE is (not )?the store that was copied"):
                await mirrored(one, other, Log()).copy()
            assert set(await content(other)) == files("shared", 3) | files("first", 5)

    run(refused)


def test_a_source_and_a_target_that_are_always_late_are_followed(
    stores: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each poll is cut, and the source has forgotten what follows the newest file."""
    monkeypatch.setattr(mirror_v2, "POLL_SECONDS", 0.2)
    monkeypatch.setattr(mirror_v2_proof, "SURE_SECONDS", 0.1)
    monkeypatch.setattr(mirror_v2, "SAVE_SECONDS", 0.1)
    calls = counted(monkeypatch, Mirror, "_compare", "_ask")

    async def work() -> None:
        async with clients(stores) as (one, other):
            await one.set("/stays", "1")
            for number in range(1005):
                await one.set("/job", str(number), ttl=500)
            async with followed(one, other) as log:
                await log.reached((await one.set("/new", "1", ttl=400)).etcd_index)
                await log.reached((await one.delete("/new")).etcd_index)
                calls.clear()
                deadline = Deadline(LIMIT)
                while calls.count("_ask") <= 10:
                    assert not deadline.passed(), "it asks before each cut, and over the next connection"
                    await trio.sleep(0.05)  # fixed: between two looks
                await log.reached((await one.set("/last", "1")).etcd_index)
            assert await content(other) == await content(one)
            assert "_compare" not in calls
            assert log.troubles == []

    run(work)


def test_a_new_connection_during_a_comparison_is_a_break_however_soon(
    stores: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = counted(monkeypatch, Mirror, "_prove", "_compare")

    async def work() -> None:
        async with clients(stores) as (one, other):
            await one.set("/a/x", "1")
            await one.set("/b/x", "1")
            log = Log()
            copying = mirrored(one, other, log)
            compare_node, nodes = copying._compare_node, list[str]()

            async def node(proof: Proof, path: str) -> list[str]:
                nodes.append(path)
                if len(nodes) == 2:
                    await one.reader.transport.__aexit__(None, None, None)  # the connections are closed
                    await one.reader.transport.__aenter__()
                return await compare_node(proof, path)

            monkeypatch.setattr(copying, "_compare_node", node)
            await copying.copy()
            assert calls == ["_prove", "_compare", "_prove", "_compare"]
            assert "the connection to SOURCE was made anew" in log.troubles[0]
            assert await content(other) == await content(one)

    run(work)


def test_a_new_connection_within_a_write_lets_a_run_go_on(
    stores: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "RETRY_DELAYS", (0.01,))

    async def work() -> None:
        async with clients(stores) as (one, other):
            await one.set("/a", "1")
            following = mirrored(one, other, Log())
            claim, claims = following._target._claim, []

            async def reconnected(is_again: bool) -> None:
                claims.append(is_again)
                if len(claims) == 3:
                    one.reader.transport.connections += 1
                await claim(is_again)

            following._target._claim = reconnected
            async with trio.open_nursery() as nursery:
                nursery.start_soon(following.follow)
                for number in range(5):
                    await one.set("/b", str(number))
                    await until_equal(one, other)
                nursery.cancel_scope.cancel()
            assert len(claims) > 3

    run(work)


def test_that_there_were_ttls_is_known_until_all_was_compared_again(
    stores: tuple[Daemon, Daemon],
) -> None:
    async def work() -> None:
        async with clients(stores) as (one, other):
            await one.set("/lease", "1", ttl=1000)
            await one.set("/file", "1")
            await mirrored(one, other, Log()).copy()
            for _ in range(2):
                again = mirrored(one, other, Log())
                await again._begin()  # and no more: it is stopped
                assert again._is_behind
            await compare(again)
            await one.delete("/lease")
            await compare(again)
            last = mirrored(one, other, Log())
            await last._begin()
            assert not last._is_behind

    run(work)


def test_a_new_connection_beside_a_poll_shows_the_witness(stores: tuple[Daemon, Daemon]) -> None:
    async def work() -> None:
        async with clients(stores) as (one, other):
            await one.set("/a", "1")
            following = mirrored(one, other, Log())
            await following._begin()
            await compare(following)
            proof = Proof(following._breaks)
            one.reader.transport.connections += 1
            assert await following._ask(proof)
            assert proof.holds
            following._witness = mirror.Witness(b"/a".hex(), 1, 1, quiet=True)
            assert not await following._ask(proof), "over the same connection nothing has to be shown"
            assert proof.holds
            one.reader.transport.connections += 1
            with pytest.raises(mirror.Reconnected):
                await following._ask(proof)
            assert not proof.holds

    run(work)


def test_a_node_that_was_read_before_the_witness_was_shown_is_read_again(
    stores: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        async with clients(stores) as (one, other):
            await one.set("/lease", "1", ttl=900)
            following = mirrored(one, other, Log())
            await following._begin()
            await compare(following)
            proof = Proof(following._breaks)
            read, reads = following._source.node, list[str]()

            async def reconnected(key: str, *, quorum: bool = False) -> Node | None:
                node = await read(key, quorum=quorum)
                reads.append(key)
                if len(reads) > 1 or node is None:
                    return node
                one.reader.transport.connections += 1
                return msgspec.structs.replace(node, value="of another store")

            monkeypatch.setattr(following._source, "node", reconnected)
            following._timed.put("/lease", 0.0)
            written = following._target.written
            assert await following._look(proof)
            assert proof.holds, "the witness was shown"
            assert following._target.written == written
            assert (await other.get("/lease")).node.value == "1"

    run(work)


def test_a_run_that_was_taken_over_looks_before_it_deletes_a_folder_and_after_a_suspend(
    stores: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        async with clients(stores) as (one, other):
            await one.set("/f/a", "1")
            first = mirrored(one, other, Log())
            await first.copy()
            proof = Proof(first._breaks)
            monkeypatch.setattr(mirror_v2, "SAVE_SECONDS", 0.0)
            await mirrored(one, other, Log()).copy()
            monkeypatch.setattr(mirror_v2, "SAVE_SECONDS", 1000.0)
            with pytest.raises(NotMirrored, match="has begun later"):
                await first._target.remove(proof, "/f")
            clock = time.clock_gettime
            monkeypatch.setattr(time, "clock_gettime", lambda number: clock(number) + 2000.0)
            with pytest.raises(NotMirrored, match="has begun later"):
                await first._target.remove(proof, "/f/a")
            assert await content(other) == await content(one)

    run(work)


def test_polls_that_the_source_ends_are_sent_less_and_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(delay: float) -> None:
        slept.append(delay)

    following = Mirror(
        V2Client(Transport("http://a")), V2Client(Transport("http://b")), ALL, Log(), print, notice=print
    )

    async def work() -> None:
        monkeypatch.setattr(trio, "sleep", sleep)
        for _ in range(30):
            await following._wait_for_poll()

    trio.run(work)
    assert slept[:3] == [0.1, 0.2, 0.4]
    assert slept[-1] == max(slept) == mirror_v2.ENDED_SECONDS * mirror_v2.MOST_ENDED_DELAY


class Cut(V2Client):
    """A source whose polls end at once, as behind a proxy."""

    @asynccontextmanager
    async def poll(
        self, key: str, *, index: int | None = None, recursive: bool = False
    ) -> AsyncIterator[Poll]:
        async with super().poll(key, index=index, recursive=recursive) as poll:
            event = poll.event

            async def cut(limit: float = 1.0) -> Answer | None:
                answer = await event(min(limit, 0.05))
                poll.timed_out = False
                return answer

            poll.event = cut  # type: ignore[method-assign] # of this poll only
            yield poll


def test_polls_that_end_early_are_told_once_and_lead_to_no_comparison(
    stores: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = counted(monkeypatch, Mirror, "_compare")

    async def work() -> None:
        async with clients(stores) as (one, other):
            await one.set("/a", "1")
            async with followed(Cut(one.reader.transport), other) as log:
                await log.until(lambda: bool(log.troubles))
                await log.reached((await one.set("/b", "1")).etcd_index)
            assert len(log.troubles) == 1
            assert "SOURCE has ended 10 polls in a row" in log.troubles[0]
            assert calls == ["_compare"]

    run(work)


def test_a_source_that_forgets_while_it_is_compared_is_told_and_compared_again(
    stores: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    do, compared = Mirror._compare, [0]

    async def compare_slowly(self: Mirror, proof: Proof) -> None:
        await do(self, proof)
        compared[0] += 1
        if compared[0] == 1:
            for number in range(1005):
                await self._source.client.set("/f/busy", str(number))

    monkeypatch.setattr(Mirror, "_compare", compare_slowly)

    async def work() -> None:
        async with clients(stores) as (one, other):
            await one.set("/f/old", "shows that it is the same")
            await one.set("/f/busy", "0")
            async with followed(one, other) as log:
                await log.until(lambda: bool(log.troubles))
                await log.reached((await one.set("/last", "1")).etcd_index)
            assert await content(other) == await content(one)
            assert len(log.troubles) == 1
            assert "all is compared again, until it changes less meanwhile" in log.troubles[0]
            assert compared == [2]

    run(work)


def test_a_checkpoint_in_the_folder_of_the_target_is_refused(stores: tuple[Daemon, Daemon]) -> None:
    scope = Scope("/", "/_in", "/_in/mirrored")

    async def work() -> None:
        async with clients(stores) as (one, other):
            await one.set("/mirrored/x", "1")
            with pytest.raises(NotMirrored, match="checkpoint /_in/mirrored: is in the folder /_in"):
                await mirrored(one, other, Log(), scope, overwrite=True).copy()
            with pytest.raises(V2Error, match="100"):
                await other.get("/_in")

    run(work)


def test_the_event_of_the_last_change_is_a_witness(stores: tuple[Daemon, Daemon]) -> None:
    async def work() -> None:
        async with clients(stores) as (one, other):
            await one.set("/old", "1")
            await one.set("/f/a", "1")
            following = mirrored(one, other, Log())
            await following._begin()
            await compare(following)
            proof = Proof(following._breaks)
            copied = following._witness
            assert copied is not None
            assert await shows_last(following), "by the node"
            created = (await one.set("/f/a", "2")).node.created_index
            assert await shows_last(following), "by the event"
            removed = await one.delete("/f/a")
            await following._carry_out(proof, removed, is_past=False)
            assert following._witness == mirror.Witness(b"/f/a".hex(), removed.node.modified_index, created)
            assert await shows_last(following)
            for changed in ({"created": created + 1}, {"revision": copied.revision}, {"digest": "x"}):
                following._witness = msgspec.structs.replace(following._witness, **changed)
                with pytest.raises(mirror.Another, match=r"^/f/a, created at index \d+, was"):
                    await shows_last(following)
                following._witness = mirror.Witness(b"/f/a".hex(), removed.node.modified_index, created)
            folder = (await one.mkdir("/folder")).node.created_index
            updated = await one.update_folder("/folder", ttl=900)
            await following._carry_out(proof, updated, is_past=False)
            assert following._witness.created == folder
            assert await shows_last(following), "a folder does not get the index of its update"
            index = (await one.set("/f/a", "2")).etcd_index
            await compare(following)
            for number in range(1001):
                await one.set("/f/other", str(number))
            assert await shows_last(following), "by the node, though its event is forgotten"
            following._witness = mirror.Witness(b"/f/a".hex(), removed.node.modified_index, created)
            assert await shows_last(following), "by the newest file, so that all is to be compared"
            assert following._is_behind
            following._standby = None
            assert not await shows_last(following)
            following._witness = mirror.Witness(b"/f/a".hex(), index + 1, created)
            with pytest.raises(mirror.Another, match="in SOURCE it has another history"):
                await shows_last(following)

    run(work)


def test_changes_between_witness_and_checkpoint_lead_to_a_comparison(stores: tuple[Daemon, Daemon]) -> None:
    async def work() -> None:
        async with clients(stores) as (one, other):
            await one.set("/a", "1")
            first = mirrored(one, other, Log())
            await first.copy()
            # As if the source had been put back to a state after the witness, and changed since.
            first.copied = (await one.set("/b", "1")).etcd_index
            await first._save()
            async with followed(one, other) as log:
                await log.until(lambda: bool(log.told))
            assert await content(other) == await content(one)

    run(work)


@pytest.mark.parametrize("way", ["copy", "follow"])
def test_a_comparison_that_was_interrupted_is_done_by_the_next_run(
    stores: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch, *, way: str
) -> None:
    async def work() -> None:
        async with clients(stores) as (one, other):
            await one.set("/a", "1")
            first = mirrored(one, other, Log())
            await first.copy()
            # As if the source had been put back to a state after the witness, and changed since.
            first.copied = (await one.set("/b", "1")).etcd_index
            await first._save()
            await one.set("/c", "1")
            killed = mirrored(one, other, Log())

            async def end(*_: Any, **__: Any) -> None:
                raise KeyboardInterrupt

            monkeypatch.setattr(killed._target, "_write", end)
            with pytest.raises(KeyboardInterrupt):
                await getattr(killed, way)()
            async with followed(one, other):
                await until_equal(one, other)
            last = mirrored(one, other, Log())
            await last._begin()
            assert not last._is_behind, "it was complete"

    run(work)


def test_a_checkpoint_without_a_witness_is_refused_where_there_is_something_to_lose(
    stores: tuple[Daemon, Daemon],
) -> None:
    async def work() -> None:
        async with clients(stores) as (one, other):
            await one.set("/a", "1")
            await mirrored(one, other, Log()).copy()
            found = await other.get("/_mirrored")
            state = msgspec.json.decode(found.node.value or "", type=mirror.Checkpoint)
            assert state.witness is not None
            old = msgspec.json.encode(msgspec.structs.replace(state, witness=None, standby=None)).decode()
            await other.set("/_mirrored", old)
            with pytest.raises(mirror.Another, match="not known which change of SOURCE was copied last"):
                await mirrored(one, other, Log()).copy()
            await other.delete("/a")
            await mirrored(one, other, Log()).copy()
            assert await content(other) == await content(one)

    run(work)


@pytest.mark.parametrize("is_first", [True, False], ids=["first copy", "later"])
def test_a_source_put_back_after_a_comparison_that_was_interrupted_is_refused(
    twins: Twins, monkeypatch: pytest.MonkeyPatch, *, is_first: bool
) -> None:
    async def begin() -> None:
        async with open_clients(source, twins.target) as (one, other):
            await one.set("/a/x", "1")
            if not is_first:
                await mirrored(one, other, Log()).copy()
            for number in range(10):
                await one.set(f"/z/{number}", "1")

    async def interrupted() -> None:
        async with open_clients(source, twins.target) as (one, other):
            for number in range(10, 30):
                await one.set(f"/z/{number}", "1")
            work = mirrored(one, other, Log())
            write, written = work._target._write, list[str]()

            async def write_some(key: str, *more: Any, **others: Any) -> None:
                await write(key, *more, **others)
                written.append(key)
                if len(written) == 25:
                    raise KeyboardInterrupt

            monkeypatch.setattr(work._target, "_write", write_some)
            with pytest.raises(KeyboardInterrupt):
                await work.copy()

    async def refused() -> None:
        async with open_clients(source, twins.target) as (one, other):
            before = await content(other)
            for way in ("copy", "follow"):
                with pytest.raises(NotMirrored, match=r"SOURCE went back from index \d+ to"):
                    await getattr(mirrored(one, other, Log()), way)()
            assert await content(other) == before

    source = twins.begin()
    run(begin)
    old = twins.copy("old")
    source = twins.begin(of=old)
    run(interrupted)
    source = twins.begin(of=old)
    run(refused)


def test_an_overwrite_that_was_interrupted_does_not_take_the_source_before_as_copied(
    twins: Twins, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def copy() -> None:
        async with open_clients(source, twins.target) as (one, other):
            for number in range(5):
                await one.set(f"/z/precious{number}", "1")
            await mirrored(one, other, Log()).copy()

    async def interrupted() -> None:
        async with open_clients(source, twins.target) as (one, other):
            work = mirrored(one, other, Log(), overwrite=True)
            delete = work._target._delete

            async def delete_once(*more: Any) -> None:
                await delete(*more)
                raise KeyboardInterrupt

            monkeypatch.setattr(work._target, "_delete", delete_once)
            with pytest.raises(KeyboardInterrupt):
                await work.copy()
            assert set(await content(other)) == {"", "/a", "/a/x"}

    async def again() -> None:
        async with open_clients(source, twins.target) as (one, other):
            log = Log()
            with pytest.raises(NotMirrored, match="a run with --overwrite was interrupted"):
                await mirrored(one, other, log).follow()
            async with followed(one, other, log=log, overwrite=True):
                await log.reached((await one.set("/last", "1")).etcd_index)
            assert await content(other) == await content(one)

    write = twins.begin()
    assert put(write, "a/x", "1").status == 201
    old = twins.copy("old")
    source = twins.begin(of=old)
    run(copy)
    good = twins.copy("good")
    source = twins.begin(of=old)
    run(interrupted)
    source = twins.begin(of=good)
    run(again)


class Doubtful(V2Client):
    """A target that carries out each second write and does not say so, or says nothing and does not."""

    count = 0

    async def _event(self, method: str, *more: Any) -> Answer:
        if method == "GET":
            return await super()._event(method, *more)
        self.count += 1
        if self.count % 3 == 1:
            await super()._event(method, *more)
        if self.count % 3:
            raise Unreachable([("target", "lost")], outcome_known=False)
        return await super()._event(method, *more)


def test_writes_whose_outcome_is_not_told_are_tried_again(
    stores: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "RETRY_DELAYS", (0.01,))

    async def work() -> None:
        async with clients(stores) as (one, other):
            for number in range(10):
                await one.set(f"/f{number % 3}/k{number}", "v")
            async with followed(one, Doubtful(other.transport)) as log:
                await one.delete("/f0", recursive=True)
                index = (await one.set("/f1/k4", "w", ttl=900)).etcd_index
                await log.reached(index)
                assert await content(other) == await content(one)
            assert "target" in log.troubles[0]
            assert "" in log.troubles, "that it goes on is told too"

    run(work)


def test_two_mirrors_do_not_write_into_each_other(stores: tuple[Daemon, Daemon]) -> None:
    async def work() -> None:
        async with clients(stores) as (one, other):
            first, second = mirrored(one, other, Log()), mirrored(one, other, Log())
            await first.copy()
            await second.copy()
            with pytest.raises(NotMirrored, match="another mirror writes into TARGET"):
                await first._save()

    run(work)


def test_a_run_that_was_stopped_ends_when_another_has_begun(
    stores: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        async with clients(stores) as (one, other), open_clients(*stores) as (again, _):
            await one.set("/x", "0")
            first, log = mirrored(one, other, Log()), Log()
            stopped, goes_on, alone = trio.Event(), trio.Event(), first._target.alone

            async def slow(path: str) -> Node | None:
                if first.copied and path == "/x":
                    stopped.set()
                    await goes_on.wait()
                return await alone(path)

            monkeypatch.setattr(first._target, "alone", slow)
            refusals: list[NotMirrored] = []

            async def follow() -> None:
                try:
                    await first.follow()
                except NotMirrored as error:
                    refusals.append(error)
                log.trouble("ended")

            async with trio.open_nursery() as nursery:
                nursery.start_soon(follow)
                while not stopped.is_set():  # in hand is an event of the past, when the other one has gone on
                    await one.set("/x", "stale")
                    await trio.sleep(0.05)  # fixed: between two writes
                index = (await one.set("/x", "newest")).etcd_index
                nursery.start_soon(mirrored(again, other, log).follow)
                await log.reached(index)
                goes_on.set()
                await log.until(lambda: "ended" in log.troubles)
                nursery.cancel_scope.cancel()
            assert (await other.get("/x")).node.value == "newest"
            assert "another mirror writes into TARGET" in str(refusals[0])

    run(work)


class Lagging(V2Client):
    """A source of which a member that lags behind answers reads that are not linearizable."""

    old: Node | None = None

    async def get(
        self, key: str, *, recursive: bool = False, sort: bool = False, quorum: bool = False
    ) -> Answer:
        answer = await super().get(key, recursive=recursive, sort=sort, quorum=quorum)
        if quorum or self.old is None:
            return answer
        return type(answer)("get", self.old, None, 1, answer.cluster_id)


def test_a_member_that_lags_behind_is_not_believed(stores: tuple[Daemon, Daemon]) -> None:
    async def work() -> None:
        async with clients(stores) as (one, other):
            source = Lagging(one.reader.transport)
            source.old = (await one.get("/")).node
            await one.set("/a", "1")
            await mirrored(source, other, Log()).copy()
            assert set(await content(other)) == {"", "/a"}

    run(work)


def test_more_nodes_with_a_ttl_than_are_followed(
    stores: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_v2_nodes, "MOST_TIMED", 2)

    async def work() -> None:
        async with clients(stores) as (one, other):
            for number in range(4):
                await one.set(f"/k{number}", "v", ttl=500)
            log = Log()
            await mirrored(one, other, log).copy()
            assert await content(other) == await content(one)
            assert len(log.troubles) == 1
            assert "more than 2 nodes have a TTL" in log.troubles[0]

    run(work)


def test_when_nodes_are_looked_at() -> None:
    chance = random.Random(1)  # noqa: S311 - repeatable
    timed, twin = mirror_v2_nodes.Timed(print), dict[str, float]()
    names = ("a", "a!", "a0", "a/a", "b", "\U0001f600", "\ufffd")
    for _ in range(3000):
        path = "".join(f"/{chance.choice(names)}" for _ in range(chance.randrange(1, 4)))
        if chance.random() < 0.2:
            timed.discard(path)
            twin.pop(path, None)
        elif chance.random() < 0.3:
            timed.discard_all(path)
            twin = {each: when for each, when in twin.items() if not f"{each}/".startswith(f"{path}/")}
        else:
            twin[path] = float(chance.randrange(100))
            timed.put(path, twin[path])
            assert len(timed._heap) <= 2 * len(twin) + 101
        assert timed.next() == min(twin.values(), default=float("inf"))
        assert len(timed) == len(twin) == len(timed._paths)
        if twin:
            assert twin[timed.first()] == timed.next()
