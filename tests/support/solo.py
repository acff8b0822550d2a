"""What tests of one host share: requests, outcomes, a slow engine, and time that passes."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from netstore.disk.memoryengine import MemoryEngine
from netstore.errors import Fault
from netstore.limits import Budget
from netstore.node.backpressure import HELD_BYTES
from netstore.raft.entry import EntryKind
from netstore.raft.messages import Forward, ForwardRefused
from netstore.raft.progress import Progress
from netstore.state.commands import encode
from netstore.state.tables import TABLES
from netstore.state.v2.commands import Set
from netstore.types import Event, Index, Nanos, NodeId
from tests.support.member import ME, Solo

if TYPE_CHECKING:
    import pytest

    from netstore.raft.messages import Message
    from netstore.state.machine import Outcome

Outcomes = list["Outcome | Fault"]


FULL = OSError(errno.ENOSPC, "No space left on device")


def put(member: Solo, value: bytes = b"v", principal: bytes = b"") -> Outcomes:
    """Propose a set and give the list its outcome will appear in."""
    outcomes: Outcomes = []
    member.host.propose(encode(Set(path=b"/k", value=value)), outcomes.append, principal)
    return outcomes


def value(member: Solo) -> bytes | None:
    found = member.host.machine.v2.get(b"/k")
    return found.node.value if isinstance(found, Event) else None


def refusal(outcomes: Outcomes) -> str:
    [outcome] = outcomes
    assert isinstance(outcome, Fault)
    return outcome.cause.decode()


def refusal_of_next(member: Solo) -> str:
    outcomes = put(member)
    member.turn()
    return refusal(outcomes)


class Room:
    """A disk without room for the next file of the log."""

    def __init__(self) -> None:
        self.low: OSError | None = FULL
        self.tries = 0

    def retry(self) -> None:
        self.tries += 1


class Slow(MemoryEngine):
    """An engine that says how far it is behind."""

    late = 0

    def excess_bytes(self) -> int:
        return self.late


def behind() -> tuple[Solo, Slow]:
    """A leader whose engine is behind."""
    engine = Slow(lambda call: call(), TABLES)
    member = Solo(engine=engine).lead()
    member.settle()
    engine.late = 1
    member.host.tick()
    turns(member, 2)
    assert member.host._raft.apply_paused
    assert not member.woken
    return member, engine


def pass_time(member: Solo, seconds: float) -> None:
    member.clock.now = Nanos(member.clock.now + int(seconds * 1e9))
    member.host.tick()
    turns(member, 1)


def catch_up(member: Solo, engine: Slow) -> None:
    """The engine makes a commit, and says so."""
    engine.late = 0
    engine.eased()
    member.settle()


def forward(member: Solo, size: int = HELD_BYTES // 4 - 200, principal: bytes = b"") -> Forward:
    payload = member.host.proposals.open(encode(Set(b"/big", bytes(size))), lambda _: None, principal)
    assert payload is not None
    member.host.proposals.fail_all(Fault(300, b"only the payload is wanted"))
    return Forward(NodeId(9), ME, member.host.term, EntryKind.NORMAL, [payload])


def turns(member: Solo, count: int) -> None:
    for _ in range(count):
        member.turn()
        member.device.sync()


LIGHT = Budget(1_000_000)


def paced(seconds: float = 3.4) -> Solo:
    """A leader that has made a copy for another member for so long: it writes a tenth of its log a second, or
    less.
    """
    member = Solo(log_budget=LIGHT).lead()
    member.settle()
    raft = member.host._raft
    raft.progress[NodeId(9)] = Progress(Index(1), 0)
    raft.progress[NodeId(9)].last_heard = 1 << 40
    member.host.snapshot_sending.begun(Index(member.host.status().applied), NodeId(9))
    for _ in range(round(seconds / 0.1)):
        pass_time(member, 0.1)
    assert member.host._pacing.rate is not None
    assert not member.host.backed_up
    return member


def tick(member: Solo) -> None:
    pass_time(member, 0.1)
    member.settle()


def told(member: Solo, number: int = 1) -> list[ForwardRefused]:
    """What the member tells others of what it does not take, in so many turns."""
    sent: list[Message] = []
    member.host._send = sent.extend
    for _ in range(number):
        member.turn()
    return [message for message in sent if isinstance(message, ForwardRefused)]


def decoding(member: Solo, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What the member decodes from now on."""
    decoded: list[bytes] = []
    understand = member.host.machine.understand

    def note(payload: bytes) -> object:
        decoded.append(payload)
        return understand(payload)

    monkeypatch.setattr(member.host.machine, "understand", note)
    return decoded
