"""The byte forms of the messages between members.

A byte form is one kind byte, sender, receiver and term, and the body of that kind; little-endian, no padding.
`decode_message` takes bytes from the network: anything that `encode_message` does not give is CorruptData,
and so is a number that no cluster reaches (`MAX_NUMBER`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from netstore.codec import layout
from netstore.errors import CorruptData
from netstore.raft.change import Change
from netstore.raft.entry import (
    MAX_DATA_BYTES,
    Entry,
    EntryKind,
    SnapshotMeta,
    decode_entries,
    entry_parts,
    entry_pieces,
)
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
    from collections.abc import Callable, Iterator
    from struct import Struct

MAX_ENTRIES: Final = 1 << 17
"""Most entries in one append message. A leader fills one up to `Config.max_append_bytes`, counting
`ENTRY_OVERHEAD_BYTES` for each: half of this with the defaults."""

MAX_PAYLOADS: Final = 1 << 16
"""Most payloads in one forward message; a follower's host proposes far fewer in a turn."""

PIECE_PAYLOADS: Final = 512
PIECE_BYTES: Final = 256 * 1024
"""Payloads of a forward message, or entries of an append message, that are decoded at once, and bytes of them
except the last.
"""

_HEAD = layout("BQQQ")
_APPEND = layout("QQQ")
_APPEND_HEAD = layout("BQQQQQQ")
"""Both together."""
_ACCEPTED = layout("BQQQQ")
_FORWARD = layout("BI")
_LENGTH = layout("I")

_PRE_VOTE_ANSWER_KIND: Final = 2
_APPEND_KIND: Final = 5
_INSTALL_KIND: Final = 10
_FORWARD_KIND: Final = 12
_REFUSED_KIND: Final = 15
_ACCEPTED_KIND: Final = 6
_NOBODY_WAITS_KIND: Final = 16
"""An `AppendAccepted` of a member where nobody waits for commits."""

_FIXED: Final[dict[type[Message], tuple[int, Struct, tuple[str, ...]]]] = {
    PreVoteRequest: (1, layout("QQ"), ("last_index", "last_term")),
    PreVoteAnswer: (_PRE_VOTE_ANSWER_KIND, layout("QB"), ("asked", "granted")),
    VoteRequest: (3, layout("QQB"), ("last_index", "last_term", "forced")),
    VoteAnswer: (4, layout("B"), ("granted",)),
    AppendRejected: (
        7,
        layout("QQQB"),
        ("previous_index", "hint_index", "hint_term", "needs_snapshot"),
    ),
    Heartbeat: (8, layout("QQ"), ("commit", "round")),
    HeartbeatAnswer: (9, layout("Q"), ("round",)),
    TimeoutNow: (11, layout(""), ()),
    ReadRequest: (13, layout("Q"), ("sequence",)),
    ReadAnswer: (14, layout("QQ"), ("sequence", "index")),
}
"""Messages whose body is only numbers: kind byte, form, fields in order. `B` is a flag."""


def encode_message(message: Message) -> bytes:
    """The byte form of a message. Costs its size."""
    return b"".join(message_parts(message))


def message_parts(message: Message) -> list[bytes]:
    """The parts of `encode_message`, not joined: payloads are large, and are not copied here."""
    kind = type(message)
    if isinstance(message, Append):
        head = _APPEND_HEAD.pack(
            _APPEND_KIND,
            message.sender,
            message.to,
            message.term,
            message.previous_index,
            message.previous_term,
            message.commit,
        )
        return [head, *entry_parts(message.entries)]
    if isinstance(message, AppendAccepted):
        number = _ACCEPTED_KIND if message.waits else _NOBODY_WAITS_KIND
        return [_ACCEPTED.pack(number, message.sender, message.to, message.term, message.index)]
    if isinstance(message, InstallSnapshot):
        return [_HEAD.pack(_INSTALL_KIND, message.sender, message.to, message.term), message.meta.encode()]
    if isinstance(message, Forward):
        parts = [
            _HEAD.pack(_FORWARD_KIND, message.sender, message.to, message.term),
            _FORWARD.pack(message.kind, len(message.payloads)),
        ]
        for payload in message.payloads:
            parts.append(_LENGTH.pack(len(payload)))
            parts.append(payload)
        return parts
    if isinstance(message, ForwardRefused):
        count = len(message.requests)
        head = _HEAD.pack(_REFUSED_KIND, message.sender, message.to, message.term)
        return [head, _FORWARD.pack(message.why, count), layout(f"{count}Q").pack(*message.requests)]
    number, form, fields = _FIXED[kind]
    head = _HEAD.pack(number, message.sender, message.to, message.term)
    return [head, form.pack(*[getattr(message, field) for field in fields])]


