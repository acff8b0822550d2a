"""v3 watches over the real history, as a member runs them, and what they are sent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from netstore.proto import rpc_pb2
from netstore.state.commands import encode
from netstore.state.machine import Machine
from netstore.state.v3.commands import Put, V3Command
from netstore.types import Index
from netstore.watch.streams import Selection, Stream
from netstore.watch.watches import Watches
from tests.support.local_member import memory_engine

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

    from netstore.proto.rpc_pb2 import WatchResponse
    from tests.state.v3.twin import Told


class Response(NamedTuple):
    watch_id: int
    revision: int
    events: bytes
    created: bool
    canceled: bool
    compact_revision: int
    reason: str
    fragment: bool

    @property
    def is_progress(self) -> bool:
        return not (self.events or self.created or self.canceled)


@dataclass
class Sink:
    """Keeps what it is given; a test says how much of that has left."""

    sent: list[Response] = field(default_factory=list)
    backlog: int = 0
    stuck: bool = False
    faulty: bool = False
    ended: int = 0

    def send(
        self,
        watch_id: int,
        revision: int,
        events: bytes = b"",
        *,
        created: bool = False,
        canceled: bool = False,
        compact_revision: int = 0,
        reason: str = "",
        fragment: bool = False,
    ) -> None:
        if self.faulty:
            raise MemoryError
        self.sent.append(
            Response(watch_id, revision, events, created, canceled, compact_revision, reason, fragment)
        )
        if self.stuck:
            self.backlog += len(events)

    def broken(self) -> None:
        self.ended += 1

    def take(self) -> list[Response]:
        sent, self.sent = self.sent, []
        return sent


def parsed(events: bytes) -> WatchResponse:
    return rpc_pb2.WatchResponse.FromString(events)


def told(response: Response) -> Iterator[Told]:
    for event in parsed(response.events).events:
        prev = event.prev_kv.SerializeToString() if event.HasField("prev_kv") else None
        yield event.kv.mod_revision, event.kv.key, event.kv.SerializeToString(), prev


class Store:
    """A machine and its watches, as a member runs them."""

    def __init__(self) -> None:
        self.machine = Machine(memory_engine())
        self.machine.load()
        self.woken = 0
        self.watches = Watches(self.machine.mvcc, self.wake)

    def wake(self) -> None:
        self.woken += 1

    def apply(self, *commands: V3Command) -> None:
        """One batch."""
        machine = self.machine
        for command in commands:
            machine.apply(Index(machine.applied + 1), encode(command))
        self.watches.publish(machine.take_changes())
        machine.save()

    def settle(self) -> None:
        for _ in range(10_000):
            if not self.watches.has_work:
                return
            self.watches.step()
        raise AssertionError("watches never catch up")

    def open(self) -> tuple[Stream, Sink]:
        sink = Sink()
        return self.watches.open(sink), sink


ALL = Selection(b"\0", b"\0")


def large_revision(keys: int) -> tuple[Store, Stream, Sink]:
    """A live watch of many keys, that are about to be deleted together."""
    store = Store()
    for number in range(keys):
        store.apply(Put(b"%05d" % number, b"v"))
    stream, sink = store.open()
    return store, stream, sink


def counted(monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> list[int]:
    """How often a method is called, in the only element."""
    calls, method = [0], getattr(owner, name)

    def call(*arguments: object, **named: object) -> object:
        calls[0] += 1
        return method(*arguments, **named)

    monkeypatch.setattr(owner, name, call)
    return calls


def most_at_once(store: Store, calls: list[int]) -> int:
    """Settle; the most calls of one step."""
    most = before = calls[0]
    while store.watches.has_work:
        store.watches.step()
        most, before = max(most, calls[0] - before), calls[0]
    return most
