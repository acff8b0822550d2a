"""The order of the marks in a log: forgotten <= snapshot <= applied <= committed <= last, and nothing is
applied that the own disk does not hold (openraft, `tests-turmoil` invariants; `raft.log`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.sim.invariants import Invariant, require

if TYPE_CHECKING:
    from tests.sim.member import Member


class Order(Invariant):
    """Compares a member's marks with each other and with its state."""

    def turned(self, member: Member) -> None:
        log = member.raft.log
        in_order = (
            log.compacted <= log.applied <= log.applying <= log.commit <= log.last
            and log.applying <= log.persisted <= log.handed <= log.last
        )
        if not in_order:
            marks = {name: getattr(log, name) for name in _MARKS}
            require(in_order, "marks out of order", member=member.id, marks=marks)
        if member.raft.installing is None:
            require(
                log.applied == member.machine.applied,
                "the state is not where the log is",
                member=member.id,
                log=log.applied,
                state=member.machine.applied,
            )
            require(
                member.engine.durable() >= log.compacted,
                "forgot what the state does not hold",
                member=member.id,
                durable=member.engine.durable(),
                forgotten=log.compacted,
            )


_MARKS = ("compacted", "applied", "applying", "commit", "persisted", "handed", "last")
