"""Follows the subnet leases of the store: one listing, then the changes after it, and a new listing whenever
changes may have been missed.

Invariants:

- `entries` is what the store held at `index`, as far as this node knows; an error is never treated as an
  empty listing.
- Any task may list. What a feed reports that was opened before such a listing is dropped, because the listing
  is newer; a listing that is older than what a feed has reported meanwhile is dropped, too.
- If the store is another one (its id) or its index went backwards, it was replaced or restored: `generation`
  grows, and everything is listed again.
- Leases that vanish together, or with their store, stay in `leases` for `GRACE_PERIOD` seconds: their nodes
  write them again at once, and until then their routes are still right. A single lease that is deleted or
  expires is removed at once.

When the changes are far behind, the leases are listed instead: one listing of 3,000 leases costs as much as
about fifty long polls of v2, which return one event each.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

import trio

from netstore.client.faults import ClientError
from netstore.client.subnetstore import Entry, HistoryLost, RemovedTogether
from netstore.network.lease import SubnetLease, parse_lease

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from netstore.agent.problems import ProblemLog
    from netstore.client.subnetstore import Feed, Listing, News, SubnetStore
    from netstore.network.lease import InvalidLease
    from netstore.seams import Entropy

GRACE_PERIOD: Final = 10.0
"""Seconds that leases are kept that vanished together, or with their store."""

RELIST_INTERVAL: Final = 600.0
"""Seconds between precautionary listings, plus up to a tenth at random."""

POLL_TIMEOUT: Final = 60.0
"""Seconds to wait for changes at a time; with v2 also how long a replaced store can go unnoticed if the
connection did not break.
"""

RETRY_DELAYS: Final = (0.2, 0.5, 1.0, 2.0)
"""Seconds to wait after the first, second, ... error in a row; the last one repeats."""

PARSED_AT_ONCE: Final = 256
"""Leases of the first listing that are parsed before other tasks may run: 2 ms."""

TOPIC: Final = "mirror"
"""The name in /status under which problems of the watch are shown; scripts may look for it."""


class LeaseWatcher:
    """The leases of a store, kept up to date by `run`. `changed` is called after each change and each
    listing, with the names of the leases that are not as they were.
    """

    def __init__(
        self,
        store: SubnetStore,
        log: ProblemLog,
        entropy: Entropy,
        changed: Callable[[Collection[str]], None],
    ) -> None:
        self.entries: dict[str, Entry] = {}
        self.leases: dict[str, SubnetLease] = {}
        """Every valid lease by name, including those in their grace period."""
        self.permanent: set[str] = set()
        """The names of the entries that never expire."""
        self.invalid: dict[str, str] = {}
        """Every entry that is not a valid lease, with the reason."""
        self.index = 0
        self.generation = 0
        """Grows when the store was replaced or its index went backwards."""
        self.listings = 0
        self._store = store
        self._log = log
        self._entropy = entropy
        self._changed = changed
        self._names: set[str] = set()
        """The names of which `changed` is still to be told."""
        self._store_id = ""
        self._must_list = True
        self._vanished = False
        """Several leases were removed by one change."""
        self._grace_ends: OrderedDict[str, float] = OrderedDict()
        """By name, in the order of the ends: all periods have one length."""

    def __repr__(self) -> str:
        return f"LeaseWatcher({len(self.leases)} leases at {self.index}, generation {self.generation})"

    def created(self, name: str) -> int:
        """The index at which a lease's key was created; 0 for a lease in its grace period."""
        entry = self.entries.get(name)
        return 0 if entry is None else entry.created

    async def list_once(self) -> None:
        """List the entries. On ClientError nothing is changed."""
        asked_at = self.index
        listing = await self._store.entries()
        if listing.store_id == self._store_id and asked_at <= listing.index < self.index:
            return
        parsed: dict[str, SubnetLease | InvalidLease] = {}
        if not self.listings:  # nobody else changes anything yet
            for each in listing.entries:
                if parsed and len(parsed) % PARSED_AT_ONCE == 0:
                    await trio.lowlevel.checkpoint()
                parsed[each.name] = _parse(each)
        self._apply_listing(listing, parsed)

    def _apply_listing(self, listing: Listing, parsed: Mapping[str, SubnetLease | InvalidLease]) -> None:
        """Take over the listing. `parsed` has its leases, as far as they are parsed already."""
        now = trio.current_time()
        is_other = listing.index < self.index or listing.store_id != self._store_id
        replaced = self.listings > 0 and is_other
        vanished_together = replaced or self._vanished
        if replaced:
            self.generation += 1
            self._log.warning(
                "store_rebuilt", cluster=listing.store_id, index=listing.index, former_index=self.index
            )
        self.listings += 1
        self.index, self._store_id = listing.index, listing.store_id
        self._must_list = self._vanished = False
        names = set()
        for entry in listing.entries:
            names.add(entry.name)
            old = self.entries.get(entry.name)
            if old is None or replaced or (entry.modified, entry.value) != (old.modified, old.value):
                self._keep(entry, parsed.get(entry.name) or _parse(entry))
        for name in [name for name in self.entries if name not in names]:
            self._remove(name, now, grace=vanished_together)
        self._tell()

    def _tell(self) -> None:
        names, self._names = self._names, set()
        self._changed(names)

    async def run(self) -> None:
        """Follow the leases forever."""
        failures = 0
        relist_at = self._next_relist()
        while True:
            try:
                if self._must_list or trio.current_time() >= relist_at:
                    await self.list_once()
                    relist_at = self._next_relist()
                listings = self.listings
                async with self._store.follow(self.index, self._store_id) as feed:
                    while (
                        self.listings == listings and not self._must_list and trio.current_time() < relist_at
                    ):
                        news = await self._next(feed, relist_at)
                        if news.changes and news.behind <= 0:
                            await _let_others_act()
                        # A wait that ends early is normal once, when the store or a proxy stops.
                        failures = await self._pause(failures) if news.ended_early else 0
            except HistoryLost:
                self._must_list = True
                failures = await self._pause(failures)  # with two stores behind one address it is lost again
            except ClientError as error:
                # The index is kept, so no change is missed.
                self._log.report(TOPIC, "leases_not_followed", reason=str(error))
                failures = await self._pause(failures)

    async def _next(self, feed: Feed, relist_at: float) -> News:
        """Wait for changes and take them."""
        until = min(relist_at, next(iter(self._grace_ends.values()), relist_at))
        listings = self.listings
        news = await feed.news(min(POLL_TIMEOUT, max(0.0, until - trio.current_time())))
        self._log.resolve(TOPIC, "leases_followed_again")
        now = trio.current_time()
        self._end_grace_periods(now)
        if self.listings != listings:
            return news
        self.index = news.index
        for change in news.changes:
            if isinstance(change, Entry):
                self._keep(change, _parse(change))
            elif isinstance(change, RemovedTogether):
                self._must_list = self._vanished = True
                return news
            else:
                self._remove(change.name, now, grace=False)
        if news.changes:
            self._tell()
        if news.behind > 4 + len(self.entries) // 64:
            self._must_list = True
        return news

    async def _pause(self, failures: int) -> int:
        delay = RETRY_DELAYS[min(failures, len(RETRY_DELAYS) - 1)]
        await trio.sleep(delay * (1 + self._entropy.below(100) / 200))
        self._end_grace_periods(trio.current_time())
        return failures + 1

    def _keep(self, entry: Entry, found: SubnetLease | InvalidLease) -> None:
        """Take an entry, and the lease that it is."""
        name = entry.name
        self._names.add(name)
        self.entries[name] = entry
        if entry.ttl is None:
            self.permanent.add(name)
        else:
            self.permanent.discard(name)
        self._grace_ends.pop(name, None)
        if isinstance(found, SubnetLease):
            self.leases[name] = found
            self.invalid.pop(name, None)
        else:
            self.invalid[name] = found.reason
            self.leases.pop(name, None)

    def _remove(self, name: str, now: float, *, grace: bool) -> None:
        self._names.add(name)
        self.entries.pop(name, None)
        self.permanent.discard(name)
        self.invalid.pop(name, None)
        self._grace_ends.pop(name, None)
        if grace and name in self.leases:
            self._grace_ends[name] = now + GRACE_PERIOD
        else:
            self.leases.pop(name, None)

    def _end_grace_periods(self, now: float) -> None:
        is_over = False
        while self._grace_ends and self._grace_ends[name := next(iter(self._grace_ends))] <= now:
            del self._grace_ends[name]
            self.leases.pop(name, None)
            self._names.add(name)
            is_over = True
        if is_over:
            self._tell()

    def _next_relist(self) -> float:
        return trio.current_time() + RELIST_INTERVAL * (1 + self._entropy.below(100) / 1000)


async def _let_others_act() -> None:
    """Let all tasks go on that can already: to send the next poll of v2 takes as long as to make a route,
    which is waited for. While more changes are at hand they are asked for first, and taken together. Trio
    runs tasks in rounds, in any order within each: when the second begins, all have run once.
    """
    await trio.lowlevel.checkpoint()
    await trio.lowlevel.checkpoint()


def _parse(entry: Entry) -> SubnetLease | InvalidLease:
    return parse_lease(entry.name, entry.value, entry.created)
