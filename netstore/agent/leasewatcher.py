"""Follows the `subnets` folder of the store: one listing, then a v2 watch, and a new listing whenever events
may have been missed.

Invariants:

- `entries` is what the store held at `index`, as far as this node knows; an error is never treated as an
  empty folder.
- A watch starts at `index` + 1. The response headers of each long poll have the store's cluster id and index:
  if the cluster is another one or the index went backwards, the store was replaced or restored, `generation`
  grows, and everything is listed again.
- Leases that vanish together with their folder or their store stay in `leases` for `GRACE_PERIOD` seconds:
  their nodes write them again at once, and until then their routes are still right. A single lease that is
  deleted or expires is removed at once.

When the watch is far behind, the folder is listed instead: one listing of 3,000 leases costs as much as about
fifty long polls, which return one event each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from netstore.client.transport import ClientError
from netstore.client.v2 import INDEX_CLEARED, KEY_NOT_FOUND, V2Error
from netstore.network.lease import SubnetLease, parse_lease

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.agent.problems import ProblemLog
    from netstore.client.v2 import Answer, Node, V2Client
    from netstore.network.lease import InvalidLease
    from netstore.seams import Entropy

GRACE_PERIOD: Final = 10.0
"""Seconds that leases are kept after their folder or their store vanished."""

RELIST_INTERVAL: Final = 600.0
"""Seconds between precautionary listings, plus up to a tenth at random."""

POLL_TIMEOUT: Final = 60.0
"""Seconds of one long poll; also how long a replaced store can go unnoticed if the connection did not break.
"""

RETRY_DELAYS: Final = (0.2, 0.5, 1.0, 2.0)
"""Seconds to wait after the first, second, ... error in a row; the last one repeats."""

REMOVALS: Final = frozenset({"delete", "expire", "compareAndDelete"})

TOPIC: Final = "mirror"
"""The name in /status under which problems of the watch are shown; scripts may look for it."""


class SeenEntry(NamedTuple):
    """An entry of the folder when last seen. `ttl` is None if it never expires."""

    value: str | None
    modified: int
    ttl: int | None


class LeaseWatcher:
    """The leases in `folder`, kept up to date by `run`. `changed` is called after each change."""

    def __init__(
        self,
        client: V2Client,
        folder: str,
        log: ProblemLog,
        entropy: Entropy,
        changed: Callable[[], None],
    ) -> None:
        self.folder = folder
        self.entries: dict[str, SeenEntry] = {}
        self.leases: dict[str, SubnetLease] = {}
        """Every valid lease by name, including those in their grace period."""
        self.invalid: dict[str, str] = {}
        """Every entry that is not a valid lease, with the reason."""
        self.index = 0
        self.generation = 0
        """Grows when the store was replaced or its index went backwards."""
        self.listings = 0
        self._client = client
        self._log = log
        self._entropy = entropy
        self._changed = changed
        self._cluster_id = ""
        self._must_list = True
        self._folder_gone = False
        self._grace_ends: dict[str, float] = {}

    def __repr__(self) -> str:
        return (
            f"LeaseWatcher({self.folder}, {len(self.leases)} leases at {self.index},"
            f" generation {self.generation})"
        )

    async def list_once(self) -> None:
        """List the folder. On ClientError nothing is changed."""
        try:
            answer = await self._client.get(self.folder, recursive=True, quorum=True)
        except V2Error as error:
            if error.code != KEY_NOT_FOUND:
                raise
            nodes: tuple[Node, ...] = ()
            index, cluster_id = error.index, error.cluster_id
        else:
            nodes, index, cluster_id = answer.node.nodes, answer.etcd_index, answer.cluster_id
        self._apply_listing(nodes, index, cluster_id)

    def _apply_listing(self, nodes: tuple[Node, ...], index: int, cluster_id: str) -> None:
        now = trio.current_time()
        replaced = self.listings > 0 and self._is_replaced(index, cluster_id)
        vanished_together = replaced or self._folder_gone
        if replaced:
            self.generation += 1
            self._log.warning("store_rebuilt", cluster=cluster_id, index=index, former_index=self.index)
        self.listings += 1
        self.index, self._cluster_id = index, cluster_id
        self._must_list = self._folder_gone = False
        names = set()
        for node in nodes:
            name = node.key.rpartition("/")[2]
            names.add(name)
            old = self.entries.get(name)
            if old is None or replaced or (node.modified_index, node.value) != (old.modified, old.value):
                self._store(name, node)
        for name in [name for name in self.entries if name not in names]:
            self._remove(name, now, grace=vanished_together)
        self._changed()

    def _is_replaced(self, index: int, cluster_id: str) -> bool:
        return index < self.index or cluster_id != self._cluster_id

    async def run(self) -> None:
        """Follow the folder forever."""
        failures = 0
        relist_at = self._next_relist()
        while True:
            try:
                if self._must_list or trio.current_time() >= relist_at:
                    await self.list_once()
                    relist_at = self._next_relist()
                until = min(relist_at, *self._grace_ends.values()) if self._grace_ends else relist_at
                completed = await self._poll(until)
            except V2Error as error:
                if error.code == INDEX_CLEARED:
                    self._must_list = True
                    continue
                failures = await self._report_and_pause(failures, error)
            except ClientError as error:
                failures = await self._report_and_pause(failures, error)
            else:
                self._log.resolve(TOPIC, "leases_followed_again")
                # A poll that ends early without an event is normal once, when the store or a proxy stops.
                failures = 0 if completed else await self._pause(failures)

    async def _report_and_pause(self, failures: int, error: ClientError) -> int:
        """Log an error and wait. The index is kept, so no event is missed."""
        self._log.report(TOPIC, "leases_not_followed", reason=str(error))
        return await self._pause(failures)

    async def _pause(self, failures: int) -> int:
        delay = RETRY_DELAYS[min(failures, len(RETRY_DELAYS) - 1)]
        await trio.sleep(delay * (1 + self._entropy.below(100) / 200))
        self._end_grace_periods(trio.current_time())
        return failures + 1

    async def _poll(self, until: float) -> bool:
        """One long poll. False if it ended before its timeout without an event."""
        limit = min(POLL_TIMEOUT, max(0.0, until - trio.current_time()))
        async with self._client.poll(self.folder, index=self.index + 1, recursive=True) as poll:
            if self._is_replaced(poll.etcd_index, poll.cluster_id):
                self._must_list = True
                return True
            answer = await poll.event(limit)
        now = trio.current_time()
        self._end_grace_periods(now)
        if answer is None:
            if poll.timed_out:
                # The store searched everything up to its index at the start of the poll, and would have sent
                # what came later.
                self.index = max(self.index, poll.etcd_index)
            return poll.timed_out
        self._apply_event(answer, now)
        behind = poll.etcd_index - answer.node.modified_index
        if behind > 4 + len(self.entries) // 64:
            self._must_list = True
        return True

    def _apply_event(self, answer: Answer, now: float) -> None:
        node = answer.node
        self.index = max(self.index, node.modified_index)
        inside = node.key.startswith(f"{self.folder}/")
        name = node.key[len(self.folder) + 1 :]
        if answer.action in REMOVALS:
            if not inside:
                self._must_list = self._folder_gone = True
                return
            if "/" not in name:
                self._remove(name, now, grace=False)
        elif inside and "/" not in name:
            self._store(name, node)
        self._changed()

    def _store(self, name: str, node: Node) -> None:
        self.entries[name] = SeenEntry(node.value, node.modified_index, node.ttl)
        self._grace_ends.pop(name, None)
        found: SubnetLease | InvalidLease = parse_lease(name, None if node.dir else node.value)
        if isinstance(found, SubnetLease):
            self.leases[name] = found
            self.invalid.pop(name, None)
        else:
            self.invalid[name] = found.reason
            self.leases.pop(name, None)

    def _remove(self, name: str, now: float, *, grace: bool) -> None:
        self.entries.pop(name, None)
        self.invalid.pop(name, None)
        if grace and name in self.leases:
            self._grace_ends[name] = now + GRACE_PERIOD
        else:
            self._grace_ends.pop(name, None)
            self.leases.pop(name, None)

    def _end_grace_periods(self, now: float) -> None:
        over = [name for name, end in self._grace_ends.items() if end <= now]
        for name in over:
            del self._grace_ends[name]
            self.leases.pop(name, None)
        if over:
            self._changed()

    def _next_relist(self) -> float:
        return trio.current_time() + RELIST_INTERVAL * (1 + self._entropy.below(100) / 1000)
