"""The running member as a plain object: feeds the driver, carries out its effects. Loop and simulator run it.

Each turn: take every input that is waiting (proposals, messages, ticks, finished syncs); step the driver with
all of them; then, in this order, give the disk what must be kept, send what may go before the sync, apply
what is committed, complete slots, hand the changes to the engine, flush the answers, go on a little with long
work. What must not leave before the sync waits inside the driver until the disk says so. What arrives while
the disk syncs is the next batch: there is no timer and nothing to tune.

No clock but the one given, no Trio, nothing awaited: a turn is atomic, which is why no lock exists. A fault
in here, in the disk or in apply ends the member: half a turn must not be answered.

A state copy from the leader replaces state and log in three durable steps, so that a crash between any two of
them can be finished or undone at the next start (`disk.images`): the copy is complete on disk before it is
offered here; the log is marked with it; the engine takes it. Only then does Raft go on.
"""

from __future__ import annotations

import errno
from collections import deque
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final, Protocol

from netstore import errors
from netstore.errors import CannotApply, CorruptData, Fault, MustStop, NetstoreError, Reason
from netstore.guard import guarded
from netstore.limits import Budget
from netstore.meter import Parts
from netstore.node.driver import Append
from netstore.node.jobs import STEPS_BESIDE, STEPS_PER_TURN, Jobs
from netstore.node.lines import owner_of
from netstore.node.member import OWN
from netstore.node.pacing import Pacing
from netstore.node.putoff import Asked, PutOff
from netstore.node.reads import Reads
from netstore.raft.change import Change
from netstore.raft.entry import ENTRY_OVERHEAD_BYTES, EntryKind
from netstore.raft.invariant import InvariantBroken
from netstore.raft.messages import Append as PeerAppend
from netstore.raft.messages import Forward, ForwardRefused, MessageRefused
from netstore.raft.status import Fate, Refusal
from netstore.seams import NO_MEANS, NO_ROOM, PASSING, SyncFailed
from netstore.state.commands import RemoveMember
from netstore.state.display import describe, payload_hash
from netstore.state.envelope import command_of, is_bare, principal_of, request_of
from netstore.state.machine import UNFINISHED
from netstore.state.v2.commands import CompareAndDelete, Delete, ExpireNodes
from netstore.state.v3.commands import (
    Compact,
    DeleteRange,
    LeaseExpire,
    LeaseRenew,
    LeaseRevoke,
    Range,
    SetAlarm,
    Txn,
)
from netstore.types import Index, Nanos, Term
from netstore.watch.watches import Watches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from netstore.disk.wal import Wal
    from netstore.node.driver import Driver
    from netstore.node.pacing import Behind
    from netstore.node.proposals import Proposals, Slot
    from netstore.raft.change import Step
    from netstore.raft.entry import Entry, SnapshotMeta
    from netstore.raft.messages import InstallSnapshot, Message
    from netstore.raft.status import Proposed, Status
    from netstore.seams import Clock, Engine, Log
    from netstore.state.machine import Machine, Outcome
    from netstore.types import ClusterId, NodeId
    from netstore.watch.hub import Hub

CATCH_UP_ENTRIES: Final = 5_000
"""Entries kept in the log behind the durable state, so that a slow member catches up without a state copy."""

FORGOTTEN_AT_ONCE: Final = 5_000
"""Entries that the log in memory lets go of in one piece: 0.8 ms."""

LOG_BYTES: Final = 256 * 1024 * 1024
"""What entries in memory may weigh where no budget is given."""

MARK_ENTRIES: Final = 1_024
"""Members compare their states at every entry whose index is a multiple of this, in a message of 45 bytes."""

PAYLOADS_PER_TURN: Final = 512
"""Payloads proposed in one turn, about 5 ms of work to apply; the rest is the next turn's."""

BYTES_PER_TURN: Final = 1024 * 1024
"""Bytes of payloads that a turn proposes of its own, of what others asked and waits, and of what they ask
before the next turn, each, and one payload or message more: they are framed for the log and for each member
in it, 8 ms for a MiB on a busy machine of 2020.
"""

TURN_UNITS: Final = 5_000
"""Microseconds, about, that one turn applies entries for: what one piece of work on the loop may take."""

READ_UNITS: Final = 5_000
"""The same for linearizable reads that can be answered; the others are answered in the next turns."""

EXPIRED_AT_ONCE: Final = 250
"""Writes that have waited too long, or that the disk has no room for, which are told so at once, and as many
reads: about 2 ms.
"""

UNITS_A_READ: Final = 20
"""Microseconds, about, that any of them takes, beside what it looks at (`Mvcc.read_units`)."""

BESIDE_SECONDS: Final = 0.1
"""Whoever asked for something so lately will ask again: long work is done in short pieces."""

HELD_BYTES: Final = 16 * 1024 * 1024
"""What the log of a follower in memory may grow by while no entries are applied, because the state engine is
behind; more is as lost on the way. A leader whose entries that are committed and not applied weigh more, or
whose engine is behind, proposes nothing: it is `crowded`. What this member is asked waits where it is bounded
(`proposals.MAX_WAITING_BYTES`), what others ask of it is put off (`putoff`), up to twice as much; more is
refused.
"""

BEHIND_SECONDS: Final = 1.0
"""A leader may be `crowded` for so long, while something waits, before what waits is refused. One whose
engine is only slow is for some tenths of a second at a time. Seconds of the monotonic clock, looked at in
each turn.
"""

UNAPPLIED_BYTES: Final = 64 * 1024 * 1024
"""While what is committed and not applied weighs more, what a leader sends for the log is as lost on the way.
As much as may be uncommitted (`Config.max_uncommitted_bytes`), so that one large batch loses nothing.
"""

_PATIENT: Final = (Refusal.TRANSFERRING, Refusal.BACKLOG_FULL)
"""What passes by itself: what others ask of this leader waits."""

_REMOVALS: Final = (
    Delete,
    CompareAndDelete,
    ExpireNodes,
    DeleteRange,
    Compact,
    LeaseRevoke,
    LeaseExpire,
    RemoveMember,
    LeaseRenew,
    SetAlarm,
)
"""Commands after which the state is not larger than before; also transactions of these and of reads."""


class Why(IntEnum):
    """Why a leader does not propose what another member asks: what `ForwardRefused` says. A number that is
    not known here is as `FAILED`.
    """

    FAILED = 0
    """It cannot be read, or is too large for any log."""
    TOO_MANY = 1
    NO_SPACE = 2


