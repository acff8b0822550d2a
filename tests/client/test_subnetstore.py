"""Network config and leases in both APIs, of netstored and of a real etcd: one behaviour."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from netstore.client.grpc import Channel
from netstore.client.subnets_v2 import V2Subnets
from netstore.client.subnets_v3 import V3Subnets
from netstore.client.subnetstore import (
    Differs,
    Entry,
    HistoryLost,
    Missing,
    Removed,
    RemovedTogether,
    SubnetStore,
    Written,
)
from netstore.client.transport import Transport
from netstore.client.v2 import V2Client
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
        assert await store.entry(A) == Entry(A, "two", replaced.index, None, created.index)
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
        await trio.sleep(2.5)  # fixed: more than what the entry has less then
        renewed = await store.replace(A, "one", created.index, 1000)
        assert isinstance(renewed, Written)
        entry = await store.entry(A)
        assert isinstance(entry, Entry)
        assert (entry.ttl or 0) >= 998
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
            assert entry == Entry(B, "two", second.index, None, second.index)
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
        await store.create(A, "one", 1)
        listing = await store.entries()
        async with store.follow(listing.index, listing.store_id) as feed:
            [gone] = await changes(feed, 1)
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
