"""How long the files of an archive are kept, and how far back it leads. Blocks.

Kept is what leads to every point from an instant on: the newest file that has an entry as old as that, all
after it, and the newest state before it, with the entries between. Whatever the instant, the newest state and
what follows it stays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from netstore.disk.archivefile import FileGone, read_entries, read_head
from netstore.disk.verification import verify
from netstore.errors import CorruptData

if TYPE_CHECKING:
    from pathlib import Path

    from netstore.disk.archivefile import ArchiveWriter, Listing, Part

REMOVED_FILES: Final = 100
"""Files that are removed in one round: meanwhile none are merged."""


class Pace:
    """The time that ages are told by: no reading is further ahead of the one before than time has passed.

    A clock may be set ahead, and one write then has a time in the future. What was written before would be
    old at once. A reading that is too far ahead is believed once it was so for as long as files are kept: by
    then all that was archived before is old in truth. Until then time goes on from the reading before it.
    """

    def __init__(self, wall: int, now: float) -> None:
        """From this reading, in nanoseconds since 1970, at a time of the monotonic clock in seconds."""
        self._believed = (wall, now)
        self._ahead: tuple[int, float] | None = None
        """The first reading that was too far ahead, and when, while they are."""

    def read(self, wall: int, now: float, keep_seconds: float) -> int:
        """The time, of a reading."""
        if self._ahead is not None and now - self._ahead[1] >= keep_seconds:
            self._believed, self._ahead = self._ahead, None
        most = self._at(now)
        if wall <= most:
            self._ahead = None
            return wall
        self._ahead = self._ahead or (wall, now)
        return most

    def ahead_seconds(self, wall: int, now: float) -> float:
        """How much further ahead a reading is than time has passed."""
        return max(0.0, (wall - self._at(now)) / 1e9)

    def _at(self, now: float) -> int:
        wall, at = self._believed
        return wall + round((now - at) * 1e9)


class Outcome(NamedTuple):
    """What a round did."""

    removed: int = 0
    """Files."""
    has_more: bool = False
    """Whether further ones can be removed."""
    is_state_old: bool = False
    """Whether a new state should be archived, so that older files can be removed some day."""


class Retention:
    """Keeps the archive of one member as long as asked. `run` is called in one thread at a time."""

    def __init__(self, writer: ArchiveWriter) -> None:
        self._writer = writer
        self._since = 0
        """The instant of the last round."""
        self._border = 0
        """The file with this entry was the newest one as old as that."""
        self._verified: Path | None = None
        """The state that was verified last."""
        self._reach: tuple[int, int] | None = None
        """First entry and oldest state for which `oldest` was found."""
        self.oldest = 0
        """The oldest instant that the archive leads to, in nanoseconds since 1970; 0 if that is not known."""

    def run(self, since: int, until: int) -> Outcome:
        """Remove what leads to no point from the instant `since` on, none at all if that is 0. Times after
        `until`, which is now, are of clocks that were wrong, and decide nothing. OSError or NetstoreError if
        files cannot be read or removed; the call may be repeated.
        """
        outcome = self._remove(since, until) if since else Outcome()
        found = self._writer.listing
        reach = (found.parts[0].first if found.parts else 0, found.bases[0].applied if found.bases else -1)
        if reach != self._reach or not self.oldest:
            self.oldest = oldest_instant(found)
            self._reach = reach
        return outcome

    def _remove(self, since: int, until: int) -> Outcome:
        found = self._writer.listing
        if since < self._since:
            self._border = 0
        border = newest_as_old(found, since, until, self._border)
        self._since = since
        if border is None or not found.bases:
            return Outcome()
        self._border = border.first
        begin = needed_after(found, border)
        bases = [base for base in found.bases if base.applied < begin]
        parts = [part for part in found.parts if part.last <= begin and part.last < border.first]
        is_state_old = found.bases[-1].applied < border.first
        if not (bases or parts) or not self._is_good(found.bases[len(bases)].path):
            return Outcome(is_state_old=is_state_old)
        bases, parts = bases[:REMOVED_FILES], parts[: max(0, REMOVED_FILES - len(bases))]
        self._writer.remove(bases, parts)
        removed = len(bases) + len(parts)
        return Outcome(removed, removed == REMOVED_FILES, is_state_old)

    def _is_good(self, state: Path) -> bool:
        """Whether the state that the older files are removed for is undamaged."""
        if state != self._verified:
            try:
                verify(state)
            except CorruptData as error:
                self._writer.damaged.setdefault(state, str(error))
                return False
            self._verified = state
            self._writer.damaged.pop(state, None)  # it could not be read before
        return True


def newest_as_old(found: Listing, since: int, until: int, begin: int = 0) -> Part | None:
    """The newest file that has an entry as old as `since` and lies before all that are known to be newer;
    None if there is none. Files that end before the entry `begin` are known to lie before it. Reads heads.
    """
    newest: Part | None = None
    for part in found.parts:
        if part.last < begin:
            continue
        times = _times(part)
        if 0 < times[0] <= since:
            newest = part
        if any(since < each <= until for each in times):
            break
    return newest


def _times(part: Part) -> tuple[int, int]:
    """The earliest and the latest time of a file; 0 if that is not known."""
    try:
        head = read_head(part.path)
    except (CorruptData, FileGone):
        return 0, 0
    return head.earliest, head.latest


def needed_after(found: Listing, border: Part) -> int:
    """The index of the state that leads to all points from the first entry of a file on; states before it,
    and entries up to it, are not needed for them. If no state does, it is that of the begin of the stretch
    that the file is in. Never after the newest state, and there is one.
    """
    first = next(first for first, last in found.stretches if first <= border.first <= last)
    bases = [base.applied for base in found.bases if first - 1 <= base.applied <= border.first]
    return min(max(bases, default=first - 1), found.bases[-1].applied)


def oldest_instant(found: Listing) -> int:
    """The oldest instant whose state an archive leads to, in nanoseconds since 1970: the time of the last
    entry of its oldest state that leads on, or else that of the first one after it. 0 if none has a time.
    """
    if found.is_from_start:
        return _time_at(found, 0)
    for base in found.bases:
        if any(first - 1 <= base.applied <= last for first, last in found.stretches):
            return _time_at(found, base.applied)
    return 0


def _time_at(found: Listing, applied: int) -> int:
    before = 0
    for part in found.parts:
        if part.last < applied or not _times(part)[1]:
            continue
        try:
            for entry, wall in read_entries(part.path):
                if wall and entry.index > applied:
                    return before or wall
                before = wall or before
        except (CorruptData, FileGone):
            continue
    return before
