"""The lease watcher with a store that fails, loses events and is replaced, with a mock clock."""

from __future__ import annotations

import json
from collections import OrderedDict
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from netstore.agent.leasewatcher import (
    GRACE_PERIOD,
    POLL_TIMEOUT,
    RELIST_INTERVAL,
    RETRY_DELAYS,
    LeaseWatcher,
)
from netstore.agent.problems import ProblemLog
from netstore.client.grpc import UNAVAILABLE, Status
from netstore.client.subnetstore import Entry, Listing, News
from netstore.client.v2 import V2Error
from tests.agent.entropy import LowestEntropy
from tests.agent.fake_store import PREFIX
from tests.agent.fake_store_v3 import FakeV3Store
from tests.agent.stores import APIS, fake, subnets
from tests.support.log import KeptLog

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Iterator

    from trio.testing import MockClock

    from netstore.client.subnetstore import SubnetStore

FOLDER = f"{PREFIX}/subnets"
A, B, C = "10.23.1.0-24", "10.23.2.0-24", "10.23.3.0-24"


class Scene:
    """A store, a watcher, and the log."""

    def __init__(self, api: str) -> None:
        self.store = fake(api)
        self.recorded = KeptLog()
        self.changes = 0
        self.names: set[str] = set()
        self.watcher = LeaseWatcher(
            subnets(self.store),
            ProblemLog(self.recorded),
            LowestEntropy(),
            self._changed,
        )

    def _changed(self, names: Collection[str]) -> None:
        self.changes += 1
        self.names.update(names)

    def held(self) -> set[str]:
        return set(self.watcher.leases)

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        await self.watcher.list_once()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.watcher.run)
            await trio.testing.wait_all_tasks_blocked()
            yield
            nursery.cancel_scope.cancel()


@pytest.fixture(params=APIS)
def scene(request: pytest.FixtureRequest) -> Scene:
    return Scene(request.param)


async def settle(seconds: float = 0.1) -> None:
    await trio.sleep(seconds)  # fixed: by the clock of the test


@pytest.mark.trio
async def test_it_lists_and_follows(autojump_clock: MockClock, scene: Scene) -> None:
    scene.store.lease(A, "192.168.77.12")
    async with scene.following():
        assert scene.held() == {A}
        scene.store.lease(B, "192.168.77.13")
        await settle()
        scene.store.remove(f"{FOLDER}/{A}")
        await settle()
        assert scene.held() == {B}
        scene.store.lease(B, "192.168.77.14")
        await settle()
        assert scene.watcher.leases[B].public_ip & 255 == 14
    assert scene.store.gets == 1


@pytest.mark.trio
async def test_the_names_of_the_leases_that_changed_are_told(autojump_clock: MockClock, scene: Scene) -> None:
    def told() -> set[str]:
        names, scene.names = scene.names, set()
        return names

    scene.store.lease(A, "192.168.77.12")
    scene.store.lease(B, "192.168.77.13")
    scene.store.lease(C, "192.168.77.15")
    async with scene.following():
        assert told() == {A, B, C}
        scene.store.lease(B, "192.168.77.14")
        await settle()
        assert told() == {B}
        scene.store.remove(f"{FOLDER}/{A}")
        await settle()
        assert told() == {A}
        scene.store.remove(FOLDER)  # together: they stay for the grace period
        await settle()
        assert (told(), scene.held()) == ({B, C}, {B, C})
        await settle(GRACE_PERIOD + 1)
        assert (told(), scene.held()) == ({B, C}, set())


@pytest.mark.trio
async def test_a_missing_folder_is_empty_but_an_error_is_not(autojump_clock: MockClock, scene: Scene) -> None:
    scene.store.put("/elsewhere", "x")
    await scene.watcher.list_once()
    assert (scene.held(), scene.watcher.index) == (set(), scene.store.index)
    scene.store.lease(A, "192.168.77.12")
    await scene.watcher.list_once()
    scene.store.down = True
    with pytest.raises(Exception, match="no endpoint answered"):
        await scene.watcher.list_once()
    assert scene.held() == {A}


