"""The plan as a node sees it, in both APIs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
import pytest
import trio

from netstore.agent.planwatcher import PlanWatcher
from netstore.agent.problems import ProblemLog
from netstore.network.migration import Change, Part, Phase, Plan, encode_part, encode_plan
from tests.agent.entropy import LowestEntropy
from tests.agent.fake_store import PREFIX
from tests.agent.stores import APIS, fake, subnets
from tests.support.log import KeptLog

if TYPE_CHECKING:
    from trio.testing import MockClock

    from tests.agent.fake_store import FakeStore

PLAN: Final = Plan("one", Phase.PREPARE, Change.BACKEND, "old", "new")
ME: Final = "192.168.77.11"
FOLDER: Final = f"{PREFIX}/migration"


class Watched:
    """A watcher, and the store."""

    def __init__(self, store: FakeStore) -> None:
        self.store = store
        self.log = KeptLog()
        self.changes = 0
        self.watcher = PlanWatcher(
            subnets(store, "migration"), ProblemLog(self.log), LowestEntropy(), self._changed
        )

    def _changed(self) -> None:
        self.changes += 1

    def put(self, name: str, text: str) -> None:
        self.store.put(f"{FOLDER}/{name}", text)


@pytest.fixture(params=APIS)
def watched(request: pytest.FixtureRequest) -> Watched:
    return Watched(fake(request.param))


@pytest.mark.trio
async def test_plan_and_parts_are_followed(
    autojump_clock: MockClock, nursery: trio.Nursery, watched: Watched
) -> None:
    watcher = watched.watcher
    await watcher.list_once()
    assert (watcher.plan, watcher.told) == (None, {})
    nursery.start_soon(watcher.run)
    watched.put("plan", encode_plan(PLAN))
    watched.put(ME, encode_part(Part("one", Phase.PREPARE)))
    watched.put("192.168.77.12", encode_part(Part("another", Phase.PREPARE)))
    watched.put("192.168.77.13", "{")
    await trio.sleep(1)  # fixed: by the clock of the test
    assert watcher.plan == PLAN
    assert watcher.told.keys() == {ME}, "parts in other plans, and what is no part, are none"
    watched.put("plan", encode_plan(msgspec.structs.replace(PLAN, id="another")))
    await trio.sleep(1)  # fixed: by the clock of the test
    assert watcher.told.keys() == {"192.168.77.12"}
    watched.store.remove(f"{FOLDER}/plan")
    await trio.sleep(1)  # fixed: by the clock of the test
    assert not watcher.told
    assert watched.changes >= 4


@pytest.mark.trio
async def test_another_store_is_listed_again(
    autojump_clock: MockClock, nursery: trio.Nursery, watched: Watched
) -> None:
    watched.put("plan", encode_plan(PLAN))
    await watched.watcher.list_once()
    nursery.start_soon(watched.watcher.run)
    await trio.sleep(1)  # fixed: by the clock of the test
    watched.store.rebuild(cluster_id="c2")
    await trio.sleep(5)  # fixed: by the clock of the test
    assert watched.watcher.plan is None


@pytest.mark.trio
async def test_what_is_no_plan_is_told_once(
    autojump_clock: MockClock, nursery: trio.Nursery, watched: Watched
) -> None:
    watched.put("plan", '{"id":1}')
    await watched.watcher.list_once()
    await watched.watcher.list_once()
    assert watched.watcher.plan is None
    assert len(watched.log.told("migration_plan_not_read")) == 1


@pytest.mark.trio
async def test_a_part_with_other_data_is_made_anew(
    autojump_clock: MockClock, nursery: trio.Nursery, watched: Watched
) -> None:
    watched.put("plan", encode_plan(PLAN))
    watcher = watched.watcher
    await watcher.list_once()
    nursery.start_soon(watcher.run)

    async def told(part: Part) -> bool:
        outcome = await watcher.tell(ME, part)
        await trio.sleep(1)  # fixed: by the clock of the test
        return outcome

    first = Part("one", Phase.PREPARE, '{"VNI":1}')
    assert await told(first)
    created = watcher.told[ME].created
    assert await told(msgspec.structs.replace(first, receives=4))
    assert (watcher.told[ME].created, watcher.told[ME].part.receives) == (created, 4)
    other = msgspec.structs.replace(first, backend_data='{"VNI":2}')
    assert not await told(other)
    assert ME not in watcher.told
    assert await told(other)
    assert watcher.told[ME].created > created
    await watcher.forget(ME)
    assert f"{FOLDER}/{ME}" not in watched.store.files
