"""The log against a model that keeps everything in plain lists."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from netstore.raft.entry import ENTRY_OVERHEAD_BYTES, Entry
from netstore.raft.invariant import InvariantBroken
from netstore.raft.log import MAX_APPLY_ENTRIES, Log
from netstore.types import Index, Term
from tests.support.raft_cluster import entry

ALL = 1 << 40
"""Bytes: more than there are."""


class LogAndTwin(RuleBasedStateMachine):
    """`all` is every entry there is now, from 1 on, as a plain list; `disk` is what a slow disk holds."""

    @initialize(terms=st.lists(st.integers(1, 2), max_size=4).map(sorted), applied=st.integers(0, 4))
    def boot(self, terms: list[int], applied: int) -> None:
        self.all = [entry(index, term) for index, term in enumerate(terms, 1)]
        self.log = Log(Index(0), Term(0), self.all)
        self.commit = self.applied = min(applied, len(terms))
        self.log.commit_to(self.commit)
        self.log.take_committed()
        self.log.applied_to(Index(self.applied))
        self.compacted = 0
        self.term = 2
        self.disk = list(self.all)
        self.writes: list[list[Entry]] = []

    def _last_term(self) -> int:
        return self.all[-1].term if self.all else 0

    @rule(count=st.integers(1, 4), data=st.binary(max_size=3))
    def append(self, count: int, data: bytes) -> None:
        term = max(self.term, self._last_term())
        new = [entry(len(self.all) + 1 + place, term, data) for place in range(count)]
        self.log.append(new)
        self.all += new

    @rule(back=st.integers(0, 5), terms=st.lists(st.integers(1, 6), min_size=1, max_size=5).map(sorted))
    def merge(self, back: int, terms: list[int]) -> None:
        """A leader's entries after an index that matches; it never contradicts what is committed."""
        previous = max(len(self.all) - back, self.commit)
        before = self.all[previous - 1].term if previous else 0
        new = [entry(previous + 1 + place, max(term, before)) for place, term in enumerate(terms)]
        expected = None
        for item in new:
            place = item.index - 1
            if place < len(self.all) and self.all[place].term == item.term:
                continue
            expected = expected or item.index
            self.all[place:] = [item]
        assert self.log.merge(new) == expected
        self.term = max(self.term, self._last_term())

    @rule()
    def later_term(self) -> None:
        self.term += 1

    @rule(most=st.integers(1, 4 * ENTRY_OVERHEAD_BYTES) | st.just(ALL))
    def take_unwritten(self, most: int) -> None:
        entries = self.log.take_unwritten(most)
        if entries:
            self.writes.append(entries)
            assert len(entries) == 1 or sum(len(each.data) + ENTRY_OVERHEAD_BYTES for each in entries) <= most

    @precondition(lambda self: self.writes)
    @rule(count=st.integers(1, 3))
    def sync(self, count: int) -> None:
        """The disk finishes the oldest writes and reports only the last of them."""
        done, self.writes = self.writes[:count], self.writes[count:]
        for entries in done:
            self.disk[entries[0].index - 1 :] = entries
        self.log.synced(done[-1][-1].index, done[-1][-1].term)

    @rule(upto=st.integers(0, 20))
    def commit_to(self, upto: int) -> None:
        index = min(upto, len(self.all))
        assert self.log.commit_to(index) == (index > self.commit)
        self.commit = max(self.commit, index)

    @rule()
    def apply(self) -> None:
        entries = self.log.take_committed()
        assert entries == self.all[self.applied : self.applied + len(entries)]
        assert self.applied + len(entries) == max(self.applied, min(self.commit, self.log.persisted))
        if entries:
            self.log.applied_to(entries[-1].index)
            self.applied = entries[-1].index

    @rule(index=st.integers(0, 20))
    def compact(self, index: int) -> None:
        index = min(index, self.applied)
        self.log.compact(Index(index))
        self.compacted = max(self.compacted, index)

    @rule(index=st.integers(0, 25), term=st.integers(0, 7))
    def ask(self, index: int, term: int) -> None:
        known = self.compacted <= index <= len(self.all)
        assert self.log.holds(index) == known
        term_there = self.all[index - 1].term if 0 < index <= len(self.all) else 0
        assert self.log.matches(index, term) == (known and term_there == term)
        if known:
            assert self.log.term(index) == term_there
        place, at = self.log.find_conflict_by_term(index, term)
        candidates = [e for e in self.all[self.compacted : index] if e.term <= term]
        if candidates:
            assert (place, at) == (candidates[-1].index, candidates[-1].term)
        else:
            assert place == min(index, self.compacted)

    @rule(low=st.integers(1, 20), max_bytes=st.integers(1, 80))
    def slice(self, low: int, max_bytes: int) -> None:
        low = max(low, self.compacted + 1)
        entries, size = self.log.entries_from(low, max_bytes)
        rest = self.all[low - 1 :]
        assert entries == rest[: len(entries)]
        assert bool(entries) == bool(rest)
        assert size == sum(len(e.data) + ENTRY_OVERHEAD_BYTES for e in entries)
        assert len(entries) <= 1 or size <= max_bytes
        if len(entries) < len(rest):
            assert size + len(rest[len(entries)].data) + ENTRY_OVERHEAD_BYTES > max_bytes

    @invariant()
    def marks(self) -> None:
        log = self.log
        assert log.last == len(self.all)
        assert log.last_term == self._last_term()
        assert log.between(log.compacted + 1, log.last) == self.all[log.compacted :]
        assert log.compacted == self.compacted
        assert log.commit == self.commit
        assert self.compacted <= log.applied <= log.applying <= log.commit
        assert log.applying <= log.persisted <= log.handed <= log.last

    @invariant()
    def weights(self) -> None:
        kept = [len(each.data) + ENTRY_OVERHEAD_BYTES for each in self.all[self.compacted :]]
        assert self.log.bytes == sum(kept)
        for limit in (0, sum(kept) // 2, sum(kept)):
            after = self.log.compact_index(limit) - self.compacted
            assert sum(kept[after:]) <= limit
            assert after == 0 or sum(kept[after - 1 :]) > limit

    @invariant()
    def what_is_called_persisted_survives_power_failure(self) -> None:
        """Now, and after any number of the writes under way, in order, have reached the disk."""
        disk = list(self.disk)
        upto = self.log.persisted
        assert disk[:upto] == self.all[:upto]
        for entries in self.writes:
            disk[entries[0].index - 1 :] = entries
            assert disk[:upto] == self.all[:upto]


TestLogAndTwin = LogAndTwin.TestCase
TestLogAndTwin.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_a_report_for_an_earlier_write_of_the_same_entries_does_not_count_for_the_later_one() -> None:
    """An entry is handed to the disk, is replaced, and handed to it again: the first report is not the
    third's."""
    log = Log(Index(0), Term(0), [])
    first = [entry(1, 1)]
    log.append(first)
    log.take_unwritten(ALL)
    log.merge([entry(1, 2)])
    log.take_unwritten(ALL)
    # A leader of term 3 had the first entry, and not the second.
    log._truncate(Index(1))
    log.append(first)
    log.take_unwritten(ALL)
    assert not log.synced(1, 1)
    assert log.persisted == 0
    assert not log.synced(1, 2)
    assert log.synced(1, 1)
    assert log.persisted == 1


def test_a_report_that_is_repeated_or_unknown_changes_nothing() -> None:
    log = Log(Index(0), Term(0), [])
    log.append([entry(1, 1), entry(2, 1)])
    log.take_unwritten(ALL)
    assert not log.synced(7, 1)
    assert log.synced(2, 1)
    assert not log.synced(2, 1)
    assert log.persisted == 2


def test_entries_to_apply_are_handed_out_in_pieces() -> None:
    log = Log(Index(0), Term(0), [entry(index, 1) for index in range(1, MAX_APPLY_ENTRIES + 3)])
    log.commit_to(MAX_APPLY_ENTRIES + 2)
    assert len(log.take_committed()) == MAX_APPLY_ENTRIES
    assert log.has_committed()
    assert len(log.take_committed()) == 2
    assert not log.has_committed()
    assert log.take_committed() == []


def test_a_snapshot_replaces_the_log() -> None:
    log = Log(Index(0), Term(0), [entry(1, 1), entry(2, 1)])
    log.restart_after(Index(9), Term(3))
    assert (log.compacted, log.last, log.commit, log.applied, log.persisted) == (9, 9, 9, 9, 9)
    assert log.term(9) == 3
    assert log.find_conflict_by_term(4, 9) == (4, 0)
    log.append([entry(10, 3)])
    assert log.take_unwritten(ALL) == [entry(10, 3)]


def test_broken_invariants_raise() -> None:
    log = Log(Index(0), Term(0), [entry(1, 1), entry(2, 2)])
    log.commit_to(2)
    log.take_committed()
    log.applied_to(Index(1))
    log.compact(Index(1))
    for broken in (
        lambda: log.term(0),
        lambda: log.term(3),
        lambda: log.between(1, 2),
        lambda: log.between(2, 3),
        lambda: log.entries_from(1, 10),
        lambda: log.append([entry(5, 2)]),
        lambda: log.append([entry(3, 1)]),
        lambda: log.append([entry(3, 2), entry(5, 2)]),
        lambda: log.merge([entry(2, 3)]),
        lambda: log.commit_to(9),
        lambda: log.applied_to(Index(0)),
        lambda: log.applied_to(Index(5)),
        lambda: log.compact(Index(2)),
        lambda: log.restart_after(Index(2), Term(2)),
    ):
        with pytest.raises(InvariantBroken):
            broken()
