"""Members compare their states: the one that differs stops before it answers anybody else.

Two kinds of places in the log are compared at: an entry without a command, which is a leader's first one and
one that it proposes each `CHECK_SECONDS`, and every `CHECK_ENTRIES`th entry. Every member tells the others
the digest of its state there (`state.digest`). A voter counts; whoever differs from more than half of the
voters is odd and stops. Where all have told and no digest has more than half, nobody knows whose state is
right, and all stop: what is wrong must not be served (the members of a group of two, above all).

A member judges only itself, by what it was told by the stream of each other member.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

import trio

from netstore.errors import NoRestart
from netstore.node.member import OWN
from netstore.state.digest import digest

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.node.host import Host
    from netstore.seams import Log
    from netstore.types import Index, NodeId

CHECK_SECONDS: Final = 60.0
"""Between two comparisons that a leader asks for."""

RETRY_SECONDS: Final = 1.0
"""After a difference was seen that is not settled: somebody who could settle it had not told."""

LOOK_SECONDS: Final = 0.1
"""How often it is looked whether it is time for a comparison."""

MOST_KEPT: Final = 64
"""Indexes whose digests are remembered: members are not all as far at once."""


class StateDiverged(NoRestart):
    """This member's state is not that of the others: what it holds is wrong, and it stops."""


class Judge:
    """What each member said its state was, and what follows for this one. Pure."""

    def __init__(self, own: NodeId) -> None:
        self._own = own
        self._told: dict[Index, dict[NodeId, bytes]] = {}

    def tell(self, member: NodeId, index: Index, digest: bytes) -> None:
        """A member says what its state was after the entry at `index`; the oldest is forgotten."""
        self._told.setdefault(index, {})[member] = digest
        while len(self._told) > MOST_KEPT:
            del self._told[min(self._told)]

    def differ(self, index: Index) -> bool:
        """Not all who told were in the same state."""
        return len(set(self._told.get(index, {}).values())) > 1

    def verdict(self, index: Index, voters: tuple[NodeId, ...]) -> str:
        """Why this member must stop, or an empty text."""
        told = self._told.get(index, {})
        own = told.get(self._own)
        if own is None:
            return ""
        votes = Counter(told[voter] for voter in voters if voter in told)
        most, count = votes.most_common(1)[0] if votes else (own, 0)
        if count * 2 > len(voters):
            return "" if most == own else f"{count} of {len(voters)} voters agree on another one"
        if votes.total() == len(voters):
            return "no state is that of more than half of the voters"
        return ""


class Consistency:
    """Compares one member's state with the others'. `run` is the task; `host.applier.observer` must be this
    object, and `take` gets what others say.
    """

    def __init__(
        self, host: Host, tell: Callable[[Index, bytes], None], log: Log, check_seconds: float = CHECK_SECONDS
    ) -> None:
        """`tell` sends a digest to all other members."""
        self._host = host
        self._tell = tell
        self._log = log
        self._check_seconds = check_seconds
        self._judge = Judge(host.id)
        self._copies = host.snapshot_install.installed
        """State copies that the judge knows of."""
        self._next_check = 0.0

    def reached(self) -> None:
        """See `node.applier.Observer`: tell the digest of the state as it is now."""
        host = self._host
        if len(host.status().conf.members()) < 2:
            return
        self._forget_replaced()
        index, value = host.machine.applied, digest(host.machine)
        self._judge.tell(host.id, index, value)
        self._tell(index, value)
        self._log.debug("state_digest", index=index, digest=value.hex())
        self._decide(index)

    def take(self, member: NodeId, index: Index, digest: bytes) -> None:
        """Another member says what its state was."""
        if member not in self._host.machine.members:
            return
        self._forget_replaced()
        self._judge.tell(member, index, digest)
        self._decide(index)

    async def run(self) -> None:
        """Ask for comparisons while this member leads, until cancelled."""
        clock = self._host.clock
        self._next_check = clock.monotonic() + self._check_seconds
        while True:
            await trio.sleep(LOOK_SECONDS)
            if clock.monotonic() >= self._next_check:
                self._next_check = clock.monotonic() + self._check_seconds
                if self._host.leader == self._host.id and len(self._host.machine.members) > 1:
                    self._host.propose(b"", lambda _: None, OWN)

    def _forget_replaced(self) -> None:
        """After a state copy, what was said of the state before it says nothing of the one that is here."""
        if self._copies != self._host.snapshot_install.installed:
            self._copies = self._host.snapshot_install.installed
            self._judge = Judge(self._host.id)

    def _decide(self, index: Index) -> None:
        if self._judge.differ(index):
            self._log.warning("states_differ", index=index)
            self._next_check = min(self._next_check, self._host.clock.monotonic() + RETRY_SECONDS)
        why = self._judge.verdict(index, self._host.status().conf.voters)
        if why:
            self._host.fail(
                StateDiverged(
                    f"the state of member {self._host.id:x} after entry {index} is not that of the others:"
                    f" {why}; it stops before it serves what is wrong: remove it (netstorectl member rm),"
                    " remove its data folder, and let it --join again"
                )
            )
