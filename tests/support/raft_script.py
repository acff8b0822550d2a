"""Transcripts of the core: a script, and below a rule everything that could be seen.

    # What this act shows.
    members 3 leader=1
    propose 1 red
    ----
    1 writes 1/2 red
    1 -> 2 Append after 1/1: 1/2 red (commit 1)
    1 -> 3 Append after 1/1: 1/2 red (commit 1)

An act is the commands up to the rule; below it, up to an empty line, is what they showed. Entries are written
term/index, and members by their id. Commands:

    members N [learners=4,5] [joiners=6] [leader=1] [option=value]
                               start voters 1..N and others; elect the leader without showing it; options are
                               Config's
    tick ID [COUNT]            ticks; `tick ID until=election` ticks until it starts an election
    campaign ID                start an election
    propose ID WORD...         one proposal of these payloads
    change ID [add=4] [learner=5] [remove=2]
                               a membership change; nothing named: leave a joint configuration
    transfer ID TO             hand over leadership
    read ID TOKEN...           ask for read indexes, in one turn
    hold ID                    delay its writes
    sync ID [COUNT]            complete the oldest writes; without COUNT all, and delay no more
    crash ID                   lose what is not synced, and restart
    compact ID INDEX           drop the log up to there
    cut ID... / heal [ID...]   messages from and to these members are lost / arrive again
    deliver [FROM>TO...]       everything on its way arrives, with each message shown; with pairs, only theirs
    drop [FROM>TO...]          everything on its way is lost
    unreachable ID PEER        the host reports lost messages
    settle                     deliver messages until there are none, then show the state of each member
    status ID / log ID         the progress of the followers / the whole log in memory
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from netstore.raft.change import Change, Step, StepKind
from netstore.raft.config import Config
from netstore.raft.entry import ConfState
from netstore.raft.messages import (
    Append,
    AppendAccepted,
    AppendRejected,
    Forward,
    ForwardRefused,
    Heartbeat,
    HeartbeatAnswer,
    InstallSnapshot,
    Message,
    PreVoteAnswer,
    PreVoteRequest,
    ReadAnswer,
    ReadRequest,
    TimeoutNow,
    VoteAnswer,
    VoteRequest,
)
from netstore.raft.status import Fate, Proposed, Refusal, Role
from netstore.types import Index, NodeId
from tests.support.raft_cluster import Cluster, Host, describe_conf, describe_entry

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

RULE = "----"


def replay(text: str) -> str:
    """Run a transcript and give it back with what was really seen."""
    script = _Script()
    out: list[str] = []
    lines = iter(text.splitlines())
    for line in lines:
        out.append(line)
        if line == RULE:
            for expected in lines:
                if not expected:
                    break
            out += script.shown or ["nothing"]
            out.append("")
            script.shown = []
        elif line and not line.startswith("#"):
            script.run(line)
    while out and not out[-1]:
        out.pop()
    return "\n".join(out) + "\n"


class _Script:
    """The cluster of one transcript. Election timeouts are drawn as id * 2 ticks beyond the shortest, so
    member 1 is first."""

    def __init__(self) -> None:
        self.cluster = Cluster()
        self.cut: set[NodeId] = set()
        self.shown: list[str] = []

    def run(self, line: str) -> None:
        """One command."""
        name, *words = line.split()
        command: Callable[[list[str]], None] = getattr(self, f"do_{name}")
        command(words)
        if name not in ("deliver", "settle"):
            self._turns()

    # --- showing

    def show(self, text: str) -> None:
        """One line of what is seen."""
        self.shown.append(text)

    def _turns(self) -> None:
        lines = Counter(map(describe, self.cluster.collect()))
        for line, times in lines.items():
            self.show(line if times == 1 else f"{line} x{times}")

    def _host(self, word: str) -> Host:
        return self.cluster.hosts[NodeId(int(word))]

    # --- commands

    def do_members(self, words: list[str]) -> None:
        self.cluster = Cluster()
        self.cut.clear()
        size = int(words[0])
        options = dict(word.split("=") for word in words[1:])
        learners = _ids(options.pop("learners", ""))
        joiners = _ids(options.pop("joiners", ""))
        leader = options.pop("leader", "")
        fields = {field: int(value) for field, value in options.items()}
        initial = ConfState(voters=_ids(",".join(map(str, range(1, size + 1)))), learners=learners)
        for node in (*initial.voters, *learners, *joiners):
            conf = ConfState() if node in joiners else initial
            config = Config(id=node, **fields)
            self.cluster.add(config, conf, _draw(node), self._observer(node))
        if leader:
            self.do_campaign([leader])
            self.cluster.settle()
            self.shown.clear()

    def _observer(self, node: NodeId) -> Callable[[str], None]:
        return lambda text: self.show(f"{node} {text}")

    def do_tick(self, words: list[str]) -> None:
        host = self._host(words[0])
        if words[1:] == ["until=election"]:
            while host.raft.role is not Role.PRE_CANDIDATE:
                host.raft.tick()
            return
        for _ in range(int(words[1]) if len(words) > 1 else 1):
            host.raft.tick()

    def do_campaign(self, words: list[str]) -> None:
        self._host(words[0]).raft.campaign()

    def do_propose(self, words: list[str]) -> None:
        payloads = [word.encode() for word in words[1:]]
        self._proposed(words[0], self._host(words[0]).raft.propose(payloads))

    def do_change(self, words: list[str]) -> None:
        kinds = {"add": StepKind.ADD_VOTER, "learner": StepKind.ADD_LEARNER, "remove": StepKind.REMOVE}
        steps: list[Step] = []
        for word in words[1:]:
            kind, _, ids = word.partition("=")
            steps += [Step(kinds[kind], node) for node in _ids(ids)]
        change = Change(tuple(steps))
        self._proposed(words[0], self._host(words[0]).raft.propose_change(change))

    def _proposed(self, who: str, proposed: Proposed) -> None:
        if proposed.fate is Fate.REFUSED:
            self._refused(who, proposed.refusal)

    def _refused(self, who: str, refusal: Refusal | None) -> None:
        if refusal is not None:
            self.show(f"{who} refuses: {refusal.value}")

    def do_transfer(self, words: list[str]) -> None:
        self._refused(words[0], self._host(words[0]).raft.transfer(NodeId(int(words[1]))))

    def do_read(self, words: list[str]) -> None:
        for token in words[1:]:
            self._host(words[0]).raft.read(int(token))

    def do_hold(self, words: list[str]) -> None:
        self._host(words[0]).auto_sync = False

    def do_sync(self, words: list[str]) -> None:
        host = self._host(words[0])
        if len(words) == 1:
            host.auto_sync = True
            return
        for _ in range(int(words[1])):
            host.sync()

    def do_crash(self, words: list[str]) -> None:
        host = self._host(words[0])
        host.auto_sync = True
        host.crash()

    def do_compact(self, words: list[str]) -> None:
        self._host(words[0]).compact(Index(int(words[1])))

    def do_cut(self, words: list[str]) -> None:
        self.cut.update(_ids(",".join(words)))

    def do_heal(self, words: list[str]) -> None:
        self.cut.difference_update(_ids(",".join(words)) or tuple(self.cut))

    def do_deliver(self, words: list[str]) -> None:
        self._turns()
        for message in self._take(words):
            if self._passes(message):
                self.cluster.carry(message)
                self._turns()
            else:
                self.cluster.lose(message)

    def do_drop(self, words: list[str]) -> None:
        for message in self._take(words):
            self.cluster.lose(message)

    def _take(self, words: list[str]) -> list[Message]:
        pairs = [tuple(map(int, word.split(">"))) for word in words]
        chosen = [m for m in self.cluster.wire if not pairs or (m.sender, m.to) in pairs]
        self.cluster.wire = [m for m in self.cluster.wire if m not in chosen]
        return chosen

    def _passes(self, message: Message) -> bool:
        return message.sender not in self.cut and message.to not in self.cut

    def do_unreachable(self, words: list[str]) -> None:
        self._host(words[0]).raft.report_unreachable(NodeId(int(words[1])))

    def do_settle(self, _words: list[str]) -> None:
        self.cluster.settle(self._passes)
        views = {
            node: f"term {host.raft.term}, leader {host.raft.leader or 'none'}, commit {host.raft.commit}"
            for node, host in self.cluster.hosts.items()
        }
        if len(set(views.values())) == 1:
            self.show(f"all: {next(iter(views.values()))}")
            return
        for node, view in views.items():
            self.show(f"{node}: {view}")

    def do_status(self, words: list[str]) -> None:
        raft = self._host(words[0]).raft
        for peer in raft.status().peers:
            progress = raft.progress[peer.id]
            inflight = len(progress._window)
            more = [f"{inflight} unanswered" if inflight else "", "caught up" if peer.caught_up else ""]
            text = ", ".join(filter(None, (f"match {peer.match}", f"next {progress.next}", *more)))
            self.show(f"{words[0]} has progress of {peer.id}: {progress.state.value}, {text}")

    def do_log(self, words: list[str]) -> None:
        log = self._host(words[0]).raft.log
        entries = ", ".join(map(describe_entry, log.between(log.compacted + 1, log.last)))
        self.show(f"{words[0]} has the log after {log.compacted}: {entries or 'nothing'}")


def _draw(node: int) -> Callable[[int], int]:
    return lambda bound: min(node * 2, bound - 1)


def _ids(text: str) -> tuple[NodeId, ...]:
    return tuple(NodeId(int(word)) for word in text.split(",") if word)


def describe(message: Message) -> str:
    """One message on one line."""
    return f"{message.sender} -> {message.to} {_body(message)}"


def _body(message: Message) -> str:
    match message:
        case PreVoteRequest():
            return f"PreVoteRequest for term {message.term} (last {message.last_term}/{message.last_index})"
        case PreVoteAnswer():
            verdict = "granted" if message.granted else "refused"
            return f"PreVoteAnswer for term {message.asked}: {verdict} (term {message.term})"
        case VoteRequest():
            last = f"{message.last_term}/{message.last_index}{', forced' if message.forced else ''}"
            return f"VoteRequest for term {message.term} (last {last})"
        case VoteAnswer():
            return f"VoteAnswer in term {message.term}: {'granted' if message.granted else 'refused'}"
        case Append():
            entries = ", ".join(map(describe_entry, message.entries)) or "nothing"
            after = f"{message.previous_term}/{message.previous_index}"
            return f"Append after {after}: {entries} (commit {message.commit})"
        case AppendAccepted():
            return f"AppendAccepted up to {message.index}"
        case AppendRejected():
            if message.needs_snapshot:
                return "AppendRejected: needs a snapshot"
            hint = f"{message.hint_term}/{message.hint_index}"
            return f"AppendRejected at {message.previous_index}, hint {hint}"
        case Heartbeat():
            return f"Heartbeat (commit {message.commit}, round {message.round})"
        case HeartbeatAnswer():
            return f"HeartbeatAnswer (term {message.term}, round {message.round})"
        case InstallSnapshot():
            meta = message.meta
            return f"InstallSnapshot {meta.term}/{meta.index} ({describe_conf(meta.conf)})"
        case TimeoutNow():
            return "TimeoutNow"
        case Forward():
            return f"Forward {_payloads(message.payloads)}"
        case ForwardRefused():
            return f"ForwardRefused: {len(message.requests)} payloads"
        case ReadRequest():
            return f"ReadRequest {message.sequence}"
        case ReadAnswer():
            return f"ReadAnswer {message.sequence}: index {message.index}"


def _payloads(payloads: Sequence[bytes]) -> str:
    return " ".join(payload.decode("utf-8", "backslashreplace") for payload in payloads)
