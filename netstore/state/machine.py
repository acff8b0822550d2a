"""The single door to the replicated state.

Invariants:
 1. Whatever an entry holds, every member does the same with it. What is no command is refused alike. What a
    later version may have written (`errors.UnknownCommand`, a level beyond `LEVEL`) is not for this member to
    judge: it raises CannotApply, with nothing changed, and the member stops.
 2. The applied index moves in the same step as the state, and `save` hands both to the engine in one write,
    so that no crash can part them.
 3. The outcome depends on the state and the command alone.
 4. A command that is long is carried out in pieces. Until it is finished it is not applied and nothing of it
    can become durable, and nobody sees anything of it: no revision, no change, no lease that it ends or moves
    keys of. But for directories of the v2 tree: one that is removed is out of sight, with all below it, from
    one moment within the command on, with its index and its event in the window; live watchers are told when
    all below it is cleared away.
"""

from __future__ import annotations

from enum import Enum
from heapq import merge
from types import GeneratorType
from typing import TYPE_CHECKING, ClassVar, Final, TypeAlias

import msgspec

from netstore import errors
from netstore.errors import (
    CannotApply,
    CorruptData,
    Fault,
    NetstoreError,
    NoRestart,
    Reason,
    UnknownCommand,
    refusal,
    told,
)
from netstore.parted import batches
from netstore.state import commands, features, tables
from netstore.state.commands import (
    AddMember,
    Command,
    JoinMember,
    PromoteMember,
    PublishMember,
    RaiseLevel,
    RefuseChange,
    RemoveMember,
    SetClusterVersion,
    UpdateMember,
    head_of,
)
from netstore.state.envelope import FORMAT, Envelope, first_level_command, read
from netstore.state.members import MemberInfo, to_vote
from netstore.state.trail import COMMAND_BYTES, Trail
from netstore.state.v2.commands import (
    CompareAndDelete,
    CompareAndSwap,
    Create,
    Delete,
    ExpireNodes,
    InOrder,
    NoteTtl,
    QuorumGet,
    Set,
    Update,
)
from netstore.state.v2.history import History
from netstore.state.v2.statistics import REPLICATED, Statistics
from netstore.state.v2.tree import FOR_EVER, Life, Stored, Tree
from netstore.state.v2.walk import Walk
from netstore.state.v3 import txn
from netstore.state.v3.alarm import Alarms
from netstore.state.v3.commands import (
    AlarmChanged,
    Compact,
    DeleteRange,
    Done,
    LeaseCheckpoint,
    LeaseExpire,
    LeaseGrant,
    LeaseGranted,
    LeaseRenew,
    LeaseRevoke,
    Put,
    Range,
    SetAlarm,
    Txn,
    TxnDone,
    V3Command,
    V3Outcome,
)
from netstore.state.v3.lease import Lease, Leases, StoredLeases
from netstore.state.v3.mvcc import Mvcc
from netstore.state.v3.reads import UNIT_BYTES
from netstore.state.v3.records import RECORDS
from netstore.state.words import payload_hash
from netstore.types import EtcdIndex, Event, Index, LeaseId, Nanos, NodeId, NodeView, Revision

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
    from collections.abc import Set as AbstractSet

    from netstore.limits import Budget
    from netstore.seams import Engine
    from netstore.types import KeyChange

Outcome: TypeAlias = Event | Walk | V3Outcome | None
"""What applying a command gave: the change or the answer, the refusal, or nothing to tell."""

Work: TypeAlias = "Generator[int, None, Outcome]"
"""A command that is carried out in pieces (`txn`)."""

APPLY_UNITS: Final = 2_000
"""Microseconds, about, that `apply` and `go_on` work on one command."""

MOST_AWAIT_SWEEP: Final = 1_000
"""How many may wait for compactions to be over; a read that is open keeps them waiting."""

COMMAND_UNITS: Final = 10
"""Microseconds, about, that a command takes that is not carried out in pieces, and each of what it ends. One
more for each `UNIT_BYTES` of it, of an event, and of what else it reads and writes.
"""

NODE_UNITS: Final = 2
"""The same for each node that it makes, lists or notes something of beside the one it names."""

CLEAR_UNITS: Final = 4
"""The same for each node that goes with a directory, and to save that."""


class Unfinished(Enum):
    """A command was begun, and there is more to do of it."""

    UNFINISHED = 0


UNFINISHED: Final = Unfinished.UNFINISHED
"""What `apply` and `go_on` give then."""


def _to_nobody(_: int) -> None:
    """Nobody wants to know how far loading is."""


