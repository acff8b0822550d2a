"""The members of the cluster, the cluster version and the feature level.

Each change of them takes an index of the v2 store and counts in its statistics, as in etcd, which keeps them
in its v2 store (v2 API, indexes).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from netstore.errors import CannotApply, Fault, NoRestart, Reason, fault_from_text, refusal
from netstore.state import tables
from netstore.state.commands import (
    AddMember,
    JoinMember,
    PromoteMember,
    PublishMember,
    RaiseLevel,
    RefuseChange,
    RemoveMember,
    SetClusterVersion,
    UpdateMember,
)
from netstore.state.entries import too_new
from netstore.types import NodeId

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from netstore.seams import Engine
    from netstore.state.applying import Applying
    from netstore.state.v2.store import V2Store


def to_vote(members: Iterable[MemberInfo]) -> int:
    """How many of these vote, or are to be promoted as soon as they have caught up."""
    return sum(each.promote or not each.learner for each in members)


class MemberInfo(msgspec.Struct, array_like=True, frozen=True):
    """A member: its name (empty before its first PublishMember), client URLs and peer URLs.

    A `learner` has no vote; with `promote` the leader promotes it as soon as it has caught up. `level` is the
    highest feature level that it has announced to know, 0 before it announced any.
    """

    id: NodeId
    name: str
    client_urls: tuple[str, ...]
    peer_urls: tuple[str, ...]
    learner: bool = False
    promote: bool = False
    level: int = 0


def member_key(member: NodeId) -> bytes:
    """The key of a member's record in its table."""
    return b"%016x" % member


def _older(level: int, known: int) -> str:
    return (
        f"the cluster is at feature level {level}, this member knows {known}: it is older than the"
        " cluster: upgrade it to the version of the others"
    )


