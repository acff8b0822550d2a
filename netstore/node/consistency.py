"""Members compare their states, and one that differs stops before it gives wrong answers.

States are compared at two kinds of places in the log: at entries without a command, which are the first entry
of each leader and one that it proposes every `CHECK_SECONDS`; and at every `CHECK_ENTRIES`th entry. There
each member sends the digest of its state to the others (`state.digest`). Only voters count; a member that
differs from more than half of them has diverged and stops. If all have reported and no digest has more than
half, nobody knows whose state is right, and all stop: a wrong state must not be served. That is the case of a
cluster of two above all. While a voter that could decide has not reported, members that differ go on. Once
that has lasted for `RETRY_SECONDS` each says so (`Host.differing`), until a comparison finds a majority, or
who differs is removed: reports arrive one after the other, and the deciding one may be the last.

A member judges only itself, by what the others have told it. One that has applied a command where others
compare their states differs from them without a digest.

A leader whose log has another entry than one that is committed here is left of an earlier cluster with the
same ids, or this member is (`Host.contradicted`): nobody commits anything while it leads, so it is told, too.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

import trio

from netstore.errors import NoRestart
from netstore.node.member import DIFFERING_FIX, OWN
from netstore.state.digest import digest
from netstore.types import Index

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.node.host import Host
    from netstore.seams import Log
    from netstore.types import NodeId

CHECK_SECONDS: Final = 60.0
"""Between two comparisons that a leader asks for."""

RETRY_SECONDS: Final = 1.0
"""How long a difference may remain unsettled, because a member that could settle it has not reported, before
this member says so; and between two comparisons meanwhile.
"""

LOOK_SECONDS: Final = 0.5
"""How often to look whether a comparison is due."""

CONTRADICTED_SECONDS: Final = 10.0
"""How long the last refusal of a leader is told: one that still leads is refused again within seconds."""

LEFT_OVER_FIX: Final = (
    "stop the member that is left of the earlier cluster, remove it (netstorectl member rm) and its data"
    " folder, and let it --join"
)

OTHER_ENTRY: Final = b""
"""In place of the digest of a member that has another entry where the others compare their states: its log is
not theirs, as that of one left of an earlier cluster with the same ids.
"""

MOST_KEPT: Final = 64
"""Log indexes whose digests are kept: members do not apply at the same pace."""


class StateDiverged(NoRestart):
    """This member's state is not that of the others: it is wrong, and the member stops."""