class Machine:
    """The v2 tree, its event window, the counters and the members, and the v3 keys, leases and alarms, as of
    `applied`.

    The loop applies a batch of entries, takes the events for the watchers (`take_events`, `take_changes`) and
    saves, once per batch.
    """

    LEVEL: ClassVar[int] = features.LEVEL
    """The highest feature level that this member knows."""

    LEVELS: ClassVar[Mapping[int, int]] = features.LEVELS
    """Number of a command -> its feature level, where that is not the first."""

    def __init__(self, engine: Engine, reads: Budget | None = None, walks: Budget | None = None) -> None:
        """`reads` and `walks` are what reads in steps of the v3 keys and of the v2 tree may hold."""
        self._engine = engine
        self.applied = Index(0)
        """The last log entry that is part of the state."""
        self.tree = Tree(walks)
        self.history = History()
        self.statistics = Statistics()
        self.trail = Trail()
        """What everything that was applied came to (`digest`)."""
        self.cluster_version = ""
        """The version all members can speak; empty before the first agreement."""
        self.level = 1
        """The feature level of the cluster: no command beyond it is proposed."""
        self.leases = Leases()
        self.mvcc = Mvcc(engine, self.leases.move, reads)
        self.mvcc.trail = self.trail
        self.alarms = Alarms()
        self.passed_over: Mapping[Index, str] = {}
        """Entries that an operator has this member pass over: index -> hash of the payload."""
        self.watched: Callable[[bytes], bool] = _perhaps
        """Whether a live watcher is at a path of the tree: it is to be told when what is there goes with a
        directory (`Event.removed`). This member's affair: nothing but who is told depends on it.
        """
        self.awaited: Callable[[], bool] = _always
        """Whether somebody waits here for the outcome of what is being applied: a read that goes through the
        log is made for nobody else. This member's affair, as reads are: they change nothing.
        """
        self._members: dict[NodeId, MemberInfo] = {}
        self._removed: set[NodeId] = set()
        self._events: list[Event] = []
        self._touched: set[NodeId] = set()
        self._window: dict[bytes, bytes] = {}
        """The records of the events since the last save, by where they are stored."""
        self._scalars: tables.Scalars | None = None
        self._v3_scalars = tables.NEW_V3
        self._alarms_touched: set[tuple[NodeId, int]] = set()
        self._work: Work | None = None
        """The command that is not finished."""
        self._work_index = Index(0)
        self.worked = 0
        """Units worked so far by `apply` and `go_on`. Members count differently: nothing that is replicated
        may depend on it.
        """
        self._await_sweep: list[tuple[Revision, Callable[[Fault | None], None]]] = []
        self._before: Iterator[None] = iter(())
        self._loaded = 0
        self._doors: dict[type, Callable[..., Outcome | Work]] = {
            Set: self._set,
            Create: self._create,
            Update: self._update,
            CompareAndSwap: self._compare_and_swap,
            InOrder: self._create_in_order,
            Delete: self._delete,
            CompareAndDelete: self._compare_and_delete,
            QuorumGet: self._quorum_get,
            ExpireNodes: self._expire,
            NoteTtl: self._note_ttl,
            PublishMember: self._publish_member,
            SetClusterVersion: self._set_cluster_version,
            AddMember: self._add_member,
            RemoveMember: self._remove_member,
            UpdateMember: self._update_member,
            PromoteMember: self._promote_member,
            RefuseChange: self._refuse_change,
            RaiseLevel: self._raise_level,
            JoinMember: self._join_member,
            Put: self._put,
            DeleteRange: self._delete_range,
            Range: self._range,
            Txn: self._txn,
            Compact: self._compact,
            LeaseGrant: self._lease_grant,
            LeaseRevoke: self._lease_revoke,
            LeaseRenew: self._lease_renew,
            LeaseExpire: self._lease_expire,
            LeaseCheckpoint: self._lease_checkpoint,
            SetAlarm: self._set_alarm,
        }

    @property
    def members(self) -> Mapping[NodeId, MemberInfo]:
        """The members of the cluster by id."""
        return self._members

    @property
    def removed(self) -> AbstractSet[NodeId]:
        """The members that were removed; their ids are never used again."""
        return self._removed

    def load(self, told: Callable[[int], object] = _to_nobody) -> None:
        """Become what the engine holds, dropping what was applied since. `told` gets how many records were
        read so far, after some hundred each.

        O(stored nodes and v3 records). CorruptData when it cannot be read; NoRestart when it is of a feature
        level that this release does not know.
        """
        for _ in self._load(whole=True):
            told(self.loaded)
        for _ in self.let_go():
            pass

    def load_steps(self) -> Iterator[None]:
        """The same in bounded steps. Until the last, no v3 key can be read, leases are those to come, and the
        rest is what it was before. To be followed by `let_go`.
        """
        return self._load(whole=False)

    @property
    def loaded(self) -> int:
        """How many records were read since `load` or `load_steps` began last."""
        return self._loaded + self.mvcc.loaded

    @property
    def stored(self) -> int:
        """How many records `load` reads: one for each v2 node and lease, and for each change of a v3 key that
        is not compacted away.
        """
        return sum(self._engine.count(table) or 0 for table in (tables.NODES, tables.LEASES, RECORDS))

    def _load(self, *, whole: bool) -> Iterator[None]:
        self._loaded = self.mvcc.loaded = 0
        self.mvcc.suspended = True
        engine = self._engine
        tree = Stored()
        for nodes in tables.load_nodes(engine, whole=whole):
            tree.add(nodes)
            self._loaded += len(nodes)
            yield
        if tree.stray is not None:
            raise tables.corrupt(f"table {tables.NODES}, key {tree.stray!r} lies in no directory")
        leases = StoredLeases()
        for records in tables.load_leases(engine, whole=whole):
            leases.add(records)
            self._loaded += len(records)
            yield
        yield from self._load_v3(leases, whole=whole)
        self._work = None
        self.applied = engine.applied()
        self.history = History()
        self.statistics = Statistics()
        self.cluster_version = ""
        self.level = 1
        self._members = {}
        self._removed = set()
        self._scalars = None
        index = EtcdIndex(0)
        for scalars in tables.load_all(engine, tables.STATE, tables.Scalars):
            index = scalars.index
            if len(scalars.counts) != len(REPLICATED):
                raise tables.corrupt(
                    f"table {tables.STATE}: {len(scalars.counts)} counters, and there are {len(REPLICATED)}"
                )
            self.statistics.restore(scalars.counts)
            self.cluster_version = scalars.version
            self.level = scalars.level
            if self.level > self.LEVEL:
                raise NoRestart(self._older(self.level, self.LEVEL))
            self._scalars = scalars
        for member in tables.load_all(engine, tables.MEMBERS, MemberInfo):
            self._members[member.id] = member
        self._removed.update(tables.load_all(engine, tables.REMOVED, NodeId))
        self.history.restore(tables.load_events(engine))
        if self.history.last != index:
            raise tables.corrupt(
                f"table {tables.WINDOW} ends at {self.history.last}, the state is at {index}"
            )
        self._before = self.tree.restore(index, tree)
        self._events = []
        self._touched = set()
        self._window = {}
        self._tell_swept()

    def let_go(self) -> Iterator[None]:
        """Forget what was there before the last `load_steps` in bounded steps: at once it would take long."""
        before, self._before = self._before, iter(())
        return before

    def _load_v3(self, leases: StoredLeases, *, whole: bool) -> Iterator[None]:
        engine = self._engine
        scalars = tables.NEW_V3
        for stored in tables.load_all(engine, tables.V3_STATE, tables.V3Scalars):
            scalars = stored
        self._v3_scalars = scalars
        self.trail.checksum = scalars.trail
        yield from self.leases.restore(leases)
        yield from self.mvcc.load_steps(scalars.revision, scalars.compacted, scalars.swept, whole=whole)
        self.alarms.restore(tables.load_all(engine, tables.ALARMS, tuple[NodeId, int]))
        self._alarms_touched = set()

    def enter(self, index: Index, payload: bytes) -> Outcome:
        """Carry out the log entry at `index` as it lies in the log: a command in its envelope, or nothing.

        CannotApply, with nothing changed, for what a later version has written.
        """
        return self._finished(self._enter(index, payload))

    def begin(self, index: Index, payload: bytes, units: int = APPLY_UNITS) -> Outcome | Unfinished:
        """The same for about so many units: what takes longer is `UNFINISHED`, and is to be finished by
        `go_on` before anything else is applied.
        """
        command = None if self.passed_over else first_level_command(payload)
        outcome = self._enter(index, payload) if command is None else self._start(index, command)
        return self.go_on(units) if outcome is UNFINISHED else outcome

    def _finished(self, outcome: Outcome | Unfinished) -> Outcome:
        while outcome is UNFINISHED:
            outcome = self.go_on()
        return outcome

    def _enter(self, index: Index, payload: bytes) -> Outcome | Unfinished:
        if index in self.passed_over:
            return self._pass_over(index, payload)
        command = first_level_command(payload) if payload else payload
        if command is not None:
            return self._start(index, command)
        try:
            envelope = self._opened(payload)
        except UnknownCommand as error:
            raise CannotApply(_too_new(index, str(error))) from None
        except CorruptData as error:
            self._start(index, b"")
            return self._refusal(str(error))
        return self._start(index, envelope.command)

    def _pass_over(self, index: Index, payload: bytes) -> Fault:
        if payload_hash(payload) != self.passed_over[index]:
            raise CannotApply(
                f"entry {index} of the log is not the one that --skip-entry was given: it has the hash"
                f" {payload_hash(payload)}, and {self.passed_over[index]} was to be skipped; remove the file"
                " skipped from the data folder"
            )
        self.apply(index, b"")
        return self._refusal("the entry was passed over")

    def _opened(self, payload: bytes) -> Envelope:
        envelope = read(payload)
        if envelope.format > FORMAT:
            raise UnknownCommand(f"an entry of format {envelope.format}, and {FORMAT} is known")
        if envelope.format != FORMAT:
            raise CorruptData(f"an entry of format {envelope.format}, which never was")
        if envelope.level > self.LEVEL:
            number, _ = head_of(envelope.command) or (0, 0)
            raise UnknownCommand(
                f"command {number} of feature level {envelope.level}, and {self.LEVEL} is known"
            )
        if envelope.level > self.level:
            raise CorruptData(f"feature level {envelope.level} in a cluster at {self.level}")
        return envelope

    def understand(self, payload: bytes) -> Command | None:
        """The command of a payload that somebody asks to have proposed; None for one without a command.

        CorruptData when it is none of this version and of the cluster's feature level.
        """
        command = first_level_command(payload)
        if command is None:
            command = self._opened(payload).command
        if not command:
            return None
        if self.level_of(command) > self.level:
            raise CorruptData(
                f"a command of feature level {self.level_of(command)} in a cluster at {self.level}"
            )
        return self.decode(command)

    decode = staticmethod(commands.decode)
    """The command that bytes stand for."""

    def level_of(self, command: bytes) -> int:
        """The feature level of an encoded command."""
        if not self.LEVELS:
            return 1
        head = head_of(command)
        return 1 if head is None else self.LEVELS.get(head[0], 1)

    def apply(self, index: Index, command: bytes) -> Outcome:
        """Carry out a command at `index`. CannotApply as by `enter`.

        Empty bytes are an entry without a command: only the applied index moves.
        """
        return self._finished(self._start(index, command))

    def _start(self, index: Index, command: bytes) -> Outcome | Unfinished:
        """Carry out a command, or take it up where it is done in pieces."""
        if self._work is not None:
            raise NetstoreError(f"entry {index} before entry {self._work_index} is finished")
        if index <= self.applied:
            raise NetstoreError(f"entry {index} after {self.applied}: an entry is applied once, in order")
        if not command:
            self.applied = index
            return None
        try:
            decoded: Command = self.decode(command)
        except UnknownCommand as error:
            raise CannotApply(_too_new(index, str(error))) from None
        except CorruptData as error:
            self.trail.add(command[:COMMAND_BYTES])
            self.applied = index
            return self._refusal(str(error))
        before = self.applied
        self.trail.add(command[:COMMAND_BYTES])
        self.applied = index
        self.worked += COMMAND_UNITS + len(command) // UNIT_BYTES
        try:
            outcome = self._doors[type(decoded)](decoded)
        except CannotApply:
            self.applied = before
            self.trail.take_back()
            raise
        if not isinstance(outcome, GeneratorType):
            return outcome  # type: ignore[return-value]  # work is a generator, always
        self._work, self._work_index = outcome, index
        self.leases.begin()
        self.applied = before
        return UNFINISHED

    def go_on(self, units: int = APPLY_UNITS) -> Outcome | Unfinished:
        """Work on the unfinished command for so many units."""
        work = self._work
        if work is None:
            raise NetstoreError("no entry is half applied")
        try:
            while units > 0:
                before = self.worked
                worked = next(work)
                self.worked += worked  # beside what it counted itself
                units -= self.worked - before
        except StopIteration as end:
            self._work = None
            self.leases.finish()
            self.applied = self._work_index
            outcome: Outcome = end.value
            return outcome
        self._prepare()
        self.trail.settle()
        return UNFINISHED

    def _prepare(self) -> None:
        """Hand what a piece has written to the engine, to be saved with the whole. O(what was written)."""
        changes = self.mvcc.take_records()
        self._save_nodes(changes)
        if changes:
            self._engine.prepare(changes)

    def take_events(self) -> list[Event]:
        """What live watchers may see of the changes since the last call, in order."""
        events, self._events = self._events, []
        return events

    def take_changes(self) -> list[KeyChange]:
        """The changes of v3 keys since the last call, in order, for live watchers."""
        return self.mvcc.take_changes()

    def save(self) -> None:
        """Hand everything applied since the last save to the engine; nothing while a command is half done.

        O(nodes touched), however often each was, and records written; of a command that was carried out in
        pieces, in its last one.
        """
        if self._work is not None:
            return
        changes: dict[tuple[str, bytes], bytes | None] = {}
        self._save_nodes(changes)
        window, self._window = self._window, {}
        for key, packed in window.items():
            changes[tables.WINDOW, key] = packed
        for id_ in self._touched:
            key = tables.member_key(id_)
            member = self._members.get(id_)
            changes[tables.MEMBERS, key] = None if member is None else tables.encode(member)
            if id_ in self._removed:
                changes[tables.REMOVED, key] = tables.encode(id_)
        scalars = tables.Scalars(
            self.tree.index, self.statistics.replicated(), self.cluster_version, self.level
        )
        if scalars != self._scalars:
            changes[tables.STATE, tables.STATE_KEY] = tables.encode(scalars)
            self._scalars = scalars
        self._touched = set()
        self._save_v3(changes)
        self._engine.write(self.applied, changes)

    def _save_nodes(self, changes: dict[tuple[str, bytes], bytes | None]) -> None:
        for path, node in self.tree.take_changes().items():
            if node is None:
                changes[tables.NODES, path] = None
            else:
                timed = self.tree.timed.get(path) if node.expires else None
                changes[tables.NODES, path] = tables.pack_node(node, timed)

    def _save_v3(self, changes: dict[tuple[str, bytes], bytes | None]) -> None:
        mvcc = self.mvcc
        changes.update(mvcc.take_records())
        for lease, record in self.leases.take_changes().items():
            changes[tables.LEASES, tables.lease_key(lease)] = (
                None if record is None else tables.encode(record)
            )
        for alarm in self._alarms_touched:
            stored = tables.encode(alarm) if self.alarms.raised(alarm) else None
            changes[tables.ALARMS, tables.alarm_key(*alarm)] = stored
        self._alarms_touched.clear()
        scalars = tables.V3Scalars(mvcc.revision, mvcc.compacted, mvcc.swept, self.trail.checksum)
        if scalars != self._v3_scalars:
            changes[tables.V3_STATE, tables.STATE_KEY] = tables.encode(scalars)
            self._v3_scalars = scalars

    @property
    def sweeping(self) -> bool:
        """Whether `sweep` has something to do."""
        return self._work is None and (self.leases.spent or self.mvcc.sweeping)

    def sweep(self) -> None:
        """Do a bounded part of what a compaction or a long command has left to do, and save it. For between
        batches, again and again while `sweeping`.
        """
        if self.leases.spent:
            self.leases.let_go()
            return
        self.mvcc.sweep()
        self.save()
        self._tell_swept()

    def when_swept(self, revision: Revision, done: Callable[[Fault | None], None]) -> None:
        """Call `done(None)` when nothing is left in the engine of what compaction up to `revision` forgets:
        during a later `sweep`, at the end of a `load`, or now (v3 API, Compact, physical). It gets a Fault
        now when `MOST_AWAIT_SWEEP` wait.
        """
        if self._is_swept(revision):
            done(None)
        elif len(self._await_sweep) >= MOST_AWAIT_SWEEP:
            done(errors.too_many())
        else:
            self._await_sweep.append((revision, done))

    def _is_swept(self, revision: Revision) -> bool:
        return self.mvcc.swept >= min(revision, self.mvcc.compacted)

    def _tell_swept(self) -> None:
        if not self._await_sweep:
            return
        waiting, self._await_sweep = self._await_sweep, []
        for revision, done in waiting:
            if self._is_swept(revision):
                done(None)
            else:
                self._await_sweep.append((revision, done))

    # One door for each command. The counters are etcd's, oddities included (v2 API, statistics): some
    # refusals count as success.

    def _set(self, command: Set) -> Outcome:
        outcome = self.tree.set(command.path, command.value, command.dir, _life(command), command.refresh)
        if type(outcome) is Event:
            self.statistics.sets_success += 1
            self._record(outcome)
        else:
            self.statistics.sets_fail += 1
        return outcome

    def _create(self, command: Create) -> Outcome:
        return self._created(self.tree.create(command.path, command.value, command.dir, _life(command)))

    def _create_in_order(self, command: InOrder) -> Outcome:
        return self._created(
            self.tree.create_in_order(command.path, command.value, command.dir, _life(command))
        )

    def _created(self, outcome: Event | Fault) -> Outcome:
        if isinstance(outcome, Event):
            self.statistics.create_success += 1
            self._record(outcome)
        else:
            self.statistics.create_fail += 1
            if outcome.code == 104:
                self.statistics.sets_fail += 1
        return outcome

    def _update(self, command: Update) -> Outcome:
        outcome = self.tree.update(command.path, command.value, _life(command), command.refresh)
        if isinstance(outcome, Event):
            self._record(outcome)
        if isinstance(outcome, Event) or outcome.code in (102, 107):
            self.statistics.update_success += 1
        else:
            self.statistics.update_fail += 1
        return outcome

    def _compare_and_swap(self, command: CompareAndSwap) -> Outcome:
        outcome = self.tree.compare_and_swap(
            command.path,
            command.prev_value,
            command.prev_index,
            command.value,
            _life(command),
            command.refresh,
        )
        if isinstance(outcome, Event):
            self._record(outcome)
        if isinstance(outcome, Event) or outcome.code == 107:
            self.statistics.compare_and_swap_success += 1
        else:
            self.statistics.compare_and_swap_fail += 1
        return outcome

    def _delete(self, command: Delete) -> Outcome | Work:
        outcome = self.tree.delete(command.path, command.dir, command.recursive)
        work: Work | None = None
        if isinstance(outcome, Event):
            work = self._record_removal(outcome)
        if isinstance(outcome, Event) or outcome.code == 107:
            self.statistics.delete_success += 1
        else:
            self.statistics.delete_fail += 1
        return work or outcome

    def _compare_and_delete(self, command: CompareAndDelete) -> Outcome:
        outcome = self.tree.compare_and_delete(command.path, command.prev_value, command.prev_index)
        if isinstance(outcome, Event):
            self._record(outcome)
        if isinstance(outcome, Event) or outcome.code in (101, 102):
            self.statistics.compare_and_delete_success += 1
        else:
            self.statistics.compare_and_delete_fail += 1
        return outcome

    def _quorum_get(self, command: QuorumGet) -> Outcome:
        if not self.awaited():
            self._count_get(self.tree.fault(command.path))
            return None
        tree = self.tree
        nodes, size = tree.listed, tree.listed_bytes
        outcome = self.look(command.path, command.recursive)
        self.worked += NODE_UNITS * (tree.listed - nodes) + (tree.listed_bytes - size) // UNIT_BYTES
        return outcome

    def look(self, path: bytes, recursive: bool = False) -> Event | Walk | Fault:
        """The same as `get` in bounded time (`Tree.look`)."""
        outcome = self.tree.look(path, recursive)
        self._count_get(outcome if type(outcome) is Fault else None)
        return outcome

    def _count_get(self, fault: Fault | None) -> None:
        if fault is None or fault.code == 300:  # how many walks there are is this member's affair
            self.statistics.gets_success += 1
        else:
            self.statistics.gets_fail += 1

    def get(self, path: bytes, recursive: bool = False) -> Event | Fault:
        """Read the tree as it is here and now, and count it."""
        outcome = self.tree.get(path, recursive)
        if type(outcome) is Event:
            self.statistics.gets_success += 1
        else:
            self.statistics.gets_fail += 1
        return outcome

    def _expire(self, command: ExpireNodes) -> Work:
        for path, since in command.nodes:
            event = self.tree.expire(path, since)
            if event is not None:
                self.statistics.expire_count += 1
                work = self._record_removal(event)
                if work is not None:
                    yield from work
            yield COMMAND_UNITS
        return None

    def _note_ttl(self, command: NoteTtl) -> Outcome:
        self.worked += NODE_UNITS * len(command.nodes)
        for path, since, seconds in command.nodes:
            self.tree.note_ttl(path, since, seconds)
        return None

    # The v3 API. An alarm stands before everything that it shuts.

    def _put(self, command: Put) -> Outcome:
        alarms = self.alarms
        if alarms.nospace or alarms.corrupt:
            fault = alarms.refuse(command)
            if fault is not None:
                return fault
        if command.ignore_value:
            self.worked += self.mvcc.size_of(command.key) // UNIT_BYTES
        return txn.put(self.mvcc, self.leases, command)

    def _delete_range(self, command: DeleteRange) -> Outcome | Work:
        return self._shut(command) or txn.delete_range_steps(self.mvcc, command)

    def _range(self, command: Range) -> Outcome:
        return self._shut(command) or txn.range_later(self.mvcc, command)

    def _txn(self, command: Txn) -> Outcome | Work:
        done = self._shut(command) or txn.execute_short(self.mvcc, self.leases, command)
        if done is None:
            return txn.execute_steps(self.mvcc, self.leases, command)
        if type(done) is TxnDone:
            self.worked += txn.WRITE_UNITS * len(done.responses)
        return done

    def must_be_logged(self, command: Txn) -> bool:
        """Whether a transaction must go through the log even if it only reads: it compares so many keys that
        this is to be done in pieces, or a command is half done, and what it compares is in between.
        """
        return self._work is not None or txn.compared(self.mvcc, command) > txn.FEW_COMPARED

    def read_txn(self, command: Txn) -> TxnDone | Fault:
        """Answer a transaction that only reads (`txn.is_read`) here and now. Counts in `Mvcc.read_units`."""
        if not txn.is_read(command):
            raise ValueError("a transaction that may write goes through the log")
        fault = self._shut(command) or self.mvcc.check_revision(0)
        if fault is not None:
            return fault
        self.mvcc.read_units += txn.read_units(self.mvcc, command)
        return txn.execute(self.mvcc, self.leases, command)

    def _compact(self, command: Compact) -> Outcome:
        fault = self._shut(command) or self.mvcc.compact(command.revision)
        return Done(self.mvcc.revision) if fault is None else fault

    def _lease_grant(self, command: LeaseGrant) -> Outcome:
        lease = self._shut(command) or self.leases.grant(command.id, command.ttl, self.applied)
        return lease if isinstance(lease, Fault) else LeaseGranted(self.mvcc.revision, lease.id, lease.ttl)

    def _lease_renew(self, command: LeaseRenew) -> Outcome:
        lease = self._shut(command) or self.leases.renew(command.id, self.applied)
        return lease if isinstance(lease, Fault) else LeaseGranted(self.mvcc.revision, lease.id, lease.ttl)

    def _lease_revoke(self, command: LeaseRevoke) -> Outcome | Work:
        fault = self._shut(command)
        if fault is not None:
            return fault
        lease = self.leases.get(command.id)
        if lease is None:
            return refusal(Reason.LEASE_NOT_FOUND)
        return self._end_leases([lease])

    def _lease_expire(self, command: LeaseExpire) -> Outcome | Work:
        fault = self._shut(command)
        if fault is not None:
            return fault
        overdue = (self.leases.at(id_, since) for id_, since in command.leases)
        return self._end_leases(lease for lease in overdue if lease is not None)

    def _end_leases(self, leases: Iterable[Lease]) -> Work:
        ended: dict[LeaseId, Lease] = {}
        for lease in leases:
            if lease.id not in ended:
                ended[lease.id] = lease
                yield COMMAND_UNITS
                yield from txn.end_lease_steps(self.mvcc, lease.all_keys())
        for lease in ended.values():
            self.leases.remove(lease)
        return Done(self.mvcc.finish())

    def _lease_checkpoint(self, command: LeaseCheckpoint) -> Outcome:
        fault = self._shut(command)
        if fault is not None:
            return fault
        self.worked += NODE_UNITS * len(command.leases)
        for id_, since, remaining in command.leases:
            lease = self.leases.at(id_, since)
            if lease is not None:
                self.leases.checkpoint(lease, remaining)
        return Done(self.mvcc.revision)

    def _set_alarm(self, command: SetAlarm) -> Outcome:
        changed = self.alarms.set(command)
        self._alarms_touched.update(changed)
        return AlarmChanged(self.mvcc.revision, changed)

    def _shut(self, command: V3Command) -> Fault | None:
        alarms = self.alarms
        return alarms.refuse(command) if alarms.nospace or alarms.corrupt else None

    # Members count in the index and in the counters as etcd's own records of them do (v2 API, indexes).

    def _publish_member(self, command: PublishMember) -> Outcome:
        id_ = NodeId(command.id)
        if id_ in self._removed:
            return refusal(Reason.ID_REMOVED, self.tree.index)
        if command.level < self.level:
            return self._refusal(self._older(self.level, command.level))
        if id_ not in self._members:
            refused = self._add_member(AddMember(id_, command.peer_urls))
            if refused is not None:
                return refused
        self.statistics.sets_success += 1
        self._record_member(
            "set",
            msgspec.structs.replace(
                self._members[id_],
                name=command.name,
                client_urls=command.client_urls,
                level=command.level,
            ),
        )
        return None

    def _add_member(self, command: AddMember) -> Outcome:
        id_ = NodeId(command.id)
        if id_ in self._members or id_ in self._removed:
            return self._known(id_)
        if self._taken(command.peer_urls, id_):
            return refusal(Reason.PEER_URL_EXISTS, self.tree.index)
        self.statistics.create_success += 1
        self._record_member(
            "create", MemberInfo(id_, "", (), command.peer_urls, command.learner, command.promote)
        )
        return None

    def _join_member(self, command: JoinMember) -> Outcome:
        """The one place where it is decided whether who joins is to vote: here everything before it has
        happened, on every member alike. Whom it replaces has left the configuration with this entry, and
        leaves the list even if the other is refused for its addresses; where the other's id was given before,
        nothing is changed.
        """
        id_, replaced = NodeId(command.id), NodeId(command.replaces)
        if id_ in self._members or id_ in self._removed:
            return self._known(id_)
        if replaced in self._members:
            self._remove_member(RemoveMember(replaced))
        promote = to_vote(self._members.values()) < command.voters
        return self._add_member(AddMember(id_, command.peer_urls, learner=True, promote=promote))

    def _remove_member(self, command: RemoveMember) -> Outcome:
        id_ = NodeId(command.id)
        if id_ not in self._members:
            return self._unknown(id_)
        del self._members[id_]
        self._removed.add(id_)
        self._touched.add(id_)
        self.statistics.delete_success += 1
        self.statistics.create_success += 1
        self._record_internal("delete", b"/members/" + tables.member_key(id_))
        self._record_internal("create", b"/removed_members/" + tables.member_key(id_))
        return None

    def _update_member(self, command: UpdateMember) -> Outcome:
        id_ = NodeId(command.id)
        if id_ in self._members and self._taken(command.peer_urls, id_):
            return refusal(Reason.PEER_URL_EXISTS, self.tree.index)
        return self._change_member(id_, peer_urls=command.peer_urls)

    def _promote_member(self, command: PromoteMember) -> Outcome:
        return self._change_member(NodeId(command.id), learner=False, promote=False)

    def _change_member(self, id_: NodeId, **fields: object) -> Outcome:
        if id_ not in self._members:
            return self._unknown(id_)
        self.statistics.update_success += 1
        self._record_member("update", msgspec.structs.replace(self._members[id_], **fields))
        return None

    def _refuse_change(self, command: RefuseChange) -> Outcome:
        return self._refusal(command.why)

    def _taken(self, peer_urls: tuple[str, ...], id_: NodeId) -> bool:
        others = (other.peer_urls for other in self._members.values() if other.id != id_)
        return any(url in peer_urls for urls in others for url in urls)

    def _unknown(self, id_: NodeId) -> Fault:
        return refusal(Reason.ID_REMOVED if id_ in self._removed else Reason.ID_NOT_FOUND, self.tree.index)

    def _known(self, id_: NodeId) -> Fault:
        return refusal(Reason.ID_EXISTS if id_ in self._members else Reason.ID_REMOVED, self.tree.index)

    def _refusal(self, why: str) -> Fault:
        return told(why, self.tree.index)

    def _record_member(self, action: str, member: MemberInfo) -> None:
        self._members[member.id] = member
        self._touched.add(member.id)
        self._record_internal(action, b"/members/" + tables.member_key(member.id))

    def _set_cluster_version(self, command: SetClusterVersion) -> Outcome:
        self.cluster_version = command.text
        self.statistics.sets_success += 1
        self._record_internal("set", b"/version")
        return None

    @staticmethod
    def _older(level: int, known: int) -> str:
        return (
            f"the cluster is at feature level {level}, this member knows {known}: it is older than the"
            " cluster: upgrade it to the version of the others"
        )

    @property
    def common_level(self) -> int:
        """The highest feature level that every member has told that it knows; 0 while one has told none."""
        return min((member.level for member in self._members.values()), default=0)

    def _raise_level(self, command: RaiseLevel) -> Outcome:
        if command.level > self.common_level:
            return self._refusal(f"not every member knows feature level {command.level}")
        if command.level > self.LEVEL:
            raise CannotApply(
                _too_new(self.applied, f"feature level {command.level}, and {self.LEVEL} is known")
            )
        self.level = max(self.level, command.level)
        return None

    def _record(self, event: Event) -> None:
        self._remember(event)
        if event.prev is None:
            self.worked += NODE_UNITS * event.node.key.count(b"/")
        if not event.refresh:
            self._events.append(event)

    def _record_removal(self, event: Event) -> Work | None:
        """Something was removed; what is left to do where it was a directory that was not empty."""
        if not self.tree.clearing:
            self._record(event)
            return None
        self._remember(event)
        return self._clear(event)

    def _clear(self, event: Event) -> Work:
        tree = self.tree
        runs: list[list[bytes]] = []
        while tree.clearing:
            gone = tree.clear()
            if run := sorted(filter(self.watched, gone)):
                runs.append(run)
            yield (CLEAR_UNITS + tree.walkers) * len(gone)
        told: list[bytes] = []
        for some in batches(merge(*runs), tree.clear_step):
            told += some
            yield CLEAR_UNITS * len(some)
        self._events.append(msgspec.structs.replace(event, removed=tuple(told)))
        return event

    def _record_internal(self, action: str, path: bytes) -> None:
        """A change of the cluster's own data.

        It takes an index and a place in the window and is shown to nobody.
        """
        index = self.tree.skip()
        self._remember(Event(action, index, NodeView(path, index, index), internal=True))

    def _remember(self, event: Event) -> None:
        packed = tables.pack_event(event)
        self.worked += len(packed) // UNIT_BYTES
        self.history.add(event)
        self.trail.add(packed)
        self._window[tables.window_key(event.index)] = packed


def _perhaps(_: bytes) -> bool:
    return True


def _always() -> bool:
    return True


def _life(command: Set | Create | Update | CompareAndSwap | InOrder) -> Life:
    return Life(Nanos(command.expires), command.ttl) if command.expires else FOR_EVER


def _too_new(index: Index, what: str) -> str:
    return (
        f"entry {index} of the log: {what}; this member is older than the cluster: upgrade it to the version"
        f" of the others. If no version knows it: netstored --inspect-log {index}:{index} shows it, and"
        f" --skip-entry {index} passes over it"
    )
