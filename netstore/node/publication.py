"""Publishes a member's name and URLs through the log at each start, as etcd does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from netstore.errors import Fault
from netstore.node.member import OWN
from netstore.state.commands import RemoveMember, SetClusterVersion, encode

if TYPE_CHECKING:
    from netstore.node.host import Host
    from netstore.seams import Log
    from netstore.state.commands import PublishMember
    from netstore.state.machine import Outcome

POLL_SECONDS: Final = 0.1
"""How often to look at state that others change."""

RETRY_SECONDS: Final = 1.0
"""Pause after a proposal that failed."""


async def publish(host: Host, own: PublishMember, version: str, *, remove_others: bool, log: Log) -> None:
    """Publish this member; return when the cluster has a version, which the leader sets.

    With `remove_others` all other members are removed from the list: they are lost.
    """
    while not host.machine.members:  # noqa: ASYNC110 - a member that joins gets the list with its snapshot
        await trio.sleep(POLL_SECONDS)
    await _propose(host, encode(own), log)
    if remove_others:
        for other in sorted(set(host.machine.members) - {host.id}):
            await _propose(host, encode(RemoveMember(other)), log)
    while not host.machine.roster.cluster_version:
        if host.leader == host.id:
            await _propose(host, encode(SetClusterVersion(version)), log)
        else:
            await trio.sleep(POLL_SECONDS)


async def _propose(host: Host, command: bytes, log: Log) -> None:
    """Propose until the command is applied. Each attempt is bounded by the time limit of proposals."""
    told = ""
    while True:
        outcomes: list[Outcome | Fault] = []
        done = trio.Event()

        def take(
            outcome: Outcome | Fault, outcomes: list[Outcome | Fault] = outcomes, done: trio.Event = done
        ) -> None:
            outcomes.append(outcome)
            done.set()

        host.propose(command, take, OWN)
        await done.wait()
        if not isinstance(outcomes[0], Fault):
            return
        if str(outcomes[0]) != told:
            told = str(outcomes[0])
            log.warning("member_not_published", reason=told)
        await trio.sleep(RETRY_SECONDS)
