"""When each revision of the v3 keys was written, and by whom: the envelope's wall time and principal.

A member's own record of what it has applied. No answer of the v3 API and no digest depends on it, and an
earlier release leaves the table alone. It is written with each save, one record for all commands since the
last one, and kept as long as the revisions can be read: what a compaction leaves behind is erased.

    key      the last revision in the record, 8 bytes, big-endian
    value    of its commands the first revision of each, then the last one of each, 8 bytes, little-endian;
             the heads of their entries one after the other (`envelope`: format, time, principal)

A revision that no record has was written by a release that kept none, or came with a state from elsewhere.
"""

from __future__ import annotations

from struct import error as StructError  # noqa: N812 - a class
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from netstore.codec import layout
from netstore.errors import CorruptData
from netstore.state.envelope import HEAD_BYTES, read, seal
from netstore.state.tables import ORIGINS, corrupt, encode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from netstore.seams import Engine

NOBODY: Final = seal(b"")
"""The payload of a command that came without an envelope."""

LOOK_RECORDS: Final = 64
"""Records read in one call of `since`, or looked at in one step of erasing."""

LOOK_BYTES: Final = 64 * 1024
"""Bytes of records read in one call; the last may exceed it."""

_PAIR_BYTES: Final = 16


class _Record(msgspec.Struct, array_like=True, frozen=True):
    revisions: bytes
    heads: bytes


class Origin(NamedTuple):
    """The revisions `first` to `last` were made by one command, at this wall time of the member that took the
    request (nanoseconds since 1970, 0: not known), for this principal (empty: the cluster itself, or nobody
    that is known).
    """

    first: int
    last: int
    wall: int
    principal: bytes


class Origins:
    """The origins of the revisions that one engine holds, and those that it was not given yet."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.payload = NOBODY
        """Of the entry that is applied now."""
        self._written: list[tuple[int, int, bytes]] = []
        self.note = self._written.append
        """Call with the first and last revision of a command that has written something, and its payload."""
        self._erase_before = 0
        """Records of revisions below are being erased; 0: none are."""
        self._erased: list[bytes] = []

    def clear(self) -> None:
        """The state is replaced: forget what the engine was not given."""
        self._written.clear()
        self._erased.clear()
        self._erase_before = 0

    def save(self, changes: dict[tuple[str, bytes], bytes | None]) -> None:
        """Add the records that changed since the last call. About 1 us for each command."""
        for key in self._erased:
            changes[ORIGINS, key] = None
        self._erased.clear()
        if not self._written:
            return
        firsts, lasts, payloads = zip(*self._written, strict=True)
        numbers = layout(f"{2 * len(firsts)}Q").pack(*firsts, *lasts)
        heads = b"".join([each[: HEAD_BYTES + each[1]] for each in payloads])
        changes[ORIGINS, _key(lasts[-1])] = encode(_Record(numbers, heads))
        self._written.clear()

    def since(self, revision: int) -> tuple[list[Origin], int | None]:
        """Origins from this revision on, in order, as many as one look finds, and the revision to continue
        from; None at the end. O(origins found), about 1 us each. StateDamaged if a record cannot be read.
        """
        pairs, following = self._engine.some(ORIGINS, _key(revision), LOOK_RECORDS, LOOK_BYTES)
        found = [each for key, value in pairs for each in _decoded(key, value) if each.last >= revision]
        if following is not None:
            return found, max(revision, found[-1].last + 1) if found else revision
        for first, last, payload in self._written:
            if last >= revision:
                head = read(payload)
                found.append(Origin(first, last, head.wall, head.principal))
        return found, None

    # --- erasing

    def erase_before(self, revision: int) -> None:
        """Begin to erase records that have only revisions below this one."""
        self._erase_before = revision

    @property
    def erasing(self) -> bool:
        """Whether `erase_step` has something to do."""
        return self._erase_before > 0

    def erase_step(self) -> None:
        """Erase the oldest records, `LOOK_RECORDS` at most. To be saved before the next step."""
        pairs, following = self._engine.some(ORIGINS, b"", LOOK_RECORDS, LOOK_BYTES)
        old = [key for key, _ in pairs if int.from_bytes(key, "big") < self._erase_before]
        self._erased += old
        if len(old) < len(pairs) or following is None:
            self._erase_before = 0


_decode: Final = msgspec.msgpack.Decoder(_Record).decode


def _key(revision: int) -> bytes:
    return revision.to_bytes(8, "big")


def _decoded(key: bytes, value: bytes) -> Iterator[Origin]:
    try:
        record = _decode(value)
        count, heads = len(record.revisions) // _PAIR_BYTES, record.heads
        revisions = layout(f"{2 * count}Q").unpack(record.revisions)
        at = 0
        for first, last in zip(revisions[:count], revisions[count:], strict=True):
            end = at + HEAD_BYTES + heads[at + 1]
            head = read(heads[at:end])
            yield Origin(first, last, head.wall, head.principal)
            at = end
    except (CorruptData, IndexError, StructError, msgspec.MsgspecError) as error:
        raise corrupt(f"table {ORIGINS}, key {key!r}: {error}") from None
