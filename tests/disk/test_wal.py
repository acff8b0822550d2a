"""The log is compared with a simple model under crashes and failed writes; then its rules one by one."""

from __future__ import annotations

import errno
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from netstore.disk.diagnose import segment_name
from netstore.disk.frame import FRAGMENT, Identity, Kind, Place, encode_record
from netstore.disk.wal import Replay, Wal
from netstore.errors import CorruptData
from netstore.raft.entry import ConfState, Entry, EntryKind, HardState, SnapshotMeta
from netstore.raft.invariant import InvariantBroken
from netstore.types import Index, NodeId, Term
from tests.disk.platter import Platter

if TYPE_CHECKING:
    from collections.abc import Callable

IDENTITY = Identity(0xC1, 0xA1)
SEGMENT = 2048
FULL = OSError(errno.ENOSPC, "No space left on device")
CONF = ConfState((NodeId(0xA1),))


def entry(index: int, term: int = 1, data: bytes = b"") -> Entry:
    return Entry(Index(index), Term(term), EntryKind.NORMAL, data)


def entries(first: int, last: int, size: int = 10) -> list[Entry]:
    return [entry(index, 1, bytes([index % 256]) * size) for index in range(first, last + 1)]


def meta(index: int, term: int = 1) -> SnapshotMeta:
    return SnapshotMeta(Index(index), Term(term), CONF)


class View(NamedTuple):
    """A simple model of the log: what a replay must return after each record."""

    hard_state: HardState | None = None
    mark: SnapshotMeta | None = None
    entries: tuple[Entry, ...] = ()

    def appended(self, hard_state: HardState | None, batch: list[Entry]) -> View:
        held = [old for old in self.entries if not batch or old.index < batch[0].index]
        return View(hard_state or self.hard_state, self.mark, (*held, *batch))

    def marked(self, mark: SnapshotMeta) -> View:
        known = any((old.index, old.term) == (mark.index, mark.term) for old in self.entries)
        held = tuple(old for old in self.entries if known and old.index > mark.index)
        return View(self.hard_state, mark, held)

    @property
    def first(self) -> int:
        return (self.mark.index if self.mark else 0) + 1


def seen(replay: Replay) -> View:
    return View(replay.hard_state, replay.mark, tuple(replay.entries))