@pytest.mark.trio
async def test_an_invalid_entry_is_separate_until_it_is_corrected(
    autojump_clock: MockClock, scene: Scene
) -> None:
    async with scene.following():
        scene.store.put(f"{FOLDER}/{A}", "junk")
        scene.store.put(f"{FOLDER}/10.23.9.9-32", '{"PublicIP":"192.168.77.12"}')
        scene.store.put(f"{FOLDER}/deep/{B}", '{"PublicIP":"192.168.77.12"}')
        scene.store.lease(C, "192.168.77.13")
        await settle()
        assert scene.held() == {C}
        assert set(scene.watcher.invalid) == {A, "10.23.9.9-32"}
        scene.store.lease(A, "192.168.77.12")
        scene.store.remove(f"{FOLDER}/10.23.9.9-32")
        await settle()
        assert (scene.held(), scene.watcher.invalid) == ({A, C}, {})


@pytest.mark.trio
async def test_errors_are_logged_once_and_no_event_is_missed(autojump_clock: MockClock, scene: Scene) -> None:
    async with scene.following():
        scene.store.down = True
        scene.store.cut()
        scene.store.lease(A, "192.168.77.12")
        start = trio.current_time()
        await settle(30)
        assert len(scene.recorded.told("leases_not_followed")) == 1
        scene.store.down = False
        await settle(RETRY_DELAYS[-1] * 2)
        assert scene.held() == {A}
        assert len(scene.recorded.told("leases_followed_again")) == 1
        assert scene.store.gets == 1, "the watch continued at the old index"
        assert trio.current_time() > start


@pytest.mark.trio
async def test_polls_that_end_at_once_are_repeated_with_a_delay(
    autojump_clock: MockClock, scene: Scene
) -> None:
    async with scene.following():
        before = scene.store.polls
        for _ in range(100):
            scene.store.cut()
            await trio.testing.wait_all_tasks_blocked()
        assert scene.store.polls - before <= 2


@pytest.mark.trio
async def test_events_cleared_from_the_window_lead_to_a_listing(
    autojump_clock: MockClock, scene: Scene
) -> None:
    async with scene.following():
        scene.store.down = True
        scene.store.cut()
        scene.store.lease(A, "192.168.77.12")
        for _ in range(1100):
            scene.store.put("/noise", "x")
        scene.store.down = False
        await settle(10)
        assert scene.held() == {A}
        assert scene.store.gets == 2
        assert not scene.recorded.told("store_rebuilt")


@pytest.mark.trio
@pytest.mark.parametrize(("cluster_id", "index"), [("c2", 3), ("c1", 3), ("c2", 5000)])
async def test_a_replaced_store_is_noticed_and_its_leases_have_a_grace_period(
    autojump_clock: MockClock, scene: Scene, cluster_id: str, index: int
) -> None:
    for name in (A, B):
        scene.store.lease(name, "192.168.77.12")
    for _ in range(10):
        scene.store.put("/noise", "x")
    async with scene.following():
        scene.store.rebuild(cluster_id=cluster_id, index=index)
        await settle(1)
        assert scene.watcher.generation == 1
        assert scene.watcher.entries == {}
        assert scene.held() == {A, B}, "kept until their nodes have written them again"
        scene.store.lease(A, "192.168.77.12")
        await settle(GRACE_PERIOD + 1)
        assert scene.held() == {A}
        assert len(scene.recorded.told("store_rebuilt")) == 1


@pytest.mark.trio
@pytest.mark.parametrize("scene", ["v2"], indirect=True)
async def test_an_index_that_went_backwards_is_noticed_by_the_next_poll(
    autojump_clock: MockClock,
    scene: Scene,
) -> None:
    scene.store.lease(A, "192.168.77.12")
    async with scene.following():
        scene.store.files, scene.store.history, scene.store.index = {}, [], 1
        await settle(POLL_TIMEOUT + GRACE_PERIOD + 1)
        assert scene.watcher.generation == 1
        assert scene.held() == set()


@pytest.mark.trio
@pytest.mark.parametrize("folder", [FOLDER, PREFIX])
async def test_leases_of_a_removed_folder_have_a_grace_period(
    autojump_clock: MockClock, scene: Scene, folder: str
) -> None:
    for name in (A, B):
        scene.store.lease(name, "192.168.77.12")
    async with scene.following():
        scene.store.remove(folder)
        await settle()
        assert (scene.watcher.entries, scene.held()) == ({}, {A, B})
        scene.store.lease(A, "192.168.77.12")
        await settle(GRACE_PERIOD - 1)
        assert scene.held() == {A, B}
        await settle(2)
        assert scene.held() == {A}


