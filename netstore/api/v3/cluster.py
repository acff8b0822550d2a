"""The Cluster service: listing and changing the members (`node.membership`)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from netstore.api.v3 import messages, operations
from netstore.api.v3.status import end, refuse
from netstore.errors import Fault, Reason
from netstore.proto import rpc_pb2 as pb
from netstore.types import NodeId
from netstore.urls import BadPeerUrl, checked_peer_urls

if TYPE_CHECKING:
    from collections.abc import Iterable

    from google.protobuf.message import Message

    from netstore.api.v3.interceptor import Interceptor
    from netstore.api.v3.messages import Headers
    from netstore.net.grpc.protocols import Call, Handler
    from netstore.node.member import Membership, Replica
    from netstore.state.members import MemberInfo


class ClusterService:
    """`etcdserverpb.Cluster`. The headers of its answers have no revision."""

    def __init__(self, member: Replica, headers: Headers, members: Membership) -> None:
        self._member = member
        self._headers = headers
        self._members = members

    def methods(self, interceptor: Interceptor) -> dict[bytes, Handler]:
        """Path -> handler."""
        unary = interceptor.unary
        return {
            operations.MEMBER_ADD: unary(pb.MemberAddRequest, self._add, operations.member_add),
            operations.MEMBER_REMOVE: unary(pb.MemberRemoveRequest, self._remove, operations.member_remove),
            operations.MEMBER_UPDATE: unary(pb.MemberUpdateRequest, self._update, operations.member_update),
            operations.MEMBER_LIST: unary(pb.MemberListRequest, self._list, operations.member_list),
            operations.MEMBER_PROMOTE: unary(
                pb.MemberPromoteRequest, self._promote, operations.member_promote
            ),
        }

    def _add(self, call: Call, request: pb.MemberAddRequest) -> None:
        urls = _checked(call, request.peerURLs)
        if urls:
            done = partial(self._added, call)
            principal = call.principal.encode()
            self._members.add(urls, learner=request.isLearner, done=done, principal=principal)

    def _added(self, call: Call, member: MemberInfo | Fault) -> None:
        if isinstance(member, Fault):
            refuse(call, member)
        else:
            self._answer(call, pb.MemberAddResponse(member=_shown(member), members=self._all()))

    def _remove(self, call: Call, request: pb.MemberRemoveRequest) -> None:
        done = partial(self._changed, call, pb.MemberRemoveResponse)
        self._members.remove(NodeId(request.ID), done, call.principal.encode())

    def _update(self, call: Call, request: pb.MemberUpdateRequest) -> None:
        urls = _checked(call, request.peerURLs)
        if urls:
            done = partial(self._changed, call, pb.MemberUpdateResponse)
            self._members.update(NodeId(request.ID), urls, done, call.principal.encode())

    def _promote(self, call: Call, request: pb.MemberPromoteRequest) -> None:
        done = partial(self._changed, call, pb.MemberPromoteResponse)
        self._members.promote(NodeId(request.ID), done, call.principal.encode())

    def _changed(
        self,
        call: Call,
        kind: type[pb.MemberRemoveResponse | pb.MemberUpdateResponse | pb.MemberPromoteResponse],
        member: MemberInfo | Fault,
    ) -> None:
        if isinstance(member, Fault):
            refuse(call, member)
        else:
            self._answer(call, kind(members=self._all()))

    def _list(self, call: Call, request: pb.MemberListRequest) -> None:
        if request.linearizable:
            self._member.read(partial(self._listed, call), call.principal)
        else:
            self._listed(call, None)

    def _listed(self, call: Call, fault: Fault | None) -> None:
        if fault is not None:
            refuse(call, fault)
        else:
            self._answer(call, pb.MemberListResponse(members=self._all()))

    def _answer(self, call: Call, answer: Message) -> None:
        call.reply(messages.write(self._headers(0), answer))

    def _all(self) -> list[pb.Member]:
        members = self._member.machine.members
        return [_shown(members[id_]) for id_ in sorted(members)]


def _shown(member: MemberInfo) -> pb.Member:
    return pb.Member(
        ID=member.id,
        name=member.name,
        peerURLs=member.peer_urls,
        clientURLs=member.client_urls,
        isLearner=member.learner,
    )


def _checked(call: Call, urls: Iterable[str]) -> tuple[str, ...]:
    """The URLs in their normal form; none if one is no peer URL, and then the call was refused."""
    try:
        return checked_peer_urls(url.removesuffix("/") for url in urls)
    except BadPeerUrl:
        end(call, Reason.BAD_MEMBER_URLS)
        return ()
