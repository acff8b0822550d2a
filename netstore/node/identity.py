"""How a member gets its identity: its id and the id of its cluster.

A data folder that has an identity keeps it. An empty folder gets one in one of three ways:

- the member begins a new cluster, of which it knows all members (`initial_cluster`): ids follow from their
  peer URLs and the cluster token (`node.bootstrap`). It asks the others first: if one is running and does not
  list this member as not started, this member was started before, lost its data and may have voted, so it
  must not begin again;
- it was added by request to a running cluster (`initial_cluster_state` is existing): it finds itself in the
  list of members by its peer URLs;
- it asks a running cluster to be added (`join`).

A member whose data is damaged asks its cluster to replace it: it gets a new identity and an empty folder,
because the others rely on what it acknowledged, and nobody knows whom it voted for.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

import trio

from netstore.disk.datadir import DAMAGED, MemberIdentity
from netstore.errors import CorruptData, NetstoreError
from netstore.node import bootstrap
from netstore.node.jointoken import HOW_TO_GET_ONE
from netstore.node.storage import readable_members
from netstore.types import NodeId

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from netstore.disk.datadir import DataDir
    from netstore.node.membersettings import MemberSettings
    from netstore.seams import Log
    from netstore.state.machine import Machine
    from netstore.state.members import MemberInfo
    from netstore.types import ClusterId

JOIN_SECONDS: Final = 60.0
"""How long a member without an identity keeps asking the others."""

REPLACE_SECONDS: Final = 20.0
"""How long a member whose data is damaged keeps asking to be replaced."""

RETRY_SECONDS: Final = 1.0
"""Pause between two attempts to reach the cluster."""

NO_MEMBER: Final = NodeId(0)


class MemberList(Protocol):
    """The members of a cluster, as one of them listed them."""

    @property
    def cluster(self) -> ClusterId:
        """The id of the cluster."""

    @property
    def you(self) -> NodeId:
        """The id of the member that was added for this request; 0 if none was asked for."""

    @property
    def members(self) -> Sequence[MemberInfo]:
        """All members."""


class NoAnswer(NetstoreError):  # noqa: N818 - named for what happened
    """None of the members that were asked has sent its list. The text says why."""

    def __init__(self, text: str, *, connected: bool, other_token: bool = False) -> None:
        """`connected`: one of them accepted a connection. `other_token`: that member has another join
        token.
        """
        super().__init__(text)
        self.connected = connected
        self.other_token = other_token


class Enrollment:
    """Finds the identity of one member and writes it to its data folder."""

    def __init__(
        self,
        settings: MemberSettings,
        folder: DataDir,
        list_members: Callable[[Sequence[str]], Awaitable[MemberList]],
        join: Callable[[Sequence[str], NodeId], Awaitable[MemberList]],
        log: Log,
    ) -> None:
        """Nothing is asked or written yet.

        `list_members` asks the members at these URLs in turn until one answers; `join` asks to be added to
        the cluster besides, in place of a member if an id other than 0 is given. Both raise `NoAnswer`.
        """
        self.settings = settings
        self.known_peer_urls: Mapping[NodeId, tuple[str, ...]] = {}
        """Peer URLs of the other members as the cluster listed them, used until this member's own state has
        the list.
        """
        self._initial = {
            bootstrap.member_id(urls, settings.initial_token): (name, urls)
            for name, urls in settings.initial.items()
        }
        self._folder = folder
        self._list_members = list_members
        self._join = join
        self._log = log

    @property
    def identity(self) -> MemberIdentity:
        """The identity of this member. ValueError while the folder has none."""
        return self._folder.identity

    async def find(self) -> None:
        """Give the empty folder its identity. NetstoreError if that is not possible."""
        settings = self.settings
        if settings.force_new:
            raise NetstoreError(
                f"force_new_cluster: {self._folder.path} is empty: name the data folder of the member whose"
                " data the new cluster is to have"
            )
        if settings.join:
            listed = await self._apply(self._others())
            identity = MemberIdentity(listed.cluster, listed.you, settings.name)
        elif settings.joins_existing:
            identity = self._own_place(await self._ask(partial(self._list_members, self._others())))
        else:
            own = next(id_ for id_, (name, _) in self._initial.items() if name == settings.name)
            identity = MemberIdentity(bootstrap.cluster_id(self._initial), own, settings.name)
            await self._refuse_to_begin_twice(identity)
        self._folder.adopt(identity)
        self._log.info("identity_found", member=f"{identity.member_id:x}", cluster=f"{identity.cluster_id:x}")

    def first_members(self) -> Mapping[NodeId, tuple[str, ...]]:
        """Id -> peer URLs of all members of the cluster that this member began, as far as settings tell;
        empty if it did not begin one.
        """
        own = self._folder.identity
        if own.member_id in self._initial and bootstrap.cluster_id(self._initial) == own.cluster_id:
            return {id_: urls for id_, (_, urls) in self._initial.items()}
        return {}

    def directory(self, machine: Machine) -> tuple[Mapping[NodeId, Sequence[str]], AbstractSet[NodeId]]:
        """Peer URLs of every member, and the ids of removed members: from this member's state, or as the
        cluster listed them until it has one.
        """
        if not machine.members:
            return self.known_peer_urls, machine.removed
        return {id_: member.peer_urls for id_, member in machine.members.items()}, machine.removed

    async def meet(self) -> None:
        """Ask the cluster for its members, unless that was done: fills `known_peer_urls`."""
        if not self.known_peer_urls:
            listed = await self._ask(partial(self._list_members, self._others()))
            self._meet(listed, self._folder.identity.member_id)

    async def replace(self, damage: CorruptData) -> None:
        """Become another member with an empty folder, in place of the damaged one; its files are kept aside.

        Raises the damage if no other member is known, or none of them agrees.
        """
        old = self._folder.identity.member_id
        self.known_peer_urls = {
            member.id: member.peer_urls for member in readable_members(self._folder) if member.id != old
        }
        known = (url for urls in self.known_peer_urls.values() for url in urls)
        others = list(dict.fromkeys((*self._others(), *known)))
        if not others:
            raise damage
        self._log.error("data_damaged", error=str(damage), member=f"{old:x}", asking=others)
        try:
            listed = await self._apply(others, replaces=old, seconds=REPLACE_SECONDS)
        except NetstoreError as fault:
            raise CorruptData(f"{damage}; {fault}") from damage
        self._folder.replace(MemberIdentity(listed.cluster, listed.you, self.settings.name))
        self._log.warning("member_replaced", old=f"{old:x}", new=f"{listed.you:x}", kept=DAMAGED)

    def _others(self) -> list[str]:
        """Peer URLs of the other members that the settings name."""
        settings = self.settings
        named = (url for name, urls in settings.initial.items() if name != settings.name for url in urls)
        return [*settings.join, *named]

    def _own_place(self, listed: MemberList) -> MemberIdentity:
        """The identity of the listed member that has exactly this member's peer URLs."""
        urls = set(self.settings.peer_urls)
        found = next((member for member in listed.members if set(member.peer_urls) == urls), None)
        if found is None:
            raise NetstoreError(
                f"initial_cluster_state: the cluster has no member at {', '.join(sorted(urls))}: add it first"
                " (netstorectl member add), or start with --join"
            )
        if found.name:
            raise self._already_started(found.id)
        self._meet(listed, found.id)
        return MemberIdentity(listed.cluster, found.id, self.settings.name)

    async def _refuse_to_begin_twice(self, identity: MemberIdentity) -> None:
        """NetstoreError if the cluster is running and this member may have voted in it.

        Without an answer the member begins only if nobody accepted a connection: a member that did has to
        answer first.
        """
        others = self._others()
        if not others:
            return
        try:
            listed = await self._ask(partial(self._list_members, others), patient=False)
        except NoAnswer:
            return  # no other member is running yet: all begin now
        if listed.cluster != identity.cluster_id:
            raise NetstoreError(
                f"initial_cluster: its members are in cluster {listed.cluster:x} already, not in"
                f" {identity.cluster_id:x}: start with --join, or give another initial_cluster_token"
            )
        own = next((member for member in listed.members if member.id == identity.member_id), None)
        if own is None or own.name:
            raise self._already_started(identity.member_id)

    def _already_started(self, member: NodeId) -> NetstoreError:
        return NetstoreError(
            f"data_dir: {self._folder.path} is empty, but member {member:x} of this name was started before,"
            " and may have voted: restore the folder, or remove the member"
            f" (netstorectl member rm {member:x}) and start with --join"
        )

    async def _apply(
        self, others: Sequence[str], replaces: NodeId = NO_MEMBER, seconds: float = JOIN_SECONDS
    ) -> MemberList:
        """Ask to be added to the cluster."""
        listed = await self._ask(partial(self._join, others, replaces), seconds)
        self._meet(listed, listed.you)
        return listed

    def _meet(self, listed: MemberList, own: NodeId) -> None:
        self.known_peer_urls = {member.id: member.peer_urls for member in listed.members if member.id != own}

    async def _ask(
        self,
        once: Callable[[], Awaitable[MemberList]],
        seconds: float = JOIN_SECONDS,
        *,
        patient: bool = True,
    ) -> MemberList:
        """Ask until there is an answer, for `seconds` at most; a different join token is final.

        If not `patient`, NoAnswer is raised as soon as nobody accepts a connection, unless somebody did in an
        earlier attempt.
        """
        reason = ""
        with trio.move_on_after(seconds):
            while True:
                try:
                    return await once()
                except NoAnswer as fault:
                    if fault.other_token:
                        raise self._other_token(fault) from None
                    if fault.connected:
                        patient = True
                    elif not patient:
                        raise
                    if str(fault) != reason:
                        reason = str(fault)
                        self._log.warning("cluster_not_reached", reason=reason)
                await trio.sleep(RETRY_SECONDS)
        key = "join" if self.settings.join else "initial_cluster"
        raise NetstoreError(
            f"the cluster did not let this member in within {seconds:g} s: {reason}: name peer URLs of"
            f" members that run in {key}, or start this member later"
        )

    def _other_token(self, fault: NoAnswer) -> NetstoreError:
        if self.settings.join:
            return NetstoreError(f"join_token: {fault}: {HOW_TO_GET_ONE}")
        return NetstoreError(
            f"initial_cluster_token: {fault}: another cluster runs there, or its join token is another one:"
            f" {HOW_TO_GET_ONE}, or give other peer URLs"
        )