@pytest.mark.trio
async def test_a_lease_removed_in_its_grace_period_is_removed_at_once(
    autojump_clock: MockClock, scene: Scene
) -> None:
    scene.store.lease(A, "192.168.77.12")
    async with scene.following():
        scene.store.remove(FOLDER)
        await settle()
        scene.store.lease(A, "192.168.77.12")
        scene.store.remove(f"{FOLDER}/{A}")
        await settle()
        assert scene.held() == set()


@pytest.mark.trio
async def test_far_behind_it_lists_instead_of_polling_for_single_events(
    autojump_clock: MockClock, scene: Scene
) -> None:
    async with scene.following():
        for number in range(200):
            scene.store.lease(f"10.23.{number}.0-24", "192.168.77.12")
        await settle()
        assert len(scene.held()) == 200
        assert scene.store.polls < 10


@pytest.mark.trio
@pytest.mark.parametrize("scene", ["v2"], indirect=True)
async def test_polls_without_events_advance_the_index_within_the_window(
    autojump_clock: MockClock, scene: Scene
) -> None:
    async with scene.following():
        for _ in range(5):
            for _ in range(400):
                scene.store.put("/noise", "x")
            await settle(POLL_TIMEOUT + 1)
        await settle(2 * POLL_TIMEOUT)
        assert scene.watcher.index == scene.store.index
        assert scene.store.gets == 1


@pytest.mark.trio
async def test_it_lists_again_at_the_relist_interval(autojump_clock: MockClock, scene: Scene) -> None:
    async with scene.following():
        await settle(3600)
    assert 6 <= scene.watcher.listings <= 8


@pytest.mark.trio
async def test_other_errors_of_the_store_are_logged(autojump_clock: MockClock, scene: Scene) -> None:
    async with scene.following():
        if isinstance(scene.store, FakeV3Store):
            scene.store.error = Status("http://store", UNAVAILABLE, "etcdserver: no leader")
        else:
            scene.store.error = V2Error(300, "Raft Internal Error", "no leader")
        scene.store.cut()
        await settle(5)
        assert "no leader" in str(scene.recorded.told("leases_not_followed")[0]["reason"])
        scene.store.lease(A, "192.168.77.12")
        await settle()
        assert scene.held() == {A}


histories = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "set",
                "set",
                "junk",
                "delete",
                "folder",
                "down",
                "up",
                "cut",
                "noise",
                "rebuild",
                "older",
                "wait",
            ]
        ),
        st.sampled_from([A, B, C]),
        st.integers(12, 14),
    ),
    max_size=30,
)


@pytest.mark.trio
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(APIS), histories)
async def test_after_any_history_the_leases_equal_the_stores(
    autojump_clock: MockClock, api: str, history: list[tuple[str, str, int]]
) -> None:
    scene = Scene(api)
    store = scene.store
    async with scene.following():
        for what, name, host in history:
            match what:
                case "set":
                    store.lease(name, f"192.168.77.{host}")
                case "junk":
                    store.put(f"{FOLDER}/{name}", "junk")
                case "delete" if f"{FOLDER}/{name}" in store.files:
                    store.remove(f"{FOLDER}/{name}")
                case "folder" if store.files:
                    store.remove(FOLDER)
                case "down" | "up":
                    store.down = what == "down"
                case "cut":
                    store.cut()
                case "noise":
                    for _ in range(1001):
                        store.put("/noise", "x")
                case "rebuild":
                    store.rebuild(cluster_id=f"another{store.life}", index=store.index)
                case "older" if store.index > 3:
                    store.rebuild(cluster_id=store.cluster_id, index=3)
                case _:
                    await settle(0.3 * (host - 11))
        store.down = False
        # If a store's index went backwards and then grew past the old index between two polls, only the
        # periodic listing finds the difference. Everything else is found within a few polls.
        await settle(
            RELIST_INTERVAL * 1.2 if any(what == "older" for what, _, _ in history) else 3 * POLL_TIMEOUT
        )
        expected: dict[str, Any] = {
            name.rpartition("/")[2]: kept.value for name, kept in store.files.items() if FOLDER in name
        }
        assert {name: seen.value for name, seen in scene.watcher.entries.items()} == expected
        usable = {name for name, value in expected.items() if value != "junk"}
        assert scene.held() == usable
        assert scene.watcher.index == store.index


