"""A membership change as the log carries it, and its byte form."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import msgspec

from netstore.codec import layout
from netstore.errors import CorruptData
from netstore.types import NodeId

MAX_CHANGE_STEPS: Final = 64
"""Most members one change may name: far more than one operation of an operator does."""

MAX_CONTEXT_BYTES: Final = 64 * 1024
"""Largest note the host may attach to a change (names, addresses, the waiting request)."""

_HEAD = layout("BHI")
_LEAVES: Final = 1
"""First byte of the form: the leader leaves the joint configuration by itself. There is no other way."""

_STEP = layout("BQ")


class StepKind(IntEnum):
    """What happens to one member."""

    ADD_VOTER = 1
    """It votes; a learner is promoted."""

    ADD_LEARNER = 2
    """It learns; a voter is demoted."""

    REMOVE = 3
    """It is no member."""


class Step(msgspec.Struct, frozen=True, gc=False):
    """One member's part in a change."""

    kind: StepKind
    node: NodeId


class Change(msgspec.Struct, frozen=True, gc=False):
    """A change of the configuration, or, without steps, the wish to leave a joint one.

    A change that touches the voters goes through joint consensus (Ongaro's dissertation, section 4.3); the
    leader leaves the joint configuration as soon as it is committed. `context` is the host's and means
    nothing here.
    """

    steps: tuple[Step, ...] = ()
    context: bytes = b""

    def encode(self) -> bytes:
        """7 bytes, 9 for each step, and the context."""
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
