"""Who is in the cluster: answered to programs that ask before they are members, and asked by such a program.

A member that is let in begins as a learner, and is meant to vote while fewer than the wished number do; the
wish goes with the request, and it is `node.cluster` and the log that decide, not what this member knows. Who
asks again, because it ended before it had written down who it is, gets the identity it was given before: it
is known by its peer URLs, and by having no name yet. Nobody votes before its name is in the list, so an
identity that is given twice has never voted; one whose damage is told is not given again.

A member whose disk is damaged does not come back as who it was, because the others believe what it once
acknowledged and nobody knows whom it voted for (`raft/DESIGN.md`). It asks to be replaced: one entry removes
the old one and adds the new one. That is granted only while the old one is silent and two others vote and
answer, so that nobody takes a working member's place, and the copies of its data are clean ones elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

import trio

from netstore.errors import Fault, Hopeless
from netstore.node.peerurls import BadPeerUrl, checked
from netstore.peer.dial import CallFailed, call
from netstore.peer.wire import (
    MAX_ROSTER_BYTES,
    Application,
    Frames,
    Hello,
    Purpose,
    Roster,
    Verdict,
    decode_roster,
    encode_document,
    frame,
)
from netstore.state.member import PEER_URL_EXISTS
from netstore.types import ClusterId, NodeId

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from netstore.net.reactor import Reactor
    from netstore.net.tls import Credentials
    from netstore.node.cluster import Cluster
    from netstore.node.host import Host
    from netstore.peer.handshake import Secret
    from netstore.state.member import MemberInfo

ANSWER_SECONDS: Final = 15.0
"""How long a member may take to answer: letting somebody in goes through the log, behind others that join."""


class Expelled(Hopeless):
    """This member was removed from its cluster: it stops for good."""


class Log(Protocol):
    """The part of a structured logger that is used here."""

    def info(self, event: str, **fields: Any) -> None:
        """One line."""

    def warning(self, event: str, **fields: Any) -> None:
        """One line."""


class Register:
    """Answers, at one member, who is in the cluster, and lets in who asks. Everything is a plain call."""

    def __init__(self, host: Host, cluster: Cluster, voters: int, log: Log) -> None:
        """`voters` is how many members are to vote."""
        self._host = host
        self._cluster = cluster
        self._voters = voters
        self._log = log

    def take(self, application: Application | None, answer: Callable[[Roster], None]) -> None:
        """See `peer.outgoing.Register`."""
        if application is None:
            answer(self._roster(NodeId(0)))
            return
        try:
            checked(application.peer_urls)
        except BadPeerUrl as wrong:
            answer(self._refused(application, str(wrong)))
            return

        def current(fault: Fault | None) -> None:
            if fault is None:
                self._judge(application, answer)
            else:
                answer(self._refused(application, fault.cause.decode("utf-8", "replace")))

        # Whoever is taken for the applicant may have been removed meanwhile, as all but this member know.
        self._host.read(current)

    def _judge(self, application: Application, answer: Callable[[Roster], None]) -> None:
        wrong = self._unfit(application)
        if wrong:
            answer(self._refused(application, wrong))
            return
        waiting = self._waiting_member(application)
        if waiting is not None:
            answer(self._roster(waiting))
        else:
            self._let_in(application, answer)

    def _unfit(self, application: Application) -> str:
        if application.replaces in self._host.machine.removed and self._waiting_member(application) is None:
            return f"member {application.replaces:x} was removed from the cluster"
        return ""

    def _waiting_member(self, application: Application) -> NodeId | None:
        """The member that this applicant is already, but has not started as; never the one it replaces."""
        urls = set(application.peer_urls)
        for member in self._host.machine.members.values():
            if set(member.peer_urls) == urls and not member.name and member.id != application.replaces:
                return member.id
        return None

    def _let_in(self, application: Application, answer: Callable[[Roster], None]) -> None:
        replaced = self._host.machine.members.get(application.replaces)

        def done(outcome: MemberInfo | Fault) -> None:
            if isinstance(outcome, Fault):
                waiting = self._waiting_member(application)
                if waiting is not None:  # it asked twice, and the other request was first
                    answer(self._roster(waiting))
                else:
                    answer(self._refused(application, self._explained(application, outcome)))
                return
            if replaced is not None:
                self._log.warning("damaged_member_removed", member=f"{replaced.id:x}", name=replaced.name)
            self._log.info("member_let_in", member=f"{outcome.id:x}", name=application.name)
            answer(self._roster(outcome.id))

        self._cluster.join(
            checked(application.peer_urls),
            voters=self._voters,
            replaces=application.replaces,
            done=done,
        )

    def _explained(self, application: Application, fault: Fault) -> str:
        urls = set(application.peer_urls)
        cause = fault.cause.decode("utf-8", "replace")
        for member in self._host.machine.members.values():
            if cause == PEER_URL_EXISTS and urls & set(member.peer_urls):
                return (
                    f"member {member.id:x} ({member.name or 'not started'}) is reached at"
                    f" {', '.join(sorted(urls & set(member.peer_urls)))} already: if its data is lost, remove"
                    f" it first (netstorectl member rm {member.id:x})"
                )
        return cause

    def _refused(self, application: Application, why: str) -> Roster:
        self._log.warning(
            "application_refused", name=application.name, urls=list(application.peer_urls), reason=why
        )
        return self._roster(NodeId(0), why)

    def _roster(self, you: NodeId, refusal: str = "") -> Roster:
        members = self._host.machine.members
        listed = tuple(members[id_] for id_ in sorted(members))
        return Roster(self._host.cluster_id, you, listed, refusal)


async def ask(
    reactor: Reactor,
    urls: Sequence[str],
    application: Application | None = None,
    *,
    program: str,
    credentials: Credentials | None,
    secret: Secret | None,
) -> Roster:
    """Ask the members at these URLs in turn who is in the cluster; with an application, to be let in too.

    Both sides must prove that they belong to the cluster (`peer.dial`). The first answer counts, a refusal is
    tried elsewhere. CallFailed when none is left: NOT_PROVED where that is what one of them said, else what
    the last one said that was there, and None where nobody was. Bounded by `ANSWER_SECONDS` and a call for
    each URL.
    """
    worst = CallFailed("there is nobody to ask")
    hello = Hello(Purpose.ROSTER, ClusterId(0), NodeId(0), NodeId(0), program)
    for url in urls:
        try:
            roster = await _ask_one(reactor, url, hello, application, credentials=credentials, secret=secret)
        except CallFailed as fault:
            worst = _worse(worst, CallFailed(f"{url}: {fault}", fault.verdict))
            continue
        if roster.members and not roster.refusal:
            return roster
        why = f"{url}: {roster.refusal or 'it has no list of members yet'}"
        worst = _worse(worst, CallFailed(why, Verdict.FAILED))
    try:
        raise worst
    finally:
        del worst  # which would keep this frame, as its traceback does


def _worse(one: CallFailed, other: CallFailed) -> CallFailed:
    """What says more: that a token is another one before any other answer, any answer before silence."""
    if one.verdict == Verdict.NOT_PROVED or (other.verdict is None and one.verdict is not None):
        return one
    return other


async def _ask_one(
    reactor: Reactor,
    url: str,
    hello: Hello,
    application: Application | None,
    *,
    credentials: Credentials | None,
    secret: Secret | None,
) -> Roster:
    answered = trio.Event()
    rosters: list[Roster] = []
    frames = Frames(MAX_ROSTER_BYTES)

    def take(data: bytes) -> None:
        frames.add(data)
        payload = frames.take()
        if payload is not None:
            rosters.append(decode_roster(payload))
            answered.set()

    made = await call(reactor, url, hello, take, credentials=credentials, secret=secret)
    try:
        made.link.write(frame(encode_document(application)))
        with trio.move_on_after(ANSWER_SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_when, made.over, nursery.cancel_scope)
                await answered.wait()
                nursery.cancel_scope.cancel()
    finally:
        made.link.cut("done")
    if not rosters:
        why = made.reason if made.reason != "done" else f"no answer within {ANSWER_SECONDS:g} s"
        raise CallFailed(why, Verdict.FAILED)
    return rosters[0]


async def _cancel_when(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
