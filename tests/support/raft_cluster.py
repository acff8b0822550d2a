"""Raft cores, each with a minimal host: a disk that syncs when told, a state machine, and visible messages.

Nothing happens by itself. The host checks what every host may rely on: the order and form of every Ready.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from netstore.raft.config import Boot, Config
from netstore.raft.core import Raft
from netstore.raft.encoding import decode_in_pieces, encode_message
from netstore.raft.entry import ConfState, Entry, EntryKind, HardState, SnapshotMeta
from netstore.raft.messages import InstallSnapshot, Message, PreVoteAnswer, PreVoteRequest
from netstore.raft.status import Role
from netstore.types import Index, NodeId, Term

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from netstore.raft.ready import Ready

State: TypeAlias = tuple[tuple[Index, Term, bytes], ...]
"""What a state machine holds: every entry it applied, in order."""


@dataclass
class Disk:
    """What survives a power failure."""

    snapshot: SnapshotMeta
    hard_state: HardState = field(default_factory=HardState)
    entries: list[Entry] = field(default_factory=list)
    state: list[tuple[Index, Term, bytes]] = field(default_factory=list)

    def append(self, entries: Sequence[Entry]) -> None:
        """Truncate at the first entry, then append."""
        keep = entries[0].index - self.snapshot.index - 1
        assert 0 <= keep <= len(self.entries), "a gap in the log on disk"
        self.entries[keep:] = entries


@dataclass
class Write:
    """One write under way, or a snapshot being put in place."""

    hard_state: HardState | None
    entries: Sequence[Entry]
    after_sync: Sequence[Message]
    install: SnapshotMeta | None = None


def silent(_text: str) -> None:
    """Observe nothing."""


class Host:
    """One member: a core, its disk, its state machine. `outbox` has the messages that were not
    collected yet."""

    def __init__(
        self,
        config: Config,
        conf: ConfState,
        draw: Callable[[int], int],
        images: dict[tuple[Index, Term], State],
        observe: Callable[[str], None] = silent,
    ) -> None:
        self.config = config
        self.draw = draw
        self.images = images
        self.observe = observe
        self.disk = Disk(SnapshotMeta(conf=conf))
        self.writes: deque[Write] = deque()
        self.auto_sync = True
        self.outbox: list[Message] = []
        self.state: list[tuple[Index, Term, bytes]] = []
        self.reads: list[tuple[int, Index]] = []
        self.reads_failed: list[int] = []
        self.boot()

    @property
    def id(self) -> NodeId:
        """The member's id."""
        return self.config.id

    def boot(self) -> None:
        """Start the core on what the disk has."""
        disk = self.disk
        self.state = list(disk.state)
        applied = self.state[-1][0] if self.state else Index(0)
        assert applied >= disk.snapshot.index, "the state on disk is older than the log"
        boot = Boot(disk.hard_state, disk.snapshot, list(disk.entries), applied)
        self.raft = Raft(self.config, boot, self.draw)
        self.unwritten: HardState | None = None
        self._seen = (self.raft.role.value, self.raft.term, self.raft.leader)
        self._last_hard = disk.hard_state

    def crash(self, survive: int = 0, applied: int | None = None) -> None:
        """Power failure and restart: `survive` of the writes under way had reached the disk, unreported.

        The state machine's own copy had reached `applied`, by default nothing since the last start or copy.
        """
        for write in list(self.writes)[:survive]:
            if write.install is not None:
                break
            self._put(write)
        self.writes.clear()
        if applied is not None:
            self.save(applied)
        self.outbox = []
        self.boot()

    def save(self, applied: int) -> None:
        """The state machine's copy on disk is as of `applied`."""
        kept = [item for item in self.state if item[0] <= applied]
        if len(kept) > len(self.disk.state):
            self.disk.state = kept

    def turn(self) -> None:
        """Do all that the core asks for, and sync unless `auto_sync` is off."""
        for _ in range(10_000):
            if self.raft.has_ready():
                self._take()
            elif self.auto_sync and self.writes:
                self.sync()
            else:
                break
        else:
            raise AssertionError(f"member {self.id} does not come to rest")
        self._look()

    def sync(self) -> None:
        """The oldest write is durable."""
        write = self.writes.popleft()
        if write.install is not None:
            meta = write.install
            self.state = list(self.images[meta.index, meta.term])
            self.disk.state = list(self.state)
            self.disk.snapshot = meta
            self.disk.entries = []
            self.raft.snapshot_installed(meta)
            self.observe(f"installed {meta.term}/{meta.index} {describe_conf(meta.conf)}")
            return
        self._put(write)
        if write.entries:
            self.raft.persisted(write.entries[-1].index, write.entries[-1].term)
        self.outbox.extend(write.after_sync)

    def compact(self, index: Index) -> None:
        """Save the state, then drop the log up to `index`, on disk too."""
        self.save(self.raft.log.applied)
        meta = self.raft.snapshot_meta(index)
        self.raft.compact(index)
        disk = self.disk
        if meta.index > disk.snapshot.index:
            disk.entries = disk.entries[meta.index - disk.snapshot.index :]
            disk.snapshot = meta

    def _put(self, write: Write) -> None:
        if write.hard_state is not None:
            self.disk.hard_state = write.hard_state
        if write.entries:
            self.disk.append(write.entries)

    def _take(self) -> None:
        ready = self.raft.take_ready()
        self._check(ready)
        self._look()
        for entry in ready.entries:
            self.observe(f"writes {describe_entry(entry)}")
        hard_state = ready.hard_state or self.unwritten
        self.unwritten = None
        if ready.must_sync:
            self.writes.append(Write(hard_state, ready.entries, ready.after_sync))
        else:
            self.unwritten = hard_state
        for message in ready.messages:
            if isinstance(message, InstallSnapshot):
                index = message.meta.index
                self.images[index, message.meta.term] = tuple(i for i in self.state if i[0] <= index)
            self.outbox.append(message)
        if ready.snapshot is not None:
            self.writes.append(Write(None, (), (), ready.snapshot))
        for entry in ready.committed:
            self._apply(entry)
        for token, index in ready.reads:
            self.reads.append((token, index))
            self.observe(f"may serve read {token} at {index}")
        for token in ready.reads_failed:
            self.reads_failed.append(token)
            self.observe(f"fails read {token}")

    def _apply(self, entry: Entry) -> None:
        self.state.append((entry.index, entry.term, entry.data))
        self.observe(f"applies {describe_entry(entry)}")
        if entry.kind is EntryKind.CHANGE:
            conf = self.raft.apply_change(entry)
            self.observe(f"uses {describe_conf(conf)}")
        self.raft.applied_to(entry.index)

    def _check(self, ready: Ready) -> None:
        assert ready.must_sync or not (ready.entries or ready.after_sync)
        if ready.hard_state is not None:
            before, now = self._last_hard, ready.hard_state
            assert now.term >= before.term, "the term fell"
            assert now.commit >= before.commit, "the commit index fell"
            if now.term == before.term and before.vote:
                assert now.vote == before.vote, "a second vote in one term"
            self._last_hard = now
        for before_entry, entry in zip(ready.entries, ready.entries[1:], strict=False):
            assert entry.index == before_entry.index + 1
        applied = self.state[-1][0] if self.state else 0
        for place, entry in enumerate(ready.committed, applied + 1):
            assert entry.index == place, "applied out of order"

    def _look(self) -> None:
        raft = self.raft
        seen = (raft.role.value, raft.term, raft.leader)
        if seen != self._seen:
            self._seen = seen
            leader = "" if not raft.leader or raft.leader == raft.id else f", leader {raft.leader}"
            self.observe(f"is {raft.role.value} in term {raft.term}{leader}")


