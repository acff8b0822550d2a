"""Joining a cluster: the service that gives out the member list and adds who asks, and the client for it.

A member that is added starts as a learner, and is to become a voter as long as fewer than the wanted number
are; that number is part of the request, and `node.membership` and the log decide, not what this member knows.
A program that asks again, because it ended before it had stored its identity, gets the same identity again:
it is recognized by its peer URLs, and by having no name yet. No member votes before its name is in the list,
so an identity that is given out twice has never voted; the identity of a member that reports damage is not
given out again.

A member whose data is damaged does not come back under its old identity, because the others rely on what it
once acknowledged, and nobody knows whom it voted for (`raft/DESIGN.md`). It asks to be replaced: one entry
removes the old member and adds the new one. That is granted only while the old one is silent and two others
vote and answer, so that no working member loses its place, and intact copies of the data exist elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from netstore import __version__
from netstore.errors import Fault, Reason
from netstore.node.identity import NoAnswer
from netstore.peer.dial import StreamFailed, dial
from netstore.peer.handshake import Hello, Purpose, Verdict
from netstore.peer.wire import (
    MAX_MEMBER_LIST_BYTES,
    FrameReader,
    JoinRequest,
    MemberList,
    decode_member_list,
    encode_document,
    frame,
)
from netstore.types import ClusterId, NodeId
from netstore.urls import BadPeerUrl, checked_peer_urls

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from netstore.net.reactor import Reactor
    from netstore.net.tls import Credentials
    from netstore.node.host import Host
    from netstore.node.membersettings import MemberSettings
    from netstore.node.membership import MembershipChanges
    from netstore.peer.handshake import Secret
    from netstore.seams import Log
    from netstore.state.members import MemberInfo

ANSWER_SECONDS: Final = 15.0
"""Time limit for an answer: adding a member goes through the log, after others that join."""


class JoinService:
    """Gives out the member list at one member, and adds members. All calls are made on the loop."""

    def __init__(self, host: Host, cluster: MembershipChanges, voters: int, log: Log) -> None:
        """`voters` is the wanted number of voters."""
        self._host = host
        self._cluster = cluster
        self._voters = voters
        self._log = log

    def handle(self, request: JoinRequest | None, answer: Callable[[MemberList], None]) -> None:
        """See `peer.incoming.Owner.handle_join`."""
        if request is None:
            answer(self._member_list(NodeId(0)))
            return
        try:
            checked_peer_urls(request.peer_urls)
        except BadPeerUrl as wrong:
            answer(self._refused(request, str(wrong)))
            return

        def current(fault: Fault | None) -> None:
            if fault is None:
                self._decide(request, answer)
            else:
                answer(self._refused(request, fault.cause.decode("utf-8", "replace")))

        # At a read index: a member that matches the request here may have been removed, unknown to this one.
        self._host.read(current)

    def _decide(self, request: JoinRequest, answer: Callable[[MemberList], None]) -> None:
        reason = self._reason_to_refuse(request)
        if reason:
            answer(self._refused(request, reason))
            return
        added = self._added_before(request)
        if added is not None:
            answer(self._member_list(added))
        else:
            self._add(request, answer)

    def _reason_to_refuse(self, request: JoinRequest) -> str:
        if request.replaces in self._host.machine.removed and self._added_before(request) is None:
            return f"member {request.replaces:x} was removed from the cluster"
        return ""

    def _added_before(self, request: JoinRequest) -> NodeId | None:
        """The member that was added for this request and has not started yet; never the one it replaces."""
        urls = set(request.peer_urls)
        for member in self._host.machine.members.values():
            if set(member.peer_urls) == urls and not member.name and member.id != request.replaces:
                return member.id
        return None

    def _add(self, request: JoinRequest, answer: Callable[[MemberList], None]) -> None:
        replaced = self._host.machine.members.get(request.replaces)

        def done(outcome: MemberInfo | Fault) -> None:
            if isinstance(outcome, Fault):
                added = self._added_before(request)
                if added is not None:  # the program asked twice, and the other request was first
                    answer(self._member_list(added))
                else:
                    answer(self._refused(request, self._explained(request, outcome)))
                return
            if replaced is not None:
                self._log.warning("damaged_member_removed", member=f"{replaced.id:x}", name=replaced.name)
            self._log.info("member_let_in", member=f"{outcome.id:x}", name=request.name)
            answer(self._member_list(outcome.id))

        self._cluster.join(
            checked_peer_urls(request.peer_urls),
            voters=self._voters,
            replaces=request.replaces,
            done=done,
        )

    def _explained(self, request: JoinRequest, fault: Fault) -> str:
        urls = set(request.peer_urls)
        cause = fault.cause.decode("utf-8", "replace")
        for member in self._host.machine.members.values():
            if fault.reason is Reason.PEER_URL_EXISTS and urls & set(member.peer_urls):
                return (
                    f"member {member.id:x} ({member.name or 'not started'}) is reached at"
                    f" {', '.join(sorted(urls & set(member.peer_urls)))} already: if its data is lost, remove"
                    f" it first (netstorectl member rm {member.id:x})"
                )
        return cause

    def _refused(self, request: JoinRequest, reason: str) -> MemberList:
        self._log.warning(
            "application_refused", name=request.name, urls=list(request.peer_urls), reason=reason
        )
        return self._member_list(NodeId(0), reason)

    def _member_list(self, you: NodeId, refusal: str = "") -> MemberList:
        members = self._host.machine.members
        listed = tuple(members[id_] for id_ in sorted(members))
        return MemberList(self._host.cluster_id, you, listed, refusal)


class Applicant:
    """Asks running members for the member list, and to be added. Implements what `node.identity.Enrollment`
    needs.
    """

    def __init__(
        self,
        reactor: Reactor,
        settings: MemberSettings,
        *,
        credentials: Credentials | None,
        secret: Secret | None,
    ) -> None:
        self._reactor = reactor
        self._settings = settings
        self._credentials = credentials
        self._secret = secret

    async def list_members(self, urls: Sequence[str]) -> MemberList:
        """The member list of the first of these that answers. NoAnswer if none does."""
        return await self._ask(urls, None)

    async def join(self, urls: Sequence[str], replaces: NodeId) -> MemberList:
        """Ask to be added, in place of `replaces` unless that is 0. NoAnswer if none of these agrees."""
        own = self._settings
        return await self._ask(urls, JoinRequest(own.name, own.peer_urls, replaces))

    async def _ask(self, urls: Sequence[str], request: JoinRequest | None) -> MemberList:
        try:
            return await request_member_list(
                self._reactor,
                urls,
                request,
                program=f"netstored {__version__}",
                credentials=self._credentials,
                secret=self._secret,
            )
        except StreamFailed as fault:
            other_token = fault.verdict == Verdict.NOT_PROVED
            raise NoAnswer(str(fault), connected=fault.verdict is not None, other_token=other_token) from None


async def request_member_list(
    reactor: Reactor,
    urls: Sequence[str],
    request: JoinRequest | None = None,
    *,
    program: str,
    credentials: Credentials | None,
    secret: Secret | None,
) -> MemberList:
    """Ask the members at these URLs, one after the other, for the member list; with a request, to be added
    too.

    Both sides must prove that they belong to the cluster (`peer.dial`). The first answer is returned; after a
    refusal the next URL is tried. StreamFailed if none is left: NOT_PROVED if that was one of the verdicts,
    else the last verdict of a member that answered, and None if none did. Takes at most `ANSWER_SECONDS` and
    the time for dialing, for each URL.
    """
    worst = StreamFailed("there is nobody to ask")
    hello = Hello(Purpose.MEMBER_LIST, ClusterId(0), NodeId(0), NodeId(0), program)
    for url in urls:
        try:
            answer = await _request_from(reactor, url, hello, request, credentials=credentials, secret=secret)
        except StreamFailed as fault:
            worst = _more_telling(worst, StreamFailed(f"{url}: {fault}", fault.verdict))
            continue
        if answer.members and not answer.refusal:
            return answer
        why = f"{url}: {answer.refusal or 'it has no list of members yet'}"
        worst = _more_telling(worst, StreamFailed(why, Verdict.FAILED))
    try:
        raise worst
    finally:
        del worst  # its traceback refers to this frame: a cycle otherwise


def _more_telling(one: StreamFailed, other: StreamFailed) -> StreamFailed:
    """NOT_PROVED before any other verdict, any verdict before no answer, else the later one."""
    if one.verdict == Verdict.NOT_PROVED or (other.verdict is None and one.verdict is not None):
        return one
    return other


async def _request_from(
    reactor: Reactor,
    url: str,
    hello: Hello,
    request: JoinRequest | None,
    *,
    credentials: Credentials | None,
    secret: Secret | None,
) -> MemberList:
    answered = trio.Event()
    answers: list[MemberList] = []
    frames = FrameReader(MAX_MEMBER_LIST_BYTES)

    def receive(data: bytes) -> None:
        frames.add(data)
        payload = frames.take()
        if payload is not None:
            answers.append(decode_member_list(payload))
            answered.set()

    stream = await dial(reactor, url, hello, receive, credentials=credentials, secret=secret)
    try:
        stream.link.write(frame(encode_document(request)))
        with trio.move_on_after(ANSWER_SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_when, stream.over, nursery.cancel_scope)
                await answered.wait()
                nursery.cancel_scope.cancel()
    finally:
        stream.link.cut("done")
    if not answers:
        why = stream.reason if stream.reason != "done" else f"no answer within {ANSWER_SECONDS:g} s"
        raise StreamFailed(why, Verdict.FAILED)
    return answers[0]


async def _cancel_when(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
