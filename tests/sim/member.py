"""One machine of the simulated cluster: the real host, driver, core, log and state machine over a simulated
disk, clock and network, started as `server` starts them and ticked as `node.timekeeper` ticks.

The power may go between any two effects: everything a turn hands to the outside passes `Member.effect`, which
raises `PowerLoss` when the fuse has burnt down. So every crash point is reached without marks in the code.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from netstore.disk.frame import Identity
from netstore.errors import CorruptData, Fault, MustStop
from netstore.limits import Budget
from netstore.node.applier import TURN_UNITS
from netstore.node.driver import Driver
from netstore.node.featurelevel import Levels
from netstore.node.host import Host
from netstore.node.lessor import Lessor
from netstore.node.logwriter import DiskFailed
from netstore.node.membership import MembershipChanges
from netstore.node.proposals import Proposals
from netstore.node.timekeeper import CHORES_SECONDS, EXPIRE_SECONDS, Deadlines, Timekeeper
from netstore.peer.join import JoinService
from netstore.raft.config import Boot, Config
from netstore.raft.core import Raft
from netstore.raft.entry import ConfState, HardState, SnapshotMeta
from netstore.raft.invariant import InvariantBroken
from netstore.raft.messages import InstallSnapshot, MessageRefused
from netstore.state.commands import encode
from netstore.state.machine import UNFINISHED, Machine
from netstore.types import ClusterId, Event, Index, NodeId, Term
from netstore.watch.hub import Hub
from tests.sim.disk import Disk, SimDevice, StateEngine, finish_replacement
from tests.sim.disk import Host as DiskHost
from tests.sim.invariants import Violated, require
from tests.sim.logrecord import LogRecord, WatchedWal
from tests.support.later import Later
from tests.support.log import AnyLevel

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from netstore.peer.wire import JoinRequest, MemberList
    from netstore.raft.change import Step
    from netstore.raft.messages import Message
    from netstore.state.commands import Command
    from netstore.state.machine import Outcome, Unfinished
    from netstore.state.members import MemberInfo
    from netstore.state.v3.commands import Range
    from netstore.watch.streams import Sink, Stream
    from tests.sim.timeline import MachineClock
    from tests.sim.world import World

    Done = Callable[[Outcome | Fault], None]

CLUSTER = ClusterId(0xC1)
MAX_STALLED = 400
"""Messages the sockets of a process that stands still can hold."""

CLIENT = b"client"
"""Who asks for what is not the member's own."""

_CLOSED = Fault(300, b"the connection ended", outcome_known=False)


class PowerLoss(MustStop):
    """The machine stops in the middle of a turn."""


class _Piecewise(Machine):
    """Carries out what may be done in pieces in the smallest of them, a turn of the member for each: whatever
    goes on between the pieces of a command goes on in the simulation.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.mvcc.delete_step = 1
        self.tree.clear_step = 1

    def go_on(self, units: int = 1) -> Outcome | Unfinished:
        """One piece, which uses up what a turn may work."""
        outcome = super().go_on(min(units, 1))
        if outcome is UNFINISHED:
            self.applying.worked += TURN_UNITS
        return outcome


class _PiecewiseLater(_Piecewise, Later):
    """The same of the later release."""


_RELEASES = {
    (False, False): Machine,
    (True, False): _Piecewise,
    (False, True): Later,
    (True, True): _PiecewiseLater,
}


class _Lines(AnyLevel):
    """The log lines of a member, into the trace."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note

    def take(self, event: str, fields: dict[str, Any]) -> None:
        self._note(f"{event} {fields}")
        if event == "request_failed":  # what a client of the simulation finds wrong must not be survived
            raise AssertionError(f"a client of the simulation raised {fields['error']}")