class Cluster:
    """Hosts and the messages between them. `wire` is in the order of sending; the caller decides what
    arrives."""

    def __init__(self) -> None:
        self.hosts: dict[NodeId, Host] = {}
        self.wire: list[Message] = []
        self.images: dict[tuple[Index, Term], State] = {}

    def add(
        self,
        config: Config,
        conf: ConfState,
        draw: Callable[[int], int],
        observe: Callable[[str], None] = silent,
    ) -> Host:
        """Start a member."""
        host = Host(config, conf, draw, self.images, observe)
        self.hosts[config.id] = host
        return host

    def collect(self) -> list[Message]:
        """Let every host take its turn; their messages go on the wire and are returned."""
        new: list[Message] = []
        for host in self.hosts.values():
            host.turn()
            new += host.outbox
            host.outbox = []
        self.wire += new
        return new

    def carry(self, message: Message) -> None:
        """Deliver a message, through its byte form, in as many pieces as that is decoded into."""
        host = self.hosts.get(message.to)
        if host is not None:
            data = encode_message(message)
            for piece in decode_in_pieces(data, 0, len(data)):
                host.raft.step(piece)
        if isinstance(message, InstallSnapshot):
            self.told(message, ok=host is not None)

    def lose(self, message: Message) -> None:
        """Lose a message; the sender of a snapshot notices."""
        if isinstance(message, InstallSnapshot):
            self.told(message, ok=False)

    def told(self, message: InstallSnapshot, *, ok: bool) -> None:
        """Report to the sender of a snapshot whether it arrived."""
        sender = self.hosts.get(message.sender)
        if sender is not None:
            sender.raft.report_snapshot(message.to, ok)

    def settle(self, passes: Callable[[Message], bool] = lambda _message: True) -> None:
        """Deliver everything, in order, until there are no more messages."""
        for _ in range(10_000):
            self.collect()
            if not self.wire:
                return
            wire, self.wire = self.wire, []
            for message in wire:
                if passes(message):
                    self.carry(message)
                else:
                    self.lose(message)
        raise AssertionError("the cluster does not come to rest")

    def leader(self) -> Host:
        """The leader of the highest term."""
        leading = [host for host in self.hosts.values() if host.raft.leader == host.id]
        assert leading, "nobody leads"
        return max(leading, key=lambda host: host.raft.term)