class Roster:
    """The list of members, the cluster version and the feature level, with a method for each command."""

    def __init__(self, engine: Engine, v2: V2Store, applying: Applying, known_level: int) -> None:
        """`known_level` is the highest feature level that this member knows."""
        self._engine = engine
        self._v2 = v2
        self._applying = applying
        self._known_level = known_level
        self.by_id: dict[NodeId, MemberInfo] = {}
        """The members of the cluster."""
        self.removed: set[NodeId] = set()
        """The members that were removed; their ids are never used again."""
        self.cluster_version = ""
        """The highest version that all members support; empty before it is first decided."""
        self.level = 1
        """The feature level of the cluster: no command of a higher one is proposed."""
        self.promoted = 0
        """Learners that were promoted, by entries applied since the start."""
        self.touched: set[NodeId] = set()
        """Members whose records changed since the last `save`."""

    def handlers(self) -> dict[type, Callable[..., Fault | None]]:
        """The method for each command."""
        return {
            PublishMember: self.publish_member,
            SetClusterVersion: self.set_cluster_version,
            AddMember: self.add_member,
            RemoveMember: self.remove_member,
            UpdateMember: self.update_member,
            PromoteMember: self.promote_member,
            RefuseChange: self.refuse_change,
            RaiseLevel: self.raise_level,
            JoinMember: self.join_member,
        }

    def load(self, cluster_version: str, level: int) -> None:
        """Load the members from the engine; the other two are given. NoRestart if the level is one that this
        release does not know.
        """
        self.cluster_version = cluster_version
        self.level = level
        if level > self._known_level:
            raise NoRestart(_older(level, self._known_level))
        members = tables.load_all(self._engine, tables.MEMBERS, MemberInfo)
        self.by_id = {member.id: member for member in members}
        self.removed = set(tables.load_all(self._engine, tables.REMOVED, NodeId))
        self.touched = set()

    def save(self, changes: dict[tuple[str, bytes], bytes | None]) -> None:
        """Add the records of the members that changed since the last call."""
        for id_ in self.touched:
            key = member_key(id_)
            member = self.by_id.get(id_)
            changes[tables.MEMBERS, key] = None if member is None else tables.encode(member)
            if id_ in self.removed:
                changes[tables.REMOVED, key] = tables.encode(id_)
        self.touched = set()

    @property
    def common_level(self) -> int:
        """The highest feature level that every member has announced; 0 while one has announced none."""
        return min((member.level for member in self.by_id.values()), default=0)

    def publish_member(self, command: PublishMember) -> Fault | None:
        """Carry out a PublishMember."""
        id_ = NodeId(command.id)
        if id_ in self.removed:
            return refusal(Reason.ID_REMOVED, self._v2.tree.index)
        if command.level < self.level:
            return self.refusal(_older(self.level, command.level))
        if id_ not in self.by_id:
            refused = self.add_member(AddMember(id_, command.peer_urls))
            if refused is not None:
                return refused
        self._v2.statistics.sets_success += 1
        self._record_member(
            "set",
            msgspec.structs.replace(
                self.by_id[id_],
                name=command.name,
                client_urls=command.client_urls,
                level=command.level,
            ),
        )
        return None

    def add_member(self, command: AddMember) -> Fault | None:
        """Carry out an AddMember."""
        id_ = NodeId(command.id)
        if id_ in self.by_id or id_ in self.removed:
            return self._known(id_)
        if self._taken(command.peer_urls, id_):
            return refusal(Reason.PEER_URL_EXISTS, self._v2.tree.index)
        self._v2.statistics.create_success += 1
        self._record_member(
            "create", MemberInfo(id_, "", (), command.peer_urls, command.learner, command.promote)
        )
        return None

    def join_member(self, command: JoinMember) -> Fault | None:
        """Carry out a JoinMember. Whether the new member is to vote is decided only here, where all entries
        before it were applied on every member alike. The replaced member left the Raft configuration with
        this entry, so it leaves the list even if the new one is refused for its URLs; if the new one's id was
        used before, nothing is changed.
        """
        id_, replaced = NodeId(command.id), NodeId(command.replaces)
        if id_ in self.by_id or id_ in self.removed:
            return self._known(id_)
        if replaced in self.by_id:
            self.remove_member(RemoveMember(replaced))
        promote = to_vote(self.by_id.values()) < command.voters
        return self.add_member(AddMember(id_, command.peer_urls, learner=True, promote=promote))

    def remove_member(self, command: RemoveMember) -> Fault | None:
        """Carry out a RemoveMember."""
        id_ = NodeId(command.id)
        if id_ not in self.by_id:
            return self._unknown(id_)
        del self.by_id[id_]
        self.removed.add(id_)
        self.touched.add(id_)
        self._v2.statistics.delete_success += 1
        self._v2.statistics.create_success += 1
        self._v2.record_internal("delete", b"/members/" + member_key(id_))
        self._v2.record_internal("create", b"/removed_members/" + member_key(id_))
        return None

    def update_member(self, command: UpdateMember) -> Fault | None:
        """Carry out an UpdateMember."""
        id_ = NodeId(command.id)
        if id_ in self.by_id and self._taken(command.peer_urls, id_):
            return refusal(Reason.PEER_URL_EXISTS, self._v2.tree.index)
        return self._change_member(id_, peer_urls=command.peer_urls)

    def promote_member(self, command: PromoteMember) -> Fault | None:
        """Carry out a PromoteMember."""
        fault = self._change_member(NodeId(command.id), learner=False, promote=False)
        self.promoted += fault is None
        return fault

    def _change_member(self, id_: NodeId, **fields: object) -> Fault | None:
        if id_ not in self.by_id:
            return self._unknown(id_)
        self._v2.statistics.update_success += 1
        self._record_member("update", msgspec.structs.replace(self.by_id[id_], **fields))
        return None

    def refuse_change(self, command: RefuseChange) -> Fault | None:
        """Carry out a RefuseChange."""
        return self.refusal(command.why)

    def _taken(self, peer_urls: tuple[str, ...], id_: NodeId) -> bool:
        others = (other.peer_urls for other in self.by_id.values() if other.id != id_)
        return any(url in peer_urls for urls in others for url in urls)

    def _unknown(self, id_: NodeId) -> Fault:
        return refusal(Reason.ID_REMOVED if id_ in self.removed else Reason.ID_NOT_FOUND, self._v2.tree.index)

    def _known(self, id_: NodeId) -> Fault:
        return refusal(Reason.ID_EXISTS if id_ in self.by_id else Reason.ID_REMOVED, self._v2.tree.index)

    def refusal(self, why: str) -> Fault:
        """A refusal for this reason."""
        return fault_from_text(why, self._v2.tree.index)

    def _record_member(self, action: str, member: MemberInfo) -> None:
        self.by_id[member.id] = member
        self.touched.add(member.id)
        self._v2.record_internal(action, b"/members/" + member_key(member.id))

    def set_cluster_version(self, command: SetClusterVersion) -> Fault | None:
        """Carry out a SetClusterVersion."""
        self.cluster_version = command.text
        self._v2.statistics.sets_success += 1
        self._v2.record_internal("set", b"/version")
        return None

    def raise_level(self, command: RaiseLevel) -> Fault | None:
        """Carry out a RaiseLevel."""
        if command.level > self.common_level:
            return self.refusal(f"not every member knows feature level {command.level}")
        if command.level > self._known_level:
            raise CannotApply(
                too_new(
                    self._applying.index, f"feature level {command.level}, and {self._known_level} is known"
                )
            )
        self.level = max(self.level, command.level)
        return None