class DigestComparison:
    """The digests each member has reported, and what they mean for this one."""

    def __init__(self, own: NodeId) -> None:
        self._own = own
        self._told: dict[Index, dict[NodeId, bytes]] = {}

    def add(self, member: NodeId, index: Index, digest: bytes) -> None:
        """A member reports its digest after the entry at `index`; the oldest index is forgotten."""
        self._told.setdefault(index, {})[member] = digest
        while len(self._told) > MOST_KEPT:
            del self._told[min(self._told)]

    def has_differences(self, index: Index) -> bool:
        """Members have reported different digests."""
        return len(set(self._told.get(index, {}).values())) > 1

    def told(self, index: Index) -> dict[NodeId, bytes]:
        """The digests that are known at `index`, by member."""
        return dict(self._told.get(index, {}))

    def has_majority(self, index: Index, voters: tuple[NodeId, ...]) -> bool:
        """More than half of the voters have reported the same digest."""
        told = self._told.get(index, {})
        votes = Counter(told[voter] for voter in voters if voter in told)
        return max(votes.values(), default=0) * 2 > len(voters)

    def reason_to_stop(self, index: Index, voters: tuple[NodeId, ...]) -> str:
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
    object, and `take` gets what others report.
    """

    def __init__(
        self, host: Host, tell: Callable[[Index, bytes], None], log: Log, check_seconds: float = CHECK_SECONDS
    ) -> None:
        """`tell` sends a digest to all other members."""
        self._host = host
        self._tell = tell
        self._log = log
        self._check_seconds = check_seconds
        self._comparison = DigestComparison(host.id)
        self._snapshots = host.snapshot_install.installed
        """Snapshots installed before the comparison began."""
        self._next_check = 0.0
        self._differing: dict[NodeId, bytes] = {}
        """The digests that differ, by member, with nobody to tell which is right; empty if that is not so."""
        self._differing_at = Index(0)
        """Where they were found to differ last."""
        self._differing_since = 0.0
        """When they were found to differ first."""
        self._states_text = ""
        """That they differ, in words, once it is told."""
        self._is_contradicted = False
        """That a leader was refused is told."""

    def reached(self) -> None:
        """See `node.applier.Observer`: report the digest of the state as it is now."""
        host = self._host
        if len(host.status().conf.members()) < 2:
            return
        self._forget_replaced()
        index, value = host.machine.applied, digest(host.machine)
        self._comparison.add(host.id, index, value)
        self._tell(index, value)
        self._log.debug("state_digest", index=index, digest=value.hex())
        self._decide(index)

    def take(self, member: NodeId, index: Index, digest: bytes) -> None:
        """Another member reports its digest."""
        if member not in self._host.machine.members:
            return
        self._forget_replaced()
        self._comparison.add(member, index, digest)
        own = self._host.id
        if own not in self._comparison.told(index) and self._host.applier.has_command_at(index):
            self._comparison.add(own, index, OTHER_ENTRY)
        self._decide(index)

    async def run(self) -> None:
        """Ask for comparisons while this member leads, until cancelled."""
        clock = self._host.clock
        self._next_check = clock.monotonic() + self._check_seconds
        while True:
            await trio.sleep(LOOK_SECONDS)
            self.look()
            if clock.monotonic() >= self._next_check:
                self._next_check = clock.monotonic() + self._check_seconds
                if self._host.leader == self._host.id and len(self._host.machine.members) > 1:
                    self._host.propose(b"", lambda _: None, OWN)

    def _forget_replaced(self) -> None:
        """After a snapshot was installed, digests of the state before it say nothing of the present one."""
        if self._snapshots != self._host.snapshot_install.installed:
            self._snapshots = self._host.snapshot_install.installed
            self._comparison = DigestComparison(self._host.id)
            self._end_difference("the state of this member was replaced")

    def look(self) -> None:
        """A difference ends once those that differ from the rest are no members any more; one that nobody
        settles is told.
        """
        members = self._host.machine.members
        if len({digest for member, digest in self._differing.items() if member in members}) < 2:
            self._end_difference("a member that differed was removed")
        self._tell_difference()
        self._say()

    def _decide(self, index: Index) -> None:
        voters = self._host.status().conf.voters
        if self._comparison.has_differences(index):
            self._next_check = min(self._next_check, self._host.clock.monotonic() + RETRY_SECONDS)
            if not self._comparison.has_majority(index, voters):
                self._begin_difference(index)
        if index >= self._differing_at and self._comparison.has_majority(index, voters):
            self._end_difference("more than half of the voters agree")
        why = self._comparison.reason_to_stop(index, voters)
        if why:
            self._host.fail(
                StateDiverged(
                    f"the state of member {self._host.id:x} after entry {index} is not that of the others:"
                    f" {why}; it stops before it serves what is wrong: remove it (netstorectl member rm),"
                    " remove its data folder, and let it --join again"
                )
            )

    def _begin_difference(self, index: Index) -> None:
        """A comparison before the last one says nothing new; what is reported of an entry that is not in the
        log yet, or never will be, is looked at once it is reached.
        """
        if index < self._differing_at or index > self._host.status().last:
            return
        if not self._differing:
            self._differing_since = self._host.clock.monotonic()
        self._differing, self._differing_at = self._comparison.told(index), index
        self._tell_difference()

    def _tell_difference(self) -> None:
        """Say that states differ, if that lasts, and log it unless it is known."""
        waited = self._host.clock.monotonic() - self._differing_since
        if not self._differing or waited < RETRY_SECONDS:
            return
        index = self._differing_at
        names = ", ".join(f"{member:x}" for member in sorted(self._differing))
        if not self._states_text:
            self._log.error("states_differ", index=index, members=names)
        self._states_text = (
            f"the states of members {names} differ after entry {index}, and no more than half of"
            f" the voters agree on one: {DIFFERING_FIX}"
        )
        self._say()

    def _end_difference(self, why: str) -> None:
        if self._states_text:
            self._log.warning("states_differ_no_more", index=self._differing_at, reason=why)
        self._differing = {}
        self._states_text = ""
        self._say()

    def _say(self) -> None:
        """Set what `Member.differing` tells; log when leaders begin to be refused, and when that ends."""
        refused = self._host.contradicted
        if refused is not None and self._host.clock.monotonic() - refused.at < CONTRADICTED_SECONDS:
            if not self._is_contradicted:
                self._log.error("leader_has_another_log", reason=refused.words, fix=LEFT_OVER_FIX)
            self._is_contradicted = True
            self._host.differing = f"{refused.words}: {LEFT_OVER_FIX}"
            return
        if self._is_contradicted:
            self._log.warning("leader_is_not_refused_any_more")
        self._is_contradicted = False
        self._host.differing = self._states_text