def decode_message(data: bytes, start: int = 0, end: int | None = None) -> Message:
    """The inverse of `encode_message`, from `start` to `end` of the bytes; CorruptData for anything else,
    including ids and terms of 0. Entries are decoded in place, because they are large.

    Only a `PreVoteAnswer` may come from a member in term 0.
    """
    end = len(data) if end is None else end
    if end - start < _HEAD.size:
        raise CorruptData(f"message is cut short at {end - start} bytes")
    kind, sender, to, term = _read_head(data, start)
    if kind == _APPEND_KIND:
        return _decode_append(data, start, end, (sender, to, term))
    decode = _DECODERS.get(kind)
    if decode is None:
        raise CorruptData(f"message of unknown kind {kind}")
    return decode(data[start:end], sender, to, term)


def _read_head(data: bytes, start: int) -> tuple[int, NodeId, NodeId, Term]:
    kind, sender, to, term = _HEAD.unpack_from(data, start)
    if not (sender and to) or not (term or kind == _PRE_VOTE_ANSWER_KIND):
        raise CorruptData(f"message from {sender:x} to {to:x} in term {term}: none of them may be 0")
    if term > MAX_NUMBER:
        raise CorruptData(f"message of term {term}, more than {MAX_NUMBER}")
    return kind, NodeId(sender), NodeId(to), Term(term)


def decode_in_pieces(data: bytes, start: int, end: int) -> Iterator[Message]:
    """What `decode_message` gives, decoded piece by piece: a `Forward` or `Append` comes as several messages
    of `PIECE_PAYLOADS` or `PIECE_BYTES` each, which have the same effect together. Damage is CorruptData at
    the piece that has it.
    """
    kind = data[start] if end - start >= _HEAD.size else 0
    if kind == _FORWARD_KIND:
        yield from _forward_pieces(data, start, end)
    elif kind == _APPEND_KIND:
        yield from _append_pieces(data, start, end)
    else:
        yield decode_message(data, start, end)


def _decode_append(data: bytes, start: int, end: int, head: tuple[NodeId, NodeId, Term]) -> Append:
    at = start + _HEAD.size + _APPEND.size
    position = _read_previous(data, start, end)
    return _append(head, position, decode_entries(data, MAX_ENTRIES, at, end))


def _append_pieces(data: bytes, start: int, end: int) -> Iterator[Append]:
    """Each piece is an `Append` after the last entry of the piece before it."""
    head = _read_head(data, start)[1:]
    at = start + _HEAD.size + _APPEND.size
    position = _read_previous(data, start, end)
    for entries in entry_pieces(data, MAX_ENTRIES, at, end, piece=PIECE_PAYLOADS, piece_bytes=PIECE_BYTES):
        yield _append(head, position, entries)
        if entries:
            position = entries[-1].index, entries[-1].term, position[2]


def _read_previous(data: bytes, start: int, end: int) -> tuple[int, int, int]:
    """Index and term of the entry before, and the commit index."""
    if end < start + _HEAD.size + _APPEND.size:
        raise CorruptData(f"append message is cut short at {end - start} bytes")
    previous, previous_term, commit = _APPEND.unpack_from(data, start + _HEAD.size)
    if previous > MAX_NUMBER or commit > MAX_NUMBER:
        raise CorruptData(f"append message follows {previous} and commits {commit}, more than {MAX_NUMBER}")
    return previous, previous_term, commit


def _append(
    head: tuple[NodeId, NodeId, Term], position: tuple[int, int, int], entries: list[Entry]
) -> Append:
    term, (previous, previous_term, commit) = head[2], position
    if previous_term > term or (previous == 0) != (previous_term == 0):
        raise CorruptData(f"append message of term {term} follows {previous} of term {previous_term}")
    if entries and (
        entries[0].index != previous + 1
        or entries[-1].index > MAX_NUMBER
        or entries[0].term < previous_term
        or entries[-1].term > term
    ):
        raise CorruptData(f"append message of term {term} has entries that do not follow {previous}")
    return Append(*head, Index(previous), Term(previous_term), Index(commit), entries)


def _decode_accepted(data: bytes, sender: NodeId, to: NodeId, term: Term) -> AppendAccepted:
    if len(data) != _ACCEPTED.size:
        raise CorruptData(f"AppendAccepted has {len(data)} bytes, not {_ACCEPTED.size}")
    kind, _, _, _, index = _ACCEPTED.unpack(data)
    if index > MAX_NUMBER:
        raise CorruptData(f"AppendAccepted has the number {index}, more than {MAX_NUMBER}")
    return AppendAccepted(sender, to, term, Index(index), kind == _ACCEPTED_KIND)


def _decode_install(data: bytes, sender: NodeId, to: NodeId, term: Term) -> InstallSnapshot:
    meta = SnapshotMeta.decode(data[_HEAD.size :])
    if meta.term > term or not 0 < meta.index <= MAX_NUMBER or not meta.conf.voters:
        raise CorruptData(
            f"snapshot message of term {term} describes {meta.term}/{meta.index}, "
            f"{len(meta.conf.voters)} voters"
        )
    return InstallSnapshot(sender, to, term, meta)