@pytest.mark.trio
async def test_grace_periods_that_began_again_end_in_their_order(
    autojump_clock: MockClock, scene: Scene
) -> None:
    for name, address in ((A, "192.168.77.12"), (B, "192.168.77.13")):
        scene.store.lease(name, address)
    async with scene.following():
        scene.store.rebuild(cluster_id="c2")
        await settle(5)
        scene.store.lease(A, "192.168.77.12")
        await settle(1)
        scene.store.rebuild(cluster_id="c3")
        await settle(GRACE_PERIOD - 4)
        assert scene.held() == {A}, "B has been gone for longer"
        assert [*scene.watcher._grace_ends.values()] == sorted(scene.watcher._grace_ends.values())
        await settle(5)
        assert scene.held() == set()


@pytest.mark.trio
async def test_the_first_grace_period_alone_is_looked_at(autojump_clock: MockClock, scene: Scene) -> None:
    class Counted(OrderedDict[str, float]):
        looks = 0

        def __iter__(self) -> Iterator[str]:
            for name in super().__iter__():
                Counted.looks += 1
                yield name

        def values(self) -> Any:
            Counted.looks += len(self)
            return super().values()

        def items(self) -> Any:
            Counted.looks += len(self)
            return super().items()

    count = 1000
    ends = ((str(number), trio.current_time() + GRACE_PERIOD) for number in range(count))
    scene.watcher._grace_ends = Counted(ends)
    for _ in range(count):
        scene.watcher._end_grace_periods(trio.current_time())
    assert Counted.looks <= count
    scene.watcher._end_grace_periods(trio.current_time() + GRACE_PERIOD)
    assert not scene.watcher._grace_ends


class Scripted:
    """A store that answers what a test says, when it does."""

    def __init__(self) -> None:
        self.listing = listing(90, "host-gw", 10)
        self.may_list = trio.Event()
        self.may_list.set()
        self.tell, self._told = trio.open_memory_channel[News](1)
        self.followed: list[int] = []

    async def entries(self) -> Listing:
        found = self.listing
        await self.may_list.wait()
        return found

    @asynccontextmanager
    async def follow(self, index: int, store_id: str) -> AsyncIterator[Scripted]:
        await trio.lowlevel.checkpoint()
        self.followed.append(index)
        yield self

    async def news(self, limit: float) -> News:
        return await self._told.receive()


def entry(kind: str, modified: int) -> Entry:
    return Entry(A, json.dumps({"PublicIP": "192.168.77.12", "BackendType": kind}), modified, 86_400, 10)


def listing(index: int, kind: str, modified: int) -> Listing:
    return Listing([entry(kind, modified)], index, "one")


@asynccontextmanager
async def scripted() -> AsyncIterator[tuple[Scripted, LeaseWatcher]]:
    store = Scripted()
    log = ProblemLog(KeptLog())
    watcher = LeaseWatcher(cast("SubnetStore", store), log, LowestEntropy(), lambda _: None)
    await watcher.list_once()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watcher.run)
        await trio.testing.wait_all_tasks_blocked()
        yield store, watcher
        nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_a_feed_does_not_undo_a_listing_that_is_newer(autojump_clock: MockClock) -> None:
    async with scripted() as (store, watcher):
        store.listing = listing(100, "vxlan", 100)
        await watcher.list_once()
        await store.tell.send(News([entry("host-gw", 95)], 95))
        await trio.testing.wait_all_tasks_blocked()
        assert (watcher.leases[A].backend_type, watcher.index) == ("vxlan", 100)
        assert store.followed == [90, 100]
        await store.tell.send(News([entry("host-gw", 101)], 101))
        await trio.testing.wait_all_tasks_blocked()
        assert (watcher.leases[A].backend_type, watcher.index) == ("host-gw", 101)


@pytest.mark.trio
async def test_a_listing_that_is_older_than_the_feed_is_no_restored_store(autojump_clock: MockClock) -> None:
    async with scripted() as (store, watcher), trio.open_nursery() as nursery:
        store.may_list = trio.Event()
        nursery.start_soon(watcher.list_once)
        await trio.testing.wait_all_tasks_blocked()
        await store.tell.send(News([entry("vxlan", 95)], 95))
        await trio.testing.wait_all_tasks_blocked()
        store.may_list.set()
        await trio.testing.wait_all_tasks_blocked()
        assert (watcher.leases[A].backend_type, watcher.index) == ("vxlan", 95)
        assert watcher.generation == 0
