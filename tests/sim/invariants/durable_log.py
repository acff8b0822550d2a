"""What the disk reported safe is there after any crash, or the member refuses to start: never silently less
(P1 and P10 of the reliability design; "Protocol-Aware Recovery", FAST'18).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.sim.invariants import Invariant, require

if TYPE_CHECKING:
    from netstore.disk.wal import Replay
    from tests.sim.member import Member


class DurableLog(Invariant):
    """Compares each replay with the record of what was promised."""

    def replayed(self, member: Member, replay: Replay) -> None:
        before = member.record
        require(
            before.reconcile(replay),
            "the log is not what was promised" + (f" ({member.disk.spoiled})" if member.disk.spoiled else ""),
            member=member.id,
            replay=(replay.hard_state, replay.mark, len(replay.entries)),
            promised=(before.hard_state, before.mark, len(before.entries)),
        )
        if member.disk.spoiled:
            self.world.reach["damage_harmless"] += 1
            member.disk.spoiled = ""

    def refused(self, member: Member, why: str) -> None:
        require(
            bool(member.disk.spoiled), "a member refused a log that nobody damaged", member=member.id, why=why
        )
        self.world.reach["damage_refused"] += 1
