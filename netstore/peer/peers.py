"""The other members as this one deals with them: a stream of messages to each, and those they open here.

Messages to a member go one way, on the stream that this member opened (`peer.outgoing`); its messages come on
the stream that it opened (`peer.incoming`). What was read is given to the host once for each read. Nothing
here blocks.

A refusal or failed attempt is logged once for each member and reason, until that changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import trio

from netstore import __version__
from netstore.peer.handshake import Hello
from netstore.peer.listener import Listener
from netstore.peer.outgoing import PeerConnection
from netstore.peer.traffic import RoundTrip, Traffic
from netstore.raft.messages import Append, InstallSnapshot

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from netstore.disk.datadir import MemberIdentity
    from netstore.limits import Budget
    from netstore.net.reactor import Reactor
    from netstore.net.tls import Credentials
    from netstore.peer.handshake import Purpose, Secret
    from netstore.peer.incoming import SnapshotSink
    from netstore.peer.link import Link
    from netstore.peer.wire import DigestMessage, JoinRequest, MemberList
    from netstore.raft.messages import Message
    from netstore.seams import Clock, Log
    from netstore.types import Index, NodeId

    Directory = Callable[[], tuple[Mapping[NodeId, Sequence[str]], AbstractSet[NodeId]]]
    """Returns the peer URLs of every member, and the ids of removed members."""

    JoinHandler = Callable[["JoinRequest | None", Callable[["MemberList"], None]], None]
    """Calls back with the member list, after a join request was decided on."""

MAX_INCOMPLETE_BYTES: Final = 256 * 1024 * 1024
"""Bytes of incomplete frames, of all members together: two of the largest."""

SWEEP_SECONDS: Final = 0.1
"""How often changes of the member list are followed, and streams checked for silence."""

ALONE_SECONDS: Final = 0.5
"""The same while there is no other member."""

_REMEMBERED_LINES: Final = 256


class Receiver(Protocol):
    """The member that messages are delivered to (`node.host.Host`)."""

    def receive(self, messages: Sequence[Message]) -> None:
        """Messages were received. MessageRefused for one that cannot be valid; those before it were taken."""

    def unreachable(self, peer: NodeId) -> None:
        """Messages to this member were lost."""


class Snapshots(Protocol):
    """Sends and receives snapshots (`peer.snapshots`)."""

    def request(self, message: InstallSnapshot) -> None:
        """Raft asks to send a snapshot to `message.to`."""

    def accept(self, link: Link, sender: NodeId) -> SnapshotSink | None:
        """A member is about to send a snapshot; None while another one is being received."""


class Peers:
    """All other members. `send` is given to the host; `run` is the task. A `peer.incoming.Owner` and a
    `peer.outgoing.Dialer`.
    """

    def __init__(
        self,
        *,
        identity: MemberIdentity,
        reactor: Reactor,
        credentials: Credentials | None,
        directory: Directory,
        join: JoinHandler,
        on_removed: Callable[[str], None],
        on_digest: Callable[[NodeId, Index, bytes], None],
        clock: Clock,
        log: Log,
        secret: Secret | None,
        budget: Budget,
    ) -> None:
        """`on_removed` is called when a member says that this one was removed, `on_digest` with the state
        digest that a member announces. `secret` is derived from the cluster's join token, if it has one. Data
        that is not sent or not complete yet is charged to `budget`.
        """
        self.identity = identity
        self.reactor = reactor
        self.credentials = credentials
        self.secret = secret
        self.budget = budget
        self.clock = clock
        self.log = log
        self.traffic = Traffic()
        self._directory = directory
        self._join = join
        self._on_removed = on_removed
        self._on_digest = on_digest
        self._peers: dict[NodeId, PeerConnection] = {}
        self.listener = Listener(self, secret, budget.share(min(MAX_INCOMPLETE_BYTES, budget.limit // 2)))
        """Streams that others opened to this member."""
        self._logged: dict[object, str] = {}
        self._host: Receiver
        self._snapshots: Snapshots
        self._nursery: trio.Nursery

    # --- sending

    def send(self, messages: Sequence[Message]) -> None:
        """Send one turn's messages, or drop them. `InstallSnapshot` starts the transfer of a snapshot."""
        batches: dict[NodeId, list[Message]] = {}
        for message in messages:
            if isinstance(message, InstallSnapshot):
                self._snapshots.request(message)
            elif message.to in batches:
                batches[message.to].append(message)
            else:
                batches[message.to] = [message]
        for to, batch in batches.items():
            peer = self._peers.get(to)
            if peer is not None and not peer.send(batch):
                self._host.unreachable(to)

    def count_sent(self, messages: Sequence[Message], size: int) -> None:
        """Messages were written to a stream."""
        traffic = self.traffic
        traffic.messages_sent += len(messages)
        traffic.appends_sent += sum(type(message) is Append for message in messages)
        traffic.bytes_sent += size

    def broadcast(self, digest: DigestMessage) -> None:
        """Send a digest of this member's state to all; it is lost where there is no stream."""
        data = digest.encode()
        for peer in self._peers.values():
            peer.send_frame(data)

    def hello(self, purpose: Purpose, receiver: NodeId) -> Hello:
        """The hello of this member."""
        return Hello(
            purpose, self.identity.cluster_id, self.identity.member_id, receiver, f"netstored {__version__}"
        )

    def urls(self, peer: NodeId) -> Sequence[str]:
        """The peer URLs of a member; empty if it is not known."""
        return self._directory()[0].get(peer, ())

    def round_trip(self, peer: NodeId) -> RoundTrip:
        """The measurements for one member; all zeros if it is not known."""
        known = self._peers.get(peer)
        return RoundTrip() if known is None else known.round_trip

    def known(self) -> Mapping[NodeId, PeerConnection]:
        """The other members, with what is counted of each."""
        return self._peers

    def estranged(self) -> tuple[str, str] | None:
        """Which member says that this one is not of its cluster, where, in which words, and the fix: the
        first of them; None if none does.
        """
        for id_, each in self._peers.items():
            if each.estranged is not None:
                told, fix = each.estranged
                return f"{id_:x} {told}", fix
        return None

    def copy_ended(self, peer: NodeId, *, ok: bool) -> None:
        """A copy of the state was sent to a member, or was not."""
        known = self._peers.get(peer)
        if known is not None and ok:
            known.counts.copies_sent += 1
        elif known is not None:
            known.counts.copies_failed += 1

    # --- listening

    def listen(self, sock: socket.socket, *, tls: bool) -> None:
        """Accept streams on this bound socket, and take ownership of it."""
        self.listener.listen(sock, tls=tls)

    def stop_accepting(self) -> None:
        """Close the listening sockets; open streams go on."""
        self.listener.stop_accepting()

    # --- the task

    async def run(self, host: Receiver, snapshots: Snapshots) -> None:
        """Keep a stream to every member until cancelled, then close all streams."""
        self._host, self._snapshots = host, snapshots
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                while True:
                    self._follow_directory()
                    self.listener.sweep()
                    await trio.sleep(SWEEP_SECONDS if self._peers else ALONE_SECONDS)
        finally:
            self.listener.close()

    def _follow_directory(self) -> None:
        """Dial new members, stop dialing those that are gone."""
        addresses, _ = self._directory()
        for id_, urls in addresses.items():
            if id_ == self.identity.member_id:
                continue
            peer = self._peers.get(id_)
            if peer is None:
                peer = self._peers[id_] = PeerConnection(self, id_)
                self._nursery.start_soon(peer.run)
            peer.set_urls(tuple(urls))
        for id_ in [id_ for id_ in self._peers if id_ not in addresses]:
            self._peers.pop(id_).stop()

    # --- for `peer.outgoing`: see `peer.outgoing.Dialer`

    def log_change(self, about: object, event: str, **fields: object) -> None:
        """Log a line unless it is the same as the last one about the same subject."""
        text = f"{event} {fields}"
        if self._logged.get(about) != text:
            if len(self._logged) >= _REMEMBERED_LINES:
                self._logged.clear()
            self._logged[about] = text
            self.log.warning(event, **fields)

    def forget_logged(self, about: object) -> None:
        """The next line about this subject is logged, even if it is the same as the last."""
        self._logged.pop(about, None)

    def refused_as_removed(self, reason: str) -> None:
        """A member says that this one was removed."""
        self._on_removed(reason)

    def stream_lost(self, peer: NodeId) -> None:
        """The stream to a member broke: messages on it may be lost."""
        self._host.unreachable(peer)

    # --- for `peer.incoming`: see `peer.incoming.Owner`

    def member_ids(self) -> AbstractSet[NodeId]:
        """See `peer.incoming.Owner`."""
        return self._directory()[0].keys()

    def removed_ids(self) -> AbstractSet[NodeId]:
        """See `peer.incoming.Owner`."""
        return self._directory()[1]

    def accept_snapshot(self, link: Link, sender: NodeId) -> SnapshotSink | None:
        """See `peer.incoming.Owner`."""
        return self._snapshots.accept(link, sender)

    def stream_opened(self, sender: NodeId) -> None:
        """See `peer.incoming.Owner`: a member that dials this one can be dialed."""
        if sender in self._peers:
            self._peers[sender].redial()

    def stream_refused(self, sender: NodeId) -> None:
        """See `peer.incoming.Owner`."""
        if sender in self._peers:
            self._peers[sender].counts.refused += 1

    def deliver(self, messages: Sequence[Message], size: int, sender: NodeId) -> None:
        """See `peer.incoming.Owner`."""
        traffic = self.traffic
        if sender in self._peers:
            self._peers[sender].counts.received += size
        traffic.messages_received += len(messages)
        traffic.appends_received += sum(type(message) is Append for message in messages)
        traffic.bytes_received += size
        if messages:
            self._host.receive(messages)

    def handle_join(self, request: JoinRequest | None, answer: Callable[[MemberList], None]) -> None:
        """See `peer.incoming.Owner`."""
        self._join(request, answer)

    def digest_received(self, sender: NodeId, digest: DigestMessage) -> None:
        """See `peer.incoming.Owner`."""
        self._on_digest(sender, digest.index, digest.digest)
