"""Follows the leases folder of the store: one listing, then events, and a new listing after any doubt.

Invariants:

- `entries` is what the store held at `index`, as far as this node was told; an error is never taken for an
  empty folder.
- A watch starts at `index` + 1. The head of each long poll carries the store's cluster and index: another
  cluster, or an index that ran backwards, means the store was rebuilt, and everything is listed again under a
  new `era`.
- Leases that vanish with their folder or their store stay in `leases` for `GRACE` seconds: their nodes write
  them again within a moment, and until then the routes are the best there are. A lease that is removed or
  expires by itself goes at once.

Being far behind, it lists instead of asking for events one by one: one listing of 3,000 leases costs as much
as about fifty polls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from netstore.agent.record import Lease, parse
from netstore.client.transport import ClientError
from netstore.client.v2 import INDEX_CLEARED, KEY_NOT_FOUND, V2Error

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.agent.journal import Journal
    from netstore.agent.record import Skipped
    from netstore.client.v2 import Answer, Node, V2Client
    from netstore.seams import Entropy

GRACE: Final = 10.0
"""Seconds."""

RELIST: Final = 600.0
"""Seconds between listings made for no reason but caution; up to a tenth more by chance."""

POLL: Final = 60.0
"""Seconds of one long poll: how long a store that was rebuilt can go unnoticed when the connection did not
break.
"""

PAUSES: Final = (0.2, 0.5, 1.0, 2.0)
"""Seconds to wait after the first, second, ... error in a row; the last is repeated."""

REMOVALS: Final = frozenset({"delete", "expire", "compareAndDelete"})


class Seen(NamedTuple):
    """An entry as it was last seen. `ttl` is None for a permanent one; `at` is when, on Trio's clock."""

    value: str | None
    modified: int
    ttl: int | None
    at: float


