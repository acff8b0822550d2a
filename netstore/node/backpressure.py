"""Backpressure: what a member takes into its log while entries cannot be applied fast enough.

The log holds in memory what is committed and not applied, so it must not grow without bound while the state
engine is behind. A leader then proposes nothing: requests wait where they are bounded (`node.proposals`,
`node.postponed`). A follower drops what its leader sends beyond a bound; it is sent again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from netstore import errors
from netstore.node.logsize import log_size
from netstore.raft.messages import Append

if TYPE_CHECKING:
    from netstore.errors import Fault
    from netstore.node.applier import Applier
    from netstore.node.diskspace import DiskSpace
    from netstore.raft.core import Raft
    from netstore.raft.messages import Message
    from netstore.seams import Engine, Log
    from netstore.state.machine import Machine

HELD_BYTES: Final = 16 * 1024 * 1024
"""By how much a follower's log in memory may grow while no entries are applied because the state engine is
behind; the rest is dropped as if lost on the way. A leader whose committed and not applied entries weigh
more, or whose engine is behind, proposes nothing (`Backpressure.is_overloaded`). Requests of its clients wait
then, within `proposals.MAX_WAITING_BYTES`; those of other members are postponed, up to twice this; more is
refused.
"""

BEHIND_SECONDS: Final = 1.0
"""For how long a leader may be overloaded, while something waits, before what waits is refused. An engine
that is only slow overloads it for some tenths of a second at a time. Monotonic clock, looked at in each turn.
"""

UNAPPLIED_BYTES: Final = 64 * 1024 * 1024
"""While committed and not applied entries weigh more, entries of the leader are dropped as if lost on the
way. As much as may be uncommitted (`Config.max_uncommitted_bytes`), so that one large batch loses nothing.
"""


class Backpressure:
    """Decides whether a member may take more into its log."""

    def __init__(
        self, machine: Machine, raft: Raft, engine: Engine, *, applier: Applier, space: DiskSpace, log: Log
    ) -> None:
        self._machine = machine
        self._raft = raft
        self._engine = engine
        self._applier = applier
        self._space = space
        self._log = log
        self._log_bytes_before = 0
        """What the log in memory weighed when this member stopped applying."""

    def look(self) -> None:
        """Stop applying while the engine is behind, so that entries stay in the log. Called in each turn, so
        at each tick, and when the engine has made a commit (`Engine.eased`).
        """
        behind = self._engine.excess_bytes() > 0
        if behind != self._raft.apply_paused:
            self._raft.apply_paused = behind
            self._log_bytes_before = self._raft.log_bytes
            self._log.info("state_behind" if behind else "state_caught_up", applied=self._machine.applied)

    @property
    def is_overloaded(self) -> bool:
        """This member leads and is to propose nothing now: nothing is applied, or too much waits for that. A
        follower passes on what it is asked, whatever its own engine does: the leader bounds the log.
        """
        raft = self._raft
        return (raft.apply_paused or self._applier.waiting_bytes > HELD_BYTES) and raft.leader == raft.id

    def refusal(self, seconds: float) -> Fault | None:
        """What to refuse a request with that has waited for so long for a leader that was overloaded all the
        while; None while it is to wait on. Refused at once when the engine is behind for want of space.
        """
        if self._space.state_error and self._raft.apply_paused:
            return errors.no_space()
        return errors.too_many() if seconds > BEHIND_SECONDS else None

    def accepts(self, message: Message) -> bool:
        """Whether there is room for what the leader sends. If not, its entries are dropped: Raft sends them
        again.
        """
        holding, late = self._raft.apply_paused, self._applier.waiting_bytes > UNAPPLIED_BYTES
        if not (holding or late):
            return True
        size = log_size([entry.data for entry in message.entries]) if type(message) is Append else 0
        if not size:
            return True
        return not late and self._raft.log_bytes - self._log_bytes_before + size <= HELD_BYTES