class Log(RuleBasedStateMachine):
    """A replay returns the model after some record at or after the last acknowledged one."""

    def __init__(self) -> None:
        super().__init__()
        self.platter = Platter(size=SEGMENT)
        self.wal, _ = Wal.open(self.platter, IDENTITY, SEGMENT)
        self.views = [View()]
        self.acknowledged = 0
        self.answers: list[bool] = []

    def promise(self, view: View) -> Callable[[OSError | None], None]:
        """Add a record that is under way; its result acknowledges it or removes it."""
        place = len(self.views)
        self.views.append(view)

        def done(error: OSError | None) -> None:
            if error is None:
                assert self.acknowledged == place - 1
                self.acknowledged = place
            else:
                del self.views[self.acknowledged + 1 :]

        return done

    @rule(back=st.integers(0, 3), sizes=st.lists(st.integers(0, 700), max_size=4), vote=st.booleans())
    def append(self, back: int, sizes: list[int], vote: bool) -> None:
        now = self.views[-1]
        held = now.entries
        first = max(now.first, now.first + len(held) - back)
        term = held[-1].term if held else now.mark.term if now.mark else 1
        if first < now.first + len(held):
            term = Term(term + 1)
        batch = [entry(first + place, term, bytes([size % 256]) * size) for place, size in enumerate(sizes)]
        hard_state = HardState(Term(term), NodeId(vote), Index(first)) if vote else None
        self.wal.append(hard_state, batch, self.promise(now.appended(hard_state, batch)))

    @rule(data=st.data())
    def mark_own(self, data: st.DataObject) -> None:
        now = self.views[-1]
        if now.entries:
            last = data.draw(st.sampled_from(now.entries))
            mark = meta(last.index, last.term)
            self.wal.mark(mark, self.promise(now.marked(mark)))

    @rule(ahead=st.integers(-3, 5))
    def mark_installed(self, ahead: int) -> None:
        """A snapshot from the leader, beyond the end of the log or with another term."""
        now = self.views[-1]
        last = now.entries[-1] if now.entries else entry(now.first - 1, now.mark.term if now.mark else 1)
        mark = meta(max(now.first, last.index + ahead), last.term + 1)
        self.wal.mark(mark, self.promise(now.marked(mark)), replaces=True)
        if mark.index < last.index:
            with pytest.raises(InvariantBroken, match="given to a log of entries"):
                self.wal.append(None, [entry(last.index + 1, mark.term)], Answers())

    @rule(beyond=st.integers(0, 10))
    def drop(self, beyond: int) -> None:
        self.wal.drop_before(Index(self.views[self.acknowledged].first + beyond))

    @precondition(lambda self: self.platter.waiting)
    @rule(count=st.integers(1, 5))
    def turn(self, count: int) -> None:
        self.platter.turn(count)

    @precondition(lambda self: self.platter.waiting)
    @rule(complete=st.integers(0, 2))
    def fail(self, complete: int) -> None:
        self.platter.turn(complete)
        self.platter.fail(FULL)

    @rule(complete=st.integers(0, 5), kept=st.lists(st.booleans(), max_size=12))
    def crash(self, complete: int, kept: list[bool]) -> None:
        self.reopen(self.platter.crashed(complete, kept))

    @rule()
    def stop(self) -> None:
        self.wal.close()
        assert self.acknowledged == len(self.views) - 1
        self.reopen(self.platter)

    def reopen(self, platter: Platter) -> None:
        self.platter = Platter(platter.disk, SEGMENT)
        self.wal, replay = Wal.open(self.platter, IDENTITY, SEGMENT)
        view = seen(replay)
        possible = self.views[self.acknowledged :]
        assert view in possible
        self.views = [view]
        self.acknowledged = 0

    @invariant()
    def a_second_reader_agrees(self) -> None:
        """The disk as it is now, without the writes under way, replays to the last acknowledged record."""
        assert (
            seen(Wal.open(Platter(self.platter.disk, SEGMENT), IDENTITY, SEGMENT)[1])
            == self.views[self.acknowledged]
        )


Log.TestCase.settings = settings(stateful_step_count=30)
TestLog = Log.TestCase


class Answers:
    """Collects completions."""

    def __init__(self) -> None:
        self.got: list[OSError | None] = []

    def __call__(self, error: OSError | None) -> None:
        self.got.append(error)


def fresh(segment_bytes: int = SEGMENT) -> tuple[Platter, Wal]:
    platter = Platter(size=segment_bytes)
    return platter, Wal.open(platter, IDENTITY, segment_bytes)[0]


def test_nothing_is_answered_before_the_device_has_synced_it() -> None:
    platter, wal = fresh()
    answers = Answers()
    wal.append(None, entries(1, 1), answers)
    assert answers.got == []
    platter.turn()
    assert answers.got == [None]


def test_a_batch_is_one_write() -> None:
    platter, wal = fresh()
    wal.append(HardState(Term(1), NodeId(1), Index(0)), entries(1, 20), Answers())
    assert len(platter.waiting) == 1


def test_the_next_segment_repeats_hard_state_and_mark() -> None:
    platter, wal = fresh()
    hard_state = HardState(Term(3), NodeId(2), Index(1))
    wal.append(hard_state, entries(1, 2), Answers())
    wal.mark(meta(2), Answers())
    for first in range(3, 90, 10):
        wal.append(None, entries(first, first + 9, 50), Answers())
        platter.turn()
    assert len(platter.disk) > 2
    wal.drop_before(Index(1000))
    platter.turn()
    assert segment_name(0) in platter.disk  # it has entry 3, which the mark does not cover
    wal.mark(meta(60), Answers())
    wal.drop_before(Index(1000))
    platter.turn()
    assert segment_name(0) in platter.disk  # the mark was not durable when it was asked
    wal.drop_before(Index(1000))
    platter.turn()
    assert segment_name(0) not in platter.disk
    read: list[int] = []
    replay = Wal.open(platter, IDENTITY, SEGMENT, progress=read.append)[1]
    assert len(read) > 1, "it is told of each segment"
    assert read == [*accumulate(map(len, platter.disk.values()))]
    assert (replay.hard_state, replay.mark) == (hard_state, meta(60))
    assert [kept.index for kept in replay.entries] == list(range(61, 93))


