"""A seeded run of a small cluster under faults of network and disk and the changes of an operator.

After every step the properties of Raft are asserted (Ongaro's dissertation, figure 3.2), each against a
record kept outside the members. Every seed draws its own sizes, windows and loss, and which faults occur.
"""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import TYPE_CHECKING

from netstore.raft.change import Change, Step, StepKind
from netstore.raft.config import Config
from netstore.raft.entry import ConfState, EntryKind
from netstore.raft.messages import Append, AppendRejected, InstallSnapshot, Message, VoteAnswer
from netstore.raft.status import Fate, Role
from netstore.types import Index, NodeId, Term
from tests.support.raft_cluster import Cluster, Host, Write

if TYPE_CHECKING:
    from collections.abc import Sequence

    from netstore.raft.entry import Entry
    from netstore.raft.ready import Ready


class _WatchedHost(Host):
    """A host that reports to the record what it commits, what reaches its disk and what it sends.

    Not what it was going to write or send: a crash may undo that.
    """

    record: Record
    hosts: dict[NodeId, Host]

    def _check(self, ready: Ready) -> None:
        super()._check(ready)
        self.record.commits(self, self.hosts)

    def _put(self, write: Write) -> None:
        super()._put(write)
        if write.entries:
            disk = self.disk
            place = write.entries[0].index - disk.snapshot.index - 2
            before = disk.entries[place].term if place >= 0 else disk.snapshot.term
            self.record.known(before, write.entries)

    def turn(self) -> None:
        super().turn()
        for message in self.outbox:
            self.record.said(message)


