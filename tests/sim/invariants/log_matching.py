"""Log matching: an index and a term determine the entry and everything before it (Ongaro's dissertation,
section 3.5). By induction: they determine the entry and the term before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.raft.messages import Append
from tests.sim.invariants import Invariant, require

if TYPE_CHECKING:
    from collections.abc import Sequence

    from netstore.raft.entry import Entry
    from netstore.raft.messages import Message
    from tests.sim.member import Member
    from tests.sim.world import World


class LogMatching(Invariant):
    """Sees every entry that is safe on a disk or goes over the wire.

    What a sole voter writes before its disk has its vote counts for nothing yet: after a crash it may lead
    the same term again.
    """

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._known: dict[tuple[int, int], tuple[int, Entry]] = {}

    def stored(self, member: Member, before: int, entries: Sequence[Entry]) -> None:
        if before >= 0:
            self._match(before, entries)

    def sent(self, member: Member, message: Message) -> None:
        if isinstance(message, Append) and message.entries:
            self._match(message.previous_term, message.entries)

    def _match(self, before: int, entries: Sequence[Entry]) -> None:
        known = self._known
        for entry in entries:
            first = known.get((entry.index, entry.term))
            if first is None:
                known[entry.index, entry.term] = (before, entry)
            else:
                require(
                    first[0] == before and (first[1] is entry or first[1] == entry),
                    "two entries with one index and term",
                    entry=entry,
                    before=before,
                    first=first,
                )
            before = entry.term
