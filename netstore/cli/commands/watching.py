"""Follows the subnets of a network for a person or a script: a listing, then each change, and a new listing
whenever changes may have been missed.

A store that cannot be asked is told once on standard error when that begins and once when it is over; no
change is missed meanwhile, or, if the store has forgotten them, the difference is told. Memory is bounded by
the number of entries.
"""

from __future__ import annotations

import random
import shutil
import sys
import time
from itertools import islice
from textwrap import wrap
from typing import TYPE_CHECKING, Final

import trio

from netstore.cli.commands.invocation import say
from netstore.cli.commands.leases import survey
from netstore.cli.commands.network import checked
from netstore.cli.output import Form, Table, document, emit, plain, printable, table
from netstore.client.faults import ClientError
from netstore.client.subnetstore import Entry, HistoryLost, RemovedTogether

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from netstore.cli.commands.invocation import Settings
    from netstore.client.subnetstore import Feed, Listing, SubnetStore
    from netstore.network.config import Network

LISTED: Final = "listed"
ADDED: Final = "added"
CHANGED: Final = "changed"
REMOVED: Final = "removed"

POLL_SECONDS: Final = 60.0
"""How long one wait for changes takes at most."""

RETRY_DELAYS: Final = (0.2, 0.5, 1.0, 2.0)
"""Seconds to wait after the first, second, ... failure in a row; the last one repeats."""

REDRAW_SECONDS: Final = 0.5
"""A table on a terminal is drawn again at most this often."""

HEADINGS: Final = ("SUBNET", "PUBLIC IP", "BACKEND", "RESERVED", "EVENT", "AT", "PROBLEM")

MAX_ROWS: Final = 500
"""Rows of a table that are drawn; no terminal shows more."""

FOLLOWED_AGAIN: Final = "the subnets are followed again"

MAX_REMOVED: Final = 5
"""Removed entries that a table still shows."""


class Subnets:
    """The entries of a store, kept up to date by `run`. `tell` is called with each change: what happened, and
    the entry as it is, or was before it was removed.
    """

    def __init__(
        self, store: SubnetStore, tell: Callable[[str, Entry], None], say: Callable[[str], None]
    ) -> None:
        self.entries: dict[str, Entry] = {}
        self.index = 0
        self._store = store
        self._tell = tell
        self._say = say
        self._store_id = ""
        self._must_list = False
        self._trouble: str | None = None

    async def begin(self) -> None:
        """Make the first listing; ClientError if that fails."""
        self._take(await self._store.entries(), LISTED)

    async def run(self) -> None:
        """Follow from there on without end."""
        failures = 0
        while True:
            try:
                if self._must_list:
                    self._take(await self._store.entries(), ADDED)
                async with self._store.follow(self.index, self._store_id) as feed:
                    while not self._must_list:
                        ended_early = await self._next(feed)
                        failures = await _pause(failures) if ended_early else 0
            except HistoryLost:
                self._must_list = True
                failures = await _pause(failures)
            except ClientError as error:
                if self._trouble is None:
                    self._trouble = str(error)
                    self._say(f"the subnets cannot be followed: {error}; trying again")
                failures = await _pause(failures)

    async def _next(self, feed: Feed) -> bool:
        news = await feed.news(POLL_SECONDS)
        self._is_well()
        self.index = news.index
        for change in news.changes:
            if isinstance(change, Entry):
                self._keep(change, ADDED)
            elif isinstance(change, RemovedTogether):
                self._must_list = True
                break
            elif (old := self.entries.pop(change.name, None)) is not None:
                self._tell(REMOVED, old)
        if news.behind > 4 + len(self.entries) // 64:
            self._must_list = True  # v2 tells one change at a time, and a listing costs less than many
        return news.ended_early

    def _take(self, listing: Listing, word: str) -> None:
        """Tell in what a listing differs from what is known. Another store may have the same index."""
        self._is_well()
        is_other = listing.store_id != self._store_id
        self.index, self._store_id, self._must_list = listing.index, listing.store_id, False
        there = set()
        for entry in listing.entries:
            there.add(entry.name)
            old = self.entries.get(entry.name)
            if old is None or old.value != entry.value or (old.modified != entry.modified and not is_other):
                self._keep(entry, word)
            else:
                self.entries[entry.name] = entry
        for name in [name for name in self.entries if name not in there]:
            self._tell(REMOVED, self.entries.pop(name))

    def _is_well(self) -> None:
        if self._trouble is not None:
            self._trouble = None
            self._say(FOLLOWED_AGAIN)

    def _keep(self, entry: Entry, word: str) -> None:
        known = entry.name in self.entries
        self.entries[entry.name] = entry
        self._tell(CHANGED if known else word, entry)


