"""Auto-compaction: the leader compacts old history, as the operator configured it (v3 API, auto-compaction).

By time: the revision is recorded ten times in each period, and the store is compacted to the revision of one
period ago, once in a period and at least every hour. By revisions: every five minutes the store is compacted
to all but the last so many revisions.
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

RECORDS: Final = 10
"""Records of the revision in one period."""

SHORTEST_SECONDS: Final = 0.01
"""Shortest interval between two records."""

LONGEST_SECONDS: Final = 3600.0
"""Longest interval between two compactions by time."""

REVISION_SECONDS: Final = 300.0
"""Interval between two compactions by revisions."""


class ByTime:
    """Keeps the history of the last `period` seconds, give or take a tenth, or of a little longer if they are
    too few to record so often.
    """

    def __init__(self, member: Member, after: After, period: float, log: Log) -> None:
        self._member = member
        self._after = after
        self._pause = max(period / RECORDS, SHORTEST_SECONDS)
        self._every = min(period, LONGEST_SECONDS)
        self._records: deque[int] = deque(maxlen=RECORDS)
        self._waited = 0.0
        self._compaction = Compaction(member, log)

    def start(self) -> None:
        """Schedule the next record of the revision."""
        self._after(self._pause, self._run)

    def _run(self) -> None:
        records = self._records
        self._waited += self._pause
        if len(records) == RECORDS and self._waited >= self._every - self._pause / 2:
            self._waited = 0.0
            self._compaction.to(records[0])
        records.append(self._member.machine.mvcc.revision)
        self.start()


class ByRevisions:
    """Keeps the history of the last `count` revisions."""

    def __init__(self, member: Member, after: After, count: int, log: Log) -> None:
        self._member = member
        self._after = after
        self._count = count
        self._compaction = Compaction(member, log)

    def start(self) -> None:
        """Schedule the next compaction."""
        self._after(REVISION_SECONDS, self._run)

    def _run(self) -> None:
        self._compaction.to(self._member.machine.mvcc.revision - self._count)
        self.start()


class Compaction:
    """Proposes compactions while its member leads, one at a time."""

    def __init__(self, member: Member, log: Log) -> None:
        self._member = member
        self._log = log
        self._proposed = 0
        """The revision of the compaction under way; 0 if there is none."""

    def to(self, revision: int) -> None:
        """Compact to a revision, unless that is done or another compaction is under way, or another member
        leads.
        """
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