class Mirror:
    """The leases under `folder`, kept as the store has them by `run`. `changed` is called after changes."""

    def __init__(
        self,
        client: V2Client,
        folder: str,
        journal: Journal,
        entropy: Entropy,
        changed: Callable[[], None],
    ) -> None:
        self.folder = folder
        self.entries: dict[str, Seen] = {}
        self.leases: dict[str, Lease] = {}
        """Every usable lease by its name, those in their grace included."""
        self.skipped: dict[str, str] = {}
        """Every entry that is no lease, with the reason."""
        self.index = 0
        self.era = 0
        """Grows when the store turns out to be another one or to have gone back in time."""
        self.listings = 0
        self._client = client
        self._journal = journal
        self._entropy = entropy
        self._changed = changed
        self._cluster_id = ""
        self._stale = True
        self._folder_gone = False
        self._fading: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"Mirror({self.folder}, {len(self.leases)} leases at {self.index}, era {self.era})"

    async def load(self) -> None:
        """List once. ClientError leaves everything as it was."""
        try:
            answer = await self._client.get(self.folder, recursive=True, quorum=True)
        except V2Error as error:
            if error.code != KEY_NOT_FOUND:
                raise
            nodes: tuple[Node, ...] = ()
            index, cluster_id = error.index, error.cluster_id
        else:
            nodes, index, cluster_id = answer.node.nodes, answer.etcd_index, answer.cluster_id
        self._take_listing(nodes, index, cluster_id)

    def _take_listing(self, nodes: tuple[Node, ...], index: int, cluster_id: str) -> None:
        now = trio.current_time()
        rebuilt = self.listings > 0 and self._is_rebuilt(index, cluster_id)
        lost_all = rebuilt or self._folder_gone
        if rebuilt:
            self.era += 1
            self._journal.warn("store_rebuilt", cluster=cluster_id, index=index, former_index=self.index)
        self.listings += 1
        self.index, self._cluster_id = index, cluster_id
        self._stale = self._folder_gone = False
        names = set()
        for node in nodes:
            name = node.key.rpartition("/")[2]
            names.add(name)
            old = self.entries.get(name)
            if old is None or rebuilt or (node.modified_index, node.value) != (old.modified, old.value):
                self._store(name, node, now)
        for name in [name for name in self.entries if name not in names]:
            self._drop(name, now, grace=lost_all)
        self._changed()

    def _is_rebuilt(self, index: int, cluster_id: str) -> bool:
        return index < self.index or cluster_id != self._cluster_id

    async def run(self) -> None:
        """Follow the folder for ever."""
        failures = 0
        relist_at = self._next_relist()
        while True:
            try:
                if self._stale or trio.current_time() >= relist_at:
                    await self.load()
                    relist_at = self._next_relist()
                until = min(relist_at, *self._fading.values()) if self._fading else relist_at
                told = await self._poll(until)
            except V2Error as error:
                if error.code == INDEX_CLEARED:
                    self._stale = True
                    continue
                failures = await self._rest(failures, error)
            except ClientError as error:
                failures = await self._rest(failures, error)
            else:
                self._journal.over("mirror", "leases_followed_again")
                # A poll that ends early with nothing to tell is normal once, when the store or a proxy stops.
                failures = 0 if told else await self._pause(failures)

    async def _rest(self, failures: int, error: ClientError) -> int:
        """Tell an error and wait. The index stays, so nothing is missed."""
        self._journal.problem("mirror", "leases_not_followed", reason=str(error))
        return await self._pause(failures)

    async def _pause(self, failures: int) -> int:
        pause = PAUSES[min(failures, len(PAUSES) - 1)]
        await trio.sleep(pause * (1 + self._entropy.below(100) / 200))
        self._fade(trio.current_time())
        return failures + 1

    async def _poll(self, until: float) -> bool:
        """One long poll; False if it ended before its time and told nothing."""
        limit = min(POLL, max(0.0, until - trio.current_time()))
        async with self._client.poll(self.folder, index=self.index + 1, recursive=True) as poll:
            if self._is_rebuilt(poll.etcd_index, poll.cluster_id):
                self._stale = True
                return True
            answer = await poll.event(limit)
        now = trio.current_time()
        self._fade(now)
        if answer is None:
            if poll.timed_out:
                # All up to the index at which the watch began was searched, and what came later would have
                # been told.
                self.index = max(self.index, poll.etcd_index)
            return poll.timed_out
        self._take_event(answer, now)
        behind = poll.etcd_index - answer.node.modified_index
        if behind > 4 + len(self.entries) // 64:
            self._stale = True
        return True

    def _take_event(self, answer: Answer, now: float) -> None:
        node = answer.node
        self.index = max(self.index, node.modified_index)
        inside = node.key.startswith(f"{self.folder}/")
        name = node.key[len(self.folder) + 1 :]
        if answer.action in REMOVALS:
            if not inside:
                self._stale = self._folder_gone = True
                return
            if "/" not in name:
                self._drop(name, now, grace=False)
        elif inside and "/" not in name:
            self._store(name, node, now)
        self._changed()

    def _store(self, name: str, node: Node, now: float) -> None:
        self.entries[name] = Seen(node.value, node.modified_index, node.ttl, now)
        self._fading.pop(name, None)
        found: Lease | Skipped = parse(name, None if node.dir else node.value)
        if isinstance(found, Lease):
            self.leases[name] = found
            self.skipped.pop(name, None)
        else:
            self.skipped[name] = found.reason
            self.leases.pop(name, None)

    def _drop(self, name: str, now: float, *, grace: bool) -> None:
        self.entries.pop(name, None)
        self.skipped.pop(name, None)
        if grace and name in self.leases:
            self._fading[name] = now + GRACE
        else:
            self._fading.pop(name, None)
            self.leases.pop(name, None)

    def _fade(self, now: float) -> None:
        over = [name for name, until in self._fading.items() if until <= now]
        for name in over:
            del self._fading[name]
            self.leases.pop(name, None)
        if over:
            self._changed()

    def _next_relist(self) -> float:
        return trio.current_time() + RELIST * (1 + self._entropy.below(100) / 1000)
