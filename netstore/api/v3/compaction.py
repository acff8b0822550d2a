"""Compaction by itself, as the operator asked for: the leader forgets old history (v3 API, auto-compaction).

By time: the revision is noted ten times in each period, and the store is compacted to where it was one
period ago, every period and at least every hour. By revisions: every five minutes all but the last so many
are forgotten.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from netstore.errors import Fault
from netstore.node.member import OWN
from netstore.state.commands import encode
from netstore.state.v3.commands import Compact

if TYPE_CHECKING:
    from netstore.node.member import Member
    from netstore.seams import After, Log
    from netstore.state.machine import Outcome

NOTES: Final = 10
"""Notes of the revision in one period."""

LONGEST_SECONDS: Final = 3600.0
"""Between two compactions by time."""

REVISION_SECONDS: Final = 300.0
"""Between two compactions by revisions."""


class ByTime:
    """Keeps the history of the last `period` seconds, give or take a tenth."""

    def __init__(self, member: Member, after: After, period: float, log: Log) -> None:
        self._member = member
        self._after = after
        self._pause = period / NOTES
        self._every = min(period, LONGEST_SECONDS)
        self._notes: deque[int] = deque(maxlen=NOTES)
        self._waited = 0.0
        self._compaction = Compaction(member, log)

    def start(self) -> None:
        """Begin to note revisions."""
        self._after(self._pause, self._look)

    def _look(self) -> None:
        notes = self._notes
        self._waited += self._pause
        if len(notes) == NOTES and self._waited >= self._every - self._pause / 2:
            self._waited = 0.0
            self._compaction.to(notes[0])
        notes.append(self._member.machine.mvcc.revision)
        self.start()


class ByRevisions:
    """Keeps the history of the last `count` revisions."""

    def __init__(self, member: Member, after: After, count: int, log: Log) -> None:
        self._member = member
        self._after = after
        self._count = count
        self._compaction = Compaction(member, log)

    def start(self) -> None:
        """Begin to look."""
        self._after(REVISION_SECONDS, self._look)

    def _look(self) -> None:
        self._compaction.to(self._member.machine.mvcc.revision - self._count)
        self.start()


class Compaction:
    """Proposes compactions while its member leads, one at a time."""

    def __init__(self, member: Member, log: Log) -> None:
        self._member = member
        self._log = log
        self._proposed = 0
        """What is on its way; 0 when nothing is."""

    def to(self, revision: int) -> None:
        """Compact to a revision, unless that was done or is under way, or another member leads."""
        member = self._member
        if self._proposed or member.leader != member.id or revision <= max(1, member.machine.mvcc.compacted):
            return
        self._proposed = revision
        member.propose(encode(Compact(revision)), self._done, OWN)

    def _done(self, outcome: Outcome | Fault) -> None:
        revision, self._proposed = self._proposed, 0
        if isinstance(outcome, Fault):
            self._log.warning("history_not_compacted", revision=revision, reason=str(outcome))
        else:
            self._log.info("history_compacted", revision=revision)
