"""Follows the plan of a migration and what all nodes tell of their parts in it (`network.migration`), and
writes this node's part.

Invariants:

- `plan` and `told` are what the store held at `index`; an error is never treated as an empty listing.
- Only parts in the present plan are in `told`. What is no plan, or no part, is a problem that is logged once.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

import trio

from netstore.client.faults import ClientError
from netstore.client.subnetstore import Entry, HistoryLost, Removed, Written
from netstore.errors import NetstoreError
from netstore.network.migration import PLAN, Told, encode_part, parse_part, parse_plan

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.agent.problems import ProblemLog
    from netstore.client.subnetstore import News, SubnetStore
    from netstore.network.migration import Part, Plan
    from netstore.seams import Entropy

RELIST_INTERVAL: Final = 600.0
"""Seconds between precautionary listings, plus up to a tenth at random."""

POLL_TIMEOUT: Final = 60.0

RETRY_DELAYS: Final = (0.2, 0.5, 1.0, 2.0)
"""Seconds to wait after the first, second, ... error in a row; the last one repeats."""

TOPIC: Final = "migration"

PLAN_TOPIC: Final = "migration_plan"


class PlanWatcher:
    """The plan of a network, kept up to date by `run`. `changed` is called after each change."""

    def __init__(
        self, store: SubnetStore, log: ProblemLog, entropy: Entropy, changed: Callable[[], None]
    ) -> None:
        self.plan: Plan | None = None
        self.told: dict[str, Told] = {}
        """What the nodes have told in this plan, by PublicIP."""
        self.index = 0
        self._store = store
        self._log = log
        self._entropy = entropy
        self._changed = changed
        self._store_id = ""
        self._must_list = True
        self._entries: dict[str, Entry] = {}

    async def list_once(self) -> None:
        """List plan and parts. On ClientError nothing is changed."""
        listing = await self._store.entries()
        self.index, self._store_id = listing.index, listing.store_id
        self._must_list = False
        self._entries = {entry.name: entry for entry in listing.entries}
        self._read_plan()
        self._changed()

    async def run(self) -> None:
        """Follow the plan forever."""
        failures = 0
        relist_at = self._next_relist()
        while True:
            try:
                if self._must_list or trio.current_time() >= relist_at:
                    await self.list_once()
                    relist_at = self._next_relist()
                async with self._store.follow(self.index, self._store_id) as feed:
                    while not self._must_list and trio.current_time() < relist_at:
                        news = await feed.news(min(POLL_TIMEOUT, max(0.0, relist_at - trio.current_time())))
                        self._log.resolve(TOPIC, "migrations_followed_again")
                        self.index = news.index
                        self._take(news)
                        failures = await self._pause(failures) if news.ended_early else 0
            except HistoryLost:
                self._must_list = True
                failures = await self._pause(failures)
            except ClientError as error:
                self._log.report(TOPIC, "migrations_not_followed", reason=str(error))
                failures = await self._pause(failures)

    async def tell(self, name: str, part: Part) -> bool:
        """Write this node's part in the place of the one that is known. A part that was told with other data
        is removed first, so that the new one is created later than what others have seen. False if somebody
        has written it meanwhile, or it has to be written again. ClientError if the store cannot be asked.
        """
        text = encode_part(part)
        there = self._entries.get(name)
        if there is None:
            return isinstance(await self._store.create(name, text, None), Written)
        known = self.told.get(name)
        if known is None or not _is_same(known.part, part):
            await self._store.remove(name, there.modified)
            return False
        return isinstance(await self._store.replace(name, text, there.modified, None), Written)

    async def forget(self, name: str) -> None:
        """Remove this node's part of a plan that is over."""
        there = self._entries.get(name)
        if there is not None:
            await self._store.remove(name, there.modified)

    async def config(self) -> str | None:
        """The network config that is in the store."""
        found = await self._store.config()
        return None if found is None else found.value

    def _take(self, news: News) -> None:
        self.index = news.index
        names = set()
        for change in news.changes:
            if isinstance(change, Entry):
                self._entries[change.name] = change
                names.add(change.name)
            elif isinstance(change, Removed):
                self._entries.pop(change.name, None)
                names.add(change.name)
            else:
                self._must_list = True
        if news.behind > 4 + len(self._entries) // 64:
            self._must_list = True
        if self._must_list or not names:
            return
        if PLAN in names:
            self._read_plan()
        else:
            for name in names:
                self._read_part(name)
        self._changed()

    def _read_plan(self) -> None:
        """Read the plan, and all parts anew."""
        there, self.plan, self.told = self._entries.get(PLAN), None, {}
        try:
            self.plan = None if there is None else parse_plan(there.value)
            self._log.resolve(PLAN_TOPIC)
        except NetstoreError as error:
            self._log.report(PLAN_TOPIC, "migration_plan_not_read", reason=str(error))
        for name in self._entries:
            self._read_part(name)

    def _read_part(self, name: str) -> None:
        """Read one part; one that cannot be read counts as none, and its node is waited for by name."""
        entry = self._entries.get(name)
        self.told.pop(name, None)
        if self.plan is None or entry is None or name == PLAN:
            return
        with contextlib.suppress(NetstoreError):
            part = parse_part(entry.value)
            if part.plan == self.plan.id:
                self.told[name] = Told(part, entry.created)

    async def _pause(self, failures: int) -> int:
        delay = RETRY_DELAYS[min(failures, len(RETRY_DELAYS) - 1)]
        await trio.sleep(delay * (1 + self._entropy.below(100) / 200))
        return failures + 1

    def _next_relist(self) -> float:
        return trio.current_time() + RELIST_INTERVAL * (1 + self._entropy.below(100) / 1000)


def _is_same(known: Part, part: Part) -> bool:
    """Whether nothing differs that other nodes have to install."""
    return (known.plan, known.backend_data, known.backend_v6_data) == (
        part.plan,
        part.backend_data,
        part.backend_v6_data,
    )
