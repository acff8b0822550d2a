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
from types import GeneratorType
from typing import TYPE_CHECKING, ClassVar, Final, TypeAlias

from netstore.errors import CannotApply, CorruptData, Fault, NetstoreError, UnknownCommand
from netstore.state import commands, features, tables
from netstore.state.applying import COMMAND_UNITS, UNIT_BYTES, Applying
from netstore.state.commands import Command, head_of
from netstore.state.entries import check_skipped, opened, too_new
from netstore.state.envelope import first_level_command
from netstore.state.members import MemberInfo, Roster
from netstore.state.trail import COMMAND_BYTES, Trail
from netstore.state.v2.statistics import REPLICATED
from netstore.state.v2.store import V2Store
from netstore.state.v2.walk import Walk
from netstore.state.v3 import txn
from netstore.state.v3.commands import Txn, V3Outcome
from netstore.state.v3.store import V3Store
from netstore.types import EtcdIndex, Event, Index

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping
    from collections.abc import Set as AbstractSet

    from netstore.limits import Budget
    from netstore.seams import Engine
    from netstore.types import KeyChange, NodeId

Outcome: TypeAlias = Event | Walk | V3Outcome | None
"""What applying a command gave: the change or the answer, the refusal, or nothing to tell."""

Work: TypeAlias = "Generator[int, None, Outcome]"
"""A command that is carried out in pieces (`txn`)."""

APPLY_UNITS: Final = 2_000
"""Microseconds, about, that `apply` and `go_on` work on one command."""

_NEW: Final = tables.Scalars(EtcdIndex(0), (0,) * len(REPLICATED), "")
"""What a state starts with, before anything is written."""


class Unfinished(Enum):
    """A command was begun, and there is more to do of it."""

    UNFINISHED = 0


UNFINISHED: Final = Unfinished.UNFINISHED
"""What `apply` and `go_on` give then."""


def _to_nobody(_: int) -> None:
    """Nobody wants to know how far loading is."""


class Machine:
    """The v2 store, the v3 store and the members, as of `applied`.

    The loop applies a batch of entries, takes the events for the watchers (`V2Store.take_events`,
    `take_changes`) and saves, once per batch.
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
        self.trail = Trail()
        """What everything that was applied came to (`digest`)."""
        self.applying = Applying()
        self.v2 = V2Store(engine, self.trail, self.applying, walks)
        self.v3 = V3Store(engine, self.trail, self.applying, reads)
        self.roster = Roster(engine, self.v2, self.applying, self.LEVEL)
        # The parts of the stores that others read. They are the same objects for ever.
        self.tree = self.v2.tree
        self.history = self.v2.history
        self.statistics = self.v2.statistics
        self.mvcc = self.v3.mvcc
        self.leases = self.v3.leases
        self.alarms = self.v3.alarms
        self.passed_over: Mapping[Index, str] = {}
        """Entries that an operator has this member pass over: index -> hash of the payload."""
        self._scalars: tables.Scalars | None = None
        self._work: Work | None = None
        """The command that is not finished."""
        self._work_index = Index(0)
        self._before: Iterator[None] = iter(())
        self._doors: dict[type, Callable[..., Outcome | Work]] = {
            **self.v2.doors(),
            **self.v3.doors(),
            **self.roster.doors(),
        }

    @property
    def members(self) -> Mapping[NodeId, MemberInfo]:
        """The members of the cluster by id."""
        return self.roster.by_id

    @property
    def removed(self) -> AbstractSet[NodeId]:
        """The members that were removed; their ids are never used again."""
        return self.roster.removed

    # --- loading

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
        return self.v2.loaded + self.v3.loaded + self.mvcc.loaded

    @property
    def stored(self) -> int:
        """How many records `load` reads: one for each v2 node and lease, and for each change of a v3 key that
        is not compacted away.
        """
        return sum(self._engine.count(table) or 0 for table in (tables.NODES, tables.LEASES, tables.RECORDS))

    def _load(self, *, whole: bool) -> Iterator[None]:
        v2, v3 = self.v2, self.v3
        v2.loaded = v3.loaded = self.mvcc.loaded = 0
        self.mvcc.suspended = True
        nodes = yield from v2.load_steps(whole=whole)
        yield from v3.load_steps(whole=whole)
        self._work = None
        self.applied = self._engine.applied()
        self._scalars = None
        scalars = _NEW
        for stored in tables.load_all(self._engine, tables.STATE, tables.Scalars):
            self._scalars = scalars = stored
        v2.restore_counts(scalars.counts)
        self.roster.load(scalars.version, scalars.level)
        self._before = v2.restore(scalars.index, nodes)
        v3.tell_swept()

    def let_go(self) -> Iterator[None]:
        """Forget what was there before the last `load_steps` in bounded steps: at once it would take long."""
        before, self._before = self._before, iter(())
        return before

    # --- applying

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
            envelope = opened(payload, self.roster.level, self.LEVEL)
        except UnknownCommand as error:
            raise CannotApply(too_new(index, str(error))) from None
        except CorruptData as error:
            self._start(index, b"")
            return self.roster.refusal(str(error))
        return self._start(index, envelope.command)

    def _pass_over(self, index: Index, payload: bytes) -> Fault:
        check_skipped(index, payload, self.passed_over[index])
        self.apply(index, b"")
        return self.roster.refusal("the entry was passed over")

    def understand(self, payload: bytes) -> Command | None:
        """The command of a payload that somebody asks to have proposed; None for one without a command.

        CorruptData when it is none of this version and of the cluster's feature level.
        """
        command = first_level_command(payload)
        if command is None:
            command = opened(payload, self.roster.level, self.LEVEL).command
        if not command:
            return None
        if self.level_of(command) > self.roster.level:
            raise CorruptData(
                f"a command of feature level {self.level_of(command)} in a cluster at {self.roster.level}"
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
            raise CannotApply(too_new(index, str(error))) from None
        except CorruptData as error:
            self.trail.add(command[:COMMAND_BYTES])
            self.applied = index
            return self.roster.refusal(str(error))
        before = self.applied
        self.trail.add(command[:COMMAND_BYTES])
        applying = self.applying
        self.applied = applying.index = index
        applying.worked += COMMAND_UNITS + len(command) // UNIT_BYTES
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
        applying = self.applying
        try:
            while units > 0:
                before = applying.worked
                worked = next(work)
                applying.worked += worked  # beside what it counted itself
                units -= applying.worked - before
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
        self.v2.save(changes, nodes_only=True)
        if changes:
            self._engine.prepare(changes)

    def must_be_logged(self, command: Txn) -> bool:
        """Whether a transaction must go through the log even if it only reads: it compares so many keys that
        this is to be done in pieces, or a command is half done, and what it compares is in between.
        """
        return self._work is not None or txn.compared(self.mvcc, command) > txn.FEW_COMPARED

    # --- between batches

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
        roster = self.roster
        self.v2.save(changes)
        if roster.touched:
            roster.save(changes)
        scalars = tables.Scalars(
            self.tree.index, self.statistics.replicated(), roster.cluster_version, roster.level
        )
        if scalars != self._scalars:
            changes[tables.STATE, tables.STATE_KEY] = tables.encode(scalars)
            self._scalars = scalars
        self.v3.save(changes)
        self._engine.write(self.applied, changes)

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
        self.v3.tell_swept()
