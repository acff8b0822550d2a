"""What the v3 form of the subnets does with the leases it was granted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from netstore.client.faults import BadAnswer, Unreachable
from netstore.client.grpc import Status
from netstore.client.subnets_v3 import MAX_UNSURE, V3Subnets
from netstore.client.subnetstore import Differs, Entry, HistoryLost, Written
from tests.agent.fake_store_v3 import FakeV3Store, FakeWatch
from tests.agent.stores import subnets

if TYPE_CHECKING:
    from trio.testing import MockClock

    from netstore.proto import rpc_pb2 as pb

A = "10.23.1.0-24"
DENIED = Status("http://store", 7, "permission denied", write=True)


@pytest.mark.usefixtures("autojump_clock")
async def test_a_write_that_is_refused_leaves_no_lease() -> None:
    store = FakeV3Store()
    store.write_error = DENIED
    kept = subnets(store)
    for _ in range(5):
        with pytest.raises(Status, match="permission denied"):
            await kept.create(A, "one", 86_400)
    await kept.settle()
    assert store.granted == {}


@pytest.mark.usefixtures("autojump_clock")
async def test_a_write_whose_outcome_is_unknown_leaves_one_lease_for_the_next() -> None:
    store = FakeV3Store()
    kept = subnets(store)
    store.write_error = Unreachable([("http://store", "no answer")], outcome_known=False)
    for _ in range(5):
        with pytest.raises(Unreachable):
            await kept.create(A, "one", 86_400)
    assert store.granted == {1: 86_400}
    store.write_error = DENIED
    with pytest.raises(Status):
        await kept.create(A, "one", 86_400)
    assert store.granted == {1: 86_400}, "the first write may still be done"
    store.write_error = None
    assert isinstance(await kept.create(A, "one", 86_400), Written)
    assert (store.granted, list(store.attached.values())) == ({1: 86_400}, [1])


@pytest.mark.usefixtures("autojump_clock")
async def test_a_write_that_was_done_unheard_keeps_its_lease_and_its_key() -> None:
    store = FakeV3Store()
    kept = subnets(store)
    store.unheard_writes = 1
    with pytest.raises(Unreachable):
        await kept.create(A, "one", 86_400)
    assert await kept.create(A, "one", 86_400) == Differs()
    entry = await kept.entry(A)
    assert isinstance(entry, Entry), "the lease was not revoked with the key"
    for value, ttl in (("two", 86_400), ("three", 600)):
        written = await kept.replace(A, value, entry.modified, ttl)
        assert isinstance(written, Written)
        await kept.settle()
        entry = await kept.entry(A)
        assert isinstance(entry, Entry)
        assert list(store.granted) == list(store.attached.values()), "no other lease is left"


@pytest.mark.usefixtures("autojump_clock")
async def test_an_unsure_lease_of_another_ttl_is_revoked_after_the_next_write() -> None:
    store = FakeV3Store()
    kept = subnets(store)
    store.unheard_writes = 1
    with pytest.raises(Unreachable):
        await kept.create(A, "one", 86_400)
    entry = await kept.entry(A)
    assert isinstance(entry, Entry)
    assert isinstance(await kept.replace(A, "one", entry.modified, 600), Written)
    assert list(store.granted) == [1, 2], "the outcome is told first"
    await kept.settle()
    assert (store.granted, list(store.attached.values())) == ({2: 600}, [2])


@pytest.mark.usefixtures("autojump_clock")
async def test_unsure_leases_are_kept_for_a_bounded_number_of_names() -> None:
    store = FakeV3Store()
    kept = subnets(store)
    assert isinstance(kept, V3Subnets)
    store.write_error = Unreachable([("http://store", "no answer")], outcome_known=False)
    for number in range(MAX_UNSURE + 5):
        with pytest.raises(Unreachable):
            await kept.create(f"10.23.{number}.0-24", "one", 86_400)
    assert len(kept._unsure) == MAX_UNSURE


@pytest.mark.usefixtures("autojump_clock")
async def test_a_watch_at_a_member_that_is_behind_is_not_one_of_another_store() -> None:
    store = FakeV3Store()
    kept = subnets(store)
    listing = await kept.entries()
    store.lag = 2
    async with kept.follow(listing.index, listing.store_id) as feed:
        await feed.news(0.0005)  # fixed: cuts the read short, by the clock of the test
        written = await kept.create(A, "one", 600)
        assert isinstance(written, Written)
        assert (await feed.news(5)).index == written.index
    store.lag, reads = 0, store.gets
    async with kept.follow(written.index + 1, listing.store_id) as feed:
        with pytest.raises(HistoryLost, match="replaced"):
            await feed.news(5)
    assert store.gets == reads + 1


async def test_a_past_that_is_not_told_whole_is_no_past(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    store = FakeV3Store()
    kept = subnets(store)
    begin = store.index

    async def compacted(_: V3Subnets) -> int:
        return begin

    monkeypatch.setattr(V3Subnets, "_compacted", compacted)
    written = await kept.create(A, "one", 600)
    assert isinstance(written, Written)
    store.put("/other", "x", None)
    past = await kept.history(lambda _: True, 100)
    assert past.last == store.index > written.index

    async def silent(_: FakeWatch) -> pb.WatchResponse:
        await trio.sleep_forever()

    monkeypatch.setattr(FakeWatch, "answer", silent)
    with pytest.raises(BadAnswer, match="has told nothing more of its history for"):
        await kept.history(lambda _: True, 100)