def test_a_segment_is_not_removed_before_the_next_one_is_durable() -> None:
    platter, wal = fresh()
    wal.append(None, entries(1, 3, 500), Answers())
    wal.mark(meta(3), Answers())
    platter.turn()
    wal.append(None, entries(4, 5, 500), Answers())
    wal.drop_before(Index(4))
    assert len(platter.waiting) == 1
    platter.fail(FULL)
    wal.append(None, entries(4, 5, 500), Answers())
    platter.turn()
    wal.drop_before(Index(4))
    platter.turn()
    assert platter.names() == [segment_name(1)]
    assert [kept.index for kept in Wal.open(platter, IDENTITY, SEGMENT)[1].entries] == [4, 5]


def test_a_batch_larger_than_a_segment_is_kept() -> None:
    platter, wal = fresh()
    big = [entry(1, 1, bytes(5 * FRAGMENT)), entry(2, 1, b"\xff" * FRAGMENT)]
    wal.append(None, entries(1, 1), Answers())
    wal.append(None, big, Answers())
    wal.append(None, entries(3, 3), Answers())
    platter.turn()
    assert Wal.open(platter, IDENTITY, SEGMENT)[1].entries == [*big, *entries(3, 3)]


def test_after_a_full_disk_the_same_batch_may_be_appended_again() -> None:
    platter, wal = fresh()
    answers = Answers()
    wal.append(None, entries(1, 2), answers)
    platter.turn()
    wal.append(None, entries(3, 4), answers)
    wal.append(HardState(Term(9), NodeId(9), Index(9)), entries(5, 6), answers)
    platter.fail(FULL)
    assert answers.got == [None, FULL, FULL]
    wal.append(None, entries(3, 3), answers)
    platter.turn()
    replay = Wal.open(platter, IDENTITY, SEGMENT)[1]
    assert replay.entries == entries(1, 3)
    assert replay.hard_state is None


def test_nothing_is_accepted_until_all_failures_are_reported() -> None:
    """It would be kept, while the writes before it are not."""
    platter, wal = fresh()
    answers = Answers()
    left: list[int] = []

    def failed(error: OSError | None) -> None:
        answers(error)
        left.append(2 - len(left))
        if left[-1]:
            with pytest.raises(InvariantBroken, match="has not reported all failures"):
                wal.append(HardState(Term(1), NodeId(0), Index(0)), [], answers)
            with pytest.raises(InvariantBroken, match="has not reported all failures"):
                wal.mark(meta(1), answers)
        else:
            wal.append(None, entries(1, 1), answers)

    wal.append(None, entries(1, 2), answers)
    platter.turn()
    wal.mark(meta(1), failed)
    wal.append(None, entries(3, 4), failed)
    wal.append(None, entries(5, 6), failed)
    platter.fail(FULL)
    wal.append(None, entries(2, 2), answers)
    platter.turn()
    assert answers.got == [None, FULL, FULL, FULL, None, None]
    assert Wal.open(platter, IDENTITY, SEGMENT)[1].entries == entries(1, 2)


def test_entries_that_do_not_follow_the_last_one_are_refused() -> None:
    """No start could read such a log."""
    platter, wal = fresh()
    wal.append(None, entries(1, 4), Answers())
    platter.turn()
    wal.append(None, entries(5, 7), Answers())
    platter.fail(FULL)
    with pytest.raises(InvariantBroken, match="entry 6 given to a log of entries 1 to 4"):
        wal.append(None, entries(6, 6), Answers())
    wal.mark(meta(2), Answers())
    with pytest.raises(InvariantBroken, match="entry 2 given to a log of entries 3 to 4"):
        wal.append(None, entries(2, 3), Answers())
    wal.append(None, entries(3, 3), Answers())
    wal.mark(meta(9), Answers())
    with pytest.raises(InvariantBroken, match="entry 4 given to a log of entries 10 to 9"):
        wal.append(None, entries(4, 5), Answers())
    platter.turn()
    wal, replay = Wal.open(platter, IDENTITY, SEGMENT)
    assert (replay.mark, replay.entries) == (meta(9), [])
    for first in (9, 11):
        with pytest.raises(InvariantBroken, match="given to a log of entries 10 to 9"):
            wal.append(None, entries(first, first), Answers())
    wal.append(None, entries(10, 12), Answers())


