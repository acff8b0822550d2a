"""From a data folder with an identity to a Raft core that continues from what is stored.

A member whose log or state is damaged is never served. If other members of its cluster can be reached, it
becomes a new member with an empty store (`node.identity`); otherwise the damage is raised.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.errors import CorruptData
from netstore.raft.config import Config
from netstore.raft.core import Raft

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.node.identity import Enrollment
    from netstore.node.storage import Storage
    from netstore.seams import Log


async def recover(
    open_storage: Callable[[], Storage],
    enrollment: Enrollment,
    *,
    election_ticks: int,
    below: Callable[[int], int],
    log: Log,
) -> tuple[Storage, Raft]:
    """The open storage, which the caller has to close, and the Raft core. CorruptData if the data is damaged
    and this member cannot be replaced.

    `open_storage` opens what belongs to the folder's present identity; it is called again after a
    replacement. `below` draws a random number below its argument.
    """

    async def once() -> tuple[Storage, Raft]:
        storage = open_storage()
        try:
            raft = await _start(storage, enrollment, election_ticks, below, log)
        except BaseException:
            storage.close()
            raise
        return storage, raft

    try:
        return await once()
    except CorruptData as fault:
        damage = fault
    if enrollment.settings.force_new:
        raise damage
    await enrollment.replace(damage)
    return await once()


async def _start(
    storage: Storage, enrollment: Enrollment, election_ticks: int, below: Callable[[int], int], log: Log
) -> Raft:
    own = enrollment.identity
    if enrollment.settings.force_new:
        await storage.begin_anew(own.member_id)
    boot = storage.boot(enrollment.first_members())
    if not boot.snapshot.conf.voters:
        await enrollment.meet()
    raft = Raft(Config(id=own.member_id, election_ticks=election_ticks), boot, below)
    log.info(
        "member_recovered",
        member=f"{own.member_id:x}",
        cluster=f"{own.cluster_id:x}",
        term=raft.term,
        applied=boot.applied,
        commit=raft.commit,
        last=raft.last_index,
    )
    return raft
