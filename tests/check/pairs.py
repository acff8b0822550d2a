"""The judge of v3 writes and reads: the store's revision is the candidate order, and everything is held
against it. Strictly serializable means (v3 API; P2 and P3):

 a. a change that was told happened at the revision that was told, and was asked for by that call;
 b. what was refused never happened, and what has no answer happened once at most, after it was called;
 c. a call that ended before another began does not come after it;
 d. a read shows all pairs as they were at the revision it names, which is at least the highest that anybody
    had been told when it began;
 e. a transaction took the branch that the pairs at its place called for;
 f. a deletion of a range took all that was in it, at one revision.

Values are unique, so that they name the call. Time is linear in calls and changes, but for the reads.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from netstore.errors import Fault
from netstore.state.v3 import keyvalue
from netstore.state.v3.commands import Deleted, DeleteRange, Found, Put, PutDone, Range, Txn, TxnDone
from tests.check.history import NEVER, Fate, Wrong

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from netstore.types import KeyChange


@dataclass(slots=True, eq=False)
class PairCall:
    """One call on the v3 keys. `called` and `returned` are places in the order of what clients saw."""

    serial: int
    command: Put | DeleteRange | Txn | Range
    called: int
    returned: int = NEVER
    fate: Fate = Fate.OPEN
    outcome: PutDone | Deleted | Found | TxnDone | Fault | None = None

    def end(self, at: int, outcome: object) -> None:
        """The answer came."""
        assert isinstance(outcome, PutDone | Deleted | Found | TxnDone | Fault)
        self.outcome = outcome
        if isinstance(outcome, Fault) and not outcome.outcome_known:
            self.fate = Fate.UNKNOWN
            return
        self.fate = Fate.REFUSED if isinstance(outcome, Fault) else Fate.ANSWERED
        self.returned = at

    @property
    def waits(self) -> bool:
        """Nobody has answered and nobody has given up."""
        return self.fate is Fate.OPEN

    @property
    def written(self) -> bytes | None:
        """The value it would leave."""
        if isinstance(self.command, Put):
            return self.command.value
        if isinstance(self.command, Txn):
            put = self.command.success[0]
            assert isinstance(put, Put)
            return put.value
        return None


class _Change(NamedTuple):
    key: bytes
    value: bytes | None


def judge(calls: Sequence[PairCall], changes: Iterable[KeyChange]) -> None:
    """Wrong when the calls were not told what the changes explain."""
    history: dict[int, list[_Change]] = {}
    for change in changes:
        value = None
        if not change.deleted:
            *_, start, end = keyvalue.decode_fields(change.pair)
            value = change.pair[start:end]
        history.setdefault(change.revision, []).append(_Change(change.key, value))
    if list(history) != sorted(history):
        raise Wrong("revisions out of order")
    _authors(calls, history)
    _real_time(calls, history)
    _answers(calls, history)


def _authors(calls: Sequence[PairCall], history: dict[int, list[_Change]]) -> None:
    by_value = {call.written: call for call in calls if call.written is not None}
    seen: set[bytes] = set()
    removers: dict[int, DeleteRange] = {}
    for each in calls:
        if each.fate is Fate.ANSWERED and isinstance(each.command, DeleteRange) and _changed(each):
            if _revision(each) in removers:
                raise Wrong(f"another was told that it deleted at the revision of {each}")
            removers[_revision(each)] = each.command
    strays = [
        (call.command, call.called)
        for call in calls
        if isinstance(call.command, DeleteRange) and call.fate in {Fate.OPEN, Fate.UNKNOWN}
    ]
    seen_by = _seen_by(calls)
    untold: list[tuple[str, list[int]]] = []
    """Deletions that nobody was told of, and which of the strays may each have been."""
    pairs: dict[bytes, bytes] = {}
    for revision, changes in history.items():
        until = seen_by(revision)
        gone = {key for key, value in changes if value is None}
        if gone:
            told, text = removers.pop(revision, None), f"{gone} of {set(pairs)} at revision {revision}"
            if told is None:
                may = [n for n, (it, at) in enumerate(strays) if at < until and gone == _taken(it, pairs)]
                untold.append((text, may))
            elif gone != _taken(told, pairs):
                raise Wrong(f"{told} deleted {text}")
        before, pairs = pairs, {key: value for key, value in pairs.items() if key not in gone}
        for key, value in changes:
            if value is None:
                continue
            pairs[key] = value
            call = by_value.get(value)
            if call is None or call.fate is Fate.REFUSED:
                raise Wrong(f"nobody asked for {value!r} at revision {revision}: {call}")
            if value in seen:
                raise Wrong(f"{value!r} happened twice, again at revision {revision}: {call}")
            seen.add(value)
            if call.fate is Fate.ANSWERED:
                if _revision(call) != revision:
                    raise Wrong(f"told of another revision than {revision}: {call}")
                continue
            if call.called >= until:
                raise Wrong(f"somebody knew of revision {revision} before it was asked for: {call}")
            if not _would_write(call.command, key, before):
                raise Wrong(f"it would not have put {key!r} in {before}: {call}")
    if removers:
        raise Wrong(f"told of deletions that did not happen: {removers}")
    _match(untold)


def _would_write(command: object, key: bytes, pairs: dict[bytes, bytes]) -> bool:
    """Whether it puts this key, where these pairs are there before it."""
    if isinstance(command, Txn):
        compare, put = command.compares[0], command.success[0]
        assert isinstance(put, Put)
        return put.key == key and pairs.get(compare.key) == compare.value
    assert isinstance(command, Put)
    return command.key == key


def _seen_by(calls: Sequence[PairCall]) -> Callable[[int], int]:
    """Until when a revision had happened: the first answer that tells of it, or of a later one."""
    told = sorted((_revision(call), call.returned) for call in calls if call.fate is Fate.ANSWERED)
    first = NEVER
    times = []
    for _, returned in reversed(told):
        first = min(first, returned)
        times.append(first)
    times = [*reversed(times), NEVER]
    return lambda revision: times[bisect_left(told, (revision, 0))]


def _match(untold: Sequence[tuple[str, list[int]]]) -> None:
    """Find a call without an answer for each deletion that nobody was told of, and one call for each. What
    was given to one deletion is taken back where another call would do for it (augmenting paths).
    """
    given: dict[int, int] = {}

    def find(deletion: int, tried: set[int]) -> bool:
        for stray in untold[deletion][1]:
            if stray not in tried:
                tried.add(stray)
                if stray not in given or find(given[stray], tried):
                    given[stray] = deletion
                    return True
        return False

    for deletion, (text, _) in enumerate(untold):
        if not find(deletion, set()):
            raise Wrong(f"nobody asked to delete {text}")


def _taken(command: DeleteRange, pairs: Iterable[bytes]) -> set[bytes]:
    return _covered(command.key, command.range_end, pairs)


def _covered(key: bytes, range_end: bytes, pairs: Iterable[bytes]) -> set[bytes]:
    return {each for each in pairs if (key <= each < range_end if range_end else each == key)}


def _real_time(calls: Sequence[PairCall], history: dict[int, list[_Change]]) -> None:
    points: list[tuple[int, PairCall | None, int]] = []
    for call in calls:
        if call.fate is Fate.ANSWERED:
            points += [(call.called, call, 0), (call.returned, None, _revision(call))]
    points.sort(key=lambda point: point[0])
    floor = 0
    for _, begun, revision in points:
        if begun is None:
            floor = max(floor, revision)
        elif _revision(begun) < floor + _changed(begun):
            raise Wrong(f"at revision {_revision(begun)}, though {floor} had been told before: {begun}")


def _answers(calls: Sequence[PairCall], history: dict[int, list[_Change]]) -> None:
    """Each answer against the pairs at its place."""
    wanted: dict[int, list[PairCall]] = {}
    for call in calls:
        if call.fate is Fate.ANSWERED:
            wanted.setdefault(_revision(call) - _changed(call), []).append(call)
    pairs: dict[bytes, bytes] = {}
    for revision in range(max([*history, *wanted], default=0) + 1):
        for key, value in history.get(revision, ()):
            if value is None:
                pairs.pop(key, None)
            else:
                pairs[key] = value
        for call in wanted.get(revision, ()):
            _look(call, pairs, history)


def _look(call: PairCall, pairs: dict[bytes, bytes], history: dict[int, list[_Change]]) -> None:
    """`pairs` are those right before what the call changed."""
    outcome, command = call.outcome, call.command
    if isinstance(outcome, PutDone):
        assert isinstance(command, Put)
        if _Change(command.key, command.value) not in history.get(outcome.revision, ()):
            raise Wrong(f"told of a change that did not happen: {call}")
    elif isinstance(outcome, Deleted):
        assert isinstance(command, DeleteRange)
        if outcome.deleted != len(_covered(command.key, command.range_end, pairs)):
            raise Wrong(f"deleted {outcome.deleted} of {pairs}: {call}")
    elif isinstance(outcome, TxnDone):
        assert isinstance(command, Txn)
        compare = command.compares[0]
        if outcome.succeeded != (pairs.get(compare.key) == compare.value):
            raise Wrong(f"took the wrong branch, with {pairs}: {call}")
        put = command.success[0]
        assert isinstance(put, Put)
        if outcome.succeeded and _Change(put.key, put.value) not in history.get(outcome.revision, ()):
            raise Wrong(f"told of a change that did not happen: {call}")
    else:
        assert isinstance(outcome, Found)
        shown = {}
        for record in outcome.kvs:
            key, *_, start, end = keyvalue.decode_fields(record)
            shown[key] = record[start:end]
        if shown != pairs:
            raise Wrong(f"read something else than {pairs}: {call}")


def _revision(call: PairCall) -> int:
    assert isinstance(call.outcome, PutDone | Deleted | Found | TxnDone)
    return call.outcome.revision


def _changed(call: PairCall) -> bool:
    outcome = call.outcome
    return (
        isinstance(outcome, PutDone)
        or (isinstance(outcome, Deleted) and outcome.deleted > 0)
        or (isinstance(outcome, TxnDone) and outcome.succeeded)
    )
