"""A save or a command that fails halfway: the disk then has a state that the log went through.

Every call that is made within the save, or the piece, is made to fail once, before it and after it.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from netstore.disk.engine import LmdbEngine
from netstore.errors import Fault, MustStop, NetstoreError
from netstore.guard import guarded
from netstore.state import tables
from netstore.state.commands import PublishMember, RemoveMember, SetClusterVersion, encode
from netstore.state.envelope import seal
from netstore.state.machine import UNFINISHED, Machine
from netstore.state.v2.commands import Delete, Set
from netstore.state.v3.commands import Compact, DeleteRange, LeaseGrant, LeaseRevoke, Put, SetAlarm
from netstore.types import Index
from tests.state.machines import apply, machine_on
from tests.support.local_member import memory_engine

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import FrameType

FIRST = (
    PublishMember(7, "seven", ("http://c:1",), ("http://p:1",)),
    PublishMember(8, "eight", (), ("http://p:2",)),
    Set(b"/a", b"1"),
    Set(b"/b", b"1", ttl=100),
    LeaseGrant(5, 60),
    LeaseGrant(6, 60),
    Put(b"a", b"1", 5),
    Put(b"b", b"1"),
    SetAlarm(7, 1, active=True),
)
THEN = (
    SetAlarm(7, 1, active=False),
    RemoveMember(8),
    SetClusterVersion("3.5.0"),
    Set(b"/c", b"2"),
    Delete(b"/a"),
    LeaseRevoke(6),
    Put(b"c", b"2"),
)
LAST = Put(b"d", b"3")

Contents = tuple[int, list[list[tuple[bytes, bytes]]]]


class Failing:
    """Makes calls, in which step number `at` raises MemoryError: a step is the beginning of a call, or its
    end.
    """

    def __init__(self, at: int) -> None:
        self.left = at
        self.has_failed = False

    def __call__(self, call: Callable[..., Any], *arguments: Any) -> Any:
        depth = 0

        def watch(_: FrameType, event: str, __: Any) -> None:
            nonlocal depth
            is_call = event in ("call", "c_call")
            if not depth and not is_call:
                return  # from what has begun to watch
            depth += is_call
            if depth > 1 and not self.has_failed:
                self.left -= 1
                if self.left < 0:
                    self.has_failed = True
                    raise MemoryError
            depth -= not is_call

        sys.setprofile(watch)
        try:
            return call(*arguments)
        finally:
            sys.setprofile(None)


class Member:
    """A machine on a file, as the host has it."""

    def __init__(self, path: Path) -> None:
        self.calls: list[Callable[[], object]] = []
        self.engine = LmdbEngine(path, self.calls.append, tables.TABLES, print, commit_interval=3600)
        self.machine = Machine(self.engine)
        self.machine.load()
        self.engine.pull = self.machine.save

    def apply(self, *commands: Any) -> None:
        for command in commands:
            outcome = self.machine.apply(Index(self.machine.applied + 1), encode(command))
            assert not isinstance(outcome, Fault)
        self.engine.changed()

    def contents(self) -> Contents:
        engine = self.engine
        return engine.applied(), [list(engine.scan(table, b"", None)) for table in tables.TABLES]


def contents_of(path: Path) -> Contents:
    member = Member(path)
    contents = member.contents()
    member.engine.close()
    return contents


def without_failure(path: Path) -> list[Contents]:
    """What can be read at first, and after each save."""
    member = Member(path)
    seen = [member.contents()]
    for commands in (FIRST, THEN, (LAST,)):
        member.apply(*commands)
        member.machine.save()
        seen.append(member.contents())
    member.engine.close()
    return seen


def by_turn(member: Member) -> None:
    member.machine.save()


def by_client(member: Member) -> None:
    """The guard around a request must not keep the member alive."""
    guarded(print, member.engine.sync, print)


def by_close(member: Member) -> None:
    member.engine.close()


@pytest.mark.parametrize("way", [by_turn, by_client, by_close])
def test_what_a_save_has_lost_that_failed_anywhere_is_never_passed_over(
    tmp_path: Path, way: Callable[[Member], None]
) -> None:
    seen = without_failure(tmp_path / "whole")
    places, has_failed = 0, True
    while has_failed:
        path = tmp_path / f"{places}"
        member = Member(path)
        member.apply(*FIRST)
        member.machine.save()
        member.apply(*THEN)
        failing, save = Failing(places), member.machine._save
        member.machine._save = partial(failing, save)  # type: ignore[method-assign]
        try:
            way(member)
        except MustStop:
            assert failing.has_failed
        else:
            assert not failing.has_failed
        if way is not by_close:
            member.machine._save = save  # type: ignore[method-assign]
            member.apply(LAST)
            member.machine.save()
            member.engine.close()
        has_failed = failing.has_failed
        found = contents_of(path)
        if has_failed:
            assert found in seen[:3], places  # seen[0] after a write in part: the log has the one before it
        else:
            assert found == seen[2 if way is by_close else 3]
        places += 1
    assert places > 50


def test_a_piece_of_a_command_that_fails_anywhere_is_not_applied(tmp_path: Path) -> None:
    """Not in part, and not twice when it is applied from the log again."""
    places, has_failed = 0, True
    while has_failed:
        path = tmp_path / f"{places}"
        member = Member(path)
        machine, nothing = member.machine, member.contents()
        member.apply(*FIRST)
        machine.save()
        before = member.contents()
        payload = seal(encode(DeleteRange(b"a", b"z")))
        failing = Failing(places)
        machine.go_on = partial(failing, machine.go_on)  # type: ignore[method-assign]
        try:
            outcome = machine.begin(Index(machine.applied + 1), payload, 1)
            while outcome is UNFINISHED:
                outcome = machine.go_on(1)
        except MemoryError:
            with pytest.raises(NetstoreError):
                machine.go_on(1)
        has_failed = failing.has_failed
        member.engine.changed()
        machine.save()
        member.engine.close()
        found = contents_of(path)
        assert found in (nothing, before) if has_failed else found[0] == before[0] + 1, places
        places += 1
    assert places > 50


def test_a_piece_of_erasing_that_fails_is_not_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    def short() -> None:
        raise MemoryError

    machine = machine_on(engine := memory_engine())
    for command in (Put(b"a", b"1"), Put(b"a", b"2"), Compact(3)):
        apply(machine, command)
    machine.save()
    assert machine.sweeping
    apply(machine, Put(b"a", b"3"))
    with monkeypatch.context() as patch:
        patch.setattr(machine.mvcc, "sweep", short)
        with pytest.raises(MemoryError):
            machine.sweep()
    machine.save()
    assert engine.applied() == 3
    assert not machine.sweeping
