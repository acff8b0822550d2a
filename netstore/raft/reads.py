"""Linearizable reads that have no read index yet (`readindex`)."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from netstore.types import Index, NodeId


class ReadRound:
    """Reads that wait for a majority to answer round `number`; they are served at `index`."""

    __slots__ = ("index", "number", "reads")

    def __init__(self, number: int, index: Index, reads: list[tuple[NodeId, int]]) -> None:
        self.number = number
        self.index = index
        self.reads = reads


class ReadBatch:
    """Reads in one ReadRequest, which has a sequence number; they fail at tick `deadline`."""

    __slots__ = ("deadline", "sequence", "tokens")

    def __init__(self, sequence: int, deadline: int, tokens: list[int]) -> None:
        self.sequence = sequence
        self.deadline = deadline
        self.tokens = tokens


class Reads:
    """All of them. A read is (0, token) if it is of this member, (member, sequence number) if forwarded."""

    __slots__ = ("batches", "count", "round", "rounds", "sequence", "unsent", "waiting")

    def __init__(self, sequence: int) -> None:
        """`sequence` should differ after each restart, so that answers from before it are not taken."""
        self.waiting: list[tuple[NodeId, int]] = []
        self.rounds: deque[ReadRound] = deque()
        self.round = 0
        self.unsent: list[int] = []
        self.batches: deque[ReadBatch] = deque()
        self.sequence = sequence
        self.count = 0
