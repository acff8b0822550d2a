"""The running member as a plain object: takes inputs, runs turns, and connects the parts that carry out their
effects. The loop and the simulator run it.

In a turn everything that is waiting is taken (proposals, messages, ticks, finished syncs). Then, in this
order: messages leave that need no sync first; what must be durable goes to the disk (`node.logwriter`);
committed entries are applied (`node.applier`), which completes proposals; reads are answered; answers are
flushed; long work goes on a little (`node.background`). What must not leave before
a sync waits in the driver for it. What arrives while the disk syncs is the next batch: no timer gathers
requests.

Reads no clock but the one given, and awaits nothing: a turn is atomic, so there are no locks. A fault in a
turn, on the disk or while an entry is applied ends the member: clients must not get the answers of half a
turn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from netstore import errors
from netstore.errors import MustStop, Reason
from netstore.meter import Parts
from netstore.node.applier import TURN_UNITS, Applier
from netstore.node.background import Background
from netstore.node.backpressure import Backpressure
from netstore.node.diskspace import DiskSpace, remedy
from netstore.node.forwards import Forwards
from netstore.node.jobs import Jobs
from netstore.node.logcompaction import CATCH_UP_ENTRIES, LogCompaction
from netstore.node.logwriter import DiskFailed, LogWriter
from netstore.node.proposals import COMPLETED_AT_ONCE
from netstore.node.proposing import Proposer
from netstore.node.reads import Reads
from netstore.node.slowness import SLOW_SECONDS, Slowness
from netstore.node.snapshotinstall import SnapshotInstall
from netstore.node.snapshotsending import SnapshotSending
from netstore.raft.change import Change
from netstore.raft.entry import EntryKind
from netstore.raft.invariant import InvariantBroken
from netstore.raft.messages import Forward, ForwardRefused, LogContradicted, MessageRefused
from netstore.seams import PASSING
from netstore.types import Nanos
from netstore.watch.watches import Watches

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from netstore.disk.wal import Wal
    from netstore.errors import Fault
    from netstore.limits import Budget
    from netstore.node.driver import Driver
    from netstore.node.pacing import Behind
    from netstore.node.proposals import Proposals, Slot
    from netstore.node.slowness import Spent
    from netstore.raft.messages import Message
    from netstore.raft.status import Refusal, Status
    from netstore.seams import Clock, Engine, Log
    from netstore.state.machine import Machine, Outcome
    from netstore.types import ClusterId, Index, NodeId, Term
    from netstore.watch.hub import Hub


class Contradicted(NamedTuple):
    """A leader was refused, because it has another entry than the one that is committed here."""

    words: str
    at: float
    """Monotonic time, seconds."""


class Host:
    """One member. Implements `node.member.Replica`.

    `wake` is called when there is something to do; whoever runs the host then calls `turn` as soon as it can,
    from a task of its own. `send` takes messages for peers, `flush` sends the answers; neither may block.
    """

    def __init__(
        self,
        *,
        name: str,
        cluster_id: ClusterId,
        driver: Driver,
        wal: Wal,
        engine: Engine,
        machine: Machine,
        hub: Hub,
        clock: Clock,
        proposals: Proposals,
        wake: Callable[[], None],
        send: Callable[[Sequence[Message]], None],
        flush: Callable[[], None],
        snapshot_count: int,
        log: Log,
        catch_up_entries: int = CATCH_UP_ENTRIES,
        log_budget: Budget | None = None,
    ) -> None:
        """`log_budget` bounds what entries in memory weigh, whatever `snapshot_count` says."""
        self.name = name
        self.cluster_id = cluster_id
        self.machine = machine
        self.hub = hub
        self.watches = Watches(machine.mvcc, wake)
        """Live watchers of the v3 keys."""
        self.jobs = Jobs(wake, log)
        """Requests that are answered in steps."""
        self.clock = clock
        self.parts = Parts(clock.monotonic)
        """Which part of the last turn took longest."""
        self.slowness = Slowness(clock.monotonic)
        """Where the time of slow requests went."""
        self.slow_write: Callable[[bytes, Spent, Outcome | Fault], object] | None = None
        """Called with the payload and the outcome of a slow request of the log once it is answered, unless
        whoever answered it has taken `Slowness.spent`.
        """
        self.read_clock: Callable[[], object] = lambda: None
        """Called where time has passed since the loop's round began: its clock measures requests."""
        self.proposals = proposals
        self.proposals.now, self.proposals.wall = clock.monotonic(), clock.wall()
        self.reads = Reads(proposals.time_limit)
        """Linearizable reads that wait."""
        proposals.slow, self.reads.slow = self._answer_slow, self._read_slow
        machine.v2.watched = hub.watched
        proposals.failed = hub.failed = self.watches.failed = self.reads.failed = self.request_failed
        engine.eased = wake
        engine.pull = machine.save
        self._driver = driver
        self._raft = raft = driver.raft
        self.slowness.is_alone = lambda: raft.is_only_voter
        self._engine = engine
        self._send = send
        self._flush = flush
        self._wake = wake
        self._log = log
        self.estranged: Callable[[], tuple[str, str] | None] = lambda: None
        """See `peer.peers.Peers.estranged`."""
        self.differing = ""
        """See `Member.differing`; set by `node.consistency`."""
        self.contradicted: Contradicted | None = None
        """The last leader that was refused, for `node.consistency`."""
        self.space = DiskSpace(log)
        """What log and state lack on disk."""
        self._writer = LogWriter(
            wal, driver, self.space, log, wake=wake, fail=self.fail, out_of_space=self._give_up
        )
        self.applier = Applier(
            machine,
            raft,
            proposals,
            hub=hub,
            watches=self.watches,
            parts=self.parts,
            slowness=self.slowness,
            wake=wake,
        )
        """Applies committed entries."""
        self.backpressure = Backpressure(
            machine, raft, engine, applier=self.applier, space=self.space, log=log
        )
        """Whether more may be taken into the log."""
        self.compaction = LogCompaction(
            raft,
            engine,
            wal=wal,
            writer=self._writer,
            log=log,
            snapshot_count=snapshot_count,
            catch_up_entries=catch_up_entries,
            budget=log_budget,
        )
        """Drops entries from the log."""
        self._pacing = self.compaction.pacing
        self.forwards = Forwards(
            machine,
            raft,
            proposals,
            backpressure=self.backpressure,
            space=self.space,
            pacing=self._pacing,
            wake=wake,
            log=log,
        )
        self.proposer = Proposer(
            machine,
            raft,
            proposals,
            forwards=self.forwards,
            backpressure=self.backpressure,
            space=self.space,
            pacing=self._pacing,
            wake=wake,
            flush=flush,
        )
        """Puts requests into the log."""
        self.snapshot_sending = SnapshotSending(raft, self.compaction, clock, wake)
        """Snapshots for other members."""
        self.snapshot_install = SnapshotInstall(
            machine,
            raft,
            engine,
            writer=self._writer,
            applier=self.applier,
            compaction=self.compaction,
            proposals=proposals,
            hub=hub,
            watches=self.watches,
            log=log,
            wake=wake,
            fail=self.fail,
        )
        """Snapshots from the leader."""
        self.background = Background(
            machine,
            raft,
            proposals,
            reads=self.reads,
            jobs=self.jobs,
            hub=hub,
            watches=self.watches,
            parts=self.parts,
            wake=wake,
        )
        """Long work."""
        self.change_asked: Callable[[Change], None] | None = None
        """Called at a leader with each change of the members that a follower asks for; None: it is proposed
        unchecked.
        """
        self._failure: Exception | None = None
        """What ends the member in its next turn."""
        self._asked = False
        """A client has asked for something since the last turn."""
        self._is_expiring = False
        """More requests have waited too long than were told at once."""
        self._leader_known: NodeId | None = None
        self._lost_entries: set[NodeId] = set()
        """Members found, since the leader changed, to lack entries that they acknowledged."""
        self.leader_since = Nanos(0)
        """Wall time at which this member came to know its leader; 0 before it knew any."""
        self.leaders_seen = 0
        """How often it came to know a leader that it had not known before."""
        self.reads_slow = 0
        """Linearizable reads that waited too long."""
        self.reads_failed = 0
        """Those for which no leader confirmed a read index."""

    # --- Member

    @property
    def id(self) -> NodeId:
        """This member's id."""
        return self._raft.id

    @property
    def leader(self) -> NodeId:
        """The leader this member follows; 0 when it knows none."""
        return self._raft.leader

    @property
    def term(self) -> Term:
        """The current term."""
        return self._raft.term

    @property
    def is_only_voter(self) -> bool:
        """No vote but this member's own is needed for anything, so it need not wait for a timeout to lead."""
        return self._raft.is_only_voter

    @property
    def commit_index(self) -> Index:
        """Highest log index known to be committed."""
        return self._raft.log.commit

    @property
    def backed_up(self) -> bool:
        """See `Member.backed_up`: it is overloaded, requests of others are postponed, or writes are paced."""
        return self.backpressure.is_overloaded or bool(self.forwards.postponed) or self._pacing.paced

    @property
    def paced_to(self) -> int:
        """See `Member.paced_to`."""
        return self._pacing.paced_to

    def problems(self) -> dict[str, str]:
        """See `Member.problems`."""
        found = self.space.problems()
        if not self.leader and (estranged := self.estranged()) is not None:
            told, fix = estranged
            found[f"knows no leader, and member {told}"] = fix
        return found

    def behind(self) -> list[Behind]:
        """See `Member.behind`."""
        return self._pacing.behind()

    def propose(
        self, command: bytes, done: Callable[[Outcome | Fault], None], principal: bytes
    ) -> Slot | None:
        """Replicate a command; see `Member.propose`."""
        machine = self.machine
        level = 1
        if command[1:2] in machine.later:
            level = machine.level_of(command)
            if level > machine.roster.level:
                done(errors.beyond_level(level, machine.roster.level))
                return None
        slot = self.proposals.add(command, done, principal, level)
        if principal:
            self._asked = True
        self._wake()
        return slot

    def read(self, done: Callable[[Fault | None], None], principal: str = "") -> None:
        """A linearizable read: `done(None)` is called once this member's state holds everything that was
        acknowledged anywhere before this call (ReadIndex; Ongaro's dissertation, section 6.4). It gets a
        Fault if that takes too long, or if too many reads wait, of all or of `principal`. One round of
        messages serves all reads that wait for one. The only voter of a cluster calls `done` within this
        call, if it has applied all that is committed.
        """
        if self.proposals.is_stopped:
            done(errors.stopped())
            return
        is_free = not self.reads and self.snapshot_install.steps is None and self._failure is None
        if is_free and self._raft.local_read_index() == self.machine.applied:
            self._asked = True
            self.reads.finish(done, None)
            return
        number = self.reads.ask(done, principal, self.clock.monotonic())
        if number is None:
            done(errors.too_many())
            return
        self._raft.read(number)
        self._asked = True
        self._wake()

    @property
    def change_index(self) -> Index:
        """The newest entry of the log that changes the members; it may be neither committed nor applied."""
        return self._raft.conf_history[-1][0]

    def transfer(self, to: NodeId) -> Refusal | None:
        """Start transferring leadership to a voter; None if it was started. Success shows in `leader`."""
        refusal = self._raft.transfer(to)
        self._wake()
        return refusal

    def status(self) -> Status:
        """Raft's own status."""
        return self._raft.status()

    # --- inputs

    def tick(self) -> None:
        """One tick of protocol time: elections, heartbeats; also the time limits of waiting requests."""
        self.proposals.now = self.clock.monotonic()
        if self._expire():
            self._flush()
        self._raft.tick()
        self.compaction.tick(self.proposals.now)
        for peer, (acknowledged, kept) in self._raft.take_lost_entries().items():
            if peer not in self._lost_entries:
                self._lost_entries.add(peer)
                self._log.warning(
                    "member_forgot",
                    member=f"{peer:x}",
                    acknowledged=acknowledged,
                    kept_up_to=kept,
                    advice="its data folder is older than what it acknowledged: remove it with netstorectl"
                    f" member rm {peer:x}, empty the folder, and let it join",
                )
        self._wake()

    def campaign(self) -> None:
        """Stand for election now, without waiting for the timeout."""
        self._raft.campaign()
        self._wake()

    def receive(self, messages: Sequence[Message]) -> None:
        """Messages from a peer. MessageRefused for one that cannot be true; those before it were processed.
        InvariantBroken when one was processed in part: what Raft holds is undefined then.

        What gives nothing to do, as the second of two acknowledgements, costs no turn.
        """
        has_work = False
        try:
            for message in messages:
                if type(message) is Forward and self.forwards.are_for_me(message):
                    has_work = True
                    if message.kind is EntryKind.CHANGE:
                        self._take_changes(message)
                    else:
                        self.forwards.take(message)
                elif self.backpressure.accepts(message):
                    self._raft.step(message)
                    if type(message) is ForwardRefused:
                        has_work = True
                        self.proposer.refusal_received(message)
        except LogContradicted as refusal:
            self.contradicted = Contradicted(str(refusal), self.clock.monotonic())
            raise
        except (MessageRefused, MustStop):
            raise
        except Exception as fault:
            raise InvariantBroken(f"a message of a peer was processed in part: {fault!r}") from fault
        finally:
            if has_work or self._raft.has_ready():
                self._wake()

    def _take_changes(self, message: Forward) -> None:
        if self.change_asked is None:
            self._raft.step(message)
            return
        self._raft.waits_at(message.sender)
        for payload in message.payloads:
            self.change_asked(Change.decode(payload))

    def unreachable(self, peer: NodeId) -> None:
        """Messages for this peer were dropped."""
        self._raft.report_unreachable(peer)
        self._wake()

    def tell_commits(self) -> bool:
        """Nothing follows soon: whether a turn has to tell followers of commits, which it then does."""
        untold = self._raft.has_untold_commits()
        if untold:
            self._raft.tell_commits()
        return untold

    def fail(self, failure: Exception) -> None:
        """End the member: the state engine or another part it cannot run without has failed."""
        self._failure = failure
        self._wake()

    def stop(self) -> None:
        """Complete every waiting request as unknown, and accept nothing more."""
        self.proposals.is_stopped = True
        self.proposals.fail_all(errors.stopped())
        for done in self.reads.take_all():
            self.reads.finish(done, errors.stopped())
        self._flush()

    def request_failed(self, fault: Exception) -> None:
        """The answer or event of a request could not be made. That request fails, the member goes on."""
        self._log.error("request_failed", error=repr(fault))

    def _answer_slow(self, slot: Slot, payload: bytes, is_applied: bool, outcome: Outcome | Fault) -> None:
        proposals, slowness = self.proposals, self.slowness
        opened = slot.late_at - proposals.time_limit
        self.read_clock()
        if is_applied:
            spent = slowness.of_write(opened, slot.sent_at, self.machine.applying.index)
        else:
            spent = slowness.of_unfinished(opened, slot.sent_at, proposals.now)
        slowness.spent = spent
        try:
            slot.done(outcome)
            if slowness.spent is not None and self.slow_write is not None:
                self.slow_write(payload, spent, outcome)
        finally:
            slowness.spent = slowness.traceparent = None

    def _read_slow(self, done: Callable[[Fault | None], None], asked: float, fault: Fault | None) -> None:
        self.read_clock()
        self.slowness.spent = self.slowness.of_read(asked)
        try:
            done(fault)
        finally:
            self.slowness.spent = None

    def _fail_read(self, number: int) -> None:
        self.reads_failed += 1
        self.reads.slow_before = self.proposals.now + self.proposals.time_limit - SLOW_SECONDS
        self.reads.finish(self.reads.drop(number), errors.timed_out(Reason.TIMED_OUT_LEADER))

    def engine_failed(self, failure: OSError) -> None:
        """The state could not be committed. If space is lacking, the engine tries again by itself, and writes
        are refused until it succeeds.
        """
        if failure.errno not in PASSING:
            self.fail(DiskFailed(f"writing the state failed: {failure}; the log has what was acknowledged"))
        elif self.space.state_error is None:
            self.space.state_error = failure
            self._log.error("state_not_writable", error=str(failure), fix=remedy(failure))
            self._wake()  # those that wait for the engine are told

    def retry_writes(self) -> None:
        """Try again what could not be written, if anything. Nothing of it was acknowledged."""
        if self.space.state_error and not self._engine.failing():
            self.space.state_error = None
            self._log.info("state_writable")
        if self.space.next_segment is not None:
            self.space.next_segment.retry()
        self._writer.retry()

    def _give_up(self) -> None:
        self.proposer.give_up()

    def _expire(self) -> bool:
        """Tell some of the requests and reads that have waited too long; whether there were any."""
        told = self.proposals.expire(errors.timed_out, COMPLETED_AT_ONCE)
        late = self.reads.take_late(self.proposals.now, COMPLETED_AT_ONCE)
        self.reads_slow += len(late)
        for done in late:
            self.reads.finish(done, errors.timed_out())
        told += len(late)
        self._is_expiring = told >= COMPLETED_AT_ONCE
        if self._is_expiring:
            self._wake()
        return told > 0

    # --- the turn

    def turn(self, *, is_idle: bool = False) -> None:
        """Take all input, carry out all effects. Raises what this member must not survive.

        `is_idle`: nothing else is known to wait for the loop, so a single entry may be synced within the turn
        (`LogWriter.may_sync_now`); the only voter applies and answers it too.
        """
        if self._failure is not None:
            raise self._failure
        proposals, proposer, writer = self.proposals, self.proposer, self._writer
        ran = self.parts.ran
        proposals.now = self.clock.monotonic()
        proposals.wall = self.clock.wall()
        self.parts.begin(proposals.now)
        if self._asked:
            self._asked, self.background.asked_at = False, proposals.now
        if self._is_expiring:
            self._expire()
        if proposer.is_giving_up:
            proposer.give_up()
        if proposer.refused:
            proposer.tell_refused()
        self.backpressure.look()
        if proposer.stalled_since is not None:
            proposer.check_stall()
        self.forwards.new_bytes = 0
        if self.forwards.postponed.waiting or (proposals.queued and self._raft.leader):
            proposer.propose_waiting()
        if writer.handed_over < len(writer.records) and self.space.log_error is None:
            writer.write_waiting()
        self.applier.work_limit = self.machine.applying.worked + TURN_UNITS
        has_applied = False
        if self.applier.waiting:
            ran("log")
            proposals.slow_before = self.parts.at + proposals.time_limit - SLOW_SECONDS
            has_applied = self.applier.apply()
        has_more = False
        if self._raft.leader != self._raft.id:  # for the next answer to the leader
            self._raft.waits = bool(proposals or self.reads or self.hub.count or self.watches.count)
        while not has_more and (effects := self._driver.take()) is not None:
            has_more = self._raft.has_more
            if effects.send:  # before the sync: those that get it sync at the same time
                self._send(effects.send)
            committed = effects.apply
            if effects.append is not None:
                if writer.may_sync_now(effects.append, is_idle=is_idle):
                    writer.write_now(effects.append)
                    self.read_clock()
                    released, more = self._driver.after_sync()
                    if released:
                        self._send(released)
                    committed = [*committed, *more] if committed else more
                else:
                    writer.write(effects.append)
            if effects.install is not None:
                self.snapshot_install.begin(effects.install)
            ran("log")
            if committed:
                proposals.slow_before = self.parts.at + proposals.time_limit - SLOW_SECONDS
                has_applied |= self.applier.apply(committed)
            for number in effects.reads_failed:
                self._fail_read(number)
            for number, index in effects.reads:
                self.reads.confirm(number, index)
        if self.reads:
            self.reads.slow_before = self.parts.at + proposals.time_limit - SLOW_SECONDS
            self.reads.serve(self.machine.applied, self.machine.mvcc)
            if self.reads.ready:
                self._wake()
            ran("reads")
        if has_applied:
            if self.machine.is_save_due:
                self.machine.save()
                ran("save")
            else:
                self._engine.changed()
        if self._failure is not None:
            raise self._failure  # found while entries were applied: their outcomes are not told
        self._flush()
        ran("answers")
        has_worked = True
        if self.snapshot_install.steps is not None:
            self.snapshot_install.load_on(self.snapshot_install.steps)
            ran("load")
        else:
            has_worked = not self.compaction.replacing and self.background.run()
        is_stalled = proposer.stalled_since is not None and not self.backpressure.is_overloaded
        if has_more or is_stalled or (self.applier.waiting and not self._raft.apply_paused):
            self._wake()
        if self._raft.leader != self._leader_known:
            self._leader_known = self._raft.leader
            self._lost_entries.clear()
            self.leaders_seen += bool(self._raft.leader)
            self.leader_since = self.clock.wall()
            self._log.info("leader_changed", leader=f"{self._raft.leader:x}", term=self._raft.term)
        if self._failure is not None:
            raise self._failure
        if has_worked:
            self._flush()
            ran("answers")