class Member:
    """A machine with a disk and a clock, and the process on it, if it runs.

    `founders` names the voters of a new cluster; one that joins an existing one has none.
    """

    def __init__(
        self, world: World, node: NodeId, founders: tuple[NodeId, ...], disk: Disk, clock: MachineClock
    ) -> None:
        self.world = world
        self.id = node
        self.founders = founders
        self.disk = disk
        self.clock = clock
        self.record = LogRecord()
        self.life = 0
        self.up = False
        self.paused = False
        self.refused = ""
        """Why it would not start, once it would not."""
        self.retired = False
        """Its operator took it away for good."""
        self.later = False
        """It runs the later release from its next start on."""
        self.fuse: int | None = None
        """Effects left before the power goes."""
        self.commit_seen = Index(0)
        self.conf_seen: ConfState | None = None
        self.state_seen: tuple[object, ...] = ()
        self.waiting: dict[int, Done] = {}
        """Requests of this life without an answer, by serial."""
        self._streams: dict[Sink, int] = {}
        """The serials of the open streams of v3 watches."""
        self._outbox: list[tuple[Done, Outcome | Fault]] = []
        self._stalled: list[Callable[[], None]] = []
        self._woken = False
        self._turn_due = self._resting = False
        self._serial = 0

    # --- life and death

    def boot(self) -> None:
        """Switch the process on."""
        self.life += 1
        self.up, self.paused = True, False
        self._woken = self._turn_due = self._resting = False
        self._stalled, self._outbox, self.waiting, self._streams = [], [], {}, {}
        try:
            self._start()
        except PowerLoss:
            self.crash()
            return
        except CorruptData as fault:
            self.up = False
            self.world.refused(self, str(fault))
            return
        self.world.booted(self)
        self.world.note(f"{self.id:x} up, term {self.raft.term}, applied {self.machine.applied}")
        self._schedule_tick()
        if len(self.raft.conf.voters) == 1:
            self.enter(self.host.campaign)
        else:
            self.enter(_nothing)

    def _start(self) -> None:
        world, plan, disk = self.world, self.world.plan, self.disk
        seams = DiskHost(world.timeline, world.random_disk, self.effect, partial(self._enter, self.life))
        self.device = SimDevice(disk, seams)
        wal, replay = WatchedWal.open(self.device, Identity(CLUSTER, self.id), plan.segment_bytes)
        assert isinstance(wal, WatchedWal)
        self.wal = wal
        if replay.cut is not None:
            world.reach["tails_cut"] += 1
        world.replayed(self, replay)
        self.wal.record = self.record
        self.wal.stored = partial(world.stored, self)
        if finish_replacement(disk, replay.mark):
            world.reach["replacements_finished"] += 1
        self.engine = StateEngine(disk, seams, plan.commit_interval, self._engine_failed)
        self.machine = _RELEASES[plan.piecewise, self.later](self.engine)
        self.machine.load()
        mark = replay.mark
        if mark is None:
            mark = SnapshotMeta(index=Index(0), term=Term(0), conf=ConfState(voters=self.founders))
            self.wal.mark(mark, self._begun)
        boot = Boot(
            hard_state=replay.hard_state or HardState(),
            snapshot=mark,
            entries=replay.entries,
            applied=self.machine.applied,
        )
        config = Config(
            id=self.id,
            election_ticks=plan.election_ticks,
            max_append_bytes=plan.max_append_bytes,
            max_ready_bytes=2 * plan.max_append_bytes,
            max_inflight_messages=plan.max_inflight,
        )
        self.raft = Raft(config, boot, world.random_raft.randrange)
        self.commit_seen = self.raft.log.compacted
        self.conf_seen = None
        self.state_seen = ()
        self.host = Host(
            name=f"m{self.id:x}",
            cluster_id=CLUSTER,
            driver=Driver(self.raft),
            wal=self.wal,
            engine=self.engine,
            machine=self.machine,
            hub=Hub(),
            clock=self.clock,
            proposals=Proposals(world.random_raft.getrandbits(64), plan.time_limit),
            wake=self._wake,
            send=self._send,
            flush=self._flush,
            snapshot_count=plan.snapshot_count,
            log=_Lines(self._note),
            catch_up_entries=plan.catch_up_entries,
            log_budget=Budget(plan.log_bytes) if plan.log_bytes else None,
        )
        self.cluster = MembershipChanges(self.host, log=_Lines(self._note))
        self.join_service = JoinService(self.host, self.cluster, plan.wish, _Lines(self._note))
        if not plan.joiners:
            self.host.change_asked = None  # the operator's changes are not those of `MembershipChanges`
        self.levels = Levels(self.host)
        self.lessor = Lessor(self.host, plan.election_ticks * plan.tick)
        self.timekeeper = Timekeeper(self.host, Deadlines(self.clock), plan.tick, _nothing, self.lessor)
        self._next_expiry = self._next_chores = self.clock.monotonic()

    def crash(self) -> None:
        """The power goes: what was not on stable storage is gone."""
        if not self.up:
            return
        self.up = False
        self.fuse = None
        self.world.note(f"{self.id:x} down")
        self.device.power_loss()
        self.engine.power_loss()
        self._end()

    def stop(self) -> None:
        """An orderly stop, as on SIGTERM."""
        if not self.up or self.paused:
            return
        try:
            self.host.stop()
            self.wal.close()
            self.engine.finish()
        except PowerLoss:
            self.crash()
            return
        self.up = False
        self.world.note(f"{self.id:x} stopped")
        self._end()

    def _end(self) -> None:
        waiting, self.waiting = self.waiting, {}
        for done in waiting.values():
            done(_CLOSED)
        self.world.ended(self)

    def pause(self) -> None:
        """The process stands still, as under SIGSTOP, and does not know."""
        if self.up:
            self.paused = True

    def resume(self) -> None:
        """It goes on; what came meanwhile is there all at once, clients before peers or after them."""
        if not self.paused:
            return
        self.paused = False
        stalled, self._stalled = self._stalled, []
        if self.world.random_fault.random() < 0.5:
            stalled.reverse()
        for call in stalled:
            self.enter(call)

    def effect(self) -> None:
        """Something is about to leave the process."""
        if self.fuse is not None:
            self.fuse -= 1
            if self.fuse < 0:
                raise PowerLoss

    # --- turns

    @property
    def busy(self) -> bool:
        """It has a turn before it, or its state is being replaced: its watches may not have been told yet."""
        return self._turn_due or self.host.compaction.replacing

    def enter(self, call: Callable[[], None]) -> None:
        """Run something on this member's loop and, if that woke it, its turn."""
        self._enter(self.life, call)

    def _enter(self, life: int, call: Callable[[], None]) -> None:
        if not self.up or life != self.life:
            return
        if self.paused:
            self._stalled.append(call)
            return
        try:
            call()
            if self._woken and not self._turn_due:
                if self.world.plan.turn_delay:
                    self._turn_due = True
                    delay = self.world.plan.turn_delay * self.world.random_net.random()
                    self.world.timeline.after(delay, partial(self._enter, life, self._turns))
                else:
                    self._turns()
        except PowerLoss:
            self.crash()
        except DiskFailed as failure:
            self.world.note(f"{self.id:x} ends: {failure}")
            self.world.reach["members_ended_by_their_disk"] += 1
            self.crash()
        except (AssertionError, InvariantBroken):
            raise
        except Exception as fault:
            raise Violated(f"member {self.id:x} ended by itself: {fault!r}") from fault

    def _turns(self) -> None:
        self._turn_due = False
        while self._woken:
            self._woken = False
            synced = self.disk.synced_at_once
            self.host.turn(is_idle=self.disk.quick)
            if not self.raft.is_only_voter:
                self.world.reach["lone_syncs_among_voters"] += self.disk.synced_at_once - synced
            self.world.reach["lone_syncs"] = max(self.world.reach["lone_syncs"], self.disk.synced_at_once)
            self.world.reach["turns_amid_a_command"] += self.machine._work is not None
            self.world.turned(self)
        if not self._resting and self.raft.has_untold_commits():
            self._resting = True
            self.world.timeline.after(self.world.plan.linger, partial(self._enter, self.life, self._rest))

    def _rest(self) -> None:
        """What `node.loop` does when no round follows."""
        self._resting = False
        if self.host.tell_commits():
            self.world.reach["commits_told_late"] += 1
            self._wake()

    def _wake(self) -> None:
        self._woken = True

    def _schedule_tick(self) -> None:
        delay = self.world.plan.tick / self.clock.rate
        self.world.timeline.after(delay, partial(self._enter, self.life, self._tick))

    def _tick(self) -> None:
        """What `Timekeeper.run` does at each tick."""
        self._schedule_tick()
        self.world.ticked(self)
        self.host.tick()
        if self.world.plan.joiners:
            self.cluster.tick()
        if self.world.plan.upgrades:
            self.levels.look()
        self.world.reach["ticks_paced"] += self.host.paced_to > 0
        now = self.clock.monotonic()
        if now >= self._next_expiry:
            self._next_expiry = now + EXPIRE_SECONDS
            led = self.lessor._leases._led
            self.lessor.look()
            if self.lessor._leases._led not in {None, led}:
                self.world.reach["leases_extended"] += sum(1 for _ in self.machine.leases)
        if now >= self._next_chores:
            self._next_chores = now + CHORES_SECONDS * self.world.plan.chores
            self.host.retry_writes()
            if self.host.compaction.compact():
                self.world.reach["compactions"] += 1

    # --- the network

    def receive(self, message: Message) -> None:
        """A message has arrived."""
        if not self.paused or len(self._stalled) < MAX_STALLED:
            self.enter(partial(self._take, message))

    def _take(self, message: Message) -> None:
        self.world.heard(self, message)
        self.host.receive((message,))

    def hear_lie(self, message: Message) -> None:
        """Something comes that no member can have sent. A member without a term cannot know."""
        if self.raft.term and not self.paused:
            self.enter(partial(self._refuse, message))

    def _refuse(self, message: Message) -> None:
        try:
            self.host.receive((message,))
        except MessageRefused:
            self.world.reach["lies_refused"] += 1

    def unreachable(self, peer: NodeId) -> None:
        """Messages for a peer were dropped."""
        self.enter(partial(self.host.unreachable, peer))

    def _send(self, messages: Sequence[Message]) -> None:
        self.effect()
        self.world.sent(self, messages)
        copies = [message for message in messages if isinstance(message, InstallSnapshot)]
        if copies:
            for message in copies:
                self.world.timeline.after(
                    0.0, partial(self._enter, self.life, partial(self.world.copy, self, message))
                )
            messages = [message for message in messages if not isinstance(message, InstallSnapshot)]
        self.world.network.send(messages)

    # --- requests

    def propose_bytes(self, command: bytes, done: Done) -> None:
        """A client asks to replicate what only the later release has words for."""
        self._request(done, lambda answer: self.host.propose(command, answer, CLIENT))

    def propose(self, make: Callable[[MachineClock], Command], done: Done) -> None:
        """A client asks to replicate a command; what it needs of the time is this member's."""
        self._request(done, lambda answer: self.host.propose(encode(make(self.clock)), answer, CLIENT))

    def read(self, path: bytes, recursive: bool, done: Done) -> None:
        """A linearizable read without a log entry."""

        def serve(answer: Done) -> None:
            def ready(fault: Fault | None) -> None:
                answer(fault or self.machine.v2.get(path, recursive))

            self.host.read(ready)

        self._request(done, serve)

    def read_pairs(self, query: Range, done: Done) -> None:
        """A linearizable read of the v3 keys."""

        def serve(answer: Done) -> None:
            def ready(fault: Fault | None) -> None:
                answer(fault or self.machine.mvcc.range(query))

            self.host.read(ready)

        self._request(done, serve)

    def keep_alive(self, lease: int, done: Callable[[int | Fault], None]) -> None:
        """A client renews a v3 lease, as `api.v3.lease` serves it."""
        told: list[int] = []

        def serve(answer: Done) -> None:
            def renewed(ttl: int | Fault) -> None:
                if isinstance(ttl, Fault):
                    answer(ttl)
                else:
                    told.append(ttl)
                    answer(None)

            self.lessor.keep_alive(lease, renewed)

        self._request(lambda outcome: done(outcome if isinstance(outcome, Fault) else told[0]), serve)

    def look(self, path: bytes, recursive: bool, done: Done) -> None:
        """A local read."""

        def serve(answer: Done) -> None:
            answer(self.machine.v2.get(path, recursive))

        self._request(done, serve)

    def change(self, steps: tuple[Step, ...], command: bytes, done: Done) -> None:
        """The operator asks for other members."""
        self._request(done, lambda answer: self.host.proposer.change_members(steps, command, answer))

    def handle_join(self, request: JoinRequest, done: Callable[[MemberList | Fault], None]) -> None:
        """A program asks to be added, as `peer.peers` hands it to the join service."""
        told: list[MemberList] = []

        def serve(answer: Done) -> None:
            def take(members: MemberList) -> None:
                told.append(members)
                answer(None)

            self.join_service.handle(request, take)

        self._request(lambda outcome: done(outcome if isinstance(outcome, Fault) else told[0]), serve)

    def ask_cluster(
        self,
        call: Callable[[Callable[[MemberInfo | Fault], None]], None],
        done: Callable[[MemberInfo | Fault], None],
    ) -> None:
        """An operator asks for a change of the members, as `api.admin` serves it."""
        told: list[MemberInfo] = []

        def serve(answer: Done) -> None:
            def take(outcome: MemberInfo | Fault) -> None:
                if isinstance(outcome, Fault):
                    answer(outcome)
                else:
                    told.append(outcome)
                    answer(None)

            call(take)

        self._request(lambda outcome: done(outcome if isinstance(outcome, Fault) else told[0]), serve)

    def watch(
        self,
        path: bytes,
        *,
        recursive: bool,
        stream: bool,
        wait_index: int,
        opened: Callable[[int, int], None],
        told: Callable[[Event | Fault], None],
        ended: Callable[[], None],
    ) -> None:
        """A client watches, as `api.v2.keys` serves it: from the window when that holds a match, else from
        the next match on. `opened` gets the effective start and the index of the store; `ended` is called
        when the connection goes.
        """

        def serve() -> None:
            machine = self.machine
            now = machine.tree.index
            since = wait_index or now + 1
            found = machine.history.scan(path, recursive, since)
            opened(since, now)
            serial = self._open(lambda _: ended())

            def deliver(event: Event | Fault | None) -> bool:
                if event is None:
                    self._outbox.append((partial(self._answered, serial), _CLOSED))
                    return False
                self._outbox.append((partial(self._tell, serial, stream and found is None, told), event))
                return True

            if found is None:
                self.host.hub.watch(path, recursive, stream, since, deliver)
            else:
                deliver(found)
                self._flush()

        if not self.up:
            ended()
            return
        self.enter(serve)

    def _tell(self, serial: int, again: bool, told: Callable[[Event | Fault], None], what: Any) -> None:
        if serial in self.waiting:
            if not again:
                del self.waiting[serial]
            told(what)

    def stream_pairs(
        self,
        sink: Sink,
        opened: Callable[[Stream, Callable[[Callable[[], None]], None]], None],
        ended: Callable[[], None],
    ) -> None:
        """A client opens a stream of v3 watches, as `api.v3.watch` serves it. `opened` is given the stream
        and what the sink has to hand its responses to; `ended` is called when the connection goes.
        """

        def serve() -> None:
            serial = self._open(lambda _: ended())
            self._streams[sink] = serial

            def deliver(call: Callable[[], None]) -> None:
                self._outbox.append((partial(self._told_pairs, serial, call), _CLOSED))

            opened(self.host.watches.open(sink), deliver)
            self._flush()

        if not self.up:
            ended()
            return
        self.enter(serve)

    def stream_closed(self, sink: Sink) -> None:
        """The client has ended its stream."""
        del self.waiting[self._streams.pop(sink)]

    def flush(self) -> None:
        """Let answers go."""
        self._flush()

    def _told_pairs(self, serial: int, call: Callable[[], None], _: Outcome | Fault) -> None:
        if serial in self.waiting:
            call()

    def _open(self, done: Done) -> int:
        self._serial += 1
        self.waiting[self._serial] = done
        return self._serial

    def _request(self, done: Done, serve: Callable[[Done], object]) -> None:
        if not self.up:
            done(Fault(300, b"connection refused"))
            return
        serial = self._open(done)
        answers = 0

        def answer(outcome: Outcome | Fault) -> None:
            nonlocal answers
            answers += 1
            require(answers == 1, "a request was answered twice", member=self.id)
            self._outbox.append((partial(self._answered, serial), outcome))

        def call() -> None:
            serve(answer)
            self._flush()

        self.enter(call)

    def _answered(self, serial: int, outcome: Outcome | Fault) -> None:
        self.waiting.pop(serial)(outcome)

    def _flush(self) -> None:
        if self._outbox:
            self.effect()
            outbox, self._outbox = self._outbox, []
            for done, outcome in outbox:
                done(outcome)

    def _begun(self, failure: OSError | None) -> None:
        """As `server` does: without the beginning of its log a member ends."""
        if failure is not None:
            self.host.fail(DiskFailed(str(failure)))

    def _engine_failed(self, failure: OSError) -> None:
        self.host.engine_failed(failure)

    def _note(self, line: str) -> None:
        self.world.note(f"{self.id:x} {line}")


def _nothing() -> None:
    """No input."""
