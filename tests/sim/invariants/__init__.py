"""Properties that must hold at every step of every run: one a file, its source cited.

Each is a class with some of the hooks of `Invariant`; the world calls those a class defines. They keep their
own record of what was seen and believe no member about the past.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.errors import MustStop

if TYPE_CHECKING:
    from collections.abc import Sequence

    from netstore.disk.wal import Replay
    from netstore.raft.entry import Entry
    from netstore.raft.messages import Message
    from tests.sim.member import Member
    from tests.sim.world import World


class Violated(AssertionError, MustStop):  # noqa: N818 - named for the verdict
    """A property does not hold."""


def require(true: bool, what: str, **fields: object) -> None:
    """Violated, unless it is true."""
    if not true:
        told = ", ".join(f"{name}={value!r}" for name, value in fields.items())
        raise Violated(f"{what}: {told}")


class Invariant:
    """The hooks, in the order of a member's life."""

    def __init__(self, world: World) -> None:
        self.world = world

    def replayed(self, member: Member, replay: Replay) -> None:
        """A starting member has read its log."""

    def refused(self, member: Member, why: str) -> None:
        """A member would not start."""

    def booted(self, member: Member) -> None:
        """A member runs."""

    def ticked(self, member: Member) -> None:
        """A tick begins."""

    def heard(self, member: Member, message: Message) -> None:
        """A message is about to be stepped."""

    def stored(self, member: Member, before: int, entries: Sequence[Entry]) -> None:
        """Entries are safe on the disk; the entry before them has the term `before`, negative if unknown."""

    def sent(self, member: Member, message: Message) -> None:
        """A message leaves."""

    def turned(self, member: Member) -> None:
        """A turn is over."""

    def finished(self) -> None:
        """The run is over, the cluster whole again."""


def all_invariants() -> tuple[type[Invariant], ...]:
    """Every one, in a fixed order."""
    from tests.sim.invariants import (  # noqa: PLC0415 - they import this module
        check_quorum,
        commit_quorum,
        committed_immutable,
        conf_agreement,
        digest,
        durable_log,
        election_safety,
        expiry,
        joining,
        kept_before_said,
        later_term,
        leader_completeness,
        log_matching,
        machine_safety,
        monotone,
        order,
        possible_term,
        pre_vote,
        saved_between,
        single_vote,
    )

    return (
        durable_log.DurableLog,
        order.Order,
        monotone.Monotone,
        election_safety.ElectionSafety,
        leader_completeness.LeaderCompleteness,
        committed_immutable.CommittedImmutable,
        commit_quorum.CommitQuorum,
        conf_agreement.ConfAgreement,
        check_quorum.CheckQuorum,
        log_matching.LogMatching,
        machine_safety.MachineSafety,
        single_vote.SingleVote,
        kept_before_said.KeptBeforeSaid,
        later_term.LaterTerm,
        possible_term.PossibleTerm,
        pre_vote.PreVote,
        expiry.Expiry,
        joining.Joining,
        digest.Digest,
        saved_between.SavedBetween,
    )