class Screen:
    """What a live table shows first: the latest changes, then all others."""

    def __init__(self) -> None:
        self.changes: dict[str, tuple[str, str]] = {}
        """Of each entry that has changed: what happened, and at which time of day; the latest last."""
        self.removed: dict[str, Entry] = {}
        """The last few that are gone."""
        self.dirty = trio.Event()

    def take(self, word: str, entry: Entry) -> None:
        """Something changed."""
        self.removed.pop(entry.name, None)
        self.changes.pop(entry.name, None)
        if word != LISTED:
            self.changes[entry.name] = (word, time.strftime("%H:%M:%S"))
        if word == REMOVED:
            self.removed[entry.name] = entry
            while len(self.removed) > MAX_REMOVED:
                oldest = next(iter(self.removed))
                del self.removed[oldest], self.changes[oldest]
        self.dirty.set()

    def order(self, names: list[str]) -> Iterator[str]:
        """The names of all that is shown: the latest change first, then the others as given."""
        yield from reversed(self.changes)
        yield from (name for name in names if name not in self.changes)

    def lines(
        self, subnets: Subnets, network: Network | None, folder: str, width: int, trouble: str
    ) -> list[str]:
        """All lines of the table, which may be more than a terminal shows."""
        records = {each.name: each for each in survey(subnets.entries.values(), network, folder)}
        for name, entry in self.removed.items():
            [records[name]] = survey([entry], None, folder)
        bad = sum(bool(record.problems) for record in records.values())
        head = f"{len(subnets.entries)} subnets, {bad} with problems, at index {subnets.index}"
        rows: list[tuple[str | int | None, ...]] = []
        for name in islice(self.order(list(records)), MAX_ROWS):
            word, when = self.changes.get(name, (None, None))
            record = records[name]
            backend = None if record.lease is None else record.lease.backend_type or None
            problems = "; ".join(record.problems) or None
            reserved = "yes" if record.reserved else "no"
            rows.append((record.subnet, record.public_ip, backend, reserved, word, when, problems))
        head = f"{head}; {printable(trouble)}" if trouble else head
        drawn = table(Table(HEADINGS, rows), columns=width, breaks_words=True)  # a line more would hide one
        return [*wrap(head, width), "", *drawn.splitlines()]

    async def redraw(self, draw: Callable[[], None]) -> None:
        """Draw now and after changes, and once a minute for the time that goes on; without end."""
        while True:
            self.dirty = trio.Event()
            draw()
            await trio.sleep(REDRAW_SECONDS)
            with trio.move_on_after(POLL_SECONDS):
                await self.dirty.wait()


async def follow(settings: Settings, store: SubnetStore) -> None:
    """Show the subnets of a store until interrupted: on a terminal as a table that is kept up to date, else
    as a line for each subnet that is there and for each change.
    """
    config = await store.config()
    value = None if config is None else config.value
    network = None if value is None else checked(value.encode())[0]
    folder = settings.key("subnets")
    if settings.form is Form.TABLE and sys.stdout.isatty():
        await _table(store, network, folder)
        return

    def line(word: str, entry: Entry) -> None:
        [record] = survey([entry], network, folder)
        if settings.form is Form.JSON:
            emit(document({"event": word, **record.content()}))
        else:
            emit(plain([(word, *record.row())]))

    subnets = Subnets(store, line, say)
    await subnets.begin()
    await subnets.run()


async def _table(store: SubnetStore, network: Network | None, folder: str) -> None:
    from rich.console import Console  # noqa: PLC0415 - takes longer to load than most commands run
    from rich.live import Live  # noqa: PLC0415 - same
    from rich.text import Text  # noqa: PLC0415 - same

    screen = Screen()
    told = [""]

    def tell(text: str) -> None:
        told[0] = "" if text == FOLLOWED_AGAIN else text
        screen.dirty.set()

    subnets = Subnets(store, screen.take, tell)
    await subnets.begin()
    with Live(console=Console(), screen=True, auto_refresh=False) as live:

        def draw() -> None:
            width, height = shutil.get_terminal_size()
            lines = screen.lines(subnets, network, folder, width, told[0])
            live.update(Text("\n".join(lines[:height])), refresh=True)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(subnets.run)
            await screen.redraw(draw)


async def _pause(failures: int) -> int:
    delay = RETRY_DELAYS[min(failures, len(RETRY_DELAYS) - 1)]
    await trio.sleep(delay * random.uniform(1, 1.5))  # noqa: S311 - it spreads load; nothing is secret
    return failures + 1
