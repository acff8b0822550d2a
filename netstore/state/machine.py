"""The replicated state machine: the only way to change the state is to apply log entries here.

Invariants:
 1. Whatever bytes an entry holds, every member does the same with it. Bytes that are no command are refused
    by all alike. A command that a later version may have written (`errors.UnknownCommand`, a level beyond
    `LEVEL`) raises CannotApply with nothing changed, and the member stops.
 2. The applied index changes together with the state, and `save` hands both to the engine in one write, so
    that they agree after any crash. After an exception within a command or a save nothing is saved any more.
 3. The outcome depends on the state and the command alone.
 4. A long command is carried out in pieces. Until it is finished, it does not count as applied, nothing of it
    can become durable and nothing of it is visible: no revision, no change, no lease that it ends or whose
    keys it moves. Exception: a removed directory of the v2 tree becomes invisible at one moment within the
    command, with all below it, and its event is in the window from then on; live watchers are told when all
    below it was removed.
"""

from __future__ import annotations

from enum import Enum
from types import GeneratorType
from typing import TYPE_CHECKING, ClassVar, Final, TypeAlias

import msgspec

from netstore.errors import CannotApply, CorruptData, Fault, MustStop, NetstoreError, UnknownCommand
from netstore.state import commands, features, tables
from netstore.state.applying import COMMAND_UNITS, UNIT_BYTES, Applying
from netstore.state.checksum import COMMAND_BYTES, RunningChecksum
from netstore.state.commands import Command, head_of
from netstore.state.entries import check_skipped, opened, too_new
from netstore.state.envelope import first_level_command
from netstore.state.members import MemberInfo, Roster
from netstore.state.plugins import Plugins
from netstore.state.v2.statistics import REPLICATED
from netstore.state.v2.store import V2Store
from netstore.state.v2.walk import Walk
from netstore.state.v3 import txn
from netstore.state.v3.commands import Txn, V3Outcome
from netstore.state.v3.origins import NOBODY
from netstore.state.v3.store import V3Store
from netstore.types import EtcdIndex, Event, Index

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping
    from collections.abc import Set as AbstractSet

    from netstore.limits import Budget
    from netstore.seams import Engine
    from netstore.state.v3.savedkeys import SavedKeys
    from netstore.types import KeyChange, NodeId

Outcome: TypeAlias = Event | Walk | V3Outcome | None
"""The result of a command: a change, an answer, a refusal, or None."""

Work: TypeAlias = "Generator[int, None, Outcome]"
"""A command that is carried out in pieces (`txn`)."""

APPLY_UNITS: Final = 2_000
"""Units (about a microsecond) that `begin` and `go_on` work on one command in one call."""

SETTLE_UNITS: Final = 512
"""Units of work after which the running checksum includes what is pending: that of 1 MiB of commands."""

UNSAVED_UNITS: Final = 2_000
"""Units of work, about, whose changes may wait for the engine to pull them: those of 200 small commands, or 4
MiB (`COMMAND_UNITS`, `UNIT_BYTES`).
"""

_NEW: Final = tables.Scalars(EtcdIndex(0), (0,) * len(REPLICATED), "")
"""The scalars of an empty state."""


class Unfinished(Enum):
    """The type of `UNFINISHED`."""

    UNFINISHED = 0


UNFINISHED: Final = Unfinished.UNFINISHED
"""What `begin` and `go_on` return while there is more to do of the command."""


class NotSaved(MustStop):
    """A save has failed halfway: what it had taken from the stores is in the log only. The member ends, and
    applies it again at its next start.
    """


def _second_byte(number: int) -> bytes:
    """The second byte of a command with this number (msgpack specification, array and int formats)."""
    return msgspec.msgpack.encode(number)[:1]


def _ignore(_: int) -> None:
    """Drop reports on the progress of loading."""


