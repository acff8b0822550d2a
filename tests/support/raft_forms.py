"""Hypothesis strategies for what Raft writes and sends, and for damage to byte forms."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from hypothesis import strategies as st

from netstore.raft.change import Change, Step, StepKind
from netstore.raft.entry import ConfState, Entry, EntryKind, SnapshotMeta
from netstore.raft.messages import (
    MAX_NUMBER,
    Append,
    AppendAccepted,
    AppendRejected,
    Forward,
    ForwardRefused,
    Heartbeat,
    HeartbeatAnswer,
    InstallSnapshot,
    Message,
    PreVoteAnswer,
    PreVoteRequest,
    ReadAnswer,
    ReadRequest,
    TimeoutNow,
    VoteAnswer,
    VoteRequest,
)
from netstore.types import Index, NodeId, Term

if TYPE_CHECKING:
    from collections.abc import Sequence

_NODES = st.integers(1, 2**64 - 1).map(NodeId)


@st.composite
def batches(draw: st.DrawFn, first: int | None = None, before: int = 1, most: int = 2**40) -> list[Entry]:
    """Consecutive entries whose terms never fall, from `before` up to `most`."""
    start = draw(st.integers(1, 2**40)) if first is None else first
    steps = draw(st.lists(st.integers(0, 3), max_size=6))
    terms = [min(term, most) for term in accumulate(steps, initial=before)][1:]
    kinds = [draw(st.sampled_from(EntryKind)) for _ in terms]
    return [
        Entry(
            Index(start + place),
            Term(term),
            kind,
            draw(changes()).encode() if kind is EntryKind.CHANGE else draw(st.binary(max_size=20)),
        )
        for place, (term, kind) in enumerate(zip(terms, kinds, strict=True))
    ]


@st.composite
def confs(draw: st.DrawFn) -> ConfState:
    """Configurations as `confchange.after` can give them."""
    nodes = draw(st.lists(st.integers(1, 30).map(NodeId), min_size=1, max_size=9, unique=True))
    parts: list[list[NodeId]] = [[], [], [], [], []]
    for node in nodes:
        parts[draw(st.integers(0, 4))].append(node)
    both, incoming, outgoing, learners, demoted = parts
    if not both and not incoming:
        incoming, demoted = [*incoming, nodes[0]], [n for n in demoted if n != nodes[0]]
        outgoing = [n for n in outgoing if n != nodes[0]]
        learners = [n for n in learners if n != nodes[0]]
    leaving = [*both, *outgoing, *demoted] if outgoing or demoted else []
    return ConfState(
        voters=tuple(sorted([*both, *incoming])),
        voters_outgoing=tuple(sorted(leaving)),
        learners=tuple(sorted(learners)),
        learners_next=tuple(sorted(demoted)),
    )


@st.composite
def metas(draw: st.DrawFn, most_term: int = 2**40) -> SnapshotMeta:
    """Descriptions of snapshots."""
    return SnapshotMeta(
        Index(draw(st.integers(1, 2**40))), Term(draw(st.integers(1, most_term))), draw(confs())
    )


@st.composite
def changes(draw: st.DrawFn) -> Change:
    """Membership changes, valid or not."""
    steps = draw(
        st.lists(
            st.builds(Step, st.sampled_from(StepKind), _NODES | st.integers(1, 5).map(NodeId)), max_size=4
        )
    )
    return Change(tuple(steps), draw(st.binary(max_size=20)))


@st.composite
def messages(draw: st.DrawFn, most: int = 2**40, senders: Sequence[int] = (), to: int = 0) -> Message:
    """Any message that a member can send; indexes and terms up to about `most`."""
    sender = draw(st.sampled_from(senders).map(NodeId) if senders else _NODES)
    head = (sender, NodeId(to) if to else draw(_NODES), Term(draw(st.integers(1, most))))
    numbers_of = st.integers(0, most if senders else MAX_NUMBER).map(Index)
    return draw(_messages_of(head, st.integers(0, most), numbers_of))


_EDGES = (2**31, 2**32 - 1, 2**32, 2**32 + 7, 2**53, 2**61, MAX_NUMBER - 8, MAX_NUMBER - 1, MAX_NUMBER)


@st.composite
def extreme_messages(draw: st.DrawFn, senders: Sequence[int], to: int) -> Message:
    """Any message that can be decoded: numbers near the ones that a small group has come to, and at edges."""
    small = st.integers(0, 9)
    numbers = small | small | st.sampled_from(_EDGES)
    term = draw(st.integers(1, 6) | st.integers(1, 6) | st.sampled_from(_EDGES))
    head = (NodeId(draw(st.sampled_from(senders))), NodeId(to), Term(term))
    return draw(_messages_of(head, numbers, numbers.map(Index)))


@st.composite
def _messages_of(
    draw: st.DrawFn,
    head: tuple[NodeId, NodeId, Term],
    places_of: st.SearchStrategy[int],
    numbers_of: st.SearchStrategy[Index],
) -> Message:
    term = head[2]
    flag = st.booleans()
    kind = draw(st.integers(0, 14))
    if kind == 0:
        previous = draw(places_of)
        previous_term = draw(st.integers(1, term)) if previous else 0
        entries = draw(batches(previous + 1, max(previous_term, 1), term))
        return Append(*head, Index(previous), Term(previous_term), draw(numbers_of), entries)
    if kind == 1:
        return InstallSnapshot(*head, draw(metas(term)))
    if kind == 2:
        return Forward(*head, EntryKind.NORMAL, draw(st.lists(st.binary(max_size=9), min_size=1, max_size=4)))
    if kind == 3:
        payloads: Sequence[bytes] = [
            change.encode() for change in draw(st.lists(changes(), min_size=1, max_size=2))
        ]
        return Forward(*head, EntryKind.CHANGE, payloads)
    if kind == 4:
        requests = st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=4).map(tuple)
        return ForwardRefused(*head, draw(st.integers(0, 255)), draw(requests))
    places = [draw(numbers_of) for _ in range(3)]
    terms = [Term(place) for place in places]
    numbers: list[Message] = [
        PreVoteRequest(*head, places[0], terms[1]),
        PreVoteAnswer(*head, terms[0], draw(flag)),
        VoteRequest(*head, places[0], terms[1], draw(flag)),
        VoteAnswer(*head, draw(flag)),
        AppendAccepted(*head, places[0], draw(flag)),
        AppendRejected(*head, places[0], places[1], terms[2], draw(flag)),
        Heartbeat(*head, places[0], places[1]),
        HeartbeatAnswer(*head, places[0]),
        TimeoutNow(*head),
        ReadRequest(*head, places[0]),
        ReadAnswer(*head, places[0], places[1]),
    ]
    return draw(st.sampled_from(numbers))


@st.composite
def damaged(draw: st.DrawFn, forms: st.SearchStrategy[bytes]) -> bytes:
    """A byte form that was truncated, extended, flipped or replaced, or not changed."""
    raw = draw(forms)
    way = draw(st.integers(0, 5))
    if way == 0:
        return raw[: draw(st.integers(0, len(raw)))]
    if way == 1:
        return raw + draw(st.binary(min_size=1, max_size=9))
    if way == 2:
        return draw(st.binary(max_size=120))
    if way == 3 and raw:
        place = draw(st.integers(0, len(raw) - 1))
        return raw[:place] + bytes([draw(st.integers(0, 255))]) + raw[place + 1 :]
    if way == 4 and raw:
        place = draw(st.integers(0, len(raw) - 1))
        return raw[:place] + b"\xff\xff\xff\xff" + raw[place + 4 :]
    return raw
