"""The judge of v3 watches (P4; v3 API, Watch). Against the changes in the order of their revisions, a watch

a. was told, in each response, exactly what it asked for of all revisions from where the response before it
   ended up to the one that it names: nothing twice, nothing missing, nothing out of order, no revision split;
b. was told with each event the pair as it was written, and the pair before it where it asked for that and
   no compaction has taken it;
c. was told a progress only when nothing it asked for up to there was left;
d. ended as compacted only when a compaction that happened had taken what was next for it;
e. has been told everything its member has, if it still stands at the end.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from netstore.intervals import TO_THE_END
from netstore.proto.rpc_pb2 import WatchResponse
from tests.check.history import Wrong

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from netstore.types import KeyChange
    from netstore.watch.streams import Selection


class Told(NamedTuple):
    """One response: the revision of its header and the bytes of its events, none for a progress."""

    revision: int
    events: bytes


@dataclass(slots=True, eq=False)
class PairWatch:
    """One watch and what came of it."""

    selection: Selection
    asked: int
    """The revision it asked to begin at; 0 for the next."""
    member: int
    life: int = 0
    opened_at: int = -1
    """The revision told when it was made; negative until then."""
    told: list[Told] = field(default_factory=list)
    compacted: int = 0
    """The revision it was told to be compacted, if it was."""
    ended: bool = False

    @property
    def start(self) -> int:
        """The first revision it is for."""
        return self.asked or self.opened_at + 1


class _Event(NamedTuple):
    key: bytes
    revision: int
    deleted: bool
    pair: bytes
    before: bytes


def judge(
    watches: Sequence[PairWatch],
    changes: Iterable[KeyChange],
    compactions: Collection[int],
    members: Mapping[int, tuple[int, int]],
) -> int:
    """How many events were judged. Wrong when a watch was told too little, too much or in another order.

    `compactions` are the revisions that compactions named. `members` gives, for those that run at the end,
    the number of their life and their revision.
    """
    history = _History(changes)
    return sum(
        _follow(watch, history, compactions, members.get(watch.member))
        for watch in watches
        if watch.opened_at >= 0
    )


class _History:
    """Every change, with the pair before it."""

    def __init__(self, changes: Iterable[KeyChange]) -> None:
        self.events: list[_Event] = []
        pairs: dict[bytes, bytes] = {}
        for change in changes:
            before = pairs.pop(change.key, b"")
            if not change.deleted:
                pairs[change.key] = change.pair
            self.events.append(_Event(change.key, change.revision, change.deleted, change.pair, before))
        self._revisions = [event.revision for event in self.events]
        if self._revisions != sorted(self._revisions):
            raise Wrong("revisions out of order")

    def wanted(self, selection: Selection, first: int, last: int) -> list[_Event]:
        """What a watch has to be told of these revisions, both included."""
        found = self.events[bisect_left(self._revisions, first) : bisect_right(self._revisions, last)]
        return [
            event if selection.prev_kv else event._replace(before=b"")
            for event in found
            if _wants(selection, event)
        ]


def _wants(selection: Selection, event: _Event) -> bool:
    if selection.no_delete if event.deleted else selection.no_put:
        return False
    if not selection.range_end:
        return event.key == selection.key
    return selection.key <= event.key and (
        selection.range_end == TO_THE_END or event.key < selection.range_end
    )


def _follow(
    watch: PairWatch, history: _History, compactions: Collection[int], member: tuple[int, int] | None
) -> int:
    following, count, header = watch.start, 0, 0
    compacted = max(compactions, default=0)
    for told in watch.told:
        if told.revision < header:
            raise Wrong(f"told of revision {told.revision} after {header}: {watch}")
        header = told.revision
        events = _read(told.events)
        wanted = history.wanted(watch.selection, following, told.revision)
        if not _same(events, wanted, compacted):
            raise Wrong(
                f"told up to revision {told.revision}, from {following} on, of {events}; "
                f"what happened is {wanted}: {watch}"
            )
        following = max(following, told.revision + 1)
        count += len(events)
    if watch.compacted:
        if watch.compacted not in compactions:
            raise Wrong(f"told of a compaction to {watch.compacted}, which nobody asked for: {watch}")
        if following >= watch.compacted:
            raise Wrong(f"told that {following} is compacted by one to {watch.compacted}: {watch}")
    elif not watch.ended and member is not None and member[0] == watch.life:
        missing = history.wanted(watch.selection, following, member[1])
        if missing:
            raise Wrong(f"never told of {missing}: {watch}")
    return count


def _same(told: list[_Event], wanted: list[_Event], compacted: int) -> bool:
    """Whether these are the same events; the pair before may be missing where a compaction has taken it."""
    return len(told) == len(wanted) and all(
        event == true or (event.revision <= compacted and event == true._replace(before=b""))
        for event, true in zip(told, wanted, strict=True)
    )


def _read(data: bytes) -> list[_Event]:
    return [
        _Event(
            event.kv.key,
            event.kv.mod_revision,
            event.type == event.DELETE,
            event.kv.SerializeToString(deterministic=True),
            event.prev_kv.SerializeToString(deterministic=True) if event.HasField("prev_kv") else b"",
        )
        for event in WatchResponse.FromString(data).events
    ]
