"""Network config and leases in both APIs, of netstored and of a real etcd: one behaviour."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from netstore.client import subnets_v2
from netstore.client.grpc import Channel
from netstore.client.subnets_v2 import V2Subnets
from netstore.client.subnets_v3 import V3Subnets
from netstore.client.subnetstore import (
    Differs,
    Entry,
    HistoryLost,
    Missing,
    NoFolder,
    Removed,
    RemovedTogether,
    SubnetStore,
    Written,
)
from netstore.client.transport import Transport
from netstore.client.v2 import Poll, V2Client
from netstore.client.v3 import V3Client
from netstore.proto import rpc_pb2 as pb
from tests.support.daemon import start_netstored
from tests.support.patience import seconds
from tests.support.peers import start_etcd
from tests.support.v3client import V3Client as OtherClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from netstore.client.subnetstore import Feed, Listing
    from tests.support.daemon import Daemon

A, B, C = "10.23.1.0-24", "10.23.2.0-24", "10.23.3.0-24"

_prefixes = iter(range(10**6))


@pytest.fixture(scope="module", params=["netstored", pytest.param("etcd", marks=pytest.mark.peer("etcd"))])
def daemon(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    start = start_netstored if request.param == "netstored" else start_etcd
    with start(tmp_path_factory.mktemp(request.param)) as daemon:
        yield daemon


@pytest.fixture(params=["v2", "v3"])
def api(request: pytest.FixtureRequest) -> str:
    api: str = request.param
    return api


@asynccontextmanager
async def opened(daemon: Daemon, api: str) -> AsyncIterator[SubnetStore]:
    """The subnets under a prefix that no other test uses."""
    prefix = f"/net{next(_prefixes)}"
    if api == "v2":
        async with V2Client(Transport(daemon.url)) as client:
            yield V2Subnets(client, prefix)
    else:
        async with trio.open_nursery() as nursery:
            yield V3Subnets(V3Client(Channel(nursery, daemon.url)), prefix)
            nursery.cancel_scope.cancel()


def shown(entry: object) -> tuple[str, str | None, int, int | None]:
    """An entry without what only this API tells of it."""
    assert isinstance(entry, Entry)
    return entry.name, entry.value, entry.modified, entry.ttl


async def changes(feed: Feed, count: int) -> list[Entry | Removed | RemovedTogether]:
    """The next changes of a feed, this many at least."""
    found: list[Entry | Removed | RemovedTogether] = []
    with trio.fail_after(seconds(20)):
        while len(found) < count:
            found += (await feed.news(seconds(5))).changes
    return found


async def test_an_entry_from_its_creation_to_its_removal(daemon: Daemon, api: str) -> None:
    async with opened(daemon, api) as store:
        created = await store.create(A, "one", 1000)
        assert isinstance(created, Written)
        assert await store.create(A, "two", 1000) == Differs()
        entry = await store.entry(A)
        assert isinstance(entry, Entry)
        assert (entry.name, entry.value, entry.modified, entry.created) == (
            A,
            "one",
            created.index,
            created.index,
        )
        assert entry.ttl is not None
        assert 900 < entry.ttl <= 1000
        assert await store.replace(A, "two", created.index - 1, 1000) == Differs()
        replaced = await store.replace(A, "two", created.index, None)
        assert isinstance(replaced, Written)
        assert replaced.index > created.index
        assert shown(await store.entry(A)) == (A, "two", replaced.index, None)
        assert await store.remove(A, created.index) == Differs()
        removed = await store.remove(A, replaced.index)
        assert isinstance(removed, Written)
        for gone in (
            await store.remove(A, replaced.index),
            await store.replace(A, "x", replaced.index, 10),
            await store.entry(A),
        ):
            assert isinstance(gone, Missing)
            assert gone.index >= removed.index


async def test_a_renewal_begins_the_time_anew(daemon: Daemon, api: str) -> None:
    async with opened(daemon, api) as store:
        created = await store.create(A, "one", 1000)
        assert isinstance(created, Written)
        await trio.sleep(3.5)  # fixed: more than what the entry has less then
        began = time.monotonic()
        renewed = await store.replace(A, "one", created.index, 1000)
        assert isinstance(renewed, Written)
        entry = await store.entry(A)
        assert isinstance(entry, Entry)
        assert (entry.ttl or 0) >= 998 - (time.monotonic() - began)
        assert entry.modified == renewed.index
        assert (renewed.index == created.index) is (api == "v3"), "a keepalive is no write"
        shorter = await store.replace(A, "one", renewed.index, 500)
        assert isinstance(shorter, Written)
        entry = await store.entry(A)
        assert isinstance(entry, Entry)
        assert (entry.ttl or 0) <= 500


async def test_a_renewal_finds_an_entry_that_another_wrote_or_removed(daemon: Daemon, api: str) -> None:
    async with opened(daemon, api) as store:
        created = await store.create(A, "one", 1000)
        assert isinstance(created, Written)
        if api == "v3":
            other = OtherClient(daemon.url)
            other.kv.Put(pb.PutRequest(key=f"{store.prefix}/subnets/{A}".encode(), value=b"theirs"))
            assert await store.replace(A, "one", created.index, 1000) == Differs()
            other.kv.DeleteRange(pb.DeleteRangeRequest(key=f"{store.prefix}/subnets/{A}".encode()))
            other.close()
        else:
            async with V2Client(Transport(daemon.url)) as hand:
                await hand.set(f"{store.prefix}/subnets/{A}", "theirs")
                assert await store.replace(A, "one", created.index, 1000) == Differs()
                await hand.delete(f"{store.prefix}/subnets/{A}")
        assert isinstance(await store.replace(A, "one", created.index, 1000), Missing)


async def test_a_listing_has_the_entries_alone(daemon: Daemon, api: str) -> None:
    async with opened(daemon, api) as store:
        assert await store.config() is None
        empty = await store.entries()
        assert (list(empty.entries), empty.index > 0) == ([], True)
        for name in (A, B):
            await store.create(name, name, 1000 if name == A else None)
        await store.create(f"deep/{C}", "nested", None)
        listing = await store.entries()
        files = {entry.name: entry for entry in listing.entries if entry.value is not None}
        assert {name: entry.value for name, entry in files.items()} == {A: A, B: B}
        assert (files[A].ttl is None, files[B].ttl is None) == (False, True)
        assert listing.index >= files[B].modified > empty.index
        assert listing.store_id == empty.store_id != ""


async def test_changes_are_told_in_order_without_a_gap(daemon: Daemon, api: str) -> None:
    async with opened(daemon, api) as store:
        first = await store.create(A, "one", 1000)
        assert isinstance(first, Written)
        listing: Listing = await store.entries()
        second = await store.create(B, "two", None)
        assert isinstance(second, Written)
        async with store.follow(listing.index, listing.store_id) as feed:
            [entry] = await changes(feed, 1)
            assert shown(entry) == (B, "two", second.index, None)
            news = await feed.news(0.05)  # fixed: nothing comes
            assert (list(news.changes), news.index >= second.index, news.ended_early) == ([], True, False)
            await store.create(f"deep/{C}", "nested", None)
            removed = await store.remove(A, first.index)
            third = await store.create(C, "three", 1000)
            assert isinstance(removed, Written)
            assert isinstance(third, Written)
            gone, new = await changes(feed, 2)
            assert gone == Removed(A, removed.index)
            assert isinstance(new, Entry)
            assert (new.name, new.value, new.modified, new.ttl is None) == (C, "three", third.index, False)
            assert new.created == third.index
            fourth = await store.replace(C, "four", third.index, 1000)
            assert isinstance(fourth, Written)
            [changed] = await changes(feed, 1)
            assert isinstance(changed, Entry)
            assert (changed.modified, changed.created) == (fourth.index, third.index)
            listed = {each.name: each.created for each in (await store.entries()).entries}
            assert listed[C] == third.index
        async with store.follow(listing.index, listing.store_id) as again:
            assert len(await changes(again, 4)) == 4


async def test_several_that_are_removed_by_one_change(daemon: Daemon, api: str) -> None:
    async with opened(daemon, api) as store:
        for name in (A, B, C):
            await store.create(name, name, 1000)
        listing = await store.entries()
        async with store.follow(listing.index, listing.store_id) as feed:
            folder = f"{store.prefix}/subnets"
            if api == "v3":
                other = OtherClient(daemon.url)
                other.kv.DeleteRange(
                    pb.DeleteRangeRequest(key=f"{folder}/".encode(), range_end=f"{folder}0".encode())
                )
                other.close()
            else:
                async with V2Client(Transport(daemon.url)) as hand:
                    await hand.delete(folder, recursive=True)
            [gone] = await changes(feed, 1)
            assert isinstance(gone, RemovedTogether)
            assert gone.index > listing.index


async def test_an_entry_that_expires_is_removed(daemon: Daemon, api: str) -> None:
    async with opened(daemon, api) as store:
        listing = await store.entries()
        await store.create(A, "one", 1)
        async with store.follow(listing.index, listing.store_id) as feed:
            created, gone = await changes(feed, 2)
            assert isinstance(created, Entry)
            assert isinstance(gone, Removed)
            assert gone.name == A


@pytest.mark.parametrize("what", ["another store", "an index ahead"])
async def test_another_store_has_another_history(daemon: Daemon, api: str, what: str) -> None:
    async with opened(daemon, api) as store:
        listing = await store.entries()
        index, store_id = listing.index, listing.store_id
        if what == "another store":
            store_id = "0"
        else:
            index += 1000
        async with store.follow(index, store_id) as feed:
            with pytest.raises(HistoryLost, match="replaced"):
                await feed.news(seconds(5))


async def test_changes_that_were_compacted_are_lost(daemon: Daemon) -> None:
    async with opened(daemon, "v3") as store:
        listing = await store.entries()
        for number in range(3):
            await store.create(f"10.23.{number}.0-24", "x", None)
        other = OtherClient(daemon.url)
        other.kv.Compact(pb.CompactionRequest(revision=(await store.entries()).index))
        other.close()
        async with store.follow(listing.index, listing.store_id) as feed:
            with pytest.raises(HistoryLost, match="compacted"):
                await feed.news(seconds(5))


async def test_the_config_is_written_only_over_the_one_that_was_read(daemon: Daemon, api: str) -> None:
    async with opened(daemon, api) as store:
        assert isinstance(await store.write_config("one", 7), Missing)
        created = await store.write_config("one", 0)
        assert isinstance(created, Written)
        assert await store.write_config("two", 0) == Differs()
        assert await store.write_config("two", created.index - 1) == Differs()
        changed = await store.write_config("two", created.index)
        assert isinstance(changed, Written)
        found = await store.config()
        assert shown(found) == ("config", "two", changed.index, None)


async def test_a_listing_can_be_told_how_much_time_its_entries_have(daemon: Daemon, api: str) -> None:
    async with opened(daemon, api) as store:
        for number in range(40):
            await store.create(f"10.23.{number}.0-24", "x", 1000 + number * 100 if number else None)
        found = await store.timed((await store.entries()).entries)
        assert len(found) == 40
        for entry in found:
            number = int(entry.name.split(".")[2])
            assert entry.created == entry.modified
            assert entry.is_timed
            if number:
                assert entry.ttl is not None
                assert 900 + number * 100 < entry.ttl <= 1000 + number * 100
            else:
                assert entry.ttl is None


async def test_the_past_is_told(daemon: Daemon, api: str) -> None:
    async with opened(daemon, api) as store:
        assert list((await store.history(lambda _: True, 100)).changes) == []
        one = await store.create(A, "one", 1000)
        other = await store.create(B, "other", None)
        assert isinstance(one, Written)
        assert isinstance(other, Written)
        two = await store.replace(A, "two", one.index, 1000)
        assert isinstance(two, Written)
        await store.remove(A, two.index)
        past = await store.history(lambda change: change.name == A, 100)
        assert [(change.value, change.previous) for change in past.changes] == [
            ("one", None),
            ("two", "one"),
            (None, "two"),
        ]
        assert past.first <= one.index
        assert past.last >= two.index + 1
        assert [change.index for change in past.changes][:2] == [one.index, two.index]
        if api == "v2":
            first = past.changes[0].time
            assert first is not None
            assert abs(first - time.time()) < 60 * 60
        else:
            assert all(change.time is None for change in past.changes)
        everything = (await store.history(lambda _: True, 100)).changes
        assert [change.permanent for change in everything] == [False, True, False, False]
        newest = await store.history(lambda _: True, 2)
        assert [change.value for change in newest.changes] == ["two", None]
        assert newest.first == two.index


async def test_what_was_before_the_past_that_is_left_is_told(daemon: Daemon) -> None:
    """v3 after a compaction: the holders then, and the changes since."""
    async with opened(daemon, "v3") as store:
        created = await store.create(A, "one", 1000)
        assert isinstance(created, Written)
        last = await store.replace(A, "two", created.index, 1000)
        assert isinstance(last, Written)
        other = OtherClient(daemon.url)
        try:
            other.kv.Compact(pb.CompactionRequest(revision=last.index))
        finally:
            other.close()
        await store.create(B, "new", None)
        past = await store.history(lambda _: True, 100)
        assert past.first == last.index + 1
        assert [shown(entry)[:2] for entry in past.before] == [(A, "two")]
        assert [(change.name, change.value) for change in past.changes] == [(B, "new")]


async def test_a_window_that_went_on_begins_with_who_held_it_then(daemon: Daemon) -> None:
    """v2 after more than a thousand events of others."""
    async with V2Client(Transport(daemon.url)) as client:
        store = V2Subnets(client, f"/net{next(_prefixes)}")
        old = await store.create(A, "one", 1000)
        kept = await store.create(C, "kept", None)
        assert isinstance(old, Written)
        assert isinstance(kept, Written)
        for _ in range(1001):
            await client.set("/noise", "x")
        await store.replace(A, "two", old.index, 1000)
        past = await store.history(lambda _: True, 100)
        assert past.first > kept.index
        assert sorted((entry.name, entry.value) for entry in past.before) == [(A, "one"), (C, "kept")]
        assert [(change.name, change.value, change.previous) for change in past.changes] == [
            (A, "two", "one")
        ]


class SlowFolder(V2Client):
    """The event of a long poll comes too late, unless that is one of the whole store."""

    @asynccontextmanager
    async def poll(
        self, key: str, *, index: int | None = None, recursive: bool = False
    ) -> AsyncIterator[Poll]:
        async with super().poll(key, index=index, recursive=recursive) as poll:
            yield poll if key == "/" else Silent(poll)


class Silent(Poll):
    def __init__(self, poll: Poll) -> None:
        self.etcd_index = poll.etcd_index

    async def event(self, limit: float = 0.0) -> None:
        await trio.lowlevel.checkpoint()


async def test_the_past_ends_on_proof_and_not_on_silence(daemon: Daemon) -> None:
    async with SlowFolder(Transport(daemon.url)) as client:
        store = V2Subnets(client, f"/net{next(_prefixes)}")
        await store.create(A, "one", 1000)
        await client.set("/noise", "x")
        await store.create(B, "other", None)
        await client.set("/noise", "x")
        past = await store.history(lambda _: True, 100)
    assert [(change.name, change.value) for change in past.changes] == [(A, "one"), (B, "other")]
    assert past.proven == past.last


async def test_what_no_event_proves_is_told(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subnets_v2, "PAST_SECONDS", 0.5)
    async with V2Client(Transport(daemon.url)) as client:
        store = V2Subnets(client, f"/net{next(_prefixes)}")
        await store.create(A, "one", 1000)
        noise = await client.set("/noise", "x", ttl=1000)
        await client.refresh("/noise", 1000)
        past = await store.history(lambda _: True, 100)
    assert [change.value for change in past.changes] == ["one"]
    assert (past.proven, past.last) == (noise.node.modified_index, noise.node.modified_index + 1)


async def test_the_removal_of_a_folder_with_a_shorter_name_is_of_no_lease(daemon: Daemon) -> None:
    async with V2Client(Transport(daemon.url)) as client:
        prefix = f"/net{next(_prefixes)}"
        store = V2Subnets(client, f"{prefix}work")
        await client.mkdir(prefix)
        await store.create(A, "one", 1000)
        await client.delete(prefix, recursive=True)
        past = await store.history(lambda _: True, 100)
    assert [(change.name, change.value) for change in past.changes] == [(A, "one")]


async def test_a_file_where_the_leases_should_be_is_no_empty_listing(daemon: Daemon) -> None:
    async with V2Client(Transport(daemon.url)) as client:
        store = V2Subnets(client, f"/net{next(_prefixes)}")
        await client.set(f"{store.prefix}/subnets", "x")
        with pytest.raises(NoFolder, match="is a file, and no daemon can put a lease below it"):
            await store.entries()
