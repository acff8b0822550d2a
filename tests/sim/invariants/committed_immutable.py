"""What is committed stays as it is (Ongaro's dissertation, section 3.6.2), on every member alike (state
machine safety, section 3.6.3: members apply what they commit).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.sim.invariants import Invariant, require

if TYPE_CHECKING:
    from tests.sim.member import Member


class CommittedImmutable(Invariant):
    """Compares each newly committed entry with the first that was committed in its place, in the ledger."""

    def turned(self, member: Member) -> None:
        log = member.raft.log
        seen = max(member.commit_seen, log.compacted)
        if log.commit <= seen:
            return
        ledger = self.world.ledger
        for entry in log.between(seen + 1, log.commit):
            first = ledger.commit(entry, member.raft.term, self.world.timeline.now)
            require(
                first is entry or first == entry,
                "an entry was committed over another",
                member=member.id,
                entry=entry,
                first=first,
            )
        member.commit_seen = log.commit