def test_entries_after_a_snapshot_that_replaces_the_log_follow_the_snapshot() -> None:
    """Entries that the log had after the snapshot's index belong to another log."""
    platter, wal = fresh()
    wal.append(None, entries(1, 15), Answers())
    wal.mark(meta(12, 2), Answers(), replaces=True)
    for first in (12, 14, 16):
        with pytest.raises(InvariantBroken, match="given to a log of entries 13 to 12"):
            wal.append(None, [entry(first, 2)], Answers())
    wal.append(None, [entry(13, 2)], Answers())
    platter.turn()
    assert Wal.open(platter, IDENTITY, SEGMENT)[1].entries == [entry(13, 2)]


def test_closing_finishes_the_writes_under_way() -> None:
    platter, wal = fresh()
    answers = Answers()
    wal.append(None, entries(1, 1), answers)
    wal.close()
    assert answers.got == [None]
    assert platter.closed
    assert Wal.open(Platter(platter.disk), IDENTITY, SEGMENT)[1].entries == entries(1, 1)


@pytest.mark.parametrize(
    ("kind", "payload", "why"),
    [
        (Kind.BATCH, b"\x05abc", "bytes announced"),
        (Kind.BATCH, b"\x00xyz", "entry batch"),
        (Kind.MARK, b"short", "snapshot description"),
        (9, b"", "record of unknown kind 9"),
    ],
)
def test_a_record_that_does_not_decode_is_refused_with_its_file(kind: Kind, payload: bytes, why: str) -> None:
    platter, wal = fresh()
    wal.append(None, [], Answers())
    data, _ = encode_record(wal._seed, wal._state.place, kind, payload, 0)
    platter.turn()
    platter.write(segment_name(0), wal._state.place.at, data, Answers())
    platter.turn()
    with pytest.raises(CorruptData, match=rf"0000000000000000\.wal: .*{why}"):
        Wal.open(platter, IDENTITY, SEGMENT)


def test_entries_that_leave_a_gap_are_refused() -> None:
    platter, wal = fresh()
    wal.append(None, entries(1, 2), Answers())
    wal._state = wal._state._replace(last=4)
    wal.append(None, entries(5, 5), Answers())
    platter.turn()
    with pytest.raises(CorruptData, match="entry 5 follows entry 2"):
        Wal.open(platter, IDENTITY, SEGMENT)


def test_other_files_in_the_folder_are_left_alone() -> None:
    platter, wal = fresh()
    platter.disk |= {"identity": b"me", "0000.wal": b"x", "00000000000000zz.wal": b"x"}
    wal.append(None, entries(1, 1), Answers())
    platter.turn()
    assert Wal.open(platter, IDENTITY, SEGMENT)[1].entries == entries(1, 1)


def test_an_empty_append_is_a_sync() -> None:
    platter, wal = fresh()
    answers = Answers()
    wal.append(None, [], answers)
    platter.turn()
    assert answers.got == [None]
    assert Wal.open(platter, IDENTITY, SEGMENT)[1] == Replay()
    assert Place(0, 0) < wal._state.place


def written(platter: Platter, first: int, last: int) -> bytes:
    """Write entries, one in each batch, all synced; the position of the log."""
    wal, _ = Wal.open(platter, IDENTITY, SEGMENT)
    for index in range(first, last + 1):
        wal.append(None, [entry(index, 1, b"x" * 100)], lambda error: None)
        platter.turn()
    return wal.position()


def used(platter: Platter, name: str) -> int:
    return len(platter.disk[name].rstrip(b"\0"))