def member(
    node: int,
    conf: ConfState,
    terms: Sequence[int] = (),
    *,
    hard_state: HardState | None = None,
    draw: Callable[[int], int] = lambda _bound: 0,
    **options: int,
) -> Raft:
    """A bare core whose log has one NORMAL entry for each of `terms`, nothing applied, and the least possible
    hard state."""
    entries = [entry(index, term) for index, term in enumerate(terms, 1)]
    config = Config(id=NodeId(node), **options)
    hard_state = hard_state or HardState(term=Term(terms[-1] if terms else 0))
    return Raft(config, Boot(hard_state, SnapshotMeta(conf=conf), entries, Index(0)), draw)


def stand(raft: Raft) -> None:
    """Campaign, and win the pre-vote, which is not shown."""
    raft.campaign()
    asked = Term(raft.term + 1)
    for voter in raft.conf.members():
        if raft.role is Role.PRE_CANDIDATE and voter != raft.id:
            raft.step(PreVoteAnswer(voter, raft.id, raft.term, asked, granted=True))
    raft.messages = [message for message in raft.messages if not isinstance(message, PreVoteRequest)]


def entry(index: int, term: int, data: bytes = b"") -> Entry:
    """A NORMAL entry."""
    return Entry(Index(index), Term(term), EntryKind.NORMAL, data)


def said(raft: Raft) -> list[Message]:
    """Take the messages of the core; all its writes count as durable at once."""
    messages: list[Message] = []
    while raft.has_ready():
        ready = raft.take_ready()
        if ready.entries:
            raft.persisted(ready.entries[-1].index, ready.entries[-1].term)
        messages += [*ready.messages, *ready.after_sync]
        if ready.committed:
            raft.applied_to(ready.committed[-1].index)
    return messages


def group(size: int, leader: int = 1, learners: Sequence[int] = (), **options: int) -> Cluster:
    """Voters 1..size, one of them elected (0: none yet), nothing on the wire."""
    cluster = Cluster()
    conf = ConfState(voters=voters(*range(1, size + 1)).voters, learners=tuple(map(NodeId, learners)))
    for node in conf.members():
        config = Config(id=node, **options)
        cluster.add(config, conf, lambda _bound: 0)
    if leader:
        cluster.hosts[NodeId(leader)].raft.campaign()
        cluster.settle()
    return cluster


def voters(*ids: int) -> ConfState:
    """A plain configuration."""
    return ConfState(voters=tuple(map(NodeId, ids)))


def describe_entry(entry: Entry) -> str:
    """Term, index and payload, as `2/12 red`."""
    place = f"{entry.term}/{entry.index}"
    if entry.kind is EntryKind.CHANGE:
        return f"{place} change"
    return f"{place} {entry.data.decode()}" if entry.data else place


def describe_conf(conf: ConfState) -> str:
    """Voters, outgoing voters, learners."""

    def names(ids: Sequence[NodeId]) -> str:
        return " ".join(map(str, ids))

    text = f"voters {names(conf.voters)}"
    if conf.voters_outgoing:
        text += f" with {names(conf.voters_outgoing)}"
    if conf.learners:
        text += f", learners {names(conf.learners)}"
    if conf.learners_next:
        text += f", then learners {names(conf.learners_next)}"
    return text