_FAULTS: Final[dict[int, Fault]] = {Why.TOO_MANY: errors.too_many(), Why.NO_SPACE: errors.no_space()}
_NOT_TAKEN: Final = errors.refusal(Reason.NOT_TAKEN)


@dataclass(slots=True, frozen=True)
class Mark:
    """For the log: a state at this place stands for what was before."""

    meta: SnapshotMeta
    is_copy: bool = False
    """It is that of a state copy, which takes the place of the state once this is written."""


class LogRoom(Protocol):
    """Where the log goes on when the file it writes is full (`disk.posix.PosixDevice`)."""

    @property
    def low(self) -> OSError | None:
        """Why there will be no such file; None while there will be."""

    def try_room(self) -> None:
        """Look again, if there was none. Does not block."""


class Observer(Protocol):
    """Who looks at the state at certain places of the log (`node.consistency`)."""

    def reached(self) -> None:
        """An entry without a command, or every `MARK_ENTRIES`th, was just applied, and nothing after it."""


class DiskFailed(NetstoreError, MustStop):  # noqa: N818 - named for what happened
    """A write or sync of the log failed. The member stops: what the page cache holds now proves nothing."""


class Host:
    """One member. Implements `node.member.Member`.

    `wake` is called when there is something to do; whoever runs the host then calls `turn`, from its own
    task, as soon as it can. `send` takes messages for peers, `flush` lets answers go; neither may block.
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
        """What the last turn spent its time on."""
        self.proposals = proposals
        self.proposals.now, self.proposals.wall = clock.monotonic(), clock.wall()
        machine.v2.watched = hub.watched
        machine.v2.awaited = self._is_awaited
        self.proposals.failed = self.hub.failed = self.watches.failed = self.request_failed
        engine.eased = wake
        self._driver = driver
        self._raft = driver.raft
        self._wal = wal
        self._engine = engine
        self._send = send
        self._flush = flush
        self._snapshot_count = snapshot_count
        self._catch_up_entries = catch_up_entries
        self._log = log
        self._wake = wake
        self.change_asked: Callable[[Change], None] | None = None
        """Takes what a follower asks a leader to change about the members; None: it is proposed as it is."""
        self.observer: Observer | None = None
        self.copies_installed = 0
        """How often a state copy took the place of the state: what it holds was not applied here."""
        self._applied_term = Term(0)
        """Of the entry applied last."""
        self._to_apply: deque[Entry] = deque()
        """Committed entries that are not applied. The log holds them for as long."""
        self._to_apply_bytes = 0
        """What they weigh."""
        self._half_applied = False
        """The first of them is begun (`machine.UNFINISHED`)."""
        self._payload = b""
        """What that one holds: request id and command."""
        self._enough = 0
        """What `machine.applying.worked` is when this turn has applied enough."""
        self._loading: Iterator[None] | None = None
        """The state is being read anew after a copy took its place."""
        self._stopping = False
        self._failure: Exception | None = None
        self._unsynced: deque[Append | Mark] = deque()
        """All that is for the log and that it has not kept yet, in order: whatever one of these lacks, those
        behind it wait.
        """
        self._writing = 0
        self._disk_full: OSError | None = None
        self.room: LogRoom | None = None
        """Tells when the log gets low on room; without it, it never does."""
        self._low_told = False
        self._state_full: OSError | None = None
        """A commit found no room, and none has been made since."""
        self._log_bytes_before = 0
        """What the log in memory weighed when this member stopped applying; what is more is held."""
        self._compacted = self._forgotten = self._raft.status().compacted
        self._log_account = (log_budget or Budget(LOG_BYTES)).account()
        self._log_limit = LOG_BYTES if log_budget is None else log_budget.limit
        self._pacing = Pacing(self._log_limit, self._compacted)
        self._paced = False
        """It was told that writes are paced."""
        self._compact_at = 0
        """What the log has to weigh before a tick looks whether some of it is to be forgotten."""
        self._stalled_since: float | None = None
        """Since when something waits and cannot be proposed, because this member is `crowded`: nothing has
        been since, and something has waited all the while. Monotonic seconds.
        """
        self._put_off = PutOff(2 * HELD_BYTES)
        """What others asked this leader to propose and waits for that."""
        self._others_bytes = 0
        """What was proposed for others since the last turn."""
        self._refused: deque[tuple[Slot, Fault]] = deque()
        """Own requests that the leader did not take, and whose callers are to be told so."""
        self._own_is_next = True
        """Of the own requests and what was put off, where both wait."""
        self._image_in: object = None
        self._installing = False
        self._was_lone = False
        """The last batch for the log was a single entry, and nobody waited for the turn."""
        self._is_writing_now = False
        """The turn waits for the disk: what comes of it is taken up in the same turn."""
        self._reads = Reads(proposals.time_limit)
        self._asked = False
        """Something was asked for since the last turn."""
        self._asked_at = float("-inf")
        """The last turn before which something was. Monotonic seconds."""
        self._expiring = False
        """There are more that have waited too long."""
        self._giving_up = False
        """There are more in the log that it found no room for."""
        self._chore_is_next = False
        """Of chores and jobs, where both are to be done and only one of them may."""
        self.contended: Callable[[], bool] = _never
        """Whether others wait whom this member does not know of yet: at the sockets."""
        self._leader_known: NodeId | None = None
        self._forgetful: set[NodeId] = set()
        """Members that are known, since the leader changed, to lack what they acknowledged."""
        self.leader_since = Nanos(0)
        """Wall time at which this member came to know its leader; 0 before it knew any."""

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
    def compacted(self) -> Index:
        """Up to where the log is forgotten."""
        return self._compacted

    @property
    def loading(self) -> bool:
        """A state copy is in place, and its records are being read."""
        return self._loading is not None and self.machine.mvcc.suspended

    @property
    def commit_index(self) -> Index:
        """Highest log index known to be committed."""
        return self._raft.log.commit

    @property
    def holding(self) -> bool:
        """Nothing is applied for now: the state engine is behind."""
        return self._raft.holding

    @property
    def crowded(self) -> bool:
        """It leads and is to propose nothing now: nothing is applied, or too much waits for that. A follower
        passes on what it is asked, whatever its own engine does: the log is bounded by its leader.
        """
        raft = self._raft
        return (raft.holding or self._to_apply_bytes > HELD_BYTES) and raft.leader == raft.id

    @property
    def backed_up(self) -> bool:
        """See `Member.backed_up`: it is crowded, what others asked is put off, or writes are paced."""
        return self.crowded or bool(self._put_off) or self._pacing.paced

    @property
    def paced_to(self) -> int:
        """See `Member.paced_to`."""
        pacing = self._pacing
        return 0 if pacing.rate is None or not pacing.paced else max(1, int(pacing.rate))

    def problems(self) -> list[str]:
        """See `Member.problems`."""
        low = None if self.room is None else self.room.low
        found = (
            ("log cannot be written", self._disk_full),
            ("log has no room to grow", low),
            ("state cannot be written", self._state_full),
        )
        return [f"{what}: {_in_words(failure)}" for what, failure in found if failure is not None]

    def behind(self) -> list[Behind]:
        """See `Member.behind`."""
        return self._pacing.behind()

    def propose(self, command: bytes, done: Callable[[Outcome | Fault], None], principal: bytes) -> None:
        """Replicate a command; see `Member.propose`."""
        if self._stopping:
            done(errors.stopped())
            return
        machine = self.machine
        level = machine.level_of(command) if machine.LEVELS else 1
        if level > machine.roster.level:
            done(errors.beyond_level(level, machine.roster.level))
            return
        self.proposals.add(command, done, principal, level)
        self._asked |= bool(principal)
        self._wake()

    def read(self, done: Callable[[Fault | None], None], principal: str = "") -> None:
        """Ask for a moment to read at: `done(None)` comes once this member's state holds everything that was
        acknowledged anywhere before this call (ReadIndex; Ongaro's dissertation, section 6.4). It gets a
        Fault when that cannot be had in time, or when too much waits already, of all or of `principal`. One
        round of messages serves all reads that wait for one. The only voter of a cluster that has applied
        what it committed calls `done` within this call.
        """
        if self._stopping:
            done(errors.stopped())
            return
        is_free = not self._reads and self._loading is None and self._failure is None
        if is_free and self._raft.read_index_alone() == self.machine.applied:
            self._asked = True
            self._finish_read(done, None)
            return
        number = self._reads.ask(done, principal, self.clock.monotonic())
        if number is None:
            done(errors.too_many())
            return
        self._raft.read(number)
        self._asked = True
        self._wake()

    def change_members(
        self, steps: tuple[Step, ...], command: bytes, done: Callable[[Outcome | Fault], None]
    ) -> None:
        """Change who votes and who learns, and apply `command` to the state in the same entry of the log.
        Refused by a leader that is `crowded`, at once.
        """
        if self._stopping:
            done(errors.stopped())
            return
        if self.crowded:
            done(errors.too_many())
            return
        payload = self.proposals.open(command, done, OWN)
        if payload is None:
            return
        proposed = self._raft.propose_change(Change(steps, context=payload))
        if proposed.fate is Fate.REFUSED:
            self.proposals.complete(request_of(payload), _refused(proposed))
        else:
            self._pacing.spend(_weigh((payload,)))
        self._wake()

    @property
    def change_index(self) -> Index:
        """The newest entry of the log that changes the members; it may be neither committed nor applied."""
        return self._raft.conf_history[-1][0]

    def propose_change(self, change: Change) -> Refusal | None:
        """Change the members for a request that has its slot elsewhere: `change.context` is its payload."""
        refusal = self._raft.propose_change(change).refusal
        if refusal is None:
            self._pacing.spend(_weigh((change.context,)))
        self._wake()
        return refusal

    def relay(self, payload: bytes) -> None:
        """Propose a payload whose slot another member has. Lost where that cannot be done: it times out
        there.
        """
        if self._raft.propose((payload,)).fate is not Fate.REFUSED:
            self._pacing.spend(_weigh((payload,)))
        self._wake()

    def transfer(self, to: NodeId) -> Refusal | None:
        """Start handing leadership to a voter; None when it was started. It shows in `leader`, or never."""
        refusal = self._raft.transfer(to)
        self._wake()
        return refusal

    def status(self) -> Status:
        """What Raft tells of itself."""
        return self._raft.status()

    # --- inputs

    def tick(self) -> None:
        """One tick of protocol time: elections, heartbeats; also the time limit of waiting requests."""
        self.proposals.now = self.clock.monotonic()
        if self._expire():
            self._flush()
        self._raft.tick()
        self._pace()
        for peer, (acknowledged, kept) in self._raft.take_lost_entries().items():
            if peer not in self._forgetful:
                self._forgetful.add(peer)
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
        """Messages from a peer. MessageRefused for one that cannot be true; those before it were taken.
        InvariantBroken when one was taken half: what Raft holds is undefined then.
        """
        try:
            for message in messages:
                if type(message) is Forward and self._leads(message):
                    if message.kind is EntryKind.CHANGE:
                        self._take_changes(message)
                    else:
                        self._take_proposals(message)
                elif self._has_room(message):
                    self._raft.step(message)
                    if type(message) is ForwardRefused:
                        self._hear_refusal(message)
        except (MessageRefused, MustStop):
            raise
        except Exception as fault:
            raise InvariantBroken(f"a message of a peer was taken half: {fault!r}") from fault
        finally:
            self._wake()

    def _has_room(self, message: Message) -> bool:
        """While nothing is applied, or too slowly, the log in memory grows by what its leader sends."""
        holding, late = self._raft.holding, self._to_apply_bytes > UNAPPLIED_BYTES
        if not (holding or late):
            return True
        size = _weigh([entry.data for entry in message.entries]) if type(message) is PeerAppend else 0
        if not size:
            return True
        return not late and self._raft.log_bytes - self._log_bytes_before + size <= HELD_BYTES

    def _leads(self, message: Forward) -> bool:
        """This member leads, and is the leader who is asked."""
        return message.to == self.id and self._led_in(message.term)

    def _led_in(self, term: Term) -> bool:
        """This member leads in this term, which is the current one."""
        return self._raft.leader == self.id and term == self._raft.term

    def unreachable(self, peer: NodeId) -> None:
        """Messages for this peer were dropped."""
        self._raft.report_unreachable(peer)
        self._wake()

    def image_meta(self, index: Index, peer: NodeId) -> SnapshotMeta:
        """What a copy of the state that has applied `index` stands for; it is for this peer. The log keeps
        that place until the peer has taken what follows, or `image_sent` says that there is no copy, or until
        it weighs too much: then `compacted` passes it, and the copy is of no use to anybody.
        """
        meta = self._raft.snapshot_meta(index)
        self._pacing.copy_begun(peer, index, self.clock.monotonic())
        return meta

    def image_moved(self, peer: NodeId, sent: int, size: int) -> None:
        """So many bytes of the copy for this peer have left."""
        self._pacing.copy_sent(peer, sent, size)

    def follows(self, index: Index) -> bool:
        """Whether this member has the log that follows a copy of the state at `index`, and has applied as
        much: what `image_meta` and `image_meta_at` take.
        """
        return self._compacted <= index <= self._raft.status().applied

    def image_meta_at(self, index: Index, peer: NodeId) -> SnapshotMeta:
        """The same for a copy that turned out to have applied more than `image_meta` was asked about."""
        meta = self._raft.snapshot_meta(index)
        self._pacing.copy_made(peer, index)
        return meta

    def image_sent(self, peer: NodeId, *, ok: bool, begun: bool = True, refused: bool = False) -> None:
        """The copy for this peer was delivered, or was given up; if not `begun`, before `image_meta`."""
        index = self._pacing.copy_over(peer, ok=ok, refused=refused) if begun else Index(0)
        self._raft.report_snapshot(peer, ok, index)
        self._wake()

    def image_received(self, message: InstallSnapshot, image: object) -> None:
        """A copy has arrived: complete, verified, durable. `image` is what the engine's `install` takes.

        MessageRefused when it comes with what cannot be true. InvariantBroken as by `receive`.
        """
        if self._raft.installing is None:
            self._image_in = image
        try:
            self._raft.step(message)
        except (MessageRefused, MustStop):
            raise
        except Exception as fault:
            raise InvariantBroken(f"a state copy was taken half: {fault!r}") from fault
        finally:
            self._wake()

    def fail(self, failure: Exception) -> None:
        """End the member: the state engine or another part it cannot live without has failed."""
        self._failure = failure
        self._wake()

    def stop(self) -> None:
        """Complete every waiting request as unknown, and accept nothing more."""
        self._stopping = True
        self.proposals.fail_all(errors.stopped())
        for done in self._reads.take_all():
            self._finish_read(done, errors.stopped())
        self._flush()

    def _take_proposals(self, message: Forward) -> None:
        """What another member asks this leader to put into the log, looked at before it is there: an entry
        that a member could not carry out would stop every one of them. It waits behind what waits already, in
        the line of who asked; what that has no place for, or would not get to in time, is refused.
        """
        waits: list[Asked] = []
        for payload in message.payloads:
            request = request_of(payload)
            try:
                command = self.machine.understand(payload)
            except CorruptData as error:
                self._log.warning("proposal_not_read", member=f"{message.sender:x}", reason=str(error))
                self._refuse_others(message.sender, message.term, (request,), Why.FAILED)
                continue
            size = len(payload) + ENTRY_OVERHEAD_BYTES
            removes, now = _is_removal(command), self.proposals.now
            waits.append(Asked(message.sender, message.term, request, payload, "", removes, size, now))
        if not waits:
            return
        if not (
            self._put_off
            or self.crowded
            or self._pacing.rate is not None
            or self._others_bytes >= BYTES_PER_TURN
        ):
            size = sum(asked.size for asked in waits)
            waits = self._propose_for(waits)
            if not waits:
                self._others_bytes += size
        rate = self._pacing.rate
        most = float("inf") if rate is None else rate * self._patience
        for asked in waits:
            asked.owner = owner_of(principal_of(asked.payload))
        self._refuse_asked([asked for asked in waits if not self._put_off.add(asked, most)], Why.TOO_MANY)

    @property
    def _patience(self) -> float:
        """Seconds that what others asked may wait: half of the time for which somebody waits there. Its slot
        was opened before it came here, and its outcome is known there after it is applied.
        """
        return self.proposals.time_limit / 2

    def _propose_for(self, asked: list[Asked]) -> list[Asked]:
        """Put into the log what other members ask; what of it has to wait, all or nothing. What the disk has
        no room for is refused.
        """
        if self._is_short:
            asked = self._keep_possible(asked)
        if not asked:
            return []
        refusal = self._raft.propose([each.payload for each in asked]).refusal
        if refusal in _PATIENT:
            return asked
        if refusal is not None:
            self._refuse_asked(asked, Why.FAILED)
        else:
            self._pacing.spend(sum(each.size for each in asked))
        return []

    def _keep_possible(self, asked: list[Asked]) -> list[Asked]:
        """Refuse what this cannot be done of while the member is short of room."""
        able: list[Asked] = []
        refused: list[Asked] = []
        for each in asked:
            (able if each.removes and self._disk_full is None else refused).append(each)
        self._refuse_asked(refused, Why.TOO_MANY if self._lacks_means else Why.NO_SPACE)
        return able

    def _refuse_asked(self, asked: Sequence[Asked], why: Why) -> None:
        """Tell who asked, in a message for each member that did."""
        requests: dict[tuple[NodeId, Term], list[int]] = {}
        for each in asked:
            requests.setdefault((each.sender, each.term), []).append(each.request)
        for (sender, term), those in requests.items():
            self._refuse_others(sender, term, tuple(those), why)

    def _refuse_others(self, sender: NodeId, term: Term, requests: tuple[int, ...], why: Why) -> None:
        """Tell who asked in this term that these are not in the log, and never will be by this leader: it is
        the only one of its term, and who is told asks nobody else.
        """
        if self._led_in(term):
            self._raft.send(ForwardRefused(self.id, sender, term, why, requests))

    def _hear_refusal(self, message: ForwardRefused) -> None:
        """The leader of that term has not proposed what it was given in it. What was given to another one
        since may be done by that; what a state copy may hold has no term any more.
        """
        fault = _FAULTS.get(message.why, _NOT_TAKEN)
        self._refused += [(slot, fault) for slot in self.proposals.refused(message.term, message.requests)]

    def _tell_refused(self) -> None:
        """Tell some of those whose requests the leader did not take."""
        refused = self._refused
        for _ in range(min(len(refused), EXPIRED_AT_ONCE)):
            slot, fault = refused.popleft()
            self.proposals.complete(slot.request, fault)
        if refused:
            self._wake()

    def _propose_put_off(self) -> None:
        """Propose what was put off, some at a time, by turns of who asked. What was asked of the leader of an
        earlier term is lost with that: who asked asks again.
        """
        waiting = self._put_off
        if not waiting:
            return
        most, fitting = self._most_bytes
        found = waiting.take(PAYLOADS_PER_TURN, most, fitting=fitting)
        asked = [each for each in found if self._led_in(each.term)]
        waits = self._propose_for(asked)
        kept = set(waits)
        waiting.leave(each for each in found if each not in kept)
        waiting.put_back(waits)
        if waiting and not waits:  # else a tick looks again, or what is committed meanwhile
            self._go_on(found, fitting=fitting)

    def _go_on(self, taken: Sequence[object], *, fitting: bool) -> None:
        """More waits than was taken. Where there is no room for it, and nothing fits, a tick looks again."""
        if fitting:
            self._pacing.hold()
        if taken or not fitting:
            self._wake()

    def _refuse_late(self) -> None:
        """Refuse some of what was put off for so long that there may be nobody soon who waits for it: it
        would be written for nothing, and what comes later is done in time. That counts from when it came
        here: what its member could not pass on at once may be written after its client was told that it took
        too long.
        """
        late = self._put_off.give_up(PAYLOADS_PER_TURN, self.proposals.now - self._patience)
        self._refuse_asked(late, Why.TOO_MANY)
        if len(late) == PAYLOADS_PER_TURN:
            self._wake()

    def _take_changes(self, message: Forward) -> None:
        if self.change_asked is None:
            self._raft.step(message)
            return
        for payload in message.payloads:
            self.change_asked(Change.decode(payload))

    # --- the turn

    def turn(self, *, alone: bool = False) -> None:
        """Take all input, carry out all effects. Raises what this member must not survive.

        `alone`: nobody else is known to wait for the loop, so that the only voter may sync a single entry
        within the turn (`seams.Device.release`), and apply and answer it too.
        """
        if self._failure is not None:
            raise self._failure
        proposals = self.proposals
        ran = self.parts.ran
        proposals.now = self.clock.monotonic()
        proposals.wall = self.clock.wall()
        self.parts.begin(proposals.now)
        if self._asked:
            self._asked, self._asked_at = False, proposals.now
        if self._expiring:
            self._expire()
        if self._giving_up:
            self._give_up()
        if self._refused:
            self._tell_refused()
        self._hold()
        self._others_bytes = 0
        if self._put_off or (proposals.queued and self._raft.leader):
            self._propose_waiting()
            ran("log")
        if self._writing < len(self._unsynced) and self._disk_full is None:
            self._give_on()
            ran("log")
        self._enough = self.machine.applying.worked + TURN_UNITS
        applied = self._apply()
        has_more = False
        while not has_more and (effects := self._driver.take()) is not None:
            has_more = self._raft.has_more
            if effects.append is not None:
                if self._is_lone(effects.append, alone=alone):
                    self._write_now(effects.append)
                else:
                    self._write(effects.append)
            if effects.send:
                self._send(effects.send)
            if effects.install is not None:
                self._install(effects.install)
            ran("log")
            if effects.apply:
                self._to_apply.extend(effects.apply)
                self._to_apply_bytes += _weigh([entry.data for entry in effects.apply])
                applied |= self._apply()
            for number in effects.reads_failed:
                self._finish_read(self._reads.drop(number), errors.timed_out(Reason.TIMED_OUT_LEADER))
            for number, index in effects.reads:
                self._reads.confirm(number, index)
        if self._reads:
            self._serve_reads()
            ran("reads")
        if applied:
            self.machine.save()
            ran("save")
        if self._failure is not None:
            raise self._failure  # found while entries were applied: their outcomes are not told
        self._flush()
        ran("answers")
        if self._loading is not None:
            self._load_on(self._loading)
            ran("load")
        elif not self._installing:
            self._work_off()
        is_stalled = self._stalled_since is not None and not self.crowded
        if has_more or is_stalled or (self._to_apply and not self._raft.holding):
            self._wake()
        if self._raft.leader != self._leader_known:
            self._leader_known = self._raft.leader
            self._forgetful.clear()
            self.leader_since = self.clock.wall()
            self._log.info("leader_changed", leader=f"{self._raft.leader:x}", term=self._raft.term)
        if self._failure is not None:
            raise self._failure
        self._flush()
        ran("answers")

    def _hold(self) -> None:
        """Apply nothing while the engine is behind: the log keeps it. Looked at in each turn, so at each
        tick, and when the engine has made a commit (`Engine.eased`).
        """
        behind = self._engine.behind() > 0
        if behind != self._raft.holding:
            self._raft.holding = behind
            self._log_bytes_before = self._raft.log_bytes
            self._log.info("state_behind" if behind else "state_caught_up", applied=self.machine.applied)
        if self._stalled_since is not None and not (self._has_waiting and self.crowded):
            self._stalled_since = None

    @property
    def _has_waiting(self) -> bool:
        """Something waits to be proposed, asked here or by others."""
        return bool(self._put_off) or self.proposals.queued

    def held_back(self, since: float) -> Fault | None:
        """Something has waited to be proposed since then, and this member was `crowded` all the while. None
        while it is to go on waiting, or what it is to be refused with: nothing could be proposed for too
        long, or the engine has no room. Monotonic seconds.
        """
        if self._state_full and self._raft.holding:
            return errors.no_space()
        return errors.too_many() if self.proposals.now - since > BEHIND_SECONDS else None

    def _propose_waiting(self) -> None:
        """Propose the own requests and what was put off, up to `PAYLOADS_PER_TURN` of each, by turns for who
        goes first. While the member is `crowded` they go on waiting, or some of each are refused.
        """
        if self._put_off:
            self._refuse_late()
        if self.crowded:
            if self._stalled_since is None:
                self._stalled_since = self.proposals.now
            fault = self.held_back(self._stalled_since)
            if fault is not None:
                why = Why.NO_SPACE if self._state_full else Why.TOO_MANY
                self._refuse_asked(self._put_off.give_up(PAYLOADS_PER_TURN), why)
                self.proposals.refuse(self.proposals.take(EXPIRED_AT_ONCE), fault)
                if self.proposals.queued or self._put_off:
                    self._wake()
            return
        own_is_first = self._own_is_next
        if self._pacing.room != 0:
            self._own_is_next = not own_is_first
        if own_is_first:
            self._propose_queued()
        self._propose_put_off()
        if not own_is_first:
            self._propose_queued()

    def _propose_queued(self) -> None:
        proposals = self.proposals
        if not (proposals.queued and self._raft.leader):
            return
        most, fitting = self._most_bytes
        slots = taken = proposals.take(PAYLOADS_PER_TURN, most, fitting=fitting)
        if self._is_short:
            slots = self._refuse_growth(slots)
        if slots and not self._propose(slots):
            return
        if proposals.queued:
            self._go_on(taken, fitting=fitting)

    @property
    def _most_bytes(self) -> tuple[int, bool]:
        """Bytes that are proposed next: `BYTES_PER_TURN`, or what writes that are paced have left of them.
        Where that is nothing, what is kept for small requests; and that it is to be kept to.
        """
        pacing = self._pacing
        room = pacing.room
        if room == 0:
            return min(BYTES_PER_TURN, pacing.spare), True
        return BYTES_PER_TURN if room is None else min(BYTES_PER_TURN, room), False

    def _propose(self, slots: list[Slot]) -> bool:
        """False when these wait, for as long as leadership is being transferred: a tick looks again."""
        payloads = [slot.payload for slot in slots]
        proposed = self._raft.propose(payloads)
        if proposed.fate is not Fate.REFUSED:
            if self._pacing.rate is not None:
                self._pacing.spend(_weigh(payloads))
            self.proposals.sent(self._raft.term, slots)
        elif proposed.refusal is Refusal.TRANSFERRING:
            self.proposals.put_back(slots)
            return False
        else:
            self.proposals.refuse(slots, _refused(proposed))
        return True

    @property
    def _is_short(self) -> bool:
        """The disk has no room for the log or the state: not all is possible."""
        return self._disk_full is not None or self._state_full is not None or self._log_low()

    @property
    def _lacks_means(self) -> bool:
        """It is memory or descriptors that the log wants, and not room on the disk."""
        return self._disk_full is not None and self._disk_full.errno in NO_MEANS

    def _is_possible(self, slot: Slot) -> bool:
        """Whether this can be done while the member is short of room: what only removes, which is how room
        comes back, while the log has some in the file it writes. It is decoded once.
        """
        if self._disk_full is not None:
            return False
        if slot.removes is None:
            slot.removes = self._only_removes(slot.payload)
        return slot.removes

    def _only_removes(self, payload: bytes) -> bool:
        try:
            return _is_removal(self.machine.understand(payload))
        except CorruptData:
            return False

    def _refuse_growth(self, slots: list[Slot]) -> list[Slot]:
        """The disk is full: refuse what cannot be done, and give back what can."""
        able: list[Slot] = []
        refused: list[Slot] = []
        for slot in slots:
            (able if self._is_possible(slot) else refused).append(slot)
        self.proposals.refuse(refused, errors.too_many() if self._lacks_means else errors.no_space())
        return able

    def _log_low(self) -> bool:
        """Whether the log has no file to go on in when the one it writes is full: what is left of that is for
        removals alone.
        """
        low = None if self.room is None else self.room.low
        if (low is not None) is not self._low_told:
            self._low_told = low is not None
            if low is not None:
                self._log.error("log_low_on_room", error=str(low), fix="free disk space")
            else:
                self._log.info("log_has_room")
        return low is not None

    def _apply(self) -> bool:
        """Apply what is committed until the turn has worked enough; the rest is the next turn's. True when an
        entry was applied to its end.

        After a command that was half done the turn has worked enough, however little that was: the state is
        saved, swept and hashed between two such commands, even where nothing else is in the log.
        """
        machine, waiting = self.machine, self._to_apply
        if not waiting:
            return False
        begin, complete = machine.begin, self.proposals.complete
        last: Index | None = None
        while waiting and machine.applying.worked < self._enough and not self._raft.holding:
            entry = waiting[0]
            if not self._half_applied:
                if entry.term != self._applied_term or entry.kind is EntryKind.CHANGE:
                    self._meet(entry)
                else:
                    self._payload = entry.data
            try:
                outcome = machine.go_on() if self._half_applied else begin(entry.index, self._payload)
            except CannotApply as fault:
                fault.entry = entry.index, payload_hash(self._payload)
                raise
            except (MustStop, NetstoreError, MemoryError):
                raise
            except Exception as error:
                raise _broken(entry, self._payload, error) from error
            if outcome is UNFINISHED:
                self._half_applied = True
                continue
            if self._half_applied:
                self._half_applied = False
                self._enough = 0
            waiting.popleft()
            self._to_apply_bytes -= len(entry.data) + ENTRY_OVERHEAD_BYTES
            last = entry.index
            payload = self._payload
            if self.observer is not None and (
                (outcome is None and is_bare(payload)) or last % MARK_ENTRIES == 0
            ):
                self.observer.reached()
            if payload:
                complete(request_of(payload), outcome)
        if last is not None:
            self._raft.applied_to(last)
        self.parts.ran("apply")
        events, changes = machine.v2.take_events(), machine.take_changes()
        self.hub.publish(*events)
        if changes:
            self.watches.publish(changes)
        if events or changes:
            self.parts.ran("watches")
        return last is not None

    def _is_awaited(self) -> bool:
        """Whether a request of this member waits for the entry that is being applied."""
        return self.proposals.awaits(request_of(self._payload))

    def _meet(self, entry: Entry) -> None:
        """An entry is about to be applied: what its term and its kind mean for this member."""
        if entry.term != self._applied_term:
            self._applied_term = entry.term
            self.proposals.overtaken(entry.term)
            self._wake()
        self._payload = entry.data
        if entry.kind is EntryKind.CHANGE:
            self._raft.apply_change(entry)
            self._payload = Change.decode(entry.data).context

    def _work_off(self) -> None:
        """A bounded piece of what is done beside the requests: what compaction erases, checksums of the
        history, watchers that have not been told, what watches read that are behind, and steps of jobs. The
        rest is the next turn's.

        While others ask for what is done at once, that is one step of a job, or one piece of a chore: they
        wait for about a millisecond of it.
        """
        machine, ran = self.machine, self.parts.ran
        has_chore, has_job = self._has_chore, self.jobs.ready
        if not (has_chore or has_job or self.hub.behind or self.watches.behind):
            return
        is_beside = self._is_asked
        if is_beside and has_chore and has_job:
            has_chore = self._chore_is_next
            has_job = self._chore_is_next = not has_chore
        if has_chore and machine.mvcc.hashing:
            machine.mvcc.hash_on()
            ran("hash")
        elif has_chore:
            machine.sweep()
            ran("sweep")
        if self.hub.behind or self.watches.behind:
            if self.hub.behind:
                self.hub.step()
            if self.watches.behind:
                self.watches.step()
            ran("watches")
        if has_job:
            self.jobs.run(STEPS_BESIDE if is_beside else STEPS_PER_TURN)
            ran("jobs")
        if self._has_chore or self.hub.behind or self.watches.behind or self.jobs.ready:
            self._wake()

    @property
    def _has_chore(self) -> bool:
        """There is something to be erased, or to be summed up, and it may be."""
        machine = self.machine
        return machine.mvcc.hashing or (machine.sweeping and not self._raft.holding)

    @property
    def _is_asked(self) -> bool:
        """Somebody waits for the log or a moment to read at, asked for one lately, or waits to ask."""
        if self.proposals or self._reads or self.contended():
            return True
        return self.proposals.now - self._asked_at < BESIDE_SECONDS

    def _serve_reads(self) -> None:
        """Answer the reads that can be answered, by turns of those who asked, until it was enough work."""
        reads, mvcc = self._reads, self.machine.mvcc
        reads.reach(self.machine.applied)
        units = READ_UNITS
        while units > 0 and (done := reads.take()) is not None:
            before = mvcc.read_units
            self._finish_read(done, None)
            units -= UNITS_A_READ + mvcc.read_units - before
        if reads.ready:
            self._wake()

    def _finish_read(self, done: Callable[[Fault | None], None] | None, fault: Fault | None) -> None:
        if done is not None and not guarded(self.request_failed, done, fault):
            guarded(self.request_failed, done, errors.failed())

    def request_failed(self, fault: Exception) -> None:
        """Somebody's answer or event could not be made. That request fails, the member goes on."""
        self._log.error("request_failed", error=repr(fault))

    def _expire(self) -> bool:
        """Tell those that have waited too long, some at a time; whether there were any."""
        told = self.proposals.expire(errors.timed_out, EXPIRED_AT_ONCE) + self._expire_reads()
        self._expiring = told >= EXPIRED_AT_ONCE
        if self._expiring:
            self._wake()
        return told > 0

    def _expire_reads(self) -> int:
        late = self._reads.take_late(self.proposals.now, EXPIRED_AT_ONCE)
        for done in late:
            self._finish_read(done, errors.timed_out())
        return len(late)

    # --- a state copy from the leader

    def _install(self, meta: SnapshotMeta) -> None:
        self._installing = True
        self._to_apply.clear()  # the copy has it all
        self._to_apply_bytes = 0
        self._half_applied = False
        self._log.info("state_copy_installing", index=meta.index)
        self._write(Mark(meta, is_copy=True))

    def _replace_state(self, meta: SnapshotMeta) -> None:
        """The log is marked with the copy: it takes the place of the state."""
        image, self._image_in = self._image_in, None
        self.machine.mvcc.suspended = True

        def installed(failure: OSError | None) -> None:
            if failure is not None:
                self.fail(DiskFailed(f"a state copy cannot be put in place: {failure}"))
                return
            self._loading = self._load(meta)
            self._wake()

        self._engine.install(image, installed)

    def _load(self, meta: SnapshotMeta) -> Iterator[None]:
        """Become what the copy holds, in steps between the turns, and let go of what was before. Nothing is
        applied until it is what the copy holds.
        """
        yield from self.machine.load_steps()
        self.hub.interrupt()
        self.watches.replaced()
        self.proposals.jumped()
        self._installing = False
        self.copies_installed += 1
        self._compacted = self._forgotten = meta.index
        self._raft.snapshot_installed(meta)
        self._pacing.restart(meta.index)
        self._log.info("state_copy_installed", index=meta.index)
        yield from self.machine.let_go()

    def _load_on(self, loading: Iterator[None]) -> None:
        if next(loading, self) is self:
            self._loading = None
        self._wake()

    # --- the disk

    def _write(self, record: Append | Mark) -> None:
        self._unsynced.append(record)
        if self._disk_full is None and self._writing == len(self._unsynced) - 1:
            self._give(record)

    def _is_lone(self, record: Append, *, alone: bool) -> bool:
        """This is a single entry in a turn that nobody waits for, as the batch before it was, and nothing is
        under way to the disk. No other member votes: a disk that stalls would cost those their leader.
        """
        was_lone, self._was_lone = self._was_lone, alone and len(record.entries) == 1
        is_lone = was_lone and self._was_lone and not self._unsynced and self._disk_full is None
        return is_lone and self._raft.is_only_voter

    def _write_now(self, record: Append) -> None:
        """Write a lone entry, and sync it before this returns where the disk is fast."""
        self._unsynced.append(record)
        self._is_writing_now = True
        try:
            if self._give(record, held=True):
                self._wal.release()
        finally:
            self._is_writing_now = False

    def _give_on(self) -> None:
        """Hand to the log, in order, some of what had to wait while it could not be written, `BYTES_PER_TURN`
        and one record more; the rest in the next turns.
        """
        size = 0
        while self._writing < len(self._unsynced) and size < BYTES_PER_TURN:
            record = self._unsynced[self._writing]
            if not self._give(record):
                return
            if isinstance(record, Append):
                size += _weigh([entry.data for entry in record.entries])
        if self._writing < len(self._unsynced):
            self._wake()

    def _give(self, record: Append | Mark, *, held: bool = False) -> bool:
        """Hand a record to the log. False where there is no memory for it now."""
        try:
            if isinstance(record, Append):
                self._wal.append(record.hard_state, record.entries, self._synced, held=held)
            else:
                self._wal.mark(record.meta, self._synced, replaces=record.is_copy)
        except MemoryError:  # the log stands where it stood: what follows waits behind this record
            self._not_written(OSError(errno.ENOMEM, "Cannot allocate memory"))
            return False
        self._writing += 1
        return True

    def _synced(self, failure: OSError | None) -> None:
        """The oldest write under way was kept, or it failed. A failed write takes all after it along and may
        be tried again when room was all it wanted; anything else, a failed sync above all, ends the member.
        """
        self._writing -= 1
        if failure is None:
            record = self._unsynced.popleft()
            if isinstance(record, Append):
                self._driver.synced()
                if not self._is_writing_now:
                    self._wake()
            elif record.is_copy:
                self._replace_state(record.meta)
            else:
                self._wal.drop_before(Index(self._compacted + 1))
        elif isinstance(failure, SyncFailed) or failure.errno not in PASSING:
            self.fail(DiskFailed(f"writing the log failed: {failure}; nothing unsaved was acknowledged"))
        else:
            self._not_written(failure)

    def _not_written(self, failure: OSError) -> None:
        """The log lacked something that may come back: records wait in order, and are tried again. Of several
        things that it lacks at once, room is what is told: nobody but the operator gives it back.
        """
        before = self._disk_full
        if before is not None and (before.errno in NO_ROOM or failure.errno not in NO_ROOM):
            return
        self._disk_full = failure
        self._log.error("log_not_writable", error=str(failure), fix=_remedy(failure))
        alone = self._raft.status().conf.voters == (self.id,)
        if failure.errno in NO_ROOM and alone:
            self._give_up()

    def _give_up(self) -> None:
        """Tell some of those whose writes the log finds no room for; the others in the next turns, unless it
        is tried again meanwhile.
        """
        self._giving_up = self._disk_full is not None and self.proposals.give_up_sent(
            errors.no_space_unknown(), EXPIRED_AT_ONCE
        )
        if self._giving_up:
            self._wake()
        self._flush()

    def engine_failed(self, failure: OSError) -> None:
        """The state could not be committed. For want of space the engine tries again by itself,
        and writes are refused until it succeeds.
        """
        if failure.errno not in PASSING:
            self.fail(DiskFailed(f"writing the state failed: {failure}; the log has what was acknowledged"))
        elif self._state_full is None:
            self._state_full = failure
            self._log.error("state_not_writable", error=str(failure), fix=_remedy(failure))
            self._wake()  # who waits for the engine is told

    def retry_writes(self) -> None:
        """Try again what could not be written, if anything: nothing of it was acknowledged, and reads went on
        meanwhile.
        """
        if self._state_full and not self._engine.failing():
            self._state_full = None
            self._log.info("state_writable")
        if self.room is not None:
            self.room.try_room()
        if self._disk_full is None or self._writing:
            return
        self._disk_full = None
        self._give_on()

    # --- housekeeping

    def compact(self) -> bool:
        """Forget log entries the durable state makes needless, keeping some for slow members and everything
        for those that are brought up; fewer when the log weighs too much, and for whom is brought up as many
        as it may weigh. True when something was dropped. At most `FORGOTTEN_AT_ONCE` of them leave the memory
        at once, the others with the next calls, while it is `forgetting`.
        """
        self._log_account.hold(self._raft.log_bytes)
        if self._installing:
            return False
        if self.forgetting:
            self._forget()
            return True
        durable = self._engine.durable()
        keep = Index(durable - self._catch_up_entries)
        if self._raft.log_bytes > self._log_limit:
            keep = min(durable, max(keep, self._raft.compact_index(self._log_limit // 2)))
        elif durable - self._compacted < self._snapshot_count + self._catch_up_entries:
            return False
        self._measure_log()
        needed = self._pacing.needed()
        if needed is not None:
            keep = min(keep, needed)
        if keep <= self._compacted:
            self._compact_at = self._raft.log_bytes + self._log_limit // 16
            return False
        self._compact_at = 0
        meta = self._raft.snapshot_meta(keep)
        self._compacted = meta.index
        self._forget()
        self._write(Mark(meta))
        self._log.info("log_compacted", before=meta.index, durable=durable)
        return True

    @property
    def forgetting(self) -> bool:
        """Entries that `compact` has dropped are still in memory."""
        return self._forgotten < self._compacted and not self._installing

    def _forget(self) -> None:
        before = self._raft.log_bytes
        self._forgotten = Index(min(self._compacted, self._forgotten + FORGOTTEN_AT_ONCE))
        self._raft.compact(self._forgotten)
        self._pacing.forgot(self._forgotten, before - self._raft.log_bytes)

    def _measure_log(self) -> None:
        self._pacing.measure(self._raft.log.last, self._raft.log_bytes)

    def _pace(self) -> None:
        """Look how far others are, so how fast this leader writes, and whether the log has to be shortened
        before the next look at it is due. Once a tick.
        """
        pacing, weight = self._pacing, self._raft.log_bytes
        self._measure_log()
        if pacing.paced and not self._paced:
            self._paced = True
            peers = [f"{each.id:x}" for each in pacing.behind() if each.counts]
            self._log.info("writes_paced", peers=peers, bytes_per_second=self.paced_to)
        pacing.look(self.proposals.now, self._raft.status())
        if self._paced and not pacing.paced:
            self._paced = False
            self._log.info("writes_not_paced")
        if weight > max(self._log_limit, self._compact_at) and not self.forgetting:
            self.compact()


def _weigh(payloads: Sequence[bytes]) -> int:
    """What the log would grow by."""
    return sum(map(len, payloads)) + len(payloads) * ENTRY_OVERHEAD_BYTES


def _never() -> bool:
    return False


def _in_words(failure: OSError) -> str:
    """As a client is told it; the log has the file as well."""
    return "no space left on device" if failure.errno in NO_ROOM else str(failure)


def _remedy(failure: OSError) -> str:
    if failure.errno in NO_ROOM:
        return "free disk space"
    return "allow this process more memory and open files"


def _is_removal(command: object) -> bool:
    if isinstance(command, Txn):
        return all(
            isinstance(each, Range) or _is_removal(each) for each in (*command.success, *command.failure)
        )
    return isinstance(command, _REMOVALS)


def _broken(entry: Entry, payload: bytes, error: Exception) -> CannotApply:
    what = describe(command_of(payload)) if payload else "which has no command"
    fault = CannotApply(
        f"entry {entry.index} of the log, {what}, cannot be applied: {type(error).__name__}: {error}; this is"
        f" a fault of netstored. netstored --inspect-log {entry.index}:{entry.index} shows the entry,"
        f" --skip-entry {entry.index} passes over it"
    )
    fault.entry = entry.index, payload_hash(payload)
    return fault


def _refused(proposed: Proposed) -> Fault:
    why = "not accepted" if proposed.refusal is None else proposed.refusal.value
    return errors.told(f"etcdserver: {why}")
