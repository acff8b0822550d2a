"""A membership change, as an entry of the log has it, and its byte form."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import msgspec

from netstore.codec import layout
from netstore.errors import CorruptData
from netstore.types import NodeId

MAX_CHANGE_STEPS: Final = 64
"""Most members in one change: far more than an operator changes at once."""

MAX_CONTEXT_BYTES: Final = 64 * 1024
"""Most bytes that the host may attach to a change (names, addresses, the waiting request)."""

_HEAD = layout("BHI")
_LEAVES: Final = 1
"""First byte of the form: the leader leaves the joint configuration by itself. It always does."""

_STEP = layout("BQ")


class StepKind(IntEnum):
    """What happens to one member."""

    ADD_VOTER = 1
    """Add a voter, or promote a learner."""

    ADD_LEARNER = 2
    """Add a learner, or demote a voter."""

    REMOVE = 3
    """Remove the member."""


class Step(msgspec.Struct, frozen=True, gc=False):
    """What a change does to one member."""

    kind: StepKind
    node: NodeId


class Change(msgspec.Struct, frozen=True, gc=False):
    """A change of the configuration; without steps, leaving a joint one.

    A change that touches the voters goes through joint consensus (Ongaro's dissertation, section 4.3); the
    leader leaves the joint configuration as soon as it is committed. `context` is data of the
    host, which the core does not read.
    """

    steps: tuple[Step, ...] = ()
    context: bytes = b""

    def encode(self) -> bytes:
        """7 bytes, 9 bytes for each step, and the context."""
        parts = [_HEAD.pack(_LEAVES, len(self.steps), len(self.context))]
        parts += [_STEP.pack(step.kind, step.node) for step in self.steps]
        parts.append(self.context)
        return b"".join(parts)

    @classmethod
    def decode(cls, data: bytes) -> Change:
        """The inverse of `encode`; CorruptData for anything else."""
        if len(data) < _HEAD.size:
            raise CorruptData(f"membership change is cut short at {len(data)} bytes")
        flag, count, length = _HEAD.unpack_from(data)
        if flag != _LEAVES or count > MAX_CHANGE_STEPS or length > MAX_CONTEXT_BYTES:
            raise CorruptData(
                f"membership change has flag {flag}, {count} steps and {length} bytes of context"
            )
        start = _HEAD.size + count * _STEP.size
        if len(data) != start + length:
            raise CorruptData(f"membership change has {len(data)} bytes, not {start + length}")
        steps: list[Step] = []
        for kind, node in _STEP.iter_unpack(data[_HEAD.size : start]):
            if not 1 <= kind <= 3 or node == 0:
                raise CorruptData(f"membership change has a step of kind {kind} for member {node:x}")
            steps.append(Step(StepKind(kind), NodeId(node)))
        return cls(tuple(steps), data[start:])
