"""The clients: each asks, waits for the answer or loses patience, thinks, and asks again. Every write
carries a value of its own, so that judges can tell whose it was.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from netstore.errors import Fault
from netstore.state.v2 import commands
from netstore.state.v2.walk import Walk
from netstore.types import Event
from tests.check.history import Door, Fate, Operation
from tests.check.watches import Watch

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from netstore.state.commands import Command
    from netstore.state.machine import Outcome
    from tests.sim.member import Member
    from tests.sim.timeline import MachineClock
    from tests.sim.world import World

    Make = Callable[[MachineClock], Command]

REGISTERS: Final = b"/r"
"""Keys below are files that never expire and whose directory never goes: judged one by one by search."""

RETRY_SECONDS: Final = 0.05
BURST_CLIENT: Final = 1_000


class Workload:
    """All clients and what they were told."""

    def __init__(self, world: World, random: Random) -> None:
        self.world = world
        self.random = random
        self.operations: list[Operation] = []
        self.watches: list[Watch] = []
        self.over = False
        self._order = 0
        self._clients = [_Client(self, number) for number in range(world.plan.clients)]
        self._watchers = [_Watcher(self) for _ in range(world.plan.watchers)]

    def start(self) -> None:
        """From now on."""
        for client in self._clients:
            self.world.timeline.after(self.random.random(), client.step)
        for watcher in self._watchers:
            self.world.timeline.after(self.random.random(), watcher.step)
        if self.world.plan.burst:
            self.world.timeline.after(self.world.plan.duration * 0.5 * self.random.random(), self._burst)

    def stop(self) -> None:
        """No new requests; watches go on."""
        self.over = True

    def order(self) -> int:
        """The next place in the order of what clients see."""
        self._order += 1
        return self._order

    def begin(self, client: int, member: Member, door: Door, command: Command) -> Operation:
        """A call is made."""
        operation = Operation(len(self.operations), client, member.id, door, command, self.order())
        self.operations.append(operation)
        return operation

    def ask(self, member: Member) -> Operation:
        """One fresh write, whoever still asks."""
        operation = self.begin(BURST_CLIENT - 1, member, Door.LOG, commands.Set(b"/fresh"))
        operation.command = commands.Set(b"/fresh", b"%d" % operation.serial)
        member.propose(partial(_given, operation.command), partial(self._finished, operation))
        return operation

    def someone(self) -> Member:
        """A member that is there, if there is one."""
        members = [each for each in self.world.members.values() if not each.retired]
        up = [each for each in members if each.up]
        return self.random.choice(up or members or list(self.world.members.values()))

    def _burst(self) -> None:
        """Many writes at once: more events than the window holds."""
        member = self.someone()
        for number in range(self.world.plan.burst):
            path = b"/b%d" % (number % 5)
            operation = self.begin(BURST_CLIENT + number, member, Door.LOG, commands.Set(path))
            operation.command = commands.Set(path, b"%d" % operation.serial)
            member.propose(partial(_given, operation.command), partial(self._finished, operation))
        self.world.reach["bursts"] += 1

    def _finished(self, operation: Operation, outcome: Outcome | Fault) -> None:
        if operation.waits:
            assert isinstance(outcome, Event | Fault | None)
            operation.end(self.order(), outcome)


class _Client:
    """One at a time."""

    def __init__(self, load: Workload, number: int) -> None:
        self._load = load
        self._number = number
        self._random = load.random
        self._member: Member | None = None
        self._known: dict[bytes, tuple[bytes, int]] = {}
        """What was last seen of a key: value and modified index."""
        plan = load.world.plan
        self._plan = plan
        self._kinds = list(plan.mix)
        self._weights = list(plan.mix.values())
        self._makers: dict[str, Callable[[bytes], Command]] = {
            "set": lambda value: commands.Set(self._register(), value),
            "create": lambda value: commands.Create(self._register(), value),
            "update": lambda value: commands.Update(self._register(), value),
            "swap": self._swap,
            "swap_at": self._swap_at,
            "delete": lambda _: commands.Delete(self._register()),
            "delete_if": self._delete_if,
            "in_order": lambda value: commands.InOrder(b"/q", value),
            "tree": lambda value: commands.Set(b"%b/%d" % (self._branch(), self._random.randrange(3)), value),
            "prune": lambda _: commands.Delete(self._branch(), recursive=True),
        }

    def step(self) -> None:
        """Make a call."""
        load, random = self._load, self._random
        if load.over:
            return
        if self._member is None or not self._member.up or random.random() >= self._plan.sticky:
            self._member = load.someone()
        member = self._member
        kind = random.choices(self._kinds, self._weights)[0]
        if kind in {"get", "local_get", "quorum_get", "list"}:
            self._read(member, kind)
            return
        operation = load.begin(self._number, member, Door.LOG, _PLACEHOLDER)
        value = b"%d" % operation.serial
        value = value.ljust(self._plan.value_bytes, b".")
        done = partial(self._finished, operation)
        if kind in {"lease", "refresh"}:
            path, ttl = b"/t%d" % random.randrange(self._plan.keys), random.randrange(1, 4)
            make = self._leased(kind, value, ttl)
            operation.command = make(path, 1)

            def timed(clock: MachineClock) -> Command:
                expires = commands.expiry(clock.wall(), ttl)
                load.world.leases[path, expires] = (load.world.timeline.now, ttl)
                operation.command = make(path, expires)
                return operation.command

            member.propose(timed, done)
        else:
            operation.command = self._makers[kind](value)
            member.propose(partial(_given, operation.command), done)
        self._wait(operation)

    def _read(self, member: Member, kind: str) -> None:
        recursive = False
        if kind == "list":
            path = self._random.choice((b"/d", b"/q", b"/"))
            recursive = self._random.random() < 0.5
            kind = self._random.choice(("get", "local_get", "quorum_get"))
        else:
            path = self._register()
        command = commands.QuorumGet(path, recursive)
        door = {"get": Door.LINEAR, "local_get": Door.LOCAL, "quorum_get": Door.LOG}[kind]
        operation = self._load.begin(self._number, member, door, command)
        done = partial(self._finished, operation)
        if door is Door.LINEAR:
            member.read(path, recursive, done)
        elif door is Door.LOCAL:
            member.look(path, recursive, done)
        else:
            member.propose(partial(_given, command), done)
        self._wait(operation)

    def _wait(self, operation: Operation) -> None:
        if operation.waits:
            self._load.world.timeline.after(self._plan.patience, partial(self._give_up, operation))

    def _give_up(self, operation: Operation) -> None:
        if operation.waits:
            operation.abandon()
            self._member = None
            self.step()

    def _finished(self, operation: Operation, outcome: Outcome | Fault) -> None:
        if not operation.waits:
            return  # nobody waits any more
        load = self._load
        if isinstance(outcome, Walk):  # a listing that an answer would be made of later: nobody reads it here
            self._give_up(operation)
            return
        assert isinstance(outcome, Event | Fault | None)
        operation.end(load.order(), outcome)
        if isinstance(outcome, Event):
            node = outcome.node
            if node.value is not None:
                self._known[node.key] = (node.value, node.modified)
            if operation.door is Door.LINEAR:
                load.world.reach["reads_by_read_index"] += 1
        pause = 2 * self._plan.think * self._random.random()
        if operation.fate is not Fate.ANSWERED:
            self._member = None
            pause += RETRY_SECONDS
        load.world.timeline.after(pause, self.step)

    # --- what is asked

    def _register(self) -> bytes:
        return b"%b/%d" % (REGISTERS, self._random.randrange(self._plan.keys))

    def _branch(self) -> bytes:
        return b"/d/%d" % self._random.randrange(2)

    def _swap(self, value: bytes) -> Command:
        path = self._register()
        return commands.CompareAndSwap(path, value, prev_value=self._known.get(path, (b"none", 0))[0])

    def _swap_at(self, value: bytes) -> Command:
        path = self._register()
        known, index = self._known.get(path, (b"none", 0))
        if not index:
            return commands.CompareAndSwap(path, value, prev_value=known)
        return commands.CompareAndSwap(path, value, prev_index=index)

    def _delete_if(self, _: bytes) -> Command:
        path = self._register()
        return commands.CompareAndDelete(path, prev_value=self._known.get(path, (b"none", 0))[0])

    def _leased(self, kind: str, value: bytes, ttl: int) -> Callable[[bytes, int], Command]:
        if kind == "refresh":
            if self._random.random() < 0.5:
                return lambda path, expires: commands.Set(path, b"", expires=expires, refresh=True, ttl=ttl)
            return lambda path, expires: commands.Update(path, b"", expires=expires, refresh=True, ttl=ttl)
        if self._random.random() < 0.3:
            return lambda path, expires: commands.Create(path, value, expires=expires, ttl=ttl)
        return lambda path, expires: commands.Set(path, value, expires=expires, ttl=ttl)


class _Watcher:
    """Watches one place for ever: by long polls, or by streams taken up again when they end."""

    def __init__(self, load: Workload) -> None:
        self._load = load
        random = load.random
        self._path, self._recursive = random.choice(
            ((b"/", True), (REGISTERS, True), (b"/d", True), (b"%b/0" % REGISTERS, False), (b"/t0", False))
        )
        self._stream = random.random() < 0.4
        self._next = 0

    def step(self) -> None:
        """Watch from where the last watch left."""
        load = self._load
        member = load.someone()
        wait_index = self._next
        if wait_index and load.random.random() < 0.05:
            wait_index = 1  # one that slept for long
        watch = Watch(self._path, self._recursive, self._stream, member.id)
        load.watches.append(watch)

        def opened(since: int, now: int) -> None:
            watch.since, watch.opened_at = since, now
            watch.life = member.life
            self._next = since

        def told(what: Event | Fault) -> None:
            if isinstance(what, Fault):
                watch.cleared = what
                load.world.reach["watches_cleared"] += 1
                self._next = what.index + 1
                self._again()
                return
            watch.given.append(what)
            self._next = what.index + 1
            if not self._stream or what.index <= watch.opened_at:
                watch.ended = True  # a stream gets no more than one from the window: etcd's way
                self._again()

        def ended() -> None:
            watch.ended = True
            load.world.reach["watches_ended"] += 1
            self._again()

        member.watch(
            self._path,
            recursive=self._recursive,
            stream=self._stream,
            wait_index=wait_index,
            opened=opened,
            told=told,
            ended=ended,
        )

    def _again(self) -> None:
        self._load.world.timeline.after(0.01 + 0.1 * self._load.random.random(), self.step)


_PLACEHOLDER: Final = commands.QuorumGet(b"/")


def _given(command: Command, _: MachineClock) -> Command:
    return command