def _decode_forward(data: bytes, sender: NodeId, to: NodeId, term: Term) -> Forward:
    kind, count = _read_forward(data, 0, len(data))
    payloads, at = _read_payloads(data, _HEAD.size + _FORWARD.size, len(data), kind, count)
    _check_end(at, len(data))
    return Forward(sender, to, term, kind, payloads)


def _forward_pieces(data: bytes, start: int, end: int) -> Iterator[Forward]:
    sender, to, term = _read_head(data, start)[1:]
    kind, left = _read_forward(data, start, end)
    at = start + _HEAD.size + _FORWARD.size
    while left:
        payloads, at = _read_payloads(data, at, end, kind, min(left, PIECE_PAYLOADS), most_bytes=PIECE_BYTES)
        left -= len(payloads)
        if not left:
            _check_end(at, end)
        yield Forward(sender, to, term, kind, payloads)


def _read_forward(data: bytes, start: int, end: int) -> tuple[EntryKind, int]:
    """The kind and number of the payloads of a forward message."""
    size = end - start
    head = _HEAD.size + _FORWARD.size
    if size < head:
        raise CorruptData(f"forward message is cut short at {size} bytes")
    kind, count = _FORWARD.unpack_from(data, start + _HEAD.size)
    if kind > 1 or not 0 < count <= MAX_PAYLOADS or count * _LENGTH.size > size - head:
        raise CorruptData(f"forward message of {size} bytes claims {count} payloads of kind {kind}")
    return EntryKind(kind), count


def _read_payloads(
    data: bytes, at: int, end: int, kind: EntryKind, count: int, *, most_bytes: int = 1 << 62
) -> tuple[list[bytes], int]:
    """Up to `count` payloads from `at` on, until they have `most_bytes`; also returns the offset after
    them."""
    payloads: list[bytes] = []
    stop = at + most_bytes
    while len(payloads) < count and at < stop:
        if at + _LENGTH.size > end:
            raise CorruptData(f"forward message is cut short at offset {at}")
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        if length > MAX_DATA_BYTES or length > end - at:
            raise CorruptData(f"forwarded payload claims {length} bytes at offset {at} of {end}")
        payload = data[at : at + length]
        if kind == EntryKind.CHANGE:
            Change.decode(payload)
        payloads.append(payload)
        at += length
    return payloads, at


def _check_end(at: int, end: int) -> None:
    if at != end:
        raise CorruptData(f"forward message has {end - at} bytes after its last payload")


def _decode_refused(data: bytes, sender: NodeId, to: NodeId, term: Term) -> ForwardRefused:
    size = len(data)
    at = _HEAD.size + _FORWARD.size
    if size < at:
        raise CorruptData(f"refusal of what was forwarded is cut short at {size} bytes")
    why, count = _FORWARD.unpack_from(data, _HEAD.size)
    if not 0 < count <= MAX_PAYLOADS or size != at + 8 * count:
        raise CorruptData(f"refusal of what was forwarded has {size} bytes and claims {count} requests")
    return ForwardRefused(sender, to, term, why, layout(f"{count}Q").unpack_from(data, at))


def _fixed_decoder(
    message: type[Message], form: Struct, fields: tuple[str, ...]
) -> Callable[[bytes, NodeId, NodeId, Term], Message]:
    """A decoder for a body of numbers; fields whose form is `B` become flags."""
    codes = form.format.removeprefix("<")
    flags = [field for field, code in zip(fields, codes, strict=True) if code == "B"]

    def decode(data: bytes, sender: NodeId, to: NodeId, term: Term) -> Message:
        if len(data) != _HEAD.size + form.size:
            raise CorruptData(f"{message.__name__} has {len(data)} bytes, not {_HEAD.size + form.size}")
        numbers = form.unpack_from(data, _HEAD.size)
        if numbers and max(numbers) > MAX_NUMBER:
            raise CorruptData(f"{message.__name__} has the number {max(numbers)}, more than {MAX_NUMBER}")
        body: dict[str, int] = dict(zip(fields, numbers, strict=True))
        for flag in flags:
            if body[flag] > 1:
                raise CorruptData(f"{message.__name__} has {flag} {body[flag]}, not 0 or 1")
            body[flag] = bool(body[flag])
        return message(sender=sender, to=to, term=term, **body)  # type: ignore[arg-type] # fields of _FIXED

    return decode


_DECODERS: Final[dict[int, Callable[[bytes, NodeId, NodeId, Term], Message]]] = {
    _INSTALL_KIND: _decode_install,
    _FORWARD_KIND: _decode_forward,
    _REFUSED_KIND: _decode_refused,
    _ACCEPTED_KIND: _decode_accepted,
    _NOBODY_WAITS_KIND: _decode_accepted,
    **{number: _fixed_decoder(kind, form, fields) for kind, (number, form, fields) in _FIXED.items()},
}