class Machine:
    """The v2 store, the v3 store, the members and the plugins, as of `applied`.

    The loop applies a batch of entries and takes the events for the watchers (`V2Store.take_events`,
    `take_changes`). It saves when `is_save_due`; otherwise the engine makes it save before the next commit.
    """

    LEVEL: ClassVar[int] = features.LEVEL
    """The highest feature level that this member knows."""

    LEVELS: ClassVar[Mapping[int, int]] = features.LEVELS
    """Number of a command -> its feature level, where that is not the first."""

    def __init__(self, engine: Engine, reads: Budget | None = None, walks: Budget | None = None) -> None:
        """`reads` and `walks` are the memory budgets of stepwise reads of the v3 keys and the v2 tree."""
        self._engine = engine
        self.applied = Index(0)
        """Index of the last log entry that is part of the state."""
        self.checksum = RunningChecksum()
        """The checksum of everything that was applied (`digest`)."""
        self.applying = Applying()
        self.v2 = V2Store(engine, self.checksum, self.applying, walks)
        self.v3 = V3Store(engine, self.checksum, self.applying, reads)
        self.roster = Roster(engine, self.v2, self.applying, self.LEVEL)
        self.plugins = Plugins(engine, self.checksum)
        self.later: frozenset[bytes] = frozenset(map(_second_byte, self.LEVELS))
        """The second byte of each command that is not of the first feature level, and perhaps of others."""
        # The parts of the stores that others read. These objects are never replaced.
        self.tree = self.v2.tree
        self.history = self.v2.history
        self.statistics = self.v2.statistics
        self.mvcc = self.v3.mvcc
        self._origins = self.mvcc.origins
        self.leases = self.v3.leases
        self.alarms = self.v3.alarms
        self.skipped: Mapping[Index, str] = {}
        """Entries that the operator told this member to skip: index -> hash of the payload."""
        self._scalars: tables.Scalars | None = None
        self._work: Work | None = None
        """The command that is not finished."""
        self._work_index = Index(0)
        self._settle_at = SETTLE_UNITS
        """Value of `applying.worked` from which on the checksum is to be updated."""
        self._save_at = UNSAVED_UNITS
        """Value of `applying.worked` from which on what was applied is to be saved."""
        self._is_broken = False
        """A command or a save has raised an exception: the stores have a part of its changes, or have lost
        some. Nothing of them must be saved. Also while a save, or a piece of a command or of the erasing
        after a compaction, is under way.
        """
        self._before: Iterator[None] = iter(())
        self._handlers: dict[type, Callable[..., Outcome | Work]] = {
            **self.v2.handlers(),
            **self.v3.handlers(),
            **self.roster.handlers(),
            **self.plugins.handlers(),
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

    def load(self, told: Callable[[int], object] = _ignore, saved: SavedKeys | None = None) -> None:
        """Replace the state by what the engine holds. `told` is called with the number of records read so
        far, after every few hundred. `saved` is the index of the v3 keys, if it was saved for this state.

        O(stored nodes and v3 records). CorruptData if it cannot be read; NoRestart if it is of a feature
        level that this release does not know.
        """
        for _ in self._load(whole=True, saved=saved):
            told(self.loaded)
        for _ in self.free_steps():
            pass

    def load_steps(self) -> Iterator[None]:
        """The same in bounded steps. Until the last one no v3 key can be read; the leases change when they
        were read, the rest of the state in the last step. To be followed by `free_steps`.
        """
        return self._load(whole=False)

    @property
    def loaded(self) -> int:
        """How many records were read since `load` or `load_steps` began last."""
        return self.v2.loaded + self.v3.loaded + self.mvcc.loaded

    @property
    def stored(self) -> int:
        """How many records `load` reads: one for each v2 node, lease, and change of a v3 key that was not
        compacted.
        """
        return sum(self._engine.count(table) or 0 for table in (tables.NODES, tables.LEASES, tables.RECORDS))

    def _load(self, *, whole: bool, saved: SavedKeys | None = None) -> Iterator[None]:
        v2, v3 = self.v2, self.v3
        v2.loaded = v3.loaded = self.mvcc.loaded = 0
        self.mvcc.suspended = True
        nodes = yield from v2.load_steps(whole=whole)
        yield from v3.load_steps(whole=whole, saved=saved)
        self._work = None
        self._is_broken = False
        self.applied = self._engine.applied()
        self._scalars = None
        scalars = _NEW
        for stored in tables.load_all(self._engine, tables.STATE, tables.Scalars):
            self._scalars = scalars = stored
        v2.restore_counts(scalars.counts)
        self.roster.load(scalars.version, scalars.level)
        self.plugins.load()
        self._before = v2.restore(scalars.index, nodes)
        v3.tell_swept()

    def saved_keys(self, applied: Index, records: int) -> SavedKeys | None:
        """The index of the v3 keys, to be given to the `load` of the same state, after the engine was closed
        with this applied index and so many v3 records. None if it would be of no use. The machine must not be
        used any more.
        """
        if self._work is not None or self._is_broken or self.applied != applied:
            return None
        return self.mvcc.saved_keys(records)

    def free_steps(self) -> Iterator[None]:
        """Free the v2 tree that the last `load_steps` replaced, in bounded steps: all at once would hold the
        loop too long.
        """
        before, self._before = self._before, iter(())
        return before

    # --- applying

    def enter(self, index: Index, payload: bytes) -> Outcome:
        """Carry out the log entry at `index`, given its payload: a command in its envelope, or empty.

        CannotApply, with nothing changed, if a later version has written it.
        """
        self._origins.payload = payload
        return self._finished(self._enter(index, payload))

    def begin(self, index: Index, payload: bytes, units: int = APPLY_UNITS) -> Outcome | Unfinished:
        """The same for about so many units. If more is to be done, the result is `UNFINISHED`, and `go_on`
        must be called until the command is finished before anything else is applied.
        """
        self._origins.payload = payload
        command = None if self.skipped else first_level_command(payload)
        outcome = self._enter(index, payload) if command is None else self._start(index, command)
        return self.go_on(units) if outcome is UNFINISHED else outcome

    def _finished(self, outcome: Outcome | Unfinished) -> Outcome:
        while outcome is UNFINISHED:
            outcome = self.go_on()
        return outcome

    def _enter(self, index: Index, payload: bytes) -> Outcome | Unfinished:
        if index in self.skipped:
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
        check_skipped(index, payload, self.skipped[index])
        self.apply(index, b"")
        return self.roster.refusal("the entry was passed over")

    def understand(self, payload: bytes) -> Command | None:
        """Decode the command of a payload that another member asks to have proposed; None if it has none.

        CorruptData if it is no command of this version and of the cluster's feature level.
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
        if command[1:2] not in self.later:
            return 1
        head = head_of(command)
        return 1 if head is None else self.LEVELS.get(head[0], 1)

    def apply(self, index: Index, command: bytes) -> Outcome:
        """Carry out a command at `index`. CannotApply as in `enter`.

        Empty bytes are an entry without a command: only the applied index changes.
        """
        self._origins.payload = NOBODY
        return self._finished(self._start(index, command))

    def _start(self, index: Index, command: bytes) -> Outcome | Unfinished:
        """Carry out a command, or begin it if it is done in pieces."""
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
            self.checksum.add(command[:COMMAND_BYTES])
            self.applied = index
            return self.roster.refusal(str(error))
        applying, checksum = self.applying, self.checksum
        if applying.worked >= self._settle_at:
            self._settle_at = applying.worked + SETTLE_UNITS
            checksum.settle()
        checksum.add(command[:COMMAND_BYTES])
        applying.index = index
        applying.worked += COMMAND_UNITS + len(command) // UNIT_BYTES
        try:
            outcome = self._handlers[type(decoded)](decoded)
        except CannotApply:
            checksum.take_back()
            raise
        except BaseException:
            self._is_broken = True
            raise
        if isinstance(outcome, GeneratorType):
            self._work, self._work_index = outcome, index
            self.leases.begin()
            return UNFINISHED
        self.applied = index
        return outcome  # type: ignore[return-value]  # a `Work` is always a generator

    def go_on(self, units: int = APPLY_UNITS) -> Outcome | Unfinished:
        """Continue the unfinished command for so many units."""
        work = self._work
        if work is None or self._is_broken:
            raise NetstoreError("no entry is half applied")
        self._is_broken = True  # until this piece is complete
        applying = self.applying
        try:
            while units > 0:
                before = applying.worked
                worked = next(work)
                applying.worked += worked  # in addition to what it has counted itself
                units -= applying.worked - before
        except StopIteration as end:
            self._save_at = 0
            self.leases.finish()
            self.applied = self._work_index
            self._work = None
            self._is_broken = False
            outcome: Outcome = end.value
            return outcome
        self._prepare()
        self.checksum.settle()
        self._is_broken = False
        return UNFINISHED

    def _prepare(self) -> None:
        """Hand what a piece has written to the engine, to be committed together with the whole command.
        O(what was written).
        """
        changes = self.mvcc.take_records()
        self.v2.save(changes, nodes_only=True)
        if changes:
            self._engine.prepare(changes)

    def must_be_logged(self, command: Txn) -> bool:
        """Whether a transaction must go through the log even if it only reads: if it compares so many keys
        that this takes several pieces, or while a command is half done, which compares would see.
        """
        return self._work is not None or txn.compared(self.mvcc, command) > txn.FEW_COMPARED

    # --- between batches

    def take_changes(self) -> list[KeyChange]:
        """The changes of v3 keys since the last call, in order, for live watchers."""
        return self.mvcc.take_changes()

    @property
    def is_save_due(self) -> bool:
        """Whether to `save` now. Otherwise the engine may do so when it makes its next commit
        (`Engine.changed`). A command that was done in pieces is saved at once: while the next one is half
        done, nothing can be.
        """
        return self.applying.worked >= self._save_at

    def save(self) -> None:
        """Hand everything applied since the last save to the engine; nothing while a command is half done, or
        after one, or a save, has failed.

        NotSaved if this one fails: it takes the changes out of the stores one after the other, so another
        one would write the applied index without those that this one had taken.

        O(distinct nodes changed, and v3 records written). Of a command in pieces only what its last piece
        wrote is left (`_prepare`).
        """
        if self._work is not None or self._is_broken:
            return
        self._is_broken = True  # until the engine has all of it
        try:
            self._save()
        except MustStop:
            raise
        except Exception as fault:
            raise NotSaved(f"the state cannot be saved: {fault!r}") from fault
        self._is_broken = False

    def _save(self) -> None:
        self._save_at = self.applying.worked + UNSAVED_UNITS
        changes: dict[tuple[str, bytes], bytes | None] = {}
        roster = self.roster
        self.v2.save(changes)
        if roster.touched:
            roster.save(changes)
        if self.plugins.touched:
            self.plugins.save(changes)
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
        return self._work is None and not self._is_broken and (self.leases.spent or self.mvcc.sweeping)

    def sweep(self) -> None:
        """Do a bounded part of the work that a compaction or a long command has left, and save it. To be
        called between batches while `sweeping`.
        """
        if self.leases.spent:
            self.leases.free_step()
            return
        self._is_broken = True  # until this piece is complete
        self.mvcc.sweep()
        self._is_broken = False
        self.save()
        self.v3.tell_swept()
