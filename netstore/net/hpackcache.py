"""Header blocks of requests, read with a memory (RFC 7541).

Clients repeat themselves: after its first request a connection sends the same header block again and again,
and it changes nothing in the tables. Such a block is remembered whole, with what it means, until the dynamic
table changes; reading it again is one dictionary look-up. Clients that send a time limit with every call may
change the table every time, so a block that is not remembered is walked here, over the tables and the Huffman
code of `hpack`: 6 us where its own general walk takes 50.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from hpack import Decoder, HPACKError
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Field = tuple[bytes, bytes]
"""Name and value of a header field."""

Meaning = TypeVar("Meaning")

BLOCKS_KNOWN: Final = 64
"""Blocks remembered by one connection; at this bound, or that of bytes, the memory starts anew."""

BLOCKS_KNOWN_SIZE: Final = 32 * 1024
"""Bytes of those blocks with what they mean, as `kept_size` counts: clients repeat two or three blocks."""

HUFFMAN_LIMIT: Final = 8 * 1024
"""Bytes in the Huffman code of one header block. Decoding takes 0.2 us for each, so this is 1.5 ms."""

FIELD_COST: Final = 120
"""Bytes the interpreter takes for a field beside its name and value: a tuple and two strings."""

_STATIC: Final[tuple[Field, ...]] = ((b"", b""), *((bytes(n), bytes(v)) for n, v in HeaderTable.STATIC_TABLE))
_FIRST_DYNAMIC: Final = len(_STATIC)
_DYNAMIC_INDEX: Final = 0x80 | _FIRST_DYNAMIC
_ENTRY_OVERHEAD: Final = 32
_LARGEST_ENTRY: Final = HeaderTable.DEFAULT_SIZE + _ENTRY_OVERHEAD
_BLOCK_KNOWN_SIZE: Final = 4096
_SHORT_TEXT: Final = 32
_RESIZES: Final = 2
_FIELDS_PER_UNIT: Final = 4
_CODED_PER_UNIT: Final = 5
_TEXTS_KNOWN: Final = 4096
_STATIC_NAMES: Final = {name: index for index, (name, _) in reversed(list(enumerate(_STATIC))) if index}
_STATUSES: Final = {value: index for index, (name, value) in enumerate(_STATIC) if name == b":status"}


def kept_size(fields: Iterable[Field]) -> int:
    """Bytes that it takes to keep a header list. O(fields)."""
    return sum(len(name) + len(value) + FIELD_COST for name, value in fields)


class BadBlock(Exception):  # noqa: N818 - named for what was found
    """A header block that cannot be read; the tables of both sides differ from here on."""


class LargeList(BadBlock):
    """A header list beyond the limit; it was not read to its end, so the tables differ too."""


class HeaderBlocks(Generic[Meaning]):
    """The receiving half of one connection's header compression.

    `mean` says what a list of fields means; what it raises is passed on, and not remembered. The field named
    `varying`, which differs from request to request, is kept out of the list and given beside it. `limit` is
    the size of a list as RFC 9113 (6.5.2) counts it.
    """

    __slots__ = (
        "_changed",
        "_decoder",
        "_entries",
        "_known",
        "_known_size",
        "_limit",
        "_mean",
        "_most",
        "_table",
        "_varying",
        "cost",
        "find",
    )

    def __init__(self, mean: Callable[[tuple[Field, ...]], Meaning], varying: bytes, limit: int) -> None:
        self._mean = mean
        self._varying = varying
        self._limit = limit
        self._most = limit // _ENTRY_OVERHEAD
        self.cost = 0
        """Units of work of the block read last, about a microsecond each; who charges them sets it to 0."""
        self._decoder = Decoder(limit)
        self._table = self._decoder.header_table
        self._entries = self._table.dynamic_entries
        self._known: dict[bytes, tuple[Meaning, bytes | None]] = {}
        self.find: Callable[[bytes], tuple[Meaning, bytes | None] | None] = self._known.get
        """What `read` gives for a block that is remembered, None for any other."""
        self._known_size = 0
        self._changed = False

    @property
    def held(self) -> int:
        """Bytes that the table and what is remembered of blocks take, at most. O(1)."""
        entries = len(self._entries)
        table = HeaderTable.DEFAULT_SIZE + FIELD_COST * entries if entries else 0
        return self._known_size + table

    def read(self, block: bytes) -> tuple[Meaning, bytes | None]:
        """What a block means, and the value of the varying field. BadBlock when it cannot be read."""
        found = self._known.get(block)
        if found is not None:
            return found
        self._changed = False
        fields = self.decode(block)
        value = None
        for place, field in enumerate(fields):
            if field[0] == self._varying:
                # Where a pseudo-header field comes after it the list is malformed, and must be seen whole.
                if not (place + 1 < len(fields) and fields[place + 1][0].startswith(b":")):
                    value = field[1]
                    del fields[place]
                break
        found = self._mean(tuple(fields)), value
        if not self._changed:
            self._learn(block, found, kept_size(fields) + len(block) + len(value or b""))
        return found

    def _learn(self, block: bytes, found: tuple[Meaning, bytes | None], size: int) -> None:
        """Remember what a block means, which holds as long as the table is not changed: nothing else is read
        when a block is. A list can be far larger than its block, so both are counted.
        """
        if size > _BLOCK_KNOWN_SIZE:
            return
        if len(self._known) >= BLOCKS_KNOWN or self._known_size + size > BLOCKS_KNOWN_SIZE:
            self._known.clear()
            self._known_size = 0
        self._known[block] = found
        self._known_size += size

    def forget(self) -> None:
        """Nothing more will be read: let go of the memory and of the table."""
        self._change()
        self._entries.clear()

    def decode(self, block: bytes) -> list[Field]:
        """The fields of a block, in order. BadBlock when it cannot be read.

        O(bytes), and for literals that enter the table O(what they push out).
        """
        try:
            return self._walk(block)
        except IndexError:
            raise BadBlock("a header block ends early, or names an entry that is not there") from None
        except HPACKError as fault:
            raise BadBlock(str(fault)) from None

    def _walk(self, block: bytes) -> list[Field]:
        fields: list[Field] = []
        coded = added = 0
        most = self._most
        entries = self._entries
        position = self._resize(block)
        size = len(block)
        while position < size:
            first = block[position]
            position += 1
            if first & 0x80:
                if first < _DYNAMIC_INDEX and first != 0x80:
                    field = _STATIC[first & 0x7F]
                elif 0x80 < first < 0xFF:
                    field = entries[first - _DYNAMIC_INDEX]
                else:
                    index, position = _number(block, position, 0x7F) if first == 0xFF else (0, position)
                    field = self._entry(index)
            elif first & 0x60 == 0x20:
                raise BadBlock("a change of the table's size stands after a field")
            else:
                mask = 0x3F if first & 0x40 else 0x0F
                index = first & mask
                if index == mask:
                    index, position = _number(block, position, mask)
                if index:
                    name = self._entry(index)[0]
                else:
                    start = position
                    name, position = _text(block, start)
                    if block[start] & 0x80:
                        coded += position - start
                start = position
                value, position = _text(block, start)
                if block[start] & 0x80:
                    coded += position - start
                    if coded > HUFFMAN_LIMIT:
                        raise LargeList(f"more than {HUFFMAN_LIMIT} bytes of Huffman code in a header block")
                field = (name, value)
                if first & 0x40:
                    added += 1
                    self._change()
                    self._table.add(name, value)
            fields.append(field)
            if size > most and len(fields) > most:
                raise LargeList(f"header list larger than {self._limit} bytes")
        self.cost = 1 + added + (len(fields) + added) // _FIELDS_PER_UNIT + coded // _CODED_PER_UNIT
        if len(fields) * _LARGEST_ENTRY + size > self._limit:
            self._measure(fields)
        return fields

    def _measure(self, fields: list[Field]) -> None:
        """LargeList when the list is. Not asked for a list that cannot be: a field comes from the block, or
        from a table whose entries have their own bound.
        """
        if sum(len(name) + len(value) + _ENTRY_OVERHEAD for name, value in fields) > self._limit:
            raise LargeList(f"header list larger than {self._limit} bytes")

    def _resize(self, block: bytes) -> int:
        """Obey changes of the table's size at the start of a block; where the fields begin. Two say all there
        can be to say, the smallest size in between and the last (RFC 7541, 4.2).
        """
        position = 0
        count = 0
        while position < len(block) and block[position] & 0xE0 == 0x20:
            count += 1
            if count > _RESIZES:
                raise BadBlock(f"more than {_RESIZES} changes of the table's size in a header block")
            if block[position] & 0x1F == 0x1F:
                _, position = _number(block, position + 1, 0x1F)
            else:
                position += 1
        if position:
            self._change()
            self._decoder.decode(block[:position], raw=True)
        return position

    def _change(self) -> None:
        """The table changes: what is remembered would mean something else."""
        self._changed = True
        if self._known:
            self._known.clear()
            self._known_size = 0

    def _entry(self, index: int) -> Field:
        if index >= _FIRST_DYNAMIC:
            return self._entries[index - _FIRST_DYNAMIC]
        if index == 0:
            raise BadBlock("a header block names entry 0")
        return _STATIC[index]


def _number(block: bytes, position: int, value: int) -> tuple[int, int]:
    """The rest of an integer whose prefix was full (RFC 7541, 5.1), and where it ends."""
    shift = 0
    while True:
        byte = block[position]
        position += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 28:
            raise BadBlock("a number of more than 32 bits in a header block")


def _text(block: bytes, position: int) -> tuple[bytes, int]:
    """A string (RFC 7541, 5.2), and where it ends."""
    first = block[position]
    position += 1
    length = first & 0x7F
    if length == 0x7F:
        length, position = _number(block, position, 0x7F)
    end = position + length
    if end > len(block):
        raise BadBlock("a string longer than its header block")
    text = block[position:end]
    if not first & 0x80:
        return text, end
    if length > HUFFMAN_LIMIT:
        raise LargeList(f"more than {HUFFMAN_LIMIT} bytes of Huffman code in a header block")
    return (decode_text(text) if length <= _SHORT_TEXT else bytes(decode_huffman(text))), end


def _short_codes() -> tuple[tuple[int, int], ...]:
    """For every byte, the symbol whose Huffman code it begins with, and the code's length; 0 for codes that
    are longer than a byte.
    """
    found = [(0, 0)] * 256
    for symbol, (code, length) in enumerate(zip(REQUEST_CODES, REQUEST_CODES_LENGTH, strict=True)):
        if length <= 8:
            first = code << (8 - length)
            found[first : first + (1 << (8 - length))] = [(symbol, length)] * (1 << (8 - length))
    return tuple(found)


_SHORT_CODES: Final = _short_codes()


@lru_cache(_TEXTS_KNOWN)
def decode_text(text: bytes) -> bytes:
    """Undo the Huffman code of a short text (RFC 7541, 5.2 and B). HPACKError when it is malformed.

    Digits and letters, of which time limits are made, go symbol by symbol; everything else to `hpack`.
    """
    bits = int.from_bytes(text, "big") << 8 | 0xFF
    left = len(text) * 8
    decoded = bytearray()
    while left >= 5:
        symbol, length = _SHORT_CODES[bits >> left & 0xFF]
        if not 0 < length <= left:
            break
        decoded.append(symbol)
        left -= length
    if left >= 8 or ~bits >> 8 & ((1 << left) - 1):
        return bytes(decode_huffman(text))
    return bytes(decoded)


def literal(name: bytes, value: bytes) -> bytes:
    """A header field that enters no table (RFC 7541, 6.2.2), so that the same bytes mean the same to every
    peer. Both are sent as they are: the Huffman code would cost more here than the bytes it saves.
    """
    index = _STATIC_NAMES.get(name, 0)
    head = _prefixed(index, 0x0F) if index else b"\0" + _prefixed(len(name), 0x7F) + name
    return head + _prefixed(len(value), 0x7F) + value


def status_field(status: int) -> bytes:
    """The pseudo-header field of an answer."""
    indexed = _STATUSES.get(b"%d" % status)
    return bytes((0x80 | indexed,)) if indexed else literal(b":status", b"%d" % status)


def _prefixed(number: int, full: int) -> bytes:
    """An integer (RFC 7541, 5.1) whose first byte has no other bits set."""
    if number < full:
        return bytes((number,))
    digits = bytearray((full,))
    number -= full
    while number >= 0x80:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    digits.append(number)
    return bytes(digits)
