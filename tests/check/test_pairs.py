"""The judge of v3 calls judged: right histories are accepted, each spoiled one is rejected."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Final

import msgspec
import pytest

from netstore.errors import Fault
from netstore.state.commands import encode
from netstore.state.machine import Machine
from netstore.state.v3 import keyvalue
from netstore.state.v3.commands import (
    EQUAL,
    VALUE,
    Compare,
    Deleted,
    DeleteRange,
    Found,
    Put,
    PutDone,
    Range,
    Txn,
    TxnDone,
)
from netstore.types import Index, Revision
from tests.check import pairs
from tests.check.history import NEVER, Fate, Wrong
from tests.check.pairs import PairCall
from tests.support.local_member import memory_engine

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.types import KeyChange

    History = tuple[list[PairCall], list[KeyChange]]

HISTORIES: Final = 100
EVERYTHING: Final = Range(b"\0", b"\0")


def history(random: Random) -> History:
    """Forty calls, one after the other or overlapping with their neighbours, on one machine."""
    machine = Machine(memory_engine())
    calls: list[PairCall] = []
    changes: list[KeyChange] = []
    values: dict[bytes, bytes] = {}
    for number in range(40):
        key, value = b"k%d" % random.randrange(3), b"p%d" % number
        compare = Compare(key, target=VALUE, result=EQUAL, value=values.get(key, b"none"))
        command = random.choice(
            (
                Put(key, value),
                Put(key, value),
                DeleteRange(key),
                DeleteRange(b"k", b"l"),
                Txn((compare,), (Put(key, value),)),
                EVERYTHING,
            )
        )
        call = PairCall(number, command, 10 * number - random.randrange(12))
        if isinstance(command, Range):
            outcome: object = machine.mvcc.range(command)
        elif random.random() < 0.05:
            outcome = Fault(300, b"refused")
        else:
            outcome = machine.apply(Index(machine.applied + 1), encode(command))
            if call.written is not None:
                values[key] = call.written
        if random.random() < 0.05:
            call.fate = Fate.UNKNOWN
        else:
            call.end(10 * number + random.randrange(12), outcome)
        calls.append(call)
        changes += machine.take_changes()
    return calls, changes


def test_right_histories_are_accepted() -> None:
    for seed in range(HISTORIES):
        pairs.judge(*history(Random(seed)))  # noqa: S311 - repeatable


def _one(random: Random, calls: list[PairCall], kind: type) -> PairCall | None:
    found = [call for call in calls if call.fate is Fate.ANSWERED and isinstance(call.outcome, kind)]
    return random.choice(found) if found else None


def other_read(random: Random, calls: list[PairCall], changes: list[KeyChange]) -> bool:
    read = _one(random, calls, Found)
    if read is None or not isinstance(read.outcome, Found):
        return False
    record = keyvalue.encode(b"k9", 1, 1, 1, value=b"?", lease=0)
    read.outcome = msgspec.structs.replace(read.outcome, kvs=[*read.outcome.kvs, record])
    return True


def other_revision(random: Random, calls: list[PairCall], changes: list[KeyChange]) -> bool:
    put = _one(random, calls, PutDone)
    if put is not None and isinstance(put.outcome, PutDone):
        put.outcome = PutDone(Revision(put.outcome.revision + 1))
    return put is not None


def refused(random: Random, calls: list[PairCall], changes: list[KeyChange]) -> bool:
    put = _one(random, calls, PutDone)
    if put is not None:
        put.fate, put.outcome = Fate.REFUSED, Fault(300, b"refused")
    return put is not None


def lost(random: Random, calls: list[PairCall], changes: list[KeyChange]) -> bool:
    put = _one(random, calls, PutDone)
    if put is not None:
        changes[:] = [change for change in changes if _value(change) != put.written]
    return put is not None


def twice(random: Random, calls: list[PairCall], changes: list[KeyChange]) -> bool:
    put = _one(random, calls, PutDone)
    if put is None:
        return False
    first = next(change for change in changes if _value(change) == put.written)
    changes.append(msgspec.structs.replace(first, revision=Revision(changes[-1].revision + 1)))
    return True


def wrong_branch(random: Random, calls: list[PairCall], changes: list[KeyChange]) -> bool:
    done = [call for call in calls if isinstance(call.outcome, TxnDone) and call.outcome.succeeded]
    done = [call for call in done if call.fate is Fate.ANSWERED]
    if not done:
        return False
    call = random.choice(done)
    assert isinstance(call.command, Txn)
    compare = msgspec.structs.replace(call.command.compares[0], value=b"?")
    call.command = msgspec.structs.replace(call.command, compares=(compare,))
    return True


def more_deleted(random: Random, calls: list[PairCall], changes: list[KeyChange]) -> bool:
    """One deletion more or less than there was, where no call without an answer can explain it."""
    gone = _one(random, calls, Deleted)
    if gone is None or not isinstance(gone.outcome, Deleted):
        return False
    if gone.outcome.deleted > 1:
        return False
    if any(isinstance(call.command, DeleteRange) and call.fate is Fate.UNKNOWN for call in calls):
        return False
    gone.outcome = msgspec.structs.replace(gone.outcome, deleted=int(not gone.outcome.deleted))
    return True


def backwards(random: Random, calls: list[PairCall], changes: list[KeyChange]) -> bool:
    put = _one(random, calls, PutDone)
    if put is None or not isinstance(put.outcome, PutDone):
        return False
    revision = put.outcome.revision
    later = [
        call
        for call in calls
        if call.fate is Fate.ANSWERED
        and call is not put
        and isinstance(call.outcome, PutDone)
        and call.outcome.revision > revision
    ]
    if not later:
        return False
    last = max(call.returned for call in calls if call.fate is Fate.ANSWERED)
    put.called, put.returned = last + 1, last + 2
    return True


def half_deleted(random: Random, calls: list[PairCall], changes: list[KeyChange]) -> bool:
    """One key of a range that was deleted stays."""
    places = [
        place
        for place, change in enumerate(changes)
        if change.deleted and sum(each.revision == change.revision for each in changes) > 1
    ]
    if places:
        del changes[random.choice(places)]
    return bool(places)


def lost_txn(random: Random, calls: list[PairCall], changes: list[KeyChange]) -> bool:
    """What a transaction put last, and everything after it."""
    done = _written(calls, Txn)
    if not done:
        return False
    del calls[calls.index(done[-1]) + 1 :]
    changes[:] = [change for change in changes if change.revision < _revision(done[-1])]
    return True


def lost_deletion(random: Random, calls: list[PairCall], changes: list[KeyChange]) -> bool:
    """Of all that was deleted last, and everything after it."""
    done = [call for call in calls if isinstance(call.outcome, Deleted) and call.outcome.deleted]
    if not done or done[-1].fate is not Fate.ANSWERED:
        return False
    del calls[calls.index(done[-1]) + 1 :]
    changes[:] = [change for change in changes if change.revision < _revision(done[-1])]
    return True


def _written(calls: list[PairCall], kind: type[Put | Txn]) -> list[PairCall]:
    """Calls that were told that they wrote."""
    return [
        call
        for call in calls
        if call.fate is Fate.ANSWERED
        and isinstance(call.command, kind)
        and (
            isinstance(call.outcome, PutDone)
            or (isinstance(call.outcome, TxnDone) and call.outcome.succeeded)
        )
    ]


def _revision(call: PairCall) -> int:
    assert isinstance(call.outcome, PutDone | TxnDone | Deleted | Found)
    return call.outcome.revision


def _untold(call: PairCall) -> None:
    """Nobody was told what came of it."""
    call.fate, call.outcome, call.returned = Fate.UNKNOWN, None, NEVER


def _too_late(random: Random, calls: list[PairCall], found: list[PairCall]) -> bool:
    """One of these was called when others had been told of its revision, and has no answer."""
    if not found:
        return False
    call = random.choice(found)
    times = [
        each.returned
        for each in calls
        if each.fate is Fate.ANSWERED and each is not call and _revision(each) >= _revision(call)
    ]
    if times:
        call.called = min(times) + random.randrange(2)
        _untold(call)
    return bool(times)


def late_put(random: Random, calls: list[PairCall], changes: list[KeyChange]) -> bool:
    return _too_late(random, calls, _written(calls, Put))


def late_txn(random: Random, calls: list[PairCall], changes: list[KeyChange]) -> bool:
    return _too_late(random, calls, _written(calls, Txn))


def late_deletion(random: Random, calls: list[PairCall], changes: list[KeyChange]) -> bool:
    if any(isinstance(call.command, DeleteRange) and call.fate is Fate.UNKNOWN for call in calls):
        return False
    found = [call for call in calls if isinstance(call.outcome, Deleted) and call.outcome.deleted]
    return _too_late(random, calls, [call for call in found if call.fate is Fate.ANSWERED])


def other_key(random: Random, calls: list[PairCall], changes: list[KeyChange]) -> bool:
    """One without an answer wrote another key than it was to."""
    done = _written(calls, Put) + _written(calls, Txn)
    if not done:
        return False
    call = random.choice(done)
    if isinstance(call.command, Put):
        call.command = msgspec.structs.replace(call.command, key=b"k9")
    elif isinstance(call.command, Txn):
        put = msgspec.structs.replace(call.command.success[0], key=b"k9")
        call.command = msgspec.structs.replace(call.command, success=(put,))
    _untold(call)
    return True


def wrong_branch_untold(random: Random, calls: list[PairCall], changes: list[KeyChange]) -> bool:
    """A transaction without an answer wrote what it was not to."""
    done = _written(calls, Txn)
    if not done:
        return False
    call = random.choice(done)
    assert isinstance(call.command, Txn)
    compare = msgspec.structs.replace(call.command.compares[0], value=b"?")
    call.command = msgspec.structs.replace(call.command, compares=(compare,))
    _untold(call)
    return True


def _value(change: KeyChange) -> bytes | None:
    if change.deleted:
        return None
    *_, start, end = keyvalue.decode_fields(change.pair)
    return change.pair[start:end]


@pytest.mark.parametrize(
    "spoil",
    [
        other_read,
        other_revision,
        refused,
        lost,
        lost_txn,
        lost_deletion,
        twice,
        wrong_branch,
        wrong_branch_untold,
        other_key,
        more_deleted,
        backwards,
        half_deleted,
        late_put,
        late_txn,
        late_deletion,
    ],
)
def test_what_is_spoiled_is_rejected(
    spoil: Callable[[Random, list[PairCall], list[KeyChange]], bool],
) -> None:
    rejected = 0
    for seed in range(HISTORIES):
        random = Random(seed)  # noqa: S311 - repeatable
        calls, changes = history(random)
        if spoil(random, calls, changes):
            with pytest.raises(Wrong):
                pairs.judge(calls, changes)
            rejected += 1
    assert rejected > HISTORIES // 4


@pytest.mark.parametrize("known", [0, 1, 2])
def test_a_deletion_nobody_was_told_of_is_given_to_whoever_leaves_the_others_theirs(known: int) -> None:
    """The range took one key, which the deletion of that key could have done as well; that one came later."""
    machine = Machine(memory_engine())
    commands: tuple[Put | DeleteRange, ...] = (
        Put(b"k0", b"a"),
        DeleteRange(b"k", b"l"),
        Put(b"k0", b"b"),
        Put(b"k2", b"c"),
        DeleteRange(b"k0"),
    )
    calls: list[PairCall] = []
    changes: list[KeyChange] = []
    for number, command in enumerate(commands):
        call = PairCall(number, command, 10 * number)
        outcome = machine.apply(Index(machine.applied + 1), encode(command))
        if isinstance(command, Put):
            call.end(10 * number + 5, outcome)
        else:
            call.fate = Fate.UNKNOWN
        calls.append(call)
        changes += machine.take_changes()
    if known == 2:
        pairs.judge(calls, changes)
        return
    del calls[(1, 4)[known]]
    with pytest.raises(Wrong, match="nobody asked to delete"):
        pairs.judge(calls, changes)
