"""The network config and the subnet leases under one prefix of a store, whichever API keeps them: the
interface (`subnets_v2` and `subnets_v3` implement it).

An *entry* is a key directly under `PREFIX/subnets/`, named by the rest of its key; the reports of agents are
kept in the same way in another folder. An *index* orders the changes of one store: modifiedIndex in v2,
revision in v3. Indexes of two stores cannot be compared; each store has an id, that of its cluster.

A write states what it expects and reports what it found (`Written`, `Missing`, `Differs`). `ClientError` is
raised for everything else: its `outcome_known` tells whether the write may have happened.
"""

from __future__ import annotations

from collections.abc import Sequence  # noqa: TC003 - msgspec and Sphinx read annotations
from typing import TYPE_CHECKING, Protocol

import msgspec

from netstore.client.faults import ClientError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager


class Entry(msgspec.Struct, frozen=True, gc=False):
    """An entry as the store has it. `value` is None for a directory of v2."""

    name: str
    value: str | None
    modified: int
    """Index of its last change."""
    ttl: int | None
    """Seconds until it expires; None if it never does, 0 if it does and the store did not say when. What is
    overdue may have 0 or less.
    """
    created: int = 0
    """Index of its creation, which writes that compare an index keep; 0 if the store did not say it."""
    lease: int = 0
    """The lease of v3 that it is attached to; 0 if there is none. `SubnetStore.timed` asks for its time."""

    @property
    def is_timed(self) -> bool:
        """Whether `ttl` is known, so that 0 or less means overdue."""
        return self.ttl is None or self.ttl != 0 or not self.lease


class Removed(msgspec.Struct, frozen=True, gc=False):
    """An entry was removed, or expired."""

    name: str
    index: int


class RemovedTogether(msgspec.Struct, frozen=True, gc=False):
    """Several entries were removed by one change, perhaps all. A listing shows which."""

    index: int


class Listing(msgspec.Struct, frozen=True, gc=False):
    """All entries at `index`."""

    entries: Sequence[Entry]
    index: int
    store_id: str


class News(msgspec.Struct, frozen=True, gc=False):
    """What a feed reports: changes in the order of their indexes; perhaps none."""

    changes: Sequence[Entry | Removed | RemovedTogether]
    index: int
    """All changes up to it have been reported."""
    behind: int = 0
    """How many indexes the store is ahead of the last of these changes, at least."""
    ended_early: bool = False
    """The store stopped waiting for changes before the time given. Once is normal, when it is stopped."""


class Written(msgspec.Struct, frozen=True, gc=False):
    """The write was done; the entry was last changed at `index` now."""

    index: int


class Missing(msgspec.Struct, frozen=True, gc=False):
    """There is no such entry; the store was at `index`."""

    index: int


class Differs(msgspec.Struct, frozen=True, gc=False):
    """The entry is not as the write expects: it exists, or was changed."""


class NoFolder(ClientError):  # noqa: N818 - named for what was found
    """The key under which leases are is no folder, so that nobody can write one."""

    def __str__(self) -> str:
        return f"{self.args[0]}: is a file, and no daemon can put a lease below it; key rm {self.args[0]}"


class Past(msgspec.Struct, frozen=True, gc=False):
    """A change in the past. `value` is None if the entry was removed, or expired; `previous` is the value
    before, None if there was none or the store does not tell it. A change of the name "" removed all entries.
    """

    name: str
    index: int
    value: str | None
    previous: str | None = None
    permanent: bool = False
    """What was written never expires."""
    expired: bool | None = None
    """Whether it was removed because its time was over; None if the store does not tell."""
    time: float | None = None
    """When it happened, in seconds since 1970 by the store's clock; None if the store does not keep that."""


class History(msgspec.Struct, frozen=True):
    """The past that a store still has: all changes from index `first` to index `last`, and the entries as
    they were before. That the store told all of them is proven up to index `proven`.
    """

    first: int
    last: int
    before: Sequence[Entry]
    changes: Sequence[Past]
    proven: int


class HistoryLost(ClientError):  # noqa: N818 - named for what happened
    """The changes since an index cannot be told: they are gone, or the store was replaced. List again."""


class Feed(Protocol):
    """The changes after an index, in order and without a gap."""

    async def news(self, limit: float) -> News:
        """The next changes, or none after `limit` seconds. `HistoryLost`, or ClientError when the store
        cannot be asked; then no change was skipped: follow again from the last index reported.
        """


class SubnetStore(Protocol):
    """The entries under one prefix. `ttl` is in seconds; None stores an entry that never expires."""

    api: str
    """The API by which it is kept: v2 or v3."""
    prefix: str
    names_ipv6: bool
    """Values have a PublicIPv6, null if there is none, as flannel writes them in this API."""

    async def config(self) -> Entry | None:
        """The network config; None if there is none. Linearizable, as are `entries` and `entry`."""

    async def entries(self) -> Listing:
        """All entries."""

    async def entry(self, name: str) -> Entry | Missing:
        """One entry, with its remaining time, which is no more than it has."""

    async def create(self, name: str, value: str, ttl: int | None) -> Written | Differs:
        """Write an entry that must not exist."""

    async def replace(
        self, name: str, value: str, index: int, ttl: int | None, *, is_change: bool = False
    ) -> Written | Missing | Differs:
        """Write an entry that was last changed at `index`; its time begins anew. With `is_change` that is a
        change of the entry, with an index of its own, also if the value stays the same.
        """

    async def remove(self, name: str, index: int) -> Written | Missing | Differs:
        """Remove an entry that was last changed at `index`."""

    async def write_config(self, value: str, index: int) -> Written | Missing | Differs:
        """Write the network config, which was last changed at `index`; 0: it must not exist."""

    async def timed(self, entries: Sequence[Entry]) -> list[Entry]:
        """These entries of a listing, in their order, each with its remaining time."""

    async def history(self, wanted: Callable[[Past], bool], limit: int) -> History:
        """The changes in the past that are wanted, the last `limit` of them if there are more."""

    async def settle(self) -> None:
        """Remove what earlier writes left over in the store. Call it when there is time; failures do not
        matter.
        """

    def follow(self, index: int, store_id: str) -> AbstractAsyncContextManager[Feed]:
        """The changes after `index` of the store with this id."""