@pytest.mark.parametrize("kept_by", ["the device", "the state"])
def test_a_log_that_lost_a_synced_tail_is_refused(kept_by: str) -> None:
    """What is left looks like a torn write; only the note shows that it was synced."""
    platter = Platter(size=SEGMENT)
    told = written(platter, 1, 5)
    name = segment_name(0)
    end = used(platter, name)
    if kept_by == "the device":
        told = b""
    else:
        platter.note = b""
    whole = dict(platter.disk)
    for lost in (1, 3, 60, 119, 300, end):
        platter.disk = dict(whole)
        platter.disk[name] = platter.disk[name][: end - lost].ljust(SEGMENT, b"\0")
        found = dict(platter.disk)
        with pytest.raises(CorruptData, match=rf"{name} at offset \d+: (ends here, and was on|missing: the)"):
            Wal.open(platter, IDENTITY, SEGMENT, position=told)
        assert platter.disk == found, "nothing was changed"


def test_a_log_with_no_file_left_is_refused() -> None:
    platter = Platter(size=SEGMENT)
    written(platter, 1, 40)
    assert len(platter.disk) > 1
    platter.disk.clear()
    with pytest.raises(CorruptData, match="missing: the log has no file, and was written once"):
        Wal.open(platter, IDENTITY, SEGMENT)


def test_a_log_without_its_last_file_is_refused() -> None:
    platter = Platter(size=SEGMENT)
    written(platter, 1, 40)
    del platter.disk[max(platter.disk)]
    with pytest.raises(CorruptData, match="ends here, and was on stable storage up to offset"):
        Wal.open(platter, IDENTITY, SEGMENT)


def test_another_log_of_the_same_member_is_refused() -> None:
    """As long, and intact, but not what was acknowledged."""
    platter, other = Platter(size=SEGMENT), Platter(size=SEGMENT)
    told = written(platter, 1, 5)
    wal, _ = Wal.open(other, IDENTITY, SEGMENT)
    for index in range(1, 7):
        wal.append(None, [entry(index, 2, b"y" * 100)], lambda error: None)
    other.turn()
    with pytest.raises(CorruptData, match="not the records that were on stable storage here"):
        Wal.open(other, IDENTITY, SEGMENT, position=told)


def test_a_note_of_another_log_or_of_a_removed_segment_is_ignored() -> None:
    platter = Platter(size=SEGMENT)
    wal, _ = Wal.open(platter, IDENTITY, SEGMENT)
    assert wal.position() == b""
    wal.append(None, entries(1, 1), lambda error: None)
    platter.turn()
    early = wal.position()
    wal.append(None, entries(2, 40, 100), lambda error: None)
    wal.append(None, entries(41, 41), lambda error: None)
    wal.mark(meta(40), lambda error: None)
    platter.turn()
    wal.drop_before(Index(41))
    platter.turn()
    assert segment_name(0) not in platter.disk
    platter.note = early
    _, replay = Wal.open(platter, IDENTITY, SEGMENT, position=early)
    assert replay.last == 41
    stranger = Platter(size=SEGMENT)
    other, _ = Wal.open(stranger, Identity(0xC1, 0xB2), SEGMENT)
    other.append(None, entries(1, 100, 100), lambda error: None)
    stranger.turn()
    for note in (other.position(), b"x", other.position()[:-1], bytes(20)):
        _, replay = Wal.open(platter, IDENTITY, SEGMENT, position=note)
        assert replay.last == 41


def test_no_memory_for_the_first_record_of_a_segment_leaves_the_log_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Closing the log then seals it at its end; appending again writes the record."""
    for again in (False, True):
        platter, wal = fresh()
        wal.append(HardState(Term(1), NodeId(0), Index(0)), entries(1, 3), Answers())
        platter.turn()

        def short(*arguments: Any) -> Any:
            if arguments[0] == IDENTITY.seed(1) and arguments[2] == Kind.BATCH:
                raise MemoryError
            return encode_record(*arguments)

        monkeypatch.setattr("netstore.disk.wal.encode_record", short)
        with pytest.raises(MemoryError):
            wal.append(None, entries(4, 6, SEGMENT // 2), Answers())
        monkeypatch.undo()
        if again:
            wal.append(None, entries(4, 6, SEGMENT // 2), Answers())
            platter.turn()
        wal.close()
        _, replay = Wal.open(Platter(platter.disk, SEGMENT), IDENTITY, SEGMENT)
        assert replay.last == (6 if again else 3)