class Record:
    """Everything that was committed, voted, led and applied, kept apart from the members."""

    def __init__(self) -> None:
        self.leaders: dict[Term, NodeId] = {}
        self.entries: dict[tuple[Index, Term], tuple[Term, EntryKind, bytes]] = {}
        self.committed: dict[Index, Term] = {}
        self.committed_in: dict[Index, Term] = {}
        self.applied: dict[Index, tuple[Term, bytes]] = {}
        self.votes: dict[tuple[NodeId, Term], NodeId] = {}
        self.floors: dict[int, int] = {}
        self.served = 0
        self.reached: Counter[str] = Counter()
        self._applied: dict[NodeId, int] = {}
        self._commit: dict[NodeId, int] = {}
        self.highest = 0

    def known(self, before: Term, entries: Sequence[Entry]) -> None:
        """Log matching (section 3.5), by induction: an index and a term determine the entry and the term
        before."""
        for entry in entries:
            same = self.entries.setdefault((entry.index, entry.term), (before, entry.kind, entry.data))
            assert same == (before, entry.kind, entry.data), "log matching"
            before = entry.term

    def said(self, message: Message) -> None:
        """One vote in a term (section 3.4), and log matching, as seen on the wire."""
        if isinstance(message, VoteAnswer) and message.granted:
            chosen = self.votes.setdefault((message.sender, message.term), message.to)
            assert chosen == message.to, "two votes in a term"
        elif isinstance(message, Append):
            self.known(message.previous_term, message.entries)
        elif isinstance(message, AppendRejected):
            self.reached["rejected"] += 1
        elif isinstance(message, InstallSnapshot):
            self.reached["snapshot"] += 1

    def observe(self, host: Host) -> None:
        """The other properties, after a step of one member."""
        raft, log = host.raft, host.raft.log
        assert log.compacted <= log.applied <= log.applying <= log.commit <= log.last
        assert log.persisted <= log.handed <= log.last
        assert log.applying <= log.persisted
        # Election safety (section 3.4) and leader completeness (section 3.6). Before its vote for itself is
        # on disk a sole voter leads only in its own view: nothing is sent, and a crash undoes it.
        if raft.role is Role.LEADER and raft.term_durable:
            if raft.term not in self.leaders:
                self.reached["elected"] += 1
                for index, term in self.committed.items():
                    if index > log.compacted and self.committed_in[index] < raft.term:
                        assert index <= log.last, "leader completeness"
                        assert log.term(index) == term, "leader completeness"
            assert self.leaders.setdefault(raft.term, raft.id) == raft.id, "election safety"
        # State machine safety (section 3.6).
        for index, term, data in host.state[self._applied.get(raft.id, 0) :]:
            assert self.applied.setdefault(index, (term, data)) == (term, data), "state machine safety"
        self._applied[raft.id] = len(host.state)
        for token, at in host.reads:
            assert at >= self.floors.pop(token), "a read was served from the past (section 6.4)"
            self.reached["read"] += 1
        host.reads.clear()
        for token in host.reads_failed:
            del self.floors[token]
        host.reads_failed.clear()

    def commits(self, host: Host, hosts: dict[NodeId, Host]) -> None:
        """What is committed stays committed, and is on a majority of disks, counted while its configuration
        is still used."""
        raft, log = host.raft, host.raft.log
        for place in range(max(self._commit.get(raft.id, 0), log.compacted) + 1, log.commit + 1):
            index = Index(place)
            if raft.role is Role.LEADER and index not in self.committed:
                self._on_quorum(host, index, hosts)
            self.committed_in.setdefault(index, raft.term)
            assert self.committed.setdefault(index, log.term(index)) == log.term(index), "committed twice"
        self._commit[raft.id] = log.commit
        self.highest = max(self.highest, log.commit)

    def restarted(self, host: Host) -> None:
        """A member restarted with what its disk has."""
        self._applied[host.id] = self._commit[host.id] = 0
        for token in [token for token in self.floors if token >> 32 == host.id]:
            del self.floors[token]

    @staticmethod
    def _on_quorum(host: Host, index: Index, hosts: dict[NodeId, Host]) -> None:
        """What a leader commits is on the disks of a majority (section 3.6.2), power failures included."""
        term = host.raft.log.term(index)

        def holds(node: NodeId) -> bool:
            disk = hosts[node].disk
            place = index - disk.snapshot.index - 1
            return place < 0 or (place < len(disk.entries) and disk.entries[place].term == term)

        def enough(conf: ConfState) -> bool:
            halves = filter(None, (conf.voters, conf.voters_outgoing))
            return all(sum(map(holds, half)) > len(half) // 2 for half in halves)

        since = host.raft.conf_history[-1][0]
        # A leader leaves a joint configuration in the same step that commits it, under the joint one.
        used = (
            [host.raft.conf] if since <= host.raft.commit else [host.raft.conf, host.raft.conf_history[-2][1]]
        )
        assert any(map(enough, used)), "committed on a majority of disks"


class Chaos:
    """A run. `steps()` has the faults, `recover()` proves that the cluster recovers from them."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)  # noqa: S311 - repeatable, not secret
        rng = self.random
        self.record = Record()
        self.cluster = Cluster()
        self.size = rng.choice((1, 2, 3, 3, 3, 5, 5))
        self.options = {
            "election_ticks": rng.choice((3, 5, 10)),
            "max_inflight_messages": rng.choice((1, 2, 8)),
            "max_inflight_bytes": rng.choice((40, 400, 10_000)),
            "max_append_bytes": rng.choice((1, 60, 300, 10_000)),
            "max_uncommitted_bytes": rng.choice((300, 2_000, 100_000)),
            "max_waiting_reads": rng.choice((2, 1000)),
        }
        self.options["max_ready_bytes"] = 2 * self.options["max_append_bytes"]
        self.loss = rng.choice((0.0, 0.02, 0.2))
        self.copies = rng.choice((0.0, 0.05))
        self.reorder = rng.random() < 0.5
        self.cut: set[NodeId] = set()
        self.one_way: set[tuple[NodeId, NodeId]] = set()
        self.count = 0
        self.paused: set[NodeId] = set()
        ids = [NodeId(node) for node in range(1, self.size + rng.choice((1, 1, 1, 2, 3)))]
        initial = ConfState(voters=tuple(ids[: self.size]), learners=tuple(ids[self.size :]))
        for node in initial.members():
            self._start(node, initial)
        actions = {
            self._deliver: 40,
            self._tick: rng.choice((10, 25)),
            self._sync: rng.choice((5, 30)),
            self._propose: rng.choice((3, 15)),
            self._read: rng.choice((0, 3)),
            self._crash: rng.choice((0, 1, 3)),
            self._partition: rng.choice((0, 1)),
            self._pause: rng.choice((0, 1)),
            self._compact: rng.choice((0, 1, 4)),
            self._change: rng.choice((0, 1, 4)),
            self._transfer: rng.choice((0, 1)),
            self._lose_touch: rng.choice((0, 1)),
        }
        self._actions = list(actions)
        self._weights = list(actions.values())

    def _start(self, node: NodeId, conf: ConfState) -> None:
        config = Config(id=node, **self.options)
        host = _WatchedHost(config, conf, self.random.randrange, self.cluster.images)
        host.record = self.record
        host.hosts = self.cluster.hosts
        host.auto_sync = False
        self.cluster.hosts[node] = host

    def steps(self, count: int) -> None:
        """Random steps; the properties are asserted after each."""
        for action in self.random.choices(self._actions, self._weights, k=count):
            action()
        self.record.reached["committed"] += self.record.highest

    def _any(self) -> Host:
        """Any member that runs, a leader every other time there is one."""
        hosts = [host for host in self.cluster.hosts.values() if host.id not in self.paused]
        leading = [host for host in hosts if host.raft.role is Role.LEADER]
        return self.random.choice(leading if leading and self.random.random() < 0.5 else hosts)

    def _after(self, host: Host) -> None:
        host.raft.waits = self.count % 3 == 0
        host.turn()
        self.cluster.wire += host.outbox
        host.outbox = []
        self.record.observe(host)

    def _parted(self, message: Message) -> bool:
        a, b = message.sender, message.to
        return (a in self.cut) != (b in self.cut) or (a, b) in self.one_way

    def _deliver(self) -> None:
        wire = self.cluster.wire
        for _ in range(self.random.randrange(1, 6)):
            places = [place for place, message in enumerate(wire) if message.to not in self.paused]
            if not places:
                return
            message = wire.pop(self.random.choice(places) if self.reorder else places[0])
            if self._parted(message) or self.random.random() < self.loss:
                self.cluster.lose(message)
                continue
            if self.random.random() < self.copies and not isinstance(message, InstallSnapshot):
                wire.append(message)
            self.cluster.carry(message)
            self._after(self.cluster.hosts[message.to])
            if message.sender not in self.paused:
                self._after(self.cluster.hosts[message.sender])

    def _tick(self) -> None:
        for host in self.cluster.hosts.values():
            if host.id not in self.paused and self.random.random() < 0.7:
                host.raft.tick()
                self._after(host)

    def _sync(self) -> None:
        for host in self.cluster.hosts.values():
            if host.writes and host.id not in self.paused and self.random.random() < 0.7:
                # Several writes can be reported as one.
                for _ in range(self.random.randrange(1, len(host.writes) + 1)):
                    host.sync()
                self._after(host)

    def _propose(self) -> None:
        host = self._any()
        payloads = []
        for _ in range(self.random.choice((1, 1, 2, 5))):
            self.count += 1
            payloads.append(b"%d%s" % (self.count, b"." * self.random.choice((0, 10, 100))))
        if host.raft.propose(payloads).fate is Fate.FORWARDED:
            self.record.reached["forwarded"] += 1
        self._after(host)

    def _read(self) -> None:
        self._ask(self._any())

    def _ask(self, host: Host) -> None:
        self.count += 1
        token = host.id << 32 | self.count
        self.record.floors[token] = self.record.highest
        host.raft.read(token)
        self._after(host)

    def _crash(self) -> None:
        host = self._any()
        applied = self.random.randrange(host.raft.log.applied + 1)
        host.crash(self.random.randrange(len(host.writes) + 1), applied)
        self.record.restarted(host)
        self.record.reached["crashed"] += 1
        self._after(host)

    def _partition(self) -> None:
        nodes = list(self.cluster.hosts)
        self.cut = set()
        self.one_way = set()
        kind = self.random.randrange(3)
        if kind == 1:
            self.cut = set(self.random.sample(nodes, self.random.randrange(len(nodes))))
        elif kind == 2 and len(nodes) > 1:
            first, second = self.random.sample(nodes, 2)
            self.one_way = {(first, second)}

    def _pause(self) -> None:
        """Stop a process, or let the stopped ones go on: they get reads of clients before any message."""
        if self.paused:
            for node in sorted(self.paused):
                self.paused.discard(node)
                for _ in range(3):
                    self._ask(self.cluster.hosts[node])
        elif len(self.cluster.hosts) > 1:
            self.paused.add(self._any().id)

    def _compact(self) -> None:
        host = self._any()
        log = host.raft.log
        if log.applied > log.compacted:
            host.compact(Index(self.random.randrange(log.compacted, log.applied) + 1))
            self._after(host)

    def _change(self) -> None:
        host = self._any()
        learners = host.raft.conf.learners
        if learners and self.random.random() < 0.6:
            steps = [Step(StepKind.ADD_VOTER, self.random.choice(learners))]
            if self.random.random() < 0.5:
                steps.append(Step(StepKind.REMOVE, self.random.choice(host.raft.conf.voters)))
        else:
            nodes = self.random.sample(range(1, 8), self.random.choice((1, 1, 2, 3)))
            steps = [Step(self.random.choice(list(StepKind)), NodeId(node)) for node in nodes]
        change = Change(tuple(steps))
        for step in steps:
            if step.node not in self.cluster.hosts:
                self._start(step.node, ConfState())
        if host.raft.propose_change(change).fate is Fate.APPENDED:
            self.record.reached["joint" if host.raft.conf.joint else "changed"] += 1
        self._after(host)

    def _transfer(self) -> None:
        host = self._any()
        if host.raft.transfer(self.random.choice(list(self.cluster.hosts))) is None:
            self.record.reached["transferred"] += 1
        self._after(host)

    def _lose_touch(self) -> None:
        host = self._any()
        host.raft.report_unreachable(self.random.choice(list(self.cluster.hosts)))
        self._after(host)

    def recover(self) -> None:
        """Faults stop: one leader, fresh writes applied by every member, equal states."""
        self.cut = set()
        self.one_way = set()
        self.paused = set()
        hosts = self.cluster.hosts
        for host in hosts.values():
            host.auto_sync = True
        mark = b"after all"
        for _ in range(40 * self.options["election_ticks"]):
            for host in hosts.values():
                host.raft.tick()
            self._settle()
            leading = [host for host in hosts.values() if host.raft.role is Role.LEADER]
            if not leading:
                continue
            leader = max(leading, key=lambda host: host.raft.term)
            if not any(item[2] == mark for item in leader.state):
                leader.raft.propose([mark])
            self._settle()
            members = [hosts[node] for node in leader.raft.conf.members()]
            if (
                not leader.raft.conf.joint
                and all(host.state == leader.state for host in members)
                and any(item[2] == mark for item in leader.state)
            ):
                return
        raise AssertionError("the cluster did not come back")

    def _settle(self) -> None:
        self.cluster.settle()
        for host in self.cluster.hosts.values():
            self.record.observe(host)
