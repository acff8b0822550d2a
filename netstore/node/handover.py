"""Transfers leadership before a member stops, so that the others need no election."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from netstore.node.host import Host
    from netstore.node.loop import Loop

POLL_SECONDS: Final = 0.01
"""How often a leader checks whether another member has taken over."""


async def hand_over(host: Host, loop: Loop) -> None:
    """Wait until no request waits for the log. Then, if this member leads, transfer leadership to the active
    voter with the longest log, and wait until it leads. Not bounded in time: the caller has to bound it.
    """
    await loop.drained(host)
    status = host.status()
    able = [each for each in status.peers if each.active and each.id in status.conf.voters]
    if host.leader != host.id or not able:
        return
    if host.transfer(max(able, key=lambda each: each.match).id) is None:
        while host.leader == host.id:  # noqa: ASYNC110 - nothing signals a change of the leader
            await trio.sleep(POLL_SECONDS)
